"""Kie.ai's client: both places of a status are judged, and no task is ever created twice.

The server is a real one on loopback that answers each route by a script; what every fault does to
a shot is in test_providers.py.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from email import message_from_bytes
from typing import Any, TypeAlias

import httpx
import pytest

from models.errors import FailureCode, RemoverError
from services.kie_client import Account, Finished, KieClient, Pace
from tests.ports import unused_port
from utils.clock import Deadline

pytestmark = pytest.mark.anyio

PATIENCE_S = 10
AGENT = "Mozilla/5.0 (compatible; print-shop)"
MODEL = "recraft/remove-background"
UPLOADED = "https://tempfile.redpandaai.co/x/in.png"
RESULT = "https://tempfile.aiquickdraw.com/out.png"
TASK = "task_recraft_1"
PACE = Pace(
    request_s=5,
    straggle_s=PATIENCE_S,
    poll_first_s=0.01,
    poll_later_s=0.01,
    later_after_s=5,
    forgive_unknown_s=5,
    rate_limited_s=0.01,
    retry_s=0.01,
)

Json: TypeAlias = dict[str, Any]
Reply: TypeAlias = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]
Failure: TypeAlias = tuple[FailureCode, bool]

UNREACHABLE = (FailureCode.PROVIDER_UNREACHABLE, True)
REFUSED = (FailureCode.PROVIDER_REFUSED, False)
QUOTA = (FailureCode.PROVIDER_QUOTA, False)
RATE_LIMITED = (FailureCode.PROVIDER_RATE_LIMITED, True)
BROKEN = (FailureCode.PROVIDER_ERROR, True)
WRONG = (FailureCode.PROVIDER_ERROR, False)
TOO_LATE = (FailureCode.PROVIDER_TIMEOUT, True)
BAD_RESULT = (FailureCode.PROVIDER_BAD_RESULT, False)
OUTCOME_UNKNOWN = (FailureCode.PROVIDER_OUTCOME_UNKNOWN, False)


# --- a server that follows a script


def reply(body: bytes, *headers: str, status: int = 200, length: int | None = None) -> bytes:
    told = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status} So", f"Content-Length: {told}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def saying(code: int, content: object = None, *, status: int = 200, **more: object) -> bytes:
    """The envelope; its content type is left out, as it often is."""
    return reply(json.dumps({"code": code, "data": content, **more}).encode(), status=status)


def state(name: str, **fields: object) -> bytes:
    return saying(200, {"taskId": TASK, "state": name, **fields})


def success(**fields: object) -> bytes:
    usual = {"resultJson": json.dumps({"resultUrls": [RESULT]}), "creditsConsumed": 1}
    return state("success", **{**usual, **fields})


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def never(writer: asyncio.StreamWriter) -> None:  # noqa: ARG001  # it says nothing
    await asyncio.sleep(PATIENCE_S)


def after(event: asyncio.Event, then: bytes) -> Reply:
    async def give(writer: asyncio.StreamWriter) -> None:
        await event.wait()
        writer.write(then)

    return give


NO_RECORD = saying(422, msg="recordInfo is null")
NO_TASK = saying(404, msg="Task not found")
EDGE_PAGE = reply(b"<html>502 Bad Gateway</html>", "Content-Type: text/html", status=502)
EDGE_1010 = reply(b"error code: 1010", "Content-Type: text/plain", status=403)
HALF = reply(b'{"code":200,"data":{"ta', length=500)
DEEP = reply(b'{"data":' * 100_000)
BAD_GZIP = reply(b"no gzip at all", "Content-Encoding: gzip")
WORKING: dict[str, tuple[Reply, ...]] = {
    "upload": (saying(200, {"downloadUrl": UPLOADED}),),
    "create": (saying(200, {"taskId": TASK}),),
    "poll": (success(),),
}
ROUTES = {
    "POST /api/file-stream-upload": "upload",
    "POST /api/v1/jobs/createTask": "create",
    "GET /api/v1/jobs/recordInfo": "poll",
}


@dataclass(frozen=True)
class Request:
    route: str
    query: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> object:
        return json.loads(self.body)

    def fields(self) -> dict[str, tuple[str | None, bytes]]:
        """A form's parts by name: (file name, content)."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        parts = list(message_from_bytes(head + self.body).walk())[1:]
        return {
            str(part.get_param("name", header="content-disposition")): (
                part.get_filename(),
                bytes(part.get_payload(decode=True)),
            )
            for part in parts
        }


