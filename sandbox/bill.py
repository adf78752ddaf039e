"""What the look-alikes charged and what they refused, by model, in exact decimals."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, TypeAlias

from sandbox.faults import Provider

Json: TypeAlias = dict[str, object]

_ENTRIES_KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One task's end: charged for its result, or refused or failed and free of charge."""

    provider: Provider
    model: str
    task_id: str
    outcome: Literal["charged", "refused"]
    usd: Decimal
    reason: str | None = None

    def as_json(self) -> Json:
        return {
            "provider": self.provider,
            "model": self.model,
            "task_id": self.task_id,
            "outcome": self.outcome,
            "usd": str(self.usd),
            "reason": self.reason,
        }


@dataclass(slots=True)
class Line:
    """One model's sums; they stay exact when old entries are forgotten."""

    charged: int = 0
    refused: int = 0
    usd: Decimal = field(default_factory=Decimal)

    def as_json(self) -> Json:
        return {"charged": self.charged, "refused": self.refused, "usd": str(self.usd)}


class Bill:
    """A task is charged when its result exists, whether or not anybody comes for it."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._entries: deque[Entry] = deque(maxlen=_ENTRIES_KEPT)

    @property
    def total_usd(self) -> Decimal:
        return sum((line.usd for line in self._lines.values()), Decimal(0))

    def line(self, model: str) -> Line:
        return self._lines.get(model, Line())

    def entries(self, *, task_id: str | None = None) -> Iterator[Entry]:
        return (each for each in self._entries if task_id in (None, each.task_id))

    def charge(self, provider: Provider, *, model: str, task_id: str, usd: Decimal) -> None:
        line = self._lines.setdefault(model, Line())
        line.charged += 1
        line.usd += usd
        self._entries.append(
            Entry(provider=provider, model=model, task_id=task_id, outcome="charged", usd=usd)
        )

    def refuse(self, provider: Provider, *, model: str, task_id: str, reason: str) -> None:
        self._lines.setdefault(model, Line()).refused += 1
        self._entries.append(
            Entry(
                provider=provider,
                model=model,
                task_id=task_id,
                outcome="refused",
                usd=Decimal(0),
                reason=reason,
            )
        )

    def as_json(self) -> Json:
        return {
            "total_usd": str(self.total_usd),
            "models": {model: line.as_json() for model, line in sorted(self._lines.items())},
            "entries": [each.as_json() for each in self._entries],
        }
