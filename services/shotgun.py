"""The shotgun: one picture to many models at once, each outcome a value of its own.

It knows the BackgroundRemover Protocol and no provider. A shot is answered when every model has
landed, when those are enough (services/modes.py), or when the deadline has passed; late models go
on and land in the stored record.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any, Protocol

from models.errors import (
    CircuitOpen,
    FailureCode,
    InsufficientStorage,
    NoModelAvailable,
    RemoverError,
    RemoverUnavailable,
    StorageUnavailable,
)
from models.images import Cutout, SourceImage
from models.outcomes import Failed, Outcome, Skipped, SkipReason, Succeeded, cost_of
from models.print_check import PrintCheck, PrintLimits
from models.schemas import (
    LatencyInfo,
    Mode,
    ModelId,
    ModelStatus,
    Percentiles,
    ShotRecord,
    SizeParameters,
    TriageMode,
)
from services import modes
from services.access import caller
from services.admission import Gate, Seat
from services.appetite import Appetite, appetite, still_needed
from services.budgets import Budgets
from services.edge_modes import EdgeFinish
from services.flight import Flight, require_success
from services.intake import inspect, read
from services.places import Place, Places
from services.print_check import Art, Wish, check_print
from services.recent_errors import ErrorRing
from services.records import Shot, Stored, store_cutout
from services.remover import BackgroundRemover, RemovalOptions
from services.results import ResultStore
from services.room import refusal_of_disk
from services.standings import Standings
from services.triage import Triage, look_at, not_needed
from services.workers import Workers
from utils.clock import Deadline, Stopwatch, utc_today
from utils.pictures import Header
from utils.spans import span

_log = logging.getLogger(__name__)

_LATENCIES_KEPT = 200
_SKIP_REASONS = {
    ModelStatus.UNCONFIGURED: SkipReason.UNCONFIGURED,
    ModelStatus.UNAVAILABLE: SkipReason.UNAVAILABLE,
    ModelStatus.OPEN: SkipReason.CIRCUIT_OPEN,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What one shot asks: the models in their fixed order, the options, when to answer.

    `prints` is how its cut-outs are to be enlarged, if they are, and `edge` what becomes of their
    partial alpha before they are stored; `check` how they are to be printed, where that is to be
    looked at; `max_cost_usd` what all of its paid models may cost together, None where that is left
    to the budgets; `policy` which of the models are asked when, and how many make an answer.
    `on_created` is told the shot's id once its record is on disk; no model is asked before it has
    returned. `when_complete` is told of the record when the last model has landed.
    """

    models: tuple[ModelId, ...]
    options: RemovalOptions
    deadline: Deadline
    prints: SizeParameters | None = None
    edge: EdgeFinish = field(default_factory=EdgeFinish)
    check: Wish | None = None
    max_cost_usd: Decimal | None = None
    policy: modes.Policy = field(default_factory=modes.Policy)
    on_created: Callable[[str], Awaitable[None]] | None = None
    triage: TriageMode = TriageMode.OFF
    when_complete: Callable[[ShotRecord], None] | None = None


class Taste(Protocol):
    """What customers' picks have taught."""

    def strengths(self, kind: str | None) -> Mapping[ModelId, float]:
        """What each model's word is worth for such pictures, 0 to 1."""

    def worth_asking(
        self, kind: str | None, *, free: Iterable[ModelId], paid: Iterable[ModelId]
    ) -> tuple[ModelId, ...]:
        """The paid models worth their price for such a picture, the best first."""


