"""Shapes as masks: what lies within a distance of them, and how long their outlines are."""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.print_plane import MARGIN

Mask: TypeAlias = NDArray[np.bool_]

# Weights of pairs of neighbours of which one is outside, by which a length is counted in four
# directions (Cauchy-Crofton): 5 % off at most, whatever the angle.
_STRAIGHT, _DIAGONAL = math.pi / 8, math.pi / 8 / math.sqrt(2)
_LENGTHS = np.array(
    [_STRAIGHT * beside + _DIAGONAL * cornered for beside in range(5) for cornered in range(5)],
    np.float32,
)


def spread(mask: Mask, radius: float) -> Mask:
    """All pixels no further than `radius` from one of the mask's; at most MARGIN."""
    radius = min(radius, MARGIN)
    reach = int(radius)
    grown = {0: mask}
    wide = mask
    for step in range(1, reach + 1):
        wide = wide.copy()
        wide[:, step:] |= mask[:, :-step]
        wide[:, :-step] |= mask[:, step:]
        grown[step] = wide
    found = grown[reach].copy()
    for step in range(1, reach + 1):
        row = grown[int(math.sqrt(radius * radius - step * step))]
        found[step:] |= row[:-step]
        found[:-step] |= row[step:]
    return found


def outline_of(shape: Mask) -> NDArray[np.float32]:
    """The length of outline that each pixel of the shape has, by its neighbours outside."""
    outside = np.pad(~shape, 1, mode="edge")
    beside = np.add(outside[1:-1, :-2], outside[1:-1, 2:], dtype=np.uint8)
    beside += outside[:-2, 1:-1]
    beside += outside[2:, 1:-1]
    cornered = np.add(outside[:-2, :-2], outside[:-2, 2:], dtype=np.uint8)
    cornered += outside[2:, :-2]
    cornered += outside[2:, 2:]
    # at most four of each: one table instead of arithmetic on the whole block
    return np.where(shape, _LENGTHS[5 * beside + cornered], np.float32(0))
