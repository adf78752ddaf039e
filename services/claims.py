"""Claims on disk: who was the first to use a name, and which shot came of it.

One row a name, in SQLite (WAL, every commit synced). The insert is the lock, also between processes
that share the folder. A row learns its shot's id before any model is asked: a row without one is
proof that nothing was sent, and a row with one is never given to anybody else.
"""

import asyncio
import fcntl
import logging
import secrets
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

from models.errors import IdempotencyUnavailable
from utils.clock import earliest_now_s, latest_now_s

T = TypeVar("T")

_log = logging.getLogger(__name__)

_FILE = "idempotency.sqlite3"
_BUSY_S = 5  # how long another process may hold the database
_SCHEMA = """
CREATE TABLE IF NOT EXISTS claims (
    key_id TEXT NOT NULL,
    route TEXT NOT NULL,
    name TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    request_id TEXT,     -- NULL until the shot's record is on disk
    token TEXT NOT NULL, -- the one request that holds the claim
    process TEXT,        -- that request's process, NULL once it has been answered
    expires_at REAL NOT NULL,
    PRIMARY KEY (key_id, route, name)
) WITHOUT ROWID
"""
_INSERT = "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_FIND = """
SELECT fingerprint, request_id, token, process FROM claims
WHERE (key_id, route, name) = (?, ?, ?) AND expires_at > ?
"""
_BIND = "UPDATE claims SET request_id = ? WHERE (key_id, route, name, token) = (?, ?, ?, ?)"
_FINISH = "UPDATE claims SET process = NULL WHERE (key_id, route, name, token) = (?, ?, ?, ?)"
_FORGET = "DELETE FROM claims WHERE (key_id, route, name, token) = (?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request's wish for a name: whose and where it counts, what was sent, how long it holds.

    `token` tells this request from every other one with the same name.
    """

    key_id: str
    route: str
    name: str
    fingerprint: str
    kept_s: float
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def place(self) -> tuple[str, str, str]:
        return self.key_id, self.route, self.name


@dataclass(frozen=True, slots=True)
class Earlier:
    """Who has the name: what was sent, and the shot once there is one.

    `running`: its answer is still being made, by a process that lives.
    """

    fingerprint: str
    request_id: str | None
    running: bool


