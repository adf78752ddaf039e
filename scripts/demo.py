"""The main job once, for real: start the service, post a photo and artwork, keep what comes back.

The paid providers are the sandbox's look-alikes, so that nothing is charged. Writes the cut-outs
and a contact sheet (checkerboard, black shirt, red shirt) for each picture to demo-output/ and
prints a table. Ends non-zero unless a neural model on this machine and the knock-out succeeded.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from utils.png import encode_png

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "demo-output"
PICTURES = {
    "photo": ROOT / "tests" / "data" / "car-1.jpg",
    "artwork": ROOT / "tests" / "data" / "art" / "8_ball_jarno_vasamaa.png",
}
MODELS = (
    "runware-rmbg-2.0",
    "runware-birefnet-portrait",
    "kie-recraft",
    "local-birefnet-general",
    "local-isnet",
    "local-knockout",
)
NEURAL = {"local-birefnet-general", "local-isnet"}  # the sandbox answers with the knock-out
GROUNDS = ("checkerboard", "black shirt", "red shirt")
CELL = 300
_MARGIN = 24
_START_S = 60
_WEIGHTS_S = 600


def main() -> int:
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    with _service() as client:
        _wait_for_weights(client)
        succeeded = {
            model for name, path in PICTURES.items() for model in _shoot(client, name, path)
        }
    print(f"\nThe cut-outs and contact sheets are in {OUTPUT.relative_to(ROOT)}/")
    if "local-knockout" not in succeeded or not succeeded & NEURAL:
        print("The demo needs the knock-out and one neural model to succeed.", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _service() -> Iterator[httpx.Client]:
    """`uvicorn main:app` on a free port, with a TEMP_DIR of its own; its log goes to a file."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="demo-") as temp_dir:
        log = (OUTPUT / "service.log").open("wb")
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)],
            cwd=ROOT,
            env={
                **os.environ,
                "API_KEYS": "",
                "TEMP_DIR": temp_dir,
                "RUNWARE_API_KEY": "sandbox",
                "KIE_API_KEY": "sandbox",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=90, trust_env=False
            ) as client:
                _wait_until_alive(client, server)
                yield client
        finally:
            server.terminate()
            server.wait(timeout=30)
            log.close()


def _wait_until_alive(client: httpx.Client, server: subprocess.Popen[bytes]) -> None:
    begun = time.monotonic()
    while time.monotonic() - begun < _START_S:
        if server.poll() is not None:
            break
        try:
            client.get("/health").raise_for_status()
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            print(f"The service answers after {time.monotonic() - begun:.1f} s.")
            return
    raise SystemExit(f"The service did not start; see {OUTPUT / 'service.log'}")


def _wait_for_weights(client: httpx.Client) -> None:
    """The service looks for weights when it starts; a shot before that would only wait for them."""
    begun = time.monotonic()
    while time.monotonic() - begun < _WEIGHTS_S:
        states = client.get("/ready").json()["models"]
        if states["local-isnet"]["status"] != "loading":
            break
        time.sleep(0.2)
    for model, state in states.items():
        if state["status"] != "ready":
            print(f"  {model}: {state['status']} ({state['reason']})")


def _shoot(client: httpx.Client, name: str, path: Path) -> list[str]:
    """Post one picture, print its table, write its files; the models that succeeded."""
    picture = _on_white(path)
    begun = time.monotonic()
    answer = client.post(
        "/remove-background",
        files={"image": (path.name, picture)},
        data={"models": ",".join(MODELS), "deadline_s": "55"},
    )
    record = answer.json()
    if not answer.is_success:
        raise SystemExit(f"{name}: {record['code']}: {record['detail']}")
    _print_table(name, record, time.monotonic() - begun)
    cutouts = _download(client, name, record)
    sheet = contact_sheet(Image.open(io.BytesIO(picture)).convert("RGBA"), cutouts)
    (OUTPUT / f"{name}-contact-sheet.png").write_bytes(encode_png(np.asarray(sheet)))
    return list(cutouts)


def _on_white(path: Path) -> bytes:
    """The picture's bytes; transparent artwork is laid on white, as customers send it."""
    with Image.open(path) as picture:
        if picture.mode != "RGBA":
            return path.read_bytes()
        ground = Image.new("RGBA", picture.size, "white")
        flat = Image.alpha_composite(ground, picture).convert("RGB")
    return encode_png(np.asarray(flat))


def _print_table(name: str, record: dict[str, Any], seconds: float) -> None:
    image = record["image"]
    print(f"\n{name}: {image['width']}x{image['height']} {image['format']}, {seconds:.2f} s")
    print(f"  {'model':28}{'status':12}{'ms':>7}{'cost USD':>11}  note")
    for entry in record["results"]:
        note = entry.get("reason") or entry.get("error", {}).get("code", "")
        note = note or ", ".join(entry.get("flags") or [])
        note = f"sandbox {note}".strip() if entry.get("sandbox") else note
        cost = entry.get("cost_usd")
        shown = "-" if cost is None else f"{cost:.4f}"
        milliseconds = entry.get("latency_ms", "-")
        print(f"  {entry['model']:28}{entry['status']:12}{milliseconds:>7}{shown:>11}  {note}")


def _download(client: httpx.Client, name: str, record: dict[str, Any]) -> dict[str, Image.Image]:
    cutouts = {}
    for entry in record["results"]:
        if entry["status"] == "succeeded":
            content = client.get(entry["url"]).raise_for_status().content
            (OUTPUT / f"{name}-{entry['model']}.png").write_bytes(content)
            cutouts[entry["model"]] = Image.open(io.BytesIO(content)).convert("RGBA")
    return cutouts


def contact_sheet(source: Image.Image, cutouts: dict[str, Image.Image]) -> Image.Image:
    """The source, then a row for each cut-out on every ground, at most CELL pixels a side."""
    rows = [("original", [source])] + [
        (model, [_laid_on(ground, cutout) for ground in GROUNDS])
        for model, cutout in cutouts.items()
    ]
    scale = CELL / max(source.size)
    width, height = (round(side * scale) for side in source.size)
    sheet = Image.new("RGB", (len(GROUNDS) * width, len(rows) * (height + _MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (label, pictures) in enumerate(rows):
        top = row * (height + _MARGIN)
        draw.text((8, top + 6), label, fill="black")
        for column, picture in enumerate(pictures):
            cell = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(cell, (column * width, top + _MARGIN))
    return sheet


def _laid_on(ground: str, cutout: Image.Image) -> Image.Image:
    colours = {"black shirt": (18, 18, 20), "red shirt": (176, 24, 40)}
    if ground in colours:
        below = Image.new("RGBA", cutout.size, (*colours[ground], 255))
    else:
        below = Image.fromarray(_checkerboard(*cutout.size)).convert("RGBA")
    return Image.alpha_composite(below, cutout)


def _checkerboard(width: int, height: int) -> NDArray[np.uint8]:
    square = max(8, max(width, height) // 40)
    rows, columns = np.mgrid[:height, :width] // square
    return np.where((rows + columns) % 2, 204, 255).astype(np.uint8)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
