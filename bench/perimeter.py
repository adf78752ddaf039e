"""What the layers around the routes cost a request: `python -m bench.perimeter`.

The application is asked in process, without a socket, by processor time; with all its layers and,
turn about, with the door and the frame alone and no rate, which is what it had before.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from limits.aio.storage import MemoryStorage, Storage
from starlette.types import Message, Scope

from config import load_settings
from main import create_app
from routers.authentication import Door
from routers.middleware import RequestFrame
from services.rate_limits import RateLimits, Rates
from services.rate_memory import BoundedMemory
from utils import logs

ROUNDS = 15
REQUESTS = 200
KEY = "a-key-of-the-benchmark"
HEADERS = [
    *((b"host", b"localhost"), (b"x-api-key", KEY.encode()), (b"accept", b"*/*")),
    *((b"x-forwarded-for", b"198.51.100.1, 10.0.0.2"), (b"x-forwarded-proto", b"https")),
]
EDGE = {
    "trusted_proxies": frozenset({"10.0.0.0/8"}),
    "allowed_hosts": frozenset({"cutouts.example"}),
    "cors_origins": frozenset({"https://shop.example"}),
}


def application(folder: Path, *, layers: bool) -> FastAPI:
    settings = load_settings(env_file=None)
    chosen: dict[str, Any] = EDGE if layers else {"rate_limit_per_minute": 0}
    rates = {"rate_limit_per_minute": 10**9} if layers else {"refusal_limit_per_minute": 0}
    digests = type(settings.access)(_env_file=None, api_keys=f"bench:{KEY}")
    storage = settings.storage.model_copy(update={"temp_dir": folder, "data_dir": folder})
    app = create_app(
        settings.model_copy(
            update={
                "access": digests,
                "storage": storage,
                "local": settings.local.model_copy(update={"weights_download": False}),
                "work": settings.work.model_copy(update={"log_level": "WARNING"}),
                "network": settings.network.model_copy(update=chosen | rates),
            }
        )
    )
    if not layers:
        kept: set[Any] = {Door, RequestFrame}
        app.user_middleware = [each for each in app.user_middleware if each.cls in kept]
    return app


async def ask(app: FastAPI, state: dict[str, Any], path: str) -> None:
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(HEADERS),
        "client": ("10.0.0.1", 4711),
        "server": ("localhost", 8000),
        "state": dict(state),
    }
    statuses: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    assert statuses == [200], statuses


async def us_each(work: Callable[[], Awaitable[object]], times: int) -> float:
    """Microseconds of processor time for one of so many."""
    before = time.process_time()
    for _ in range(times):
        await work()
    return (time.process_time() - before) / times * 1e6


async def compare_layers(folder: Path) -> None:
    apps = {
        name: application(folder / name, layers=name == "all") for name in ("all", "door and frame")
    }
    print("| route | door and frame µs | all layers µs | more µs | ratio |")
    print("| --- | --- | --- | --- | --- |")
    async with (
        apps["all"].router.lifespan_context(apps["all"]) as new,
        apps["door and frame"].router.lifespan_context(apps["door and frame"]) as old,
    ):
        logs.configure("WARNING")
        states: dict[str, Any] = {"all": dict(new or {}), "door and frame": dict(old or {})}
        for path in ("/health", "/v1.0/account"):
            took: dict[str, list[float]] = {name: [] for name in apps}
            for _ in range(ROUNDS):
                for name, app in apps.items():
                    one = await us_each(lambda a=app, n=name: ask(a, states[n], path), REQUESTS)  # type: ignore[misc]  # noqa: B023
                    took[name].append(one)
            before, after = (min(took[name]) for name in ("door and frame", "all"))
            more = f"{after - before:.0f}"
            print(f"| {path} | {before:.0f} | {after:.0f} | {more} | {after / before:.2f} |")


async def compare_storages() -> None:
    print("\n| names in the storage | limits' own µs | ours µs | times |")
    print("| --- | --- | --- | --- |")
    for names in (100, 1_000, 10_000):
        theirs = await storage_us(MemoryStorage(), names)
        ours = await storage_us(BoundedMemory(), names)
        print(f"| {names} | {theirs:.0f} | {ours:.0f} | {theirs / ours:.0f} |")


async def storage_us(storage: Storage, names: int) -> float:
    limits = RateLimits(Rates(usual=10**6, session=0, refusals=10**6), storage)
    for number in range(names):
        await storage.incr(f"name-{number}", 60)

    async def one() -> None:
        await limits.take_refusal("198.51.100.1")
        await asyncio.sleep(0)  # as between two requests: whatever the storage has started runs

    return statistics.median([await us_each(one, 20) for _ in range(5)])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(compare_layers(Path(folder)))
    asyncio.run(compare_storages())


if __name__ == "__main__":
    main()
