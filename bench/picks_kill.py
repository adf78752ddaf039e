"""SIGKILLs at random moments while four processes write to one journal: is anything lost?

`python -m bench.picks_kill [--kills 1000]` prints JSON and ends non-zero where a line that was
acknowledged is missing or there twice, or a reader met half a line. Acknowledgements reach this
process over a pipe, which outlives the writer. Files are put away and compressed all the while.
"""

import argparse
import asyncio
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from utils.tracking import Journal
from utils.tracking_files import (
    CURRENT,
    complete_lines,
    open_archive,
    pack_archives,
    take_snapshot,
)

WRITERS = 4
ROTATE_BYTES = 4 << 20
AT_ONCE = 60
PADDING = (200, 20_000)  # bytes: a batch is up to a megabyte, so that a kill may fall into a write
LIFE_S = (0.005, 0.06)
READ_EVERY = 25


@dataclass
class Writer:
    """A process that writes, and what it has told us over its pipe."""

    pid: int
    pipe: int
    text: bytes = b""


@dataclass
class Count:
    """What became of it all. `cut_mid_write` writers died with a batch in part on the disk."""

    kills: int = 0
    acknowledged: int = 0
    lines: int = 0
    cut_mid_write: int = 0
    written_but_never_answered: int = 0
    archives: int = 0
    torn_lines_read: int = 0
    lost: int = 0
    doubled: int = 0
    seconds: float = 0.0
    told: list[str] = field(default_factory=list, repr=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count = _measure(Path(folder), asked.kills)
    shown = {name: value for name, value in asdict(count).items() if name != "told"}
    print(json.dumps(shown, indent=1))
    sys.exit(bool(count.lost or count.doubled or count.torn_lines_read))


def _measure(folder: Path, kills: int) -> Count:
    count = Count()
    began = time.monotonic()
    chance = random.Random(1)  # noqa: S311  # moments, no secrets
    writers = [_start(folder) for _ in range(WRITERS)]
    while count.kills < kills:
        time.sleep(chance.uniform(*LIFE_S))
        victim = chance.randrange(WRITERS)
        _kill(writers[victim], count)
        writers[victim] = _start(folder)
        if count.kills % READ_EVERY == 0:
            _read(folder, count, archives=2)
        for writer in writers:
            _listen(writer, count)
    for writer in writers:
        _kill(writer, count, counted=False)
    count.seconds = round(time.monotonic() - began, 1)
    return _judged(folder, count)


def _start(folder: Path) -> Writer:
    """Fork a writer; this process has no thread."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        os.set_blocking(ours, False)
        return Writer(pid, ours)
    try:
        os.close(ours)
        asyncio.run(_write_for_ever(folder, theirs))
    finally:
        os._exit(1)


async def _write_for_ever(folder: Path, pipe: int) -> None:
    journal = Journal(folder, rotate_bytes=ROTATE_BYTES)
    chance = random.Random()  # noqa: S311

    async def write(number: int) -> None:
        while True:
            name = f"{os.getpid()}-{number}-{time.monotonic_ns()}"
            await journal.append({"id": name, "padding": "x" * chance.randint(*PADDING)})
            repairs, journal.repairs = journal.repairs, 0
            os.write(pipe, f"{name} {repairs}\n".encode())

    await asyncio.gather(*(write(number) for number in range(AT_ONCE)))


def _kill(writer: Writer, count: Count, *, counted: bool = True) -> None:
    os.kill(writer.pid, signal.SIGKILL)
    os.waitpid(writer.pid, 0)
    _listen(writer, count)
    os.close(writer.pipe)
    count.kills += counted


def _listen(writer: Writer, count: Count) -> None:
    """Take what has been said; a last word without its newline was not finished and is none."""
    while select.select([writer.pipe], [], [], 0)[0]:
        said = os.read(writer.pipe, 1 << 20)
        if not said:
            break
        whole, _, writer.text = (writer.text + said).rpartition(b"\n")
        for word in whole.decode().split("\n"):
            if word:
                name, repairs = word.split()
                count.told.append(name)
                count.cut_mid_write += int(repairs)


def _read(folder: Path, count: Count, archives: int | None = None) -> list[str]:
    """Every id a reader finds now, in all or in the youngest archives and the growing file."""
    names = []
    for line in _lines(folder, archives):
        try:
            names.append(json.loads(line)["id"])
        except ValueError:
            count.torn_lines_read += 1
    return names


def _lines(folder: Path, archives: int | None) -> Iterator[bytes]:
    snapshot = take_snapshot(folder)
    for stem in snapshot.archives[-archives:] if archives else snapshot.archives:
        with open_archive(folder, stem) as file:
            yield from complete_lines(file)
    if snapshot.current is not None:
        with snapshot.current as file:
            yield from complete_lines(file, snapshot.size)


def _judged(folder: Path, count: Count) -> Count:
    current = folder / CURRENT
    if current.exists() and not current.read_bytes().endswith(b"\n"):
        count.cut_mid_write += 1
    pack_archives(folder)
    found = Counter(_read(folder, count))
    told = set(count.told)
    count.acknowledged, count.lines = len(told), sum(found.values())
    count.lost = sum(1 for name in told if found[name] == 0)
    count.doubled = sum(1 for times in found.values() if times > 1)
    count.written_but_never_answered = sum(1 for name in found if name not in told)
    count.archives = len(list(folder.glob("*.jsonl.gz")))
    return count


if __name__ == "__main__":
    main()
