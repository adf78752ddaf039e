"""The same request twice: run once, answered again from its record, never paid for a second time.

Two ways to be the same. With an Idempotency-Key the caller says so. Without one, and with dedupe
switched on, the same picture with the same parameters is, as long as its shot turned out well.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from models.errors import (
    DeadlineExceeded,
    IdempotencyInFlight,
    IdempotencyMismatch,
    IdempotencyUnavailable,
    ResultNotFound,
)
from models.outcomes import SkipReason
from models.schemas import IdempotencyInfo, ResultEntry, ShotRecord
from services.catalogue import PAID
from services.claims import Claims, Earlier, Ticket
from services.results import ResultStore
from services.shotgun import Plan
from utils.clock import Deadline

_log = logging.getLogger(__name__)

KEY_KEPT = timedelta(hours=24)

_RETRY_AFTER_S = 5
_LOOK_AGAIN_S = 0.1
# what another shot of the same picture would skip just the same
_SKIPPED_FOR_GOOD = {SkipReason.UNCONFIGURED, SkipReason.NOT_NEEDED, SkipReason.ENOUGH}


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a request the same as another: whose it is, which route, what was sent (hex)."""

    key_id: str
    route: str
    fingerprint: str


class Seen(StrEnum):
    """How an earlier shot was found again."""

    REPLAYED = "replayed"
    DEDUPLICATED = "deduplicated"


@dataclass(frozen=True, slots=True)
class Turn:
    """What a request is to do: fire `plan`, or answer with the record of `earlier`."""

    plan: Plan
    earlier: str | None = None
    seen: Seen | None = None


class Idempotency:
    """The rules, over claims and results; `dedupe_ttl` is None where dedupe is off."""

    def __init__(
        self, claims: Claims, results: ResultStore, *, dedupe_ttl: timedelta | None
    ) -> None:
        self._claims = claims
        self._results = results
        self._dedupe_ttl = dedupe_ttl
        self.answered = dict.fromkeys(Seen, 0)

    def concerns(self, key: str | None) -> bool:
        """Whether a request with this key, or with none, has to be identified at all."""
        return key is not None or self._dedupe_ttl is not None

    def info(self) -> IdempotencyInfo:
        reason = self._claims.problem
        return IdempotencyInfo(available=reason is None, reason=reason)

    @asynccontextmanager
    async def once(self, key: str | None, identity: Identity, plan: Plan) -> AsyncIterator[Turn]:
        """Hold the request's name while it is answered.

        Raises IdempotencyMismatch, IdempotencyInFlight, IdempotencyUnavailable; without a key only
        DeadlineExceeded, where the same request before it did not even begin in time.
        """
        twin = self._twin(identity)
        if key is None:
            turns = self._deduplicated(twin, plan) if twin else _unnamed(plan)
        else:
            ticket = _ticket(key, identity, kept=KEY_KEPT)
            turns = self._keyed(ticket, plan, twin)
        async with turns as turn:
            if turn.seen is not None:
                self.answered[turn.seen] += 1
            yield turn

    async def sweep(self) -> None:
        """Forget the names that have expired; where that fails, it is said and tried again."""
        try:
            await self._claims.sweep()
        except IdempotencyUnavailable:
            _log.warning("idempotency_not_swept")

    @asynccontextmanager
    async def _keyed(self, ticket: Ticket, plan: Plan, twin: Ticket | None) -> AsyncIterator[Turn]:
        hold = _Hold(self._claims, self._results, ticket, twin)
        async with hold.ending():
            earlier = await self._claims.take(ticket)
            if earlier is None:
                yield Turn(replace(plan, on_created=hold.bind))
            else:
                hold.ours = False
                yield Turn(plan, _replayable(earlier, ticket), Seen.REPLAYED)

    @asynccontextmanager
    async def _deduplicated(self, ticket: Ticket, plan: Plan) -> AsyncIterator[Turn]:
        hold = _Hold(self._claims, self._results, ticket)
        async with hold.ending():
            try:
                earlier = await self._take_or_find(ticket, plan.deadline)
            except IdempotencyUnavailable:
                hold.ours = False
                yield Turn(plan)
                return
            if earlier is None:
                yield Turn(replace(plan, on_created=hold.bind_if_possible))
            else:
                hold.ours = False
                await self._landed(earlier, plan.deadline)
                yield Turn(plan, earlier, Seen.DEDUPLICATED)

    async def _take_or_find(self, ticket: Ticket, deadline: Deadline) -> str | None:
        """The shot to answer with; None where the request is to fire one of its own."""
        unfit: str | None = None
        while (earlier := await self._claims.take(ticket, instead_of=unfit)) is not None:
            if earlier.request_id is None:
                await _wait_a_little(deadline)
            elif await self._is_fit(earlier.request_id):
                return earlier.request_id
            else:
                unfit = earlier.request_id
        return None

    async def _is_fit(self, request_id: str) -> bool:
        try:
            record = await self._results.record(request_id)
        except ResultNotFound:
            return False
        return _turned_out_well(record)

    async def _landed(self, request_id: str, deadline: Deadline) -> None:
        """Until every model of the shot has landed, or the deadline: as its own request waits."""
        with suppress(ResultNotFound):
            while (await self._results.record(request_id)).status == "running":
                if deadline.remaining_s() == 0:
                    return
                await asyncio.sleep(_LOOK_AGAIN_S)

    def _twin(self, identity: Identity) -> Ticket | None:
        """The name of a request by its content alone; no key holds a space."""
        if self._dedupe_ttl is None:
            return None
        return _ticket(f"same {identity.fingerprint}", identity, kept=self._dedupe_ttl)


