"""What renderings, white plates and bundles take of time, memory and disk, beside the plain way.

`python -m bench.renderings [--json FILE]`. Every measurement has a process of its own; memory is
its highest resident set above what it was before the work. The peers do the same with Pillow and
scipy on whole pictures.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from time import perf_counter, sleep
from typing import Self

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from models.images import Cutout, Pixels
from models.outcomes import Pending, Succeeded
from models.print_check import PrintLimits
from models.proofs import BundleQuery
from models.schemas import ImageInfo, ModelId, RenderParameters, ShotRecord, SizeParameters
from services.admission import Gate
from services.budget import Budget
from services.bundle import Bundle, Bundler
from services.proofs import Proofs
from services.records import entry_from, store_cutout
from services.renderer import Renderer
from services.results import ResultStore
from services.room import Room
from services.underbase import Underbase
from services.upscaler import Upscaler
from services.workers import Workers
from utils import heap, memory
from utils.clock import Deadline, utc_now
from utils.png import encode_png

DATA = Path(__file__).parents[1] / "tests" / "data"
ISNET = ModelId.LOCAL_ISNET
SHOT = "a" * 32
PLATES_MEGAPIXELS = (8, 31)
RENDERS_MEGAPIXELS = (4, 12, 64)
CHOKE_PX = 5.906  # half a millimetre at 300 dpi
MIB = 1 << 20


# --- what is worked on


def cutout_of(side: tuple[int, int]) -> Cutout:
    """The cut-out photograph of tests/data, larger."""
    with Image.open(DATA / "anime-girl-1.isnet-general-use.png") as picture:
        rgba = np.asarray(picture.convert("RGBA").resize(side, Image.Resampling.BICUBIC))
    return Cutout(np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3]))


def photo_of(side: tuple[int, int]) -> bytes:
    """The photograph that it was cut out of, as a JPEG of a telephone's quality."""
    out = io.BytesIO()
    with Image.open(DATA / "anime-girl-1.jpg") as picture:
        picture.convert("RGB").resize(side, Image.Resampling.BICUBIC).save(out, "JPEG", quality=92)
    return out.getvalue()


