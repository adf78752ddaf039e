"""Room on the disk: asked for before the work, and told of when it runs out all the same."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.errors import InsufficientStorage
from utils import disk


@dataclass(frozen=True, slots=True)
class Room:
    """A folder on a disk of which `min_free_bytes` must stay free."""

    folder: Path
    min_free_bytes: int

    def check(self, needed_bytes: int = 0, *, what: str = "results") -> None:
        """Raises InsufficientStorage, with the numbers, where there is less than is needed."""
        free = shutil.disk_usage(self.folder).free
        required = needed_bytes + self.min_free_bytes
        if free < required:
            raise InsufficientStorage(
                f"{_mib(free)} MiB of disk are free; {what} need {_mib(needed_bytes)} MiB, and "
                f"{_mib(self.min_free_bytes)} MiB must stay free.",
                limit=required,
                actual=free,
            )


def _mib(size: int) -> int:
    return -(-size // (1 << 20))


@contextmanager
def full_disk_said(what: str) -> Iterator[None]:
    """A full disk as InsufficientStorage; every other OSError passes."""
    try:
        yield
    except OSError as error:
        if disk.is_full(error):
            raise InsufficientStorage(f"There is no room left for {what}.") from error
        raise
