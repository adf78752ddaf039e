"""Print checks measure what was drawn, within the tolerance that docs/PRINT.md states."""

import re
import tracemalloc
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from models.images import Edge, Pixels
from models.print_check import CheckId, PrintCheck, PrintLimits, Severity
from models.schemas import SizeParameters
from services.edge_modes import EdgeFinish
from services.lanczos import Resizing
from services.print_check import Art, Wish, check_print
from services.print_colours import StoredColour, garment_colour
from services.ringing import finish_alpha
from tests.services.drawings import alarms, art, bar, blank, checked, disc, measured, of, ramp

LINE_TOLERANCE = 0.5  # px, where the picture has 300 dpi
EDGE_TOLERANCE = 0.5


# --- lines and gaps


@pytest.mark.parametrize("angle", [0, 17, 45, 90])
@pytest.mark.parametrize("width", range(1, 13))
def test_a_line_measures_its_width(width: int, angle: int) -> None:
    found = of(checked(bar(width, angle=angle)), CheckId.MIN_LINE)
    wanted = Severity.FAIL if width < 4 else Severity.WARN if width < 6 else Severity.PASS
    if width not in (4, 6):  # within the tolerance of a limit either may be said
        assert found.severity == wanted
    if width < 6 - LINE_TOLERANCE:
        assert found.measured == pytest.approx(width, abs=LINE_TOLERANCE)
        length_in = float(re.findall(r"([\d.]+) in of", found.issue)[0])
        assert length_in == pytest.approx(1, abs=0.3), "a 300-pixel line, drawn at 300 dpi"


@pytest.mark.parametrize("width", range(1, 13))
def test_a_gap_measures_its_width(width: int) -> None:
    alpha = blank()
    alpha[50:350, 50:350] = 255
    alpha[40:360, 200 : 200 + width] = 0
    found = of(checked(alpha), CheckId.MIN_GAP)
    wanted = Severity.FAIL if width < 6 else Severity.WARN if width < 8 else Severity.PASS
    assert found.severity == wanted or width == 6
    if width < 8:
        assert found.measured == pytest.approx(width, abs=LINE_TOLERANCE)


@pytest.mark.parametrize("scale", [0.5, 2, 3.3])
def test_a_line_is_measured_as_wide_as_it_is_printed(scale: float) -> None:
    wide = 4 / scale
    found = measured(bar(wide), CheckId.MIN_LINE, scale=scale)
    assert found == pytest.approx(4, abs=max(LINE_TOLERANCE, 0.5 * scale))


def test_sizes_are_physical_whatever_the_dpi() -> None:
    line = bar(3)
    assert measured(line, CheckId.MIN_LINE, width_in=400 / 300, dpi=600) == pytest.approx(
        3, abs=LINE_TOLERANCE
    )
    assert measured(line, CheckId.MIN_LINE, width_in=400 / 300, dpi=150) == pytest.approx(
        3, abs=LINE_TOLERANCE
    )


def test_corners_dots_and_tips_are_no_lines() -> None:
    alpha = blank()
    alpha[50:150, 50:150] = 255  # corners of 90 degrees
    alpha[200:212, 200:212] = 255
    picture = Image.fromarray(alpha)
    pen = ImageDraw.Draw(picture)
    pen.polygon([(250, 50), (350, 90), (250, 130)], fill=255)  # a tip of 44 degrees
    report = checked(np.asarray(picture))
    assert of(report, CheckId.MIN_LINE).severity == "pass"


def test_what_a_veil_fills_is_no_gap() -> None:
    alpha = blank()
    alpha[50:350, 50:350] = 255
    alpha[50:350, 200:205] = 110
    assert of(checked(alpha), CheckId.MIN_GAP).severity == "pass"


