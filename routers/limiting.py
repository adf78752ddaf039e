"""Rates at the door: who is counted as what, and the headers that tell how they stand."""

from starlette.types import Scope

from models.errors import RateLimited
from routers.middleware import add_headers
from services.access import Caller
from services.container import Services
from services.rate_limits import Standing, Work
from utils.addresses import counted_as

LIGHT_POSTS = frozenset({"/preferences", "/sessions"})
"""Every other POST makes pictures, also one that is added tomorrow."""

_COUNTED = {
    Work.PICTURES: "requests a minute that make pictures",
    Work.READS: "requests a minute",
}


async def count(scope: Scope, caller: Caller, path: str) -> None:
    """Count a request whose caller is known; raises RateLimited."""
    limits, address = _services(scope).rate_limits, _address(scope)
    barred = await limits.barred(caller, address)
    if barred is not None:
        _refuse(scope, barred, "requests a minute without a right key from this address")
    is_light = scope["method"] != "POST" or path in LIGHT_POSTS
    work = Work.READS if is_light else Work.PICTURES
    _admit(scope, await limits.take(caller, address, work), _COUNTED[work])


async def count_refusal(scope: Scope) -> None:
    """Count a request whose key was missing or wrong; raises RateLimited."""
    standing = await _services(scope).rate_limits.take_refusal(_address(scope))
    _admit(scope, standing, "requests a minute without a right key from this address")


def _admit(scope: Scope, standing: Standing | None, counted: str) -> None:
    if standing is None:
        return
    if not standing.allowed:
        _refuse(scope, standing, counted)
    add_headers(scope, _headers(standing))


def _refuse(scope: Scope, standing: Standing, counted: str) -> None:
    """Raises RateLimited."""
    add_headers(scope, _headers(standing))
    raise RateLimited(
        f"More than {standing.limit} {counted}.",
        limit=standing.limit,
        retry_after_s=standing.wait_s,
        hint="Retry-After says in how many seconds there is room again.",
    )


def _headers(standing: Standing) -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(standing.limit),
        "X-RateLimit-Remaining": str(standing.remaining),
        "X-RateLimit-Reset": str(standing.resets_s),
    }


def _services(scope: Scope) -> Services:
    services: Services = scope["state"]["services"]
    return services


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return counted_as(client[0] if client else None)
