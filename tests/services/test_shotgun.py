"""The shotgun's rules: all at once, each outcome its own, and what the pixels say."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from models.errors import AllModelsFailed, FailureCode, NoModelAvailable, RemoverError
from models.images import Cutout, Flag
from models.schemas import ModelId
from services.admission import Gate
from services.records import store_cutout, visible_box
from services.remover import RemovalOptions
from services.shotgun import Plan, Shotgun
from services.workers import Workers
from tests.conftest import artwork
from tests.fakes import FakeRemover, unavailable
from tests.services.test_results import opened
from utils.clock import Deadline

pytestmark = pytest.mark.anyio


def shotgun(folder: Path, *removers: FakeRemover, running_limit: int = 4) -> Shotgun:
    results = opened(folder)
    return Shotgun(
        removers={each.name: each for each in removers},
        results=results,
        workers=Workers(pixel_threads=2),
        gate=Gate(running_limit=running_limit, queue_limit=4),
        max_pixels=10**6,
        model_timeout_s=30,
    )


def plan(*models: ModelId, deadline_s: float = 20) -> Plan:
    return Plan(models, RemovalOptions(), Deadline.after(deadline_s))


def picture(folder: Path) -> Path:
    path = folder / "picture"
    path.write_bytes(artwork())
    return path


async def test_every_model_runs_at_the_same_time(tmp_path: Path) -> None:
    """Each waits for the others: one after another, none would ever finish."""
    first, second, third = (FakeRemover(model, held=True) for model in list(ModelId)[:3])
    gun = shotgun(tmp_path, first, second, third)
    shot = asyncio.create_task(gun.fire(picture(tmp_path), plan(*list(ModelId)[:3])))
    for each in (first, second, third):
        await asyncio.to_thread(each.asked.wait, 10)
    for each in (third, second, first):
        each.release()
    record = await shot
    assert [entry.model for entry in record.results] == list(ModelId)[:3]
    assert {entry.status for entry in record.results} == {"succeeded"}


async def test_no_model_is_asked_when_none_can_be(tmp_path: Path) -> None:
    gun = shotgun(tmp_path, unavailable(ModelId.LOCAL_ISNET, "no weights"))
    with pytest.raises(NoModelAvailable, match="no weights"):
        await gun.fire(picture(tmp_path), plan(ModelId.LOCAL_ISNET))


async def test_a_shot_whose_models_all_fail_names_each_code(tmp_path: Path) -> None:
    failing = [
        FakeRemover(ModelId.KIE_RECRAFT, error=RemoverError(FailureCode.PROVIDER_QUOTA, "none")),
        FakeRemover(ModelId.LOCAL_ISNET, error=RuntimeError("boom")),
    ]
    gun = shotgun(tmp_path, *failing)
    with pytest.raises(AllModelsFailed) as refusal:
        await gun.fire(picture(tmp_path), plan(*(each.name for each in failing)))
    assert "kie-recraft: provider_quota" in refusal.value.detail
    assert "local-isnet: model_crashed" in refusal.value.detail


async def test_the_place_in_the_house_is_held_until_the_last_model_lands(tmp_path: Path) -> None:
    late = FakeRemover(ModelId.LOCAL_ISNET, held=True)
    gun = shotgun(tmp_path, late, running_limit=1)
    record = await gun.fire(picture(tmp_path), plan(ModelId.LOCAL_ISNET, deadline_s=0.2))
    assert record.results[0].status == "pending"
    assert gun._gate.running == 1
    late.release()
    await asyncio.wait_for(asyncio.gather(*gun._running), timeout=10)
    assert gun._gate.running == 0


async def test_closing_stops_what_still_runs(tmp_path: Path) -> None:
    late = FakeRemover(ModelId.LOCAL_ISNET, held=True)
    gun = shotgun(tmp_path, late)
    await gun.fire(picture(tmp_path), plan(ModelId.LOCAL_ISNET, deadline_s=0.2))
    await gun.close()
    assert gun._running == set()
    assert gun._gate.running == 0


def test_the_box_holds_what_is_more_than_dust() -> None:
    alpha = np.zeros((10, 20), np.uint8)
    assert visible_box(alpha) is None
    alpha[:] = 10
    alpha[2:5, 3:9] = 11
    assert visible_box(alpha) == (3, 2, 9, 5)


@pytest.mark.parametrize(
    ("level", "flags"), [(0, (Flag.EMPTY,)), (255, (Flag.FULL_FRAME,)), (128, ())]
)
async def test_a_cutout_that_keeps_nothing_or_everything_is_flagged(
    tmp_path: Path, level: int, flags: tuple[Flag, ...]
) -> None:
    results = opened(tmp_path)
    (tmp_path / "results" / "shot").mkdir()
    cutout = Cutout(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), level, np.uint8))
    stored = store_cutout(results, "shot", ModelId.LOCAL_ISNET, cutout)
    assert stored.flags == flags
