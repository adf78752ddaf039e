"""Ends the process when its event loop is stuck: where nobody probes, only an end is answered.

A thread asks the loop for a sign of life again and again. Silence counts in the thread's own waking
time, so neither a stopped process nor a suspended machine nor a changed clock looks like a stuck
loop. A loop that C code keeps from turning without giving back the interpreter would keep this
thread from running as well; therefore the kernel watches beside it, in processor time
(`ITIMER_PROF`), which passes only while this process truly runs. POSIX only.
"""

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)

STUCK_STATUS = 70
"""The exit status of a process that was given up (EX_SOFTWARE of sysexits.h)."""

_LOOKS = 20  # in the time that the loop may be silent
_LAST_WORDS_S = 2
_MOST_CORES = 16
_STDERR = 2  # by its number: sys.stderr may be something without one


class Silence:
    """How long nothing has been heard, in the time in which somebody listened.

    A listener that comes back late, because the process or the machine stood still, counts at most
    twice its pause.
    """

    def __init__(self, pause_s: float, now_s: float) -> None:
        self.seconds = 0.0
        self._longest_s = 2 * pause_s
        self._listened_at_s = now_s

    def listen(self, now_s: float, *, heard: bool) -> None:
        """Take down what was heard since the last time; `now_s` is monotonic."""
        elapsed_s = now_s - self._listened_at_s
        self._listened_at_s = now_s
        self.seconds = 0.0 if heard else self.seconds + min(elapsed_s, self._longest_s)


@contextmanager
def watching(loop: asyncio.AbstractEventLoop, *, limit_s: float) -> Iterator[None]:
    """Give the process up when `loop` does not turn for `limit_s` seconds; 0: never."""
    if not limit_s:
        yield
        return
    over = threading.Event()
    kernel = _KernelsWatch(limit_s)
    watch = threading.Thread(
        target=_watch, args=(loop, limit_s, over, kernel.wind), name="watchdog", daemon=True
    )
    watch.start()
    kernel.arm()
    try:
        yield
    finally:
        kernel.disarm()
        over.set()
        watch.join()


def give_up(why: str) -> None:
    """Write every thread's stack to stderr and a line to the log, and end with STUCK_STATUS.

    Nothing is closed. Where whoever reads our output does not, it ends without a word.
    """
    threading.Thread(target=_end_after, args=(_LAST_WORDS_S,), daemon=True).start()
    faulthandler.dump_traceback(file=_STDERR, all_threads=True)
    _log.critical(why, extra={"exit_status": STUCK_STATUS})
    os._exit(STUCK_STATUS)


def _end_after(seconds: float) -> None:
    time.sleep(seconds)
    os._exit(STUCK_STATUS)


def _watch(
    loop: asyncio.AbstractEventLoop,
    limit_s: float,
    over: threading.Event,
    on_sign: Callable[[], None],
) -> None:
    pause_s = limit_s / _LOOKS
    turned = threading.Event()

    def answer() -> None:
        on_sign()
        turned.set()

    silence = Silence(pause_s, time.monotonic())
    loop.call_soon_threadsafe(answer)
    while not over.wait(pause_s):
        heard = turned.is_set()
        silence.listen(time.monotonic(), heard=heard)
        if heard:
            turned.clear()
            loop.call_soon_threadsafe(answer)
        elif silence.seconds >= limit_s:
            give_up("loop_stuck")


class _KernelsWatch:
    """SIGPROF, which writes all stacks and ends the process, after so much processor time.

    Its limit is that of the loop on each of the cores, so whatever our threads compute beside a
    loop that turns does not reach it. There is one such timer in a process: only the main thread's
    loop has it.
    """

    def __init__(self, limit_s: float) -> None:
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 2
        self._limit_s = limit_s * min(max(cores, 2), _MOST_CORES)
        self._armed = False

    def arm(self) -> None:
        if threading.current_thread() is threading.main_thread():
            faulthandler.register(signal.SIGPROF, file=_STDERR, all_threads=True, chain=True)
            self._armed = True
            self.wind()

    def wind(self) -> None:
        """The loop turns: begin anew."""
        if self._armed:
            signal.setitimer(signal.ITIMER_PROF, self._limit_s)

    def disarm(self) -> None:
        if self._armed:
            self._armed = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.unregister(signal.SIGPROF)
