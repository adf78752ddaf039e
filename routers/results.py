"""GET and DELETE /results: the record of a shot and its cut-outs, for as long as they are kept."""

import io
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import FileResponse
from PIL import Image

from models import errors
from models.schemas import ModelId, ResultEntry, ShotRecord
from routers.dependencies import RequestId, ServicesDep
from routers.problems import responses
from services.results import StoredPicture

router = APIRouter(prefix="/results", tags=["results"])

_PREVIEW_QUALITY = 80
_PRIVATE = "private, max-age=3600"

PreviewSide = Annotated[
    int | None,
    Query(ge=16, le=2048, description="Longest side of a WebP preview, instead of the full PNG."),
]


@router.get(
    "/{request_id}",
    response_model_exclude_none=True,
    responses=responses(errors.ResultNotFound, errors.InvalidParameter),
)
async def record(request_id: RequestId, services: ServicesDep) -> ShotRecord:
    """The shot's record, also while late models are still running."""
    found = await services.results.record(request_id)
    return with_links(found, services.public_base_url)


@router.get(
    "/{request_id}/{model}.png",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}, "image/webp": {}}},
        304: {"description": "The client's copy (If-None-Match) is still right"},
        **responses(errors.ResultNotFound, errors.InvalidParameter),
    },
)
async def cutout(
    request_id: RequestId,
    model: ModelId,
    services: ServicesDep,
    preview: PreviewSide = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """One cut-out at full resolution, or a small WebP of it."""
    picture = await services.results.picture(request_id, model)
    etag = _etag(picture, preview)
    if if_none_match and etag in {each.strip() for each in if_none_match.split(",")}:
        return Response(status_code=304, headers={"ETag": etag, "Cache-Control": _PRIVATE})
    if preview is None:
        return png_response(picture)
    content = await services.workers.pixels(render_preview, picture.path, preview)
    headers = {"ETag": etag, "Cache-Control": _PRIVATE}
    return Response(content, media_type="image/webp", headers=headers)


@router.delete(
    "/{request_id}",
    status_code=204,
    responses=responses(errors.ResultNotFound, errors.InvalidParameter),
)
async def forget(request_id: RequestId, services: ServicesDep) -> None:
    """Remove the record and its pictures now."""
    await services.results.delete(request_id)


def png_response(picture: StoredPicture) -> FileResponse:
    headers = {"ETag": _etag(picture, None), "Cache-Control": _PRIVATE}
    return FileResponse(picture.path, media_type="image/png", headers=headers)


def with_links(record: ShotRecord, base_url: str) -> ShotRecord:
    """The record with absolute links, where the service knows its public address."""
    if not base_url:
        return record
    results = [_with_link(entry, base_url) for entry in record.results]
    return record.model_copy(update={"results": results})


def render_preview(path: Path, longest_side: int) -> bytes:
    """A WebP of the stored PNG, at most `longest_side` pixels, alpha kept. Blocks."""
    with Image.open(path, formats=("PNG",)) as picture:
        picture.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        picture.save(out, "WEBP", quality=_PREVIEW_QUALITY)
    return out.getvalue()


def _with_link(entry: ResultEntry, base_url: str) -> ResultEntry:
    if entry.url is None or entry.preview_url is None:
        return entry
    links = {"url": base_url + entry.url, "preview_url": base_url + entry.preview_url}
    return entry.model_copy(update=links)


def _etag(picture: StoredPicture, preview: int | None) -> str:
    return f'"{picture.sha256}"' if preview is None else f'"{picture.sha256}-{preview}"'
