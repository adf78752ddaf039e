"""Telling a disk that is full, or that cannot be used, from every other OSError."""

import errno

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quota error
# read-only, another owner's, broken, a network volume that went away; or no descriptor is left
_UNUSABLE = {
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, getattr(errno, "ESTALE", errno.EIO)),
    *(errno.EMFILE, errno.ENFILE),
}


def is_full(error: OSError) -> bool:
    return error.errno in _FULL


def is_unusable(error: OSError) -> bool:
    """Whether no file can be written or read though there is room; it may be mended without us."""
    return error.errno in _UNUSABLE
