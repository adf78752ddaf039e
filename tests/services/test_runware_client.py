"""Runware's socket: whatever happens to it, a task keeps its one id and is paid for once.

The server is a real one on loopback that follows a script for each connection; what every fault
does to an answer is in test_providers.py.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeAlias

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from models.errors import FailureCode, RemoverError
from services.runware_client import Pace, RunwareClient, new_task_id
from services.runware_protocol import Done
from tests.ports import unused_port
from utils import logs
from utils.clock import Deadline

pytestmark = pytest.mark.anyio

PATIENCE_S = 10
KEY = "s3cret"
AIR = "bria:2@1"
IMAGE = "data:image/png;base64,AAAA"
URL = "https://im.runware.ai/x.png"
COST = Decimal("0.0006")
PACE = Pace(
    connect_s=5,
    authenticate_s=5,
    straggle_s=PATIENCE_S,
    ping_s=5,
    acknowledge_s=5,
    poll_first_s=0.01,
    poll_longest_s=0.05,
    reconnect_first_s=0.01,
    reconnect_longest_s=0.05,
)

Item: TypeAlias = dict[str, Any]
Failure: TypeAlias = tuple[FailureCode, bool]


@dataclass(eq=False)
class Visit:
    """One connection as the server sees it."""

    number: int
    socket: ServerConnection
    office: "Office"

    async def hear(self) -> Item:
        (task,) = json.loads(await self.socket.recv())
        await self.office.note(self.number, task)
        return dict(task)

    async def hear_of(self, kind: str) -> Item:
        """The next message of that kind; pings on the way are answered."""
        while (task := await self.hear())["taskType"] != kind:
            if task["taskType"] == "ping":
                await self.say({"taskType": "ping", "pong": True})
        return task

    async def say(self, *items: Item) -> None:
        await self.socket.send(json.dumps({"data": items}))

    async def refuse(self, code: str, **fields: object) -> None:
        error = {"code": code, "message": "No.", **fields}
        await self.socket.send(json.dumps({"errors": [error]}))

    async def welcome(self, session: str = "s1") -> Item:
        task = await self.hear_of("authentication")
        await self.say({"taskType": "authentication", "connectionSessionUUID": session})
        return task

    async def take(self) -> Item:
        """Hear a removal and acknowledge it."""
        task = await self.hear_of("removeBackground")
        await self.say(known(task))
        return task

    def drop(self) -> None:
        self.socket.transport.abort()

    async def listen(self) -> None:
        """Answer pings, and nothing else, until the other side leaves."""
        await self.hear_of("goodbye")


Script: TypeAlias = Callable[[Visit], Awaitable[None]]


@dataclass(eq=False)
class Office:
    """The server: its `scripts` are for the connections in their order, the last for all others."""

    scripts: tuple[Script, ...]
    url: str = ""
    visits: int = 0
    heard: list[tuple[int, Item]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def receive(self, connection: ServerConnection) -> None:
        script = self.scripts[min(self.visits, len(self.scripts) - 1)]
        self.visits += 1
        try:
            await script(Visit(self.visits, connection, self))
        except ConnectionClosed:
            pass
        except Exception as error:  # noqa: BLE001  # raised where the test ends
            self.failures.append(error)

    async def note(self, visit: int, task: Item) -> None:
        async with self.changed:
            self.heard.append((visit, task))
            self.changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self.changed:
            await self.changed.wait_for(condition)

    def all(self, kind: str) -> list[Item]:
        return [task for _, task in self.heard if task["taskType"] == kind]

    def removals(self) -> list[str]:
        return [task["taskUUID"] for task in self.all("removeBackground")]


@asynccontextmanager
async def office(*scripts: Script) -> AsyncIterator[Office]:
    opened = Office(scripts)
    async with (
        asyncio.timeout(3 * PATIENCE_S),
        serve(
            opened.receive,
            "127.0.0.1",
            0,
            max_size=None,
            close_timeout=0.2,
            ping_interval=None,
        ) as server,
    ):
        (listener,) = server.sockets
        opened.url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        yield opened
    if opened.failures:
        raise opened.failures[0]


class Settlements:
    """What was said of each task's cost, in order."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Decimal | None]] = []
        self.requests: list[str | None] = []
        self.came = asyncio.Event()

    def __call__(self, task_id: str, cost: Decimal | None) -> None:
        self.all.append((task_id, cost))
        self.requests.append(logs.request_id.get())
        self.came.set()


