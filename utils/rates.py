"""A limit on how often something may happen, as a provider counts it: so many in any time span."""

import asyncio
import time
from collections import deque


class SlidingWindow:
    """At most `count` turns in any `span_s` seconds; who comes too early waits, in order.

    A token bucket of the same size would let twice as many through in its first span.
    """

    def __init__(self, count: int, *, span_s: float) -> None:
        self._span_s = span_s
        self._turns: deque[float] = deque(maxlen=count)
        self._door = asyncio.Lock()

    async def turn(self) -> None:
        """Returns when it is our turn."""
        async with self._door:
            if len(self._turns) == self._turns.maxlen:
                await asyncio.sleep(max(0.0, self._turns[0] + self._span_s - time.monotonic()))
            self._turns.append(time.monotonic())
