"""Everything of a result in one archive: cut-outs, prints, white plates, shirts, and a manifest.

Entries are made one after another while the archive is sent. What each took and its checksum is
known only then, so manifest.json, which tells it, comes last.
"""

import asyncio
import hashlib
import io
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import PIL
from PIL import Image

from models.errors import ResultNotFound
from models.proofs import BundledFile, BundledModel, BundleQuery, FileKind, Manifest
from models.schemas import (
    EdgeReport,
    ModelId,
    PrintReport,
    ResultEntry,
    ShotRecord,
    SizeParameters,
    UpscaleParameters,
)
from services.archive import Archive
from services.catalogue import CATALOGUE
from services.edge_modes import finish_of
from services.print_size import size_for
from services.proofs import Proofs
from services.results import PrintKey, ResultStore, StoredPicture
from services.underbase import choke_mm, underbase_of
from services.upscaler import EDGE_REPORT, Enlargement, Upscaler
from utils.png import text_behind

SERVICE = "dtf-image-service"
_PIECE = 1 << 20
_PNG_OVERHEAD = 1 << 16


@dataclass(frozen=True, slots=True)
class Part:
    """A file about to go into the bundle: what is known of it before, and its bytes.

    `edges` tells, once these have passed, what was done to its alpha.
    """

    known: dict[str, object]
    pieces: AsyncGenerator[bytes, None]
    most_bytes: int
    edges: Callable[[], EdgeReport | None] = lambda: None


@dataclass(frozen=True, slots=True)
class Bundle:
    """What goes into one: the record and those of its cut-outs that were asked for.

    `size` is how prints are made, None without any; `digest` names it in the store.
    """

    record: ShotRecord
    entries: Sequence[ResultEntry]
    asked: BundleQuery
    size: SizeParameters | None
    digest: str

    @property
    def garments(self) -> list[str]:
        return garments_of(self.asked.garments)


def garments_of(text: str) -> list[str]:
    """The shirts of a comma list, each once."""
    return list(dict.fromkeys(each for each in text.split(",") if each))


def cutouts_of(record: ShotRecord, model: ModelId | None) -> list[ResultEntry]:
    """The cut-outs that are there, or that one; raises ResultNotFound where none is."""
    if record.status == "expired":
        raise ResultNotFound(f"The pictures of shot {record.request_id} have expired.")
    found = [
        each
        for each in record.results
        if each.status == "succeeded" and model in (None, each.model)
    ]
    if not found:
        whose = "" if model is None else f" of {model}"
        raise ResultNotFound(f"Shot {record.request_id} holds no cut-out{whose}.")
    return found


def check_sizes(bundle: Bundle) -> None:
    """Raises ScaleOutOfRange for a print that a cut-out cannot become, InvalidParameter."""
    size = bundle.size or own_size(bundle.asked)
    underbase_of(bundle.asked, dpi=size.dpi)
    finish_of(size)
    for entry in bundle.entries:
        left, top, right, bottom = (size.trim and entry.bbox) or (
            *(0, 0),
            *(entry.width or 1, entry.height or 1),
        )
        size_for(right - left, bottom - top, size)