@pytest.mark.parametrize(("points", "wanted"), [(6, {"fail"}), (30, {"warn", "pass"})])
def test_small_text_has_thin_lines_and_large_text_has_not(points: int, wanted: set[str]) -> None:
    """A grotesque's stems are about a seventh of its size: 6 points are 25 px at 300 dpi."""
    picture = Image.new("L", (900, 220))
    font = ImageFont.load_default(size=points * 300 / 72)
    ImageDraw.Draw(picture).text((20, 20), "Hill", font=font, fill=255)
    assert of(checked(np.asarray(picture)), CheckId.MIN_LINE).severity in wanted


# --- specks


@pytest.mark.parametrize(
    ("count", "wanted"), [(0, "pass"), (1, "warn"), (20, "warn"), (21, "fail")]
)
def test_every_speck_is_counted_once_wherever_blocks_meet(count: int, wanted: str) -> None:
    alpha = np.zeros((700, 700), np.uint8)
    alpha[10:200, 10:690] = 255
    places = [(y, x) for y in range(240, 680, 64) for x in range(252, 690, 128)][:count]
    for y, x in places:
        alpha[y : y + 5, x : x + 5] = 180
    found = of(checked(alpha), CheckId.STRAY_ISLANDS)
    assert (found.measured, found.severity) == (count, wanted)


def test_of_very_many_specks_it_is_enough_to_know_that() -> None:
    y, x = np.mgrid[:1000, :1000]
    report = checked(np.where((y % 4 == 0) & (x % 4 == 0), 255, 0).astype(np.uint8))
    found = of(report, CheckId.STRAY_ISLANDS)
    assert found.measured is not None
    assert 10_000 <= found.measured < 20_000, "there are 62 500"
    assert "at least" in found.issue


def test_a_dot_of_half_a_millimetre_is_no_speck() -> None:
    alpha = disc(radius=60)
    alpha[10:16, 10:16] = 255
    assert measured(alpha, CheckId.STRAY_ISLANDS) == 0


def test_an_edge_that_drops_specks_has_none() -> None:
    alpha = disc(radius=60)
    alpha[10:13, 10:13] = 255
    for edge in (Edge.PRINT, Edge.HARD, Edge.HALFTONE):
        assert measured(alpha, CheckId.STRAY_ISLANDS, edge=edge) == 0


def test_specks_grow_with_the_print() -> None:
    alpha = disc(radius=60)
    alpha[10:13, 10:13] = 255
    assert measured(alpha, CheckId.STRAY_ISLANDS) == 1
    assert measured(alpha, CheckId.STRAY_ISLANDS, scale=3) == 0


# --- edges


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8])
def test_an_edge_measures_over_how_much_it_fades(width: int) -> None:
    assert measured(ramp(width), CheckId.EDGE_BAND) == pytest.approx(width, abs=EDGE_TOLERANCE)


def test_a_round_edge_measures_the_same_as_a_straight_one() -> None:
    wide = np.asarray(Image.fromarray(disc()).filter(ImageFilter.BoxBlur(2.5)))
    found = measured(wide, CheckId.EDGE_BAND)
    # a box of 6 pixels: of its 255 levels 204 are partial
    assert found == pytest.approx(6 * 204 / 255, abs=EDGE_TOLERANCE)


@pytest.mark.parametrize(
    ("scale", "edge"), list(product([1.5, 4], [Edge.SOFT, Edge.PRINT, Edge.HARD]))
)
def test_what_is_counted_is_what_the_enlargement_has(scale: float, edge: Edge) -> None:
    """Against the print itself, made by the code that makes it: within two percent."""
    alpha = disc(200, 70)
    side = round(200 * scale)
    (strip,) = Resizing(200, 200, side, side).strips(200)
    window = np.dstack([alpha, alpha])
    made = finish_alpha(strip.resize(window), window=window, strip=strip, edge=EdgeFinish(edge))[
        ..., 1
    ]
    printed, predicted = checked(made), checked(alpha, scale=scale, edge=edge)
    for check in (CheckId.GHOST_PIXELS, CheckId.NEAR_OPAQUE, CheckId.EDGE_BAND):
        wanted = of(printed, check).measured
        assert of(predicted, check).measured == pytest.approx(wanted, rel=0.02, abs=0.02), check


