"""A cut-out rendered anew without a model: brushed, its edge finished, sized; a result of its own.

What a rendering is made of stays with it (the customer's file as a link, and the cut-out as it was
before its edge was finished), so a rendering can be rendered again when what it came from has gone.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from models.errors import (
    InvalidParameter,
    NotPickable,
    OriginalNotKept,
    ResultNotFound,
    ServiceError,
)
from models.images import Cutout, Edge, Pixels, SourceImage
from models.outcomes import Pending, Succeeded
from models.print_check import PrintCheck, PrintLimits
from models.schemas import (
    RenderedFrom,
    RenderParameters,
    ResultEntry,
    ShotRecord,
    SizeParameters,
)
from services.access import caller
from services.admission import Gate
from services.appetite import appetite
from services.brush import (
    Brush,
    Painted,
    both_weights,
    has_aspect_of,
    paint,
    weights,
)
from services.edge_modes import EdgeFinish, finish_of
from services.intake import inspect, read
from services.print_check import Art, Wish, check_print
from services.print_colours import snap_white
from services.print_size import size_for
from services.records import Stored, entry_from, store_cutout, visible_box
from services.results import ResultStore
from services.room import full_disk_said
from services.standings import recommended_entry
from services.workers import Workers
from utils.clock import Deadline, Stopwatch, utc_now
from utils.pictures import Header
from utils.png import rgba_strips, write_png
from utils.spans import spanned

_log = logging.getLogger(__name__)

KEEP, ERASE, BOTH = "keep", "erase", "mask"
MASKS: Final = frozenset({KEEP, ERASE, BOTH})
"""The names of the files that a brush may come in."""

_MIB = 1 << 20
_WORKING = 16 * _MIB  # strips, and a print check's blocks
# bytes a pixel: a mask while it is decoded; a cut-out while it is, with both weights; the cut-out,
# the weights and a finished alpha while the original is decoded beside them
_MASK, _CUTOUT, _HELD = 9, 10, 7


@dataclass(frozen=True, slots=True)
class _Work:
    """What one rendering is made from, all of it looked at and found fit."""

    origin: ShotRecord
    entry: ResultEntry
    asked: RenderParameters
    cutout: Path
    header: Header
    masks: Mapping[str, tuple[Path, Header]]
    original: tuple[Path, Header] | None

    @property
    def needs_bytes(self) -> int:
        """What it takes at its peak."""
        pixels = self.header.pixels
        needed = (_MASK if self.masks else 0, _CUTOUT)
        peak = max(needed) * pixels
        if self.original is not None:
            reading = appetite(self.original[1], (), at_most=1, budget_bytes=None)
            peak = max(peak, _HELD * pixels + reading.bytes)
        return peak + 2 * _WORKING


class Renderer:
    """Renders stored cut-outs in the shots' own memory and pool; no model is asked."""

    def __init__(
        self,
        *,
        results: ResultStore,
        workers: Workers,
        gate: Gate,
        max_pixels: int,
        limits: PrintLimits,
    ) -> None:
        self._results = results
        self._workers = workers
        self._gate = gate
        self._max_pixels = max_pixels
        self._limits = limits

    async def render(
        self,
        request_id: str,
        asked: RenderParameters,
        masks: Mapping[str, Path],
        deadline: Deadline,
    ) -> ShotRecord:
        """The record of a new result with the one cut-out.

        `masks` are files by the names in MASKS.

        Raises:
            ResultNotFound: there is no such shot, or its pictures are gone.
            NotPickable: the model has no cut-out in it.
            OriginalNotKept: a brush shall restore what is not there.
            BadPicture, InvalidParameter: a mask that is no picture or has another shape, a size
                that the cut-out cannot have, an impossible screen.
            Overloaded, InsufficientMemory, InsufficientStorage.
        """
        watch = Stopwatch()
        finish_of(asked)
        work = await self._looked_at(request_id, asked, masks)
        self._results.check_room(2 * (work.entry.bytes or 0))
        async with AsyncExitStack() as stack:
            slot = self._gate.slot(deadline, needs_bytes=work.needs_bytes)
            await stack.enter_async_context(slot)
            stack.push_async_callback(self._workers.settle)
            cutout, painted = await self._workers.pixels(_painted, work)
            prints = _prints_of(asked)
            if prints is not None:
                _check_size(cutout, prints)
            return await self._stored(work, cutout, painted, prints, watch)

    async def _looked_at(
        self, request_id: str, asked: RenderParameters, masks: Mapping[str, Path]
    ) -> _Work:
        origin = await self._results.record(request_id)
        entry = _chosen(origin, asked)
        cutout = await self._results.untreated(request_id, entry.model)
        look = partial(self._workers.pixels, inspect, max_pixels=self._max_pixels)
        header = await look(cutout)
        seen = {}
        if BOTH in masks and len(masks) > 1:
            raise InvalidParameter(f"{BOTH}: is instead of keep and erase.", field=BOTH)
        for name, path in masks.items():
            with _named(name):
                seen[name] = (path, await look(path))
                _check_shape(name, seen[name][1], header)
        original = None
        if masks.keys() & {KEEP, BOTH}:
            kept = await self._original(origin)
            if kept is None:
                raise OriginalNotKept(
                    f"The picture of shot {request_id} is not kept; a brush cannot restore it.",
                    hint="`erase` works all the same. A new shot keeps its picture.",
                )
            original = (kept, await look(kept))
        return _Work(origin, entry, asked, cutout, header, seen, original)

    async def _original(self, origin: ShotRecord) -> Path | None:
        path = self._results.original(origin.request_id)
        return path if await asyncio.to_thread(path.exists) else None

    async def _checked(
        self, cutout: Cutout, prints: SizeParameters, asked: RenderParameters
    ) -> PrintCheck | None:
        """How it will print; advice, so that a crash of it is logged and harms nothing."""
        art, wish = Art(cutout.rgb, cutout.alpha), Wish(prints, garment=asked.garment)
        try:
            return await self._workers.pixels(check_print, art, wish, self._limits)
        except Exception:  # noqa: BLE001  # the rendering is worth the same without it
            _log.exception("print_check_failed")
            return None

    async def _stored(
        self,
        work: _Work,
        cutout: Cutout,
        painted: Painted,
        prints: SizeParameters | None,
        watch: Stopwatch,
    ) -> ShotRecord:
        record = self._begun(work, painted, prints)
        model = work.entry.model
        finish = finish_of(work.asked) if prints is None else EdgeFinish()
        with full_disk_said("results"):
            async with self._kept_whole(work, record):
                stored = await self._workers.pixels(
                    self._write, record.request_id, work, cutout, finish
                )
                if prints is not None:
                    checked = await self._checked(cutout, prints, work.asked)
                    stored = replace(stored, print_check=checked)
                outcome = Succeeded(cutout, watch.ms())
                entry = entry_from(model, outcome, stored, record.request_id)
                done = record.model_copy(
                    update={"status": "complete", "results": [entry], "latency_ms": watch.ms()}
                )
                await self._results.save(done)
        return done

    def _write(self, request_id: str, work: _Work, cutout: Cutout, finish: EdgeFinish) -> Stored:
        """The cut-out with its edge, and what it takes to render it again. Blocks."""
        model = work.entry.model
        stored = store_cutout(self._results, request_id, model, cutout, finish)
        if finish.edge is not Edge.SOFT:
            height, width = cutout.alpha.shape
            strips = rgba_strips(cutout.rgb, cutout.alpha)
            pieces = write_png(strips, width=width, height=height, channels=4)
            self._results.write_soft(request_id, model, pieces)
        return stored

    def _begun(self, work: _Work, painted: Painted, prints: SizeParameters | None) -> ShotRecord:
        origin, model, now = work.origin, work.entry.model, utc_now()
        before = origin.rendered_from
        return ShotRecord(
            request_id=secrets.token_hex(16),
            status="running",
            created_at=now,
            image=origin.image,
            results=[entry_from(model, Pending(), None, "")],
            recommended=model,
            cost_usd=0,
            latency_ms=0,
            expires_at=self._results.expires_at(now),
            prints=prints,
            rendered_from=RenderedFrom(
                request_id=origin.request_id,
                first=origin.request_id if before is None else before.first,
                parameters=work.asked,
                restored_px=painted.restored_px,
                erased_px=painted.erased_px,
            ),
            owner=caller.get().owner,
        )

    @asynccontextmanager
    async def _kept_whole(self, work: _Work, record: ShotRecord) -> AsyncIterator[None]:
        """A rendering that does not come to its end leaves nothing behind."""
        await self._results.create(record)
        try:
            if (original := await self._original(work.origin)) is not None:
                await self._results.keep_original(record.request_id, original)
            yield
        except BaseException:
            await self._results.delete(record.request_id)
            raise


