"""What a customer's brush does to a cut-out: keep paints the original back in, erase takes away.

A weight is 0 to 255 at each pixel: how much of the brush is there. Keep fades from the cut-out to
the original as two pictures laid over one another fade (premultiplied, so that a colour counts by
its alpha): at 255 it is the original's own pixel, alpha included. Erase takes its share of the
alpha that is left, so where both were painted erase wins. Everything is straight 8-bit sRGB.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.images import Cutout, Pixels, SourceImage

Floats: TypeAlias = NDArray[np.float32]

_ROWS = 128
_UNTOUCHED = 128  # of a mask that has both: brighter keeps, darker erases


@dataclass(frozen=True, slots=True)
class Brush:
    """Weights (height, width) uint8 of the cut-out's size; None where nothing was painted."""

    keep: Pixels | None = None
    erase: Pixels | None = None

    def enlarged(self, width: int, height: int) -> "Brush":
        """At the picture's size, in straight lines between the weights of a smaller one."""
        return Brush(*(_enlarged(each, (width, height)) for each in (self.keep, self.erase)))


@dataclass(frozen=True, slots=True)
class Painted:
    """How many pixels became more and less opaque."""

    restored_px: int = 0
    erased_px: int = 0


def weights(mask: SourceImage) -> Pixels:
    """How white a mask is, by its alpha: painted white is 255, black or transparent 0."""
    return _through(_luma(mask), mask.alpha)


def both_weights(mask: SourceImage) -> tuple[Pixels, Pixels]:
    """Keep and erase out of one mask: from mid-grey (128) to white, and from it down to black."""
    level = _luma(mask).astype(np.int16)
    keep = np.maximum(level - _UNTOUCHED, 0) * 255 // (255 - _UNTOUCHED)
    erase = np.maximum(_UNTOUCHED - level, 0) * 255 // _UNTOUCHED
    return _through(keep.astype(np.uint8), mask.alpha), _through(erase.astype(np.uint8), mask.alpha)


def has_aspect_of(mask_size: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether some scale makes the one (width, height) the other, within a pixel of the mask."""
    across, down = mask_size[0] * size[1], mask_size[1] * size[0]
    return abs(across - down) <= max(size)


def paint(cutout: Cutout, brush: Brush, original: SourceImage | None) -> Painted:
    """Apply the brush in place, strip by strip. Keep needs the original, of the same size."""
    restored = erased = 0
    for top in range(0, len(cutout.alpha), _ROWS):
        rows = slice(top, top + _ROWS)
        before = cutout.alpha[rows].copy()
        if brush.keep is not None and original is not None and brush.keep[rows].any():
            _keep(cutout, original, brush.keep, rows)
        if brush.erase is not None and brush.erase[rows].any():
            cutout.alpha[rows] = _through(cutout.alpha[rows], ~brush.erase[rows])
        restored += int(np.count_nonzero(cutout.alpha[rows] > before))
        erased += int(np.count_nonzero(cutout.alpha[rows] < before))
    return Painted(restored, erased)


def _keep(cutout: Cutout, original: SourceImage, keep: Pixels, rows: slice) -> None:
    """Only where the brush was: every other pixel stays as it is, to the bit."""
    where = np.nonzero(keep[rows])
    share = keep[rows][where].astype(np.float32) / 255
    alpha, rgb = cutout.alpha[rows], cutout.rgb[rows]
    theirs = share * _alpha_of(original, rows, where)
    ours = (1 - share) * alpha[where]
    total = theirs + ours
    part = np.divide(theirs, total, out=np.ones_like(total), where=total > 0)[:, np.newaxis]
    mixed = part * original.rgb[rows][where] + (1 - part) * rgb[where]
    rgb[where] = np.rint(mixed).astype(np.uint8)
    alpha[where] = np.rint(total).astype(np.uint8)


def _alpha_of(
    original: SourceImage, rows: slice, where: tuple[NDArray[np.intp], ...]
) -> Floats | np.float32:
    if original.alpha is None:
        return np.float32(255)
    return original.alpha[rows][where].astype(np.float32)


def _enlarged(weight: Pixels | None, size: tuple[int, int]) -> Pixels | None:
    if weight is None or weight.shape == size[::-1]:
        return weight
    return np.asarray(Image.fromarray(weight).resize(size, Image.Resampling.BILINEAR))


def _luma(mask: SourceImage) -> Pixels:
    return np.asarray(Image.fromarray(mask.rgb).convert("L"))


def _through(weight: Pixels, share: Pixels | None) -> Pixels:
    """The product of two weights of 0 to 255, rounded."""
    if share is None:
        return weight
    product = weight.astype(np.uint16) * share + np.uint16(127)
    return (product // 255).astype(np.uint8)
