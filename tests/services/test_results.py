"""The result store: whole files only, a time to live, a quota, and an honest start."""

import errno
import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from models.errors import InsufficientStorage, ResultNotFound, StorageUnavailable
from models.schemas import ImageInfo, ModelId, ResultEntry, ShotRecord
from services.results import ResultStore
from tests.utils.test_clock import set_clock
from utils.clock import utc_now

pytestmark = pytest.mark.anyio

KNOCKOUT = ModelId.LOCAL_KNOCKOUT


def opened(
    folder: Path,
    *,
    quota_bytes: int = 10**9,
    min_free_bytes: int = 0,
    ttl: timedelta = timedelta(hours=1),
    record_ttl: timedelta = timedelta(days=30),
    kind: type[ResultStore] = ResultStore,
) -> ResultStore:
    store = kind(
        folder / "results",
        records=folder / "data" / "records",
        ttl=ttl,
        record_ttl=record_ttl,
        quota_bytes=quota_bytes,
        min_free_bytes=min_free_bytes,
    )
    store.open()
    return store


def record(name: str, *, pending: bool = False) -> ShotRecord:
    now = utc_now()
    entry = ResultEntry(model=KNOCKOUT, status="pending" if pending else "succeeded")
    return ShotRecord(
        request_id=name * 32,
        status="running" if pending else "complete",
        created_at=now,
        image=ImageInfo(width=1, height=1, format="PNG", bytes=1, sha256="0" * 64, had_alpha=False),
        results=[entry],
        cost_usd=0,
        latency_ms=1,
        expires_at=now + timedelta(hours=1),
    )


async def test_a_picture_is_read_back_with_its_digest(tmp_path: Path) -> None:
    store = opened(tmp_path)
    shot = record("a")
    await store.create(shot)
    stored = store.write_picture(shot.request_id, KNOCKOUT, [b"abc", b"def"])
    entry = shot.results[0].model_copy(update={"bytes": 6, "sha256": stored.sha256})
    await store.save(shot.model_copy(update={"results": [entry]}))
    found = await store.picture(shot.request_id, KNOCKOUT)
    assert found.path.read_bytes() == b"abcdef"
    assert found == stored


async def test_what_was_asked_for_longest_ago_goes_when_the_quota_is_full(tmp_path: Path) -> None:
    store = opened(tmp_path, quota_bytes=30_000)
    for name in "ab":
        await store.create(record(name))
        store.write_picture(name * 32, KNOCKOUT, [bytes(12_000)])
    await store.record("a" * 32)
    await store.create(record("c"))
    store.write_picture("c" * 32, KNOCKOUT, [bytes(12_000)])
    assert [store.holds(name * 32) for name in "abc"] == [True, False, True]
    assert not (tmp_path / "results" / ("b" * 32)).exists()
    assert (await store.record("b" * 32)).status == "expired"


async def test_the_order_of_use_survives_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for age, name in enumerate("abc"):
        await store.create(record(name))
        store.write_picture(name * 32, KNOCKOUT, [bytes(12_000)])
        os.utime(tmp_path / "results" / (name * 32), (age, age))
    await store.record("a" * 32)
    store = opened(tmp_path, quota_bytes=40_000)
    await store.create(record("d"))
    store.write_picture("d" * 32, KNOCKOUT, [bytes(12_000)])
    assert [store.holds(name * 32) for name in "abcd"] == [True, False, True, True]


async def test_a_shot_that_still_runs_keeps_its_pictures(tmp_path: Path) -> None:
    store = opened(tmp_path, quota_bytes=30_000)
    await store.create(record("a", pending=True))
    for name in "bc":
        await store.create(record(name))
    for name in "abc":
        store.write_picture(name * 32, KNOCKOUT, [bytes(14_000)])
    assert [store.holds(name * 32) for name in "abc"] == [True, False, True]
    await store.save(record("a"))
    store.write_picture("c" * 32, ModelId.LOCAL_ISNET, [bytes(14_000)])
    assert not store.holds("a" * 32)


async def test_a_picture_written_again_counts_once(tmp_path: Path) -> None:
    store = opened(tmp_path, quota_bytes=30_000)
    for name in "ab":
        await store.create(record(name))
    store.write_picture("a" * 32, KNOCKOUT, [bytes(12_000)])
    for _ in range(5):
        store.write_picture("b" * 32, KNOCKOUT, [bytes(12_000)])
    assert store.holds("a" * 32)


async def test_the_record_outlives_its_pictures_and_then_goes(tmp_path: Path) -> None:
    shot = record("a").model_copy(update={"expires_at": utc_now() - timedelta(seconds=1)})
    store = opened(tmp_path)
    await store.create(shot)
    store.sweep()
    assert list((tmp_path / "results").iterdir()) == []
    found = await store.record("a" * 32)
    assert (found.status, found.results[0].status, found.results[0].url) == (
        "expired",
        "succeeded",
        None,
    )
    with pytest.raises(ResultNotFound, match="expired"):
        await store.picture("a" * 32, KNOCKOUT)
    brief = opened(tmp_path, record_ttl=timedelta(0), ttl=timedelta(0))
    with pytest.raises(ResultNotFound):
        await brief.record("a" * 32)
    assert list((tmp_path / "data" / "records").glob("*/*")) == []


async def test_a_record_whose_folder_was_lost_while_it_ran_says_what_became_of_it(
    tmp_path: Path,
) -> None:
    await opened(tmp_path).create(record("a", pending=True))
    shutil.rmtree(tmp_path / "results")
    found = await opened(tmp_path).record("a" * 32)
    assert (found.status, found.results[0].status) == ("expired", "failed")


