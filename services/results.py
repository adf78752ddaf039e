"""Where results live: a folder for each shot under TEMP_DIR, with a time to live and a quota.

A shot's folder holds `record.json` and one PNG for each cut-out. Files appear under their final
name only when they are whole, so a reader never meets half of one.
"""

import asyncio
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from models.errors import FailureCode, InsufficientStorage, ResultNotFound
from models.schemas import ModelId, ResultEntry, ResultError, ShotRecord
from services.catalogue import PAID
from services.room import Room, full_disk_said
from utils.clock import utc_now

_log = logging.getLogger(__name__)

_RECORD = "record.json"
_INTERRUPTED = ResultError(
    code=FailureCode.CANCELLED,
    message="The service was stopped before this model had finished.",
    retryable=True,
)
_PERHAPS_CHARGED = ResultError(
    code=FailureCode.PROVIDER_OUTCOME_UNKNOWN,
    message="The service was stopped while the provider worked on this; it may have charged for "
    "it, so it is not sent again.",
    retryable=False,
)


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A PNG on disk: its path, size in bytes, SHA-256 (hex), and the box of what is visible."""

    path: Path
    bytes: int
    sha256: str
    bbox: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class PrintKey:
    """One enlarged cut-out of a shot; `asked` is a digest of how it was asked for (hex)."""

    request_id: str
    model: ModelId
    asked: str


class ResultStore:
    """Keeps results for `ttl` and within `quota_bytes`, the oldest going first."""

    def __init__(
        self, folder: Path, *, ttl: timedelta, quota_bytes: int, min_free_bytes: int
    ) -> None:
        self._folder = folder
        self._ttl = ttl
        self._quota_bytes = quota_bytes
        self._room = Room(folder, min_free_bytes)
        # when each shot is to be forgotten, oldest first
        self._expiry: dict[str, datetime] = {}

    def open(self) -> None:
        """Take up what an earlier process left; orphans and partial files are removed. Blocks."""
        self._folder.mkdir(parents=True, exist_ok=True)
        found = [record for path in self._folder.iterdir() if (record := self._recover(path))]
        for record in sorted(found, key=lambda each: each.created_at):
            self._expiry[record.request_id] = record.expires_at
        self.sweep()

    def check_room(self, needed_bytes: int = 0) -> None:
        """Raises InsufficientStorage, with the numbers, where they would not fit on the disk."""
        self._room.check(needed_bytes)

    def expires_at(self, created_at: datetime) -> datetime:
        return created_at + self._ttl

    def holds(self, request_id: str) -> bool:
        expiry = self._expiry.get(request_id)
        return expiry is not None and expiry > utc_now()

    async def create(self, record: ShotRecord) -> None:
        """Raises InsufficientStorage where the disk is full."""
        with full_disk_said("results"):
            await asyncio.to_thread(self._create, record)
        self._expiry[record.request_id] = record.expires_at

    async def save(self, record: ShotRecord) -> None:
        """Replace the record; one that was deleted meanwhile stays deleted."""
        if self.holds(record.request_id):
            await asyncio.to_thread(self._write_record, record)

    async def record(self, request_id: str) -> ShotRecord:
        if not self.holds(request_id):
            raise _not_found(request_id)
        try:
            text = await asyncio.to_thread((self._home(request_id) / _RECORD).read_bytes)
        except FileNotFoundError:
            raise _not_found(request_id) from None
        return ShotRecord.model_validate_json(text)

    async def require_owner(self, request_id: str, owns: Callable[[str | None], bool]) -> None:
        """Raises ResultNotFound for somebody else's result, as for one that never was."""
        record = await self.record(request_id)
        if not owns(record.owner):
            raise _not_found(request_id)

    async def picture(self, request_id: str, model: ModelId) -> StoredPicture:
        """The stored PNG of one cut-out; ResultNotFound where there is none."""
        record = await self.record(request_id)
        entry = next((each for each in record.results if each.model == model), None)
        if entry is None or entry.sha256 is None or entry.bytes is None:
            raise ResultNotFound(f"Shot {request_id} holds no cut-out of {model}.")
        path = self._picture(request_id, model)
        return StoredPicture(path, entry.bytes, entry.sha256, entry.bbox)

    def write_picture(
        self, request_id: str, model: ModelId, pieces: Iterable[bytes]
    ) -> StoredPicture:
        """Write a PNG from its pieces, then make room for it. Blocks: call it in the pool."""
        path = self._picture(request_id, model)
        digest, size = hashlib.sha256(), 0
        partial = path.with_suffix(".part")
        with partial.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                size += file.write(piece)
        partial.replace(path)
        self._make_room(keep=request_id)
        return StoredPicture(path, size, digest.hexdigest())

    def print_path(self, key: PrintKey) -> Path:
        """Where a print is, if it was kept."""
        return self._home(key.request_id) / f"{key.model}.print-{key.asked}.png"

    def may_keep(self, size: int) -> bool:
        """Whether a file of about `size` bytes fits into the quota and on the disk."""
        try:
            self.check_room(size)
        except InsufficientStorage:
            return False
        return size <= self._quota_bytes

    async def keep_print(
        self, key: PrintKey, pieces: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        """The same pieces on their way to a client; when all have passed, the print is kept.

        A disk that fills up, or a shot that is deleted meanwhile, costs the client nothing.
        """
        target = self.print_path(key)
        partial = target.with_name(f"{target.stem}.{secrets.token_hex(4)}.part")
        keeping = True
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    keeping = keeping and await asyncio.to_thread(_appended, partial, piece)
                    yield piece
            if keeping:
                await asyncio.to_thread(self._adopt, partial, target, key)
        finally:
            await asyncio.to_thread(partial.unlink, missing_ok=True)

    def _adopt(self, partial: Path, target: Path, key: PrintKey) -> None:
        try:
            partial.replace(target)
        except FileNotFoundError:
            return
        self._make_room(keep=key.request_id)

    async def delete(self, request_id: str) -> None:
        if not self.holds(request_id):
            raise _not_found(request_id)
        await asyncio.to_thread(self._forget, request_id)

    def sweep(self) -> None:
        """Forget what has expired. Blocks."""
        now = utc_now()
        for request_id in [each for each, expiry in self._expiry.items() if expiry <= now]:
            self._forget(request_id)

    def _home(self, request_id: str) -> Path:
        return self._folder / request_id

    def _picture(self, request_id: str, model: ModelId) -> Path:
        return self._home(request_id) / f"{model}.png"

    def _create(self, record: ShotRecord) -> None:
        self._home(record.request_id).mkdir()
        self._write_record(record)

    def _write_record(self, record: ShotRecord) -> None:
        path = self._home(record.request_id) / _RECORD
        partial = path.with_suffix(".part")
        try:
            partial.write_text(_as_kept(record), encoding="utf-8")
            partial.replace(path)
        except FileNotFoundError:
            _log.info("record_deleted_meanwhile", extra={"shot": record.request_id})

    def _recover(self, path: Path) -> ShotRecord | None:
        """The record in a folder left by an earlier process; what is no record is removed."""
        try:
            record = ShotRecord.model_validate_json((path / _RECORD).read_bytes())
        except (OSError, ValidationError):
            _remove(path)
            return None
        for partial in path.glob("*.part"):
            partial.unlink()
        if record.status == "running":
            record = _interrupted(record)
            self._write_record(record)
        return record

    def _make_room(self, *, keep: str) -> None:
        sizes = {request_id: self._size(request_id) for request_id in list(self._expiry)}
        total = sum(sizes.values())
        for request_id, size in sizes.items():
            if total <= self._quota_bytes:
                return
            if request_id != keep:
                self._forget(request_id)
                total -= size
                _log.info("result_evicted", extra={"shot": request_id, "bytes": size})

    def _size(self, request_id: str) -> int:
        try:
            with os.scandir(self._home(request_id)) as files:
                return sum(each.stat().st_size for each in files)
        except FileNotFoundError:
            return 0

    def _forget(self, request_id: str) -> None:
        self._expiry.pop(request_id, None)
        _remove(self._home(request_id))


def _as_kept(record: ShotRecord) -> str:
    """The record as JSON, with its owner, which no answer shows."""
    return json.dumps({**record.model_dump(mode="json"), "owner": record.owner})


def _appended(path: Path, piece: bytes) -> bool:
    """False where the disk is full or the folder gone."""
    try:
        with path.open("ab") as file:
            file.write(piece)
    except OSError as error:
        _log.warning("print_not_kept", extra={"reason": error.strerror})
        return False
    return True


def _interrupted(record: ShotRecord) -> ShotRecord:
    """The record of a shot whose process ended: what was pending has failed."""
    results = [
        _ended(entry.model) if entry.status == "pending" else entry for entry in record.results
    ]
    return record.model_copy(update={"status": "complete", "results": results})


def _ended(model: ModelId) -> ResultEntry:
    error = _PERHAPS_CHARGED if model in PAID else _INTERRUPTED
    return ResultEntry(model=model, status="failed", error=error)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _not_found(request_id: str) -> ResultNotFound:
    return ResultNotFound(
        f"There is no shot {request_id}.", hint="Results are forgotten after their time to live."
    )
