"""The networks' own process, from the service's side: started when needed, killed when in doubt.

What a network takes is beyond our control: minutes, gigabytes, a crash in native code. None of it
may reach the service, so it happens in a process of its own (services/inference_child.py), one job
at a time, the shortest first. Cancelling a job, or running out of time or memory, ends that
process; the next job starts another. Nothing is lost with it but a loaded network. A network that
ends its process every time is left alone for a while, twice as long each time.
"""

import asyncio
import json
import logging
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Self

from models.errors import FailureCode, RemoverError
from models.inference import RunPlan
from services.inference import GraphRefused, Tensor, estimated_bytes, resting_bytes
from services.inference_child import Message, plan_to_wire, read_tensor, write_tensor
from utils.spans import spanned, waited
from utils.turns import Turns

_log = logging.getLogger(__name__)

_ROOT = Path(__file__).parent.parent
_MAX_OVERTAKES = 4
_EXIT_S = 10
_KILLED = -9
_CRASHES_IN_A_ROW = 5
_LONGEST_REST_S = 600
_TOO_MANY_DOUBLINGS = 32
_CRASHED = {"ended", "garbled"}
_EXPECTED: dict[object, dict[str, type | tuple[type, ...]]] = {
    "loaded": {"seconds": (int, float)},
    "running": {},
    "done": {"shape": list},
    "refused": {"message": str},
    "memory": {"message": str},
    "error": {"message": str},
}
_LONGEST_SAID = 4096
_MOST_SAID = 100


class InferenceCrashed(RemoverError):
    """The process ended in the middle of a job, or the network failed in it."""


class InferenceTimedOut(InferenceCrashed):
    """The job took longer than it was given; its process was ended."""


@dataclass(frozen=True, slots=True)
class InferenceStatus:
    """The process at this moment; `pid` is None while there is none.

    `loaded` are the networks it holds, `running` says that a network is being run (not loaded),
    `waiting` counts the jobs whose turn has not come, `load_s` says how long each network took to
    load when it last did. `starts` counts processes, `crashes` those that ended within a job though
    nobody had ended them; `failures_in_a_row` the jobs since the last answer that ended in a crash,
    a time-out or want of memory.
    """

    pid: int | None
    loaded: tuple[Path, ...]
    running: bool
    waiting: int
    load_s: dict[str, float]
    failures_in_a_row: int = 0
    starts: int = 0
    crashes: int = 0


@dataclass(slots=True)
class _Crashes:
    """How often a network ended its process since it last answered, and until when it rests."""

    in_a_row: int = 0
    rests_until_s: float = 0.0

    def add(self, *, rest_s: float) -> None:
        self.in_a_row += 1
        doublings = min(self.in_a_row - _CRASHES_IN_A_ROW, _TOO_MANY_DOUBLINGS)
        if doublings >= 0:
            self.rests_until_s = _now_s() + min(_LONGEST_REST_S, rest_s * 2**doublings)


