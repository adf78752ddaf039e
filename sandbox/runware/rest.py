"""Runware's REST door, and the host of its result files."""

import asyncio
import json
from collections.abc import Mapping, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.common import Common
from sandbox.faults import Kind, Provider
from sandbox.keys import Account, bearer, open_account
from sandbox.listeners import Hangup
from sandbox.runware import errands
from sandbox.runware.desk import IMAGE_PATH, Desk, Unaccepted
from sandbox.runware.errands import Answer
from sandbox.runware.replies import Item, bad_key, error_item, failure, result_frame
from sandbox.runware.wishes import Refusal, TaskObject
from sandbox.shelf import Shelf, answer_file

_STATUS: Mapping[str, int] = {
    "invalidApiKey": 401,
    "missingAuthentication": 401,
    "contentPolicyViolation": 400,
    "rateLimitExceeded": 429,
    "taskNotFound": 404,
    "timeoutProvider": 504,
    "inferenceError": 500,
    "providerError": 503,
    "internalServerError": 500,
}
_DRY_HEADER = "X-Runware-Dry-Run"
_EXPIRED = (
    b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>expired</Message></Error>'
)


def runware_app(
    common: Common, *, desk: Desk, shelf: Shelf, extra: Sequence[BaseRoute]
) -> Starlette:
    async def image(request: Request) -> Response:
        return await answer_file(
            shelf,
            request.url.path,
            slow_s=common.options.times.slow_s,
            expired=Response(_EXPIRED, 403, media_type="application/xml"),
        )

    async def tasks(request: Request) -> Response:
        return await _Exchange(common, desk, dry=request.headers.get(_DRY_HEADER) == "1").run(
            request
        )

    routes = [
        Route("/v1", tasks, methods=["POST"]),
        Route(IMAGE_PATH + "{name:path}", image, methods=["GET"]),
        *extra,
    ]
    return Starlette(routes=routes)


class _Exchange:
    """One request: every task in its array, answered in one body."""

    def __init__(self, common: Common, desk: Desk, *, dry: bool) -> None:
        self._common = common
        self._desk = desk
        self._dry = dry

    async def run(self, request: Request) -> Response:
        try:
            tasks = _read_body(await request.body(), limits_most=self._most)
        except Refusal as refusal:
            return JSONResponse(failure(error_item(refusal, task_uuid=None)), 400)
        key: object = bearer(request.headers.get("Authorization"))
        if tasks and tasks[0].get("taskType") == "authentication":
            key = tasks.pop(0).get("apiKey")
        account = open_account(key)
        if account is None:
            return JSONResponse(bad_key(), 401)
        try:
            answers = await asyncio.gather(*(self._answer(task, account) for task in tasks))
        except Unaccepted:
            return Hangup()
        return _respond(answers)

    @property
    def _most(self) -> int:
        return self._common.options.limits.tasks_per_message

    async def _answer(self, task: TaskObject, account: Account) -> Answer:
        self._common.journal.note(
            Provider.RUNWARE, str(task.get("taskType")), task_id=errands.task_uuid_of(task) or ""
        )
        if not errands.is_removal(task):
            answer = await errands.run(task, desk=self._desk, account=account)
            return _cut_off(answer)
        faults = self._desk.faults_of(task, account=account)
        try:
            taken = await self._desk.accept(task, account=account, faults=faults, dry=self._dry)
        except Refusal as refusal:
            return errands.refused(task, refusal)
        if faults.take(Kind.DROP_BEFORE_ACK) or faults.take(Kind.DROP_AFTER_ACK):
            raise Unaccepted
        if taken.wish.is_async:
            return errands.acknowledged(taken)
        await taken.done.wait()
        return _cut_off(errands.outcome(taken, polled=False))


def _cut_off(answer: Answer) -> Answer:
    """The answer, unless the connection is to break instead; silence is a broken connection."""
    faults = answer.task.faults if answer.task is not None else None
    if faults is not None and (Kind.SILENT in faults or faults.take(Kind.DROP_BEFORE_RESULT)):
        raise Unaccepted
    return answer


def _respond(answers: Sequence[Answer]) -> Response:
    status = max((_status(answer.content) for answer in answers), default=200)
    if len(answers) == 1:
        (answer,) = answers
        if answer.item is not None and answer.task is not None:
            frame = result_frame(answer.item, faults=answer.task.faults)
            return Response(frame, 200, media_type="application/json")
        return JSONResponse(answer.content, status)
    return JSONResponse(_merged(answers), status)


def _merged(answers: Sequence[Answer]) -> Item:
    data = [each for answer in answers for each in _entries(answer.content, "data")]
    errors = [each for answer in answers for each in _entries(answer.content, "errors")]
    return {"data": data, **({"errors": errors} if errors else {})}


def _entries(content: Item, name: str) -> list[object]:
    entries = content.get(name)
    return entries if isinstance(entries, list) else []


def _status(content: Item) -> int:
    """The HTTP status: the first error's own, 400 for one without."""
    errors = content.get("errors") or ([content["error"]] if "error" in content else [])
    if not isinstance(errors, list) or not errors:
        return 200
    return _STATUS.get(str(errors[0].get("code")), 400)


def _read_body(body: bytes, *, limits_most: int) -> list[TaskObject]:
    try:
        tasks = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal("invalidJSON", "The body is not JSON.") from None
    if not isinstance(tasks, list) or not all(isinstance(each, dict) for each in tasks):
        raise Refusal("invalidPayload", "The body must be an array of task objects.")
    if len(tasks) > limits_most + 1:
        raise Refusal("arrayLength", "The array holds too many tasks.", max=limits_most)
    return tasks
