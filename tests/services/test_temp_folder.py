"""TEMP_DIR is one service's own; what a killed one left goes, what links point to stays."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from services.temp_folder import LOCK, TempFolderInUse, temp_folder
from tests.conftest import ROOT
from tests.services.test_results import opened

pytestmark = pytest.mark.anyio

HOLDING = """
import asyncio, sys
from pathlib import Path
from services.temp_folder import temp_folder

async def main():
    async with temp_folder(Path(sys.argv[1]), patience_s=0) as uploads:
        (uploads / "mine").write_bytes(b"x")
        print("held", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_uploads_of_a_killed_service_go_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "file").write_bytes(b"somebody's")
    uploads = tmp_path / "temp" / "uploads"
    (uploads / "a" / "b").mkdir(parents=True)
    (uploads / "a" / "b" / "part").write_bytes(b"x")
    (uploads / "a" / "link").symlink_to(outside)
    (uploads / "file").write_bytes(b"x")
    (uploads / "link").symlink_to(outside)
    (uploads / "dangling").symlink_to(tmp_path / "nowhere")
    async with temp_folder(tmp_path / "temp", patience_s=0) as folder:
        assert folder == uploads
        assert list(uploads.iterdir()) == []
    assert (outside / "deep" / "file").read_bytes() == b"somebody's"


async def test_a_link_in_the_place_of_the_uploads_is_replaced(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"somebody's")
    (tmp_path / "temp").mkdir()
    (tmp_path / "temp" / "uploads").symlink_to(outside)
    async with temp_folder(tmp_path / "temp", patience_s=0) as folder:
        assert folder.is_dir()
        assert not folder.is_symlink()
    assert (outside / "file").exists()


async def test_a_link_among_the_results_goes_and_what_it_points_to_stays(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "half.part").write_bytes(b"somebody's")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / ("0" * 32)).symlink_to(outside)
    (tmp_path / "results" / "dangling").symlink_to(tmp_path / "nowhere")
    opened(tmp_path)
    assert not any((tmp_path / "results").iterdir())
    assert (outside / "half.part").exists()


async def test_a_second_service_is_refused_and_the_first_loses_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(  # noqa: ASYNC220  # nothing else runs
        [sys.executable, "-c", HOLDING, tmp_path], cwd=ROOT, stdout=subprocess.PIPE
    ) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == b"held\n"
            with pytest.raises(TempFolderInUse, match="in use by another process"):
                async with temp_folder(tmp_path, patience_s=0.2):
                    raise AssertionError("two services at once")
            assert (tmp_path / "uploads" / "mine").exists()

            waits = asyncio.create_task(_enter(tmp_path))
            await asyncio.sleep(0.05)
            assert not waits.done()
            first.kill()
            await waits
        finally:
            first.kill()
    assert not any((tmp_path / "uploads").iterdir())


async def _enter(folder: Path) -> None:
    async with temp_folder(folder, patience_s=60):
        pass


async def test_the_lock_is_no_way_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "temp").mkdir()
    (tmp_path / "temp" / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=LOCK):
        async with temp_folder(tmp_path / "temp", patience_s=0):
            pass
    assert not (tmp_path / "elsewhere").exists()


async def test_nothing_of_the_lock_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        await _enter(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