@dataclass(eq=False)
class Shop:
    """A client of that office, and what it was told of costs."""

    client: RunwareClient
    settled: Settlements

    async def remove(
        self, task_id: str | None = None, *, within_s: float = PATIENCE_S, image: str = IMAGE
    ) -> Done:
        return await self.client.remove(
            image, air=AIR, task_id=task_id or new_task_id(), deadline=Deadline.after(within_s)
        )

    async def failure(self, task_id: str | None = None, *, within_s: float = PATIENCE_S) -> Failure:
        with pytest.raises(RemoverError) as caught:
            await self.remove(task_id, within_s=within_s)
        return caught.value.code, caught.value.retryable


UNREACHABLE = (FailureCode.PROVIDER_UNREACHABLE, True)
TOO_LATE = (FailureCode.PROVIDER_TIMEOUT, True)
OUTCOME_UNKNOWN = (FailureCode.PROVIDER_OUTCOME_UNKNOWN, False)
KEY_REFUSED = (FailureCode.PROVIDER_REFUSED, False)
BROKEN = (FailureCode.PROVIDER_ERROR, True)


@asynccontextmanager
async def shop(url: str, **waits: float) -> AsyncIterator[Shop]:
    settled = Settlements()
    client = RunwareClient(url, api_key=KEY, settle=settled, pace=replace(PACE, **waits))
    try:
        yield Shop(client, settled)
    finally:
        async with asyncio.timeout(PATIENCE_S):
            await client.close()
        assert own_tasks() == []


def own_tasks() -> list["asyncio.Task[Any]"]:
    """What the client has running."""
    return [each for each in asyncio.all_tasks() if "RunwareClient." in str(each.get_coro())]


def known(task: Item) -> Item:
    return {"taskType": "removeBackground", "taskUUID": task["taskUUID"]}


def result(task: Item) -> Item:
    return {**known(task), "imageURL": URL, "cost": float(COST)}


async def serve_well(visit: Visit) -> None:
    """Acknowledge every removal and answer the first question for it."""
    await visit.welcome()
    while True:
        task = await visit.hear()
        match task["taskType"]:
            case "removeBackground":
                await visit.say(known(task))
            case "getResponse":
                await visit.say(result(task))


# --- one socket


async def test_the_socket_is_opened_at_the_first_task() -> None:
    async with office(serve_well) as server, shop(server.url) as customer:
        await asyncio.sleep(0)
        assert (server.visits, own_tasks()) == (0, [])
        task_id = new_task_id()
        assert await customer.remove(task_id) == Done(task_id, URL, COST)
        assert server.visits == 1
        assert [task["taskType"] for _, task in server.heard[:3]] == [
            "authentication",
            "removeBackground",
            "getResponse",
        ]
        assert customer.settled.all == [(task_id, COST)]


async def test_the_next_task_uses_the_same_socket_and_key_once() -> None:
    async with office(serve_well) as server, shop(server.url) as customer:
        for _ in range(3):
            await customer.remove()
        assert server.visits == 1
        assert server.all("authentication") == [{"taskType": "authentication", "apiKey": KEY}]


async def test_two_tasks_at_once_share_a_socket_and_each_gets_its_own_result() -> None:
    async def answer_backwards(visit: Visit) -> None:
        await visit.welcome()
        tasks = [await visit.take(), await visit.take()]
        for task in reversed(tasks):
            await visit.say({**result(task), "imageURL": URL + task["taskUUID"]})
        await visit.listen()

    async with office(answer_backwards) as server, shop(server.url) as customer:
        ids = [new_task_id(), new_task_id()]
        both = await asyncio.gather(*map(customer.remove, ids))
        assert [done.url for done in both] == [URL + each for each in ids]
        assert server.visits == 1


async def test_what_a_task_cost_is_heard_of_in_its_own_requests_context() -> None:
    """Not in that of the request which happened to open the socket."""

    async def answer_backwards(visit: Visit) -> None:
        await visit.welcome()
        tasks = [await visit.take(), await visit.take()]
        for task in reversed(tasks):
            await visit.say(result(task))
        await visit.listen()

    async with office(answer_backwards) as server, shop(server.url) as customer:

        async def ask(name: str) -> str:
            logs.request_id.set(name)
            return (await customer.remove()).task_id

        ids = await asyncio.gather(asyncio.create_task(ask("a")), asyncio.create_task(ask("b")))
        tasks = [task_id for task_id, _ in customer.settled.all]
        named = dict(zip(tasks, customer.settled.requests, strict=True))
        assert named == {ids[0]: "a", ids[1]: "b"}


