"""Where data goes when the volume meant for it cannot be written."""

import os
from pathlib import Path

import pytest

from services.data_folder import LEDGER, open_data_folder
from tests.conftest import artwork, problem, serving

LINE = (
    '{"day": "2026-11-24", "model": "kie-recraft", "key": "open", "tasks": 2, "cost_usd": "0.01"}\n'
)


def unwritable(folder: Path) -> Path:
    """Not even root can write there: a file is where the folder would have to be."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way", encoding="ascii")
    return folder


def test_a_writable_folder_is_used_and_left_clean(tmp_path: Path) -> None:
    found = open_data_folder(tmp_path / "data", temp_dir=tmp_path / "temp")
    assert (found.path, found.problem) == (tmp_path / "data", None)
    assert list(found.path.iterdir()) == []
    assert not (tmp_path / "temp").exists()


def test_without_a_folder_data_is_in_the_temporary_one(tmp_path: Path) -> None:
    found = open_data_folder(None, temp_dir=tmp_path)
    assert (found.path, found.picks, found.problem) == (
        tmp_path / "data",
        tmp_path / "data" / "picks",
        None,
    )


def test_an_unusable_one_is_replaced_and_the_picks_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume = unwritable(tmp_path / "volume")
    found = open_data_folder(volume, temp_dir=tmp_path / "temp")
    assert found.path == tmp_path / "temp" / "data"
    assert found.picks == volume / "picks"
    assert found.problem is not None
    assert "DATA_DIR cannot be written" in found.problem
    assert [each.message for each in caplog.records] == ["data_dir_unwritable"]


def test_an_unusable_temporary_folder_is_an_error(tmp_path: Path) -> None:
    unwritable(tmp_path / "temp" / "data")
    with pytest.raises(OSError, match="exists"):
        open_data_folder(None, temp_dir=tmp_path / "temp")


def test_another_users_ledger_is_not_ours_to_write_but_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/test_entrypoint.py sees the same as a user who is not root."""
    volume, temp = tmp_path / "volume", tmp_path / "temp"
    volume.mkdir()
    (volume / LEDGER).write_text(LINE, encoding="ascii")
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != LEDGER)
    found = open_data_folder(volume, temp_dir=temp)
    assert found.problem is not None
    assert f"{LEDGER} belongs to another user" in found.problem
    assert (temp / "data" / LEDGER).read_text(encoding="ascii") == LINE


def test_the_service_works_on_and_says_what_is_wrong(tmp_path: Path) -> None:
    volume = unwritable(tmp_path / "volume")
    with serving(tmp_path / "temp", data_dir=volume) as server:
        told = server.client.get("/ready").json()["data"]
        assert told["available"] is False
        assert "DATA_DIR cannot be written" in told["reason"]
        shot = server.client.post(
            "/remove-background",
            files={"image": ("a.png", artwork())},
            data={"models": "local-knockout"},
            headers={"Idempotency-Key": "once"},
        )
        assert shot.status_code == 200
        body = {"request_id": shot.json()["request_id"], "model": "local-knockout"}
        refused = server.client.post("/preferences", json=body)
        problem(refused, 503, "picks_unavailable")
    assert (tmp_path / "temp" / "data" / LEDGER).exists()
    assert volume.is_file()


def test_picks_go_to_the_log_where_that_is_asked_for(tmp_path: Path) -> None:
    volume = unwritable(tmp_path / "volume")
    with serving(tmp_path / "temp", data_dir=volume, picks_on_failure="log") as server:
        shot = server.shoot(artwork(), models="local-knockout").json()
        body = {"request_id": shot["request_id"], "model": "local-knockout"}
        answer = server.client.post("/preferences", json=body)
        assert answer.status_code == 202
        assert answer.json()["kept_in"] == "log"
