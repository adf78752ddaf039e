"""The Kie.ai look-alike keeps every point of its protocol, told by a raw HTTP client."""

import base64
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
import numpy as np
import pytest

from sandbox.opening import Sandbox, open_sandbox
from sandbox.options import Limits, Options
from tests.conftest import artwork, png_bytes
from tests.sandbox.conftest import BROWSER, FAST, Clock, alpha_of, data_uri, new_uuid

pytestmark = pytest.mark.anyio

MODEL = "recraft/remove-background"
STEPS_S = 3


def picture() -> bytes:
    return artwork(width=320, height=256)


@dataclass(frozen=True)
class Kie:
    """A client that knows the routes and nothing else."""

    sandbox: Sandbox
    http: httpx.AsyncClient
    clock: Clock
    key: str = "sandbox"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    async def send_file(self, content: bytes, **fields: str) -> httpx.Response:
        return await self.http.post(
            f"{self.sandbox.kie_upload}/api/file-stream-upload",
            headers=self.headers,
            files={"file": ("a.png", content)},
            data={"uploadPath": "images/shop", "fileName": f"{new_uuid()}.png", **fields},
        )

    async def upload(self, content: bytes | None = None) -> str:
        reply = (await self.send_file(content or picture())).json()
        assert reply["success"] is True
        return str(reply["data"]["downloadUrl"])

    async def create(self, image: str, **changes: object) -> httpx.Response:
        body = {"model": MODEL, "input": {"image": image}, **changes}
        url = f"{self.sandbox.kie_api}/api/v1/jobs/createTask"
        return await self.http.post(url, headers=self.headers, json=body)

    async def start(self, content: bytes | None = None) -> str:
        reply = (await self.create(await self.upload(content))).json()
        assert (reply["code"], reply["msg"]) == (200, "success")
        return str(reply["data"]["taskId"])

    async def poll(self, task_id: str) -> httpx.Response:
        return await self.get("/api/v1/jobs/recordInfo", taskId=task_id)

    async def get(self, path: str, **query: str) -> httpx.Response:
        return await self.http.get(self.sandbox.kie_api + path, headers=self.headers, params=query)

    async def record(self, task_id: str) -> dict[str, Any]:
        record: dict[str, Any] = (await self.poll(task_id)).json()["data"]
        return record

    async def finished(self, task_id: str) -> dict[str, Any]:
        """The record once the task has ended; the clock moves so that polls are not too many."""
        self.clock.advance(STEPS_S)
        while (record := await self.record(task_id))["state"] not in ("success", "fail"):
            self.clock.advance(1)
        return record


def url_of(record: dict[str, Any]) -> str:
    (url,) = json.loads(record["resultJson"])["resultUrls"]
    return str(url)


@pytest.fixture
def kie(sandbox: Sandbox, http: httpx.AsyncClient, clock: Clock) -> Kie:
    return Kie(sandbox, http, clock)


# --- the edge and the key


@pytest.mark.parametrize("agent", ["", "Python-urllib/3.11", "python-httpx/0.28.1"])
@pytest.mark.parametrize("host", ["kie_api", "kie_upload", "kie_files"])
async def test_the_edge_turns_library_agents_away(
    sandbox: Sandbox, http: httpx.AsyncClient, agent: str, host: str
) -> None:
    path = {
        "kie_api": "/api/v1/chat/credit",
        "kie_upload": "/api/file-url-upload",
        "kie_files": "/x.png",
    }[host]
    method = "POST" if host == "kie_upload" else "GET"
    headers = {"User-Agent": agent, "Authorization": "Bearer sandbox"}
    reply = await http.request(method, sandbox.addresses()[host] + path, headers=headers)
    assert (reply.status_code, reply.text) == (403, "error code: 1010")
    assert reply.headers["Content-Type"].startswith("text/plain")


async def test_a_wrong_key_is_401_inside_a_200(
    sandbox: Sandbox, http: httpx.AsyncClient, clock: Clock
) -> None:
    stranger = Kie(sandbox, http, clock, key="wrong")
    for reply in (
        await stranger.get("/api/v1/chat/credit"),
        await stranger.create("https://example.com/a.png"),
        await stranger.poll("task"),
    ):
        assert reply.status_code == 200
        assert reply.json()["code"] == 401
    refused = (await stranger.send_file(picture())).json()
    assert (refused["success"], refused["code"]) == (False, 401)


async def test_error_codes_can_be_http_statuses_for_a_run(http: httpx.AsyncClient) -> None:
    async with open_sandbox(Options(real_status=True)) as sandbox:
        reply = await http.get(sandbox.kie_api + "/api/v1/chat/credit")
        assert (reply.status_code, reply.json()["code"]) == (401, 401)


# --- uploads


async def test_a_stream_upload_answers_with_a_public_address(kie: Kie) -> None:
    reply = (await kie.send_file(picture(), fileName="one.png")).json()
    data = reply["data"]
    assert (reply["success"], reply["code"]) == (True, 200)
    assert set(data) == {
        "fileName",
        "filePath",
        "downloadUrl",
        "fileSize",
        "mimeType",
        "uploadedAt",
    }
    assert (data["fileName"], data["filePath"]) == ("one.png", "images/shop/one.png")
    assert (data["fileSize"], data["mimeType"]) == (len(picture()), "image/png")
    assert (await kie.http.get(data["downloadUrl"])).content == picture()


