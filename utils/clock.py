"""Time as the service counts it: deadlines on the monotonic clock, stamps in UTC."""

import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Self

_STARTED_S = time.time() - time.monotonic()


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock (seconds) by which something must be done."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        return cls(time.monotonic() + seconds)

    def sooner(self, seconds: float) -> "Deadline":
        """This moment, or `seconds` from now, whichever comes first."""
        return min(self, Deadline.after(seconds), key=lambda each: each.at)

    def later(self, seconds: float) -> "Deadline":
        """This moment, or `seconds` from now, whichever comes last."""
        return max(self, Deadline.after(seconds), key=lambda each: each.at)

    def remaining_s(self) -> float:
        return max(0.0, self.at - time.monotonic())


class Stopwatch:
    """Milliseconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def ms(self) -> int:
        return round((time.monotonic() - self._start) * 1000)


def utc_now() -> datetime:
    return datetime.now(UTC)


def earliest_now_s() -> float:
    """Seconds since 1970, at the earliest: by which what is kept for a time has not passed it.

    When the system's clock is set, nobody here knows whether it was wrong before or is wrong now.
    So what must not be lost is kept until both have come: the moment by the clock as it is, and by
    the clock as it was at start with what has passed since then.
    """
    return min(time.time(), _elapsed_now_s())


def latest_now_s() -> float:
    """Seconds since 1970, at the latest: by which what is granted for a time has passed it."""
    return max(time.time(), _elapsed_now_s())


def earliest_now() -> datetime:
    """`earliest_now_s` as a moment in UTC."""
    return datetime.fromtimestamp(earliest_now_s(), UTC)


def _elapsed_now_s() -> float:
    return _STARTED_S + time.monotonic()


def utc_today() -> date:
    return utc_now().date()
