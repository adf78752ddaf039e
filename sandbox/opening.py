"""Opens the look-alikes inside a running asyncio program, and closes every trace of them."""

import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx

from sandbox.admin import admin_routes
from sandbox.bill import Bill
from sandbox.common import Chores, Common, Journal
from sandbox.cutting import Studio
from sandbox.faults import FaultBoard
from sandbox.kie.api import Files, kie_api_app, kie_files_app
from sandbox.kie.jobs import Jobs
from sandbox.kie.uploads import kie_upload_app
from sandbox.listeners import listen, serving
from sandbox.options import Clock, Options
from sandbox.runware.desk import Desk
from sandbox.runware.rest import runware_app
from sandbox.runware.socket import PATH, serving_socket
from sandbox.shelf import Shelf

_USER_AGENT = "sandbox"
_HTTP_DOORS = ("runware_http", "kie_api", "kie_upload", "kie_files")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """The open look-alikes: where they are, what they charged, what goes wrong on demand.

    `runware_rest` is the address that tasks are posted to, `runware_files` the host of results.
    """

    runware_ws: str
    runware_rest: str
    runware_files: str
    kie_api: str
    kie_upload: str
    kie_files: str
    admin: str
    bill: Bill
    faults: FaultBoard
    journal: Journal

    def addresses(self) -> dict[str, str]:
        names = ("runware_ws", "runware_rest", "runware_files", *_HTTP_DOORS[1:], "admin")
        return {name: getattr(self, name) for name in names}


@asynccontextmanager
async def open_sandbox(
    options: Options | None = None, *, clock: Clock = time.monotonic
) -> AsyncIterator[Sandbox]:
    """Both providers on loopback until the block ends."""
    options = options or Options()
    limits = options.limits
    async with AsyncExitStack() as stack:
        doors = _listen(options, stack)
        common = await _open_common(options, clock=clock, stack=stack)
        urls = {name: _url(door) for name, door in doors.items()}
        shelves = [Shelf(max_bytes=limits.hosted_bytes, clock=clock) for _ in range(2)]
        desk = Desk(common, shelf=shelves[0], files_url=urls["runware_http"])
        files = Files(common, shelf=shelves[1], url=urls["kie_files"])
        jobs = Jobs(common, shelf=files.shelf, files_url=files.url)
        extra = admin_routes(common)
        apps = {
            doors["runware_http"]: runware_app(common, desk=desk, shelf=shelves[0], extra=extra),
            doors["kie_api"]: kie_api_app(common, jobs=jobs, files=files, extra=extra),
            doors["kie_upload"]: kie_upload_app(
                common, shelf=files.shelf, files_url=files.url, extra=extra
            ),
            doors["kie_files"]: kie_files_app(common, files=files, extra=extra),
        }
        await stack.enter_async_context(
            serving(apps, max_body_bytes=limits.body_bytes, max_sockets=limits.sockets)
        )
        ws_port = await stack.enter_async_context(serving_socket(common, desk=desk))
        stack.push_async_callback(common.chores.close)
        yield _sandbox(common, urls=urls, ws_url=f"ws://{options.host}:{ws_port}{PATH}")


def _listen(options: Options, stack: AsyncExitStack) -> dict[str, socket.socket]:
    doors = {}
    for name in _HTTP_DOORS:
        doors[name] = listen(options.host, getattr(options.ports, name))
        stack.callback(doors[name].close)
    return doors


async def _open_common(options: Options, *, clock: Clock, stack: AsyncExitStack) -> Common:
    studio = Studio(threads=options.threads, isnet=options.isnet)
    stack.push_async_callback(studio.close)
    client = httpx.AsyncClient(
        headers={"User-Agent": _USER_AGENT}, timeout=options.times.fetch_s, trust_env=False
    )
    await stack.enter_async_context(client)
    return Common(
        options=options,
        clock=clock,
        faults=FaultBoard(),
        bill=Bill(),
        journal=Journal(),
        studio=studio,
        chores=Chores(),
        client=client,
    )


def _url(door: socket.socket) -> str:
    host, port = door.getsockname()[:2]
    return f"http://{host}:{port}"


def _sandbox(common: Common, *, urls: Mapping[str, str], ws_url: str) -> Sandbox:
    return Sandbox(
        runware_ws=ws_url,
        runware_rest=urls["runware_http"] + PATH,
        runware_files=urls["runware_http"],
        kie_api=urls["kie_api"],
        kie_upload=urls["kie_upload"],
        kie_files=urls["kie_files"],
        admin=urls["runware_http"] + "/sandbox",
        bill=common.bill,
        faults=common.faults,
        journal=common.journal,
    )
