"""The memory of a process tree: watched from outside, and limited by a control group.

Two measures, side by side. The PSS of the process tree, sampled, is what the processes hold. The
control group's own high-water mark misses no moment, but it also counts the page cache of every
file that they wrote or read first.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Self

_SETTLING_S = 1.0
_SAMPLE_S = 0.1
_CGROUPS = Path("/sys/fs/cgroup")


class Watcher:
    """Samples what a process and its descendants hold, their proportional set size, until left."""

    def __init__(self, pid: int, *, limit_bytes: int | None) -> None:
        self.pid = pid
        self._limit_bytes = limit_bytes
        self._left = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self.peak_bytes = 0
        self.over_limit = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def settle(self) -> int:
        """Wait a moment, begin a new peak, and give what is held when idle."""
        time.sleep(_SETTLING_S)
        self.peak_bytes = idle = tree_pss_bytes(self.pid)
        return idle

    def _watch(self) -> None:
        while not self._left.wait(_SAMPLE_S):
            held = tree_pss_bytes(self.pid)
            self.peak_bytes = max(self.peak_bytes, held)
            if self._limit_bytes is not None and held > self._limit_bytes:
                self.over_limit = True
                _kill(tree(self.pid))


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A memory control group of our own, of version 1 or 2; made by `new_control_group`."""

    folder: Path
    version: int

    def peak_bytes(self) -> int:
        """Since it was made or `reset` (which version 2 cannot)."""
        return self._number({1: "memory.max_usage_in_bytes", 2: "memory.peak"}[self.version])

    def usage_bytes(self) -> int:
        return self._number({1: "memory.usage_in_bytes", 2: "memory.current"}[self.version])

    def reset(self) -> None:
        if self.version == 1:
            (self.folder / "memory.max_usage_in_bytes").write_text("0", "ascii")

    def times_at_limit(self) -> int:
        if self.version == 1:
            return self._number("memory.failcnt")
        return _entry(self.folder / "memory.events", "max")

    def oom_kills(self) -> int:
        name = {1: "memory.oom_control", 2: "memory.events"}[self.version]
        return _entry(self.folder / name, "oom_kill")

    def _number(self, name: str) -> int:
        return int((self.folder / name).read_text("ascii"))


@contextmanager
def new_control_group(*, limit_bytes: int | None = None) -> Iterator[ControlGroup | None]:
    """A control group, gone again afterwards; None where this user or system has none to give."""
    for version, parent in ((1, _CGROUPS / "memory"), (2, _CGROUPS)):
        group = ControlGroup(parent / f"dtf-bench-{os.getpid()}", version)
        if _made(group, limit_bytes):
            break
    else:
        yield None
        return
    try:
        yield group
    finally:
        _remove(group.folder)


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    found = [pid]
    for each in found:
        for listing in Path(f"/proc/{each}/task").glob("*/children"):
            with suppress(OSError):
                found += [int(child) for child in listing.read_text("ascii").split()]
    return found


def tree_pss_bytes(pid: int) -> int:
    return sum(pss_bytes(each) for each in tree(pid))


def pss_bytes(pid: int) -> int:
    """Of this process alone; 0 where it has ended."""
    with suppress(OSError):
        return _entry(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") * 1024
    return 0


def _entry(path: Path, name: str) -> int:
    """The number behind a name at the beginning of a line, 0 where there is none."""
    for line in path.read_text("ascii").splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    return 0


def _kill(pids: list[int]) -> None:
    for each in pids:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def _made(group: ControlGroup, limit_bytes: int | None) -> bool:
    limit = {1: "memory.limit_in_bytes", 2: "memory.max"}[group.version]
    try:
        group.folder.mkdir()
    except OSError:
        return False
    try:
        group.usage_bytes()
        group.peak_bytes()
        if limit_bytes is not None:
            (group.folder / limit).write_text(str(limit_bytes), "ascii")
    except OSError:
        _remove(group.folder)
        return False
    return True


def _remove(folder: Path) -> None:
    """A group can go once its last process is reaped, which may take a moment."""
    for _ in range(50):
        with suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.1)
    print(f"The control group {folder} could not be removed.", file=sys.stderr)
