"""What is counted and timed as it happens, for GET /metrics; what is a state is read when asked.

Names are imgproxy's, behind a prefix of ours. Every label has a fixed set of values: routes by
their templates, models, spans and codes by our own lists. Each application has a registry of its
own. services/metric_states.py has the states; docs/METRICS.md lists both.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from models.outcomes import Failed, Outcome, Skipped, Succeeded
from models.schemas import ModelId

# they would be a second series for each, and no alert asks when a counter began
disable_created_metrics()  # type: ignore[no-untyped-call]

PREFIX = "dtf"
NO_ROUTE = "none"
"""The route of a request that was refused, or answered, before any route was found."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 50, 60, 120)
_SPAN_S = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)
_LATENCY_S = (0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120)


class Metrics:
    """Counters and histograms of one application; safe to call from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests begun.")
        self._statuses = self._counter("status_codes", "Answers by HTTP status.", "status")
        self._errors = self._counter("errors", "Problems answered, by code.", "type")
        self._in_progress = Gauge(
            "requests_in_progress",
            "Requests that have not been answered to the end.",
            namespace=PREFIX,
            registry=self.registry,
        )
        self._request_s = self._histogram(
            "request_duration_seconds",
            "Requests, to the answer's last byte.",
            _REQUEST_S,
            *("route", "method"),
        )
        self._span_s = self._histogram(
            "request_span_duration_seconds",
            "Steps of requests; where one is a model's, whose.",
            _SPAN_S,
            *("span", "model"),
        )
        self._latency_s = self._histogram(
            "model_latency_seconds", "Models, where they succeeded.", _LATENCY_S, "model"
        )
        self._outcomes = self._counter(
            "model_outcomes",
            "What became of each model of a shot; code says why it failed or was skipped.",
            *("model", "outcome", "code"),
        )
        self._picks = self._counter("picks", "Cut-outs that customers picked.", "model")
        self._spans: dict[tuple[str, str], Histogram] = {}

    def request_begins(self) -> None:
        self._requests.inc()
        self._in_progress.inc()

    def request_ends(self, *, route: str | None, method: str, status: int, seconds: float) -> None:
        """`route` is the template; None where there was none."""
        self._in_progress.dec()
        self._statuses.labels(str(status)).inc()
        known = method if method in _METHODS else "other"
        self._request_s.labels(route or NO_ROUTE, known).observe(seconds)

    def problem(self, code: str) -> None:
        self._errors.labels(code).inc()

    def step(self, name: str, model: str, seconds: float) -> None:
        """A span has ended (utils/spans.py)."""
        if (known := self._spans.get((name, model))) is None:
            known = self._spans[name, model] = self._span_s.labels(name, model)
        known.observe(seconds)

    def outcome(self, model: ModelId, outcome: Outcome) -> None:
        """A model of a shot has landed."""
        match outcome:
            case Succeeded():
                self._latency_s.labels(model).observe(outcome.latency_ms / 1000)
                told = ("succeeded", "")
            case Failed():
                told = ("failed", str(outcome.code))
            case Skipped():
                told = ("skipped", str(outcome.reason))
            case _:
                return
        self._outcomes.labels(model, *told).inc()

    def picked(self, model: ModelId) -> None:
        self._picks.labels(model).inc()

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(name, told, labels, namespace=PREFIX, registry=self.registry)

    def _histogram(
        self, name: str, told: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            name, told, labels, namespace=PREFIX, registry=self.registry, buckets=buckets
        )
