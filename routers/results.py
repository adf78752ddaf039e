"""GET and DELETE /results: the record of a shot and its cut-outs, for as long as they are kept."""

import asyncio
import hashlib
import io
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlencode

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import FileResponse
from PIL import Image
from pydantic import BaseModel

from models import errors
from models.schemas import (
    ModelId,
    PrintQuery,
    ResultEntry,
    ShotRecord,
    SizeParameters,
    UpscaleParameters,
)
from routers import disagreement, original
from routers.dependencies import RequestId, ServicesDep
from routers.prints import ENLARGING_ERRORS, ClosingDep, Order, answer_enlarged, edge_header
from routers.problems import responses
from services.bundle import kept_report
from services.container import Services
from services.overlay import marked_small
from services.print_size import size_for
from services.results import PrintKey, StoredPicture
from utils.clock import Deadline

router = APIRouter(prefix="/results", tags=["results"])
router.include_router(disagreement.router)  # before the route of any {model}.png
router.include_router(original.router)

RETRY_AFTER_S = 2
"""Seconds until it is worth to ask again for a shot that still runs."""

_PREVIEW_QUALITY = 80
_PRIVATE = "private, max-age=3600"

M = TypeVar("M", bound=BaseModel)


@router.get(
    "/{request_id}",
    response_model_exclude_none=True,
    responses=responses(errors.ResultNotFound, errors.InvalidParameter),
)
async def record(request_id: RequestId, services: ServicesDep, response: Response) -> ShotRecord:
    """The shot's record, also while models are still running: then with `Retry-After`."""
    found = await services.results.record(request_id)
    if found.status == "running":
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return shown(found, services)


