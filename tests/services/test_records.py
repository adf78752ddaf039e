"""A shot's record as it is kept: whatever order its models land in, the newest is what stays."""

import asyncio
from pathlib import Path

import pytest

from models.errors import FailureCode
from models.outcomes import Failed
from models.schemas import ModelId, ShotRecord
from services.intake import decode
from services.records import Shot
from services.results import ResultStore
from services.standings import Standings
from services.workers import Workers
from tests.conftest import artwork
from tests.services.test_results import opened

pytestmark = pytest.mark.anyio


class SlowAtFirst(ResultStore):
    """Its first save takes longer than the second."""

    saves = 0

    async def save(self, record: ShotRecord) -> None:
        self.saves += 1
        if self.saves == 1:
            await asyncio.sleep(0.05)
        await super().save(record)


async def test_an_older_record_never_takes_a_newer_ones_place(tmp_path: Path) -> None:
    picture = tmp_path / "picture"
    picture.write_bytes(artwork())
    store = opened(tmp_path, kind=SlowAtFirst)
    models = (ModelId.KIE_RECRAFT, ModelId.LOCAL_ISNET)
    image = decode(picture, max_pixels=10**6)
    standings = Standings(image, Workers(pixel_threads=1))
    shot = Shot(image, models, store, standings=standings)
    await store.create(shot.record())
    gone = Failed(FailureCode.PROVIDER_ERROR, "gone", retryable=False, latency_ms=1)
    await asyncio.gather(*(shot.land(model, gone, None) for model in models))
    kept = await store.record(shot.request_id)
    assert kept.status == "complete"
    assert [each.status for each in kept.results] == ["failed", "failed"]