@pytest.mark.parametrize("bare", [True, False])
async def test_a_base64_upload(kie: Kie, bare: bool) -> None:
    text = base64.b64encode(picture()).decode() if bare else data_uri(picture())
    body = {"base64Data": text, "uploadPath": "images/base64", "fileName": "b.png"}
    url = f"{kie.sandbox.kie_upload}/api/file-base64-upload"
    reply = (await kie.http.post(url, headers=kie.headers, json=body)).json()
    assert (await kie.http.get(reply["data"]["downloadUrl"])).content == picture()


async def test_a_url_upload(kie: Kie) -> None:
    body = {"fileUrl": await kie.upload(), "uploadPath": "images/url"}
    url = f"{kie.sandbox.kie_upload}/api/file-url-upload"
    reply = (await kie.http.post(url, headers=kie.headers, json=body)).json()
    assert (await kie.http.get(reply["data"]["downloadUrl"])).content == picture()


@pytest.mark.parametrize(
    ("route", "body", "message"),
    [
        ("base64", {"base64Data": "aGk="}, "Missing required parameter: uploadPath"),
        ("base64", {"uploadPath": "a"}, "Missing required parameter: base64Data"),
        ("base64", {"base64Data": "%", "uploadPath": "a"}, "Base64 decoding failed"),
        ("base64", {"base64Data": "aGk=", "uploadPath": "/a"}, "Invalid parameter: uploadPath"),
        ("url", {"fileUrl": "http://127.0.0.1:1/a", "uploadPath": "a"}, "could not be downloaded"),
    ],
)
async def test_a_bad_upload_is_400_inside_a_200(
    kie: Kie, route: str, body: dict[str, str], message: str
) -> None:
    url = f"{kie.sandbox.kie_upload}/api/file-{route}-upload"
    reply = await kie.http.post(url, headers=kie.headers, json=body)
    assert reply.status_code == 200
    assert (reply.json()["success"], reply.json()["code"]) == (False, 400)
    assert message in reply.json()["msg"]


async def test_a_stream_upload_needs_a_path_and_a_post(kie: Kie) -> None:
    missing = (await kie.send_file(picture(), uploadPath="")).json()
    assert (missing["code"], missing["msg"]) == (400, "Missing required parameter: uploadPath")
    url = f"{kie.sandbox.kie_upload}/api/file-stream-upload"
    assert (await kie.http.get(url, headers=kie.headers)).status_code == 405


async def test_the_api_host_has_no_uploads(kie: Kie) -> None:
    url = f"{kie.sandbox.kie_api}/api/file-stream-upload"
    assert (await kie.http.post(url, headers=kie.headers)).status_code == 404


async def test_uploads_expire_after_a_day(kie: Kie) -> None:
    address = await kie.upload()
    kie.clock.advance(24 * 3600 + 1)
    assert (await kie.http.get(address)).status_code == 404


async def test_the_same_name_overwrites(kie: Kie) -> None:
    first = (await kie.send_file(picture(), fileName="same.png")).json()["data"]["downloadUrl"]
    await kie.send_file(artwork(), fileName="same.png")
    assert (await kie.http.get(first)).content == artwork()


# --- tasks


async def test_a_task_passes_through_its_states(kie: Kie) -> None:
    task_id = await kie.start()
    states = []
    for _ in range(STEPS_S):
        record = await kie.record(task_id)
        assert record["resultJson"] == ""
        states.append(record["state"])
        kie.clock.advance(1)
    assert states == ["waiting", "queuing", "generating"]
    assert (await kie.finished(task_id))["state"] == "success"


async def test_a_finished_task_has_its_result_as_a_string_of_json(kie: Kie) -> None:
    record = await kie.finished(await kie.start())
    assert isinstance(record["resultJson"], str)
    assert json.loads(record["param"])["model"] == MODEL
    assert (record["failCode"], record["model"]) == ("", MODEL)
    assert record["completeTime"] >= record["createTime"]
    alpha = alpha_of((await kie.http.get(url_of(record))).content)
    assert alpha.shape == (256, 320)
    assert (alpha[0, 0], alpha[128, 160]) == (0, 255)


async def test_a_finished_task_is_billed_and_costs_a_credit(kie: Kie) -> None:
    before = (await kie.get("/api/v1/chat/credit")).json()["data"]
    record = await kie.finished(await kie.start())
    assert (await kie.get("/api/v1/chat/credit")).json()["data"] == before - 1
    assert kie.sandbox.bill.total_usd == Decimal("0.005")
    (entry,) = kie.sandbox.bill.entries(task_id=record["taskId"])
    assert (entry.outcome, entry.model) == ("charged", MODEL)


