"""The pools for work on pixels: one for shots and one for the strips of enlargements.

Each is as wide as the CPU limit. With one for both, a shot's few milliseconds would wait behind
every strip that is queued already; with two, the system shares the cores out among them.

A time-out does not stop a thread, so a semaphore would let stopped waits pile up running work;
a pool of fixed size cannot. Neural inference has a process of its own
(services/inference_process.py), which can be stopped.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from utils.spans import waited

T = TypeVar("T")


class Workers:
    """`pixel_threads` pictures are worked on at once, and as many strips of enlargements.

    `abandoned` are the jobs that still run though whoever wanted them has been cancelled: their
    memory is in use until they end.
    """

    def __init__(self, *, pixel_threads: int) -> None:
        self.width = pixel_threads
        self.abandoned: set[Future[Any]] = set()
        self._at_work: dict[str, set[Future[Any]]] = {"pixels": set(), "strips": set()}
        self._pixels = ThreadPoolExecutor(pixel_threads, thread_name_prefix="pixels")
        self._strips = ThreadPoolExecutor(pixel_threads, thread_name_prefix="strips")

    async def pixels(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:  # noqa: ANN401  # passed through
        return await self._run("pixels", self._pixels, partial(work, *args, **kwargs))

    async def strips(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:  # noqa: ANN401  # passed through
        """The same for a part of an enlargement."""
        return await self._run("strips", self._strips, partial(work, *args, **kwargs))

    def busy(self) -> dict[str, tuple[int, int]]:
        """By pool: the threads that work, and the jobs that wait for one."""
        jobs = {name: len(each) for name, each in self._at_work.items()}
        return {
            name: (min(count, self.width), max(0, count - self.width))
            for name, count in jobs.items()
        }

    async def _run(self, name: str, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        job = pool.submit(copy_context().run, _begun, work, time.perf_counter())
        self._at_work[name].add(job)
        job.add_done_callback(self._at_work[name].discard)
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


def _begun(work: Callable[[], T], submitted_s: float) -> T:
    waited("pool_wait", submitted_s)
    return work()