async def test_one_tasks_refusal_is_not_the_others() -> None:
    async def refuse_first(visit: Visit) -> None:
        await visit.welcome()
        first, second = await visit.take(), await visit.take()
        await visit.refuse("contentPolicyViolation", taskUUID=first["taskUUID"])
        await visit.say(result(second))
        await visit.listen()

    async with office(refuse_first) as server, shop(server.url) as customer:
        ids = [new_task_id(), new_task_id()]
        refused, done = await asyncio.gather(customer.failure(ids[0]), customer.remove(ids[1]))
        assert refused == (FailureCode.CONTENT_REJECTED, False)
        assert done == Done(ids[1], URL, COST)
        assert sorted(customer.settled.all) == sorted([(ids[0], Decimal(0)), (ids[1], COST)])


async def test_pings_keep_one_connection_through_a_long_task() -> None:
    async def take_its_time(visit: Visit) -> None:
        await visit.welcome()
        task = await visit.take()
        for _ in range(6):
            await visit.hear_of("ping")
            await visit.say({"taskType": "ping", "pong": True})
        await visit.say(result(task))
        await visit.listen()

    async with (
        office(take_its_time) as server,
        shop(server.url, ping_s=0.1, acknowledge_s=0.1, poll_first_s=5) as customer,
    ):
        await customer.remove()
        assert server.visits == 1


# --- one id


async def test_a_task_dropped_before_its_acknowledgement_goes_out_again_unchanged() -> None:
    async def drop(visit: Visit) -> None:
        await visit.welcome("first")
        await visit.hear_of("removeBackground")
        visit.drop()

    async def have_it(visit: Visit) -> None:
        await visit.welcome("second")
        task = await visit.hear_of("removeBackground")
        await visit.refuse("conflictTaskUUID", taskUUID=task["taskUUID"])
        await visit.say(result(await visit.hear_of("getResponse")))
        await visit.listen()

    async with office(drop, have_it) as server, shop(server.url) as customer:
        task_id = new_task_id()
        assert await customer.remove(task_id) == Done(task_id, URL, COST)
        first, second = server.all("removeBackground")
        assert first == second
        assert first["taskUUID"] == task_id
        assert [each.get("connectionSessionUUID") for each in server.all("authentication")] == [
            None,
            "first",
        ]


async def test_an_acknowledged_task_is_sent_once_however_often_the_line_drops() -> None:
    async def take(visit: Visit) -> None:
        await visit.welcome()
        await visit.take()
        visit.drop()

    async def drop(visit: Visit) -> None:
        await visit.welcome()
        await visit.hear_of("getResponse")
        visit.drop()

    async with (
        office(take, drop, drop, drop, drop, serve_well) as server,
        shop(server.url) as customer,
    ):
        task_id = new_task_id()
        assert (await customer.remove(task_id)).task_id == task_id
        assert server.visits == 6
        assert server.removals() == [task_id]
        assert customer.settled.all == [(task_id, COST)]


@pytest.mark.parametrize("early", [True, False], ids=["before the welcome", "after it"])
async def test_a_result_kept_for_the_session_is_taken_when_it_is_resumed(early: bool) -> None:
    async def drop(visit: Visit) -> None:
        await visit.welcome()
        await visit.take()
        visit.drop()

    async def redeliver(visit: Visit) -> None:
        (task,) = visit.office.all("removeBackground")
        if early:
            await visit.say(result(task))
        await visit.welcome()
        if not early:
            await visit.say(result(task))
        await visit.listen()

    async with office(drop, redeliver) as server, shop(server.url, poll_first_s=5) as customer:
        await customer.remove()
        assert server.all("getResponse") == []


async def test_a_session_that_is_refused_is_given_up_and_the_task_is_not() -> None:
    async def drop(visit: Visit) -> None:
        await visit.welcome()
        await visit.take()
        visit.drop()

    async def refuse_session(visit: Visit) -> None:
        await visit.hear_of("authentication")
        await visit.refuse("invalidConnectionSessionUUID", taskType="authentication")
        await visit.listen()

    async with office(drop, refuse_session, serve_well) as server, shop(server.url) as customer:
        await customer.remove()
        assert [each.get("connectionSessionUUID") for each in server.all("authentication")] == [
            None,
            "s1",
            None,
        ]
        assert len(server.removals()) == 1


