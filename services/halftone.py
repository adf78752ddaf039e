"""The screen that turns a partial alpha into dots: all ink or none, their area alpha's share.

A press lays ink or it does not; a screen says which pixels a given alpha inks. Its cells lie on a
square lattice of `lpi` lines an inch, turned by `angle`. The lattice is nudged until it repeats
after whole pixels (a supercell of n x n cells), so the pattern is a function of a pixel's place on
the page alone and strips of any height meet without a seam. The supercell is kept as a brick: rows
of thresholds that go on to the side, each next course shifted (T. M. Holladay, "An optimum
algorithm for halftone generation for displays and hard copies", Proc. SID 21, 1980).

Dots grow round from the cells' centres up to half, then holes shrink round into the cells' corners
(PostScript's Euclidean spot). Within a cell pixels turn on one by one, each cell at tones of its
own, so over the supercell the inked area follows alpha to a fraction of a level. Below the smallest
dot that holds, cells get it whole or not at all, as many of them as the area asks for; likewise
holes above the smallest that stays open.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.images import Pixels

CELL_PX = (4, 128)
"""A side below which a cell has too few pixels for tones, and above which it costs too much."""
LEAST_DOT_MM = 0.2
"""The smallest dot (and hole), by diameter: the least choke that print shops use, so whatever is
smaller than this may get no white under it."""
_MOST_CELLS = 16  # a side of a supercell
_SUPERCELL_PX = range(40, 513)  # a side: levels are exact enough, the work to make it is bounded
_MM_PER_INCH = 25.4

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Lattice:
    """n x n cells between the whole-pixel vectors (across, down) and (-down, across)."""

    across: int
    down: int
    cells: int

    @property
    def pixels(self) -> int:
        """Of the supercell."""
        return self.across**2 + self.down**2

    @property
    def cell_px(self) -> float:
        """A cell's side."""
        return math.sqrt(self.pixels) / self.cells

    @property
    def angle(self) -> float:
        """Degrees."""
        return math.degrees(math.atan2(self.down, self.across))


