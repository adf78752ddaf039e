"""A storage for `limits` in this process's memory, which takes no more however many ask.

Its own one sweeps through all names at every hit and has no upper bound. Here a name is two counts,
each hit touches one name, and the name that was silent the longest makes room for a new one.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import ClassVar

from limits.aio.storage import SlidingWindowCounterSupport, Storage

SCHEME = "async+bounded-memory"
MOST_NAMES = 20_000


@dataclass(slots=True)
class _Counts:
    """Hits in the window of that number, `span_s` long, and in the one before it."""

    window: int
    span_s: int
    current: int = 0
    previous: int = 0

    def move_to(self, window: int) -> None:
        if window != self.window:
            self.previous = self.current if window == self.window + 1 else 0
            self.current = 0
            self.window = window


class BoundedMemory(Storage, SlidingWindowCounterSupport):
    """Counts by name, on one event loop; windows are told by a clock that nobody sets."""

    STORAGE_SCHEME: ClassVar[list[str] | None] = [SCHEME]  # type: ignore[misc]  # `limits` reads it of the class

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,  # noqa: FBT001, FBT002  # as `limits` calls it
        *,
        most_names: int = MOST_NAMES,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(uri, wrap_exceptions)
        self._most_names = most_names
        self._now = now
        self._names: OrderedDict[str, _Counts] = OrderedDict()

    def __len__(self) -> int:
        return len(self._names)

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    async def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Count `amount` hits unless they are more than `limit` in `expiry` seconds."""
        counts, passed = self._at(key, expiry)
        self._keep(key, counts)
        weighted = counts.previous * (1 - passed / expiry) + counts.current
        if floor(weighted) + amount > limit:
            return False
        counts.current += amount
        return True

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Hits of the window before and the seconds it still counts; the same of this one."""
        counts, passed = self._at(key, expiry)
        left = expiry - passed
        return counts.previous, left if counts.previous else 0.0, counts.current, left + expiry

    async def clear_sliding_window(self, key: str, expiry: int) -> None:  # noqa: ARG002  # theirs
        await self.clear(key)

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        counts, _ = self._at(key, expiry)
        self._keep(key, counts)
        counts.current += amount
        return counts.current

    async def get(self, key: str) -> int:
        counts = self._names.get(key)
        return 0 if counts is None else counts.current

    async def get_expiry(self, key: str) -> float:
        """When the window of its last hit ends, in seconds of the Unix epoch."""
        counts = self._names.get(key)
        left = 0.0 if counts is None else (counts.window + 1) * counts.span_s - self._now()
        return time.time() + max(0.0, left)

    async def check(self) -> bool:
        return True

    async def reset(self) -> int | None:
        forgotten = len(self._names)
        self._names.clear()
        return forgotten

    async def clear(self, key: str) -> None:
        self._names.pop(key, None)

    def _at(self, key: str, expiry: int) -> tuple[_Counts, float]:
        """The name's counts as of now, and the seconds that have passed of this window."""
        window, passed = divmod(self._now(), expiry)
        counts = self._names.get(key) or _Counts(int(window), expiry)
        counts.move_to(int(window))
        return counts, passed

    def _keep(self, key: str, counts: _Counts) -> None:
        self._names[key] = counts
        self._names.move_to_end(key)
        while len(self._names) > self._most_names:
            self._names.popitem(last=False)