async def test_what_is_never_answered_is_sent_twice_under_one_id_and_may_be_charged() -> None:
    async def say_nothing(visit: Visit) -> None:
        await visit.welcome()
        await visit.listen()

    async with office(say_nothing) as server, shop(server.url, acknowledge_s=0.02) as customer:
        task_id = new_task_id()
        assert await customer.failure(task_id, within_s=0.6) == OUTCOME_UNKNOWN
        assert server.removals() == [task_id] * 2
        assert customer.settled.all == []


async def test_nothing_is_sent_more_than_three_times_whatever_drops() -> None:
    async def drop(visit: Visit) -> None:
        await visit.welcome()
        await visit.hear_of("removeBackground")
        visit.drop()

    async def listen(visit: Visit) -> None:
        await visit.welcome()
        await visit.listen()

    async with (
        office(drop, drop, drop, listen) as server,
        shop(server.url, acknowledge_s=0.02) as customer,
    ):
        task_id = new_task_id()
        assert await customer.failure(task_id, within_s=0.6) == OUTCOME_UNKNOWN
        assert server.visits == 4
        assert server.removals() == [task_id] * 3


async def test_the_megabytes_of_a_task_are_let_go_once_it_is_acknowledged() -> None:
    asked = asyncio.Event()

    async def take(visit: Visit) -> None:
        await visit.welcome()
        await visit.take()
        question = await visit.hear_of("getResponse")
        asked.set()
        await visit.say(result(question))
        await visit.listen()

    async with office(take) as server, shop(server.url, poll_first_s=0.2) as customer:
        task_id = new_task_id()
        waiting = asyncio.create_task(customer.remove(task_id, image=IMAGE + "A" * 4_000_000))
        await server.until(lambda: bool(server.removals()))
        assert len(customer.client._tasks[task_id].frame) > 4_000_000
        await asyncio.wait_for(asked.wait(), PATIENCE_S)
        assert customer.client._tasks[task_id].frame == ""
        await waiting


# --- dead lines


async def test_a_line_that_falls_silent_is_replaced() -> None:
    async def play_dead(visit: Visit) -> None:
        await visit.welcome()
        while True:
            await visit.hear()

    async with (
        office(play_dead, serve_well) as server,
        shop(server.url, ping_s=0.05, acknowledge_s=0.1) as customer,
    ):
        task_id = new_task_id()
        assert (await customer.remove(task_id)).task_id == task_id
        assert server.visits == 2
        assert set(server.removals()) == {task_id}
        assert {"taskType": "ping", "ping": True} in server.all("ping")


async def take_nothing_in(visit: Visit) -> None:
    """Welcome, and then not even read: what is sent fills the buffers between."""
    await visit.welcome()
    visit.socket.transport.pause_reading()
    await asyncio.wait_for(visit.socket.wait_closed(), PATIENCE_S)


def too_large_for_any_buffer() -> str:
    """Frames are compressed, so it must not be too regular."""
    return IMAGE + secrets.token_hex(8_000_000)


async def test_a_line_that_takes_nothing_in_is_replaced() -> None:
    async with (
        office(take_nothing_in, serve_well) as server,
        shop(server.url, ping_s=0.5, acknowledge_s=1) as customer,
    ):
        done = await customer.remove(image=too_large_for_any_buffer())
        assert done.url == URL
        assert server.visits == 2


async def test_closing_does_not_wait_for_a_line_that_takes_nothing_in() -> None:
    async with office(take_nothing_in) as server, shop(server.url) as customer:
        large = customer.client.remove(
            too_large_for_any_buffer(), air=AIR, task_id="large", deadline=Deadline.after(0.5)
        )
        with pytest.raises(RemoverError) as caught:
            await large
        assert caught.value.code is FailureCode.PROVIDER_OUTCOME_UNKNOWN
        assert own_tasks() != []
        await asyncio.wait_for(customer.client.close(), PATIENCE_S)
        assert own_tasks() == []


async def test_nobody_there_is_said_after_three_attempts_and_costs_nothing() -> None:
    port = unused_port()
    async with shop(f"ws://127.0.0.1:{port}") as customer:
        task_id = new_task_id()
        assert await customer.failure(task_id) == UNREACHABLE
        assert customer.settled.all == [(task_id, Decimal(0))]


