"""What stands in front of the routes and answers in their place, as the OpenAPI document says it.

A layer is a line in LAYERS; every operation that it stands before then lists its errors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from models import errors
from routers import removebg_problems
from routers.authentication import OPEN_PATHS, SESSIONS_MAY_POST, UNCOUNTED_PATHS
from routers.problems import TABLE, responses

Responses: TypeAlias = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one address; `told` is its object in the document."""

    address: str
    method: str
    told: dict[str, Any]

    @property
    def reads_a_body(self) -> bool:
        return "requestBody" in self.told

    @property
    def wants_a_key(self) -> bool:
        return self.address not in OPEN_PATHS

    @property
    def is_counted(self) -> bool:
        return self.address not in UNCOUNTED_PATHS

    @property
    def counts_in_sessions(self) -> bool:
        return self.method == "post" and self.address in SESSIONS_MAY_POST


def _every(_: Operation) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Layer:
    """The errors of one layer, and the operations before which it stands."""

    kinds: tuple[type[errors.ServiceError], ...]
    stands_before: Callable[[Operation], bool] = _every


LAYERS = (
    Layer(()),  # the frame around everything: our own fault, as every layer may have it
    Layer((errors.Draining,)),
    Layer((errors.BodyTooSlow,), lambda operation: operation.reads_a_body),
    Layer(
        (errors.RateLimited, errors.UnknownHost),
        lambda operation: operation.is_counted,
    ),
    Layer(
        (errors.MissingKey, errors.InvalidKey, errors.NotAllowed),
        lambda operation: operation.wants_a_key,
    ),
    Layer((errors.SessionExhausted,), lambda operation: operation.counts_in_sessions),
)

_REQUEST_ID = {
    "description": "The request's id, as the log has it: the caller's own where it sent one.",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
}

_OF_A_RATE = {
    name: {"schema": {"type": "integer"}, "description": told}
    for name, told in (
        ("X-RateLimit-Limit", "Requests a minute."),
        ("X-RateLimit-Remaining", "How many of them are left."),
        ("X-RateLimit-Reset", "The second, in Unix time, from which more are left."),
        ("Retry-After", "Seconds until there is room again."),
    )
}


def add_layers(operation: Operation) -> None:
    """The layers' errors among the operation's own, and the header that every answer has."""
    told = operation.told["responses"]
    for layer in LAYERS:
        if layer.stands_before(operation):
            _merge(told, _refusals(operation.address, layer.kinds))
    for status, response in told.items():
        headers = response.setdefault("headers", {})
        headers["X-Request-ID"] = _REQUEST_ID
        if status == "429" and operation.is_counted:
            headers.update(_OF_A_RATE)


def _refusals(address: str, kinds: tuple[type[errors.ServiceError], ...]) -> Responses:
    told = responses(*kinds)
    if address.startswith(removebg_problems.PREFIX):
        told = removebg_problems.responses_there(TABLE[each] for each in kinds)
    return {str(status): response for status, response in told.items()}


def _merge(told: Responses, more: Responses) -> None:
    """Add responses; of a status that is there already, the media types and examples."""
    for status, response in more.items():
        content = told.setdefault(status, response).setdefault("content", {})
        for media_type, described in response["content"].items():
            there = content.setdefault(media_type, described)
            there.setdefault("examples", {}).update(described["examples"])
