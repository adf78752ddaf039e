"""A profile is a point between time and memory; `auto` goes by the memory that is granted."""

from pathlib import Path

import pytest

from models.inference import Architecture, Engine, Form, LocalProfile, Precision, RunPlan
from services.budget import room_for_networks
from services.profiles import Way, way_for

GIB = 1 << 30
PLAN = RunPlan(Path(), engine=Engine.AUTO)


def birefnet(profile: LocalProfile, granted: int | None, plan: RunPlan = PLAN) -> Way:
    return way_for(plan, profile, Architecture.BIREFNET, room_bytes=room_for_networks(granted))


def test_auto_takes_the_fastest_that_fits_beside_the_service() -> None:
    assert birefnet(LocalProfile.AUTO, None).plan.engine is Engine.OPENVINO
    assert birefnet(LocalProfile.AUTO, 8 * GIB).plan.engine is Engine.OPENVINO
    box = birefnet(LocalProfile.AUTO, 4 * GIB)
    assert box.plan.engine is Engine.OPENVINO
    assert box.form is Form.SINGLES
    small = birefnet(LocalProfile.AUTO, 3 * GIB - (128 << 20))
    assert small.plan.low_memory
    assert small.form is Form.ROWS
    assert small.peak_bytes <= 2 * GIB - (128 << 20)


def test_where_nothing_fits_it_is_the_smallest_and_says_what_it_takes() -> None:
    way = birefnet(LocalProfile.AUTO, 2 * GIB)
    assert way == birefnet(LocalProfile.SMALL, 2 * GIB)
    assert way.peak_bytes > 2 * GIB - (1 << 30)


def test_isnet_is_fast_on_the_small_box_and_thrifty_only_when_told() -> None:
    room = room_for_networks(4 * GIB)
    fast = way_for(PLAN, LocalProfile.AUTO, Architecture.ISNET, room_bytes=room)
    assert fast.plan.engine is Engine.OPENVINO
    small = way_for(PLAN, LocalProfile.SMALL, Architecture.ISNET, room_bytes=room)
    assert small.plan.low_memory
    assert small.peak_bytes < fast.peak_bytes


@pytest.mark.parametrize("profile", LocalProfile)
@pytest.mark.parametrize("engine", [Engine.OPENVINO, Engine.ONNXRUNTIME])
def test_an_engine_that_was_asked_for_stays(profile: LocalProfile, engine: Engine) -> None:
    plan = RunPlan(Path(), engine=engine)
    assert birefnet(profile, 4 * GIB, plan).plan.engine is engine


def test_no_way_is_slower_and_larger_than_another() -> None:
    ways = [birefnet(each, None) for each in (LocalProfile.SPEED, LocalProfile.SMALL)]
    by_time = sorted(ways, key=lambda each: each.expected_s)
    by_memory = sorted(ways, key=lambda each: -each.peak_bytes)
    assert by_time == by_memory


def test_a_plan_has_no_auto_left() -> None:
    for profile in LocalProfile:
        plan = birefnet(profile, 4 * GIB).plan
        assert plan.engine is not Engine.AUTO
        assert plan.precision is not Precision.AUTO


def test_weights_are_kept_in_halves_only_where_bf16_is_allowed_and_there() -> None:
    balanced = birefnet(LocalProfile.BALANCED, 4 * GIB)
    allowed = birefnet(LocalProfile.AUTO, 4 * GIB, RunPlan(Path(), precision=Precision.BF16))
    assert balanced == allowed
    here = balanced.plan.precision is Precision.BF16  # as far as this CPU goes
    assert balanced.form is (Form.HALVES if here else Form.SINGLES)
    assert birefnet(LocalProfile.AUTO, 4 * GIB).form is Form.SINGLES


def test_the_lite_network_is_the_smaller_and_faster_in_every_way() -> None:
    for profile in LocalProfile:
        full = birefnet(profile, None)
        lite = way_for(PLAN, profile, Architecture.BIREFNET_LITE, room_bytes=None)
        assert lite.peak_bytes < full.peak_bytes
        assert lite.expected_s < full.expected_s
