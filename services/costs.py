"""Money: what each paid task cost, exactly and once; by day, model and API key.

A task is written down as sent before it leaves, so that a process that dies leaves behind which
tasks may have been charged. It counts for the day and the key it was sent for, whenever it is
settled.
"""

import logging
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

from models.schemas import ModelId
from services.ledger_file import Entry, LedgerFile, Spend
from utils import logs
from utils.clock import utc_today

_log = logging.getLogger(__name__)

_DETAILED_DAYS = 400
_REMEMBERED = 4096  # settled tasks whose cost may still be asked for


class CostLedger:
    """Every paid task by its id; a task is charged once however often that is reported."""

    def __init__(
        self,
        path: Path,
        *,
        prices: Mapping[ModelId, Decimal],
        today: Callable[[], date] = utc_today,
    ) -> None:
        self._path = path
        self._file = LedgerFile(path)
        self._prices = prices
        self._today = today
        # what the last picture of each model cost
        self._observed: dict[ModelId, Decimal] = {}
        self._unsettled: dict[str, Entry] = {}
        self._unwritten: deque[Entry] = deque()
        self._settled: OrderedDict[str, Decimal] = OrderedDict()
        self._days: defaultdict[date, dict[tuple[ModelId, str], Spend]] = defaultdict(dict)

    def open(self) -> None:
        """Read what was written before; tasks of days long gone become one line a day. Blocks."""
        self._file.open()
        oldest = self._today() - timedelta(days=_DETAILED_DAYS)
        long_gone = set(self._read(oldest))
        if long_gone:
            self._sum_up(oldest, long_gone)

    def close(self) -> None:
        self._write_unwritten()
        self._file.close()

    def sent(self, task_id: str, model: ModelId) -> None:
        """The task is about to leave: from now on it may cost money.

        Raises OSError where that cannot be written down; then it must not leave.
        """
        entry = Entry(task_id, model, None, self._today(), logs.key_id.get())
        self._write_unwritten()
        self._file.append(entry)
        self._unsettled[task_id] = entry

    def settled(self, task_id: str, cost_usd: Decimal | None) -> None:
        """What the task cost: nothing where it failed, the list price where nobody said (None).

        The first word counts.
        """
        sent = self._unsettled.get(task_id)
        if sent is None:
            return
        cost = self.price(sent.model) if cost_usd is None else cost_usd
        entry = replace(sent, cost_usd=cost)
        self._book(entry, cost)
        self._unwritten.append(entry)
        self._write_unwritten()

    def price(self, model: ModelId) -> Decimal:
        """The list price of one picture, in dollars."""
        return self._prices.get(model, Decimal(0))

    def observed(self, model: ModelId) -> Decimal | None:
        return self._observed.get(model)

    def expected(self, model: ModelId) -> Decimal:
        """What a picture must be expected to cost: list price or last one, whichever is higher."""
        return max(self.price(model), self._observed.get(model, Decimal(0)))

    def cost(self, task_id: str) -> Decimal:
        """What a task of late cost; nothing before it is settled."""
        return self._settled.get(task_id, Decimal(0))

    def totals(self) -> dict[ModelId, Decimal]:
        totals: defaultdict[ModelId, Decimal] = defaultdict(Decimal)
        for each in self.spend():
            totals[each.model] += each.cost_usd
        for entry in self._unsettled.values():
            totals[entry.model] += 0
        return dict(totals)

    def spend(self, *, since: date = date.min) -> list[Spend]:
        """What was settled, the latest day first."""
        days = sorted((day for day in self._days if day >= since), reverse=True)
        return [spend for day in days for _, spend in sorted(self._days[day].items())]

    def unsettled(self) -> list[Entry]:
        """Tasks that may have been charged without our knowing, the oldest first."""
        return list(self._unsettled.values())

    def settled_today(self, *, key: str | None = None) -> Decimal:
        """Dollars that today's tasks are known to have cost, those of one key or of all."""
        today = self._days.get(self._today(), {}).values()
        return sum((each.cost_usd for each in today if key in (None, each.key)), Decimal(0))

    def at_stake_today(self, *, key: str | None = None) -> Decimal:
        """Dollars that today's unsettled tasks may cost."""
        today = self._today()
        return sum(
            (
                self.expected(entry.model)
                for entry in self._unsettled.values()
                if entry.day == today and key in (None, entry.key)
            ),
            Decimal(0),
        )

    def _write_unwritten(self) -> None:
        """Costs that the disk did not take are tried again with each that follows, in order."""
        try:
            while self._unwritten:
                self._file.append(self._unwritten[0])
                self._unwritten.popleft()
        except OSError:
            waiting = len(self._unwritten)
            _log.exception("ledger_not_written", extra={"waiting": waiting})

    def _read(self, oldest: date) -> Iterator[str]:
        """Take every line in; the ids of settled tasks of days before `oldest`."""
        for line in self._file.lines():
            match line:
                case None:
                    _log.warning("ledger_line_unreadable", extra={"file": self._path.name})
                case Spend():
                    self._add(line)
                case Entry() if line.task_id in self._settled:
                    continue
                case Entry(task_id=task_id, cost_usd=Decimal() as cost):
                    sent = self._unsettled.get(task_id, line)
                    self._book(sent, cost)
                    if sent.day < oldest:
                        yield task_id
                case Entry():
                    self._unsettled[line.task_id] = line

    def _sum_up(self, oldest: date, long_gone: set[str]) -> None:
        sums = [each for each in self.spend() if each.day < oldest]
        try:
            self._file.sum_up(sums, before=oldest, instead_of=long_gone)
        except OSError:
            _log.exception("ledger_not_summed_up")

    def _book(self, entry: Entry, cost: Decimal) -> None:
        self._unsettled.pop(entry.task_id, None)
        self._settled[entry.task_id] = cost
        if len(self._settled) > _REMEMBERED:
            self._settled.popitem(last=False)
        if cost:
            self._observed[entry.model] = cost
        self._add(Spend(entry.day, entry.model, entry.key, 1, cost))

    def _add(self, more: Spend) -> None:
        day, place = self._days[more.day], (more.model, more.key)
        if (known := day.get(place)) is not None:
            more = replace(
                more, tasks=known.tasks + more.tasks, cost_usd=known.cost_usd + more.cost_usd
            )
        day[place] = more
