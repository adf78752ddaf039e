"""Fifty mixed clients under 4 GiB on two cores, then a leak check: `python -m bench.load`.

`python -m bench.load [--minutes 10] [--leak-minutes 45]` starts `uvicorn main:app` as the README
does, in a memory control group of 4 GiB, with API keys, the real ISNet, BiRefNet-General's shape
with random weights (`python -m bench.birefnet_graph` makes it), the knock-out, and the look-alikes
of both providers with latency and faults. locust, in an environment of its own, is fifty clients
(bench/load_locust.py) on the same two cores, outside the group. Afterwards everything that was
acknowledged is looked for (bench/load_proof.py). The leak check alternates three idle minutes
with bursts of two. Report, plot and JSON go to load-output/; ends non-zero where anything is
wrong that must not be.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from subprocess import run
from typing import Any

from bench.load_house import (
    KEYS,
    LookAlikes,
    locust_python,
    make_every_picture,
    make_form,
    prepared_weights,
    run_locust,
    running_look_alikes,
    weather,
)
from bench.load_proof import Diary, Findings, judged_answers, kept_picks, kept_results, paid_once
from bench.load_report import (
    facts_table,
    leak_table,
    percentile,
    routes_table,
    trends_table,
)
from bench.load_watch import MB, Sample, Watch, watching
from bench.local_load import GRAPH, LIMIT_BYTES, wait_until_prepared
from bench.memory_watch import new_control_group, tree
from bench.upscale_peers import HERE, PeerMissing, second_python
from bench.upscale_service import ROOT, Service, running_service

OUTPUT = ROOT / "load-output"
CORES = 2
_AT_REST_S = 10  # the samples at the end of an idle time that are averaged
_QUIET_S = 330  # a model may go on for MODEL_TIMEOUT_S after its answer
_SETTLED_S = 130  # a provider's longest time-out; what is unsettled then remains so
_OPERATORS_PATHS = ("/ready", "/metrics", "/costs", "/models", "/errors", "/preferences/stats")


@dataclass(slots=True)
class Run:
    """The parts of one run, and what it has found so far."""

    service: Service
    look_alikes: LookAlikes
    watch: Watch
    folder: Path
    clients: int
    bursts: list[tuple[float, float]] = field(default_factory=list)
    idles: list[Sample] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def diary(self) -> Path:
        return OUTPUT / "diary.jsonl"

    @property
    def data(self) -> Path:
        return self.watch.temp_dir / "data"


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--minutes", type=float, default=10, help="of load; default: %(default)s")
    asked.add_argument("--leak-minutes", type=float, default=0, help="of idle times and bursts")
    asked.add_argument("--idle-s", type=float, default=180, help="of one idle time")
    asked.add_argument("--burst-s", type=float, default=120, help="of one burst")
    asked.add_argument("--clients", type=int, default=50)
    asked.add_argument("--graph", type=Path, default=GRAPH, help="of BiRefNet-General's shape")
    given = asked.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # children inherit it
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left running
    locust_python()
    with tempfile.TemporaryDirectory(prefix="bench-load-") as folder:
        return measure(Path(folder), given)


def measure(folder: Path, given: argparse.Namespace) -> int:
    _, env = prepared_weights(given.graph)
    make_form(folder / "first", env)
    make_every_picture(folder / "pictures")
    with (
        new_control_group(limit_bytes=LIMIT_BYTES) as group,
        running_look_alikes() as look_alikes,
        running_service(
            folder,
            group=group,
            limit_bytes=LIMIT_BYTES,
            env={**env, **_settings(look_alikes)},
        ) as service,
        watching(
            Watch(service.watcher.pid, folder / "service", group), str(service.client.base_url)
        ) as watch,
    ):
        states = wait_until_prepared(service.client)
        this = Run(service, look_alikes, watch, folder, given.clients)
        this.facts["load average before"] = f"{os.getloadavg()[0]:.1f}"
        this.facts["models"] = ", ".join(f"{m}: {s['status']}" for m, s in states.items())
        _plan(this)
        _load(this, given.minutes * 60)
        routes = routes_table(Diary.read(this.diary).requests)
        if given.leak_minutes:
            _leak_check(this, given)
        _prove(this)
        return _report(this, given, routes)


def _settings(look_alikes: LookAlikes) -> dict[str, str]:
    keys = ",".join(f"{name}:{key}" for name, key in KEYS.items())
    return {
        **look_alikes.settings(),
        "API_KEYS": keys,
        "KNOCKOUT_ENABLED": "true",
        "DATA_DIR": "",
        "LOG_LEVEL": "INFO",
    }


def _plan(this: Run) -> None:
    client = this.service.client
    key = {"X-API-Key": next(iter(KEYS.values()))}
    there = [path for path in _OPERATORS_PATHS if client.get(path, headers=key).is_success]
    plan = {
        "host": client.base_url.host,
        "port": client.base_url.port,
        "keys": KEYS,
        "pictures": str(this.folder / "pictures"),
        "diary": str(this.diary),
        "operators_paths": there,
    }
    (this.folder / "plan.json").write_text(json.dumps(plan))


# --- load and leak check


def _burst(this: Run, seconds: float) -> float:
    """The clients for so long; processor seconds of locust."""
    begun = this.watch.now_s()
    with weather(this.look_alikes):
        used = run_locust(
            this.folder / "plan.json",
            clients=this.clients,
            seconds=seconds,
            log=OUTPUT / "locust.log",
        )
    this.bursts.append((begun, this.watch.now_s()))
    return used


def _load(this: Run, seconds: float) -> None:
    print(f"{this.clients} clients for {seconds / 60:g} minutes", flush=True)
    before = _cpu_s(this.service.watcher.pid), _cpu_s(this.look_alikes.pid)
    locust_s = _burst(this, seconds)
    begun, ended = this.bursts[-1]
    service_s = _cpu_s(this.service.watcher.pid) - before[0]
    lookalike_s = _cpu_s(this.look_alikes.pid) - before[1]
    probes = [took for at, took in this.watch.health_s if begun <= at <= ended]
    samples = [each for each in this.watch.samples if begun <= each.at_s <= ended]
    group = this.service.group
    this.facts |= {
        "seconds of load": round(ended - begun),
        "processor seconds: service, locust, look-alikes": (
            f"{service_s:.0f}, {locust_s:.0f}, {lookalike_s:.0f}"
        ),
        "peak PSS of the process tree, MB": this.service.watcher.peak_bytes // MB,
        "of the service itself, by the second, MB": round(max(e.service_mb for e in samples)),
        "group's high-water mark of 4295 MB": group.peak_bytes() // MB if group else "no group",
        "times at the limit": group.times_at_limit() if group else "no group",
        "OOM kills": group.oom_kills() if group else "no group",
        "killed over the limit": this.service.watcher.over_limit,
        "/health beside it: probes, p50, p99, longest ms": ", ".join(
            [str(len(probes))]
            + [f"{1e3 * percentile(probes, share):.0f}" for share in (0.5, 0.99, 1)]
        ),
    }


def _until_quiet(this: Run) -> None:
    """Until no shot runs or waits and no paid task is out, as far as they end by themselves."""
    key = {"X-API-Key": next(iter(KEYS.values()))}
    begun = time.monotonic()
    while time.monotonic() - begun < _QUIET_S:
        queues = this.service.client.get("/ready").json()["queue"]
        out = this.service.client.get("/costs", headers=key).json()["unsettled"]["count"]
        if not _busy(queues) and (not out or time.monotonic() - begun > _SETTLED_S):
            return
        time.sleep(2)
    this.findings.wrong.append(f"not quiet after {_QUIET_S} s")


def _busy(queue: Any) -> bool:  # noqa: ANN401  # JSON
    """Whether any of the numbers `running` and `waiting` in it is above 0."""
    if not isinstance(queue, Mapping):
        return False
    return any(
        _busy(value) or (name in {"running", "waiting"} and bool(value))
        for name, value in queue.items()
    )


def _leak_check(this: Run, given: argparse.Namespace) -> None:
    seconds, begun = given.leak_minutes * 60, time.monotonic()
    while time.monotonic() - begun < seconds:
        time.sleep(given.idle_s)
        this.idles.append(this.watch.mean_of(_AT_REST_S))
        print(f"idle {len(this.idles)}: {this.idles[-1].service_mb:.0f} MB", flush=True)
        if time.monotonic() - begun + given.idle_s < seconds:
            _burst(this, given.burst_s)


# --- what is proven and told


def _prove(this: Run) -> None:
    _until_quiet(this)
    diary = Diary.read(this.diary)
    found = this.findings
    found.add(judged_answers(diary.requests))
    found.add(kept_results(diary, this.service.client, KEYS))
    found.add(kept_picks(diary, this.data / "picks"))
    found.add(paid_once(diary, this.data / "costs.jsonl", this.look_alikes.bill()))
    group = this.service.group
    if this.service.watcher.over_limit or (group is not None and group.oom_kills()):
        found.wrong.append("memory ran out")
    found.wrong += ["/health failed"] * this.watch.health_failed
    codes = Counter(
        f"{each['status']} {each['code']}" for each in diary.requests if each["code"] is not None
    )
    found.told |= {f"answers {name}": count for name, count in sorted(codes.items())}


def _report(this: Run, given: argparse.Namespace, routes: list[str]) -> int:
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {CORES} cores of {_machine()}; {given.clients} clients for "
        f"{given.minutes:g} minutes"
        + (f", then {given.leak_minutes:g} of idle times and bursts" if given.leak_minutes else ""),
        "",
        *facts_table({**this.facts, **this.findings.told, "wrong": len(this.findings.wrong)}),
        "",
        *routes,
    ]
    if this.idles:
        trends, growing = trends_table(this.idles)
        lines += ["", *leak_table(this.idles), "", *trends]
        this.findings.wrong += [f"grows: {each}" for each in growing]
    told = "\n".join(lines)
    print(told)
    for each in this.findings.wrong:
        print("WRONG:", each)
    (OUTPUT / "report.md").write_text(told + "\n")
    (OUTPUT / "service.log").write_bytes((this.folder / "service.log").read_bytes())
    measured = {
        "limit_mb": LIMIT_BYTES / MB,
        "bursts": this.bursts,
        "samples": [asdict(each) for each in this.watch.samples],
        "idles": [asdict(each) for each in this.idles],
        "facts": this.facts,
        "told": this.findings.told,
        "wrong": this.findings.wrong,
    }
    (OUTPUT / "report.json").write_text(json.dumps(measured))
    _draw(measured)
    return int(bool(this.findings.wrong))


def _draw(measured: Mapping[str, Any]) -> None:
    """By matplotlib, in the bench's second environment."""
    try:
        command = [str(second_python()), "-P", str(HERE / "load_plots.py"), str(OUTPUT)]
    except PeerMissing as error:
        print(f"No plot: {error}", file=sys.stderr)
        return
    run(command, input=json.dumps(measured), text=True, check=True)


def _machine() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "an unknown processor"


def _cpu_s(pid: int) -> float:
    """Processor seconds of a process and of its living and waited-for descendants."""
    ticks = 0
    for each in tree(pid):
        try:
            words = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, words[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
