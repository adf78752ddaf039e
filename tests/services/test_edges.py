"""Edges: alpha follows the picture, soft pixels lose the ground, nothing is invented."""

import time
import tracemalloc
from functools import cache

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from bench.edges import PIECES, Scene, artwork, band, coarse, ground, laid_on
from models.images import Pixels
from services.edges import EXTENDED, decontaminate, project_alpha

SIDE = 2000
GRID = SIDE * 1024 // 4000
NAMES = ("aircraft", "bird_of_peace", "shamrock", "war_drum")
KERNELS = (Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.BOX)


@cache
def piece(name: str) -> tuple[Pixels, Pixels]:
    return artwork(next(path for path in PIECES if path.name.startswith(name)), SIDE)


@cache
def scene(name: str, under: str) -> Scene:
    colours, alpha = piece(name)
    return Scene(laid_on(colours, alpha, ground(under, *alpha.shape)), colours, alpha)


def small(alpha: Pixels, kernel: Image.Resampling = Image.Resampling.LANCZOS) -> Pixels:
    """The alpha at the ratio 1024 : 4000, whatever the side."""
    size = (alpha.shape[1] * GRID // SIDE, alpha.shape[0] * GRID // SIDE)
    return np.asarray(Image.fromarray(alpha).resize(size, kernel))


def plain(alpha: Pixels, like: Pixels, kernel: Image.Resampling) -> Pixels:
    return np.asarray(Image.fromarray(alpha).resize(like.shape[1::-1], kernel))


def band_error(found: Pixels, truth: Pixels) -> float:
    near = band(truth)
    return float(np.abs(found[near].astype(np.int16) - truth[near]).mean())


def share_of_lanczos(scene: Scene, given: Pixels) -> float:
    """Our error as a share of plain Lanczos', the better of the two plain ones."""
    ours = band_error(project_alpha(scene.rgb, alpha=given), scene.alpha)
    lanczos = plain(given, scene.alpha, Image.Resampling.LANCZOS)
    bilinear = plain(given, scene.alpha, Image.Resampling.BILINEAR)
    assert ours < band_error(bilinear, scene.alpha)
    return ours / band_error(lanczos, scene.alpha)


def colour_error(found: Pixels, scene: Scene) -> float:
    """In levels, of soft pixels as printed on any shirt."""
    soft = (scene.alpha > 0) & (scene.alpha < 255)
    off = np.abs(found[soft].astype(np.int16) - scene.colours[soft])
    return float((off * (scene.alpha[soft, None] / 255)).mean())


def disc(radius: float, side: int, soft: float = 1.0) -> Pixels:
    """Alpha of a disc whose edge is `soft` pixels wide."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    share = np.clip((radius - np.hypot(x, y)) / soft + 0.5, 0, 1)
    return np.asarray(np.rint(share * 255), np.uint8)


def on(colour: tuple[int, int, int], alpha: Pixels, under: tuple[int, int, int]) -> Pixels:
    full = np.full((*alpha.shape, 3), colour, np.uint8)
    return laid_on(full, alpha, np.full_like(full, under))


@pytest.mark.parametrize("under", ["white", "pastel", "texture", "anime-girl-1"])
@pytest.mark.parametrize("name", NAMES)
def test_the_error_is_at_least_30_percent_below_either_plain_resize(name: str, under: str) -> None:
    chosen = scene(name, under)
    assert share_of_lanczos(chosen, small(chosen.alpha)) <= 0.70


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_it_does_not_matter_how_the_alpha_was_reduced(kernel: Image.Resampling) -> None:
    chosen = scene("aircraft", "white")
    assert share_of_lanczos(chosen, small(chosen.alpha, kernel)) <= 0.55


def test_a_squashed_alpha_is_unsquashed_along_the_edges() -> None:
    chosen = scene("war_drum", "white")
    given = np.asarray(Image.fromarray(chosen.alpha).resize((GRID, GRID), KERNELS[0]))
    assert share_of_lanczos(chosen, given) <= 0.70


def test_an_alpha_wider_than_the_picture_is_reduced_on_that_axis_only() -> None:
    alpha = disc(300, 1200)[:, 480:720]
    rgb = on((20, 40, 90), alpha, (255, 255, 255))
    found = project_alpha(rgb, alpha=np.asarray(Image.fromarray(alpha).resize((1024, 1024))))
    assert found.shape == alpha.shape
    assert np.abs(found.astype(int) - alpha).mean() < 0.5


def test_an_alpha_of_the_pictures_size_comes_back_unchanged() -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (50, 70), np.uint8)
    assert np.array_equal(project_alpha(np.zeros((50, 70, 3), np.uint8), alpha=alpha), alpha)


def test_a_reduction_is_smooth_and_does_not_ring() -> None:
    found = project_alpha(np.zeros((100, 100, 3), np.uint8), alpha=disc(400, 1000))
    assert np.abs(found.astype(int) - disc(40, 100)).mean() < 0.5
    assert found[disc(42, 100) == 0].max() == 0
    assert found[disc(38, 100) == 255].min() == 255


@pytest.mark.parametrize("under", ["texture", "car-1"])
def test_inside_and_outside_stay_exact_whatever_the_picture_shows(under: str) -> None:
    chosen = scene("aircraft", under)
    found = project_alpha(chosen.rgb, alpha=small(chosen.alpha, Image.Resampling.BOX))
    far = ndimage.minimum_filter(~band(chosen.alpha), 9)  # three coarse pixels of four
    assert np.array_equal(found[far], chosen.alpha[far])


@pytest.mark.parametrize(("deviation", "most"), [(3, 1.0), (10, 1.0), (40, 1.5)])
def test_grain_in_the_picture_is_not_printed_into_a_soft_alpha(
    deviation: float, most: float
) -> None:
    alpha = disc(60, 256, soft=60)
    grain = np.random.default_rng(0).normal(size=(1024, 1024, 3)) * deviation
    rgb = np.asarray(np.rint((grain + np.array([90, 110, 140])).clip(0, 255)), np.uint8)
    calm = plain(alpha, rgb, Image.Resampling.BICUBIC)
    soft = (calm > 0) & (calm < 255)
    found = project_alpha(rgb, alpha=alpha)
    assert np.abs(found[soft].astype(int) - calm[soft]).mean() < most


def test_a_faintly_soft_interior_gets_no_holes() -> None:
    random = np.random.default_rng(0)
    alpha = random.integers(235, 256, (128, 128), np.uint8)
    rgb = random.integers(0, 256, (500, 500, 3), np.uint8)
    assert project_alpha(rgb, alpha=alpha).min() >= 235 - 20


def test_an_alpha_that_misses_the_edge_is_not_torn() -> None:
    rgb = on((20, 40, 90), disc(400, 1000), (255, 255, 255))
    found = project_alpha(rgb, alpha=disc(102, 256, soft=8))
    rings = np.diff((found[500] > 127).astype(int))
    assert np.count_nonzero(rings) == 2


@pytest.mark.parametrize(
    ("name", "most"), [("aircraft", 0.6), ("daffodil", 3.0), ("shamrock", 1.5), ("8_ball", 4.5)]
)
@pytest.mark.parametrize("under", ["white", "texture", "anime-girl-1"])
def test_the_grounds_tint_is_gone(name: str, most: float, under: str) -> None:
    chosen = scene(name, under)
    found = colour_error(decontaminate(chosen.rgb, alpha=chosen.alpha), chosen)
    assert found <= min(most, 0.6 * colour_error(chosen.rgb, chosen))


def test_a_glaze_without_solid_pixels_is_unmixed() -> None:
    alpha = (disc(50, 200) * 0.6).astype(np.uint8)
    found = decontaminate(on((200, 16, 46), alpha, (255, 255, 255)), alpha=alpha)
    assert np.abs(found[alpha > 20].astype(int) - (200, 16, 46)).max() <= 4


def test_a_thin_hair_without_solid_pixels_keeps_its_own_colour() -> None:
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:, 31], alpha[:, 32] = 120, 60
    found = decontaminate(on((30, 20, 10), alpha, (250, 250, 250)), alpha=alpha)
    assert np.abs(found[alpha > 0].astype(int) - (30, 20, 10)).max() <= 12


def test_opaque_colour_is_untouched_bit_for_bit() -> None:
    chosen = scene("aircraft", "texture")
    found = decontaminate(chosen.rgb, alpha=chosen.alpha)
    opaque = chosen.alpha == 255
    assert np.array_equal(found[opaque], chosen.rgb[opaque])


def test_hidden_background_does_not_leak_and_the_outer_edge_is_foreground() -> None:
    alpha = disc(50, 200, soft=3)
    found = decontaminate(on((200, 16, 46), alpha, (0, 255, 0)), alpha=alpha)
    beyond = disc(52 + 2 * EXTENDED, 200) == 0
    assert not found[beyond].any()
    close = (disc(50 + EXTENDED - 2, 200) == 255) & (alpha == 0)
    assert np.abs(found[close].astype(int) - (200, 16, 46)).max() <= 3


def test_tiles_leave_no_seams() -> None:
    alpha = disc(250, 700, soft=300)
    random = np.random.default_rng(0)
    under = random.integers(100, 120, (700, 700, 3), np.uint8)
    found = decontaminate(laid_on(np.full_like(under, 30), alpha, under), alpha=alpha).astype(int)
    steps = np.abs(np.diff(found, axis=1)).mean(axis=(0, 2))
    assert steps[[255, 511]].max() <= steps[240:272].mean() * 1.5


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (70, 3)])
@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (64, 64), (400, 400)])
def test_any_shape_and_content_is_answered(shape: tuple[int, int], grid: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    rgb = random.integers(0, 256, (*shape, 3), np.uint8)
    for level in (0, 3, 90, 255):
        alpha = project_alpha(rgb, alpha=np.full(grid, level, np.uint8))
        assert np.array_equal(alpha, np.full(shape, level))
        assert decontaminate(rgb, alpha=alpha).shape == rgb.shape
    noise = project_alpha(rgb, alpha=random.integers(0, 256, grid, np.uint8))
    assert decontaminate(rgb, alpha=noise).shape == rgb.shape


def test_the_source_is_not_written_to() -> None:
    alpha = disc(20, 64)
    rgb = on((200, 16, 46), disc(40, 128), (255, 255, 255))
    rgb.setflags(write=False)
    alpha.setflags(write=False)
    decontaminate(rgb, alpha=project_alpha(rgb, alpha=alpha))


def test_memory_stays_below_eight_bytes_a_pixel_beyond_inputs_and_result() -> None:
    rgb = np.full((3000, 3000, 3), 255, np.uint8)
    given = disc(400, 1024)
    tracemalloc.start()
    alpha = project_alpha(rgb, alpha=given)
    decontaminate(rgb, alpha=alpha)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / alpha.size - 4 <= 4


def test_a_blank_interior_costs_next_to_nothing() -> None:
    rgb = np.zeros((2000, 2000, 3), np.uint8)
    begun = time.process_time()
    decontaminate(rgb, alpha=project_alpha(rgb, alpha=np.full((512, 512), 255, np.uint8)))
    assert (time.process_time() - begun) / 4 <= 0.1


def test_a_photo_grid_is_the_benchmarks() -> None:
    assert coarse(np.zeros((500, 2000), np.uint8), squashed=False).shape == (256, 1024)
