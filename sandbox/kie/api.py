"""Kie's API host: createTask, recordInfo, credits and fallback links; and the host of the files."""

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from sandbox.common import Common
from sandbox.faults import Kind, Provider, Stage, TaskFaults
from sandbox.keys import Account
from sandbox.kie.envelope import Answered, account_of, check_agent, envelope
from sandbox.kie.jobs import Failure, Jobs, State, Task, judge
from sandbox.listeners import Hangup
from sandbox.marks import drawn_marks, written_marks
from sandbox.options import KIE_MODEL
from sandbox.pictures import BadPicture, Picture, decode
from sandbox.rates import Window
from sandbox.shelf import Shelf, answer_file

_SERVER_ERROR = "Server Error - An unexpected error occurred while processing the request"
_FALLBACK_S = 20 * 60
_READABLE_PIXELS = 80_000_000

_REFUSALS: Mapping[Kind, tuple[int, str]] = {
    Kind.UNAUTHORIZED: (401, "You do not have access permissions"),
    Kind.NO_CREDITS: (402, "Credits insufficient"),
    Kind.QUOTA_433: (433, "The usage of this key exceeds its limit"),
    Kind.MAINTENANCE: (455, "The service is under maintenance"),
    Kind.CREATE_500: (500, _SERVER_ERROR),
    Kind.FEATURE_DISABLED: (505, "This feature is disabled"),
}

Answer = Callable[[Request], Awaitable[Response]]


def kie_api_app(common: Common, *, jobs: Jobs, files: "Files", extra: list[Route]) -> Starlette:
    api = _Api(common, jobs=jobs, files=files)
    routes = [
        Route("/api/v1/jobs/createTask", api.guarded(api.create), methods=["POST"]),
        Route("/api/v1/jobs/recordInfo", api.guarded(api.record), methods=["GET"]),
        Route("/api/v1/chat/credit", api.guarded(api.credit), methods=["GET"]),
        Route("/api/v1/common/download-url", api.guarded(api.link), methods=["POST"]),
        *extra,
    ]
    return Starlette(routes=routes)


def kie_files_app(common: Common, *, files: "Files", extra: list[Route]) -> Starlette:
    async def get(request: Request) -> Response:
        try:
            check_agent(common, request)
        except Answered as answered:
            return answered.response
        return await answer_file(
            files.shelf,
            request.url.path,
            slow_s=common.options.times.slow_s,
            expired=HTMLResponse("<h1>404 Not Found</h1>", 404),
        )

    return Starlette(routes=[*extra, Route("/{path:path}", get, methods=["GET"])])


class Files:
    """The hosted files and their addresses."""

    def __init__(self, common: Common, *, shelf: Shelf, url: str) -> None:
        self.shelf = shelf
        self.url = url
        self._common = common

    async def read(self, address: str) -> bytes:
        """An input by address, ours without a detour through the network; raises BadPicture."""
        path = address.removeprefix(self.url)
        if path != address:
            file = self.shelf.get(path)
            if file is None:
                raise BadPicture("the uploaded file is gone")
            return file.content
        limits = self._common.options.limits
        return await self._common.fetch(address, max_bytes=limits.body_bytes)

    def fallback(self, address: str) -> str | None:
        """Another address of the same file for 20 minutes; None for a foreign one."""
        path = address.removeprefix(self.url)
        file = self.shelf.get(path) if path != address else None
        if file is None:
            return None
        again = f"/links/{uuid.uuid4().hex}"
        self.shelf.put(again, replace(file, expires_at=self._common.clock() + _FALLBACK_S))
        return self.url + again


