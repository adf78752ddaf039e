"""Renderings below HTTP: what goes wrong leaves nothing, and memory is asked for first."""

import asyncio
import errno
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.errors import InsufficientMemory, InsufficientStorage
from models.images import Cutout
from models.outcomes import Succeeded
from models.print_check import PrintLimits
from models.schemas import ModelId, RenderParameters
from services.admission import Gate
from services.budget import Budget
from services.records import entry_from, store_cutout
from services.renderer import Renderer
from services.results import ResultStore, StoredPicture
from services.workers import Workers
from tests.conftest import artwork
from tests.services.test_results import opened, record
from utils.clock import Deadline

pytestmark = pytest.mark.anyio

KNOCKOUT = ModelId.LOCAL_KNOCKOUT
SHOT = "a" * 32


class FullLater(ResultStore):
    """A store whose disk is full for every shot but the first; `held` it never saves instead."""

    held = False
    saving: asyncio.Event

    def write_picture(
        self, request_id: str, model: ModelId, pieces: Iterable[bytes]
    ) -> StoredPicture:
        if request_id != SHOT and not self.held:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write_picture(request_id, model, pieces)

    async def save(self, record: object) -> None:
        if self.held:
            self.saving.set()
            await asyncio.Event().wait()
        await super().save(record)  # type: ignore[arg-type]  # what it is given


async def store_with_a_shot(folder: Path) -> FullLater:
    store = opened(folder, kind=FullLater)
    assert isinstance(store, FullLater)
    with Image.open(io.BytesIO(artwork())) as picture:
        rgb = np.asarray(picture.convert("RGB")).copy()
    cutout = Cutout(rgb, np.full(rgb.shape[:2], 255, np.uint8))
    await store.create(record("a"))
    (folder / "sent").write_bytes(artwork())
    await store.keep_original(SHOT, folder / "sent")
    stored = store_cutout(store, SHOT, KNOCKOUT, cutout)
    entry = entry_from(KNOCKOUT, Succeeded(cutout, 1), stored, SHOT)
    await store.save(record("a").model_copy(update={"results": [entry]}))
    return store


def renderer(store: ResultStore, *, budget_bytes: int | None = None) -> Renderer:
    return Renderer(
        results=store,
        workers=Workers(pixel_threads=2),
        gate=Gate(running_limit=1, queue_limit=1, budget=Budget(budget_bytes)),
        max_pixels=10**6,
        limits=PrintLimits(),
    )


def left_behind(folder: Path) -> list[str]:
    kept = [*(folder / "results").iterdir(), *(folder / "data" / "records").glob("*/*")]
    return sorted(each.name for each in kept if SHOT not in each.name)


async def test_a_full_disk_refuses_and_leaves_nothing(tmp_path: Path) -> None:
    store = await store_with_a_shot(tmp_path)
    with pytest.raises(InsufficientStorage):
        await renderer(store).render(SHOT, RenderParameters(), {}, Deadline.after(9))
    assert left_behind(tmp_path) == []


async def test_a_client_that_leaves_leaves_nothing(tmp_path: Path) -> None:
    store = await store_with_a_shot(tmp_path)
    store.held, store.saving = True, asyncio.Event()
    rendering = asyncio.create_task(
        renderer(store).render(SHOT, RenderParameters(), {}, Deadline.after(9))
    )
    await store.saving.wait()
    assert left_behind(tmp_path)
    rendering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rendering
    assert left_behind(tmp_path) == []


async def test_what_never_fits_into_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    store = await store_with_a_shot(tmp_path)
    with pytest.raises(InsufficientMemory) as refusal:
        await renderer(store, budget_bytes=1 << 20).render(
            SHOT, RenderParameters(), {}, Deadline.after(9)
        )
    assert refusal.value.limit == 1 << 20
    assert left_behind(tmp_path) == []