class Claims:
    """The database; every method raises IdempotencyUnavailable where it cannot be relied on.

    `now` gives seconds since 1970, None the system's clock, of which jumps cost no key its time.
    """

    def __init__(self, folder: Path, *, now: Callable[[], float] | None = None) -> None:
        self.problem: str | None = None
        self._folder = folder
        # a key that ends too early could be charged for again
        self._judged_s = now or earliest_now_s
        self._given_s = now or latest_now_s
        self._process = secrets.token_hex(8)
        # the tokens of requests that are being answered here
        self._held: set[str] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="claims")
        self._database: sqlite3.Connection | None = None
        self._life: IO[bytes] | None = None
        self._closed = False

    async def open(self) -> None:
        """Raises IdempotencyUnavailable; whoever asks later tries again."""
        await self._run(lambda _: None)

    async def close(self) -> None:
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._shut)
        self._thread.shutdown(wait=False)

    async def take(self, ticket: Ticket, *, instead_of: str | None = None) -> Earlier | None:
        """None: the name is this ticket's, on disk. Else who has it.

        A name is free where it is new or expired, or where its request ended without a shot (as
        when its process was killed), or where its shot is `instead_of`.
        """
        self._held.add(ticket.token)
        earlier = await self._run(lambda database: self._take(database, ticket, instead_of))
        if earlier is not None:
            self._held.discard(ticket.token)
        return earlier

    async def bind(self, ticket: Ticket, request_id: str, *, also: Ticket | None = None) -> None:
        """The ticket's shot, on disk when this returns; `also` is a second name for it."""
        await self._run(lambda database: self._bind(database, ticket, request_id, also))

    async def finish(self, ticket: Ticket) -> None:
        """The request is answered; its name stays taken."""
        self._held.discard(ticket.token)
        await self._run(lambda database: database.execute(_FINISH, (*ticket.place, ticket.token)))

    async def forget(self, ticket: Ticket) -> None:
        """The request came to nothing: its name is free again."""
        self._held.discard(ticket.token)
        await self._run(lambda database: database.execute(_FORGET, (*ticket.place, ticket.token)))

    async def sweep(self) -> None:
        """Remove what has expired."""
        await self._run(
            lambda database: database.execute(
                "DELETE FROM claims WHERE expires_at <= ?", (self._judged_s(),)
            )
        )

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise IdempotencyUnavailable("The service is being stopped.")
        within = copy_context().run  # an executor's thread has no request's context of its own
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, within, self._try, work
        )

    def _try(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            done = work(self._opened())
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
            raise IdempotencyUnavailable(
                "The record of idempotency keys cannot be used now, so nothing was sent.",
                hint="Without Idempotency-Key the request is answered as usual.",
            ) from error
        self.problem = None
        return done

    def _give_up(self, error: Exception) -> None:
        """Say what is wrong, and begin with a new connection the next time."""
        if self._database is not None:
            self._database.close()
            self._database = None
        problem = f"{_FILE} in DATA_DIR: {error}"
        if problem != self.problem:
            _log.error("idempotency_unavailable", extra={"file": _FILE, "reason": str(error)})
        self.problem = problem

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(
                self._folder / _FILE,
                timeout=_BUSY_S,
                isolation_level=None,
            )
            try:
                self._prepare(database)
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _prepare(self, database: sqlite3.Connection) -> None:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        with database:
            database.execute("BEGIN IMMEDIATE")
            database.execute(_SCHEMA)
            self._live()

    def _live(self) -> None:
        """Lock a file for as long as this process lives; the kernel lets go of it whatever happens.

        Called inside a transaction, so that nobody takes a file that is not locked yet for dead.
        """
        if self._life is not None:
            return
        for path in self._folder.glob("idempotency.*.lock"):
            if not _is_locked(path):
                path.unlink(missing_ok=True)
        life = self._life_path(self._process).open("wb")
        fcntl.flock(life, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._life = life

    def _shut(self) -> None:
        if self._database is not None:
            self._database.close()
        if self._life is not None:
            self._life_path(self._process).unlink(missing_ok=True)
            self._life.close()

    def _life_path(self, process: str) -> Path:
        return self._folder / f"idempotency.{process}.lock"

    def _take(
        self, database: sqlite3.Connection, ticket: Ticket, instead_of: str | None
    ) -> Earlier | None:
        with database:
            database.execute("BEGIN IMMEDIATE")
            earlier = self._find(database, ticket)
            if earlier is not None and not _is_free(earlier, instead_of):
                return earlier
            self._insert(database, ticket, None, self._process)
        return None

    def _find(self, database: sqlite3.Connection, ticket: Ticket) -> Earlier | None:
        row = database.execute(_FIND, (*ticket.place, self._judged_s())).fetchone()
        if row is None:
            return None
        fingerprint, request_id, token, process = row
        return Earlier(fingerprint, request_id, self._is_running(token, process))

    def _is_running(self, token: str, process: str | None) -> bool:
        if process is None:
            return False
        if process == self._process:
            return token in self._held
        return _is_locked(self._life_path(process))

    def _insert(
        self,
        database: sqlite3.Connection,
        ticket: Ticket,
        request_id: str | None,
        process: str | None,
    ) -> None:
        expires_at = self._given_s() + ticket.kept_s
        row = (*ticket.place, ticket.fingerprint, request_id, ticket.token, process, expires_at)
        database.execute(_INSERT, row)

    def _bind(
        self, database: sqlite3.Connection, ticket: Ticket, request_id: str, also: Ticket | None
    ) -> None:
        with database:
            database.execute("BEGIN IMMEDIATE")
            bound = database.execute(_BIND, (request_id, *ticket.place, ticket.token))
            if bound.rowcount != 1:
                raise IdempotencyUnavailable("The claim was lost before the models were asked.")
            if also is not None:
                self._insert(database, also, request_id, None)


def _is_free(earlier: Earlier, instead_of: str | None) -> bool:
    if earlier.request_id is None:
        return not earlier.running
    return earlier.request_id == instead_of


def _is_locked(path: Path) -> bool:
    """Whether the process that made this file lives."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
