"""How often an account may ask: a sliding window."""

from collections import deque

from sandbox.options import Clock

_ACCOUNTS_KEPT = 1000


class Window:
    """`limit` calls within any `seconds`, each account by itself; the rest is refused."""

    def __init__(self, *, limit: int, seconds: float, clock: Clock) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._calls: dict[str, deque[float]] = {}

    def admit(self, account: str) -> bool:
        now = self._clock()
        if account not in self._calls and len(self._calls) >= _ACCOUNTS_KEPT:
            self._calls.pop(next(iter(self._calls)))
        calls = self._calls.setdefault(account, deque())
        while calls and calls[0] <= now - self._seconds:
            calls.popleft()
        if len(calls) >= self._limit:
            return False
        calls.append(now)
        return True
