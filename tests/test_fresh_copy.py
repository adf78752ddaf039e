"""The README's way without make, in a fresh copy: `uvicorn main:app` as `make serve` starts it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.documents import blocks
from tests.ports import unused_port

PLAIN = next(
    block
    for block in blocks()
    if block.document.name == "README.md" and "pip install" in block.text
).text


@pytest.mark.setup
def test_the_plain_way_works_in_a_fresh_copy(tmp_path: Path) -> None:
    """venv, pip install, cp .env.example, uvicorn --reload: as written, on another port."""
    copy = _fresh_copy(tmp_path / "clone")
    port = unused_port()
    commands = PLAIN.replace("python -m venv", f"{sys.executable} -m venv")
    commands = commands.replace("uvicorn", "exec uvicorn").replace("8000", str(port))
    environment = {**os.environ, "TEMP_DIR": str(tmp_path / "temp")}
    service = subprocess.Popen(
        ["bash", "-euc", commands], cwd=copy, env=environment, start_new_session=True
    )
    try:
        _wait_until_alive(port, service)
        with (copy / "tests" / "data" / "car-1.jpg").open("rb") as picture:
            answer = httpx.post(
                f"http://127.0.0.1:{port}/remove-background",
                files={"image": picture},
                data={"models": "local-knockout"},
                timeout=60,
                trust_env=False,
            )
        assert answer.json()["results"][0]["status"] == "succeeded"
    finally:
        os.killpg(service.pid, signal.SIGTERM)
        service.wait(timeout=30)


def _fresh_copy(target: Path) -> Path:
    """The files git would clone, as they stand now."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    return target


def _wait_until_alive(port: int, service: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 280
    while time.monotonic() < end:
        assert service.poll() is None, "the commands ended"
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).raise_for_status()
        except httpx.TransportError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("the service never answered")
