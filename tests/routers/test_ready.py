"""GET /ready tells the truth: what it says of a default shot is what becomes of one."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.schemas import ModelId
from tests.conftest import Server, artwork, problem, serving
from tests.fakes import FakeRemover, unavailable
from tests.sandbox_thread import provider_settings, running_sandbox

ISNET, RMBG = ModelId.LOCAL_ISNET, ModelId.RUNWARE_RMBG
PAID_ALONE = {ISNET: unavailable(ISNET), RMBG: FakeRemover(RMBG)}


def isnet() -> dict[ModelId, FakeRemover]:
    return {ISNET: FakeRemover(ISNET)}


def ready(server: Server) -> httpx.Response:
    return server.client.get("/ready")


def blocking(answer: httpx.Response) -> list[str]:
    """The topics of what blocks; status and `ready` say the same."""
    told: list[dict[str, Any]] = answer.json()["problems"]
    found = [each["topic"] for each in told if each["blocks"]]
    assert answer.json()["ready"] is (not found)
    assert answer.status_code == (503 if found else 200)
    assert all(each["reason"] for each in told)
    return found


def reason(answer: httpx.Response, topic: str) -> str:
    found = [each["reason"] for each in answer.json()["problems"] if each["topic"] == topic]
    assert found, answer.json()["problems"]
    return " ".join(found)


def test_all_is_well_where_a_default_shot_is_taken(tmp_path: Path) -> None:
    with serving(tmp_path, stand_ins=isnet()) as server:
        answer = ready(server)
        assert server.shoot(artwork()).status_code == 200
    assert blocking(answer) == []
    # BiRefNet has no weights here, which costs a default shot a model and no more
    assert {each["topic"] for each in answer.json()["problems"]} <= {"models"}


def test_a_disk_without_room_blocks(tmp_path: Path) -> None:
    with serving(tmp_path, stand_ins=isnet(), min_free_disk_mb=1 << 40) as server:
        answer = ready(server)
        problem(server.shoot(artwork()), 507, "insufficient_storage")
    assert blocking(answer) == ["disk"]
    assert "MIN_FREE_DISK_MB" in reason(answer, "disk")


def test_a_folder_that_takes_no_upload_blocks(tmp_path: Path) -> None:
    with serving(tmp_path, stand_ins=isnet()) as server:
        shutil.rmtree(tmp_path / "uploads")
        (tmp_path / "uploads").write_text("in the way")
        answer = ready(server)
        assert server.shoot(artwork()).status_code == 500
    assert blocking(answer) == ["disk"]
    assert "TEMP_DIR cannot be written" in reason(answer, "disk")


def test_too_little_memory_for_any_shot_blocks(tmp_path: Path) -> None:
    with serving(tmp_path, stand_ins=isnet(), memory_limit_mb=780) as server:
        answer = ready(server)
        problem(server.shoot(artwork()), 503, "insufficient_memory")
    assert blocking(answer) == ["memory"]
    assert "12 MiB" in reason(answer, "memory")


def test_a_full_line_blocks_until_a_place_is_free(tmp_path: Path) -> None:
    held = FakeRemover(ISNET, held=True)
    one_place = {"max_concurrent_jobs": 1, "queue_limit": 0, "deadline_s": 1}
    with serving(tmp_path, stand_ins={ISNET: held}, **one_place) as server:
        with suppress(httpx.TimeoutException):
            server.client.post(
                "/remove-background",
                files={"image": ("a.png", artwork())},
                headers={"Prefer": "respond-async"},
                timeout=10,
            )
        assert held.asked.wait(10)
        answer = ready(server)
        problem(server.shoot(artwork()), 503, "overloaded")
        held.release()
        for _ in range(1000):
            if (again := ready(server)).status_code == 200:
                break
    assert blocking(answer) == ["queue"]
    assert blocking(again) == []


def test_paid_models_alone_and_nothing_left_of_the_day_blocks(tmp_path: Path) -> None:
    with serving(tmp_path, stand_ins=PAID_ALONE, daily_budget_usd=0) as server:
        answer = ready(server)
        problem(server.shoot(artwork()), 402, "budget_exhausted")
    assert blocking(answer) == ["models"]
    assert "DAILY_BUDGET_USD is used up" in reason(answer, "models")


def test_a_spent_budget_beside_a_free_model_is_told(tmp_path: Path) -> None:
    with serving(tmp_path, stand_ins=isnet(), daily_budget_usd=0) as server:
        answer = ready(server)
        assert server.shoot(artwork()).status_code == 200
    assert blocking(answer) == []
    assert "00:00 UTC" in reason(answer, "budget")


def test_whose_budget_is_spent_is_not_told_to_everybody(tmp_path: Path) -> None:
    asked = {"api_keys": "corner-shop:sixteen-characters-and-more"}
    budget = {"key_daily_budgets": {"corner-shop": 0}}
    with serving(tmp_path, stand_ins=isnet(), **asked, **budget) as server:
        answer = ready(server)
    assert blocking(answer) == []
    assert "1 of the keys" in reason(answer, "budget")
    assert "corner-shop" not in answer.text


def test_a_volume_that_is_lost_while_it_runs_is_told_and_shots_go_on(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    with serving(tmp_path / "temp", stand_ins=isnet(), data_dir=volume) as server:
        before = {each["topic"] for each in ready(server).json()["problems"]}
        volume.rename(tmp_path / "unplugged")
        volume.write_text("in the way")
        answer = ready(server)
        volume.unlink()
        (tmp_path / "unplugged").rename(volume)
        mended = {each["topic"] for each in ready(server).json()["problems"]}
    assert before == mended
    assert "data" not in before
    assert blocking(answer) == []
    assert "DATA_DIR cannot be written" in reason(answer, "data")
    assert "takes none" in reason(answer, "picks")


def test_a_damaged_database_of_keys_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "idempotency.sqlite3").write_bytes(b"something else entirely" * 1000)
    with serving(tmp_path, stand_ins=isnet()) as server:
        answer = ready(server)
    assert blocking(answer) == []
    assert "not a database" in reason(answer, "idempotency")


@pytest.mark.parametrize("alone", [False, True])
def test_a_provider_that_is_left_alone_is_told_and_blocks_where_nobody_else_is(
    tmp_path: Path, alone: bool
) -> None:
    stand_ins = {ISNET: unavailable(ISNET) if alone else FakeRemover(ISNET)}
    with running_sandbox() as sandbox:
        asked = provider_settings(sandbox, key="sandbox-x:fault=kie.unauthorized")
        asked.pop("runware_api_key")
        with serving(tmp_path, stand_ins=stand_ins, **asked) as server:
            server.shoot(artwork(width=300, height=300), models="kie-recraft")
            answer = ready(server)
    assert blocking(answer) == (["models"] if alone else [])
    assert reason(answer, "provider").startswith("kie is left alone (the next try in ")