class _Api:
    def __init__(self, common: Common, *, jobs: Jobs, files: Files) -> None:
        limits, clock = common.options.limits, common.clock
        self._common = common
        self._jobs = jobs
        self._files = files
        self._creations = Window(limit=limits.kie_creations_per_10_s, seconds=10, clock=clock)
        self._polls = Window(limit=limits.kie_polls_per_s, seconds=1, clock=clock)

    def guarded(self, answer: Callable[[Request, Account], Awaitable[Response]]) -> Answer:
        """Edge first, then the key, then the route."""

        async def guard(request: Request) -> Response:
            try:
                check_agent(self._common, request)
                account = account_of(request)
                if account is None:
                    raise self._refused(401, "You do not have access permissions")
                return await answer(request, account)
            except Answered as answered:
                return answered.response

        return guard

    async def create(self, request: Request, account: Account) -> Response:
        wanted = await self._json(request)
        model, address = wanted.get("model"), self._image(wanted)
        if model != KIE_MODEL:
            raise self._refused(422, "The model name you specified is not supported")
        given, content = await self._load(address)
        faults = self._draw(given, content, address=address, account=account)
        self._refuse_by_fault(faults, task_id=address)
        if not self._creations.admit(account.name):
            raise self._limited(faults, task_id=address)
        if self._jobs.credits(account) < 1:
            raise self._denied(402, "Credits insufficient", faults=faults, task_id=address)
        task = self._jobs.create(
            given, account=account, model=KIE_MODEL, param=json.dumps(wanted), faults=faults
        )
        self._common.journal.note(Provider.KIE, "createTask", task_id=task.task_id)
        if Kind.LOST_REPLY in faults:
            return Hangup()
        return envelope(self._common, 200, "success", data={"taskId": task.task_id}, faults=faults)

    async def record(self, request: Request, account: Account) -> Response:
        task_id = request.query_params.get("taskId")
        if not task_id:
            raise self._refused(400, "taskId parameter is required")
        self._common.journal.note(Provider.KIE, "recordInfo", task_id=task_id)
        if not self._polls.admit(account.name):
            raise self._refused(429, "Rate limit exceeded")
        task = self._jobs.find(task_id)
        if task is None or task.faults.take(Kind.NULL_RECORD, 2):
            raise self._refused(422, "recordInfo is null")
        if task.account != account.name:
            raise self._refused(404, "Task not found")
        if task.faults.take(Kind.POLL_500):
            raise self._refused(500, _SERVER_ERROR, faults=task.faults)
        if Kind.TIMEOUT_408 in task.faults:
            raise self._refused(408, "Upstream gave no result", faults=task.faults)
        record = _record(task, state=self._jobs.state(task))
        return envelope(self._common, 200, "success", data=record, faults=task.faults)

    async def credit(self, _: Request, account: Account) -> Response:
        return envelope(self._common, 200, "success", data=self._jobs.credits(account))

    async def link(self, request: Request, _: Account) -> Response:
        address = (await self._json(request)).get("url")
        found = self._files.fallback(address) if isinstance(address, str) else None
        if found is None:
            raise self._refused(422, "The URL is not one of ours")
        return envelope(self._common, 200, "success", data=found)

    async def _json(self, request: Request) -> dict[str, object]:
        try:
            wanted = json.loads(await request.body())
        except (ValueError, RecursionError):
            wanted = None
        if not isinstance(wanted, dict):
            raise self._refused(422, "The body must be a JSON object")
        return wanted

    def _image(self, wanted: dict[str, object]) -> str:
        input_ = wanted.get("input")
        image = input_.get("image") if isinstance(input_, dict) else None
        if not isinstance(image, str) or not image.startswith(("http://", "https://")):
            raise self._refused(422, "image must not be empty and must be a URL")
        return image

    async def _load(self, address: str) -> tuple[Picture | Failure, bytes]:
        limits = self._common.options.limits
        try:
            content = await self._files.read(address)
            picture = await self._common.studio.run(decode, content, max_pixels=_READABLE_PIXELS)
        except BadPicture as error:
            return Failure("422", str(error)), b""
        return judge(picture, limits=limits) or picture, content

    def _draw(
        self, given: Picture | Failure, content: bytes, *, address: str, account: Account
    ) -> TaskFaults:
        drawn = drawn_marks(given.rgb) if isinstance(given, Picture) else ()
        return self._common.faults.draw(
            (account.name, address),
            provider=Provider.KIE,
            stage=Stage.TASK,
            model=KIE_MODEL,
            marks=(*account.marks, *written_marks(content), *drawn),
        )

    def _refuse_by_fault(self, faults: TaskFaults, *, task_id: str) -> None:
        if Kind.HTML_502 in faults:
            self._note_refusal(task_id, "502")
            raise Answered(HTMLResponse("<html><h1>502 Bad Gateway</h1></html>", 502))
        if faults.take(Kind.RATE_LIMITED, default=float("inf")):
            raise self._limited(faults, task_id=task_id)
        if (kind := faults.first(_REFUSALS)) is not None:
            code, msg = _REFUSALS[kind]
            raise self._denied(code, msg, faults=faults, task_id=task_id)

    def _limited(self, faults: TaskFaults, *, task_id: str) -> Answered:
        msg = "Your call frequency is too high. Please try again later."
        return self._denied(429, msg, faults=faults, task_id=task_id)

    def _denied(self, code: int, msg: str, *, faults: TaskFaults, task_id: str) -> Answered:
        self._note_refusal(task_id, str(code))
        return self._refused(code, msg, faults=faults)

    def _note_refusal(self, task_id: str, reason: str) -> None:
        self._common.journal.note(Provider.KIE, "createTask")
        self._common.bill.refuse(Provider.KIE, model=KIE_MODEL, task_id=task_id, reason=reason)

    def _refused(self, code: int, msg: str, *, faults: TaskFaults | None = None) -> Answered:
        return Answered(envelope(self._common, code, msg, faults=faults or TaskFaults()))


def _record(task: Task, *, state: State) -> dict[str, object]:
    ended = state in (State.SUCCESS, State.FAIL)
    failure = task.failure if state is State.FAIL else None
    shown = "dreaming" if Kind.UNKNOWN_STATE in task.faults and not ended else state.value
    took_ms = task.update_time_ms - task.create_time_ms
    return {
        "taskId": task.task_id,
        "model": task.model,
        "state": shown,
        "param": task.param,
        "resultJson": _result(task) if state is State.SUCCESS else "",
        "failCode": failure.code if failure else "",
        "failMsg": failure.message if failure else "",
        "costTime": took_ms if state is State.SUCCESS else 0,
        "completeTime": task.update_time_ms if ended else None,
        "createTime": task.create_time_ms,
        "updateTime": task.update_time_ms,
        **({"creditsConsumed": 1} if state is State.SUCCESS else {}),
    }


def _result(task: Task) -> object:
    """`resultJson`: a string with JSON in it, unless a fault says otherwise."""
    content: dict[str, object] = {"resultUrls": [task.url]}
    if Kind.RESULT_EMPTY in task.faults:
        return ""
    if Kind.RESULT_WITHOUT_URLS in task.faults:
        content = {"resultObject": {}}
    return content if Kind.RESULT_OBJECT in task.faults else json.dumps(content)
