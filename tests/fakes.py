"""Removers that behave as told: they satisfy the Protocol and patch nothing of ours."""

import asyncio
import threading

import numpy as np

from models.images import Cutout, SourceImage
from models.schemas import ModelId, ModelStatus
from services.remover import READY, Availability, RemovalOptions
from utils.clock import Deadline


class FakeRemover:
    """Cuts nothing away; raises `error` if given; when `held`, waits for `release()` first."""

    def __init__(
        self,
        name: ModelId,
        *,
        error: Exception | None = None,
        held: bool = False,
        state: Availability = READY,
    ) -> None:
        self.name = name
        self.asked = threading.Event()
        self._error = error
        self._state = state
        self._held = held
        self._released = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def availability(self) -> Availability:
        return self._state

    def release(self) -> None:
        """Let it go on; may be called from another thread than the server's."""
        assert self._loop is not None, "it was never asked"
        self._loop.call_soon_threadsafe(self._released.set)

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        self._loop = asyncio.get_running_loop()
        self.asked.set()
        if self._held:
            await self._released.wait()
        if self._error is not None:
            raise self._error
        return Cutout(rgb=image.rgb, alpha=np.full((image.height, image.width), 255, np.uint8))


def unavailable(name: ModelId, reason: str = "it is away") -> FakeRemover:
    return FakeRemover(name, state=Availability(ModelStatus.UNAVAILABLE, reason))
