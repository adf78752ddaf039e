"""How the service ends, measured: `python -m bench.endings [ROUNDS]`.

First SIGTERM to `uvicorn main:app` as it stands (DRAIN_S 20, DRAIN_NOTICE_S 2): idle, with two
enlargements and two shots under way, and with a client that takes nothing of its picture. Then
SIGKILL at random moments of mixed work, ROUNDS times on one TEMP_DIR, and a last start: every byte
that is left in TEMP_DIR must be of a result that the service knows.
"""

import asyncio
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import numpy as np

from tests.conftest import DATA, ROOT, artwork, png_bytes
from tests.ports import unused_port

_PHOTO = DATA / "car-1.jpg"
_NOISE = png_bytes(np.random.default_rng(1).integers(0, 256, (1500, 1500, 3), np.uint8))


@asynccontextmanager
async def service(
    temp_dir: Path,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    port = unused_port()
    environment = {**os.environ, "TEMP_DIR": str(temp_dir), "WEIGHTS_DOWNLOAD": "false"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False
    ) as client:
        try:
            while process.returncode is None:
                with suppress(httpx.ConnectError):
                    (await client.get("/health")).raise_for_status()
                    break
                await asyncio.sleep(0.05)
            yield process, client
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def shoot(client: httpx.AsyncClient, models: str, picture: bytes) -> str:
    try:
        answer = await client.post(
            "/remove-background", files={"image": picture}, data={"models": models}
        )
    except httpx.HTTPError as error:
        return type(error).__name__
    if not answer.is_success:
        return f"{answer.status_code} {answer.json()['code']}"
    entries = answer.json()["results"]
    return " ".join((each.get("error") or {}).get("code") or each["status"] for each in entries)


async def enlarge(client: httpx.AsyncClient, **asked: str) -> str:
    try:
        answer = await client.post("/upscale", files={"image": _NOISE}, data=asked)
    except httpx.HTTPError as error:
        return f"cut ({type(error).__name__})"
    return "whole" if answer.is_success else f"{answer.status_code} {answer.json()['code']}"


async def stalled(client: httpx.AsyncClient) -> socket.socket:
    """A connection whose client takes the answer's first bytes and nothing more."""
    request = client.build_request("POST", "/upscale", files={"image": _NOISE})
    body = await request.aread()
    lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    place = (client.base_url.host, client.base_url.port or 0)
    reader = socket.create_connection(place)
    await asyncio.to_thread(reader.sendall, f"POST /upscale HTTP/1.1\r\n{lines}\r\n".encode())
    await asyncio.to_thread(reader.sendall, body)
    await asyncio.to_thread(reader.recv, 12)
    return reader


async def drained(kind: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        async with service(Path(name)) as (process, client):
            work: list[asyncio.Task[str]] = []
            reader = await stalled(client) if kind == "a stalled client" else None
            if kind == "two enlargements, two shots":
                photo = _PHOTO.read_bytes()
                shots = [shoot(client, "local-isnet,local-knockout", photo) for _ in range(2)]
                work = [
                    asyncio.create_task(each)
                    for each in (enlarge(client), enlarge(client, format="tiff"), *shots)
                ]
                await asyncio.sleep(3)
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            status = await process.wait()
            took = time.monotonic() - begun
            said = await asyncio.gather(*work)
            if reader is not None:
                reader.close()
    print(f"SIGTERM, {kind}: ended after {took:.2f} s with {status}; {said}", flush=True)


async def killed(rounds: int) -> None:
    rng = random.Random(20261124)  # noqa: S311  # not a secret
    flat = artwork(width=900, height=700)
    met: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        temp_dir = Path(name)
        for _ in range(rounds):
            async with service(temp_dir) as (process, client):
                work = [
                    asyncio.create_task(each)
                    for each in (
                        enlarge(client),
                        enlarge(client, format="tiff"),
                        *(shoot(client, "local-knockout", flat) for _ in range(4)),
                        shoot(client, "local-isnet,local-knockout", _PHOTO.read_bytes()),
                    )
                ]
                await asyncio.sleep(rng.uniform(0, 4))
                process.kill()
                await asyncio.gather(*work)
            met += _leftovers(temp_dir)
        async with service(temp_dir) as (process, client):
            await client.get("/ready")
            left = _leftovers(temp_dir)
            records = {each.stem for each in (temp_dir / "data" / "records").glob("*/*.json")}
            for record in records:
                (await client.get(f"/results/{record}")).raise_for_status()
            unknown = [
                each for each in (temp_dir / "results").iterdir() if each.name not in records
            ]
            process.send_signal(signal.SIGTERM)
            await process.wait()
    print(f"SIGKILL {rounds} times: found after the kills {dict(met)}")
    print(f"after the next start: {dict(left)}; results without a record: {len(unknown)}")


def _leftovers(temp_dir: Path) -> Counter[str]:
    """Files that belong to nobody who could finish them, by kind."""
    found: Counter[str] = Counter()
    for path in temp_dir.rglob("*"):
        place = path.relative_to(temp_dir)
        if path.is_file() and place.parts[0] == "uploads":
            found["upload or scratch"] += 1
        elif path.suffix == ".part":
            found["half-written"] += 1
        elif len(place.parts) == 1 and place.name not in {
            *("uploads", "results", "data"),
            "service.lock",
        }:
            found["stray"] += 1
    return found


async def main(rounds: int) -> None:
    for kind in ("idle", "a stalled client", "two enlargements, two shots"):
        await drained(kind)
    await killed(rounds)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
