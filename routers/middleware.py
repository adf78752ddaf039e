"""What surrounds every request: its id, trace, times and log line, and an answer if all breaks."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from routers.problems import Kind, crashed, on_problem, refused, refused_by_disk
from services.container import Services
from services.draining import Drain
from services.tracing import Step
from utils import logs
from utils.spans import Trace, begin_trace, end_trace

_log = logging.getLogger(__name__)

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CLOSED_BY_CLIENT = 499  # nginx's number; it is only logged


class RequestFrame:
    """Gives each request an id (the client's own when it is sane), times it, logs how it ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id", "")
        request_id = asked if _SANE_ID.fullmatch(asked) else secrets.token_hex(16)
        token = logs.request_id.set(request_id)
        on_problem.set(partial(_note, scope))
        services: Services = scope["state"]["services"]
        try:
            with (
                _drain(scope).attending(),
                _traced(scope, headers, services) as (trace, root),
            ):
                answer = _Answer(send, request_id, scope, trace)
                try:
                    await self._answer(scope, receive, answer)
                finally:
                    answer.end(services, root)
        finally:
            logs.request_id.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            answer.status = _CLOSED_BY_CLIENT
        except asyncio.CancelledError:
            if answer.status is not None:
                raise
            # the server ends, and this is its last moment to say so
            await refused(_drain(scope).refusal())(scope, receive, answer)
        except Exception as error:
            sorry = refused_by_disk(error)
            if sorry is None:
                _log.exception("crashed")
                sorry = crashed()
            if answer.status is not None:
                raise
            await sorry(scope, receive, answer)


@contextmanager
def _traced(
    scope: Scope, headers: Headers, services: Services
) -> Iterator[tuple[Trace, Step | None]]:
    """The request's times, and its exported span where there is a collector."""
    parent = logs.parent_from(headers.get("traceparent", ""))
    root = None
    if services.tracing is not None:
        root = services.tracing.request(scope["method"], parent)
    trace_id = root.trace_id if root else parent and parent.trace_id
    trace = Trace(services.metrics.step, traceparent=parent and parent.traceparent)
    token, named = begin_trace(trace, root), logs.trace_id.set(trace_id)
    services.metrics.request_begins()
    try:
        yield trace, root
    finally:
        logs.trace_id.reset(named)
        end_trace(token)


def _drain(scope: Scope) -> Drain:
    drain: Drain = scope["state"]["services"].drain
    return drain


def add_headers(scope: Scope, headers: Mapping[str, str]) -> None:
    """Headers that go out with whatever the request is answered, errors as well."""
    scope["state"].setdefault("answer_headers", {}).update(headers)


def _note(scope: Scope, met: Kind) -> None:
    """Keep the request's problem for GET /errors, and count it."""
    services: Services = scope["state"]["services"]
    services.metrics.problem(met.code)
    services.recent_errors.note_problem(
        met.code, met.status, method=scope["method"], route=_route(scope)
    )


def _route(scope: Scope) -> str | None:
    """The template of the address, which holds nothing of the client's."""
    path: str | None = getattr(scope.get("route"), "path", None)
    return path


class _Answer:
    """The response on its way out: stamped with id and time, its bytes counted.

    What `add_headers` was given goes out with errors, too.
    """

    def __init__(self, send: Send, request_id: str, scope: Scope, trace: Trace) -> None:
        self.status: int | None = None
        self._send = send
        self._request_id = request_id
        self._scope = scope
        self._trace = trace
        self._began_s = time.monotonic()
        self._bytes = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            headers.append("Server-Timing", self._timing())
            headers.update(self._scope.get("state", {}).get("answer_headers", {}))
            if _drain(self._scope).draining:
                headers["Connection"] = "close"
        elif message["type"] == "http.response.body":
            self._bytes += len(message.get("body", b""))
        await self._send(message)

    def end(self, services: Services, root: Step | None) -> None:
        """Log, count and export how it ended."""
        scope, status = self._scope, self.status or _CLOSED_BY_CLIENT
        method, route = scope["method"], _route(scope)
        seconds = time.monotonic() - self._began_s
        services.metrics.request_ends(route=route, method=method, status=status, seconds=seconds)
        if root is not None:
            root.answered(method=method, route=route, status=status)
        facts = {
            "method": method,
            "route": route,
            "status": status,
            "ms": round(seconds * 1000),
            "bytes": self._bytes,
        }
        _log.info("request", extra=facts)

    def _timing(self) -> str:
        """What was measured until the answer began; a model stands under its name."""
        total = {"total": time.monotonic() - self._began_s}
        steps = {**self._trace.seconds, **total}
        return ", ".join(f"{name};dur={1000 * seconds:.0f}" for name, seconds in steps.items())
