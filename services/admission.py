"""Who may work now: a fixed number of requests, a short line behind them, and no more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from models.errors import DeadlineExceeded, Overloaded
from utils.clock import Deadline

_RETRY_AFTER_S = 10


class Gate:
    """At most `running_limit` requests inside and `queue_limit` waiting at the door."""

    def __init__(self, *, running_limit: int, queue_limit: int) -> None:
        self._slots = asyncio.Semaphore(running_limit)
        self.running_limit = running_limit
        self.queue_limit = queue_limit
        self.running = 0
        self.waiting = 0

    @asynccontextmanager
    async def slot(self, deadline: Deadline) -> AsyncIterator[None]:
        """Hold a place inside; refuses at once when the line is full."""
        await self._enter(deadline)
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._slots.release()

    async def _enter(self, deadline: Deadline) -> None:
        if self._slots.locked() and self.waiting >= self.queue_limit:
            raise Overloaded(
                f"{self.running} requests are being worked on and {self.waiting} are waiting.",
                limit=self.running_limit + self.queue_limit,
                actual=self.running + self.waiting + 1,
                retry_after_s=_RETRY_AFTER_S,
            )
        self.waiting += 1
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                await self._slots.acquire()
        except TimeoutError:
            raise DeadlineExceeded(
                "The deadline passed while the request waited for its turn.",
                retry_after_s=_RETRY_AFTER_S,
            ) from None
        finally:
            self.waiting -= 1
