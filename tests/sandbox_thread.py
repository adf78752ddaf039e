"""The sandbox on a thread and event loop of its own, for tests whose service runs elsewhere."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox.opening import Sandbox, open_sandbox
from sandbox.options import Options


@contextmanager
def running_sandbox(options: Options | None = None) -> Iterator[Sandbox]:
    """Both look-alikes on free loopback ports; faults, bill and journal may be used directly."""
    opened: list[Sandbox] = []
    ready, loop = threading.Event(), asyncio.new_event_loop()
    closing = asyncio.Event()

    async def live() -> None:
        async with open_sandbox(options) as sandbox:
            opened.append(sandbox)
            ready.set()
            await closing.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(live(),))
    thread.start()
    try:
        assert ready.wait(30), "the sandbox did not open"
        yield opened[0]
    finally:
        loop.call_soon_threadsafe(closing.set)
        thread.join(30)
        loop.close()
