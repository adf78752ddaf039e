"""Enlarging holds a few strips, whatever the height, and leaves the pool to others."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.errors import InsufficientMemory
from models.schemas import UpscaleParameters
from services.room import Room
from services.upscaler import Pace, Upscaler
from services.workers import Workers
from tests.conftest import ROOT, png_bytes

# A peak never shrinks back, so each height has a process of its own; ru_maxrss would begin with
# the parent's.
MEASURE = """
import asyncio, json, re, sys
from pathlib import Path
import numpy as np
from models.schemas import UpscaleParameters
from services.room import Room
from services.upscaler import Upscaler
from services.workers import Workers
from utils.png import write_png

width, height, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
noise = np.random.default_rng(1).integers(0, 256, (64, width, 4), dtype=np.uint8)
strips = (noise for _ in range(height // 64))
source = folder / "source.png"
with source.open("wb") as file:
    for piece in write_png(strips, width=width, height=height, channels=4):
        file.write(piece)

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

async def enlarge():
    workers = Workers(pixel_threads=2)
    upscaler = Upscaler(
        workers=workers, room=Room(folder, 0), memory_bytes=512 << 20, max_file_bytes=1 << 40
    )
    work = await upscaler.open(source, UpscaleParameters(), scratch=folder)
    size = 0
    async for piece in upscaler.stream(work):
        size += len(piece)
    workers.close()
    return size

before = peak_mb()
size = asyncio.run(enlarge())
print(json.dumps({"before": before, "peak": peak_mb(), "bytes": size}))
"""


def grown_mb(width: int, height: int, folder: Path) -> float:
    """MiB that enlarging width x height pixels four times adds to a process."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(width), str(height), str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["bytes"] > width * height  # noise does not compress
    grown: float = told["peak"] - told["before"]
    return grown


def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    low = grown_mb(1024, 1024, tmp_path / "low")
    high = grown_mb(1024, 8192, tmp_path / "high")  # 134 megapixels: 512 MiB if it were whole
    assert high < 220
    assert high - low < 60


def upscaler(folder: Path, *, memory_mb: int) -> tuple[Upscaler, Workers]:
    workers = Workers(pixel_threads=1)
    room = Room(folder, 0)
    return (
        Upscaler(workers=workers, room=room, memory_bytes=memory_mb << 20, max_file_bytes=1 << 30),
        workers,
    )


@pytest.mark.anyio
@pytest.mark.parametrize("memory_mb", [40, 128, 512])
async def test_strips_are_as_high_as_the_budget_allows(tmp_path: Path, memory_mb: int) -> None:
    service, workers = upscaler(tmp_path, memory_mb=memory_mb)
    path = tmp_path / "x.png"
    path.write_bytes(png_bytes(np.zeros((64, 9000, 4), np.uint8)))
    work = await service.open(path, UpscaleParameters(), scratch=tmp_path)
    assert 1 <= work.strip_rows <= 32
    assert (work.strip_rows == 32) == (memory_mb == 512)
    content = b"".join([piece async for piece in service.stream(work)])
    assert content.endswith(b"IEND\xaeB`\x82")
    workers.close()


@pytest.mark.anyio
async def test_a_strong_reduction_is_bounded_too(tmp_path: Path) -> None:
    service, workers = upscaler(tmp_path, memory_mb=64)
    path = tmp_path / "x.png"
    path.write_bytes(png_bytes(np.zeros((3000, 9000), np.uint8)))
    with pytest.raises(InsufficientMemory):
        await service.open(path, UpscaleParameters(scale=0.001), scratch=tmp_path)
    work = await service.open(path, UpscaleParameters(scale=0.1), scratch=tmp_path)
    assert (work.size.width, work.size.height) == (900, 300)
    workers.close()


@pytest.mark.anyio
async def test_the_stream_can_be_left_at_any_piece(tmp_path: Path) -> None:
    service, workers = upscaler(tmp_path, memory_mb=512)
    path = tmp_path / "x.png"
    path.write_bytes(png_bytes(np.zeros((2000, 300, 4), np.uint8)))
    for taken in range(4):
        work = await service.open(path, UpscaleParameters(), scratch=tmp_path)
        stream = service.stream(work)
        for _ in range(taken):
            assert await anext(stream)
        await stream.aclose()
    assert await workers.pixels(lambda: "free") == "free"
    workers.close()


def test_the_pace_follows_what_is_measured() -> None:
    pace = Pace()
    guess = pace.seconds(60_000_000)
    for _ in range(200):
        pace.note(1_000_000, 100)
    assert guess == pytest.approx(1)
    assert pace.seconds(60_000_000) == pytest.approx(6, rel=0.01)
