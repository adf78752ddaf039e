"""What SIGTERM and SIGINT do: the drain (services/draining.py), and then uvicorn's own end.

A second signal ends at once: what is on disk then is what a kill would have left.
"""

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from types import FrameType

import uvicorn

from services.draining import OVERRUN_S, Drain
from utils.watchdog import give_up

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def ended_by_signals(drain: Drain) -> Iterator[None]:
    """Between a signal and uvicorn's own handler for it stands the drain.

    uvicorn waits for ever for whoever is connected unless it is told otherwise; it is told here,
    so a plain `uvicorn main:app` ends in time as well. Without uvicorn's handlers (it runs in
    another thread, or not at all) nothing is changed.
    """
    server = running_server()
    if server is None:
        yield
        return
    heed = _Heed(drain, server, asyncio.get_running_loop())
    earlier = {each: signal.signal(each, heed) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in earlier.items():
            signal.signal(each, handler)


def running_server() -> uvicorn.Server | None:
    """The server whose handlers are installed for both signals."""
    if threading.current_thread() is not threading.main_thread():
        return None
    owners = [getattr(signal.getsignal(each), "__self__", None) for each in _SIGNALS]
    server = owners[0]
    return server if isinstance(server, uvicorn.Server) and owners[1] is server else None


class _Heed:
    """The handler of both signals."""

    def __init__(
        self,
        drain: Drain,
        server: uvicorn.Server,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._drain = drain
        self._server = server
        self._loop = loop
        self._heard = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._heard:
            self._server.handle_exit(number, frame)
            self._server.force_exit = True
            return
        self._heard = True
        _arm_last_resort(self._drain.total_s + OVERRUN_S)
        # not in the context of the request that it happened to interrupt
        self._loop.call_soon_threadsafe(self._begin, number, context=Context())

    def _begin(self, number: int) -> None:
        self._drain.begin()
        # nobody routes requests to a terminal
        notice_s = self._drain.notice_s if number == signal.SIGTERM else 0
        self._loop.call_later(notice_s, self._hand_on, number)

    def _hand_on(self, number: int) -> None:
        """Let uvicorn close its socket and wait, no longer than there is time."""
        config = self._server.config
        left_s = self._drain.until_cutting_s()
        if config.timeout_graceful_shutdown is not None:
            left_s = min(left_s, config.timeout_graceful_shutdown)
        config.timeout_graceful_shutdown = left_s  # type: ignore[assignment]  # goes to wait_for
        self._server.handle_exit(number, None)


def _arm_last_resort(after_s: float) -> None:
    def end() -> None:
        time.sleep(after_s)
        give_up("drain_overrun")

    threading.Thread(target=end, name="last-resort", daemon=True).start()
