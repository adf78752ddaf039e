"""glibc's heap told to give memory back; silently nothing where there is no glibc."""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DONT_NEED = 4
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MIB = 1024**2
_WORTH_TRIMMING = 64 * _MIB


def tame() -> bool:
    """Have blocks from 1 MiB on returned to the system as soon as they are freed.

    For a process's start: glibc's own thresholds grow with what is freed, and keep hundreds of
    megabytes after a network was loaded. Says whether it took.
    """
    libc = _glibc()
    if libc is None:
        return False
    return all(libc.mallopt(option, _MIB) == 1 for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))


def keep(block_bytes: int, *, idle_bytes: int) -> bool:
    """Have blocks of up to `block_bytes` (32 MiB at most) reused, out of `idle_bytes` kept for it.

    For work that frees and takes the same large blocks over and over: a page that is given back and
    taken again costs the kernel more than most of what is done on it. Says whether it took.
    """
    libc = _glibc()
    if libc is None:
        return False
    options = ((_M_MMAP_THRESHOLD, block_bytes), (_M_TRIM_THRESHOLD, idle_bytes))
    return all(libc.mallopt(option, size) == 1 for option, size in options)


def share_arenas(most: int) -> bool:
    """Have all threads allocate from `most` heaps; for a process's start. Says whether it took.

    glibc gives every thread one, up to eight a core, and `trim` does not reach what is free at the
    end of any but the first: each then keeps up to what `keep` was told.
    """
    libc = _glibc()
    return libc is not None and libc.mallopt(_M_ARENA_MAX, most) == 1


def trim() -> bool:
    """Give every free page back; says whether there were any."""
    libc = _glibc()
    return libc is not None and libc.malloc_trim(ctypes.c_size_t(0)) == 1


def trim_after(held_bytes: int) -> None:
    """Give free pages back after work that held so much in small blocks, where it was much.

    Pillow's pictures are made of 16 MiB blocks, which a heap told to `keep` blocks may not return.
    """
    if held_bytes >= _WORTH_TRIMMING:
        trim()


@contextmanager
def dropping_pages(path: Path, *, every_s: float = 0.05) -> Iterator[None]:
    """While this lasts and once more at its end, let go of the pages of `path`, a mapped file.

    They are read again from the page cache when they are touched again. Nothing outside Linux. For
    files that are mapped to be read only: what was written to a private mapping would be lost.
    """
    done = threading.Event()

    def drop() -> None:
        while not done.wait(every_s):
            drop_pages(path)

    thread = threading.Thread(target=drop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        drop_pages(path)


def drop_pages(path: Path) -> int:
    """Let go of the pages of `path` wherever it is mapped to be read; how many bytes of mapping."""
    libc = _glibc()
    if libc is None:
        return 0
    dropped = 0
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        span, rights, _, _, _, *name = line.split(maxsplit=5)
        if name == [str(path)] and "w" not in rights:
            start, end = (int(each, 16) for each in span.split("-"))
            libc.madvise(
                ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_int(_DONT_NEED)
            )
            dropped += end - start
    return dropped


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
