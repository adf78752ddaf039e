"""Where lives what must outlive this process, also where the volume meant for it cannot be written.

A volume may arrive owned by somebody else, mounted read-only, or full. The service then works on in
TEMP_DIR and says so: at start in the log, and in /ready for as long as it runs.
"""

import logging
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)

LEDGER = "costs.jsonl"
_RECORDS = "records"
_SIGNING_KEY = "signing.key"
_MUST_BE_OURS = (LEDGER, _RECORDS, _SIGNING_KEY)


@dataclass(frozen=True, slots=True)
class DataFolder:
    """`path` is for ledger, records, breakers, keys and claims; `problem` says what is wrong.

    `picks` is always where it was asked for: a pick is acknowledged when it is kept for good, and
    PICKS_ON_FAILURE says what becomes of one that cannot be.
    """

    path: Path
    picks: Path
    problem: str | None = None

    @property
    def records(self) -> Path:
        return self.path / _RECORDS

    @property
    def signing_key(self) -> Path:
        return self.path / _SIGNING_KEY


def open_data_folder(wanted: Path | None, *, temp_dir: Path) -> DataFolder:
    """`wanted`, or a folder in `temp_dir` where there is none or it cannot be written. Blocks.

    Raises OSError where `temp_dir` cannot be used either.
    """
    spare = temp_dir / "data"
    wanted = wanted or spare
    error = _why_unwritable(wanted)
    if error is None:
        return DataFolder(wanted, wanted / "picks")
    if wanted == spare:
        raise error
    spare.mkdir(parents=True, exist_ok=True)
    _carry_over_ledger(wanted, spare)
    reason = error.strerror or type(error).__name__
    _log.error("data_dir_unwritable", extra={"reason": reason, "instead": "TEMP_DIR"})
    return DataFolder(
        spare,
        wanted / "picks",
        f"DATA_DIR cannot be written ({reason}): ledger, records and keys are kept in TEMP_DIR and "
        "go with it; picks are treated as PICKS_ON_FAILURE says.",
    )


def _why_unwritable(folder: Path) -> OSError | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(b"x")
            probe.flush()
    except OSError as error:
        return error
    for path in (folder / name for name in _MUST_BE_OURS):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            return PermissionError(None, f"{path.name} belongs to another user")
    return None


def _carry_over_ledger(wanted: Path, spare: Path) -> None:
    """What the day has cost so far still counts where it can be read."""
    if not (spare / LEDGER).exists():
        with suppress(OSError):
            shutil.copyfile(wanted / LEDGER, spare / LEDGER)
