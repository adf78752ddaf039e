"""Where nothing can be written but TEMP_DIR, and HOME is not set, everything works."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, artwork
from tests.ports import unused_port

_AS_ROOT, _AS_ANYBODY = ("unshare", "-m"), ("unshare", "--user", "--map-root-user", "--mount")


def _namespace() -> tuple[str, ...] | None:
    """A command that gives what follows mounts of its own, where the system lets us."""
    for command in (_AS_ROOT, _AS_ANYBODY):
        with suppress(FileNotFoundError):
            probe = [*command, "mount", "--make-rprivate", "/"]
            if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                return command
    return None


NAMESPACE = _namespace() if sys.platform == "linux" else None
needs_namespace = pytest.mark.skipif(
    NAMESPACE is None, reason="this system lets nobody have mounts of his own (unshare, mount)"
)


def read_only(folder: Path, *command: str) -> list[str]:
    assert NAMESPACE is not None
    script = str(ROOT / "tests" / "read_only.sh")
    return [*NAMESPACE, "sh", script, str(folder), *command]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """`uvicorn main:app` as the image starts it, with nothing in its environment but TEMP_DIR."""
    port = unused_port()
    environment = {
        "PATH": os.defpath,
        "TEMP_DIR": str(tmp_path),
        "WEIGHTS_DIR": str(tmp_path / "none"),
        "WEIGHTS_DOWNLOAD": "false",
        "DRAIN_NOTICE_S": "0",
    }
    command = read_only(tmp_path, sys.executable, "-m", "uvicorn", "main:app", "--port", str(port))
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    with (
        process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client,
    ):
        try:
            while process.poll() is None:
                with suppress(httpx.ConnectError):
                    client.get("/health").raise_for_status()
                    break
                time.sleep(0.02)
            yield process, client
        finally:
            process.kill()


@needs_namespace
def test_nothing_outside_the_folder_can_be_written(tmp_path: Path) -> None:
    """Else the next test would prove nothing."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    attempt = f"touch {inside}/x; touch {outside} || touch {ROOT}/x || touch /tmp/x || exit 7"
    done = subprocess.run(
        read_only(inside, "sh", "-c", attempt), capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert done.stderr.count("Read-only file system") == 3
    assert (inside / "x").exists()


@needs_namespace
def test_the_service_works_and_writes_to_temp_dir_alone(
    tmp_path: Path, service: tuple[subprocess.Popen[str], httpx.Client]
) -> None:
    process, client = service
    picture = artwork(width=300, height=260)
    shot = client.post(
        "/process", files={"image": picture}, data={"models": "local-knockout", "scale": "1.2"}
    )
    assert shot.status_code == 200, shot.text
    (entry,) = shot.json()["results"]
    assert client.get(entry["print_url"]).raise_for_status().content[:4] == b"\x89PNG"
    for form in ("webp", "tiff"):
        data = {"format": form, "scale": "1.2"}
        client.post("/upscale", files={"image": picture}, data=data).raise_for_status()
    picked = {"request_id": shot.json()["request_id"], "model": entry["model"]}
    client.post("/preferences", json=picked).raise_for_status()
    process.send_signal(signal.SIGTERM)
    log, _ = process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert "Read-only file system" not in log
    assert '"level": "ERROR"' not in log
    assert {each.name for each in tmp_path.iterdir()} == {
        "data",
        "results",
        "service.lock",
        "uploads",
    }
