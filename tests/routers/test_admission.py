"""A full house over real HTTP: who waits, who is told 503, and that nothing is left in the end."""

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.images import Cutout, SourceImage
from models.schemas import ModelId
from services.remover import RemovalOptions
from tests.conftest import Server, artwork, png_bytes, problem, serving
from tests.fakes import FakeRemover
from utils.clock import Deadline

ISNET, KNOCKOUT = ModelId.LOCAL_ISNET, ModelId.LOCAL_KNOCKOUT
FOR_EVER, FOR_A_WHILE = artwork(width=77), artwork(width=78)


class Holding(FakeRemover):
    """Holds pictures of either width, each until it is released; cuts all others at once."""

    def __init__(self) -> None:
        super().__init__(ISNET)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._holding = threading.Event()
        self._gates: dict[int, asyncio.Event] = {}

    def let_go(self, width: int) -> None:
        assert self._holding.wait(20)
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self._gates[width].set)

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        self.loop = asyncio.get_running_loop()
        if image.width in (77, 78):
            gate = self._gates.setdefault(image.width, asyncio.Event())
            self._holding.set()
            await gate.wait()
        return await super().remove(image, options=options, deadline=deadline)


@contextmanager
def posting(server: Server, at_once: int) -> Iterator[Callable[..., "Future[httpx.Response]"]]:
    """Shots on threads of their own."""
    limits = httpx.Limits(max_connections=at_once)
    with (
        ThreadPoolExecutor(at_once) as pool,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False, limits=limits) as client,
    ):

        def post(picture: bytes, **parameters: str) -> "Future[httpx.Response]":
            return pool.submit(
                client.post,
                "/remove-background",
                files={"image": ("x.png", picture)},
                data={"models": ISNET, **parameters},
            )

        yield post


def until(server: Server, **wanted: int) -> dict[str, Any]:
    """/ready once its queue says what is wanted; its `reserved_mb` can be asked for as well."""
    for _ in range(1000):
        told: dict[str, Any] = server.client.get("/ready").json()
        now = {**told["queue"], "reserved_mb": told["memory"]["reserved_mb"]}
        if wanted.items() <= now.items():
            return told
        time.sleep(0.01)
    raise AssertionError(f"wanted {wanted}, it is {now}")


def tasks_of(remover: Holding) -> int:
    async def count() -> int:
        return len(asyncio.all_tasks())

    assert remover.loop is not None
    return asyncio.run_coroutine_threadsafe(count(), remover.loop).result(10)


def test_fifty_shots_of_which_five_hang_for_ever(tmp_path: Path) -> None:
    """Six places: five are lost for good, and 45 more meet one place and a line of ten."""
    remover = Holding()
    with (
        serving(tmp_path, stand_ins={ISNET: remover}, max_concurrent_jobs=6, queue_limit=10) as on,
        posting(on, 50) as post,
    ):
        assert on.shoot(artwork(), models=ISNET).status_code == 200
        before = tasks_of(remover)
        hanging = [post(FOR_EVER, deadline_s="1") for _ in range(5)]
        until(on, running=5, waiting=0)
        rest = [post(FOR_A_WHILE) for _ in range(45)]
        told = until(on, running=6, waiting=10)
        assert told["memory"]["reserved_mb"] > 0
        refused = _answered(rest, 34)
        for answer in refused:
            problem(answer, 503, "overloaded")
            assert 1 <= int(answer.headers["retry-after"]) <= 120
        until(on, running=6, waiting=10)
        remover.let_go(78)
        answers = [each.result(60) for each in rest]
        assert Counter(each.status_code for each in answers) == {200: 11, 503: 34}
        landed = [each.json() for each in answers if each.status_code == 200]
        assert {each["results"][0]["status"] for each in landed} == {"succeeded"}
        late = [each.result(60).json() for each in hanging]
        assert {each["results"][0]["status"] for each in late} == {"pending"}
        assert len({each["request_id"] for each in (*landed, *late)}) == 16
        until(on, running=5, waiting=0)
        remover.let_go(77)
        until(on, running=0, waiting=0, reserved_mb=0)
        for each in late:
            record = on.client.get(f"/results/{each['request_id']}").json()
            assert record["results"][0]["status"] == "succeeded"
        assert tasks_of(remover) <= before


def _answered(posted: list["Future[httpx.Response]"], count: int) -> list[httpx.Response]:
    for _ in range(1000):
        done = [each.result() for each in posted if each.done()]
        if len(done) >= count:
            return done
        time.sleep(0.01)
    raise AssertionError(f"{len(done)} of {count} are answered")


