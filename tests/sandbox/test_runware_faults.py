"""Every fault switch of the Runware look-alike does what its description says."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from sandbox.faults import OFFERED, Kind, Provider
from sandbox.opening import Sandbox
from tests.conftest import artwork
from tests.sandbox.conftest import Wire, connected, dialled, done, only, poll, removal
from tests.sandbox.file_faults import CHECKS, SIZE

pytestmark = pytest.mark.anyio

MODEL = "runware:112@10"
PING = {"taskType": "ping", "ping": True}


def test_every_switch_has_a_test() -> None:
    tested = {name.removeprefix("test_") for name in globals()} | set(CHECKS)
    offered = {kind.value for kinds in OFFERED[Provider.RUNWARE].values() for kind in kinds}
    assert offered <= tested


def charged(sandbox: Sandbox) -> int:
    return sandbox.bill.line(MODEL).charged


async def broken(wire: Wire) -> None:
    """The socket ends without a closing frame."""
    with pytest.raises(ConnectionClosedError):
        await asyncio.wait_for(wire.socket.recv(), 5)


async def nothing(wire: Wire) -> None:
    """A ping is the next thing answered: nothing stood before it."""
    assert await wire.ask(PING) == {"data": [{"taskType": "ping", "pong": True}]}


async def raw_result(sandbox: Sandbox, fault: str) -> str | bytes:
    sandbox.faults.set(fault)
    async with connected(sandbox) as wire:
        await wire.send(removal())
        return await wire.socket.recv()


async def failed(sandbox: Sandbox, fault: str, *, delivery: str = "sync") -> dict[str, Any]:
    sandbox.faults.set(fault)
    async with connected(sandbox) as wire:
        reply = await wire.ask(removal(deliveryMethod=delivery))
    assert charged(sandbox) == 0
    return reply


# --- the connection


async def test_handshake_503(sandbox: Sandbox) -> None:
    sandbox.faults.set("runware.handshake_503", times=1)
    with pytest.raises(InvalidStatus, match="503"):
        await connect(sandbox.runware_ws, proxy=None)
    async with connected(sandbox) as wire:
        await nothing(wire)


async def test_auth_silent(sandbox: Sandbox) -> None:
    sandbox.faults.set("runware.auth_silent", times=1)
    async with dialled(sandbox) as wire:
        await wire.send({"taskType": "authentication", "apiKey": "sandbox"})
        await wire.authenticate()


async def test_auth_legacy(sandbox: Sandbox) -> None:
    sandbox.faults.set("runware.auth_legacy")
    async with dialled(sandbox) as wire:
        reply = await wire.ask({"taskType": "authentication", "apiKey": "wrong"})
    assert (reply["error"], reply["errorId"]) == (True, 19)


async def test_no_pong(sandbox: Sandbox) -> None:
    sandbox.faults.set("runware.no_pong", times=1)
    async with connected(sandbox) as wire:
        await wire.send(PING)
        assert "imageURL" in only(await wire.ask(removal()))


@pytest.mark.parametrize("delivery", ["sync", "async"])
async def test_drop_unaccepted(sandbox: Sandbox, delivery: str) -> None:
    sandbox.faults.set("runware.drop_unaccepted")
    task = removal(deliveryMethod=delivery)
    async with connected(sandbox) as wire:
        await wire.send(task)
        await broken(wire)
    async with connected(sandbox) as wire:
        assert only(await wire.ask(poll(task)), "errors")["code"] == "taskNotFound"
        await wire.ask(task)
        assert only(await done(wire, task))["status"] == "success"
    assert charged(sandbox) == 1


@pytest.mark.parametrize("delivery", ["sync", "async"])
async def test_drop_before_ack(sandbox: Sandbox, delivery: str) -> None:
    sandbox.faults.set("runware.drop_before_ack")
    task = removal(deliveryMethod=delivery)
    async with connected(sandbox) as wire:
        await wire.send(task)
        await broken(wire)
    async with connected(sandbox) as wire:
        assert only(await wire.ask(task), "errors")["code"] == "conflictTaskUUID"
        assert only(await done(wire, task))["status"] == "success"
    assert charged(sandbox) == 1


async def test_drop_after_ack(sandbox: Sandbox) -> None:
    sandbox.faults.set("runware.drop_after_ack")
    task = removal(deliveryMethod="async")
    async with connected(sandbox) as wire:
        assert only(await wire.ask(task))["taskUUID"] == task["taskUUID"]
        await broken(wire)
    async with connected(sandbox) as wire:
        assert only(await done(wire, task))["status"] == "success"
    assert charged(sandbox) == 1


async def test_drop_before_result(sandbox: Sandbox) -> None:
    sandbox.faults.set("runware.drop_before_result")
    task = removal(deliveryMethod="async")
    async with dialled(sandbox) as wire:
        session = await wire.authenticate()
        await wire.ask(task)
        with pytest.raises(ConnectionClosed):
            await done(wire, task)
    async with dialled(sandbox) as wire:
        await wire.authenticate(session=session)
        assert only(await wire.receive())["status"] == "success"
    assert charged(sandbox) == 1


@pytest.mark.parametrize("delivery", ["sync", "async"])
async def test_silent(sandbox: Sandbox, delivery: str) -> None:
    sandbox.faults.set(f"runware.silent@{MODEL}")
    task, other = removal(deliveryMethod=delivery), removal(model="bria:2@1")
    async with connected(sandbox) as wire:
        await wire.send(task, other)
        assert only(await wire.receive())["taskUUID"] == other["taskUUID"]
        await wire.send(poll(task))
        await nothing(wire)


# --- time


async def test_slow(sandbox: Sandbox) -> None:
    sandbox.faults.set("runware.slow=0.1")
    start = time.monotonic()
    async with connected(sandbox) as wire:
        assert "imageURL" in only(await wire.ask(removal()))
    assert time.monotonic() - start >= 0.1


async def test_late(sandbox: Sandbox) -> None:
    sandbox.faults.set("runware.late=0.1")
    task = removal(deliveryMethod="async")
    async with connected(sandbox) as wire:
        await wire.ask(task)
        assert only(await wire.ask(poll(task)))["status"] == "processing"
        assert only(await done(wire, task))["status"] == "success"


# --- frames


async def test_malformed_json(sandbox: Sandbox) -> None:
    sandbox.faults.set("runware.malformed_json")
    task = removal()
    async with connected(sandbox) as wire:
        await wire.send(task)
        with pytest.raises(json.JSONDecodeError):
            json.loads(await wire.socket.recv())
        assert only(await wire.ask(poll(task)))["status"] == "success"


async def test_binary_frame(sandbox: Sandbox) -> None:
    frame = await raw_result(sandbox, "runware.binary_frame")
    assert isinstance(frame, bytes)
    assert "imageURL" in only(json.loads(frame))


async def test_array_frame(sandbox: Sandbox) -> None:
    (frame,) = json.loads(await raw_result(sandbox, "runware.array_frame"))
    assert "imageURL" in only(frame)


async def test_data_object(sandbox: Sandbox) -> None:
    frame = json.loads(await raw_result(sandbox, "runware.data_object"))
    assert "imageURL" in frame["data"]


async def test_data_and_errors(sandbox: Sandbox) -> None:
    frame = json.loads(await raw_result(sandbox, "runware.data_and_errors"))
    assert "imageURL" in only(frame)
    assert only(frame, "errors")["taskUUID"] != only(frame)["taskUUID"]


async def test_legacy_task_type(sandbox: Sandbox) -> None:
    frame = json.loads(await raw_result(sandbox, "runware.legacy_task_type"))
    assert only(frame)["taskType"] == "imageBackgroundRemoval"


async def test_media_keys(sandbox: Sandbox) -> None:
    item = only(json.loads(await raw_result(sandbox, "runware.media_keys")))
    assert {"mediaURL", "mediaUUID"} <= set(item)
    assert "imageURL" not in item


async def test_huge_frame(sandbox: Sandbox) -> None:
    assert len(await raw_result(sandbox, "runware.huge_frame")) > 1 << 20


async def test_duplicate_result(sandbox: Sandbox) -> None:
    sandbox.faults.set("runware.duplicate_result")
    async with connected(sandbox) as wire:
        assert await wire.ask(removal()) == await wire.receive()
    assert charged(sandbox) == 1


# --- errors


async def test_error_without_uuid(sandbox: Sandbox) -> None:
    error = only(await failed(sandbox, "runware.error_without_uuid"), "errors")
    assert "taskUUID" not in error


async def test_error_singular(sandbox: Sandbox) -> None:
    reply = await failed(sandbox, "runware.error_singular")
    assert "errors" not in reply
    assert reply["error"]["code"] == "internalServerError"


async def test_error_in_item(sandbox: Sandbox) -> None:
    item = only(await failed(sandbox, "runware.error_in_item"))
    assert (item["status"], item["error"]["code"]) == ("error", "providerError")


async def test_timeout_provider(sandbox: Sandbox) -> None:
    error = only(await failed(sandbox, "runware.timeout_provider"), "errors")
    assert error["code"] == "timeoutProvider"


async def test_a_failed_async_task_is_acknowledged_and_fails_at_its_poll(sandbox: Sandbox) -> None:
    sandbox.faults.set("runware.timeout_provider")
    task = removal(deliveryMethod="async")
    async with connected(sandbox) as wire:
        assert only(await wire.ask(task))["taskUUID"] == task["taskUUID"]
        error = only(await done(wire, task), "errors")
    assert (error["status"], error["code"]) == ("error", "timeoutProvider")


async def test_provider_error(sandbox: Sandbox) -> None:
    error = only(await failed(sandbox, "runware.provider_error"), "errors")
    assert error["code"] == "inferenceError"


async def test_content_rejected(sandbox: Sandbox) -> None:
    error = only(await failed(sandbox, "runware.content_rejected"), "errors")
    assert error["code"] == "contentPolicyViolation"


@pytest.mark.parametrize("delivery", ["sync", "async"])
async def test_insufficient_credits(sandbox: Sandbox, delivery: str) -> None:
    reply = await failed(sandbox, "runware.insufficient_credits", delivery=delivery)
    assert only(reply, "errors")["code"] == "insufficientCredits"


async def test_rate_limited(sandbox: Sandbox) -> None:
    sandbox.faults.set("runware.rate_limited=2")
    task = removal()
    async with connected(sandbox) as wire:
        for _ in range(2):
            assert only(await wire.ask(task), "errors")["code"] == "rateLimitExceeded"
        assert "imageURL" in only(await wire.ask(task))
    assert charged(sandbox) == 1


# --- result files


@pytest.mark.parametrize("kind", CHECKS)
async def test_the_result_file(sandbox: Sandbox, http: httpx.AsyncClient, kind: Kind) -> None:
    sandbox.faults.set(f"runware.{kind}")
    async with connected(sandbox) as wire:
        item = only(await wire.ask(removal(artwork(width=SIZE[0], height=SIZE[1]))))
    await CHECKS[kind](http, item["imageURL"])
    assert charged(sandbox) == 1


# --- REST knows them too


async def test_rest_breaks_the_connection_where_the_socket_would(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    headers = {"Authorization": "Bearer sandbox"}
    for fault in ("drop_unaccepted", "drop_before_ack", "drop_before_result", "silent"):
        sandbox.faults.clear()
        sandbox.faults.set(f"runware.{fault}")
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await http.post(sandbox.runware_rest, headers=headers, json=[removal()])


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("timeout_provider", 504),
        ("rate_limited", 429),
        ("insufficient_credits", 400),
        ("provider_error", 500),
    ],
)
async def test_rest_answers_errors_with_a_status(
    sandbox: Sandbox, http: httpx.AsyncClient, fault: str, status: int
) -> None:
    sandbox.faults.set(f"runware.{fault}")
    headers = {"Authorization": "Bearer sandbox"}
    reply = await http.post(sandbox.runware_rest, headers=headers, json=[removal()])
    assert reply.status_code == status
