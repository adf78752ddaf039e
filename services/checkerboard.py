"""A checkerboard painted into a picture where there should be transparency: found by its rhythm.

Two greys that change places every so many pixels, across and down. Looked for in windows along the
border, at the picture's own resolution: a reduction would mix small squares into one grey.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from models.images import Pixels

Floats: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

# Pixels a side: three squares of the largest size; then less, where artwork fills most of that.
WINDOWS = (192, 96)
SHORTEST, LONGEST = 3, 72  # of a square's side: 4 to 64, and what a slight scaling makes of them
NEUTRAL = 24  # levels between channels; JPEG's coarse colour planes tint grey beside artwork
# Levels between the two greys: more than a `blank` picture may vary, less than a chequered flag.
FAINTEST, STRONGEST = 9, 140
SOLID_FROM = 245  # alpha
LEAST_KNOWN = 0.3  # of a window; the rest is artwork that reaches into it
LEAST_WINDOWS = 3  # of 8 that must show the same board
LEAST_SHARE = 0.25  # of either grey
MOST_PEAKS, MOST_PAIRS = 6, 3  # of levels; each pair costs some milliseconds
LEAST_OF_EITHER = 0.15  # of the diagonal neighbours; gingham has but one of its greys there
BLUR = np.array([1, 2, 3, 2, 1])  # over levels: noise spreads a grey, its middle is the commonest
# How alike squares of one grey, and how unlike neighbours, must be at least (1 would be perfect).
LIKENESS = 0.5


@dataclass(frozen=True, slots=True)
class Board:
    """The side of a square in pixels, the two greys in levels, and how regular they are, 0 to 1."""

    square_px: float
    dark: int
    light: int
    regularity: float


@dataclass(frozen=True, slots=True)
class _Marks:
    """A window, (h, w): -1 for the dark grey to 1 for the light one, 0 where not `known`."""

    signs: Floats
    known: Floats

    @property
    def energy(self) -> float:
        return float(np.square(self.signs).sum() / max(1.0, self.known.sum()))


@dataclass(frozen=True, slots=True)
class _Found:
    """After how many pixels the grey has changed, and how surely (1: always)."""

    side: float
    contrast: float


def find_board(rgb: Pixels, alpha: Pixels | None = None) -> Board | None:
    """The checkerboard around the subject of `rgb` (H, W, 3), if there is one.

    What `alpha` (H, W) makes translucent is left out.
    """
    found = (_board_in(rgb, alpha, side) for side in WINDOWS)
    return next((board for board in found if board is not None), None)


def _board_in(rgb: Pixels, alpha: Pixels | None, side: int) -> Board | None:
    level, known = _grey(_windows(rgb, side))
    if alpha is not None:
        known &= _windows(alpha, side) >= SOLID_FROM
    for pair in _pairs_of_greys(level, known):
        boards = [found for window in _marked(level, known, pair) if (found := _judged(window))]
        if len(boards) >= LEAST_WINDOWS:
            return _agreed(boards, pair)
    return None


def _windows(plane: Pixels, side: int) -> Pixels:
    """The corners and the middles of the sides, (8, h, w, ...)."""
    height, width = min(side, plane.shape[0]), min(side, plane.shape[1])
    tops = (0, (plane.shape[0] - height) // 2, plane.shape[0] - height)
    lefts = (0, (plane.shape[1] - width) // 2, plane.shape[1] - width)
    places = [(top, left) for top in tops for left in lefts]
    del places[4]  # the centre
    return np.stack([plane[top : top + height, left : left + width] for top, left in places])


def _grey(colours: Pixels) -> tuple[NDArray[np.int16], Mask]:
    """Brightness, and where there is nothing but brightness."""
    red, green, blue = (colours[..., channel].astype(np.int16) for channel in range(3))
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return (red + 2 * green + blue) >> 2, spread <= NEUTRAL


def _pairs_of_greys(level: NDArray[np.int16], known: Mask) -> list[tuple[int, int]]:
    """The pairs of common levels, dark and light, that divide enough of the windows in halves.

    A few, for the artwork that reaches into the windows has greys of its own.
    """
    counts = np.bincount(level[known], minlength=256)
    blurred = np.convolve(counts, BLUR, "same")
    peaks = np.flatnonzero((blurred == ndimage.maximum_filter1d(blurred, 5)) & (blurred > 0))
    common = peaks[np.argsort(blurred[peaks])[: -MOST_PEAKS - 1 : -1]]
    pairs = [(int(dark), int(light)) for dark in common for light in common if dark < light]
    fitting = [each for each in pairs if _divides(counts, each, known.size)]
    return sorted(fitting, key=lambda pair: -int(blurred[list(pair)].sum()))[:MOST_PAIRS]


def _divides(counts: NDArray[np.intp], pair: tuple[int, int], pixels: int) -> bool:
    if not FAINTEST <= pair[1] - pair[0] <= STRONGEST:
        return False
    off = _off(np.arange(256, dtype=np.int16), pair)
    inside = np.abs(off) <= _reach(pair)
    known = int(counts[inside].sum())
    light = int(counts[inside & (off > 0)].sum())
    divided = LEAST_SHARE * known <= light <= (1 - LEAST_SHARE) * known
    return divided and known >= LEAST_KNOWN * LEAST_WINDOWS / 8 * pixels


def _off(level: NDArray[np.int16], pair: tuple[int, int]) -> Floats:
    """-1 for the dark grey of the pair, 1 for its light one, 0 between them."""
    middle, half = np.float32(sum(pair) / 2), np.float32((pair[1] - pair[0]) / 2)
    return (level - middle) / half


def _reach(pair: tuple[int, int]) -> float:
    """How far off a pixel of either grey may be: blur and JPEG overshoot."""
    return 1.5 + 8 / (pair[1] - pair[0])


def _marked(level: NDArray[np.int16], known: Mask, pair: tuple[int, int]) -> Iterator[_Marks]:
    """The windows that hold enough of both greys."""
    off = _off(level, pair)
    inside = known & (np.abs(off) <= _reach(pair))
    signs = np.where(inside, off.clip(-1, 1), np.float32(0))
    for signs_here, known_here in zip(signs, inside.astype(np.float32), strict=True):
        share = float((signs_here > 0).sum() / max(1.0, known_here.sum()))
        if known_here.mean() >= LEAST_KNOWN and LEAST_SHARE <= share <= 1 - LEAST_SHARE:
            yield _Marks(signs_here, known_here)


def _agreed(boards: list[_Found], pair: tuple[int, int]) -> Board | None:
    """What the windows say together, if enough of them say the same."""
    middle = float(np.median([each.side for each in boards]))
    alike = [each for each in boards if _same(each.side, middle)]
    if len(alike) < LEAST_WINDOWS:
        return None
    side = float(np.mean([each.side for each in alike]))
    return Board(side, *pair, min(1.0, max(each.contrast for each in alike)))


def _same(side: float, other: float) -> bool:
    return abs(side - other) <= max(1.0, 0.15 * other)


def _judged(marks: _Marks) -> _Found | None:
    """The checkerboard in one window."""
    across, down = _rhythm(marks, axis=1), _rhythm(marks, axis=0)
    if across is None or down is None or not _same(across.side, down.side):
        return None
    x, y = round(across.side), round(down.side)
    diagonal = _likeness(marks, y, x)
    # diagonal stripes have all of the above; half a square to the side they differ
    halves = [abs(_likeness(marks, max(1, y // 2), sign * max(1, x // 2))) for sign in (1, -1)]
    if diagonal < LIKENESS or max(halves) > LIKENESS or not _both_along(marks, y, x):
        return None
    return _Found((across.side + down.side) / 2, min(across.contrast, down.contrast, diagonal))


def _rhythm(marks: _Marks, *, axis: int) -> _Found | None:
    """The first distance at which pixels are each other's opposite, and at twice it alike again."""
    likeness = _likeness_by_distance(marks, axis=axis)
    for side in range(SHORTEST, min(LONGEST, len(likeness) // 2 - 1) + 1):
        before, here, after = likeness[side - 1 : side + 2]
        if here <= -LIKENESS and here <= before and here <= after:
            bend = before - 2 * here + after
            exact = side + (before - after) / (2 * bend) if bend > 0 else side
            again = likeness[round(2 * exact)]
            return _Found(float(exact), float(-here)) if again >= LIKENESS / 2 else None
    return None


def _likeness_by_distance(marks: _Marks, *, axis: int) -> NDArray[np.float64]:
    """For each distance along the axis how alike pixels are, -1 to 1; every second line is asked.

    By Fourier: the correlation of a line with itself, over that of its known pixels.
    """
    pick = (slice(None, None, 2),) if axis == 1 else (slice(None), slice(None, None, 2))
    size = marks.signs.shape[axis]
    reach = min(2 * LONGEST + 2, size * 3 // 4)
    length = fft.next_fast_len(size + reach, real=True)
    sums = []
    for plane in (marks.signs, marks.known):
        lines = np.moveaxis(plane[pick], axis, -1)
        power = np.square(np.abs(fft.rfft(lines, length))).sum(axis=0, dtype=np.float64)
        sums.append(fft.irfft(power, length)[:reach])
    products, pairs = sums
    found: NDArray[np.float64] = products / np.maximum(pairs, 1) / max(marks.energy, 1e-6)
    return found


def _likeness(marks: _Marks, down: int, across: int) -> float:
    """How alike pixels are that lie so far apart, -1 to 1."""
    products = _paired(marks.signs, down, across)
    return products / max(1.0, _paired(marks.known, down, across)) / max(marks.energy, 1e-6)


def _both_along(marks: _Marks, down: int, across: int) -> bool:
    """Whether both greys meet themselves so far apart."""
    pairs = max(1.0, _paired(marks.known, down, across))
    shares = (_paired(np.maximum(side * marks.signs, 0), down, across) / pairs for side in (1, -1))
    return min(shares) >= LEAST_OF_EITHER * marks.energy


def _paired(plane: Floats, down: int, across: int) -> float:
    """The sum of all products of pixels so far apart; `across` may be negative."""
    height, width = plane.shape
    one = plane[: height - down, max(0, -across) : width - max(0, across)]
    other = plane[down:, max(0, across) : width - max(0, -across)]
    return float(np.vdot(one, other))
