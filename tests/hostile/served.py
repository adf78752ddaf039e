"""The service as a process of its own, started as the image starts it, and what it holds."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.conftest import ROOT
from tests.ports import unused_port

_SETTINGS = {
    "WEIGHTS_DOWNLOAD": "false",
    "MAX_UPLOAD_MB": "8",
    "QUEUE_LIMIT": "1000",
    "UPSCALE_MEMORY_MB": "128",
    "LOG_LEVEL": "INFO",
}


@dataclass(frozen=True, slots=True)
class Served:
    """A running service: its address, its process, its folder, its log."""

    port: int
    pid: int
    temp_dir: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def resident_mb(self) -> float:
        """Of the process and its children, what is shared counted once (PSS)."""
        listing = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        pids = [self.pid, *map(int, listing.stdout.split())]
        return sum(_kib(f"/proc/{pid}/smaps_rollup", "Pss") for pid in pids) / 1024

    def peak_mb(self) -> float:
        """The most the process had since `forget_peak`."""
        return _kib(f"/proc/{self.pid}/status", "VmHWM") / 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="ascii")

    def files(self, folder: str) -> list[Path]:
        return sorted((self.temp_dir / folder).rglob("*"))


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Served]:
    port = unused_port()
    log = folder / "log"
    temp_dir = folder / "temp"
    environment = {**os.environ, **_SETTINGS, "TEMP_DIR": str(temp_dir)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)],
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_alive(port)
            yield Served(port, process.pid, temp_dir, log)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_until_alive(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).raise_for_status()
            return
        time.sleep(0.1)
    raise AssertionError("the service did not start")


def _kib(path: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(path).read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) if found else 0