@dataclass(frozen=True, slots=True)
class Screen:
    """A halftone screen: at each pixel the least alpha, 1 to 255, that is inked.

    `brick` is (g, p) uint8; the course of g rows below is shifted right by `shift`.
    """

    lattice: Lattice
    brick: Pixels
    shift: int

    def inks(self, alpha: Pixels, *, top: int, left: int) -> NDArray[np.bool_]:
        """Which pixels of `alpha`, (rows, width), are inked; its corner is at (top, left)."""
        width, (courses, period) = alpha.shape[1], self.brick.shape
        laid = np.tile(self.brick, (1, 1 + -(-width // period)))
        inked = np.empty(alpha.shape, np.bool_)
        for row in range(len(alpha)):
            course, within = divmod(top + row, courses)
            first = (left - self.shift * course) % period
            np.greater_equal(alpha[row], laid[within, first : first + width], out=inked[row])
        return inked


@lru_cache(maxsize=8)
def screen(*, dpi: float, lpi: float, angle: float) -> Screen:
    """Cells of dpi / lpi pixels a side, turned by `angle` degrees, as nearly as whole pixels allow.

    Raises ValueError where a cell's side is outside of CELL_PX.
    """
    if not CELL_PX[0] <= dpi / lpi <= CELL_PX[1]:
        raise ValueError(f"there are no cells of {dpi / lpi:.2f} pixels")
    lattice = _lattice(dpi / lpi, math.radians(angle))
    least_dot = round(math.pi / 4 * (LEAST_DOT_MM / _MM_PER_INCH * dpi) ** 2)
    courses = math.gcd(lattice.across, lattice.down)
    period = lattice.pixels // courses
    y, x = np.mgrid[:courses, :period]
    tones = _tones(lattice, x.ravel(), y.ravel(), least_dot=least_dot)
    return Screen(lattice, _limits(tones).reshape(courses, period), _shift(lattice))


def _lattice(cell_px: float, angle: float) -> Lattice:
    """The one whose vectors come nearest to the wish, among those that are small enough."""
    most = max(1, min(_MOST_CELLS, int(_SUPERCELL_PX.stop / cell_px)))
    sizes = range(min(math.ceil(_SUPERCELL_PX.start / cell_px), most), most + 1)
    wish = [(n, n * cell_px * math.cos(angle), n * cell_px * math.sin(angle)) for n in sizes]
    found = [
        (math.hypot(round(a) - a, round(b) - b) / n, n, round(a), round(b)) for n, a, b in wish
    ]
    _, cells, across, down = min(found)
    return Lattice(across, down, cells)


def _shift(lattice: Lattice) -> int:
    """How far to the right the pattern repeats gcd(across, down) rows below."""
    across, down = lattice.across, lattice.down
    courses = math.gcd(across, down)
    # i * down + j * across = courses, for whole i and j
    if across == 0 or down == 0:
        i, j = int(across == 0), int(down == 0)
    else:
        i = pow(down // courses, -1, across // courses)
        j = (courses - i * down) // across
    return (i * across - j * down) % (lattice.pixels // courses)


def _tones(lattice: Lattice, x: Integers, y: Integers, *, least_dot: int) -> Floats:
    """The tone, 0 to 1, at which each pixel of the supercell is inked; before equalising."""
    u, v = _cell_places(lattice, x, y)
    spot = np.cos(2 * np.pi * (u - 0.5)) + np.cos(2 * np.pi * (v - 0.5))
    spot += 1e-9 * np.cos(2 * np.pi * (u - 0.4))  # no ties among a dot's pixels
    area = lattice.pixels / lattice.cells**2
    least = min(max(1, least_dot), area // 4)  # half of a cell is for dots at most
    dots = spot > 0
    grown = np.empty(len(x))
    for half, shift in ((dots, 0.0), (~dots, 0.5)):  # holes: the cells round the corners
        cell = _cell_of(lattice, u[half] + shift, v[half] + shift)
        rank = _ranks_within(cell, -np.abs(spot[half]))
        turn = _turns(lattice.cells)[cell]
        grown[half] = np.where(rank < least, turn * least, rank + turn) / area
    return np.where(dots, grown, 1 - grown)


def _cell_places(lattice: Lattice, x: Integers, y: Integers) -> tuple[Floats, Floats]:
    """The pixels' centres in cells along both vectors."""
    across, down = lattice.across, lattice.down
    per_pixel = lattice.cells / lattice.pixels
    u = ((x + 0.5) * across + (y + 0.5) * down) * per_pixel
    v = ((y + 0.5) * across - (x + 0.5) * down) * per_pixel
    return u, v


def _cell_of(lattice: Lattice, u: Floats, v: Floats) -> Integers:
    """The number of each place's cell, 0 to n * n."""
    n = lattice.cells
    return np.asarray((np.floor(u) % n) * n + np.floor(v) % n, np.int64)


def _ranks_within(group: Integers, order: Floats) -> Integers:
    """Each one's place, from 0, among those of its group."""
    sorted_ = np.lexsort((order, group))
    _, first, counts = np.unique(group[sorted_], return_index=True, return_counts=True)
    ranks = np.empty(len(group), np.int64)
    ranks[sorted_] = np.arange(len(group)) - np.repeat(first, counts)
    return ranks


def _turns(n: int) -> Floats:
    """Evenly spaced shares in 0..1 for n x n cells; those of neighbours lie far apart.

    Their order is that of the additive sequence of the plastic number, whose points spread evenly
    over a square (M. Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018).
    """
    i, j = np.mgrid[:n, :n]
    plastic = 1.32471795724474602596
    spread = (i / plastic + j / plastic**2) % 1
    order = np.argsort(np.argsort(spread.ravel(), kind="stable"), kind="stable")
    return np.asarray((order + 0.5) / n**2)


def _limits(tones: Floats) -> Pixels:
    """The least alpha that inks each pixel, so that the share inked is alpha's at every level."""
    _, group, counts = np.unique(tones, return_inverse=True, return_counts=True)
    reached = (np.cumsum(counts) - counts / 2) / len(tones)
    return np.ceil(reached * 255).clip(1, 255).astype(np.uint8)[group.ravel()]
