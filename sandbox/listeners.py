"""The HTTP servers: one uvicorn, a port for each application, and a way to hang up.

The server takes no signals, so that it can live inside a program that handles its own.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Generator, Mapping

import uvicorn
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_STATE_KEY = "sandbox_transport"


@contextlib.asynccontextmanager
async def serving(
    apps: Mapping[socket.socket, ASGIApp], *, max_body_bytes: int, max_sockets: int
) -> AsyncIterator[None]:
    """Every socket answers with its application until the block ends; then all are closed."""
    by_port = {each.getsockname()[1]: app for each, app in apps.items()}
    app = _Bounded(_ByPort(by_port), max_bytes=max_body_bytes)
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        limit_concurrency=max_sockets,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=list(apps)))
    try:
        yield
    finally:
        server.leave()
        await task


def listen(host: str, port: int) -> socket.socket:
    """Connections inherit TCP_NODELAY: asyncio does not set it where the protocol number is 0.

    Without it every answer waits 40 ms for the client's delayed acknowledgement.
    """
    listener = socket.create_server((host, port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class Hangup(Response):
    """Breaks the connection: at once, or after part of the body that was announced."""

    def __init__(self, *, after: bytes = b"", announced: int = 0) -> None:
        super().__init__(status_code=200)
        self._after = after
        self._announced = announced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport: asyncio.Transport = scope["state"][_STATE_KEY]
        if self._announced:
            length = (b"content-length", str(self._announced).encode())
            headers = [length, (b"content-type", b"image/png")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": self._after, "more_body": True})
            transport.close()
        else:
            transport.abort()
        await _gone(receive)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Server(uvicorn.Server):
    """Ends at a word instead of a signal, at once instead of at the next tick of a tenth."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._left = asyncio.Event()

    def leave(self) -> None:
        self._left.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def main_loop(self) -> None:
        await self._left.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Who still waits for an answer will get none: the sandbox is closing."""
        for server in self.servers:
            server.close()
        for each in sockets or []:
            each.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # the connections learn of it
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self.servers:
            await server.wait_closed()


class _Protocol(H11Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own signature
        super().connection_made(transport)
        self.app_state = {**self.app_state, _STATE_KEY: transport}


class _ByPort:
    def __init__(self, apps: Mapping[int, ASGIApp]) -> None:
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._apps[scope["server"][1]](scope, receive, send)


class _Bounded:
    """No request body may be larger; the application sees a 413."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > self._max_bytes:
                raise HTTPException(413, "Request Entity Too Large")
            return message

        # only the end of the server cancels, and uvicorn would log that as a crash
        with contextlib.suppress(asyncio.CancelledError):
            await self._app(scope, counted, send)
