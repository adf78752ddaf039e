"""Takes islands out of a picture that are too small to print, row by row as the picture is read.

An island is a connected part (also over corners) of what a mode leaves visible. It is small when it
is narrower and lower than a limit: a hair-thin line is not. Whether a part is small is decided
exactly with as many rows above and below as the limit: a part that reaches beyond those is larger.
So a picture of any height is treated in little memory, and the result does not depend on how it was
cut. Holes are never filled: they are letters' counters.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.images import Pixels
from utils.rows import Rows

_ROWS = 32
_PIXEL_BYTES = 24  # RGBA twice, labels twice, masks
_ALL_EIGHT = np.ones((3, 3), np.bool_)

Labels = NDArray[np.int32]


def held_bytes(width: int, below_px: float) -> int:
    """About what is in memory while rows of that width are looked at."""
    halo = math.ceil(below_px)
    return (max(_ROWS, 2 * halo) + 2 * halo) * width * _PIXEL_BYTES if below_px else 0


class WithoutIslands:
    """The same rows (alpha last) without islands narrower and lower than `below_px`.

    What has less alpha than `from_alpha` belongs to none and is left as it is. `found` is told how
    many islands were dropped, each once.
    """

    def __init__(
        self,
        whole: Rows,
        *,
        below_px: float,
        from_alpha: int,
        found: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.width, self.height, self.channels = whole.width, whole.height, whole.channels
        self._whole = whole
        self._below_px = below_px
        self._from_alpha = from_alpha
        self._found = found
        self._ready = np.empty((0, self.width, self.channels), np.uint8)
        self._cleaned = self._each_part()

    def read(self, rows: int) -> Pixels:
        """The next rows, (rows, width, channels), fewer at the end. Blocks."""
        parts, held = [self._ready], len(self._ready)
        while held < rows and (part := next(self._cleaned, None)) is not None:
            parts.append(part)
            held += len(part)
        together = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._ready = together[rows:]
        return together[:rows]

    def _each_part(self) -> Iterator[Pixels]:
        """Some rows at a time, each looked at with those around them."""
        halo = math.ceil(self._below_px)
        above, ahead, top = 0, self._whole.read(halo), 0
        while top < self.height:
            window = np.concatenate((ahead, self._whole.read(max(_ROWS, 2 * halo))))
            last = top - above + len(window) == self.height
            own = slice(above, len(window) if last else len(window) - halo)
            yield self._without(window, own, ends=(top == 0, last))
            kept = max(0, own.stop - halo)
            top, above, ahead = top + own.stop - own.start, own.stop - kept, window[kept:]

    def _without(self, window: Pixels, own: slice, *, ends: tuple[bool, bool]) -> Pixels:
        """The window's own rows without islands; `ends` says where the picture itself ends."""
        shows = window[..., -1] >= self._from_alpha
        if shows.all() or not shows.any():
            return window[own]
        labels, tops = _small_parts(shows, self._below_px, ends=ends)
        if not len(tops):
            return window[own]
        self._found(int(((tops >= own.start) & (tops < own.stop)).sum()))
        return np.where((labels[own] > 0)[..., None], np.uint8(0), window[own])


def _small_parts(
    shows: NDArray[np.bool_], below_px: float, *, ends: tuple[bool, bool]
) -> tuple[Labels, NDArray[np.intp]]:
    """Labels of the small parts alone, 0 elsewhere, and the top row of each.

    A part at the window's first or last row goes on beyond, unless the picture ends there.
    """
    labels, count = ndimage.label(shows, _ALL_EIGHT)
    longest = math.ceil(below_px) - 1
    few = np.bincount(labels.ravel(), minlength=count + 1) <= longest**2
    few[0] = False
    for row, is_end in zip((labels[0], labels[-1]), ends, strict=True):
        if not is_end:
            few[row] = False
    y, x = np.nonzero(few[labels])
    if not len(y):
        return labels, np.empty(0, np.intp)
    part = labels[y, x]
    order = np.argsort(part, kind="stable")
    names, first = np.unique(part[order], return_index=True)
    tops, bottoms, lefts, rights = (
        pick.reduceat(places[order], first)
        for places in (y, x)
        for pick in (np.minimum, np.maximum)
    )
    small = (bottoms - tops < longest) & (rights - lefts < longest)
    is_small = np.zeros(count + 1, np.bool_)
    is_small[names[small]] = True
    return np.where(is_small[labels], labels, 0), tops[small]
