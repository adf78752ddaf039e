"""The gate lets in a fixed number, keeps a short line, and refuses the rest at once."""

import asyncio

import pytest

from models.errors import DeadlineExceeded, Overloaded
from services.admission import Gate
from utils.clock import Deadline

pytestmark = pytest.mark.anyio


async def test_no_more_than_the_limit_are_inside() -> None:
    gate = Gate(running_limit=2, queue_limit=10)
    most = 0

    async def work() -> None:
        nonlocal most
        async with gate.slot(Deadline.after(5)):
            most = max(most, gate.running)
            await asyncio.sleep(0)

    await asyncio.gather(*(work() for _ in range(8)))
    assert most == 2
    assert (gate.running, gate.waiting) == (0, 0)


async def test_the_line_is_bounded_and_the_refusal_has_the_numbers() -> None:
    gate = Gate(running_limit=1, queue_limit=1)
    async with gate.slot(Deadline.after(5)):
        waiting = asyncio.create_task(gate.slot(Deadline.after(5)).__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refusal:
            await gate.slot(Deadline.after(5)).__aenter__()
        assert (refusal.value.limit, refusal.value.actual) == (2, 3)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert gate.waiting == 0


async def test_waiting_ends_with_the_deadline() -> None:
    gate = Gate(running_limit=1, queue_limit=1)
    async with gate.slot(Deadline.after(5)):
        with pytest.raises(DeadlineExceeded):
            await gate.slot(Deadline.after(0.01)).__aenter__()
    async with gate.slot(Deadline.after(1)):
        assert gate.running == 1
