"""The white plate: choked by a disc to the pixel, however the rows come, white art left alone."""

import tracemalloc
from collections.abc import Iterator
from math import ceil

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from models.errors import InvalidParameter
from models.images import Pixels
from models.proofs import Choke, PlateQuery
from services.underbase import Underbase, choke_mm, underbase_of


def art(alpha: NDArray[np.generic], colour: tuple[int, int, int] = (200, 30, 20)) -> Pixels:
    painted = np.empty((*alpha.shape, 4), np.uint8)
    painted[..., :3], painted[..., 3] = colour, alpha
    return painted


def plate(
    painted: Pixels, radius: float, *, cuts: tuple[int, ...] = (), white: int = 255
) -> Pixels:
    strips = np.split(painted, cuts)
    return np.concatenate(list(Underbase(radius, white).plate(strips)))


def disc(side: int, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:side, :side] - side // 2
    return np.asarray(rows**2 + columns**2 <= radius**2)


@pytest.mark.parametrize("choke", [0, 1, 2, 5, 5.9, 12])
def test_a_square_loses_as_many_whole_pixels_on_each_side(choke: float) -> None:
    alpha = np.zeros((70, 80), np.uint8)
    alpha[10:60, 20:70] = 255
    kept = np.zeros_like(alpha)
    lost = int(choke)
    kept[10 + lost : 60 - lost, 20 + lost : 70 - lost] = 255
    assert np.array_equal(plate(art(alpha), choke), kept)


@pytest.mark.parametrize(("radius", "choke"), [(30, 5), (30, 5.9), (20.5, 12), (9, 9)])
def test_a_disc_loses_what_a_disc_of_the_choke_does_not_fit_into(
    radius: float, choke: float
) -> None:
    """By definition: a pixel stays if no pixel within the choke is without ink."""
    inked = disc(81, radius)
    reach = ceil(choke)
    around = disc(2 * reach + 1, choke)
    fits = ndimage.binary_erosion(inked, around, border_value=0)
    assert np.array_equal(plate(art(inked * 255), choke), fits * np.uint8(255))


@pytest.mark.parametrize("seed", range(6))
def test_any_shape_cut_anyhow_is_what_the_distance_transform_says(seed: int) -> None:
    chance = np.random.default_rng(seed)
    height, width = chance.integers(1, 90, 2).tolist()
    radius = float(chance.choice([0.5, 1, 2.36, 3.54, 5.91, 6, 11.81]))
    inked = chance.random((height, width)) > 0.01
    alpha = np.where(inked, chance.integers(1, 256, inked.shape), 0)
    cuts = tuple(sorted(chance.integers(0, height + 1, 4).tolist()))
    away = ndimage.distance_transform_edt(np.pad(inked, 1))[1:-1, 1:-1]
    made = plate(art(alpha), radius, cuts=cuts)
    assert np.array_equal(made, np.where(away > radius, alpha, 0))


def test_pure_white_art_keeps_its_white_to_the_rim() -> None:
    alpha = np.full((30, 30), 255, np.uint8)
    painted = art(alpha)
    painted[:, :10, :3] = 255
    painted[:, 10:20, :3] = 252
    made = plate(painted, 4)
    assert (made[:, :10] == 255).all()
    assert not made[:4, 10:].any()
    assert not made[:, -4:].any()
    assert (plate(painted, 4, white=252)[:, :20] == 255).all()


def test_art_without_alpha_has_ink_everywhere_but_beyond_its_frame() -> None:
    made = plate(np.full((20, 20, 3), 90, np.uint8), 3)
    assert (made[3:-3, 3:-3] == 255).all()
    assert int((made > 0).sum()) == 14 * 14


def test_the_art_is_not_touched() -> None:
    painted = art(disc(41, 15) * 255)
    before = painted.copy()
    plate(painted, 5)
    assert np.array_equal(painted, before)


@pytest.mark.parametrize(
    ("choke", "mm", "px"),
    [(Choke.TEXT, 0.2, 2), (Choke.PHOTO, 0.3, 4), (Choke.DEFAULT, 0.5, 6), (Choke.BOLD, 1.0, 12)],
)
def test_the_presets_are_millimetres_of_the_print(choke: Choke, mm: float, px: int) -> None:
    asked = PlateQuery(choke=choke)
    assert choke_mm(asked) == mm
    assert underbase_of(asked, dpi=300).choke_px == pytest.approx(mm / 25.4 * 300)
    assert round(underbase_of(asked, dpi=300).choke_px) == px


def test_a_choke_of_too_many_pixels_is_refused_with_the_numbers() -> None:
    with pytest.raises(InvalidParameter) as refusal:
        underbase_of(PlateQuery(choke_mm=2), dpi=2400)
    assert (refusal.value.field, refusal.value.limit) == ("choke_mm", 128)


def test_memory_is_a_few_strips_however_tall_the_print() -> None:
    def strips() -> Iterator[Pixels]:
        strip = art(np.full((64, 2000), 255))
        yield from (strip for _ in range(100))

    rows = 0
    tracemalloc.start()
    for part in Underbase(5.9).plate(strips()):
        rows += len(part)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == 6400
    assert peak < 5_000_000  # the plate would be 12.8 million