class Shotgun:
    """Fans out, collects outcomes, keeps what lands."""

    def __init__(  # noqa: PLR0913  # its parts, all named
        self,
        *,
        removers: Mapping[ModelId, BackgroundRemover],
        results: ResultStore,
        workers: Workers,
        gate: Gate,
        max_pixels: int,
        model_timeout_s: float,
        budgets: Budgets | None = None,
        taste: Taste | None = None,
        print_limits: PrintLimits | None = None,
        recent_errors: ErrorRing | None = None,
        tell: Callable[[ModelId, Outcome], None] = lambda *_: None,
    ) -> None:
        self._tell = tell
        self._recent_errors = recent_errors or ErrorRing()
        self._print_limits = print_limits or PrintLimits()
        self._budgets = budgets
        self._taste = taste
        self._removers = removers
        self._results = results
        self._workers = workers
        self._gate = gate
        self._max_pixels = max_pixels
        self._model_timeout_s = model_timeout_s
        # strong references: asyncio keeps only weak ones to running tasks
        self._running: set[asyncio.Task[None]] = set()
        self._flights: dict[Flight, asyncio.Task[None]] = {}
        self._winding_up_by: Deadline | None = None
        self._latencies = {model: _latencies() for model in removers}

    async def fire(self, source: Path, plan: Plan) -> ShotRecord:
        """Ask the models of the plan; the record as it stands when the answer is due.

        Raises what `begin` and Flight.answer raise.
        """
        flight = await self.begin(source, plan)
        return await flight.answer()

    async def begin(self, source: Path, plan: Plan) -> Flight:
        """Let the shot off: it has its place, its record and its tasks, and `source` is read.

        Cancelled before that, it leaves nothing behind.

        Raises:
            BadPicture: the file is not a picture we can work on.
            NoModelAvailable: every model would be skipped.
            BudgetExhausted: the same, and for some of them only the money is missing.
            Overloaded, InsufficientStorage: the house is full.
            Draining: the service is being stopped.
            SessionExhausted: a browser session has no shot left.
            InsufficientMemory: the picture is too large for the memory there is.
        """
        self._require_a_model(plan)
        self._gate.refuse_if_full()
        self._results.check_room()
        async with AsyncExitStack() as stack:
            plan = self._within_budget(plan, stack)
            header = await self._workers.pixels(inspect, source, max_pixels=self._max_pixels)
            takes = self._appetite(header, plan)
            slot = self._gate.slot(plan.deadline, needs_bytes=takes.bytes)
            seat = await stack.enter_async_context(slot)
            stack.push_async_callback(self._workers.settle)
            image = await self._workers.pixels(read, source, header)
            caller.get().take_shot()
            plan = replace(plan, models=modes.models_for(image, plan.models, plan.policy))
            seen = await self._look(image, plan)
            shot = Shot(
                image,
                plan.models,
                self._results,
                standings=self._standings(image, seen),
                prints=plan.prints,
                seen=seen,
            )
            await self._create(shot.record(), source)
            if plan.on_created is not None:
                await plan.on_created(shot.request_id)
            flight = Flight(shot, plan.policy, plan.deadline)
            places = Places(takes.at_once, self._diminishing(seat, header, plan, takes))
            work = self._spawn(self._work(flight, image, plan, places, stack.pop_all()))
            flight.is_carried_by(work)
            self._follow(flight, work)
        return flight

    async def again(self, request_id: str) -> ShotRecord:
        """The record of an earlier shot as it stands now.

        Raises ResultNotFound, and AllModelsFailed or NoModelAvailable as `fire` would.
        """
        return require_success(await self._results.record(request_id))

    def latency(self, model: ModelId) -> LatencyInfo:
        """Percentiles of the last successful answers of a model."""
        seen, today = self._latencies[model], utc_today()
        of_today = _percentiles([ms for day, ms in seen if day == today])
        return LatencyInfo(**dict(_percentiles([ms for _, ms in seen])), today=of_today)

    @property
    def under_way(self) -> int:
        """How many shots have models that have not landed."""
        return len(self._flights)

    def wind_up(self, by: Deadline) -> None:
        """Have every shot land as it stands, also those that are just beginning; see Flight."""
        self._winding_up_by = by
        for flight in tuple(self._flights):
            flight.wind_up(by)

    async def settled(self) -> None:
        """Wait until no shot is under way."""
        while self._flights:
            await asyncio.wait(self._flights.values())

    async def close(self) -> None:
        """Stop what still runs; its entries are marked as interrupted at the next start."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _require_a_model(self, plan: Plan) -> None:
        skips = {model: self._skip(model) for model in plan.models}
        if all(skips.values()):
            reasons = "; ".join(f"{model}: {skip.detail}" for model, skip in skips.items() if skip)
            raise NoModelAvailable(f"None of the models can be asked. {reasons}")

    def _within_budget(self, plan: Plan, stack: AsyncExitStack) -> Plan:
        """The plan with what it may spend; that is held until it is spent or the shot is over."""
        if self._budgets is None:
            return plan
        askable = [model for model in plan.models if not self._skip(model)]
        allowance = self._budgets.allowance(askable, most_usd=plan.max_cost_usd)
        stack.callback(allowance.close)
        allowance.require_one_of(askable)
        return replace(plan, options=replace(plan.options, allowance=allowance))

    def _skip(self, model: ModelId) -> Skipped | None:
        if model not in self._removers:
            return Skipped(SkipReason.UNCONFIGURED, "It is not set up on this installation.")
        now = self._removers[model].availability()
        reason = _SKIP_REASONS.get(now.status)
        return Skipped(reason, now.reason or "") if reason else None

    async def _create(self, record: ShotRecord, source: Path) -> None:
        """Record and picture on disk; a client that leaves in this moment takes them along."""
        creating = asyncio.create_task(self._begin_result(record, source))
        try:
            await asyncio.shield(creating)
        except asyncio.CancelledError:
            await asyncio.wait({creating})
            if creating.exception() is None:
                await self._results.delete(record.request_id)
            raise

    async def _begin_result(self, record: ShotRecord, source: Path) -> None:
        await self._results.create(record)
        await self._results.keep_original(record.request_id, source)

    async def _look(self, image: SourceImage, plan: Plan) -> Triage | None:
        return None if plan.triage is TriageMode.OFF else await self._workers.pixels(look_at, image)

    def _follow(self, flight: Flight, work: asyncio.Task[None]) -> None:
        self._flights[flight] = work
        work.add_done_callback(lambda _: self._flights.pop(flight))
        if self._winding_up_by is not None:
            flight.wind_up(self._winding_up_by)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _work(
        self,
        flight: Flight,
        image: SourceImage,
        plan: Plan,
        places: Places,
        seat: AsyncExitStack,
    ) -> None:
        """Run the models, holding the shot's seat in the house until the last lands."""
        try:
            async with asyncio.TaskGroup() as group:
                run = partial(self._run, flight, image, plan, places)
                first, paid = list(plan.models), list[ModelId]()
                if plan.policy.mode is Mode.CASCADE:
                    first, paid = modes.split(plan.models)
                running = {group.create_task(run(model)) for model in first}
                if paid:
                    group.create_task(self._cascade(flight, plan, paid, run, running))
        finally:
            await self._leave(seat)
        if plan.when_complete is not None:
            # by the loop: what goes wrong there is not this shot's failure
            asyncio.get_running_loop().call_soon(plan.when_complete, flight.record())

    async def _leave(self, seat: AsyncExitStack) -> None:
        """Give the seat up; where the pool still works on what was abandoned, as soon as it ends.

        The memory is in use until then, but nobody's answer waits for it.
        """
        if self._workers.abandoned:
            self._spawn(seat.aclose())
        else:
            await seat.aclose()

    def _standings(self, image: SourceImage, seen: Triage | None) -> Standings:
        """With what customers' picks say of each model for such a picture."""
        if self._taste is None:
            return Standings(image, self._workers)
        priors = self._taste.strengths(None if seen is None else seen.kind)
        return Standings(image, self._workers, priors=priors)

    async def _worth_asking(
        self, flight: Flight, plan: Plan, paid: tuple[ModelId, ...]
    ) -> tuple[ModelId, ...]:
        """Those of the `paid` that are worth their price by the picks; the others land skipped."""
        if self._taste is None:
            return paid
        kind = None if flight.seen is None else flight.seen.kind
        free, _ = modes.split(plan.models)
        worth = self._taste.worth_asking(kind, free=free, paid=paid)
        refused = Skipped(
            SkipReason.NOT_NEEDED, "By customers' picks it is not worth its price here."
        )
        left = [model for model in paid if model not in worth]
        await asyncio.gather(*(flight.land(model, refused, None) for model in left))
        return worth

    async def _cascade(
        self,
        flight: Flight,
        plan: Plan,
        paid: list[ModelId],
        run: Callable[[ModelId], Coroutine[Any, Any, None]],
        running: set[asyncio.Task[None]],
    ) -> None:
        """When the free models have landed, or take too long, ask the paid ones that it takes."""
        if running:
            await asyncio.wait(running, timeout=plan.deadline.remaining_s() * modes.FREE_SHARE)
        waiting = modes.cheapest_first(paid, plan.policy)
        absent = [model for model in waiting if self._skip(model)]
        await asyncio.gather(*map(run, absent))
        waiting = tuple(model for model in waiting if model not in absent)
        waiting = await self._worth_asking(flight, plan, waiting)
        while waiting:
            verdict = modes.next_paid(waiting, flight.opinions())
            if not verdict.ask:
                enough = Skipped(SkipReason.ENOUGH, verdict.detail)
                await asyncio.gather(*(flight.land(model, enough, None) for model in waiting))
                return
            await asyncio.gather(*map(run, verdict.ask))
            waiting = tuple(model for model in waiting if model not in verdict.ask)

    async def _run(
        self, flight: Flight, image: SourceImage, plan: Plan, places: Places, model: ModelId
    ) -> None:
        with places.one() as place:
            outcome: Outcome | None = (
                flight.verdict(model)
                or self._skip(model)
                or not_needed(model, flight.seen)
                or plan.options.allowance.refusal(model)
            )
            if outcome is None:
                attempt = self._attempt(flight, image, plan, model, place)
                with span("model", model=model):
                    outcome = await flight.stoppable(model, attempt)
            caller.get().charge(cost_of(outcome))
            stored: Stored | None = None
            if isinstance(outcome, Succeeded):
                self._latencies[model].append((utc_today(), outcome.latency_ms))
                outcome, stored = await self._keep(flight.request_id, model, outcome, plan)
        self._tell(model, outcome)
        if isinstance(outcome, Failed):
            self._recent_errors.note_failure(model, outcome.code)
        await flight.land(model, outcome, stored)
        places.landed(model)

    def _diminishing(
        self, seat: Seat, header: Header, plan: Plan, takes: Appetite
    ) -> Callable[[ModelId], None]:
        """What gives memory back as models land: a shot may wait long for the last of them.

        While the pool works on what was abandoned, nobody can say whose memory that takes.
        """
        left = set(plan.models)

        def landed(model: ModelId) -> None:
            left.discard(model)
            if not self._workers.abandoned:
                needed = still_needed(
                    header, left, at_once=takes.at_once, checked=plan.check is not None
                )
                seat.keep(needed)

        return landed

    def _appetite(self, header: Header, plan: Plan) -> Appetite:
        """For fewer models at once rather than wait for what other shots hold."""
        models = set(plan.models)
        if plan.policy.may_add_knockout:
            models.add(ModelId.LOCAL_KNOCKOUT)
        return appetite(
            header,
            [model for model in ModelId if model in models and not self._skip(model)],
            at_most=self._workers.width,
            budget_bytes=self._gate.budget.free_bytes,
            checked=plan.check is not None,
        )

    async def _attempt(
        self, flight: Flight, image: SourceImage, plan: Plan, model: ModelId, place: Place
    ) -> Outcome:
        """One model's try; whatever goes wrong becomes a value here and nowhere else."""
        watch = Stopwatch()
        deadline = Deadline.after(self._model_timeout_s)
        options = replace(plan.options, on_sent=partial(flight.sent, model), place=place)
        try:
            async with asyncio.timeout(self._model_timeout_s):
                cutout = await self._removers[model].remove(
                    image, options=options, deadline=deadline
                )
            latency_ms = watch.ms()
            if plan.policy.mode is Mode.CASCADE:
                flight.judge(model, await self._workers.pixels(modes.mask_of, cutout.alpha))
            return Succeeded(cutout, latency_ms)
        except CircuitOpen as error:
            return Skipped(SkipReason.CIRCUIT_OPEN, error.reason)
        except RemoverUnavailable as error:
            return Skipped(SkipReason.UNAVAILABLE, error.reason)
        except Exception as error:  # noqa: BLE001  # the one place: a crash is an outcome too
            return _failure(error, model=model, latency_ms=watch.ms())

    async def _keep(
        self, request_id: str, model: ModelId, outcome: Succeeded, plan: Plan
    ) -> tuple[Outcome, Stored | None]:
        """Write the cut-out; a disk that refuses is this model's failure and nobody else's."""
        write = partial(store_cutout, self._results, request_id, model)
        with span("store", model=model):
            try:
                stored = await self._workers.pixels(write, outcome.cutout, plan.edge)
            except OSError as error:
                failed = _failure(error, model=model, latency_ms=outcome.latency_ms)
                return replace(failed, cost_usd=outcome.cutout.cost_usd), None
            if plan.check is None:
                return outcome, stored
            checked = await self._checked(model, outcome.cutout, plan.check)
        return outcome, replace(stored, print_check=checked)

    async def _checked(self, model: ModelId, cutout: Cutout, wish: Wish) -> PrintCheck | None:
        """How the cut-out will print; advice, so that a crash of it is logged and harms nothing."""
        art = Art(cutout.rgb, cutout.alpha)
        try:
            return await self._workers.pixels(check_print, art, wish, self._print_limits)
        except Exception:  # noqa: BLE001  # the cut-out is worth the same without it
            _log.exception("print_check_failed", extra={"model": model})
            return None


