"""GET /results/{request_id}/disagreement.png: where the cut-outs of a shot differ."""

from typing import Annotated

from fastapi import APIRouter, Header, Response

from models import errors
from routers.dependencies import RequestId, ServicesDep
from routers.problems import responses
from services.disagreement import comparable, digest_of, disagreement_png

router = APIRouter()  # part of routers/results.py


@router.get(
    "/{request_id}/disagreement.png",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}}},
        304: {"description": "The client's copy (If-None-Match) is still right"},
        **responses(errors.ResultNotFound, errors.NothingToCompare, errors.InvalidParameter),
    },
)
async def disagreement(
    request_id: RequestId,
    services: ServicesDep,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A heat map over the dimmed picture, at most 512 pixels on the longest side.

    Grey: all agree; yellow to red: the standard deviation of alpha among the cut-outs. Those that
    are empty or full-frame are left out where two others remain.
    """
    compared = comparable(await services.results.record(request_id))
    headers = {"ETag": f'"{digest_of(compared)}"', "Cache-Control": "private, no-cache"}
    if if_none_match and headers["ETag"] in {each.strip() for each in if_none_match.split(",")}:
        return Response(status_code=304, headers=headers)
    stored = [await services.results.picture(request_id, entry.model) for entry in compared]
    async with services.scratch() as scratch:
        content = await services.workers.pixels(
            disagreement_png, [each.path for each in stored], scratch
        )
    return Response(content, media_type="image/png", headers=headers)
