"""The sandbox on a thread and event loop of its own, for tests whose service runs elsewhere."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sandbox.opening import Sandbox, open_sandbox
from sandbox.options import Options


def provider_settings(sandbox: Sandbox, *, key: str = "sandbox-test") -> dict[str, Any]:
    """The settings of a service whose providers are that sandbox, at a quick pace."""
    hosts = (each.partition("://")[2] for each in (sandbox.runware_files, sandbox.kie_files))
    return {
        "runware_api_key": key,
        "kie_api_key": key,
        "runware_url": sandbox.runware_ws,
        "kie_api_url": sandbox.kie_api,
        "kie_upload_url": sandbox.kie_upload,
        "provider_result_domains": ",".join(hosts),
        "provider_pace": 0.1,
    }


@contextmanager
def running_sandbox(options: Options | None = None) -> Iterator[Sandbox]:
    """Both look-alikes on free loopback ports; faults, bill and journal may be used directly."""
    opened: list[Sandbox] = []
    ready, loop = threading.Event(), asyncio.new_event_loop()
    closing = asyncio.Event()

    async def live() -> None:
        async with open_sandbox(options) as sandbox:
            opened.append(sandbox)
            ready.set()
            await closing.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(live(),))
    thread.start()
    try:
        assert ready.wait(30), "the sandbox did not open"
        yield opened[0]
    finally:
        loop.call_soon_threadsafe(closing.set)
        thread.join(30)
        loop.close()
