"""Room on the disk: asked for before the work, and told of when the disk refuses all the same."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.errors import InsufficientStorage, ServiceError, StorageUnavailable
from utils import disk

_RETRY_AFTER_S = 10


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
    """A disk that refuses as InsufficientStorage or StorageUnavailable; another OSError passes."""
    try:
        yield
    except OSError as error:
        if (refusal := refusal_of_disk(error, what)) is not None:
            raise refusal from error
        raise


def refusal_of_disk(error: OSError, what: str = "it") -> ServiceError | None:
    """What to tell a caller of a disk that is full or cannot be used; None for anything else."""
    if disk.is_full(error):
        return InsufficientStorage(f"There is no room left for {what}.")
    if disk.is_unusable(error):
        return StorageUnavailable(
            f"The disk for {what} cannot be written or read at the moment.",
            retry_after_s=_RETRY_AFTER_S,
        )
    return None
