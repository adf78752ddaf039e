"""What the journal of picks adds up to: who was shown where, who won over whom, what it cost.

Counts are kept by day and kind of picture. The growing file is followed, archives are counted once
and their counts kept beside them, so that a million picks answer as quickly as ten.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, TypeAlias
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from models.schemas import ModelId
from utils.tracking_files import (
    archive_stems,
    complete_lines,
    open_archive,
    packed_path,
    plain_path,
    take_snapshot,
)

_log = logging.getLogger(__name__)

Counts: TypeAlias = NDArray[np.int64]

MODELS: tuple[ModelId, ...] = tuple(ModelId)
_INDEX: Mapping[str, int] = {model.value: index for index, model in enumerate(MODELS)}
_SIDE = len(MODELS)  # models, and places: a shot shows each model once
_MICRO = 1_000_000
UNKNOWN_KIND = "unknown"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Ballot:
    """One pick as it counts: `winner` and `shown` (best place first) as indices into MODELS.

    `costs` is what each asked model was charged for this shot, in millionths of a dollar.
    """

    day: str
    kind: str
    winner: int
    shown: tuple[int, ...]
    costs: tuple[tuple[int, int], ...]


def ballot_from(facts: Mapping[str, Any]) -> Ballot | None:
    """The ballot in a line, or in its `supersedes`; None where it says nothing that counts.

    Models that no longer exist are passed over.
    """
    try:
        winner = _INDEX.get(facts["model"])
        asked = [*facts["shown"], *facts["not_shown"]]
        shown = tuple(_INDEX[each["model"]] for each in facts["shown"] if each["model"] in _INDEX)
        costs = tuple(
            (_INDEX[each["model"]], round((each["cost_usd"] or 0) * _MICRO))
            for each in asked
            if each["model"] in _INDEX
        )
        if winner not in shown or len(shown) > _SIDE:
            return None
        assert winner is not None  # noqa: S101  # it is in shown
        return Ballot(facts["time"][:10], facts["kind"] or UNKNOWN_KIND, winner, shown, costs)
    except (KeyError, TypeError):
        return None


@dataclass(slots=True, eq=False)
class Cell:
    """Counts of one day and kind, with s models and s places.

    `pairs[i, p, j, q]`: model i at place p was picked, model j at place q was not. `shown[i, p]`,
    `wins[i, p]`; `cost[i]` in millionths of a dollar.
    """

    pairs: Counts
    shown: Counts
    wins: Counts
    cost: Counts

    @classmethod
    def empty(cls) -> Self:
        pairs, square = np.zeros((_SIDE,) * 4, np.int64), np.zeros((2, _SIDE, _SIDE), np.int64)
        return cls(pairs, square[0], square[1], np.zeros(_SIDE, np.int64))

    def count(self, ballot: Ballot, sign: int) -> None:
        place = ballot.shown.index(ballot.winner)
        for other, model in enumerate(ballot.shown):
            self.shown[model, other] += sign
            if other != place:
                self.pairs[ballot.winner, place, model, other] += sign
        self.wins[ballot.winner, place] += sign
        for model, cost in ballot.costs:
            self.cost[model] += sign * cost

    def add(self, other: "Cell") -> None:
        self.pairs += other.pairs
        self.shown += other.shown
        self.wins += other.wins
        self.cost += other.cost

    @property
    def picks(self) -> int:
        return int(self.wins.sum())


class Tally:
    """Cells by (day, kind), and the span of time of the lines that were counted."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], Cell] = {}
        self.lines = 0
        self.first = ""
        self.last = ""

    def read(self, lines: Iterable[bytes]) -> None:
        """Count journal lines; one that cannot be understood is logged and passed over."""
        for line in lines:
            try:
                facts = from_json(line)
            except ValueError:
                facts = None
            ballot = ballot_from(facts) if isinstance(facts, dict) else None
            if facts is None or ballot is None:
                _log.warning("pick_line_not_understood")
                continue
            self.count(ballot, 1)
            if (earlier := facts.get("supersedes")) and (before := ballot_from(earlier)):
                self.count(before, -1)
            self.lines += 1
            self.first = min(self.first or facts["time"], facts["time"])
            self.last = max(self.last, facts["time"])

    def count(self, ballot: Ballot, sign: int) -> None:
        key = ballot.day, ballot.kind
        if key not in self.cells:
            self.cells[key] = Cell.empty()
        self.cells[key].count(ballot, sign)

    def merge(self, other: "Tally") -> None:
        for key, cell in other.cells.items():
            self.cells.setdefault(key, Cell.empty()).add(cell)
        self.lines += other.lines
        self.first = min(filter(None, (self.first, other.first)), default="")
        self.last = max(self.last, other.last)

    def select(
        self, *, kind: str | None = None, since: str = "", until: str = "9999-99-99"
    ) -> Iterator[tuple[str, str, Cell]]:
        """Day, kind and cell, for days from `since` to `until` (both included)."""
        for (day, each), cell in sorted(self.cells.items()):
            if since <= day <= until and kind in {None, each}:
                yield day, each, cell


def total(cells: Iterable[Cell]) -> Cell:
    """Their sum."""
    summed = Cell.empty()
    for cell in cells:
        summed.add(cell)
    return summed


