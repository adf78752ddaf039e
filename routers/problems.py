"""Errors as problem+json (RFC 9457): one table from our errors to HTTP, and the handlers for it."""

import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from models import errors
from models.schemas import Problem
from routers import removebg_problems
from services.room import refusal_of_disk
from utils import logs

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_MOST_LOGGED = 300  # characters of a detail, which may name a parameter of 60 kB


on_problem: ContextVar[Callable[["Kind"], None] | None] = ContextVar("on_problem", default=None)
"""Who is told of the problem that the request under way meets, before its caller is: whole answers
and those inside a stream alike."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one of our errors looks from outside; `example` is its detail in the OpenAPI document."""

    status: int
    code: str
    title: str
    example: str
    retryable: bool = False


TABLE: Mapping[type[errors.ServiceError], Kind] = {
    errors.MissingSource: Kind(
        400, "missing_source", "No picture", "Send a file part `image`, or image_url."
    ),
    errors.MultipleSources: Kind(
        400, "multiple_sources", "More than one picture", "Send exactly one: a file or image_url."
    ),
    errors.EmptyFile: Kind(400, "empty_file", "Empty file", "The file has no bytes."),
    errors.ImageUrlRefused: Kind(
        400, "image_url_refused", "Address refused", "The host is not a public address."
    ),
    errors.InvalidParameter: Kind(
        400, "invalid_parameter", "Bad parameter", "deadline_s: must be at most 55."
    ),
    errors.MultipleBackgrounds: Kind(
        400, "multiple_bg_sources", "More than one background", "Give one of the bg_ parameters."
    ),
    errors.RegionOutside: Kind(
        400, "roi_exceeds_bounds", "Region beyond the picture", "The picture is 64 x 48 pixels."
    ),
    errors.RegionEmpty: Kind(400, "roi_region_empty", "Empty region", "roi: holds no pixel."),
    errors.UnsupportedParameter: Kind(
        400, "unsupported_parameter", "Not done here", "add_shadow: no shadows are made here."
    ),
    errors.MissingKey: Kind(
        401, "missing_key", "No key", "Send a key as Authorization: Bearer or X-API-Key."
    ),
    errors.InvalidKey: Kind(401, "invalid_key", "Unknown key", "The key is not known here."),
    errors.NotAllowed: Kind(403, "not_allowed", "Not allowed", "A session may not do this."),
    errors.SessionExhausted: Kind(
        403, "session_exhausted", "Session used up", "All shots of this session are used up."
    ),
    errors.RateLimited: Kind(
        429,
        "rate_limited",
        "Too many requests",
        "More than 600 requests a minute that make pictures.",
        retryable=True,
    ),
    errors.UnknownHost: Kind(
        421, "unknown_host", "Wrong host", "The service is not reached by this name."
    ),
    errors.BudgetExhausted: Kind(
        402,
        "budget_exhausted",
        "Budget spent",
        "kie-recraft may cost 0.005 USD; of DAILY_BUDGET_USD (5 USD) 0.002 USD are left.",
    ),
    errors.ResultNotFound: Kind(404, "result_not_found", "No such result", "There is no shot 0."),
    errors.BodyTooSlow: Kind(
        408,
        "body_too_slow",
        "Body too slow",
        "Nothing of the body came for 20 s.",
        retryable=True,
    ),
    errors.NotPickable: Kind(
        409, "not_pickable", "Nothing to pick", "kie-recraft has no cut-out in this shot."
    ),
    errors.IdempotencyInFlight: Kind(
        409,
        "idempotency_in_flight",
        "Still being answered",
        "The first still runs.",
        retryable=True,
    ),
    errors.IdempotencyMismatch: Kind(
        422, "idempotency_mismatch", "Key used before", "It was used for another picture."
    ),
    errors.IdempotencyUnavailable: Kind(
        503, "idempotency_unavailable", "Keys cannot be kept", "Nothing was sent.", retryable=True
    ),
    errors.NothingToCompare: Kind(
        409, "nothing_to_compare", "Too few cut-outs", "Shot 0 holds 1 cut-out; it takes two."
    ),
    errors.OriginalNotKept: Kind(
        409, "original_not_kept", "No original", "The shot's picture was not kept."
    ),
    errors.FileTooLarge: Kind(
        413, "file_too_large", "File too large", "The upload is larger than 100 MiB."
    ),
    errors.UnsupportedMediaType: Kind(
        415, "unsupported_media_type", "Not a picture we read", "Send PNG, JPEG, WebP or TIFF."
    ),
    errors.UnreadableImage: Kind(
        422, "unreadable_image", "Unreadable picture", "The JPEG could not be decoded."
    ),
    errors.ImageTruncated: Kind(
        422, "image_truncated", "Picture cut short", "The PNG ends before its last row."
    ),
    errors.TooManyPixels: Kind(
        422, "too_many_pixels", "Too many pixels", "The picture has 80 million pixels."
    ),
    errors.ScaleOutOfRange: Kind(
        422, "scale_out_of_range", "Scale out of range", "It would become 9.5 times as large."
    ),
    errors.SideTooLong: Kind(
        422, "side_too_long", "Side too long", "A WebP has at most 16383 pixels a side."
    ),
    errors.ImageDownloadFailed: Kind(
        422, "image_download_failed", "Download failed", "The server answered 404."
    ),
    errors.UnknownForeground: Kind(
        422, "unknown_foreground", "No foreground", "Nothing was recognised as foreground."
    ),
    errors.AllModelsFailed: Kind(
        502, "all_models_failed", "Every model failed", "local-isnet: model_crashed", retryable=True
    ),
    errors.PickFailed: Kind(
        502, "pick_failed", "The picked model failed", "local-isnet: model_crashed", retryable=True
    ),
    errors.NoModelAvailable: Kind(
        503, "no_model_available", "No model", "local-isnet: no weights.", retryable=True
    ),
    errors.Overloaded: Kind(
        503, "overloaded", "Too busy", "4 requests run and 32 are waiting.", retryable=True
    ),
    errors.Draining: Kind(
        503, "draining", "Being stopped", "No new work is taken.", retryable=True
    ),
    errors.InsufficientMemory: Kind(
        503, "insufficient_memory", "Too large for the memory", "A WebP of 20000 x 20000 pixels."
    ),
    errors.PicksUnavailable: Kind(
        503, "picks_unavailable", "Pick not kept", "It could not be written.", retryable=True
    ),
    errors.DeadlineExceeded: Kind(
        504, "deadline_exceeded", "Too late", "No model landed in 20 s.", retryable=True
    ),
    errors.InsufficientStorage: Kind(
        507, "insufficient_storage", "Disk full", "12 MiB are free.", retryable=True
    ),
    errors.StorageUnavailable: Kind(
        503,
        "storage_unavailable",
        "Disk out of order",
        "The disk for uploads cannot be written or read at the moment.",
        retryable=True,
    ),
}

