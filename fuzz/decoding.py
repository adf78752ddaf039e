"""Any bytes as a picture file: the way of a shot's picture and that of an enlargement's.

Both must give pixels or one of their documented refusals, and where both give pixels of a format
without loss, the same ones.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fuzz.png_chunks import mutate_png
from fuzz.target import Finding, Target
from models.errors import (
    EmptyFile,
    ImageTruncated,
    TooManyPixels,
    UnreadableImage,
    UnsupportedMediaType,
)
from services.intake import inspect, read
from tests.utils.specimens import SPECIMENS, png, tags, tiff
from utils.image_utils import stored_colour
from utils.pictures import Header, PictureError
from utils.rows import Cropped, Rows, each_strip, open_picture, spilled_bytes

Pixels = NDArray[np.uint8]

_MOST_PIXELS = 1 << 16
_REFUSALS = (EmptyFile, ImageTruncated, TooManyPixels, UnreadableImage, UnsupportedMediaType)
_ALIKE = ("PNG", "BMP", "GIF")
"""Formats that both readers must read to the same pixels; TIFF's come with lossy codecs."""


def run(data: bytes) -> None:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_memory()))
    try:
        _decode_both_ways(folder, data)
    finally:
        shutil.rmtree(folder)


def _memory() -> Path | None:
    """Where files cost no disk."""
    shared = Path("/dev/shm")  # noqa: S108  # a folder of its own is made in it
    return shared if shared.is_dir() else None


def _decode_both_ways(folder: Path, data: bytes) -> None:
    path = folder / "picture"
    path.write_bytes(data)
    try:
        header = inspect(path, max_pixels=_MOST_PIXELS)
    except _REFUSALS:
        return
    whole, by_rows = _of_a_shot(path, header), _of_an_enlargement(path, header)
    if whole is None or by_rows is None:
        return
    if whole.shape != by_rows.shape:
        raise Finding(f"{header.format}: {whole.shape} whole, {by_rows.shape} by rows")
    if header.format in _ALIKE and not np.array_equal(whole, by_rows):
        raise Finding(f"{header.format}: whole and by rows differ in pixels")


def _of_a_shot(path: Path, header: Header) -> Pixels | None:
    """RGBA as a shot's models see it, None where it is refused."""
    try:
        source = read(path, header)
    except _REFUSALS:
        return None
    if source.rgb.shape[0] * source.rgb.shape[1] > header.pixels:
        raise Finding(f"{header.format}: more pixels than its header says")
    solid = np.full(source.rgb.shape[:2], 255, np.uint8)
    return np.dstack((source.rgb, solid if source.alpha is None else source.alpha))


def _of_an_enlargement(path: Path, header: Header) -> Pixels | None:
    """RGBA as the enlarger reads it, None where it is refused."""
    try:
        stored_colour(path, header=header)
        picture = open_picture(path, header=header, scratch=path.parent)
        for _ in picture.prepare():
            pass
        pixels = _all(picture.rows())
        inner = (picture.width // 3, picture.height // 3, picture.width, picture.height)
        part = _all(Cropped(picture.rows(), inner))
    except PictureError:
        return None
    if picture.raw and header.by_rows and picture.raw.stat().st_size > spilled_bytes(header):
        raise Finding(f"{header.format}: the raw rows take more room than was asked for")
    if not np.array_equal(part, pixels[inner[1] :, inner[0] :]):
        raise Finding(f"{header.format}: a part of the rows differs from the rows")
    return _as_rgba(pixels)


def _all(rows: Rows) -> Pixels:
    return np.concatenate([strip for _, strip in each_strip(rows)])


def _as_rgba(pixels: Pixels) -> Pixels:
    channels = pixels.shape[2]
    colour = pixels[..., :3] if channels > 2 else np.repeat(pixels[..., :1], 3, axis=2)
    alpha = pixels[..., -1:] if channels in (2, 4) else np.full_like(pixels[..., :1], 255)
    return np.concatenate((colour, alpha), axis=2)


def seeds() -> Iterator[bytes]:
    """One file of each kind, and small ones of the kinds that only few programs write."""
    yield from SPECIMENS.values()
    for depth in (1, 2, 4, 8, 16):
        yield png((8, 4, depth, 0), (b"\0" + bytes(range(depth))) * 4)
    yield png(
        (8, 4, 8, 3), (b"\0" + bytes(8)) * 4, (b"PLTE", bytes(range(24))), (b"tRNS", b"\0\x80")
    )
    for big in (False, True):
        for order in ("<", ">"):
            yield tiff(tags(4, 2, bits=(8,), photometric=0), bytes(8), order=order, big=big)
    yield tiff(tags(4, 2, bits=(16, 16, 16), photometric=2), bytes(48))


TARGET = Target(run, seeds, longest=16 << 10, mutate=mutate_png)
