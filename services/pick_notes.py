"""What was picked for a shot, remembered beside the journal so that one pick counts once.

A note is written before the line and settled after it. One that a stopped process left unsettled is
looked up in the journal, so that a pick asked for again is neither lost nor counted twice.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

KeptIn: TypeAlias = Literal["journal", "log"]


@dataclass(frozen=True, slots=True)
class Note:
    """The pick of a shot: its journal line and where that is kept (None: not settled).

    `earlier` is the pick before it.
    """

    line: Mapping[str, Any]
    kept_in: KeptIn | None
    earlier: "Note | None" = None

    @property
    def preference_id(self) -> str:
        return str(self.line["preference_id"])

    @property
    def model(self) -> str:
        return str(self.line["model"])

    def settled(self, kept_in: KeptIn) -> "Note":
        """What came before it is in the line now, and need not be remembered."""
        return replace(self, kept_in=kept_in, earlier=None)


def preference_id_of(request_id: str, model: str, earlier: str | None) -> str:
    """The same for the same pick after the same pick: a line that is written twice can be told."""
    text = f"{request_id} {model} {earlier or ''}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class PickNotes:
    """Notes by shot, in small files. All of it blocks and raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def try_alone(self, request_id: str) -> int | None:
        """A descriptor that keeps everybody else from picking for this shot until it is closed.

        It holds in every process, and for one in 256 other shots; None while another has it.
        """
        home = self._path(request_id).parent
        home.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def read(self, request_id: str) -> Note | None:
        with suppress(FileNotFoundError, NotADirectoryError, ValueError, KeyError):
            return _note(json.loads(self._path(request_id).read_bytes()))
        return None

    def write(self, request_id: str, note: Note) -> None:
        path = self._path(request_id)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(note)), encoding="utf-8")
        part.replace(path)

    def remove(self, request_id: str) -> bool:
        """Whether there was one."""
        try:
            self._path(request_id).unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def remove_before(self, oldest_s: float) -> None:
        """Forget notes last written before that moment (seconds since 1970)."""
        for path in self._folder.glob("*/*.json"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest_s:
                    path.unlink()

    def _path(self, request_id: str) -> Path:
        return self._folder / request_id[:2] / f"{request_id}.json"


def _note(found: Mapping[str, Any]) -> Note:
    earlier = found["earlier"]
    return Note(found["line"], found["kept_in"], _note(earlier) if earlier else None)