NOT_FOUND = Kind(404, "not_found", "Not found", "There is nothing at this address.")
WRONG_METHOD = Kind(405, "method_not_allowed", "Wrong method", "POST is not allowed here.")
CRASHED = Kind(
    500, "internal_error", "Our fault", "The service met an unexpected error; it has been logged."
)
_HTTP_KINDS = {404: NOT_FOUND}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def install(app: FastAPI) -> None:
    """Answer every error of the application as problem+json."""
    app.add_exception_handler(errors.ServiceError, _on_service_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def responses(*kinds: type[errors.ServiceError]) -> dict[int | str, dict[str, Any]]:
    """What a route says of its errors in the OpenAPI document, grouped by status."""
    documented: dict[int | str, dict[str, Any]] = {}
    of_every_route = (TABLE[errors.StorageUnavailable], CRASHED)
    for kind in (*(TABLE[each] for each in kinds), *of_every_route):
        documented.setdefault(kind.status, _documented(kind.status))["content"][MEDIA_TYPE][
            "examples"
        ][kind.code] = {"value": _body(kind, kind.example)}
    return documented


def problem(kind: Kind, detail: str, **members: float | str | None) -> JSONResponse:
    """One error as a response."""
    return ProblemResponse(_body(kind, detail, **members), kind.status)


class ProblemResponse(JSONResponse):
    """A problem; below remove.bg's addresses it is told in remove.bg's shape."""

    media_type = MEDIA_TYPE

    def __init__(self, members: dict[str, Any], status: int) -> None:
        super().__init__(members, status_code=status)
        self._members = members

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not removebg_problems.are_told_at(scope):
            await super().__call__(scope, receive, send)
            return
        retold = removebg_problems.retold(self._members, kept=self.headers)
        await retold(scope, receive, send)


def crashed() -> JSONResponse:
    return problem(CRASHED, CRASHED.example)


def _documented(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {
            MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
        },
    }


def _body(kind: Kind, detail: str, **members: float | str | None) -> dict[str, Any]:
    if (tell := on_problem.get()) is not None:
        tell(kind)
    body = Problem(
        type=f"urn:dtf-image-service:problem:{kind.code}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        code=kind.code,
        request_id=logs.request_id.get() or "",
        retryable=kind.retryable,
    )
    return body.model_copy(update=members).model_dump(exclude_none=True)


def told(error: Exception) -> dict[str, Any]:
    """The problem's members, for an answer that has begun; whatever is not ours is our fault."""
    if isinstance(error, OSError):
        error = refusal_of_disk(error) or error
    if not isinstance(error, errors.ServiceError):
        _log.error("crashed", exc_info=error)
        return _body(CRASHED, CRASHED.example)
    kind = TABLE[type(error)]
    _log.info("problem", extra={"code": kind.code, "detail": error.detail[:_MOST_LOGGED]})
    return _body(
        kind,
        error.detail,
        limit=error.limit,
        actual=error.actual,
        hint=error.hint,
        field=error.field,
    )


async def _on_service_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.ServiceError)  # noqa: S101  # registered for it alone
    return refused(error)


