"""What masks and pictures say, on shapes drawn by hand."""

import numpy as np
import pytest

from models.images import Pixels, SourceImage
from services.evidence import (
    SOLID,
    edge_distances,
    edge_pixels,
    like_colours,
    off_ground,
    on_edges,
    overlaps_of,
    plain_ground,
    small_alpha,
    small_picture,
    vote_of,
)
from tests.services.shapes import disc, picture_of


def test_small_alpha_is_averaged_over_areas_and_keeps_the_aspect() -> None:
    alpha = np.zeros((300, 2048), np.uint8)
    alpha[:, ::2] = 200
    small = small_alpha(alpha)
    assert small.shape == (75, 512)
    assert set(np.unique(small)) == {100}


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (3000, 1), (40, 30)])
def test_no_side_vanishes_and_nothing_is_enlarged(shape: tuple[int, int]) -> None:
    small = small_alpha(np.full(shape, 77, np.uint8))
    assert small.shape == tuple(min(side, 512) for side in shape)
    assert set(np.unique(small)) == {77}


def test_what_is_transparent_in_the_picture_becomes_grey() -> None:
    rgb = np.full((4, 4, 3), 250, np.uint8)
    alpha = np.full((4, 4), 255, np.uint8)
    alpha[:, 2:] = 0
    small = small_picture(SourceImage(rgb, alpha, "PNG", 0, ""))
    assert (small[:, :2] == 250).all()
    assert (small[:, 2:] == 128).all()


def test_overlap_is_iou_at_half_alpha() -> None:
    masks = np.zeros((3, 4, 4), np.uint8)
    masks[0, :2] = 128
    masks[1, 1:3] = 255
    masks[2, :2] = 127  # not kept
    table = overlaps_of(masks >= SOLID)
    assert table[0, 1] == pytest.approx(4 / 12)
    assert table[0, 2] == 0
    assert np.diag(table) == pytest.approx(1)
    assert (table == table.T).all()


def test_edges_are_told_apart_in_pixels_of_512() -> None:
    """A square of 128 pixels in a picture of 256: two pixels there are four of 512."""
    masks = np.zeros((2, 256, 256), np.uint8)
    masks[0, 64:192, 64:192] = 255
    masks[1, 62:194, 62:194] = 255
    table = edge_distances(masks)
    assert table[0, 1] == pytest.approx(4, abs=0.3)
    assert table[0, 0] == table[1, 1] == 0


def test_a_mask_without_an_edge_is_infinitely_far_from_one_with() -> None:
    masks = np.stack([np.zeros((32, 32), np.uint8), np.full((32, 32), 255, np.uint8), disc(32)])
    table = edge_distances(masks)
    assert table[0, 1] == 0
    assert np.isinf(table[0, 2])


def test_the_frame_is_no_edge() -> None:
    assert not edge_pixels(np.ones((5, 5), np.bool_)).any()
    half = np.zeros((5, 5), np.bool_)
    half[:, :2] = True
    assert np.flatnonzero(edge_pixels(half).any(axis=0)).tolist() == [1]


def test_an_edge_on_the_pictures_edge_is_steeper_than_one_beside_it() -> None:
    kept = disc(200)
    found = on_edges(picture_of(kept), np.stack([kept, disc(200, radius=50), disc(200, radius=80)]))
    assert found[0] > 0.9
    assert found[0] > found[1]
    assert found[0] > found[2]


def test_colours_of_the_undisputed_decide_the_disputed() -> None:
    """Two of three lose the lower half; its colour is that of the half that nobody lost."""
    whole = disc(200)
    half = whole.copy()
    half[100:] = 0
    masks = np.stack([half, half, whole])
    found = like_colours(picture_of(whole), masks, vote_of(masks, np.array([0.5, 0.5, 1.0])))
    assert found[2] > found[0]


def test_a_plain_border_is_a_ground_and_enclosed_islands_of_it_are_left_open() -> None:
    ring = disc(120, radius=50)
    ring[disc(120, radius=20) > 127] = 0
    ground = plain_ground(picture_of(ring))
    assert ground is not None
    assert ground.certain[0, 0]
    assert not ground.certain[60, 60]
    assert not ground.unlike[60, 60]
    assert ground.unlike[60, 25]
    filled, all_gone = disc(120, radius=50), np.zeros((120, 120), np.uint8)
    found = off_ground(ground, np.stack([ring, filled, all_gone]))
    assert found[0] == found[1] == pytest.approx(1, abs=0.02)
    assert found[2] == 0


def test_a_border_of_many_colours_is_no_ground() -> None:
    noise: Pixels = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    assert plain_ground(noise) is None
