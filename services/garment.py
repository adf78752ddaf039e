"""A cut-out as it looks on a shirt: cloth drawn, and the art laid over it.

Colours are mixed as they are encoded (sRGB), not in linear light. That is how the art was made: its
soft pixels were blended so in an editor, or un-mixed so by services/edges.py, and a browser that
lays the same PNG over the same colour shows the same. In linear light every soft edge would look
bolder on black and thinner on white than the customer has ever seen it.

Heather is drawn, from a hash of each pixel's place: the same in every proof, on every machine.
"""

import numpy as np
from numpy.typing import NDArray

from models.images import Pixels
from services.print_colours import garment_colour

_HEATHER = "heather"
_FIBRE = 9  # pixels along which a fibre is of one tone
_FIBRE_LEVELS = 15.0  # one standard deviation of the tone
_RIBS = (0, 4, 0, -4)  # the shade of the columns of stitches, in levels
_SQUARE = 12  # pixels of the checkerboard
_LIGHT, _DARK = 255, 222


def cloth(garment: str, *, height: int, width: int) -> Pixels:
    """(height, width, 3) of a shirt; every pixel of a plain one has its colour."""
    plain = np.empty((height, width, 3), np.uint8)
    plain[:] = garment_colour(garment)
    if garment != _HEATHER:
        return plain
    shade = _melange(height, width)[..., np.newaxis]
    return np.asarray(np.rint(plain + shade).clip(0, 255), np.uint8)


def checkerboard(*, height: int, width: int) -> Pixels:
    """(height, width, 3): what editors show for nothing."""
    rows, columns = np.arange(height) // _SQUARE, np.arange(width) // _SQUARE
    light = (rows[:, np.newaxis] + columns) % 2 == 0
    grey = np.where(light, np.uint8(_LIGHT), np.uint8(_DARK))
    return np.repeat(grey[..., np.newaxis], 3, axis=2)


def laid_on(art: Pixels, ground: Pixels) -> Pixels:
    """Art (height, width, 4), straight, over a ground (height, width, 3), rounded to the nearest.

    Alpha 0 shows the ground and alpha 255 the art, to the bit.
    """
    alpha = art[..., 3:].astype(np.uint32)
    mixed = art[..., :3] * alpha + ground * (255 - alpha) + 127
    return (mixed // 255).astype(np.uint8)


def _melange(height: int, width: int) -> NDArray[np.float32]:
    """Light and dark fibres that lie a little askew, and columns of stitches; 0 on average."""
    rows, columns = np.mgrid[0 : height + _FIBRE, 0:width].astype(np.uint32)
    noise = _hashed(rows, columns - rows // 3)
    fibres = sum(noise[step : step + height] for step in range(_FIBRE)) - np.float32(_FIBRE / 2)
    fibres *= np.float32(_FIBRE_LEVELS / (_FIBRE / 12) ** 0.5)
    ribs = np.resize(np.array(_RIBS, np.float32), width)
    return np.asarray(fibres / 2 + ribs, np.float32)


def _hashed(rows: NDArray[np.uint32], columns: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Evenly from 0 to 1; Wang's integer hash of a place."""
    mixed = rows * np.uint32(73856093) ^ columns * np.uint32(19349663)
    mixed = (mixed ^ np.uint32(61)) ^ (mixed >> np.uint32(16))
    mixed *= np.uint32(9)
    mixed ^= mixed >> np.uint32(4)
    mixed *= np.uint32(0x27D4EB2D)
    mixed ^= mixed >> np.uint32(15)
    return mixed.astype(np.float32) / np.float32(2**32)
