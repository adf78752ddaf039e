"""Who asks: found before a route is, so that no route can be forgotten and no upload is read first.

With API_KEYS set, every address wants a key but those in OPEN_PATHS; what a session may do is
listed here, everything else it may not.
"""

import re
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import InvalidKey, MissingKey, NotAllowed, ServiceError
from routers import limiting, pages
from routers.problems import refused
from services.access import OPEN, UNKNOWN, Caller, CallerKind, caller
from services.container import Services
from utils import logs

UNCOUNTED_PATHS = frozenset(
    {
        *("/health", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"),
        *pages.FILES,
    }
)
"""No rate is limited here: to answer costs as little as to refuse."""

OPEN_PATHS = UNCOUNTED_PATHS | {"/ready"}
"""What anybody may see, keys or not: of the pages only the files, which hold nobody's data."""

METRICS = "/metrics"
"""Opened by METRICS_TOKEN as well, and where that is set, by nothing less than it or an API key."""

SESSIONS_MAY_POST = frozenset({"/remove-background", "/process", "/upscale", "/analyze"})
"""What a browser session may ask for; beside it, it may pick, and GET and render its results."""

PICKS = "/preferences"
_PICK = re.compile("/preferences/([0-9a-f]{32})")

_RENDERING = re.compile("/results/[0-9a-f]{32}/render")

_REQUEST_ID = re.compile("[0-9a-f]{32}")
_TOKEN = b"token="


class Door:
    """Lets nobody pass whom the service does not know; remembers the caller for what follows."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            found = await _admit(scope, scope["state"]["services"])
        except ServiceError as refusal:
            await refused(refusal)(scope, receive, send)
            return
        # neither is reset: the request's task, and with it its context, ends with the request
        caller.set(found)
        logs.key_id.set(found.key_id)
        await self._app(scope, receive, send)


async def _admit(scope: Scope, services: Services) -> Caller:
    """Whom the request comes from; raises AccessRefused kinds, RateLimited, or ResultNotFound."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    request_id = _result_named(path)
    reading = request_id if scope["method"] == "GET" else None
    token = _take_token(scope) if reading else None
    if path in UNCOUNTED_PATHS:
        return OPEN
    scraper = services.access.scraper if path == METRICS else ()
    if (not services.access.required and not scraper) or path in OPEN_PATHS:
        await limiting.count(scope, OPEN, path)
        return OPEN
    logs.key_id.set(UNKNOWN)
    try:
        found = _identified(scope, services, path, token=token, reading=reading)
    except (MissingKey, InvalidKey):
        await limiting.count_refusal(scope)
        raise
    logs.key_id.set(found.key_id)
    await limiting.count(scope, found, path)
    if found.kind is CallerKind.LINK:
        return found
    if found.kind is CallerKind.SESSION and not reading:
        if scope["method"] == "DELETE" and (picked := _PICK.fullmatch(path)):
            request_id = picked[1]  # a pick taken back: of its own shots alone
        else:
            _require_allowed(found, scope["method"], path)
    if request_id:
        await services.results.require_owner(request_id, found.owns)
    return found


def _identified(
    scope: Scope, services: Services, path: str, *, token: str | None, reading: str | None
) -> Caller:
    """Whose key, session or link to the result `reading` it is; raises MissingKey, InvalidKey."""
    credential = _credential(Headers(scope=scope))
    if credential and path == METRICS and services.access.scraper.id_of(credential):
        return OPEN
    if credential is not None:
        return services.access.identify(credential)
    if token and reading:
        return services.access.follow(token, reading)
    raise MissingKey(
        "This address wants a key.",
        hint="Send it as Authorization: Bearer … or as X-API-Key.",
    )


def _require_allowed(session: Caller, method: str, path: str) -> None:
    """Raises NotAllowed, and SessionExhausted before the upload is read."""
    if method == "POST" and (path == PICKS or _RENDERING.fullmatch(path)):
        return  # out of its last shot as well; whose the shot is, is asked elsewhere
    if method != "POST" or path not in SESSIONS_MAY_POST:
        raise NotAllowed(
            "A browser session may remove backgrounds, enlarge, analyze, read and render its own "
            "results, and pick.",
            hint="Everything else wants the API key.",
        )
    session.require_credit()


def _result_named(path: str) -> str | None:
    """The id in an address of /results/{id} or below, whatever stands behind it."""
    parts = path.split("/", 3)
    if len(parts) < 3 or parts[1] != "results" or not _REQUEST_ID.fullmatch(parts[2]):
        return None
    return parts[2]


def _take_token(scope: Scope) -> str | None:
    """The link's token, taken out of the query: no route knows it, and no log meets it."""
    pairs = scope["query_string"].split(b"&")
    tokens = [pair for pair in pairs if pair.startswith(_TOKEN)]
    if not tokens:
        return None
    scope["query_string"] = b"&".join(pair for pair in pairs if pair not in tokens)
    return unquote(tokens[0].removeprefix(_TOKEN).decode("latin-1")) or None


def _credential(headers: Headers) -> str | None:
    """The key or session token that a request shows; Authorization wins."""
    scheme, _, shown = headers.get("authorization", "").partition(" ")
    bearer = shown.strip() if scheme.lower() == "bearer" else ""
    return bearer or headers.get("x-api-key", "").strip() or None