@router.get(
    "/{request_id}/{model}.png",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}, "image/webp": {}}},
        304: {"description": "The client's copy (If-None-Match) is still right"},
        **responses(errors.ResultNotFound, errors.InvalidParameter, *ENLARGING_ERRORS),
    },
)
async def cutout(  # noqa: PLR0913  # what FastAPI hands in
    request_id: RequestId,
    model: ModelId,
    *,
    services: ServicesDep,
    closing: ClosingDep,
    asked: Annotated[PrintQuery, Query()],
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """One cut-out at full resolution, a small WebP of it, or enlarged for print.

    With `overlay` every semi-transparent pixel is red, in each of the three.
    """
    picture = await services.results.picture(request_id, model)
    size = asked_size(asked)
    if size is not None and asked.preview is not None:
        raise errors.InvalidParameter("preview: is not for prints.", field="preview")
    if size is None and asked.overlay and asked.preview is None:
        size = SizeParameters(scale=1)
    etag = _etag(picture, _variant(asked, size))
    if if_none_match and etag in {each.strip() for each in if_none_match.split(",")}:
        return Response(status_code=304, headers={"ETag": etag, "Cache-Control": _PRIVATE})
    if size is not None:
        deadline = Deadline.after(services.deadline_s)
        key = PrintKey(request_id, model, print_digest(size, overlay=asked.overlay))
        wish = UpscaleParameters(**size.model_dump(), overlay=asked.overlay)
        return await answer_print(picture, wish, key, services, closing, deadline=deadline)
    if asked.preview is None:
        return png_response(picture)
    content = await services.workers.pixels(
        render_preview, picture.path, asked.preview, overlay=asked.overlay
    )
    headers = {"ETag": etag, "Cache-Control": _PRIVATE}
    return Response(content, media_type="image/webp", headers=headers)


@router.delete(
    "/{request_id}",
    status_code=204,
    responses=responses(errors.ResultNotFound, errors.InvalidParameter, errors.PicksUnavailable),
)
async def forget(request_id: RequestId, services: ServicesDep) -> None:
    """Remove the record, its pictures and what was picked from them now."""
    await services.preferences.forget_if_picked(request_id)
    await services.results.delete(request_id)


def png_response(picture: StoredPicture) -> FileResponse:
    headers = {"ETag": _etag(picture, None), "Cache-Control": _PRIVATE}
    return FileResponse(picture.path, media_type="image/png", headers=headers)


async def answer_print(  # noqa: PLR0913  # what is printed, and where
    picture: StoredPicture,
    asked: SizeParameters,
    key: PrintKey,
    services: Services,
    closing: AsyncExitStack,
    *,
    deadline: Deadline,
) -> Response:
    """A stored cut-out enlarged: from the store where it was kept, else made now and kept."""
    headers = {"ETag": _etag(picture, key.asked), "Cache-Control": _PRIVATE}
    kept = services.results.print_path(key)
    if await asyncio.to_thread(kept.exists):
        report = await asyncio.to_thread(kept_report, kept)
        return FileResponse(
            kept, media_type="image/png", headers={**edge_header(report), **headers}
        )
    order = Order(
        picture=picture.path,
        asked=UpscaleParameters(**asked.model_dump()),
        scratch=await closing.enter_async_context(services.scratch()),
        deadline=deadline,
        box=picture.bbox if asked.trim else None,
        keep=key,
        headers=headers,
    )
    return await answer_enlarged(order, services, closing)


def asked_size(asked: PrintQuery) -> SizeParameters | None:
    """The size of the print that is asked for, None where the cut-out itself is."""
    named = asked.model_fields_set & SizeParameters.model_fields.keys()
    return size_of(asked) if named or asked.print else None


def size_of(asked: SizeParameters) -> SizeParameters:
    """The size alone out of parameters that hold more."""
    return SizeParameters(**asked.model_dump(include=set(SizeParameters.model_fields)))


def print_digest(asked: SizeParameters, *, overlay: bool = False) -> str:
    """A short name for one way to enlarge."""
    named = size_of(asked).model_dump_json() + ("overlay" if overlay else "")
    return hashlib.sha256(named.encode()).hexdigest()[:16]


def _variant(asked: PrintQuery, size: SizeParameters | None) -> str | None:
    """What sets a rendering apart from the cut-out itself."""
    if size is not None:
        return print_digest(size, overlay=asked.overlay)
    return f"{asked.preview}{'-overlay' if asked.overlay else ''}" if asked.preview else None


def record_link(record: ShotRecord, services: Services) -> str:
    """Where the record itself is, as a browser can follow it."""
    token = services.access.link_token(record)
    link = f"/results/{record.request_id}"
    return _complete_link(link, base_url=services.public_base_url, token=token)


def shown(record: ShotRecord, services: Services) -> ShotRecord:
    """The record with its prints, and with links as a browser can follow them.

    They are absolute where the service knows its address, and carry a token where it wants keys.
    """
    complete = partial(
        _complete_link,
        base_url=services.public_base_url,
        token=services.access.link_token(record),
    )
    results = [_linked(_with_print(entry, record), complete) for entry in record.results]
    return _linked(record.model_copy(update={"results": results}), complete)


def render_preview(path: Path, longest_side: int, *, overlay: bool = False) -> bytes:
    """A WebP of the stored PNG, at most `longest_side` pixels, alpha kept. Blocks."""
    with Image.open(path, formats=("PNG",)) as picture:
        if overlay:
            shown = marked_small(picture, _inside(picture.size, longest_side))
        else:
            shown = picture
            shown.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        shown.save(out, "WEBP", quality=_PREVIEW_QUALITY, lossless=overlay)
    return out.getvalue()


def _inside(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """Never larger than it is."""
    scale = min(1, longest_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _with_print(entry: ResultEntry, record: ShotRecord) -> ResultEntry:
    if record.prints is None or not (entry.url and entry.width and entry.height):
        return entry
    left, top, right, bottom = (record.prints.trim and entry.bbox) or (
        *(0, 0),
        *(entry.width, entry.height),
    )
    try:
        report = size_for(right - left, bottom - top, record.prints).report()
    except errors.ScaleOutOfRange as refusal:
        return entry.model_copy(update={"print_problem": refusal.detail})
    wishes = record.prints.model_dump(mode="json", exclude_defaults=True)
    query = urlencode({"print": 1, **{name: _in_query(wish) for name, wish in wishes.items()}})
    update = {
        "print_url": f"{entry.url}?{query}",
        "print_width": report.width,
        "print_height": report.height,
        "print": report,
    }
    return entry.model_copy(update=update)


def _in_query(wish: object) -> object:
    return int(wish) if isinstance(wish, bool) else wish


def _linked(told: M, complete: Callable[[str], str]) -> M:
    """The same with every link of ours completed: found by name, so that none is forgotten."""
    links = {
        name: complete(link)
        for name in type(told).model_fields
        if (name == "url" or name.endswith("_url"))
        and (link := getattr(told, name) or "").startswith("/")
    }
    return told.model_copy(update=links)


def _complete_link(link: str, *, base_url: str, token: str | None) -> str:
    if token is None:
        return base_url + link
    return f"{base_url}{link}{'&' if '?' in link else '?'}token={token}"


def _etag(picture: StoredPicture, variant: str | None) -> str:
    return f'"{picture.sha256}"' if variant is None else f'"{picture.sha256}-{variant}"'
