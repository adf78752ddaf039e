"""A million picks: how long stats take, warm and cold; and how many picks a second are held.

`python -m bench.picks_speed [--lines 1000000] [--service]` prints JSON. `--service` also posts
picks of prepared shots to a real uvicorn with PICKS_FSYNC=always, at 200 a second.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from models.preferences import StatsQuery
from models.schemas import ImageInfo, ModelId, ResultEntry, ShotRecord
from services.pick_stats import stats_of
from services.preferences import fits_by_kind
from services.tally import Follower
from utils.tracking import Journal
from utils.tracking_files import archive_stems

ROOT = Path(__file__).parent.parent
ROTATE_BYTES = 64 << 20
KINDS = ("photo", "artwork", "checkerboard", "transparent")
DAYS = 120
FIVE = list(ModelId)[:5]
RATE = 200
SECONDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--service", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured: dict[str, Any] = {}
        if asked.lines:
            measured["stats"] = _stats(Path(folder) / "picks", asked.lines)
        measured["journal"] = {
            policy: asyncio.run(_held(Path(folder) / policy, policy))
            for policy in ("always", "interval", "never")
        }
        if asked.service:
            measured["service"] = asyncio.run(_service(Path(folder) / "service"))
    print(json.dumps(measured, indent=1))


def _stats(folder: Path, count: int) -> dict[str, Any]:
    asyncio.run(_fill(folder, count))
    size = sum(path.stat().st_size for path in folder.glob("picks*.jsonl*"))
    followed = Follower(folder)
    cold_s = _seconds(followed.refresh)
    again = Follower(folder)
    kept_s = _seconds(again.refresh)
    asyncio.run(_fill(folder, 1000))
    return {
        "lines": followed.lines,
        "bytes_on_disk": size,
        "archives": len(archive_stems(folder)),
        "first_count_s": cold_s,
        "start_with_kept_counts_s": kept_s,
        "after_1000_new_lines_s": _seconds(again.refresh),
        "stats_s": _seconds(lambda: stats_of(again.tally(), StatsQuery())),
        "stats_by_kind_s": _seconds(lambda: stats_of(again.tally(), StatsQuery(by="kind"))),
        "stats_by_day_s": _seconds(lambda: stats_of(again.tally(), StatsQuery(by="day"))),
        "learn_s": _seconds(lambda: fits_by_kind(again.tally(), date(2026, 11, 24), 14)),
        "cells": len(again.tally().cells),
    }


async def _fill(folder: Path, count: int) -> None:
    journal = Journal(folder, fsync="never", rotate_bytes=ROTATE_BYTES)
    lines = _lines(count)
    while batch := list(islice(lines, 2000)):
        await asyncio.gather(*(journal.append(line) for line in batch))
    await journal.close()


def _lines(count: int) -> Iterator[dict[str, Any]]:
    chance = random.Random(4)  # noqa: S311  # tastes, no secrets
    began = datetime(2026, 7, 1, tzinfo=UTC)
    for number in range(count):
        shown = [_candidate(model) for model in chance.sample(FIVE, 5)]
        moment = began + timedelta(days=DAYS * number / count)
        yield {
            "v": 1,
            "preference_id": secrets.token_hex(16),
            "time": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "request_id": secrets.token_hex(16),
            "key_id": "shop",
            "model": chance.choice(shown)["model"],
            "reason": None,
            "metadata": {"order": number},
            "kind": chance.choice(KINDS),
            "features": {"megapixels": 1.92, "had_alpha": False, "agreement": 0.97},
            "shown": shown,
            "not_shown": [],
            "supersedes": None,
        }


def _candidate(model: ModelId) -> dict[str, Any]:
    return {
        "model": model.value,
        "status": "succeeded",
        "score": 0.91,
        "rank": 2,
        "latency_ms": 1840,
        "cost_usd": 0.005,
    }


async def _held(folder: Path, fsync: Any) -> dict[str, Any]:  # noqa: ANN401  # a policy's name
    """RATE picks a second, each a caller of its own, evenly spaced."""
    journal = Journal(folder, fsync=fsync)
    lines = list(_lines(RATE * SECONDS))
    waits = await _paced([lambda line=line: journal.append(line) for line in lines])
    await journal.close()
    return {**waits, "batches": journal.batches}


async def _service(folder: Path) -> dict[str, Any]:
    ids = await asyncio.to_thread(_prepare_records, folder, RATE * SECONDS)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = {**os.environ, "TEMP_DIR": str(folder), "WEIGHTS_DOWNLOAD": "false"}
    command = [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)]
    service = subprocess.Popen(  # noqa: ASYNC220  # it outlives this line
        command, cwd=ROOT, env={**environment, "LOG_LEVEL": "WARNING"}, stdout=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            await _until_alive(client)

            before = _processor_s(service.pid)
            wire = _Wire(port)
            waits = await _paced([partial(_post, wire, each) for each in ids])
            used_s = _processor_s(service.pid) - before
            found = (await client.get("/preferences/stats")).json()
            ms = round(1000 * used_s / len(ids), 1)
            return {**waits, "processor_ms_a_pick": ms, "picks_counted": found["picks"]}
    finally:
        service.terminate()
        service.wait()


class _Wire:
    """Connections that stay open: the client must not be what is measured."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []


