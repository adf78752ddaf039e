"""The journal: acknowledged means on disk, whole lines only, whoever dies or writes beside it."""

import asyncio
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import ROOT
from utils.tracking import Fsync, Journal
from utils.tracking_files import (
    CURRENT,
    archive_stems,
    complete_lines,
    open_archive,
    pack_archives,
    remove_lines,
    take_snapshot,
)

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


def write(folder: Path, lines: list[dict[str, object]], **options: object) -> Journal:
    """Append one after another, then close."""
    journal = Journal(folder, **options)  # type: ignore[arg-type]  # the tests' own options

    async def work() -> None:
        for line in lines:
            await journal.append(line)
        await journal.close()

    run(work)
    return journal


def all_lines(folder: Path) -> list[dict[str, object]]:
    """Everything a reader sees: archives, then the growing file."""
    found = []
    snapshot = take_snapshot(folder)
    for stem in snapshot.archives:
        with open_archive(folder, stem) as file:
            found += [json.loads(line) for line in complete_lines(file)]
    if snapshot.current:
        with snapshot.current as file:
            found += [json.loads(line) for line in complete_lines(file, snapshot.size)]
    return found


def numbered(count: int, start: int = 0) -> list[dict[str, object]]:
    return [{"n": number} for number in range(start, start + count)]


def test_what_arrives_while_a_batch_is_written_shares_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    async def work() -> None:
        await asyncio.gather(*(journal.append(line) for line in numbered(500)))
        await journal.close()

    run(work)
    assert all_lines(tmp_path) == numbered(500)
    assert 1 <= journal.batches <= 3


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_every_policy_keeps_every_line(tmp_path: Path, fsync: Fsync) -> None:
    write(tmp_path, numbered(5), fsync=fsync, interval_s=0.01)
    assert all_lines(tmp_path) == numbered(5)


def test_a_torn_tail_is_never_read_and_is_cut_off_before_the_next_line(tmp_path: Path) -> None:
    write(tmp_path, numbered(2))
    with (tmp_path / CURRENT).open("ab") as file:
        file.write(b'{"n": 99, "torn')
    assert all_lines(tmp_path) == numbered(2)
    journal = write(tmp_path, numbered(1, start=2))
    assert journal.repairs == 1
    assert (tmp_path / CURRENT).read_bytes() == b'{"n":0}\n{"n":1}\n{"n":2}\n'


def test_a_torn_tail_longer_than_a_block_is_cut_as_well(tmp_path: Path) -> None:
    write(tmp_path, numbered(1))
    with (tmp_path / CURRENT).open("ab") as file:
        file.write(b"x" * 200_000)
    write(tmp_path, numbered(1, start=1))
    assert all_lines(tmp_path) == numbered(2)


def test_a_full_file_is_put_away_and_compressed_and_nothing_is_lost(tmp_path: Path) -> None:
    write(tmp_path, numbered(100), rotate_bytes=200)
    assert len(list(tmp_path.glob("*.jsonl.gz"))) > 2
    assert all_lines(tmp_path) == numbered(100)


def test_a_new_day_begins_a_new_file_named_by_the_old(tmp_path: Path) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    write(tmp_path, numbered(1))
    write(tmp_path, numbered(1, start=1), now=lambda: tomorrow)
    (stem,) = archive_stems(tmp_path)
    assert stem.startswith(f"picks-{datetime.now(UTC).date()}")
    assert (tmp_path / CURRENT).read_bytes() == b'{"n":1}\n'


def test_a_reader_that_finds_both_forms_of_an_archive_reads_it_once(tmp_path: Path) -> None:
    plain = tmp_path / "picks-2026-11-24-x-1.jsonl"
    plain.write_bytes(b'{"n":0}\n')
    Path(f"{plain}.gz").write_bytes(gzip.compress(b'{"n":0}\n'))
    Path(f"{plain}.gz.part").write_bytes(b"half a file")
    assert all_lines(tmp_path) == numbered(1)
    pack_archives(tmp_path)
    assert [path.suffix for path in tmp_path.glob("picks-*")] == [".gz"]
    assert all_lines(tmp_path) == numbered(1)


def test_lines_are_taken_out_of_every_file(tmp_path: Path) -> None:
    write(tmp_path, numbered(30), rotate_bytes=100)
    removed = remove_lines(tmp_path, lambda line: json.loads(line)["n"] % 2 == 1)
    assert removed == 15
    assert [line["n"] for line in all_lines(tmp_path)] == list(range(0, 30, 2))


def test_a_folder_that_cannot_be_is_an_error_for_each_caller(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    journal = Journal(tmp_path / "file" / "picks")

    async def work() -> None:
        answers = await asyncio.gather(
            *(journal.append(line) for line in numbered(3)), return_exceptions=True
        )
        assert all(isinstance(each, OSError) for each in answers)

    run(work)


SHORT_WRITE = """
import asyncio, resource, sys
from pathlib import Path
from utils.tracking import Journal

async def main():
    journal = Journal(Path(sys.argv[1]))
    await journal.append({"n": 0})
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, resource.RLIM_INFINITY))
    try:
        await journal.append({"n": 1, "long": "x" * 100})
    except OSError:
        print("refused")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await journal.append({"n": 2})

asyncio.run(main())
"""


def test_a_write_that_fits_in_part_leaves_nothing_behind(tmp_path: Path) -> None:
    """A file size limit makes the kernel write some of it, as a disk does that fills up."""
    done = subprocess.run(
        [sys.executable, "-c", SHORT_WRITE, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["refused"]
    assert (tmp_path / CURRENT).read_bytes() == b'{"n":0}\n{"n":2}\n'


ONE_ANSWERED = """
import asyncio, os, sys
from pathlib import Path
from utils.tracking import Journal

async def main():
    await Journal(Path(sys.argv[1])).append({"mark": "the-line"})
    os.write(1, b"ANSWERED")

asyncio.run(main())
"""


def test_the_kernel_sees_write_then_fsync_then_the_answer(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: the order of the system calls was not looked at")
    trace = tmp_path / "trace"
    subprocess.run(
        [
            *["strace", "-f", "-e", "trace=write,fsync", "-o"],
            trace,
            sys.executable,
            "-c",
            ONE_ANSWERED,
            tmp_path / "picks",
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )
    calls = trace.read_text()
    line = re.search(r'write\((\d+), "\{\\"mark', calls)
    assert line is not None
    fsync = re.compile(rf"fsync\({line[1]}\)\s+= 0|fsync resumed>\)\s+= 0").search(
        calls, line.end()
    )
    assert fsync is not None
    assert fsync.start() < calls.index("ANSWERED")


def test_every_line_acknowledged_before_a_sigkill_is_read_back_once() -> None:
    """A short run of bench/picks_kill.py, which counts and judges by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.picks_kill", "--kills", "20"],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counted = json.loads(done.stdout)
    assert counted["kills"] == 20
    assert counted["acknowledged"] > 0
    assert counted["lost"] == counted["doubled"] == counted["torn_lines_read"] == 0
