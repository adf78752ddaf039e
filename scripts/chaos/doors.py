"""Doors between the service and its providers: pass, refuse, hang, reset, or talk garbage.

One event loop in a thread of its own carries them all, and the UDP port at which a resolver hangs.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from enum import StrEnum
from typing import Any, Self, TypeVar

T = TypeVar("T")

_BLOCK = 64 << 10
_RESET_AFTER_BYTES = 40
_GARBAGE = bytes(range(256)) * 4
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: closing sends a reset


class Mood(StrEnum):
    """What a door does with those who knock; a change ends the connections that there are."""

    PASS = "pass"  # noqa: S105  # nosec B105  # no password
    REFUSE = "refuse"
    HANG = "hang"
    RESET = "reset"
    GARBAGE = "garbage"


class Loop:
    """An event loop in a thread, as long as the block lasts."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(_end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)


class Door:
    """A port of 127.0.0.1 in front of another one."""

    def __init__(self, loop: Loop, target_port: int) -> None:
        self._loop = loop
        self._target_port = target_port
        self._mood = Mood.PASS
        self._listening: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any] | None] = set()
        self.port = 0
        loop.run(self._open())

    def be(self, mood: Mood) -> None:
        self._loop.run(self._become(mood))

    def drop(self) -> None:
        """End the connections that there are; new ones pass."""
        self.be(self._mood)

    def close(self) -> None:
        self._loop.run(self._shut())

    async def _open(self) -> None:
        self._listening = await asyncio.start_server(self._let_in, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for writer in tuple(self._writers):
            _reset(writer)

    async def _become(self, mood: Mood) -> None:
        self._mood = mood
        await self._shut()
        if mood is not Mood.REFUSE:
            await self._open()

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._tasks.add(asyncio.current_task())  # the loop itself keeps only a weak reference
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            self._writers.discard(writer)
            self._tasks.discard(asyncio.current_task())
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match self._mood:
            case Mood.HANG:
                while await reader.read(_BLOCK):
                    pass
            case Mood.GARBAGE:
                await reader.read(_BLOCK)
                writer.write(_GARBAGE)
                await writer.drain()
            case _:
                await self._forward(reader, writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            there = asyncio.create_task(_pump(reader, inner))
            sent = 0
            while piece := await inner_reader.read(_BLOCK):
                sent += len(piece)
                if self._mood is Mood.RESET and sent > _RESET_AFTER_BYTES:
                    writer.write(piece[: len(piece) // 2])
                    _reset(writer)
                    break
                writer.write(piece)
                await writer.drain()
            there.cancel()
        finally:
            inner.close()


async def _end_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(_BLOCK):
            writer.write(piece)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        link: socket.socket = writer.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
