"""The gate: a fixed number within a budget, keys in turn, a line that no key fills, and no more."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from models.errors import InsufficientMemory, Overloaded
from services.admission import MAX_OVERTAKES, Gate
from services.budget import Budget
from utils.clock import Deadline
from utils.logs import key_id

pytestmark = pytest.mark.anyio


@dataclass
class House:
    """A gate with guests who come in the order they are sent and stay until they are told."""

    gate: Gate
    came: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    leave: dict[str, asyncio.Event] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def send(self, *names: str, needs: int = 0) -> None:
        """Each is of the key that its name begins with."""
        for name in names:
            self.leave[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._guest(name, needs))
            await asyncio.sleep(0)
        await self.quiet()

    async def _guest(self, name: str, needs: int) -> None:
        key_id.set(name[0])
        try:
            async with self.gate.slot(Deadline.after(60), needs_bytes=needs):
                self.came.append(name)
                await self.leave[name].wait()
        except Overloaded:
            self.refused.append(name)

    async def let_go(self, name: str) -> None:
        self.leave[name].set()
        await self.quiet()

    async def empty(self) -> None:
        for event in self.leave.values():
            event.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    @staticmethod
    async def quiet() -> None:
        for _ in range(10):
            await asyncio.sleep(0)


@asynccontextmanager
async def house(running: int, line: int, *, budget: int | None = None) -> AsyncIterator[House]:
    """Whatever happens inside, nothing is held in the end."""
    opened = House(Gate(running_limit=running, queue_limit=line, budget=Budget(budget)))
    yield opened
    await opened.empty()
    gate = opened.gate
    assert (gate.running, gate.waiting, gate.budget.reserved_bytes) == (0, 0, 0)


async def test_no_more_than_the_limit_are_inside() -> None:
    gate = Gate(running_limit=2, queue_limit=10)
    most = 0

    async def work() -> None:
        nonlocal most
        async with gate.slot(Deadline.after(5)):
            most = max(most, gate.running)
            await asyncio.sleep(0)

    await asyncio.gather(*(work() for _ in range(8)))
    assert most == 2
    assert (gate.running, gate.waiting) == (0, 0)


async def test_the_line_is_bounded_and_the_refusal_has_the_numbers() -> None:
    gate = Gate(running_limit=1, queue_limit=1)
    async with gate.slot(Deadline.after(5)):
        waiting = asyncio.create_task(gate.slot(Deadline.after(5)).__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as early:
            gate.refuse_if_full()
        with pytest.raises(Overloaded) as refusal:
            await gate.slot(Deadline.after(5)).__aenter__()
        assert (refusal.value.limit, refusal.value.actual) == (2, 3)
        assert early.value.detail == refusal.value.detail
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert gate.waiting == 0


async def test_waiting_ends_with_the_deadline() -> None:
    gate = Gate(running_limit=1, queue_limit=1)
    async with gate.slot(Deadline.after(5)):
        with pytest.raises(Overloaded, match="deadline passed") as refusal:
            await gate.slot(Deadline.after(0.01)).__aenter__()
        assert refusal.value.retry_after_s == 10
    async with gate.slot(Deadline.after(1)):
        assert gate.running == 1


async def test_whose_turn_would_come_too_late_is_told_at_once_and_takes_no_place() -> None:
    seconds = 0.0
    gate = Gate(running_limit=2, queue_limit=10, now=lambda: seconds)
    for _ in range(3):
        async with gate.slot(Deadline.after(60)):
            seconds += 30
    waiting = []

    async def arrive(key: str, *, within_s: float) -> None:
        key_id.set(key)
        await gate.slot(Deadline.after(within_s)).__aenter__()

    async with gate.slot(Deadline.after(60)), gate.slot(Deadline.after(60)):
        for key in ("a", "a", "b"):
            waiting.append(asyncio.create_task(arrive(key, within_s=60)))
            await House.quiet()
        with pytest.raises(Overloaded, match="about 60 s, too late") as refusal:
            await arrive("a", within_s=59)
        assert refusal.value.retry_after_s == 60
        assert gate.waiting == 3
        with pytest.raises(Overloaded, match="about 45 s, too late"):
            await arrive("c", within_s=44)
        waiting.append(asyncio.create_task(arrive("c", within_s=46)))
        await House.quiet()
        assert gate.waiting == 4
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_those_inside_who_take_longer_than_any_before_set_the_pace() -> None:
    seconds = 0.0
    gate = Gate(running_limit=2, queue_limit=10, now=lambda: seconds)
    async with gate.slot(Deadline.after(60)):
        seconds += 1
    async with gate.slot(Deadline.after(60)), gate.slot(Deadline.after(60)):
        waiting = asyncio.create_task(gate.slot(Deadline.after(60)).__aenter__())
        await House.quiet()
        assert gate.waiting == 1, "a second each, as far as is known"
        seconds += 80
        with pytest.raises(Overloaded, match="about 80 s, too late") as refusal:
            await gate.slot(Deadline.after(60)).__aenter__()
        assert refusal.value.retry_after_s == 80
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_house_with_a_free_place_lets_in_whoever_comes_whatever_the_pace() -> None:
    seconds = 0.0
    gate = Gate(running_limit=2, queue_limit=10, now=lambda: seconds)
    async with gate.slot(Deadline.after(1)):
        seconds += 3600
        async with gate.slot(Deadline.after(1)):
            assert gate.running == 2


async def test_keys_take_turns_and_each_key_keeps_its_own_order() -> None:
    async with house(1, 100) as full:
        await full.send("a1", "a2", "a3", "a4", "a5", "b1", "b2", "b3", "c1")
        for _ in range(8):
            await full.let_go(full.came[-1])
        assert full.came == ["a1", "a2", "b1", "c1", "a3", "b2", "a4", "b3", "a5"]


async def test_a_key_that_comes_back_queues_behind_the_others_turns() -> None:
    async with house(1, 100) as full:
        await full.send("a1", "a2", "a3", "b1")
        await full.let_go("a1")
        await full.send("a4", "c1")
        for name in ("a2", "b1", "a3", "c1"):
            await full.let_go(name)
        assert full.came == ["a1", "a2", "b1", "a3", "c1", "a4"]


async def test_one_key_alone_may_use_everything() -> None:
    async with house(2, 4) as full:
        await full.send(*(f"a{n}" for n in range(7)))
        assert full.refused == ["a6"]
        assert (full.gate.running, full.gate.waiting) == (2, 4)


async def test_a_key_has_no_more_than_its_part_of_the_line_while_others_are_there() -> None:
    async with house(1, 4) as full:
        await full.send("b0", "a1", "a2", "a3")
        assert full.refused == ["a3"], "two keys: half of the line each"
        await full.send("c1")
        assert full.gate.waiting == 3


async def test_a_newcomer_takes_the_place_of_the_youngest_of_a_key_beyond_its_part() -> None:
    async with house(1, 4) as full:
        await full.send("a0", "a1", "a2", "a3", "a4")
        await full.send("b1", "b2")
        assert full.refused == ["a4", "a3"]
        await full.send("b3")
        assert full.refused == ["a4", "a3", "b3"], "its own half is full now"
        await full.send("c1")
        assert full.refused[3:] == ["a2"], "three keys: one place each"
        assert full.gate.waiting == 4


async def test_what_can_never_fit_is_refused_with_the_numbers() -> None:
    gate = Gate(running_limit=1, queue_limit=1, budget=Budget(100))
    with pytest.raises(InsufficientMemory) as refusal:
        await gate.slot(Deadline.after(5), needs_bytes=101).__aenter__()
    assert (refusal.value.limit, refusal.value.actual) == (100, 101)
    assert gate.running == 0


async def test_a_large_one_is_overtaken_so_often_and_no_more() -> None:
    async with house(10, 100, budget=100) as full:
        await full.send("a-first", needs=60)
        await full.send("a-large", needs=90)
        for number in range(MAX_OVERTAKES):
            await full.send(f"b{number}", needs=1)
        await full.send("b-late", "a-late", needs=1)
        assert full.came == ["a-first", *(f"b{n}" for n in range(MAX_OVERTAKES))]
        await full.let_go("a-first")
        assert full.came[-3:] == ["a-large", "b-late", "a-late"]


async def test_when_the_one_nobody_may_overtake_leaves_the_others_go_on() -> None:
    async with house(10, 100, budget=100) as full:
        await full.send("a-first", needs=60)
        await full.send("a-large", needs=90)
        await full.send(*(f"b{n}" for n in range(MAX_OVERTAKES + 1)), needs=1)
        full.tasks["a-large"].cancel()
        await full.quiet()
        assert full.came[-1] == f"b{MAX_OVERTAKES}"


async def test_who_needs_less_than_before_lets_the_next_one_in_and_takes_nothing_back() -> None:
    gate = Gate(running_limit=2, queue_limit=2, budget=Budget(100))
    async with gate.slot(Deadline.after(5), needs_bytes=70) as seat:
        other = asyncio.create_task(gate.slot(Deadline.after(5), needs_bytes=60).__aenter__())
        await House.quiet()
        seat.keep(41)
        await House.quiet()
        assert not other.done()
        seat.keep(40)
        seat.keep(70)
        assert (await other).held_bytes == 60
        assert (seat.held_bytes, gate.budget.reserved_bytes) == (40, 100)
    assert gate.budget.reserved_bytes == 60


@pytest.mark.parametrize("how", ["ends", "raises", "cancelled inside", "cancelled in line", "late"])
async def test_whatever_way_one_leaves_its_place_and_bytes_are_free_again(how: str) -> None:
    gate = Gate(running_limit=1, queue_limit=2, budget=Budget(100))
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with gate.slot(Deadline.after(5), needs_bytes=70):
            inside.set()
            await go_on.wait()
            if how == "raises":
                raise ValueError

    async def second() -> None:
        async with gate.slot(Deadline.after(0 if how == "late" else 5), needs_bytes=70):
            pass

    tasks = [asyncio.create_task(first())]
    await inside.wait()
    assert gate.budget.reserved_bytes == 70
    tasks.append(asyncio.create_task(second()))
    await House.quiet()
    if how.startswith("cancelled"):
        tasks[how == "cancelled in line"].cancel()
    go_on.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (gate.running, gate.waiting, gate.budget.reserved_bytes) == (0, 0, 0)


async def test_one_cancelled_in_the_moment_it_is_called_passes_its_place_on() -> None:
    async with house(1, 10, budget=100) as full:
        await full.send("a1", "a2", "a3", needs=80)
        full.leave["a1"].set()
        for _ in range(10):
            if full.gate.waiting == 1:
                break
            await asyncio.sleep(0)
        full.tasks["a2"].cancel()  # called, not yet awake
        await full.quiet()
        assert full.came == ["a1", "a3"]


async def test_retry_after_is_the_line_at_the_pace_of_the_last_jobs() -> None:
    seconds = 0.0
    gate = Gate(running_limit=2, queue_limit=0, now=lambda: seconds)

    def refused() -> int | None:
        with pytest.raises(Overloaded) as refusal:
            gate.refuse_if_full()
        return refusal.value.retry_after_s

    async def full_house(work_s: float) -> int | None:
        nonlocal seconds
        async with gate.slot(Deadline.after(5)), gate.slot(Deadline.after(5)):
            told = refused()
            seconds += work_s
        return told

    assert await full_house(30) == 5, "nothing is known yet: a guess of ten seconds"
    assert await full_house(0.001) == 15
    for _ in range(20):
        await full_house(0.001)
    assert await full_house(0) == 1
    for _ in range(20):
        await full_house(3600)
    assert await full_house(0) == 120


async def test_thousands_of_arrivals_never_pass_a_limit_and_leave_nothing_behind() -> None:
    """Seeded: sizes, stays, keys and cancellations; every limit is looked at on each turn."""
    chance, ends = random.Random(20261124), Counter[str]()  # noqa: S311  # not for secrets
    budget = Budget(1000)
    gate = Gate(running_limit=6, queue_limit=24, budget=budget)
    inside: dict[int, int] = {}

    def look() -> None:
        assert sum(inside.values()) <= budget.reserved_bytes <= 1000
        assert len(inside) <= gate.running <= 6
        assert gate.waiting <= 24

    async def arrive(number: int, size: int, stays: int) -> None:
        key_id.set("abcde"[chance.randrange(5) if number % 3 else 0])
        try:
            async with gate.slot(Deadline.after(60), needs_bytes=size):
                inside[number] = size
                try:
                    for _ in range(stays):
                        look()
                        await asyncio.sleep(0)
                finally:
                    del inside[number]
        except (Overloaded, InsufficientMemory) as refusal:
            ends[type(refusal).__name__] += 1
        except asyncio.CancelledError:
            ends["cancelled"] += 1
        else:
            ends["worked"] += 1

    tasks = []
    for number in range(4000):
        size = chance.choice([1, 10, 50, 300, 900, 1001])
        tasks.append(asyncio.create_task(arrive(number, size, chance.randrange(4))))
        if chance.random() < 0.1:
            chance.choice(tasks[-20:]).cancel()
        if chance.random() < 0.4:
            await asyncio.sleep(0)
        look()
    await asyncio.gather(*tasks, return_exceptions=True)
    never_begun = 4000 - ends.total()  # cancelled before their first step
    assert never_begun < 400
    assert min(ends[each] for each in ("worked", "cancelled", "Overloaded")) > 100
    assert ends["InsufficientMemory"] > 100
    assert (gate.running, gate.waiting, budget.reserved_bytes, inside) == (0, 0, 0, {})
