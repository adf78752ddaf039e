"""Folders for one request's files: made, removed, and removed again where that did not go through.

A disk that is read-only for a while, or a process without a file descriptor left, keeps a request
from clearing up after itself. What is nobody's is looked for again and again.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from services.room import full_disk_said
from services.temp_folder import remove


class Scratch:
    """The folder `uploads` of TEMP_DIR, as `temp_folder` made and emptied it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._live: set[str] = set()
        self._left: set[str] = set()

    @asynccontextmanager
    async def new(self) -> AsyncIterator[Path]:
        """A folder that is gone when the block ends, or as soon as the disk lets it go.

        Raises InsufficientStorage or StorageUnavailable.
        """
        folder = self._folder / secrets.token_hex(8)
        self._live.add(folder.name)
        try:
            with full_disk_said("uploads"):
                await asyncio.to_thread(folder.mkdir)
            yield folder
        finally:
            try:
                await asyncio.to_thread(_remove, folder)
            finally:
                self._live.discard(folder.name)
                self._left.add(folder.name)

    def sweep(self) -> None:
        """Remove what should be gone. Blocks."""
        left, self._left = self._left, set()
        for name in sorted(left):
            _remove(self._folder / name)
            if (self._folder / name).exists():
                self._left.add(name)


def _remove(path: Path) -> None:
    """What cannot be removed now stays."""
    with suppress(OSError):
        remove(path)
