"""What a shot will take: more for more, and never less than what its arrays really take."""

import io
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.schemas import ModelId
from services.appetite import appetite
from services.intake import inspect, read
from services.local_knockout import _cut
from services.remover import RemovalOptions, cut_with
from utils.pictures import Header

FIVE = list(ModelId)[:5]
KNOCKOUT = ModelId.LOCAL_KNOCKOUT


def header(pixels: int, **more: bool) -> Header:
    return Header(format="PNG", width=pixels, height=1, complete=True, **more)  # type: ignore[arg-type]


def peak(told: Header, models: list[ModelId], budget: int | None = None) -> tuple[int, int]:
    found = appetite(told, models, at_most=2, budget_bytes=budget)
    return found.bytes, found.at_once


def test_more_pixels_models_and_alpha_take_more() -> None:
    small, opaque = header(10**6), header(16_000_000, may_have_alpha=False)
    assert peak(small, FIVE) < peak(header(2 * 10**6), FIVE)
    assert peak(small, [ModelId.LOCAL_ISNET]) < peak(small, [KNOCKOUT]) < peak(small, FIVE)
    assert peak(opaque, FIVE) < peak(header(16_000_000), FIVE)
    reading = replace(opaque, format="JPEG", held_bytes=10**9)
    assert peak(reading, FIVE)[0] > 10**9, "what the decoder keeps counts as well"
    assert peak(replace(opaque, format="WEBP"), [KNOCKOUT]) > peak(opaque, [KNOCKOUT])


def test_fewer_models_at_once_where_more_would_not_fit() -> None:
    told = header(16_000_000)
    (two, _), one = peak(told, FIVE), appetite(told, FIVE, at_most=1, budget_bytes=None)
    assert peak(told, FIVE, budget=two) == (two, 2)
    assert peak(told, FIVE, budget=two - 1) == (one.bytes, 1)
    assert peak(told, FIVE, budget=1) == (one.bytes, 1), "the gate will say that it never fits"
    assert peak(told, [KNOCKOUT])[1] == 1, "no more places than models"
    assert peak(told, [])[1] == 1


def test_looking_at_prints_takes_its_strips_and_blocks_for_each_at_once() -> None:
    told, mib = header(16_000_000), 1 << 20
    for count in (1, 2):
        plain = appetite(told, FIVE, at_most=count, budget_bytes=None)
        checked = appetite(told, FIVE, at_most=count, budget_bytes=None, checked=True)
        assert checked.bytes - plain.bytes == 24 * mib * count
        assert checked.at_once == plain.at_once


@pytest.mark.parametrize("alpha", [False, True])
def test_the_arrays_of_a_shot_stay_below_what_is_predicted(tmp_path: Path, *, alpha: bool) -> None:
    """numpy's part of it, exactly; Pillow's buffers are measured by bench/admission.py."""
    path = tmp_path / "picture.png"
    path.write_bytes(_drawing(1000, alpha=alpha))
    told = inspect(path, max_pixels=10**8)
    assert told.may_have_alpha is alpha
    image = read(path, told)
    mask = np.asarray(Image.fromarray(image.rgb[..., 0]).resize((256, 256)))
    works = {
        ModelId.LOCAL_ISNET: partial(cut_with, image, mask),
        KNOCKOUT: partial(_cut, image, RemovalOptions()),
    }
    for model, work in works.items():
        tracemalloc.start()
        work()
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        predicted = peak(told, [model])[0] - told.pixels * (3 + alpha)
        assert 0.3 * predicted < taken < predicted, model


def _drawing(side: int, *, alpha: bool) -> bytes:
    """Red discs on white, with a transparent corner where alpha is asked."""
    rows, columns = np.mgrid[:side, :side] % 500
    pixels = np.full((side, side, 3 + alpha), 255, np.uint8)
    pixels[(rows - 250) ** 2 + (columns - 250) ** 2 < 200**2, :3] = (200, 20, 30)
    pixels[: side // 4, : side // 4, 3:] = 0
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()
