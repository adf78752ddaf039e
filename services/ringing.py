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
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.images import Pixels
from services.edge_modes import CRISP, EdgeFinish, Spot, Tally, crisp_edges, snapped
from services.lanczos import REACH, Resizing, Strip, nearest

_Value = TypeVar("_Value", bound=np.generic)
_STEEP = 16  # a difference in alpha that moves colours by more than a level
_WORDS: dict[int, type[np.uint32]] = {4: np.uint32, 2: np.uint16}  # type: ignore[dict-item]  # either will do


def finish_alpha(
    pixels: Pixels, *, window: Pixels, strip: Strip, edge: EdgeFinish, tally: Tally | None = None
) -> Pixels:
    """What `strip.resize(window)` gave, without ringing and with the edge asked for.

    Where nothing shows, colour is cleared. Pixels without alpha are returned as they are; others
    may be changed in place, the window never. `tally` counts the strip's own rows.
    """
    runs = _unsettled(window, strip) if window.shape[2] in (2, 4) else []
    if runs and (strip.resizing.is_identity or not pixels.flags.writeable):
        pixels = pixels.copy()  # a strip of the same size is a part of its window
    for columns in runs:
        _finish(pixels[:, columns], window, _Job(strip, columns, edge, tally))
    return pixels


@dataclass(frozen=True, slots=True)
class _Job:
    """Some columns of a strip and what is to be done there."""

    strip: Strip
    columns: slice
    edge: EdgeFinish
    tally: Tally | None

    def place(self) -> "_Place":
        return _Place.of(self.strip, self.columns, first_column=self.near.start)

    @property
    def near(self) -> slice:
        """The source's columns that are looked at."""
        return _source_columns(self.columns, self.strip.resizing)

    def spot(self, window: Pixels) -> Spot:
        """What halftone wants to know."""
        place, alpha = self.place(), np.ascontiguousarray(window[:, self.near, -1])
        lowest, highest = (
            _extreme(alpha, radius=CRISP * place.radius, pick=pick)
            for pick in (np.minimum, np.maximum)
        )
        crisp = place.enlarged(crisp_edges(lowest, highest))
        return Spot(self.strip.rows.start - self.above, self.columns.start, crisp)

    @property
    def above(self) -> int:
        """1 where the strip comes with the row above it, which is not its own."""
        return min(self.strip.rows.start, 1)


def _finish(part: Pixels, window: Pixels, job: _Job) -> None:
    """The same for the part of the strip in some columns, in place."""
    found = alpha = np.ascontiguousarray(part[..., -1])
    if not job.strip.resizing.is_identity:
        alpha = _without_ringing(part, alpha, window[:, job.near], job.place())
    part[..., -1] = alpha = snapped(alpha, job.edge, lambda: job.spot(window))
    if job.tally is not None:
        job.tally.note(found[job.above :], alpha[job.above :])
    words = _words(part)
    words[(alpha == 0) & (words != 0)] = 0


