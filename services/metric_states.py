"""The states that GET /metrics tells, read from their owners when it is asked: nothing is pushed.

In-memory states are read on the event loop, which owns them; what the system has to be asked for
(/proc, the control group, the disks) in a thread, and so is the text written.
"""

import asyncio
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import PIL
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from models.schemas import ModelStatus
from services.admission import Gate
from services.breakers import BreakerState
from services.budget import FLOOR_BYTES
from services.container import Services
from services.metrics import PREFIX
from utils import memory

Values: TypeAlias = Mapping[tuple[str, ...], float]
"""What a metric's series are worth, by the values of its labels."""


class _State(NamedTuple):
    """One metric; its name ends in `_total` where it only grows."""

    name: str
    told: str
    labels: tuple[str, ...]
    values: Callable[[Services], Values]


@dataclass(frozen=True, slots=True)
class _Machine:
    """What the system says: memory of the control group, of processes, and the disks."""

    cgroup: memory.CgroupUse
    resident: Values
    free: Values
    size: Values


async def exposition(services: Services) -> bytes:
    """Everything, in Prometheus' text format 0.0.4."""
    pids = {"service": None, "inference": services.inference.status().pid}
    if services.ben2 is not None:
        pids["ben2"] = services.ben2.process().pid
    machine = await asyncio.to_thread(_look_at_machine, pids, services)
    states = [*_families(services), *_machine_families(machine)]
    return await asyncio.to_thread(_written, services.metrics.registry, states)


def _written(counted: CollectorRegistry, states: list[Metric]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Ready(states))
    return generate_latest(counted) + generate_latest(registry)


