"""A request's body must keep coming: one that trickles is answered 408, whichever route reads."""

import asyncio
import time
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import BodyTooSlow
from routers.problems import refused


class Pace:
    """Gives each body `stall_s` seconds from piece to piece, and `total_s` from first to last.

    The wait begins when a route asks for the body, so nobody is late while we are. Whatever the
    route makes of it, the answer is BodyTooSlow's, unless one has begun; the connection is then
    closed.
    """

    def __init__(self, app: ASGIApp, *, stall_s: float, total_s: float) -> None:
        self._app = app
        self._stall_s = stall_s
        self._total_s = total_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        paced = _Paced(receive, send, stall_s=self._stall_s, total_s=self._total_s)
        try:
            await self._app(scope, paced.receive, paced.send)
        except BodyTooSlow:
            if paced.late is None or paced.answering:
                raise
        if paced.late is not None and not paced.answering:
            await refused(paced.late)(scope, receive, paced.send)


class _Paced:
    """One request: its body timed until it is whole or is being answered."""

    def __init__(self, receive: Receive, send: Send, *, stall_s: float, total_s: float) -> None:
        self._receive = receive
        self._send = send
        self._stall_s = stall_s
        self._total_s = total_s
        self._began_at: float | None = None
        self._whole = False
        self.answering = False
        self.late: BodyTooSlow | None = None

    async def receive(self) -> Message:
        """The next piece. Raises BodyTooSlow, again and again."""
        if self.late is not None:
            raise self.late
        if self._whole or self.answering:
            return await self._receive()
        now = time.monotonic()
        self._began_at = self._began_at or now
        left = self._began_at + self._total_s - now
        try:
            async with asyncio.timeout(min(self._stall_s, left)):
                message = await self._receive()
        except TimeoutError:
            if self.answering:
                return await self._receive()
            self.late = self._told(stalled=self._stall_s <= left)
            raise self.late from None
        self._whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Passed on, unless the body was late and this is what else the route made of it."""
        if self.late is not None and not self.answering:
            if message.get("status") != HTTPStatus.REQUEST_TIMEOUT:
                return
            # what is left of the body is not waited for
            MutableHeaders(scope=message)["Connection"] = "close"
        self.answering = True
        await self._send(message)

    def _told(self, *, stalled: bool) -> BodyTooSlow:
        if stalled:
            return BodyTooSlow(
                f"Nothing of the body came for {self._stall_s:g} s.", limit=self._stall_s
            )
        return BodyTooSlow(
            f"The body was not whole after {self._total_s:g} s.", limit=self._total_s
        )
