"""The shotgun: one picture to many models at once, each outcome a value of its own.

It knows the BackgroundRemover Protocol and no provider. A shot is answered when every model has
landed or the deadline has passed; late models go on and land in the stored record.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

from models.errors import (
    AllModelsFailed,
    FailureCode,
    NoModelAvailable,
    RemoverError,
    RemoverUnavailable,
)
from models.images import SourceImage
from models.outcomes import Failed, Outcome, Skipped, SkipReason, Succeeded
from models.schemas import LatencyInfo, ModelId, ModelStatus, ShotRecord, SizeParameters
from services.admission import Gate
from services.appetite import Appetite, appetite
from services.intake import inspect, read
from services.places import Place, Places
from services.records import Shot, Stored, store_cutout
from services.remover import BackgroundRemover, RemovalOptions
from services.results import ResultStore
from services.workers import Workers
from utils.clock import Deadline, Stopwatch
from utils.pictures import Header

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

    `prints` is how its cut-outs are to be enlarged, if they are.
    """

    models: tuple[ModelId, ...]
    options: RemovalOptions
    deadline: Deadline
    prints: SizeParameters | None = None


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
    ) -> None:
        self._removers = removers
        self._results = results
        self._workers = workers
        self._gate = gate
        self._max_pixels = max_pixels
        self._model_timeout_s = model_timeout_s
        # strong references: asyncio keeps only weak ones to running tasks
        self._running: set[asyncio.Task[None]] = set()
        self._latencies = {model: deque[int](maxlen=_LATENCIES_KEPT) for model in removers}

    async def fire(self, source: Path, plan: Plan) -> ShotRecord:
        """Ask every model of the plan; the record as it stands at the deadline.

        Raises:
            BadPicture: the file is not a picture we can work on.
            NoModelAvailable: every model would be skipped.
            AllModelsFailed: all that ran failed before the deadline.
            Overloaded, InsufficientStorage, DeadlineExceeded: the house is full.
            InsufficientMemory: the picture is too large for the memory there is.
        """
        self._require_a_model(plan)
        self._gate.refuse_if_full()
        self._results.check_room()
        async with AsyncExitStack() as stack:
            header = await self._workers.pixels(inspect, source, max_pixels=self._max_pixels)
            takes = self._appetite(header, plan)
            slot = self._gate.slot(plan.deadline, needs_bytes=takes.bytes)
            await stack.enter_async_context(slot)
            stack.push_async_callback(self._workers.settle)
            image = await self._workers.pixels(read, source, header)
            shot = Shot(image, plan.models, self._results, prints=plan.prints)
            await self._results.create(shot.record())
            work = self._spawn(
                self._work(shot, image, plan, Places(takes.at_once), stack.pop_all())
            )
        await asyncio.wait({work}, timeout=plan.deadline.remaining_s())
        if work.done():
            work.result()
        return _require_success(shot.record())

    def latency(self, model: ModelId) -> LatencyInfo:
        """Percentiles of the last successful answers of a model."""
        seen = self._latencies[model]
        if len(seen) < 2:
            return LatencyInfo(count=len(seen), p50=next(iter(seen), None))
        cuts = quantiles(seen, n=20, method="inclusive")
        return LatencyInfo(count=len(seen), p50=round(cuts[9]), p95=round(cuts[18]))

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

    def _skip(self, model: ModelId) -> Skipped | None:
        now = self._removers[model].availability()
        reason = _SKIP_REASONS.get(now.status)
        return Skipped(reason, now.reason or "") if reason else None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _work(
        self, shot: Shot, image: SourceImage, plan: Plan, places: Places, seat: AsyncExitStack
    ) -> None:
        """Run every model at once, holding the shot's seat in the house until the last lands."""
        try:
            async with asyncio.TaskGroup() as group:
                for model in plan.models:
                    group.create_task(self._run(shot, image, plan, model, places))
        finally:
            await self._leave(seat)

    async def _leave(self, seat: AsyncExitStack) -> None:
        """Give the seat up; where the pool still works on what was abandoned, as soon as it ends.

        The memory is in use until then, but nobody's answer waits for it.
        """
        if self._workers.abandoned:
            self._spawn(seat.aclose())
        else:
            await seat.aclose()

    async def _run(
        self, shot: Shot, image: SourceImage, plan: Plan, model: ModelId, places: Places
    ) -> None:
        with places.one() as place:
            outcome: Outcome = self._skip(model) or await self._attempt(image, plan, model, place)
            stored: Stored | None = None
            if isinstance(outcome, Succeeded):
                self._latencies[model].append(outcome.latency_ms)
                outcome, stored = await self._keep(shot.request_id, model, outcome)
        await shot.land(model, outcome, stored)

    def _appetite(self, header: Header, plan: Plan) -> Appetite:
        return appetite(
            header,
            [model for model in plan.models if not self._skip(model)],
            at_most=self._workers.width,
            budget_bytes=self._gate.budget.limit_bytes,
        )

    async def _attempt(
        self, image: SourceImage, plan: Plan, model: ModelId, place: Place
    ) -> Outcome:
        """One model's try; whatever goes wrong becomes a value here and nowhere else."""
        watch = Stopwatch()
        deadline = Deadline.after(self._model_timeout_s)
        try:
            async with asyncio.timeout(self._model_timeout_s):
                cutout = await self._removers[model].remove(
                    image, options=replace(plan.options, place=place), deadline=deadline
                )
            return Succeeded(cutout, watch.ms())
        except RemoverUnavailable as error:
            return Skipped(SkipReason.UNAVAILABLE, error.reason)
        except Exception as error:  # noqa: BLE001  # the one place: a crash is an outcome too
            return _failure(error, model=model, latency_ms=watch.ms())

    async def _keep(
        self, request_id: str, model: ModelId, outcome: Succeeded
    ) -> tuple[Outcome, Stored | None]:
        """Write the cut-out; a disk that refuses is this model's failure and nobody else's."""
        write = partial(store_cutout, self._results, request_id, model)
        try:
            return outcome, await self._workers.pixels(write, outcome.cutout)
        except OSError as error:
            return _failure(error, model=model, latency_ms=outcome.latency_ms), None


def _failure(error: Exception, *, model: ModelId, latency_ms: int) -> Failed:
    """What went wrong, in the vocabulary of the record."""
    match error:
        case RemoverError():
            return Failed(error.code, error.message, error.retryable, latency_ms, error.cost_usd)
        case TimeoutError():
            code, text, again = FailureCode.PROVIDER_TIMEOUT, "did not finish in time", True
        case MemoryError():
            code, text, again = FailureCode.INSUFFICIENT_MEMORY, "ran out of memory", True
        case _:
            _log.error("model_crashed", extra={"model": model}, exc_info=error)
            code, text, again = FailureCode.MODEL_CRASHED, "stopped with an error", False
    return Failed(code, f"{model} {text}.", again, latency_ms)


def _require_success(record: ShotRecord) -> ShotRecord:
    """The record, unless all that ran failed."""
    if any(entry.status in {"succeeded", "pending"} for entry in record.results):
        return record
    failures = [entry for entry in record.results if entry.error]
    if not failures:
        raise NoModelAvailable("None of the models could be asked.")
    reasons = "; ".join(f"{each.model}: {each.error.code}" for each in failures if each.error)
    raise AllModelsFailed(f"Every model that ran failed. {reasons}")
