"""Takes out of an enlarged alpha what Lanczos made up: a RIP lays white ink under any trace of it.

Lanczos overshoots beside a hard edge: a faint ring of alpha 1 to 25 up to three source pixels
outside of it, and a dent of 230 to 254 inside. No such value lies between the source's own
neighbours, so alpha is clamped to the least and the greatest of the 3x3 source pixels around
(wider by as much as a reduction averages). A soft edge lies between its neighbours anyway and stays
as it is. Where the result is fully transparent its colour is cleared.

Pixels are (rows, width, 2 or 4) uint8, straight, alpha last.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.images import Edge, Pixels
from services.lanczos import Resizing, Strip, nearest

GHOST = 25
"""Alpha up to here is a trace nobody sees but the RIP."""
SOLID = 230
"""Alpha from here on is meant to be opaque."""
_HALF = 128


def finish_alpha(pixels: Pixels, *, window: Pixels, strip: Strip, edge: Edge) -> Pixels:
    """What `strip.resize(window)` gave, without ringing and with the edge asked for.

    Pixels without alpha are returned as they are; others may be changed in place.
    """
    columns = _unsettled(window, strip, edge) if window.shape[2] in (2, 4) else None
    if columns is None:
        return pixels
    pixels = pixels if pixels.flags.writeable else pixels.copy()
    place = _Place.of(strip, columns)
    before = np.ascontiguousarray(pixels[:, columns, -1])
    after = before if strip.resizing.is_identity else _clamped(before, window, place)
    after = _snapped(after, edge)
    _write(pixels[:, columns], before=before, after=after, window=window, place=place)
    return pixels


@dataclass(frozen=True, slots=True)
class _Place:
    """Where rows and columns of a result lie in its window, and how far a source pixel reaches."""

    down: NDArray[np.intp]
    across: NDArray[np.intp]
    radius: int

    @classmethod
    def of(cls, strip: Strip, columns: slice) -> "_Place":
        resizing = strip.resizing
        wanted = np.arange(columns.start, columns.stop)
        across = nearest(wanted, resizing.source_width, resizing.width)
        radius = max(1, math.ceil(resizing.source_height / resizing.height))
        return cls(strip.nearest_rows(), across, radius)


def _unsettled(window: Pixels, strip: Strip, edge: Edge) -> slice | None:
    """The result's columns whose alpha needs a look, None where every one is settled."""
    alpha, resizing = window[..., -1], strip.resizing
    everything = slice(0, resizing.width)
    if resizing.is_identity:
        return everything
    beside = {int(alpha[0, 0]), int(alpha[0, -1])}  # all there is outside of what changes
    if edge is not Edge.SOFT and not beside <= {0, 255}:
        return everything
    return _changing(alpha, resizing) if alpha.min() < alpha.max() else None


def _changing(alpha: Pixels, resizing: Resizing) -> slice:
    """The result's columns within reach of a pixel whose alpha differs from its neighbour's."""
    differs = np.zeros(alpha.shape[1], np.bool_)
    differs |= (alpha != alpha[:1]).any(axis=0)
    differs[1:] |= (alpha[:, 1:] != alpha[:, :-1]).any(axis=0)
    found = np.flatnonzero(differs)
    reach = resizing.reach + 2  # the pixel before the change, and one for rounding
    left = max(0, int(found[0]) - reach) * resizing.width // resizing.source_width
    right = -((int(found[-1]) + reach) * resizing.width // -resizing.source_width)
    return slice(left, min(right, resizing.width))


def _clamped(alpha: Pixels, window: Pixels, place: _Place) -> Pixels:
    """Alpha between the extremes of the source pixels around it."""
    source = window[..., -1]
    lowest = _extreme(source, radius=place.radius, pick=np.minimum)
    highest = _extreme(source, radius=place.radius, pick=np.maximum)
    clamped = np.maximum(alpha, lowest[:, place.across][place.down])
    return np.minimum(clamped, highest[:, place.across][place.down], out=clamped)


def _extreme(alpha: Pixels, *, radius: int, pick: Callable[[Pixels, Pixels], Pixels]) -> Pixels:
    """The least or greatest of the square of 2 radius + 1 around each pixel.

    The span doubles with each step, so that a wide one costs little more than a narrow one.
    """
    found: Pixels = alpha
    for axis in (0, 1):
        padding = [(radius, radius) if each == axis else (0, 0) for each in (0, 1)]
        found = np.moveaxis(np.pad(found, padding, mode="edge"), axis, 0)
        span = 1
        while span < 2 * radius + 1:
            shift = min(span, 2 * radius + 1 - span)
            found = pick(found[:-shift], found[shift:])
            span += shift
        found = np.moveaxis(found, 0, axis)
    return found


def _snapped(alpha: Pixels, edge: Edge) -> Pixels:
    if edge is Edge.HARD:
        return np.multiply(alpha >= _HALF, np.uint8(255), dtype=np.uint8)
    if edge is Edge.PRINT:
        visible = np.multiply(alpha, alpha > GHOST, dtype=np.uint8)
        return np.maximum(visible, np.multiply(alpha >= SOLID, np.uint8(255), dtype=np.uint8))
    return alpha


def _write(pixels: Pixels, *, before: Pixels, after: Pixels, window: Pixels, place: _Place) -> None:
    """The new alpha; what it hides is cleared, what it shows anew has the source's colour."""
    pixels[..., -1] = after
    rows, columns = np.nonzero((before == 0) & (after != 0))
    pixels[rows, columns, :-1] = window[place.down[rows], place.across[columns], :-1]
    words = pixels.view(np.uint32 if pixels.shape[2] == 4 else np.uint16)[..., 0]
    words[(after == 0) & (words != 0)] = 0
