"""One turn at a time: the shortest first, and nobody overtaken more often than said."""

import asyncio

import pytest

from utils.turns import Turns

pytestmark = pytest.mark.anyio


class Queue:
    """Jobs in `turns` that write their names down when their turn comes."""

    def __init__(self, max_overtakes: int = 4) -> None:
        self.turns = Turns(max_overtakes=max_overtakes)
        self.served: list[str] = []

    async def enter(self, name: str, expected_s: float) -> asyncio.Task[None]:
        async def wait() -> None:
            async with self.turns.turn(expected_s):
                self.served.append(name)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        return task


async def test_the_shortest_goes_first_and_equals_in_order_of_arrival() -> None:
    queue = Queue()
    async with queue.turns.turn():
        waits = {"long": 9, "first": 2, "second": 2, "shortest": 1}
        tasks = [await queue.enter(name, seconds) for name, seconds in waits.items()]
        assert queue.turns.waiting == 4
    await asyncio.gather(*tasks)
    assert queue.served == ["shortest", "first", "second", "long"]
    assert not queue.turns.taken


async def test_nobody_is_overtaken_more_often_than_said() -> None:
    queue = Queue(max_overtakes=4)
    async with queue.turns.turn():
        tasks = [await queue.enter("longest", 100), await queue.enter("long", 50)]
        tasks += [await queue.enter(f"short {number}", 1) for number in range(6)]
    await asyncio.gather(*tasks)
    assert queue.served == [
        *(f"short {number}" for number in range(4)),
        "longest",
        "long",
        "short 4",
        "short 5",
    ]


async def test_who_comes_while_a_turn_is_passed_on_does_not_slip_in() -> None:
    queue = Queue()
    async with queue.turns.turn():
        waiting = await queue.enter("waited", 5)
    late = asyncio.create_task(_take(queue, "late"))
    await asyncio.gather(waiting, late)
    assert queue.served == ["waited", "late"]


async def _take(queue: Queue, name: str) -> None:
    async with queue.turns.turn(0):
        queue.served.append(name)


async def test_who_leaves_the_queue_is_not_called() -> None:
    queue = Queue()
    async with queue.turns.turn():
        leaver = await queue.enter("leaver", 1)
        stayer = await queue.enter("stayer", 2)
        leaver.cancel()
    await stayer
    assert queue.served == ["stayer"]
    assert leaver.cancelled()


async def test_who_leaves_when_called_passes_the_turn_on() -> None:
    queue = Queue()
    async with queue.turns.turn():
        called = await queue.enter("called", 1)
        stayer = await queue.enter("stayer", 2)
    called.cancel()
    await stayer
    assert queue.served == ["stayer"]
    assert not queue.turns.taken


async def test_an_error_ends_the_turn() -> None:
    queue = Queue()
    with pytest.raises(ValueError, match="mine"):
        await _fail(queue.turns)
    assert not queue.turns.taken


async def _fail(turns: Turns) -> None:
    async with turns.turn():
        raise ValueError("mine")
