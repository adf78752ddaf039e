"""Any picture into a PNG: a valid file must come of it, whose pixels both decoders find again."""

import io
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image

from fuzz.png_chunks import SIGNATURE
from fuzz.target import Choices, Finding, Target
from utils.png import (
    ISAL,
    MATCHES,
    MORE_MATCHES,
    RUNS,
    Block,
    Compression,
    EncodedBlock,
    Filter,
    PngBody,
    Recipe,
    encode_as,
    encode_rows,
    png_head,
    text_behind,
    write_png,
)

Pixels = NDArray[np.uint8]

_MOST_PIXELS = 1 << 14
_WIDEST = 1 << 17  # a row that the filters take in several goes, and more than a block
_ENGINES = (ISAL, RUNS, MATCHES, MORE_MATCHES)
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_WORDS = ("Software", "dtf:edge", "x" * 79)


def run(data: bytes) -> None:
    choices = Choices(data)
    way = choices.number(0, 3)
    if way == 3:
        _refuse(choices)
        return
    dpi = choices.number(1, 5000) / 2 if choices.flag() else None
    pixels = _pixels(choices)
    text: dict[str, str] = {}
    if way == 0:
        written = _by_strips(choices, pixels, dpi)
    else:
        head = png_head(
            width=pixels.shape[1], height=len(pixels), channels=pixels.shape[2], dpi=dpi
        )
        blocks = _by_recipes if way == 1 else _by_pieces
        body = PngBody()
        chunks = [body.chunk(block) for block in blocks(choices, pixels)]
        text = _text(choices)
        written = b"".join((head, *chunks, body.end(text=text)))
    check(written, pixels, dpi=dpi, text=text)


def check(written: bytes, pixels: Pixels, *, dpi: float | None, text: dict[str, str]) -> None:
    """Raises Finding where a file is not a valid PNG of exactly these pixels, density and text."""
    chunks = list(_walk(written))
    _check_order([kind for kind, _ in chunks])
    height, width, channels = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    _expect(chunks[0][1] == head, "the header is another picture's")
    _check_stream(b"".join(held for kind, held in chunks if kind == b"IDAT"), pixels)
    _check_density(dict(chunks).get(b"pHYs"), dpi)
    _check_text([held for kind, held in chunks if kind == b"tEXt"], text)
    _check_decoders(written, pixels, text)


# --- ways to write


def _by_strips(choices: Choices, pixels: Pixels, dpi: float | None) -> bytes:
    compression = (choices.number(0, 1) and Compression.SMALL) or Compression.FAST
    height, width, channels = pixels.shape
    pieces = write_png(
        list(_cut(choices, pixels)),
        width=width,
        height=height,
        channels=channels,
        dpi=dpi,
        compression=compression,
    )
    return b"".join(pieces)


def _by_recipes(choices: Choices, pixels: Pixels) -> Iterator[EncodedBlock]:
    """Each block with any filter and any engine."""
    channels = pixels.shape[2]
    for rows, above in _rows_and_above(choices, pixels):
        before = np.zeros_like(rows[0]) if above is None else above
        recipe = Recipe(
            list(Filter)[choices.number(0, len(Filter) - 1)],
            _ENGINES[choices.number(0, len(_ENGINES) - 1)],
        )
        yield encode_as(Block(rows, before, channels), recipe=recipe)


def _by_pieces(choices: Choices, pixels: Pixels) -> Iterator[EncodedBlock]:
    """As the enlarger does: every strip knows the row above it and nothing else."""
    compression = list(Compression)[choices.number(0, 1)]
    for rows, above in _rows_and_above(choices, pixels):
        yield from encode_rows(rows, channels=pixels.shape[2], above=above, compression=compression)


def _rows_and_above(choices: Choices, pixels: Pixels) -> Iterator[tuple[Pixels, Pixels | None]]:
    above = None
    for strip in _cut(choices, pixels):
        if len(strip):
            rows = np.ascontiguousarray(strip).reshape(len(strip), -1)
            yield rows, above
            above = rows[-1]


