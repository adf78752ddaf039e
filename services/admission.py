"""Who may work now: a fixed number of requests within a budget of memory, and a short fair line.

**Whose turn.** API keys take turns; within a key it is first come, first served. One key alone may
use everything.

**How long the line.** `queue_limit` requests in all. Keys that wait or run share it equally: each
may fill it up to its part, a lone key all of it. Where the line is full of a key that has more than
its part, another key's request takes the place of that key's youngest, which is refused. Whose turn
would come after its deadline, at the present pace, is refused at once: the same answer later would
be worth less.

**Memory.** A request that does not fit now waits for its bytes as it does for a place. Smaller ones
go ahead of it meanwhile, `MAX_OVERTAKES` times; then nobody does until it fits. Whoever needs less
than before gives the rest back while it goes on.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import zip_longest
from statistics import median

from models.errors import Draining, InsufficientMemory, Overloaded
from services.budget import Budget
from utils.clock import Deadline
from utils.logs import key_id
from utils.spans import span

MAX_OVERTAKES = 4
_MIB = 1 << 20
_FIRST_GUESS_S = 10
_MOST_RETRY_AFTER_S = 120
_JOBS_REMEMBERED = 32


@dataclass(slots=True, eq=False)
class _Waiter:
    """One that waits; `called` is set when it may come in, or says why it never will."""

    key: str
    needs_bytes: int
    called: asyncio.Future[None]
    overtaken: int = 0


class Seat:
    """What one request holds inside."""

    def __init__(self, budget: Budget, held_bytes: int) -> None:
        self._budget = budget
        self.held_bytes = held_bytes

    def keep(self, still_bytes: int) -> None:
        """Give back what is held beyond that; never takes more."""
        freed = self.held_bytes - min(still_bytes, self.held_bytes)
        self.held_bytes -= freed
        self._budget.give_back(freed)


class Gate:
    """At most `running_limit` requests inside, `queue_limit` waiting, all within the `budget`.

    The key is that of `utils.logs.key_id`. Belongs to one event loop; `now` counts seconds.
    """

    def __init__(
        self,
        *,
        running_limit: int,
        queue_limit: int,
        budget: Budget | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.running_limit = running_limit
        self.queue_limit = queue_limit
        self.budget = budget or Budget()
        self.budget.tell(self._admit)
        self._now = now
        self._inside: Counter[str] = Counter()
        self._line: dict[str, deque[_Waiter]] = {}  # in the order of the keys' turns
        self._jobs_s: deque[float] = deque(maxlen=_JOBS_REMEMBERED)
        self._entered_at: list[float] = []
        self._refusal: Callable[[], Draining] | None = None

    @property
    def running(self) -> int:
        return self._inside.total()

    @property
    def waiting(self) -> int:
        return sum(map(len, self._line.values()))

    def refuse_if_full(self) -> None:
        """Raises Overloaded where a request of this key would find no place even in the line.

        Draining where the gate is shut.
        For before a body is read: nothing is taken.
        """
        self._refuse_if_shut()
        if self._is_busy() and not self._has_place(key_id.get()):
            raise self._overloaded(key_id.get())

    def shut(self, refusal: Callable[[], Draining]) -> None:
        """From now on let nobody in, and tell who waits; who is inside may stay."""
        self._refusal = refusal
        for waiter in [each for mine in self._line.values() for each in mine]:
            self._take_out(waiter)
            if not waiter.called.done():
                waiter.called.set_exception(refusal())

    @asynccontextmanager
    async def slot(self, deadline: Deadline, *, needs_bytes: int = 0) -> AsyncIterator[Seat]:
        """Hold a place inside and `needs_bytes` of the budget, or what the seat keeps of them.

        Raises:
            InsufficientMemory: more than the whole budget is needed.
            Overloaded: there is no place in the line, or the turn would not come, or did not
                come, before the deadline.
            Draining: the gate is shut.
        """
        key = key_id.get()
        await self._enter(_Waiter(key, needs_bytes, _future()), deadline)
        entered_at = self._now()
        self._entered_at.append(entered_at)
        seat = Seat(self.budget, needs_bytes)
        try:
            yield seat
        finally:
            self._entered_at.remove(entered_at)
            self._jobs_s.append(self._now() - entered_at)
            self._leave(key, seat.held_bytes)

    # --- the door

    async def _enter(self, waiter: _Waiter, deadline: Deadline) -> None:
        self._refuse_if_shut()
        if not self.budget.could_ever_hold(waiter.needs_bytes):
            raise self._too_large(waiter.needs_bytes)
        if self._is_busy() or not self.budget.holds(waiter.needs_bytes):
            self._refuse_if_in_vain(waiter.key, deadline)
            self._find_place(waiter.key)
        self._line.setdefault(waiter.key, deque()).append(waiter)
        self._admit()
        try:
            with span("queue"):
                async with asyncio.timeout(deadline.remaining_s()):
                    await waiter.called
        except TimeoutError:
            self._withdraw(waiter)
            raise self._overloaded(
                waiter.key, why="The deadline passed while this request waited for its turn."
            ) from None
        except BaseException:
            self._withdraw(waiter)
            raise

    def _refuse_if_shut(self) -> None:
        if self._refusal is not None:
            raise self._refusal()

    def _leave(self, key: str, needs_bytes: int) -> None:
        self._inside -= Counter({key: 1})
        self.budget.give_back(needs_bytes)  # which tells `_admit`

    def _withdraw(self, waiter: _Waiter) -> None:
        """It does not come in after all, whether or not it was called in the same moment."""
        called = waiter.called
        if called.done() and not called.cancelled() and called.exception() is None:
            self._leave(waiter.key, waiter.needs_bytes)
            return
        self._take_out(waiter)
        self._admit()  # it may have been the one that nobody overtakes any more

    def _take_out(self, waiter: _Waiter) -> None:
        mine = self._line.get(waiter.key)
        if mine is not None and waiter in mine:
            mine.remove(waiter)
            if not mine:
                del self._line[waiter.key]

    # --- whose turn it is

    def _admit(self) -> None:
        while self.running < self.running_limit and (chosen := self._next()) is not None:
            self._take_out(chosen)
            self._inside[chosen.key] += 1
            self.budget.reserve(chosen.needs_bytes)
            if chosen.key in self._line:  # its next turn comes after everybody else's
                self._line[chosen.key] = self._line.pop(chosen.key)
            chosen.called.set_result(None)

    def _next(self) -> _Waiter | None:
        """The first in turn that fits, unless somebody before it was overtaken often enough."""
        overtaken: list[_Waiter] = []
        for waiter in self._in_turn():
            if waiter.called.done():  # cancelled in this moment; it takes itself out
                continue
            if self.budget.holds(waiter.needs_bytes):
                for each in overtaken:
                    each.overtaken += 1
                return waiter
            if waiter.overtaken >= MAX_OVERTAKES:
                return None
            overtaken.append(waiter)
        return None

    def _in_turn(self) -> Iterator[_Waiter]:
        """Everybody's first, then everybody's second, and so on."""
        for rank in zip_longest(*map(tuple, self._line.values())):
            yield from (each for each in rank if each is not None)

    # --- the line

    def _is_busy(self) -> bool:
        """Whether a newcomer has to wait, as far as can be said without knowing its needs."""
        return self.running >= self.running_limit or bool(self._line)

    def _part(self, key: str) -> int:
        """How much of the line each key may have, `key` being one of them."""
        keys = {key, *self._line, *self._inside}
        return self.queue_limit if len(keys) == 1 else max(1, self.queue_limit // len(keys))

    def _has_place(self, key: str) -> bool:
        if len(self._line.get(key, ())) >= self._part(key):
            return False
        return self.waiting < self.queue_limit or self._greediest(key) is not None

    def _greediest(self, newcomer: str) -> deque[_Waiter] | None:
        """The waiters of the key with the most of them, where that is more than its part."""
        longest = max(self._line.values(), key=len, default=None)
        return longest if longest and len(longest) > self._part(newcomer) else None

    def _find_place(self, key: str) -> None:
        """Raises Overloaded where there is none, and at the one whose place was taken."""
        if not self._has_place(key):
            raise self._overloaded(key)
        if self.waiting >= self.queue_limit and (longest := self._greediest(key)) is not None:
            displaced = longest[-1]
            self._take_out(displaced)
            if not displaced.called.done():
                displaced.called.set_exception(self._overloaded(displaced.key))

    def _refuse_if_in_vain(self, key: str, deadline: Deadline) -> None:
        """Raises Overloaded where the turn will hardly come in time."""
        expected_s = self._expected_wait_s(key)
        if expected_s > deadline.remaining_s():
            why = f"This request's turn would come in about {math.ceil(expected_s)} s, too late."
            raise self._overloaded(key, why=why)

    def _expected_wait_s(self, key: str) -> float:
        """Until a newcomer of this key is let in, at the present pace; 0: who knows."""
        if self.running < self.running_limit:
            return 0
        mine = len(self._line.get(key, ()))
        ahead = sum(min(len(theirs), mine + 1) for theirs in self._line.values())
        return self._job_s(first_guess_s=0) * (ahead + 1) / self.running_limit

    def _job_s(self, *, first_guess_s: float) -> float:
        """How long a job takes: as the last ones did, or longer where those inside already do."""
        usual_s = median(self._jobs_s) if self._jobs_s else first_guess_s
        now = self._now()
        so_far_s = median([now - each for each in self._entered_at] or [0])
        return max(usual_s, so_far_s)

    # --- what is said

    def _overloaded(self, key: str, *, why: str = "") -> Overloaded:
        mine, part = len(self._line.get(key, ())), self._part(key)
        text = f"{self.running} requests are being worked on and {self.waiting} are waiting."
        text = f"{why} {text}" if why else text
        if self.waiting < self.queue_limit or part < self.queue_limit:
            text += f" {mine} of them are this key's, which may have {part} while others are there."
        return Overloaded(
            text,
            limit=self.running_limit + self.queue_limit,
            actual=self.running + self.waiting + 1,
            retry_after_s=self._retry_after_s(),
        )

    def _too_large(self, needs_bytes: int) -> InsufficientMemory:
        limit = self.budget.limit_bytes or 0
        return InsufficientMemory(
            f"Working on this picture takes about {-(-needs_bytes // _MIB)} MiB; "
            f"{limit // _MIB} MiB are there for pictures.",
            limit=limit,
            actual=needs_bytes,
            hint="Send it smaller, ask fewer models, or grant the service more memory.",
        )

    def _retry_after_s(self) -> int:
        """When the line as it stands will have gone in, at the present pace."""
        job_s = self._job_s(first_guess_s=_FIRST_GUESS_S)
        wait_s = job_s * (self.waiting + 1) / self.running_limit
        return max(1, min(_MOST_RETRY_AFTER_S, math.ceil(wait_s)))


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()