class Follower:
    """The tally of a whole folder, brought up to date by `refresh`. One thread at a time.

    The followed file stays open, so that its inode cannot be another's by the next time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._archived = Tally()
        self._known: dict[str, int] = {}
        self._current = Tally()
        self._file: IO[bytes] | None = None
        self._read_to = 0

    @property
    def lines(self) -> int:
        """How many lines have been counted."""
        return self._archived.lines + self._current.lines

    def refresh(self) -> bool:
        """Read what is new; whether there was anything. Blocks."""
        before = self._known.copy(), self._read_to, self._identity()
        snapshot = take_snapshot(self._folder)
        self._adopt_followed(snapshot.archives)
        if any(_generation(self._folder, stem) != known for stem, known in self._known.items()):
            self._archived, self._known = Tally(), {}  # one was removed or rewritten
        for stem in snapshot.archives:
            if stem not in self._known:
                self._take_archive(stem)
        self._follow(snapshot.current, snapshot.size)
        return before != (self._known, self._read_to, self._identity())

    def tally(self) -> Tally:
        """Everything in one; the caller's own."""
        merged = Tally()
        merged.merge(self._archived)
        merged.merge(self._current)
        return merged

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _identity(self) -> int | None:
        return os.fstat(self._file.fileno()).st_ino if self._file else None

    def _adopt_followed(self, archives: tuple[str, ...]) -> None:
        """The file we follow has become an archive: finish it instead of reading it again."""
        for stem in archives:
            if stem in self._known or self._file is None:
                continue
            with suppress(FileNotFoundError):
                if plain_path(self._folder, stem).stat().st_ino == self._identity():
                    self._current.read(complete_lines(self._file))
                    self._archived.merge(self._current)
                    self._known[stem] = _generation(self._folder, stem)
                    _keep(self._folder, stem, self._current, self._known[stem])
                    self._drop_followed()

    def _take_archive(self, stem: str) -> None:
        try:
            self._archived.merge(archive_tally(self._folder, stem))
        except FileNotFoundError:  # it was removed a moment ago
            return
        self._known[stem] = _generation(self._folder, stem)

    def _follow(self, file: IO[bytes] | None, size: int) -> None:
        if self._file is not None and (
            file is None or os.fstat(file.fileno()).st_ino != self._identity()
        ):
            self._drop_followed()
        if file is None:
            return
        if self._file is None:
            self._file = file
        else:
            file.close()
        self._file.seek(self._read_to)
        for lines in _batches(complete_lines(self._file, size - self._read_to)):
            self._current.read(lines)
            self._read_to += sum(map(len, lines))

    def _drop_followed(self) -> None:
        self.close()
        self._current, self._read_to = Tally(), 0


def archive_tally(folder: Path, stem: str) -> Tally:
    """The counts of an archive: those kept beside it, else counted now and kept. Blocks.

    FileNotFoundError: there is no such archive.
    """
    generation = _generation(folder, stem)
    with suppress(OSError, ValueError, KeyError, BadZipFile):
        return _load(_kept_path(folder, stem), generation)
    tally = Tally()
    with open_archive(folder, stem) as file:
        tally.read(complete_lines(file))
    _keep(folder, stem, tally, generation)
    return tally


def _keep(folder: Path, stem: str, tally: Tally, generation: int) -> None:
    """Counts are kept to save time; a folder that cannot be written only costs it."""
    with suppress(OSError):
        _save(_kept_path(folder, stem), tally, generation)


def remove_kept(folder: Path) -> None:
    """Forget counts whose archive is gone. Blocks."""
    stems = set(archive_stems(folder))
    for path in folder.glob("picks-*.npz*"):
        if path.name.partition(".")[0] not in stems:
            path.unlink(missing_ok=True)


def _kept_path(folder: Path, stem: str) -> Path:
    return folder / f"{stem}.npz"


def _generation(folder: Path, stem: str) -> int:
    """Changes when lines are taken out of an archive, and not when it is packed; -1: it is gone."""
    for path in (plain_path(folder, stem), packed_path(folder, stem)):
        with suppress(FileNotFoundError):
            return path.stat().st_mtime_ns
    return -1


def _save(path: Path, tally: Tally, generation: int) -> None:
    head = {
        "version": _VERSION,
        "models": MODELS,
        "generation": generation,
        "lines": tally.lines,
        "span": (tally.first, tally.last),
        "keys": list(tally.cells),
    }
    cells = list(tally.cells.values())
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez_compressed(
            file,
            head=np.frombuffer(json.dumps(head).encode(), np.uint8),
            pairs=np.array([cell.pairs for cell in cells], np.int32),
            shown=np.array([cell.shown for cell in cells], np.int32),
            wins=np.array([cell.wins for cell in cells], np.int32),
            cost=np.array([cell.cost for cell in cells], np.int64),
        )
    part.replace(path)


def _load(path: Path, generation: int) -> Tally:
    """Raises ValueError where it was counted for other models or other lines."""
    with np.load(path, allow_pickle=False) as kept:
        head = json.loads(kept["head"].tobytes())
        if (head["version"], head["models"]) != (_VERSION, list(MODELS)):
            raise ValueError("counted for other models")
        if head["generation"] != generation:
            raise ValueError("counted before lines were taken out")
        arrays = [kept[name].astype(np.int64) for name in ("pairs", "shown", "wins", "cost")]
    tally = Tally()
    tally.lines = head["lines"]
    tally.first, tally.last = head["span"]
    for index, (day, kind) in enumerate(head["keys"]):
        tally.cells[day, kind] = Cell(*(each[index] for each in arrays))
    return tally


def _batches(lines: Iterable[bytes], size: int = 1000) -> Iterator[list[bytes]]:
    batch = []
    for line in lines:
        batch.append(line)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
