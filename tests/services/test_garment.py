"""Shirts: their colours exactly where nothing lies on them, the art exactly where it is solid."""

import hashlib

import numpy as np
import pytest

from models.print_check import NAMED_GARMENTS
from services.contact_sheet import Candidate, contact_sheet
from services.garment import checkerboard, cloth, laid_on
from services.print_colours import GARMENTS

COLOURS = {"black": (17, 17, 17), "white": (255, 255, 255), "#c8102e": (200, 16, 46)}


def test_every_name_that_may_be_asked_for_has_a_colour() -> None:
    assert set(NAMED_GARMENTS.split("|")) == set(GARMENTS)


@pytest.mark.parametrize("garment", sorted(COLOURS))
def test_a_plain_shirt_shows_where_alpha_is_0_and_the_art_where_it_is_255(garment: str) -> None:
    chance = np.random.default_rng(4)
    art = chance.integers(0, 256, (40, 50, 4), np.uint8)
    art[:20, :, 3], art[20:, :, 3] = 0, 255
    shown = laid_on(art, cloth(garment, height=40, width=50))
    assert (shown[:20] == COLOURS[garment]).all()
    assert np.array_equal(shown[20:], art[20:, :, :3])


def test_between_them_colours_mix_as_they_are_encoded() -> None:
    art = np.zeros((1, 256, 4), np.uint8)
    art[..., :3], art[..., 3] = 255, np.arange(256)
    ground = cloth("black", height=1, width=256)
    exact = 17 + (255 - 17) * np.arange(256) / 255
    assert np.abs(laid_on(art, ground)[0, :, 0] - exact).max() <= 0.5


def test_heather_is_the_same_every_time_and_on_average_its_colour() -> None:
    first = cloth("heather", height=300, width=400)
    assert np.array_equal(first, cloth("heather", height=300, width=400))
    assert np.array_equal(first[:100, :90], cloth("heather", height=100, width=90))
    assert np.abs(first.mean(axis=(0, 1)) - GARMENTS["heather"]).max() < 0.5
    assert 5 < first.std() < 20
    digest = hashlib.sha256(first.tobytes()).hexdigest()
    assert digest[:16] == HEATHER, "proofs made yesterday would not look like those of today"


HEATHER = "4b7d45e13e085a6c"


def test_a_contact_sheet_has_a_row_for_each_and_a_column_for_each_ground() -> None:
    art = np.zeros((30, 40, 4), np.uint8)
    art[10:20, 10:30] = (10, 200, 30, 255)
    candidates = [Candidate("1. local-isnet", art), Candidate("2. local-knockout", art)]
    sheet = np.asarray(contact_sheet(candidates, ["black", "white", "red"]))
    places = np.argwhere((sheet == (10, 200, 30)).all(axis=2))
    assert len(places) == 2 * 4 * 10 * 20
    assert len({tuple(each) for each in places // (64, 52)}) == 2 * 4
    assert (sheet == (17, 17, 17)).all(axis=2).sum() == 2 * (30 * 40 - 200)


def test_the_checkerboard_takes_turns() -> None:
    board = checkerboard(height=48, width=48)
    assert board[0, 0, 0] == board[12, 12, 0] == 255
    assert board[0, 12, 0] == board[12, 0, 0] == 222
