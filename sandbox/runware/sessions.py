"""Runware's sessions: who is connected, and what could not be delivered while nobody was."""

import uuid
from collections import OrderedDict, deque

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from sandbox.common import Common
from sandbox.keys import Account
from sandbox.runware.replies import Frame


class Session:
    """One `connectionSessionUUID`; it outlives its sockets for a while."""

    def __init__(self, account: Account, *, common: Common) -> None:
        self.uuid = str(uuid.uuid4())
        self.account = account
        self.detached_at: float | None = None
        self._common = common
        self._connection: ServerConnection | None = None
        self._waiting: deque[tuple[float, Frame]] = deque()
        self._waiting_bytes = 0

    async def attach(self, connection: ServerConnection) -> None:
        """Frames go here from now on; another socket that still holds the session is closed."""
        former, self._connection = self._connection, connection
        self.detached_at = None
        if former is not None and former is not connection:
            await former.close()

    async def redeliver(self) -> None:
        """What was kept, in order, unless it is too old by now."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        oldest = self._common.clock() - self._common.options.times.session_kept_s
        for kept_at, frame in waiting:
            if kept_at > oldest:
                await self.deliver(frame)

    def detach(self, connection: ServerConnection) -> None:
        if self._connection is connection:
            self._connection = None
            self.detached_at = self._common.clock()

    def drop(self) -> None:
        """Break the socket without a word, as a network does."""
        if (connection := self._connection) is not None:
            self.detach(connection)
            connection.transport.abort()

    async def deliver(self, frame: Frame) -> None:
        """Send a frame, or keep it for the next socket."""
        if (connection := self._connection) is not None:
            try:
                await connection.send(frame)
            except ConnectionClosed:
                self.detach(connection)
            else:
                return
        self._keep(frame)

    def _keep(self, frame: Frame) -> None:
        limits = self._common.options.limits
        self._waiting.append((self._common.clock(), frame))
        self._waiting_bytes += len(frame)
        while len(self._waiting) > limits.buffered_frames or (
            self._waiting_bytes > limits.buffered_bytes
        ):
            self._waiting_bytes -= len(self._waiting.popleft()[1])


class Sessions:
    """All sessions that can still be resumed."""

    def __init__(self, common: Common) -> None:
        self._common = common
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, account: Account, *, resumed: object) -> Session:
        """The session that is resumed, or a new one where it is unknown, foreign or too old."""
        self._forget_old()
        known = self._sessions.get(resumed) if isinstance(resumed, str) else None
        if known is not None and known.account.name == account.name:
            known.account = account
            return known
        session = Session(account, common=self._common)
        self._sessions[session.uuid] = session
        if len(self._sessions) > self._common.options.limits.sessions_kept:
            self._sessions.popitem(last=False)
        return session

    def _forget_old(self) -> None:
        oldest = self._common.clock() - self._common.options.times.session_kept_s
        for each in list(self._sessions.values()):
            if each.detached_at is not None and each.detached_at <= oldest:
                del self._sessions[each.uuid]
