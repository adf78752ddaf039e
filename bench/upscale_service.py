"""The service as bench.upscale sees it: a process of its own, asked over HTTP, memory watched."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.memory_watch import ControlGroup, Watcher

ROOT = Path(__file__).parent.parent
MB = 1_000_000
_START_S = 60
_READ_TIMEOUT_S = 300
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END_OF_PNG = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_HEAD_BYTES = 24  # the signature and IHDR up to the height


@dataclass(frozen=True, slots=True)
class Service:
    """A running `uvicorn main:app`; `watcher` watches its tree."""

    client: httpx.Client
    watcher: Watcher
    group: ControlGroup | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One enlargement as its client saw it; `fault` is "" when a whole PNG came."""

    ms: float
    first_byte_ms: float
    bytes: int
    width: int
    height: int
    fault: str

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6


@contextmanager
def running_service(
    folder: Path,
    *,
    group: ControlGroup | None = None,
    limit_bytes: int | None = None,
    watched: bool = True,
    env: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """The service with empty keys, no downloads, its files under `folder` and a port of its own.

    Without a group the watcher ends it when its tree holds more than `limit_bytes`. Watching takes
    time of both processes: where milliseconds count, nobody is `watched`.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    log = folder / "service.log"
    with log.open("ab") as output:
        server = subprocess.Popen(
            _command(port, group),
            cwd=ROOT,
            env=_environment(folder, env or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    watcher = Watcher(server.pid, limit_bytes=None if group else limit_bytes)
    timeout = httpx.Timeout(_READ_TIMEOUT_S, connect=10)
    address = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=address, timeout=timeout, trust_env=False) as client:
            _wait_until_alive(client, server, log)
            with watcher if watched else nullcontext():
                yield Service(client, watcher, group)
    finally:
        _end(server)


def post_upscale(service: Service, picture: Path, *, scale: int = 4) -> Answer:
    """Post the picture and let its enlargement go by, of which only the ends are looked at."""
    begun, first_byte_ms, size, head, tail = time.perf_counter(), 0.0, 0, b"", b""
    fault = ""
    try:
        with (
            picture.open("rb") as file,
            service.client.stream(
                "POST", "/upscale", files={"image": file}, data={"scale": str(scale)}
            ) as answer,
        ):
            for piece in answer.iter_raw():
                first_byte_ms = first_byte_ms or (time.perf_counter() - begun) * 1e3
                size += len(piece)
                head = head if len(head) >= _HEAD_BYTES else head + piece[:_HEAD_BYTES]
                tail = (tail + piece)[-len(_END_OF_PNG) :]
            if not answer.is_success:
                fault = f"HTTP {answer.status_code}"
    except httpx.HTTPError as error:
        fault = f"{type(error).__name__}: {error}"
    if not fault and not (head.startswith(_SIGNATURE) and tail == _END_OF_PNG):
        fault = "not a whole PNG"
    ms = (time.perf_counter() - begun) * 1e3
    width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
    return Answer(ms, first_byte_ms, size, width, height, fault)


def _command(port: int, group: ControlGroup | None) -> list[str]:
    """The server; where there is a group it enters it before it is loaded."""
    server = [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)]
    if group is None:
        return server
    entering = f'echo $$ > "{group.folder / "cgroup.procs"}" && exec "$@"'
    return ["sh", "-c", entering, "sh", *server]


def _environment(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    ours = {
        "TEMP_DIR": str(folder / "service"),
        "WEIGHTS_DIR": str(folder / "weights"),
        "WEIGHTS_DOWNLOAD": "false",
        "RUNWARE_API_KEY": "",
        "KIE_API_KEY": "",
    }
    return {**os.environ, **ours, **env}


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(timeout=30)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _wait_until_alive(client: httpx.Client, server: subprocess.Popen[bytes], log: Path) -> None:
    begun = time.monotonic()
    while server.poll() is None and time.monotonic() - begun < _START_S:
        try:
            client.get("/health").raise_for_status()
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"The service did not start:\n{log.read_text(errors='replace')[-2000:]}")
