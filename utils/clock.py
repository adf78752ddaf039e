"""Time as the service counts it: deadlines on the monotonic clock, stamps in UTC."""

import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Self


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


def utc_today() -> date:
    return utc_now().date()
