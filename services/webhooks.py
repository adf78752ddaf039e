"""Tells a shop's own server that its shot is complete: signed, tried again, never in the way.

The address is the caller's choice, so it is judged as an image_url is: public, by the address that
is then connected to, at every try; no redirect is followed and no answer's body is read.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import random
import secrets
import ssl
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

import httpx

from models.errors import InvalidParameter
from models.schemas import ShotRecord
from services.fetcher import (
    ONE_CONNECTION,
    Resolver,
    host_of,
    is_public,
    pinned_request,
    port_of,
    public_trust,
    resolve,
)
from utils.spans import spanned, traceparent

_log = logging.getLogger(__name__)

TRIES = 5
_FIRST_WAIT_S, _FACTOR = 15, 3  # 15 + 45 + 135 + 405: ten minutes in all
_JITTER = 0.2  # of a wait, so that what failed together does not come back together
_TRY_S = 10
_LOOK_UP_S = 2  # while the caller waits
_AT_ONCE = 8  # posts under way
_PLACE = ("https", 443)


@dataclass(frozen=True, slots=True)
class _Event:
    id: str
    shot: str
    body: bytes


class _Verdict(Enum):
    DELIVERED = auto()
    AGAIN = auto()
    HOPELESS = auto()


class _ClosedAddress(Exception):
    """The host has an address that is not public."""


def signature(secret: str, *, event_id: str, timestamp: str, body: bytes) -> str:
    """The value of `X-Webhook-Signature`: HMAC-SHA256 of `id.timestamp.body`."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