def _latencies() -> deque[tuple[date, int]]:
    """Day (UTC) and milliseconds of a model's last answers."""
    return deque(maxlen=_LATENCIES_KEPT)


def _percentiles(seen_ms: list[int]) -> Percentiles:
    if len(seen_ms) < 2:
        return Percentiles(count=len(seen_ms), p50=next(iter(seen_ms), None))
    cuts = quantiles(seen_ms, n=20, method="inclusive")
    return Percentiles(count=len(seen_ms), p50=round(cuts[9]), p95=round(cuts[18]))


def _failure(error: Exception, *, model: ModelId, latency_ms: int) -> Failed:
    """What went wrong, in the vocabulary of the record."""
    if isinstance(error, OSError):
        error = refusal_of_disk(error) or error
    match error:
        case RemoverError():
            return Failed(error.code, error.message, error.retryable, latency_ms, error.cost_usd)
        case TimeoutError():
            code, text, again = FailureCode.PROVIDER_TIMEOUT, "did not finish in time", True
        case MemoryError():
            code, text, again = FailureCode.INSUFFICIENT_MEMORY, "ran out of memory", True
        case InsufficientStorage():
            code, text, again = FailureCode.INSUFFICIENT_STORAGE, "found the disk full", True
        case StorageUnavailable():
            code, text, again = FailureCode.STORAGE_UNAVAILABLE, "could not use the disk", True
        case _:
            _log.error("model_crashed", extra={"model": model}, exc_info=error)
            code, text, again = FailureCode.MODEL_CRASHED, "stopped with an error", False
    return Failed(code, f"{model} {text}.", again, latency_ms)