@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "too late"])
async def test_a_task_that_had_not_left_when_nobody_waits_any_more_never_leaves(
    cancelled: bool,
) -> None:
    opening = asyncio.Event()

    async def keep_waiting(visit: Visit) -> None:
        await opening.wait()
        await serve_well(visit)

    async with office(keep_waiting) as server, shop(server.url) as customer:
        given_up, wanted = new_task_id(), new_task_id()
        if cancelled:
            waiting = asyncio.create_task(customer.remove(given_up))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        else:
            assert await customer.failure(given_up, within_s=0.05) == UNREACHABLE
        assert customer.settled.all == [(given_up, Decimal(0))]
        second = asyncio.create_task(customer.remove(wanted))
        await asyncio.sleep(0)
        opening.set()
        assert (await second).task_id == wanted
        assert server.removals() == [wanted]


# --- refusals that name no task


@pytest.mark.parametrize(
    "frame",
    [
        {"errors": [{"code": "invalidApiKey", "taskType": "authentication", "taskUUID": "N/A"}]},
        {"error": {"code": "unauthorized"}},
        {"error": True, "errorId": 19, "errorMessage": "Invalid api key"},
    ],
    ids=["as documented", "bare", "old"],
)
async def test_a_refused_key_fails_all_and_is_not_tried_again_by_itself(frame: Item) -> None:
    async def refuse(visit: Visit) -> None:
        await visit.hear_of("authentication")
        await visit.office.until(lambda: len(ids) == 2)
        await visit.socket.send(json.dumps(frame))
        await visit.listen()

    ids: list[str] = []
    async with office(refuse) as server, shop(server.url) as customer:
        ids += [new_task_id(), new_task_id()]
        both = await asyncio.gather(*map(customer.failure, ids))
        assert both == [KEY_REFUSED, KEY_REFUSED]
        assert sorted(customer.settled.all) == sorted((each, Decimal(0)) for each in ids)
        if running := own_tasks():
            await asyncio.wait(running, timeout=PATIENCE_S)
        assert own_tasks() == []
        assert (server.visits, server.removals()) == (1, [])
        assert await customer.failure() == KEY_REFUSED
        assert server.visits == 2


async def test_an_error_that_names_no_task_is_answered_by_a_new_connection() -> None:
    async def stumble(visit: Visit) -> None:
        await visit.welcome()
        await visit.take()
        await visit.refuse("internalServerError")
        await visit.listen()

    async with office(stumble, serve_well) as server, shop(server.url) as customer:
        task_id = new_task_id()
        assert (await customer.remove(task_id)).task_id == task_id
        assert (server.visits, server.removals()) == (2, [task_id])


async def test_the_third_such_error_in_a_row_fails_what_was_sent_and_leaves_its_cost_open() -> None:
    async def stumble(visit: Visit) -> None:
        await visit.welcome()
        await visit.hear()
        await visit.refuse("internalServerError", taskUUID="N/A")
        await visit.listen()

    async with office(stumble) as server, shop(server.url) as customer:
        assert await customer.failure() == (FailureCode.PROVIDER_OUTCOME_UNKNOWN, False)
        assert server.visits == 3
        assert customer.settled.all == []


async def test_suspicions_are_each_tasks_own() -> None:
    async def stumble(visit: Visit) -> None:
        await visit.welcome()
        await visit.take()
        await visit.refuse("internalServerError")
        await visit.listen()

    async def stumble_after_answering(visit: Visit) -> None:
        await visit.welcome()
        await visit.say(result(await visit.hear_of("getResponse")))
        await visit.take()
        await visit.refuse("internalServerError")
        await visit.listen()

    async def stumble_again(visit: Visit) -> None:
        await visit.welcome()
        await visit.hear_of("getResponse")
        await visit.refuse("internalServerError")
        await visit.listen()

    scripts = (stumble, stumble_after_answering, stumble_again, serve_well)
    async with office(*scripts) as server, shop(server.url) as customer:
        await customer.remove()
        await customer.remove()
        assert server.visits == 4


