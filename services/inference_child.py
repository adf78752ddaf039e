"""The process that runs networks: reads jobs from its parent's socket, answers, can be killed.

A message is a line of JSON; tensors pass through a file without a name that both have open. It
holds nothing that must not be lost: whoever wants it gone sends SIGKILL. It is started as
`python -m services.inference_child SOCKET MEMORY PARENT_PID KILL_FIRST`.
"""

import ctypes
import json
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from models.inference import Device, Engine, Precision, RunPlan
from services.inference import GraphRefused, Runner, Tensor, is_out_of_memory, open_runner
from utils import heap

_PR_SET_PDEATHSIG = 1
_MESSAGE_CHARACTERS = 2000

Message = dict[str, Any]


def main(arguments: list[str]) -> None:
    channel_fd, memory_fd, parent_pid, kill_first = map(int, arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(parent_pid)
    if kill_first:
        _be_killed_first()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # gigabytes, on a disk of five
    heap.tame()
    channel = socket.socket(fileno=channel_fd)
    Worker(channel, memory_fd).serve()


class Worker:
    """Does one job after another in their order; keeps networks until told to drop them."""

    def __init__(self, channel: socket.socket, memory_fd: int) -> None:
        self._channel = channel
        self._memory_fd = memory_fd
        self._loaded: dict[RunPlan, Runner] = {}

    def serve(self) -> None:
        for message in _messages(self._channel):
            for plan in map(plan_from_wire, message["drop"]):
                self._drop(plan)
            if "run" in message:
                self._answer(plan_from_wire(message["run"]), tuple(message["shape"]))

    def _answer(self, plan: RunPlan, shape: tuple[int, ...]) -> None:
        try:
            runner = self._runner(plan)
            result = runner.run(read_tensor(self._memory_fd, shape))
            write_tensor(self._memory_fd, result)
        except GraphRefused as error:
            self._say("refused", message=error.message)
        except Exception as error:  # noqa: BLE001  # whatever it is, the parent must hear of it
            kind = "memory" if is_out_of_memory(error) else "error"
            words = f"{type(error).__name__}: {error}"[:_MESSAGE_CHARACTERS]
            self._say(kind, message=words)
        else:
            self._say("done", shape=result.shape)

    def _runner(self, plan: RunPlan) -> Runner:
        if plan not in self._loaded:
            start_s = time.monotonic()
            runner = open_runner(plan)
            runner.load()
            heap.trim()
            self._loaded[plan] = runner
            self._say("loaded", seconds=time.monotonic() - start_s)
        self._say("running")
        return self._loaded[plan]

    def _drop(self, plan: RunPlan) -> None:
        runner = self._loaded.pop(plan, None)
        if runner is not None:
            runner.unload()

    def _say(self, event: str, **fields: object) -> None:
        with suppress(OSError):  # the parent is gone, and we go with it
            self._channel.sendall(json.dumps({"event": event, **fields}).encode() + b"\n")


def plan_to_wire(plan: RunPlan) -> Message:
    cache_dir = None if plan.cache_dir is None else str(plan.cache_dir)
    return {**asdict(plan), "path": str(plan.path), "cache_dir": cache_dir}


def plan_from_wire(fields: Message) -> RunPlan:
    changed = {
        "path": Path(fields["path"]),
        "engine": Engine(fields["engine"]),
        "precision": Precision(fields["precision"]),
        "device": Device(fields["device"]),
        "cache_dir": None if fields["cache_dir"] is None else Path(fields["cache_dir"]),
    }
    return RunPlan(**{**fields, **changed})


def write_tensor(memory_fd: int, tensor: Tensor) -> None:
    """Make `tensor` the whole content of that file."""
    content = np.ascontiguousarray(tensor, np.float32).data.cast("B")
    os.ftruncate(memory_fd, content.nbytes)
    written = 0
    while written < content.nbytes:
        written += os.pwrite(memory_fd, content[written:], written)


def read_tensor(memory_fd: int, shape: tuple[int, ...]) -> Tensor:
    """The tensor of that shape that the file holds, copied; the file is emptied."""
    tensor = np.empty(shape, np.float32)
    content = tensor.data.cast("B")
    read = 0
    while read < content.nbytes:
        count = os.preadv(memory_fd, [content[read:]], read)
        if count == 0:
            raise EOFError(f"a tensor of {content.nbytes} bytes ended after {read}")
        read += count
    os.ftruncate(memory_fd, 0)
    return tensor


def _messages(channel: socket.socket) -> Iterator[Message]:
    """The parent's messages; its end, noticed by a thread of its own, is ours at once."""
    received: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def listen() -> None:
        with suppress(OSError), channel.makefile("rb") as lines:
            for line in lines:
                received.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield received.get()


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill us when the parent's thread that started us ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:
            os._exit(0)


def _be_killed_first() -> None:
    """Where memory runs out, the kernel takes this process before the service (Linux)."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


if __name__ == "__main__":
    main(sys.argv[1:])
