"""Whether a shot with default parameters would be taken now, and everything else that is wrong.

Pure: what there is to see comes in, what is to be said comes out. A problem that `blocks` means
that such a shot is refused, or finds nobody to ask; the others cost something else or somebody
else.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from models.schemas import (
    IdempotencyInfo,
    ModelId,
    ModelReadiness,
    ModelStatus,
    QueueInfo,
    ReadinessProblem,
    ReadinessTopic,
)
from services.appetite import still_needed
from services.breakers import Breaker
from services.budgets import Standing, fits
from services.catalogue import PAID
from utils.pictures import Header

CRASHES_TOLD = 3
"""So many times in a row the networks' process failed: then it is not taken to answer."""

_NETWORKS = frozenset({ModelId.LOCAL_BIREFNET, ModelId.LOCAL_ISNET})
_MIB = 1 << 20
_USUAL_SIDE = 1000  # a picture of one megapixel: who cannot take that takes nothing worth having


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder as it is now: bytes free to us on its disk, and whether it can be written."""

    free_bytes: int
    writable: bool


@dataclass(frozen=True, slots=True)
class Sight:
    """What there is to see at one moment.

    `prices` are what a picture is expected to cost, in US dollars; `shots_bytes` the memory that
    shots may reserve, None where nothing bounds it; `data_problem` why DATA_DIR was given up when
    the service started.
    """

    draining: bool
    models: Mapping[ModelId, ModelReadiness]
    default_models: Sequence[ModelId]
    prices: Mapping[ModelId, Decimal]
    standings: Sequence[Standing]
    breakers: Mapping[str, Breaker]
    failures_in_a_row: int
    queue: QueueInfo
    shots_bytes: int | None
    pictures: Folder
    min_free_bytes: int
    data: Folder
    picks: Folder
    data_problem: str | None
    idempotency: IdempotencyInfo


def look(folder: Path) -> Folder:
    """The folder, or the nearest one above it that exists. Blocks; writes nothing."""
    here = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    disk = os.statvfs(here)
    usable = here.is_dir() and os.access(here, os.W_OK | os.X_OK)
    return Folder(free_bytes=disk.f_bavail * disk.f_frsize, writable=usable)


def problems(sight: Sight) -> list[ReadinessProblem]:
    """Everything that is wrong, what blocks first."""
    found = [
        *_draining(sight),
        *_models(sight),
        *_disk(sight),
        *_memory(sight),
        *_line(sight.queue),
        *_networks(sight),
        *_money(sight.standings),
        *_providers(sight.breakers),
        *_data(sight),
    ]
    return sorted(found, key=lambda each: not each.blocks)


def _draining(sight: Sight) -> Iterator[ReadinessProblem]:
    if sight.draining:
        yield _blocking(ReadinessTopic.DRAINING, "The service is being stopped: it takes no work.")


def _models(sight: Sight) -> Iterator[ReadinessProblem]:
    """A default model that is not configured is nobody's mistake, unless none is left."""
    askable = list(_askable(sight))
    if not askable:
        reasons = "; ".join(f"{model}: {_why_not(sight, model)}" for model in sight.default_models)
        yield _blocking(ReadinessTopic.MODELS, f"No default model can be asked. {reasons}")
    for model in sight.default_models:
        state = sight.models[model]
        if askable and state.status in {ModelStatus.UNAVAILABLE, ModelStatus.LOADING}:
            yield _told(ReadinessTopic.MODELS, f"{model} is {state.status}: {state.reason}")


def _askable(sight: Sight) -> Iterable[ModelId]:
    return (model for model in sight.default_models if not _why_not(sight, model))


def _why_not(sight: Sight, model: ModelId) -> str:
    """Why a default shot would have nothing of this model; empty where it would."""
    state = sight.models[model]
    if state.status is not ModelStatus.READY:
        return state.reason or state.status
    if model in PAID and (refusal := _too_dear(sight, model)):
        return refusal
    if model in _NETWORKS and sight.failures_in_a_row >= CRASHES_TOLD:
        return f"its process failed {sight.failures_in_a_row} times in a row."
    return ""


def _too_dear(sight: Sight, model: ModelId) -> str:
    """The service's own budget alone: what a key may spend is that key's matter."""
    for standing in sight.standings:
        if standing.budget.key is None and not fits(sight.prices[model], standing.left_usd):
            return f"{standing.budget.name} is used up for today."
    return ""


