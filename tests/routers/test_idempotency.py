"""Idempotency-Key and dedupe over real HTTP: run once, answered again, charged once."""

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from main import create_app
from models.errors import FailureCode, RemoverError
from models.images import Cutout, SourceImage
from models.schemas import ModelId
from sandbox.opening import Sandbox
from services.access import Caller, CallerKind, caller
from services.remover import READY, RemovalOptions
from tests.conftest import Server, _running, artwork, make_settings, problem, serving
from tests.fakes import FakeRemover, unavailable
from tests.sandbox_thread import running_sandbox
from tests.services.test_killed_keys import tasks_sent
from utils.clock import Deadline

ISNET, RMBG = ModelId.LOCAL_ISNET, ModelId.RUNWARE_RMBG
PICTURE = artwork()


class Counted(FakeRemover):
    """Counts how often it was asked."""

    calls = 0

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        self.calls += 1
        return await super().remove(image, options=options, deadline=deadline)


class Sent(Counted):
    """Like a provider: once asked it costs money."""

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        options.on_sent()
        return await super().remove(image, options=options, deadline=deadline)


class KeyIdFromHeader:
    """In the place of authentication: the caller says whose key it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key_id = Headers(raw=scope.get("headers", [])).get("x-key-id", "open")
        token = caller.set(Caller(CallerKind.OPEN, key_id))
        try:
            await self._app(scope, receive, send)
        finally:
            caller.reset(token)


@contextmanager
def shop(temp_dir: Path, *removers: FakeRemover, **overrides: object) -> Iterator[Server]:
    stand_ins = {each.name: each for each in removers}
    app = create_app(make_settings(temp_dir, **overrides), stand_ins=stand_ins)
    app.user_middleware.append(Middleware(KeyIdFromHeader))  # behind the door
    with (
        _running(app) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client,
    ):
        yield Server(client, temp_dir)


def shoot(
    server: Server,
    key: str | None = None,
    *,
    picture: bytes = PICTURE,
    route: str = "/remove-background",
    headers: dict[str, str] | None = None,
    **parameters: str,
) -> httpx.Response:
    named = {} if key is None else {"Idempotency-Key": key}
    return httpx.post(
        f"{server.url}{route}",
        files={"image": picture},
        data={"models": "local-isnet", **parameters},
        headers={**named, **(headers or {})},
        timeout=60,
        trust_env=False,
    )


def facts(response: httpx.Response) -> dict[str, Any]:
    """The record but for the shot's own clock, which is read once more for its first answer."""
    return {name: value for name, value in response.json().items() if name != "latency_ms"}


def is_replay(response: httpx.Response) -> bool:
    return "idempotent-replayed" in response.headers


@pytest.fixture(scope="module")
def isnet() -> Counted:
    return Counted(ISNET)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, isnet: Counted) -> Iterator[Server]:
    with shop(tmp_path_factory.mktemp("keys"), isnet) as server:
        yield server


@pytest.fixture
def asked(isnet: Counted) -> "Asked":
    return Asked(isnet)


class Asked:
    """How often the model was asked since the test began."""

    def __init__(self, remover: Counted) -> None:
        self._remover = remover
        self._before = remover.calls

    def times(self) -> int:
        return self._remover.calls - self._before


def settings_for(sandbox: Sandbox) -> dict[str, Any]:
    hosts = [each.partition("://")[2] for each in (sandbox.runware_files, sandbox.kie_files)]
    return {
        "runware_api_key": "sandbox-keys",
        "kie_api_key": "sandbox-keys",
        "runware_url": sandbox.runware_ws,
        "kie_api_url": sandbox.kie_api,
        "kie_upload_url": sandbox.kie_upload,
        "provider_result_domains": ",".join(hosts),
        "provider_pace": 0.1,
    }


def test_a_replay_asks_no_provider_and_charges_nothing_also_after_a_restart(
    tmp_path: Path,
) -> None:
    picture = artwork(width=300, height=260)
    models = "runware-rmbg-2.0,runware-birefnet-portrait,kie-recraft"
    with running_sandbox() as sandbox:
        with serving(tmp_path, **settings_for(sandbox)) as server:
            first = shoot(server, "order-1", picture=picture, models=models)
            charged, sent = sandbox.bill.total_usd, tasks_sent(sandbox)
            again = shoot(server, "order-1", picture=picture, models=models)
        with serving(tmp_path, **settings_for(sandbox)) as server:
            later = shoot(server, "order-1", picture=picture, models=models)
            other = shoot(server, "order-1", picture=artwork(width=301, height=260), models=models)
        assert charged > 0
        assert sandbox.bill.total_usd == charged
        assert tasks_sent(sandbox) == sent == {"removeBackground": 2, "createTask": 1}
    assert [each["status"] for each in first.json()["results"]] == ["succeeded"] * 3
    assert not is_replay(first)
    for replay in (again, later):
        assert replay.headers["idempotent-replayed"] == "true"
        assert replay.status_code == 200
        assert facts(replay) == facts(first)
        assert replay.headers["x-cost-usd"] == first.headers["x-cost-usd"]
    problem(other, 422, "idempotency_mismatch")
    assert not is_replay(other)


