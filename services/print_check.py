"""How a picture will print at a size: fifteen checks, what each found, and what to do about it.

Pure. Lines, edges and specks are measured on the print as it will be (services/print_plane.py,
services/print_softness.py,
services/print_lines.py), at 300 dots an inch whatever it is made at; everything else on the
picture's own pixels, strip by strip. docs/PRINT.md has the limits, their sources and tolerances.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from models.images import Edge, Pixels
from models.print_check import (
    Autofix,
    Check,
    CheckId,
    NotChecked,
    PrintCheck,
    PrintLimits,
    Severity,
)
from models.schemas import SizeParameters
from services.print_colours import Contrast, StoredColour, contrast_at_edge, near_white_percent
from services.print_lines import ENOUGH_ISLANDS, Structure, StructureMeter, Wanted
from services.print_plane import BLOCK, Plane, edge_table, is_sampled
from services.print_size import PrintSize, free_size_for
from services.print_softness import MOST_BLOCKS, EdgeMeter, Edges
from services.records import visible_box
from utils.spans import spanned

UNIT_DPI = 300
"""Pixels of limits and measurements an inch."""

_PX = "px at 300 dpi"
_MM_A_PX = 25.4 / UNIT_DPI
_MOST_SCALE = 8.0  # of the plane; beyond it nothing but the same pixels would be seen
_LEAST_SCALE = 0.125  # below it a block of the plane would cover too much of the picture
_STRUCTURE_BLOCKS, _STRUCTURE_BLOCKS_A_MEGAPIXEL = 32, 12
_CLEAR_CORNER = 10  # alpha
_ROUNDED_OFF = 0.5  # dpi, by whole pixels and by PNG's pixels a metre

_ORDER = tuple(Severity)
_NO_TRANSPARENCY = "There is no transparency yet: looked at once the background is removed."


@dataclass(frozen=True, slots=True)
class Art:
    """What is to be printed: (h, w, 3) straight sRGB, (h, w) alpha or None where it is opaque.

    `colour` is how its file has the colours, None for what the service made itself.
    """

    rgb: Pixels
    alpha: Pixels | None
    colour: StoredColour | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """How it is to be printed; not `sized` means that nobody said, and its own pixels are taken."""

    size: SizeParameters
    sized: bool = True
    garment: str | None = None


@spanned("print_check")
def check_print(art: Art, wish: Wish, limits: PrintLimits) -> PrintCheck:
    """The whole report. CPU work: call it in the pool.

    Memory beside the picture does not grow with it: a strip and a block at a time.
    """
    report = _Report(limits)
    height, width = art.rgb.shape[:2]
    box = None if art.alpha is None else visible_box(art.alpha)
    margin = 0.0 if box is None else _margin_percent(box, width, height)
    if wish.size.trim and box is not None:
        art, margin = _cropped(art, box), 0.0
        height, width = art.rgb.shape[:2]
    size = free_size_for(width, height, wish.size)
    _judge_size(report, size, sized=wish.sized)
    report.add(_has_transparency(art.alpha, limits, empty=box is None))
    if art.alpha is None or box is None:
        report.skip_alpha("Nothing is visible." if art.alpha is not None else _NO_TRANSPARENCY)
    else:
        _judge_alpha(report, art.alpha, size, wish.size.edge)
        report.add(_margin(margin, size, limits))
    if box is not None or art.alpha is None:
        near_white = near_white_percent(art.rgb, art.alpha)
        report.add(_near_white(near_white, limits))
    report.add(_colour(art.colour))
    _judge_garment(report, art, wish.garment, visible=box is not None)
    return report.told(size, sized=wish.sized)


@dataclass(slots=True)
class _Report:
    limits: PrintLimits
    checks: list[Check] = field(default_factory=list)
    missing: list[NotChecked] = field(default_factory=list)

    def add(self, check: Check) -> None:
        self.checks.append(check)

    def skip(self, check: CheckId, reason: str) -> None:
        self.missing.append(NotChecked(id=check, reason=reason))

    def skip_alpha(self, reason: str) -> None:
        for check in _OF_ALPHA:
            self.skip(check, reason)
        if reason != _NO_TRANSPARENCY:
            self.skip(CheckId.NEAR_WHITE, reason)

    def told(self, size: PrintSize, *, sized: bool) -> PrintCheck:
        order = list(CheckId)
        checks = sorted(self.checks, key=lambda each: order.index(each.id))
        worst_first = sorted(checks, key=lambda each: -_ORDER.index(each.severity))
        troubled = [each for each in worst_first if each.severity is not Severity.PASS]
        return PrintCheck(
            verdict=max((each.severity for each in checks), key=_ORDER.index),
            sized=sized,
            width_in=round(size.width / size.dpi, 3),
            height_in=round(size.height / size.dpi, 3),
            effective_dpi=round(size.dpi / size.scale, 1),
            output_dpi=size.dpi,
            checks=checks,
            not_checked=sorted(self.missing, key=lambda each: order.index(each.id)),
            suggestions=list(dict.fromkeys(each.fix for each in troubled if each.fix)),
            autofixes=list(dict.fromkeys(each.autofix for each in troubled if each.autofix)),
        )


_OF_ALPHA = (
    CheckId.GHOST_PIXELS,
    CheckId.NEAR_OPAQUE,
    CheckId.SOFT_AREA,
    CheckId.EDGE_BAND,
    CheckId.STRAY_ISLANDS,
    CheckId.MIN_LINE,
    CheckId.MIN_GAP,
    CheckId.MARGIN,
)


def _cropped(art: Art, box: tuple[int, int, int, int]) -> Art:
    left, top, right, bottom = box
    alpha = None if art.alpha is None else art.alpha[top:bottom, left:right]
    return Art(art.rgb[top:bottom, left:right], alpha, art.colour)


def _graded(value: float, *, warn: float, fail: float) -> Severity:
    """By how much there is of something: more than `warn`, more than `fail`."""
    if value > fail:
        return Severity.FAIL
    return Severity.WARN if value > warn else Severity.PASS


# --- size


def _judge_size(report: _Report, size: PrintSize, *, sized: bool) -> None:
    limits = report.limits
    if sized:
        report.add(_effective_dpi(size, limits))
        report.add(_aspect_size(size, limits))
    else:
        for check in (CheckId.EFFECTIVE_DPI, CheckId.ASPECT_SIZE):
            report.skip(check, "Say how large it is printed: width_in, height_in or preset.")
    report.add(_output_dpi(size, limits))


def _effective_dpi(size: PrintSize, limits: PrintLimits) -> Check:
    dpi, target = size.dpi / size.scale, limits.target_dpi
    width_in = size.width / size.dpi * dpi / target
    severity = Severity.PASS
    if dpi < limits.least_dpi:
        severity, looks = Severity.FAIL, "It will look blurry, with visible steps."
    elif dpi < limits.poor_dpi:
        severity, looks = Severity.WARN, "It will look blurry, small text most of all."
    elif dpi < target - _ROUNDED_OFF:
        severity, looks = Severity.WARN, "It will look a little soft."
    else:
        looks = "That prints sharp."
    passes = severity is Severity.PASS
    return Check(
        id=CheckId.EFFECTIVE_DPI,
        severity=severity,
        measured=round(dpi, 1),
        limit=target,
        unit="dpi",
        issue=f"At this size the picture has {dpi:.0f} pixels of its own an inch; a sharp print "
        f"wants {target:g}. {looks}"
        if not passes
        else f"At this size the picture has {dpi:.0f} pixels of its own an inch. {looks}",
        fix=None
        if passes
        else f"Print it at most {width_in:.1f} in wide, or send a larger original. Enlarging it "
        f"fills the file up to {size.dpi:g} dpi but adds no detail.",
        autofix=None if passes else Autofix.RESIZE,
    )


def _output_dpi(size: PrintSize, limits: PrintLimits) -> Check:
    target = limits.target_dpi
    right = abs(size.dpi - target) <= _ROUNDED_OFF
    return Check(
        id=CheckId.OUTPUT_DPI,
        severity=Severity.PASS if right else Severity.WARN,
        measured=size.dpi,
        limit=target,
        unit="dpi",
        issue=f"The print is made at {size.dpi:g} dots an inch."
        if right
        else f"The print is made at {size.dpi:g} dots an inch; print shops expect {target:g}.",
        fix=None if right else f"Have it made at {target:g} dpi.",
        autofix=None if right else Autofix.RESIZE,
    )


def _aspect_size(size: PrintSize, limits: PrintLimits) -> Check:
    width, height, web = size.width / size.dpi, size.height / size.dpi, limits.web_in
    fits = width <= web + _ROUNDED_OFF / size.dpi
    turned = " Turned by a quarter it would fit." if height <= web else ""
    return Check(
        id=CheckId.ASPECT_SIZE,
        severity=Severity.PASS if fits else Severity.FAIL,
        measured=round(width, 2),
        limit=web,
        unit="in",
        issue=f"The print is {width:.1f} in wide and {height:.1f} in high."
        if fits
        else f"The print is {width:.1f} in wide; the film is {web:g} in wide.{turned}",
        fix=None if fits else f"Choose a width of at most {web:g} in.",
        autofix=None if fits else Autofix.RESIZE,
    )


def _margin_percent(box: tuple[int, int, int, int], width: int, height: int) -> float:
    """The larger of what is empty across and down, in percent of the canvas."""
    left, top, right, bottom = box
    return 100 * max(1 - (right - left) / width, 1 - (bottom - top) / height)


def _margin(percent: float, size: PrintSize, limits: PrintLimits) -> Check:
    tight = percent <= limits.most_margin_percent
    return Check(
        id=CheckId.MARGIN,
        severity=Severity.PASS if tight else Severity.WARN,
        measured=round(percent, 1),
        limit=limits.most_margin_percent,
        unit="% of the canvas",
        issue="The canvas ends where the artwork does."
        if tight
        else f"There is empty space around the artwork, {percent:.0f} % of the canvas. The size "
        f"ordered ({size.width / size.dpi:.1f} in wide) counts with it, so the artwork comes out "
        "smaller.",
        fix=None if tight else "Cut the empty space away, so that the artwork has the size.",
        autofix=None if tight else Autofix.TRIM,
    )


# --- alpha


def _has_transparency(alpha: Pixels | None, limits: PrintLimits, *, empty: bool) -> Check:
    percent = 0.0 if alpha is None else _clear_percent(alpha)
    corners = 0 if alpha is None else _clear_corners(alpha)
    remove = "Have the background removed first."
    if alpha is None:
        severity, fix = Severity.FAIL, remove
        issue = "The picture has no transparent background: all of it prints, as a rectangle."
    elif empty:
        severity, fix = Severity.FAIL, "Send the artwork again."
        issue = "Nothing in the picture is visible: an empty sheet would be printed."
    elif percent < limits.least_clear_percent or corners < 3:
        severity, fix = Severity.WARN, remove
        issue = (
            f"{percent:.1f} % of the picture is transparent and {corners} of its 4 corners are: "
            "the background may still be there, and would be printed."
        )
    else:
        severity, fix = Severity.PASS, None
        issue = f"The background is transparent ({percent:.0f} % of the picture)."
    return Check(
        id=CheckId.HAS_TRANSPARENCY,
        severity=severity,
        measured=round(percent, 2),
        limit=limits.least_clear_percent,
        unit="% of the canvas",
        issue=issue,
        fix=fix,
    )


def _clear_percent(alpha: Pixels) -> float:
    strips = (alpha[top : top + BLOCK] for top in range(0, len(alpha), BLOCK))
    return 100 * sum(each.size - int(np.count_nonzero(each)) for each in strips) / alpha.size


def _clear_corners(alpha: Pixels) -> int:
    return int(np.count_nonzero(alpha[np.ix_((0, -1), (0, -1))] <= _CLEAR_CORNER))


def _judge_alpha(report: _Report, alpha: Pixels, size: PrintSize, edge: Edge) -> None:
    limits = report.limits
    scale = size.scale * UNIT_DPI / size.dpi
    if scale < _LEAST_SCALE:
        factor = int(2 * _LEAST_SCALE / scale)
        alpha, scale = _averaged(alpha, factor), scale * factor
    plane = Plane(alpha, min(scale, _MOST_SCALE), edge_table(edge))
    edges, structure = _survey(
        plane,
        _affordable(plane),
        unit=scale,
        wanted=Wanted(limits.warn_line_px, limits.warn_gap_px, limits.least_island_px),
        ghost_reach_px=limits.most_ghost_reach_px,
    )
    if edge is not Edge.SOFT:
        structure.islands = 0  # the others drop them
    for judge in (_ghost_pixels, _near_opaque, _soft_area):
        report.add(judge(edges, limits))
    report.add(_edge_band(edges.width * scale / plane.scale, limits))
    for look in (_stray_islands, _min_line, _min_gap):
        report.add(look(structure, limits))


def _survey(
    plane: Plane, coarse: Plane, *, unit: float, wanted: Wanted, ghost_reach_px: float
) -> tuple[Edges, Structure]:
    """Edges of `plane`, lines, gaps and specks of `coarse`, which may be the same.

    `unit` is pixels at 300 dpi for one of the source's.
    """
    edges = EdgeMeter(plane, px=unit / plane.scale, ghost_reach_px=ghost_reach_px)
    structure = StructureMeter(coarse, px=unit / coarse.scale, wanted=wanted)
    if coarse is plane:
        changing, met = int(plane.varying.sum()), 0
        for block in plane.blocks():
            if block.alpha is None or is_sampled(met, MOST_BLOCKS, of=changing):
                edges.see(block)
            structure.see(block)
            met += block.alpha is not None
        return edges.edges(), structure.structure()
    for block in plane.blocks(most=MOST_BLOCKS):
        edges.see(block)
    for block in coarse.blocks():
        structure.see(block)
    return edges.edges(), structure.structure()


def _averaged(alpha: Pixels, factor: int) -> Pixels:
    """Squares of `factor` pixels as one, a strip at a time."""
    step = factor * max(1, BLOCK // factor)
    strips = [alpha[top : top + step] for top in range(0, len(alpha), step)]
    reduced = [Image.fromarray(np.ascontiguousarray(each)).reduce(factor) for each in strips]
    return np.concatenate([np.asarray(each) for each in reduced])


def _affordable(plane: Plane) -> Plane:
    """The same, or a coarser one where more changes than there is time to look at every block."""
    varying = int(plane.varying.sum())
    most = _STRUCTURE_BLOCKS + _STRUCTURE_BLOCKS_A_MEGAPIXEL * plane.source.size // 1_000_000
    if varying <= most:
        return plane
    return Plane(plane.source, plane.scale * float(most / varying) ** 0.5, plane.table)


def _ghost_pixels(edges: Edges, limits: PrintLimits) -> Check:
    percent = 100 * edges.loose / max(edges.canvas, 1)
    severity = _graded(percent, warn=0, fail=limits.most_ghost_percent)
    if edges.far:
        severity = Severity.FAIL
    passes = severity is Severity.PASS
    return Check(
        id=CheckId.GHOST_PIXELS,
        severity=severity,
        measured=round(percent, 4),
        limit=0,
        unit="% of the canvas",
        issue="Nothing nearly invisible lies around the artwork."
        if passes
        else f"{edges.loose:.0f} dots of the print are nearly invisible (at most 10 % opaque) and "
        "lie outside of the artwork's edge. The printer puts white ink under each of them: a pale "
        "outline or haze on a dark shirt.",
        fix=None if passes else "Clear what is nearly invisible.",
        autofix=None if passes else Autofix.GHOSTS,
    )


def _near_opaque(edges: Edges, limits: PrintLimits) -> Check:
    percent = 100 * edges.near_opaque / max(edges.subject, 1)
    passes = percent < limits.most_near_opaque_percent
    return Check(
        id=CheckId.NEAR_OPAQUE,
        severity=Severity.PASS if passes else Severity.WARN,
        measured=round(percent, 2),
        limit=limits.most_near_opaque_percent,
        unit="% of the artwork",
        issue="What looks solid is solid."
        if passes
        else f"{percent:.1f} % of the artwork looks solid but is not quite (90 to 99 % opaque): "
        "the shirt's colour may shine through unevenly.",
        fix=None if passes else "Make solid what is nearly solid.",
        autofix=None if passes else Autofix.EDGE_PRINT,
    )


def _soft_area(edges: Edges, limits: PrintLimits) -> Check:
    percent = 100 * edges.soft / max(edges.subject, 1)
    severity = _graded(percent, warn=limits.warn_soft_percent, fail=limits.most_soft_percent)
    if percent >= limits.warn_soft_percent and severity is Severity.PASS:
        severity = Severity.WARN
    passes = severity is Severity.PASS
    return Check(
        id=CheckId.SOFT_AREA,
        severity=severity,
        measured=round(percent, 2),
        limit=limits.warn_soft_percent,
        unit="% of the artwork",
        issue="There are no half-transparent areas to speak of."
        if passes
        else f"{percent:.1f} % of the artwork is half-transparent (a glow, a shadow, smoke or "
        "glass). The white ink below cannot fade: such areas print blotchy, with a white tinge.",
        fix=None if passes else "Turn the fading into small dots (halftone), or make it solid.",
        autofix=None if passes else Autofix.EDGE_HALFTONE,
    )


def _edge_band(width: float, limits: PrintLimits) -> Check:
    severity = _graded(round(width, 2), warn=limits.warn_edge_px, fail=limits.most_edge_px)
    passes = severity is Severity.PASS
    return Check(
        id=CheckId.EDGE_BAND,
        severity=severity,
        measured=round(width, 2),
        limit=limits.warn_edge_px,
        unit=_PX,
        issue=f"The edges are crisp: they fade over {width:.1f} px."
        if passes
        else f"The edges fade over {width:.1f} px ({width * _MM_A_PX:.2f} mm) on average; white "
        "ink shows beside an edge that fades.",
        fix=None if passes else "Make the edges hard.",
        autofix=None if passes else Autofix.EDGE_HARD,
    )


# --- lines, gaps, specks


def _stray_islands(structure: Structure, limits: PrintLimits) -> Check:
    count, size = structure.islands, limits.least_island_px
    severity = _graded(count, warn=0, fail=limits.most_islands)
    many = "at least " if count >= ENOUGH_ISLANDS else ""
    passes = severity is Severity.PASS
    across = f"{size:g} px ({size * _MM_A_PX:.1f} mm)"
    return Check(
        id=CheckId.STRAY_ISLANDS,
        severity=severity,
        measured=count,
        limit=0,
        unit="specks",
        issue=f"There are no specks smaller than {across}."
        if passes
        else f"There {'is 1 speck' if count == 1 else f'are {many}{count} specks'} smaller than "
        f"{across}. Dots so small do not hold on the shirt, or look like dirt.",
        fix=None if passes else "Drop them, unless they belong to the artwork.",
        autofix=None if passes else Autofix.ISLANDS,
    )


def _min_line(structure: Structure, limits: PrintLimits) -> Check:
    return _thinnest(
        CheckId.MIN_LINE,
        (structure.line, structure.line_length),
        (limits.warn_line_px, limits.least_line_px),
        ("line", "Lines so thin may not transfer, or come off in the wash."),
        "Make thin lines thicker, or print the artwork larger.",
    )


def _min_gap(structure: Structure, limits: PrintLimits) -> Check:
    return _thinnest(
        CheckId.MIN_GAP,
        (structure.gap, structure.gap_length),
        (limits.warn_gap_px, limits.least_gap_px),
        ("gap", "Gaps so narrow fill up with ink and glue."),
        "Widen narrow gaps, or print the artwork larger.",
    )


def _thinnest(
    check: CheckId,
    found: tuple[float | None, float],
    bounds: tuple[float, float],
    words: tuple[str, str],
    fix: str,
) -> Check:
    (width, length), (warn, least), (thing, trouble) = found, bounds, words
    if width is None:
        return Check(
            id=check,
            severity=Severity.PASS,
            limit=warn,
            unit=_PX,
            issue=f"No {thing} is thinner than {warn:g} px ({warn * _MM_A_PX:.1f} mm).",
        )
    return Check(
        id=check,
        severity=Severity.FAIL if width < least else Severity.WARN,
        measured=round(width, 1),
        limit=warn,
        unit=_PX,
        issue=f"The thinnest {thing} is {width:.1f} px ({width * _MM_A_PX:.2f} mm) wide; "
        f"{length / UNIT_DPI:.1f} in of {thing}s are thinner than {warn:g} px. {trouble}",
        fix=fix,
    )


# --- colours


def _near_white(percent: float, limits: PrintLimits) -> Check:
    passes = percent <= limits.most_near_white_percent
    return Check(
        id=CheckId.NEAR_WHITE,
        severity=Severity.PASS if passes else Severity.WARN,
        measured=round(percent, 3),
        limit=limits.most_near_white_percent,
        unit="% of the artwork",
        issue="White is pure white."
        if passes
        else f"{percent:.1f} % of the artwork is almost white but not quite: the printer adds "
        "a trace of ink there, which may look grey or rough beside pure white.",
        fix=None if passes else "Make almost white pure white.",
        autofix=None if passes else Autofix.SNAP_WHITE,
    )


def _colour(stored: StoredColour | None) -> Check:
    severity, issue, fix = Severity.PASS, "The colours are sRGB.", None
    if stored is not None and stored.name is not None:
        issue = f"The file's colours are {stored.name}, not sRGB; a few may change a little."
        severity, fix = Severity.WARN, "Look at the converted picture before it is printed."
    elif stored is not None and stored.is_cmyk:
        issue = "The file is CMYK and does not say which: its colours can only be guessed."
        severity, fix = Severity.FAIL, "Export it as sRGB."
    elif stored is not None and not stored.is_tagged:
        issue = "The file does not say which colours it has; they are taken as sRGB."
    return Check(id=CheckId.COLOUR, severity=severity, issue=issue, fix=fix)


def _judge_garment(report: _Report, art: Art, garment: str | None, *, visible: bool) -> None:
    if garment is None:
        report.skip(CheckId.VISIBLE_ON_GARMENT, "Say which colour the shirt has: garment.")
    elif art.alpha is None or not visible:
        reason = _NO_TRANSPARENCY if art.alpha is None else "Nothing is visible."
        report.skip(CheckId.VISIBLE_ON_GARMENT, reason)
    else:
        contrast = contrast_at_edge(art.rgb, art.alpha, garment, least=report.limits.least_contrast)
        report.add(_visible_on_garment(contrast, garment, report.limits))


def _visible_on_garment(contrast: Contrast, garment: str, limits: PrintLimits) -> Check:
    lost = contrast.lost_share > 0.5
    passes = contrast.mean >= limits.least_contrast and not lost
    return Check(
        id=CheckId.VISIBLE_ON_GARMENT,
        severity=Severity.PASS if passes else Severity.WARN,
        measured=round(contrast.mean, 2),
        limit=limits.least_contrast,
        unit=": 1",
        issue=f"The artwork's edge stands out from the shirt ({garment}), "
        f"{contrast.mean:.1f} : 1 on average."
        if passes
        else f"{100 * contrast.lost_share:.0f} % of the artwork's edge has nearly the shirt's "
        f"colour ({garment}) and will hardly be seen.",
        fix=None if passes else "Choose another shirt, or give the artwork an outline.",
    )
