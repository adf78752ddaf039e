"""What a picture is taken for, before money is spent on it."""

import numpy as np
import pytest

from bench.knockout import laid_on
from bench.triage import verdicts, withheld_wrongly
from bench.triage_set import (
    DATA,
    Labelled,
    blanks,
    boxed_artwork,
    cutouts,
    framed_photos,
    nearly_blank,
    on_board,
    other_patterns,
    photos,
    scaled,
    through_jpeg,
)
from models.images import PictureKind, Pixels, SourceImage
from models.outcomes import SkipReason
from models.schemas import ModelId
from services.catalogue import PAID
from services.checkerboard import find_board
from services.intake import decode
from services.triage import Triage, look_at, not_needed


def wrong(pictures: list[Labelled]) -> list[str]:
    return [
        f"{each.name}: {each.kind} as {each.found.kind}, {each.found.reasons}"
        for each in verdicts(pictures)
        if each.found.kind != each.kind
    ]


def test_photographs_are_photos() -> None:
    assert not wrong(list(photos()))


@pytest.fixture(scope="module")
def pieces() -> dict[str, Labelled]:
    """The transparent pictures of the set by name, read once."""
    return {each.name: each for each in cutouts()}


def test_artwork_on_a_plain_ground_is_artwork_also_through_jpeg(
    pieces: dict[str, Labelled],
) -> None:
    for path in sorted(DATA.glob("art/*.png")):
        rgba = rgba_of(pieces[path.stem])[::2, ::2]
        for ground, quality in (((255, 255, 255), 50), ((200, 220, 240), 75), ((0, 0, 0), None)):
            seen = look_at(picture(through_jpeg(laid_on(rgba, ground), quality)))
            assert seen.kind is PictureKind.ARTWORK, (path.stem, ground, seen)


def test_cutouts_are_transparent(pieces: dict[str, Labelled]) -> None:
    """But for the ball without its shadow: by its outline it may be a photo in a round frame."""
    assert [each.partition(":")[0] for each in wrong(list(pieces.values()))] == [
        "8_ball_jarno_vasamaa, hard"
    ]


def test_plain_sheets_are_blank() -> None:
    assert not wrong(list(blanks()))


def test_a_frame_a_vignette_or_a_veil_over_a_photo_withholds_nothing() -> None:
    assert not withheld_wrongly(verdicts(framed_photos()))


def test_artwork_still_on_its_box_withholds_nothing() -> None:
    assert not withheld_wrongly(verdicts(boxed_artwork()))


def test_little_or_pale_artwork_withholds_nothing() -> None:
    assert not withheld_wrongly(verdicts(nearly_blank()))


def rgba_of(piece: Labelled) -> Pixels:
    assert piece.image.alpha is not None
    return np.dstack((piece.image.rgb, piece.image.alpha))


@pytest.fixture(scope="module")
def art(pieces: dict[str, Labelled]) -> Pixels:
    return rgba_of(pieces["aircraft_jarno_vasamaa3"])[::2, ::2]


@pytest.mark.parametrize("greys", [(204, 255), (239, 255), (102, 153), (30, 45)])
@pytest.mark.parametrize("square", [4, 7, 8, 16, 33, 64])
@pytest.mark.parametrize("quality", [None, 75])
def test_painted_checkerboards_are_told_with_their_squares(
    art: Pixels, greys: tuple[int, int], square: int, quality: int | None
) -> None:
    rgb = through_jpeg(on_board(art, square, greys), quality)
    board = find_board(rgb)
    assert board is not None
    assert board.square_px == pytest.approx(square, rel=0.05, abs=0.2)
    assert (board.dark, board.light) == pytest.approx(greys, abs=5)


@pytest.mark.parametrize("scale", [0.9, 0.95, 1.07, 1.2])
@pytest.mark.parametrize("square", [5, 8, 16, 40])
def test_a_scaled_checkerboard_is_still_one(art: Pixels, square: int, scale: float) -> None:
    rgb = through_jpeg(scaled(on_board(art, square, (204, 255)), scale), 85)
    board = find_board(rgb)
    assert board is not None
    assert board.square_px == pytest.approx(square * scale, rel=0.08, abs=0.3)


def test_small_squares_are_seen_in_a_large_picture(art: Pixels) -> None:
    """Reduced to 512 pixels they would be one grey."""
    large = np.tile(art, (3, 3, 1))
    assert look_at(picture(on_board(large, 4, (204, 255)))).kind is PictureKind.CHECKERBOARD


def test_other_patterns_are_no_checkerboards() -> None:
    assert {each.name: find_board(each.image.rgb) for each in other_patterns()} == {
        each.name: None for each in other_patterns()
    }


def test_a_checkerboard_under_transparency_is_not_looked_for(art: Pixels) -> None:
    board = on_board(art, 16, (204, 255))
    clear = np.full(board.shape[:2], 255, np.uint8)
    assert find_board(board, clear) is not None
    clear[:180] = clear[-180:] = 0
    clear[:, :190] = clear[:, -190:] = 0
    assert find_board(board, clear) is None


def picture(rgb: Pixels, alpha: Pixels | None = None) -> SourceImage:
    return SourceImage(rgb, alpha, "PNG", 0, "")


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 700), (700, 1), (2, 2), (3, 5), (9, 2000)]
)
def test_no_picture_is_too_small(height: int, width: int) -> None:
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 255, (height, width, 3), np.uint8)
    alpha = rng.integers(0, 255, (height, width), np.uint8)
    plain = np.full_like(rgb, 200)
    assert look_at(picture(rgb)).kind in PictureKind
    assert look_at(picture(rgb, alpha)).kind in PictureKind
    assert look_at(picture(plain)).kind is PictureKind.BLANK
    assert look_at(picture(rgb, np.zeros_like(alpha))).kind is PictureKind.BLANK


def test_the_widest_blank_picture_is_read_to_its_last_pixel() -> None:
    sheet = np.full((700, 3000, 3), 255, np.uint8)
    assert look_at(picture(sheet)).kind is PictureKind.BLANK
    sheet[-1, -1, 2] = 246
    assert look_at(picture(sheet)).kind is not PictureKind.BLANK


def test_a_look_changes_nothing(pieces: dict[str, Labelled]) -> None:
    first = next(iter(pieces.values()))
    rgb, alpha = first.image.rgb.copy(), first.image.alpha
    assert alpha is not None
    kept = alpha.copy()
    look_at(first.image)
    assert np.array_equal(first.image.rgb, rgb)
    assert np.array_equal(alpha, kept)


@pytest.mark.parametrize("kind", list(PictureKind))
def test_only_paid_models_are_withheld_and_only_for_what_is_cut_out_or_blank(
    kind: PictureKind,
) -> None:
    seen = Triage(kind, ("measured",))
    withheld = {model for model in ModelId if not_needed(model, seen)}
    assert withheld == (PAID if kind in {"transparent", "blank"} else set())
    assert not any(not_needed(model, None) for model in ModelId)


def test_a_withheld_model_says_why_and_what_was_measured() -> None:
    seen = look_at(next(iter(cutouts())).image)
    skipped = not_needed(ModelId.KIE_RECRAFT, seen)
    assert skipped is not None
    assert skipped.reason is SkipReason.NOT_NEEDED
    assert "already cut out" in skipped.detail
    assert seen.reasons[0] in skipped.detail
    assert "triage=off" in skipped.detail


def test_the_kind_of_a_file_is_that_of_its_pixels() -> None:
    image = decode(DATA / "art" / "shamrock_symbol_jonadab__01.png", max_pixels=10**7)
    assert look_at(image).kind is PictureKind.TRANSPARENT
