"""Enlarges pictures of any size: strips of rows through decoder, Lanczos, alpha and encoder.

Neither the source nor the result is ever whole in memory. One strip after another is read (libvips
decodes in order); each then becomes a finished piece of the file on its own, in any order and on
any thread of the pool, so the pool stays the CPU limit and other requests get their turn between
two strips. At most `_AHEAD` strips wait for a client: when it is slow, reading stops; when it is
gone, what runs ends within one strip.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from models.errors import FileTooLarge, InsufficientMemory, SideTooLong
from models.images import Pixels
from models.schemas import EdgeReport, PictureFormat, UpscaleParameters
from services.edge_modes import EdgeFinish, Tally, finish_of
from services.intake import inspect, refusals
from services.islands import WithoutIslands
from services.islands import held_bytes as held_bytes_of_islands
from services.lanczos import Resizing, Strip, windows
from services.overlay import marked
from services.print_size import PrintSize, size_for
from services.records import visible_box
from services.ringing import finish_alpha
from services.room import Room, full_disk_said
from services.workers import Workers
from utils import heap
from utils.clock import Deadline, Stopwatch
from utils.pictures import Header
from utils.png import Compression, EncodedBlock, PngBody, encode_rows, png_head
from utils.rows import (
    Box,
    Cropped,
    PictureFile,
    Rows,
    each_strip,
    held_bytes,
    open_picture,
    spilled_bytes,
)
from utils.spans import span, spanned
from utils.tiff_writer import TiffWriter, deflate_strip

T = TypeVar("T")

EDGE_REPORT = "edge_report"
"""The keyword under which a PNG carries the counts that only its last strip completes."""

_AHEAD = 4
_END = object()

# A strip is large enough that the rows it is resized with in vain are a small part of it, and small
# enough that a few fit into the budget; a small picture is still shared by the threads.
_STRIP_PIXELS = 1 << 21
_LEAST_SOURCE_ROWS = 32
_LEAST_STRIPS = 4
_STRIPS_AT_ONCE = 2
# bytes a pixel of the result while a strip is worked on: two passes, the array, alpha, the filter
_WORK_BYTES = 28

_WEBP_MAX_SIDE = 16383  # RFC 9649: 14 bits
_WEBP_PIXEL_BYTES = 24  # the array, Pillow's and libwebp's copies; 21 measured at 16 megapixels
_WEBP_EFFORT = {Compression.FAST: (0, 0), Compression.SMALL: (3, 50)}  # method, quality

_REUSED_BYTES = 32 << 20  # a strip's arrays are a few MiB each
_IDLE_BYTES = 64 << 20
_HELD_IN_PASSING = 32 << 20  # what a decoder may hold without waiting for its turn


@dataclass(frozen=True, slots=True)
class Enlargement:
    """A picture about to be enlarged: where its rows come from and what they become.

    `tally` counts what becomes of its alpha, and is None where it has none.
    """

    picture: PictureFile
    box: Box | None
    size: PrintSize
    asked: UpscaleParameters
    resizing: Resizing
    strip_rows: int
    scratch: Path
    edge: EdgeFinish
    tally: Tally | None

    def windows(self) -> Iterator[tuple[Strip, Pixels]]:
        """Each strip with the source rows it needs. Blocks while it reads."""
        rows: Rows = self.picture.rows()
        if self.box is not None:
            rows = Cropped(rows, self.box)
        if self.tally is not None and (least := self.edge.island_px(self.size.scale)) > 0:
            rows = WithoutIslands(
                rows,
                below_px=least,
                from_alpha=self.edge.shows_from,
                found=self.tally.note_islands,
            )
        return windows(rows, self.resizing.strips(self.strip_rows))

    def finished(self, strip: Strip, window: Pixels) -> tuple[Pixels, Pixels | None]:
        """The strip's rows as they are to be written, and the one above them."""
        pixels = finish_alpha(
            strip.resize(window), window=window, strip=strip, edge=self.edge, tally=self.tally
        )
        if self.asked.overlay:
            pixels = marked(pixels)
        return (pixels[1:], pixels[0]) if strip.rows.start else (pixels, None)

    @property
    def channels(self) -> int:
        """Of the result: red needs colours."""
        return 4 if self.asked.overlay and self.tally is not None else self.picture.channels

    def edge_report(self) -> EdgeReport | None:
        """What has been done to alpha so far; None where there is none."""
        return None if self.tally is None else self.tally.report()

    def predicted_bytes(self) -> int:
        """About what the file will take: the source's own bytes a pixel, which enlarging thins."""
        raw = self.size.width * self.size.height * self.channels
        source_pixels = self.picture.width * self.picture.height
        share = self.resizing.source_width * self.resizing.source_height / source_pixels
        source_bytes = share * self.picture.path.stat().st_size
        return min(raw, round(source_bytes * max(self.size.scale, 1) ** 2))

    def png_blocks(self, strip: Strip, window: Pixels) -> list[EncodedBlock]:
        pixels, above = self.finished(strip, window)
        return encode_rows(
            np.ascontiguousarray(pixels).reshape(len(pixels), -1),
            channels=pixels.shape[2],
            above=None if above is None else above.reshape(-1),
            compression=self.asked.compression,
        )

    def tiff_strip(self, strip: Strip, window: Pixels) -> bytes:
        pixels, _ = self.finished(strip, window)
        return deflate_strip(pixels, compression=self.asked.compression)


