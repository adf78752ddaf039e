"""What our provider clients add to a task, against the sandbox answering at once.

`python -m bench.providers` prints a table and JSON. The peer is the least that can be sent in the
same run: one bare synchronous task on an open WebSocket, and upload, createTask and polling without
pauses for Kie.ai. `cpu` is this process's processor time a task, the sandbox's share included.
"""

import asyncio
import base64
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import partial
from statistics import median

import httpx
import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from sandbox.opening import Sandbox, open_sandbox
from sandbox.options import Limits, Options, Times
from services import kie_client, runware_client
from utils.clock import Deadline
from utils.png import encode_png

KEY = "sandbox-bench"
MODEL = "recraft/remove-background"
TASKS = 12


@dataclass(frozen=True)
class Row:
    """Milliseconds a task, median of TASKS one after another."""

    name: str
    wall_ms: float
    cpu_ms: float


async def measure() -> list[Row]:
    content = _picture()
    options = Options(
        times=Times(runware_task_s=0, kie_step_s=0), limits=Limits(kie_creations_per_10_s=1000)
    )
    async with open_sandbox(options) as sandbox:
        return [
            *await _runware_rows(sandbox, content),
            *await _kie_rows(sandbox, content),
        ]


async def _runware_rows(sandbox: Sandbox, content: bytes) -> list[Row]:
    image = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    async with connect(sandbox.runware_ws, max_size=1 << 25, proxy=None) as socket:
        await _ask(socket, {"taskType": "authentication", "apiKey": KEY})
        bare = await _timed("runware, bare sync task", lambda: _bare_runware(socket, image))
    client = runware_client.RunwareClient(sandbox.runware_ws, api_key=KEY, settle=lambda *_: None)
    ours = await _timed("runware, our client", lambda: _our_runware(client, image))
    await client.close()
    return [bare, ours]


async def _kie_rows(sandbox: Sandbox, content: bytes) -> list[Row]:
    headers = {"Authorization": f"Bearer {KEY}", "User-Agent": "bench"}
    async with httpx.AsyncClient(headers=headers, trust_env=False) as http:
        bare = await _timed("kie, bare without pauses", lambda: _bare_kie(http, sandbox, content))
    account = kie_client.Account(
        api_url=sandbox.kie_api,
        upload_url=sandbox.kie_upload,
        api_key=KEY,
        user_agent="bench",
        model=MODEL,
    )
    rows = [bare]
    for name, pace in (("kie, our client", 1.0), ("kie, our client, pace 0.05", 0.05)):
        client = kie_client.KieClient(account, settle=_ignore, pace=kie_client.Pace().scaled(pace))
        rows.append(await _timed(name, partial(_our_kie, client, content)))
        await client.close()
    return rows


async def _timed(name: str, task: Callable[[], Awaitable[object]]) -> Row:
    await task()
    walls, cpu = [], time.process_time()
    for _ in range(TASKS):
        begun = time.perf_counter()
        await task()
        walls.append(time.perf_counter() - begun)
    spent = (time.process_time() - cpu) / TASKS
    return Row(name, round(median(walls) * 1000, 1), round(spent * 1000, 1))


async def _bare_runware(socket: ClientConnection, image: str) -> None:
    await _ask(
        socket,
        {
            "taskType": "removeBackground",
            "taskUUID": str(uuid.uuid4()),
            "model": "runware:112@10",
            "inputs": {"image": image},
            "outputFormat": "PNG",
            "deliveryMethod": "sync",
        },
    )


async def _ask(socket: ClientConnection, task: dict[str, object]) -> None:
    await socket.send(json.dumps([task]))
    await socket.recv()


async def _our_runware(client: runware_client.RunwareClient, image: str) -> None:
    task_id, deadline = runware_client.new_task_id(), Deadline.after(30)
    await client.remove(image, air="runware:112@10", task_id=task_id, deadline=deadline)


async def _bare_kie(http: httpx.AsyncClient, sandbox: Sandbox, content: bytes) -> None:
    name = f"{uuid.uuid4()}.png"
    upload = await http.post(
        f"{sandbox.kie_upload}/api/file-stream-upload",
        files={"file": (name, content, "image/png")},
        data={"uploadPath": "bench", "fileName": name},
    )
    address = upload.json()["data"]["downloadUrl"]
    created = await http.post(
        f"{sandbox.kie_api}/api/v1/jobs/createTask",
        json={"model": MODEL, "input": {"image": address}},
    )
    task_id = created.json()["data"]["taskId"]
    while True:
        answer = await http.get(
            f"{sandbox.kie_api}/api/v1/jobs/recordInfo", params={"taskId": task_id}
        )
        if (answer.json().get("data") or {}).get("state") == "success":
            return
        await asyncio.sleep(0.1)  # its limit is ten questions a second


async def _our_kie(client: kie_client.KieClient, content: bytes) -> None:
    await client.remove(
        content, media_type="image/png", key=str(uuid.uuid4()), deadline=Deadline.after(30)
    )


def _ignore(task_id: str, used: Decimal | None) -> None:
    """Nobody keeps a ledger here."""


def _picture() -> bytes:
    rows, columns = np.mgrid[:400, :400]
    pixels = np.full((400, 400, 3), 255, np.uint8)
    pixels[(rows - 200) ** 2 + (columns - 200) ** 2 < 150**2] = (200, 30, 40)
    return encode_png(pixels)


def main() -> None:
    rows = asyncio.run(measure())
    print(f"{'':28}{'wall ms':>10}{'cpu ms':>10}")
    for row in rows:
        print(f"{row.name:28}{row.wall_ms:10.1f}{row.cpu_ms:10.1f}")
    print(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
