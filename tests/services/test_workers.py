"""The pool's width is the CPU limit, whatever waits, times out or is cancelled."""

import asyncio
import threading

import pytest

from services.workers import Workers
from utils import logs

pytestmark = pytest.mark.anyio


async def test_a_timeout_does_not_widen_the_pool() -> None:
    workers = Workers(pixel_threads=1)
    go_on, inside, most = threading.Event(), [0], [0]

    def work() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        go_on.wait(5)
        inside[0] -= 1

    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await workers.pixels(work)
    go_on.set()
    await workers.pixels(lambda: None)
    workers.close()
    assert most[0] == 1


async def test_what_was_abandoned_is_known_until_it_ends() -> None:
    workers = Workers(pixel_threads=1)
    go_on = threading.Event()
    running, pending = (asyncio.create_task(workers.pixels(go_on.wait, 10)) for _ in range(2))
    await asyncio.sleep(0.01)
    pending.cancel()
    await asyncio.gather(pending, return_exceptions=True)
    assert not workers.abandoned, "it had not begun"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(workers.abandoned) == 1
    settled = asyncio.create_task(workers.settle())
    await asyncio.sleep(0.01)
    assert not settled.done()
    go_on.set()
    await settled
    assert not workers.abandoned
    workers.close()


async def test_the_request_id_follows_the_work_into_the_pool() -> None:
    workers = Workers(pixel_threads=1)
    token = logs.request_id.set("order-4711")
    assert await workers.pixels(logs.request_id.get) == "order-4711"
    logs.request_id.reset(token)
    workers.close()


async def test_work_for_a_shot_does_not_wait_behind_the_strips_of_an_enlargement() -> None:
    workers = Workers(pixel_threads=1)
    go_on = threading.Event()
    strips = [asyncio.create_task(workers.strips(go_on.wait, 10)) for _ in range(5)]
    await asyncio.sleep(0)
    assert await workers.pixels(lambda: "done") == "done"
    assert not any(each.done() for each in strips)
    go_on.set()
    assert await asyncio.gather(*strips) == [True] * 5
    workers.close()
