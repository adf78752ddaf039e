"""callback_url over real HTTP: the record is posted when the last model has landed, and signed."""

import json
from pathlib import Path
from typing import Any

import pytest

from models.schemas import ModelId
from tests.conftest import artwork, problem, serving
from tests.documents import blocks
from tests.fakes import FakeRemover
from tests.receiver import Delivery, receiving

ISNET = ModelId.LOCAL_ISNET
SECRET = "a secret that only the shop has"  # noqa: S105  # a test's own


def hooked(*places: str, **more: object) -> dict[str, Any]:
    return {
        "webhook_secret": SECRET,
        "webhook_allowed_hosts": frozenset(places),
        "webhook_pace": 0.0005,
        **more,
    }


@pytest.fixture(scope="module")
def verify() -> Any:  # noqa: ANN401  # a function out of a page
    """The function that docs/API.md tells a shop to use."""
    snippet = next(block.text for block in blocks() if "def verify(" in block.text)
    names: dict[str, Any] = {}
    exec(snippet, names)  # noqa: S102  # our own page
    return names["verify"]


def test_the_posted_record_is_the_one_that_is_kept(tmp_path: Path, verify: Any) -> None:  # noqa: ANN401
    with (
        receiving() as receiver,
        serving(
            tmp_path, **hooked(receiver.place, public_base_url="https://cut.example")
        ) as server,
    ):
        answer = server.shoot(artwork(), models="local-knockout", callback_url=receiver.url)
        delivery = receiver.next()
        kept = server.client.get(f"/results/{answer.json()['request_id']}").json()
    event = json.loads(delivery.body)
    assert {**event["record"], "latency_ms": 0} == {**kept, "latency_ms": 0}
    assert event["record"]["results"][0]["url"].startswith("https://cut.example/results/")
    assert event["request_id"] == kept["request_id"]
    assert_verified(verify, delivery)


def assert_verified(verify: Any, delivery: Delivery) -> None:  # noqa: ANN401
    headers = {name.title(): value for name, value in delivery.headers.items()}
    assert verify(SECRET, headers, delivery.body) == json.loads(delivery.body)
    for broken in (
        {**headers, "X-Webhook-Id": "evt_0"},
        {**headers, "X-Webhook-Timestamp": "1700000000"},
        {**headers, "X-Webhook-Signature": "v1=" + "0" * 64},
    ):
        with pytest.raises(ValueError, match="webhook"):
            verify(SECRET, broken, delivery.body)
    with pytest.raises(ValueError, match="webhook"):
        verify("another secret", headers, delivery.body)
    with pytest.raises(ValueError, match="webhook"):
        verify(SECRET, headers, delivery.body + b" ")


def test_it_is_posted_only_when_the_last_model_has_landed(tmp_path: Path) -> None:
    late = FakeRemover(ISNET, held=True)
    with (
        receiving() as receiver,
        serving(tmp_path, stand_ins={ISNET: late}, **hooked(receiver.place)) as server,
    ):
        answer = server.shoot(
            artwork(), models="local-isnet,local-knockout", deadline_s="1",
            callback_url=receiver.url,
        ).json()  # fmt: skip
        assert answer["status"] == "running"
        assert receiver.arrived.empty()
        late.release()
        event = json.loads(receiver.next().body)
    assert event["record"]["status"] == "complete"
    assert [each["status"] for each in event["record"]["results"]] == ["succeeded", "succeeded"]


def test_a_shot_whose_models_all_fail_is_told_of_as_well(tmp_path: Path) -> None:
    broken = FakeRemover(ISNET, error=RuntimeError("boom"))
    with (
        receiving() as receiver,
        serving(tmp_path, stand_ins={ISNET: broken}, **hooked(receiver.place)) as server,
    ):
        answer = server.shoot(artwork(), models="local-isnet", callback_url=receiver.url)
        problem(answer, 502, "all_models_failed")
        event = json.loads(receiver.next().body)
    assert event["record"]["results"][0]["error"]["code"] == "model_crashed"


def test_process_posts_the_links_of_its_prints(tmp_path: Path) -> None:
    with receiving() as receiver, serving(tmp_path, **hooked(receiver.place)) as server:
        server.client.post(
            "/process",
            files={"image": artwork()},
            data={"models": "local-knockout", "callback_url": receiver.url},
        ).raise_for_status()
        event = json.loads(receiver.next().body)
    assert event["record"]["results"][0]["print_url"].endswith(".png?print=1")


def test_a_receiver_that_hangs_or_fails_does_not_delay_the_shot_or_the_stop(
    tmp_path: Path,
) -> None:
    with receiving(held=True) as receiver:
        with serving(tmp_path, **hooked(receiver.place, webhook_pace=10)) as server:
            answer = server.shoot(artwork(), models="local-knockout", callback_url=receiver.url)
            assert answer.json()["status"] == "complete"
            receiver.next()
        assert receiver.held is not None
        assert not receiver.held.is_set()


def test_without_a_secret_callback_url_is_a_bad_parameter(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for route in ("/remove-background", "/process"):
            answer = server.client.post(
                route, files={"image": artwork()}, data={"callback_url": "https://shop.example/"}
            )
            body = problem(answer, 400, "invalid_parameter")
            assert body["field"] == "callback_url"
            assert "WEBHOOK_SECRET" in str(body["detail"])


def test_a_private_callback_is_refused_before_any_model_is_asked(tmp_path: Path) -> None:
    remover = FakeRemover(ISNET)
    with serving(tmp_path, stand_ins={ISNET: remover}, **hooked()) as server:
        for url in ("https://127.0.0.1/", "https://10.0.0.1/", "http://127.0.0.1:9/", "done"):
            answer = server.shoot(artwork(), models="local-isnet", callback_url=url)
            assert problem(answer, 400, "invalid_parameter")["field"] == "callback_url"
    assert not remover.asked.is_set()
