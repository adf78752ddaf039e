"""local-ben2 over HTTP: only where it is set up, on the device asked for, or with a reason."""

import io
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import ben2
from tests.conftest import Server, artwork, problem, serving

ENOUGH_MB = 16384  # for 4 GB of its process, on whatever box the tests run


def settled(server: Server) -> dict[str, Any]:
    """What /ready says once the network has been tried."""
    for _ in range(600):
        ready: dict[str, Any] = server.client.get("/ready").json()
        if ready["models"]["local-ben2"]["status"] != "loading":
            return ready
        time.sleep(0.05)
    raise AssertionError(ready)


def test_where_it_is_not_set_up_nothing_knows_it(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        ready = server.client.get("/ready").json()
        table = server.client.get("/models").json()["models"]
        record = server.shoot(artwork(), models="local-ben2,local-knockout").json()
        alone = server.shoot(artwork(), models="local-ben2")
    assert ready["ben2"] is None
    assert "local-ben2" not in ready["models"]
    assert "local-ben2" not in [row["id"] for row in table]
    assert [entry["model"] for entry in record["results"]] == ["local-knockout", "local-ben2"]
    assert record["results"][1]["reason"] == "unconfigured"
    assert "not set up" in problem(alone, 503, "no_model_available")["detail"]  # type: ignore[operator]


def test_on_the_processor_it_cuts_out_beside_the_others(tmp_path: Path) -> None:
    path = ben2.made(tmp_path / "ben2.onnx")
    with serving(
        tmp_path,
        ben2_weights=path,
        ben2_sha256=ben2.sha256(path),
        ben2_device="cpu",
        memory_limit_mb=ENOUGH_MB,
        weights_dir=tmp_path / "none",
    ) as server:
        before = settled(server)
        record = server.shoot(artwork()).json()
        entry = record["results"][-1]
        assert entry["model"] == "local-ben2"
        assert entry["status"] == "succeeded", entry
        content = server.client.get(entry["url"]).content
        after = server.client.get("/ready").json()
        row = server.client.get("/models").json()["models"][-1]
        pick = server.client.post(
            "/preferences", json={"request_id": record["request_id"], "model": "local-ben2"}
        )
        stats = server.client.get("/preferences/stats").json()
    alpha = np.asarray(Image.open(io.BytesIO(content)))[..., 3]
    assert alpha[24, 32] > 200  # enlarging to 1024 overshoots at the rim, which sets the maximum
    assert alpha[:6].max() == 0
    assert entry["rank"] == 1
    assert before["models"]["local-ben2"]["first_answer_s"] > 0
    assert before["memory"]["ben2_mb"] == 4_096_000_000 // 2**20
    shares = ("floor_mb", "enlarging_mb", "networks_mb", "shots_mb", "ben2_mb")
    assert ENOUGH_MB - len(shares) <= sum(map(before["memory"].get, shares)) <= ENOUGH_MB
    assert (after["ben2"]["asked"], after["ben2"]["device"]) == ("cpu", "cpu")
    assert after["ben2"]["loaded"]
    assert after["ben2"]["resident_mb"] > 0
    assert after["inference"]["loaded"] == []
    assert (row["id"], row["default"], row["price_usd"]) == ("local-ben2", True, 0)
    assert row["latency_ms"]["count"] == 1
    assert pick.status_code == 201, pick.text
    assert [each["model"] for each in stats["models"]] == ["local-ben2"]


def test_without_a_card_auto_says_so_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = ben2.made(tmp_path / "ben2.onnx")
    with serving(tmp_path, ben2_weights=path, ben2_sha256=ben2.sha256(path)) as server:
        ready = settled(server)
        record = server.shoot(artwork(), models="local-knockout,local-ben2").json()
        row = server.client.get("/models").json()["models"][-1]
    state = ready["models"]["local-ben2"]
    assert state["status"] == "unavailable"
    assert state["reason"].startswith("There is no graphics card: nvidia-smi cannot be started")
    assert (ready["ben2"]["asked"], ready["ben2"]["device"]) == ("auto", None)
    assert ready["ben2"]["card"] is None
    assert ready["ben2"]["resident_mb"] is None
    assert ready["memory"]["ben2_mb"] == 0
    assert (row["status"], row["reason"]) == ("unavailable", state["reason"])
    assert [entry["status"] for entry in record["results"]] == ["succeeded", "skipped"]


def test_a_card_is_shown_with_its_memory_and_a_network_that_cannot_reach_it_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card is a script's word, so whatever onnxruntime is installed cannot run on it."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4090, 550.54.15, 24564, 1310'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = ben2.made(tmp_path / "ben2.onnx")
    with serving(tmp_path, ben2_weights=path, ben2_sha256=ben2.sha256(path)) as server:
        ready = settled(server)
    assert ready["ben2"]["card"] == {
        "name": "NVIDIA GeForce RTX 4090",
        "driver": "550.54.15",
        "memory_total_mb": 24564,
        "memory_used_mb": 1310,
    }
    state = ready["models"]["local-ben2"]
    assert state["status"] == "unavailable"
    assert state["reason"].startswith("onnxruntime cannot run ben2.onnx: ")
    assert ready["memory"]["ben2_mb"] > 0
    assert ready["ben2"]["device"] is None
    assert ready["ben2"]["why"] == state["reason"]


def test_without_a_checksum_the_file_is_not_touched(tmp_path: Path) -> None:
    with serving(
        tmp_path, ben2_weights=tmp_path / "none.onnx", ben2_device="cpu", memory_limit_mb=ENOUGH_MB
    ) as server:
        state = settled(server)["models"]["local-ben2"]
    assert state["status"] == "unavailable"
    assert state["reason"].startswith("BEN2_SHA256 is not set")
