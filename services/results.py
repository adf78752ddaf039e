"""Where results live: pictures under TEMP_DIR for hours, their records under DATA_DIR for a month.

A shot's pictures are one folder with a PNG for each cut-out; they have a time to live and a quota,
and what was asked for longest ago goes first. Its record is one JSON file, which outlives them: a
late pick or a question about money still finds it, as `expired`. Files appear under their final
name only when they are whole, so a reader never meets half of one.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from models.errors import FailureCode, InsufficientStorage, ResultNotFound
from models.schemas import ModelId, ResultEntry, ResultError, ShotRecord
from services.catalogue import PAID
from services.room import Room, full_disk_said
from services.temp_folder import remove
from utils.clock import earliest_now

_log = logging.getLogger(__name__)

_PIXELS = ("url", "preview_url", "print_url", "print", "print_width", "print_height")
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


@dataclass(slots=True)
class _Held:
    """A shot whose pictures are here; one that still runs is not evicted."""

    expires_at: datetime
    bytes: int = 0
    running: bool = False


class ResultStore:
    """Pictures for `ttl` and within `quota_bytes`; records for `record_ttl` longer."""

    def __init__(  # noqa: PLR0913  # its limits, all named
        self,
        folder: Path,
        *,
        records: Path,
        ttl: timedelta,
        record_ttl: timedelta,
        quota_bytes: int,
        min_free_bytes: int,
    ) -> None:
        self._folder = folder
        self._records = records
        self._ttl = ttl
        self._record_ttl = record_ttl
        self.quota_bytes = quota_bytes
        self._room = Room(folder, min_free_bytes)
        # the one asked for longest ago first; changed by the loop's thread and by the pool's
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._changing = threading.RLock()
        # records whose latest state the disk did not take
        self._unsaved: dict[str, ShotRecord] = {}

    def open(self) -> None:
        """Take up what an earlier process left; orphans and partial files are removed. Blocks."""
        for folder in (self._folder, self._records):
            folder.mkdir(parents=True, exist_ok=True)
        for partial in self._records.glob("*/*.part"):
            partial.unlink()
        for path in sorted(self._folder.iterdir(), key=lambda each: each.lstat().st_mtime):
            self._recover(path)
        self.sweep()

    def check_room(self, needed_bytes: int = 0) -> None:
        """Raises InsufficientStorage, with the numbers, where they would not fit on the disk."""
        self._room.check(needed_bytes)

    def expires_at(self, created_at: datetime) -> datetime:
        return created_at + self._ttl

    def held_bytes(self) -> int:
        """What the pictures take that are here."""
        with self._changing:
            return sum(held.bytes for held in self._held.values())

    def holds(self, request_id: str) -> bool:
        """Whether the shot's pictures are here."""
        held = self._held.get(request_id)
        return held is not None and held.expires_at > earliest_now()

    async def create(self, record: ShotRecord) -> None:
        """Raises InsufficientStorage where the disk is full."""
        with full_disk_said("results"):
            await asyncio.to_thread(self._create, record)

    async def keep_original(self, request_id: str, source: Path) -> None:
        """Keep the customer's file with the pictures, for a brush that restores; never raises."""
        await asyncio.to_thread(self._keep_original, request_id, source)

    async def save(self, record: ShotRecord) -> None:
        """Replace the record; one that was deleted meanwhile stays deleted.

        Raises OSError where the disk refuses; the record is then read from memory, and written as
        soon as the disk takes it.
        """
        await asyncio.to_thread(self._save, record)

    async def record(self, request_id: str) -> ShotRecord:
        """As it stands; without links where its pictures are gone. ResultNotFound: unknown."""
        record = await asyncio.to_thread(self._read_record, request_id)
        if record is None:
            raise _not_found(request_id)
        if self.holds(request_id):
            self._use(request_id)
            return record
        return _expired(record)

    async def require_owner(self, request_id: str, owns: Callable[[str | None], bool]) -> None:
        """Raises ResultNotFound for somebody else's result, as for one that never was."""
        record = await self.record(request_id)
        if not owns(record.owner):
            raise _not_found(request_id)

    async def picture(self, request_id: str, model: ModelId) -> StoredPicture:
        """The stored PNG of one cut-out; ResultNotFound where there is none."""
        record = await self.record(request_id)
        if record.status == "expired":
            raise ResultNotFound(
                f"The pictures of shot {request_id} have expired.",
                hint="Its record is still there, without pictures.",
            )
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
        before = _size(path)
        digest, size = hashlib.sha256(), 0
        partial = path.with_suffix(".part")
        with _gone_on_failure(partial):
            with partial.open("wb") as file:
                for piece in pieces:
                    digest.update(piece)
                    size += file.write(piece)
            partial.replace(path)
        self._grow(request_id, size - before)
        return StoredPicture(path, size, digest.hexdigest())

    def original(self, request_id: str) -> Path:
        """Where the customer's file is, if it was kept."""
        return self._home(request_id) / "original"

    def write_soft(self, request_id: str, model: ModelId, pieces: Iterable[bytes]) -> None:
        """Keep a cut-out as it was before its edge was finished, for later renderings. Blocks."""
        path = self._soft(request_id, model)
        partial = path.with_suffix(".part")
        with _gone_on_failure(partial):
            with partial.open("wb") as file:
                file.writelines(pieces)
            partial.replace(path)
        self._grow(request_id, _size(path))

    async def untreated(self, request_id: str, model: ModelId) -> Path:
        """A cut-out as renderings are made of it; ResultNotFound where there is none."""
        stored = await self.picture(request_id, model)
        soft = self._soft(request_id, model)
        return soft if await asyncio.to_thread(soft.exists) else stored.path

    def print_path(self, key: PrintKey) -> Path:
        """Where a print is, if it was kept."""
        return self._home(key.request_id) / f"{key.model}.print-{key.asked}.png"

    def may_keep(self, size: int) -> bool:
        """Whether a file of about `size` bytes fits into the quota and on the disk."""
        try:
            self.check_room(size)
        except InsufficientStorage:
            return False
        return size <= self.quota_bytes

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
        before = _size(target)
        try:
            partial.replace(target)
        except FileNotFoundError:
            return
        self._grow(key.request_id, _size(target) - before)

    async def delete(self, request_id: str) -> None:
        """Forget pictures and record; ResultNotFound where there is neither."""
        if not await asyncio.to_thread(self._delete, request_id):
            raise _not_found(request_id)

    def sweep(self) -> None:
        """Forget what has expired, and write what could not be written. Blocks."""
        self._write_unsaved()
        now = earliest_now()
        for request_id in [key for key, held in self._held.items() if held.expires_at <= now]:
            self._drop(request_id)
        oldest_s = (now - self._ttl - self._record_ttl).timestamp()
        for path in self._records.glob("*/*.json"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest_s:
                    path.unlink()

    def _home(self, request_id: str) -> Path:
        return self._folder / request_id

    def _picture(self, request_id: str, model: ModelId) -> Path:
        return self._home(request_id) / f"{model}.png"

    def _soft(self, request_id: str, model: ModelId) -> Path:
        return self._home(request_id) / f"{model}.soft.png"

    def _record(self, request_id: str) -> Path:
        return self._records / request_id[:2] / f"{request_id}.json"

    def _create(self, record: ShotRecord) -> None:
        try:
            self._home(record.request_id).mkdir()
            self._record(record.request_id).parent.mkdir(exist_ok=True)
            with self._changing:
                self._held[record.request_id] = _held(record)
                self._write_record(record)
        except OSError:
            self._drop(record.request_id)
            raise

    def _keep_original(self, request_id: str, source: Path) -> None:
        """Linked, not copied; where it cannot be kept the shot is worth the same."""
        target = self.original(request_id)
        try:
            _link_or_copy(source, target)
        except OSError as error:
            target.unlink(missing_ok=True)
            _log.warning("original_not_kept", extra={"reason": error.strerror})
            return
        self._grow(request_id, _size(target))

    def _save(self, record: ShotRecord) -> None:
        with self._changing:
            if not self._record(record.request_id).exists():
                _log.info("record_deleted_meanwhile", extra={"shot": record.request_id})
                return
            if (held := self._held.get(record.request_id)) is not None:
                held.running = record.status == "running"
            # read from here until the disk takes it, or a finished shot would seem to run
            self._unsaved[record.request_id] = record
            self._write_record(record)
            del self._unsaved[record.request_id]

    def _write_record(self, record: ShotRecord) -> None:
        path = self._record(record.request_id)
        partial = path.with_suffix(".part")
        with _gone_on_failure(partial):
            partial.write_text(_as_kept(record), encoding="utf-8")
            partial.replace(path)

    def _write_unsaved(self) -> None:
        """Try again what the disk did not take; where it still refuses, the next sweep does."""
        with self._changing, contextlib.suppress(OSError):
            for request_id, record in list(self._unsaved.items()):
                self._write_record(record)
                del self._unsaved[request_id]
                _log.info("record_saved_late", extra={"shot": request_id})

    def _read_record(self, request_id: str) -> ShotRecord | None:
        with self._changing:
            record = self._unsaved.get(request_id)
        if record is None:
            try:
                content = self._record(request_id).read_bytes()
            except FileNotFoundError:
                return None
            record = ShotRecord.model_validate_json(content)
        return record if record.expires_at + self._record_ttl > earliest_now() else None

    def _recover(self, path: Path) -> None:
        """Take up a folder left by an earlier process; what belongs to no record is removed."""
        try:
            record = self._read_record(path.name)
        except ValidationError:
            record = None
        if record is None or path.is_symlink() or not path.is_dir():
            remove(path)
            return
        for partial in path.glob("*.part"):
            partial.unlink()
        if record.status == "running":
            record = _interrupted(record)
            self._write_record(record)
        held = _held(record)
        held.bytes = sum(_size(each) for each in path.iterdir())
        self._held[record.request_id] = held

    def _use(self, request_id: str) -> None:
        """It was asked for: it goes last now, also after a restart (its folder's time says so)."""
        with self._changing, contextlib.suppress(KeyError, OSError):
            self._held.move_to_end(request_id)
            os.utime(self._home(request_id))

    def _grow(self, request_id: str, by: int) -> None:
        """Count new bytes, then make room: whoever was asked for longest ago loses its pictures."""
        with self._changing:
            if (held := self._held.get(request_id)) is not None:
                held.bytes += by
            total = sum(each.bytes for each in self._held.values())
            for other, each in list(self._held.items()):
                if total <= self.quota_bytes:
                    return
                if other != request_id and not each.running:
                    total -= each.bytes
                    _log.info("result_evicted", extra={"shot": other, "bytes": each.bytes})
                    self._drop(other)

    def _drop(self, request_id: str) -> None:
        """The pictures go, the record stays."""
        with self._changing:
            self._held.pop(request_id, None)
        remove(self._home(request_id))

    def _delete(self, request_id: str) -> bool:
        with self._changing:
            self._unsaved.pop(request_id, None)
            known = self._record(request_id).exists()
            self._record(request_id).unlink(missing_ok=True)
            self._drop(request_id)
        return known


def _as_kept(record: ShotRecord) -> str:
    """The record as JSON, with its owner, which no answer shows."""
    return json.dumps({**record.model_dump(mode="json"), "owner": record.owner})


@contextlib.contextmanager
def _gone_on_failure(path: Path) -> Iterator[None]:
    """Half a file takes room where there was none: it does not stay."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def _appended(path: Path, piece: bytes) -> bool:
    """False where the disk is full or the folder gone."""
    try:
        with path.open("ab") as file:
            file.write(piece)
    except OSError as error:
        _log.warning("print_not_kept", extra={"reason": error.strerror})
        return False
    return True


def _held(record: ShotRecord) -> _Held:
    return _Held(record.expires_at, running=record.status == "running")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _expired(record: ShotRecord) -> ShotRecord:
    """What is left of a record whose pictures are gone."""
    if record.status == "running":  # the folder was lost with the process that worked on it
        record = _interrupted(record)
    gone: dict[str, object] = dict.fromkeys(_PIXELS)
    results = [each.model_copy(update=gone) for each in record.results]
    return record.model_copy(update={"status": "expired", "results": results, "prints": None})


def _interrupted(record: ShotRecord) -> ShotRecord:
    """The record of a shot whose process ended: what was pending has failed."""
    results = [
        _ended(entry.model) if entry.status == "pending" else entry for entry in record.results
    ]
    return record.model_copy(update={"status": "complete", "results": results})


def _ended(model: ModelId) -> ResultEntry:
    error = _PERHAPS_CHARGED if model in PAID else _INTERRUPTED
    return ResultEntry(model=model, status="failed", error=error)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        partial = target.with_suffix(".part")
        try:
            shutil.copyfile(source, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def _not_found(request_id: str) -> ResultNotFound:
    return ResultNotFound(
        f"There is no shot {request_id}.",
        hint="Records are kept for weeks after their pictures.",
    )