class InferenceProcess:
    """Runs networks in a process of its own. Belongs to one event loop; close it in the end.

    Networks stay loaded for `idle_ttl_s` after their last use; with the last of them the process
    goes. A second network stays beside the first only where the peak of the one that runs and
    what the other holds at rest fit into `budget_bytes` (None: never). `kill_first` offers the
    process to the kernel's OOM killer. A network that has ended its process five times in a row
    rests for `rest_s`, after the sixth time twice as long, and so on to ten minutes at most: else
    one bad file would have the service load it and crash for ever.
    """

    def __init__(
        self,
        *,
        idle_ttl_s: float,
        budget_bytes: int | None,
        kill_first: bool = True,
        rest_s: float = 10,
    ) -> None:
        self._idle_ttl_s = idle_ttl_s
        self._budget_bytes = budget_bytes
        self._kill_first = kill_first
        self._rest_s = rest_s
        self._crashes: dict[RunPlan, _Crashes] = {}
        self._turns = Turns(max_overtakes=_MAX_OVERTAKES)
        self._memory = _anonymous_file()
        self._child: _Child | None = None
        self._last_used: dict[RunPlan, float] = {}
        self._running = False
        self._load_s: dict[str, float] = {}
        self._failures_in_a_row = 0
        self._sweeping: asyncio.TimerHandle | None = None
        self._starts = 0
        self._ended_in_jobs = 0
        self._closed = False

    async def run(
        self, plan: RunPlan, tensor: Tensor, *, timeout_s: float, expected_s: float
    ) -> Tensor:
        """The chosen output of `plan`'s network for a picture of (1, 3, height, width).

        `timeout_s` counts from its turn and covers loading; `expected_s` decides when that is.

        Raises:
            GraphRefused: the engine cannot run this file.
            InferenceCrashed: the process ended or the network failed; `code` says whether memory
                was the reason. At once where the network rests.
            InferenceTimedOut: it was ended after `timeout_s`.
        """
        plan = _absolute(plan)
        since_s = time.perf_counter()
        async with self._turns.turn(expected_s):
            waited("inference_wait", since_s)
            self._stop_sweeping()
            try:
                self._refuse_while_it_rests(plan)
                async with asyncio.timeout(timeout_s):
                    result = await self._job(plan, tensor)
            except TimeoutError as error:
                self._failures_in_a_row += 1
                self._note_crash(plan)
                words = f"The network took longer than {timeout_s:g} s."
                raise InferenceTimedOut(FailureCode.MODEL_CRASHED, words, retryable=True) from error
            else:
                self._crashes.pop(plan, None)
                return result
            finally:
                self._running = False
                if plan in self._last_used:
                    self._last_used[plan] = _now_s()
                self._plan_sweep()

    def status(self) -> InferenceStatus:
        alive = self._child is not None and self._child.alive
        return InferenceStatus(
            pid=self._child.pid if self._child and alive else None,
            loaded=tuple(plan.path for plan in self._last_used) if alive else (),
            running=self._running,
            waiting=self._turns.waiting,
            load_s=dict(self._load_s),
            failures_in_a_row=self._failures_in_a_row,
            starts=self._starts,
            crashes=self._ended_in_jobs,
        )

    async def close(self) -> None:
        """End the process and refuse what waits; returns when nothing of it is left."""
        self._closed = True
        self._stop_sweeping()
        await self._end_child()
        async with self._turns.turn(0):  # whoever still had a turn has met the closed door
            await self._end_child()
            self._memory.close()

    @spanned("inference")
    async def _job(self, plan: RunPlan, tensor: Tensor) -> Tensor:
        """One job from the child's start to its answer; anything but an answer ends the child."""
        child = await self._living_child()
        child.context = copy_context()
        answered = False
        try:
            write_tensor(self._memory.fileno(), tensor)
            drop = self._make_room(plan)
            child.tell(_message(drop, run=plan_to_wire(plan), shape=tensor.shape))
            answer = await self._answer(child, plan)
            if answer["event"] in _CRASHED and not self._closed:
                self._note_crash(plan)
            result = self._result(answer)
            answered = True
            self._failures_in_a_row = 0
        except GraphRefused:
            answered = True
            raise
        except InferenceCrashed as error:
            self._failures_in_a_row += error.code is not FailureCode.CANCELLED
            raise
        finally:
            if not answered:
                child.kill()
        return result

    def _refuse_while_it_rests(self, plan: RunPlan) -> None:
        crashes = self._crashes.get(plan)
        if crashes is None or (left_s := crashes.rests_until_s - _now_s()) <= 0:
            return
        raise InferenceCrashed(
            FailureCode.MODEL_CRASHED,
            f"The network ended its process {crashes.in_a_row} times in a row; it is tried again "
            f"in {math.ceil(left_s)} s.",
            retryable=True,
        )

    def _note_crash(self, plan: RunPlan) -> None:
        crashes = self._crashes.setdefault(plan, _Crashes())
        crashes.add(rest_s=self._rest_s)
        if self._rest_s and crashes.in_a_row >= _CRASHES_IN_A_ROW:
            facts = {"path": str(plan.path), "crashes": crashes.in_a_row}
            _log.error("network_rests", extra=facts)

    async def _living_child(self) -> "_Child":
        """The child, a new one where there is none; the old one's memory is back by then."""
        self._refuse_when_closed()
        if self._child is not None and self._child.alive:
            return self._child
        await self._end_child()
        self._starts += 1
        self._child = await _Child.start(self._memory.fileno(), kill_first=self._kill_first)
        self._refuse_when_closed()
        return self._child

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise InferenceCrashed(FailureCode.CANCELLED, "The service is being stopped.")

    async def _end_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            await self._child.gone()
        self._last_used.clear()

    async def _answer(self, child: "_Child", plan: RunPlan) -> Message:
        """The message that ends the job; the ones before it say how far it is."""
        while True:
            message = await child.message()
            match message["event"]:
                case "loaded":
                    self._load_s[plan.path.stem] = round(message["seconds"], 2)
                    _log.info(
                        "model_loaded",
                        extra={"path": str(plan.path), "ms": round(message["seconds"] * 1000)},
                    )
                case "running":
                    self._last_used[plan] = _now_s()
                    self._running = True
                case _:
                    return message

    def _result(self, answer: Message) -> Tensor:
        match answer["event"]:
            case "done":
                return self._tensor(answer["shape"])
            case "refused":
                raise GraphRefused(answer["message"])
            case "memory":
                raise _out_of_memory(answer["message"])
            case "ended":
                raise self._ended(answer["returncode"])
            case "garbled":
                raise _garbled("said something that is no message")
            case _:
                raise InferenceCrashed(FailureCode.MODEL_CRASHED, answer["message"])

    def _tensor(self, shape: list[int]) -> Tensor:
        try:
            return read_tensor(self._memory.fileno(), tuple(shape))
        except (EOFError, TypeError, ValueError) as error:
            raise _garbled("left no tensor of the shape it told") from error

    def _ended(self, returncode: int) -> InferenceCrashed:
        if self._closed:
            return InferenceCrashed(FailureCode.CANCELLED, "The service is being stopped.")
        self._ended_in_jobs += 1
        if returncode == _KILLED:
            return _out_of_memory("its process was killed")
        _log.error("inference_process_ended", extra={"returncode": returncode})
        return InferenceCrashed(
            FailureCode.MODEL_CRASHED, f"The network's process ended with status {returncode}."
        )

    def _make_room(self, plan: RunPlan) -> list[RunPlan]:
        """What is to be unloaded before `plan` runs: the expired, then the longest unused."""
        others = sorted(
            (each for each in self._last_used if each != plan), key=self._last_used.__getitem__
        )
        drop = [each for each in others if self._is_expired(each)]
        stay = [each for each in others if each not in drop]
        while stay and not self._fit([plan, *stay]):
            drop.append(stay.pop(0))
        self._forget(drop)
        return drop

    def _fit(self, plans: list[RunPlan]) -> bool:
        """Whether the first may run while the others stay loaded."""
        if self._budget_bytes is None:
            return False
        try:
            held = estimated_bytes(plans[0]) + sum(map(resting_bytes, plans[1:]))
        except OSError:  # a file that is gone: the engine will say so better
            return False
        return held <= self._budget_bytes

    def _forget(self, plans: list[RunPlan]) -> None:
        for plan in plans:
            self._last_used.pop(plan, None)

    def _is_expired(self, plan: RunPlan) -> bool:
        return _now_s() - self._last_used[plan] >= self._idle_ttl_s

    def _plan_sweep(self) -> None:
        """Look again when the network unused for longest expires; a job restarts its time."""
        self._stop_sweeping()
        if self._closed or not self._last_used:
            return
        at_s = min(self._last_used.values()) + self._idle_ttl_s
        self._sweeping = asyncio.get_running_loop().call_at(at_s, self._sweep)

    def _stop_sweeping(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def _sweep(self) -> None:
        """Between jobs: unload what nobody used for long enough; with the last one, everything."""
        if self._turns.taken or self._child is None or not self._child.alive:
            return
        expired = [plan for plan in self._last_used if self._is_expired(plan)]
        self._forget(expired)
        if self._last_used:
            self._child.tell(_message(expired))
            self._plan_sweep()
        else:
            self._child.kill()


class _Child:
    """One process and the socket to it; it ends once and is not started again."""

    def __init__(self, process: subprocess.Popen[bytes], writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._writer = writer
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._listening: asyncio.Task[None] | None = None
        self.context = Context()
        """Of the job at hand or the last one: what the process says is logged as its request's."""
        self._overhearing: asyncio.Task[None] | None = None
        self._killed = False

    @classmethod
    async def start(cls, memory_fd: int, *, kill_first: bool) -> Self:
        """Started by the loop's own thread: Linux ends a child with the thread that started it."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = _spawn(theirs.fileno(), memory_fd, kill_first=kill_first)
        try:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            process.kill()
            process.wait()
            ours.close()
            raise
        child = cls(process, writer)
        child._listening = asyncio.create_task(child._listen(reader), context=Context())
        child._overhearing = asyncio.create_task(child._overhear(), context=Context())
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether jobs can be given to it."""
        return not self._killed and self._process.poll() is None

    def tell(self, message: Message) -> None:
        """Send it; where the child has ended, `message` says so soon enough."""
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def message(self) -> Message:
        """Its next message; the last one is "ended" with its return code."""
        return await self._messages.get()

    def kill(self) -> None:
        self._killed = True
        self._process.kill()

    async def gone(self) -> None:
        """Wait until the process has ended and the system has its memory back."""
        if self._listening is not None:
            await asyncio.shield(self._listening)
        if self._overhearing is not None:
            await asyncio.shield(self._overhearing)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            async for line in reader:
                if line.endswith(b"\n"):  # else it was killed in the middle of a word
                    self._messages.put_nowait(_message_in(line))
        except ValueError:  # also a line without end
            facts = {"pid": self.pid}
            _log.error("inference_process_garbled", extra=facts)  # its words say nothing
            self.kill()
            self._messages.put_nowait({"event": "garbled"})
        except OSError:
            pass
        returncode = await asyncio.to_thread(self._reap)
        self._messages.put_nowait({"event": "ended", "returncode": returncode})
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _overhear(self) -> None:
        """What libraries print becomes lines of our own log; beyond a few, it is read and dropped.

        A pipe that nobody reads would stop the process.
        """
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        pipe, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._process.stderr
        )
        try:
            left = _MOST_SAID
            while piece := await reader.read(_LONGEST_SAID):
                if left > 0 and (words := piece.decode(errors="replace").strip()):
                    left -= 1
                    told = {"pid": self.pid, "said": words}
                    self.context.run(_log.warning, "inference_process_said", extra=told)
        finally:
            pipe.close()

    def _reap(self) -> int:
        """Its return code; it has closed its socket, so it is ending, or else is made to."""
        try:
            return self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _spawn(channel_fd: int, memory_fd: int, *, kill_first: bool) -> subprocess.Popen[bytes]:
    """A fresh interpreter in a process group of its own: Ctrl-C is the service's to handle."""
    numbers = (channel_fd, memory_fd, os.getpid(), int(kill_first))
    return subprocess.Popen(  # noqa: S603  # our own module, four numbers
        [sys.executable, "-m", "services.inference_child", *map(str, numbers)],
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(channel_fd, memory_fd),
        process_group=0,
    )


def _absolute(plan: RunPlan) -> RunPlan:
    """The plan as the child, which works in another folder, can follow it."""
    cache_dir = plan.cache_dir and plan.cache_dir.absolute()
    return replace(plan, path=plan.path.absolute(), cache_dir=cache_dir)


def _message(drop: list[RunPlan], **run: object) -> Message:
    return {"drop": [plan_to_wire(plan) for plan in drop], **run}


def _garbled(how: str) -> InferenceCrashed:
    return InferenceCrashed(FailureCode.MODEL_CRASHED, f"The network's process {how}.")


def _message_in(line: bytes) -> Message:
    """Raises ValueError where it is none that the child's code sends."""
    message: Message = json.loads(line)
    expected = _EXPECTED.get(message.get("event")) if isinstance(message, dict) else None
    if expected is None or not all(isinstance(message.get(key), expected[key]) for key in expected):
        raise ValueError("no message")
    return message


def _out_of_memory(why: str) -> InferenceCrashed:
    return InferenceCrashed(
        FailureCode.INSUFFICIENT_MEMORY, f"The network ran out of memory: {why}.", retryable=True
    )


def _anonymous_file() -> IO[bytes]:
    """Memory that has no name and so cannot be left behind; a temporary file outside Linux."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("inference"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
