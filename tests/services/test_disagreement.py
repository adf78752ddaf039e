"""The heat map's pixels, and how stored cut-outs become small."""

from dataclasses import dataclass

import numpy as np
import pytest

from models.errors import NothingToCompare
from models.images import Flag, Pixels
from models.schemas import ImageInfo, ModelId, ResultEntry, ShotRecord
from services.disagreement import comparable, deviation_of, digest_of, heat_map, shrunk
from utils.clock import utc_now


def cutout(alpha: Pixels) -> Pixels:
    return np.dstack([np.full((*alpha.shape, 3), 200, np.uint8), alpha])


def test_half_against_half_is_the_largest_deviation() -> None:
    alphas = np.array([[[0, 255, 255]], [[255, 255, 255]], [[0, 255, 255]], [[255, 255, 0]]])
    assert deviation_of(alphas.astype(np.uint8))[0] == pytest.approx([1, 0, 3**0.5 / 2])


def test_agreement_is_dark_grey_and_disagreement_goes_from_yellow_to_red() -> None:
    one = np.array([[255, 0, 255, 255]], np.uint8)
    other = np.array([[255, 0, 0, 160]], np.uint8)
    picture = heat_map([cutout(one), cutout(other)])
    assert picture[0, 0].tolist() == picture[0, 1].tolist() == [60, 60, 60]
    assert picture[0, 2].tolist() == [225, 0, 45]
    red, green, blue = picture[0, 3].tolist()
    assert red > green > blue


@dataclass
class ArrayRows:
    """Rows out of an array, in order."""

    pixels: Pixels
    at: int = 0

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def channels(self) -> int:
        return int(self.pixels.shape[2])

    def read(self, rows: int) -> Pixels:
        self.at += rows
        return self.pixels[self.at - rows : self.at]


@pytest.mark.parametrize("shape", [(2050, 1030), (300, 2600), (1, 5000), (512, 100), (1, 1)])
def test_every_small_pixel_is_the_mean_of_its_square(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 4), dtype=np.uint8)
    small = shrunk(ArrayRows(pixels))
    factor = -(-max(shape) // 512)
    assert small.shape == (-(-shape[0] // factor), -(-shape[1] // factor), 4)
    for row, column in ((0, 0), (small.shape[0] - 1, small.shape[1] - 1), (small.shape[0] // 2, 0)):
        square = pixels[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
        assert np.abs(small[row, column] - square.mean(axis=(0, 1))).max() <= 0.5


def record(*entries: ResultEntry, status: str = "complete") -> ShotRecord:
    return ShotRecord.model_validate(
        {
            "request_id": "0" * 32,
            "status": status,
            "created_at": utc_now(),
            "image": ImageInfo(
                width=1, height=1, format="PNG", bytes=1, sha256="", had_alpha=False
            ),
            "results": entries,
            "cost_usd": 0,
            "latency_ms": 1,
            "expires_at": utc_now(),
        }
    )


def entry(model: ModelId, *flags: Flag, sha256: str = "a") -> ResultEntry:
    return ResultEntry(model=model, status="succeeded", flags=list(flags), sha256=sha256)


FIRST, SECOND, THIRD = list(ModelId)[:3]


def test_degenerates_are_left_out_where_two_others_remain() -> None:
    empty = entry(THIRD, Flag.EMPTY)
    found = comparable(record(entry(FIRST), entry(SECOND), empty))
    assert [each.model for each in found] == [FIRST, SECOND]
    assert comparable(record(entry(FIRST), empty)) == [entry(FIRST), empty]


@pytest.mark.parametrize(("status", "hinted"), [("running", True), ("complete", False)])
def test_one_cutout_cannot_be_compared(status: str, *, hinted: bool) -> None:
    failed = ResultEntry(model=SECOND, status="failed")
    with pytest.raises(NothingToCompare) as refusal:
        comparable(record(entry(FIRST), failed, status=status))
    assert bool(refusal.value.hint) == hinted


def test_the_digest_follows_what_is_compared() -> None:
    first = [entry(FIRST), entry(SECOND)]
    assert digest_of(first) == digest_of(list(first))
    assert digest_of(first) != digest_of([entry(FIRST), entry(SECOND, sha256="b")])
    assert digest_of(first) != digest_of([entry(FIRST), entry(THIRD)])