class _Hold:
    """A name in the hands of one request, from the claim to the answer."""

    def __init__(
        self, claims: Claims, results: ResultStore, ticket: Ticket, twin: Ticket | None = None
    ) -> None:
        self.ours = True
        self._claims = claims
        self._results = results
        self._ticket = ticket
        self._twin = twin
        self._shot: str | None = None

    @asynccontextmanager
    async def ending(self) -> AsyncIterator[None]:
        """However the request ends, its name is kept if there is a charge to be kept from."""
        keep = True
        try:
            yield
        except BaseException:  # a problem, or a client that has left: free work ended with it
            keep = await self._paid_model_was_asked()
            raise
        finally:
            if self.ours:
                await self._end(keep=keep and self._shot is not None)

    async def bind(self, request_id: str) -> None:
        """No model is asked before this has returned; where it cannot be said, none is."""
        try:
            await self._claims.bind(self._ticket, request_id, also=self._twin)
        except (IdempotencyUnavailable, asyncio.CancelledError):
            await self._results.delete(request_id)
            raise
        self._shot = request_id

    async def bind_if_possible(self, request_id: str) -> None:
        """The same for a request that named no key: it goes on where nothing can be noted."""
        try:
            await self._claims.bind(self._ticket, request_id)
        except IdempotencyUnavailable:
            _log.warning("shot_not_remembered", extra={"shot": request_id})
        except asyncio.CancelledError:
            await self._results.delete(request_id)
            raise
        self._shot = request_id

    async def _paid_model_was_asked(self) -> bool:
        if self._shot is None:
            return False
        try:
            record = await self._results.record(self._shot)
        except ResultNotFound:
            return True
        return any(each.model in PAID and each.status != "skipped" for each in record.results)

    async def _end(self, *, keep: bool) -> None:
        try:
            await (self._claims.finish if keep else self._claims.forget)(self._ticket)
        except IdempotencyUnavailable:
            _log.warning("claim_not_ended", extra={"shot": self._shot})


def fingerprint(picture: Path, parameters: Mapping[str, object]) -> str:
    """SHA-256 (hex) over the picture's bytes and the parameters, whatever their order. Blocks."""
    with picture.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    said = json.dumps({"picture": content, "parameters": parameters}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


@asynccontextmanager
async def _unnamed(plan: Plan) -> AsyncIterator[Turn]:
    yield Turn(plan)


def _ticket(name: str, identity: Identity, *, kept: timedelta) -> Ticket:
    return Ticket(
        identity.key_id,
        identity.route,
        name,
        identity.fingerprint,
        kept_s=kept.total_seconds(),
    )


def _replayable(earlier: Earlier, ticket: Ticket) -> str:
    """The shot of a key that was used before."""
    if earlier.fingerprint != ticket.fingerprint:
        raise IdempotencyMismatch(
            "This Idempotency-Key was used for another picture or other parameters.",
            hint="Use a new key for a new request.",
        )
    if earlier.running or earlier.request_id is None:
        shot = earlier.request_id
        raise IdempotencyInFlight(
            "The first request with this Idempotency-Key is still being answered.",
            hint=f"Its record is at /results/{shot}." if shot else None,
            retry_after_s=_RETRY_AFTER_S,
        )
    return earlier.request_id


def _turned_out_well(record: ShotRecord) -> bool:
    """Whether another shot could not do better: nothing failed, nothing was left out for now."""
    done = [each for each in record.results if not _is_skipped_for_good(each)]
    return bool(done) and all(each.status in {"succeeded", "pending"} for each in done)


def _is_skipped_for_good(entry: ResultEntry) -> bool:
    return entry.status == "skipped" and entry.reason in _SKIPPED_FOR_GOOD


async def _wait_a_little(deadline: Deadline) -> None:
    """For a shot that has not begun yet."""
    if deadline.remaining_s() == 0:
        raise DeadlineExceeded(
            "The same request came before and still waits for its turn.",
            retry_after_s=_RETRY_AFTER_S,
        )
    await asyncio.sleep(_LOOK_AGAIN_S)
