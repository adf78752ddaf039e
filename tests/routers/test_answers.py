"""Answers that do not wait for the whole record, over real sockets: order, deadlines, leaving."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.errors import FailureCode, RemoverError
from routers import answers
from sandbox.options import Options, Times
from tests.answering import (
    BIREFNET,
    ISNET,
    KIE,
    KNOCKOUT,
    PORTRAIT,
    RMBG,
    Cutter,
    await_status,
    names,
    ndjson,
    outcomes,
    read_to_end,
    stream,
    table,
)
from tests.conftest import Server, artwork, problem, serving
from tests.sandbox_thread import running_sandbox

PICTURE = artwork()
WAIT_S = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Nobody is held here: for what is refused, and for what needs no order."""
    opaque = RemoverError(FailureCode.PROVIDER_BAD_RESULT, "no alpha", cost_usd=Decimal("0.018"))
    stand_ins = table(
        Cutter(ISNET),
        Cutter(KNOCKOUT, share=0.25),
        Cutter(BIREFNET, error=ValueError("boom")),
        Cutter(RMBG, error=opaque),
    )
    with serving(tmp_path_factory.mktemp("answers"), stand_ins=stand_ins) as server:
        yield server


@pytest.mark.parametrize(
    ("form", "asked", "accept"),
    [
        ("ndjson", {"stream": "ndjson"}, "*/*"),
        ("ndjson", {}, "application/x-ndjson"),
        ("sse", {}, "text/event-stream"),
        ("sse", {"stream": "sse"}, "application/x-ndjson"),
    ],
)
def test_a_stream_has_accepted_the_results_and_the_whole_record(
    server: Server, form: str, asked: dict[str, str], accept: str
) -> None:
    with stream(
        server, PICTURE, accept=accept, models="local-isnet,local-knockout", **asked
    ) as response:
        assert response.status_code == 200
        kind = {"ndjson": "application/x-ndjson", "sse": "text/event-stream; charset=utf-8"}[form]
        assert response.headers["content-type"] == kind
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["cache-control"] == "no-store"
        told = read_to_end(response, form)
    assert [event for event, _ in told] == ["accepted", "result", "result", "done"]
    accepted, done = told[0][1], told[-1][1]
    assert accepted["models"] == [ISNET, KNOCKOUT]
    assert (accepted["image"]["width"], accepted["image"]["format"]) == (64, "PNG")
    assert done["request_id"] == accepted["request_id"]
    assert done == server.client.get(f"/results/{done['request_id']}").json()
    by_model = {members["model"]: members for _, members in told[1:-1]}
    assert [by_model[ISNET], by_model[KNOCKOUT]] == unranked(done)
    assert {entry["rank"] for entry in done["results"]} == {1, 2}


