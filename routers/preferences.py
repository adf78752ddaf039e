"""POST /preferences and what it adds up to: the customer's picks in, counts and lines out."""

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse

from models import errors
from models.preferences import (
    ExportQuery,
    Preference,
    PreferenceParameters,
    PreferenceStats,
    StatsQuery,
)
from models.schemas import ShotRecord
from routers.dependencies import RequestId, ServicesDep
from routers.documentation import describes_json
from routers.parameters import parse, small_json
from routers.problems import responses
from services.access import caller
from services.container import Services
from services.pick_stats import stats_of

router = APIRouter(prefix="/preferences", tags=["preferences"])

_PIECE_BYTES = 64 * 1024
_NDJSON = "application/x-ndjson"


async def _visible_record(request_id: str, services: Services) -> ShotRecord:
    """The shot's record; ResultNotFound where there is none or the caller may not see it.

    The one place where a pick asks whose shot it is.
    """
    if services.access.required:
        await services.results.require_owner(request_id, caller.get().owns)
    return await services.results.record(request_id)


@router.post(
    "",
    status_code=201,
    response_model=Preference,
    response_model_exclude_none=True,
    responses={
        200: {"model": Preference, "description": "The same pick again: nothing was added"},
        202: {"model": Preference, "description": "Taken down in the log (PICKS_ON_FAILURE=log)"},
        **responses(
            errors.ResultNotFound,
            errors.NotPickable,
            errors.InvalidParameter,
            errors.BodyTooSlow,
            errors.FileTooLarge,
            errors.PicksUnavailable,
        ),
    },
    openapi_extra=describes_json(PreferenceParameters),
)
async def pick(
    body: Annotated[dict[str, Any], Depends(small_json)], services: ServicesDep
) -> Response:
    """Take down which cut-out the customer took; answered when it is on disk."""
    asked = parse(PreferenceParameters, body)
    record = await _visible_record(asked.request_id, services)
    preference, new = await services.preferences.pick(record, asked)
    if new:
        services.metrics.picked(preference.model)
    status = 200 if not new else 201 if preference.kept_in == "journal" else 202
    return JSONResponse(preference.model_dump(mode="json", exclude_none=True), status_code=status)


@router.get(
    "/stats",
    response_model_exclude_none=True,
    responses=responses(errors.InvalidParameter, errors.PicksUnavailable),
)
async def stats(services: ServicesDep, asked: Annotated[StatsQuery, Query()]) -> PreferenceStats:
    """Wins by model, with strengths and costs; also by kind of picture or by period."""
    tally = await services.preferences.tally()
    return await asyncio.to_thread(stats_of, tally, asked)


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={200: {"content": {_NDJSON: {}}}, **responses(errors.InvalidParameter)},
)
async def export(services: ServicesDep, asked: Annotated[ExportQuery, Query()]) -> Response:
    """The journal's lines as they are, one pick a line."""
    lines = services.preferences.export(asked.since, asked.until)
    return StreamingResponse(_in_pieces(lines), media_type=_NDJSON)


@router.delete(
    "/{request_id}",
    status_code=204,
    responses=responses(errors.ResultNotFound, errors.InvalidParameter, errors.PicksUnavailable),
)
async def forget(request_id: RequestId, services: ServicesDep) -> None:
    """Take every pick of a shot out of the journal, also long after its record has gone."""
    if not await services.preferences.forget(request_id):
        raise errors.ResultNotFound(f"There is no pick of shot {request_id}.")


def _in_pieces(lines: Iterator[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)
