"""Kie's tasks: created once and paid when done, seen by polls through the states they pass."""

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sandbox.common import Common
from sandbox.cutting import Job as CuttingJob
from sandbox.faults import Kind, Provider, TaskFaults
from sandbox.keys import Account
from sandbox.options import KIE_CREDIT_USD, Limits
from sandbox.pictures import OutputFormat, Picture
from sandbox.shelf import FOREIGN_URL, HostedFile, Shelf

_FORMATS = ("PNG", "JPEG", "WEBP")
_NEVER = float("inf")


class State(StrEnum):
    WAITING = "waiting"
    QUEUING = "queuing"
    GENERATING = "generating"
    SUCCESS = "success"
    FAIL = "fail"


_RUNNING = (State.WAITING, State.QUEUING, State.GENERATING)


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed task's `failCode` and `failMsg`."""

    code: str
    message: str


_PLANNED_FAILURES: Mapping[Kind, Failure] = {
    Kind.FAIL_500: Failure("500", "Internal server error"),
    Kind.FAIL_501: Failure("501", "Generation failed"),
}


@dataclass(slots=True, kw_only=True)
class Task:
    """`param` is the whole createTask request; times are wall clock milliseconds."""

    task_id: str
    account: str
    model: str
    param: str
    faults: TaskFaults
    created_at: float
    create_time_ms: int
    update_time_ms: int
    url: str | None = None
    failure: Failure | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Jobs:
    """Every account's tasks and credits. `files_url` is where results are fetched."""

    def __init__(self, common: Common, *, shelf: Shelf, files_url: str) -> None:
        self._common = common
        self._shelf = shelf
        self._files_url = files_url
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._spent: dict[str, int] = {}

    def credits(self, account: Account) -> int:
        """What is left; a running task's credits are held and come back when it fails."""
        return self._common.options.kie_credits - self._spent.get(account.name, 0)

    def find(self, task_id: str) -> Task | None:
        return self._tasks.get(task_id)

    def create(
        self,
        given: "Picture | Failure",
        *,
        account: Account,
        model: str,
        param: str,
        faults: TaskFaults,
    ) -> Task:
        """Hold the credits and start; what is wrong with the input shows as a failed task."""
        now_ms = _now_ms()
        task = Task(
            task_id=f"task_recraft_{uuid.uuid4().hex[:20]}",
            account=account.name,
            model=model,
            param=param,
            faults=faults,
            created_at=self._common.clock(),
            create_time_ms=now_ms,
            update_time_ms=now_ms,
        )
        self._hold(task, self._price(task))
        self._tasks[task.task_id] = task
        if len(self._tasks) > self._common.options.limits.tasks_kept:
            self._tasks.popitem(last=False)
        self._common.chores.start(self._work(task, given))
        return task

    def state(self, task: Task) -> State:
        """Time moves a task through its states; its last one needs the work to be done as well."""
        step_s = self._common.options.times.kie_step_s
        steps = int((self._common.clock() - task.created_at) // step_s) if step_s else _NEVER
        if steps < len(_RUNNING):
            return _RUNNING[int(steps)]
        if not task.done.is_set() or self._common.clock() < self._ready_at(task):
            return State.GENERATING
        return State.FAIL if task.failure else State.SUCCESS

    def _ready_at(self, task: Task) -> float:
        if Kind.STUCK in task.faults or Kind.TIMEOUT_408 in task.faults:
            return _NEVER
        times = self._common.options.times
        slow_s = task.faults.amount(Kind.SLOW, times.slow_s)
        late_s = task.faults.amount(Kind.LATE, times.late_s)
        return task.created_at + len(_RUNNING) * times.kie_step_s + slow_s + late_s

    async def _work(self, task: Task, given: "Picture | Failure") -> None:
        if self._ready_at(task) == _NEVER:
            return
        planned = task.faults.first(_PLANNED_FAILURES)
        if planned is not None:
            given = _PLANNED_FAILURES[planned]
        try:
            if isinstance(given, Picture):
                await self._cut(task, given)
            else:
                self._fail(task, given)
        finally:
            task.failure = task.failure or (None if task.url else Failure("500", "Server error"))
            task.update_time_ms = _now_ms()
            task.done.set()

    def _fail(self, task: Task, failure: Failure) -> None:
        task.failure = failure
        self._hold(task, -self._price(task))
        self._common.bill.refuse(
            Provider.KIE, model=task.model, task_id=task.task_id, reason=failure.code
        )

    async def _cut(self, task: Task, picture: Picture) -> None:
        job = CuttingJob(
            picture=picture, model=task.model, format=OutputFormat.PNG, faults=task.faults
        )
        made = await self._common.studio.make(job)
        path = f"/results/{uuid.uuid4().hex}.{made.extension}"
        file = HostedFile(
            content=made.content,
            media_type=made.media_type,
            expires_at=self._common.clock() + self._common.options.times.kie_result_s,
            faults=task.faults,
        )
        self._shelf.put(path, file)
        task.url = FOREIGN_URL if Kind.URL_FOREIGN in task.faults else self._files_url + path
        usd = self._common.options.prices[task.model]
        self._common.bill.charge(Provider.KIE, model=task.model, task_id=task.task_id, usd=usd)

    def _price(self, task: Task) -> int:
        return max(1, round(self._common.options.prices[task.model] / KIE_CREDIT_USD))

    def _hold(self, task: Task, credits_: int) -> None:
        self._spent[task.account] = self._spent.get(task.account, 0) + credits_


def judge(picture: Picture, *, limits: Limits) -> Failure | None:
    """What the model's page forbids, found in the input."""
    longest, shortest = max(picture.width, picture.height), min(picture.width, picture.height)
    broken = {
        "format": picture.format not in _FORMATS,
        "file size": picture.bytes > limits.kie_input_bytes,
        "number of pixels": longest * shortest > limits.kie_input_pixels,
        "longest side": longest > limits.kie_longest_px,
        "shortest side": shortest < limits.kie_shortest_px,
    }
    named = next((name for name, is_broken in broken.items() if is_broken), None)
    return Failure("422", f"The image's {named} is not supported") if named else None


def _now_ms() -> int:
    return int(time.time() * 1000)