def _chosen(origin: ShotRecord, asked: RenderParameters) -> ResultEntry:
    if origin.status == "expired":
        raise ResultNotFound(
            f"The pictures of shot {origin.request_id} have expired.",
            hint="Its record is still there, without pictures.",
        )
    wanted = [each for each in origin.results if asked.model in ("recommended", each.model)]
    best = recommended_entry(origin.model_copy(update={"results": wanted}))
    if best is None:
        running = any(each.status == "pending" for each in wanted)
        raise NotPickable(
            f"Shot {origin.request_id} holds no cut-out of {asked.model} to render.",
            hint="It still runs: ask again." if running else None,
        )
    return best


def _prints_of(asked: RenderParameters) -> SizeParameters | None:
    """How prints of the rendering are made; None where the cut-out itself is what was asked for."""
    if not asked.is_sized:
        return None
    return SizeParameters(**asked.model_dump(include=set(SizeParameters.model_fields)))


def _check_size(cutout: Cutout, prints: SizeParameters) -> None:
    """Raises ScaleOutOfRange for what the cut-out cannot become."""
    height, width = cutout.alpha.shape
    box = visible_box(cutout.alpha) if prints.trim else None
    left, top, right, bottom = box or (0, 0, width, height)
    size_for(right - left, bottom - top, prints)


