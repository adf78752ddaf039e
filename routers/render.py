"""POST /results/{request_id}/render: a stored cut-out rendered anew, without a model."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from models import errors
from models.schemas import RenderParameters, ShotRecord
from routers import proofs
from routers.dependencies import RequestId, ServicesDep
from routers.documentation import describes_files
from routers.multipart import Body
from routers.parameters import parse
from routers.presence import while_connected
from routers.problems import responses
from routers.results import shown
from routers.uploads import receive_masks
from services.renderer import MASKS
from utils.clock import Deadline

router = APIRouter()
router.include_router(proofs.router)

_MASKS = {
    "keep": "A mask: where it is white the customer's own pixels come back.",
    "erase": "A mask: where it is white nothing is left.",
    "mask": "Both in one: white keeps, black erases, mid-grey (128) and transparent leave.",
}
_CREATED: dict[int | str, dict[str, Any]] = {
    201: {"headers": {"Location": {"schema": {"type": "string"}}}}
}


async def _masks(
    request: Request,
    request_id: RequestId,
    services: ServicesDep,
) -> AsyncIterator[Body]:
    await services.results.record(request_id)  # before anything of the body is read
    async with receive_masks(request, services, MASKS) as body:
        yield body


@router.post(
    "/results/{request_id}/render",
    tags=["results"],
    status_code=201,
    response_model=ShotRecord,
    response_model_exclude_none=True,
    responses={
        **_CREATED,
        **responses(
            errors.EmptyFile,
            errors.InvalidParameter,
            errors.ResultNotFound,
            errors.NotPickable,
            errors.OriginalNotKept,
            errors.BodyTooSlow,
            errors.FileTooLarge,
            errors.UnsupportedMediaType,
            errors.UnreadableImage,
            errors.ImageTruncated,
            errors.TooManyPixels,
            errors.ScaleOutOfRange,
            errors.Overloaded,
            errors.Draining,
            errors.InsufficientMemory,
            errors.InsufficientStorage,
        ),
    },
    openapi_extra=describes_files(RenderParameters, _MASKS),
)
async def render(
    request: Request,
    request_id: RequestId,
    body: Annotated[Body, Depends(_masks)],
    services: ServicesDep,
) -> JSONResponse:
    """Brush, edge, trim and size of a cut-out that is there: a result of its own, for nothing.

    With a size (or `trim`) the new record has a `print_url`, made when it is first asked for, and
    says how that print will be; without one `edge` is applied to the cut-out itself.
    """
    asked = parse(RenderParameters, body.parameters)
    deadline = Deadline.after(services.deadline_s)
    rendering = services.renderer.render(request_id, asked, body.beside, deadline)
    record = shown(await while_connected(request.receive, rendering), services)
    return JSONResponse(
        record.model_dump(mode="json", exclude_none=True),
        status_code=201,
        headers={
            "Location": f"{services.public_base_url}/results/{record.request_id}",
            "X-Cost-USD": "0.000000",
        },
    )