@dataclass(eq=False)
class Office:
    """Each route gives its replies in order, the last one again and again."""

    script: dict[str, tuple[Reply, ...]]
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    count: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    running: set["asyncio.Task[None]"] = field(default_factory=set)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.running.add(task)
        try:
            request = await read_request(reader)
            self.requests.append(request)
            replies = self.script[request.route]
            chosen = replies[min(self.count[request.route], len(replies) - 1)]
            self.count[request.route] += 1
            if isinstance(chosen, bytes):
                writer.write(chosen)
            else:
                await chosen(writer)
        finally:
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = head[0].split(" ")
    pairs = (line.split(": ", 1) for line in head[1:] if line)
    headers = {name.lower(): value for name, value in pairs}
    path, _, query = target.partition("?")
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(ROUTES[f"{method} {path}"], query, headers, body)


@asynccontextmanager
async def listening(opened: Office, *, port: int = 0) -> AsyncIterator[Office]:
    server = await asyncio.start_server(opened.answer, "127.0.0.1", port)
    opened.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with asyncio.timeout(3 * PATIENCE_S):
            yield opened
    finally:
        server.close()
        for task in opened.running:
            task.cancel()
        await asyncio.gather(*opened.running, return_exceptions=True)


class Settlements:
    """What was said of each task's cost, in order."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Decimal | None]] = []
        self.came = asyncio.Event()

    def __call__(self, key: str, credits_used: Decimal | None) -> None:
        self.all.append((key, credits_used))
        self.came.set()


@dataclass(eq=False)
class Shop:
    """A client of that office, and what it was told of costs."""

    client: KieClient
    settled: Settlements
    office: Office

    async def remove(self, *, within_s: float = PATIENCE_S, key: str = "k1") -> Finished:
        deadline = Deadline.after(within_s)
        return await self.client.remove(b"PNG!", media_type="image/png", key=key, deadline=deadline)

    async def failure(self, *, within_s: float = PATIENCE_S, key: str = "k1") -> Failure:
        with pytest.raises(RemoverError) as caught:
            await self.remove(within_s=within_s, key=key)
        return caught.value.code, caught.value.retryable


FREE = [("k1", Decimal(0))]
PAID = [("k1", Decimal(1))]


@asynccontextmanager
async def shop(
    *,
    waits: dict[str, float] | None = None,
    api_url: str | None = None,
    **script: tuple[Reply, ...],
) -> AsyncIterator[Shop]:
    settled = Settlements()
    async with listening(Office({**WORKING, **script})) as office:
        account = Account(
            api_url=api_url or office.url,
            upload_url=office.url,
            api_key="s3cret",
            user_agent=AGENT,
            model=MODEL,
        )
        client = KieClient(account, settle=settled, pace=replace(PACE, **(waits or {})))
        try:
            yield Shop(client, settled, office)
        finally:
            async with asyncio.timeout(PATIENCE_S):
                await client.close()
            assert own_tasks() == []


def own_tasks() -> list["asyncio.Task[Any]"]:
    return [each for each in asyncio.all_tasks() if "KieClient." in str(each.get_coro())]


# --- what is sent


async def test_a_picture_is_uploaded_then_one_task_created_then_asked_for() -> None:
    async with shop() as customer:
        assert await customer.remove() == Finished(TASK, RESULT)
        upload, create, poll = customer.office.requests
        assert (upload.route, create.route, poll.route) == ("upload", "create", "poll")
        assert upload.fields() == {
            "uploadPath": (None, b"images/user-uploads"),
            "fileName": (None, b"k1.png"),
            "file": ("k1.png", b"PNG!"),
        }
        assert create.json() == {"model": MODEL, "input": {"image": UPLOADED}}
        assert poll.query == f"taskId={TASK}"
        assert customer.settled.all == PAID


async def test_every_request_has_our_user_agent_and_the_key() -> None:
    async with shop() as customer:
        await customer.remove()
        for request in customer.office.requests:
            assert request.headers["user-agent"] == AGENT
            assert request.headers["authorization"] == "Bearer s3cret"


def test_an_account_does_not_show_its_key() -> None:
    account = Account(api_url="a", upload_url="b", api_key="s3cret", user_agent="c", model="d")
    assert "s3cret" not in repr(account)


# --- upload


@pytest.mark.parametrize(
    "content",
    [
        {"downloadUrl": UPLOADED, "fileName": "x", "filePath": "y"},
        {"fileId": "1", "fileUrl": "https://other", "downloadUrl": UPLOADED, "expiresAt": "z"},
        {"fileId": "1", "fileUrl": UPLOADED},
        {"downloadUrl": None, "fileUrl": UPLOADED},
    ],
    ids=["documented", "quickstart", "file url only", "download url is null"],
)
async def test_an_upload_is_read_in_each_documented_shape(content: Json) -> None:
    async with shop(upload=(saying(200, content, success=True),)) as customer:
        await customer.remove()
        assert customer.office.requests[1].json() == {"model": MODEL, "input": {"image": UPLOADED}}


@pytest.mark.parametrize(
    "first",
    [saying(500), saying(200, status=503), EDGE_PAGE, hang_up, HALF, DEEP, BAD_GZIP, saying(429)],
    ids=["500", "HTTP 503", "HTML", "dropped", "half", "deep", "bad gzip", "429"],
)
async def test_an_upload_is_free_and_tried_again(first: Reply) -> None:
    async with shop(upload=(first, first, *WORKING["upload"])) as customer:
        await customer.remove()
        assert customer.office.count == {"upload": 3, "create": 1, "poll": 1}


@pytest.mark.parametrize(
    ("answer", "expected", "uploads"),
    [
        (saying(500), BROKEN, 3),
        (EDGE_PAGE, UNREACHABLE, 3),
        (hang_up, UNREACHABLE, 3),
        (saying(401), REFUSED, 1),
        (saying(400), WRONG, 1),
        (EDGE_1010, WRONG, 1),
        (saying(200, {}), WRONG, 1),
        (saying(200, {"downloadUrl": 7}), WRONG, 1),
        (reply(b"[]"), WRONG, 1),
    ],
    ids=["500", "HTML", "dropped", "401", "400", "1010", "no address", "number", "a list"],
)
async def test_without_an_upload_no_task_is_created_and_nothing_is_charged(
    answer: Reply, expected: Failure, uploads: int
) -> None:
    async with shop(upload=(answer,)) as customer:
        assert await customer.failure() == expected
        assert customer.office.count == {"upload": uploads}
        assert customer.settled.all == FREE


async def test_an_upload_that_is_not_over_in_time_costs_nothing() -> None:
    async with shop(upload=(never,)) as customer:
        assert await customer.failure(within_s=0.1) == UNREACHABLE
        assert customer.office.count == {"upload": 1}
        assert customer.settled.all == FREE


# --- createTask


@pytest.mark.parametrize("where", ["body", "HTTP", "both"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (400, WRONG),
        (401, REFUSED),
        (402, QUOTA),
        (404, WRONG),
        (408, TOO_LATE),
        (422, WRONG),
        (433, QUOTA),
        (455, BROKEN),
        (500, BROKEN),
        (501, WRONG),
        (505, WRONG),
        (550, WRONG),
    ],
)
async def test_a_refusal_counts_wherever_it_stands_and_the_task_is_not_sent_again(
    where: str, code: int, expected: Failure
) -> None:
    answer = saying(
        200 if where == "HTTP" else code,
        {"taskId": TASK} if where == "HTTP" else None,
        status=200 if where == "body" else code,
    )
    async with shop(create=(answer,)) as customer:
        assert await customer.failure() == expected
        assert customer.office.count == {"upload": 1, "create": 1}
        assert customer.settled.all == FREE


async def test_the_edges_page_is_not_taken_for_a_bad_key() -> None:
    async with shop(create=(EDGE_1010,)) as customer:
        assert await customer.failure() == WRONG
        assert customer.office.count["create"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        hang_up,
        HALF,
        EDGE_PAGE,
        DEEP,
        BAD_GZIP,
        reply(b""),
        reply(b"OK"),
        reply(b"[]"),
        saying(200),
        saying(200, {}),
        saying(200, {"taskId": 7}),
        saying(200, {"taskId": None}),
    ],
    ids=["dropped", "half", "HTML", "deep", "bad gzip", "empty", "text", "a list", "no data",
         "no id", "number", "null"],
)  # fmt: skip
async def test_a_lost_or_unreadable_reply_is_an_unknown_outcome_and_never_a_second_task(
    answer: Reply,
) -> None:
    async with shop(create=(answer, *WORKING["create"])) as customer:
        assert await customer.failure() == OUTCOME_UNKNOWN
        assert customer.office.count == {"upload": 1, "create": 1}
        assert customer.settled.all == []


async def test_a_reply_that_does_not_come_in_time_is_an_unknown_outcome() -> None:
    async with shop(create=(never,)) as customer:
        async with asyncio.timeout(3):
            assert await customer.failure(within_s=0.3) == OUTCOME_UNKNOWN
        assert customer.office.count["create"] == 1
        assert customer.settled.all == []


async def test_a_rate_limit_is_waited_for_and_does_not_settle_the_task() -> None:
    answers = (saying(429), saying(200, status=429), *WORKING["create"])
    async with shop(create=answers) as customer:
        assert await customer.remove() == Finished(TASK, RESULT)
        assert customer.office.count["create"] == 3
        assert customer.settled.all == PAID


async def test_a_rate_limit_that_stays_is_said_after_three_attempts() -> None:
    async with shop(create=(saying(429),)) as customer:
        assert await customer.failure() == RATE_LIMITED
        assert customer.office.count["create"] == 3
        assert customer.settled.all == FREE


async def test_a_rate_limit_is_not_waited_for_beyond_the_deadline() -> None:
    async with shop(create=(saying(429),), waits={"rate_limited_s": 60}) as customer:
        assert await customer.failure(within_s=5) == RATE_LIMITED
        assert customer.office.count["create"] == 1
        assert customer.settled.all == FREE


async def test_a_task_that_certainly_did_not_leave_is_sent_again() -> None:
    """A connection that ends before TLS is there has carried nothing."""
    connections = 0

    async def end_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    server = await asyncio.start_server(end_at_once, "127.0.0.1", 0)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with shop(api_url=url) as customer:
            assert await customer.failure() == UNREACHABLE
            assert connections == 3
            assert customer.settled.all == FREE


async def test_a_task_that_never_left_costs_nothing() -> None:
    async with shop(api_url=f"http://127.0.0.1:{unused_port()}") as customer:
        assert await customer.failure() == UNREACHABLE
        assert customer.settled.all == FREE


async def test_only_twenty_tasks_are_created_in_ten_seconds() -> None:
    async with shop() as customer:
        for number in range(20):
            await customer.remove(key=f"k{number}")
        assert await customer.failure(within_s=0.5, key="late") == RATE_LIMITED
        assert customer.office.count["create"] == 20
        assert customer.settled.all[-1] == ("late", Decimal(0))


# --- polling


@pytest.mark.parametrize("unknown", [NO_RECORD, NO_TASK], ids=["null", "404"])
async def test_a_young_task_may_be_unknown(unknown: Reply) -> None:
    async with shop(poll=(unknown, unknown, success())) as customer:
        assert await customer.remove() == Finished(TASK, RESULT)


@pytest.mark.parametrize("unknown", [NO_RECORD, NO_TASK], ids=["null", "404"])
async def test_an_old_task_may_not_be_unknown_and_its_cost_stays_open(unknown: Reply) -> None:
    async with shop(poll=(unknown,), waits={"forgive_unknown_s": 0.2}) as customer:
        assert await customer.failure() == WRONG
        assert customer.settled.all == []


@pytest.mark.parametrize(
    "answer",
    [
        saying(500),
        saying(200, status=500),
        saying(429),
        saying(455),
        saying(503),
        EDGE_PAGE,
        hang_up,
        never,
        HALF,
        DEEP,
        BAD_GZIP,
        reply(b""),
        saying(200),
        state("waiting", resultJson=""),
        state("queuing", resultJson=None),
        state("generating"),
        state("dreaming"),
        saying(200, {"taskId": TASK}),
    ],
    ids=["500", "HTTP 500", "429", "455", "503", "HTML", "dropped", "timeout", "half", "deep",
         "bad gzip", "empty", "no data", "waiting", "queuing", "generating", "new state",
         "no state"],
)  # fmt: skip
async def test_what_passes_while_polling_is_forgiven(answer: Reply) -> None:
    polls = (answer, answer, success())
    async with shop(poll=polls, waits={"request_s": 0.3, "forgive_unknown_s": 0}) as customer:
        assert await customer.remove() == Finished(TASK, RESULT)
        assert customer.office.count == {"upload": 1, "create": 1, "poll": 3}
        assert customer.settled.all == PAID


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(saying(401), REFUSED), (saying(408), TOO_LATE), (saying(505), WRONG), (EDGE_1010, WRONG)],
    ids=["401", "408", "505", "1010"],
)
async def test_what_does_not_pass_ends_the_polling_and_leaves_the_cost_open(
    answer: Reply, expected: Failure
) -> None:
    async with shop(poll=(answer,)) as customer:
        assert await customer.failure() == expected
        assert customer.office.count["poll"] == 1
        assert customer.settled.all == []


@pytest.mark.parametrize(
    "result",
    [
        json.dumps({"resultUrls": [RESULT]}),
        {"resultUrls": [RESULT]},
        {"resultUrls": [RESULT, "https://second"]},
    ],
    ids=["text", "object", "two"],
)
async def test_a_result_is_text_or_an_object(result: object) -> None:
    async with shop(poll=(success(resultJson=result),)) as customer:
        assert (await customer.remove()).url == RESULT


@pytest.mark.parametrize(
    "result",
    [None, "", "{}", "{", "[]", "null", {}, [], 7, {"resultUrls": None}, {"resultUrls": []},
     {"resultUrls": [None]}, {"resultUrls": RESULT}, {"other": 1}, "[" * 100_000],
    ids=["null", "nothing", "empty object", "half", "a list", "null text", "object", "list",
         "number", "null urls", "no urls", "null url", "a text", "others", "deep"],
)  # fmt: skip
async def test_a_success_without_a_result_is_a_bad_result_that_was_charged(result: object) -> None:
    async with shop(poll=(success(resultJson=result),)) as customer:
        assert await customer.failure() == BAD_RESULT
        assert customer.settled.all == PAID


async def test_a_success_that_leaves_the_result_out_is_a_bad_result() -> None:
    async with shop(poll=(state("success", creditsConsumed=1),)) as customer:
        assert await customer.failure() == BAD_RESULT


@pytest.mark.parametrize(
    ("code", "expected"),
    [("500", BROKEN), ("501", BROKEN), ("422", WRONG), (None, WRONG), ("", WRONG), (500, BROKEN)],
)
async def test_a_failed_task_costs_nothing(code: object, expected: Failure) -> None:
    async with shop(poll=(state("fail", failCode=code, failMsg=None),)) as customer:
        assert await customer.failure() == expected
        assert customer.settled.all == FREE


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ("1", Decimal(1)),
        ("0", Decimal(0)),
        ("0.1", Decimal("0.1")),
        ("1.10", Decimal("1.1")),
        ("null", None),
        ("true", None),
        ('"1"', None),
        ("NaN", None),
        ("Infinity", None),
        ("-1", None),
        ("[]", None),
    ],
)
async def test_used_credits_are_exact_or_unknown(used: str, expected: Decimal | None) -> None:
    body = success(creditsConsumed="HERE").partition(b"\r\n\r\n")[2]
    async with shop(poll=(reply(body.replace(b'"HERE"', used.encode())),)) as customer:
        await customer.remove()
        assert customer.settled.all == [("k1", expected)]


async def test_credits_nobody_named_are_unknown() -> None:
    result = json.dumps({"resultUrls": [RESULT]})
    async with shop(poll=(state("success", resultJson=result),)) as customer:
        await customer.remove()
        assert customer.settled.all == [("k1", None)]


# --- after everybody has left


@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "too late"])
async def test_a_late_task_is_settled_once(cancelled: bool) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def finish_late(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await left.wait()
        writer.write(success(creditsConsumed=2))

    async with shop(poll=(finish_late,)) as customer:
        if cancelled:
            waiting = asyncio.create_task(customer.remove())
            await asyncio.wait_for(asked.wait(), PATIENCE_S)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        else:
            assert await customer.failure(within_s=0.3) == TOO_LATE
        assert customer.settled.all == []
        left.set()
        await asyncio.wait_for(customer.settled.came.wait(), PATIENCE_S)
        if running := own_tasks():
            await asyncio.wait(running, timeout=PATIENCE_S)
        assert customer.settled.all == [("k1", Decimal(2))]
        assert customer.office.count["create"] == 1


async def test_a_late_failure_settles_that_nothing_was_charged() -> None:
    left = asyncio.Event()
    async with shop(poll=(after(left, state("fail", failCode="500")),)) as customer:
        assert await customer.failure(within_s=0.3) == TOO_LATE
        left.set()
        await asyncio.wait_for(customer.settled.came.wait(), PATIENCE_S)
        assert customer.settled.all == FREE


async def test_a_straggler_is_not_followed_for_ever() -> None:
    async with shop(poll=(state("generating"),), waits={"straggle_s": 0.2}) as customer:
        assert (await customer.failure())[0] is FailureCode.PROVIDER_TIMEOUT
        assert own_tasks() == []
        assert customer.settled.all == []


async def test_close_ends_every_wait_and_leaves_no_task() -> None:
    asked = asyncio.Event()

    async def hold(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await never(writer)

    async with shop(poll=(hold,)) as customer:
        waiting = asyncio.create_task(customer.remove())
        await asyncio.wait_for(asked.wait(), PATIENCE_S)
        await customer.client.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert own_tasks() == [] == customer.settled.all


def test_a_pace_scales_its_waits_and_not_its_limits() -> None:
    half = Pace().scaled(0.5)
    assert (half.request_s, half.straggle_s) == (30, 900)
    assert (half.poll_first_s, half.poll_later_s, half.later_after_s) == (1, 2.5, 15)
    assert (half.forgive_unknown_s, half.rate_limited_s, half.retry_s) == (15, 5, 0.25)


async def test_no_environment_proxy_sees_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_port()}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{unused_port()}")
    async with shop() as customer:
        assert httpx.URL(customer.office.url).host == "127.0.0.1"
        assert await customer.remove() == Finished(TASK, RESULT)
