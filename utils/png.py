"""Writes 8-bit PNGs from strips of rows, many times faster than Pillow at about its size.

The rows are regrouped into blocks of about a megabyte. Each block gets the filter and the deflate
engine that a sample of its rows says is worth its time, and is deflated on its own (raw, ended by
a full flush), so blocks may be encoded in any order and on any thread: all that ties them together
is the row above, the order of the pieces and the Adler-32, which is combined from the blocks' own.

Why these engines: ISA-L is the fastest and suits photographs and rows that repeat. It is poor on
the residual of enlarged artwork, where zlib-ng's run-length strategy (distance-1 matches and
Huffman codes only) beats zlib's default level, because far matches cost more there than literals.
zlib-ng's matching levels are for artwork whose rows resemble each other without being equal.

Format: https://www.w3.org/TR/png-3/ and RFC 1950, 1951.
"""

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, TypeAlias

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from zlib_ng import zlib_ng

Bytes: TypeAlias = NDArray[np.uint8]


class Compression(StrEnum):
    """What the time of the encoder is worth."""

    FAST = "fast"
    SMALL = "small"


class Filter(IntEnum):
    """PNG filter types that pay here. Average never won a block; it is left out."""

    NONE = 0
    SUB = 1
    UP = 2
    PAETH = 4


