"""Who may do what: API keys by their hash, browser sessions within limits, and whose a result is.

It knows nothing of HTTP; routers/authentication.py asks it before anything of a request is read.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TypeVar

from models.errors import InvalidKey, InvalidParameter, SessionExhausted
from models.schemas import SessionParameters, ShotRecord
from services.tokens import (
    Clock,
    ResultTokens,
    Session,
    Signer,
    new_session,
    read_session,
    session_token,
)
from utils.clock import earliest_now_s, latest_now_s

N = TypeVar("N", int, Decimal)


class CallerKind(StrEnum):
    """How a caller was known: by a key, a session, a result's link, or not at all."""

    KEY = "key"
    SESSION = "session"
    LINK = "link"
    OPEN = "open"


@dataclass(slots=True, eq=False)
class Tab:
    """What a session has used so far; touched on the event loop only, so that no count is lost."""

    session: Session
    shots: int = 0
    spent_usd: Decimal = Decimal(0)

    def require_credit(self) -> None:
        """Raises SessionExhausted where its shots or its money are used up."""
        if self.shots >= self.session.shots:
            raise _exhausted("All its shots are used up.", self.session.shots, self.shots + 1)
        if self.spent_usd >= self.session.max_cost_usd:
            raise _exhausted("Its money is spent.", self.session.max_cost_usd, self.spent_usd)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request comes from; `tab` is what a session has used, None for everybody else."""

    kind: CallerKind
    key_id: str
    tab: Tab | None = None

    @property
    def owner(self) -> str:
        """What a result of this caller is marked with: the key's id, and behind it the session."""
        return self.key_id if self.tab is None else f"{self.key_id}/{self.tab.session.nonce}"

    def owns(self, owner: str | None) -> bool:
        """Whether a result so marked is this caller's: a key's are its sessions' as well."""
        if self.kind is CallerKind.KEY:
            return (owner or "").partition("/")[0] == self.key_id
        return owner == self.owner

    def require_credit(self) -> None:
        """Raises SessionExhausted for a session that is used up."""
        if self.tab is not None:
            self.tab.require_credit()

    def take_shot(self) -> None:
        """Count one shot; raises SessionExhausted where none is left."""
        if self.tab is not None:
            self.tab.require_credit()
            self.tab.shots += 1

    def charge(self, cost_usd: Decimal) -> None:
        """Count money that was spent; it is spent, so this never refuses."""
        if self.tab is not None:
            self.tab.spent_usd += cost_usd

    def left_usd(self) -> Decimal | None:
        """What may still be spent; None where no session limits it."""
        if self.tab is None:
            return None
        return max(Decimal(0), self.tab.session.max_cost_usd - self.tab.spent_usd)


OPEN = Caller(CallerKind.OPEN, "open")
LINK = Caller(CallerKind.LINK, "link")
UNKNOWN = "unknown"
"""In the log: a request that was refused."""

caller: ContextVar[Caller] = ContextVar("caller", default=OPEN)
"""Whom the request at hand comes from; the tasks that it starts inherit it."""


