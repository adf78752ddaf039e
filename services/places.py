"""How many models of one shot may hold arrays of the picture's size at the same time.

What a shot takes would otherwise be five cut-outs, of which four wait for the encoder. A model that
waits for its provider or for its network holds nothing of that size and needs no place.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from models.schemas import ModelId


class Place:
    """One model's place: taken before work on pixels, left when nothing of it is kept any more.

    Both may be called again. One that no `Places` made is always free to take.
    """

    def __init__(self, free: asyncio.Semaphore | None = None) -> None:
        self._free = free
        self._taken = False

    async def take(self) -> None:
        if self._free is not None and not self._taken:
            await self._free.acquire()
            self._taken = True

    def leave(self) -> None:
        if self._free is not None and self._taken:
            self._taken = False
            self._free.release()


class Places:
    """The places of one shot; `landed` is to be told of each model that holds nothing any more."""

    def __init__(self, count: int, landed: Callable[[ModelId], None]) -> None:
        self._free = asyncio.Semaphore(count)
        self.landed = landed

    @contextmanager
    def one(self) -> Iterator[Place]:
        """A place, not taken yet, and left in the end."""
        place = Place(self._free)
        try:
            yield place
        finally:
            place.leave()
