"""A halftone's inked area is alpha's share, in every cell, wherever the strips are cut."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from models.images import Pixels
from services.halftone import LEAST_DOT_MM, Screen, screen

WISHES = [
    (300, 45, 45),
    (300, 45, 0),
    (300, 45, 22.5),
    (300, 75, 90),
    (300, 20, 61),
    (600, 55, 15),
    (72, 18, 45),
    (1200, 10, 30),
]
LEVELS = (1, 13, 26, 64, 100, 127, 128, 180, 229, 250, 254)


def flat(level: int, height: int, width: int) -> Pixels:
    return np.full((height, width), level, np.uint8)


def supercell(found: Screen, level: int) -> NDArray[np.bool_]:
    """Every pixel of the pattern's period, once."""
    courses, period = found.brick.shape
    return found.inks(flat(level, courses, period), top=0, left=0)


@pytest.mark.parametrize(("dpi", "lpi", "angle"), WISHES)
def test_the_inked_area_is_alphas_share_at_every_level(
    dpi: float, lpi: float, angle: float
) -> None:
    found = screen(dpi=dpi, lpi=lpi, angle=angle)
    for level in LEVELS:
        assert supercell(found, level).mean() == pytest.approx(level / 255, abs=1 / 255)
    assert not supercell(found, 0).any()
    assert supercell(found, 255).all()


@pytest.mark.parametrize(("dpi", "lpi", "angle"), WISHES)
def test_lines_and_angle_are_those_asked_for(dpi: float, lpi: float, angle: float) -> None:
    lattice = screen(dpi=dpi, lpi=lpi, angle=angle).lattice
    assert dpi / lattice.cell_px == pytest.approx(lpi, rel=0.01)
    assert lattice.angle == pytest.approx(angle, abs=0.6)


@pytest.mark.parametrize(("dpi", "lpi", "angle"), WISHES)
def test_the_pattern_repeats_along_the_lattice_and_nowhere_needs_a_beginning(
    dpi: float, lpi: float, angle: float
) -> None:
    found = screen(dpi=dpi, lpi=lpi, angle=angle)
    across, down = found.lattice.across, found.lattice.down
    alpha = flat(90, 40, 60)
    here = found.inks(alpha, top=500, left=700)
    assert np.array_equal(here, found.inks(alpha, top=500 + down, left=700 + across))
    assert np.array_equal(here, found.inks(alpha, top=500 + across, left=700 - down))
    whole = found.inks(flat(90, 540, 760), top=0, left=0)
    assert np.array_equal(here, whole[500:, 700:])


@pytest.mark.parametrize("angle", [0, 22.5, 45])
@pytest.mark.parametrize("level", [26, 40, 64, 80, 90])
def test_every_cell_has_its_share_to_the_pixel(angle: float, level: int) -> None:
    found = screen(dpi=300, lpi=45, angle=angle)
    cell = found.lattice.cell_px
    inked = found.inks(flat(level, 300, 300), top=0, left=0)
    labels, count = ndimage.label(inked)
    sizes = np.bincount(labels.ravel())[1:]
    boxes = ndimage.find_objects(labels)
    whole = [
        size
        for size, box in zip(sizes, boxes, strict=True)
        if all(side.start > 0 and side.stop < 300 for side in box)
    ]
    assert count > 1500  # as many dots as cells
    assert np.abs(np.array(whole) - level / 255 * cell**2).max() <= 1.5


def test_shadows_mirror_lights() -> None:
    found = screen(dpi=300, lpi=45, angle=45)
    holes = ~found.inks(flat(255 - 64, 300, 300), top=0, left=0)
    labels, _ = ndimage.label(holes, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    assert np.abs(np.median(sizes) - 64 / 255 * found.lattice.cell_px**2) <= 1


@pytest.mark.parametrize(("dpi", "lpi"), [(300, 70), (600, 100), (1200, 150)])
@pytest.mark.parametrize("level", [4, 10, 20])
def test_no_dot_is_smaller_than_what_film_holds(dpi: float, lpi: float, level: int) -> None:
    """Cells take turns instead: the mean is right all the same."""
    found = screen(dpi=dpi, lpi=lpi, angle=45)
    least = math.pi / 4 * (LEAST_DOT_MM / 25.4 * dpi) ** 2
    least = min(round(least), int(found.lattice.cell_px**2 / 4))
    inked = found.inks(flat(level, 400, 400), top=0, left=0)
    labels, _ = ndimage.label(np.pad(inked, 1), np.ones((3, 3)))
    inner = np.unique(labels[30:-30, 30:-30])[1:]
    sizes = np.bincount(labels.ravel())[inner]
    assert np.percentile(sizes, 3) >= least  # those cut by the window's rim apart
    assert inked.mean() == pytest.approx(level / 255, abs=1.5 / 255)


@pytest.mark.parametrize(("dpi", "lpi"), [(300, 76), (72, 45), (1200, 9)])
def test_cells_that_hold_no_tones_are_refused(dpi: float, lpi: float) -> None:
    with pytest.raises(ValueError, match="no cells"):
        screen(dpi=dpi, lpi=lpi, angle=45)