def test_ghosts_are_what_no_edge_explains() -> None:
    alpha = disc()
    assert measured(alpha, CheckId.GHOST_PIXELS) == 0, "its anti-aliasing is its own"
    alpha[10:20, 10:20] = 12
    found = of(checked(alpha), CheckId.GHOST_PIXELS)
    assert found.measured == pytest.approx(100 * 100 / 400**2, rel=0.001)
    assert found.severity == "fail", "far from everything"
    assert found.autofix == "ghosts"
    near = disc()
    near[200, 353] = 12
    assert of(checked(near), CheckId.GHOST_PIXELS).severity == "warn"


def test_the_edge_that_clears_ghosts_clears_the_alarm() -> None:
    alpha = disc(radius=60)
    alpha[10:20, 10:20] = 12
    assert CheckId.GHOST_PIXELS not in alarms(checked(alpha, edge="print"))
    soft = checked(disc(), scale=4)
    assert of(soft, CheckId.GHOST_PIXELS).severity == "fail"
    assert of(soft, CheckId.EDGE_BAND).autofix == "edge=hard"
    hard = checked(disc(), scale=4, edge="hard")
    assert not alarms(hard) & {CheckId.GHOST_PIXELS, CheckId.EDGE_BAND}


@pytest.mark.parametrize(("percent", "wanted"), [(0.3, "pass"), (2, "warn"), (10, "fail")])
def test_a_half_transparent_area_is_measured(percent: float, wanted: str) -> None:
    alpha = blank(500)
    alpha[100:400, 100:400] = 255
    rows = round(300 * percent / 100)
    alpha[250 : 250 + rows, 100:400] = 160
    found = of(checked(alpha), CheckId.SOFT_AREA)
    assert found.severity == wanted
    assert found.measured == pytest.approx(percent, abs=0.3)


def test_a_glow_is_a_soft_area_with_ghosts_and_a_veil_has_crisp_edges() -> None:
    y, x = np.mgrid[:400, :400]
    away = np.hypot(y - 200, x - 200)
    glow = np.clip(255 * (180 - away) / 80, 0, 255).astype(np.uint8)
    assert {CheckId.SOFT_AREA, CheckId.GHOST_PIXELS} <= alarms(checked(glow))
    veil = np.where(away < 120, 140, 0).astype(np.uint8)
    report = checked(veil)
    assert of(report, CheckId.SOFT_AREA).severity == "fail"
    assert of(report, CheckId.SOFT_AREA).autofix == "edge=halftone"
    assert of(report, CheckId.EDGE_BAND).severity == "pass"
    dots = checked(veil, edge=Edge.HALFTONE)
    assert of(dots, CheckId.SOFT_AREA).severity == "pass"


def test_nearly_solid_artwork_is_measured_without_its_rim() -> None:
    alpha = disc()
    assert measured(alpha, CheckId.NEAR_OPAQUE) == 0
    alpha[180:220, 180:220] = 245
    share = 100 * 1600 / float((alpha > 25).sum())
    assert measured(alpha, CheckId.NEAR_OPAQUE) == pytest.approx(share, abs=0.01)
    assert measured(alpha, CheckId.NEAR_OPAQUE, edge="print") == 0


# --- everything else


def test_a_checkerboard_of_large_squares_is_clean_and_one_of_small_squares_is_specks() -> None:
    assert not alarms(checked(_board(40))) & {CheckId.STRAY_ISLANDS, CheckId.MIN_LINE}
    # squares that touch at corners are one part: these stand apart
    y, x = np.mgrid[:400, :400]
    small = np.where((y % 20 < 5) & (x % 20 < 5), 255, 0).astype(np.uint8)
    assert measured(small, CheckId.STRAY_ISLANDS) == 400


def _board(square: int) -> Pixels:
    y, x = np.mgrid[:400, :400] // square
    return np.where((y + x) % 2, 255, 0).astype(np.uint8)


