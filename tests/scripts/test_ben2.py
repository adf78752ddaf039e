"""BEN2's file is fetched to where the settings look for it, and only if they prove it."""

import hashlib
from pathlib import Path

import pytest

from scripts.ben2 import main
from tests.services.conftest import CONTENT, Shelf, shelf

__all__ = ["shelf"]

PROVEN = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "weights" / "BEN2_Base.onnx"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEN2_WEIGHTS", str(path))
    monkeypatch.setenv("BEN2_SHA256", PROVEN)
    return path


def test_it_is_fetched_once_and_continued_where_it_broke_off(
    place: Path, shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.script = ["cut"]
    assert main(["--url", shelf.url]) == 0
    assert place.read_bytes() == CONTENT
    assert shelf.ranges == [None, "bytes=300000-"]
    assert main(["--url", shelf.url]) == 0
    assert len(shelf.ranges) == 2
    assert "in place and proven" in capsys.readouterr().out


def test_wrong_bytes_never_reach_their_place(
    place: Path,
    shelf: Shelf,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BEN2_SHA256", "0" * 64)
    assert main(["--url", shelf.url]) == 1
    assert f"their sha256 is {PROVEN}" in capsys.readouterr().err
    assert list(place.parent.iterdir()) == []


def test_a_foreign_file_in_its_place_is_left_alone(
    place: Path, shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    place.parent.mkdir()
    place.write_bytes(b"somebody's own")
    assert main(["--url", shelf.url]) == 1
    assert "move it away" in capsys.readouterr().err
    assert place.read_bytes() == b"somebody's own"
    assert shelf.ranges == []


def test_without_settings_it_says_which(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BEN2_SHA256")
    assert main([]) == 2
    assert "BEN2_SHA256" in capsys.readouterr().err
    assert not place.exists()
