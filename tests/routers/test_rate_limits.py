"""Rates over real HTTP: told on every answer, refused before the body, nothing lost by it."""

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from models.images import Cutout, SourceImage
from models.schemas import ModelId
from routers.authentication import UNCOUNTED_PATHS
from services.remover import RemovalOptions
from tests.conftest import Server, artwork, problem, serving
from tests.fakes import FakeRemover
from utils.clock import Deadline

ISNET = ModelId.LOCAL_ISNET
IDS = ("told", "unread", "calm", "minted", "replayed", "proven", "unproven", "theirs", "desk")
KEYS = {key_id: f"a-key-of-the-{key_id}-one" for key_id in IDS}
"""One for each test, since they share a server."""
LIMIT, REFUSALS = 4, 6
PICTURES = "/remove-background"


class Counting(FakeRemover):
    """Knows how often it was asked."""

    times = 0

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        self.times += 1
        return await super().remove(image, options=options, deadline=deadline)


@pytest.fixture(scope="module")
def isnet() -> Counting:
    return Counting(ISNET)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, isnet: Counting) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("rates"),
        stand_ins={ISNET: isnet},
        api_keys=",".join(f"{key_id}:{key}" for key_id, key in KEYS.items()),
        rate_limit_per_minute=LIMIT,
        session_rate_limit_per_minute=2,
        key_rate_limits="desk=0",
        refusal_limit_per_minute=REFUSALS,
        trusted_proxies="127.0.0.1",
    ) as server:
        yield server


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS.get(credential, credential)}"}


def of(address: str) -> dict[str, str]:
    """As the trusted proxy tells where a request comes from."""
    return {"X-Forwarded-For": address}


def until_refused(
    ask: Callable[[], httpx.Response], limit: int
) -> tuple[list[httpx.Response], httpx.Response]:
    """The answers before the first 429: as many as the limit, one more where a minute turned."""
    answers = []
    while (answer := ask()).status_code != 429:
        answers.append(answer)
        assert len(answers) <= limit + 1
    assert len(answers) >= limit
    return answers, answer


def empty(server: Server, credential: str) -> httpx.Response:
    return server.client.post(PICTURES, headers=bearer(credential))


def test_every_answer_says_how_the_key_stands_and_the_last_when_to_come_back(
    server: Server,
) -> None:
    answers, refusal = until_refused(lambda: empty(server, "told"), LIMIT)
    for answer in answers:
        problem(answer, 400, "missing_source")
        assert answer.headers["x-ratelimit-limit"] == str(LIMIT)
        assert 0 < int(answer.headers["x-ratelimit-reset"]) - time.time() < 62
    left = [int(answer.headers["x-ratelimit-remaining"]) for answer in answers]
    assert left[0] == LIMIT - 1
    assert left == sorted(left, reverse=True)
    told = problem(refusal, 429, "rate_limited")
    assert (told["limit"], told["retryable"]) == (LIMIT, True)
    assert refusal.headers["x-ratelimit-remaining"] == "0"
    assert 1 <= int(refusal.headers["retry-after"]) <= 61
    assert empty(server, "calm").status_code == 400
    read = server.client.get("/models", headers=bearer("told"))
    assert (read.status_code, read.headers["x-ratelimit-limit"]) == (200, str(10 * LIMIT))
    unlimited = empty(server, "desk")
    assert "x-ratelimit-limit" not in unlimited.headers
    (logged,) = (
        each
        for each in server.client.get("/errors", headers=bearer("told")).json()["errors"]
        if each["code"] == "rate_limited" and each["key"] == "told"
    )
    assert logged["request_id"] == refusal.headers["x-request-id"]


def test_the_body_of_a_request_too_many_is_not_read(server: Server) -> None:
    until_refused(lambda: empty(server, "unread"), LIMIT)
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as line:
        line.sendall(
            f"POST {PICTURES} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            f"X-API-Key: {KEYS['unread']}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            "Content-Length: 50000000\r\n\r\n".encode()
        )
        answer = line.recv(65536)
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"100 Continue" not in answer


def test_what_costs_nothing_is_never_refused(server: Server) -> None:
    for _ in range(10 * LIMIT + 5):
        answer = server.client.get("/health")
        assert answer.status_code == 200
        assert "x-ratelimit-limit" not in answer.headers
    for path in sorted(UNCOUNTED_PATHS):
        assert "x-ratelimit-limit" not in server.client.get(path).headers, path
    _, refusal = until_refused(
        lambda: server.client.get("/ready", headers=of("198.51.100.9")), 10 * LIMIT
    )
    problem(refusal, 429, "rate_limited")