def test_an_enlargement_waits_for_no_shot(tmp_path: Path) -> None:
    """Shots fill their places and their line; the pool and the other gate are free all the same."""
    remover = Holding()
    with (
        serving(tmp_path, stand_ins={ISNET: remover}, max_concurrent_jobs=2, queue_limit=3) as on,
        posting(on, 5) as post,
    ):
        shots = [post(FOR_A_WHILE) for _ in range(5)]
        until(on, running=2, waiting=3)
        problem(on.shoot(artwork(), models=ISNET), 503, "overloaded")
        for _ in range(4):
            answer = on.client.post("/upscale", files={"image": artwork()}, data={"scale": "2"})
            assert (answer.status_code, answer.headers["x-width"]) == (200, "128")
        until(on, running=2, waiting=3)
        remover.let_go(78)
        assert {each.result(60).status_code for each in shots} == {200}


@pytest.mark.parametrize("expects", [True, False])
def test_a_full_house_says_so_before_it_reads_the_body(tmp_path: Path, *, expects: bool) -> None:
    remover = Holding()
    with (
        serving(tmp_path, stand_ins={ISNET: remover}, max_concurrent_jobs=1, queue_limit=0) as on,
        posting(on, 1) as post,
    ):
        shot = post(FOR_A_WHILE)
        until(on, running=1)
        answer = _head_only(on, body=b"" if expects else b"x" * 1000, expects=expects)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"overloaded" in answer
        assert b"retry-after" in answer.lower()
        assert not list((tmp_path / "uploads").glob("*/part*"))[1:], "only the first one's picture"
        remover.let_go(78)
        assert shot.result(60).status_code == 200


def _head_only(server: Server, *, body: bytes, expects: bool) -> bytes:
    """The answer to a head that promises `body`; without a body, to one that awaits a 100."""
    host, port = server.url.removeprefix("http://").split(":")
    lines = [
        "POST /remove-background HTTP/1.1",
        f"Host: {host}",
        "Content-Type: multipart/form-data; boundary=b",
        f"Content-Length: {len(body) or 50_000_000}",
        *(["Expect: 100-continue"] if expects else []),
        "Connection: close",
    ]
    with socket.create_connection((host, int(port)), timeout=20) as line:
        line.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        answer = b""
        while piece := line.recv(65536):
            answer += piece
        return answer


def test_a_shot_waits_for_memory_and_one_that_never_fits_is_told(tmp_path: Path) -> None:
    """768 MiB are spoken for, so 22 are left: for one small picture at a time."""
    remover = Holding()
    with (
        serving(tmp_path, stand_ins={ISNET: remover}, memory_limit_mb=790) as on,
        posting(on, 2) as post,
    ):
        memory = on.client.get("/ready").json()["memory"]
        assert memory["shots_mb"] == 22
        parts = (memory[each] for each in ("floor_mb", "enlarging_mb", "networks_mb", "shots_mb"))
        assert sum(parts) == memory["granted_mb"]
        body = problem(on.shoot(_flat(1000, 1000), models=ISNET), 503, "insufficient_memory")
        assert body["retryable"] is False
        assert body["limit"] == 22 << 20
        assert float(str(body["actual"])) > 22 << 20
        shots = [post(_flat(78, 5000)) for _ in range(2)]
        told = until(on, running=1, waiting=1)
        assert 11 < told["memory"]["reserved_mb"] <= 22
        remover.let_go(78)
        assert {each.result(60).status_code for each in shots} == {200}
        until(on, running=0, reserved_mb=0)


def test_with_a_single_place_every_kind_of_model_still_lands(tmp_path: Path) -> None:
    """One thread, so one place: whoever waits for a provider must not keep it."""
    models = "runware-rmbg-2.0,runware-birefnet-portrait,kie-recraft,local-knockout"
    with serving(
        tmp_path,
        pixel_threads=1,
        runware_api_key="sandbox",
        kie_api_key="sandbox",
        provider_pace=0.05,
    ) as on:
        record = on.shoot(artwork(width=300, height=300), models=models).json()
        assert [each["status"] for each in record["results"]] == ["succeeded"] * 4
        until(on, running=0, reserved_mb=0)


def _flat(width: int, height: int) -> bytes:
    return png_bytes(np.full((height, width), 200, np.uint8))
