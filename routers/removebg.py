"""remove.bg's addresses: POST /v1.0/removebg and GET /v1.0/account, for clients that speak its API.

A call is an ordinary shot (same models, queue, budgets, ledger, owner and Idempotency-Key) answered
with its recommended cut-out, composed as asked. Errors here have remove.bg's shape
(routers/removebg_problems.py); docs/REMOVEBG.md tells what is the same and what is not.
"""

import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from models import errors
from models.images import PictureKind
from models.removebg import Account, RemovebgAnswer, RemovebgErrors, RemovebgParameters
from models.schemas import ResultEntry, ShotRecord
from routers import removebg_problems
from routers.answers import Shooting
from routers.background import REMOVAL_ERRORS, one_entry, removal_plan
from routers.dependencies import ServicesDep
from routers.documentation import describes_removebg
from routers.idempotency import OnceDep
from routers.middleware import add_headers
from routers.parameters import parse
from routers.prints import ClosingDep
from routers.problems import CRASHED, TABLE
from routers.results import shown
from routers.uploads import Naming, Submission, receive
from services.access import caller
from services.canvas import margins, region
from services.composing import (
    MAX_JPEG_SIDE,
    Background,
    Composed,
    compose,
    open_background,
    plain_background,
)
from services.container import Services
from services.credits import account, credits_of
from services.intake import inspect
from services.room import full_disk_said
from utils.pictures import Header as PictureHeader

router = APIRouter(prefix=removebg_problems.PREFIX, tags=["remove.bg"])

BACKGROUND_FILE = "bg_image_file"
NAMING = Naming(
    files=("image_file",),
    base64="image_file_b64",
    base64_in_forms=True,
    beside=(BACKGROUND_FILE,),
)

_ERRORS = (
    *REMOVAL_ERRORS,
    errors.MultipleBackgrounds,
    errors.RegionOutside,
    errors.RegionEmpty,
    errors.UnsupportedParameter,
    errors.UnknownForeground,
    errors.SideTooLong,
)
_PIECE_BYTES = 3 << 18  # a multiple of three: base64 of the pieces is base64 of the whole
_GRAPHICS = {PictureKind.ARTWORK, PictureKind.TRANSPARENT, PictureKind.CHECKERBOARD}


def _responses(*kinds: type[errors.ServiceError]) -> dict[int | str, dict[str, Any]]:
    return removebg_problems.responses_there([*(TABLE[each] for each in kinds), CRASHED])


async def _submission(request: Request, services: ServicesDep) -> AsyncIterator[Submission]:
    async with receive(request, services, services.gate, naming=NAMING) as submission:
        yield submission


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes out: the composed file, the shot it came of, and whether that was made for it."""

    composed: Composed
    record: ShotRecord
    entry: ResultEntry
    asked: RemovebgParameters
    is_new: bool

    def headers(self, services: Services) -> dict[str, str]:
        left, top, right, bottom = self.composed.foreground
        (entry,) = shown(self.record.model_copy(update={"results": [self.entry]}), services).results
        charged = credits_of(self.asked) if self.is_new else 0
        headers = {
            "X-Credits-Charged": f"{charged:g}",
            "X-Width": str(self.composed.size[0]),
            "X-Height": str(self.composed.size[1]),
            "X-Foreground-Top": str(top),
            "X-Foreground-Left": str(left),
            "X-Foreground-Width": str(right - left),
            "X-Foreground-Height": str(bottom - top),
            "X-Model": entry.model,
            "X-Cost-USD": f"{self.record.cost_usd:.6f}",
            "X-Result-URL": entry.url or "",
        }
        kind = _kind(self.record, self.asked)
        return headers if kind is None else {**headers, "X-Type": kind}


@router.post(
    "/removebg",
    response_class=Response,
    responses={
        200: {
            "description": "The picture, or with `Accept: application/json` the same inside JSON",
            "content": {
                **{kind: {} for kind in ("image/png", "image/jpeg", "application/zip")},
                "application/json": {"schema": {"$ref": "#/components/schemas/RemovebgAnswer"}},
            },
        },
        **_responses(*_ERRORS),
    },
    openapi_extra=describes_removebg(RemovebgParameters, RemovebgAnswer, RemovebgErrors),
)
async def removebg(  # noqa: PLR0913  # what FastAPI hands in
    request: Request,
    submission: Annotated[Submission, Depends(_submission)],
    services: ServicesDep,
    *,
    once: OnceDep,
    closing: ClosingDep,
    accept: Annotated[str, Header()] = "*/*",
) -> Response:
    """Remove a background as remove.bg's API does, by the models here.

    Nothing is asked of a model before every parameter, the region and the background have proven
    good. With an `Idempotency-Key` the same picture is composed anew, without another charge.
    """
    asked = parse(RemovebgParameters, submission.parameters)
    refuse_unsupported(asked)
    await _check_picture(submission.picture, asked, services)
    background = await _background(asked, submission, services, closing)
    plan = removal_plan(services.removebg, services, since=submission.received_at)
    async with once.claim(submission, services.removebg, plan) as claimed:
        shooting = Shooting(request, submission, claimed.plan, services)
        record = claimed.record or await shooting.record()
    if claimed.record is None:
        # an error that comes now is answered after money was spent, and says so
        add_headers(request.scope, {"X-Cost-USD": f"{record.cost_usd:.6f}"})
    entry = one_entry(record)
    picture = await services.results.picture(record.request_id, entry.model)
    scratch = await closing.enter_async_context(services.scratch())
    with full_disk_said("uploads"):
        composed = await services.workers.strips(
            compose, picture.path, asked, background, scratch=scratch
        )
    answer = Answer(composed, record, entry, asked, is_new=claimed.record is None)
    return _told(answer, services, accept=accept)


@router.get("/account", responses=_responses())
async def show_account(services: ServicesDep) -> Account:
    """What is left of today's budgets, in credits."""
    plan = removal_plan(services.removebg, services, since=0)
    return account(
        plan.models,
        budgets=services.budgets.standings(),
        expected=services.ledger.expected,
        key=caller.get().key_id,
        askable=lambda model: services.removers[model].availability().status,
    )


