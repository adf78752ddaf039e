"""POST /remove-background: one picture in, a cut-out from every model that can be asked."""

import asyncio
import base64
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse

from models import errors
from models.schemas import ModelId, Output, RemovalParameters, ShotRecord, SizeParameters
from routers.dependencies import ServicesDep
from routers.documentation import describes_submission
from routers.parameters import parse
from routers.problems import responses
from routers.results import png_response, shown
from routers.uploads import INTAKE_ERRORS, SubmissionDep
from services.container import Services
from services.remover import RemovalOptions
from services.shotgun import Plan
from utils.clock import Deadline

router = APIRouter(tags=["background removal"])

REMOVAL_ERRORS = (
    *INTAKE_ERRORS,
    errors.TooManyPixels,
    errors.AllModelsFailed,
    errors.NoModelAvailable,
    errors.Overloaded,
    errors.InsufficientMemory,
    errors.DeadlineExceeded,
)


@router.post(
    "/remove-background",
    response_model=ShotRecord,
    response_model_exclude_none=True,
    responses={200: {"content": {"image/png": {}}}, **responses(*REMOVAL_ERRORS)},
    openapi_extra=describes_submission(RemovalParameters),
)
async def remove_background(
    submission: SubmissionDep, services: ServicesDep, accept: Annotated[str, Header()] = "*/*"
) -> Response:
    """Ask every model at once; answer with what has landed at the deadline.

    With `Accept: image/png` the answer is one cut-out: the first success in the fixed order.
    """
    asked = parse(RemovalParameters, submission.parameters)
    plan = removal_plan(asked, services, since=submission.received_at)
    record = await services.shotgun.fire(submission.picture, plan)
    if "image/png" in accept:
        return await _one_png(record, services)
    return await whole_record(record, asked.output, services)


def removal_plan(
    asked: RemovalParameters,
    services: Services,
    *,
    since: float,
    prints: SizeParameters | None = None,
) -> Plan:
    """What a shot asks; its deadline counts from `since` (monotonic)."""
    wanted = set(asked.models or services.default_models)
    return Plan(
        models=tuple(model for model in ModelId if model in wanted),
        options=RemovalOptions(holes=asked.holes),
        deadline=Deadline(since + (asked.deadline_s or services.deadline_s)),
        prints=prints,
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


async def whole_record(record: ShotRecord, output: Output, services: Services) -> Response:
    """The record as JSON, with links or with the cut-outs inside."""
    if output is Output.BASE64:
        record = await _with_pixels(record, services)
    record = shown(record, services.public_base_url)
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