def refused_by_disk(error: Exception) -> JSONResponse | None:
    """The answer where a disk that refuses is behind what nobody caught; None for anything else."""
    refusal = refusal_of_disk(error) if isinstance(error, OSError) else None
    if refusal is None:
        return None
    _log.error("disk_refuses", extra={"reason": getattr(error, "strerror", None)})
    return refused(refusal)


def refused(error: errors.ServiceError) -> JSONResponse:
    """One of our errors as a response, logged."""
    kind = TABLE[type(error)]
    response = ProblemResponse(told(error), kind.status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    if kind.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


async def _on_validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # registered for it alone
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    kind = TABLE[errors.InvalidParameter]
    return problem(kind, f"{field}: {first['msg']}", field=field)


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for it alone
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return _wrong_method(request)
    kind = _HTTP_KINDS.get(error.status_code)
    if kind is None:
        phrase = HTTPStatus(error.status_code).phrase
        kind = Kind(error.status_code, phrase.lower().replace(" ", "_"), phrase, phrase)
    response = problem(kind, kind.example)
    response.headers.update(error.headers or {})
    return response


def _wrong_method(request: Request) -> JSONResponse:
    """With every method that this address has in `Allow` (RFC 9110, 10.2.1).

    Starlette would name those of the first route alone.
    """
    allowed = [method for method in _METHODS if _is_there(request, method)]
    response = problem(WRONG_METHOD, f"{request.method} is not allowed here.")
    response.headers["Allow"] = ", ".join(allowed)
    return response


def _is_there(request: Request, method: str) -> bool:
    asked = {**request.scope, "method": method}
    return any(route.matches(asked)[0] is Match.FULL for route in request.app.routes)