async def test_a_task_that_breaks_every_connection_takes_no_other_with_it() -> None:
    culprit, innocent = new_task_id(), new_task_id()

    async def stumble_over_one(visit: Visit) -> None:
        await visit.welcome()
        while True:
            task = await visit.hear()
            if task.get("taskUUID") == culprit:
                await visit.refuse("internalServerError")
            elif task["taskType"] == "removeBackground":
                await visit.say(known(task))
            elif task["taskType"] == "getResponse" and visit.number > 2:
                await visit.say(result(task))

    async with office(stumble_over_one) as server, shop(server.url) as customer:
        broken, done = await asyncio.gather(customer.failure(culprit), customer.remove(innocent))
        assert broken == OUTCOME_UNKNOWN
        assert done.task_id == innocent
        assert server.removals().count(innocent) <= 3


async def test_spent_credit_is_said_at_once() -> None:
    async def bankrupt(visit: Visit) -> None:
        await visit.welcome()
        await visit.hear_of("removeBackground")
        await visit.refuse("insufficientCredits")
        await visit.listen()

    async with office(bankrupt) as server, shop(server.url) as customer:
        assert await customer.failure() == (FailureCode.PROVIDER_QUOTA, False)
        assert server.visits == 1


async def test_an_authentication_that_fails_for_now_is_tried_three_times() -> None:
    async def overloaded(visit: Visit) -> None:
        await visit.hear_of("authentication")
        await visit.refuse("serviceUnavailable")
        await visit.listen()

    async with office(overloaded) as server, shop(server.url) as customer:
        task_id = new_task_id()
        assert await customer.failure(task_id) == BROKEN
        assert server.visits == 3
        assert customer.settled.all == [(task_id, Decimal(0))]


# --- after everybody has left


@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "too late"])
async def test_a_late_result_is_settled_once(cancelled: bool) -> None:
    left = asyncio.Event()

    async def be_late(visit: Visit) -> None:
        await visit.welcome()
        task = await visit.take()
        await left.wait()
        await visit.say(result(task))
        await visit.say(result(await visit.hear_of("getResponse")))
        await visit.listen()

    async with office(be_late) as server, shop(server.url, poll_first_s=5) as customer:
        task_id = new_task_id()
        if cancelled:
            waiting = asyncio.create_task(customer.remove(task_id))
            await server.until(lambda: bool(server.removals()))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        else:
            assert await customer.failure(task_id, within_s=0.3) == TOO_LATE
        assert customer.settled.all == []
        left.set()
        await asyncio.wait_for(customer.settled.came.wait(), PATIENCE_S)
        assert customer.settled.all == [(task_id, COST)]


async def test_a_late_failure_settles_that_nothing_was_charged() -> None:
    left = asyncio.Event()

    async def fail_late(visit: Visit) -> None:
        await visit.welcome()
        task = await visit.take()
        await left.wait()
        await visit.refuse("timeoutProvider", taskUUID=task["taskUUID"])
        await visit.listen()

    async with office(fail_late) as server, shop(server.url) as customer:
        task_id = new_task_id()
        assert await customer.failure(task_id, within_s=0.3) == TOO_LATE
        left.set()
        await asyncio.wait_for(customer.settled.came.wait(), PATIENCE_S)
        assert customer.settled.all == [(task_id, Decimal(0))]


async def test_a_straggler_is_not_followed_for_ever_and_its_waiter_is_told() -> None:
    async def never_finish(visit: Visit) -> None:
        await visit.welcome()
        await visit.take()
        await visit.listen()

    async with office(never_finish) as server, shop(server.url, straggle_s=0.3) as customer:
        assert await customer.failure() == TOO_LATE
        assert customer.client._tasks == {}
        assert customer.settled.all == []


async def test_close_ends_every_wait_and_leaves_no_task() -> None:
    async def never_finish(visit: Visit) -> None:
        await visit.welcome()
        await visit.take()
        await visit.listen()

    async with office(never_finish) as server, shop(server.url) as customer:
        waiting = asyncio.create_task(customer.remove())
        await server.until(lambda: bool(server.removals()))
        await customer.client.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert own_tasks() == []


async def test_closing_what_was_never_opened_is_nothing() -> None:
    async with office(serve_well) as server, shop(server.url):
        pass
    assert server.visits == 0


def test_a_pace_scales_its_waits_and_not_its_limits() -> None:
    half = Pace().scaled(0.5)
    assert (half.connect_s, half.authenticate_s, half.straggle_s) == (10, 15, 600)
    assert (half.ping_s, half.acknowledge_s, half.poll_longest_s) == (12.5, 7.5, 1.5)
    assert (half.poll_first_s, half.reconnect_first_s, half.reconnect_longest_s) == (0.5, 0.5, 7.5)
