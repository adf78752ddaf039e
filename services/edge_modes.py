"""What an edge mode makes of each alpha, and the count of what it found: the only home of both.

A RIP lays white ink under every pixel that has any alpha, so traces nobody sees are printed, and
what is almost solid is printed with a speckle. `print` takes both away and keeps the rest soft,
`hard` decides each pixel at half, `halftone` lets dots stand for what is between. A rim narrower
than CRISP pixels of the source to either side, clear on one side and solid on the other, is an edge
and not a tone: halftone cuts it at half as well, so that outlines stay crisp.

Alpha is (rows, width) uint8. services/ringing.py applies a mode to strips of any enlargement, a
cut-out's own size among them; services/print_edges.py to a whole cut-out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidParameter
from models.images import Edge, Pixels
from models.schemas import EdgeCounts, EdgeParameters, EdgeReport
from services.halftone import CELL_PX, Screen, screen

GHOST = 25
"""Alpha up to here is a trace nobody sees but the RIP."""
SOLID = 230
"""Alpha from here on is meant to be opaque."""
HALF = 128
CRISP = 2
"""Pixels of the source to either side within which clear and solid make an edge."""
ISLAND_MM = 0.5
"""What is smaller, in width and in height, does not hold in print: 6 pixels at 300 dpi."""
_MOST_ISLAND_PX = 64  # of the source: bounds the rows that must be looked at together
_MM_PER_INCH = 25.4


@dataclass(frozen=True, slots=True)
class EdgeFinish:
    """An edge mode with all it needs: the result's dots an inch, and the screen's lines and turn.

    The dots of `lpi` and `angle` (degrees) matter to `halftone` alone.
    """

    edge: Edge = Edge.SOFT
    dpi: float = 300
    lpi: float = 45
    angle: float = 45

    @property
    def shows_from(self) -> int:
        """The least alpha of which anything is left."""
        return {Edge.SOFT: 1, Edge.HARD: HALF}.get(self.edge, GHOST + 1)

    def island_px(self, scale: float = 1) -> float:
        """Pixels of a source, enlarged `scale` times, below which an island is dropped.

        0 where islands stay; at most 64.
        """
        if self.edge is Edge.SOFT:
            return 0
        return min(ISLAND_MM / _MM_PER_INCH * self.dpi / scale, _MOST_ISLAND_PX)

    def screen(self) -> Screen:
        return screen(dpi=self.dpi, lpi=self.lpi, angle=self.angle)


def finish_of(asked: EdgeParameters) -> EdgeFinish:
    """The mode that was asked for. Raises InvalidParameter for an impossible screen."""
    finest, coarsest = (asked.dpi / side for side in CELL_PX)
    if asked.edge is Edge.HALFTONE and not coarsest <= asked.lpi <= finest:
        raise InvalidParameter(
            f"lpi: {asked.lpi:g} lines an inch at {asked.dpi:g} dpi make cells of "
            f"{asked.dpi / asked.lpi:.1f} pixels a side; it takes {CELL_PX[0]} to {CELL_PX[1]}.",
            field="lpi",
            limit=finest if asked.lpi > finest else coarsest,
            actual=asked.lpi,
            hint=f"At this dpi ask for {coarsest:g} to {finest:g} lines an inch.",
        )
    return EdgeFinish(asked.edge, asked.dpi, asked.lpi, asked.angle)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where an alpha lies in the result, and which of its pixels belong to a crisp edge."""

    top: int
    left: int
    crisp: NDArray[np.bool_]


def snapped(alpha: Pixels, finish: EdgeFinish, spot: Callable[[], Spot]) -> Pixels:
    """The alpha that the mode leaves; `soft` gives back what it was given.

    Only `halftone` asks for the spot.
    """
    match finish.edge:
        case Edge.SOFT:
            return alpha
        case Edge.HARD:
            return _solid(alpha >= HALF)
        case Edge.PRINT:
            visible = np.multiply(alpha, alpha > GHOST, dtype=np.uint8)
            return np.maximum(visible, _solid(alpha >= SOLID))
        case Edge.HALFTONE:
            return _solid(_inked(alpha, finish.screen(), spot()))


def crisp_edges(lowest: Pixels, highest: Pixels) -> NDArray[np.bool_]:
    """Where clear and solid alpha lie close by, from the extremes within CRISP pixels."""
    return (lowest <= GHOST) & (highest >= SOLID)


class Tally:
    """Counts partial alpha before and after a mode, from any thread, as strips pass."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._before, self._after = np.zeros(3, np.int64), np.zeros(3, np.int64)
        self._islands = 0
        self._adding = Lock()

    def note(self, before: Pixels, after: Pixels) -> None:
        """Count a part; where nothing was changed it may be given twice."""
        counted = _counts(before)
        changed = counted if after is before else _counts(after)
        with self._adding:
            self._before += counted
            self._after += changed

    def note_islands(self, count: int) -> None:
        with self._adding:
            self._islands += count

    def report(self) -> EdgeReport:
        return EdgeReport(
            edge=self._edge,
            before=_as_counts(self._before),
            after=_as_counts(self._after),
            islands_dropped=self._islands,
        )


def _solid(inked: NDArray[np.bool_]) -> Pixels:
    return np.multiply(inked, np.uint8(255), dtype=np.uint8)


def _inked(alpha: Pixels, dots: Screen, spot: Spot) -> NDArray[np.bool_]:
    inked = dots.inks(alpha, top=spot.top, left=spot.left)
    np.copyto(inked, alpha >= HALF, where=spot.crisp)
    inked &= alpha > GHOST
    inked |= alpha >= SOLID
    return inked


def _counts(alpha: Pixels) -> NDArray[np.int64]:
    """Ghost, semi-transparent and near-opaque pixels; unsigned differences wrap round."""
    above_clear, above_solid = alpha - np.uint8(1), alpha - np.uint8(SOLID)
    return np.array(
        (
            np.count_nonzero(above_clear < GHOST),
            np.count_nonzero(above_clear < 254),
            np.count_nonzero(above_solid < 255 - SOLID),
        ),
        np.int64,
    )


def _as_counts(counted: NDArray[np.int64]) -> EdgeCounts:
    ghost, semi_transparent, near_opaque = counted.tolist()
    return EdgeCounts(ghost=ghost, semi_transparent=semi_transparent, near_opaque=near_opaque)