def _check_shape(name: str, mask: Header, picture: Header) -> None:
    size, wanted = (mask.width, mask.height), (picture.width, picture.height)
    if not has_aspect_of(size, wanted) or mask.pixels > picture.pixels:
        raise InvalidParameter(
            f"{name}: the mask is {size[0]} x {size[1]} pixels, the cut-out {wanted[0]} x "
            f"{wanted[1]}; it must have that size, or be smaller in the same proportions.",
            field=name,
        )


@spanned("render")
def _painted(work: _Work) -> tuple[Cutout, Painted]:
    """The cut-out with the brush applied, and its white made pure. Blocks."""
    brush = _brush(work)
    image = read(work.cutout, work.header)
    cutout = Cutout(
        rgb=image.rgb,
        alpha=_alpha_of(image),
        variant=work.entry.variant,
        sandbox=bool(work.entry.sandbox),
    )
    original = None if work.original is None else read(*work.original)
    painted = paint(cutout, brush, original)
    if work.asked.snap_white:
        snap_white(cutout.rgb)
    return cutout, painted


def _alpha_of(image: SourceImage) -> Pixels:
    if image.alpha is not None:
        return image.alpha
    return np.full((image.height, image.width), 255, np.uint8)


def _brush(work: _Work) -> Brush:
    """The masks as weights of the cut-out's size."""
    keep = erase = None
    for name, (path, header) in work.masks.items():
        with _named(name):
            mask = read(path, header)
        if name == BOTH:
            keep, erase = both_weights(mask)
        elif name == KEEP:
            keep = weights(mask)
        else:
            erase = weights(mask)
    return Brush(keep, erase).enlarged(work.header.width, work.header.height)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """What is wrong with a file says which one it is."""
    try:
        yield
    except ServiceError as error:
        error.field, error.detail = name, f"{name}: {error.detail}"
        raise
