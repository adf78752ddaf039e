"""Lanczos by strips is Lanczos over the whole picture, whatever the strips."""

import numpy as np
import pytest
from PIL import Image

from models.images import Pixels
from services.lanczos import Resizing

CHANNELS = [1, 2, 3, 4]
STRIP_ROWS = [1, 2, 3, 5, 8, 31, 1000]
ALIGNED = [  # (width, height) to (width, height)
    ((53, 47), (106, 94)),
    ((53, 47), (159, 141)),
    ((53, 47), (212, 188)),
    ((23, 31), (184, 248)),
    ((40, 42), (100, 105)),  # 2.5 times: two rows become five
    ((64, 60), (80, 75)),
    ((90, 80), (45, 40)),
    ((90, 84), (30, 28)),
    ((90, 80), (36, 32)),
    ((1, 1), (4, 4)),
    ((1, 50), (4, 200)),
    ((50, 1), (200, 4)),
    ((2, 3), (16, 24)),
    ((400, 6), (1600, 24)),
    ((33, 29), (33, 29)),
]
UNALIGNED = [((101, 97), (333, 320)), ((60, 301), (23, 116)), ((47, 53), (100, 113))]


def noise(size: tuple[int, int], channels: int) -> Pixels:
    rng = np.random.default_rng(sum(size) + channels)
    return rng.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)


def whole(pixels: Pixels, size: tuple[int, int], how: Image.Resampling) -> Pixels:
    """Pillow's own resize of everything at once."""
    picture = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])
    return np.asarray(picture.resize(size, how)).reshape(size[1], size[0], -1)


def by_strips(pixels: Pixels, size: tuple[int, int], rows: int) -> Pixels:
    """All strips joined; the row above each is the last of the one before."""
    resizing = Resizing(pixels.shape[1], pixels.shape[0], *size)
    joined: list[Pixels] = []
    for strip in resizing.strips(rows):
        assert strip.rows.start == sum(map(len, joined))
        resized = strip.resize(pixels[strip.source.start : strip.source.stop])
        if joined:
            assert np.array_equal(resized[0], joined[-1][-1])
            resized = resized[1:]
        joined.append(resized)
    result = np.concatenate(joined)
    assert result.shape == (size[1], size[0], pixels.shape[2])
    return result


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("source", "target"), ALIGNED)
def test_strips_equal_the_whole_to_the_bit(
    source: tuple[int, int], target: tuple[int, int], channels: int
) -> None:
    pixels = noise(source, channels)
    wanted = whole(pixels, target, Image.Resampling.LANCZOS)
    step, _ = Resizing(*source, *target).step
    for rows in STRIP_ROWS:
        assert np.array_equal(by_strips(pixels, target, max(rows, step)), wanted), rows


@pytest.mark.parametrize("rows", range(1, 13))
def test_strip_borders_at_every_phase_are_exact(rows: int) -> None:
    pixels = noise((19, 61), 4)
    assert np.array_equal(
        by_strips(pixels, (76, 244), rows), whole(pixels, (76, 244), Image.Resampling.LANCZOS)
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("source", "target"), UNALIGNED)
def test_borders_between_rows_move_a_value_by_one_at_most(
    source: tuple[int, int], target: tuple[int, int], channels: int
) -> None:
    pixels = noise(source, channels)
    wanted = whole(pixels, target, Image.Resampling.LANCZOS).astype(int)
    for rows in STRIP_ROWS:
        resizing = Resizing(*source, *target)
        strips = [
            strip.resize(pixels[strip.source.start : strip.source.stop])[min(strip.rows.start, 1) :]
            for strip in resizing.strips(rows)
        ]
        assert np.abs(np.concatenate(strips) - wanted).max() <= 1


@pytest.mark.parametrize(("source", "target"), UNALIGNED)
def test_with_alpha_the_premultiplied_values_stay_within_one(
    source: tuple[int, int], target: tuple[int, int]
) -> None:
    """Premultiplied colours are resized like any others, so opaque and plain ones tell it all.

    Straight colours under a faint alpha are those values divided by next to nothing: a step of one
    there is a step of many in what nobody sees.
    """
    pixels = noise(source, 4)
    alpha = pixels[..., 3:].astype(float) / 255
    premultiplied = np.round(pixels[..., :3] * alpha).astype(np.uint8)
    wanted = whole(premultiplied, target, Image.Resampling.LANCZOS).astype(int)
    resizing = Resizing(*source, *target)
    strips = []
    for strip in resizing.strips(7):
        resized = strip.resize(pixels[strip.source.start : strip.source.stop])
        strips.append(resized[min(strip.rows.start, 1) :].astype(float))
    got = np.concatenate(strips)
    # no colour is brighter than its alpha; one for the strip, one for the way there and back
    wanted = np.minimum(wanted, got[..., 3:])
    assert np.abs(got[..., :3] * got[..., 3:] / 255 - wanted).max() <= 2
    alone = whole(pixels[..., 3:], target, Image.Resampling.LANCZOS).astype(int)
    assert np.abs(got[..., 3:] - alone).max() <= 1


def scene() -> Pixels:
    """A soft ramp across, a hard square in it: what tells the kernels apart."""
    ramp = np.tile(np.linspace(10, 240, 64), (64, 1))
    ramp[20:40, 24:44] = 255 - ramp[20:40, 24:44]
    return ramp.astype(np.uint8)[..., np.newaxis]


def test_it_is_lanczos_and_no_other_kernel() -> None:
    got = by_strips(scene(), (256, 256), 8).astype(int)
    for how in Image.Resampling:
        far = np.abs(got - whole(scene(), (256, 256), how)).max()
        assert (far <= 1) == (how is Image.Resampling.LANCZOS), how


@pytest.mark.parametrize("channels", [2, 4])
def test_colour_under_full_transparency_never_bleeds(channels: int) -> None:
    pixels = noise((24, 24), channels)
    pixels[..., -1] = np.where(noise((24, 24), 1)[..., 0] < 128, 0, pixels[..., -1])
    cleared = pixels * (pixels[..., -1:] > 0)
    assert not np.array_equal(pixels, cleared)
    assert np.array_equal(by_strips(pixels, (96, 96), 5), by_strips(cleared, (96, 96), 5))


def test_opaque_stays_opaque() -> None:
    pixels = noise((31, 29), 4)
    pixels[..., 3] = 255
    assert by_strips(pixels, (124, 116), 6)[..., 3].min() == 255


def test_a_strip_reads_only_the_rows_within_reach() -> None:
    for strip in Resizing(50, 1000, 200, 4000).strips(16):
        assert len(strip.source) <= 16 + 2 * 4
    for strip in Resizing(500, 1000, 50, 100).strips(10):
        assert len(strip.source) <= 10 + 2 * (30 + 10)
