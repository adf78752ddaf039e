"""An append-only journal of JSON lines that is acknowledged when it is on the disk, not before.

What arrives while one batch is being written forms the next: one write and one fsync for all of it
(group commit), so many callers share the price of the disk. Several processes may write to one
folder; services/tally.py and the routes read it through utils/tracking_files.py.
"""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal, TypeAlias

from utils.clock import utc_now
from utils.tracking_files import (
    CURRENT,
    cut_torn_tail,
    locked,
    pack_archives,
    plain_path,
    sync_folder,
)

_log = logging.getLogger(__name__)

Fsync: TypeAlias = Literal["always", "interval", "never"]


@dataclass(slots=True, eq=False)
class _Waiting:
    """A line that is not on the disk yet, and whoever waits for it."""

    data: bytes
    done: asyncio.Future[None]


class Journal:
    """Lines of one folder. It belongs to one event loop; the folder may belong to many processes.

    `fsync`: `always` before a line is acknowledged; `interval` at most every `interval_s`; `never`
    leaves it to the system. A file is put away when it reaches `rotate_bytes` and at the end of the
    (UTC) day.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fsync: Fsync = "always",
        rotate_bytes: int = 64 << 20,
        interval_s: float = 1.0,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.folder = folder
        self._fsync = fsync
        self._rotate_bytes = rotate_bytes
        self._interval_s = interval_s
        self._now = now
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._synced_at = 0.0
        self._late_sync: asyncio.TimerHandle | None = None
        self.batches = 0
        """Batches written so far."""
        self.repairs = 0
        """Torn tails of writers that died, cut off here."""

    async def append(self, line: Mapping[str, object]) -> None:
        """Write one object as a line; returns when it is as durable as `fsync` says.

        Raises OSError where it is not on the disk. One that is cancelled may have been written.
        """
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(data, done))
        if self._writer is None or self._writer.done():
            # it writes for everybody, so what it says belongs to no request
            self._writer = asyncio.create_task(self._write_waiting(), context=Context())
        try:
            await done
        except OSError as error:
            _log.error("journal_not_written", extra={"reason": str(error)})
            raise

    async def close(self) -> None:
        """Write what waits, and make it durable."""
        if self._writer is not None:
            await self._writer
        if self._late_sync is not None:
            self._late_sync.cancel()
            self._in_background(self._sync)
        await asyncio.gather(*self._background)

    def rotate_if_due(self) -> None:
        """Put the file away if its day is over, and compress what was put away. Blocks."""
        if not self.folder.is_dir():
            return
        with locked(self.folder), contextlib.suppress(FileNotFoundError):
            descriptor = os.open(self.folder / CURRENT, os.O_RDWR)
            try:
                day = _day_of(descriptor)
                size, _ = cut_torn_tail(descriptor)
                self._put_away_if_due(descriptor, size, day)
            finally:
                os.close(descriptor)
        pack_archives(self.folder)

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                rotated = await asyncio.to_thread(self._commit, b"".join(x.data for x in batch))
            except OSError as error:
                _finish(batch, error)
                continue
            self.batches += 1
            _finish(batch, None)
            if rotated:
                self._in_background(self._pack)
            if self._fsync == "interval":
                self._sync_later()

    def _commit(self, data: bytes) -> bool:
        """Append a batch under the lock; whether the file before it was put away. Blocks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            descriptor = self._open_current()
            try:
                day = _day_of(descriptor)
                size, cut = cut_torn_tail(descriptor)
                self.repairs += cut > 0
                rotated = self._put_away_if_due(descriptor, size, day)
                if rotated:
                    os.close(descriptor)
                    descriptor, size = self._open_current(), 0
                self._write_whole(descriptor, data, size)
            finally:
                os.close(descriptor)
        return rotated

    def _open_current(self) -> int:
        path = self.folder / CURRENT
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            descriptor = os.open(path, flags | os.O_CREAT, 0o644)
            sync_folder(self.folder)
            return descriptor

    def _write_whole(self, descriptor: int, data: bytes, size: int) -> None:
        """All of it after the first `size` bytes, or nothing and OSError."""
        try:
            _write_at_once(descriptor, data)
            if self._fsync == "always" or self._sync_is_due():
                os.fsync(descriptor)
                self._synced_at = time.monotonic()
        except OSError:
            os.ftruncate(descriptor, size)
            raise

    def _put_away_if_due(self, descriptor: int, size: int, day: date) -> bool:
        """Rename a file that is large enough or of another day. The lock is held."""
        if size == 0 or (size < self._rotate_bytes and day == self._now().date()):
            return False
        if self._fsync != "never":
            os.fsync(descriptor)
        (self.folder / CURRENT).rename(plain_path(self.folder, self._archive_stem(day)))
        sync_folder(self.folder)
        return True

    def _archive_stem(self, day: date) -> str:
        """Sorts by the moment of rotation; the nonce keeps processes apart."""
        moment = self._now().strftime("%Y%m%dT%H%M%S%f")
        return f"picks-{day.isoformat()}-{moment}-{secrets.token_hex(4)}"

    def _sync_is_due(self) -> bool:
        since = time.monotonic() - self._synced_at
        return self._fsync == "interval" and since >= self._interval_s

    def _sync_later(self) -> None:
        """Also the last batch before a lull is made durable, an interval later."""
        if self._late_sync is None:
            loop = asyncio.get_running_loop()
            self._late_sync = loop.call_later(self._interval_s, self._sync_now)

    def _sync_now(self) -> None:
        self._late_sync = None
        self._in_background(self._sync)

    def _sync(self) -> None:
        """What was put away meanwhile has been synced before."""
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(self.folder / CURRENT, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            except OSError as error:
                _log.error("journal_not_synced", extra={"reason": str(error)})
            finally:
                os.close(descriptor)

    def _in_background(self, work: Callable[[], None]) -> None:
        task = asyncio.create_task(asyncio.to_thread(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _pack(self) -> None:
        try:
            pack_archives(self.folder)
        except OSError as error:
            _log.warning("archive_not_packed", extra={"reason": error.strerror})


def _write_at_once(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    if written < len(data):
        raise OSError(f"only {written} of {len(data)} bytes fitted")


def _day_of(descriptor: int) -> date:
    """The (UTC) day of a file's last line; to be asked before anything is cut off."""
    return datetime.fromtimestamp(os.fstat(descriptor).st_mtime, UTC).date()


def _finish(batch: list[_Waiting], error: OSError | None) -> None:
    for each in batch:
        if each.done.done():  # its caller has gone
            continue
        if error is None:
            each.done.set_result(None)
        else:
            each.done.set_exception(OSError(error.errno, str(error)))
