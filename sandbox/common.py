"""What both look-alikes share: options, clock, faults, bill, journal, studio, background work."""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass

import httpx

from sandbox.bill import Bill
from sandbox.cutting import Studio
from sandbox.faults import FaultBoard, Provider
from sandbox.options import Clock, Options
from sandbox.pictures import BadPicture

_log = logging.getLogger(__name__)
_CALLS_KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One thing a client did: `operation` is a task type, a route, `connect` or `disconnect`."""

    provider: Provider
    operation: str
    task_id: str = ""


class Journal:
    """The last calls, oldest first: what clients sent, for those who judge them."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque(maxlen=_CALLS_KEPT)
        self._noted = asyncio.Event()

    def note(self, provider: Provider, operation: str, *, task_id: str = "") -> None:
        self._calls.append(Call(provider=provider, operation=operation, task_id=task_id))
        self._noted.set()

    async def wait_for(self, operation: str, *, count: int = 1) -> None:
        """Returns when the operation has been seen that often."""
        while sum(1 for _ in self.calls(operation)) < count:
            self._noted.clear()
            await self._noted.wait()

    def calls(self, operation: str | None = None) -> Iterator[Call]:
        return (each for each in self._calls if operation in (None, each.operation))


class Chores:
    """Background tasks: held while they run, cancelled at the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("sandbox_chore_failed", exc_info=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    options: Options
    clock: Clock
    faults: FaultBoard
    bill: Bill
    journal: Journal
    studio: Studio
    chores: Chores
    client: httpx.AsyncClient

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        """A picture by address; raises BadPicture."""
        try:
            async with (
                asyncio.timeout(self.options.times.fetch_s),
                self.client.stream("GET", url) as response,
            ):
                response.raise_for_status()
                return await _bounded(response, max_bytes=max_bytes)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise BadPicture("the address does not deliver a picture") from error


async def _bounded(response: httpx.Response, *, max_bytes: int) -> bytes:
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > max_bytes:
            raise BadPicture(f"the picture has more than {max_bytes} bytes")
    return bytes(content)
