"""The colour knock-out: exact on flat art, careful with what it cannot know."""

from pathlib import Path
from statistics import median

import numpy as np
import pytest
from PIL import Image

from bench.knockout import GROUNDS, Piece, Score, as_jpeg, laid_on, load_pieces, score
from models.images import Cutout, Flag, Holes, Pixels
from services.knockout import knock_out

DATA = Path(__file__).parents[1] / "data"
WHITE, BLACK, RED, INK = (255, 255, 255), (0, 0, 0), (200, 16, 46), (20, 40, 90)
PASTEL = GROUNDS["pastel"]
PIECES = load_pieces(DATA / "art")
# Painted with a translucent glaze: one ground cannot tell a glaze from a paler paint.
SOLID = [piece for piece in PIECES if not piece.name.startswith("bird_of_peace")]


def canvas(colour: tuple[int, int, int], height: int = 120, width: int = 120) -> Pixels:
    return np.full((height, width, 3), colour, np.uint8)


def disc(radius: float = 40.0, size: int = 120) -> Pixels:
    """Alpha of an anti-aliased disc: coverage by distance, exact to a hundredth for this radius."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    coverage = np.clip(radius - np.hypot(x, y) + 0.5, 0, 1)
    return np.asarray(np.rint(coverage * 255), np.uint8)


def painted(
    picture: Pixels, colour: tuple[int, int, int] | Pixels, alpha: Pixels, strength: float = 1.0
) -> Pixels:
    share = alpha[..., None] / 255 * strength
    return np.rint(picture * (1 - share) + np.asarray(colour) * share).astype(np.uint8)


def cut(piece: Piece, ground: str, quality: int | None = None) -> Cutout:
    picture = laid_on(piece.rgba, GROUNDS[ground])
    if quality:
        picture = as_jpeg(picture, quality)
    return knock_out(picture, holes=piece.holes)


def scored(piece: Piece, ground: str, quality: int | None = None) -> Score:
    return score(cut(piece, ground, quality), piece.rgba)


@pytest.mark.parametrize(("quality", "least"), [(None, 0.995), (92, 0.99), (75, 0.98)])
def test_art_on_white_and_pastel_is_found(quality: int | None, least: float) -> None:
    ious = [scored(piece, g, quality).iou for piece in PIECES for g in ("white", "pastel")]
    assert median(ious) >= least


@pytest.mark.parametrize("piece", SOLID, ids=lambda piece: piece.name)
@pytest.mark.parametrize("ground", ["white", "pastel"])
def test_every_solid_piece_is_found(piece: Piece, ground: str) -> None:
    found = scored(piece, ground)
    assert found.iou >= 0.98
    assert found.alpha_error <= 1.0


@pytest.mark.parametrize("ground", ["white", "pastel"])
@pytest.mark.parametrize("name", ["8_ball", "aircraft", "shamrock"])
def test_no_fringe_of_the_ground_on_a_dark_shirt(name: str, ground: str) -> None:
    piece = next(piece for piece in PIECES if piece.name.startswith(name))
    assert scored(piece, ground).edge_error <= 0.5


@pytest.mark.parametrize("colour", [RED, INK, BLACK], ids=["red", "ink", "black"])
@pytest.mark.parametrize("ground", [WHITE, PASTEL], ids=["white", "pastel"])
def test_anti_aliasing_is_recovered_from_the_mix(
    ground: tuple[int, int, int], colour: tuple[int, int, int]
) -> None:
    alpha = disc()
    found = knock_out(painted(canvas(ground), colour, alpha))
    assert np.abs(found.alpha.astype(int) - alpha).max() <= 4
    seen = found.alpha > 30
    assert np.abs(found.rgb[seen].astype(int) - colour).max() <= 12


def test_a_bright_disc_on_black_is_recovered() -> None:
    alpha = disc()
    found = knock_out(painted(canvas(BLACK), (250, 220, 40), alpha))
    assert np.abs(found.alpha.astype(int) - alpha).max() <= 4


def test_a_resampled_edge_stays_soft() -> None:
    alpha = np.asarray(Image.fromarray(disc(20, 60)).resize((120, 120), Image.Resampling.BILINEAR))
    found = knock_out(painted(canvas(WHITE), INK, alpha))
    assert np.abs(found.alpha.astype(int) - alpha).mean() <= 0.3


def test_opaque_colour_is_untouched() -> None:
    picture = laid_on(PIECES[0].rgba, PASTEL)
    found = knock_out(picture)
    opaque = found.alpha == 255
    assert opaque.any()
    assert np.array_equal(found.rgb[opaque], picture[opaque])


def test_the_cutout_laid_back_on_its_ground_is_the_source() -> None:
    picture = painted(canvas(PASTEL), RED, disc())
    found = knock_out(picture)
    back = painted(canvas(PASTEL), found.rgb, found.alpha)
    assert np.abs(back.astype(int) - picture).max() <= 2


def test_the_source_is_not_written_to() -> None:
    picture = painted(canvas(WHITE), RED, disc())
    picture.setflags(write=False)
    knock_out(picture)


def test_one_pixel_lines_survive() -> None:
    picture = canvas(WHITE)
    picture[20:100, 60] = RED
    found = knock_out(picture)
    assert (found.alpha[20:100, 60] == 255).all()
    assert np.count_nonzero(found.alpha) == 80


def test_white_lettering_inside_is_kept() -> None:
    picture = painted(canvas(WHITE), RED, disc())
    picture[55:65, 40:80] = WHITE
    found = knock_out(picture)
    assert (found.alpha[50:70, 35:85] == 255).all()


def test_white_lettering_inside_a_thin_outline_is_kept_whole() -> None:
    outline = np.maximum(disc(40).astype(int) - disc(38), 0).astype(np.uint8)
    found = knock_out(painted(canvas(WHITE), RED, outline))
    assert (found.alpha[disc(37) == 255] == 255).all()


def test_holes_are_opened_on_request() -> None:
    ring = np.maximum(disc(40).astype(int) - disc(20), 0).astype(np.uint8)
    found = knock_out(painted(canvas(WHITE), RED, ring), holes=Holes.OPEN)
    assert np.abs(found.alpha.astype(int) - ring).max() <= 4


def test_a_pale_fill_is_no_hole() -> None:
    picture = painted(painted(canvas(WHITE), INK, disc(40)), (250, 250, 240), disc(30))
    found = knock_out(picture, holes=Holes.OPEN)
    assert (found.alpha[disc(38) == 255] == 255).all()


def test_pale_art_survives_on_a_clean_ground() -> None:
    picture = painted(canvas(WHITE), (255, 253, 235), disc())
    assert np.mean(knock_out(picture).alpha[disc() == 255] == 255) > 0.99


def test_a_soft_grey_shadow_lets_the_shirt_through() -> None:
    y, x = np.mgrid[:120, :120] - 60.0
    alpha = np.rint(np.clip(1.2 - np.hypot(x, y) / 45, 0, 0.6) * 255).astype(np.uint8)
    found = knock_out(painted(canvas(WHITE), BLACK, alpha))
    assert np.abs(found.alpha.astype(int) - alpha).max() <= 9
    assert np.abs(found.alpha.astype(int) - alpha).mean() <= 1


def test_a_shaded_object_is_no_shadow() -> None:
    """Silver that runs into white at one end keeps its body."""
    shades = np.linspace(254, 90, 80).astype(np.uint8)
    picture = canvas(WHITE)
    picture[20:100, 40:80] = shades[:, None, None]
    assert (knock_out(picture).alpha[40:95, 45:75] == 255).all()


def test_jpeg_ringing_is_ground() -> None:
    alpha = disc()
    found = knock_out(as_jpeg(painted(canvas(WHITE), RED, alpha), 85))
    assert not found.alpha[disc(44) == 0].any()
    assert (found.alpha[disc(36) == 255] == 255).all()


def test_stray_specks_of_a_jpeg_are_ground() -> None:
    picture = as_jpeg(painted(canvas(WHITE), RED, disc()), 85).copy()
    picture[5, 60] = (215, 215, 215)
    assert knock_out(picture).alpha[5, 60] == 0


def test_more_tolerance_removes_more() -> None:
    picture = painted(canvas(WHITE), (255, 250, 225), disc())
    assert not knock_out(picture).flags
    assert knock_out(picture, tolerance=30.0).alpha.sum() <= knock_out(picture).alpha.sum()


@pytest.mark.parametrize("colour", [WHITE, BLACK, PASTEL, RED])
@pytest.mark.parametrize("size", [(64, 48), (1, 1), (1, 50), (50, 1)])
def test_a_blank_picture_is_empty(size: tuple[int, int], colour: tuple[int, int, int]) -> None:
    found = knock_out(canvas(colour, *size))
    assert found.flags == (Flag.EMPTY,)
    assert not found.alpha.any()


def test_one_row_is_cut_like_any_other() -> None:
    picture = canvas(WHITE, 1, 50)
    picture[0, 20:30] = RED
    found = knock_out(picture)
    assert np.flatnonzero(found.alpha[0] == 255).tolist() == list(range(20, 30))
    assert Flag.RIM_EQUALS_GROUND in found.flags


def test_a_picture_without_any_ground_is_flagged() -> None:
    noise = np.random.default_rng(7).integers(0, 256, (200, 200, 3), np.uint8)
    assert knock_out(noise, tolerance=1.0).flags == (Flag.FULL_FRAME, Flag.RIM_EQUALS_GROUND)


@pytest.mark.parametrize("name", ["car-1.jpg", "anime-girl-1.jpg"])
def test_a_photo_is_flagged(name: str) -> None:
    photo = np.asarray(Image.open(DATA / name).convert("RGB"))
    found = knock_out(photo)
    assert found.alpha.shape == photo.shape[:2]
    assert Flag.RIM_EQUALS_GROUND in found.flags


def test_art_that_touches_the_border_is_flagged() -> None:
    picture = canvas(WHITE)
    picture[40:, 40:80] = RED
    found = knock_out(picture)
    assert found.flags == (Flag.RIM_EQUALS_GROUND,)
    assert (found.alpha[42:, 42:78] == 255).all()


def test_art_that_fades_into_the_ground_is_flagged() -> None:
    """Colour that runs out into white has no edge to be cut at."""
    picture = canvas(WHITE)
    fade = np.linspace(0, 1, 80)[:, None, None]
    picture[20:100, 30:90] = np.rint(255 - fade * (255 - np.array(RED)))
    assert Flag.RIM_EQUALS_GROUND in knock_out(picture).flags


@pytest.mark.parametrize("name", ["8_ball", "aircraft", "war_drum"])
def test_black_outlines_on_black_are_flagged(name: str) -> None:
    piece = next(piece for piece in PIECES if piece.name.startswith(name))
    assert Flag.RIM_EQUALS_GROUND in cut(piece, "black").flags


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.name)
@pytest.mark.parametrize("ground", ["white", "pastel"])
def test_art_with_a_clear_rim_is_not_flagged(piece: Piece, ground: str) -> None:
    assert cut(piece, ground).flags == ()


def test_strips_leave_no_seam() -> None:
    """A rim that crosses strip borders is solved as elsewhere."""
    alpha = disc(300, 640)
    found = knock_out(painted(canvas(WHITE, 640, 640), INK, alpha))
    assert np.array_equal(found.alpha, found.alpha[:, ::-1])
    assert np.array_equal(found.alpha, found.alpha.T)
