"""POST /analyze: how a picture will print, before any model is asked; free."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from models import errors
from models.analysis import Analysis
from models.print_check import AnalyzeParameters
from routers.dependencies import ServicesDep
from routers.documentation import describes_submission
from routers.parameters import parse
from routers.presence import while_connected
from routers.problems import responses
from routers.uploads import INTAKE_ERRORS, SubmissionDep
from utils.clock import Deadline

router = APIRouter(tags=["print check"])


@router.post(
    "/analyze",
    response_model=Analysis,
    response_model_exclude_none=True,
    responses=responses(
        *INTAKE_ERRORS,
        errors.TooManyPixels,
        errors.Overloaded,
        errors.Draining,
        errors.InsufficientMemory,
    ),
    openapi_extra=describes_submission(AnalyzeParameters),
)
async def analyze(
    request: Request, submission: SubmissionDep, services: ServicesDep
) -> JSONResponse:
    """Say what will go wrong in print at a size, and what mends it; no model runs, nothing is kept.

    Without a size every pixel of the picture is taken as one of 300 an inch.
    """
    asked = parse(AnalyzeParameters, submission.parameters)
    deadline = Deadline(submission.received_at + services.deadline_s)
    looking = services.analyst.look(submission.picture, asked, deadline)
    analysis = await while_connected(request.receive, looking)
    return JSONResponse(
        analysis.model_dump(mode="json", exclude_none=True), headers={"X-Cost-USD": "0.000000"}
    )