class Webhooks:
    """Posts completed shots to their callback addresses.

    `allowed_hosts` holds literal `host:port` entries that need be neither public nor https; `pace`
    is a factor on the waits between tries, `most_waiting` bounds the deliveries held in memory.
    Without `secret` no callback is accepted.
    """

    def __init__(  # noqa: PLR0913  # its parts, all named
        self,
        *,
        secret: str | None,
        allowed_hosts: frozenset[str] = frozenset(),
        pace: float = 1,
        most_waiting: int = 1000,
        resolver: Resolver = resolve,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._secret = secret
        self._allowed_hosts = allowed_hosts
        self._pace = pace
        self._most_waiting = most_waiting
        self._resolver = resolver
        self._trust = ssl_context or public_trust()
        self._under_way: set[asyncio.Task[None]] = set()
        self._posting = asyncio.Semaphore(_AT_ONCE)
        self.ended: Counter[str] = Counter()  # delivered, given_up, dropped
        self.failed_tries = 0
        self._hurried = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Deliveries under way or to be tried again."""
        return len(self._under_way)

    async def check(self, url: str | None) -> None:
        """Refuse what could never be posted, before anything is spent on the shot.

        A name that cannot be looked up just now is let through: it is looked up at each try.

        Raises:
            InvalidParameter: no secret, or an address that may not be posted to.
        """
        if url is None:
            return
        if self._secret is None:
            raise _refused("WEBHOOK_SECRET is not set, so nothing could be signed")
        parsed = self._parsed(url)
        try:
            async with asyncio.timeout(_LOOK_UP_S):
                await self._judged_address(parsed)
        except _ClosedAddress:
            raise _refused("does not point to a public address") from None
        except (OSError, UnicodeError):
            _log.info("webhook_host_unknown", extra={"host": host_of(parsed)})

    def send(self, url: str, record: ShotRecord) -> None:
        """Post the record in the background; `url` was checked. Needs a running event loop."""
        event = _event(record)
        if len(self._under_way) >= self._most_waiting:
            self.ended["dropped"] += 1
            _log.error("webhook_dropped", extra={"webhook": event.id, "shot": event.shot})
            return
        task = asyncio.create_task(self._deliver(httpx.URL(url), event))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def settled(self) -> None:
        """Wait until every delivery has arrived or been given up."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def hurry(self) -> None:
        """The service ends: what has not arrived has its next try at once, and no other."""
        self._hurried.set()

    async def close(self) -> None:
        """Stop; what has not arrived by now never does."""
        if self._under_way:
            _log.error("webhooks_abandoned", extra={"count": len(self._under_way)})
        for task in self._under_way:
            task.cancel()
        await self.settled()

    def _parsed(self, url: str) -> httpx.URL:
        """The URL, judged by its spelling; the messages never repeat it."""
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            raise _refused("is not a URL") from None
        if parsed.scheme not in {"https", "http"} or not parsed.host:
            raise _refused("must be https")
        if parsed.userinfo:
            raise _refused("must not hold credentials")
        if not self._is_exempt(parsed) and (parsed.scheme, port_of(parsed)) != _PLACE:
            raise _refused("must be https on port 443")
        return parsed

    def _is_exempt(self, url: httpx.URL) -> bool:
        return f"{host_of(url)}:{port_of(url)}" in self._allowed_hosts

    async def _judged_address(self, url: httpx.URL) -> str:
        """The address to connect to; OSError where the name has none now."""
        addresses = await self._resolver(host_of(url), port_of(url))
        if not addresses:
            raise OSError("no address")
        if not self._is_exempt(url) and not all(is_public(each) for each in addresses):
            raise _ClosedAddress
        return addresses[0]

    async def _deliver(self, url: httpx.URL, event: _Event) -> None:
        for attempt in range(TRIES):
            if attempt:
                await self._pause(attempt)
            is_last = self._hurried.is_set()
            async with self._posting:
                verdict, why = await self._post(url, event)
            facts = {
                "webhook": event.id,
                "shot": event.shot,
                "host": host_of(url),
                "attempt": attempt + 1,
                "why": why,
            }
            if verdict is _Verdict.DELIVERED:
                self.ended["delivered"] += 1
                _log.info("webhook_delivered", extra=facts)
                return
            self.failed_tries += 1
            _log.warning("webhook_not_taken", extra=facts)
            if is_last or verdict is _Verdict.HOPELESS:
                break
        self.ended["given_up"] += 1
        _log.error("webhook_given_up", extra={**facts, "attempt": attempt + 1})

    async def _pause(self, attempt: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait_s(attempt)):
                await self._hurried.wait()

    def _wait_s(self, attempt: int) -> float:
        spread = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  # nosec B311  # not a secret
        return float(_FIRST_WAIT_S * _FACTOR ** (attempt - 1) * spread * self._pace)

    @spanned("webhook")
    async def _post(self, url: httpx.URL, event: _Event) -> tuple[_Verdict, str]:
        """One try, and what became of it in a word."""
        try:
            async with asyncio.timeout(_TRY_S):
                address = await self._judged_address(url)
                status = await self._status(url, address, event)
        except _ClosedAddress:
            return _Verdict.HOPELESS, "closed_address"
        except (httpx.HTTPError, OSError, UnicodeError) as error:
            return _Verdict.AGAIN, type(error).__name__
        return _verdict_on(status), str(status)

    async def _status(self, url: httpx.URL, address: str, event: _Event) -> int:
        """What the server answers; its body stays unread.

        A bare transport, not a client: it follows no redirect and logs no URL.
        """
        request = pinned_request(
            "POST",
            url,
            address=address,
            timeout_s=_TRY_S,
            headers=self._headers(event),
            content=event.body,
        )
        async with httpx.AsyncHTTPTransport(verify=self._trust, limits=ONE_CONNECTION) as transport:
            response = await transport.handle_async_request(request)
            await response.aclose()
        return response.status_code

    def _headers(self, event: _Event) -> dict[str, str]:
        """Stamped at each try, so that a receiver may refuse what is old."""
        timestamp = str(int(time.time()))
        trace = traceparent()
        return {
            **({} if trace is None else {"traceparent": trace}),
            "Content-Type": "application/json",
            "User-Agent": "dtf-image-service-webhook",
            "X-Webhook-Id": event.id,
            "X-Webhook-Timestamp": timestamp,
            "X-Webhook-Signature": signature(
                self._secret or "", event_id=event.id, timestamp=timestamp, body=event.body
            ),
        }


def _verdict_on(status: int) -> _Verdict:
    if 200 <= status < 300:
        return _Verdict.DELIVERED
    return _Verdict.AGAIN if status >= 500 or status == 429 else _Verdict.HOPELESS


def _event(record: ShotRecord) -> _Event:
    event_id = f"evt_{secrets.token_hex(16)}"
    content = {
        "event_id": event_id,
        "type": "shot.complete",
        "request_id": record.request_id,
        "record": record.model_dump(mode="json", exclude_none=True),
    }
    return _Event(event_id, record.request_id, json.dumps(content, separators=(",", ":")).encode())


def _refused(why: str) -> InvalidParameter:
    return InvalidParameter(f"callback_url: {why}.", field="callback_url")
