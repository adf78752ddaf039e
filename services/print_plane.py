"""The alpha of a print as it will be, block by block: the print itself is never made.

A plane has so many pixels for one of the source. Blocks of it are drawn from the source's alpha the
way an enlargement is (services/ringing.py): Lanczos, kept between the source's neighbours, and the
edge that was asked for. Blocks where nothing changes are not drawn but counted; in most artwork
that is four of five. A reduction is drawn by a kernel that does not ring. Around every picture
there is nothing: its frame is an edge of the print.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from models.images import Edge, Pixels
from services.edge_modes import GHOST, HALF, SOLID

BLOCK = 256  # pixels of the plane a side: its masks stay in a core's cache
MARGIN = 16
"""Pixels of the plane around a block that are drawn as well, so that it sees its neighbours."""

_SIMD = PIL.__version__.endswith(".post0")
_KERNEL_REACH = 4  # source pixels, or pixels of the plane where those are larger


def edge_table(edge: Edge) -> Pixels | None:
    """What becomes of each alpha, (256,) uint8; None where nothing does."""
    return _TABLES.get(edge)


def _tables() -> Mapping[str, Pixels]:
    alpha = np.arange(256, dtype=np.uint8)
    hard = np.where(alpha >= HALF, 255, 0).astype(np.uint8)
    snapped = np.where(alpha <= GHOST, 0, np.where(alpha >= SOLID, 255, alpha)).astype(np.uint8)
    # a halftone's dots are hard; what they cover on average is what it looks like
    return {"print": snapped, "hard": hard, "halftone": hard}


_TABLES = _tables()


@dataclass(frozen=True, slots=True)
class Block:
    """A square of the plane, at the right and the bottom less than one.

    `alpha` is (height + 2 MARGIN, width + 2 MARGIN), or None where all of the inner part and what
    is around it has the one `value`.
    """

    height: int
    width: int
    value: int
    alpha: Pixels | None

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def inner(self) -> tuple[slice, slice]:
        """The block itself within `alpha`."""
        return slice(MARGIN, MARGIN + self.height), slice(MARGIN, MARGIN + self.width)


@dataclass(frozen=True)
class Plane:
    """`source` is (height, width) alpha; `scale` is pixels of the plane for one of its pixels."""

    source: Pixels
    scale: float
    table: Pixels | None = None

    @cached_property
    def shape(self) -> tuple[int, int]:
        height, width = self.source.shape
        return max(1, round(height * self.scale)), max(1, round(width * self.scale))

    @property
    def pixels(self) -> int:
        return self.shape[0] * self.shape[1]

    @cached_property
    def varying(self) -> NDArray[np.bool_]:
        """Which blocks, (down, across), hold more than one value, or next to one that differs."""
        lowest, highest = self._extremes
        changing = np.zeros(lowest.shape, np.bool_)
        for row, column in np.argwhere(_around(lowest, np.minimum) != _around(highest, np.maximum)):
            seen = self.source[self._source_rows(row), self._source_columns(column)]
            changing[row, column] = seen.min() != seen.max() or self._at_frame(row, column, seen)
        return changing

    def blocks(self, *, most: int | None = None) -> Iterator[Block]:
        """All blocks that do not change, and at most so many of those that do, drawn. Blocks."""
        lowest, _ = self._extremes
        met, changing = 0, int(np.count_nonzero(self.varying))
        for row, column in np.ndindex(self.varying.shape):
            height, width = self._size(row, 0), self._size(column, 1)
            if not self.varying[row, column]:
                value = int(lowest[row, column])
                value = value if self.table is None else int(self.table[value])
                yield Block(height, width, value, None)
            else:
                if is_sampled(met, most or changing, of=changing):
                    yield Block(height, width, 0, self._drawn(row, column))
                met += 1

    @cached_property
    def _extremes(self) -> tuple[Pixels, Pixels]:
        """The least and the greatest source alpha under each block."""
        tops, lefts = (self._starts(axis) for axis in (0, 1))
        return _reduced(np.minimum, self.source, tops, lefts), _reduced(
            np.maximum, self.source, tops, lefts
        )

    def _starts(self, axis: int) -> list[int]:
        count, size = -(-self.shape[axis] // BLOCK), self.source.shape[axis]
        return [min(size - 1, self._to_source(each * BLOCK, axis)) for each in range(count)]

    def _to_source(self, place: float, axis: int) -> int:
        return int(place * self.source.shape[axis] / self.shape[axis])

    def _size(self, index: int, axis: int) -> int:
        return min(BLOCK, self.shape[axis] - index * BLOCK)

    def _at_frame(self, row: int, column: int, seen: Pixels) -> bool:
        """Whether a block that is not clear stands at the frame, beyond which all is clear."""
        down, across = self._extremes[0].shape
        return bool(seen.flat[0]) and (row in (0, down - 1) or column in (0, across - 1))

    def _source_rows(self, index: int) -> slice:
        return self._source_span(index, 0)

    def _source_columns(self, index: int) -> slice:
        return self._source_span(index, 1)

    def _source_span(self, index: int, axis: int) -> slice:
        """The source pixels that a block, its margin and the kernel see."""
        start, stop = self._span(index, axis)
        reach = math.ceil(_KERNEL_REACH * max(1.0, 1 / self.scale))
        first = self._to_source(start, axis) - reach
        last = self._to_source(stop, axis) + 1 + reach
        return slice(max(0, first), min(self.source.shape[axis], last))

    def _span(self, index: int, axis: int) -> tuple[int, int]:
        """The block with its margin in pixels of the plane, within the picture."""
        start = max(0, index * BLOCK - MARGIN)
        return start, min(self.shape[axis], index * BLOCK + self._size(index, axis) + MARGIN)

    def _drawn(self, row: int, column: int) -> Pixels:
        """The block with its margin; beyond the picture all is clear."""
        rows, columns = self._source_rows(row), self._source_columns(column)
        (top, bottom), (left, right) = self._span(row, 0), self._span(column, 1)
        seen = np.ascontiguousarray(self.source[rows, columns])
        if self.shape != self.source.shape:
            down = (top, bottom, self.source.shape[0] / self.shape[0], rows.start)
            across = (left, right, self.source.shape[1] / self.shape[1], columns.start)
            seen = _resized(seen, down, across)
        else:
            seen = seen[top - rows.start : bottom - rows.start]
            seen = seen[:, left - columns.start : right - columns.start]
        if self.table is not None:
            seen = self.table[seen]
        above, before = MARGIN - (row * BLOCK - top), MARGIN - (column * BLOCK - left)
        padded = np.zeros(
            (self._size(row, 0) + 2 * MARGIN, self._size(column, 1) + 2 * MARGIN), np.uint8
        )
        padded[above : above + seen.shape[0], before : before + seen.shape[1]] = seen
        return padded


def is_sampled(index: int, most: int, *, of: int) -> bool:
    """Whether one of so many belongs to an even sample of at most so many."""
    return most >= of or (index + 1) * most // of > index * most // of


_Axis = tuple[int, int, float, int]  # plane from, to, source pixels for one, first source pixel


def _resized(seen: Pixels, down: _Axis, across: _Axis) -> Pixels:
    """The part of the plane out of the source pixels around it, without ringing."""
    (top, bottom, tall, first_row), (left, right, wide, first_column) = down, across
    box = (
        left * wide - first_column,
        top * tall - first_row,
        right * wide - first_column,
        bottom * tall - first_row,
    )
    enlarges = max(tall, wide) < 1
    kernel = Image.Resampling.LANCZOS if enlarges else Image.Resampling.HAMMING
    drawn = _resampled(Image.fromarray(seen), (right - left, bottom - top), kernel, box)
    if not enlarges:
        return drawn
    y = ((np.arange(top, bottom) + 0.5) * tall).astype(np.intp) - first_row
    x = ((np.arange(left, right) + 0.5) * wide).astype(np.intp) - first_column
    lowest, highest = _around(seen, np.minimum), _around(seen, np.maximum)
    return np.asarray(np.minimum(np.maximum(drawn, lowest[y][:, x]), highest[y][:, x]))


def _resampled(
    plane: Image.Image,
    size: tuple[int, int],
    kernel: Image.Resampling,
    box: tuple[float, float, float, float],
) -> Pixels:
    """As `resize`, the same to the bit; with Pillow-SIMD by the channels that it is fast with."""
    if not _SIMD:
        return np.asarray(plane.resize(size, kernel, box))
    return np.asarray(Image.merge("CMYK", [plane] * 4).resize(size, kernel, box).getchannel(0))


def _around(values: Pixels, pick: np.ufunc) -> Pixels:
    """The least or greatest of the 3x3 around each; beyond the rim there is nothing."""
    found = values.copy()
    pick(found[1:], values[:-1], out=found[1:])
    pick(found[:-1], values[1:], out=found[:-1])
    across = found.copy()
    pick(across[:, 1:], found[:, :-1], out=across[:, 1:])
    pick(across[:, :-1], found[:, 1:], out=across[:, :-1])
    return across


def _reduced(pick: np.ufunc, values: Pixels, tops: list[int], lefts: list[int]) -> Pixels:
    """What `pick` makes of the values from each top and left to the next; (tops, lefts)."""
    ends = [*tops[1:], values.shape[0]]
    rows = [pick.reduce(values[a : max(b, a + 1)], axis=0) for a, b in zip(tops, ends, strict=True)]
    return np.asarray(pick.reduceat(np.stack(rows), lefts, axis=1), np.uint8)
