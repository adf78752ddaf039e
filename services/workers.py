"""The pools for work on pixels: one for shots and one for the strips of enlargements.

Each is as wide as the CPU limit. With one for both, a shot's few milliseconds would wait behind
every strip that is queued already; with two, the system shares the cores out among them.

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
    """`pixel_threads` pictures are worked on at once, and as many strips of enlargements.

    `abandoned` are the jobs that still run though whoever wanted them has been cancelled: their
    memory is in use until they end.
    """

    def __init__(self, *, pixel_threads: int) -> None:
        self.width = pixel_threads
        self.abandoned: set[Future[Any]] = set()
        self._pixels = ThreadPoolExecutor(pixel_threads, thread_name_prefix="pixels")
        self._strips = ThreadPoolExecutor(pixel_threads, thread_name_prefix="strips")

    async def pixels(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:  # noqa: ANN401  # passed through
        return await self._run(self._pixels, partial(work, *args, **kwargs))

    async def strips(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:  # noqa: ANN401  # passed through
        """The same for a part of an enlargement."""
        return await self._run(self._strips, partial(work, *args, **kwargs))

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        job = pool.submit(copy_context().run, work)
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
        for pool in (self._pixels, self._strips):
            pool.shutdown(wait=False, cancel_futures=True)
