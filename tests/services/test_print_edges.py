"""What an edge mode leaves of a cut-out and of a print, and that its counts are true."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from models.errors import InvalidParameter
from models.images import Cutout, Edge, Pixels
from models.schemas import EdgeCounts, EdgeParameters
from services.edge_modes import GHOST, SOLID, EdgeFinish, finish_of
from services.print_edges import edged
from tests.printing import enlarged

INK = (200, 30, 60)
EIGHT = np.ones((3, 3), np.bool_)
NOT_SOFT = [edge for edge in Edge if edge is not Edge.SOFT]


def painted(alpha: Pixels) -> Pixels:
    return np.dstack((np.broadcast_to(np.array(INK, np.uint8), (*alpha.shape, 3)), alpha))


def cutout_of(alpha: Pixels) -> Cutout:
    return Cutout(rgb=painted(alpha)[..., :3].copy(), alpha=alpha)


def disc(radius: float, side: int, *, soft: float = 0.01) -> Pixels:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    share = ((radius - np.hypot(x, y)) / soft + 0.5).clip(0, 1)
    return np.asarray(np.rint(share * 255), np.uint8)


def glow() -> Pixels:
    """A soft disc with a ghost of a veil, a detached ghost and two specks."""
    alpha = disc(50, 200, soft=60)
    alpha[5:15, 5:15] = 20
    alpha[190:193, 10:13] = 255
    alpha[180:184, 180:185] = 90
    return alpha


def lettering() -> Pixels:
    picture = Image.new("L", (220, 60))
    ImageDraw.Draw(picture).text((8, 4), "BODRAG 8%", 255, ImageFont.load_default(36))
    return np.asarray(picture)


def counts(alpha: Pixels) -> EdgeCounts:
    return EdgeCounts(
        ghost=int(((alpha >= 1) & (alpha <= GHOST)).sum()),
        semi_transparent=int(((alpha >= 1) & (alpha <= 254)).sum()),
        near_opaque=int(((alpha >= SOLID) & (alpha <= 254)).sum()),
    )


def every_level() -> Pixels:
    """Wide bars of each alpha, so that nothing is an edge."""
    return np.repeat(np.repeat(np.arange(256, dtype=np.uint8), 12)[None], 90, axis=0)


@pytest.mark.parametrize("edge", Edge)
def test_the_report_counts_what_was_there_and_what_is_left(edge: Edge) -> None:
    for alpha in (glow(), every_level(), lettering()):
        cutout = cutout_of(alpha)
        changed, report = edged(cutout, EdgeFinish(edge))
        assert report.edge is edge
        assert report.after == counts(changed.alpha)
        if report.islands_dropped == 0:
            assert report.before == counts(alpha)
        assert np.array_equal(cutout.alpha, alpha)  # the caller's own is left alone
    _, report = edged(cutout_of(glow()), EdgeFinish(edge))
    assert report.islands_dropped == {Edge.SOFT: 0, Edge.HARD: 1}.get(edge, 2)


def test_soft_leaves_a_cutout_as_it_is() -> None:
    changed, report = edged(cutout_of(glow()), EdgeFinish())
    assert np.array_equal(changed.alpha, glow())
    assert (changed.rgb == INK).all()  # also the colours that go on under alpha 0
    assert report.before == report.after


def test_print_maps_each_alpha_as_it_says() -> None:
    changed, report = edged(cutout_of(every_level()), EdgeFinish(Edge.PRINT))
    levels = np.arange(256)
    wanted = np.where(levels <= 25, 0, np.where(levels >= 230, 255, levels))
    assert np.array_equal(changed.alpha[40, 6::12], wanted)
    assert (report.after.ghost, report.after.near_opaque) == (0, 0)
    assert report.after.semi_transparent == 90 * 12 * 204


@pytest.mark.parametrize("edge", NOT_SOFT)
@pytest.mark.parametrize("scale", [1, 4])
def test_no_ghost_and_no_hidden_colour_is_left(edge: Edge, scale: int) -> None:
    for alpha in (glow(), lettering(), disc(30, 90)):
        got, report = enlarged(painted(alpha), EdgeFinish(edge), scale=scale)
        assert report.after.ghost == report.after.near_opaque == 0
        assert report.after == counts(got[..., 3])
        assert not got[got[..., 3] == 0].any()
        if edge is not Edge.PRINT:
            assert set(np.unique(got[..., 3])) == {0, 255}


@pytest.mark.parametrize("edge", NOT_SOFT)
def test_a_cutout_at_its_own_size_is_its_print_at_scale_1(edge: Edge) -> None:
    changed, report = edged(cutout_of(glow()), EdgeFinish(edge))
    got, printed = enlarged(painted(glow()), EdgeFinish(edge), scale=1, rows=37)
    assert np.array_equal(np.dstack((changed.rgb, changed.alpha)), got)
    assert printed == report


@pytest.mark.parametrize("edge", Edge)
def test_a_cutout_may_be_given_a_size(edge: Edge) -> None:
    """As an enlargement of its file would be."""
    changed, report = edged(cutout_of(glow()), EdgeFinish(edge), size=(400, 400))
    got, printed = enlarged(painted(glow()), EdgeFinish(edge), scale=2)
    assert np.array_equal(np.dstack((changed.rgb, changed.alpha)), got)
    assert printed == report


@pytest.mark.parametrize("edge", Edge)
@pytest.mark.parametrize("scale", [1, 2, 2.6, 0.7])
def test_pixels_and_counts_do_not_depend_on_the_strips(edge: Edge, scale: float) -> None:
    """Halftone's dots belong to places on the page."""
    finish = EdgeFinish(edge, lpi=40, angle=30)
    for alpha in (glow(), lettering()):
        whole, report = enlarged(painted(alpha), finish, scale=scale)
        aligned = scale in (
            1,
            2,
        )  # where strips end on rows of both, Lanczos is the same to the bit
        for rows in (1, 7, 33) if aligned else (1000,):
            got, counted = enlarged(painted(alpha), finish, scale=scale, rows=rows)
            assert np.array_equal(got, whole)
            assert counted == report


