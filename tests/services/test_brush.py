"""The brush: white is exact, grey is soft, and what was not painted stays to the bit."""

import numpy as np
import pytest

from models.images import Cutout, Pixels, SourceImage
from services.brush import Brush, Painted, both_weights, has_aspect_of, paint, weights

SHAPE = (300, 40)  # more rows than a strip


def picture(seed: int, *, alpha: Pixels | None = None) -> SourceImage:
    rgb = np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3), np.uint8)
    return SourceImage(rgb, alpha, "PNG", 1, "0" * 64)


def cutout() -> Cutout:
    chance = np.random.default_rng(1)
    return Cutout(
        chance.integers(0, 256, (*SHAPE, 3), np.uint8), chance.integers(0, 256, SHAPE, np.uint8)
    )


def painted_on(rows: slice, level: int = 255) -> Pixels:
    weight = np.zeros(SHAPE, np.uint8)
    weight[rows] = level
    return weight


def test_keep_brings_back_the_originals_own_pixels_and_leaves_the_rest() -> None:
    before, now, original = cutout(), cutout(), picture(2)
    done = paint(now, Brush(keep=painted_on(slice(100, 200))), original)
    assert np.array_equal(now.rgb[100:200], original.rgb[100:200])
    assert (now.alpha[100:200] == 255).all()
    for rows in (slice(100), slice(200, None)):
        assert np.array_equal(now.rgb[rows], before.rgb[rows])
        assert np.array_equal(now.alpha[rows], before.alpha[rows])
    assert done == Painted(int((before.alpha[100:200] < 255).sum()), 0)


def test_keep_gives_no_more_than_the_original_had() -> None:
    alpha = np.random.default_rng(3).integers(0, 256, SHAPE, np.uint8)
    now, original = cutout(), picture(2, alpha=alpha)
    paint(now, Brush(keep=painted_on(slice(None))), original)
    assert np.array_equal(now.alpha, alpha)
    seen = alpha > 0
    assert np.array_equal(now.rgb[seen], original.rgb[seen])


def test_a_soft_brush_fades_by_its_weight() -> None:
    original = picture(2)
    now = Cutout(np.full((*SHAPE, 3), 9, np.uint8), np.zeros(SHAPE, np.uint8))
    paint(now, Brush(keep=painted_on(slice(None), 51)), original)
    assert (now.alpha == 51).all()
    assert np.array_equal(now.rgb, original.rgb), "what was transparent has no say in the colour"
    solid = Cutout(np.full((*SHAPE, 3), 10, np.uint8), np.full(SHAPE, 255, np.uint8))
    paint(solid, Brush(keep=painted_on(slice(None), 51)), original)
    assert (solid.alpha == 255).all()
    mixed = 0.2 * original.rgb + 0.8 * 10
    assert np.abs(solid.rgb - mixed).max() <= 0.51


def test_erase_takes_its_share_and_wins_over_keep() -> None:
    before, now = cutout(), cutout()
    both = Brush(keep=painted_on(slice(50)), erase=painted_on(slice(100)))
    done = paint(now, both, picture(2))
    assert not now.alpha[:100].any()
    assert np.array_equal(now.alpha[100:], before.alpha[100:])
    assert done == Painted(0, int((before.alpha[:100] > 0).sum()))
    half = cutout()
    paint(half, Brush(erase=painted_on(slice(None), 128)), None)
    assert np.abs(half.alpha - before.alpha * (127 / 255)).max() <= 0.51
    assert np.array_equal(half.rgb, before.rgb)


def test_a_mask_is_how_white_it_is_by_its_alpha() -> None:
    grey = np.tile(np.arange(256, dtype=np.uint8), (2, 1))
    mask = SourceImage(np.stack([grey] * 3, axis=2), None, "PNG", 1, "")
    assert np.array_equal(weights(mask), grey)
    white = np.full((2, 256, 3), 255, np.uint8)
    assert np.array_equal(weights(SourceImage(white, grey, "PNG", 1, "")), grey)


def test_one_mask_has_both() -> None:
    level = np.array([[0, 64, 128, 191, 255]], np.uint8)
    mask = SourceImage(np.stack([level] * 3, axis=2), None, "PNG", 1, "")
    keep, erase = both_weights(mask)
    assert keep.tolist() == [[0, 0, 0, 126, 255]]
    assert erase.tolist() == [[255, 127, 0, 0, 0]]
    unpainted = SourceImage(mask.rgb, np.zeros_like(level), "PNG", 1, "")
    assert not any(each.any() for each in both_weights(unpainted))


def test_a_smaller_mask_is_enlarged_and_one_of_the_size_is_not_touched() -> None:
    small = np.zeros((150, 20), np.uint8)
    small[:75] = 255
    grown = Brush(erase=small).enlarged(40, 300)
    assert grown.keep is None
    assert grown.erase is not None
    assert (grown.erase[:148] == 255).all()
    assert not grown.erase[152:].any()
    whole = painted_on(slice(9))
    assert Brush(keep=whole).enlarged(40, 300).keep is whole


@pytest.mark.parametrize(
    ("mask", "picture", "fits"),
    [
        ((1200, 1600), (1200, 1600), True),
        ((300, 400), (1200, 1600), True),
        ((333, 444), (1000, 1333), True),
        ((100, 134), (1000, 1333), True),
        ((1600, 1200), (1200, 1600), False),
        ((300, 390), (1200, 1600), False),
        ((1, 1), (1, 1), True),
    ],
)
def test_which_masks_have_the_pictures_proportions(
    mask: tuple[int, int], picture: tuple[int, int], *, fits: bool
) -> None:
    assert has_aspect_of(mask, picture) is fits
