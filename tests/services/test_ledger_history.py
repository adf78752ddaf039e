"""Whatever happens in whatever order, the ledger neither loses nor doubles a cent.

A plain model keeps the same books; killing takes the last line's end away, as a crash does.
"""

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.schemas import ModelId
from services.costs import CostLedger
from utils import logs

PRICES = {
    ModelId.RUNWARE_RMBG: Decimal("0.018"),
    ModelId.RUNWARE_BIREFNET: Decimal("0.0006"),
    ModelId.KIE_RECRAFT: Decimal("0.005"),
}
Step: TypeAlias = tuple[object, ...]

COSTS = st.one_of(
    st.none(), st.decimals(min_value=0, max_value=1, places=6), st.just(Decimal("0.0006"))
)
TASKS = st.integers(0, 7)
STEPS = st.one_of(
    st.tuples(st.just("sent"), st.sampled_from(list(PRICES)), st.sampled_from(["open", "shop"])),
    st.tuples(st.just("settled"), TASKS, COSTS),
    st.tuples(st.just("settled"), TASKS, COSTS),
    st.tuples(st.just("killed"), st.integers(0, 300)),
    st.tuples(st.just("reopened")),
    st.tuples(st.just("days pass"), st.sampled_from([1, 399, 400, 401])),
)


@dataclass
class Books:
    """What the ledger should hold, kept in the plainest way."""

    day: date = date(2026, 1, 1)
    sent: dict[str, tuple[date, ModelId, str]] = field(default_factory=dict)
    cost: dict[str, Decimal] = field(default_factory=dict)
    # the lines of this process, by the task they speak of
    written: list[str] = field(default_factory=list)

    def tear_last(self) -> None:
        """The last line was not whole: what it said was never said."""
        task_id = self.written.pop()
        if task_id in self.cost:
            del self.cost[task_id]
        else:
            del self.sent[task_id]

    def spend(self) -> Counter[tuple[date, ModelId, str]]:
        return Counter(self.sent[task_id] for task_id in self.cost)

    def dollars(self) -> dict[tuple[date, ModelId, str], Decimal]:
        sums: dict[tuple[date, ModelId, str], Decimal] = {}
        for task_id, cost in self.cost.items():
            place = self.sent[task_id]
            sums[place] = sums.get(place, Decimal(0)) + cost
        return sums


class History:
    """The steps, done to the ledger and to the books."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.books = Books()
        self.names = 0
        self.ledger = self._open()

    def _open(self) -> CostLedger:
        self.books.written.clear()
        ledger = CostLedger(self.path, prices=PRICES, today=lambda: self.books.day)
        ledger.open()
        return ledger

    def do(self, step: Step) -> None:
        match step:
            case ("sent", ModelId() as model, str(key)):
                self.send(model, key)
            case ("settled", int(number), (Decimal() | None) as cost):
                self.settle(number, cost)
            case ("killed", int(torn_bytes)):
                self.kill(torn_bytes)
            case ("reopened",):
                self.ledger.close()
                self.ledger = self._open()
            case ("days pass", int(days)):
                self.books.day += timedelta(days=days)

    def send(self, model: ModelId, key: str) -> None:
        self.names += 1
        task_id = f"task-{self.names}"
        token = logs.key_id.set(key)
        try:
            self.ledger.sent(task_id, model)
        finally:
            logs.key_id.reset(token)
        self.books.sent[task_id] = (self.books.day, model, key)
        self.books.written.append(task_id)

    def settle(self, number: int, cost: Decimal | None) -> None:
        """One of the last tasks, whether it still is to be settled or not."""
        task_id = f"task-{self.names - number}"
        self.ledger.settled(task_id, cost)
        if task_id in self.books.sent and task_id not in self.books.cost:
            model = self.books.sent[task_id][1]
            self.books.cost[task_id] = PRICES[model] if cost is None else cost
            self.books.written.append(task_id)

    def kill(self, torn_bytes: int) -> None:
        """No close; and the line that was being written may be there in part or not at all."""
        content = self.path.read_bytes()
        if self.books.written and torn_bytes > 1:
            last = content.rstrip(b"\n").rfind(b"\n") + 1
            self.path.write_bytes(content[: max(last, len(content) - torn_bytes)])
            self.books.tear_last()
        self.ledger.close()
        self.ledger = self._open()

    def check(self) -> None:
        spend = self.ledger.spend()
        assert {(s.day, s.model, s.key): s.cost_usd for s in spend} == self.books.dollars()
        assert {(s.day, s.model, s.key): s.tasks for s in spend} == self.books.spend()
        unsettled = {entry.task_id for entry in self.ledger.unsettled()}
        assert unsettled == self.books.sent.keys() - self.books.cost.keys()
        todays = [each for each in spend if each.day == self.books.day]
        assert self.ledger.settled_today() == sum((s.cost_usd for s in todays), Decimal(0))


KIE = ModelId.KIE_RECRAFT
SUMMED_UP_TWICE: list[Step] = [
    *[("sent", KIE, "open"), ("settled", 0, None), ("sent", KIE, "open"), ("days pass", 401)],
    *[("reopened",), ("settled", 0, None), ("killed", 0), ("days pass", 1), ("reopened",)],
]
TORN_AND_TOLD_AGAIN: list[Step] = [
    *[("sent", KIE, "shop"), ("settled", 0, Decimal("0.1")), ("killed", 5)],
    *[("settled", 0, Decimal("0.2")), ("settled", 0, Decimal("0.3")), ("killed", 300)],
]


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.lists(STEPS, max_size=40))
@example(SUMMED_UP_TWICE)
@example(TORN_AND_TOLD_AGAIN)
def test_no_order_of_events_loses_or_doubles_a_cent(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder) / "costs.jsonl")
        for step in [*steps, ("killed", 0)]:
            history.do(step)
            history.check()
        history.ledger.close()
