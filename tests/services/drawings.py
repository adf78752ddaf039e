"""Artwork drawn at known sizes, as alpha and as RGBA, for what measures prints."""

import math

import numpy as np
from PIL import Image, ImageDraw

from models.images import Pixels
from models.print_check import Check, CheckId, PrintCheck, PrintLimits
from models.schemas import SizeParameters
from services.print_check import Art, Wish, check_print

OVERSAMPLED = 8


def blank(side: int = 400) -> Pixels:
    return np.zeros((side, side), np.uint8)


def disc(side: int = 400, radius: float = 150) -> Pixels:
    """An anti-aliased disc in the middle."""
    centre = side / 2
    box = (centre - radius, centre - radius, centre + radius, centre + radius)
    return _drawn(side, lambda pen, k: pen.ellipse([k * each for each in box], fill=255))


def bar(width: float, *, angle: float = 0, side: int = 400, length: float = 300) -> Pixels:
    """An anti-aliased line through the middle; `angle` in degrees from upright."""
    turn = math.radians(angle)
    along, across = (-math.sin(turn), math.cos(turn)), (math.cos(turn), math.sin(turn))
    centre = side / 2 + 0.5 * (width % 2)  # upright lines of whole pixels fall on whole pixels
    corners = [
        (
            centre + a * length / 2 * along[0] + b * width / 2 * across[0],
            side / 2 + a * length / 2 * along[1] + b * width / 2 * across[1],
        )
        for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))
    ]
    return _drawn(side, lambda pen, k: pen.polygon([(k * x, k * y) for x, y in corners], fill=255))


def _drawn(side: int, draw: object) -> Pixels:
    large = Image.new("L", (side * OVERSAMPLED, side * OVERSAMPLED))
    draw(ImageDraw.Draw(large), OVERSAMPLED)  # type: ignore[operator]
    return np.array(large.reduce(OVERSAMPLED))


def ramp(width: float, side: int = 400) -> Pixels:
    """Solid to the left, clear to the right; partial over `width` pixels from alpha 26 to 229."""
    steepness = 204 / width if width else 1e9
    levels = 127.5 + steepness * (side / 2 - 0.5 - np.arange(side))
    return np.tile(np.clip(levels, 0, 255).astype(np.uint8), (side, 1))


def art(alpha: Pixels, colour: tuple[int, int, int] = (200, 30, 40)) -> Art:
    rgb = np.empty((*alpha.shape, 3), np.uint8)
    rgb[:] = colour
    return Art(rgb, alpha)


def checked(alpha: Pixels, **asked: object) -> PrintCheck:
    """As it is, at 300 dpi, unless a size is asked for."""
    garment = asked.pop("garment", None)
    sized = bool(asked.keys() & {"width_in", "height_in", "preset", "scale"})
    size = SizeParameters.model_validate(asked if sized else {**asked, "scale": 1})
    wish = Wish(size, sized=sized, garment=garment)  # type: ignore[arg-type]
    return check_print(art(alpha), wish, PrintLimits())


def of(report: PrintCheck, check: CheckId) -> Check:
    (found,) = [each for each in report.checks if each.id == check]
    return found


def measured(alpha: Pixels, check: CheckId, **asked: object) -> float | None:
    return of(checked(alpha, **asked), check).measured


def alarms(report: PrintCheck) -> set[CheckId]:
    return {each.id for each in report.checks if each.severity != "pass"}
