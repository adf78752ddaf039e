"""POST /remove-background: one picture in, a cut-out from every model that can be asked."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse

from models import errors
from models.schemas import ModelId, Output, RemovalParameters, ShotRecord
from routers.dependencies import ServicesDep
from routers.documentation import describes_submission
from routers.parameters import parse
from routers.problems import responses
from routers.results import png_response, with_links
from routers.uploads import Submission, receive
from services.container import Services
from services.remover import RemovalOptions
from services.shotgun import Plan
from utils.clock import Deadline

router = APIRouter(tags=["background removal"])

_PROBLEMS = responses(
    errors.MissingSource,
    errors.MultipleSources,
    errors.EmptyFile,
    errors.ImageUrlRefused,
    errors.InvalidParameter,
    errors.FileTooLarge,
    errors.UnsupportedMediaType,
    errors.UnreadableImage,
    errors.ImageTruncated,
    errors.TooManyPixels,
    errors.ImageDownloadFailed,
    errors.AllModelsFailed,
    errors.NoModelAvailable,
    errors.Overloaded,
    errors.DeadlineExceeded,
    errors.InsufficientStorage,
)


async def _submission(request: Request, services: ServicesDep) -> AsyncIterator[Submission]:
    async with receive(request, services) as submission:
        yield submission


SubmissionDep = Annotated[Submission, Depends(_submission)]


@router.post(
    "/remove-background",
    response_model=ShotRecord,
    response_model_exclude_none=True,
    responses={200: {"content": {"image/png": {}}}, **_PROBLEMS},
    openapi_extra=describes_submission(RemovalParameters),
)
async def remove_background(
    submission: SubmissionDep, services: ServicesDep, accept: Annotated[str, Header()] = "*/*"
) -> Response:
    """Ask every model at once; answer with what has landed at the deadline.

    With `Accept: image/png` the answer is one cut-out: the first success in the fixed order.
    """
    asked = parse(RemovalParameters, submission.parameters)
    plan = _plan(asked, services, since=submission.received_at)
    record = await services.shotgun.fire(submission.picture, plan)
    if "image/png" in accept:
        return await _one_png(record, services)
    return await _whole_record(record, asked.output, services)


def _plan(asked: RemovalParameters, services: Services, *, since: float) -> Plan:
    wanted = set(asked.models or services.default_models)
    return Plan(
        models=tuple(model for model in ModelId if model in wanted),
        options=RemovalOptions(holes=asked.holes),
        deadline=Deadline(since + (asked.deadline_s or services.deadline_s)),
    )


async def _one_png(record: ShotRecord, services: Services) -> Response:
    for entry in record.results:
        if entry.status == "succeeded":
            picture = await services.results.picture(record.request_id, entry.model)
            response = png_response(picture)
            response.headers["X-Model"] = entry.model
            response.headers["X-Cost-USD"] = f"{record.cost_usd:.6f}"
            return response
    raise errors.DeadlineExceeded(
        "No model landed before the deadline.", hint=f"See /results/{record.request_id} later."
    )


async def _whole_record(record: ShotRecord, output: Output, services: Services) -> Response:
    if output is Output.BASE64:
        record = await _with_pixels(record, services)
    record = with_links(record, services.public_base_url)
    return JSONResponse(
        record.model_dump(mode="json", exclude_none=True),
        headers={"X-Cost-USD": f"{record.cost_usd:.6f}"},
    )


async def _with_pixels(record: ShotRecord, services: Services) -> ShotRecord:
    entries = []
    for entry in record.results:
        if entry.status == "succeeded":
            picture = await services.results.picture(record.request_id, entry.model)
            content = await asyncio.to_thread(picture.path.read_bytes)
            entry = entry.model_copy(  # noqa: PLW2901  # the copy takes its place
                update={"image_base64": base64.b64encode(content).decode("ascii")}
            )
        entries.append(entry)
    return record.model_copy(update={"results": entries})
