"""glibc's heap told to give memory back; silently nothing where there is no glibc."""

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MIB = 1024**2


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


def trim() -> bool:
    """Give every free page back; says whether there were any."""
    libc = _glibc()
    return libc is not None and libc.malloc_trim(ctypes.c_size_t(0)) == 1


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
