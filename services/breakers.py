"""Circuit breakers: a hopeless or dead provider is left alone until one request gets through.

Open after a refused key or spent credit, and after several failures in a row; then one request at
a time may try. The states are kept across restarts, but never for longer than the wait.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from models.errors import HOPELESS, CircuitOpen, FailureCode, RemoverError
from models.schemas import ModelStatus
from services.remover import READY, Availability
from utils.clock import Deadline, utc_now

_log = logging.getLogger(__name__)

TROUBLE = frozenset(
    {
        FailureCode.PROVIDER_UNREACHABLE,
        FailureCode.PROVIDER_ERROR,
        FailureCode.PROVIDER_TIMEOUT,
        FailureCode.PROVIDER_OUTCOME_UNKNOWN,
    }
)
"""What opens the circuit when it happens several times in a row."""

ANSWERED = frozenset({FailureCode.CONTENT_REJECTED, FailureCode.PROVIDER_BAD_RESULT})
"""Failures of one picture: the provider itself works."""


class BreakerState(StrEnum):
    """Closed lets everything pass, half-open one request."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Transitions:
    """How often the circuit opened, a request was let through to probe, and the circuit closed."""

    opened: int = 0
    probed: int = 0
    closed: int = 0


class Breaker:
    """One provider's circuit; `changed` is called after each transition."""

    def __init__(
        self,
        *,
        probe_after_s: float,
        failures_to_open: int = 5,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._probe_after_s = probe_after_s
        self._failures_to_open = failures_to_open
        self._changed = changed
        self._reason: str | None = None  # None while closed
        self._wait = Deadline.after(0)
        self._probing = False
        self.failures_in_a_row = 0
        self.transitions = Transitions()

    @property
    def reason(self) -> str | None:
        """Why the circuit is open, None where it is closed."""
        return self._reason

    @property
    def state(self) -> BreakerState:
        if self._reason is None:
            return BreakerState.CLOSED
        waiting = self._wait.remaining_s() > 0 and not self._probing
        return BreakerState.OPEN if waiting else BreakerState.HALF_OPEN

    def availability(self) -> Availability:
        return READY if self._lets_pass() else Availability(ModelStatus.OPEN, self._reason)

    def probe_in_s(self) -> float:
        """Seconds until a request may probe; 0 where one may or does."""
        return 0 if self._reason is None or self._probing else self._wait.remaining_s()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """One request to the provider; how it ends moves the circuit.

        Raises CircuitOpen where it must not go out: that is decided here, at once, so that of
        several requests exactly one is the probe.
        """
        if not self._lets_pass():
            raise CircuitOpen(self._reason or "")
        probes = self._reason is not None
        if probes:
            self._probe()
        try:
            yield
        except RemoverError as error:
            self._failed(error, probes=probes)
            raise
        else:
            self._lives(probes=probes)
        finally:
            if probes:
                self._end_probe()

    def restore(self, reason: str, *, wait_s: float) -> None:
        """Take up the state an earlier process left; nothing is forbidden beyond the usual wait."""
        self._reason = reason
        self._wait = Deadline.after(min(max(wait_s, 0), self._probe_after_s))

    def _lets_pass(self) -> bool:
        return self._reason is None or (not self._probing and self._wait.remaining_s() == 0)

    def _probe(self) -> None:
        self._probing = True
        self._count(probed=1)

    def _end_probe(self) -> None:
        """One that proved nothing, or was cancelled, leaves the circuit open for another wait."""
        self._probing = False
        if self._reason is not None:
            self._wait = Deadline.after(self._probe_after_s)
            self._changed()

    def _failed(self, error: RemoverError, *, probes: bool) -> None:
        if error.code in HOPELESS:
            self._open(error.message)
        elif error.code in ANSWERED:
            self._lives(probes=probes)
        elif error.code in TROUBLE and self._reason is None:
            self.failures_in_a_row += 1
            if self.failures_in_a_row >= self._failures_to_open:
                self._open(
                    f"{self.failures_in_a_row} requests in a row failed. The last: {error.message}"
                )

    def _open(self, reason: str) -> None:
        opens = self._reason is None
        self._reason = reason
        self._wait = Deadline.after(self._probe_after_s)
        self.failures_in_a_row = 0
        self._count(opened=int(opens))

    def _lives(self, *, probes: bool) -> None:
        """An answer. One to a request from before the circuit opened says nothing of now."""
        self.failures_in_a_row = 0
        if probes:
            self._reason = None
            self._count(closed=1)

    def _count(self, *, opened: int = 0, probed: int = 0, closed: int = 0) -> None:
        known = self.transitions
        self.transitions = replace(
            known,
            opened=known.opened + opened,
            probed=known.probed + probed,
            closed=known.closed + closed,
        )
        self._changed()


class Breakers:
    """The breakers by provider, and the small file that keeps them."""

    def __init__(self, path: Path, *, probe_after_s: float, failures_to_open: int) -> None:
        self._path = path
        self._probe_after_s = probe_after_s
        self._failures_to_open = failures_to_open
        self._kept: dict[str, dict[str, Any]] = {}
        self._account: dict[str, str] = {}
        self.by_provider: dict[str, Breaker] = {}

    def open(self) -> None:
        """Read what an earlier process left; a file that cannot be read is no reason to stop."""
        try:
            kept = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError):
            kept = None
        if isinstance(kept, dict) and all(isinstance(each, dict) for each in kept.values()):
            self._kept = kept
        else:
            _log.warning("breakers_unreadable", extra={"file": self._path.name})

    def breaker(self, provider: str, *, api_key: str) -> Breaker:
        """The provider's breaker as it was left, closed where the account is another one now."""
        breaker = Breaker(
            probe_after_s=self._probe_after_s,
            failures_to_open=self._failures_to_open,
            changed=self._keep,
        )
        self._account[provider] = hashlib.sha256(api_key.encode()).hexdigest()[:8]
        self.by_provider[provider] = breaker
        try:
            self._restore(breaker, provider)
        except (KeyError, TypeError, ValueError):
            _log.warning("breakers_unreadable", extra={"file": self._path.name})
        return breaker

    def _restore(self, breaker: Breaker, provider: str) -> None:
        kept = self._kept.get(provider)
        if kept is None:
            return
        counts = {name: int(kept[name]) for name in asdict(Transitions())}
        breaker.transitions = Transitions(**counts)
        if kept["reason"] is not None and kept["account"] == self._account[provider]:
            probe_at = datetime.fromisoformat(kept["probe_at"])
            breaker.restore(str(kept["reason"]), wait_s=(probe_at - utc_now()).total_seconds())

    def _keep(self) -> None:
        """Replace the file; one that cannot be written only costs the next process its memory."""
        told = {name: self._as_json(name, each) for name, each in self.by_provider.items()}
        part = self._path.with_name(f"{self._path.name}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps({**self._kept, **told}), encoding="utf-8")
            part.replace(self._path)
        except OSError:
            _log.exception("breakers_not_written")

    def _as_json(self, provider: str, breaker: Breaker) -> dict[str, object]:
        probe_at = utc_now() + timedelta(seconds=breaker.probe_in_s())
        return {
            "reason": breaker.reason,
            "probe_at": probe_at.isoformat(),
            "account": self._account[provider],
            **asdict(breaker.transitions),
        }
