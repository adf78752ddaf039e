"""The sandbox starts and stops cleanly, inside a program and as one, and blocks no event loop."""

import asyncio
import gc
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from sandbox.__main__ import main
from sandbox.cutting import Job, Studio
from sandbox.faults import TaskFaults
from sandbox.opening import open_sandbox
from sandbox.options import Limits, Options, Ports
from sandbox.pictures import OutputFormat, Picture, decode
from tests.conftest import DATA, ROOT, artwork, png_bytes
from tests.sandbox.conftest import (
    BROWSER,
    FAST,
    alpha_of,
    connected,
    dialled,
    new_uuid,
    only,
    poll,
    removal,
)

pytestmark = pytest.mark.anyio

ISNET = ROOT / "weights" / "models" / "isnet-general-use" / "isnet-general-use.onnx"


def sockets() -> int:
    links = Path("/proc/self/fd").iterdir()
    return sum(1 for each in links if _target(each).startswith("socket:"))


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


async def test_closing_leaves_no_socket_task_or_thread() -> None:
    gc.collect()
    before = (sockets(), len(asyncio.all_tasks()))
    options = Options(times=replace(FAST, slow_s=600, late_s=600))
    async with (
        httpx.AsyncClient(headers={"User-Agent": BROWSER}, trust_env=False) as http,
        open_sandbox(options) as sandbox,
    ):
        wire = await connect(sandbox.runware_ws, proxy=None)
        login = {"taskType": "authentication", "apiKey": "sandbox"}
        late = removal(deliveryMethod="async")
        sandbox.faults.set("runware.late", times=1)
        await wire.send(json.dumps([login, late]))
        await wire.recv()
        await wire.recv()
        await http.get(sandbox.admin + "/bill")
    await wire.wait_closed()
    gc.collect()
    assert (sockets(), len(asyncio.all_tasks())) == before
    assert not [each for each in threading.enumerate() if each.name.startswith("sandbox")]


async def test_closing_does_not_wait_for_a_slow_download(
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = Options(times=replace(FAST, slow_s=600))
    async with httpx.AsyncClient(trust_env=False) as http:
        async with open_sandbox(options) as sandbox, connected(sandbox) as wire:
            sandbox.faults.set("runware.slow_body")
            item = only(await wire.ask(removal()))
            async with http.stream("GET", item["imageURL"]) as reply:
                await anext(reply.aiter_raw())
                opened = sandbox
        with pytest.raises(httpx.ConnectError):
            await http.get(opened.runware_rest)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def test_ports_can_be_chosen_and_are_free_again_afterwards() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    options = Options(ports=Ports(kie_api=port))
    for _ in range(2):
        async with open_sandbox(options) as sandbox:
            assert urlsplit(sandbox.kie_api).port == port


async def test_a_taken_port_is_an_error_and_leaves_nothing_open() -> None:
    gc.collect()
    before = sockets()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = Options(ports=Ports(kie_files=taken.getsockname()[1]))
        with pytest.raises(OSError, match="in use"):
            async with open_sandbox(options):
                pass
    gc.collect()
    assert sockets() == before


async def test_the_signals_of_the_program_stay_its_own() -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    async with open_sandbox():
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


async def test_only_loopback_listens() -> None:
    async with open_sandbox() as sandbox:
        assert {urlsplit(url).hostname for url in sandbox.addresses().values()} == {"127.0.0.1"}


async def test_cutting_does_not_hold_up_the_event_loop() -> None:
    """Pings are answered while a picture of four megapixels is being cut."""
    picture = png_bytes(np.full((2000, 2000, 3), 255, np.uint8))
    async with open_sandbox(Options(times=FAST)) as sandbox, connected(sandbox) as wire:
        task = removal(picture)
        await wire.send(task, {"taskType": "ping", "ping": True})
        assert only(await wire.receive())["taskType"] == "ping"
        assert only(await wire.receive())["taskUUID"] == task["taskUUID"]


async def test_stored_files_are_bounded() -> None:
    options = Options(times=FAST, limits=Limits(hosted_bytes=1))
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        open_sandbox(options) as sandbox,
        connected(sandbox) as wire,
    ):
        urls = [only(await wire.ask(removal()))["imageURL"] for _ in range(2)]
        assert [(await http.get(url)).status_code for url in urls] == [404, 200]