async def test_each_creation_is_a_task_of_its_own(kie: Kie) -> None:
    address = await kie.upload()
    ids = {(await kie.create(address)).json()["data"]["taskId"] for _ in range(2)}
    assert len(ids) == 2


async def test_only_the_largest_piece_is_kept(kie: Kie) -> None:
    pixels = np.full((256, 320, 3), 255, np.uint8)
    pixels[40:200, 40:160] = (200, 20, 30)
    pixels[100:140, 220:260] = (20, 20, 200)
    record = await kie.finished(await kie.start(png_bytes(pixels)))
    alpha = alpha_of((await kie.http.get(url_of(record))).content)
    assert (alpha[100, 100], alpha[120, 240]) == (255, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "recraft/remove"},
        {"model": None},
        {"input": {"image_url": "https://example.com/a.png"}},
        {"input": {"image": ""}},
        {"input": None},
    ],
)
async def test_a_bad_creation_is_422_inside_a_200(kie: Kie, changes: dict[str, object]) -> None:
    reply = await kie.create("https://example.com/a.png", **changes)
    assert (reply.status_code, reply.json()["code"]) == (200, 422)


def noise(*, width: int, height: int) -> bytes:
    rng = np.random.default_rng(1)
    return png_bytes(rng.integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "broken"),
    [
        (artwork(width=255, height=300), "shortest side"),
        (artwork(width=4097, height=256), "longest side"),
        (png_bytes(np.full((4010, 4010, 3), 255, np.uint8)), "number of pixels"),
        (noise(width=1400, height=1300), "file size"),
        (b"GIF89a" + artwork(), "picture"),
    ],
)
async def test_an_input_beyond_the_limits_fails_and_is_refunded(
    kie: Kie, content: bytes, broken: str
) -> None:
    before = (await kie.get("/api/v1/chat/credit")).json()["data"]
    record = await kie.finished(await kie.start(content))
    assert (record["state"], record["failCode"], record["resultJson"]) == ("fail", "422", "")
    assert broken in record["failMsg"]
    assert (await kie.get("/api/v1/chat/credit")).json()["data"] == before
    assert kie.sandbox.bill.total_usd == 0


async def test_an_input_that_cannot_be_fetched_fails(kie: Kie) -> None:
    reply = (await kie.create(f"{kie.sandbox.kie_files}/nothing.png")).json()
    assert (await kie.finished(reply["data"]["taskId"]))["failCode"] == "422"


async def test_polls_need_a_known_id_of_the_own_account(kie: Kie) -> None:
    task_id = await kie.start()
    other = Kie(kie.sandbox, kie.http, kie.clock, key="sandbox-other")
    assert (await kie.get("/api/v1/jobs/recordInfo")).json()["code"] == 400
    assert (await kie.poll("task_unknown")).json() == {
        "code": 422,
        "msg": "recordInfo is null",
        "data": None,
    }
    assert (await other.poll(task_id)).json()["code"] == 404


async def test_more_than_20_creations_in_10_seconds_are_429(kie: Kie) -> None:
    address = await kie.upload()
    codes = [(await kie.create(address)).json()["code"] for _ in range(21)]
    assert codes == [200] * 20 + [429]
    kie.clock.advance(10)
    assert (await kie.create(address)).json()["code"] == 200


async def test_more_than_10_polls_a_second_are_429(kie: Kie) -> None:
    task_id = await kie.start()
    codes = [(await kie.poll(task_id)).json()["code"] for _ in range(11)]
    assert codes == [200] * 10 + [429]


async def test_without_credits_a_creation_is_402(http: httpx.AsyncClient, clock: Clock) -> None:
    options = Options(times=FAST, kie_credits=1)
    async with open_sandbox(options, clock=clock) as sandbox:
        kie = Kie(sandbox, http, clock)
        address = await kie.upload()
        codes = [(await kie.create(address)).json()["code"] for _ in range(2)]
    assert codes == [200, 402]


async def test_results_expire(kie: Kie) -> None:
    url = url_of(await kie.finished(await kie.start()))
    kie.clock.advance(24 * 3600 + 1)
    assert (await kie.http.get(url)).status_code == 404


async def test_a_fallback_link_lives_20_minutes_and_only_for_own_files(kie: Kie) -> None:
    url = url_of(await kie.finished(await kie.start()))
    route = f"{kie.sandbox.kie_api}/api/v1/common/download-url"
    link = (await kie.http.post(route, headers=kie.headers, json={"url": url})).json()["data"]
    assert (await kie.http.get(link)).content == (await kie.http.get(url)).content
    kie.clock.advance(20 * 60)
    assert (await kie.http.get(link)).status_code == 404
    foreign = await kie.http.post(route, headers=kie.headers, json={"url": "https://a.org/b"})
    assert foreign.json()["code"] == 422


async def test_a_body_beyond_the_limit_is_413(http: httpx.AsyncClient, clock: Clock) -> None:
    options = Options(limits=Limits(body_bytes=1000))
    async with open_sandbox(options) as sandbox:
        reply = await Kie(sandbox, http, clock).send_file(bytes(5000))
        assert reply.status_code == 413
        assert BROWSER in http.headers["User-Agent"]
