"""Measures the PNG writer against Pillow's: `python -m bench.png` prints a table and JSON.

Times are the best of a few runs with the pictures in memory, in processor time of the one thread,
so a busy machine blurs them less; only the column for two threads is by the wall clock. The
enlargements are what the upscaler writes: Lanczos, four times.
"""

import io
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from utils import png

T = TypeVar("T")

DATA = Path(__file__).parent.parent / "tests" / "data"
PHOTOS = ("anime-girl-1.jpg", "car-1.jpg")
MAX_RATIO = {"photo": 1.12, "art": 1.15}
MASK = "anime-girl-1.isnet-general-use.png"
RUNS = 3


@dataclass(frozen=True, slots=True)
class Picture:
    """`draw` gives RGBA, (height, width, 4), which may weigh `max_ratio` of Pillow's default."""

    name: str
    draw: Callable[[], NDArray[np.uint8]]
    max_ratio: float


@dataclass(frozen=True, slots=True)
class Row:
    picture: str
    width: int
    height: int
    pillow_ms: float
    pillow_bytes: int
    pillow_1_ms: float
    pillow_1_bytes: int
    fast_ms: float
    fast_bytes: int
    small_ms: float
    small_bytes: int
    fast_choose_ms: float
    fast_filter_ms: float
    fast_deflate_ms: float
    two_threads_speedup: float


def pictures() -> list[Picture]:
    """Cut-outs of photographs and flat artwork, as they are and four times enlarged."""
    art = [path.name for path in sorted((DATA / "art").glob("*.png"))]
    return [
        *(_picture("photo", partial(cut_out, name), scale=n) for name in PHOTOS for n in (1, 4)),
        Picture("photo square 4x", lambda: scale_up(cut_out(PHOTOS[0], side=1000), scale=4), 1.12),
        *(_picture("art", partial(open_art, name), scale=n) for name in art for n in (1, 4)),
    ]


def measure(picture: Picture) -> Row:
    pixels = picture.draw()
    image = Image.fromarray(pixels)
    pillow_ms, pillow = best(lambda: save(image))
    pillow_1_ms, pillow_1 = best(lambda: save(image, level=1))
    fast_ms, fast = best(lambda: png.encode_png(pixels))
    small_ms, small = best(lambda: png.encode_png(pixels, compression=png.Compression.SMALL))
    choose_ms, filter_ms, deflate_ms = split(pixels)
    return Row(
        picture=picture.name,
        width=image.width,
        height=image.height,
        pillow_ms=pillow_ms,
        pillow_bytes=len(pillow),
        pillow_1_ms=pillow_1_ms,
        pillow_1_bytes=len(pillow_1),
        fast_ms=fast_ms,
        fast_bytes=len(fast),
        small_ms=small_ms,
        small_bytes=len(small),
        fast_choose_ms=choose_ms,
        fast_filter_ms=filter_ms,
        fast_deflate_ms=deflate_ms,
        two_threads_speedup=speedup_of_two_threads(pixels),
    )


def split(pixels: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Milliseconds to choose the recipes, to filter, and to deflate."""
    blocks = cut(pixels)
    fast = png.Compression.FAST
    choose_ms, recipes = best(lambda: [png.choose_recipe(b, compression=fast) for b in blocks])
    pairs = list(zip(blocks, recipes, strict=True))
    filter_ms, filtered = best(lambda: [png.apply_filter(b, kind=r.filter) for b, r in pairs])
    inputs = list(zip(filtered, recipes, strict=True))
    deflate_ms, _ = best(lambda: [png.deflate([f], engine=r.engine) for f, r in inputs])
    return choose_ms, filter_ms, deflate_ms


def speedup_of_two_threads(pixels: NDArray[np.uint8]) -> float:
    """How many times sooner two threads are done than one, by the wall clock."""
    blocks = cut(pixels)

    def encode_with(threads: int) -> float:
        with ThreadPoolExecutor(threads) as pool:
            ms, _ = best(lambda: list(pool.map(png.encode_block, blocks)), clock=time.perf_counter)
        return ms

    return encode_with(1) / encode_with(2)


def cut(pixels: NDArray[np.uint8]) -> list[png.Block]:
    height, width, channels = pixels.shape
    return list(png.cut_blocks([pixels.reshape(height, width * channels)], channels=channels))


def save(image: Image.Image, *, level: int | None = None) -> bytes:
    """Pillow's PNG; without a level at its default."""
    file = io.BytesIO()
    if level is None:
        image.save(file, "PNG")
    else:
        image.save(file, "PNG", compress_level=level)
    return file.getvalue()


def best(
    work: Callable[[], T], *, clock: Callable[[], float] = time.thread_time
) -> tuple[float, T]:
    """The shortest of a few runs in milliseconds, and the result."""
    times = []
    for _ in range(RUNS):
        start = clock()
        result = work()
        times.append((clock() - start) * 1e3)
    return min(times), result


def table_line(row: Row) -> str:
    size, ms = row.pillow_bytes, row.pillow_ms
    split_ms = f"{row.fast_choose_ms:.1f}/{row.fast_filter_ms:.1f}/{row.fast_deflate_ms:.1f}"
    return (
        f"{row.picture:24} {row.width:4}x{row.height:<4} | {ms:6.0f} {size:9} "
        f"| {ms / row.pillow_1_ms:4.1f}x {row.pillow_1_bytes / size:5.3f} "
        f"| {row.fast_ms:6.1f} {ms / row.fast_ms:5.1f}x {row.fast_bytes / size:5.3f} "
        f"{split_ms:>15} {row.two_threads_speedup:5.2f}x "
        f"| {row.small_ms:6.1f} {ms / row.small_ms:5.1f}x {row.small_bytes / size:5.3f}"
    )


def main() -> None:
    print(f"Pillow {PIL.__version__}; times in ms, ratios to Pillow's default")
    print(
        f"{'picture':34} | {'default  bytes':>16} | {'level 1':>11} "
        f"| {'fast':>6} {'time':>6} {'size':>5} {'choose/fil/defl':>15} {'2 thr':>6} "
        f"| {'small':>6} {'time':>6} {'size':>5}"
    )
    rows = []
    for picture in pictures():
        rows.append(measure(picture))
        print(table_line(rows[-1]), flush=True)
    print(json.dumps([asdict(row) for row in rows]))


def cut_out(name: str, *, side: int | None = None) -> Image.Image:
    """A photograph behind the mask, black where nothing shows; squared to `side` if given."""
    photo = Image.open(DATA / name).convert("RGB")
    mask = Image.open(DATA / MASK).getchannel("A").resize(photo.size, Image.Resampling.LANCZOS)
    pixels = np.dstack((np.asarray(photo), np.asarray(mask)))
    pixels[pixels[..., 3] == 0] = 0
    image = Image.fromarray(pixels)
    return image if side is None else image.resize((side, side), Image.Resampling.LANCZOS)


def open_art(name: str, *, side: int = 1000) -> Image.Image:
    """The middle of a piece of artwork, at most `side` wide and high."""
    image = Image.open(DATA / "art" / name).convert("RGBA")
    width, height = min(side, image.width), min(side, image.height)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def scale_up(image: Image.Image, *, scale: int) -> NDArray[np.uint8]:
    size = (image.width * scale, image.height * scale)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def _picture(kind: str, source: partial[Image.Image], *, scale: int) -> Picture:
    name = f"{kind} {source.args[0].split('_')[0].split('.')[0]} {scale}x"
    return Picture(name, lambda: scale_up(source(), scale=scale), MAX_RATIO[kind])


if __name__ == "__main__":
    main()
