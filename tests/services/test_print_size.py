"""From a scale or inches to pixels, and what that means in print."""

import pytest

from models.errors import InvalidParameter, ScaleOutOfRange
from models.print_check import Preset
from models.schemas import SizeParameters
from services.print_size import USUAL_WIDTHS_IN, PrintSize, free_size_for, preset_width_in, size_for


def size(width: int, height: int, **asked: float | str) -> PrintSize:
    return size_for(width, height, SizeParameters.model_validate(asked))


def test_four_times_unless_asked_otherwise() -> None:
    assert (size(100, 50).width, size(100, 50).height) == (400, 200)


@pytest.mark.parametrize(
    ("scale", "wanted"), [(2, (202, 102)), (1.5, (152, 77)), (0.5, (51, 26)), (0.001, (1, 1))]
)
def test_a_scale_is_rounded_to_whole_pixels_and_never_to_none(
    scale: float, wanted: tuple[int, int]
) -> None:
    made = size(101, 51, scale=scale)
    assert (made.width, made.height) == wanted


def test_inches_become_pixels_at_the_dpi_asked_for() -> None:
    made = size(1000, 500, width_in=11)
    assert (made.width, made.height) == (3300, 1650)
    made = size(1000, 500, height_in=2, dpi=150)
    assert (made.width, made.height) == (600, 300)


def test_both_inches_are_a_frame_to_fit_into() -> None:
    made = size(1000, 500, width_in=10, height_in=3)
    assert (made.width, made.height) == (1800, 900)
    made = size(1000, 500, width_in=3, height_in=10)
    assert (made.width, made.height) == (900, 450)


@pytest.mark.parametrize("asked", [{"scale": 8.01}, {"width_in": 30}, {"height_in": 30}])
def test_more_than_eight_times_is_refused_with_the_numbers(asked: dict[str, float]) -> None:
    with pytest.raises(ScaleOutOfRange) as refusal:
        size(1000, 1000, **asked)
    assert refusal.value.limit == 8
    assert refusal.value.actual is not None
    assert refusal.value.actual > 8


def test_a_scale_and_inches_together_contradict_each_other() -> None:
    with pytest.raises(InvalidParameter):
        size(100, 100, scale=2, width_in=1)


def test_the_report_tells_both_resolutions_and_that_no_detail_was_added() -> None:
    report = size(1000, 500, width_in=10).report()
    assert (report.source_dpi, report.output_dpi) == (100, 300)
    assert (report.width_in, report.height_in) == (10, 5)
    assert report.scale == 3
    assert "100 dpi" in report.note
    assert "adds no detail" in report.note


def test_a_reduction_claims_no_interpolation() -> None:
    report = size(6000, 3000, width_in=10).report()
    assert report.source_dpi == 600
    assert "interpolates" not in report.note


@pytest.mark.parametrize("preset", Preset)
def test_a_preset_is_a_usual_width_there(preset: Preset) -> None:
    least, most = USUAL_WIDTHS_IN[preset]
    assert least <= preset_width_in(preset) <= most
    made = size(4000, 2000, preset=preset)
    assert made.width == round(300 * preset_width_in(preset))
    assert made.height == round(made.width / 2)


def test_a_preset_fits_into_a_height_and_excludes_a_width() -> None:
    assert size(1000, 2000, preset="front", height_in=10).width == 1500
    for other in ({"width_in": 3}, {"scale": 2}):
        with pytest.raises(InvalidParameter):
            size(1000, 1000, preset="front", **other)


def test_what_only_measures_may_be_any_size() -> None:
    assert free_size_for(100, 100, SizeParameters(width_in=30)).scale == 90
