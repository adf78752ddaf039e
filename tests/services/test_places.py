"""Of one shot's models only so many hold pixels at once, and every place comes back."""

import asyncio

import pytest

from models.schemas import ModelId
from services.places import Place, Places

pytestmark = pytest.mark.anyio


def _nobody_asks(_: ModelId) -> None:
    pass


async def test_no_more_than_the_count_have_a_place_at_once() -> None:
    places, inside, most = Places(2, _nobody_asks), 0, 0

    async def model() -> None:
        nonlocal inside, most
        with places.one() as place:
            await place.take()
            await place.take()  # once more changes nothing
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(model() for _ in range(7)))
    assert most == 2


async def test_a_place_left_early_is_the_next_ones_and_can_be_taken_again() -> None:
    places = Places(1, _nobody_asks)
    with places.one() as first, places.one() as second:
        await first.take()
        waiting = asyncio.create_task(second.take())
        await asyncio.sleep(0)
        assert not waiting.done()
        first.leave()
        await waiting
        second.leave()
        await first.take()
    with places.one() as third:
        await asyncio.wait_for(third.take(), 1)


async def test_a_place_of_no_shot_is_always_free() -> None:
    for place in (Place(), Place()):
        await asyncio.wait_for(place.take(), 1)
        place.leave()
