"""How one model's attempt at a picture ended: a value, so that one failure never harms the rest."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

from models.errors import FailureCode
from models.images import Cutout


class SkipReason(StrEnum):
    """Why a requested model was not even tried."""

    UNCONFIGURED = "unconfigured"
    UNAVAILABLE = "unavailable"
    CIRCUIT_OPEN = "circuit_open"
    BUDGET = "budget"
    NOT_NEEDED = "not_needed"
    ENOUGH = "enough"


@dataclass(frozen=True, slots=True)
class Succeeded:
    cutout: Cutout
    latency_ms: int


@dataclass(frozen=True, slots=True)
class Failed:
    code: FailureCode
    message: str
    retryable: bool
    latency_ms: int
    cost_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Skipped:
    reason: SkipReason
    detail: str


@dataclass(frozen=True, slots=True)
class Pending:
    """Still running when the answer was due; it lands in the record later."""


Outcome: TypeAlias = Succeeded | Failed | Skipped | Pending


def cost_of(outcome: Outcome) -> Decimal:
    """What the attempt was charged, in dollars, whether it succeeded or not."""
    match outcome:
        case Succeeded():
            return outcome.cutout.cost_usd
        case Failed():
            return outcome.cost_usd
        case _:
            return Decimal(0)