class _Ready(Collector):
    """Metrics that have been read already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _look_at_machine(pids: Mapping[str, int | None], services: Services) -> _Machine:
    """Blocks, if only for the time of a few small reads."""
    resident: dict[tuple[str, ...], float] = {
        (name,): float(memory.resident_bytes(pid=pid) or 0)
        for name, pid in pids.items()
        if name == "service" or pid is not None
    }
    disks = {
        (name,): shutil.disk_usage(folder)
        for name, folder in (("temp", services.uploads), ("data", services.data.path))
        if folder.exists()
    }
    return _Machine(
        memory.cgroup_use(),
        resident,
        {name: disk.free for name, disk in disks.items()},
        {name: disk.total for name, disk in disks.items()},
    )


def _families(services: Services) -> Iterator[Metric]:
    for state in _STATES:
        yield _family(state.name, state.told, state.labels, state.values(services))


def _machine_families(machine: _Machine) -> Iterator[Metric]:
    use = machine.cgroup
    told = "Resident memory by process; a process that does not run has none."
    yield _family("memory_resident_bytes", told, ("process",), machine.resident)
    for name, help_text, value in (
        ("memory_cgroup_bytes", "What the control group holds, page cache included.", use.bytes),
        (
            "memory_cgroup_working_set_bytes",
            "The same without cache that can be dropped: what ends at the limit.",
            use.working_set_bytes,
        ),
        (
            "memory_oom_kills_total",
            "Processes of the control group that the kernel ended for want of memory.",
            use.oom_kills,
        ),
    ):
        yield _family(name, help_text, (), {} if value is None else {(): value})
    yield _family("disk_free_bytes", "Free for us on the disk.", ("folder",), machine.free)
    yield _family("disk_size_bytes", "The disk's size.", ("folder",), machine.size)


def _family(name: str, told: str, labels: tuple[str, ...], values: Values) -> Metric:
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    family = kind(f"{PREFIX}_{name}", told, labels=labels)
    for label_values, value in values.items():
        family.add_metric(list(label_values), float(value))
    return family


# --- what the states are


def _alone(value: float) -> Values:
    return {(): value}


def _gates(services: Services) -> dict[str, Gate]:
    return {
        "shots": services.gate,
        "enlargements": services.printing_gate,
        "proofs": services.proofs_gate,
    }


def _by_gate(read: Callable[[Gate], float]) -> Callable[[Services], Values]:
    return lambda services: {(name,): read(gate) for name, gate in _gates(services).items()}


def _model_statuses(services: Services) -> Values:
    now = {model: each.availability().status for model, each in services.removers.items()}
    return {
        (str(model), str(status)): float(now[model] is status)
        for model in now
        for status in ModelStatus
    }


def _shares(services: Services) -> Values:
    split = services.memory
    shares = {
        "floor": FLOOR_BYTES,
        "enlargements": split.enlarging,
        "networks": split.networks,
        "shots": split.shots,
        "ben2": split.set_aside,
    }
    return {(name,): size for name, size in shares.items() if size is not None}


def _spent(services: Services) -> Values:
    return {(str(model),): float(usd) for model, usd in services.ledger.totals().items()}


def _limits(services: Services) -> Values:
    return {
        (each.budget.key or "",): float(each.budget.limit_usd)
        for each in services.budgets.standings()
    }


def _left(services: Services) -> Values:
    return {(each.budget.key or "",): float(each.left_usd) for each in services.budgets.standings()}


def _breakers(services: Services) -> Values:
    return {
        (provider, str(state)): float(breaker.state is state)
        for provider, breaker in services.breakers.by_provider.items()
        for state in BreakerState
    }


def _transitions(services: Services) -> Values:
    return {
        (provider, kind): getattr(breaker.transitions, kind)
        for provider, breaker in services.breakers.by_provider.items()
        for kind in ("opened", "probed", "closed")
    }


def _build(services: Services) -> Values:
    return {(services.version, platform.python_version(), PIL.__version__): 1}


def _granted(services: Services) -> Values:
    return {} if services.memory.granted is None else {(): services.memory.granted}


_GATE, _POOL = ("gate",), ("pool",)
_STATES = (
    _State("build_info", "What runs; always 1.", ("version", "python", "pillow"), _build),
    _State("uptime_seconds", "Since the service opened.", (), lambda s: _alone(s.uptime_s())),
    _State(
        "draining",
        "1 while the service ends: no new work is taken.",
        (),
        lambda s: _alone(float(s.drain.draining)),
    ),
    _State(
        "images_in_progress",
        "Pictures that are worked on: shots and enlargements inside their gates.",
        (),
        lambda s: _alone(sum(gate.running for gate in _gates(s).values())),
    ),
    _State("queue_running", "Requests inside the gate.", _GATE, _by_gate(lambda g: g.running)),
    _State("queue_running_limit", "How many may be.", _GATE, _by_gate(lambda g: g.running_limit)),
    _State("queue_waiting", "Requests in the line.", _GATE, _by_gate(lambda g: g.waiting)),
    _State("queue_waiting_limit", "How long it may be.", _GATE, _by_gate(lambda g: g.queue_limit)),
    _State(
        "queue_reserved_bytes",
        "Memory that those inside have reserved.",
        _GATE,
        _by_gate(lambda g: g.budget.reserved_bytes),
    ),
    _State(
        "workers",
        "Threads of the pool.",
        _POOL,
        lambda s: {(pool,): s.workers.width for pool in s.workers.busy()},
    ),
    _State(
        "workers_busy",
        "Threads of the pool that work.",
        _POOL,
        lambda s: {(pool,): busy for pool, (busy, _) in s.workers.busy().items()},
    ),
    _State(
        "workers_waiting",
        "Jobs that wait for a thread of the pool.",
        _POOL,
        lambda s: {(pool,): waiting for pool, (_, waiting) in s.workers.busy().items()},
    ),
    _State(
        "model_status",
        "1 for the status that the model has: ready, open, loading, unconfigured, unavailable.",
        ("model", "status"),
        _model_statuses,
    ),
    _State(
        "inference_process_up",
        "1 while the networks' process lives; it goes when nothing is loaded.",
        (),
        lambda s: _alone(float(s.inference.status().pid is not None)),
    ),
    _State(
        "inference_process_starts_total",
        "How often it was started.",
        (),
        lambda s: _alone(s.inference.status().starts),
    ),
    _State(
        "inference_process_crashes_total",
        "How often it ended in the middle of a job, by itself or by the kernel.",
        (),
        lambda s: _alone(s.inference.status().crashes),
    ),
    _State(
        "inference_networks_loaded",
        "Networks that it holds.",
        (),
        lambda s: _alone(len(s.inference.status().loaded)),
    ),
    _State(
        "inference_running",
        "1 while a network is being run.",
        (),
        lambda s: _alone(float(s.inference.status().running)),
    ),
    _State(
        "inference_waiting",
        "Jobs that wait for their turn.",
        (),
        lambda s: _alone(s.inference.status().waiting),
    ),
    _State("memory_granted_bytes", "What the service may use.", (), _granted),
    _State("memory_share_bytes", "How that is divided.", ("part",), _shares),
    _State(
        "results_bytes", "Pictures that are kept.", (), lambda s: _alone(s.results.held_bytes())
    ),
    _State(
        "results_quota_bytes", "What they may take.", (), lambda s: _alone(s.results.quota_bytes)
    ),
    _State(
        "data_available",
        "1 where DATA_DIR can be written.",
        (),
        lambda s: _alone(float(s.data.problem is None)),
    ),
    _State(
        "idempotency_available",
        "1 where Idempotency-Key is served.",
        (),
        lambda s: _alone(float(s.idempotency.info().available)),
    ),
    _State("cost_usd_total", "Spent by model, all days of the ledger.", ("model",), _spent),
    _State(
        "cost_today_usd",
        "Spent since midnight UTC.",
        (),
        lambda s: _alone(float(s.ledger.settled_today())),
    ),
    _State(
        "cost_today_at_stake_usd",
        "What today's tasks on their way may cost.",
        (),
        lambda s: _alone(float(s.ledger.at_stake_today())),
    ),
    _State(
        "paid_tasks_unsettled",
        "Paid tasks whose end nobody knows yet, of all days.",
        (),
        lambda s: _alone(len(s.ledger.unsettled())),
    ),
    _State("budget_limit_usd", "The day's budget; key is empty for all.", ("key",), _limits),
    _State("budget_left_usd", "What is left of it.", ("key",), _left),
    _State("breaker_state", "1 for the provider's state.", ("provider", "state"), _breakers),
    _State(
        "breaker_transitions_total",
        "How often its circuit opened, was probed, closed.",
        ("provider", "to"),
        _transitions,
    ),
    _State(
        "webhooks_total",
        "Webhooks by their end: delivered, given_up, dropped.",
        ("outcome",),
        lambda s: {
            (name,): s.webhooks.ended[name] for name in ("delivered", "given_up", "dropped")
        },
    ),
    _State(
        "webhook_tries_failed_total",
        "Single posts that were not taken.",
        (),
        lambda s: _alone(s.webhooks.failed_tries),
    ),
    _State(
        "webhooks_waiting", "Webhooks not delivered yet.", (), lambda s: _alone(s.webhooks.waiting)
    ),
    _State(
        "idempotent_replays_total",
        "Requests answered from an earlier one's record.",
        ("how",),
        lambda s: {(str(how),): count for how, count in s.idempotency.answered.items()},
    ),
)
