"""Runware's wire protocol as pure functions: frames to send, frames read, failures classified.

Replies are matched by taskUUID alone: the server may answer with an older task name, wrap a frame
in an array, put data and errors into one frame, or name an error that belongs to no task.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

from models.errors import FailureCode

_URL_KEYS = ("imageURL", "mediaURL")
_OLD_BAD_KEY = 19


@dataclass(frozen=True, slots=True)
class Authenticated:
    session: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server knows the task: acknowledged, still running, or sent before (conflict)."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Done:
    """The result's address and what it cost in US dollars, where the server said so."""

    task_id: str
    url: str
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A failure, of one task or (`task_id` None) of the connection."""

    task_id: str | None
    code: str
    message: str


Reply: TypeAlias = Authenticated | Accepted | Done | Refused


def authentication(api_key: str, session: str | None) -> str:
    task = {"taskType": "authentication", "apiKey": api_key}
    if session is not None:
        task["connectionSessionUUID"] = session
    return json.dumps([task])


def ping() -> str:
    return json.dumps([{"taskType": "ping", "ping": True}])


def removal(task_id: str, *, air: str, image: str) -> str:
    """A removal to be delivered asynchronously as the address of a PNG; `image` is a data URI."""
    task = {
        "taskType": "removeBackground",
        "taskUUID": task_id,
        "model": air,
        "inputs": {"image": image},
        "outputType": "URL",
        "outputFormat": "PNG",
        "includeCost": True,
        "deliveryMethod": "async",
    }
    return json.dumps([task])


def poll(task_id: str) -> str:
    return json.dumps([{"taskType": "getResponse", "taskUUID": task_id}])


def read_frame(frame: str | bytes) -> list[Reply]:
    """Everything a frame says that matters here; what cannot be read says nothing."""
    try:
        document = json.loads(frame)
    except (ValueError, RecursionError):
        return []
    return [
        reply
        for part in _as_list(document)
        if isinstance(part, dict)
        for reply in (*_replies(part), *_refusals(part))
    ]


def failure_of(code: str) -> tuple[FailureCode, bool]:
    """Our code for one of theirs, and whether asking again makes sense. Case does not matter."""
    for pattern, failure, retryable in _CLASSES:
        if re.search(pattern, code, re.IGNORECASE):
            return failure, retryable
    return FailureCode.PROVIDER_ERROR, False


_CONTENT = r"content.?policy|sensitive|unsafe|nsfw|blocked|moderation|invalidProviderContent"
_RATE = r"ratelimit"
_QUOTA = r"credit|quota|balance|paymentRequired|environmentPaused"
_KEY = (
    r"apikey|unauthori|forbidden|permission|authentication|credentials|^token|"
    r"(account|organization|workspace)(suspended|disabled)"
)
_TIME = r"timeout"
_OUR_FAULT = (
    r"^(invalid|missing|unsupported|unknownParameter|incompatible|value|array|conflict|"
    r"duplicate|max)"
)
_GONE = r"notFound|expired|cancelled"
_PASSING = (
    r"server|unavailable|disabled|notReady|provider|inference|processing|failed|standardError|"
    r"unknownError|undefinedError|defaultError|unrecognizedResponse"
)
# the first that fits wins
_CLASSES = (
    (_CONTENT, FailureCode.CONTENT_REJECTED, False),
    (_RATE, FailureCode.PROVIDER_RATE_LIMITED, True),
    (_QUOTA, FailureCode.PROVIDER_QUOTA, False),
    (_KEY, FailureCode.PROVIDER_REFUSED, False),
    (_TIME, FailureCode.PROVIDER_TIMEOUT, True),
    (_OUR_FAULT, FailureCode.PROVIDER_ERROR, False),
    (_GONE, FailureCode.PROVIDER_ERROR, False),
    (_PASSING, FailureCode.PROVIDER_ERROR, True),
)


def _replies(part: dict[str, Any]) -> Iterator[Reply]:
    for item in _as_list(part.get("data")):
        if isinstance(item, dict) and (reply := _reply(item)) is not None:
            yield reply


def _reply(item: dict[str, Any]) -> Reply | None:
    session = item.get("connectionSessionUUID")
    if item.get("taskType") == "authentication":
        return Authenticated(session) if isinstance(session, str) else None
    task_id = _task_id(item)
    if task_id is None:
        return None
    if item.get("status") == "error" or item.get("error"):
        return _refusal({**_as_dict(item.get("error")), "taskUUID": task_id})
    for key in _URL_KEYS:
        if isinstance(item.get(key), str):
            return Done(task_id, item[key], _cost(item.get("cost")))
    return Accepted(task_id)


def _refusals(part: dict[str, Any]) -> Iterator[Reply]:
    if part.get("error") is True:
        yield _refusal_of_old(part)
    errors = part["errors"] if part.get("errors") else part.get("error")
    for error in _as_list(errors):
        if isinstance(error, dict):
            yield _refusal(error)


def _refusal(error: dict[str, Any]) -> Reply:
    task_id, code = _task_id(error), str(error.get("code", "unknownError"))
    if code.lower() == "conflicttaskuuid" and task_id is not None:
        return Accepted(task_id)
    if error.get("taskType") == "authentication":
        task_id = None
    return Refused(task_id, code, str(error.get("message", "")))


def _refusal_of_old(part: dict[str, Any]) -> Refused:
    """The shape before `errors`: numbers for codes, of which 19 is a wrong key."""
    code = "invalidApiKey" if part.get("errorId") == _OLD_BAD_KEY else "unknownError"
    return Refused(_task_id(part), code, str(part.get("errorMessage", "")))


def _task_id(item: dict[str, Any]) -> str | None:
    found = item.get("taskUUID")
    return found if isinstance(found, str) and found != "N/A" else None


def _cost(value: object) -> Decimal | None:
    """Through text, so that 0.0006 stays 0.0006."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        cost = Decimal(str(value))
    except InvalidOperation:
        return None
    return cost if cost.is_finite() and cost >= 0 else None


def _as_list(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _as_dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