def unranked(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries as they were told: ranks come with the whole record."""
    return [
        {name: value for name, value in entry.items() if name not in {"score", "rank"}}
        for entry in record["results"]
    ]


def test_results_are_told_as_they_land_and_can_be_fetched_at_once(tmp_path: Path) -> None:
    cutters = [Cutter(model, held=True) for model in (RMBG, ISNET, KNOCKOUT)]
    with (
        serving(tmp_path, stand_ins=table(*cutters)) as server,
        stream(server, PICTURE, stream="ndjson", models=names(*cutters)) as response,
    ):
        events = ndjson(response.iter_lines())
        assert next(events)[0] == "accepted"
        landed = []
        for cutter in (cutters[2], cutters[0], cutters[1]):
            assert cutter.asked.wait(WAIT_S)
            cutter.release()
            event, entry = next(events)
            assert event == "result"
            landed.append(entry["model"])
            assert server.client.get(entry["url"]).headers["etag"] == f'"{entry["sha256"]}"'
        event, record = next(events)
        assert next(events, None) is None
    assert landed == [KNOCKOUT, RMBG, ISNET]
    assert event == "done"
    assert [entry["model"] for entry in record["results"]] == [RMBG, ISNET, KNOCKOUT]
    assert record["status"] == "complete"


def test_a_silent_stream_says_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "HEARTBEAT_S", 0.02)
    cutters = {"ndjson": Cutter(ISNET, held=True), "sse": Cutter(KNOCKOUT, held=True)}
    with serving(tmp_path, stand_ins=table(*cutters.values())) as server:
        for form, cutter in cutters.items():
            with stream(server, PICTURE, stream=form, models=cutter.name) as response:
                lines = response.iter_lines()
                seen = [line for line in _until_heartbeats(lines, 3) if "heartbeat" in line]
                cutter.release()
                rest = "\n".join(lines)
            assert set(seen) == {{"ndjson": '{"event":"heartbeat"}', "sse": ": heartbeat"}[form]}
            assert rest.index("result") < rest.index("done")


def _until_heartbeats(lines: Iterator[str], count: int) -> Iterator[str]:
    while count:
        line = next(lines)
        count -= "heartbeat" in line
        yield line


def test_a_heartbeat_comes_often_enough_for_the_ingress() -> None:
    assert answers.HEARTBEAT_S <= 10


def test_a_stream_ends_at_the_deadline_and_late_models_land_in_the_record(tmp_path: Path) -> None:
    late = Cutter(ISNET, held=True)
    with serving(tmp_path, stand_ins=table(late)) as server:
        asked = {"models": "local-isnet,local-knockout", "deadline_s": "1"}
        with stream(server, PICTURE, stream="ndjson", **asked) as response:
            told = read_to_end(response)
        assert [event for event, _ in told] == ["accepted", "result", "done"]
        done = told[-1][1]
        assert outcomes(done) == {ISNET: "pending", KNOCKOUT: "succeeded"}
        assert done["status"] == "running"
        late.release()
        record = await_status(server, done["request_id"])
    assert outcomes(record) == {ISNET: "succeeded", KNOCKOUT: "succeeded"}


def test_a_crash_in_one_model_harms_nothing_in_a_stream(server: Server) -> None:
    with stream(
        server, PICTURE, stream="ndjson", models=f"{BIREFNET},{ISNET},{KNOCKOUT}"
    ) as response:
        told = read_to_end(response)
    assert sorted(event for event, _ in told) == ["accepted", "done", "result", "result", "result"]
    assert outcomes(told[-1][1]) == {
        BIREFNET: "model_crashed",
        ISNET: "succeeded",
        KNOCKOUT: "succeeded",
    }


def test_when_every_model_fails_the_stream_ends_with_the_problem(server: Server) -> None:
    with stream(server, PICTURE, stream="ndjson", models=BIREFNET) as response:
        told = read_to_end(response)
    assert [event for event, _ in told] == ["accepted", "result", "failed"]
    failed = told[-1][1]
    assert (failed["status"], failed["code"]) == (502, "all_models_failed")
    assert failed["request_id"] == response.headers["x-request-id"]
    assert failed["retryable"] is True


def test_what_is_known_before_the_work_is_an_ordinary_problem(server: Server) -> None:
    for wish in ({"data": {"stream": "sse"}}, {"headers": {"Prefer": "respond-async"}}):
        answer = _post(server, b"no picture", **wish)
        problem(answer, 415, "unsupported_media_type")
        answer = _post(server, artwork()[:-40], **wish)
        problem(answer, 422, "image_truncated")
    answer = _post(server, PICTURE, data={"stream": "ndjson", "models": "kie-recraft"})
    problem(answer, 503, "no_model_available")


def _post(server: Server, picture: bytes, **sent: Any) -> httpx.Response:  # noqa: ANN401
    return server.client.post("/remove-background", files={"image": picture}, **sent)


@pytest.mark.parametrize(
    ("asked", "accept", "field"),
    [
        ({"stream": "ndjson", "output": "base64"}, "*/*", "stream"),
        ({"output": "base64"}, "text/event-stream", "stream"),
        ({"stream": "ndjson"}, "image/png", "stream"),
        ({"stream": "telegraph"}, "*/*", "stream"),
        ({"mode": "slow"}, "*/*", "mode"),
        ({"min_results": "0"}, "*/*", "min_results"),
        ({"min_results": "2", "models": "local-isnet"}, "*/*", "min_results"),
        ({"min_results": "6"}, "*/*", "min_results"),
        ({"min_results": "1", "mode": "fast"}, "*/*", "min_results"),
    ],
)
def test_wishes_that_exclude_each_other_are_bad_parameters(
    server: Server, asked: dict[str, str], accept: str, field: str
) -> None:
    answer = _post(server, PICTURE, data=asked, headers={"Accept": accept})
    assert problem(answer, 400, "invalid_parameter")["field"] == field


def test_a_pick_cannot_be_streamed(server: Server) -> None:
    asked = {"pick": "recommended", "stream": "ndjson"}
    answer = server.client.post("/process", files={"image": PICTURE}, data=asked)
    assert problem(answer, 400, "invalid_parameter")["field"] == "stream"


def test_process_streams_results_with_their_prints(server: Server) -> None:
    asked = {"path": "/process", "stream": "ndjson", "models": "local-isnet", "scale": "2"}
    with stream(server, PICTURE, **asked) as response:
        told = dict(read_to_end(response))
    assert told["result"]["print_width"] == 128
    assert told["result"]["print_url"] == told["done"]["results"][0]["print_url"]


def test_links_in_a_stream_and_a_promise_are_absolute_where_the_address_is_known(
    tmp_path: Path,
) -> None:
    base = "https://cutouts.example"
    with serving(tmp_path, public_base_url=base) as server:
        with stream(server, PICTURE, stream="ndjson", models="local-knockout") as response:
            told = dict(read_to_end(response))
        later = _post(server, PICTURE, data={"models": KNOCKOUT}, headers=LATER)
    assert told["result"]["url"].startswith(f"{base}/results/")
    assert [told["result"]] == unranked(told["done"])
    assert later.headers["location"] == f"{base}/results/{later.json()['request_id']}"


def test_min_results_ends_a_stream_early_and_the_others_go_on(tmp_path: Path) -> None:
    slow, never = Cutter(ISNET, held=True), Cutter(RMBG, held=True, sends=True)
    quick = [Cutter(KNOCKOUT), Cutter(BIREFNET), Cutter(KIE, error=ValueError("boom"))]
    cutters = [slow, never, *quick]
    with serving(tmp_path, stand_ins=table(*cutters)) as server:
        asked = {"models": names(*cutters), "min_results": "2"}
        with stream(server, PICTURE, stream="ndjson", **asked) as response:
            event, record = read_to_end(response)[-1]
        assert event == "done"
        landed = outcomes(record)
        assert landed[ISNET] == landed[RMBG] == "pending"
        assert landed[BIREFNET] == landed[KNOCKOUT] == "succeeded"
        for each in (slow, never):
            assert each.asked.wait(WAIT_S)
            each.release()
        landed = outcomes(await_status(server, record["request_id"]))
    assert landed[ISNET] == landed[RMBG] == "succeeded"
    assert landed[KIE] == "model_crashed"


LATER = {"Prefer": "wait=10, Respond-Async"}


def test_respond_async_the_whole_way_by_a_client_that_does_not_stay(tmp_path: Path) -> None:
    cutters = [Cutter(ISNET, held=True), Cutter(KNOCKOUT, held=True)]
    with serving(tmp_path, stand_ins=table(*cutters)) as server:
        with httpx.Client(base_url=server.url, trust_env=False) as brief:
            answer = _post(
                Server(brief, tmp_path), PICTURE, data={"models": names(*cutters)}, headers=LATER
            )
        assert answer.status_code == 202
        assert answer.headers["preference-applied"] == "respond-async"
        assert int(answer.headers["retry-after"]) > 0
        promised = answer.json()
        assert answer.headers["location"] == f"/results/{promised['request_id']}"
        assert promised["status"] == "running"
        assert outcomes(promised) == {ISNET: "pending", KNOCKOUT: "pending"}
        for cutter, seen in zip(cutters, ("pending", "succeeded"), strict=True):
            progress = server.client.get(answer.headers["location"])
            assert int(progress.headers["retry-after"]) > 0
            assert outcomes(progress.json())[ISNET] == seen
            assert cutter.asked.wait(WAIT_S)
            cutter.release()
            _await_outcome(server, promised["request_id"], cutter.name, "succeeded")
        final = server.client.get(answer.headers["location"])
    assert final.json()["status"] == "complete"
    assert "retry-after" not in final.headers


def _await_outcome(server: Server, request_id: str, model: str, wanted: str) -> None:
    for _ in range(500):
        if outcomes(server.client.get(f"/results/{request_id}").json())[model] == wanted:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{model} has not {wanted}")


def test_a_preference_gives_way_to_what_is_asked_for_expressly(server: Server) -> None:
    model = {"models": "local-isnet"}
    as_base64 = _post(server, PICTURE, data={"output": "base64", **model}, headers=LATER)
    assert as_base64.status_code == 200
    assert as_base64.json()["results"][0]["image_base64"]
    as_picture = _post(server, PICTURE, data=model, headers={**LATER, "Accept": "image/png"})
    assert as_picture.headers["content-type"] == "image/png"
    as_stream = _post(server, PICTURE, data={"stream": "sse", **model}, headers=LATER)
    assert as_stream.text.startswith("event: accepted\n")
    assert as_stream.headers["preference-applied"] == "respond-async"  # nobody has to stay


@contextmanager
def client_on_a_socket(server: Server, fields: dict[str, str]) -> Iterator[socket.socket]:
    """A request sent whole over a socket of its own; the client leaves with the block."""
    url = httpx.URL("http://x/remove-background")
    request = httpx.Request("POST", url, files={"image": PICTURE}, data=fields)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    port = server.client.base_url.port
    assert port is not None
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        connection.sendall(f"POST {url.path} HTTP/1.1\r\n{head}\r\n".encode() + request.read())
        yield connection


def only_shot(server: Server) -> str:
    """The id of the one shot that the service knows."""
    (folder,) = (server.temp_dir / "results").iterdir()
    return folder.name


@pytest.mark.parametrize("fields", [{}, {"stream": "ndjson"}], ids=["plain", "stream"])
def test_a_client_that_leaves_takes_along_what_costs_nothing(
    tmp_path: Path, fields: dict[str, str]
) -> None:
    local, landed = Cutter(ISNET, held=True), Cutter(KNOCKOUT)
    sent, unsent = Cutter(RMBG, held=True, sends=True), Cutter(KIE, held=True)
    cutters = [local, sent, unsent, landed]
    with serving(tmp_path, stand_ins=table(*cutters)) as server:
        with client_on_a_socket(server, {"models": names(*cutters), **fields}):
            for each in cutters:
                assert each.asked.wait(WAIT_S)
            shot = only_shot(server)
            _await_outcome(server, shot, KNOCKOUT, "succeeded")
        for model in (ISNET, KIE):
            _await_outcome(server, shot, model, "cancelled")
        assert outcomes(server.client.get(f"/results/{shot}").json())[RMBG] == "pending"
        sent.release()
        record = await_status(server, shot)
        assert server.client.get(f"/results/{shot}/{RMBG}.png").status_code == 200
        _await_queue(server, lambda queue: queue["running"] == 0)
    assert outcomes(record) == {
        RMBG: "succeeded",
        KIE: "cancelled",
        ISNET: "cancelled",
        KNOCKOUT: "succeeded",
    }
    assert [entry["status"] for entry in record["results"]].count("failed") == 2


def test_a_client_that_leaves_the_queue_is_forgotten(tmp_path: Path) -> None:
    first, second = Cutter(ISNET, held=True), Cutter(KNOCKOUT)
    with serving(tmp_path, stand_ins=table(first, second), max_concurrent_jobs=1) as server:
        _post(server, PICTURE, data={"models": ISNET}, headers=LATER)
        with client_on_a_socket(server, {"models": KNOCKOUT}):
            _await_queue(server, lambda queue: queue["waiting"] == 1)
        _await_queue(server, lambda queue: queue["waiting"] == 0)
        assert only_shot(server)
        first.release()
        _await_queue(server, lambda queue: queue["running"] == 0)
        assert list((server.temp_dir / "uploads").iterdir()) == []
    assert not second.asked.is_set()


def _await_queue(server: Server, wanted: Callable[[dict[str, int]], bool]) -> None:
    for _ in range(500):
        if wanted(server.client.get("/ready").json()["queue"]):
            return
        threading.Event().wait(0.01)
    raise AssertionError("the queue did not become so")


def test_a_task_that_the_provider_has_taken_is_kept_though_its_client_left(tmp_path: Path) -> None:
    with running_sandbox(Options(times=Times(runware_task_s=0.3))) as sandbox:
        hosts = frozenset({sandbox.runware_files.partition("://")[2]})
        local = Cutter(ISNET, held=True)
        with serving(
            tmp_path,
            stand_ins=table(local),
            runware_api_key="sandbox-left",
            runware_url=sandbox.runware_ws,
            provider_result_domains=hosts,
            provider_pace=0.05,
        ) as server:
            with client_on_a_socket(server, {"models": f"{PORTRAIT},{ISNET}"}):
                assert local.asked.wait(WAIT_S)
                _await_call(lambda: len(list(sandbox.journal.calls("removeBackground"))))
            record = await_status(server, only_shot(server))
    assert outcomes(record) == {PORTRAIT: "succeeded", ISNET: "cancelled"}
    assert record["cost_usd"] == pytest.approx(0.0006)
    assert float(sandbox.bill.total_usd) == pytest.approx(0.0006)


def _await_call(count: Callable[[], int]) -> None:
    for _ in range(500):
        if count():
            return
        threading.Event().wait(0.01)
    raise AssertionError("the provider was never asked")


def test_a_failure_of_a_paid_model_in_a_stream_says_what_it_cost(server: Server) -> None:
    with stream(server, PICTURE, stream="ndjson", models=f"{RMBG},{ISNET}") as response:
        told = read_to_end(response)
    costs = {m["model"]: m["cost_usd"] for event, m in told if event == "result"}
    assert costs == {RMBG: 0.018, ISNET: 0.0}
    assert told[-1][1]["cost_usd"] == 0.018
