"""Picks over real HTTP: taken down once, counted, handed out, forgotten, never silently lost."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.errors import FailureCode, RemoverError
from models.schemas import ModelId
from tests.conftest import Server, artwork, problem, serving
from tests.fakes import FakeRemover

NOBODY = "0" * 32
GOOD = (ModelId.KIE_RECRAFT, ModelId.LOCAL_BIREFNET, ModelId.LOCAL_ISNET)
BAD = ModelId.RUNWARE_RMBG
ASKED = ",".join([BAD, *GOOD])


def stand_ins() -> dict[ModelId, FakeRemover]:
    error = RemoverError(FailureCode.PROVIDER_ERROR, "it broke")
    return {BAD: FakeRemover(BAD, error=error), **{model: FakeRemover(model) for model in GOOD}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("picks"), stand_ins=stand_ins()) as server:
        yield server


def shot(server: Server) -> str:
    record = server.shoot(artwork(), models=ASKED).raise_for_status().json()
    return str(record["request_id"])


def pick(server: Server, request_id: str, model: str, **more: object) -> httpx.Response:
    body = {"request_id": request_id, "model": model, **more}
    return server.client.post("/preferences", json=body)


def lines(server: Server, **query: str) -> list[dict[str, Any]]:
    response = server.client.get("/preferences/export", params=query)
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def lines_of(server: Server, request_id: str) -> list[dict[str, Any]]:
    return [line for line in lines(server) if line["request_id"] == request_id]


def test_a_pick_is_one_line_that_says_everything(server: Server) -> None:
    request_id = shot(server)
    answer = pick(server, request_id, "local-isnet", reason="crisp", metadata={"order": 7})
    assert answer.status_code == 201
    (line,) = lines_of(server, request_id)
    assert line["preference_id"] == answer.json()["preference_id"]
    assert (line["v"], line["model"], line["key_id"]) == (1, "local-isnet", "open")
    assert (line["reason"], line["metadata"]) == ("crisp", {"order": 7})
    assert line["features"] == {"megapixels": 0.003, "had_alpha": False, "agreement": 1.0}
    assert line["kind"] == "artwork"
    assert [each["model"] for each in line["shown"]] == list(GOOD)
    assert {"score", "rank", "latency_ms", "cost_usd"} <= set(line["shown"][0])
    (failed,) = line["not_shown"]
    assert (failed["model"], failed["status"]) == (BAD, "failed")
    assert line["supersedes"] is None


def test_the_same_pick_again_adds_nothing(server: Server) -> None:
    request_id = shot(server)
    first, again = (pick(server, request_id, "local-isnet") for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert len(lines_of(server, request_id)) == 1


def test_the_same_pick_twenty_times_at_once_is_one_line(server: Server) -> None:
    request_id = shot(server)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: pick(server, request_id, "local-isnet"), range(20)))
    assert sorted(each.status_code for each in answers) == [200] * 19 + [201]
    assert len(lines_of(server, request_id)) == 1


def test_a_changed_mind_takes_the_place_of_the_earlier_pick(server: Server) -> None:
    before = wins(server)
    request_id = shot(server)
    first = pick(server, request_id, "local-isnet").json()
    second = pick(server, request_id, "kie-recraft")
    assert second.status_code == 201
    assert second.json()["supersedes"] == first["preference_id"]
    back = pick(server, request_id, "local-isnet").json()
    assert back["preference_id"] not in {first["preference_id"], second.json()["preference_id"]}
    assert len(lines_of(server, request_id)) == 3
    after = wins(server)
    assert after["local-isnet"] == before["local-isnet"] + 1
    assert after["kie-recraft"] == before["kie-recraft"]


def wins(server: Server) -> dict[str, int]:
    models = server.client.get("/preferences/stats").json()["models"]
    return dict.fromkeys(GOOD, 0) | {each["model"]: each["wins"] for each in models}


def test_what_cannot_be_picked_is_refused(server: Server) -> None:
    request_id = shot(server)
    problem(pick(server, NOBODY, "local-isnet"), 404, "result_not_found")
    problem(pick(server, request_id, BAD), 409, "not_pickable")
    problem(pick(server, request_id, "local-knockout"), 409, "not_pickable")
    assert lines_of(server, request_id) == []


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"model": "nobody"}, "model"),
        ({"request_id": "../../etc/passwd"}, "request_id"),
        ({"shown": ["local-isnet", "local-isnet"]}, "shown"),
        ({"shown": ["kie-recraft"]}, "shown"),
        ({"shown": [BAD, "local-isnet"]}, "shown"),
        ({"reason": "x" * 501}, "reason"),
        ({"metadata": {"deep": {"er": 1}}}, "metadata"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_parameter_is_named(server: Server, more: dict[str, object], field: str) -> None:
    body = {"request_id": shot(server), "model": "local-isnet", **more}
    found = problem(server.client.post("/preferences", json=body), 400, "invalid_parameter")
    assert str(found["field"]).startswith(field)


def test_a_body_that_is_no_pick_is_refused_unread(server: Server) -> None:
    for content in (b"", b"[1]", b"{", b"[" * 10_000):
        answer = server.client.post("/preferences", content=content)
        problem(answer, 400, "invalid_parameter")
    problem(server.client.post("/preferences", content=b"x" * 20_000), 413, "file_too_large")


def test_the_order_that_the_customer_saw_counts(server: Server) -> None:
    request_id = shot(server)
    shown = ["local-isnet", "kie-recraft"]
    assert pick(server, request_id, "kie-recraft", shown=shown).status_code == 201
    (line,) = lines_of(server, request_id)
    assert [each["model"] for each in line["shown"]] == shown
    assert {each["model"] for each in line["not_shown"]} == {BAD, "local-birefnet-general"}


def test_stats_have_rates_strengths_places_and_groups(server: Server) -> None:
    pick(server, shot(server), "local-isnet")
    found = server.client.get("/preferences/stats", params={"by": "kind"}).json()
    isnet = next(each for each in found["models"] if each["model"] == "local-isnet")
    assert isnet["win_rate_low"] < isnet["win_rate"] < isnet["win_rate_high"] or (
        isnet["wins"] == isnet["shown"]
    )
    assert isnet["cost_per_win_usd"] == 0
    assert sum(each["wins"] for each in found["places"]) == found["picks"]
    assert [group["name"] for group in found["groups"]] == ["artwork"]
    empty = server.client.get("/preferences/stats", params={"until": "2020-01-01"}).json()
    assert (empty["picks"], empty["models"]) == (0, [])
    for query in ({"by": "moon"}, {"since": "today"}, {"kind": "A B"}, {"unknown": "1"}):
        answer = server.client.get("/preferences/stats", params=query)
        problem(answer, 400, "invalid_parameter")


def test_an_export_is_cut_by_time(server: Server) -> None:
    pick(server, shot(server), "local-isnet")
    moments = [line["time"] for line in lines(server)]
    assert moments == sorted(moments)
    assert [line["time"] for line in lines(server, since=moments[-1])] == moments[-1:]
    assert len(lines(server, until=moments[-1])) == len(moments) - 1
    assert lines(server, since="2100-01-01T00:00:00") == []


def test_a_deleted_shot_takes_its_picks_with_it(server: Server) -> None:
    kept, gone = shot(server), shot(server)
    for request_id in (kept, gone):
        pick(server, request_id, "local-isnet")
    before = wins(server)["local-isnet"]
    assert server.client.delete(f"/results/{gone}").status_code == 204
    assert (len(lines_of(server, kept)), lines_of(server, gone)) == (1, [])
    assert wins(server)["local-isnet"] == before - 1


def test_picks_can_be_forgotten_without_their_shot(server: Server) -> None:
    request_id = shot(server)
    pick(server, request_id, "local-isnet")
    assert server.client.delete(f"/preferences/{request_id}").status_code == 204
    assert lines_of(server, request_id) == []
    problem(server.client.delete(f"/preferences/{request_id}"), 404, "result_not_found")
    assert pick(server, request_id, "local-isnet").status_code == 201


def test_picks_outlive_a_restart_and_the_pictures(tmp_path: Path) -> None:
    with serving(tmp_path, stand_ins=stand_ins()) as server:
        request_id = shot(server)
        pick(server, request_id, "local-isnet")
    for folder in (tmp_path / "results").iterdir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    with serving(tmp_path, stand_ins=stand_ins()) as server:
        assert server.client.get(f"/results/{request_id}").json()["status"] == "expired"
        assert pick(server, request_id, "local-isnet").status_code == 200
        assert pick(server, request_id, "kie-recraft").status_code == 201
        assert wins(server) == {"kie-recraft": 1, "local-isnet": 0, "local-birefnet-general": 0}


class Heard(logging.Handler):
    """The lines of picks that went to the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "pick_logged":
            self.lines.append(vars(record)["line"])


