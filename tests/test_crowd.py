"""Fifty shots at once, five of which hang for ever: nobody else waits for those, the line has an
end, every cent is known, and nothing is left behind.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from bench.soak import counts
from main import create_app
from models.schemas import ModelId
from sandbox.marks import draw
from sandbox.opening import Sandbox, open_sandbox
from services.remover import BackgroundRemover
from tests.conftest import make_settings, png_bytes, problem
from tests.fakes import FakeRemover
from tests.sandbox_thread import provider_settings

pytestmark = pytest.mark.anyio

SHOTS, HANGING, RUNNING, WAITING = 50, 5, 13, 35
RMBG, PORTRAIT = "runware-rmbg-2.0", "runware-birefnet-portrait"


@asynccontextmanager
async def service(
    folder: Path, sandbox: Sandbox, stand_in: BackgroundRemover
) -> AsyncIterator[httpx.AsyncClient]:
    """The service behind uvicorn in this very loop, so that its tasks can be counted."""
    settings = make_settings(
        folder,
        **provider_settings(sandbox),
        max_concurrent_jobs=RUNNING,
        queue_limit=WAITING,
    )
    app = create_app(settings, stand_ins={stand_in.name: stand_in})
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            await running


def picture(number: int, *, fault: str | None = None) -> bytes:
    """A disc of its own colour; with a fault's mark, the sandbox does as that says."""
    rows, columns = np.mgrid[:120, :208]
    pixels = np.full((120, 208, 3), 255, np.uint8)
    pixels[(rows - 70) ** 2 + (columns - 104) ** 2 < 40**2] = (number, 40, 90)
    return png_bytes(pixels if fault is None else draw(pixels, fault))


async def shoot(client: httpx.AsyncClient, content: bytes, **asked: str) -> httpx.Response:
    files = {"image": ("customer.png", content)}
    return await client.post("/remove-background", files=files, data=asked)


async def queue_of(client: httpx.AsyncClient) -> dict[str, int]:
    queue: dict[str, int] = (await client.get("/ready")).json()["queue"]
    return queue


async def until(client: httpx.AsyncClient, holds: Callable[[dict[str, int]], bool]) -> None:
    for _ in range(1500):
        if holds(await queue_of(client)):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(await queue_of(client))


def entries(response: httpx.Response) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = response.raise_for_status().json()["results"]
    return found


async def test_fifty_at_once_with_five_that_hang(tmp_path: Path) -> None:
    before = counts(tmp_path)
    local = FakeRemover(ModelId.LOCAL_ISNET, held=True)
    async with open_sandbox() as sandbox, service(tmp_path, sandbox, local) as client:
        hanging = [
            asyncio.create_task(
                shoot(
                    client,
                    picture(n, fault="runware.silent"),
                    models=f"{RMBG},{PORTRAIT}",
                    deadline_s="1",
                )
            )
            for n in range(HANGING)
        ]
        await until(client, lambda queue: queue["running"] == HANGING)
        others = {
            asyncio.create_task(shoot(client, picture(n), models=f"{PORTRAIT},local-isnet"))
            for n in range(HANGING, SHOTS)
        }
        await until(client, lambda queue: queue["waiting"] == WAITING)
        refused, others = await _first(others, count=SHOTS - RUNNING - WAITING)
        assert (await queue_of(client))["running"] == RUNNING
        local.release()
        answered = await asyncio.gather(*others)
        pending = await asyncio.gather(*hanging)
        costs = (await client.get("/costs")).json()
        bill = sandbox.bill

    for response in refused:
        assert problem(response, 503, "overloaded")["actual"] == RUNNING + WAITING + 1
        assert int(response.headers["retry-after"]) > 0
    assert len(answered) == RUNNING + WAITING - HANGING
    assert {each["status"] for shot in answered for each in entries(shot)} == {"succeeded"}
    assert {each["status"] for shot in pending for each in entries(shot)} == {"pending"}

    unknown = {task["task_id"] for task in costs["unsettled"]["tasks"]}
    assert costs["unsettled"]["count"] == len(unknown) == 2 * HANGING
    assert costs["unsettled"]["may_cost_usd"] == float(HANGING * Decimal("0.0186"))
    settled = sum(each.usd for each in bill.entries() if each.task_id not in unknown)
    assert costs["cost_usd"] == float(settled) == float(len(answered) * Decimal("0.0006"))
    assert {each.task_id for each in bill.entries()} >= unknown, "the silent ones were charged"

    await asyncio.sleep(0.1)
    assert counts(tmp_path) == before
    assert not list(tmp_path.rglob("*.part"))


async def _first(
    shots: set[asyncio.Task[httpx.Response]], *, count: int
) -> tuple[list[httpx.Response], set[asyncio.Task[httpx.Response]]]:
    """The first `count` answers, and the shots that are still to be answered."""
    answers: list[httpx.Response] = []
    while len(answers) < count:
        done, shots = await asyncio.wait(shots, return_when=asyncio.FIRST_COMPLETED)
        answers += [each.result() for each in done]
    return answers, shots
