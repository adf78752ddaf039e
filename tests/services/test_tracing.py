"""Traces: real protobuf to a real collector; one that is away or slow costs no request anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.tracing import Collector, open_tracing
from tests.answering import ISNET, KNOCKOUT, Cutter, table
from tests.collector import collecting
from tests.conftest import ROOT, artwork, serving
from tests.ports import unused_port
from tests.receiver import receiving
from utils.logs import parent_from

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"


def test_a_shot_is_one_trace_from_its_caller_to_its_webhook(tmp_path: Path) -> None:
    knockout = Cutter(KNOCKOUT, held=True)
    with collecting() as collector, receiving() as shop:
        with serving(
            tmp_path,
            stand_ins=table(Cutter(ISNET), knockout),
            webhook_secret="w" * 16,
            webhook_allowed_hosts=shop.place,
            otel_exporter_otlp_endpoint=f"{collector.url}/",
            otel_exporter_otlp_headers="X-Tenant=shop, x-more = 1",
            otel_service_name="cutouts",
        ) as server:
            answer = server.client.post(
                "/remove-background",
                files={"image": ("grandma-birthday.png", artwork())},
                data={
                    "models": f"{ISNET},{KNOCKOUT}",
                    "min_results": "1",
                    "callback_url": shop.url,
                },
                headers={
                    "traceparent": TRACEPARENT,
                    "X-Request-ID": "order-4711",
                    "X-Note": "a-note",
                },
            )
            answer.raise_for_status()
            knockout.release()
            posted = shop.next()
            server.client.get("/results/" + "0" * 32)
        # what waited was sent when the service was closed
        root = collector.named("POST /remove-background")
        assert (root.trace_id, root.parent) == (TRACE, CALLER)
        assert root.attributes == {
            "http.request.method": "POST",
            "http.route": "/remove-background",
            "http.response.status_code": 200,
        }
        steps = {each.name: each for each in collector.spans if each.parent == root.span_id}
        assert {"receive", "queue", "inspect", "decode", "triage"} <= set(steps)
        late = collector.named("model", dtf_model=KNOCKOUT)
        encode = collector.named("encode", dtf_model=KNOCKOUT)
        assert late.trace_id == encode.trace_id == TRACE
        assert late.parent == root.span_id
        assert collector.named("store", dtf_model=KNOCKOUT).span_id == encode.parent
        webhook = collector.named("webhook")
        assert posted.headers["traceparent"] == f"00-{TRACE}-{webhook.span_id}-01"
        other = collector.named("GET /results/{request_id}")
        assert other.trace_id != TRACE
        assert not other.failed
        told = {"service.name": "cutouts", "service.version": "1.0.0"}
        assert all(told.items() <= each.items() for each in collector.resources)
        assert collector.headers[0]["x-tenant"] == "shop"
        assert collector.headers[0]["x-more"] == "1"
        said = repr(collector.spans) + repr(collector.resources)
        for word in ("grandma", "a-note", "order-4711", shop.place, "shop=7"):
            assert word not in said


def test_a_failure_is_told_by_its_class_alone(tmp_path: Path) -> None:
    broken = Cutter(ISNET, error=RuntimeError("the customer's own words"))
    with collecting() as collector:
        with serving(
            tmp_path,
            stand_ins=table(broken),
            otel_exporter_otlp_endpoint=collector.url,
        ) as server:
            assert server.shoot(artwork(), models=ISNET).status_code == 502
        root = collector.named("POST /remove-background")
        assert root.failed
        assert root.attributes["error.type"] == "502"
        assert "own words" not in repr(collector.spans)


def test_callers_decide_whether_their_trace_is_kept(tmp_path: Path) -> None:
    with collecting() as collector:
        with serving(
            tmp_path, otel_exporter_otlp_endpoint=collector.url, otel_traces_sampler_arg=0
        ) as server:
            server.client.get("/models")
            server.client.get("/ready", headers={"traceparent": TRACEPARENT})
            server.client.get("/models", headers={"traceparent": TRACEPARENT[:-1] + "0"})
        assert [each.name for each in collector.spans] == ["GET /ready"]


def test_a_collector_that_answers_nobody_holds_up_neither_answers_nor_the_stop(
    tmp_path: Path,
) -> None:
    with collecting(held=True) as collector:
        with serving(
            tmp_path, stand_ins=table(Cutter(ISNET)), otel_exporter_otlp_endpoint=collector.url
        ) as server:
            for _ in range(300):  # more than a batch, so that one is on its way
                server.client.get("/health").raise_for_status()
            assert collector.asked.wait(20)
            server.shoot(artwork(), models=ISNET).raise_for_status()
        # it has stopped, and the collector still answers nobody
        assert collector.spans == []


@pytest.mark.anyio
async def test_a_collector_that_is_away_costs_spans_and_nothing_else() -> None:
    away = Collector(f"http://127.0.0.1:{unused_port()}", None, "cutouts", "1", share=1)
    async with open_tracing(away, flush_s=0.1) as tracing:
        assert tracing is not None
        for _ in range(5000):  # more than are kept
            root = tracing.request("GET", None)
            root.begin("decode", "").end(None)
            root.answered(method="GET", route="/health", status=200)


def test_without_a_collector_nothing_of_the_sdk_is_loaded(tmp_path: Path) -> None:
    program = """
import asyncio, sys
import main
from config import load_settings
from services.container import open_services
async def look():
    async with open_services(load_settings(), version="1", stand_ins={}) as services:
        assert services.tracing is None
asyncio.run(look())
print(*(n for n in sys.modules if n.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))))
"""
    environment = {
        **os.environ,
        "TEMP_DIR": str(tmp_path),
        "WEIGHTS_DOWNLOAD": "false",
        "WEIGHTS_DIR": str(tmp_path),
    }
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, check=True
    )
    assert ran.stdout.splitlines()[-1].strip() == b""


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{CALLER}-01",
        f"00-{TRACE}-{CALLER}",
        f"00-{TRACE}-{CALLER}-01\n",
        f"00-{TRACE}-{CALLER}-01 extra",
    ],
)
def test_what_is_no_traceparent_is_no_trace(header: str) -> None:
    assert parent_from(header.replace("\n", "\nx")) is None


def test_a_later_version_may_say_more() -> None:
    parent = parent_from(f"cc-{TRACE}-{CALLER}-01-what-the-future-brings")
    assert parent is not None
    assert parent.traceparent == TRACEPARENT
