"""GET /errors over real HTTP: every way a request can go wrong leaves its line, and no more."""

from collections.abc import Iterator
from typing import Any

import pytest

from models.errors import FailureCode, RemoverError
from models.schemas import ModelId
from tests.answering import Cutter
from tests.conftest import Server, artwork, problem, serving
from tests.fakes import FakeRemover

KEY = {"Authorization": "Bearer a-key-of-the-shop-01"}
ISNET, KNOCKOUT, BIREFNET = (
    ModelId.LOCAL_ISNET,
    ModelId.LOCAL_KNOCKOUT,
    ModelId.LOCAL_BIREFNET,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    gone = RemoverError(FailureCode.PROVIDER_ERROR, "gone", retryable=False)
    stand_ins = {
        ISNET: FakeRemover(ISNET),
        BIREFNET: Cutter(BIREFNET, error=gone),
    }
    folder = tmp_path_factory.mktemp("errors")
    keys = "shop:a-key-of-the-shop-01"
    with serving(folder, stand_ins=stand_ins, api_keys=keys) as server:
        yield server


def lines(server: Server, request_id: str) -> list[dict[str, Any]]:
    told = server.client.get("/errors", headers=KEY, params={"limit": 200}).raise_for_status()
    found = [each for each in told.json()["errors"] if each["request_id"] == request_id]
    return [{name: each[name] for name in each.keys() - {"time", "request_id"}} for each in found]


def shoot(server: Server, request_id: str, picture: bytes, **asked: str) -> Any:  # noqa: ANN401
    return server.client.post(
        "/remove-background",
        files={"image": ("customers-name.png", picture)},
        data=asked,
        headers={**KEY, "X-Request-ID": request_id},
    )


def test_a_problem_is_kept_with_its_route_and_key(server: Server) -> None:
    problem(shoot(server, "bad-1", b""), 400, "empty_file")
    assert lines(server, "bad-1") == [
        {
            "code": "empty_file",
            "status": 400,
            "method": "POST",
            "route": "/remove-background",
            "key": "shop",
        }
    ]


def test_what_the_door_refuses_is_kept_without_address_or_key(server: Server) -> None:
    server.client.get("/secret-of-somebody", headers={"X-Request-ID": "door-1"})
    assert lines(server, "door-1") == [
        {"code": "missing_key", "status": 401, "method": "GET", "key": "unknown"}
    ]


def test_a_model_that_fails_in_a_shot_that_succeeds_is_kept(server: Server) -> None:
    shoot(server, "shot-1", artwork(), models=f"{BIREFNET},{ISNET}").raise_for_status()
    assert lines(server, "shot-1") == [
        {"code": "provider_error", "model": BIREFNET.value, "key": "shop"}
    ]


def test_a_failure_told_inside_a_stream_is_kept_with_the_status_it_would_have_had(
    server: Server,
) -> None:
    answer = shoot(server, "stream-1", artwork(), models=BIREFNET, stream="ndjson")
    assert answer.status_code == 200
    assert '"failed"' in answer.text
    problem_line = next(each for each in lines(server, "stream-1") if "status" in each)
    assert (problem_line["code"], problem_line["status"]) == ("all_models_failed", 502)


def test_what_goes_well_leaves_nothing_and_nothing_of_a_customer_is_told(server: Server) -> None:
    shoot(server, "fine-1", artwork(), models=ISNET).raise_for_status()
    assert lines(server, "fine-1") == []
    assert "customers-name" not in server.client.get("/errors", headers=KEY).text


def test_it_wants_a_key_and_no_session(server: Server) -> None:
    problem(server.client.get("/errors"), 401, "missing_key")
    token = server.client.post("/sessions", headers=KEY).raise_for_status().json()["token"]
    refused = server.client.get("/errors", headers={"Authorization": f"Bearer {token}"})
    problem(refused, 403, "not_allowed")


@pytest.mark.parametrize("limit", ["0", "201", "all"])
def test_a_limit_of_nonsense_is_refused(server: Server, limit: str) -> None:
    refused = server.client.get("/errors", headers=KEY, params={"limit": limit})
    assert problem(refused, 400, "invalid_parameter")["field"] == "limit"
