"""The service as bench.upscale sees it: a process of its own, asked over HTTP, its memory watched.

Two measures of memory, side by side. The PSS of the process tree, sampled, is what the processes
hold. The control group's own high-water mark misses no moment, but it also counts the page cache of
every file that they wrote or read first.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Self

import httpx

ROOT = Path(__file__).parent.parent
MB = 1_000_000
_START_S = 60
_SETTLING_S = 1.0
_SAMPLE_S = 0.1
_READ_TIMEOUT_S = 300
_CGROUPS = Path("/sys/fs/cgroup")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END_OF_PNG = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_HEAD_BYTES = 24  # the signature and IHDR up to the height


@dataclass(frozen=True, slots=True)
class Service:
    """A running `uvicorn main:app`; `watcher` watches its tree."""

    client: httpx.Client
    watcher: "Watcher"
    group: "ControlGroup | None"


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
    group: "ControlGroup | None" = None,
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


class Watcher:
    """Samples what a process and its descendants hold, their proportional set size, until left."""

    def __init__(self, pid: int, *, limit_bytes: int | None) -> None:
        self.pid = pid
        self._limit_bytes = limit_bytes
        self._left = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self.peak_bytes = 0
        self.over_limit = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def settle(self) -> int:
        """Wait a moment, begin a new peak, and give what is held when idle."""
        time.sleep(_SETTLING_S)
        self.peak_bytes = idle = tree_pss_bytes(self.pid)
        return idle

    def _watch(self) -> None:
        while not self._left.wait(_SAMPLE_S):
            held = tree_pss_bytes(self.pid)
            self.peak_bytes = max(self.peak_bytes, held)
            if self._limit_bytes is not None and held > self._limit_bytes:
                self.over_limit = True
                _kill(tree(self.pid))


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A memory control group of our own, of version 1 or 2; made by `new_control_group`."""

    folder: Path
    version: int

    def peak_bytes(self) -> int:
        """Since it was made or `reset` (which version 2 cannot)."""
        return self._number({1: "memory.max_usage_in_bytes", 2: "memory.peak"}[self.version])

    def usage_bytes(self) -> int:
        return self._number({1: "memory.usage_in_bytes", 2: "memory.current"}[self.version])

    def reset(self) -> None:
        if self.version == 1:
            (self.folder / "memory.max_usage_in_bytes").write_text("0", "ascii")

    def times_at_limit(self) -> int:
        if self.version == 1:
            return self._number("memory.failcnt")
        return _entry(self.folder / "memory.events", "max")

    def oom_kills(self) -> int:
        name = {1: "memory.oom_control", 2: "memory.events"}[self.version]
        return _entry(self.folder / name, "oom_kill")

    def _number(self, name: str) -> int:
        return int((self.folder / name).read_text("ascii"))


@contextmanager
def new_control_group(*, limit_bytes: int | None = None) -> Iterator[ControlGroup | None]:
    """A control group, gone again afterwards; None where this user or system has none to give."""
    for version, parent in ((1, _CGROUPS / "memory"), (2, _CGROUPS)):
        group = ControlGroup(parent / f"dtf-bench-{os.getpid()}", version)
        if _made(group, limit_bytes):
            break
    else:
        yield None
        return
    try:
        yield group
    finally:
        _remove(group.folder)


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    found = [pid]
    for each in found:
        for listing in Path(f"/proc/{each}/task").glob("*/children"):
            with suppress(OSError):
                found += [int(child) for child in listing.read_text("ascii").split()]
    return found


def tree_pss_bytes(pid: int) -> int:
    return sum(_pss_bytes(each) for each in tree(pid))


def _pss_bytes(pid: int) -> int:
    with suppress(OSError):  # it has just ended
        return _entry(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") * 1024
    return 0


def _entry(path: Path, name: str) -> int:
    """The number behind a name at the beginning of a line, 0 where there is none."""
    for line in path.read_text("ascii").splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    return 0


def _kill(pids: list[int]) -> None:
    for each in pids:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def _made(group: ControlGroup, limit_bytes: int | None) -> bool:
    limit = {1: "memory.limit_in_bytes", 2: "memory.max"}[group.version]
    try:
        group.folder.mkdir()
    except OSError:
        return False
    try:
        group.usage_bytes()
        group.peak_bytes()
        if limit_bytes is not None:
            (group.folder / limit).write_text(str(limit_bytes), "ascii")
    except OSError:
        _remove(group.folder)
        return False
    return True


def _remove(folder: Path) -> None:
    """A group can go once its last process is reaped, which may take a moment."""
    for _ in range(50):
        with suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.1)
    print(f"The control group {folder} could not be removed.", file=sys.stderr)


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
