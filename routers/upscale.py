"""POST /upscale: one picture in, the same picture larger, alpha and all."""

from fastapi import APIRouter, Response

from models.schemas import UpscaleParameters
from routers.dependencies import ServicesDep
from routers.documentation import describes_submission
from routers.parameters import parse
from routers.prints import ENLARGING_ERRORS, ClosingDep, Order, answer_enlarged
from routers.problems import responses
from routers.uploads import INTAKE_ERRORS, EnlargingDep
from services.access import caller
from utils.clock import Deadline

router = APIRouter(tags=["upscaling"])


@router.post(
    "/upscale",
    response_class=Response,
    responses={
        200: {
            "description": "The picture, streamed. `X-Width`, `X-Height`: its pixels; "
            "`X-Source-DPI`, `X-Output-DPI`, `X-Print-Note`: what it means in print.",
            "content": {"image/png": {}, "image/webp": {}, "image/tiff": {}},
        },
        **responses(*INTAKE_ERRORS, *ENLARGING_ERRORS),
    },
    openapi_extra=describes_submission(UpscaleParameters),
)
async def upscale(submission: EnlargingDep, services: ServicesDep, closing: ClosingDep) -> Response:
    """Enlarge by Lanczos, four times unless asked otherwise; no limit on pixels."""
    order = Order(
        picture=submission.picture,
        asked=parse(UpscaleParameters, submission.parameters),
        scratch=submission.picture.parent,
        deadline=Deadline(submission.received_at + services.deadline_s),
        headers={"X-Cost-USD": "0.000000"},
    )
    caller.get().take_shot()
    return await answer_enlarged(order, services, closing)
