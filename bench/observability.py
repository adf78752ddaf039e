"""What watching costs: GET /health and a shot against the service without it; a span; a scrape.

`python -m bench.observability --peer PATH` prints the tables of docs/BENCHMARKS.md. PATH is a
checkout of the commit before there was anything to watch (`git worktree add PATH e45b058`). What is
compared is the server's own CPU time, in turns within one run, so that what else the machine does
falls on all of them alike; without a peer the last two tables are printed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.memory_watch import tree_pss_bytes
from services.metrics import Metrics
from tests.collector import collecting
from tests.conftest import ROOT, artwork
from tests.ports import unused_port
from utils.spans import Trace, begin_trace, span

_ROUNDS = 5
_REQUESTS = 200
_SHOTS = 5
_SPANS = 50_000
_SCRAPES = 30
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Service:
    """A running `uvicorn main:app` of some checkout."""

    client: httpx.Client
    pid: int

    def cpu_s(self) -> float:
        """Of all its threads so far; the kernel counts nanoseconds."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(each.read_text().split()[0]) for each in threads) / 1e9


@contextmanager
def running(checkout: Path, folder: Path, env: Mapping[str, str]) -> Iterator[Service]:
    port = unused_port()
    settings = {"TEMP_DIR": str(folder), "WEIGHTS_DIR": str(folder), "WEIGHTS_DOWNLOAD": "false"}
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)],
        cwd=checkout,
        env={**os.environ, **settings, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    transport = httpx.HTTPTransport(retries=60)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(transport=transport, base_url=url, timeout=120) as client:
            client.get("/health").raise_for_status()
            yield Service(client, process.pid)
    finally:
        process.terminate()
        process.wait(60)


def health(service: Service) -> None:
    for _ in range(_REQUESTS):
        service.client.get("/health").raise_for_status()


def shots(service: Service) -> None:
    picture = artwork(width=1200, height=900)
    for _ in range(_SHOTS):
        service.client.post(
            "/remove-background", files={"image": picture}, data={"models": "local-knockout"}
        ).raise_for_status()


def compare(services: Mapping[str, Service]) -> None:
    """CPU milliseconds a request, in turns; the ratio is that of the medians."""
    for what, work, count in (("GET /health", health, _REQUESTS), ("a shot", shots, _SHOTS)):
        spent: dict[str, list[float]] = {name: [] for name in services}
        for _ in range(_ROUNDS):
            for name, service in services.items():
                before = service.cpu_s()
                work(service)
                spent[name].append(1000 * (service.cpu_s() - before) / count)
        medians = {name: statistics.median(each) for name, each in spent.items()}
        base = next(iter(medians.values()))
        for name, ms in medians.items():
            print(f"| {what} | {name} | {ms:.3f} | {ms / base:.3f} |")


def memory(services: Mapping[str, Service]) -> None:
    for name, service in services.items():
        print(f"| held after that, MiB | {name} | {tree_pss_bytes(service.pid) / _MIB:.0f} | |")


def span_cost() -> None:
    """Nanoseconds of one empty `with span(…)`, the best of some rounds."""

    def within(trace: Trace | None) -> float:
        if trace is not None:
            begin_trace(trace, None)
        best = float("inf")
        for _ in range(_ROUNDS):
            start_s = time.perf_counter()
            for _ in range(_SPANS):
                with span("decode"):
                    pass
            best = min(best, time.perf_counter() - start_s)
        return best / _SPANS * 1e9

    outside = copy_context().run(within, None)
    inside = copy_context().run(within, Trace(Metrics().step))
    print(f"a span outside a request {outside:.0f} ns, within one {inside:.0f} ns")


def scrape_cost(service: Service) -> None:
    before = service.cpu_s()
    taken: list[float] = []
    for _ in range(_SCRAPES):
        start_s = time.perf_counter()
        text = service.client.get("/metrics").raise_for_status().text
        taken.append(1000 * (time.perf_counter() - start_s))
    cpu = 1000 * (service.cpu_s() - before) / _SCRAPES
    series = sum(len(each.samples) for each in text_string_to_metric_families(text))
    print(
        f"a scrape of {series} series, {len(text) / 1024:.0f} KiB: {cpu:.1f} ms of CPU, "
        f"answered in {statistics.median(taken):.1f} ms (median)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.observability")
    parser.add_argument("--peer", type=Path, help="a checkout of e45b058")
    peer: Path | None = parser.parse_args().peer
    span_cost()
    with collecting() as collector, tempfile.TemporaryDirectory() as folder:
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        places = [Path(folder, name) for name in ("peer", "watched", "traced")]
        with (
            running(ROOT, places[1], {}) as watched,
            running(ROOT, places[2], traced) as traced_one,
        ):
            if peer is not None:
                with running(peer.resolve(), places[0], {}) as before:
                    services = {
                        "before": before,
                        "metrics, no collector": watched,
                        "with traces": traced_one,
                    }
                    compare(services)
                    memory(services)
            else:
                shots(watched)
            scrape_cost(watched)


if __name__ == "__main__":
    main()
