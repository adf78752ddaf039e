"""TEMP_DIR, held by one service at a time, and freed at start of what a killed one left.

Its results belong to a running service's index, and its uploads are removed at start; so a second
service on the same folder would undo the first one's work. It waits for as long as the first may
take to end, as when a box is started anew while the old one drains, and then refuses to start.
"""

import asyncio
import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_log = logging.getLogger(__name__)

LOCK = "service.lock"
_UPLOADS = "uploads"
_LOOK_AGAIN_S = 0.1
_WITHOUT_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


class TempFolderInUse(OSError):
    """Another service works in this folder."""


@asynccontextmanager
async def temp_folder(folder: Path, *, patience_s: float) -> AsyncIterator[Path]:
    """Hold `folder` alone; the path is that of the empty folder for uploads in it.

    The lock is the kernel's: it goes with its process, however that ends. Raises TempFolderInUse
    after `patience_s`, and OSError where the folder cannot be used.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    # of whoever holds the lock alone, so nothing is ever written to it or removed
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        await _lock(descriptor, folder, patience_s)
        yield await asyncio.to_thread(_emptied, folder / _UPLOADS)
    finally:
        os.close(descriptor)


async def _lock(descriptor: int, folder: Path, patience_s: float) -> None:
    until_s = time.monotonic() + patience_s
    told = False
    while not _try_lock(descriptor):
        if time.monotonic() >= until_s:
            raise TempFolderInUse(
                errno.EBUSY,
                "TEMP_DIR is in use by another process of this service: give each its own",
                str(folder),
            )
        if not told:
            _log.warning("temp_dir_in_use", extra={"waiting_s": patience_s})
            told = True
        await asyncio.sleep(_LOOK_AGAIN_S)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        _log.warning("temp_dir_not_locked", extra={"reason": error.strerror})
    return True


def _emptied(uploads: Path) -> Path:
    """The folder for pictures on their way in; what an earlier process left there is partial.

    Links are removed, never followed.
    """
    if uploads.is_symlink():
        uploads.unlink()
    uploads.mkdir(exist_ok=True)
    orphans = list(uploads.iterdir())
    for orphan in orphans:
        remove(orphan)
    if orphans:
        _log.info("orphans_removed", extra={"count": len(orphans)})
    return uploads


def remove(path: Path) -> None:
    """A file, a link (not what it points to), or a folder with all that is in it. Blocks."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
