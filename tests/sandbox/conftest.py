"""A running sandbox for every test, and raw clients that know the providers' words only."""

import asyncio
import base64
import io
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect

from sandbox.opening import Sandbox, open_sandbox
from sandbox.options import Options, Times
from tests.conftest import artwork

BROWSER = "Mozilla/5.0 (X11; Linux x86_64) PrintShop/1.0"
FAST = Times(runware_task_s=0, kie_step_s=1, slow_s=0.05, late_s=0.1)
PATIENCE_S = 20


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sandbox(clock: Clock) -> AsyncIterator[Sandbox]:
    async with open_sandbox(Options(times=FAST), clock=clock) as opened:
        yield opened


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        headers={"User-Agent": BROWSER}, timeout=PATIENCE_S, trust_env=False
    ) as client:
        yield client


@dataclass(frozen=True)
class Wire:
    """A raw socket: objects in, frames out."""

    socket: ClientConnection

    async def send(self, *tasks: dict[str, Any]) -> None:
        await self.socket.send(json.dumps(tasks))

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            frame = json.loads(await self.socket.recv())
        assert isinstance(frame, dict)
        return frame

    async def ask(self, *tasks: dict[str, Any]) -> dict[str, Any]:
        await self.send(*tasks)
        return await self.receive()

    async def authenticate(self, key: str = "sandbox", session: str | None = None) -> str:
        resumed = {} if session is None else {"connectionSessionUUID": session}
        reply = await self.ask({"taskType": "authentication", "apiKey": key, **resumed})
        (item,) = reply["data"]
        assert item["taskType"] == "authentication"
        return str(item["connectionSessionUUID"])


@asynccontextmanager
async def dialled(sandbox: Sandbox) -> AsyncIterator[Wire]:
    """A socket that has not authenticated."""
    async with connect(sandbox.runware_ws, max_size=None, proxy=None) as socket:
        yield Wire(socket)


@asynccontextmanager
async def connected(sandbox: Sandbox, key: str = "sandbox") -> AsyncIterator[Wire]:
    async with dialled(sandbox) as wire:
        await wire.authenticate(key)
        yield wire


async def done(wire: Wire, task: dict[str, Any]) -> dict[str, Any]:
    """Poll until the task is no longer processing."""
    while True:
        reply = await wire.ask(poll(task))
        if not reply.get("data") or reply["data"][0].get("status") != "processing":
            return reply


def new_uuid() -> str:
    return str(uuid.uuid4())


def data_uri(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def removal(picture: bytes | None = None, **fields: object) -> dict[str, Any]:
    """A removal in the present shape that asks for PNG."""
    return {
        "taskType": "removeBackground",
        "taskUUID": new_uuid(),
        "model": "runware:112@10",
        "inputs": {"image": data_uri(picture or artwork())},
        "outputFormat": "PNG",
        **fields,
    }


def poll(task: dict[str, Any]) -> dict[str, Any]:
    return {"taskType": "getResponse", "taskUUID": task["taskUUID"]}


def decoded(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image


def alpha_of(content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(decoded(content).convert("RGBA"))[..., 3]


def only(reply: dict[str, Any], name: str = "data") -> dict[str, Any]:
    (item,) = reply[name]
    assert isinstance(item, dict)
    return item
