"""What a print has of thin lines, narrow gaps and specks. Pure.

Lengths go in and come out in pixels at 300 dpi, whatever the plane they are measured on has.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.images import Pixels
from services.edge_modes import GHOST, HALF
from services.print_masks import Mask, outline_of, spread
from services.print_plane import Block, Plane

ENOUGH_ISLANDS = 10_000
"""Specks from which on nobody wants to know how many there are."""

_SQUARE = np.ones((3, 3), np.bool_)
_LINE_LENGTHS = 3  # times its limit that a line is long at least; shorter ones are dots and tips
_SLIVER = 0.45  # of the limit's half: what a disc leaves of a right-angled corner
_OPEN = 175  # of 255 that a gap is clear on average; less is a veil


@dataclass(slots=True)
class Structure:
    """The thinnest line and gap below the limits asked for, in pixels at 300 dpi; None: none.

    `line_length` and `gap_length` are what there is of them together.
    """

    line: float | None = None
    line_length: float = 0
    gap: float | None = None
    gap_length: float = 0
    islands: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Below what width, or diameter, something is of interest; pixels at 300 dpi."""

    line: float
    gap: float
    island: float


@dataclass(slots=True)
class _Thin:
    """Thin parts as they are found: (width, length) in the plane's pixels."""

    parts: list[tuple[float, float]] = field(default_factory=list)

    def thinnest(self, below: float) -> float | None:
        return min((width for width, _ in self.parts if width < below), default=None)

    def length(self, below: float) -> float:
        return sum(length for width, length in self.parts if width < below)


class StructureMeter:
    """Collects lines, gaps and specks from all blocks of a plane.

    `px` is pixels at 300 dpi for one of the plane's.
    """

    def __init__(self, plane: Plane, *, px: float, wanted: Wanted) -> None:
        self._px = px
        # an enlargement's edges are wide, and their middle is where it should be
        self._by_cover = plane.scale <= 1
        self._line, self._gap = wanted.line / px, wanted.gap / px
        self._island = wanted.island / px
        self._lines, self._gaps = _Thin(), _Thin()
        self._islands = 0

    def see(self, block: Block) -> None:
        alpha, inner = block.alpha, block.inner
        if alpha is None:
            return
        line = _Shape(alpha >= HALF, alpha, inner, by_cover=self._by_cover)
        gap = _Shape(alpha < HALF, ~alpha, inner, by_cover=self._by_cover)
        self._lines.parts += _thin_parts(line, self._line)
        self._gaps.parts += _thin_parts(gap, self._gap, least_cover=_OPEN)
        if self._islands < ENOUGH_ISLANDS:
            self._islands += _islands(alpha, self._island, inner)

    def structure(self) -> Structure:
        line, gap = self._lines.thinnest(self._line), self._gaps.thinnest(self._gap)
        return Structure(
            line=None if line is None else line * self._px,
            line_length=self._lines.length(self._line) * self._px,
            gap=None if gap is None else gap * self._px,
            gap_length=self._gaps.length(self._gap) * self._px,
            islands=self._islands,
        )


@dataclass(frozen=True, slots=True)
class _Shape:
    """Solid parts of a block, or clear ones, and by how much each pixel is covered by such.

    `by_cover` says that areas are sums of it: a line between two rows of pixels half covers both.
    """

    mask: Mask
    cover: Pixels
    inner: tuple[slice, slice]
    by_cover: bool

    def areas(self, named: NDArray[np.int32], count: int) -> NDArray[np.float64]:
        """Of each named part, in pixels; what is partly covered beside it is its own."""
        if self.by_cover:
            beside = _beside(named)
            beside[self.mask & (named == 0)] = 0  # something thick that it touches
            return np.bincount(beside.ravel(), self.cover.ravel(), count + 1) / 255
        return np.bincount(named.ravel(), minlength=count + 1).astype(np.float64)


def _beside(named: NDArray[np.int32]) -> NDArray[np.int32]:
    """The parts one pixel larger all around; where two meet, the later one's."""
    down = named.copy()
    np.maximum(down[1:], named[:-1], out=down[1:])
    np.maximum(down[:-1], named[1:], out=down[:-1])
    across = down.copy()
    np.maximum(across[:, 1:], down[:, :-1], out=across[:, 1:])
    np.maximum(across[:, :-1], down[:, 1:], out=across[:, :-1])
    return np.where(named > 0, named, across)


def _thin_parts(
    shape: _Shape, limit: float, *, least_cover: float = 0
) -> list[tuple[float, float]]:
    """(width, length) of what a disc of the limit's width does not fit into, and is long.

    A disc also leaves slivers in the corners of what is thick: those lie close to where it fits.
    """
    mask, inner, radius = shape.mask, shape.inner, limit / 2
    fits = spread(~spread(~mask, radius), radius)
    left = mask & ~fits
    if not left[inner].any():
        return []
    seeds = left & ~spread(fits, max(1.0, _SLIVER * radius))
    if not seeds[inner].any():
        return []
    named, count = ndimage.label(left, _SQUARE)
    covers = np.bincount(named.ravel(), shape.cover.ravel(), count + 1)
    enough = covers >= least_cover * np.bincount(named.ravel(), minlength=count + 1)
    seeded = np.zeros(count + 1, np.bool_)
    seeded[named[seeds]] = True
    return list(_long_parts(shape, named, np.flatnonzero(seeded & enough), limit))


def _long_parts(
    shape: _Shape, named: NDArray[np.int32], parts: NDArray[np.intp], limit: float
) -> Iterator[tuple[float, float]]:
    """Width is twice the area by the outline's length; the length told is that of the block."""
    count = int(named.max())
    areas, outlines = shape.areas(named, count), outline_of(shape.mask)
    lengths = np.bincount(named.ravel(), outlines.ravel(), count + 1) / 2
    own = np.bincount(
        named[shape.inner].ravel(), outlines[shape.inner].ravel(), minlength=count + 1
    )
    for part in parts[(own[parts] > 0) & (lengths[parts] >= _LINE_LENGTHS * limit)]:
        yield float(areas[part] / lengths[part]), float(own[part] / 2)


def _islands(alpha: Pixels, diameter: float, inner: tuple[slice, slice]) -> int:
    """Parts that fit into a square of less than `diameter`; each counts where its middle lies.

    Where something fades out single pixels are a level above the others: those are no specks.
    """
    named, _ = ndimage.label(alpha > GHOST, _SQUARE)
    if np.bincount(named.ravel())[1:].min(initial=alpha.size) >= diameter * diameter:
        return 0
    return sum(
        int(alpha[place].max()) > 2 * GHOST
        for place in ndimage.find_objects(named)
        if _is_speck(place, diameter, inner, alpha.shape)
    )


def _is_speck(
    place: tuple[slice, slice],
    diameter: float,
    inner: tuple[slice, slice],
    shape: tuple[int, ...],
) -> bool:
    for span, own, size in zip(place, inner, shape, strict=True):
        middle = (span.start + span.stop - 1) // 2
        at_rim = span.start == 0 or span.stop == size
        if span.stop - span.start >= diameter or at_rim or not own.start <= middle < own.stop:
            return False
    return True