def _cut(choices: Choices, pixels: Pixels) -> Iterator[Pixels]:
    """Strips of any heights, some of them empty."""
    top = 0
    while top < len(pixels):
        stop = top + choices.number(0, 9)
        stop = len(pixels) if stop == top else stop
        yield pixels[top:stop]
        top = stop
        if choices.number(0, 15) == 1:
            yield pixels[:0]


def _pixels(choices: Choices) -> Pixels:
    """(height, width, channels): noise, bytes of the input repeated, ramps, or ink amid blank."""
    channels = choices.number(1, 4)
    if choices.number(0, 31) == 1:
        width, height = choices.number(1, _WIDEST), choices.number(1, 3)
    else:
        width = choices.number(1, 300)
        height = choices.number(1, max(1, min(200, _MOST_PIXELS // width)))
    count = height * width * channels
    kind = choices.number(0, 3)
    if kind == 0:
        flat = np.random.default_rng(choices.number(0, 255)).integers(0, 256, count, np.uint8)
    elif kind == 1:
        step = choices.number(0, 255)
        flat = (np.arange(count) * step >> choices.number(0, 7)).astype(np.uint8)
    else:
        tile = choices.take(choices.number(1, 255)) or b"\0"
        flat = np.frombuffer(tile * (count // len(tile) + 1), np.uint8)[:count]
    pixels = flat.reshape(height, width, channels)
    if kind == 3:
        pixels = pixels.copy()
        pixels[:, : choices.number(0, width)] = 0
        pixels[:, width - choices.number(0, width) :] = 0
        pixels[: choices.number(0, height)] = 0
    return pixels


def _text(choices: Choices) -> dict[str, str]:
    said = {}
    for word in _WORDS[: choices.number(0, len(_WORDS))]:
        said[word] = "".join(chr(32 + each % 95) for each in choices.take(choices.number(0, 40)))
    return said


# --- what must be refused, with ValueError and nothing else


def _refuse(choices: Choices) -> None:
    width, height, channels = choices.number(0, 3), choices.number(0, 3), choices.number(0, 5)
    dpi = _DENSITIES[choices.number(0, len(_DENSITIES) - 1)]
    strips = [
        np.zeros((choices.number(0, 3), choices.number(0, 3), choices.number(0, 5)), np.uint8)
        for _ in range(choices.number(0, 3))
    ]
    rows = sum(len(strip) for strip in strips)
    fits = all(strip.shape[1:] == (width, channels) for strip in strips) and rows == height
    right = fits and width and height and 1 <= channels <= 4 and dpi in _POSSIBLE
    try:
        written = b"".join(
            write_png(strips, width=width, height=height, channels=channels, dpi=dpi)
        )
    except ValueError:
        _expect(not right, "a picture without fault was refused")
        return
    _expect(bool(right), "a picture that contradicts its header was written")
    check(written, np.zeros((height, width, channels), np.uint8), dpi=dpi, text={})


_POSSIBLE = (None, 300.0, 0.0254, 50_000_000.0)
_DENSITIES = (*_POSSIBLE, 0.0, -72.0, float("nan"), float("inf"), 1e-3, 1e300)


# --- what a valid file is: PNG third edition, 5


def _walk(written: bytes) -> Iterator[tuple[bytes, bytes]]:
    _expect(written.startswith(SIGNATURE), "no signature")
    at = len(SIGNATURE)
    while at < len(written):
        (length,) = struct.unpack(">I", written[at : at + 4])
        kind, held = written[at + 4 : at + 8], written[at + 8 : at + 8 + length]
        crc = written[at + 8 + length : at + 12 + length]
        _expect(len(held) == length and len(crc) == 4, "a chunk leaves the file")
        _expect(struct.pack(">I", zlib.crc32(kind + held)) == crc, f"{kind!r}: wrong checksum")
        yield kind, held
        at += 12 + length


def _check_order(kinds: list[bytes]) -> None:
    """One header first, one end last, pixels together, text behind them, nothing unknown."""
    rank = {b"IHDR": 0, b"sRGB": 1, b"pHYs": 2, b"IDAT": 3, b"tEXt": 4, b"IEND": 5}
    _expect(set(kinds) <= set(rank), "an unknown chunk")
    _expect([rank[each] for each in kinds] == sorted(rank[each] for each in kinds), "wrong order")
    for once in (b"IHDR", b"sRGB", b"IEND"):
        _expect(kinds.count(once) == 1, f"{once!r} must stand there once")
    _expect(kinds.count(b"pHYs") <= 1, "two densities")
    _expect(b"IDAT" in kinds, "no pixels")


def _check_stream(stream: bytes, pixels: Pixels) -> None:
    """A zlib stream (its Adler-32 is compared by zlib) of just the filtered rows."""
    unpacker = zlib.decompressobj()
    rows = unpacker.decompress(stream)
    height, width, channels = pixels.shape
    row_bytes = 1 + width * channels
    _expect(unpacker.eof and not unpacker.unused_data, "the stream does not end where it should")
    _expect(len(rows) == height * row_bytes, "the stream has other rows")
    _expect(set(rows[::row_bytes]) <= set(range(5)), "an unknown filter")


def _check_density(held: bytes | None, dpi: float | None) -> None:
    if dpi is None:
        _expect(held is None, "a density that nobody gave")
        return
    across, down, unit = struct.unpack(">IIB", held or bytes(9))
    _expect(across == down and unit == 1, "the density is not per metre")
    _expect(abs(across - dpi / 0.0254) <= 0.5, "another density")


def _check_text(held: list[bytes], text: dict[str, str]) -> None:
    wanted = [f"{word}\0{value}".encode("ascii") for word, value in text.items()]
    _expect(held == wanted, "another text")


def _check_decoders(written: bytes, pixels: Pixels, text: dict[str, str]) -> None:
    with Image.open(io.BytesIO(written)) as picture:
        _expect(picture.mode == _MODES[pixels.shape[2]], f"Pillow reads {picture.mode}")
        read = np.asarray(picture).reshape(pixels.shape)
    _expect(np.array_equal(read, pixels), "Pillow reads other pixels")
    with tempfile.NamedTemporaryFile() as file:
        file.write(written)
        file.flush()
        _check_libvips(file.name, pixels)
        for word, value in text.items():
            _expect(text_behind(Path(file.name), word) == value, "the text is not found again")


def _check_libvips(path: str, pixels: Pixels) -> None:
    image = pyvips.Image.pngload(path, fail_on="warning")
    _expect(image.format == "uchar", f"libvips reads {image.format}")
    shape = (image.height, image.width, image.bands)
    _expect(shape == pixels.shape, f"libvips reads {shape}")
    held = np.frombuffer(image.write_to_memory(), np.uint8).reshape(shape)
    _expect(np.array_equal(held, pixels), "libvips reads other pixels")


def _expect(holds: bool, fault: str) -> None:  # noqa: FBT001  # a condition is the first argument
    if not holds:
        raise Finding(fault)


def seeds() -> Iterator[bytes]:
    """Each way with each filter, engine and kind of pixels."""
    rng = np.random.default_rng(11)
    for way in range(4):
        for kind in range(4):
            for channels in range(4):
                tail = rng.integers(0, 256, 120, np.uint8).tobytes()
                size = bytes((0, 0, 20 + kind, 30))
                yield bytes((way, kind % 2, 1, 44, channels)) + size + bytes((kind,)) + tail
    yield bytes((0, 0, 0, 1, 1, 0xF0, 0, 2, 2, 9)) + bytes(range(90))
    yield bytes((1, 0, 3, 1, 1, 0xFF, 0xFF, 2, 3, 60)) + bytes(range(90))


TARGET = Target(run, seeds, longest=2048, at_once=30_000)