async def test_sessions_and_tasks_are_bounded() -> None:
    options = Options(times=FAST, limits=Limits(sessions_kept=1, tasks_kept=1))
    async with (
        open_sandbox(options) as sandbox,
        dialled(sandbox) as first,
        dialled(sandbox) as second,
    ):
        forgotten = await first.authenticate()
        await second.authenticate()
        async with dialled(sandbox) as third:
            assert await third.authenticate(session=forgotten) != forgotten
        tasks = [removal(), removal()]
        for task in tasks:
            await first.ask(task)
        details = {"taskType": "getTaskDetails", "taskUUID": tasks[0]["taskUUID"]}
        assert only(await first.ask(details), "errors")["code"] == "taskNotFound"


async def test_sockets_are_bounded() -> None:
    options = Options(limits=Limits(sockets=1))
    async with open_sandbox(options) as sandbox, dialled(sandbox):
        with pytest.raises(InvalidStatus, match="503"):
            await connect(sandbox.runware_ws, proxy=None)


async def test_results_kept_inside_replies_are_bounded() -> None:
    options = Options(times=FAST, limits=Limits(hosted_bytes=1))
    async with open_sandbox(options) as sandbox, connected(sandbox) as wire:
        tasks = [removal(outputType="base64Data") for _ in range(2)]
        for task in tasks:
            await wire.ask(task)
        assert only(await wire.ask(poll(tasks[0])), "errors")["code"] == "taskNotFound"
        assert only(await wire.ask(poll(tasks[1])))["status"] == "success"


async def test_undelivered_frames_are_bounded() -> None:
    options = Options(times=FAST, limits=Limits(buffered_frames=1))
    async with open_sandbox(options) as sandbox:
        tasks = [removal(), removal()]
        sandbox.faults.set("runware.drop_before_ack")
        async with dialled(sandbox) as wire:
            session = await wire.authenticate()
            await wire.send(*tasks)
            await wire.socket.wait_closed()
        async with connected(sandbox) as wire:
            for task in tasks:
                details = {"taskType": "getResponse", "taskUUID": task["taskUUID"]}
                while only(await wire.ask(details)).get("status") == "processing":
                    pass
        async with dialled(sandbox) as wire:
            await wire.authenticate(session=session)
            assert "imageURL" in only(await wire.receive())
            ping = {"taskType": "ping", "ping": True}
            assert only(await wire.ask(ping))["taskType"] == "ping"


def test_the_program_prints_its_addresses_and_ends_at_a_signal() -> None:
    command = [sys.executable, "-m", "sandbox", "--free-ports", "--json", "--no-isnet"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        addresses = json.loads(program.stdout.readline())
        bill = httpx.get(addresses["admin"] + "/bill", trust_env=False).json()
        program.terminate()
        assert program.wait(timeout=20) == 0
    assert bill["total_usd"] == "0"
    assert addresses["runware_ws"].startswith("ws://127.0.0.1:")


def test_the_program_refuses_a_fault_that_does_not_exist() -> None:
    with pytest.raises(SystemExit):
        main(["--faults", "kie.nonsense"])


@pytest.mark.weights
@pytest.mark.skipif(not ISNET.is_file(), reason="no ISNet weights")
async def test_photographs_are_cut_with_isnet_where_it_is_present() -> None:
    studio = Studio(threads=1, isnet=ISNET)
    picture = await studio.run(decode, (DATA / "car-1.jpg").read_bytes(), max_pixels=1 << 26)
    assert isinstance(picture, Picture)
    job = Job(picture=picture, model="bria:2@1", format=OutputFormat.PNG, faults=TaskFaults())
    made = await studio.make(job)
    await studio.close()
    alpha = alpha_of(made.content)
    height, width = alpha.shape
    assert alpha[height // 2, width // 2] > 250
    assert 0.1 < (alpha > 128).mean() < 0.9
    assert alpha[5, 5] < 5


async def test_an_upload_is_not_mistaken_for_a_task() -> None:
    async with open_sandbox(Options(times=FAST)) as sandbox, connected(sandbox) as wire:
        upload = {"taskType": "imageUpload", "taskUUID": new_uuid(), "image": "no picture"}
        error = only(await wire.ask(upload), "errors")
        assert (error["code"], error["taskUUID"]) == ("invalidInputImage", upload["taskUUID"])
        assert only(await wire.ask(removal(artwork())))["taskType"] == "removeBackground"