def _disk(sight: Sight) -> Iterator[ReadinessProblem]:
    if not sight.pictures.writable:
        yield _blocking(ReadinessTopic.DISK, "TEMP_DIR cannot be written: no upload can be taken.")
    if sight.pictures.free_bytes < sight.min_free_bytes:
        yield _blocking(
            ReadinessTopic.DISK,
            f"{sight.pictures.free_bytes // _MIB} MiB are free in TEMP_DIR, and MIN_FREE_DISK_MB "
            f"wants {sight.min_free_bytes // _MIB}: shots are told 507.",
        )


def _memory(sight: Sight) -> Iterator[ReadinessProblem]:
    usual = Header(format="JPEG", width=_USUAL_SIDE, height=_USUAL_SIDE, complete=True)
    needed = still_needed(usual, list(_askable(sight)), at_once=1)
    if sight.shots_bytes is not None and sight.shots_bytes < needed:
        yield _blocking(
            ReadinessTopic.MEMORY,
            f"{sight.shots_bytes // _MIB} MiB of memory are left for shots, and a picture of one "
            f"megapixel takes {-(-needed // _MIB)}: grant more, or set fewer things aside.",
        )


def _line(queue: QueueInfo) -> Iterator[ReadinessProblem]:
    if queue.running >= queue.running_limit and queue.waiting >= queue.waiting_limit:
        yield _blocking(
            ReadinessTopic.QUEUE,
            f"{queue.running} shots are being worked on and {queue.waiting} wait, which is all "
            "there is room for: the next one is told 503.",
        )


def _networks(sight: Sight) -> Iterator[ReadinessProblem]:
    if sight.failures_in_a_row >= CRASHES_TOLD:
        yield _told(
            ReadinessTopic.NETWORKS,
            f"The networks' process failed {sight.failures_in_a_row} times in a row; each shot "
            "tries it anew. The log says why: inference_process_ended, or the model's failure.",
        )


def _money(standings: Sequence[Standing]) -> Iterator[ReadinessProblem]:
    """Which keys have spent theirs is not for everybody who can reach this address."""
    spent = [each.budget for each in standings if each.left_usd <= 0]
    if any(budget.key is None for budget in spent):
        yield _told(
            ReadinessTopic.BUDGET,
            "DAILY_BUDGET_USD is used up: paid models are skipped until 00:00 UTC.",
        )
    if keys := sum(budget.key is not None for budget in spent):
        yield _told(
            ReadinessTopic.BUDGET,
            f"KEY_DAILY_BUDGETS: {keys} of the keys have used theirs up; GET /costs names them.",
        )


def _providers(breakers: Mapping[str, Breaker]) -> Iterator[ReadinessProblem]:
    for provider, breaker in breakers.items():
        if breaker.reason is not None:
            again = f"the next try in {breaker.probe_in_s():.0f} s at the earliest"
            yield _told(
                ReadinessTopic.PROVIDER, f"{provider} is left alone ({again}): {breaker.reason}"
            )


def _data(sight: Sight) -> Iterator[ReadinessProblem]:
    if sight.data_problem is not None:
        yield _told(ReadinessTopic.DATA, sight.data_problem)
    elif not sight.data.writable or sight.data.free_bytes == 0:
        yield _told(
            ReadinessTopic.DATA,
            f"DATA_DIR {_unfit(sight.data)}: where the ledger takes no task, paid models fail "
            "unasked, and nothing new is remembered.",
        )
    if not sight.picks.writable or sight.picks.free_bytes == 0:
        yield _told(
            ReadinessTopic.PICKS,
            f"The journal of picks takes none: its folder {_unfit(sight.picks)}.",
        )
    if not sight.idempotency.available:
        yield _told(
            ReadinessTopic.IDEMPOTENCY,
            f"Requests with an Idempotency-Key are refused: {sight.idempotency.reason}.",
        )


def _unfit(folder: Folder) -> str:
    return "is on a full disk" if folder.writable else "cannot be written"


def _blocking(topic: ReadinessTopic, reason: str) -> ReadinessProblem:
    return ReadinessProblem(topic=topic, blocks=True, reason=reason)


def _told(topic: ReadinessTopic, reason: str) -> ReadinessProblem:
    return ReadinessProblem(topic=topic, blocks=False, reason=reason)
