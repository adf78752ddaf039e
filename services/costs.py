"""Money: what each paid task cost, exactly and once, and breakers for a hopeless provider.

The ledger is a JSONL file under the data folder. A task is written as sent before it leaves, so
that a process that dies leaves behind which tasks may have been charged.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO

from models.errors import HOPELESS, FailureCode
from models.schemas import ModelId, ModelStatus
from services.remover import READY, Availability
from utils import logs
from utils.clock import Deadline, utc_now

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One paid task; `cost_usd` is None until it is known to have been charged or not."""

    task_id: str
    model: ModelId
    cost_usd: Decimal | None


class CostLedger:
    """Every paid task by its id; a task is charged once however often that is reported."""

    def __init__(self, path: Path, *, prices: Mapping[ModelId, Decimal]) -> None:
        self._path = path
        self._prices = prices
        # what the last picture of each model cost
        self._observed: dict[ModelId, Decimal] = {}
        self._entries: dict[str, Entry] = {}
        self._file: IO[str] | None = None

    def open(self) -> None:
        """Read what was written before; a line torn by a crash is passed over. Blocks."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+", encoding="utf-8", errors="replace")
        self._file.seek(0)
        written = self._file.read()
        for line in written.splitlines():
            self._read(line)
        if written and not written.endswith("\n"):
            self._file.write("\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def sent(self, task_id: str, model: ModelId) -> None:
        """The task is about to leave: from now on it may cost money."""
        self._write(Entry(task_id, model, None))

    def settled(self, task_id: str, cost_usd: Decimal | None) -> None:
        """What the task cost: nothing where it failed, the list price where nobody said (None).

        The first word counts.
        """
        entry = self._entries.get(task_id)
        if entry is None or entry.cost_usd is not None:
            return
        cost = self.price(entry.model) if cost_usd is None else cost_usd
        if cost:
            self._observed[entry.model] = cost
        self._write(Entry(task_id, entry.model, cost))

    def price(self, model: ModelId) -> Decimal:
        """The list price of one picture, in dollars."""
        return self._prices.get(model, Decimal(0))

    def observed(self, model: ModelId) -> Decimal | None:
        return self._observed.get(model)

    def cost(self, task_id: str) -> Decimal:
        entry = self._entries.get(task_id)
        return (entry.cost_usd if entry else None) or Decimal(0)

    def totals(self) -> dict[ModelId, Decimal]:
        totals: defaultdict[ModelId, Decimal] = defaultdict(Decimal)
        for entry in self._entries.values():
            totals[entry.model] += entry.cost_usd or Decimal(0)
        return dict(totals)

    def unsettled(self) -> list[Entry]:
        """Tasks that may have been charged without our knowing."""
        return [entry for entry in self._entries.values() if entry.cost_usd is None]

    def _write(self, entry: Entry) -> None:
        self._entries[entry.task_id] = entry
        line = {
            "time": utc_now().isoformat(),
            "task_id": entry.task_id,
            "model": entry.model,
            "cost_usd": None if entry.cost_usd is None else str(entry.cost_usd),
            "request_id": logs.request_id.get(),
        }
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def _read(self, line: str) -> None:
        try:
            found = json.loads(line)
            cost = None if found["cost_usd"] is None else Decimal(found["cost_usd"])
            entry = Entry(found["task_id"], ModelId(found["model"]), cost)
        except (ValueError, KeyError, TypeError, ArithmeticError):
            _log.warning("ledger_line_unreadable", extra={"file": self._path.name})
            return
        self._entries[entry.task_id] = entry


class Breaker:
    """Open after a refused key or spent credit; then one request in `probe_after_s` may try."""

    def __init__(self, *, probe_after_s: float) -> None:
        self._probe_after_s = probe_after_s
        self._reason: str | None = None
        self._probe = Deadline.after(0)

    def availability(self) -> Availability:
        if self._reason is None or self._probe.remaining_s() == 0:
            return READY
        return Availability(ModelStatus.OPEN, self._reason)

    def began(self) -> None:
        """A request goes out; while the circuit is open it is the only probe."""
        if self._reason is not None:
            self._probe = Deadline.after(self._probe_after_s)

    def failed(self, code: FailureCode, message: str) -> None:
        if code in HOPELESS:
            self._reason = message
            self._probe = Deadline.after(self._probe_after_s)

    def succeeded(self) -> None:
        self._reason = None
