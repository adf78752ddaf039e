"""Connections that are let go: those that ask for nothing, for too much, or take no answer.

uvicorn's own protocol waits for a request's head for ever, takes one of any length, queues
whatever is pipelined, and has no end of connections. None of that reaches the application, so it
is bounded in a protocol of our own, which `guard` puts in the place of uvicorn's.
"""

import asyncio
import itertools
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from routers.signals import running_server

_TURNS = itertools.count()  # who has waited longest; the loop's clock has only milliseconds
_log = logging.getLogger(__name__)

HEAD_S = 15
"""Seconds in which a request's head must be whole, from the connection or the last answer on."""

MOST_HEAD_BYTES = 64 << 10
"""Bytes of a head, or of anything else that is neither body nor the end of a request."""

MOST_PIPELINED = 8
"""Requests that may wait behind the one being answered."""

MOST_CONNECTIONS = 512
"""Connections at once, below the 1024 open files that a process usually may have."""

STALL_S = 300
"""Seconds in which a client takes nothing of any answer until its connection is cut; pictures
that are made while they are sent have CLIENT_STALL_S, which is shorter."""


def guard() -> None:
    """Have the server that starts us make guarded connections; it listens when we are ready.

    Nothing is changed where uvicorn is not the process's own server or does not use httptools.
    """
    server = running_server()
    if server is None or server.config.http_protocol_class is not HttpToolsProtocol:
        _log.info("connections_not_guarded")
        return
    server.config.http_protocol_class = GuardedConnection


class GuardedConnection(HttpToolsProtocol):
    """uvicorn's protocol with an end to waiting, to heads, to pipelines and to connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # uvicorn's own
        super().__init__(*args, **kwargs)
        self._waiting: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._turn = 0
        self._without_body = 0
        self._moved = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head(HEAD_S)
        if len(self.connections) > MOST_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._moved = False
        super().data_received(data)
        self._without_body = 0 if self._moved else self._without_body + len(data)
        if self._without_body > MOST_HEAD_BYTES:
            self._refuse(431, "The request's head is too long.")

    def on_headers_complete(self) -> None:
        self._moved = True
        self._stop_waiting()
        super().on_headers_complete()
        if len(self.pipeline) > MOST_PIPELINED:
            self._cut("pipelined")

    def on_body(self, body: bytes) -> None:
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._moved = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:
            self._wait_for_head(self.timeout_keep_alive + HEAD_S)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self._stalled or self.loop.call_later(STALL_S, self._cut, "stalled")

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    @property
    def is_waiting(self) -> bool:
        """Whether nobody works for this connection: its request's head is not whole."""
        return self._waiting is not None

    def _wait_for_head(self, seconds: float) -> None:
        self._stop_waiting()
        self._turn = next(_TURNS)
        self._waiting = self.loop.call_later(seconds, self._cut, "no_request")

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _make_room(self) -> None:
        """Cut the connection that has waited longest without a request, at worst the new one."""
        waiting = [
            each
            for each in self.connections
            if isinstance(each, GuardedConnection) and each.is_waiting
        ]
        min(waiting, key=lambda each: each._turn)._cut("too_many_connections")  # noqa: SLF001

    def _refuse(self, status: int, why: str) -> None:
        """Say so where no answer has begun, and close."""
        _log.warning("connection_refused", extra={"status": status})
        if self.cycle is None or self.cycle.response_complete:
            text = why.encode()
            self.transport.write(
                STATUS_LINE[status]
                + b"content-type: text/plain; charset=utf-8\r\n"
                + f"content-length: {len(text)}\r\nconnection: close\r\n\r\n".encode()
                + text
            )
        self.transport.close()

    def _cut(self, why: str) -> None:
        """Without a word: nobody has asked anything, or nobody listens."""
        _log.info("connection_cut", extra={"why": why})
        self.transport.abort()
