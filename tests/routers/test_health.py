"""GET /health, /ready and /models over real HTTP."""

from pathlib import Path

from main import VERSION
from models.schemas import ModelId
from tests.conftest import artwork, serving
from tests.fakes import FakeRemover, unavailable

ISNET = ModelId.LOCAL_ISNET


def test_health_says_version_and_uptime(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        body = server.client.get("/health").json()
    assert body["status"] == "ok"
    assert body["version"] == VERSION
    assert body["uptime_s"] >= 0


def test_ready_is_200_when_a_default_model_is_ready(tmp_path: Path) -> None:
    with serving(tmp_path, stand_ins={ISNET: FakeRemover(ISNET)}) as server:
        response = server.client.get("/ready")
    assert response.status_code == 200
    assert response.json()["models"]["local-isnet"]["status"] == "ready"
    assert response.json()["memory"]["granted_mb"] > 0
    assert response.json()["queue"] == {
        "running": 0,
        "running_limit": 4,
        "waiting": 0,
        "waiting_limit": 32,
    }


def test_ready_is_503_with_reasons_when_a_default_shot_would_find_no_model(
    tmp_path: Path,
) -> None:
    stand_ins = {ISNET: unavailable(ISNET, "no source of the weights answers")}
    with serving(tmp_path, stand_ins=stand_ins) as server:
        response = server.client.get("/ready")
    states = response.json()["models"]
    assert response.status_code == 503
    assert states["local-isnet"]["reason"] == "no source of the weights answers"
    assert states["kie-recraft"]["status"] == "unconfigured"
    assert "KIE_API_KEY" in states["kie-recraft"]["reason"]
    assert states["local-knockout"]["status"] == "ready"


def test_missing_weights_are_unavailable_with_what_to_do(tmp_path: Path) -> None:
    with serving(tmp_path, weights_dir=tmp_path / "none") as server:
        for _ in range(100):
            state = server.client.get("/ready").json()["models"]["local-isnet"]
            if state["status"] != "loading":
                break
    assert state["status"] == "unavailable"
    assert "make weights" in state["reason"]


def test_a_box_too_small_never_tries_birefnet(tmp_path: Path) -> None:
    with serving(tmp_path, memory_limit_mb=2048) as server:
        state = server.client.get("/ready").json()["models"]["local-birefnet-general"]
    assert state["status"] == "unavailable"
    assert "1.7 GiB" in state["reason"]
    assert "1.0 GiB" in state["reason"]


def test_the_networks_engine_is_told_without_any_auto(tmp_path: Path) -> None:
    with serving(tmp_path, inference_engine="onnxruntime", inference_precision="bf16") as server:
        told = server.client.get("/ready").json()["inference"]
    assert (told["engine"], told["precision"], told["threads"]) == ("onnxruntime", "f32", 2)
    assert told["loaded"] == []


def test_the_table_lists_every_model_in_order_with_live_latency(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for _ in range(3):
            server.shoot(artwork(), models="local-knockout")
        table = server.client.get("/models").json()["models"]
    here = [model.value for model in ModelId if model is not ModelId.LOCAL_BEN2]
    assert [row["id"] for row in table] == here
    knockout = table[-1]
    assert knockout["latency_ms"]["count"] == 3
    assert 0 <= knockout["latency_ms"]["p50"] <= knockout["latency_ms"]["p95"]
    assert knockout["default"] is False
    assert all(row["licence"] for row in table)
    assert [row["price_usd"] for row in table[:3]] == [0.018, 0.0006, 0.005]
