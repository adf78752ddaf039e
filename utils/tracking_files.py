"""The files of a journal of JSON lines: their names, their locks, and how they are read.

A folder holds `picks.jsonl`, which grows, and archives `picks-<day>-<moment>-<nonce>.jsonl`, which
do not and are compressed to `.jsonl.gz` in their own time. Whoever writes, renames or replaces the
growing file holds `picks.lock`; whoever replaces archives holds `archives.lock`. POSIX only.
"""

import contextlib
import fcntl
import gzip
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

CURRENT = "picks.jsonl"
LOCK = "picks.lock"
ARCHIVES_LOCK = "archives.lock"
_PLAIN, _PACKED, _PART = ".jsonl", ".jsonl.gz", ".part"
_BLOCK = 1 << 20
_TAIL_BLOCK = 64 << 10


@contextmanager
def locked(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Hold the lock alone, against threads and processes. Blocks; raises OSError."""
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _shared(folder: Path) -> Iterator[None]:
    """Keep writers out. A folder that can only be read, and never had a lock, has no writers."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was there at one moment: archives by name, oldest first, and `size` bytes of `current`.

    What is read up to `size` and the last newline in it was complete at that moment.
    """

    archives: tuple[str, ...]
    current: IO[bytes] | None
    size: int


def take_snapshot(folder: Path) -> Snapshot:
    """Names and the opened growing file, between two batches. The caller closes it. Blocks."""
    with _shared(folder):
        stems = archive_stems(folder)
        try:
            current = (folder / CURRENT).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            return Snapshot(stems, None, 0)
        return Snapshot(stems, current, os.fstat(current.fileno()).st_size)


def archive_stems(folder: Path) -> tuple[str, ...]:
    found = {each.name.removesuffix(".gz") for each in folder.glob(f"picks-*{_PLAIN}*")}
    return tuple(sorted(each.removesuffix(_PLAIN) for each in found if each.endswith(_PLAIN)))


def open_archive(folder: Path, stem: str) -> IO[bytes]:
    """The plain file, or the packed one that took its place. FileNotFoundError: it was removed."""
    try:
        return plain_path(folder, stem).open("rb")
    except FileNotFoundError:
        return _unpacking(packed_path(folder, stem))


def _unpacking(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb"))


def plain_path(folder: Path, stem: str) -> Path:
    return folder / f"{stem}{_PLAIN}"


def packed_path(folder: Path, stem: str) -> Path:
    return folder / f"{stem}{_PACKED}"


def complete_lines(file: IO[bytes], size: int | None = None) -> Iterator[bytes]:
    """Lines with their newline, from where the file stands, at most `size` bytes further.

    What comes after the last newline was torn off a writer and is not read.
    """
    left, rest = size, b""
    while block := file.read(_BLOCK if left is None else min(_BLOCK, left)):
        if left is not None:
            left -= len(block)
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if newline:
            yield from (whole + newline).splitlines(keepends=True)


def cut_torn_tail(descriptor: int) -> tuple[int, int]:
    """Cut off what a writer that died left after the last newline: bytes kept, bytes cut.

    Only the holder of the lock may.
    """
    size = end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - _TAIL_BLOCK)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)
    return end, size - end


def sync_folder(folder: Path) -> None:
    """Make names durable: a file's own fsync does not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def pack_archives(folder: Path) -> None:
    """Compress what is still plain; a packing that was interrupted is begun anew. Blocks."""
    with locked(folder, ARCHIVES_LOCK):
        _pack(folder)


def _pack(folder: Path) -> None:
    for part in folder.glob(f"picks-*{_PACKED}{_PART}"):
        part.unlink()
    for plain in sorted(folder.glob(f"picks-*{_PLAIN}")):
        packed = packed_path(folder, plain.name.removesuffix(_PLAIN))
        if not packed.exists():
            with plain.open("rb") as lines:
                # the same lines, so the same time: whoever counted them need not count again
                _write_packed(packed, complete_lines(lines), os.fstat(lines.fileno()).st_mtime_ns)
        plain.unlink()
        sync_folder(folder)


def _write_packed(target: Path, lines: Iterator[bytes], time_ns: int | None = None) -> None:
    part = target.with_name(target.name + _PART)
    with part.open("wb") as file:
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6) as packed:
            for line in lines:
                packed.write(line)
        file.flush()
        os.fsync(file.fileno())
    if time_ns is not None:
        os.utime(part, ns=(time_ns, time_ns))
    part.replace(target)
    sync_folder(target.parent)


def remove_lines(folder: Path, goes: Callable[[bytes], bool]) -> int:
    """Take lines out of every file, as if they had never been; how many. Blocks; raises OSError."""
    with locked(folder, ARCHIVES_LOCK):
        # the growing file first: what is rotated meanwhile is clean already
        removed = _remove_from_current(folder, goes)
        _pack(folder)
        for stem in archive_stems(folder):
            removed += _remove_from_archive(packed_path(folder, stem), goes)
    return removed


def _remove_from_current(folder: Path, goes: Callable[[bytes], bool]) -> int:
    path = folder / CURRENT
    with locked(folder):
        try:
            with path.open("rb") as file:
                lines = list(complete_lines(file))
                times = os.fstat(file.fileno())
        except FileNotFoundError:
            return 0
        kept = [line for line in lines if not goes(line)]
        if len(kept) == len(lines):
            return 0
        part = path.with_name(CURRENT + _PART)
        with part.open("wb") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        # its time says of which day it is
        os.utime(part, ns=(times.st_atime_ns, times.st_mtime_ns))
        part.replace(path)
        sync_folder(folder)
    return len(lines) - len(kept)


def _remove_from_archive(path: Path, goes: Callable[[bytes], bool]) -> int:
    with _unpacking(path) as file:
        found = sum(1 for line in complete_lines(file) if goes(line))
    if found:
        with _unpacking(path) as file:
            _write_packed(path, (line for line in complete_lines(file) if not goes(line)))
    return found


def remove_archive(folder: Path, stem: str) -> None:
    """Forget a whole archive. Blocks."""
    with locked(folder, ARCHIVES_LOCK):
        for path in (plain_path(folder, stem), packed_path(folder, stem)):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        sync_folder(folder)
