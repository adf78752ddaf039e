"""How large a picture becomes in print: from a scale or from inches to pixels, and what that means.

1 inch is 25.4 mm; `dpi` is dots of the result an inch. Interpolation adds dots, not detail: the
picture's own resolution at that size is always told beside the result's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from models.errors import InvalidParameter, ScaleOutOfRange
from models.print_check import Preset, PrintedSize
from models.schemas import MAX_SCALE, PrintReport, SizeParameters

DEFAULT_SCALE = 4.0

USUAL_WIDTHS_IN: Mapping[Preset, tuple[float, float]] = {
    Preset.LEFT_CHEST: (3.5, 4.5),
    Preset.FRONT: (10, 12),
    Preset.OVERSIZE_FRONT: (12.5, 14),
    Preset.FULL_BACK: (11, 14),
    Preset.YOUTH: (8, 10),
    Preset.TODDLER: (5, 7),
    Preset.INFANT: (4, 6),
    Preset.SLEEVE: (2.5, 4),
    Preset.NECK: (2, 2.75),
}
"""Print widths from and to, in inches: the size chart of textileus.com/dtf-size-chart."""


@dataclass(frozen=True, slots=True)
class PrintSize:
    """The result in pixels, and how many of its pixels one source pixel became."""

    width: int
    height: int
    scale: float
    dpi: float

    def report(self) -> PrintReport:
        source_dpi = self.dpi / self.scale
        return PrintReport(
            width=self.width,
            height=self.height,
            scale=round(self.scale, 4),
            width_in=round(self.width / self.dpi, 3),
            height_in=round(self.height / self.dpi, 3),
            output_dpi=self.dpi,
            source_dpi=round(source_dpi, 1),
            note=_note(source_dpi, self),
        )


def preset_width_in(preset: Preset) -> float:
    """The middle of what is usual there, to the quarter of an inch."""
    return round(2 * sum(USUAL_WIDTHS_IN[preset])) / 4


def wanted_width_in(asked: PrintedSize) -> float | None:
    """The width asked for, in words or in inches; InvalidParameter for both."""
    if asked.preset is not None and asked.width_in is not None:
        raise InvalidParameter("preset: give either a preset or width_in.", field="preset")
    return asked.width_in if asked.preset is None else preset_width_in(asked.preset)


def size_for(width: int, height: int, asked: SizeParameters) -> PrintSize:
    """The result of a source of width x height pixels; the aspect is kept.

    With both inches given the picture fits inside them. Raises ScaleOutOfRange above 8x, and
    InvalidParameter for a scale together with inches, or a width together with a preset.
    """
    size = free_size_for(width, height, asked)
    if (scale := size.scale) > MAX_SCALE:
        raise ScaleOutOfRange(
            f"The picture would become {scale:.2f} times as large; it has {width} x {height} "
            f"pixels, and {MAX_SCALE} times is the most.",
            limit=MAX_SCALE,
            actual=round(scale, 4),
            hint="Send a larger picture, or ask for fewer inches or a lower dpi.",
        )
    return size


def free_size_for(width: int, height: int, asked: SizeParameters) -> PrintSize:
    """The same however large it becomes: what it would be, for those who only measure."""
    scale = _scale(width, height, asked)
    return PrintSize(_times(width, scale), _times(height, scale), scale, asked.dpi)


def _scale(width: int, height: int, asked: SizeParameters) -> float:
    inches = ((wanted_width_in(asked), width), (asked.height_in, height))
    wanted = [max(1, round(length * asked.dpi)) / pixels for length, pixels in inches if length]
    if wanted and asked.scale is not None:
        raise InvalidParameter("scale: give either a scale or a size in inches.", field="scale")
    return min(wanted) if wanted else asked.scale or DEFAULT_SCALE


def _times(pixels: int, scale: float) -> int:
    return max(1, int(pixels * scale + 0.5))


def _note(source_dpi: float, size: PrintSize) -> str:
    if size.scale <= 1:
        return f"The picture has {source_dpi:.0f} dpi of its own at this size."
    return (
        f"The picture has {source_dpi:.0f} dpi of its own at this size; enlarging to "
        f"{size.dpi:g} dpi interpolates between its pixels and adds no detail."
    )
