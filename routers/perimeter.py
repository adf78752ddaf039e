"""The layers around the routes, and the order in which a request goes through them.

From outside: TrustedProxies (who really asks) → SecurityHeaders (on every answer, whoever gives it)
→ RequestFrame (id, time, log line) → KnownHosts → CORS → Door (who asks, how often) → Pace (a body
that keeps coming) → the routes.
Whatever a layer refuses has passed the three before it on its way out.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import UnknownHost
from routers.authentication import Door
from routers.middleware import RequestFrame
from routers.pacing import Pace
from routers.problems import refused
from utils.addresses import Network, client_behind, read_address, read_network

EXPOSED_HEADERS = (
    *("X-Request-ID", "Server-Timing", "Retry-After", "Location", "ETag", "Content-Disposition"),
    *("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"),
    *("X-Cost-USD", "Idempotent-Replayed", "X-Deduplicated", "Preference-Applied"),
    *("X-Model", "X-Width", "X-Height", "X-Type", "X-Source-DPI", "X-Output-DPI"),
    *("X-Choke-MM", "X-Edge-Report", "X-Print-Note", "X-Result-URL", "X-Credits-Charged"),
    *("X-Foreground-Top", "X-Foreground-Left", "X-Foreground-Width", "X-Foreground-Height"),
)
"""What a script of an allowed origin may read beside the body."""

_ASKED_HEADERS = (
    *("Authorization", "X-API-Key", "Content-Type", "Accept", "Prefer"),
    *("Idempotency-Key", "If-None-Match", "X-Request-ID"),
)
_METHODS = ("GET", "HEAD", "POST", "DELETE")
_PREFLIGHT_S = 600

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_ANY_HOST = "/health"
"""Platforms ask here by address, whatever name that is."""

_NO_CONTENT = "default-src 'none'; frame-ancestors 'none'"
_DOCUMENTATION = (
    "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net https://fonts.googleapis.com; "
    "font-src https://fonts.gstatic.com; worker-src blob:; frame-ancestors 'none'; "
    "img-src 'self' data: blob: https://fastapi.tiangolo.com https://cdn.redoc.ly"
)
"""FastAPI's two pages: their own inline script, and what they load from their CDN."""
_POLICIES = {path: _DOCUMENTATION.encode() for path in ("/docs", "/docs/oauth2-redirect", "/redoc")}
_ON_EVERY_ANSWER = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_YEAR_S = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Edge:
    """What the layers are told; empty: no proxy, any host, no foreign origin.

    A body may be silent for `stall_s` seconds and take `upload_s`.
    """

    stall_s: float
    upload_s: float
    proxies: Collection[str] = ()
    hosts: Collection[str] = ()
    public_base_url: str = ""
    origins: Collection[str] = ()


def install(app: FastAPI, edge: Edge) -> None:
    """Put every layer around the application; what is added last is outermost."""
    app.add_middleware(Pace, stall_s=edge.stall_s, total_s=edge.upload_s)
    app.add_middleware(Door)
    if edge.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(edge.origins),
            allow_methods=_METHODS,
            allow_headers=_ASKED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
            max_age=_PREFLIGHT_S,
        )
    if edge.hosts:
        app.add_middleware(KnownHosts, hosts=edge.hosts, public_base_url=edge.public_base_url)
    app.add_middleware(RequestFrame)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(TrustedProxies, proxies=[read_network(each) for each in edge.proxies])


class TrustedProxies:
    """Sets the client and the scheme: the socket's own, or what a configured proxy says of them."""

    def __init__(self, app: ASGIApp, proxies: Sequence[Network]) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["client"], scope["scheme"] = _at_the_socket(scope, receive)
            if self._proxies and scope["client"]:
                self._believe(scope)
        await self._app(scope, receive, send)

    def _believe(self, scope: Scope) -> None:
        peer = read_address(scope["client"][0])
        if peer is None or not any(peer in network for network in self._proxies):
            return
        if forwarded := _values(scope, b"x-forwarded-for"):
            scope["client"] = (str(client_behind(peer, forwarded, self._proxies)), 0)
        schemes = ",".join(_values(scope, b"x-forwarded-proto")).split(",")
        if (last := schemes[-1].strip().lower()) in {"http", "https"}:
            scope["scheme"] = last


def _at_the_socket(scope: Scope, receive: Receive) -> tuple[tuple[str, int] | None, str]:
    """Peer and scheme as the connection has them.

    Started as `uvicorn main:app`, uvicorn has by now believed what a peer on this machine said of
    itself, in the scope; its connection was not changed by that.
    """
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is None:  # another server
        return scope.get("client"), scope["scheme"]
    peer = transport.get_extra_info("peername")
    client = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None
    return client, "https" if transport.get_extra_info("sslcontext") else "http"


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for each, value in scope["headers"] if each == name]


class SecurityHeaders:
    """Adds to every answer what it does not say itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _with_security(list(message.get("headers", ())), scope)
            await send(message)

        await self._app(scope, receive, secured)


_Headers = list[tuple[bytes, bytes]]


def _with_security(headers: _Headers, scope: Scope) -> _Headers:
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    said = {name.lower() for name, _ in headers}
    added = [pair for pair in _ON_EVERY_ANSWER if pair[0] not in said]
    if b"content-security-policy" not in said:
        policy = _POLICIES.get(path, _NO_CONTENT.encode())
        added += [(b"content-security-policy", policy), (b"x-frame-options", b"DENY")]
    # a shop's page shows results by their links; what else is here is for this origin
    shown_by = b"cross-origin" if path.startswith("/results/") else b"same-origin"
    added.append((b"cross-origin-resource-policy", shown_by))
    if scope["scheme"] == "https":
        added.append((b"strict-transport-security", b"max-age=%d" % _YEAR_S))
    return headers + added


class KnownHosts:
    """Refuses requests for names that are not this service's."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], public_base_url: str) -> None:
        self._app = app
        own = urlsplit(public_base_url).hostname
        self._names = {*hosts, *_LOOPBACK, *([own] if own else [])}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == _ANY_HOST or self._knows(scope):
            await self._app(scope, receive, send)
            return
        refusal = UnknownHost(
            "The service is not reached by this name.",
            hint="ALLOWED_HOSTS names those by which it is.",
        )
        await refused(refusal)(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        named = _values(scope, b"host")
        return len(named) == 1 and _without_port(named[0]) in self._names


def _without_port(host: str) -> str:
    """`shop.example:8000` and `[::1]:8000` without the number, in lower case."""
    name, _, port = host.strip().lower().rpartition(":")
    return name if name and port.isdecimal() else host.strip().lower()
