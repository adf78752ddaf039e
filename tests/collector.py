"""An OpenTelemetry collector on loopback: it takes OTLP over HTTP and keeps the spans."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

WAIT_S = 20


@dataclass(frozen=True, slots=True)
class Taken:
    """One span as it was sent; ids in hex, "" for no parent."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    attributes: dict[str, Any]
    failed: bool
    began_ns: int
    ended_ns: int


@dataclass(slots=True)
class Collector:
    """While `held` is unset it answers nobody."""

    url: str = ""
    spans: list[Taken] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    held: threading.Event | None = None

    def named(self, name: str, **attributes: str) -> Taken:
        """The one span of that name and those attributes (dots written as underscores)."""
        wanted = {key.replace("_", "."): value for key, value in attributes.items()}
        (found,) = (
            each
            for each in self.spans
            if each.name == name and wanted.items() <= each.attributes.items()
        )
        return found

    def take(self, body: bytes) -> None:
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(_attributes(each.resource.attributes))
            for scope in each.scope_spans:
                self.spans += [_taken(span) for span in scope.spans]


def _attributes(pairs: Any) -> dict[str, Any]:  # noqa: ANN401  # protobuf's own
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in pairs}


def _taken(span: Any) -> Taken:  # noqa: ANN401  # protobuf's own
    return Taken(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _attributes(span.attributes),
        span.status.code == span.status.STATUS_CODE_ERROR,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )


@contextmanager
def collecting(*, held: bool = False) -> Iterator[Collector]:
    collector = Collector(held=threading.Event() if held else None)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.asked.set()
            if collector.held is not None:
                collector.held.wait(WAIT_S)
            assert self.path == "/base/v1/traces"
            assert self.headers["Content-Type"] == "application/x-protobuf"
            collector.headers.append({key.lower(): each for key, each in self.headers.items()})
            collector.take(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}/base"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield collector
    finally:
        if collector.held is not None:
            collector.held.set()
        server.shutdown()
        server.server_close()
        thread.join()
