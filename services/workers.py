"""The only pool for work on pixels: its width is the CPU limit.

A time-out does not stop a thread, so a semaphore would let stopped waits pile up running work;
a pool of fixed size cannot. Neural inference has a process of its own
(services/inference_process.py), which can be stopped.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Workers:
    """`pixel_threads` pictures are worked on at once.

    `abandoned` are the jobs that still run though whoever wanted them has been cancelled: their
    memory is in use until they end.
    """

    def __init__(self, *, pixel_threads: int) -> None:
        self.width = pixel_threads
        self.abandoned: set[Future[Any]] = set()
        self._pixels = ThreadPoolExecutor(pixel_threads, thread_name_prefix="pixels")

    async def pixels(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:  # noqa: ANN401  # passed through
        job = self._pixels.submit(copy_context().run, partial(work, *args, **kwargs))
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            if not job.done():  # one that had not begun is cancelled by now, and so done
                self.abandoned.add(job)
                job.add_done_callback(self.abandoned.discard)
            raise

    async def settle(self) -> None:
        """Wait until the jobs that are abandoned by now have ended."""
        await asyncio.gather(
            *map(asyncio.wrap_future, tuple(self.abandoned)), return_exceptions=True
        )

    def close(self) -> None:
        """Drop what waits; what runs cannot be stopped and ends by itself."""
        self._pixels.shutdown(wait=False, cancel_futures=True)
