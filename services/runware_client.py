"""Runware over one shared WebSocket: tasks out, results in, nothing sent twice under another id.

A task has one id for its whole life. Whatever happens to the socket, the same id is sent again and
"conflict" means "I have it": so a dropped connection can delay a result but not double a charge.
The socket is opened at the first task, and one task of ours reads from it.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, WebSocketException

from models.errors import HOPELESS, FailureCode, RemoverError
from services import runware_protocol as protocol
from services.runware_protocol import Accepted, Authenticated, Done, Refused, Reply
from utils.clock import Deadline

_log = logging.getLogger(__name__)

_MAX_FRAME_BYTES = 32 * 1024 * 1024
_UNSENT_ATTEMPTS = 3
_UNROUTED_ERRORS = 3
_MOST_DOUBLED = 10
_MAX_SENDS = 3
_CLOSE_S = 1
_CONNECTION_ERRORS = (OSError, WebSocketException, InvalidHandshake, TimeoutError)


@dataclass(frozen=True, slots=True)
class Pace:
    """Every wait of the conversation, in seconds; the first three are not scaled."""

    connect_s: float = 10
    authenticate_s: float = 15
    straggle_s: float = 600
    ping_s: float = 25
    acknowledge_s: float = 15
    poll_first_s: float = 1.0
    poll_next_s: float = 0.5
    poll_longest_s: float = 3.0
    reconnect_first_s: float = 1.0
    reconnect_longest_s: float = 15

    def scaled(self, factor: float) -> "Pace":
        """The same conversation, faster or slower."""
        scaled = [each.name for each in fields(self)][3:]
        return replace(self, **{name: getattr(self, name) * factor for name in scaled})


@dataclass(eq=False, slots=True)
class _Task:
    """One removal on its way: its frame, and what is known of it."""

    id: str
    frame: str
    done: asyncio.Future[Done]
    acknowledged: asyncio.Event = field(default_factory=asyncio.Event)
    # whose it is: what the socket, which is everybody's, brings about it is logged under that
    context: Context = field(default_factory=copy_context)
    sends: int = 0
    # errors that named no task and came right after this one was spoken of
    suspicions: int = 0


class RunwareClient:
    """One socket for the whole process.

    `settle(task_id, cost)` is told what a task cost, also when its result comes after everybody has
    stopped waiting; a failed task costs nothing.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str,
        settle: Callable[[str, Decimal | None], None],
        pace: Pace | None = None,
    ) -> None:
        self._url = url
        self._api_key = api_key
        self._tell_cost = settle
        self._pace = pace or Pace()
        self._tasks: dict[str, _Task] = {}
        self._session: str | None = None
        # only while the connection is authenticated
        self._socket: ClientConnection | None = None
        self._keeper: asyncio.Task[None] | None = None
        # connections in a row that were refused without a word about the key
        self._unwelcome = 0
        # the task of the last frame sent
        self._spoken_of: _Task | None = None
        # connections in a row that failed before they were authenticated
        self._failures = 0
        self._pollers: set[asyncio.Task[None]] = set()

    async def remove(self, image: str, *, air: str, task_id: str, deadline: Deadline) -> Done:
        """The result of removing the background of `image` (a data URI) with model `air`.

        Raises RemoverError; `provider_outcome_unknown` when the task left and nobody answered.
        """
        future: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        task = _Task(task_id, protocol.removal(task_id, air=air, image=image), future)
        self._tasks[task.id] = task
        self._start(task)
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                return await asyncio.shield(future)
        except TimeoutError:
            raise _late(task) from None
        finally:
            self._withdraw_unsent(task)

    async def close(self) -> None:
        """Stop waiting for anything and hang up."""
        running = [each for each in (self._keeper, *self._pollers) if each is not None]
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for task in self._tasks.values():
            task.done.cancel()

    def _start(self, task: _Task) -> None:
        """See that a socket is kept and that the task is followed until it is done or given up."""
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep_connected(), context=Context())
        poller = asyncio.create_task(self._follow(task))
        self._pollers.add(poller)
        poller.add_done_callback(self._pollers.discard)

    async def _follow(self, task: _Task) -> None:
        """Send the task until it is acknowledged, then ask for its result; also past our deadline.

        A straggler is followed on, to learn whether it was charged, but not for ever.
        """
        try:
            async with asyncio.timeout(self._pace.straggle_s):
                await self._get_acknowledged(task)
                await self._ask_until_done(task)
        except TimeoutError:
            self._finish(task.id, _late(task))
        finally:
            self._tasks.pop(task.id, None)
            if not task.done.done():
                task.done.cancel()

    async def _get_acknowledged(self, task: _Task) -> None:
        while not task.acknowledged.is_set() and not task.done.done():
            if task.sends < _MAX_SENDS - 1:  # the last is kept for a connection that lives
                await self._send_task(task)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.acknowledge_s):
                    await task.acknowledged.wait()

    async def _ask_until_done(self, task: _Task) -> None:
        pauses = self._pauses()
        pause = next(pauses)
        while not (await asyncio.wait({task.done}, timeout=pause))[0]:
            await self._send(protocol.poll(task.id), about=task)
            pause = next(pauses)

    def _pauses(self) -> Iterator[float]:
        """Seconds between questions: one to begin with, then quick, then ever slower."""
        yield self._pace.poll_first_s
        pause = self._pace.poll_next_s
        while True:
            yield pause
            pause = min(pause * 1.5, self._pace.poll_longest_s)

    async def _send_task(self, task: _Task) -> None:
        if self._socket is not None and task.sends < _MAX_SENDS:
            task.sends += 1
            await self._send(task.frame, about=task)

    async def _send(self, frame: str, *, about: _Task) -> None:
        """Send if there is a socket; a failure here is the reader's to notice."""
        if self._socket is not None:
            self._spoken_of = about
            with contextlib.suppress(*_CONNECTION_ERRORS):
                await self._socket.send(frame)

    async def _keep_connected(self) -> None:
        """Hold a connection while there are tasks; each new one resumes the session."""
        self._failures = 0
        while self._tasks:
            try:
                await self._converse()
            except RemoverError as refusal:
                self._fail_all(refusal)
                return
            except _CONNECTION_ERRORS as error:
                self._failures += 1
                _log.info("runware_connection_failed", extra={"kind": type(error).__name__})
            if self._failures >= _UNSENT_ATTEMPTS:
                self._fail_unsent()
            if self._tasks:
                await asyncio.sleep(self._reconnect_pause_s())

    def _reconnect_pause_s(self) -> float:
        doubled: int = 2 ** min(max(self._failures - 1, 0), _MOST_DOUBLED)
        return min(self._pace.reconnect_first_s * doubled, self._pace.reconnect_longest_s)

    async def _converse(self) -> None:
        """One connection, from handshake to its end."""
        connection = connect(
            self._url,
            max_size=_MAX_FRAME_BYTES,
            open_timeout=self._pace.connect_s,
            close_timeout=_CLOSE_S,
            ping_interval=None,  # the protocol has its own
            proxy=None,
            compression=None,  # base64 of a PNG does not shrink, and trying takes the event loop
        )
        async with connection as socket:
            await self._authenticate(socket)
            self._failures = 0
            self._socket = socket
            speaker = asyncio.create_task(self._speak(socket))
            try:
                await self._read(socket)
            finally:
                self._socket = None
                speaker.cancel()
                await asyncio.gather(speaker, return_exceptions=True)
                await _hang_up(socket)

    async def _authenticate(self, socket: ClientConnection) -> None:
        """Raises RemoverError where the key is refused; what may pass ends this connection only."""
        await socket.send(protocol.authentication(self._api_key, self._session))
        async with asyncio.timeout(self._pace.authenticate_s):
            while True:
                for reply in protocol.read_frame(await socket.recv()):
                    if isinstance(reply, Authenticated):
                        self._session = reply.session
                        self._unwelcome = 0
                        return
                    if isinstance(reply, Refused) and reply.task_id is None:
                        self._session = None  # it may be the session that is refused
                        self._take_unwelcome(reply)
                        raise ConnectionError
                    self._take(reply)

    async def _resend(self) -> None:
        """What was on its way goes out again under its own id, the least suspected first.

        One after another: an error that names no task is then about the last one sent.
        """
        for task in sorted(self._tasks.values(), key=lambda each: each.suspicions):
            if not task.acknowledged.is_set():
                await self._send_task(task)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pace.poll_first_s):
                        await task.acknowledged.wait()

    async def _read(self, socket: ClientConnection) -> None:
        """Until the connection ends, falls silent, or says something of no task in particular."""
        silence_s = 2 * self._pace.ping_s + self._pace.acknowledge_s
        while True:
            async with asyncio.timeout(silence_s):
                frame = await socket.recv()
            for reply in protocol.read_frame(frame):
                if isinstance(reply, Refused) and reply.task_id is None:
                    self._take_unrouted(reply)
                    return
                self._take(reply)

    async def _speak(self, socket: ClientConnection) -> None:
        """Apart from the reader: a peer that takes nothing in must not keep it from noticing."""
        await self._resend()
        while True:
            await asyncio.sleep(self._pace.ping_s)
            await socket.send(protocol.ping())

    def _take(self, reply: Reply) -> None:
        match reply:
            case Accepted(task_id) if task_id in self._tasks:
                task = self._tasks[task_id]
                task.acknowledged.set()
                task.frame = ""  # megabytes that are not needed again
            case Done(task_id, _, cost):
                self._settle(task_id, cost)
                self._finish(task_id, reply)
            case Refused(str(task_id)):
                self._take_refusal(task_id, _error(reply))
            case _:
                return

    def _settle(self, task_id: str, cost: Decimal | None) -> None:
        task = self._tasks.get(task_id)
        context = Context() if task is None else task.context
        context.run(self._tell_cost, task_id, cost)

    def _take_refusal(self, task_id: str, error: RemoverError) -> None:
        """The task's end; but once it is taken, "too often" can only mean our questions."""
        task = self._tasks.get(task_id)
        taken = task is not None and task.acknowledged.is_set()
        if taken and error.code is FailureCode.PROVIDER_RATE_LIMITED:
            return
        self._settle(task_id, Decimal(0))
        self._finish(task_id, error)

    def _take_unwelcome(self, refusal: Refused) -> None:
        """An error instead of a welcome: a hopeless one, or the third in a row, ends every task."""
        error = _error(refusal)
        self._unwelcome += 1
        if error.code in HOPELESS or self._unwelcome >= _UNROUTED_ERRORS:
            self._unwelcome = 0
            raise error

    def _take_unrouted(self, refusal: Refused) -> None:
        """An error of no task in particular: a new connection, and a suspicion.

        It is most likely about the task last spoken of. One that is suspected again and again is
        given up, its outcome unknown; the others go on. A hopeless error ends them all.
        """
        error, suspect = _error(refusal), self._spoken_of
        context = Context() if suspect is None else suspect.context
        context.run(_log.warning, "runware_unrouted_error", extra={"code": refusal.code})
        if error.code in HOPELESS:
            raise error
        if suspect is None:
            return
        suspect.suspicions += 1
        never_taken = suspect.sends >= _MAX_SENDS and not suspect.acknowledged.is_set()
        if never_taken or suspect.suspicions >= _UNROUTED_ERRORS:
            self._finish(suspect.id, _outcome_unknown())

    def _finish(self, task_id: str, end: Done | RemoverError) -> None:
        task = self._tasks.get(task_id)
        if task is None or task.done.done():
            return
        task.acknowledged.set()
        if isinstance(end, Done):
            task.done.set_result(end)
        else:
            task.done.set_exception(end)
            task.done.exception()  # a straggler's is nobody's any more

    def _withdraw_unsent(self, task: _Task) -> None:
        """Nobody waits for it any more: what has not left must not leave, and costs nothing."""
        if task.sends:
            return
        self._settle(task.id, Decimal(0))
        self._tasks.pop(task.id, None)
        task.done.cancel()
        task.acknowledged.set()

    def _fail_all(self, error: RemoverError) -> None:
        """What has left may have been charged, unless it was the key that was refused."""
        for task in list(self._tasks.values()):
            unsure = task.sends and error.code not in HOPELESS
            self._finish(task.id, _outcome_unknown() if unsure else error)

    def _fail_unsent(self) -> None:
        for task in list(self._tasks.values()):
            if not task.sends:
                self._finish(task.id, _unreachable())


async def _hang_up(socket: ClientConnection) -> None:
    """Close, or break off where the other end does not even read any more."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * _CLOSE_S):
            await socket.close()
    socket.transport.abort()


def new_task_id() -> str:
    return str(uuid.uuid4())


def _error(refusal: Refused) -> RemoverError:
    code, retryable = protocol.failure_of(refusal.code)
    return RemoverError(code, f"Runware: {refusal.code}.", retryable=retryable)


def _unreachable() -> RemoverError:
    return RemoverError(
        FailureCode.PROVIDER_UNREACHABLE, "Runware could not be reached.", retryable=True
    )


def _outcome_unknown() -> RemoverError:
    return RemoverError(
        FailureCode.PROVIDER_OUTCOME_UNKNOWN,
        "The task was sent to Runware and not answered; it is not sent again, since that could "
        "charge twice.",
    )


def _late(task: _Task) -> RemoverError:
    if not task.sends:
        return _unreachable()
    if not task.acknowledged.is_set():
        return _outcome_unknown()
    return RemoverError(
        FailureCode.PROVIDER_TIMEOUT, "Runware did not finish in time.", retryable=True
    )