def test_a_session_is_refused_before_its_key_is(server: Server) -> None:
    def session() -> str:
        made = server.client.post("/sessions", headers=bearer("minted")).raise_for_status()
        token: str = made.json()["token"]
        return token

    first, second = session(), session()
    answers, refusal = until_refused(lambda: empty(server, first), 2)
    assert answers[0].headers["x-ratelimit-limit"] == "2"
    problem(refusal, 429, "rate_limited")
    problem(empty(server, second), 400, "missing_source")
    assert empty(server, "minted").headers["x-ratelimit-limit"] == str(LIMIT)


def test_replays_count_and_nothing_is_lost_by_a_refusal(server: Server, isnet: Counting) -> None:
    def order(key: str) -> httpx.Response:
        return server.client.post(
            PICTURES,
            files={"image": artwork()},
            data={"models": ISNET},
            headers={"Idempotency-Key": key, **bearer("replayed")},
        )

    answers, refusal = until_refused(lambda: order("order-1"), LIMIT)
    first, *again = (answer.raise_for_status() for answer in answers)
    assert {answer.json()["request_id"] for answer in again} == {first.json()["request_id"]}
    for answer in again:
        assert answer.headers["idempotent-replayed"] == "true"
        assert answer.headers["x-ratelimit-limit"] == str(LIMIT)
    problem(refusal, 429, "rate_limited")
    record = server.client.get(f"/results/{first.json()['request_id']}", headers=bearer("replayed"))
    assert record.json()["results"][0]["status"] == "succeeded"
    assert isnet.times == 1


def test_who_guesses_keys_is_stopped_and_shuts_nobody_out(server: Server) -> None:
    def ask(address: str, key: str | None = None) -> httpx.Response:
        headers = of(address) | ({} if key is None else bearer(key))
        return server.client.get("/models", headers=headers)

    here, elsewhere = "198.51.100.7", "198.51.100.8"
    assert ask(here, "proven").status_code == 200
    answers, refusal = until_refused(lambda: ask(here, "a-key-of-nobody!"), REFUSALS)
    for answer in answers:
        problem(answer, 401, "invalid_key")
        assert answer.headers["x-ratelimit-limit"] == str(REFUSALS)
    problem(refusal, 429, "rate_limited")
    problem(ask(here), 429, "rate_limited")
    problem(ask(here, "unproven"), 429, "rate_limited")
    assert ask(here, "proven").status_code == 200
    assert ask(elsewhere, "unproven").status_code == 200
    problem(ask(elsewhere), 401, "missing_key")


def test_removebgs_clients_are_told_in_its_shape(server: Server) -> None:
    def call() -> httpx.Response:
        return server.client.post("/v1.0/removebg", headers={"X-Api-Key": KEYS["theirs"]})

    answers, refusal = until_refused(call, LIMIT)
    assert answers[0].headers["x-ratelimit-remaining"] == str(LIMIT - 1)
    assert [each["code"] for each in refusal.json()["errors"]] == ["rate_limit_exceeded"]
    assert int(refusal.headers["retry-after"]) >= 1
    assert refusal.headers["x-ratelimit-limit"] == str(LIMIT)


@pytest.fixture(scope="module")
def unguarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("open"), rate_limit_per_minute=2, trusted_proxies="127.0.0.0/8"
    ) as server:
        yield server


def test_without_keys_each_household_is_counted(unguarded: Server) -> None:
    def ask(address: str) -> httpx.Response:
        return unguarded.client.post(PICTURES, headers={"X-Forwarded-For": address})

    hosts = iter(range(1, 99))
    _, refusal = until_refused(lambda: ask(f"2001:db8:1:2::{next(hosts):x}"), 2)
    problem(refusal, 429, "rate_limited")
    assert ask("2001:db8:1:3::1").status_code == 400
    assert ask("198.51.100.1").status_code == 400
    made_up = iter(range(1, 99))
    until_refused(lambda: ask(f"198.51.100.{next(made_up)}, 198.51.100.200"), 2)


def test_the_defaults_do_not_hinder_a_busy_shop(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("busy"), api_keys=f"calm:{KEYS['calm']}") as server:
        answers: list[Any] = [empty(server, "calm") for _ in range(100)]
    assert {answer.status_code for answer in answers} == {400}
