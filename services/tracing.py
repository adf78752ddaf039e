"""Traces to an OpenTelemetry collector, where one is named; nothing of the SDK is loaded otherwise.

Spans wait in memory, a bounded number of them, and leave in a thread of their own over OTLP (HTTP,
protobuf). A collector that is slow or away costs spans, never a request. Attributes are our own
words: methods, route templates, models, statuses; nothing that a customer sent.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.logs import Parent
from utils.spans import Branch

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

_QUEUE = 2048
_BATCH = 256
_EVERY_MS = 2000
_EXPORT_S = 5
_FLUSH_S = 2.5


@dataclass(frozen=True, slots=True)
class Collector:
    """Where traces go: an OTLP/HTTP base address, headers as `name=value,…`, what share of them."""

    endpoint: str
    headers: str | None
    service_name: str
    version: str
    share: float


class Step(Branch):
    """A span that is exported when it ends."""

    def __init__(self, tracer: "Tracer", span: "Span") -> None:
        self._tracer = tracer
        self._span = span

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def begin(self, name: str, model: str) -> "Step":
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415  # where it is wanted

        attributes = {"dtf.model": model} if model else None
        within = set_span_in_context(self._span)
        return Step(self._tracer, self._tracer.start_span(name, within, attributes=attributes))

    def end(self, error: type[BaseException] | None) -> None:
        """`error` by its class alone: messages may quote what a customer sent."""
        if error is not None:
            self._fail(error.__name__)
        self._span.end()

    def answered(self, *, method: str, route: str | None, status: int) -> None:
        """End a request's own span, under its final name."""
        self._span.update_name(f"{method} {route}" if route else method)
        self._span.set_attribute("http.request.method", method)
        self._span.set_attribute("http.response.status_code", status)
        if route:
            self._span.set_attribute("http.route", route)
        if status >= 500:
            self._fail(str(status))
        self._span.end()

    def traceparent(self) -> str:
        context = self._span.get_span_context()
        flags = int(context.trace_flags)
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"

    def _fail(self, kind: str) -> None:
        from opentelemetry.trace import StatusCode  # noqa: PLC0415  # where it is wanted

        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)


class Tracing:
    """Begins the spans of requests."""

    def __init__(self, tracer: "Tracer") -> None:
        self._tracer = tracer

    def request(self, method: str, parent: Parent | None) -> Step:
        """A request's span, below the caller's own where it named one."""
        from opentelemetry.trace import (  # noqa: PLC0415  # where it is wanted
            NonRecordingSpan,
            SpanContext,
            SpanKind,
            TraceFlags,
            set_span_in_context,
        )

        above = None
        if parent is not None:
            callers = SpanContext(
                int(parent.trace_id, 16),
                int(parent.span_id, 16),
                is_remote=True,
                trace_flags=TraceFlags(parent.flags),
            )
            above = set_span_in_context(NonRecordingSpan(callers))
        span = self._tracer.start_span(method, above, kind=SpanKind.SERVER)
        return Step(self._tracer, span)


@asynccontextmanager
async def open_tracing(
    collector: Collector | None, *, flush_s: float = _FLUSH_S
) -> AsyncIterator[Tracing | None]:
    """None where no collector is named; what waits at the end is sent, if within `flush_s`."""
    if collector is None:
        yield None
        return
    tracer, processor, exporter = await asyncio.to_thread(_open, collector)
    try:
        yield Tracing(tracer)
    finally:
        await _flush(processor, within_s=flush_s)
        exporter.shutdown()  # one that still tries again gives up


def _open(collector: Collector) -> "tuple[Tracer, SpanProcessor, SpanExporter]":
    """Imports the SDK, which takes a moment: for a thread."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  # see above
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415

    exporter = OTLPSpanExporter(
        endpoint=f"{collector.endpoint}/v1/traces",
        headers=_headers(collector.headers),
        timeout=_EXPORT_S,
    )
    processor = BatchSpanProcessor(
        exporter,
        max_queue_size=_QUEUE,
        max_export_batch_size=_BATCH,
        schedule_delay_millis=_EVERY_MS,
    )
    resource = Resource(
        {"service.name": collector.service_name, "service.version": collector.version}
    )
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(collector.share),
        resource=resource,
        shutdown_on_exit=False,  # we do that, and for no longer than we like
    )
    provider.add_span_processor(processor)
    return provider.get_tracer("dtf-image-service", collector.version), processor, exporter


def _headers(given: str | None) -> Mapping[str, str] | None:
    """`name=value` pairs separated by commas, as OTEL_EXPORTER_OTLP_HEADERS has them."""
    if given is None:
        return None
    pairs = (pair.partition("=") for pair in given.split(","))
    return {name.strip().lower(): value.strip() for name, _, value in pairs if name.strip()}


async def _flush(processor: "SpanProcessor", *, within_s: float) -> None:
    """Send what waits; later the rest is lost, and its thread ends with the process."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        processor.shutdown()
        with suppress(RuntimeError):  # nobody waits any more, and the loop is closed
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=shut_down, name="traces-flush", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await done.wait()
