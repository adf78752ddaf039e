"""Small islands go, however the picture is cut into strips; lines, letters and holes stay."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from models.images import Pixels
from services.islands import WithoutIslands, held_bytes
from tests.printing import PixelRows

EIGHT = np.ones((3, 3), np.bool_)


def cleaned(
    alpha: Pixels, below_px: float = 6, *, step: int = 1000, from_alpha: int = 26
) -> tuple[Pixels, int]:
    """The alpha without islands, read `step` rows at a time, and how many were dropped."""
    found: list[int] = []
    pixels = np.dstack((np.full_like(alpha, 77), alpha))
    rows = WithoutIslands(
        PixelRows(pixels), below_px=below_px, from_alpha=from_alpha, found=found.append
    )
    parts = [rows.read(step) for _ in range(0, len(alpha), step)]
    assert len(rows.read(step)) == 0
    read = np.concatenate(parts)
    assert (read[..., 0][read[..., 1] == alpha] == 77).all() or not alpha.all()
    return read[..., 1], sum(found)


def by_definition(alpha: Pixels, below_px: float, *, from_alpha: int = 26) -> tuple[Pixels, int]:
    """On the whole picture at once."""
    labels, _ = ndimage.label(alpha >= from_alpha, EIGHT)
    result, dropped = alpha.copy(), 0
    for name, box in enumerate(ndimage.find_objects(labels), 1):
        if all(side.stop - side.start < below_px for side in box):
            result[labels == name] = 0
            dropped += 1
    return result, dropped


def specks(height: int = 300, width: int = 80) -> Pixels:
    """Blots of all sizes, some joined."""
    random = np.random.default_rng(7)
    blots = ndimage.gaussian_filter(random.normal(size=(height, width)), 1.3)
    return np.where(blots > 0.25, 255, np.where(blots > 0.2, 30, 0)).astype(np.uint8)


@pytest.mark.parametrize("below_px", [1.5, 5.9, 6.0, 23.6])
@pytest.mark.parametrize("step", [1, 7, 64, 1000])
def test_strips_find_the_islands_of_the_whole(step: int, below_px: float) -> None:
    wanted, dropped = by_definition(specks(), below_px)
    found, count = cleaned(specks(), below_px, step=step)
    assert np.array_equal(found, wanted)
    assert count == dropped
    assert below_px < 2 or dropped > 100


def test_an_island_is_counted_once_and_a_solid_picture_has_none() -> None:
    alpha = np.zeros((400, 60), np.uint8)
    for top in (0, 63, 68, 130, 396):  # at the ends, and across the parts that are read together
        alpha[top : top + 4, 20:24] = 255
    alpha[200:260, 10:50] = 255
    found, count = cleaned(alpha)
    assert count == 5
    assert found.sum() == 255 * 60 * 40
    assert cleaned(np.full((90, 30), 255, np.uint8))[1] == 0


def test_thin_lines_stay() -> None:
    alpha = np.zeros((200, 200), np.uint8)
    alpha[20, 10:190] = alpha[30:190, 50] = 255
    alpha[np.arange(60, 190), np.arange(60, 190)] = 255  # only corners touch
    found, count = cleaned(alpha)
    assert np.array_equal(found, alpha)
    assert count == 0


def test_letters_keep_their_counters() -> None:
    picture = Image.new("L", (330, 60))
    ImageDraw.Draw(picture).text((6, 4), "ABDOPQR 0689 @%", 255, ImageFont.load_default(36))
    alpha = np.asarray(picture)
    found, _ = cleaned(alpha)
    assert np.array_equal(found, alpha)
    assert ndimage.label(found < 128)[1] > 15


def test_what_a_mode_does_not_show_joins_nothing() -> None:
    alpha = np.zeros((40, 60), np.uint8)
    alpha[18:22, 5:9] = alpha[18:22, 40:44] = 255
    alpha[20, 9:40] = 60  # a faint bridge
    assert cleaned(alpha, from_alpha=26)[1] == 0
    found, count = cleaned(alpha, from_alpha=128)
    assert count == 2
    assert found.max() == 60


class Endless:
    """The same blots over and over, never held."""

    width, height, channels = 200, 20_000, 2

    def __init__(self) -> None:
        blots = specks(width=200)
        self._blots = np.dstack((blots, blots))
        self._given = 0

    def read(self, rows: int) -> Pixels:
        places = np.arange(self._given, min(self._given + rows, self.height)) % len(self._blots)
        self._given += len(places)
        return self._blots[places]


def test_a_tall_picture_takes_no_more_memory_than_a_low_one() -> None:
    rows = WithoutIslands(Endless(), below_px=6, from_alpha=26)
    rows.read(64)
    tracemalloc.start()
    height = 64
    while len(part := rows.read(64)):
        height += len(part)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert height == Endless.height
    assert peak < held_bytes(200, 6) + 64 * 200 * 2 * 2  # and what was asked for at once