class Bundler:
    """Makes bundles; in memory is never more than a piece of one file."""

    def __init__(
        self, results: ResultStore, upscaler: Upscaler, proofs: Proofs, *, version: str
    ) -> None:
        self._results = results
        self._upscaler = upscaler
        self._proofs = proofs
        self._version = version

    async def zipped(self, bundle: Bundle, scratch: Path) -> AsyncGenerator[bytes, None]:
        """The archive in pieces. What goes wrong on the way leaves it without its end."""
        archive, files = Archive(bundle.record.created_at), list[BundledFile]()
        async with aclosing(self._parts(bundle, scratch)) as parts:
            async for part in parts:
                told = _Told(part.pieces)
                name = str(part.known["name"])
                async with aclosing(told.pieces()) as content:
                    adding = archive.add(name, content, most_bytes=part.most_bytes)
                    async with aclosing(adding) as pieces:
                        async for piece in pieces:
                            yield piece
                files.append(told.file({**part.known, "edge_report": part.edges()}))
        manifest = self._manifest(bundle, files).model_dump_json(indent=1, exclude_none=True)
        content = _whole(manifest.encode())
        async for piece in archive.add("manifest.json", content, most_bytes=len(manifest)):
            yield piece
        yield archive.end()

    async def sheet(
        self,
        record: ShotRecord,
        entries: Sequence[ResultEntry],
        garments: Sequence[str],
        *,
        scratch: Path,
    ) -> bytes:
        """The contact sheet of these cut-outs, a WebP."""
        cutouts = [
            (_label(each), (await self._results.picture(record.request_id, each.model)).path)
            for each in entries
        ]
        return await self._proofs.sheet(cutouts, garments, scratch=scratch)

    async def _parts(self, bundle: Bundle, scratch: Path) -> AsyncGenerator[Part, None]:
        for entry in bundle.entries:
            picture = await self._results.picture(bundle.record.request_id, entry.model)
            yield _cutout(entry, picture)
            folder = scratch / entry.model
            folder.mkdir()
            if bundle.size is not None:
                yield await self._print(bundle, entry, picture, folder)
            yield await self._white(bundle, entry, picture, folder)
            for garment in bundle.garments:
                content = await self._proofs.worn(
                    picture.path, garment, side=bundle.asked.side, scratch=folder
                )
                yield await _webp(
                    content,
                    name=f"{entry.model}/garment-{garment.removeprefix('#')}.webp",
                    kind=FileKind.GARMENT,
                    model=entry.model,
                    garment=garment,
                )
        content = await self.sheet(bundle.record, bundle.entries, bundle.garments, scratch=scratch)
        yield await _webp(content, name="contact-sheet.webp", kind=FileKind.CONTACT_SHEET)

    async def _print(
        self, bundle: Bundle, entry: ResultEntry, picture: StoredPicture, scratch: Path
    ) -> Part:
        """From the store where it was kept, else made, and kept where there is room."""
        size = bundle.size or SizeParameters()
        work = await self._open(entry, picture, size, scratch)
        key = PrintKey(bundle.record.request_id, entry.model, bundle.digest)
        kept = self._results.print_path(key)
        if await asyncio.to_thread(kept.exists):
            report = await asyncio.to_thread(kept_report, kept)
            pieces, edges = _of_file(kept), lambda: report
        else:
            pieces, edges = self._upscaler.stream(work), work.edge_report
            if self._results.may_keep(work.predicted_bytes()):
                pieces = self._results.keep_print(key, pieces)
        known = _sized(work.size.report(), f"{entry.model}/print.png", FileKind.PRINT, entry)
        return Part({**known, "edge": size.edge}, pieces, _raw_bytes(work), edges)

    async def _white(
        self, bundle: Bundle, entry: ResultEntry, picture: StoredPicture, scratch: Path
    ) -> Part:
        """Of the print; without one, of the cut-out at its own size."""
        size = bundle.size or own_size(bundle.asked)
        work = await self._open(entry, picture, size, scratch)
        pieces = self._proofs.plate(work, underbase_of(bundle.asked, dpi=size.dpi))
        known = _sized(work.size.report(), f"{entry.model}/white.png", FileKind.WHITE, entry)
        choked = {**known, "choke_mm": choke_mm(bundle.asked), "edge": size.edge}
        return Part(choked, pieces, _raw_bytes(work))

    async def _open(
        self, entry: ResultEntry, picture: StoredPicture, size: SizeParameters, scratch: Path
    ) -> Enlargement:
        return await self._upscaler.open(
            picture.path,
            UpscaleParameters(**size.model_dump()),
            scratch=scratch,
            box=entry.bbox if size.trim else None,
        )

    def _manifest(self, bundle: Bundle, files: list[BundledFile]) -> Manifest:
        record = bundle.record
        return Manifest(
            service=SERVICE,
            version=self._version,
            pillow=PIL.__version__,
            request_id=record.request_id,
            created_at=record.created_at,
            image=record.image,
            recommended=record.recommended,
            rendered_from=record.rendered_from,
            models=[_model(entry) for entry in bundle.entries],
            files=files,
        )


def own_size(asked: SizeParameters) -> SizeParameters:
    """The cut-out at its own size, with the edge that was asked for."""
    said = asked.model_dump(include=set(SizeParameters.model_fields))
    return SizeParameters(**{**said, "scale": 1})


def kept_report(path: Path) -> EdgeReport | None:
    """What a print that was kept says of its edge. Blocks."""
    told = text_behind(path, EDGE_REPORT)
    return None if told is None else EdgeReport.model_validate_json(told)


class _Told:
    """Bytes on their way, counted and summed."""

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        self._pieces = pieces
        self._digest, self._bytes = hashlib.sha256(), 0

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._pieces) as pieces:
            async for piece in pieces:
                self._digest.update(piece)
                self._bytes += len(piece)
                yield piece

    def file(self, known: dict[str, object]) -> BundledFile:
        facts = {**known, "bytes": self._bytes, "sha256": self._digest.hexdigest()}
        return BundledFile.model_validate(facts)


def _cutout(entry: ResultEntry, picture: StoredPicture) -> Part:
    known: dict[str, object] = {
        "name": f"{entry.model}/cutout.png",
        "kind": FileKind.CUTOUT,
        "model": entry.model,
        "width": entry.width,
        "height": entry.height,
    }
    return Part(known, _of_file(picture.path), picture.bytes, lambda: entry.edge_report)


def _sized(report: PrintReport, name: str, kind: FileKind, entry: ResultEntry) -> dict[str, object]:
    return {
        "name": name,
        "kind": kind,
        "model": entry.model,
        "width": report.width,
        "height": report.height,
        "width_in": report.width_in,
        "height_in": report.height_in,
        "dpi": report.output_dpi,
        "source_dpi": report.source_dpi,
    }


async def _webp(content: bytes, **known: object) -> Part:
    width, height = await asyncio.to_thread(_webp_size, content)
    return Part({**known, "width": width, "height": height}, _whole(content), len(content))


def _model(entry: ResultEntry) -> BundledModel:
    listed = next(each for each in CATALOGUE if each.id is entry.model)
    said = entry.model_dump(include=BundledModel.model_fields.keys() - {"licence", "runs_on"})
    return BundledModel(**said, licence=listed.licence, runs_on=listed.runs_on)


def _label(entry: ResultEntry) -> str:
    return entry.model if entry.rank is None else f"{entry.rank}. {entry.model}"


def _raw_bytes(work: Enlargement) -> int:
    """The most that a PNG of it may take."""
    raw = work.size.width * work.size.height * work.channels
    return raw + raw // 64 + _PNG_OVERHEAD


def _webp_size(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content), formats=("WEBP",)) as picture:
        return picture.size


async def _whole(content: bytes) -> AsyncGenerator[bytes, None]:
    yield content


async def _of_file(path: Path) -> AsyncGenerator[bytes, None]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece
    finally:
        file.close()
