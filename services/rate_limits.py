"""How often somebody may ask, in any minute: by API key, by browser session, by address.

Counted by the library `limits` as a sliding window (this minute's requests and the share of the
last minute's that still lies within sixty seconds), in whatever storage it is handed: this
process's memory, or another's where replicas must count together.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from limits import RateLimitItemPerMinute
from limits.aio.storage import Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from limits.storage import storage_from_string

from services.access import Caller, CallerKind
from services.rate_memory import SCHEME
from utils.recent import RecentSet

_log = logging.getLogger(__name__)

IN_MEMORY = f"{SCHEME}://"
READS_PER_PICTURE = 10
"""So many requests that make no picture are let through for each that may make one."""

_MOST_PROVEN = 4096
_Ask = Callable[..., Awaitable[bool]]


class Work(StrEnum):
    """What a request is counted as."""

    PICTURES = "pictures"
    READS = "reads"


@dataclass(frozen=True, slots=True)
class Rates:
    """Requests a minute that make pictures; 0: no limit. `keys` are single API keys' by their id.

    `refusals` is how many requests without a right key one address may send.
    """

    usual: int
    session: int
    refusals: int
    keys: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standing:
    """How somebody stands: after `resets_at`, in seconds of the Unix epoch, more is left again."""

    allowed: bool
    limit: int
    remaining: int
    resets_at: float

    @property
    def resets_s(self) -> int:
        """The first whole second after `resets_at`."""
        return math.floor(self.resets_at) + 1

    @property
    def wait_s(self) -> int:
        """Whole seconds until asking again makes sense, one at least."""
        return max(1, math.floor(self.resets_at - time.time()) + 1)


def open_storage(uri: str = IN_MEMORY) -> Storage:
    """The storage of a URI that `limits` knows; raises limits.errors.ConfigurationError."""
    storage = storage_from_string(uri, wrap_exceptions=True)
    assert isinstance(storage, Storage)  # noqa: S101  # an async scheme gives an async storage
    return storage


class RateLimits:
    """Counts requests. While its storage does not answer nobody is refused."""

    def __init__(self, rates: Rates, storage: Storage) -> None:
        self._rates = rates
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._proven = RecentSet[tuple[str, str]](_MOST_PROVEN)

    async def take(self, caller: Caller, address: str, work: Work) -> Standing | None:
        """Count a request; the first standing that refuses it, else the one with the least left.

        None where nothing limits it.
        """
        tightest: Standing | None = None
        for kind, name, rate in self._counted_as(caller, address):
            per_minute = rate * (READS_PER_PICTURE if work is Work.READS else 1)
            standing = await self._hit(per_minute, kind, name, work)
            if standing is None:
                continue
            if not standing.allowed:
                return standing
            if tightest is None or standing.remaining < tightest.remaining:
                tightest = standing
        return tightest

    async def take_refusal(self, address: str) -> Standing | None:
        """Count a request that showed no key, or a wrong one."""
        return await self._hit(self._rates.refusals, "refused", address)

    async def barred(self, caller: Caller, address: str) -> Standing | None:
        """How an address stands whose requests were refused too often to believe its key now.

        A key that was shown from there before is believed on: where many share an address, one who
        guesses does not shut the others out. Sessions and links are signed; nobody guesses those.
        """
        if caller.kind is not CallerKind.KEY:
            return None
        shown = (address, caller.key_id)
        standing = None
        if shown not in self._proven:
            standing = await self._asked(
                self._limiter.test, self._rates.refusals, "refused", address
            )
        if standing is not None and not standing.allowed:
            return standing
        self._proven.add(shown)
        return None

    def _counted_as(self, caller: Caller, address: str) -> Iterator[tuple[str, str, int]]:
        """Who bears a request, the narrowest first: kind, name and rate."""
        if caller.kind in {CallerKind.OPEN, CallerKind.LINK}:
            yield "address", address, self._rates.usual
            return
        if caller.tab is not None:
            yield "session", caller.tab.session.nonce, self._rates.session
        yield "key", caller.key_id, self._rates.keys.get(caller.key_id, self._rates.usual)

    async def _hit(self, per_minute: int, *names: str) -> Standing | None:
        return await self._asked(self._limiter.hit, per_minute, *names)

    async def _asked(self, ask: _Ask, per_minute: int, *names: str) -> Standing | None:
        if per_minute == 0:
            return None
        item = RateLimitItemPerMinute(per_minute)
        try:
            allowed = await ask(item, *names)
            left = await self._limiter.get_window_stats(item, *names)
        except StorageError as error:
            _log.warning("rate_limits_not_counted", extra={"reason": str(error)})
            return None
        return Standing(allowed, item.amount, left.remaining, left.reset_time)