def refuse_unsupported(asked: RemovebgParameters) -> None:
    """Raises UnsupportedParameter for what nothing here can do, InvalidParameter for margins."""
    margins(asked.crop_margin, (1, 1))
    if asked.type != "auto":
        raise errors.UnsupportedParameter(
            "type: the models here take no hint.", field="type", hint="Leave it out, or say auto."
        )
    if asked.add_shadow:
        raise errors.UnsupportedParameter("add_shadow: none are made here.", field="add_shadow")
    if not asked.semitransparency:
        raise errors.UnsupportedParameter(
            "semitransparency: soft regions stay as the models give them.",
            field="semitransparency",
        )
    if asked.channels == "alpha" and asked.format == "zip":
        raise errors.UnsupportedParameter(
            "channels: a ZIP holds colours and matte; alpha is for png and jpg.", field="channels"
        )


async def _check_picture(picture: Path, asked: RemovebgParameters, services: Services) -> None:
    """What can be wrong with the picture and is known from its header."""
    header = await services.workers.pixels(inspect, picture, max_pixels=services.max_pixels)
    size = _upright(header)
    if size is None:
        return
    region(asked.roi, size)
    if asked.format != "png" and max(size) > MAX_JPEG_SIDE:
        raise errors.SideTooLong(
            f"A JPEG has at most {MAX_JPEG_SIDE} pixels a side.",
            limit=MAX_JPEG_SIDE,
            actual=max(size),
            hint="Ask for format=png.",
        )


def _upright(header: PictureHeader) -> tuple[int, int] | None:
    """Width and height as the picture is seen; None where only its reader knows that."""
    if not (header.width and header.height and header.orientation):
        return None
    if header.orientation < 5:
        return header.width, header.height
    return header.height, header.width


async def _background(
    asked: RemovebgParameters,
    submission: Submission,
    services: Services,
    closing: AsyncExitStack,
) -> Background | None:
    """What the subject is to stand on, proven usable; raises MultipleBackgrounds among others."""
    file = submission.beside.get(BACKGROUND_FILE)
    sources = [each for each in (asked.bg_color, asked.bg_image_url, file) if each is not None]
    if len(sources) > 1:
        raise errors.MultipleBackgrounds(
            "There is more than one background: give one of bg_color, bg_image_url, bg_image_file."
        )
    if sources and asked.channels == "alpha":
        raise errors.UnsupportedParameter(
            "channels: a mask has no background.", field="channels", hint="Leave out bg_…."
        )
    if file is None and asked.bg_image_url is None:
        return plain_background(asked)
    scratch = await closing.enter_async_context(services.scratch())
    with full_disk_said("uploads"):
        if file is None:
            file = scratch / "background"
            await _fetch_background(asked.bg_image_url or "", file, services)
        return await services.workers.pixels(
            open_background, file, max_pixels=services.max_pixels, scratch=scratch
        )


async def _fetch_background(url: str, into: Path, services: Services) -> None:
    """By the same rules as any picture; what goes wrong carries the parameter's name."""
    try:
        await services.fetcher.fetch(url, into=into)
    except (errors.ImageUrlRefused, errors.ImageDownloadFailed) as error:
        error.field = "bg_image_url"
        raise


def _kind(record: ShotRecord, asked: RemovebgParameters) -> str | None:
    """What `X-Type` says: no more than a look at the picture tells."""
    if asked.type_level == "none":
        return None
    if asked.type_level == "1":
        return "other"
    return "graphics" if record.image.kind in _GRAPHICS else "other"


def _told(answer: Answer, services: Services, *, accept: str) -> Response:
    headers = {**answer.headers(services), "Cache-Control": "no-store"}
    if wants_json(accept):
        return StreamingResponse(
            _as_json(answer.composed), media_type="application/json", headers=headers
        )
    return FileResponse(
        answer.composed.path, media_type=answer.composed.media_type, headers=headers
    )


def wants_json(accept: str) -> bool:
    """JSON where it alone will do: clients that take anything expect the picture."""
    kinds = {each.partition(";")[0].strip().lower() for each in accept.split(",")}
    return "application/json" in kinds and not kinds & {"*/*", "image/*", "image/png"}


def _as_json(composed: Composed) -> Iterator[str]:
    """The document in pieces; the picture is never whole in memory."""
    left, top, right, bottom = composed.foreground
    yield '{"data":{"result_b64":"'
    with composed.path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield base64.b64encode(piece).decode("ascii")
    yield (
        f'","foreground_top":{top},"foreground_left":{left},'
        f'"foreground_width":{right - left},"foreground_height":{bottom - top}}}}}'
    )
