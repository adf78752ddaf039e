"""What can be chosen when the look-alikes start: ports, sizes, times, prices, money.

The defaults are the providers' documented numbers where there are any. Where a provider says
nothing, the number here is the stricter guess, so that a client which passes is on the safe side.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]
"""Seconds that only ever grow; tests hand in one they can advance."""

KIE_MODEL = "recraft/remove-background"
KIE_CREDIT_USD = Decimal("0.005")

_MIB = 1 << 20
_OPEN_NETWORKS = ("109@1", *(f"112@{number}" for number in (1, 2, 3, 5, 6, 7, 8, 9, 10)))

PRICES: Mapping[str, Decimal] = MappingProxyType(
    {
        "bria:2@1": Decimal("0.018"),
        **{f"runware:{network}": Decimal("0.0006") for network in _OPEN_NETWORKS},
        "runware:110@1": Decimal("0.0006"),
        KIE_MODEL: KIE_CREDIT_USD,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """0 takes a free one."""

    runware_ws: int = 0
    runware_http: int = 0
    kie_api: int = 0
    kie_upload: int = 0
    kie_files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`inline_side_px` is Runware's cap on the longest side of any picture it keeps."""

    sockets: int = 500
    message_bytes: int = 32 * _MIB
    body_bytes: int = 110 * _MIB
    input_pixels: int = 64_000_000
    inline_side_px: int = 2048
    tasks_per_message: int = 20
    tasks_at_once: int = 64
    tasks_kept: int = 5000
    sessions_kept: int = 1000
    buffered_frames: int = 100
    buffered_bytes: int = 64 * _MIB
    hosted_bytes: int = 512 * _MIB
    kie_input_bytes: int = 5 * _MIB
    kie_input_pixels: int = 16_000_000
    kie_longest_px: int = 4096
    kie_shortest_px: int = 256
    kie_base64_bytes: int = 10 * _MIB
    kie_creations_per_10_s: int = 20
    kie_polls_per_s: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds. `late_s` is meant to lie beyond any client's patience, `slow_s` within it."""

    runware_task_s: float = 0.05
    kie_step_s: float = 0.3
    slow_s: float = 5
    late_s: float = 120
    idle_close_s: float = 120
    session_kept_s: float = 120
    runware_file_s: float = 7 * 24 * 3600
    kie_upload_s: float = 24 * 3600
    kie_result_s: float = 24 * 3600
    fetch_s: float = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`isnet` is the network's file; without one the knock-out cuts everything.

    `retired` models are refused as unknown. `refused_agents` are the beginnings of User-Agent
    headers that Kie's edge turns away; an empty header always is. `real_status` makes Kie answer
    with the body's code as HTTP status instead of 200.
    """

    host: str = "127.0.0.1"
    ports: Ports = field(default_factory=Ports)
    limits: Limits = field(default_factory=Limits)
    times: Times = field(default_factory=Times)
    prices: Mapping[str, Decimal] = field(default_factory=lambda: PRICES)
    retired: frozenset[str] = frozenset({"runware:110@1"})
    runware_balance_usd: Decimal = Decimal(1000)
    kie_credits: int = 100_000
    isnet: Path | None = None
    threads: int = 2
    refused_agents: tuple[str, ...] = ("Python-urllib", "python-httpx")
    real_status: bool = False