class Upscaler:
    """`memory_bytes` bounds the strips of an enlargement, and what a decoder may hold at once.

    `max_file_bytes` bounds what is written to a file before it is sent. The process' heap is told
    to reuse blocks of a strip's size; whoever is idle gives them back with `heap.trim`.
    """

    def __init__(
        self, *, workers: Workers, room: Room, memory_bytes: int, max_file_bytes: int
    ) -> None:
        self._workers = workers
        self._room = room
        self._memory_bytes = memory_bytes
        self._max_file_bytes = max_file_bytes
        self._holding = asyncio.Lock()
        heap.keep(_REUSED_BYTES, idle_bytes=_IDLE_BYTES)
        self.pace = Pace()

    @spanned("enlarge_open")
    async def open(
        self, path: Path, asked: UpscaleParameters, *, scratch: Path, box: Box | None = None
    ) -> Enlargement:
        """Look at the picture, decide its size, and unpack it into `scratch` where it must be.

        `box` is what to enlarge of it, if known; else `trim` finds it in a pass of its own.

        Raises:
            BadPicture: not a picture, or it cannot become as large as asked.
            InvalidParameter: a scale together with inches.
            InsufficientMemory, InsufficientStorage: with the numbers.
        """
        header = await self._to_end(inspect, path)
        self._check_needs(header)
        async with self._turn_to_hold(held_bytes(header)):
            with full_disk_said("the unpacked picture"):
                picture = await self._to_end(_open_picture, path, header, scratch)
                async for _ in self._each(picture.prepare()):
                    pass
        if asked.trim and box is None:
            box = await self._visible_box(picture)
        return self._plan(picture, asked, scratch=scratch, box=box)

    def stream(self, work: Enlargement) -> AsyncGenerator[bytes, None]:
        """A PNG in pieces; the first one holds the first strip, so that a failure can be said."""
        return self._png(work)

    def rows(self, work: Enlargement) -> AsyncGenerator[tuple[Pixels, Pixels | None], None]:
        """Its strips in order, with the row above each, for who makes something else of them."""
        return self._strips(work, work.finished)

    @spanned("enlarge_write")
    async def write(self, work: Enlargement, *, deadline: Deadline) -> Path:
        """A TIFF or WebP, which no stream can be: a file in the enlargement's scratch.

        Raises FileTooLarge where it would be larger or take longer than there is room and time
        for, and InsufficientStorage; both with the numbers, before any work.
        """
        self._check_file(work, deadline)
        target = work.scratch / f"result.{work.asked.format}"
        with full_disk_said("the result"):
            if work.asked.format is PictureFormat.TIFF:
                await self._tiff(work, target)
            else:
                await self._webp(work, target)
        return target

    # --- what it takes

    def _check_needs(self, header: Header) -> None:
        held = held_bytes(header)
        if held > self._memory_bytes:
            raise InsufficientMemory(
                f"A {header.format} of this kind is decoded whole, and {header.width} x "
                f"{header.height} pixels take {_mib(held)} MiB.",
                limit=self._memory_bytes,
                actual=held,
                hint="Send it as a PNG without interlacing or as a baseline JPEG: those are read "
                "row by row, at any size.",
            )
        if needed := spilled_bytes(header):
            self._room.check(needed, what="the unpacked picture's rows")

    def _check_file(self, work: Enlargement, deadline: Deadline) -> None:
        needed = work.predicted_bytes()
        seconds = self.pace.seconds(work.size.width * work.size.height)
        hint = "Ask for format=png, which is sent while it is made, or for a smaller size."
        if needed > self._max_file_bytes:
            raise FileTooLarge(
                f"The {work.asked.format} would take about {_mib(needed)} MiB.",
                limit=self._max_file_bytes,
                actual=needed,
                hint=hint,
            )
        if seconds > (left := deadline.remaining_s()):
            raise FileTooLarge(
                f"The {work.asked.format} would take about {seconds:.0f} s, and it must be whole "
                f"before it is sent.",
                limit=round(left, 1),
                actual=round(seconds, 1),
                hint=hint,
            )
        self._room.check(needed, what="the result")

    def _plan(
        self, picture: PictureFile, asked: UpscaleParameters, *, scratch: Path, box: Box | None
    ) -> Enlargement:
        left, top, right, bottom = box or (0, 0, picture.width, picture.height)
        edge = finish_of(asked)
        size = size_for(right - left, bottom - top, asked)
        resizing = Resizing(right - left, bottom - top, size.width, size.height)
        if asked.format is PictureFormat.WEBP:
            self._check_webp(size)
        tally = Tally(asked.edge) if picture.channels in (2, 4) else None
        besides = held_bytes_of_islands(picture.width, edge.island_px(size.scale)) if tally else 0
        rows = self._strip_rows(resizing, besides)
        return Enlargement(picture, box, size, asked, resizing, rows, scratch, edge, tally)

    def _check_webp(self, size: PrintSize) -> None:
        if max(size.width, size.height) > _WEBP_MAX_SIDE:
            raise SideTooLong(
                f"A WebP has at most {_WEBP_MAX_SIDE} pixels a side; this would be {size.width} x "
                f"{size.height}.",
                limit=_WEBP_MAX_SIDE,
                actual=max(size.width, size.height),
                hint="Ask for format=png or format=tiff, or for a smaller size.",
            )
        needed = size.width * size.height * _WEBP_PIXEL_BYTES
        if needed > self._memory_bytes:
            raise InsufficientMemory(
                f"A WebP is encoded whole, and {size.width} x {size.height} pixels take "
                f"{_mib(needed)} MiB.",
                limit=self._memory_bytes,
                actual=needed,
                hint="Ask for format=png or format=tiff, which have no such limit.",
            )

    def _strip_rows(self, resizing: Resizing, besides: int) -> int:
        """Source rows a strip: as the constants say, within what the budget leaves `besides`."""
        grown = resizing.height / resizing.source_height
        share = -(-resizing.source_height // _LEAST_STRIPS)
        wanted = min(share, round(_STRIP_PIXELS / (resizing.width * grown)))
        rows = max(wanted, _LEAST_SOURCE_ROWS, 2 * resizing.reach if grown < 1 else 1)
        budget = (self._memory_bytes - besides) // _STRIPS_AT_ONCE
        while rows > 1 and _strip_bytes(resizing, rows) > budget:
            rows //= 2
        if (needed := _strip_bytes(resizing, rows)) > budget:
            raise InsufficientMemory(
                f"Rows of {resizing.source_width} pixels becoming {resizing.width} take "
                f"{_mib(needed * _STRIPS_AT_ONCE + besides)} MiB to enlarge.",
                limit=self._memory_bytes,
                actual=needed * _STRIPS_AT_ONCE + besides,
                hint="Ask for a smaller size.",
            )
        return rows

    # --- the work

    async def _visible_box(self, picture: PictureFile) -> Box | None:
        """The box of alpha > 10; None without alpha, or where nothing at all is visible."""
        if picture.channels not in (2, 4):
            return None
        boxes = []
        async for top, strip in self._each(each_strip(picture.rows())):
            box = await self._to_end(visible_box, strip[..., -1])
            if box is not None:
                boxes.append((box[0], box[1] + top, box[2], box[3] + top))
        if not boxes:
            return None
        lefts, tops, rights, bottoms = zip(*boxes, strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)

    async def _png(self, work: Enlargement) -> AsyncGenerator[bytes, None]:
        size, body = work.size, PngBody()
        head = png_head(width=size.width, height=size.height, channels=work.channels, dpi=size.dpi)
        async with aclosing(self._strips(work, work.png_blocks)) as strips:
            async for blocks in strips:
                yield head + b"".join(body.chunk(each) for each in blocks)
                head = b""
        yield body.end(text=_told(work.edge_report()))

    async def _tiff(self, work: Enlargement, target: Path) -> None:
        first = next(work.resizing.strips(work.strip_rows))
        size = work.size
        with target.open("wb") as file:
            writer = TiffWriter(
                file,
                width=size.width,
                height=size.height,
                channels=work.channels,
                rows_per_strip=len(first.rows),
                dpi=size.dpi,
            )
            async with aclosing(self._strips(work, work.tiff_strip)) as strips:
                async for strip in strips:
                    await asyncio.to_thread(writer.add, strip)
            await asyncio.to_thread(writer.finish)

    async def _webp(self, work: Enlargement, target: Path) -> None:
        size = work.size
        async with self._holding:
            whole = np.empty((size.height, size.width, work.channels), np.uint8)
            top = 0
            async with aclosing(self._strips(work, work.finished)) as strips:
                async for pixels, _ in strips:
                    whole[top : top + len(pixels)] = pixels
                    top += len(pixels)
            await self._to_end(_save_webp, whole, target, work.asked.compression)

    async def _strips(
        self, work: Enlargement, encode: Callable[[Strip, Pixels], T]
    ) -> AsyncGenerator[T, None]:
        """What `encode` makes of each strip, in order, while the next ones are worked on."""
        ahead: deque[asyncio.Task[T]] = deque()
        try:
            async with aclosing(self._each(work.windows())) as windows:
                async for strip, window in windows:
                    ahead.append(asyncio.create_task(self._timed(encode, strip, window)))
                    if len(ahead) > _AHEAD:
                        yield await ahead.popleft()
            while ahead:
                yield await ahead.popleft()
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)

    async def _timed(self, encode: Callable[[Strip, Pixels], T], strip: Strip, window: Pixels) -> T:
        def work() -> tuple[T, int]:
            watch = Stopwatch()
            with span("enlarge_strip"):
                return encode(strip, window), watch.ms()

        encoded, ms = await self._workers.strips(work)
        self.pace.note(len(strip.rows) * strip.resizing.width, ms)
        return encoded

    async def _each(self, items: Iterator[T]) -> AsyncGenerator[T, None]:
        """The items of a blocking iterator, each step a job of the pool."""
        with refusals():
            while (item := await self._to_end(next, items, _END)) is not _END:
                yield item

    async def _to_end(self, work: Callable[..., T], *args: Any) -> T:  # noqa: ANN401  # passed through
        """A job that is waited for even when nobody wants it: its files must not go before it."""
        job = asyncio.ensure_future(self._workers.strips(work, *args))
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            await asyncio.wait({job})
            raise

    def _turn_to_hold(self, held: int) -> AbstractAsyncContextManager[object]:
        """One picture at a time is held whole."""
        return self._holding if held > _HELD_IN_PASSING else nullcontext()


