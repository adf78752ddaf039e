"""Proofs of a result: its cut-outs on shirts and side by side, the white plate, and the bundle."""

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import FileResponse

from models import errors
from models.proofs import BundleQuery, GarmentQuery, PlateQuery, SheetQuery
from models.schemas import ModelId, ShotRecord, SizeParameters, UpscaleParameters
from routers.dependencies import RequestId, ServicesDep
from routers.prints import (
    ENLARGING_ERRORS,
    ClosingDep,
    Order,
    PieceStream,
    answer_enlarged,
)
from routers.problems import responses
from routers.results import print_digest, size_of
from services.bundle import Bundle, check_sizes, cutouts_of, garments_of, own_size
from services.container import Services
from services.results import PrintKey
from services.underbase import choke_mm, underbase_of
from utils.clock import Deadline

router = APIRouter(prefix="/results", tags=["proofs"])

_CACHED = "private, max-age=3600"
_UNCHANGED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The client's copy (If-None-Match) is still right"}
}
_WAITING = (errors.Overloaded, errors.Draining, errors.InsufficientMemory)
IfNoneMatch = Annotated[str | None, Header()]


@router.get(
    "/{request_id}/{model}/garment.webp",
    response_class=Response,
    responses={
        200: {"content": {"image/webp": {}}},
        **_UNCHANGED,
        **responses(errors.ResultNotFound, errors.InvalidParameter, *_WAITING),
    },
)
async def garment(  # what FastAPI hands in
    request_id: RequestId,
    model: ModelId,
    *,
    services: ServicesDep,
    asked: Annotated[GarmentQuery, Query()],
    if_none_match: IfNoneMatch = None,
) -> Response:
    """A cut-out as it looks on a shirt of some colour."""
    picture = await services.results.picture(request_id, model)
    headers = _headers(f"{picture.sha256}-{asked.garment}-{asked.side}")
    if _has(if_none_match, headers):
        return Response(status_code=304, headers=headers)
    async with services.proofs_gate.slot(_deadline(services)), services.scratch() as scratch:
        content = await services.proofs.worn(
            picture.path, asked.garment, side=asked.side, scratch=scratch
        )
    return Response(content, media_type="image/webp", headers=headers)


@router.get(
    "/{request_id}/contact-sheet.webp",
    response_class=Response,
    responses={
        200: {"content": {"image/webp": {}}},
        **_UNCHANGED,
        **responses(errors.ResultNotFound, errors.InvalidParameter, *_WAITING),
    },
)
async def contact_sheet(
    request_id: RequestId,
    *,
    services: ServicesDep,
    asked: Annotated[SheetQuery, Query()],
    if_none_match: IfNoneMatch = None,
) -> Response:
    """All cut-outs of a result side by side, on a checkerboard and on shirts."""
    record = await services.results.record(request_id)
    entries = cutouts_of(record, None)
    headers = _headers(
        _digest([*(f"{each.sha256}{each.rank}" for each in entries), asked.garments])
    )
    if _has(if_none_match, headers):
        return Response(status_code=304, headers=headers)
    async with services.proofs_gate.slot(_deadline(services)), services.scratch() as scratch:
        content = await services.bundler.sheet(
            record, entries, garments_of(asked.garments), scratch=scratch
        )
    return Response(content, media_type="image/webp", headers=headers)


@router.get(
    "/{request_id}/{model}/white.png",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}}},
        **_UNCHANGED,
        **responses(errors.ResultNotFound, errors.InvalidParameter, *ENLARGING_ERRORS),
    },
)
async def white(  # noqa: PLR0913  # what FastAPI hands in
    request_id: RequestId,
    model: ModelId,
    *,
    services: ServicesDep,
    closing: ClosingDep,
    asked: Annotated[PlateQuery, Query()],
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The white plate under a print of the cut-out: where white ink goes, choked behind the colour.

    Without a size it is that of the record's prints, or of the cut-out at its own size.
    """
    record = await services.results.record(request_id)
    picture = await services.results.picture(request_id, model)
    size = _print_size(record, asked) or own_size(asked)
    how = underbase_of(asked, dpi=size.dpi)
    digest = _digest([size.model_dump_json(), f"{how}"])[:16]
    headers = {
        **_headers(f"{picture.sha256}-white-{digest}"),
        "X-Choke-MM": f"{choke_mm(asked):g}",
    }
    if _has(if_none_match, headers):
        return Response(status_code=304, headers=headers)
    key = PrintKey(request_id, model, f"white-{digest}")
    kept = services.results.print_path(key)
    if await asyncio.to_thread(kept.exists):
        return FileResponse(kept, media_type="image/png", headers=headers)
    order = Order(
        picture=picture.path,
        asked=UpscaleParameters(**size.model_dump()),
        scratch=await closing.enter_async_context(services.scratch()),
        deadline=_deadline(services),
        box=picture.bbox if size.trim else None,
        keep=key,
        headers=headers,
        make=partial(services.proofs.plate, how=how),
    )
    return await answer_enlarged(order, services, closing)


@router.get(
    "/{request_id}/bundle.zip",
    response_class=Response,
    responses={
        200: {"content": {"application/zip": {}}},
        **_UNCHANGED,
        **responses(errors.ResultNotFound, errors.InvalidParameter, *ENLARGING_ERRORS),
    },
)
async def bundle(  # what FastAPI hands in
    request_id: RequestId,
    *,
    services: ServicesDep,
    closing: ClosingDep,
    asked: Annotated[BundleQuery, Query()],
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Everything of a result in one archive, made while it is sent.

    Cut-outs, prints where a size is given (or the record has one), white plates, shirts, a contact
    sheet, and manifest.json with the checksum of each.
    """
    record = await services.results.record(request_id)
    size = _print_size(record, asked)
    wanted = Bundle(
        record=record,
        entries=cutouts_of(record, asked.model),
        asked=asked,
        size=size,
        digest="" if size is None else print_digest(size),
    )
    check_sizes(wanted)
    headers = {
        **_headers(_bundle_digest(wanted, services.version)),
        "Content-Disposition": f'attachment; filename="{request_id}.zip"',
    }
    if _has(if_none_match, headers):
        return Response(status_code=304, headers=headers)
    await closing.enter_async_context(services.printing_gate.slot(_deadline(services)))
    scratch = await closing.enter_async_context(services.scratch())
    pieces = services.bundler.zipped(wanted, scratch)
    await closing.enter_async_context(aclosing(pieces))
    return PieceStream(
        await anext(pieces),
        pieces,
        headers=headers,
        stall_s=services.client_stall_s,
        media_type="application/zip",
    )


def _print_size(record: ShotRecord, asked: PlateQuery) -> SizeParameters | None:
    """The size that is asked for, else that of the record's prints."""
    return size_of(asked) if asked.is_sized else record.prints


def _bundle_digest(wanted: Bundle, version: str) -> str:
    prints = None if wanted.size is None else wanted.size.model_dump_json()
    entries = [each.model_dump_json() for each in wanted.entries]
    return _digest([version, wanted.asked.model_dump_json(), str(prints), *entries])


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _headers(named: str) -> dict[str, str]:
    return {"ETag": f'"{named}"', "Cache-Control": _CACHED}


def _has(if_none_match: str | None, headers: Mapping[str, str]) -> bool:
    return headers["ETag"] in {each.strip() for each in (if_none_match or "").split(",")}


def _deadline(services: Services) -> Deadline:
    return Deadline.after(services.deadline_s)
