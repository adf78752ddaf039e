"""The service as README.md starts it, its providers, and the doors between them: one stage."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from bench.memory_watch import tree
from scripts.chaos.doors import Door, Loop
from scripts.chaos.traffic import NEURAL, QUICK, Shop

ROOT = Path(__file__).parents[2]
_UVICORN = Path(sys.executable).parent / "uvicorn"
_KEY = "chaos-key-of-the-shop"
_START_S = 60
_STOP_S = 60


@dataclass
class Stage:
    """A folder with everything in it; `env` is what the circumstance sets beyond the usual."""

    folder: Path
    sandbox: dict[str, str]
    loop: Loop
    env: Mapping[str, str] = field(default_factory=dict)
    entering: Sequence[str] = ()
    models: str = QUICK
    _server: subprocess.Popen[bytes] | None = None
    port: int = 0
    closing: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.doors = {
            name: Door(self.loop, urlsplit(self.sandbox[name]).port or 0)
            for name in ("runware_ws", "kie_api", "kie_upload")
        }
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]

    @property
    def server(self) -> subprocess.Popen[bytes]:
        if self._server is None:
            raise RuntimeError("The service was not started.")
        return self._server

    @property
    def temp_dir(self) -> Path:
        return self.folder / "temp"

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "service.log"

    @property
    def shop(self) -> Shop:
        return Shop(f"http://127.0.0.1:{self.port}", _KEY)

    def start(self) -> None:
        """`uvicorn main:app`, up to its first answer. Raises RuntimeError where there is none."""
        with self.log.open("ab") as output:
            self._server = subprocess.Popen(
                [*self.entering, str(_UVICORN), "main:app", "--port", str(self.port)],
                cwd=ROOT,
                env={**os.environ, **self._environment(), **self.env},
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        began = time.monotonic()
        with self.shop.client(5) as client:
            while time.monotonic() - began < _START_S:
                if self.server.poll() is not None:
                    break
                with suppress(httpx.HTTPError):
                    if client.get("/health").status_code == 200:
                        return
                time.sleep(0.1)
        raise RuntimeError(f"The service did not start: {self.tail()}")

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Its exit status, and how many seconds it took to end; killed after a minute."""
        began = time.monotonic()
        self.server.send_signal(number)
        try:
            status = self.server.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.server.kill()
            status = self.server.wait()
        return status, time.monotonic() - began

    def kill(self) -> None:
        if self._server is not None and self._server.poll() is None:
            self._server.kill()
            self._server.wait()

    def worker(self) -> int | None:
        """The process that runs the networks, where there is one now."""
        for pid in tree(self.server.pid):
            with suppress(OSError):
                if b"inference_child" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return None

    def events(self) -> Counter[str]:
        """Log lines of WARNING and above, by event."""
        found: Counter[str] = Counter()
        for line in self.log.read_text(errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                said = json.loads(line)
                if said["level"] in {"WARNING", "ERROR", "CRITICAL"}:
                    found[str(said["event"]).partition("\n")[0][:60]] += 1
        return found

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-1500:]

    def faults(self, *switches: str) -> None:
        """The sandbox's own switches; none of them puts everything right."""
        with httpx.Client(base_url=self.sandbox["admin"], trust_env=False, timeout=10) as admin:
            admin.delete("/faults").raise_for_status()
            if switches:
                admin.post("/faults", json={"faults": switches}).raise_for_status()

    def bill(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.sandbox['admin']}/bill", trust_env=False, timeout=10)
        told: dict[str, Any] = answer.raise_for_status().json()
        return told

    def _environment(self) -> dict[str, str]:
        files = [self.sandbox[name] for name in ("runware_files", "kie_files")]
        return {
            "TEMP_DIR": str(self.temp_dir),
            "DATA_DIR": str(self.data_dir),
            "API_KEYS": f"shop:{_KEY}",
            "RUNWARE_API_KEY": "sandbox-chaos",
            "KIE_API_KEY": "sandbox-chaos",
            "RUNWARE_URL": f"ws://127.0.0.1:{self.doors['runware_ws'].port}/v1",
            "KIE_API_URL": f"http://127.0.0.1:{self.doors['kie_api'].port}",
            "KIE_UPLOAD_URL": f"http://127.0.0.1:{self.doors['kie_upload'].port}",
            "PROVIDER_RESULT_DOMAINS": ",".join(each.partition("://")[2] for each in files),
            "PROVIDER_PACE": "0.2",
            "PROVIDER_PROBE_S": "3",
            "RUNWARE_TIMEOUT_S": "10",
            "KIE_TIMEOUT_S": "15",
            "MODEL_TIMEOUT_S": "20",
            "KNOCKOUT_ENABLED": "true",
            "MIN_FREE_DISK_MB": "4",
            "RATE_LIMIT_PER_MINUTE": "0",
            "WEIGHTS_DIR": str((ROOT if NEURAL in self.models else self.folder) / "weights"),
            "WEIGHTS_DOWNLOAD": "false",
        }


@contextmanager
def new_stage(folder: Path, loop: Loop, *, env: Mapping[str, str], models: str) -> Iterator[Stage]:
    """A sandbox of its own, the doors, and empty folders; the service is not started yet."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("temp", "data"):
        (folder / name).mkdir(parents=True)
    with _sandbox() as addresses:
        stage = Stage(folder, addresses, loop, env, models=models)
        try:
            yield stage
        finally:
            stage.kill()
            for door in stage.doors.values():
                door.close()
            stage.closing.close()


@contextmanager
def _sandbox() -> Iterator[dict[str, str]]:
    told = [sys.executable, "-m", "sandbox", "--free-ports", "--json", "--no-isnet"]
    with subprocess.Popen(
        [*told, "--delay", "0.05"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            addresses: dict[str, str] = json.loads(
                process.stdout.readline() if process.stdout else ""
            )
            yield addresses
        finally:
            process.terminate()
