"""Pictures as the service holds them: straight (not premultiplied) 8-bit sRGB, alpha apart."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]


class Holes(StrEnum):
    """What the colour knock-out does with background-coloured islands inside the artwork."""

    KEEP = "keep"
    OPEN = "open"


class Edge(StrEnum):
    """What becomes of partial alpha before a picture is printed (services/edge_modes.py).

    `soft` keeps it; `print` clears alpha up to 25 and makes alpha from 230 opaque; `hard` leaves
    nothing between transparent and opaque; `halftone` turns what is between into dots. All but
    `soft` drop islands too small to print.
    """

    SOFT = "soft"
    PRINT = "print"
    HARD = "hard"
    HALFTONE = "halftone"


class PictureKind(StrEnum):
    """What a look at a customer's picture takes it for (services/triage.py)."""

    TRANSPARENT = "transparent"
    CHECKERBOARD = "checkerboard"
    BLANK = "blank"
    ARTWORK = "artwork"
    PHOTO = "photo"


class Flag(StrEnum):
    """Something a person should know about one cut-out."""

    EMPTY = "empty"
    FULL_FRAME = "full_frame"
    LOST_INTERIOR = "lost_interior"
    MANY_ISLANDS = "many_islands"
    RIM_EQUALS_GROUND = "rim_equals_ground"


@dataclass(frozen=True, slots=True)
class SourceImage:
    """A customer's picture, upright, in sRGB.

    `rgb` is (height, width, 3) uint8, `alpha` (height, width) uint8 or None where the file had
    none. `format` is the file's own (as `JPEG`), `bytes` its size, `sha256` its hex digest.
    """

    rgb: Pixels
    alpha: Pixels | None
    format: str
    bytes: int
    sha256: str

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])

    @property
    def had_alpha(self) -> bool:
        return self.alpha is not None


@dataclass(frozen=True, slots=True)
class Cutout:
    """A background removal, pixel-aligned with its source.

    `rgb` is (height, width, 3) uint8, straight; `alpha` is (height, width) uint8.
    """

    rgb: Pixels
    alpha: Pixels
    flags: tuple[Flag, ...] = ()
    variant: str | None = None
    cost_usd: Decimal = Decimal(0)
    sandbox: bool = False
