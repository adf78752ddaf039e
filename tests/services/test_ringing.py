"""An enlarged alpha has no value that its source did not have nearby."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from models.images import Edge, Pixels
from services.edge_modes import GHOST, SOLID, EdgeFinish
from tests.printing import enlarged

SCALE = 4


def enlarge(
    pixels: Pixels, edge: Edge = Edge.SOFT, *, scale: float = SCALE, rows: int = 16
) -> Pixels:
    return enlarged(pixels, EdgeFinish(edge), scale=scale, rows=rows)[0]


def lanczos(pixels: Pixels, scale: int = SCALE) -> Pixels:
    size = (pixels.shape[1] * scale, pixels.shape[0] * scale)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def painted(alpha: Pixels, colour: tuple[int, int, int] = (200, 30, 60)) -> Pixels:
    pixels = np.zeros((*alpha.shape, 4), np.uint8)
    pixels[alpha > 0, :3] = colour
    pixels[..., 3] = alpha
    return pixels


def disc(side: int = 96) -> Pixels:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.where(np.hypot(x, y) < side / 3, 255, 0).astype(np.uint8)


def lines(side: int = 96) -> Pixels:
    alpha = np.zeros((side, side), np.uint8)
    alpha[8:-8:8, 8:-8] = 255
    return alpha


def shadow(side: int = 96) -> Pixels:
    blurred = ndimage.gaussian_filter(disc(side).astype(float), 6)
    return np.asarray(np.round(blurred), np.uint8)


def text() -> Pixels:
    picture = Image.new("L", (160, 48))
    ImageDraw.Draw(picture).text((6, 8), "Rag 8%", fill=255, font=ImageFont.load_default(28))
    return np.asarray(picture)


def ghosts(alpha: Pixels) -> int:
    return int(((alpha > 0) & (alpha <= GHOST)).sum())


def farthest_ghost(alpha: Pixels) -> float:
    """Pixels of the result between the half-opaque edge and the ghost farthest outside of it."""
    outside = ndimage.distance_transform_edt(alpha < 128)
    return float(outside[(alpha > 0) & (alpha <= GHOST)].max(initial=0))


@pytest.mark.parametrize("draw", [disc, lines, shadow, text])
def test_alpha_lies_between_the_source_pixels_around_it(draw: object) -> None:
    source = draw()  # type: ignore[operator]  # one of the pictures above
    got = enlarge(painted(source))[..., 3]
    for extreme, beyond in (
        (ndimage.minimum_filter, np.less),
        (ndimage.maximum_filter, np.greater),
    ):
        bound = extreme(source, size=3, mode="nearest")
        bound = np.repeat(np.repeat(bound, SCALE, axis=0), SCALE, axis=1)
        assert not beyond(got, bound).any()


def test_a_hard_disc_loses_the_ring_that_lanczos_draws_around_it() -> None:
    plain, got = lanczos(painted(disc()))[..., 3], enlarge(painted(disc()))[..., 3]
    assert farthest_ghost(plain) > 8  # two source pixels: 0.7 mm at 300 dpi
    assert farthest_ghost(got) <= 1.65 * SCALE  # within the pixels that touch the edge
    assert ghosts(got) < ghosts(plain) / 2
    inside = ndimage.distance_transform_edt(got >= 128) > 2 * SCALE
    assert (got[inside] == 255).all()
    assert (plain[inside] < 255).any()


def test_thin_lines_reach_full_opacity_with_print() -> None:
    plain = lanczos(painted(lines()))[..., 3]
    got, printed = (enlarge(painted(lines()), edge)[..., 3] for edge in (Edge.SOFT, Edge.PRINT))
    assert plain.max() < 255
    assert ghosts(got) < ghosts(plain) / 20
    assert ghosts(printed) == 0
    assert printed.max() == 255


def test_a_soft_shadow_stays_as_lanczos_made_it() -> None:
    plain = lanczos(painted(shadow()))[..., 3].astype(int)
    got = enlarge(painted(shadow()))[..., 3].astype(int)
    assert np.abs(plain - got).max() <= 2
    assert (plain != got).mean() < 0.01
    soft = (plain > GHOST) & (plain < SOLID)
    assert soft.mean() > 0.1


def test_text_keeps_its_shape_and_gains_no_ghosts() -> None:
    plain, got = lanczos(painted(text()))[..., 3], enlarge(painted(text()))[..., 3]
    assert ((plain >= 128) == (got >= 128)).mean() > 0.999
    assert ghosts(got) < ghosts(plain)
    assert ghosts(enlarge(painted(text()), Edge.PRINT)[..., 3]) == 0


def test_print_snaps_and_hard_leaves_nothing_between() -> None:
    printed = enlarge(painted(shadow()), Edge.PRINT)[..., 3]
    assert not ((printed > 0) & (printed <= GHOST)).any()
    assert not ((printed >= SOLID) & (printed < 255)).any()
    assert ((printed > GHOST) & (printed < SOLID)).any()
    hard = enlarge(painted(shadow()), Edge.HARD)[..., 3]
    assert set(np.unique(hard)) == {0, 255}
    soft = enlarge(painted(shadow()))[..., 3]
    assert np.array_equal(hard == 255, soft >= 128)


@pytest.mark.parametrize("edge", Edge)
def test_what_is_transparent_has_no_colour_and_what_shows_has_its_own(edge: Edge) -> None:
    for alpha in (disc(), shadow(), text()):
        got = enlarge(painted(alpha), edge)
        assert not got[got[..., 3] == 0].any()
        visible = got[got[..., 3] > 0].astype(float)
        off = np.abs(visible[:, :3] - (200, 30, 60)) * visible[:, 3:] / 255
        # of 255, as printed on black; a dot shows the colour of a faint pixel in full, and
        # premultiplied in both passes that has lost a level or two of the alpha it had
        assert off.max() <= (3 if edge is not Edge.HALFTONE else 2 * 255 / GHOST)


def test_colours_gain_no_bright_rim_inside_an_edge() -> None:
    """Where the artwork is opaque it has its own colour; plain Lanczos is off by a tenth there."""
    for alpha in (disc(), text(), lines()):
        wanted = np.array((200, 30, 60))
        plain, got = lanczos(painted(alpha)).astype(int), enlarge(painted(alpha)).astype(int)
        assert np.abs(plain[plain[..., 3] > 200][:, :3] - wanted).max() >= 15
        assert np.abs(got[got[..., 3] > 200][:, :3] - wanted).max() <= 1


def test_away_from_edges_of_alpha_colours_are_those_of_lanczos() -> None:
    pixels = np.random.default_rng(6).integers(0, 256, (60, 60, 4), dtype=np.uint8)
    pixels[..., 3] = 0
    pixels[10:50, 10:50, 3] = 255
    inside = (slice(60, 180), slice(60, 180))  # five source pixels and more from the edge
    assert np.array_equal(enlarge(pixels)[inside], lanczos(pixels)[inside])


def test_alpha_raised_from_nothing_takes_the_colour_of_the_source() -> None:
    """Beside a solid edge Lanczos dips to 0 in a faint glaze; the clamp brings the glaze back."""
    alpha = np.full((16, 24), 3, np.uint8)
    alpha[:, :10] = 255
    got = enlarge(painted(alpha))
    assert got[..., 3].min() >= 3
    assert (np.abs(got[..., :3].astype(int) - (200, 30, 60)) <= 85).all()  # an alpha of 3
    assert lanczos(painted(alpha))[..., 3].min() == 0


@pytest.mark.parametrize("edge", Edge)
def test_opaque_pixels_are_those_of_lanczos(edge: Edge) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (30, 40, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    assert np.array_equal(enlarge(pixels, edge), lanczos(pixels))


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_without_alpha_are_left_alone(channels: int) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (30, 40, channels), dtype=np.uint8)
    plain = lanczos(pixels if channels == 3 else pixels[..., 0]).reshape(120, 160, channels)
    assert np.array_equal(enlarge(pixels, Edge.HARD), plain)


def test_grey_with_alpha_is_treated_like_colour() -> None:
    grey = np.dstack((np.full_like(disc(), 90), disc()))
    got = enlarge(grey)
    assert np.array_equal(got[..., 1], enlarge(painted(disc()))[..., 3])
    assert not got[got[..., 1] == 0].any()


@pytest.mark.parametrize("rows", [1, 3, 7, 64])
@pytest.mark.parametrize("edge", Edge)
def test_the_strips_do_not_show(rows: int, edge: Edge) -> None:
    pixels = painted(text())
    assert np.array_equal(enlarge(pixels, edge, rows=rows), enlarge(pixels, edge, rows=1000))


@pytest.mark.parametrize("scale", [0.25, 0.4, 1.0, 1.5, 2.6])
def test_any_scale_keeps_alpha_within_what_it_covers(scale: float) -> None:
    """The widest square that a pixel of the result can lean on, to either side."""
    source = disc()
    got = enlarge(painted(source), scale=scale)[..., 3]
    reach = 2 * max(1, round(1 / scale)) + 1
    places = [((2 * np.arange(n) + 1) * 96 // (2 * n)) for n in got.shape]
    for extreme, beyond in (
        (ndimage.minimum_filter, np.less),
        (ndimage.maximum_filter, np.greater),
    ):
        bound = extreme(source, size=2 * reach + 1, mode="nearest")[np.ix_(*places)]
        assert not beyond(got, bound).any()


@pytest.mark.parametrize("edge", [Edge.PRINT, Edge.HARD, Edge.HALFTONE])
def test_at_the_same_size_the_edge_is_still_treated(edge: Edge) -> None:
    got = enlarge(painted(shadow()), edge, scale=1)[..., 3]
    assert not ((got > 0) & (got <= GHOST)).any()
