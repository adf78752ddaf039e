"""POST /process: background removal, then prints of the cut-outs."""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from models import errors
from models.schemas import ProcessParameters, ResultEntry, ShotRecord, SizeParameters
from routers.answers import RESPONSES, Shooting, wish_of
from routers.background import PREFER, REMOVAL_ERRORS, removal_plan, whole_record
from routers.dependencies import ServicesDep
from routers.documentation import describes_submission
from routers.idempotency import OnceDep
from routers.parameters import parse
from routers.prints import ENLARGING_ERRORS, ClosingDep
from routers.problems import responses
from routers.results import answer_print, print_digest, size_of
from routers.uploads import Submission, SubmissionDep
from services.container import Services
from services.intake import inspect
from services.print_size import free_size_for, size_for
from services.results import PrintKey
from services.shotgun import Plan
from services.standings import recommended_entry

router = APIRouter(tags=["pipeline"])

_FIRST_STRIP_S = 5  # for the print's beginning, however late the shot was


@router.post(
    "/process",
    response_model=ShotRecord,
    response_model_exclude_none=True,
    responses={
        **RESPONSES,
        **responses(*REMOVAL_ERRORS, errors.PickFailed, *ENLARGING_ERRORS),
    },
    openapi_extra=describes_submission(ProcessParameters),
)
async def process(  # noqa: PLR0913  # what FastAPI hands in
    request: Request,
    submission: SubmissionDep,
    *,
    services: ServicesDep,
    closing: ClosingDep,
    once: OnceDep,
    accept: Annotated[str, Header()] = "*/*",
    prefer: Annotated[str, Header(description=PREFER)] = "",
) -> Response:
    """Remove the background, and enlarge.

    The answer is the record, in which every cut-out has a `print_url`: its print is made when it is
    first asked for, and kept. With `pick`, or `Accept: image/png` (which picks the recommended),
    the answer is one print, named in `X-Model`.
    """
    asked = parse(ProcessParameters, submission.parameters)
    await services.webhooks.check(asked.callback_url)
    size = size_of(asked)
    pick = asked.pick or ("recommended" if "image/png" in accept else None)
    wish = wish_of(asked, accept=accept, prefer=prefer, as_picture=pick is not None)
    plan = removal_plan(asked, services, since=submission.received_at, prints=size)
    _check_pick(pick, plan)
    await _check_size(submission, size, services)
    async with once.claim(submission, asked, plan) as claimed:
        if claimed.record is None:
            shooting = Shooting(request, submission, claimed.plan, services)
            if (early := await shooting.early(wish)) is not None:
                return early
        record = claimed.record or await shooting.record()
    if pick is None:
        return await whole_record(record, asked.output, services)
    entry = _picked(record, pick)
    picture = await services.results.picture(record.request_id, entry.model)
    response = await answer_print(
        picture,
        size,
        PrintKey(record.request_id, entry.model, print_digest(size)),
        services,
        closing,
        deadline=plan.deadline.later(_FIRST_STRIP_S),
    )
    response.headers["X-Model"] = entry.model
    response.headers["X-Cost-USD"] = f"{record.cost_usd:.6f}"
    return response


def _check_pick(pick: str | None, plan: Plan) -> None:
    if pick not in (None, "recommended", *plan.models):
        raise errors.InvalidParameter("pick: is not among the models asked.", field="pick")


async def _check_size(submission: Submission, size: SizeParameters, services: Services) -> None:
    """Refuse what cannot be printed before anything is paid for; a trim is judged afterwards."""
    header = await services.workers.pixels(inspect, submission.picture)
    width, height = header.width, header.height
    if header.orientation > 4:
        width, height = height, width
    free_size_for(width, height, size)
    if not size.trim:
        size_for(width, height, size)


def _picked(record: ShotRecord, pick: str) -> ResultEntry:
    """The entry to print; the record can still be had where it is not there."""
    hint = f"The other cut-outs are at /results/{record.request_id}."
    wanted = [e for e in record.results if pick in ("recommended", e.model)]
    best = recommended_entry(record.model_copy(update={"results": wanted}))
    if best is not None:
        return best
    if any(entry.status == "pending" for entry in wanted):
        raise errors.DeadlineExceeded("No print before the deadline.", hint=hint)
    entry = wanted[0]
    why = entry.error.code if entry.error else entry.reason
    raise errors.PickFailed(f"{entry.model}: {why}.", hint=hint)