class Deflater(Protocol):
    def compress(self, _data: Bytes, /) -> bytes: ...
    def flush(self, _mode: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """A way to deflate; its time is about linear in the bytes going in and those coming out."""

    start: Callable[[], Deflater]
    ns_per_byte_in: float
    ns_per_byte_out: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one block is encoded."""

    filter: Filter
    engine: Engine


@dataclass(frozen=True, slots=True)
class Plan:
    """What a compression tries, in order, on one in so many rows.

    `bytes_per_ns` is what time is worth: 0.008 is what a line of 64 Mbit/s sends meanwhile.
    """

    recipes: tuple[Recipe, ...]
    bytes_per_ns: float
    sampled_one_in: int


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows, (n, width * channels), and the row above them, (width * channels,)."""

    rows: Bytes
    above: Bytes
    channels: int


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """A block's part of the deflate stream; `adler` and `length` are of its filtered bytes."""

    deflated: bytes
    adler: int
    length: int


_RAW = -15  # wbits: 32 KB window, no header
_MEM = 9  # tokens per Huffman table; measured best or equal on every picture
_RLE = 3  # Z_RLE, which zlib_ng takes but does not name

ISAL = Engine(lambda: isal_zlib.compressobj(1, isal_zlib.DEFLATED, _RAW, _MEM), 0.12, 4.8)
RUNS = Engine(lambda: zlib_ng.compressobj(3, zlib_ng.DEFLATED, _RAW, _MEM, _RLE), 0.49, 7.5)
MATCHES = Engine(lambda: zlib_ng.compressobj(4, zlib_ng.DEFLATED, _RAW, _MEM), 0.35, 24.0)
MORE_MATCHES = Engine(lambda: zlib_ng.compressobj(6, zlib_ng.DEFLATED, _RAW, _MEM), 0.7, 32.0)

_FILTER_NS_PER_BYTE = {Filter.NONE: 0.03, Filter.SUB: 0.08, Filter.UP: 0.08, Filter.PAETH: 0.6}

PLANS = {
    Compression.FAST: Plan(
        recipes=(
            Recipe(Filter.NONE, ISAL),
            Recipe(Filter.UP, ISAL),
            Recipe(Filter.PAETH, ISAL),
            Recipe(Filter.UP, RUNS),
            Recipe(Filter.PAETH, RUNS),
            Recipe(Filter.SUB, MATCHES),
            Recipe(Filter.UP, MATCHES),
        ),
        bytes_per_ns=0.008,
        sampled_one_in=64,
    ),
    Compression.SMALL: Plan(
        recipes=(
            Recipe(Filter.NONE, ISAL),
            *(Recipe(kind, RUNS) for kind in Filter),
            *(Recipe(kind, MORE_MATCHES) for kind in Filter),
        ),
        bytes_per_ns=0.001,
        sampled_one_in=16,
    ),
}

_BLOCK_BYTES = 1 << 20
_SAMPLE_GROUPS = 3
_SAMPLE_ROW_BYTES = 1 << 14
_CACHED_BYTES = 3 << 16  # rows filtered at once, so that the temporaries stay in the L2 cache

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_ZLIB_HEADER = b"\x78\x01"
_LAST_BLOCK = b"\x03\x00"  # an empty deflate block marked final
_ADLER_BASE = 65521
_MAX_UINT31 = (1 << 31) - 1
_METRES_PER_INCH = 0.0254
_NO_TEXT: Mapping[str, str] = MappingProxyType({})
_TAIL_BYTES = 4096


def write_png(  # noqa: PLR0913 - three are the header, all but one are keywords
    strips: Iterable[Bytes],
    *,
    width: int,
    height: int,
    channels: int,
    dpi: float | None = None,
    compression: Compression = Compression.FAST,
) -> Iterator[bytes]:
    """The bytes of a PNG, piece by piece; memory depends on the strips, not on `height`.

    `strips` are (rows, width, channels) uint8 of any heights that add up to `height`; channels is
    1 grey, 2 grey and alpha, 3 RGB, 4 RGBA, alpha straight, colours sRGB. The pieces are the same
    however the rows were cut. A strip must not change after it was handed over.

    Raises:
        ValueError: at once for an impossible header; from the iterator for a strip that does not
            fit it or for too many or too few rows.
    """
    head = png_head(width=width, height=height, channels=channels, dpi=dpi)
    rows = _checked_rows(strips, width=width, height=height, channels=channels)
    encoded = (
        encode_block(b, compression=compression) for b in cut_blocks(rows, channels=channels)
    )
    return chain([head], join_blocks(encoded))


def encode_png(
    pixels: Bytes,
    *,
    dpi: float | None = None,
    compression: Compression = Compression.FAST,
) -> bytes:
    """A whole picture, (height, width) or (height, width, channels), as one PNG."""
    if pixels.ndim not in {2, 3}:
        raise ValueError(f"pixels must be (height, width[, channels]), not {pixels.shape}")
    height, width, channels = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    strip = pixels.reshape(height, width, channels)
    return b"".join(
        write_png(
            [strip],
            width=width,
            height=height,
            channels=channels,
            dpi=dpi,
            compression=compression,
        )
    )


def rgba_strips(rgb: Bytes, alpha: Bytes, *, rows: int = 64) -> Iterator[Bytes]:
    """Strips of `rows` RGBA rows out of (height, width, 3) and (height, width), one at a time."""
    if rgb.shape != (*alpha.shape, 3) or rgb.dtype != np.uint8 or alpha.dtype != np.uint8:
        raise ValueError(f"rgb {rgb.shape} {rgb.dtype} and alpha {alpha.shape} do not match")
    if rows < 1:
        raise ValueError(f"rows must be at least 1, not {rows}")
    return (
        _interleave(rgb[top : top + rows], alpha[top : top + rows])
        for top in range(0, len(rgb), rows)
    )


def cut_blocks(
    rows: Iterable[Bytes], *, channels: int, above: Bytes | None = None
) -> Iterator[Block]:
    """The same rows, (n, width * channels) each, regrouped into blocks of one size.

    `above` is the row before the first, (width * channels,), None at the picture's top.
    """
    for taken in _regroup(rows):
        yield Block(taken, np.zeros_like(taken[0]) if above is None else above, channels)
        above = taken[-1].copy()


def encode_block(block: Block, *, compression: Compression = Compression.FAST) -> EncodedBlock:
    """One block filtered and deflated; depends on nothing else, so any thread may do it."""
    return encode_as(block, recipe=choose_recipe(block, compression=compression))


def encode_rows(
    rows: Bytes, *, channels: int, above: Bytes | None, compression: Compression
) -> list[EncodedBlock]:
    """Rows (n, width * channels) that go together, by one recipe, in blocks of a megabyte.

    `above` is the row before them, None at the picture's top.
    """
    whole = Block(rows, np.zeros_like(rows[0]) if above is None else above, channels)
    recipe = choose_recipe(whole, compression=compression)
    blocks = cut_blocks([rows], channels=channels, above=above)
    return [encode_as(block, recipe=recipe) for block in blocks]


def encode_as(block: Block, *, recipe: Recipe) -> EncodedBlock:
    filtered = apply_filter(block, kind=recipe.filter)
    deflated = deflate([filtered], engine=recipe.engine)
    return EncodedBlock(deflated, zlib_ng.adler32(filtered), filtered.size)


def join_blocks(blocks: Iterable[EncodedBlock]) -> Iterator[bytes]:
    """One IDAT chunk a block, in order, and what ends the zlib stream and the file."""
    body = PngBody()
    for block in blocks:
        yield body.chunk(block)
    yield body.end()


class PngBody:
    """What follows a PNG's head, as its blocks come in: chunks in order, then `end`."""

    def __init__(self) -> None:
        self._prefix = _ZLIB_HEADER
        self._adler = 1

    def chunk(self, block: EncodedBlock) -> bytes:
        prefix, self._prefix = self._prefix, b""
        self._adler = _combine_adler(self._adler, block)
        return _chunk(b"IDAT", prefix + block.deflated)

    def end(self, *, text: Mapping[str, str] = _NO_TEXT) -> bytes:
        """`text` (keywords of 1 to 79 ASCII characters, ASCII values) follows the pixels."""
        said = (_chunk(b"tEXt", f"{word}\0{value}".encode("ascii")) for word, value in text.items())
        last = _chunk(b"IDAT", _LAST_BLOCK + struct.pack(">I", self._adler))
        return b"".join((last, *said, _chunk(b"IEND", b"")))


def text_behind(path: Path, word: str) -> str | None:
    """What PngBody.end wrote under that keyword; None where it is not there. Blocks."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        tail = file.read()
    at = tail.rfind(b"tEXt" + word.encode("ascii") + b"\0")
    if at < 4:
        return None
    (length,) = struct.unpack(">I", tail[at - 4 : at])
    return tail[at + 4 : at + 4 + length].partition(b"\0")[2].decode("ascii")


def choose_recipe(block: Block, *, compression: Compression) -> Recipe:
    """The cheapest recipe for a sample of the block, counting bytes and what the time is worth."""
    plan = PLANS[compression]
    sample = _sample(block, one_in=plan.sampled_one_in)
    size = sum(part.rows.size for part in sample)
    filtered: dict[Filter, list[Bytes]] = {}
    chosen, lowest = plan.recipes[0], math.inf
    for recipe in plan.recipes:
        if _price(recipe, size_in=size, size_out=0, bytes_per_ns=plan.bytes_per_ns) >= lowest:
            continue
        if recipe.filter not in filtered:
            filtered[recipe.filter] = [apply_filter(part, kind=recipe.filter) for part in sample]
        size_out = len(deflate(filtered[recipe.filter], engine=recipe.engine))
        price = _price(recipe, size_in=size, size_out=size_out, bytes_per_ns=plan.bytes_per_ns)
        if price < lowest:
            chosen, lowest = recipe, price
    return chosen


def apply_filter(block: Block, *, kind: Filter) -> Bytes:
    """The block's rows, each behind its filter type: (n, 1 + width * channels)."""
    filtered = np.empty((len(block.rows), block.rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = kind
    _FILTERS[kind](block, filtered[:, 1:])
    return filtered


def deflate(parts: Sequence[Bytes], *, engine: Engine) -> bytes:
    """A raw deflate stream of the parts in a row, ended by a full flush, not by a final block."""
    deflater = engine.start()
    pieces = [deflater.compress(part) for part in parts]
    return b"".join((*pieces, deflater.flush(zlib_ng.Z_FULL_FLUSH)))


def _keep(block: Block, out: Bytes) -> None:
    out[:] = block.rows


def _subtract_left(block: Block, out: Bytes) -> None:
    step = block.channels
    out[:, :step] = block.rows[:, :step]
    np.subtract(block.rows[:, step:], block.rows[:, :-step], out=out[:, step:])


def _subtract_above(block: Block, out: Bytes) -> None:
    np.subtract(block.rows[0], block.above, out=out[0])
    np.subtract(block.rows[1:], block.rows[:-1], out=out[1:])


def _subtract_paeth(block: Block, out: Bytes) -> None:
    n = max(1, _CACHED_BYTES // block.rows.shape[1])
    for top in range(0, len(block.rows), n):
        rows = block.rows[top : top + n]
        above = np.empty_like(rows)
        above[0] = block.rows[top - 1] if top else block.above
        above[1:] = rows[:-1]
        _subtract_paeth_inked(rows, above=above, step=block.channels, out=out[top : top + n])


def _subtract_paeth_inked(rows: Bytes, *, above: Bytes, step: int, out: Bytes) -> None:
    """The Paeth residual; the blank columns left and right of the artwork cost nothing."""
    first, last = _inked_span(np.bitwise_or.reduce(rows, axis=0) | above[0], step=step)
    out[:, :first] = 0
    out[:, last:] = 0
    edge = min(first + step, last)
    np.subtract(rows[:, first:edge], above[:, first:edge], out=out[:, first:edge])
    for start in range(edge, last, _CACHED_BYTES):
        stop = min(start + _CACHED_BYTES, last)
        here, there = slice(start, stop), slice(start - step, stop - step)
        predicted = _predict_paeth(left=rows[:, there], up=above[:, here], corner=above[:, there])
        np.subtract(rows[:, here], predicted, out=out[:, here])


def _inked_span(columns: Bytes, *, step: int) -> tuple[int, int]:
    """Outside of this range every residual is 0; the pixel after the last ink has one."""
    inked = columns != 0
    if not inked.any():
        return 0, 0
    return int(inked.argmax()), min(len(inked), len(inked) - int(inked[::-1].argmax()) + step)


def _predict_paeth(*, left: Bytes, up: Bytes, corner: Bytes) -> Bytes:
    """Whichever of the three is nearest to left + up - corner, in bytes throughout.

    With the corner clamped between the other two, that sum lies `to_high` above the lower and
    `to_low` below the higher. So the lower is nearest if twice `to_high` is at most `to_low`,
    which is if it is at most a third of the two together; likewise the higher. Both are so only
    where left equals up.
    """
    low, high = np.minimum(left, up), np.maximum(left, up)
    nearest = np.minimum(np.maximum(corner, low), high)
    third = (high - low) // 3
    to_low, to_high = nearest - low, high - nearest
    nearest += to_high * (to_low <= third).view(np.uint8)
    nearest -= to_low * (to_high <= third).view(np.uint8)
    return nearest


_FILTERS: dict[Filter, Callable[[Block, Bytes], None]] = {
    Filter.NONE: _keep,
    Filter.SUB: _subtract_left,
    Filter.UP: _subtract_above,
    Filter.PAETH: _subtract_paeth,
}


def _sample(block: Block, *, one_in: int) -> list[Block]:
    """A few groups of consecutive rows from top left to bottom right; few rows are taken whole.

    Of wide rows, of which a block has few, only a stretch is taken.
    """
    count, size = block.rows.shape
    n = max(1, count // (_SAMPLE_GROUPS * one_in))
    stretch = min(size, _SAMPLE_ROW_BYTES // block.channels * block.channels)
    if count <= n * _SAMPLE_GROUPS and stretch == size:
        return [block]
    places = ((2 * i + 1) / (2 * _SAMPLE_GROUPS) for i in range(_SAMPLE_GROUPS))
    return [_part(block, place=place, n=n, stretch=stretch) for place in places]


def _part(block: Block, *, place: float, n: int, stretch: int) -> Block:
    """`n` rows of `stretch` bytes, `place` of the way (0 to 1) down and to the right."""
    count, size = block.rows.shape
    top = min(int(place * count), count - n)
    left = int(place * (size - stretch)) // block.channels * block.channels
    columns = slice(left, left + stretch)
    above = block.rows[top - 1] if top else block.above
    return Block(block.rows[top : top + n, columns], above[columns], block.channels)


def _price(recipe: Recipe, *, size_in: int, size_out: int, bytes_per_ns: float) -> float:
    """Bytes written, and bytes that could have been sent in the time it takes."""
    ns_in = _FILTER_NS_PER_BYTE[recipe.filter] + recipe.engine.ns_per_byte_in
    ns = ns_in * size_in + recipe.engine.ns_per_byte_out * size_out
    return size_out + bytes_per_ns * ns


def _combine_adler(adler: int, block: EncodedBlock) -> int:
    """The Adler-32 of a stream grown by a block, from both sums (zlib's adler32_combine)."""
    low = (adler & 0xFFFF) + (block.adler & 0xFFFF) - 1
    high = (adler >> 16) + (block.adler >> 16) + block.length * ((adler & 0xFFFF) - 1)
    return high % _ADLER_BASE << 16 | low % _ADLER_BASE


def _regroup(strips: Iterable[Bytes]) -> Iterator[Bytes]:
    waiting: list[Bytes] = []
    count = 0
    for strip in strips:
        rows = strip
        n = max(1, _BLOCK_BYTES // rows.shape[1])
        while count + len(rows) >= n:
            yield _stack([*waiting, rows[: n - count]])
            rows, waiting, count = rows[n - count :], [], 0
        if len(rows):
            waiting.append(rows.copy())
            count += len(rows)
    if waiting:
        yield _stack(waiting)


def _stack(parts: list[Bytes]) -> Bytes:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _checked_rows(
    strips: Iterable[Bytes], *, width: int, height: int, channels: int
) -> Iterator[Bytes]:
    """The strips as (n, width * channels), refused as soon as one does not fit the header."""
    missing = height
    for strip in strips:
        if strip.dtype != np.uint8 or strip.ndim != 3 or strip.shape[1:] != (width, channels):
            wanted = f"(rows, {width}, {channels}) uint8"
            raise ValueError(f"a strip must be {wanted}, not {strip.shape} {strip.dtype}")
        missing -= len(strip)
        if missing < 0:
            raise ValueError(f"the strips have more than {height} rows")
        yield np.ascontiguousarray(strip).reshape(-1, width * channels)
    if missing:
        raise ValueError(f"the strips have {missing} of {height} rows too few")


def png_head(*, width: int, height: int, channels: int, dpi: float | None = None) -> bytes:
    """Signature, IHDR, sRGB and, with `dpi`, pHYs. Raises ValueError for an impossible header."""
    if not (1 <= width <= _MAX_UINT31 and 1 <= height <= _MAX_UINT31):
        raise ValueError(f"a PNG cannot be {width} x {height}")
    if channels not in _COLOUR_TYPES:
        raise ValueError(f"channels must be 1, 2, 3 or 4, not {channels}")
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    perceptual = b"\x00"
    density = b"" if dpi is None else _chunk(b"pHYs", _density(dpi))
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"sRGB", perceptual) + density


def _density(dpi: float) -> bytes:
    if not (math.isfinite(dpi) and 1 <= dpi / _METRES_PER_INCH <= _MAX_UINT31):
        raise ValueError(f"dpi cannot be {dpi}")
    per_metre = round(dpi / _METRES_PER_INCH)
    return struct.pack(">IIB", per_metre, per_metre, 1)


def _chunk(kind: bytes, payload: bytes) -> bytes:
    crc = isal_zlib.crc32(payload, isal_zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(payload)), kind, payload, struct.pack(">I", crc)))


def _interleave(rgb: Bytes, alpha: Bytes) -> Bytes:
    """RGBA, plane by plane: three times as fast as numpy.dstack."""
    rgba = np.empty((*alpha.shape, 4), np.uint8)
    for i in range(3):
        rgba[..., i] = rgb[..., i]
    rgba[..., 3] = alpha
    return rgba
