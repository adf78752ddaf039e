"""The ledger on disk: lines of JSON that are whole or not there, and old days summed up.

A task has one line when it is about to leave (`cost_usd` null) and another when it is settled. A
line with `tasks` stands for the settled tasks of one day, model and key.
"""

import json
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from errno import ENOSPC
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias

from models.schemas import ModelId
from utils import logs
from utils.clock import utc_now

_BROKEN = (ValueError, KeyError, TypeError, ArithmeticError, RecursionError)


@dataclass(frozen=True, slots=True)
class Entry:
    """One paid task; `cost_usd` is None until it is known to have been charged or not.

    `key` is the id of the API key it was sent for, `day` (UTC) when it was sent.
    """

    task_id: str
    model: ModelId
    cost_usd: Decimal | None
    day: date
    key: str = "open"


@dataclass(frozen=True, slots=True)
class Spend:
    """What the settled tasks of one day, model and key cost, in dollars."""

    day: date
    model: ModelId
    key: str
    tasks: int
    cost_usd: Decimal


Line: TypeAlias = Entry | Spend


class LedgerFile:
    """Appends to the file at `path`; nothing of it is kept in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None

    def open(self) -> None:
        """End a line torn by a crash, so that it does not spoil the next. Blocks."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._part().unlink(missing_ok=True)
        self._file = FileIO(self._path, "a+")
        if _is_torn(self._file):
            self._file.write(b"\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, entry: Entry) -> None:
        """Write one line. Raises OSError where the disk takes less, and takes back what it took."""
        if self._file is None:
            return
        size = os.fstat(self._file.fileno()).st_size
        try:
            _write_whole(self._file, _encoded(entry))
        except OSError:
            with suppress(OSError):
                self._file.truncate(size)
            raise

    def lines(self) -> Iterator[Line | None]:
        """Every line in its order, None for one that cannot be read. Blocks."""
        with self._path.open("rb") as file:
            yield from map(_decoded, file)

    def sum_up(self, sums: Iterable[Spend], *, before: date, instead_of: Collection[str]) -> None:
        """Put `sums` in the place of those tasks, and of earlier sums of days `before` that.

        The file is replaced at once or not at all. Blocks.
        """
        with self._part().open("wb") as part:
            part.writelines(map(_encoded, sums))
            with self._path.open("rb") as file:
                part.writelines(raw for raw in file if not _is_covered(raw, before, instead_of))
            part.flush()
            os.fsync(part.fileno())
        self.close()
        self._part().replace(self._path)
        self._file = FileIO(self._path, "a+")

    def _part(self) -> Path:
        return self._path.with_name(f"{self._path.name}.part")


def _write_whole(file: FileIO, line: bytes) -> None:
    if file.write(line) != len(line):
        raise OSError(ENOSPC, os.strerror(ENOSPC))


def _is_torn(file: FileIO) -> bool:
    size = os.fstat(file.fileno()).st_size
    return size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"


def _is_covered(raw: bytes, before: date, instead_of: Collection[str]) -> bool:
    match _decoded(raw):
        case Entry(task_id=task_id):
            return task_id in instead_of
        case Spend(day=day):
            return day < before
        case None:
            return False


def _encoded(line: Line) -> bytes:
    told: dict[str, object] = {"day": line.day.isoformat(), "model": line.model, "key": line.key}
    cost = None if line.cost_usd is None else str(line.cost_usd)
    if isinstance(line, Spend):
        told |= {"tasks": line.tasks, "cost_usd": cost}
    else:
        told |= {"time": utc_now().isoformat(), "task_id": line.task_id, "cost_usd": cost}
        told["request_id"] = logs.request_id.get()
    return json.dumps(told).encode() + b"\n"


def _decoded(raw: bytes) -> Line | None:
    try:
        return _line(json.loads(raw))
    except _BROKEN:
        return None


def _line(found: dict[str, Any]) -> Line:
    """Lines of the first versions have no key, since there were none, and no day but their time."""
    model, key = ModelId(found["model"]), str(found.get("key", "open"))
    cost = None if found["cost_usd"] is None else _amount(found["cost_usd"])
    written = found.get("day")
    day = date.fromisoformat(written) if written else datetime.fromisoformat(found["time"]).date()
    if "task_id" not in found and cost is not None:
        return Spend(day, model, key, int(found["tasks"]), cost)
    return Entry(str(found["task_id"]), model, cost, day, key)


def _amount(text: object) -> Decimal:
    amount = Decimal(str(text))
    if not amount.is_finite():
        raise ValueError("no amount of money")
    return amount
