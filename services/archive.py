"""A ZIP written in pieces: its entries as they are made, stored, nothing held, nothing sought.

Python's own zipfile writes so to whatever cannot be sought: sizes and checksum follow each entry.
Only `end` writes the directory, without which no reader takes the archive for whole; so one whose
making failed is broken, and is seen to be.
"""

from collections.abc import AsyncGenerator, AsyncIterable
from datetime import datetime
from zipfile import ZIP_STORED, ZipFile, ZipInfo

_READABLE = 0o644 << 16
_MOST_WITHOUT_ZIP64 = 1 << 30  # half of what zipfile allows: what an entry takes is only foreseen


class Archive:
    """One archive; `at` is the time that its entries bear."""

    def __init__(self, at: datetime) -> None:
        self._pieces = _Pieces()
        self._zip = ZipFile(self._pieces, "w", ZIP_STORED)  # type: ignore[call-overload]  # all it needs
        self._at = at

    async def add(
        self, name: str, content: AsyncIterable[bytes], *, most_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        """The archive's pieces while an entry goes into it, expected to take `most_bytes`."""
        entry = ZipInfo(name, self._at.timetuple()[:6])
        entry.external_attr = _READABLE
        large = most_bytes > _MOST_WITHOUT_ZIP64
        with self._zip.open(entry, "w", force_zip64=large) as file:
            async for piece in content:
                file.write(piece)
                yield self._pieces.taken()
        yield self._pieces.taken()

    def end(self) -> bytes:
        """The directory and the end record."""
        self._zip.close()
        return self._pieces.taken()


class _Pieces:
    """A file that can only be written to, emptied as it fills."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._written.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        """Nothing waits."""

    def taken(self) -> bytes:
        taken, self._written = b"".join(self._written), []
        return taken