@contextmanager
def listening() -> Iterator[Heard]:
    heard, logger = Heard(), logging.getLogger("services.preferences")
    logger.addHandler(heard)
    yield heard
    logger.removeHandler(heard)


@pytest.mark.parametrize("on_failure", ["refuse", "log"])
def test_a_folder_that_cannot_be_written_loses_no_pick(tmp_path: Path, on_failure: str) -> None:
    """A file in the folder's place refuses root as well, as a read-only mount does."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "picks").write_text("not a folder")
    with (
        serving(tmp_path, stand_ins=stand_ins(), picks_on_failure=on_failure) as server,
        listening() as heard,
    ):
        request_id = shot(server)
        answer = pick(server, request_id, "local-isnet", reason="crisp")
        if on_failure == "refuse":
            body = problem(answer, 503, "picks_unavailable")
            assert body["retryable"]
            assert answer.headers["retry-after"]
        else:
            assert answer.status_code == 202
            assert answer.json()["kept_in"] == "log"
        assert server.client.get("/preferences/stats").json()["picks"] == 0
    (line,) = heard.lines if on_failure == "log" else [{"request_id": request_id}]
    assert line["request_id"] == request_id
    assert line.get("reason") == ("crisp" if on_failure == "log" else None)
    assert len(heard.lines) == (on_failure == "log")


def test_a_pick_is_for_whom_the_shot_belongs_to(tmp_path: Path) -> None:
    keys = {name: f"a-long-key-of-the-{name}" for name in ("shop", "till")}
    shop, till = ({"Authorization": f"Bearer {key}"} for key in keys.values())
    pairs = ",".join(f"{name}:{key}" for name, key in keys.items())
    with serving(tmp_path, stand_ins=stand_ins(), api_keys=pairs) as server:
        token = server.client.post("/sessions", headers=shop).json()["token"]
        browser = {"Authorization": f"Bearer {token}"}
        files = {"image": ("a.png", artwork())}
        record = server.client.post(
            "/remove-background", files=files, data={"models": ASKED}, headers=browser
        ).json()
        body = {"request_id": record["request_id"], "model": "local-isnet"}
        post = server.client.post
        problem(post("/preferences", json=body), 401, "missing_key")
        problem(post("/preferences", json=body, headers=till), 404, "result_not_found")
        assert post("/preferences", json=body, headers=browser).status_code == 201
        assert post("/preferences", json=body, headers=shop).status_code == 200
        problem(server.client.get("/preferences/export", headers=browser), 403, "not_allowed")
        path = f"/preferences/{record['request_id']}"
        problem(server.client.delete(path, headers=till), 404, "result_not_found")
        assert server.client.get("/preferences/export", headers=till).text == ""
        (line,) = server.client.get("/preferences/export", headers=shop).text.splitlines()
        assert json.loads(line)["key_id"] == "shop"
        assert server.client.delete(path, headers=shop).status_code == 204
