"""Every fault switch of the Kie.ai look-alike does what its description says."""

import json

import httpx
import pytest

from sandbox.faults import OFFERED, Kind, Provider
from sandbox.opening import Sandbox
from tests.sandbox.conftest import Clock
from tests.sandbox.file_faults import CHECKS
from tests.sandbox.test_kie import MODEL, STEPS_S, Kie, picture, url_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def kie(sandbox: Sandbox, http: httpx.AsyncClient, clock: Clock) -> Kie:
    return Kie(sandbox, http, clock)


def test_every_switch_has_a_test() -> None:
    tested = {name.removeprefix("test_") for name in globals()} | set(CHECKS)
    tested |= {kind for kind, _ in REFUSALS} | {"slow", "late", "fail_500", "fail_501"}
    offered = {kind.value for kinds in OFFERED[Provider.KIE].values() for kind in kinds}
    assert offered <= tested


def charged(kie: Kie) -> int:
    return kie.sandbox.bill.line(MODEL).charged


# --- uploads


async def test_upload_500(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.upload_500=2")
    replies = [(await kie.send_file(picture(), fileName="same.png")).json() for _ in range(3)]
    assert [reply["code"] for reply in replies] == [500, 500, 200]


async def test_quickstart_upload(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.quickstart_upload")
    data = (await kie.send_file(picture())).json()["data"]
    assert "downloadUrl" not in data
    assert (await kie.http.get(data["fileUrl"])).content == picture()


async def test_edge_1010(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.edge_1010")
    reply = await kie.send_file(picture())
    assert (reply.status_code, reply.text) == (403, "error code: 1010")


# --- createTask

REFUSALS = [
    ("no_credits", 402),
    ("unauthorized", 401),
    ("quota_433", 433),
    ("maintenance", 455),
    ("feature_disabled", 505),
    ("create_500", 500),
]


@pytest.mark.parametrize(("kind", "code"), REFUSALS)
async def test_a_creation_is_refused(kie: Kie, kind: str, code: int) -> None:
    kie.sandbox.faults.set(f"kie.{kind}")
    reply = await kie.create(await kie.upload())
    assert (reply.status_code, reply.json()["code"]) == (200, code)
    line = kie.sandbox.bill.line(MODEL)
    assert (line.charged, line.refused) == (0, 1)


async def test_rate_limited(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.rate_limited=2")
    address = await kie.upload()
    codes = [(await kie.create(address)).json()["code"] for _ in range(3)]
    assert codes == [429, 429, 200]


async def test_html_502(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.html_502")
    reply = await kie.create(await kie.upload())
    assert reply.status_code == 502
    assert reply.text.startswith("<html>")


async def test_lost_reply(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.lost_reply")
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await kie.create(await kie.upload())
    (call,) = kie.sandbox.journal.calls("createTask")
    assert (await kie.finished(call.task_id))["state"] == "success"
    assert charged(kie) == 1


async def test_real_status(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.real_status,kie.no_credits")
    reply = await kie.create(await kie.upload())
    assert (reply.status_code, reply.json()["code"]) == (402, 402)


async def test_no_content_type(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.no_content_type")
    reply = await kie.create(await kie.upload())
    assert "Content-Type" not in reply.headers
    assert reply.json()["code"] == 200


async def test_message_key(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.message_key")
    body = (await kie.create(await kie.upload())).json()
    assert body["message"] == "success"
    assert "msg" not in body


# --- recordInfo


async def test_null_record(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.null_record=3")
    task_id = await kie.start()
    replies = [(await kie.poll(task_id)).json() for _ in range(4)]
    assert [reply["code"] for reply in replies] == [422, 422, 422, 200]
    assert replies[0]["msg"] == "recordInfo is null"


async def test_poll_500(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.poll_500")
    task_id = await kie.start()
    assert [(await kie.poll(task_id)).json()["code"] for _ in range(2)] == [500, 200]


async def test_stuck(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.stuck")
    task_id = await kie.start()
    kie.clock.advance(3600)
    assert (await kie.record(task_id))["state"] == "generating"
    assert charged(kie) == 0


async def test_unknown_state(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.unknown_state")
    task_id = await kie.start()
    assert (await kie.record(task_id))["state"] == "dreaming"
    assert (await kie.finished(task_id))["state"] == "success"


@pytest.mark.parametrize("kind", ["slow", "late"])
async def test_time_is_added(kie: Kie, kind: str) -> None:
    kie.sandbox.faults.set(f"kie.{kind}=7")
    task_id = await kie.start()
    kie.clock.advance(STEPS_S + 6)
    assert (await kie.record(task_id))["state"] == "generating"
    kie.clock.advance(1)
    assert (await kie.finished(task_id))["state"] == "success"


@pytest.mark.parametrize("code", ["500", "501"])
async def test_a_task_fails(kie: Kie, code: str) -> None:
    kie.sandbox.faults.set(f"kie.fail_{code}")
    record = await kie.finished(await kie.start())
    assert (record["state"], record["failCode"], record["resultJson"]) == ("fail", code, "")
    assert charged(kie) == 0


async def test_timeout_408(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.timeout_408")
    assert (await kie.poll(await kie.start())).json()["code"] == 408
    assert charged(kie) == 0


async def test_result_object(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.result_object")
    record = await kie.finished(await kie.start())
    assert isinstance(record["resultJson"], dict)
    assert len(record["resultJson"]["resultUrls"]) == 1


async def test_result_empty(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.result_empty")
    assert (await kie.finished(await kie.start()))["resultJson"] == ""


async def test_result_without_urls(kie: Kie) -> None:
    kie.sandbox.faults.set("kie.result_without_urls")
    record = await kie.finished(await kie.start())
    assert "resultUrls" not in json.loads(record["resultJson"])


# --- result files


@pytest.mark.parametrize("kind", CHECKS)
async def test_the_result_file(kie: Kie, kind: Kind) -> None:
    kie.sandbox.faults.set(f"kie.{kind}")
    record = await kie.finished(await kie.start())
    await CHECKS[kind](kie.http, url_of(record))
    assert charged(kie) == 1
