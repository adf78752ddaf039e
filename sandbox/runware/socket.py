"""Runware's WebSocket door: arrays of task objects in, one object a frame out."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from sandbox.common import Common
from sandbox.faults import Kind, Provider, Stage, TaskFaults
from sandbox.keys import Account, open_account
from sandbox.runware import errands
from sandbox.runware.desk import Desk, Task, Unaccepted
from sandbox.runware.errands import Answer
from sandbox.runware.replies import (
    Item,
    bad_key,
    bad_key_of_old,
    error_item,
    failure,
    result_frame,
    success,
)
from sandbox.runware.sessions import Session, Sessions
from sandbox.runware.wishes import Refusal, TaskObject

PATH = "/v1"
_AUTHENTICATION_FIELDS = {"taskType", "apiKey", "connectionSessionUUID"}


@asynccontextmanager
async def serving_socket(common: Common, *, desk: Desk) -> AsyncIterator[int]:
    """The port of a WebSocket server that runs until the block ends."""
    door = _Door(common, desk=desk)
    options = common.options
    async with serve(
        door.serve,
        options.host,
        options.ports.runware_ws,
        process_request=door.judge_handshake,
        max_size=options.limits.message_bytes,
        ping_interval=None,
        close_timeout=1,
        server_header=None,
    ) as server:
        yield next(iter(server.sockets)).getsockname()[1]


class _Door:
    def __init__(self, common: Common, *, desk: Desk) -> None:
        self._common = common
        self._desk = desk
        self._sessions = Sessions(common)
        self._open = 0

    def judge_handshake(self, connection: ServerConnection, request: Request) -> Response | None:
        if urlsplit(request.path).path != PATH:
            return connection.respond(HTTPStatus.NOT_FOUND, "no such path\n")
        faults = self._common.faults.draw(None, provider=Provider.RUNWARE, stage=Stage.HANDSHAKE)
        if Kind.HANDSHAKE_503 in faults or self._open >= self._common.options.limits.sockets:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "try again\n")
        return None

    async def serve(self, connection: ServerConnection) -> None:
        dry = _is_dry(connection)
        visit = _Visit(self._common, self._desk, self._sessions, connection, dry=dry)
        self._common.journal.note(Provider.RUNWARE, "connect")
        self._open += 1
        try:
            await visit.run()
        except ConnectionClosed:
            pass
        finally:
            visit.leave()
            self._open -= 1
            self._common.journal.note(Provider.RUNWARE, "disconnect")


def _is_dry(connection: ServerConnection) -> bool:
    request = connection.request
    query = parse_qs(urlsplit(request.path).query) if request is not None else {}
    return query.get("dryRun") == ["1"]


class _Visit:
    """One socket from its handshake to its end."""

    def __init__(
        self,
        common: Common,
        desk: Desk,
        sessions: Sessions,
        connection: ServerConnection,
        *,
        dry: bool,
    ) -> None:
        self._common = common
        self._desk = desk
        self._sessions = sessions
        self._connection = connection
        self._dry = dry
        self._session: Session | None = None

    async def run(self) -> None:
        """Read frames until the client leaves or falls silent for too long."""
        while True:
            try:
                async with asyncio.timeout(self._common.options.times.idle_close_s):
                    text = await self._connection.recv(decode=True)
            except TimeoutError:
                await self._connection.close(1000, "idle")
                return
            await self._hear(text)

    def leave(self) -> None:
        if self._session is not None:
            self._session.detach(self._connection)

    async def _hear(self, text: str) -> None:
        try:
            tasks = _read_frame(text, most=self._common.options.limits.tasks_per_message)
        except Refusal as refusal:
            await self._send(failure(error_item(refusal, task_uuid=None)))
            return
        for task in tasks:
            self._common.journal.note(
                Provider.RUNWARE,
                str(task.get("taskType")),
                task_id=errands.task_uuid_of(task) or "",
            )
            await self._handle(task)

    async def _handle(self, task: TaskObject) -> None:
        kind = task.get("taskType")
        if kind == "authentication":
            await self._authenticate(task)
        elif self._session is None:
            refusal = Refusal("missingAuthentication", "Authenticate first.")
            await self._send(errands.refused(task, refusal).content)
        elif kind == "ping":
            await self._pong(task, self._session.account)
        elif errands.is_removal(task):
            self._common.chores.start(self._remove(task, self._session))
        else:
            self._common.chores.start(self._run_errand(task, self._session))

    async def _authenticate(self, task: TaskObject) -> None:
        unknown = set(task) - _AUTHENTICATION_FIELDS
        account = open_account(task.get("apiKey"))
        faults = self._draw(Stage.AUTHENTICATION, account)
        if Kind.AUTH_SILENT in faults:
            return
        if unknown:
            refusal = Refusal(
                "unknownParameter", "Unknown parameter.", parameter=", ".join(sorted(unknown))
            )
            item = error_item(refusal, task_uuid="N/A", task_type="authentication")
            await self._send(failure(item))
        elif account is None:
            await self._send(bad_key_of_old() if Kind.AUTH_LEGACY in faults else bad_key())
        else:
            await self._welcome(account, resumed=task.get("connectionSessionUUID"))

    async def _welcome(self, account: Account, *, resumed: object) -> None:
        session = self._session or self._sessions.open(account, resumed=resumed)
        self._session = session
        await self._send(
            success({"taskType": "authentication", "connectionSessionUUID": session.uuid})
        )
        await session.attach(self._connection)
        await session.redeliver()

    async def _pong(self, task: TaskObject, account: Account) -> None:
        if task.get("ping") is not True:
            refusal = Refusal("invalidPing", "'ping' must be true.", parameter="ping")
            await self._send(errands.refused(task, refusal).content)
        elif Kind.NO_PONG not in self._draw(Stage.PING, account):
            await self._send(success({"taskType": "ping", "pong": True}))

    async def _remove(self, task: TaskObject, session: Session) -> None:
        """A removal from its arrival to its result, on whichever socket the session then has."""
        account = session.account
        faults = self._desk.faults_of(task, account=account)
        try:
            taken = await self._desk.accept(task, account=account, faults=faults, dry=self._dry)
        except Unaccepted:
            session.drop()
        except Refusal as refusal:
            await session.deliver(_text(errands.refused(task, refusal).content))
        else:
            await self._acknowledge(taken, session)
            if not taken.wish.is_async:
                await taken.done.wait()
                await _deliver(errands.outcome(taken, polled=False), session)

    async def _acknowledge(self, task: Task, session: Session) -> None:
        if task.faults.take(Kind.DROP_BEFORE_ACK):
            session.drop()
            return
        if task.wish.is_async and Kind.SILENT not in task.faults:
            await session.deliver(_text(errands.acknowledged(task).content))
        if task.faults.take(Kind.DROP_AFTER_ACK):
            session.drop()

    async def _run_errand(self, task: TaskObject, session: Session) -> None:
        answer = await errands.run(task, desk=self._desk, account=session.account)
        await _deliver(answer, session)

    async def _send(self, content: Item) -> None:
        await self._connection.send(_text(content))

    def _draw(self, stage: Stage, account: Account | None) -> TaskFaults:
        return self._common.faults.draw(
            None,
            provider=Provider.RUNWARE,
            stage=stage,
            marks=account.marks if account else (),
        )


async def _deliver(answer: Answer, session: Session) -> None:
    """An answer on its way out, with what its task's faults do to it there."""
    if answer.task is None:
        await session.deliver(_text(answer.content))
        return
    faults = answer.task.faults
    if Kind.SILENT in faults:
        return
    if faults.take(Kind.DROP_BEFORE_RESULT):
        session.drop()
    if answer.item is None:
        await session.deliver(_text(answer.content))
        return
    frame = result_frame(answer.item, faults=faults)
    await session.deliver(frame)
    if Kind.DUPLICATE_RESULT in faults:
        await session.deliver(frame)


def _read_frame(text: str, *, most: int) -> list[TaskObject]:
    try:
        tasks = json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal("invalidJSON", "The message is not JSON.") from None
    if not isinstance(tasks, list) or not all(isinstance(each, dict) for each in tasks):
        raise Refusal("invalidPayload", "The message must be an array of task objects.")
    if not 1 <= len(tasks) <= most:
        raise Refusal("arrayLength", f"The array must hold 1 to {most} tasks.", max=most)
    return tasks


def _text(content: Item) -> str:
    return json.dumps(content)
