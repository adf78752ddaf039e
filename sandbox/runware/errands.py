"""What both of Runware's doors answer to a task object, whichever way it came in."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from sandbox.keys import Account
from sandbox.runware.desk import Desk, Task
from sandbox.runware.replies import Item, error_item, failed_task, failure, success
from sandbox.runware.wishes import REMOVAL_TYPES, Refusal, TaskObject


@dataclass(frozen=True, slots=True)
class Answer:
    """`task` is set where the answer is the end of a removal; `item` where that has a result."""

    content: Item
    task: Task | None = None
    item: Item | None = None


def is_removal(task: TaskObject) -> bool:
    return task.get("taskType") in REMOVAL_TYPES


def task_uuid_of(task: TaskObject) -> str | None:
    value = task.get("taskUUID")
    return value if isinstance(value, str) else None


def refused(task: TaskObject, refusal: Refusal) -> Answer:
    kind = task.get("taskType")
    named = kind if isinstance(kind, str) else None
    item = error_item(refusal, task_uuid=task_uuid_of(task), task_type=named)
    return Answer(failure(item))


def acknowledged(task: Task) -> Answer:
    return Answer(success({"taskType": task.wish.task_type, "taskUUID": task.wish.task_uuid}))


def outcome(task: Task, *, polled: bool) -> Answer:
    """How a removal stands."""
    wish = task.wish
    if not task.done.is_set():
        running = {"taskType": wish.task_type, "taskUUID": wish.task_uuid, "status": "processing"}
        return Answer(success(running))
    if task.item is None:
        refusal = task.error or Refusal("internalServerError", "Something went wrong.")
        content = failed_task(
            refusal,
            task_uuid=wish.task_uuid,
            task_type=wish.task_type,
            faults=task.faults,
            polled=polled,
        )
        return Answer(content, task)
    item = task.item | ({"status": "success"} if polled else {})
    return Answer(success(item), task, item)


async def run(task: TaskObject, *, desk: Desk, account: Account) -> Answer:
    """Everything but removals and authentication."""
    errand = _ERRANDS.get(str(task.get("taskType")), _unknown)
    try:
        return await errand(task, desk, account)
    except Refusal as refusal:
        return refused(task, refusal)


async def _poll(task: TaskObject, desk: Desk, account: Account) -> Answer:
    return outcome(desk.find(task, account=account), polled=True)


async def _details(task: TaskObject, desk: Desk, account: Account) -> Answer:
    found = desk.find(task, account=account)
    response = outcome(found, polled=False).content
    return _answer(task, request=found.request, response=response)


async def _account(task: TaskObject, desk: Desk, account: Account) -> Answer:
    if task.get("operation") != "getDetails":
        raise Refusal("invalidOperation", "Unknown operation.", parameter="operation")
    return _answer(task, balance=float(desk.balance_usd(account)), organizationName=account.name)


async def _upload(task: TaskObject, desk: Desk, account: Account) -> Answer:  # noqa: ARG001  # one shape for all
    image_uuid, address = await desk.upload(task, field_name="image")
    return _answer(task, imageUUID=image_uuid, imageURL=address)


async def _store(task: TaskObject, desk: Desk, account: Account) -> Answer:  # noqa: ARG001  # one shape for all
    if task.get("operation") != "upload":
        raise Refusal("invalidOperation", "Unknown operation.", parameter="operation")
    media_uuid, address = await desk.upload(task, field_name="media")
    return _answer(task, mediaUUID=media_uuid, mediaURL=address)


async def _unknown(task: TaskObject, desk: Desk, account: Account) -> Answer:  # noqa: ARG001  # one shape for all
    raise Refusal(
        "invalidTaskType",
        "Invalid value for 'taskType' parameter. No such task type.",
        parameter="taskType",
    )


def _answer(task: TaskObject, **fields: object) -> Answer:
    head = {"taskType": task["taskType"], "taskUUID": task_uuid_of(task)}
    return Answer(success({**head, **fields}))


_ERRANDS: Mapping[str, Callable[[TaskObject, Desk, Account], Awaitable[Answer]]] = {
    "getResponse": _poll,
    "getTaskDetails": _details,
    "accountManagement": _account,
    "imageUpload": _upload,
    "mediaStorage": _store,
}
