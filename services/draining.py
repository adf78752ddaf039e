"""How the service ends: it takes no new work, ends what runs, and is gone in time.

A drain has steps, counted from the signal that begins it in parts of `total_s`:

1. At once /ready says 503 and both gates are shut: who waits is told `draining`, and so is who
   comes. A SIGTERM leaves the socket open for `notice_s`: whoever sends requests here hears 503
   with Retry-After instead of a refused connection until it has noticed. Then uvicorn closes it.
2. What runs goes on. At 75 % a shot that still runs lands as it stands: what has cost nothing is
   cancelled, a paid task that left is `provider_outcome_unknown`; so its answer, its stream and its
   record end whole.
3. At 90 % uvicorn cuts whoever is still connected; an answer that has not begun becomes 503.
4. Until 97 % those who were cut may say their last words, and webhooks may arrive; the rest is for
   the files and the networks' process.

routers/signals.py begins it. Should a step hang, the process is given up `OVERRUN_S` after
`total_s`.
"""

import asyncio
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from models.errors import Draining
from services.admission import Gate
from services.shotgun import Shotgun
from services.webhooks import Webhooks
from utils.clock import Deadline

_log = logging.getLogger(__name__)

OVERRUN_S = 3
_LANDING_SHARE, _CUTTING_SHARE, _CLOSING_SHARE = 0.75, 0.9, 0.97
_NEXT_START_S = 5


@dataclass(frozen=True, slots=True)
class _Schedule:
    """When what happens, on the monotonic clock."""

    landing: Deadline
    cutting: Deadline
    closing: Deadline
    end: Deadline


class Drain:
    """Ends one service. Belongs to one event loop."""

    def __init__(
        self,
        *,
        total_s: float,
        notice_s: float,
        gates: Sequence[Gate],
        shotgun: Shotgun,
        webhooks: Webhooks,
    ) -> None:
        self.total_s = total_s
        self.notice_s = min(notice_s, total_s / 2)
        self._gates = gates
        self._shotgun = shotgun
        self._webhooks = webhooks
        self._schedule: _Schedule | None = None
        self._landing: asyncio.Task[None] | None = None
        self._requests = 0
        self._nobody_asks = asyncio.Event()

    @property
    def draining(self) -> bool:
        return self._schedule is not None

    def begin(self) -> None:
        """Take no new work, and see to it that what runs ends; only the first call counts."""
        if self._schedule is not None:
            return
        self._schedule = _Schedule(
            landing=Deadline.after(self.total_s * _LANDING_SHARE),
            cutting=Deadline.after(self.total_s * _CUTTING_SHARE),
            closing=Deadline.after(self.total_s * _CLOSING_SHARE),
            end=Deadline.after(self.total_s),
        )
        _log.info("draining", extra={"within_s": self.total_s, "shots": self._shotgun.under_way})
        for gate in self._gates:
            gate.shut(self.refusal)
        self._landing = asyncio.create_task(self._land_in_time(self._schedule))

    def refusal(self) -> Draining:
        """What a request is told that comes too late or waited too long."""
        left_s = self._schedule.end.remaining_s() if self._schedule else 0
        return Draining(
            "The service is being stopped and takes no new work.",
            hint="Ask again: another one may be there by then.",
            retry_after_s=math.ceil(left_s) + _NEXT_START_S,
        )

    def until_cutting_s(self) -> float:
        """Seconds for which whoever is connected may still be answered."""
        return self._schedule.cutting.remaining_s() if self._schedule else 0

    @contextmanager
    def attending(self) -> Iterator[None]:
        """While a request is answered: one that is cut still has its last words to say."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._nobody_asks.set()

    async def finish(self) -> None:
        """When nobody is connected any more: what goes on without a listener ends as well.

        Where no drain has begun nothing is waited for.
        """
        if self._schedule is None or self._landing is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._schedule.cutting.remaining_s()):
                await self._shotgun.settled()
        self._landing.cancel()
        self._webhooks.hurry()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._schedule.closing.remaining_s()):
                await asyncio.gather(self._webhooks.settled(), self._last_words())
        _log.info("drained", extra={"left_s": round(self._schedule.end.remaining_s(), 3)})

    async def _last_words(self) -> None:
        while self._requests:
            self._nobody_asks.clear()
            await self._nobody_asks.wait()

    async def _land_in_time(self, schedule: _Schedule) -> None:
        await asyncio.sleep(schedule.landing.remaining_s())
        self._shotgun.wind_up(schedule.cutting)