@pytest.mark.parametrize("edge", [Edge.HARD, Edge.PRINT, Edge.HALFTONE])
def test_one_pixel_lines_survive_enlarging(edge: Edge) -> None:
    alpha = np.zeros((60, 60), np.uint8)
    alpha[10, 5:55] = alpha[20:55, 30] = 255
    got, report = enlarged(painted(alpha), EdgeFinish(edge))
    shown = got[..., 3] >= 128
    thick = shown[:, 80].sum(), shown[160, :].sum()
    assert all(3 <= each <= 5 for each in thick)
    assert got[..., 3].max() == 255
    assert ndimage.label(shown, EIGHT)[1] == 2
    assert report.islands_dropped == 0


@pytest.mark.parametrize("edge", NOT_SOFT)
@pytest.mark.parametrize("scale", [1, 4])
def test_letters_keep_their_counters(edge: Edge, scale: int) -> None:
    holes = ndimage.label(lettering() < 128)[1]
    got, _ = enlarged(painted(lettering()), EdgeFinish(edge), scale=scale)
    assert ndimage.label(got[..., 3] < 128)[1] == holes
    assert holes >= 10


def test_a_hard_disc_stays_a_crisp_disc_in_halftone() -> None:
    got, _ = enlarged(painted(disc(30, 90)), EdgeFinish(Edge.HALFTONE))
    hard, _ = enlarged(painted(disc(30, 90)), EdgeFinish(Edge.HARD))
    assert np.array_equal(got, hard)


@pytest.mark.parametrize("level", [26, 60, 128, 200, 229])
@pytest.mark.parametrize("scale", [1, 4])
def test_a_veil_becomes_dots_of_its_own_area(level: int, scale: int) -> None:
    alpha = np.zeros((150, 150), np.uint8)
    alpha[10:140, 10:140] = level
    got, _ = enlarged(painted(alpha), EdgeFinish(Edge.HALFTONE), scale=scale)
    inside = got[20 * scale : 130 * scale, 20 * scale : 130 * scale, 3] == 255
    dots = (110 * scale * 45 / 300) ** 2
    cut_off = 4 / np.sqrt(dots) / 25  # dots that the window's rim cuts
    assert inside.mean() == pytest.approx(level / 255, abs=1 / 255 + cut_off)


def test_a_gradient_keeps_its_tones() -> None:
    ramp = np.repeat(np.linspace(30, 225, 600).round().astype(np.uint8)[None], 300, axis=0)
    got, _ = enlarged(painted(ramp), EdgeFinish(Edge.HALFTONE), scale=1)
    tones = [part.mean() for part in np.split(got[..., 3] / 255, 6, axis=1)]
    wanted = [part.mean() for part in np.split(ramp / 255, 6, axis=1)]
    assert tones == pytest.approx(wanted, abs=0.01)
    assert all(first < second for first, second in pairwise(tones))


def test_islands_are_measured_in_print() -> None:
    """Half a millimetre is 6 pixels at 300 dpi, one and a half of a source enlarged four times."""
    alpha = np.zeros((100, 100), np.uint8)
    alpha[40:80, 40:80] = alpha[10, 10] = 255
    alpha[20:25, 60:65] = 255
    assert edged(cutout_of(alpha), EdgeFinish(Edge.PRINT))[1].islands_dropped == 2
    assert edged(cutout_of(alpha), EdgeFinish(Edge.PRINT, dpi=150))[1].islands_dropped == 1
    assert enlarged(painted(alpha), EdgeFinish(Edge.PRINT))[1].islands_dropped == 1


@pytest.mark.parametrize(
    ("asked", "limit"), [({"lpi": 80}, 75), ({"dpi": 72}, 18), ({"dpi": 2000, "lpi": 10}, 15.625)]
)
def test_a_screen_that_the_dpi_cannot_hold_is_refused(
    asked: dict[str, float], limit: float
) -> None:
    with pytest.raises(InvalidParameter) as refused:
        finish_of(EdgeParameters(edge=Edge.HALFTONE, **asked))
    assert refused.value.field == "lpi"
    assert refused.value.limit == limit
    assert finish_of(EdgeParameters(edge=Edge.PRINT, **asked)).edge is Edge.PRINT
