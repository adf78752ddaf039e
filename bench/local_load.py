"""Both local networks and enlargements at once in 4 GB: `python -m bench.local_load [GRAPH]`.

GRAPH is a file of BiRefNet-General's shape with random weights, as `python -m bench.birefnet_graph`
makes it; the real ISNet must be in weights/. Fifty mixed requests, four at a time, against a
service whose whole process tree is held to 4 GB; prints the outcomes and the tree's memory by the
second.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx

from bench.memory_watch import ControlGroup, Watcher, new_control_group, tree_pss_bytes
from bench.upscale_service import ROOT, Service, running_service
from services.weight_sources import sha256_of
from services.weights import BIREFNET_GENERAL, ISNET_GENERAL_USE

GRAPH = Path.home() / ".cache" / "dtf-bench" / "birefnet-general-shape.onnx"
DATA = ROOT / "tests" / "data"
LIMIT_BYTES = 4 << 30
AT_ONCE = 4
MIX = ["birefnet"] + ["isnet"] * 5 + ["upscale"] * 4  # five times over: fifty requests
ROUNDS = 5
_PREPARING_S = 400


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("graph", nargs="?", type=Path, default=GRAPH)
    asked.add_argument("--profile", default="auto", help="LOCAL_PROFILE")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-local-") as folder:
        told = measure(Path(folder), given.graph, profile=given.profile)
    print(json.dumps(told))


def measure(folder: Path, graph: Path, *, profile: str) -> dict[str, Any]:
    weights = weights_folder(folder / "weights", graph)
    env = {
        "WEIGHTS_DIR": str(weights),
        "UNVERIFIED_WEIGHTS": f"{BIREFNET_GENERAL.name}={sha256_of(graph)}",
        "LOCAL_PROFILE": profile,
        "DEADLINE_S": "55",
    }
    with (
        new_control_group(limit_bytes=LIMIT_BYTES) as group,
        running_service(folder, group=group, limit_bytes=LIMIT_BYTES, env=env) as service,
    ):
        states = wait_until_prepared(service.client)
        print({name: each["status"] for name, each in states.items() if "local" in name})
        with by_the_second(service.watcher) as samples:
            begun = time.perf_counter()
            outcomes = _all(service, MIX * ROUNDS)
            seconds = time.perf_counter() - begun
        return _report(service, group, samples, outcomes, seconds)


def weights_folder(folder: Path, graph: Path) -> Path:
    """A weights folder with the real ISNet and the graph in BiRefNet's place."""
    isnet = ROOT / "weights" / ISNET_GENERAL_USE.relative_path
    shutil.copytree(isnet.parent, folder / ISNET_GENERAL_USE.relative_path.parent)
    place = folder / BIREFNET_GENERAL.relative_path
    place.parent.mkdir(parents=True)
    shutil.copy(graph, place)
    return folder


def wait_until_prepared(client: httpx.Client) -> dict[str, Any]:
    """The models' states as soon as none of them is being prepared any more."""
    begun = time.monotonic()
    while True:
        states: dict[str, Any] = client.get("/ready").json()["models"]
        waiting = [each for each in states.values() if each["status"] == "loading"]
        if not waiting or time.monotonic() - begun > _PREPARING_S:
            return states
        time.sleep(0.5)


def _all(service: Service, kinds: list[str]) -> list[tuple[str, str, float]]:
    """(kind, outcome, seconds) of every request, a few at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda kind: _one(service, kind), kinds))


def _one(service: Service, kind: str) -> tuple[str, str, float]:
    begun = time.perf_counter()
    try:
        outcome = _upscale(service) if kind == "upscale" else _shoot(service, kind)
    except httpx.HTTPError as error:
        outcome = type(error).__name__
    return kind, outcome, time.perf_counter() - begun


def _upscale(service: Service) -> str:
    """One megapixel to sixteen."""
    picture = (DATA / "art" / "aircraft_jarno_vasamaa3.png").read_bytes()
    answer = service.client.post("/upscale", files={"image": picture})
    return "whole" if answer.content.endswith(b"IEND\xaeB`\x82") else str(answer.status_code)


def _shoot(service: Service, kind: str) -> str:
    """A removal, read again until its model has landed."""
    model = {"birefnet": "local-birefnet-general", "isnet": "local-isnet"}[kind]
    picture = (DATA / "car-1.jpg").read_bytes()
    record = service.client.post(
        "/remove-background", files={"image": picture}, data={"models": model}
    ).json()
    while record.get("status") == "running":
        time.sleep(1)
        record = service.client.get(f"/results/{record['request_id']}").json()
    if "results" not in record:
        return str(record["code"])
    (entry,) = record["results"]
    return str(entry.get("error", {}).get("code") or entry["status"])


@contextmanager
def by_the_second(watcher: Watcher) -> Iterator[list[int]]:
    """The tree's proportional set size in MB, sampled each second into the list."""
    samples: list[int] = []
    done = Event()

    def watch() -> None:
        while not done.wait(1):
            samples.append(tree_pss_bytes(watcher.pid) // 1_000_000)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def _report(
    service: Service,
    group: ControlGroup | None,
    samples: list[int],
    outcomes: list[tuple[str, str, float]],
    seconds: float,
) -> dict[str, Any]:
    counts = Counter(f"{kind}: {outcome}" for kind, outcome, _ in outcomes)
    longest = {kind: round(max(s for k, _, s in outcomes if k == kind), 1) for kind in set(MIX)}
    told = {
        "seconds": round(seconds, 1),
        "outcomes": dict(counts),
        "longest_s": longest,
        "peak_pss_mb": service.watcher.peak_bytes // 1_000_000,
        "group_peak_mb": group.peak_bytes() // 1_000_000 if group else None,
        "times_at_limit": group.times_at_limit() if group else None,
        "oom_kills": group.oom_kills() if group else None,
        "inference": service.client.get("/ready").json()["inference"],
    }
    for name, value in told.items():
        print(f"{name:16} {value}")
    print("tree, MB by the second:", *samples)
    return {**told, "by_the_second_mb": samples}


if __name__ == "__main__":
    main()
