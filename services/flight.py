"""A shot under way: what has landed, when it may be answered, and whom to stop when that is enough.

The shotgun does the work; whoever waits for the answer holds the flight. Work that has cost nothing
can be stopped; a paid task that has left goes on, since it is paid for whether or not it is kept.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

from models.errors import AllModelsFailed, FailureCode, NoModelAvailable
from models.outcomes import Failed, Outcome, Skipped, SkipReason
from models.schemas import Mode, ModelId, ResultEntry, ShotRecord
from services.catalogue import PAID
from services.modes import Mask, Opinion, Policy, is_acceptable, suffices
from services.records import Shot, Stored
from services.triage import Triage
from utils.clock import Deadline, Stopwatch

_RANKING_GRACE_S = 1  # beyond the deadline, where the pool is busy

Verdict: TypeAlias = Callable[[ModelId, int], Outcome]
"""What becomes of a model that is stopped, after so many milliseconds."""


class Flight:
    """One shot on its way, for one who waits for its answer. Belongs to one event loop."""

    def __init__(self, shot: Shot, policy: Policy, deadline: Deadline) -> None:
        self._shot = shot
        self._policy = policy
        self._deadline = deadline
        self._landed: list[ResultEntry] = []
        self._masks: dict[ModelId, Mask] = {}
        # whose attempt can still be stopped
        self._stoppable: dict[ModelId, asyncio.Task[object]] = {}
        # sent to a provider: only the end of the service stops these
        self._sent: dict[ModelId, asyncio.Task[object]] = {}
        # sent, or about to land: these end by themselves
        self._beyond: set[ModelId] = set()
        self._winding_up = False
        self._verdict: Verdict | None = None
        self._work: asyncio.Task[None] | None = None
        self._bell = asyncio.Event()

    @property
    def request_id(self) -> str:
        return self._shot.request_id

    @property
    def seen(self) -> Triage | None:
        """What kind of picture it is, where it was looked at."""
        return self._shot.seen

    def record(self) -> ShotRecord:
        return self._shot.record()

    async def answer(self) -> ShotRecord:
        """The record as it stands when the answer is due.

        Raises:
            NoModelAvailable: none could be asked after all.
            AllModelsFailed: all that ran failed.
        """
        async for _ in self.landings():
            pass
        return await self.settled()

    async def landings(self, *, heartbeat_s: float = math.inf) -> AsyncIterator[ResultEntry | None]:
        """Each entry as it lands, None after `heartbeat_s` of silence, until the answer is due."""
        given = 0
        while True:
            self._bell.clear()
            if given < len(self._landed):
                given += 1
                yield self._landed[given - 1]
            elif self._is_due():
                return
            elif await self._is_silent_for(heartbeat_s):
                yield None

    async def settled(self) -> ShotRecord:
        """The record of a flight whose answer is due, ranked; raises as `answer` does."""
        if self._work is not None and self._work.done():
            self._work.result()
        else:
            await self._shot.rank(within_s=_RANKING_GRACE_S)
        return require_success(self.record())

    def abandon(self) -> None:
        """Nobody waits any more: what costs nothing yet is stopped, what is paid goes on."""
        self._stop(_abandoned)

    # What follows is the shotgun's side.

    def wind_up(self, by: Deadline) -> None:
        """The service ends: what has not answered lands at once, and the answer is due `by` then.

        What has answered is still being kept, and lands by itself.
        """
        self._winding_up = True
        self._deadline = min(self._deadline, by, key=lambda each: each.at)
        for task in (*self._stoppable.values(), *self._sent.values()):
            if not task.cancelling():
                task.cancel()
        self._bell.set()

    def is_carried_by(self, work: asyncio.Task[None]) -> None:
        """The task that does the work; when it ends, whatever way, so does the waiting."""
        self._work = work
        work.add_done_callback(lambda _: self._bell.set())

    def sent(self, model: ModelId) -> None:
        """A task of this model leaves: from now on it may cost money, and nobody stops it."""
        self._beyond.add(model)
        if (task := self._stoppable.pop(model, None)) is not None:
            self._sent[model] = task

    async def stoppable(self, model: ModelId, attempt: Awaitable[Outcome]) -> Outcome:
        """The outcome of an attempt, or of its being stopped."""
        watch = Stopwatch()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine that runs has one
        self._stoppable[model] = task
        try:
            outcome = await attempt
        except asyncio.CancelledError:
            verdict = self._last_word(model)
            if verdict is None:
                raise
            task.uncancel()
            return verdict(model, watch.ms())
        else:
            self._beyond.add(model)
            return outcome
        finally:
            self._stoppable.pop(model, None)
            self._sent.pop(model, None)

    def verdict(self, model: ModelId) -> Outcome | None:
        """What becomes of a model whose turn comes after the others have been stopped."""
        if self._winding_up:
            return _interrupted(model, 0)
        return self._verdict(model, 0) if self._verdict else None

    def _last_word(self, model: ModelId) -> Verdict | None:
        """What becomes of a model whose attempt was stopped; None: it was not by us."""
        if self._winding_up:
            return _left_behind if model in self._sent else _interrupted
        return self._verdict if model in self._stoppable else None

    def judge(self, model: ModelId, mask: Mask) -> None:
        """Keep what a model saw until the cascade has been decided."""
        self._masks[model] = mask

    def opinions(self) -> list[Opinion]:
        return [
            Opinion(self._masks[entry.model], is_acceptable(entry.flags))
            for entry in self._landed
            if entry.model in self._masks and entry.status == "succeeded"
        ]

    async def land(self, model: ModelId, outcome: Outcome, stored: Stored | None) -> None:
        entry = await self._shot.land(model, outcome, stored)
        self._landed.append(entry)
        if self._policy.mode is Mode.FAST and entry.status == "succeeded" and self._is_enough():
            self._stop(_after(model))
        self._bell.set()

    def _stop(self, verdict: Verdict) -> None:
        if self._verdict is None:
            self._verdict = verdict
            for task in self._stoppable.values():
                task.cancel()

    def _is_enough(self) -> bool:
        return suffices(self._policy, self._landed)

    def _is_due(self) -> bool:
        if self._work is not None and self._work.done():
            return True
        return not self._deadline.remaining_s() or (self._is_enough() and self._has_stopped())

    def _has_stopped(self) -> bool:
        """Whether all that were stopped have landed as such, so that the answer can say so."""
        if self._verdict is None:
            return True
        landed = {entry.model for entry in self._landed}
        return landed | self._beyond == {entry.model for entry in self.record().results}

    async def _is_silent_for(self, seconds: float) -> bool:
        """False as soon as something happens, or at the deadline where that is sooner."""
        remaining_s = self._deadline.remaining_s()
        try:
            async with asyncio.timeout(min(seconds, remaining_s)):
                await self._bell.wait()
        except TimeoutError:
            return seconds <= remaining_s
        return False


def _abandoned(_: ModelId, latency_ms: int) -> Failed:
    words = "The client left before this model had finished."
    return Failed(FailureCode.CANCELLED, words, retryable=True, latency_ms=latency_ms)


def _interrupted(_: ModelId, latency_ms: int) -> Failed:
    words = "The service was stopped before this model had finished."
    return Failed(FailureCode.CANCELLED, words, retryable=True, latency_ms=latency_ms)


def _left_behind(_: ModelId, latency_ms: int) -> Failed:
    words = (
        "The service was stopped while the provider worked on this; it may have charged for it, "
        "so it is not sent again."
    )
    return Failed(
        FailureCode.PROVIDER_OUTCOME_UNKNOWN, words, retryable=False, latency_ms=latency_ms
    )


def _after(winner: ModelId) -> Verdict:
    """`fast`: the others were not needed."""

    def verdict(model: ModelId, latency_ms: int) -> Outcome:
        if model in PAID:
            return Skipped(SkipReason.ENOUGH, f"{winner} was enough; nothing was sent.")
        words = f"Stopped: {winner} was enough."
        return Failed(FailureCode.CANCELLED, words, retryable=False, latency_ms=latency_ms)

    return verdict


def require_success(record: ShotRecord) -> ShotRecord:
    """The record, unless all that ran failed."""
    if any(entry.status in {"succeeded", "pending"} for entry in record.results):
        return record
    failures = [entry for entry in record.results if entry.error]
    if not failures and any(entry.reason == SkipReason.NOT_NEEDED for entry in record.results):
        return record
    if not failures:
        raise NoModelAvailable("None of the models could be asked.")
    reasons = "; ".join(f"{each.model}: {each.error.code}" for each in failures if each.error)
    raise AllModelsFailed(f"Every model that ran failed. {reasons}")