@pytest.mark.parametrize(
    ("dpi", "wanted"), [(300, "pass"), (299, "warn"), (200, "warn"), (150, "warn"), (149, "fail")]
)
def test_effective_dpi_is_the_pictures_own(dpi: int, wanted: str) -> None:
    report = checked(np.zeros((30, 3000), np.uint8), width_in=3000 / dpi)
    found = of(report, CheckId.EFFECTIVE_DPI)
    assert found.measured == pytest.approx(dpi, abs=0.5)
    assert found.severity == wanted
    assert report.effective_dpi == found.measured
    assert report.output_dpi == 300


def test_more_than_eight_times_is_reported_and_not_refused() -> None:
    report = checked(disc(100, 40), width_in=20)
    assert of(report, CheckId.EFFECTIVE_DPI).measured == 5
    assert report.verdict == "fail"


def test_output_dpi_is_what_is_asked_for() -> None:
    found = of(checked(disc(), width_in=1, dpi=150), CheckId.OUTPUT_DPI)
    assert (found.measured, found.severity) == (150, "warn")


@pytest.mark.parametrize(("width_in", "wanted"), [(22, "pass"), (22.1, "fail")])
def test_the_web_has_a_width(width_in: float, wanted: str) -> None:
    assert of(checked(disc(), width_in=width_in), CheckId.ASPECT_SIZE).severity == wanted


def test_transparency_is_told_from_its_absence() -> None:
    assert of(checked(disc()), CheckId.HAS_TRANSPARENCY).severity == "pass"
    opaque = check_print(
        Art(np.zeros((40, 40, 3), np.uint8), None), Wish(SizeParameters(scale=1)), PrintLimits()
    )
    assert of(opaque, CheckId.HAS_TRANSPARENCY).severity == "fail"
    assert CheckId.MIN_LINE in {each.id for each in opaque.not_checked}
    cornered = 255 - disc()
    assert of(checked(cornered), CheckId.HAS_TRANSPARENCY).severity == "warn"
    nothing = checked(blank())
    assert nothing.verdict == "fail"
    assert CheckId.GHOST_PIXELS in {each.id for each in nothing.not_checked}


def test_a_margin_is_measured_and_trimmed_away() -> None:
    alpha = blank()
    alpha[100:300, 50:350] = 255
    found = of(checked(alpha), CheckId.MARGIN)
    assert (found.measured, found.severity, found.autofix) == (50, "warn", "trim")
    trimmed = checked(alpha, width_in=1, trim=True)
    assert of(trimmed, CheckId.MARGIN).severity == "pass"
    assert of(trimmed, CheckId.EFFECTIVE_DPI).measured == 300, "of the artwork alone"


def test_almost_white_is_measured_where_it_is_visible() -> None:
    rgb = np.full((100, 100, 3), 255, np.uint8)
    rgb[:50] = (252, 254, 250)
    alpha = np.full((100, 100), 255, np.uint8)
    alpha[:25] = 0
    wish = Wish(SizeParameters(scale=1))
    found = of(check_print(Art(rgb, alpha), wish, PrintLimits()), CheckId.NEAR_WHITE)
    assert found.measured == pytest.approx(100 / 3, abs=0.01)
    assert (found.severity, found.autofix) == ("warn", "snap_white")


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (None, "pass"),
        (StoredColour(), "pass"),
        (StoredColour(is_tagged=True), "pass"),
        (StoredColour(is_tagged=True, name="Display P3"), "warn"),
        (StoredColour(is_cmyk=True, is_tagged=True, name="FOGRA39"), "warn"),
        (StoredColour(is_cmyk=True), "fail"),
    ],
)
def test_colours_that_must_be_guessed_fail(stored: StoredColour | None, wanted: str) -> None:
    drawn = art(disc(100, 40))
    wish = Wish(SizeParameters(scale=1))
    report = check_print(Art(drawn.rgb, drawn.alpha, stored), wish, PrintLimits())
    assert of(report, CheckId.COLOUR).severity == wanted