class KeyRing:
    """The API keys, of which only SHA-256 (hex) by id are known."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        self._digests = dict(digests)

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._digests

    def id_of(self, key: str) -> str | None:
        """Whose key it is. Every key is compared, in a time that tells nothing about any."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        found = None
        for key_id, known in self._digests.items():
            if hmac.compare_digest(known, digest):
                found = key_id
        return found


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The most that a session may get."""

    ttl_s: int
    shots: int
    max_cost_usd: Decimal


class Sessions:
    """Browser sessions: made for a key, read back, and what each has used.

    The tokens hold themselves; only the use is kept here, in memory, until a session has expired.
    """

    def __init__(self, signer: Signer, limits: SessionLimits, *, now: Clock = time.time) -> None:
        self._signer = signer
        self._limits = limits
        self._now = now
        self._tabs: dict[str, Tab] = {}

    def __len__(self) -> int:
        return len(self._tabs)

    def mint(self, key_id: str, asked: SessionParameters) -> tuple[str, Session]:
        """A token, and what it says; raises InvalidParameter for more than the settings allow."""
        limits = self._limits
        session = new_session(
            key_id,
            expires_at=int(self._now()) + _at_most(limits.ttl_s, asked.ttl_s, "ttl_s"),
            shots=_at_most(limits.shots, asked.shots, "shots"),
            max_cost_usd=_at_most(limits.max_cost_usd, asked.max_cost_usd, "max_cost_usd"),
        )
        return session_token(session, self._signer), session

    def tab(self, token: str) -> Tab | None:
        """What the session of a token has used; None where it is none of ours or has expired."""
        session = read_session(token, self._signer)
        if session is None or session.expires_at <= self._now():
            return None
        if session.nonce not in self._tabs:
            self._forget_expired()
            self._tabs[session.nonce] = Tab(session)
        return self._tabs[session.nonce]

    def _forget_expired(self) -> None:
        now = self._now()
        self._tabs = {
            nonce: tab for nonce, tab in self._tabs.items() if tab.session.expires_at > now
        }


@dataclass(frozen=True, slots=True)
class Access:
    """The door: keys, links and sessions. Without keys it is open to everybody."""

    keys: KeyRing
    links: ResultTokens
    sessions: Sessions
    scraper: KeyRing

    @property
    def required(self) -> bool:
        """Whether callers must show who they are."""
        return len(self.keys) > 0

    def identify(self, credential: str) -> Caller:
        """Whose key or session token it is; raises InvalidKey."""
        if (key_id := self.keys.id_of(credential)) is not None:
            return Caller(CallerKind.KEY, key_id)
        tab = self.sessions.tab(credential)
        if tab is None or tab.session.key_id not in self.keys:
            raise InvalidKey("The key or session token is not known here, or has expired.")
        return Caller(CallerKind.SESSION, tab.session.key_id, tab)

    def follow(self, token: str, request_id: str) -> Caller:
        """Whoever holds a link to that result; raises InvalidKey."""
        if not self.links.opens(token, request_id):
            raise InvalidKey(
                "The link's token is not for this result, or has expired.",
                hint="The record gives links that are valid.",
            )
        return LINK

    def link_token(self, record: ShotRecord) -> str | None:
        """What the links of a record carry; nothing where the service is open."""
        if not self.required:
            return None
        return self.links.token(record.request_id, record.expires_at)


def open_access(  # noqa: PLR0913  # its parts, all named
    digests: Mapping[str, str],
    *,
    secret: bytes,
    link_ttl_s: float,
    limits: SessionLimits,
    metrics_token: str | None = None,
    now: Clock | None = None,
) -> Access:
    """The door for these keys (id to SHA-256), whose tokens are signed with `secret`.

    `metrics_token` opens the metrics and nothing else. Without `now` the system's clock counts:
    where it jumps, a link lives as long as its result and a session no longer than was granted.
    """
    scraper = {}
    if metrics_token is not None:
        scraper["metrics"] = hashlib.sha256(metrics_token.encode()).hexdigest()
    signer = Signer(secret)
    return Access(
        keys=KeyRing(digests),
        links=ResultTokens(signer, ttl_s=link_ttl_s, now=now or earliest_now_s),
        sessions=Sessions(signer, limits, now=now or latest_now_s),
        scraper=KeyRing(scraper),
    )


def _exhausted(what: str, limit: N, actual: N) -> SessionExhausted:
    return SessionExhausted(
        f"The session is used up. {what}",
        limit=float(limit),
        actual=float(actual),
        hint="The shop's server can ask for another one: POST /sessions.",
    )


def _at_most(most: N, asked: N | None, field: str) -> N:
    if asked is not None and asked > most:
        raise InvalidParameter(
            f"{field}: must be at most {most}.",
            field=field,
            limit=float(most),
            actual=float(asked),
        )
    return most if asked is None else asked