async def _post(wire: _Wire, request_id: str) -> None:
    body = json.dumps({"request_id": request_id, "model": "local-isnet"})
    opened = wire.idle.pop() if wire.idle else await asyncio.open_connection("127.0.0.1", wire.port)
    reader, writer = opened
    head = f"POST /preferences HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write((head + body).encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    assert b" 201 " in answer.split(b"\r\n", 1)[0], answer
    length = next(each for each in answer.lower().split(b"\r\n") if b"content-length" in each)
    await reader.readexactly(int(length.split(b":")[1]))
    wire.idle.append(opened)


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _until_alive(client: httpx.AsyncClient) -> None:
    for _ in range(100):
        with contextlib.suppress(httpx.TransportError):
            (await client.get("/health")).raise_for_status()
            return
        await asyncio.sleep(0.2)


def _prepare_records(folder: Path, count: int) -> list[str]:
    now = datetime.now(UTC)
    image = ImageInfo(width=9, height=9, format="PNG", bytes=1, sha256="", had_alpha=False)
    results = [ResultEntry(model=each, status="succeeded", cost_usd=0.0) for each in FIVE]
    ids = [secrets.token_hex(16) for _ in range(count)]
    for request_id in ids:
        record = ShotRecord(
            request_id=request_id,
            status="complete",
            created_at=now,
            image=image,
            results=results,
            cost_usd=0,
            latency_ms=1,
            expires_at=now + timedelta(days=1),
        )
        path = folder / "data" / "records" / request_id[:2] / f"{request_id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**record.model_dump(mode="json"), "owner": "open"}), "utf-8")
    return ids


async def _paced(calls: list[Any]) -> dict[str, Any]:
    """Start RATE calls a second, whatever the earlier ones do; how long each waited."""
    began = time.monotonic()
    waits: list[float] = []

    async def one(number: int, call: Any) -> None:  # noqa: ANN401  # a coroutine function
        due = began + number / RATE
        await asyncio.sleep(max(0, due - time.monotonic()))
        await call()
        waits.append(time.monotonic() - due)

    await asyncio.gather(*(one(number, call) for number, call in enumerate(calls)))
    took, waits = time.monotonic() - began, sorted(waits)
    return {
        "picks": len(calls),
        "a_second": round(len(calls) / took),
        "wait_ms_p50": round(1000 * waits[len(waits) // 2], 1),
        "wait_ms_p99": round(1000 * waits[len(waits) * 99 // 100], 1),
    }


def _seconds(work: Any) -> float:  # noqa: ANN401  # anything callable
    began = time.monotonic()
    work()
    return round(time.monotonic() - began, 3)


if __name__ == "__main__":
    main()