def mask_of(side: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", side)
    width, height = side
    box = (width // 4, height // 4, width * 3 // 4, height * 3 // 4)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask


def side_of(megapixels: float) -> tuple[int, int]:
    height = round((megapixels * 1e6 * 601 / 850) ** 0.5)
    return round(megapixels * 1e6 / height), height


# --- the service's own parts, without HTTP


class Noted(Budget):
    """Remembers the most that was reserved at once."""

    most_reserved = 0

    def reserve(self, size: int) -> None:
        super().reserve(size)
        self.most_reserved = max(self.most_reserved, self.reserved_bytes)


class House:
    """A store with one shot in it, and what works on it."""

    def __init__(self, folder: Path) -> None:
        self.workers = Workers(pixel_threads=2)
        self.results = ResultStore(
            folder / "results",
            records=folder / "records",
            ttl=timedelta(hours=1),
            record_ttl=timedelta(hours=1),
            quota_bytes=20 << 30,
            min_free_bytes=0,
        )
        self.results.open()
        self.upscaler = Upscaler(
            workers=self.workers,
            room=Room(folder, 0),
            memory_bytes=512 * MIB,
            max_file_bytes=20 << 30,
        )
        self.budget = Noted()
        self.renderer = Renderer(
            results=self.results,
            workers=self.workers,
            gate=Gate(running_limit=4, queue_limit=4, budget=self.budget),
            max_pixels=70_000_000,
            limits=PrintLimits(),
        )
        self.proofs = Proofs(self.upscaler, self.workers)
        self.bundler = Bundler(self.results, self.upscaler, self.proofs, version="bench")

    async def shoot(self, side: tuple[int, int], original: Path) -> ShotRecord:
        image = ImageInfo(
            width=side[0], height=side[1], format="JPEG", bytes=1, sha256="0" * 64, had_alpha=False
        )
        now = utc_now()
        record = ShotRecord(
            request_id=SHOT,
            status="running",
            created_at=now,
            image=image,
            results=[entry_from(ISNET, Pending(), None, "")],
            cost_usd=0,
            latency_ms=0,
            expires_at=now + timedelta(hours=1),
        )
        await self.results.create(record)
        await self.results.keep_original(SHOT, original)
        cutout = cutout_of(side)
        stored = store_cutout(self.results, SHOT, ISNET, cutout)
        entry = entry_from(ISNET, Succeeded(cutout, 1), stored, SHOT)
        done = record.model_copy(update={"results": [entry], "status": "complete"})
        await self.results.save(done)
        return done


@asynccontextmanager
async def house() -> AsyncIterator[tuple[House, Path]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = House(folder)
        try:
            yield kept, folder
        finally:
            kept.workers.close()


# --- measurements


class Watch:
    """Seconds of a piece of work and the most that it held above what was held before."""

    def __enter__(self) -> Self:
        heap.trim()
        self._before = memory.resident_bytes() or 0
        self._most = self._before
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look)
        self._looking.start()
        self._start = perf_counter()
        return self

    def _look(self) -> None:
        while not self._over.is_set():
            self._most = max(self._most, memory.resident_bytes() or 0)
            sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self.seconds = perf_counter() - self._start
        self._over.set()
        self._looking.join()
        self.held_mib = (self._most - self._before) / MIB


def render_ours(megapixels: float) -> dict[str, float]:
    return asyncio.run(_render_ours(side_of(megapixels)))


async def _render_ours(side: tuple[int, int]) -> dict[str, float]:
    async with house() as (kept, folder):
        (folder / "photo").write_bytes(photo_of(side))
        await kept.shoot(side, folder / "photo")
        mask_of(side).save(folder / "mask", "PNG")
        asked = RenderParameters()
        with Watch() as watch:
            await kept.renderer.render(SHOT, asked, {"keep": folder / "mask"}, Deadline.after(300))
        return {
            "s": watch.seconds,
            "held_mib": watch.held_mib,
            "reserved_mib": kept.budget.most_reserved / MIB,
        }


def render_pillow(megapixels: float) -> dict[str, float]:
    """Opened, composited and saved by Pillow; its fastest deflate."""
    side = side_of(megapixels)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cutout = cutout_of(side)
        Image.fromarray(np.dstack((cutout.rgb, cutout.alpha))).save(
            folder / "cutout.png", compress_level=1
        )
        (folder / "photo").write_bytes(photo_of(side))
        mask_of(side).save(folder / "mask", "PNG")
        with (
            Watch() as watch,
            Image.open(folder / "cutout.png") as cut,
            Image.open(folder / "photo") as photo,
            Image.open(folder / "mask") as mask,
        ):
            made = Image.composite(photo.convert("RGBA"), cut, mask)
            made.save(folder / "made.png", compress_level=1)
        return {"s": watch.seconds, "held_mib": watch.held_mib}


def plate_ours(megapixels: float) -> dict[str, float]:
    art = art_of(side_of(megapixels))
    with Watch() as watch:
        strips = (art[top : top + 256] for top in range(0, len(art), 256))
        for _ in Underbase(CHOKE_PX).plate(strips):
            pass
    return {"s": watch.seconds, "held_mib": watch.held_mib}


def plate_scipy(megapixels: float) -> dict[str, float]:
    art = art_of(side_of(megapixels))
    with Watch() as watch:
        inked = np.pad(art[..., 3] > 0, 1)
        away = ndimage.distance_transform_edt(inked)[1:-1, 1:-1]
        white = (art[..., :3] == 255).all(axis=2)
        np.where((away > CHOKE_PX) | white, art[..., 3], 0)
    return {"s": watch.seconds, "held_mib": watch.held_mib}


def art_of(side: tuple[int, int]) -> Pixels:
    cutout = cutout_of(side)
    return np.dstack((cutout.rgb, cutout.alpha))


def bundle(megapixels: float) -> dict[str, float]:
    return asyncio.run(_bundle(side_of(megapixels)))


async def _bundle(side: tuple[int, int]) -> dict[str, float]:
    """A cut-out of those pixels with a print four times as large, its plate and three shirts."""
    async with house() as (kept, folder):
        (folder / "photo").write_bytes(photo_of(side))
        record = await kept.shoot(side, folder / "photo")
        size = SizeParameters(scale=4)
        wanted = Bundle(record, record.results, BundleQuery(scale=4), size, "bench")
        (folder / "scratch").mkdir()
        sent = 0
        with Watch() as watch:
            async for piece in kept.bundler.zipped(wanted, folder / "scratch"):
                sent += len(piece)
        return {"s": watch.seconds, "held_mib": watch.held_mib, "mb": sent / 1e6}


def disk_photographs() -> dict[str, float]:
    """The photograph of tests/data as a JPEG of several sizes, against a cut-out of each."""
    sides = [side_of(each) for each in (0.5, 4, 12)]
    sent = sum(len(photo_of(side)) for side in sides)
    return _share(sent, sum(len(encode_png(art_of(side))) for side in sides))


def disk_artwork() -> dict[str, float]:
    """The pieces of tests/data/art as they are, against the same as cut-outs."""
    pieces = sorted((DATA / "art").glob("*.png"))
    cut = 0
    for piece in pieces:
        with Image.open(piece) as picture:
            cut += len(encode_png(np.asarray(picture.convert("RGBA"))))
    return _share(sum(piece.stat().st_size for piece in pieces), cut)


def _share(sent: int, cut: int) -> dict[str, float]:
    return {"sent_mb": sent / 1e6, "cut_mb": cut / 1e6, "share": sent / cut}


# --- run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    jobs: list[tuple[Callable[..., dict[str, float]], tuple[float, ...]]] = [
        *((work, (size,)) for size in RENDERS_MEGAPIXELS for work in (render_ours, render_pillow)),
        *((work, (size,)) for size in PLATES_MEGAPIXELS for work in (plate_ours, plate_scipy)),
        (bundle, (2,)),
        (bundle, (8,)),
        (disk_photographs, ()),
        (disk_artwork, ()),
    ]
    rows = []
    for work, arguments in jobs:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures = pool.apply(work, arguments)
        row = {"what": work.__name__, "megapixels": arguments[0] if arguments else None, **figures}
        rows.append(row)
        told = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
        print(f"{work.__name__} {arguments}: {told}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
