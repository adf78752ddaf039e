"""What surrounds every request: its id, its time, its one log line, and an answer if all breaks."""

import logging
import re
import secrets
from collections.abc import Mapping
from functools import partial

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from routers.problems import Kind, crashed, on_problem
from utils import logs
from utils.clock import Stopwatch

_log = logging.getLogger(__name__)

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CLOSED_BY_CLIENT = 499  # nginx's number; it is only logged


class RequestFrame:
    """Gives each request an id (the client's own when it is sane) and logs how it ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _SANE_ID.fullmatch(asked) else secrets.token_hex(16)
        token = logs.request_id.set(request_id)
        on_problem.set(partial(_note, scope))
        try:
            await self._answer(scope, receive, _Answer(send, request_id, scope))
        finally:
            logs.request_id.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            answer.status = _CLOSED_BY_CLIENT
        except Exception:
            _log.exception("crashed")
            if answer.status is not None:
                raise
            await crashed()(scope, receive, answer)
        finally:
            answer.log(scope)


def add_headers(scope: Scope, headers: Mapping[str, str]) -> None:
    """Headers that go out with whatever the request is answered, errors as well."""
    scope["state"].setdefault("answer_headers", {}).update(headers)


def _note(scope: Scope, met: Kind) -> None:
    """Keep the request's problem for GET /errors."""
    scope["state"]["services"].recent_errors.note_problem(
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

    def __init__(self, send: Send, request_id: str, scope: Scope) -> None:
        self.status: int | None = None
        self._send = send
        self._request_id = request_id
        self._scope = scope
        self._watch = Stopwatch()
        self._bytes = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            headers.append("Server-Timing", f"total;dur={self._watch.ms()}")
            headers.update(self._scope.get("state", {}).get("answer_headers", {}))
        elif message["type"] == "http.response.body":
            self._bytes += len(message.get("body", b""))
        await self._send(message)

    def log(self, scope: Scope) -> None:
        facts = {
            "method": scope["method"],
            "route": _route(scope),
            "status": self.status,
            "ms": self._watch.ms(),
            "bytes": self._bytes,
        }
        _log.info("request", extra=facts)
