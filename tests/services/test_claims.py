"""Claims: one winner a name, on disk before anything follows, whatever ends the process."""

import asyncio
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from models.errors import IdempotencyUnavailable
from services.claims import Claims, Earlier, Ticket
from tests.conftest import ROOT
from tests.utils.test_clock import set_clock

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600
SHOT = "9f2c4be1a1d84f0c8a3d5e6f70819203"


def ticket(name: str = "order-1", *, fingerprint: str = "a", key_id: str = "shop") -> Ticket:
    return Ticket(key_id, "/remove-background", name, fingerprint, kept_s=DAY_S)


@asynccontextmanager
async def opened(folder: Path, clock: list[float] | None = None) -> AsyncIterator[Claims]:
    claims = Claims(folder, now=lambda: clock[0]) if clock else Claims(folder)
    await claims.open()
    yield claims
    await claims.close()


async def test_the_first_takes_the_name_and_the_next_is_told_how_far_it_came(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as claims:
        first = ticket()
        assert await claims.take(first) is None
        assert await claims.take(ticket(fingerprint="b")) == Earlier("a", None, running=True)
        await claims.bind(first, SHOT)
        assert await claims.take(ticket()) == Earlier("a", SHOT, running=True)
        await claims.finish(first)
        assert await claims.take(ticket()) == Earlier("a", SHOT, running=False)
        assert await claims.take(ticket(key_id="other")) is None


async def test_a_request_that_came_to_nothing_leaves_its_name_free(tmp_path: Path) -> None:
    async with opened(tmp_path) as claims:
        first, second = ticket(), ticket(fingerprint="b")
        await claims.take(first)
        await claims.forget(first)
        assert await claims.take(second) is None
        await claims.forget(first)  # it is somebody else's by now
        assert await claims.take(ticket()) == Earlier("b", None, running=True)


async def test_a_claim_that_was_lost_cannot_be_bound(tmp_path: Path) -> None:
    async with opened(tmp_path) as claims:
        first = ticket()
        await claims.take(first)
        await claims.forget(first)
        with pytest.raises(IdempotencyUnavailable, match="lost"):
            await claims.bind(first, SHOT)


async def test_a_name_is_kept_for_its_time_and_not_longer(tmp_path: Path) -> None:
    clock = [1e9]
    async with opened(tmp_path, clock) as claims:
        first = ticket()
        await claims.take(first)
        await claims.bind(first, SHOT)
        await claims.finish(first)
        clock[0] += DAY_S - 1
        await claims.sweep()
        assert await claims.take(ticket()) == Earlier("a", SHOT, running=False)
        clock[0] += 1
        assert await claims.take(ticket(fingerprint="b")) is None
        clock[0] += DAY_S
        await claims.sweep()
        assert await claims._run(_count) == 0


async def test_a_shot_can_be_replaced_by_one_that_is_named(tmp_path: Path) -> None:
    async with opened(tmp_path) as claims:
        first, second = ticket(), ticket()
        await claims.take(first)
        await claims.bind(first, SHOT, also=ticket("twin"))
        assert await claims.take(ticket("twin")) == Earlier("a", SHOT, running=False)
        assert await claims.take(second, instead_of="another") == Earlier("a", SHOT, running=True)
        assert await claims.take(second, instead_of=SHOT) is None
        await claims.finish(first)
        assert await claims.take(ticket()) == Earlier("a", None, running=True)


async def test_between_two_services_every_name_has_one_winner(tmp_path: Path) -> None:
    async with opened(tmp_path) as left, opened(tmp_path) as right:
        names = [f"order-{number}" for number in range(20)]
        tries = [each.take(ticket(name)) for name in names for each in (left, right)]
        found = await asyncio.gather(*tries)
        pairs = zip(found[::2], found[1::2], strict=True)
        assert all({None, Earlier("a", None, running=True)} == set(pair) for pair in pairs)


async def test_a_service_that_is_closed_no_longer_holds_its_names(tmp_path: Path) -> None:
    async with opened(tmp_path) as right:
        async with opened(tmp_path) as left:
            await left.take(ticket("begun"))
            bound = ticket("bound")
            await left.take(bound)
            await left.bind(bound, SHOT)
            assert await right.take(ticket("begun")) == Earlier("a", None, running=True)
            assert await right.take(ticket("bound")) == Earlier("a", SHOT, running=True)
        assert await right.take(ticket("begun")) is None
        assert await right.take(ticket("bound")) == Earlier("a", SHOT, running=False)
        with pytest.raises(IdempotencyUnavailable, match="stopped"):
            await left.take(ticket("late"))


PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from services.claims import Claims, Ticket

async def main(folder, last):
    claims = Claims(Path(folder))
    ticket = Ticket("shop", "/remove-background", "order-1", "a", kept_s=86400)
    await claims.take(ticket)
    os.write(1, b"TAKEN\\n")
    if last == "bound":
        await claims.bind(ticket, "9f2c4be1a1d84f0c8a3d5e6f70819203")
        os.write(1, b"BOUND\\n")
    os.kill(os.getpid(), 9)

asyncio.run(main(*sys.argv[1:]))
"""


def killed_after(last: str, folder: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """A process that ends itself with SIGKILL once its claim is taken, or bound."""
    return subprocess.run(
        [*before, sys.executable, "-c", PROGRAM, str(folder), last],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("last", "then"), [("taken", None), ("bound", Earlier("a", SHOT, running=False))]
)
async def test_after_kill_9_a_name_is_free_only_if_no_shot_was_begun(
    tmp_path: Path, last: str, then: Earlier | None
) -> None:
    assert killed_after(last, tmp_path).returncode == -signal.SIGKILL
    assert [path.suffix for path in tmp_path.glob("idempotency.*.lock")] == [".lock"]
    async with opened(tmp_path) as claims:
        assert await claims.take(ticket()) == then
        assert len(list(tmp_path.glob("idempotency.*.lock"))) == 1


def test_what_is_claimed_has_reached_the_disk_before_anything_follows(tmp_path: Path) -> None:
    """As the kernel sees it: the log is written, then synced, and only then does the next begin."""
    if shutil.which("strace") is None or subprocess.run(["strace", "true"], check=False).returncode:
        pytest.skip("strace is not installed, or not allowed here")
    trace = tmp_path / "trace"
    calls = "trace=pwrite64,fsync,fdatasync,write"
    killed_after("bound", tmp_path / "data", "strace", "-f", "-y", "-o", str(trace), "-e", calls)
    seen = [_kind(line) for line in trace.read_text().splitlines()]
    taken, bound = seen.index("TAKEN"), seen.index("BOUND")
    for part in (seen[:taken], seen[taken:bound]):
        steps = [step for step in part if step in ("log", "sync")]
        assert "log" in steps
        assert steps[-1] == "sync"


def _kind(line: str) -> str:
    if marker := re.search(r'write\(1[<,].*"(TAKEN|BOUND)', line):
        return marker[1]
    if "sqlite3-wal>" not in line:
        return ""
    return "sync" if re.search(r"f(data)?sync\(", line) else "log"


async def test_every_commit_is_synced(tmp_path: Path) -> None:
    async with opened(tmp_path) as claims:
        pragma = await claims._run(lambda each: each.execute("PRAGMA synchronous").fetchone())
        mode = await claims._run(lambda each: each.execute("PRAGMA journal_mode").fetchone())
    assert (pragma, mode) == ((2,), ("wal",))


@pytest.mark.parametrize("damage", [b"no database at all" * 500, None])
async def test_a_database_that_cannot_be_used_is_refused_until_it_can(
    tmp_path: Path, damage: bytes | None
) -> None:
    path = tmp_path / "idempotency.sqlite3"
    if damage is None:
        path.mkdir()
    else:
        path.write_bytes(damage)
    claims = Claims(tmp_path)
    with pytest.raises(IdempotencyUnavailable):
        await claims.open()
    with pytest.raises(IdempotencyUnavailable):
        await claims.take(ticket())
    assert claims.problem is not None
    assert claims.problem.startswith("idempotency.sqlite3 in DATA_DIR: ")
    path.rmdir() if damage is None else path.unlink()
    assert await claims.take(ticket()) is None
    assert claims.problem is None
    await claims.close()


async def test_pages_that_were_overwritten_are_noticed_at_the_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as claims:
        await claims._run(_fill)
    path = tmp_path / "idempotency.sqlite3"
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 4] = bytes(range(256)) * 16
    path.write_bytes(content)
    damaged = Claims(tmp_path)
    with pytest.raises(IdempotencyUnavailable):
        await damaged.open()
    await damaged.close()


def _fill(database: sqlite3.Connection) -> None:
    with database:
        database.execute("BEGIN")
        rows = [("shop", "/process", f"order-{number}") for number in range(200)]
        insert = "INSERT INTO claims VALUES (?, ?, ?, 'a', NULL, 'token', NULL, 1e12)"
        database.executemany(insert, rows)


def _count(database: sqlite3.Connection) -> int:
    (count,) = database.execute("SELECT count(*) FROM claims").fetchone()
    return int(count)


async def test_a_clock_that_jumps_a_day_costs_no_key_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that ends before its day is over would be charged for again."""
    async with opened(tmp_path) as claims:
        first = ticket()
        await claims.take(first)
        await claims.bind(first, SHOT)
        await claims.finish(first)
        set_clock(monkeypatch, DAY_S + 60)
        await claims.sweep()
        assert await claims.take(ticket()) == Earlier("a", SHOT, running=False)
        await claims.take(ticket("during"))
    async with opened(tmp_path) as claims:  # by the new clock alone: what was given then still is
        assert await claims._run(_count) == 2
        await claims.sweep()
        assert await claims._run(_count) == 2
