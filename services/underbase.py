"""The white plate of a print: where white ink goes under the colour, pulled back from its edge.

White that lies exactly under the colour shows as a pale line where the two layers are printed a
hair apart, so it is *choked*: a pixel keeps its white if every pixel within the choke's radius has
ink, which is an erosion by a disc. Beyond the canvas there is no ink. The plate's level is the
art's alpha: as much white as colour. Where the art is pure white nothing but the plate is printed,
so there it is not choked (RIPs skip it there too: housedtf.com).

The erosion is exact to the pixel and takes rows as they come: along its row every pixel knows how
far the next gap is; a disc fits where, for each row within reach, that distance is more than half
of the disc's chord there. So nothing is in memory but a strip and the rows that the disc reaches.

The plate is for the shop that lays its white itself. It is never applied to the colour art: a RIP
that makes its own white chokes that on its own.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidParameter
from models.images import Pixels
from models.proofs import Choke, PlateQuery

CHOKE_MM: Mapping[Choke, float] = {
    Choke.TEXT: 0.2,
    Choke.PHOTO: 0.3,
    Choke.DEFAULT: 0.5,
    Choke.BOLD: 1.0,
}
"""DTFGSA's 0.2 for small text, 0.3 for photographs and 1.0 for bold logos, of its usual 0.2 to 1.5;
0.5 is where RIPs start (nestsheet.com: 0.5 to 1.0)."""

MOST_PX = 128
"""Of a choke: bounds the rows that must be looked at together."""
_MM_PER_INCH = 25.4

Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Underbase:
    """How a plate is made: the radius of the disc in pixels, and what counts as pure white."""

    choke_px: float
    white_from: int = 255

    def plate(self, strips: Iterable[Pixels]) -> Iterator[Pixels]:
        """The plate's rows (rows, width) in the order of the art's, (rows, width, channels).

        Without alpha every pixel has ink. The strips may have any heights.
        """
        making = Plating(self)
        for strip in strips:
            yield making.add(strip)
        yield making.end()


def choke_mm(asked: PlateQuery) -> float:
    return CHOKE_MM[asked.choke] if asked.choke_mm is None else asked.choke_mm


def underbase_of(asked: PlateQuery, *, dpi: float) -> Underbase:
    """The plate that was asked for, of a print of `dpi`. Raises InvalidParameter beyond MOST_PX."""
    px = choke_mm(asked) / _MM_PER_INCH * dpi
    if px > MOST_PX:
        raise InvalidParameter(
            f"choke_mm: {choke_mm(asked):g} mm at {dpi:g} dpi are {px:.0f} pixels.",
            field="choke_mm",
            limit=MOST_PX,
            actual=round(px, 1),
            hint="Ask for a smaller choke or a lower dpi.",
        )
    return Underbase(px, asked.white_from)


class Plating:
    """One plate as its art comes in: `add` gives the rows that are certain, `end` the rest."""

    def __init__(self, how: Underbase) -> None:
        self._how = how
        self._reach = math.floor(how.choke_px)
        self._chords = _half_chords(how.choke_px)
        # rows that are needed still: distances to the next gap, levels, and what is pure white
        self._distances: NDArray[np.uint8] | None = None
        self._levels = np.empty((0, 0), np.uint8)
        self._whites: Mask = np.empty((0, 0), np.bool_)

    def add(self, strip: Pixels) -> Pixels:
        """The next rows of the art, (rows, width, channels) with alpha last of 2 or 4."""
        levels = _levels(strip)
        distances = _to_gap(levels > 0, most=self._reach + 1)
        if self._distances is None:  # no ink above the canvas
            self._distances = np.zeros((self._reach, strip.shape[1]), np.uint8)
            self._levels = np.empty((0, strip.shape[1]), np.uint8)
            self._whites = np.empty((0, strip.shape[1]), np.bool_)
        self._distances = np.concatenate((self._distances, distances))
        self._levels = np.concatenate((self._levels, levels))
        self._whites = np.concatenate((self._whites, self._pure(strip)))
        return self._certain(len(self._levels) - self._reach)

    def end(self) -> Pixels:
        """The rows that waited for those below them, of which there are none."""
        if self._distances is None:
            return self._levels
        below = np.zeros((self._reach, self._distances.shape[1]), np.uint8)
        self._distances = np.concatenate((self._distances, below))
        return self._certain(len(self._levels))

    def _certain(self, count: int) -> Pixels:
        if count <= 0 or self._distances is None:
            return self._levels[:0]
        kept = self._whites[:count]
        inside = np.ones(kept.shape, np.bool_)
        for row, chord in enumerate(self._chords):
            inside &= self._distances[row : row + count] > chord
        plate = np.where(inside | kept, self._levels[:count], np.uint8(0))
        self._distances = self._distances[count:]
        self._levels, self._whites = self._levels[count:], self._whites[count:]
        return plate

    def _pure(self, strip: Pixels) -> Mask:
        colours = strip[..., :-1] if strip.shape[2] in (2, 4) else strip
        pure = colours[..., 0] >= self._how.white_from
        for channel in range(1, colours.shape[2]):
            pure &= colours[..., channel] >= self._how.white_from
        return np.asarray(pure)


def _levels(strip: Pixels) -> Pixels:
    if strip.shape[2] in (2, 4):
        return np.ascontiguousarray(strip[..., -1])
    return np.full(strip.shape[:2], 255, np.uint8)


def _half_chords(radius: float) -> list[int]:
    """For each row of a disc from top to bottom, how many pixels it reaches to either side."""
    reach = math.floor(radius)
    return [math.floor(math.sqrt(radius**2 - down**2)) for down in range(-reach, reach + 1)]


def _to_gap(inked: Mask, *, most: int) -> NDArray[np.uint8]:
    """Along its row, how far each pixel is from the next one without ink, 0 there; at most `most`.

    Beyond the row there is no ink. Distances spread by 1, 2, 4 ... pixels to either side, which
    makes any that is less than the next power of two.
    """
    away = np.multiply(inked, np.uint8(most), dtype=np.uint8)
    for edge in (away, away[:, ::-1]):
        near = min(most, edge.shape[1])
        np.minimum(edge[:, :near], np.arange(1, near + 1, dtype=np.uint8), out=edge[:, :near])
    step = 1
    while step < most:
        further = away + np.uint8(step)
        np.minimum(away[:, step:], further[:, :-step], out=away[:, step:])
        np.minimum(away[:, :-step], further[:, step:], out=away[:, :-step])
        step *= 2
    return away
