"""How the box's memory is divided, and that the parts never add up to more than there is."""

from pathlib import Path

import pytest

from models.inference import Architecture, Engine, LocalProfile, RunPlan
from services.budget import FLOOR_BYTES, USUAL_ENLARGING_BYTES, room_for_networks, split
from services.profiles import way_for

GIB, MIB = 1 << 30, 1 << 20


def peaks(granted: int) -> list[int]:
    """Those of the networks that fit."""
    room = room_for_networks(granted)
    assert room is not None
    ways = [
        way_for(RunPlan(Path(), engine=Engine.AUTO), LocalProfile.AUTO, each, room_bytes=room)
        for each in (Architecture.BIREFNET, Architecture.ISNET)
    ]
    return [way.peak_bytes for way in ways if way.peak_bytes <= room]


@pytest.mark.parametrize("granted", [0, 200 * MIB, GIB, 2 * GIB, 3 * GIB, 4 * GIB, 8 * GIB])
def test_the_parts_add_up_to_what_is_granted(granted: int) -> None:
    made = split(granted, enlarging_bytes=USUAL_ENLARGING_BYTES, network_peaks=peaks(granted))
    assert made.networks is not None
    assert made.shots is not None
    parts = FLOOR_BYTES + made.enlarging + made.networks + made.shots
    assert parts == max(granted, FLOOR_BYTES + made.enlarging)
    assert made.networks >= max(peaks(granted), default=0), "what is offered can be run"


def test_a_network_that_is_offered_leaves_something_for_shots() -> None:
    for granted in range(GIB, 8 * GIB, 100 * MIB):
        made = split(granted, enlarging_bytes=USUAL_ENLARGING_BYTES, network_peaks=peaks(granted))
        assert made.shots is not None
        assert made.shots >= 256 * MIB


def test_a_second_network_stays_loaded_only_where_shots_keep_enough() -> None:
    """The reference box holds both."""
    alone, resting = 2_050_000_000, round(0.8 * 790_000_000)
    assert split(3 * GIB, enlarging_bytes=512 * MIB, network_peaks=[alone]).networks == alone
    tight = split(3400 * MIB, enlarging_bytes=512 * MIB, network_peaks=[alone, 790_000_000])
    assert tight.networks == alone
    box = split(4 * GIB, enlarging_bytes=512 * MIB, network_peaks=[alone, 790_000_000])
    assert box.networks == alone + resting


def test_where_nothing_is_known_nothing_is_bounded() -> None:
    made = split(None, enlarging_bytes=512 * MIB, network_peaks=[1])
    assert (made.networks, made.shots) == (None, None)
    assert room_for_networks(None) is None


def test_more_for_enlargements_is_less_for_networks() -> None:
    assert room_for_networks(4 * GIB) == 3 * GIB
    assert room_for_networks(4 * GIB, enlarging_bytes=GIB) == 3 * GIB - 512 * MIB
