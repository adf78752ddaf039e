"""Telling a full disk from every other way in which writing can fail."""

import errno

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quota error


def is_full(error: OSError) -> bool:
    return error.errno in _FULL
