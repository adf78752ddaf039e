"""Shows where a picture is semi-transparent: what print people do by hand with a red stroke."""

from typing import Final

import numpy as np
from PIL import Image

from models.images import Pixels

RED: Final = (255, 0, 0, 255)


def marked(pixels: Pixels) -> Pixels:
    """RGBA in which every pixel of alpha 1 to 254 is RED and every other is as it was.

    `pixels` are (rows, width, 2 or 4), alpha last; without alpha they come back unchanged.
    """
    if pixels.shape[2] not in (2, 4):
        return pixels
    shown = pixels.copy() if pixels.shape[2] == 4 else pixels[..., [0, 0, 0, 1]]
    shown[semi_transparent(pixels[..., -1])] = RED
    return shown


def semi_transparent(alpha: Pixels) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return (alpha > 0) & (alpha < 255)


def marked_small(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The RGBA picture reduced to `size`, RED wherever a pixel under it is semi-transparent.

    Averaging would fade a rim of one pixel away.
    """
    small = np.array(picture.resize(size, Image.Resampling.LANCZOS))
    soft = semi_transparent(np.asarray(picture.getchannel("A")))
    ends = [
        np.arange(small_side + 1) * side // small_side
        for small_side, side in zip(small.shape[:2], soft.shape, strict=True)
    ]
    any_soft = np.logical_or.reduceat(soft, ends[0][:-1], axis=0)
    small[np.logical_or.reduceat(any_soft, ends[1][:-1], axis=1)] = RED
    return Image.fromarray(small)
