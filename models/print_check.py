"""What a print check says, what may be asked of it, and where its limits lie.

A pixel in a limit or a measurement is one of 300 an inch on the shirt: 0.085 mm.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from models.images import Edge


class Preset(StrEnum):
    """Where on the garment a print goes; services/print_size.py has the inches."""

    LEFT_CHEST = "left_chest"
    FRONT = "front"
    OVERSIZE_FRONT = "oversize_front"
    FULL_BACK = "full_back"
    YOUTH = "youth"
    TODDLER = "toddler"
    INFANT = "infant"
    SLEEVE = "sleeve"
    NECK = "neck"


class PrintedSize(BaseModel):
    """How large a print shall be on the garment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width_in: float | None = Field(
        None, gt=0, le=1000, description="Width of the print in inches, at `dpi`."
    )
    height_in: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="Height of the print in inches; with a width as well the picture fits inside.",
    )
    preset: Preset | None = Field(
        None, description="Instead of `width_in`: the usual width at a place of the garment."
    )

    @property
    def in_inches(self) -> bool:
        """Whether any of the three is given."""
        return bool(self.width_in or self.height_in or self.preset)


NAMED_GARMENTS = (
    "black|white|heather|charcoal|navy|royal|red|maroon|forest|olive|sand|pink|gold|orange|purple"
)
"""Shirts that have a name; services/print_colours.py has their colours."""

SHIRT = f"{NAMED_GARMENTS}|#?[0-9a-fA-F]{{6}}"

Garment = Annotated[
    str,
    StringConstraints(to_lower=True, pattern=f"^({SHIRT})$"),
]
"""A shirt's colour: one of the named ones, or six hexadecimal digits of sRGB."""

GARMENT_FIELD = Field(
    description="The shirt's colour, for the check that the print shows on it: `black`, `white`, "
    "`heather`, another of docs/PRINT.md's names, or `#rrggbb`.",
    examples=["black"],
)


class AnalyzeParameters(PrintedSize):
    """What a caller may say about a picture that is to be looked at."""

    dpi: float = Field(300, ge=1, le=10_000, description="Dots an inch that it is printed at.")
    edge: Edge = Field(Edge.SOFT, description="What becomes of its rim, as for /upscale.")
    trim: bool = Field(default=False, description="Whether the margin is cut away first.")
    garment: Annotated[Garment | None, GARMENT_FIELD] = None


class Severity(StrEnum):
    """Fine; worth a look before it is printed; or a print that will disappoint."""

    PASS = "pass"  # noqa: S105  # nosec B105  # no password
    WARN = "warn"
    FAIL = "fail"


class CheckId(StrEnum):
    """What is looked at, in the order in which it is told."""

    EFFECTIVE_DPI = "effective_dpi"
    OUTPUT_DPI = "output_dpi"
    ASPECT_SIZE = "aspect_size"
    HAS_TRANSPARENCY = "has_transparency"
    GHOST_PIXELS = "ghost_pixels"
    NEAR_OPAQUE = "near_opaque"
    SOFT_AREA = "soft_area"
    EDGE_BAND = "edge_band_px"
    STRAY_ISLANDS = "stray_islands"
    MIN_LINE = "min_line_px"
    MIN_GAP = "min_gap_px"
    NEAR_WHITE = "near_white"
    MARGIN = "margin"
    COLOUR = "colour"
    VISIBLE_ON_GARMENT = "visible_on_garment"


class Autofix(StrEnum):
    """What the service can do about it itself."""

    RESIZE = "resize"
    GHOSTS = "ghosts"
    EDGE_PRINT = "edge=print"
    EDGE_HARD = "edge=hard"
    EDGE_HALFTONE = "edge=halftone"
    ISLANDS = "islands"
    SNAP_WHITE = "snap_white"
    TRIM = "trim"


class Check(BaseModel):
    """One thing looked at; `measured` and `limit` are in `unit`, where there is a number."""

    id: CheckId
    severity: Severity
    measured: float | None = None
    limit: float | None = Field(None, description="The least or the most that passes.")
    unit: str | None = Field(None, examples=["px at 300 dpi"])
    issue: str = Field(description="What was found, for the customer.")
    fix: str | None = Field(None, description="What to do about it, where there is something.")
    autofix: Autofix | None = Field(None, description="What does it here, where something does.")


class NotChecked(BaseModel):
    id: CheckId
    reason: str


class PrintCheck(BaseModel):
    """How a picture, or a cut-out, will print at a size."""

    verdict: Severity = Field(description="The worst of the checks.")
    sized: bool = Field(description="Whether a size was given; else it is taken at 300 dpi.")
    width_in: float
    height_in: float
    effective_dpi: float = Field(description="The picture's own pixels an inch at that size.")
    output_dpi: float = Field(description="What the print is made at: interpolated where higher.")
    checks: list[Check]
    not_checked: list[NotChecked] = Field(description="What could not be looked at, and why.")
    suggestions: list[str] = Field(description="What to do, the worst first.")
    autofixes: list[Autofix] = Field(description="What the service can do of it.")


@dataclass(frozen=True, slots=True)
class PrintLimits:
    """Where passing ends and failing begins; docs/PRINT.md has the sources of the numbers."""

    target_dpi: float = 300
    poor_dpi: float = 200
    least_dpi: float = 150
    least_clear_percent: float = 1
    most_ghost_percent: float = 0.05
    most_ghost_reach_px: float = 4
    most_near_opaque_percent: float = 1
    warn_soft_percent: float = 0.5
    most_soft_percent: float = 5
    warn_edge_px: float = 2
    most_edge_px: float = 4
    least_island_px: float = 6
    most_islands: int = 20
    warn_line_px: float = 6
    least_line_px: float = 4
    warn_gap_px: float = 8
    least_gap_px: float = 6
    most_near_white_percent: float = 0.1
    most_margin_percent: float = 2
    web_in: float = 22
    least_contrast: float = 1.5
