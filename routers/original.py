"""GET /results/{request_id}/original.webp: the picture as it was sent, small."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from models import errors
from routers.dependencies import RequestId, ServicesDep
from routers.problems import responses
from services.originals import original_webp

router = APIRouter()  # part of routers/results.py


@router.get(
    "/{request_id}/original.webp",
    response_class=Response,
    responses={
        200: {"content": {"image/webp": {}}},
        304: {"description": "The client's copy (If-None-Match) is still right"},
        **responses(errors.ResultNotFound, errors.OriginalNotKept, errors.InvalidParameter),
    },
)
async def original(
    request_id: RequestId,
    services: ServicesDep,
    preview: Annotated[
        int, Query(ge=16, le=2048, description="Most pixels on the longest side.")
    ] = 1024,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The customer's picture, upright and in sRGB, for pages that lay a cut-out over it."""
    record = await services.results.record(request_id)
    path = services.results.original(request_id)
    if record.status == "expired" or not await asyncio.to_thread(path.exists):
        raise errors.OriginalNotKept(f"The picture of shot {request_id} is not kept (any more).")
    headers = {
        "ETag": f'"{record.image.sha256}-{preview}"',
        "Cache-Control": "private, max-age=3600",
    }
    if if_none_match and headers["ETag"] in {each.strip() for each in if_none_match.split(",")}:
        return Response(status_code=304, headers=headers)
    async with services.scratch() as scratch:
        content = await services.workers.pixels(original_webp, path, preview, scratch)
    return Response(content, media_type="image/webp", headers=headers)
