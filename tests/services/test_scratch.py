"""One request's files go with it, and later where the disk did not let them go at once."""

import shutil
from pathlib import Path

import pytest

from models.errors import StorageUnavailable
from services.scratch import Scratch

pytestmark = pytest.mark.anyio


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    (tmp_path / "uploads").mkdir()
    return Scratch(tmp_path / "uploads")


def names(tmp_path: Path) -> list[str]:
    return sorted(each.name for each in (tmp_path / "uploads").iterdir())


async def test_it_is_gone_when_the_request_is(scratch: Scratch, tmp_path: Path) -> None:
    async with scratch.new() as folder:
        (folder / "part1").write_bytes(b"x")
        scratch.sweep()
        assert names(tmp_path) == [folder.name]
    assert names(tmp_path) == []


async def test_what_could_not_be_removed_goes_with_the_next_sweep(
    scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as refusing:
        refusing.setattr(shutil, "rmtree", lambda *_, **__: None)
        async with scratch.new() as folder:
            (folder / "part1").write_bytes(b"x")
        scratch.sweep()
    assert names(tmp_path) == [folder.name]
    scratch.sweep()
    assert names(tmp_path) == []


async def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "uploads").write_bytes(b"in the way")
    with pytest.raises(NotADirectoryError):
        async with Scratch(tmp_path / "uploads").new():
            pass


async def test_a_disk_without_leave_is_said(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(StorageUnavailable, match="uploads"):
        async with scratch.new():
            pass
