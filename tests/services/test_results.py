"""The result store: whole files only, a time to live, a quota, and an honest start."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from models.errors import InsufficientStorage, ResultNotFound
from models.schemas import ImageInfo, ModelId, ResultEntry, ShotRecord
from services.results import ResultStore
from utils.clock import utc_now

pytestmark = pytest.mark.anyio

KNOCKOUT = ModelId.LOCAL_KNOCKOUT


def opened(folder: Path, *, quota_bytes: int = 10**9, min_free_bytes: int = 0) -> ResultStore:
    store = ResultStore(
        folder,
        ttl=timedelta(hours=1),
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


async def test_the_oldest_goes_when_the_quota_is_full(tmp_path: Path) -> None:
    store = opened(tmp_path, quota_bytes=30_000)
    for name in "abc":
        await store.create(record(name))
        store.write_picture(name * 32, KNOCKOUT, [bytes(12_000)])
    assert not store.holds("a" * 32)
    assert store.holds("b" * 32)
    assert store.holds("c" * 32)
    assert not (tmp_path / ("a" * 32)).exists()


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
    (tmp_path / ("a" * 32) / "local-isnet.part").write_bytes(b"half")
    (tmp_path / "orphan").mkdir()
    (tmp_path / "stray.txt").write_text("?")
    (tmp_path / ("b" * 32)).mkdir()
    (tmp_path / ("b" * 32) / "record.json").write_text("{ half a rec")
    reopened = opened(tmp_path)
    assert reopened.holds("a" * 32)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a" * 32]
    assert sorted(each.name for each in (tmp_path / ("a" * 32)).iterdir()) == [
        "local-knockout.png",
        "record.json",
    ]


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
    assert list(tmp_path.iterdir()) == []


async def test_pictures_lost_from_disk_are_not_found_rather_than_a_crash(tmp_path: Path) -> None:
    store = opened(tmp_path)
    await store.create(record("a"))
    shutil.rmtree(tmp_path / ("a" * 32))
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
