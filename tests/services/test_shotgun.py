"""The shotgun's rules: all at once, each outcome its own, and what the pixels say."""

import asyncio
import threading
import zlib
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from models.errors import (
    AllModelsFailed,
    BadPicture,
    EmptyFile,
    FailureCode,
    NoModelAvailable,
    RemoverError,
)
from models.images import Cutout, Flag, SourceImage
from models.schemas import ModelId
from services.admission import Gate
from services.intake import inspect
from services.records import store_cutout, visible_box
from services.remover import RemovalOptions
from services.shotgun import Plan, Shotgun
from services.workers import Workers
from tests.conftest import artwork
from tests.fakes import FakeRemover, unavailable
from tests.services.test_results import opened
from utils.clock import Deadline, utc_today

pytestmark = pytest.mark.anyio


def shotgun(
    folder: Path,
    *removers: FakeRemover,
    running_limit: int = 4,
    pixel_threads: int = 2,
    model_timeout_s: float = 30,
) -> Shotgun:
    results = opened(folder)
    return Shotgun(
        removers={each.name: each for each in removers},
        results=results,
        workers=Workers(pixel_threads=pixel_threads),
        gate=Gate(running_limit=running_limit, queue_limit=4),
        max_pixels=10**6,
        model_timeout_s=model_timeout_s,
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


async def test_the_memory_is_kept_until_the_pool_is_done_with_what_timed_out(
    tmp_path: Path,
) -> None:
    stuck = StuckInThePool(ModelId.LOCAL_ISNET)
    gun = shotgun(tmp_path, stuck, model_timeout_s=0.05)
    stuck.workers = gun._workers
    with pytest.raises(AllModelsFailed):
        await gun.fire(picture(tmp_path), plan(ModelId.LOCAL_ISNET))
    assert gun._gate.running == 1, "answered, but the thread still holds the picture"
    assert gun._gate.budget.reserved_bytes > 0
    stuck.go_on.set()
    await asyncio.wait_for(asyncio.gather(*gun._running), timeout=10)
    assert (gun._gate.running, gun._gate.budget.reserved_bytes) == (0, 0)


async def test_a_shot_that_waits_for_its_last_model_lets_others_have_the_memory(
    tmp_path: Path,
) -> None:
    """As those of BiRefNet do, one at a time, for minutes."""
    models = tuple(ModelId)[:5]
    last = FakeRemover(models[-1], held=True)
    gun = shotgun(tmp_path, *map(FakeRemover, models[:-1]), last)
    header = inspect(picture(tmp_path))
    whole, others = (gun._appetite(header, plan(*each)).bytes for each in (models, models[:-1]))
    gun._gate.budget.limit_bytes = whole + others - 1
    waiting = await gun.begin(picture(tmp_path), plan(*models))
    assert gun._gate.budget.reserved_bytes == whole
    other = await gun.fire(picture(tmp_path), plan(*models[:-1]))
    assert {entry.status for entry in other.results} == {"succeeded"}
    assert 0 < gun._gate.budget.reserved_bytes < whole, "what the last model will take"
    last.release()
    await waiting.answer()
    await asyncio.gather(*gun._running)
    assert (gun._gate.running, gun._gate.budget.reserved_bytes) == (0, 0)


async def test_beside_others_a_shot_takes_fewer_models_at_once_rather_than_wait(
    tmp_path: Path,
) -> None:
    models = tuple(ModelId)[:5]
    gun = shotgun(tmp_path, *map(FakeRemover, models))
    header, budget = inspect(picture(tmp_path)), gun._gate.budget
    alone = gun._appetite(header, plan(*models))
    assert alone.at_once == 2
    budget.limit_bytes = 2 * alone.bytes - 1
    budget.reserve(alone.bytes)
    beside = gun._appetite(header, plan(*models))
    assert beside.at_once == 1
    assert beside.bytes < alone.bytes
    budget.give_back(alone.bytes)
    assert gun._appetite(header, plan(*models)) == alone


async def test_with_one_place_a_cutout_is_stored_before_the_next_is_made(tmp_path: Path) -> None:
    stored: list[int] = []
    removers = [Cutting(model, tmp_path, stored) for model in list(ModelId)[:4]]
    gun = shotgun(tmp_path, *removers, pixel_threads=1)
    record = await gun.fire(picture(tmp_path), plan(*list(ModelId)[:4]))
    assert {entry.status for entry in record.results} == {"succeeded"}
    assert stored == [0, 1, 2, 3]


class Cutting(FakeRemover):
    """Takes its place like the real ones, and looks how many cut-outs are on the disk then."""

    def __init__(self, name: ModelId, folder: Path, stored: list[int]) -> None:
        super().__init__(name)
        self._folder, self._stored = folder, stored

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        await options.place.take()
        self._stored.append(len(list(self._folder.rglob("*.png"))))
        await asyncio.sleep(0.01)
        return await super().remove(image, options=options, deadline=deadline)


class StuckInThePool(FakeRemover):
    """Works in the pool until it is told to go on, whatever happens to who asked."""

    workers: Workers

    def __init__(self, name: ModelId) -> None:
        super().__init__(name)
        self.go_on = threading.Event()

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        await self.workers.pixels(self.go_on.wait, 20)
        return await super().remove(image, options=options, deadline=deadline)


@pytest.mark.parametrize("content", [b"", b"no picture", artwork()[:-30]])
async def test_a_bad_picture_takes_no_memory_with_it(tmp_path: Path, content: bytes) -> None:
    gun = shotgun(tmp_path, FakeRemover(ModelId.LOCAL_ISNET))
    path = tmp_path / "picture"
    path.write_bytes(content)
    with pytest.raises((BadPicture, EmptyFile)):
        await gun.fire(path, plan(ModelId.LOCAL_ISNET))
    assert (gun._gate.running, gun._gate.budget.reserved_bytes) == (0, 0)


async def test_one_that_breaks_in_the_decoder_gives_its_memory_back(tmp_path: Path) -> None:
    gun = shotgun(tmp_path, FakeRemover(ModelId.LOCAL_ISNET))
    path = tmp_path / "picture"
    path.write_bytes(with_broken_pixels(artwork()))
    assert inspect(path).complete, "nothing is wrong with it until it is decoded"
    with pytest.raises(BadPicture):
        await gun.fire(path, plan(ModelId.LOCAL_ISNET))
    assert (gun._gate.running, gun._gate.budget.reserved_bytes) == (0, 0)


def with_broken_pixels(png: bytes) -> bytes:
    """Its IDAT no deflate stream any more, the chunk's checksum right."""
    at = png.index(b"IDAT")
    size = int.from_bytes(png[at - 4 : at], "big")
    chunk = b"IDAT" + b"\xff" * size
    crc = zlib.crc32(chunk).to_bytes(4, "big")
    return png[:at] + chunk + crc + png[at + 8 + size :]


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


def test_latency_tells_todays_answers_apart_from_earlier_ones(tmp_path: Path) -> None:
    gun = shotgun(tmp_path, FakeRemover(ModelId.LOCAL_ISNET))
    today = utc_today()
    yesterday = today - timedelta(days=1)
    gun._latencies[ModelId.LOCAL_ISNET].extend(
        [(yesterday, 900), (yesterday, 700), (today, 100), (today, 300)]
    )
    told = gun.latency(ModelId.LOCAL_ISNET)
    assert (told.count, told.p50) == (4, 500)
    assert (told.today.count, told.today.p50) == (2, 200)
    assert told.today.p95 == 290