def test_the_answer_may_be_asked_for_in_another_form(server: Server, asked: Asked) -> None:
    first = shoot(server, "form-1")
    pixels = shoot(server, "form-1", output="base64", deadline_s="9").json()["results"][0]
    png = shoot(server, "form-1", headers={"Accept": "image/png"})
    assert pixels["image_base64"]
    assert (png.headers["content-type"], png.headers["x-model"]) == ("image/png", ISNET)
    assert is_replay(png)
    assert asked.times() == 1
    assert first.json()["results"][0]["sha256"] == png.headers["etag"].strip('"')


def test_parameters_are_the_same_by_their_meaning(server: Server, asked: Asked) -> None:
    two = shoot(server, "meaning-1", models="local-knockout,local-isnet")
    same = shoot(server, "meaning-1", models="local-isnet, local-knockout", holes="keep")
    assert same.json()["request_id"] == two.json()["request_id"]
    problem(shoot(server, "meaning-1"), 422, "idempotency_mismatch")
    problem(
        shoot(server, "meaning-1", models="local-isnet,local-knockout", holes="open"),
        422,
        "idempotency_mismatch",
    )
    assert asked.times() == 1


def test_a_print_is_another_request_by_its_size_and_not_by_its_pick(
    server: Server, asked: Asked
) -> None:
    first = shoot(server, "print-1", route="/process")
    picked = shoot(server, "print-1", route="/process", scale="4.0", pick="local-isnet")
    assert picked.headers["x-width"] == str(4 * 64)
    assert is_replay(picked)
    assert not is_replay(first)
    problem(shoot(server, "print-1", route="/process", scale="2"), 422, "idempotency_mismatch")
    assert asked.times() == 1


def test_a_key_counts_for_its_owner_and_its_route(server: Server, asked: Asked) -> None:
    shots = [
        shoot(server, "scope-1", headers={"X-Key-Id": "one"}),
        shoot(server, "scope-1", headers={"X-Key-Id": "two"}),
        shoot(server, "scope-1", headers={"X-Key-Id": "one"}, route="/process"),
    ]
    assert not any(is_replay(each) for each in shots)
    assert len({each.json()["request_id"] for each in shots}) == 3
    assert is_replay(shoot(server, "scope-1", headers={"X-Key-Id": "two"}))
    assert asked.times() == 3


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "schlüssel".encode("latin-1")])
def test_a_key_is_1_to_255_visible_characters(server: Server, key: str | bytes) -> None:
    response = httpx.post(
        f"{server.url}/remove-background",
        files={"image": PICTURE},
        headers=[(b"Idempotency-Key", key.encode() if isinstance(key, str) else key)],
        trust_env=False,
    )
    assert problem(response, 400, "invalid_parameter")["field"] == "Idempotency-Key"


def test_a_deleted_shot_is_gone_but_not_made_again(server: Server, asked: Asked) -> None:
    shot = shoot(server, "deleted-1").json()["request_id"]
    assert server.client.delete(f"/results/{shot}").status_code == 204
    response = shoot(server, "deleted-1")
    problem(response, 404, "result_not_found")
    assert is_replay(response)
    assert asked.times() == 1


@contextmanager
def in_background(server: Server, *keys: str | None) -> Iterator[list[Future[httpx.Response]]]:
    with ThreadPoolExecutor(len(keys)) as pool:
        yield [pool.submit(shoot, server, key) for key in keys]


def test_a_key_in_flight_is_told_to_wait_and_then_replayed(tmp_path: Path) -> None:
    held = Counted(ISNET, held=True)
    with shop(tmp_path, held) as server, in_background(server, "order-1") as (first,):
        assert held.asked.wait(20)
        busy = shoot(server, "order-1")
        body = problem(busy, 409, "idempotency_in_flight")
        problem(shoot(server, "order-1", holes="open"), 422, "idempotency_mismatch")
        held.release()
        shot = first.result().json()["request_id"]
        again = shoot(server, "order-1")
    assert busy.headers["retry-after"] == "5"
    assert body["retryable"] is True
    assert body["hint"] == f"Its record is at /results/{shot}."
    assert (is_replay(again), again.json()["request_id"]) == (True, shot)
    assert held.calls == 1


