"""Signed tokens: what the service once said, known again when it comes back.

A result token opens one result until a moment; a session token says whose it is and how much it
may. Both carry an HMAC-SHA256 cut to 128 bits, made for one purpose and good for no other.
"""

import base64
import binascii
import hmac
import json
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]
"""Seconds since 1970."""

SESSION_PREFIX = "session."

_MAC_BYTES = 16
_EXPIRY_BYTES = 5
_FOR_RESULTS = b"result\0"
_FOR_SESSIONS = b"session\0"


class Signer:
    """Seals messages with the service's secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def seal(self, message: bytes) -> bytes:
        """128 bits that nobody without the secret can make for this message."""
        return hmac.digest(self._secret, message, "sha256")[:_MAC_BYTES]

    def made(self, seal: bytes, message: bytes) -> bool:
        return hmac.compare_digest(self.seal(message), seal)


class ResultTokens:
    """The `token` in a result's links, so that a browser can load them.

    It lives as long as its result, and is then the same in every answer: browsers find again what
    they have kept. With `ttl_s` it changes once in that time, and lives for one to two of them.
    """

    def __init__(self, signer: Signer, *, ttl_s: float = 0, now: Clock = time.time) -> None:
        self._signer = signer
        self._ttl_s = ttl_s
        self._now = now

    def token(self, request_id: str, expires_at: datetime) -> str:
        """28 characters of base64url: when it ends, and the seal over that and the result's id."""
        expiry = self._expiry(expires_at.timestamp()).to_bytes(_EXPIRY_BYTES, "big")
        return _text(expiry + self._signer.seal(_result_message(request_id, expiry)))

    def opens(self, token: str, request_id: str) -> bool:
        """Whether we gave this token for that result, and its time has not passed."""
        content = _bytes(token)
        expiry, seal = content[:_EXPIRY_BYTES], content[_EXPIRY_BYTES:]
        known = self._signer.made(seal, _result_message(request_id, expiry))
        return known and int.from_bytes(expiry, "big") > self._now()

    def _expiry(self, result_ends: float) -> int:
        if not self._ttl_s:
            return math.ceil(result_ends)
        turns = math.floor(self._now() / self._ttl_s)
        return math.ceil(min(result_ends, (turns + 2) * self._ttl_s))


@dataclass(frozen=True, slots=True)
class Session:
    """What a browser may do for a key: until when (seconds since 1970), how often, for how much."""

    key_id: str
    nonce: str
    expires_at: int
    shots: int
    max_cost_usd: Decimal


def new_session(key_id: str, *, expires_at: int, shots: int, max_cost_usd: Decimal) -> Session:
    return Session(key_id, secrets.token_hex(8), expires_at, shots, max_cost_usd)


def session_token(session: Session, signer: Signer) -> str:
    """The session itself, sealed: nothing about it needs to be stored."""
    facts = [
        session.key_id,
        session.nonce,
        session.expires_at,
        session.shots,
        str(session.max_cost_usd),
    ]
    content = json.dumps(facts, separators=(",", ":")).encode()
    return SESSION_PREFIX + _text(signer.seal(_FOR_SESSIONS + content) + content)


def read_session(token: str, signer: Signer) -> Session | None:
    """The session that we once sealed, however long ago; None for anything else."""
    content = _bytes(token.removeprefix(SESSION_PREFIX))
    seal, facts = content[:_MAC_BYTES], content[_MAC_BYTES:]
    if not token.startswith(SESSION_PREFIX) or not signer.made(seal, _FOR_SESSIONS + facts):
        return None
    key_id, nonce, expires_at, shots, max_cost_usd = json.loads(facts)
    return Session(key_id, nonce, expires_at, shots, Decimal(max_cost_usd))


def _result_message(request_id: str, expiry: bytes) -> bytes:
    return _FOR_RESULTS + expiry + request_id.encode()


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    """What the text encodes; nothing where it is not base64url."""
    padded = text + "=" * (-len(text) % 4)
    try:
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