def test_artwork_of_the_shirts_colour_is_told() -> None:
    drawn = art(disc(), (20, 20, 20))

    def on(garment: str) -> PrintCheck:
        return check_print(drawn, Wish(SizeParameters(scale=1), garment=garment), PrintLimits())

    black, white = (of(on(each), CheckId.VISIBLE_ON_GARMENT) for each in ("black", "#ffffff"))
    assert black.severity == "warn"
    assert "100 %" in black.issue
    luminance = ((20 / 255 + 0.055) / 1.055) ** 2.4
    assert white.measured == pytest.approx(1.05 / (luminance + 0.05), abs=0.01)
    assert white.severity == "pass"
    assert garment_colour("A0b1C2") == (160, 177, 194)


def test_clean_artwork_at_its_size_raises_no_alarm() -> None:
    alpha = np.maximum(disc(600, 180), bar(14, side=600, length=590))
    alpha = np.maximum(alpha, bar(16, angle=60, side=600, length=560))
    tight = np.ascontiguousarray(alpha[3:-3])
    report = checked(tight, scale=1, trim=True, garment="white")
    assert alarms(report) == set()
    assert report.verdict == "pass"
    assert report.suggestions == []
    assert report.autofixes == []
    assert {each.id for each in report.checks} == set(CheckId)


def test_what_is_wrong_is_said_in_words_and_numbers_with_the_worst_first() -> None:
    alpha = np.maximum(bar(2), blank())
    report = checked(alpha, width_in=4, garment="black")
    for check in report.checks:
        troubled = check.severity != "pass"
        assert check.issue.endswith(".")
        assert bool(check.fix) is troubled
        if troubled and check.measured is not None:
            assert re.search(r"\d", check.issue)
        assert not re.search(r"alpha|matte|premultiplied|RIP|None|nan", check.issue), check.issue
    assert report.suggestions[0].startswith("Print it at most"), "100 dpi fail"
    assert report.verdict == "fail"


def test_limits_are_the_callers() -> None:
    line = bar(5)
    lenient = PrintLimits(warn_line_px=3, least_line_px=2)
    report = check_print(art(line), Wish(SizeParameters(scale=1)), lenient)
    assert of(report, CheckId.MIN_LINE).severity == "pass"
    assert of(checked(line), CheckId.MIN_LINE).severity == "warn"


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 900), (900, 1), (2, 3), (255, 257), (300, 40), (41, 600)]
)
def test_no_shape_or_alpha_crashes_it(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape[0])
    noise = rng.integers(0, 256, shape, dtype=np.uint8)
    speckled = np.where(rng.random(shape) < 0.03, 255, 0).astype(np.uint8)
    veil = np.full(shape, 100, np.uint8)
    for alpha in (noise, speckled, veil, np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)):
        for asked in (
            {},
            {"scale": 0.01, "edge": "hard"},
            {"scale": 1.37, "trim": True, "edge": "print"},
            {"width_in": 3, "dpi": 600},
        ):
            report = checked(alpha, garment="heather", **asked)
            judged = {each.id for each in report.checks} | {e.id for e in report.not_checked}
            assert judged == set(CheckId)
            assert len(report.checks) + len(report.not_checked) == len(judged)


def test_a_sample_of_many_blocks_measures_like_all_of_them() -> None:
    """A disc of its own in every block: 64 of them, of which 40 are looked at."""
    one = np.zeros((256, 256), np.uint8)
    one[28:228, 28:228] = disc(200, 90)
    many = np.tile(one, (8, 8))
    for check in (CheckId.EDGE_BAND, CheckId.GHOST_PIXELS, CheckId.NEAR_OPAQUE):
        few = measured(np.tile(one, (2, 2)), check)
        assert measured(many, check) == pytest.approx(few, rel=0.02, abs=0.001), check


def test_memory_beside_the_picture_does_not_grow_with_it() -> None:
    alpha = np.tile(disc(500, 200), (4, 4))
    drawn = art(alpha)
    wish = Wish(SizeParameters(scale=2), garment="black")
    tracemalloc.start()
    check_print(drawn, wish, PrintLimits())
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 8 << 20, "of a picture of 16 MB, printed at 16 megapixels"