def test_of_two_first_requests_at_once_exactly_one_runs(tmp_path: Path) -> None:
    held = Counted(ISNET, held=True)
    with shop(tmp_path, held) as server, in_background(server, "order-1", "order-1") as both:
        assert held.asked.wait(20)
        wait(both, timeout=20, return_when=FIRST_COMPLETED)
        held.release()
        assert sorted(each.result().status_code for each in both) == [200, 409]
    assert held.calls == 1


def test_a_client_that_left_finds_its_shot_by_its_key(tmp_path: Path) -> None:
    sent = Sent(ModelId.KIE_RECRAFT, held=True)
    with shop(tmp_path, sent) as server:
        client = begun(server, "order-1", models="kie-recraft")
        assert sent.asked.wait(20)
        client.close()
        sent.release()
        while (response := shoot(server, "order-1", models="kie-recraft")).status_code == 409:
            time.sleep(0.01)
    assert is_replay(response)
    assert len(response.json()["results"]) == 1
    assert sent.calls == 1


def test_free_work_that_ended_with_its_client_is_done_again(tmp_path: Path) -> None:
    held = Counted(ISNET, held=True)
    with shop(tmp_path, held) as server, ThreadPoolExecutor(1) as pool:
        client = begun(server, "order-2")
        assert held.asked.wait(20)
        client.close()
        held.asked.clear()
        retry = pool.submit(patiently, server, "order-2")
        assert held.asked.wait(20)
        held.release()
        response = retry.result()
    assert not is_replay(response)
    assert response.json()["results"][0]["status"] == "succeeded"
    assert held.calls == 2


def patiently(server: Server, key: str) -> httpx.Response:
    while (response := shoot(server, key)).status_code == 409:
        time.sleep(0.01)
    return response


def begun(server: Server, key: str, *, models: str = "local-isnet") -> HTTPConnection:
    """A request that has been sent; nobody reads its answer yet."""
    request = httpx.Request(
        "POST",
        f"{server.url}/remove-background",
        files={"image": PICTURE},
        data={"models": models},
        headers={"Idempotency-Key": key},
    )
    connection = HTTPConnection(request.url.host, request.url.port)
    connection.request("POST", request.url.path, request.read(), dict(request.headers))
    return connection


def test_what_was_refused_or_failed_unpaid_may_be_tried_again(tmp_path: Path) -> None:
    remover = Counted(ISNET, error=RuntimeError("boom"), state=unavailable(ISNET).availability())
    with shop(tmp_path, remover) as server:
        problem(shoot(server, "order-1"), 503, "no_model_available")
        remover._state = READY
        problem(shoot(server, "order-1", picture=b"no picture"), 415, "unsupported_media_type")
        problem(shoot(server, "order-1"), 502, "all_models_failed")
        remover._error = None
        mended = shoot(server, "order-1")
    assert mended.status_code == 200
    assert not is_replay(mended)
    assert remover.calls == 2


def test_a_failure_that_a_provider_was_asked_for_is_kept(tmp_path: Path) -> None:
    failing = Counted(RMBG, error=RemoverError(FailureCode.PROVIDER_OUTCOME_UNKNOWN, "who knows"))
    with shop(tmp_path, failing) as server:
        first = shoot(server, "order-1", models=RMBG)
        failing._error = None
        again = shoot(server, "order-1", models=RMBG)
    for response in (first, again):
        body = problem(response, 502, "all_models_failed")
        assert "provider_outcome_unknown" in str(body["detail"])
    assert (is_replay(first), is_replay(again)) == (False, True)
    assert failing.calls == 1


class Looking(Counted):
    """Reads, when it is asked, what the disk says about the keys."""

    data_dir: Path
    rows: list[Any]

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        with sqlite3.connect(self.data_dir / "idempotency.sqlite3") as database:
            self.rows = database.execute("SELECT name, request_id FROM claims").fetchall()
        database.close()
        return await super().remove(image, options=options, deadline=deadline)


def test_the_key_and_its_shot_are_on_disk_before_a_model_is_asked(tmp_path: Path) -> None:
    looking = Looking(RMBG)
    looking.data_dir = tmp_path / "elsewhere"
    with shop(tmp_path, looking, data_dir=looking.data_dir) as server:
        shot = shoot(server, "order-1", models=RMBG).json()["request_id"]
    assert looking.rows == [("order-1", shot)]


def test_without_its_database_only_requests_with_a_key_are_refused(tmp_path: Path) -> None:
    remover = Counted(ISNET)
    database = tmp_path / "data" / "idempotency.sqlite3"
    database.parent.mkdir()
    database.write_bytes(b"something else entirely" * 1000)
    with shop(tmp_path, remover, dedupe=True) as server:
        problem(shoot(server, "order-1"), 503, "idempotency_unavailable")
        assert remover.calls == 0
        assert shoot(server).status_code == 200
        ready = server.client.get("/ready")
        database.unlink()
        assert shoot(server, "order-1").status_code == 200
        mended = server.client.get("/ready").json()["idempotency"]
    assert ready.status_code == 200
    assert ready.json()["idempotency"] == {
        "available": False,
        "reason": "idempotency.sqlite3 in DATA_DIR: file is not a database",
    }
    assert mended == {"available": True, "reason": None}


