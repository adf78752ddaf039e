"""The only pool for work on pixels: its width is the CPU limit.

A time-out does not stop a thread, so a semaphore would let stopped waits pile up running work;
a pool of fixed size cannot. Neural inference has a process of its own
(services/inference_process.py), which can be stopped.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Workers:
    """`pixel_threads` pictures are worked on at once."""

    def __init__(self, *, pixel_threads: int) -> None:
        self._pixels = ThreadPoolExecutor(pixel_threads, thread_name_prefix="pixels")

    async def pixels(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:  # noqa: ANN401  # passed through
        return await _run(self._pixels, partial(work, *args, **kwargs))

    def close(self) -> None:
        """Drop what waits; what runs cannot be stopped and ends by itself."""
        self._pixels.shutdown(wait=False, cancel_futures=True)


async def _run(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(pool, copy_context().run, work)
