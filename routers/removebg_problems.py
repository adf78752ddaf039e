"""Our problems in remove.bg's shape, with its statuses and codes: whatever happens below /v1.0/.

Also what is refused before a route is found (the door, an unknown address) and what crashes.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Protocol

from fastapi.responses import JSONResponse
from starlette.types import Scope

PREFIX = "/v1.0"

_KEPT_HEADERS = ("retry-after", "allow")

# ours to theirs; what is not named keeps its status and its code
_RETOLD: Mapping[str, tuple[int, str]] = {
    "missing_key": (403, "auth_failed"),
    "invalid_key": (403, "auth_failed"),
    "rate_limited": (429, "rate_limit_exceeded"),
    "budget_exhausted": (402, "insufficient_credits"),
    "session_exhausted": (402, "insufficient_credits"),
    "empty_file": (400, "failed_to_read_image"),
    "unreadable_image": (400, "failed_to_read_image"),
    "image_truncated": (400, "failed_to_read_image"),
    "file_too_large": (400, "file_too_large"),
    "unsupported_media_type": (400, "invalid_file_type"),
    "too_many_pixels": (400, "resolution_too_high"),
    "insufficient_memory": (400, "resolution_too_high"),
    "side_too_long": (400, "invalid_dimensions"),
    "unknown_foreground": (400, "unknown_foreground"),
    "image_url_refused": (400, "invalid_image_url"),
    "image_download_failed": (400, "failed_image_download"),
    "idempotency_mismatch": (400, "idempotency_mismatch"),
}
_OF_BACKGROUND = {
    "image_url_refused": "invalid_bg_image_url",
    "image_download_failed": "failed_bg_download",
}
_OF_FIELD = {
    "bg_color": "invalid_bg_color",
    "bg_image_url": "invalid_bg_image_url",
    "channels": "invalid_channels",
    "crop_margin": "invalid_crop_margin",
    "format": "invalid_format",
    "image_file_b64": "failed_to_read_image",
    "image_url": "invalid_image_url",
    "position": "invalid_position",
    "roi": "invalid_roi",
    "scale": "invalid_scale",
    "semitransparency": "invalid_semitransparency",
    "size": "invalid_size",
}
_FIELD_FAULTS = {"invalid_parameter", "unsupported_parameter"}


def are_told_at(scope: Scope) -> bool:
    """Whether the request's address is one of remove.bg's."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.startswith(f"{PREFIX}/")


def retold(problem: Mapping[str, Any], *, kept: Mapping[str, str]) -> JSONResponse:
    """The response to a problem's members, with what still means something of `kept` headers."""
    status, code = status_and_code(problem)
    detail = " ".join(part for part in (problem["detail"], problem.get("hint")) if part)
    body = {"errors": [{"title": problem["title"], "code": code, "detail": detail}]}
    headers = {name: kept[name] for name in _KEPT_HEADERS if name in kept}
    return JSONResponse(body, status_code=status, headers=headers)


def status_and_code(problem: Mapping[str, Any]) -> tuple[int, str]:
    """How remove.bg would call it."""
    code, field = problem["code"], problem.get("field")
    status, name = _RETOLD.get(code, (problem["status"], code))
    if field == "bg_image_url":
        name = _OF_BACKGROUND.get(code, name)
    if code in _FIELD_FAULTS:
        name = _OF_FIELD.get(field or "", name)
    return status, name


class Kind(Protocol):
    """One of our kinds of problem, as routers/problems.py lists them."""

    @property
    def status(self) -> int: ...
    @property
    def code(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def example(self) -> str: ...


def responses_there(kinds: Iterable[Kind]) -> dict[int | str, dict[str, Any]]:
    """What a route says of its errors in the OpenAPI document, grouped by status."""
    documented: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        there, name = status_and_code({"status": kind.status, "code": kind.code})
        example = {"errors": [{"title": kind.title, "code": name, "detail": kind.example}]}
        documented.setdefault(there, _documented(there))["content"]["application/json"]["examples"][
            name
        ] = {"value": example}
    return documented


def _documented(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/RemovebgErrors"},
                "examples": {},
            }
        },
    }
