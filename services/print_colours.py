"""What a picture's colours mean for its print: almost white, and how it stands out from a shirt."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.images import Pixels
from services.edge_modes import GHOST, SOLID

GARMENTS = {
    "black": (17, 17, 17),
    "white": (255, 255, 255),
    "heather": (158, 160, 163),
    "charcoal": (66, 68, 72),
    "navy": (30, 40, 66),
    "royal": (36, 74, 150),
    "red": (190, 24, 45),
    "maroon": (92, 30, 45),
    "forest": (32, 62, 48),
    "olive": (84, 88, 60),
    "sand": (208, 198, 178),
    "pink": (236, 190, 204),
    "gold": (246, 184, 40),
    "orange": (238, 102, 38),
    "purple": (74, 50, 112),
}
"""sRGB of the shirts that have a name, this project's choice of what makers call so; black and
heather cotton are no pure colours."""

NEAR_WHITE = 250
"""From here on in all three channels a colour is meant to be white."""

_STRIP_ROWS = 128
_MOST_EDGE_PIXELS = 200_000


@dataclass(frozen=True, slots=True)
class StoredColour:
    """How a file has its colours; `name` is its profile's where that is not sRGB."""

    is_cmyk: bool = False
    is_tagged: bool = False
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Contrast:
    """WCAG 2 contrast of the artwork's edge and the shirt: its mean, and the share below least."""

    mean: float
    lost_share: float


def snap_white(rgb: Pixels) -> None:
    """Make what is meant to be white white, in place; every other colour stays as it is."""
    for top in range(0, len(rgb), _STRIP_ROWS):
        strip = rgb[top : top + _STRIP_ROWS]
        strip[_darkest(strip) >= NEAR_WHITE] = 255


def near_white_percent(rgb: Pixels, alpha: Pixels | None) -> float:
    """How much of what is visible is almost white and not white, in percent."""
    almost = visible = 0
    for top in range(0, len(rgb), _STRIP_ROWS):
        rows = slice(top, top + _STRIP_ROWS)
        least = _darkest(rgb[rows])
        white = least >= NEAR_WHITE
        if alpha is not None:
            seen = alpha[rows] > GHOST
            visible += int(np.count_nonzero(seen))
            white &= seen
        else:
            visible += white.size
        if white.any():
            white &= least < 255
            almost += int(np.count_nonzero(white))
    return 100 * almost / max(visible, 1)


def _darkest(rgb: Pixels) -> Pixels:
    red, green, blue = (rgb[..., channel] for channel in range(3))
    least: Pixels = np.minimum(np.minimum(red, green), blue)
    return least


def contrast_at_edge(rgb: Pixels, alpha: Pixels, garment: str, *, least: float) -> Contrast:
    """Of the outermost solid pixels of everything; of all visible ones where none is solid."""
    edge = _edge_colours(rgb, alpha)
    ground = _luminance(np.array([garment_colour(garment)], np.uint8))[0]
    shown = _luminance(edge)
    ratios = (np.maximum(shown, ground) + 0.05) / (np.minimum(shown, ground) + 0.05)
    return Contrast(float(ratios.mean()), float((ratios < least).mean()))


def garment_colour(garment: str) -> tuple[int, int, int]:
    """SRGB of a named shirt or of six hexadecimal digits."""
    if garment in GARMENTS:
        return GARMENTS[garment]
    red, green, blue = bytes.fromhex(garment.removeprefix("#"))
    return red, green, blue


def _edge_colours(rgb: Pixels, alpha: Pixels) -> Pixels:
    """(n, 3), at most so many."""
    level = SOLID if int(alpha.max()) >= SOLID else GHOST + 1
    level = min(level, max(1, int(alpha.max())))
    return np.concatenate(list(_edges_by_strip(rgb, alpha, level)))


def _edges_by_strip(rgb: Pixels, alpha: Pixels, level: int) -> Iterator[Pixels]:
    most = max(1, _MOST_EDGE_PIXELS * _STRIP_ROWS // len(alpha))
    for top in range(0, len(alpha), _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, len(alpha))
        first, last = max(0, top - 1), min(len(alpha), bottom + 1)
        inside = np.pad(alpha[first:last] >= level, 1)
        inner = inside[2:, 1:-1] & inside[:-2, 1:-1] & inside[1:-1, 2:] & inside[1:-1, :-2]
        edge = (inside[1:-1, 1:-1] & ~inner)[top - first : bottom - first]
        colours = rgb[top:bottom][edge]
        yield colours[:: 1 + len(colours) // most]


def _luminance(colours: Pixels) -> NDArray[np.float32]:
    """Relative luminance of (n, 3) sRGB: IEC 61966-2-1 undone, weighted as WCAG 2 does."""
    weighted: NDArray[np.float32] = _LINEAR[colours] @ _WEIGHTS
    return weighted


_WEIGHTS = np.array((0.2126, 0.7152, 0.0722), np.float32)
_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(
    np.float32
)
