"""One way to say how long a step takes: `with span("decode"):`, or `@spanned("decode")`.

What is measured so is heard of in three places: the histogram of GET /metrics, the header
Server-Timing, and the trace that is exported where a collector is named. Whose request it is comes
from the context, which tasks and the pool's jobs inherit; outside a request nothing is measured.
"""

import inspect
import time
from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import wraps
from types import TracebackType
from typing import Any, Literal, NamedTuple, ParamSpec, Protocol, Self, TypeVar, cast, get_args

P = ParamSpec("P")
R = TypeVar("R")

SpanName = Literal[
    "receive",
    "download",
    "queue",
    "pool_wait",
    "inspect",
    "decode",
    "triage",
    "model",
    "fit",
    "remote",
    "fetch_result",
    "network_input",
    "inference_wait",
    "inference",
    "project",
    "knockout",
    "store",
    "encode",
    "rank",
    "print_check",
    "record",
    "render",
    "enlarge_open",
    "enlarge_strip",
    "enlarge_write",
    "webhook",
    "pick",
]
SPAN_NAMES: tuple[str, ...] = get_args(SpanName)
"""Every step that is measured; docs/METRICS.md says what each is."""


class Branch(Protocol):
    """A step of a trace that is exported."""

    def begin(self, name: str, model: str) -> "Branch":
        """A step within it, which begins now."""
        ...

    def end(self, error: type[BaseException] | None) -> None: ...

    def traceparent(self) -> str:
        """The W3C header that names this step as the parent of what comes of it."""
        ...


class Trace:
    """One request's steps; `observe` is told each one's name, model (or "") and seconds.

    `seconds` adds up, for Server-Timing, what belongs to the request as a whole, and under its name
    what each model took. `traceparent` is what the caller sent, where nothing of it is exported.
    """

    def __init__(
        self, observe: Callable[[str, str, float], None], *, traceparent: str | None = None
    ) -> None:
        self.seconds: dict[str, float] = {}
        self.traceparent = traceparent
        self._observe = observe

    def note(self, name: str, model: str, seconds: float) -> None:
        self._observe(name, model, seconds)
        if name == "model":
            self.seconds[model] = seconds
        elif not model and name != "pool_wait":
            self.seconds[name] = self.seconds.get(name, 0) + seconds


class _Here(NamedTuple):
    trace: Trace
    model: str = ""
    branch: Branch | None = None


_here: ContextVar[_Here | None] = ContextVar("span", default=None)


def begin_trace(trace: Trace, root: Branch | None) -> Token[Any]:
    """What happens in this context from now on belongs to `trace`."""
    return _here.set(_Here(trace, branch=root))


def end_trace(token: Token[Any]) -> None:
    _here.reset(token)


def traceparent() -> str | None:
    """What to send along to a server of the caller's own; None where there is no trace."""
    here = _here.get()
    if here is None:
        return None
    return here.trace.traceparent if here.branch is None else here.branch.traceparent()


class Span:
    """A step under way; belongs to one `with` block, which must end in the context it began in.

    Within one that names a `model` every step is that model's.
    """

    __slots__ = ("_branch", "_here", "_model", "_name", "_started_s", "_token")

    def __init__(self, name: SpanName, model: str) -> None:
        self._name = name
        self._model = model
        self._token: Token[_Here | None] | None = None
        self._branch: Branch | None = None

    def __enter__(self) -> Self:
        self._here = here = _here.get()
        if here is None:
            return self
        self._model = self._model or here.model
        if here.branch is not None:
            self._branch = here.branch.begin(self._name, self._model)
        if self._branch is not None or self._model != here.model:
            self._token = _here.set(_Here(here.trace, self._model, self._branch))
        self._started_s = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._here is None:
            return
        self._here.trace.note(self._name, self._model, time.perf_counter() - self._started_s)
        if self._token is not None:
            _here.reset(self._token)
        if self._branch is not None:
            self._branch.end(kind)


def span(name: SpanName, *, model: str = "") -> Span:
    """Measure what the block does, as a step of the request at hand."""
    return Span(name, model)


def spanned(name: SpanName) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The same for a whole function, also a coroutine's."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def measured_coroutine(*args: P.args, **kwargs: P.kwargs) -> Any:  # noqa: ANN401  # what it awaits
                with Span(name, ""):
                    return await function(*args, **kwargs)

            return cast("Callable[P, R]", measured_coroutine)

        @wraps(function)
        def measured(*args: P.args, **kwargs: P.kwargs) -> R:
            with Span(name, ""):
                return function(*args, **kwargs)

        return measured

    return decorate


def waited(name: SpanName, since_s: float) -> None:
    """A wait that has ended now, begun at `since_s` of time.perf_counter: a number, no step."""
    if (here := _here.get()) is not None:
        here.trace.note(name, here.model, time.perf_counter() - since_s)
