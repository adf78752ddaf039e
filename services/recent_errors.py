"""The last things that went wrong, in memory: for the operator to look up by request id."""

from collections import deque

from models.recent_errors import RecentError, RecentErrors
from models.schemas import ModelId
from utils import logs
from utils.clock import utc_now

_KEPT = 100
_OURS_FROM = 500


class ErrorRing:
    """Bounded: the last hundred of each sort.

    What callers did wrong (4xx) is kept apart from what went wrong here, so that a scanner's
    thousand 401s push nothing out that matters. Touched on the event loop only.
    """

    def __init__(self, *, kept: int = _KEPT) -> None:
        self._since = utc_now()
        self._seen = 0
        self._callers = deque[RecentError](maxlen=kept)
        self._ours = deque[RecentError](maxlen=kept)

    def note_problem(self, code: str, status: int, *, method: str, route: str | None) -> None:
        """A request was answered with a problem; in its own context, which has id and key."""
        ring = self._ours if status >= _OURS_FROM else self._callers
        told = {"status": status, "method": method, "route": route}
        self._add(ring, _entry(code).model_copy(update=told))

    def note_failure(self, model: ModelId, code: str) -> None:
        """A model failed inside a shot; in the context of the request that began it."""
        self._add(self._ours, _entry(code).model_copy(update={"model": model}))

    def report(self, *, limit: int) -> RecentErrors:
        """The latest `limit` of both sorts, the latest first."""
        both = sorted([*self._ours, *self._callers], key=lambda each: each.time, reverse=True)
        return RecentErrors(since=self._since, seen=self._seen, errors=both[:limit])

    def _add(self, ring: deque[RecentError], entry: RecentError) -> None:
        self._seen += 1
        ring.append(entry)


def _entry(code: str) -> RecentError:
    """What every entry has: whose request it was, and when."""
    return RecentError(
        time=utc_now(), code=code, request_id=logs.request_id.get() or "", key=logs.key_id.get()
    )