async def test_deleting_forgets_record_and_pictures_also_after_they_expired(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for name, age in (("a", 0), ("b", 2)):
        shot = record(name)
        await store.create(
            shot.model_copy(update={"expires_at": shot.expires_at - timedelta(hours=age)})
        )
        await store.delete(name * 32)
        with pytest.raises(ResultNotFound):
            await store.delete(name * 32)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_a_result_larger_than_the_quota_is_still_served(tmp_path: Path) -> None:
    store = opened(tmp_path, quota_bytes=10)
    await store.create(record("a"))
    store.write_picture("a" * 32, KNOCKOUT, [bytes(100)])
    assert store.holds("a" * 32)


async def test_a_restart_removes_partial_files_and_orphans_and_nothing_else(
    tmp_path: Path,
) -> None:
    store = opened(tmp_path)
    await store.create(record("a"))
    store.write_picture("a" * 32, KNOCKOUT, [b"whole"])
    results, records = tmp_path / "results", tmp_path / "data" / "records"
    (results / ("a" * 32) / "local-isnet.part").write_bytes(b"half")
    (results / "orphan").mkdir()
    (results / "stray.txt").write_text("?")
    (results / ("b" * 32)).mkdir()
    (records / "bb").mkdir()
    (records / "bb" / f"{'b' * 32}.json").write_text("{ half a rec")
    (records / "bb" / f"{'b' * 32}.part").write_text("{ half")
    reopened = opened(tmp_path)
    assert reopened.holds("a" * 32)
    assert [each.name for each in results.iterdir()] == ["a" * 32]
    assert [each.name for each in (results / ("a" * 32)).iterdir()] == ["local-knockout.png"]
    assert list(records.glob("*/*.part")) == []


async def test_what_was_pending_when_the_process_ended_has_failed(tmp_path: Path) -> None:
    await opened(tmp_path).create(record("a", pending=True))
    found = await opened(tmp_path).record("a" * 32)
    assert found.status == "complete"
    assert found.results[0].status == "failed"
    assert found.results[0].error is not None
    assert found.results[0].error.code == "cancelled"


async def test_a_record_deleted_while_models_run_stays_deleted(tmp_path: Path) -> None:
    store = opened(tmp_path)
    shot = record("a")
    await store.create(shot)
    await store.delete(shot.request_id)
    await store.save(shot)
    with pytest.raises(ResultNotFound):
        await store.record(shot.request_id)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_a_record_lost_from_disk_is_not_found_rather_than_a_crash(tmp_path: Path) -> None:
    store = opened(tmp_path)
    await store.create(record("a"))
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(ResultNotFound):
        await store.record("a" * 32)


async def test_a_disk_with_too_little_room_is_said_with_numbers(tmp_path: Path) -> None:
    store = opened(tmp_path, min_free_bytes=10**18)
    with pytest.raises(InsufficientStorage) as refusal:
        store.check_room()
    assert refusal.value.limit == 10**18
    assert refusal.value.actual is not None
    assert refusal.value.actual < 10**18


@pytest.mark.parametrize("model", ModelId)
async def test_an_interrupted_paid_model_may_have_charged_and_a_local_one_was_cancelled(
    tmp_path: Path, model: ModelId
) -> None:
    shot = record("a", pending=True)
    entry = ResultEntry(model=model, status="pending")
    await opened(tmp_path).create(shot.model_copy(update={"results": [entry]}))
    (found,) = (await opened(tmp_path).record("a" * 32)).results
    assert found.status == "failed"
    assert found.error is not None
    paid = model in {ModelId.RUNWARE_RMBG, ModelId.RUNWARE_BIREFNET, ModelId.KIE_RECRAFT}
    expected = ("provider_outcome_unknown", False) if paid else ("cancelled", True)
    assert (found.error.code, found.error.retryable) == expected


def refusing_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are refused as on a volume that became read-only."""

    def refuse(path: Path, *_: object, **__: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "write_text", refuse)


async def test_a_record_that_the_disk_refused_is_read_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    await store.create(record("a", pending=True))
    with monkeypatch.context() as refusing:
        refusing_disk(refusing)
        with pytest.raises(OSError, match="Read-only"):
            await store.save(record("a"))
        store.sweep()
        assert (await store.record("a" * 32)).status == "complete"
    store.sweep()
    entry = (await opened(tmp_path).record("a" * 32)).results[0]
    assert entry.status == "succeeded"


async def test_a_shot_that_could_not_begin_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    with monkeypatch.context() as refusing:
        refusing_disk(refusing)
        with pytest.raises(StorageUnavailable):
            await store.create(record("a", pending=True))
    assert list((tmp_path / "results").iterdir()) == []
    assert not store.holds("a" * 32)


async def test_half_a_picture_does_not_stay(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    store = opened(tmp_path)
    await store.create(record("a"))
    with pytest.raises(OSError, match="No space"):
        store.write_picture("a" * 32, KNOCKOUT, pieces())
    with pytest.raises(OSError, match="No space"):
        store.write_soft("a" * 32, KNOCKOUT, pieces())
    assert list((tmp_path / "results" / ("a" * 32)).iterdir()) == []


async def test_a_clock_that_jumps_a_day_costs_no_picture_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    await store.create(record("a"))
    set_clock(monkeypatch, 24 * 3600)
    store.sweep()
    assert store.holds("a" * 32)
    assert (await store.record("a" * 32)).status == "complete"