class Pace:
    """How fast strips are made on this machine: pixels of the result a millisecond, smoothed."""

    _FIRST_GUESS = 60_000.0
    _WEIGHT = 0.05

    def __init__(self) -> None:
        self._pixels_per_ms = self._FIRST_GUESS

    def note(self, pixels: int, ms: int) -> None:
        seen = pixels / max(ms, 1)
        self._pixels_per_ms += self._WEIGHT * (seen - self._pixels_per_ms)

    def seconds(self, pixels: int) -> float:
        return pixels / self._pixels_per_ms / 1000


def _open_picture(path: Path, header: Header, scratch: Path) -> PictureFile:
    with refusals():
        return open_picture(path, header=header, scratch=scratch)


def _strip_bytes(resizing: Resizing, rows: int) -> int:
    """What one strip of `rows` source rows takes: its window across, its result in the works."""
    window = (rows + 2 * resizing.reach) * (resizing.source_width + resizing.width) * 4
    grown = resizing.height / resizing.source_height
    return window + int(max(1, rows * grown) * resizing.width * _WORK_BYTES)


def _told(report: EdgeReport | None) -> dict[str, str]:
    """What a PNG says of itself behind its pixels."""
    return {} if report is None else {EDGE_REPORT: report.model_dump_json()}


def _save_webp(pixels: Pixels, target: Path, compression: Compression) -> None:
    """Lossless: alpha and colours stay what they are."""
    method, quality = _WEBP_EFFORT[compression]
    picture = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])
    picture.save(target, "WEBP", lossless=True, method=method, quality=quality)


def _mib(size: int) -> int:
    return -(-size // (1 << 20))
