"""Whose turn it is where one works at a time: the shortest first, nobody overtaken for ever."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Waiter:
    """One that waits; the list of waiters is in order of arrival."""

    expected_s: float
    called: asyncio.Future[None]
    overtaken: int = 0


class Turns:
    """One turn at a time. A shorter job may overtake a longer one `max_overtakes` times, no more.

    Among equals, first come, first served. Belongs to one event loop.
    """

    def __init__(self, *, max_overtakes: int) -> None:
        self._max_overtakes = max_overtakes
        self._waiting: list[_Waiter] = []
        self._taken = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def taken(self) -> bool:
        return self._taken

    @asynccontextmanager
    async def turn(self, expected_s: float = math.inf) -> AsyncIterator[None]:
        """Wait for a turn that will take about `expected_s`; it ends with the block."""
        if self._taken:
            await self._wait(expected_s)
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, expected_s: float) -> None:
        waiter = _Waiter(expected_s, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await waiter.called
        except asyncio.CancelledError:
            if not waiter.called.cancelled():  # called in the same moment: the turn goes on
                self._pass_on()
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    def _pass_on(self) -> None:
        """Call the next; the turn stays taken meanwhile, so that nobody slips in."""
        self._waiting = [each for each in self._waiting if not each.called.cancelled()]
        if not self._waiting:
            self._taken = False
            return
        chosen = self._next()
        ahead = self._waiting.index(chosen)
        for overtaken in self._waiting[:ahead]:
            overtaken.overtaken += 1
        self._waiting.pop(ahead)
        chosen.called.set_result(None)

    def _next(self) -> _Waiter:
        for waiter in self._waiting:
            if waiter.overtaken >= self._max_overtakes:
                return waiter
        return min(self._waiting, key=lambda each: each.expected_s)