def test_a_shot_that_cannot_be_noted_is_not_fired(tmp_path: Path) -> None:
    """The database breaks between the claim and the shot."""
    remover = Counted(ISNET)
    with shop(tmp_path, remover) as server:
        assert shoot(server, "order-1").status_code == 200
        with sqlite3.connect(tmp_path / "data" / "idempotency.sqlite3") as database:
            database.execute(
                "CREATE TRIGGER broken BEFORE UPDATE ON claims "
                "BEGIN SELECT RAISE(ABORT, 'broken'); END"
            )
        database.close()
        problem(shoot(server, "order-2"), 503, "idempotency_unavailable")
    assert remover.calls == 1
    assert len(list((tmp_path / "results").iterdir())) == 1


@pytest.fixture(scope="module")
def dedupe(tmp_path_factory: pytest.TempPathFactory, isnet: Counted) -> Iterator[Server]:
    with shop(tmp_path_factory.mktemp("dedupe"), isnet, dedupe=True) as server:
        yield server


def is_duplicate(response: httpx.Response) -> bool:
    return "x-deduplicated" in response.headers


def test_the_same_picture_is_two_shots_unless_dedupe_is_on(server: Server, asked: Asked) -> None:
    first, second = shoot(server), shoot(server)
    assert first.json()["request_id"] != second.json()["request_id"]
    assert not is_duplicate(second)
    assert asked.times() == 2


def test_dedupe_gives_the_shot_again_to_the_same_caller(dedupe: Server, asked: Asked) -> None:
    picture = artwork(width=65)
    first = shoot(dedupe, picture=picture)
    again = shoot(dedupe, picture=picture, output="base64")
    named = shoot(dedupe, "order-1", picture=picture)
    other = shoot(dedupe, picture=picture, headers={"X-Key-Id": "other"})
    assert again.headers["x-deduplicated"] == "true"
    assert (is_duplicate(first), is_duplicate(again), is_duplicate(other)) == (False, True, False)
    assert again.json()["request_id"] == first.json()["request_id"] != other.json()["request_id"]
    assert not is_duplicate(named)
    assert asked.times() == 3


def test_dedupe_finds_a_shot_that_had_a_key(dedupe: Server, asked: Asked) -> None:
    picture = artwork(width=66)
    named = shoot(dedupe, "order-2", picture=picture)
    assert shoot(dedupe, picture=picture).json()["request_id"] == named.json()["request_id"]
    assert asked.times() == 1


def test_dedupe_passes_over_a_shot_that_is_gone(dedupe: Server, asked: Asked) -> None:
    picture = artwork(width=67)
    shot = shoot(dedupe, picture=picture).json()["request_id"]
    dedupe.client.delete(f"/results/{shot}").raise_for_status()
    again = shoot(dedupe, picture=picture)
    assert again.json()["request_id"] != shot
    assert shoot(dedupe, picture=picture).json()["request_id"] == again.json()["request_id"]
    assert asked.times() == 2


def test_dedupe_passes_over_a_shot_in_which_a_model_failed(tmp_path: Path) -> None:
    failing = Counted(RMBG, error=RemoverError(FailureCode.PROVIDER_TIMEOUT, "too late"))
    with shop(tmp_path, failing, Counted(ISNET), dedupe=True) as server:
        first = shoot(server, models=f"{RMBG},{ISNET}")
        failing._error = None
        second, third = (shoot(server, models=f"{RMBG},{ISNET}") for _ in range(2))
    assert not is_duplicate(second)
    assert is_duplicate(third)
    assert first.json()["request_id"] != second.json()["request_id"]
    assert third.json()["request_id"] == second.json()["request_id"]
    assert failing.calls == 2


def test_a_second_click_waits_for_the_shot_of_the_first(tmp_path: Path) -> None:
    held = Counted(ISNET, held=True)
    with (
        shop(tmp_path, held, dedupe=True) as server,
        in_background(server, None, None, None) as clicks,
    ):
        assert held.asked.wait(20)
        held.release()
        answers = [each.result() for each in clicks]
    assert sorted(is_duplicate(each) for each in answers) == [False, True, True]
    assert len({each.json()["request_id"] for each in answers}) == 1
    assert {each.json()["results"][0]["status"] for each in answers} == {"succeeded"}
    assert held.calls == 1
