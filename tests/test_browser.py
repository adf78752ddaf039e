"""A real browser opens what the service writes."""

import html
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import DATA, Server, serving

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
PAGE = """<p id=told>nothing</p><img src="{name}"><script>
window.onload = () => {{
  const image = document.querySelector("img"), canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const alpha = (x, y) => context.getImageData(x, y, 1, 1).data[3];
  const middle = alpha(canvas.width / 2, canvas.height / 2);
  const seen = [canvas.width, canvas.height, alpha(0, 0), middle];
  document.querySelector("#told").textContent = seen.join(" ");
}};
</script>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium (Debian) is not installed")


@contextmanager
def hosting(folder: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as host:
        thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{host.server_port}"
        host.shutdown()
        thread.join(20)


def seen_by_chromium(picture: bytes, name: str, folder: Path) -> str:
    """Width, height, and alpha in the corner and in the middle, as the page read them."""
    (folder / name).write_bytes(picture)
    (folder / "page.html").write_text(PAGE.format(name=html.escape(name)))
    with hosting(folder) as address:
        done = subprocess.run(
            [
                str(CHROMIUM),
                *FLAGS,
                f"--user-data-dir={folder / 'profile'}",
                "--dump-dom",
                f"{address}/page.html",
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
    return done.stdout.partition('<p id="told">')[2].partition("</p>")[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("browser")) as server:
        yield server


@pytest.mark.parametrize("form", ["png", "webp"])
def test_a_browser_opens_the_enlargement_with_its_alpha(
    server: Server, form: str, tmp_path: Path
) -> None:
    picture = (DATA / "art" / "8_ball_jarno_vasamaa.png").read_bytes()
    answer = server.client.post("/upscale", files={"image": picture}, data={"format": form})
    assert seen_by_chromium(answer.content, f"print.{form}", tmp_path) == "3000 3000 0 255"
