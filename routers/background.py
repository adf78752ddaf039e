"""POST /remove-background: one picture in, a cut-out from every model that can be asked."""

import asyncio
import base64
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse

from models import errors
from models.schemas import (
    Mode,
    ModelId,
    Output,
    RemovalParameters,
    ResultEntry,
    ShotRecord,
    SizeParameters,
)
from routers.answers import RESPONSES, Shooting, wish_of
from routers.dependencies import ServicesDep
from routers.documentation import describes_submission
from routers.idempotency import IDEMPOTENCY_ERRORS, OnceDep
from routers.parameters import parse
from routers.problems import responses
from routers.results import png_response, shown
from routers.uploads import INTAKE_ERRORS, SubmissionDep
from services.access import caller
from services.container import Services
from services.edge_modes import EdgeFinish, finish_of
from services.modes import Policy
from services.print_check import Wish
from services.print_size import wanted_width_in
from services.remover import RemovalOptions
from services.shotgun import Plan
from services.standings import recommended_entry
from utils.clock import Deadline

router = APIRouter(tags=["background removal"])

REMOVAL_ERRORS = (
    *INTAKE_ERRORS,
    *IDEMPOTENCY_ERRORS,
    errors.TooManyPixels,
    errors.BudgetExhausted,
    errors.AllModelsFailed,
    errors.NoModelAvailable,
    errors.Overloaded,
    errors.Draining,
    errors.InsufficientMemory,
    errors.DeadlineExceeded,
)


PREFER = "`respond-async`: answer 202 at once; the shot is then found under `Location`."


@router.post(
    "/remove-background",
    response_model=ShotRecord,
    response_model_exclude_none=True,
    responses={**RESPONSES, **responses(*REMOVAL_ERRORS)},
    openapi_extra=describes_submission(RemovalParameters),
)
async def remove_background(  # noqa: PLR0913  # what FastAPI hands in
    request: Request,
    submission: SubmissionDep,
    services: ServicesDep,
    *,
    once: OnceDep,
    accept: Annotated[str, Header()] = "*/*",
    prefer: Annotated[str, Header(description=PREFER)] = "",
) -> Response:
    """Ask the models; answer with what has landed at the deadline, or when that is enough.

    With `Accept: image/png` the answer is one cut-out, the recommended. With
    `stream`, `Accept: application/x-ndjson` or `Accept: text/event-stream` it is told as it goes.
    """
    asked = parse(RemovalParameters, submission.parameters)
    as_picture = "image/png" in accept
    wish = wish_of(asked, accept=accept, prefer=prefer, as_picture=as_picture)
    await services.webhooks.check(asked.callback_url)
    plan = removal_plan(asked, services, since=submission.received_at)
    async with once.claim(submission, asked, plan) as claimed:
        if claimed.record is None:
            shooting = Shooting(request, submission, claimed.plan, services)
            if (early := await shooting.early(wish)) is not None:
                return early
        record = claimed.record or await shooting.record()
    if as_picture:
        return await _one_png(record, services)
    return await whole_record(record, asked.output, services)


def removal_plan(
    asked: RemovalParameters,
    services: Services,
    *,
    since: float,
    prints: SizeParameters | None = None,
) -> Plan:
    """What a shot asks; its deadline counts from `since` (monotonic).

    With `prints` the edge is theirs, and the cut-outs they are made of stay soft.
    """
    edge = finish_of(asked)
    wanted = set(asked.models or services.default_models)
    return Plan(
        models=tuple(model for model in ModelId if model in wanted),
        options=RemovalOptions(holes=asked.holes),
        deadline=Deadline(since + (asked.deadline_s or services.deadline_s)),
        prints=prints,
        check=_wish(asked, prints),
        edge=edge if prints is None else EdgeFinish(),
        max_cost_usd=_most_usd(asked),
        policy=_policy(asked, services, models=len(wanted)),
        triage=asked.triage,
        when_complete=_callback(asked.callback_url, services),
    )


def _policy(asked: RemovalParameters, services: Services, *, models: int) -> Policy:
    """Raises InvalidParameter for a number of results that could never be reached or is fixed."""
    if asked.min_results is not None and asked.mode is Mode.FAST:
        raise errors.InvalidParameter(
            "min_results: mode=fast ends with the first.", field="min_results"
        )
    if asked.min_results is not None and asked.min_results > models:
        raise errors.InvalidParameter(
            "min_results: is more than the models asked.",
            field="min_results",
            limit=models,
            actual=asked.min_results,
        )
    return Policy(
        mode=asked.mode,
        min_results=asked.min_results,
        may_add_knockout=asked.mode is Mode.CASCADE and not asked.models,
        prices={model: services.ledger.price(model) for model in ModelId},
    )


def _wish(asked: RemovalParameters, prints: SizeParameters | None) -> Wish | None:
    """How to look at the cut-outs, if at all; `prints` is how they are made where they are.

    Raises InvalidParameter for a check without a size, and for what says of a check without one.
    """
    if not asked.print_check:
        if asked.garment is not None:
            raise errors.InvalidParameter("garment: goes with print_check=true.", field="garment")
        if asked.in_inches and prints is None:
            raise errors.InvalidParameter(
                "print_check: a print size goes with print_check=true.",
                field="print_check",
                hint="/process makes prints of a size.",
            )
        return None
    if prints is None:
        if not asked.in_inches:
            raise errors.InvalidParameter(
                "print_check: how large will it be printed?",
                field="print_check",
                hint="Give preset (as front), width_in or height_in.",
            )
        wanted_width_in(asked)
        prints = SizeParameters(**asked.model_dump(include=set(SizeParameters.model_fields)))
    return Wish(prints, garment=asked.garment)


def _most_usd(asked: RemovalParameters) -> Decimal | None:
    """The smaller of what the caller allows and what a browser session has left; None: neither."""
    allowed = None if asked.max_cost_usd is None else Decimal(str(asked.max_cost_usd))
    limits = [each for each in (allowed, caller.get().left_usd()) if each is not None]
    return min(limits, default=None)


def _callback(url: str | None, services: Services) -> Callable[[ShotRecord], None] | None:
    """What posts the record, as an answer would show it, to the caller's own address."""
    if url is None:
        return None
    return lambda record: services.webhooks.send(url, shown(record, services))


async def _one_png(record: ShotRecord, services: Services) -> Response:
    entry = one_entry(record)
    picture = await services.results.picture(record.request_id, entry.model)
    response = png_response(picture)
    response.headers["X-Model"] = entry.model
    response.headers["X-Cost-USD"] = f"{record.cost_usd:.6f}"
    return response


def one_entry(record: ShotRecord) -> ResultEntry:
    """The entry of the recommended cut-out; raises NoModelAvailable or DeadlineExceeded."""
    if (entry := recommended_entry(record)) is not None:
        return entry
    if all(each.status == "skipped" for each in record.results):
        details = " ".join(each.detail for each in record.results if each.detail)
        raise errors.NoModelAvailable(f"No model was asked. {details}")
    raise errors.DeadlineExceeded(
        "No model landed before the deadline.", hint=f"See /results/{record.request_id} later."
    )


async def whole_record(record: ShotRecord, output: Output, services: Services) -> Response:
    """The record as JSON, with links or with the cut-outs inside."""
    if output is Output.BASE64:
        record = await _with_pixels(record, services)
    record = shown(record, services)
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
