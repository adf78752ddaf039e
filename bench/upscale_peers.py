"""The enlargement against Pillow, Pillow-SIMD, OpenCV and sharp.

Every side takes the same PNG file and gives the bytes of a PNG; all take turns in one run, and the
best of the rounds counts. Pillow and Pillow-SIMD share a package name, so plain Pillow lives in an
environment of its own under ~/.cache/dtf-bench, OpenCV with it, and sharp beside it.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import PIL

from bench.upscale_service import Service, post_upscale
from models.schemas import UpscaleParameters
from services.room import Room
from services.upscaler import Enlargement, Upscaler
from services.workers import Workers

CACHE = Path.home() / ".cache" / "dtf-bench"
HERE = Path(__file__).parent
PACKAGES = ("pillow==13.0.0", "numpy", "opencv-python-headless", "matplotlib")
SHARP = "sharp@0.35.5"
SCALE = 4
THREADS = 2
_MEMORY_BYTES = 512 << 20  # the service's default
_INSTALLING_S = 600


@dataclass(frozen=True, slots=True)
class Run:
    """What one enlargement took; `first_ms` until the first byte, where there is such a moment."""

    ms: float
    bytes: int
    first_ms: float | None = None
    note: Mapping[str, object] = field(default_factory=dict)


class Side(Protocol):
    """Somebody who enlarges a PNG file four times."""

    version: str

    def enlarge(self, path: Path) -> Run: ...


class PeerMissing(Exception):
    """A peer that cannot be had here; the text says why."""


RUNS_A_TURN = 3


class Ours:
    """services.upscaler in this process, with the service's two pixel threads."""

    def __init__(self, runner: asyncio.Runner, workers: Workers, scratch: Path) -> None:
        self.version = f"Pillow {PIL.__version__}"
        self._runner = runner
        self._scratch = scratch
        self.upscaler = Upscaler(
            workers=workers,
            room=Room(scratch, 0),
            memory_bytes=_MEMORY_BYTES,
            max_file_bytes=1 << 40,
        )

    def enlarge(self, path: Path) -> Run:
        begun = time.perf_counter()
        first_at, pieces = self._runner.run(self._pieces(path))
        content = b"".join(pieces)
        ms = (time.perf_counter() - begun) * 1e3
        return Run(ms, len(content), (first_at - begun) * 1e3)

    def enlarge_in_passing(self, path: Path) -> Run:
        """The same with the pieces thrown away, for what is too large to be kept."""
        begun = time.perf_counter()
        size = self._runner.run(self._size(path))
        return Run((time.perf_counter() - begun) * 1e3, size)

    def opened(self, path: Path) -> Enlargement:
        return self._runner.run(self._opened(path))

    async def _opened(self, path: Path) -> Enlargement:
        asked = UpscaleParameters(scale=SCALE)
        return await self.upscaler.open(path, asked, scratch=self._scratch)

    async def _pieces(self, path: Path) -> tuple[float, list[bytes]]:
        stream = self.upscaler.stream(await self._opened(path))
        pieces = [await anext(stream)]
        first_at = time.perf_counter()
        pieces += [piece async for piece in stream]
        return first_at, pieces

    async def _size(self, path: Path) -> int:
        return sum([len(piece) async for piece in self.upscaler.stream(await self._opened(path))])


class OverHttp:
    """The running service, asked through a socket."""

    version = "uvicorn main:app"

    def __init__(self, service: Service) -> None:
        self._service = service

    def enlarge(self, path: Path) -> Run:
        answer = post_upscale(self._service, path, scale=SCALE)
        if answer.fault:
            raise RuntimeError(f"POST /upscale of {path.name}: {answer.fault}")
        return Run(answer.ms, answer.bytes, answer.first_byte_ms)


class Child:
    """A peer in a process of its own that answers each path with a line of JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.version = str(self._line()["version"])

    def enlarge(self, path: Path) -> Run:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        told = self._line()
        return Run(told.pop("ms"), told.pop("bytes"), note=told)

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerMissing(f"{self._process.args!r} ended with {self._process.wait()}")
        told: dict[str, Any] = json.loads(line)
        return told


@contextmanager
def our_side(scratch: Path) -> Iterator[Ours]:
    scratch.mkdir(exist_ok=True)
    workers = Workers(pixel_threads=THREADS)
    with asyncio.Runner() as runner:
        yield Ours(runner, workers, scratch)
    workers.close()


@contextmanager
def peers() -> Iterator[tuple[dict[str, Side], dict[str, str]]]:
    """Those who could be had, and why the others could not, each by name."""
    commands: dict[str, Callable[[], list[str]]] = {
        "pillow": lambda: _python_child(second_python(), "pillow"),
        "pillow-simd": lambda: _python_child(Path(sys.executable), "pillow"),
        "opencv": lambda: _python_child(second_python(), "opencv"),
        "sharp": lambda: ["node", str(HERE / "upscale_sharp.mjs"), str(_sharp_folder())],
    }
    present: dict[str, Side] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        for name, command in commands.items():
            try:
                present[name] = _started(command(), stack)
            except (PeerMissing, OSError) as error:
                missing[name] = str(error)
        if "post" not in getattr(present.get("pillow-simd"), "version", ""):
            present.pop("pillow-simd", None)
            missing.setdefault("pillow-simd", f"this environment has Pillow {PIL.__version__}")
        yield present, missing


def rounds(
    sides: Mapping[str, Side], pictures: Mapping[str, Path], *, count: int
) -> dict[str, dict[str, Run]]:
    """The best run by picture and side; within each of `count` rounds every side has its turn.

    A turn is a few runs: the first one pays for caches that the side before has filled.
    """
    best: dict[str, dict[str, Run]] = {name: {} for name in pictures}
    for _ in range(count):
        for picture, path in pictures.items():
            for name, side in sides.items():
                runs = [side.enlarge(path) for _ in range(RUNS_A_TURN)]
                known = best[picture].get(name, runs[0])
                best[picture][name] = min(known, *runs, key=lambda each: each.ms)
    return best


def second_python() -> Path:
    """The interpreter of the environment with plain Pillow, OpenCV and matplotlib; made if new."""
    folder = CACHE / "pillow"
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(PACKAGES)
    if not stamp.exists() or stamp.read_text("utf-8") != wanted:
        _install([sys.executable, "-m", "venv", "--clear", str(folder)])
        _install([str(python), "-m", "pip", "install", "-q", *PACKAGES])
        stamp.write_text(wanted, "utf-8")
    return python


def _sharp_folder() -> Path:
    folder = CACHE / "sharp"
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text("utf-8") != SHARP:
        folder.mkdir(parents=True, exist_ok=True)
        _install(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), SHARP])
        stamp.write_text(SHARP, "utf-8")
    return folder


def _install(command: list[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_INSTALLING_S
    )
    if done.returncode:
        raise PeerMissing(f"{command[0]} failed: {done.stderr.strip()[-300:]}")


def _python_child(python: Path, side: str) -> list[str]:
    return [str(python), "-P", str(HERE / "upscale_child.py"), side]


def _started(command: list[str], stack: ExitStack) -> Child:
    process = stack.enter_context(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    stack.callback(process.terminate)
    return Child(process)