@dataclass(frozen=True, slots=True)
class _Place:
    """Where rows and columns of a result lie in its window, and how far a source pixel reaches."""

    down: NDArray[np.intp]
    across: NDArray[np.intp]
    radius: int

    @classmethod
    def of(cls, strip: Strip, columns: slice, *, first_column: int) -> "_Place":
        resizing = strip.resizing
        wanted = np.arange(columns.start, columns.stop)
        across = nearest(wanted, resizing.source_width, resizing.width)
        radius = max(1, math.ceil(resizing.source_height / resizing.height))
        return cls(strip.nearest_rows(), across - first_column, radius)

    def reached(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Which pixels of the window went into the result: (rows, width)."""
        reached = np.zeros(shape, np.bool_)
        reached[np.unique(self.down)[:, np.newaxis], np.unique(self.across)] = True
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

    def enlarged(self, values: NDArray[_Value]) -> NDArray[_Value]:
        """Each value of the window (rows, width) repeated wherever its pixel went."""
        enlarged: NDArray[_Value] = values[:, self.across][self.down]
        return enlarged


def _unsettled(window: Pixels, strip: Strip) -> list[slice]:
    """Runs of the result's columns whose alpha needs a look; the rest is settled."""
    alpha, resizing = window[..., -1], strip.resizing
    if resizing.is_identity:
        return [slice(0, resizing.width)]
    changing = _changing(alpha, reach=resizing.reach + 1)
    changing |= ~np.isin(alpha[0], (0, 255))  # where nothing changes a column has one value
    ends = np.flatnonzero(np.diff(changing, prepend=False, append=False))
    return [_enlarged(slice(first, stop), resizing) for first, stop in ends.reshape(-1, 2).tolist()]


def _changing(alpha: Pixels, *, reach: int) -> NDArray[np.bool_]:
    """The window's columns within reach of one where alpha differs from a neighbour's."""
    differs = (alpha[1:] != alpha[:-1]).any(axis=0)
    differs[1:] |= (alpha[:, 1:] != alpha[:, :-1]).any(axis=0)
    padded = np.pad(differs.astype(np.intp).cumsum(), (reach + 1, reach), mode="edge")
    padded[: reach + 1] = 0
    return padded[2 * reach + 1 :] > padded[: -2 * reach - 1]


def _enlarged(columns: slice, resizing: Resizing) -> slice:
    """The result's columns that lie wholly or in part over those of the source."""
    first = columns.start * resizing.width // resizing.source_width
    return slice(first, -(columns.stop * resizing.width // -resizing.source_width))


def _source_columns(columns: slice, resizing: Resizing) -> slice:
    """The source's columns that the treatment of the result's looks at."""
    first, last = nearest(
        np.array((columns.start, columns.stop - 1)), resizing.source_width, resizing.width
    ).tolist()
    return slice(max(0, first - resizing.reach), last + 1 + resizing.reach)


def _without_ringing(part: Pixels, alpha: Pixels, window: Pixels, place: _Place) -> Pixels:
    """The clamped alpha; the colours of `part` are clamped in place."""
    lowest, highest = _bounds(window, radius=place.radius)
    clamped = np.maximum(alpha, place.enlarged(lowest[..., -1]))
    np.minimum(clamped, place.enlarged(highest[..., -1]), out=clamped)
    steep = _overshooting(lowest[..., -1], highest[..., -1])
    if steep.any():
        near = _extreme(steep, radius=(REACH - 1) * place.radius, pick=np.maximum)
        near *= (highest[..., -1] > 0) & place.reached(near.shape)
        _clamp_colours(part, lowest, highest, place, near=near)
    return clamped


def _bounds(window: Pixels, *, radius: int) -> tuple[Pixels, Pixels]:
    """The least and the greatest around each pixel: of alpha, and of the colours that show."""
    words, hidden = _words(np.ascontiguousarray(window)), window[..., -1] == 0
    colour = ~_words(np.array([0] * (window.shape[2] - 1) + [255], np.uint8))
    return (
        _extreme(_bytes(np.where(hidden, colour, words)), radius=radius, pick=np.minimum),
        _extreme(_bytes(np.where(hidden, 0, words)), radius=radius, pick=np.maximum),
    )


def _overshooting(lowest: Pixels, highest: Pixels) -> Pixels:
    """1 where alpha rises steeply enough to meet its ceiling: by a fifth at most, in a corner."""
    rise = highest - lowest
    return ((rise > _STEEP) & (highest > 255 - rise // 4)).view(np.uint8)


def _clamp_colours(
    part: Pixels, lowest: Pixels, highest: Pixels, place: _Place, *, near: Pixels
) -> None:
    """Pixels that lie in those `near` of the source, between its bounds there, in place."""
    y, x = np.nonzero(near)
    down, across = place.spans(place.down, y), place.spans(place.across, x)
    index = down[:, :, np.newaxis], across[:, np.newaxis, :]
    words = _words(part)
    values = _bytes(words[index])  # (pixels, down, across, channels)
    low, high = lowest[y, x][:, np.newaxis, np.newaxis], highest[y, x][:, np.newaxis, np.newaxis]
    np.minimum(np.maximum(values, low, out=values), high, out=values)
    words[index] = _words(values)


def _words(pixels: Pixels) -> NDArray[np.uint32]:
    """Each pixel as one number, without the last axis: much faster to move about than bytes."""
    return pixels.view(_WORDS[pixels.shape[-1]])[..., 0]


def _bytes(words: NDArray[np.uint32]) -> Pixels:
    return words[..., np.newaxis].view(np.uint8)


def _extreme(values: Pixels, *, radius: int, pick: Callable[[Pixels, Pixels], Pixels]) -> Pixels:
    """The least or greatest of the square of 2 radius + 1 around each pixel, for each channel."""
    for _ in ("down", "across"):
        values = _extreme_down(values, radius=radius, pick=pick).swapaxes(0, 1)
    return values


def _extreme_down(
    values: Pixels, *, radius: int, pick: Callable[[Pixels, Pixels], Pixels]
) -> Pixels:
    """Of the column of 2 radius + 1; beyond the ends the last value goes on.

    The span doubles with each step, so that a wide one costs little more than a narrow one.
    """
    places = np.arange(-radius, len(values) + radius).clip(0, len(values) - 1)
    found, span = values[places], 1
    while span < 2 * radius + 1:
        shift = min(span, 2 * radius + 1 - span)
        found = pick(found[:-shift], found[shift:])
        span += shift
    return np.asarray(found)
