"""Takes out of an enlargement what Lanczos made up beside an edge of alpha.

Lanczos overshoots there: a faint ring of alpha 1 to 25 up to three source pixels outside, under
which a RIP lays white ink, and a dent of 230 to 254 inside. No such value lies between the source's
own neighbours, so alpha is clamped to the least and the greatest of the 3x3 source pixels around
(wider by as much as a reduction averages). A soft edge lies between its neighbours anyway and stays
as it is.

Colour overshoots with alpha, both being premultiplied, but alpha alone meets the ceiling of 255:
what is left after dividing is a rim up to a fifth brighter than the artwork. Within reach of a
steep edge colours are therefore clamped to those visible around them. Elsewhere they are Lanczos'.

Pixels are (rows, width, 2 or 4) uint8, straight, alpha last.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.images import Edge, Pixels
from services.lanczos import REACH, Resizing, Strip, nearest

GHOST = 25
"""Alpha up to here is a trace nobody sees but the RIP."""
SOLID = 230
"""Alpha from here on is meant to be opaque."""
_HALF = 128
_STEEP = 16  # a difference in alpha that moves colours by more than a level
_WORDS: dict[int, type[np.uint32]] = {4: np.uint32, 2: np.uint16}  # type: ignore[dict-item]  # either will do


def finish_alpha(pixels: Pixels, *, window: Pixels, strip: Strip, edge: Edge) -> Pixels:
    """What `strip.resize(window)` gave, without ringing and with the edge asked for.

    Where nothing shows, colour is cleared. Pixels without alpha are returned as they are; others
    may be changed in place.
    """
    columns = _unsettled(window, strip, edge) if window.shape[2] in (2, 4) else None
    if columns is None:
        return pixels
    pixels = pixels if pixels.flags.writeable else pixels.copy()
    part = pixels[:, columns]
    alpha = np.ascontiguousarray(part[..., -1])
    if not strip.resizing.is_identity:
        alpha = _without_ringing(part, alpha, window, _Place.of(strip, columns))
    part[..., -1] = alpha = _snapped(alpha, edge)
    words = _words(part)
    words[(alpha == 0) & (words != 0)] = 0
    return pixels


@dataclass(frozen=True, slots=True)
class _Place:
    """Where rows and columns of a result lie in its window, and how far a source pixel reaches."""

    down: NDArray[np.intp]
    across: NDArray[np.intp]
    radius: int
    window_rows: int
    window_width: int

    @classmethod
    def of(cls, strip: Strip, columns: slice) -> "_Place":
        resizing = strip.resizing
        wanted = np.arange(columns.start, columns.stop)
        across = nearest(wanted, resizing.source_width, resizing.width)
        radius = max(1, math.ceil(resizing.source_height / resizing.height))
        rows = len(strip.source)
        return cls(strip.nearest_rows(), across, radius, rows, resizing.source_width)

    def reached(self) -> NDArray[np.bool_]:
        """Which pixels of the window went into the result: (rows, width)."""
        rows, columns = np.unique(self.down), np.unique(self.across)
        reached = np.zeros((self.window_rows, self.window_width), np.bool_)
        reached[rows[:, np.newaxis], columns] = True
        return reached

    @staticmethod
    def spans(places: NDArray[np.intp], wanted: NDArray[np.intp]) -> NDArray[np.intp]:
        """Where in sorted `places` each wanted value stands: (wanted, as many as any has).

        One that stands there less often has its last place repeated.
        """
        first = np.searchsorted(places, wanted)
        last = np.searchsorted(places, wanted, side="right") - 1
        most = int((last - first).max(initial=0)) + 1
        spans: NDArray[np.intp] = first[:, np.newaxis] + np.arange(most)
        return np.minimum(spans, last[:, np.newaxis], out=spans)

    def enlarged(self, values: Pixels) -> Pixels:
        """Each value of the window (rows, width) repeated wherever its pixel went."""
        enlarged: Pixels = values[:, self.across][self.down]
        return enlarged


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
    differs = (alpha != alpha[:1]).any(axis=0)
    differs[1:] |= (alpha[:, 1:] != alpha[:, :-1]).any(axis=0)
    found = np.flatnonzero(differs)
    reach = resizing.reach + 2  # the pixel before the change, and one for rounding
    left = max(0, int(found[0]) - reach) * resizing.width // resizing.source_width
    right = -((int(found[-1]) + reach) * resizing.width // -resizing.source_width)
    return slice(left, min(right, resizing.width))


def _without_ringing(part: Pixels, alpha: Pixels, window: Pixels, place: _Place) -> Pixels:
    """The clamped alpha; the colours of `part` are clamped in place."""
    lowest, highest = _range(window[..., -1], radius=place.radius)
    clamped = np.maximum(alpha, place.enlarged(lowest))
    np.minimum(clamped, place.enlarged(highest), out=clamped)
    steep = _overshooting(lowest, highest)
    if steep.any():
        near = _extreme(steep, radius=(REACH - 1) * place.radius, pick=np.maximum)
        near *= (highest > 0) & place.reached()
        _clamp_colours(part, window, place, near=near)
    return clamped


def _overshooting(lowest: Pixels, highest: Pixels) -> Pixels:
    """1 where alpha rises steeply enough to meet its ceiling: by a fifth at most, in a corner."""
    rise = highest - lowest
    return ((rise > _STEEP) & (highest > 255 - rise // 4)).view(np.uint8)


def _clamp_colours(part: Pixels, window: Pixels, place: _Place, *, near: Pixels) -> None:
    """Colours between the extremes of those that the source shows around them.

    Done source pixel by source pixel, those of `near` alone: (pixels, down, across, channels).
    """
    y, x = np.nonzero(near)
    down, across = place.spans(place.down, y), place.spans(place.across, x)
    lowest, highest = (each[y, x][:, np.newaxis, np.newaxis] for each in _colours(window, place))
    words = _words(part)
    index = down[:, :, np.newaxis], across[:, np.newaxis, :]
    values = _bytes(words[index])
    np.minimum(np.maximum(values, lowest, out=values), highest, out=values)
    words[index] = _words(values)


def _colours(window: Pixels, place: _Place) -> tuple[Pixels, Pixels]:
    """The least and the greatest colour shown around each pixel; alpha is left free."""
    words, hidden = _words(window), window[..., -1] == 0
    solid = _words(np.array([0] * (window.shape[2] - 1) + [255], np.uint8))
    lowest = np.where(hidden, ~solid, words & ~solid)
    highest = np.where(hidden, solid, words | solid)
    return (
        _extreme(_bytes(lowest), radius=place.radius, pick=np.minimum),
        _extreme(_bytes(highest), radius=place.radius, pick=np.maximum),
    )


def _words(pixels: Pixels) -> NDArray[np.uint32]:
    """Each pixel as one number, without the last axis: much faster to move about than bytes."""
    return pixels.view(_WORDS[pixels.shape[-1]])[..., 0]


def _bytes(words: NDArray[np.uint32]) -> Pixels:
    return words[..., np.newaxis].view(np.uint8)


def _range(alpha: Pixels, *, radius: int) -> tuple[Pixels, Pixels]:
    return (
        _extreme(alpha, radius=radius, pick=np.minimum),
        _extreme(alpha, radius=radius, pick=np.maximum),
    )


def _extreme(values: Pixels, *, radius: int, pick: Callable[[Pixels, Pixels], Pixels]) -> Pixels:
    """The least or greatest of the square of 2 radius + 1 around each pixel, for each channel.

    The span doubles with each step, so that a wide one costs little more than a narrow one.
    """
    found = values
    for axis in (0, 1):
        padding = [(radius, radius) if each == axis else (0, 0) for each in range(values.ndim)]
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
