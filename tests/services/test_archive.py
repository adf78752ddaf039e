"""An archive in pieces: whole for any reader once it has ended, broken before, nothing held."""

import io
import tracemalloc
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from services.archive import Archive

pytestmark = pytest.mark.anyio

AT = datetime(2026, 11, 24, 18, 30, 12, tzinfo=UTC)
HUGE = 5 << 30


async def pieces(*contents: bytes) -> AsyncIterator[bytes]:
    for each in contents:
        yield each


async def added(archive: Archive, name: str, *contents: bytes, most_bytes: int = 9) -> bytes:
    made = [each async for each in archive.add(name, pieces(*contents), most_bytes=most_bytes)]
    return b"".join(made)


async def test_entries_are_read_back_with_their_names_and_times() -> None:
    archive = Archive(AT)
    whole = await added(archive, "a/one.txt", b"first ", b"entry")
    whole += await added(archive, "two.bin", bytes(70_000))
    whole += archive.end()
    with zipfile.ZipFile(io.BytesIO(whole)) as found:
        assert found.testzip() is None
        assert found.namelist() == ["a/one.txt", "two.bin"]
        assert found.read("a/one.txt") == b"first entry"
        assert found.read("two.bin") == bytes(70_000)
        assert found.infolist()[0].compress_type == zipfile.ZIP_STORED
        assert found.infolist()[0].date_time == (2026, 11, 24, 18, 30, 12)


async def test_what_may_be_large_is_written_as_zip64() -> None:
    archive = Archive(AT)
    small = await added(archive, "small", b"x")
    large = await added(archive, "large", b"y", most_bytes=HUGE)
    assert len(large) - len(small) == 20 + 8  # the extra field, and sizes of eight bytes each
    with zipfile.ZipFile(io.BytesIO(small + large + archive.end())) as found:
        assert (found.read("small"), found.read("large")) == (b"x", b"y")


async def test_without_its_end_nobody_takes_it_for_whole() -> None:
    archive = Archive(AT)
    begun = await added(archive, "one", b"entry")
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(begun))


async def test_pieces_leave_as_they_come() -> None:
    archive, chunk, passed = Archive(AT), bytes(1 << 20), 0
    tracemalloc.start()
    async for piece in archive.add("large", pieces(*[chunk] * 64), most_bytes=HUGE):
        passed += len(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert passed > 64 << 20
    assert peak < 6 << 20
