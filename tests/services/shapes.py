"""Masks drawn by hand, and pictures that they are true of."""

import numpy as np

from models.images import Pixels


def disc(side: int, *, radius: float | None = None, at: tuple[int, int] | None = None) -> Pixels:
    """A solid disc in a square of `side` pixels, (side, side) alpha."""
    row, column = at or (side // 2, side // 2)
    y, x = np.ogrid[:side, :side]
    inside = (y - row) ** 2 + (x - column) ** 2 < (radius or side / 3) ** 2
    return np.where(inside, 255, 0).astype(np.uint8)


def picture_of(alpha: Pixels) -> Pixels:
    """Red where the mask keeps, white elsewhere, (h, w, 3)."""
    picture = np.full((*alpha.shape, 3), 255, np.uint8)
    picture[alpha > 127] = (200, 20, 30)
    return picture


def textured(alpha: Pixels) -> Pixels:
    """Red where the mask keeps, coarse noise elsewhere, (h, w, 3)."""
    height, width = alpha.shape
    noise = np.random.default_rng(3).integers(0, 200, (height // 4 + 1, width // 4 + 1, 3))
    picture = np.kron(noise, np.ones((4, 4, 1)))[:height, :width].astype(np.uint8)
    picture[alpha > 127] = (230, 20, 30)
    return picture
