"""The README's commands work when pasted: the curl ones here, the set-up ones in a fresh copy."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, Server, serving

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
CURL = [block for block in BLOCKS if block.startswith("curl")]
(PLAIN,) = [block for block in BLOCKS if "pip install" in block]
RUN_BY_CI = ("make demo\n", "make test\n")
RUN_BY_PEOPLE = ("make serve\n",)  # the same uvicorn line as PLAIN's last


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("readme"), weights_dir=ROOT / "weights", knockout_enabled=True
    ) as server:
        yield server


def test_every_block_is_run_by_something() -> None:
    assert len(CURL) >= 4
    assert set(BLOCKS) == {*CURL, PLAIN, *RUN_BY_CI, *RUN_BY_PEOPLE}
    ci = (ROOT / ".ci" / "run").read_text()
    for block in RUN_BY_CI:
        assert block.removeprefix("make ").strip() in ci


@pytest.mark.skipif(shutil.which("curl") is None, reason="NO CURL: README examples not run")
@pytest.mark.parametrize("block", CURL, ids=lambda block: block.split()[-1])
def test_the_curl_examples_work(server: Server, tmp_path: Path, block: str) -> None:
    commands = block.replace("http://localhost:8000", server.url)
    commands = re.sub(r"-o (\S+)", rf"-o {tmp_path}/\1", commands)
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert '"code"' not in done.stdout
    pictures = re.findall(r"-o (\S+)", block)
    for name in pictures:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert pictures or done.stdout.startswith("{")


@pytest.mark.setup
def test_the_plain_way_works_in_a_fresh_copy(tmp_path: Path) -> None:
    """venv, pip install, cp .env.example, uvicorn --reload: as written, on another port."""
    copy = _fresh_copy(tmp_path / "clone")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
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
