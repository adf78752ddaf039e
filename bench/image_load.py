"""A built image in 4 GB with all local models: `python -m bench.image_load [GRAPH]`.

The root that scripts.build_without_docker left, started by its own ENTRYPOINT on two processors in
a memory control group of 4 GiB, its root file system not writable. ISNet is real; GRAPH is a file
of BiRefNet-General's shape with random weights, as `python -m bench.birefnet_graph` makes it; the
paid models are the sandbox's, in the service's own process, and their memory counts. Twenty mixed
requests, four at a time. A first start makes the network's cheap form, as the build does for an
image with BiRefNet in it; it is reported apart.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from bench.local_load import GRAPH, by_the_second, wait_until_prepared, weights_folder
from bench.memory_watch import ControlGroup, Watcher
from scripts.build_without_docker import FOLDER, ROOT, BuiltStage
from scripts.prove_image import ADDRESS, wait_until_alive
from scripts.run_image import (
    LIMIT_BYTES,
    STAGE,
    Container,
    Terms,
    built_stage,
    enter_private_network,
    running_image,
)
from services.weight_sources import sha256_of
from services.weights import BIREFNET_GENERAL

AT_ONCE = 4
DATA = ROOT / "tests" / "data"
SIX_MODELS = (
    "runware-rmbg-2.0,runware-birefnet-portrait,kie-recraft,"
    "local-birefnet-general,local-isnet,local-knockout"
)
LIGHT = "runware-rmbg-2.0,kie-recraft,local-isnet,local-knockout"
LOCAL = "local-birefnet-general,local-isnet,local-knockout"
_LANDING_S = 120
_OWNER = 10001
_TIMEOUT = httpx.Timeout(300, connect=10)
_END_OF_PNG = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Request:
    """What to ask: a kind, the picture's name in the folder, the fields."""

    kind: str
    picture: str
    fields: dict[str, str]


@dataclass(frozen=True)
class Outcome:
    kind: str
    status: str
    seconds: float


def requests() -> list[Request]:
    """Twenty, heavy and light ones mixed so that four at a time are of different kinds."""
    every = {"models": SIX_MODELS, "deadline_s": "55"}
    local = {"models": LOCAL, "deadline_s": "55"}
    light = {"models": LIGHT, "deadline_s": "55"}
    return [
        Request("remove, all six", "photo.jpg", every),
        Request("upscale 12 MP", "large.jpg", {}),
        Request("remove, fast", "portrait.jpg", {**every, "mode": "fast"}),
        Request("process", "art.png", {**light, "pick": "recommended"}),
        Request("remove 24 MP", "huge.jpg", light),
        Request("upscale 12 MP", "large.jpg", {}),
        Request("remove, fast", "photo.jpg", {**light, "mode": "fast"}),
        Request("process", "portrait.jpg", {**light, "pick": "local-isnet"}),
        Request("remove, all six", "art.png", every),
        Request("remove 24 MP", "huge.jpg", light),
        Request("upscale 12 MP", "large.jpg", {}),
        Request("remove, fast", "art.png", {**light, "mode": "fast"}),
        Request("process", "photo.jpg", {**light, "pick": "recommended"}),
        Request("remove 44 MP, three local", "giant.jpg", local),
        Request("upscale 12 MP", "large.jpg", {}),
        Request("remove, all six", "portrait.jpg", every),
        Request("remove, fast", "portrait.jpg", {**light, "mode": "fast"}),
        Request("process", "art.png", {**light, "pick": "local-knockout"}),
        Request("remove 24 MP", "huge.jpg", light),
        Request("remove, all six", "photo.jpg", every),
    ]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("graph", nargs="?", type=Path, default=GRAPH)
    asked.add_argument("--folder", type=Path, default=FOLDER, help="default: %(default)s")
    given = asked.parse_args()
    stage = built_stage(given.folder, STAGE)
    enter_private_network()
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="load-") as work:
        told = measure(Path(work), stage, given.graph)
    print(json.dumps(told))


def measure(work: Path, stage: BuiltStage, graph: Path) -> dict[str, Any]:
    make_pictures(work / "pictures")
    weights = weights_folder(work / "weights", graph)
    digest = sha256_of(graph)
    preparing = _run(work / "first", stage, weights, digest, _prepare)
    print("preparing:", json.dumps(preparing), flush=True)
    told = _run(work / "second", stage, weights, digest, lambda it: _load(it, work / "pictures"))
    return {"preparing": preparing, **told}


@dataclass(frozen=True)
class Running:
    """The container, who asks it, and who watches its tree."""

    container: Container
    client: httpx.Client
    watcher: Watcher


def _run(
    work: Path,
    stage: BuiltStage,
    weights: Path,
    digest: str,
    task: Callable[[Running], dict[str, Any]],
) -> dict[str, Any]:
    """One start of the image, a task, SIGTERM; what the task tells, and what memory it took."""
    data, temp = work / "data", work / "temp"
    for each in (data, temp):
        each.mkdir(parents=True)
    terms = Terms(
        env={
            "WEIGHTS_DIR": "/weights",
            "UNVERIFIED_WEIGHTS": f"{BIREFNET_GENERAL.name}={digest}",
            "RUNWARE_API_KEY": "sandbox",
            "KIE_API_KEY": "sandbox",
        },
        volumes={"/data": data, "/tmp/img-proc": temp, "/weights": _handed_over(weights)},  # noqa: S108 # inside
        tmpfs=["/tmp"],  # noqa: S108 # inside
    )
    with (
        running_image(stage, terms, log=work / "log", limit_bytes=LIMIT_BYTES) as container,
        httpx.Client(base_url=ADDRESS, timeout=_TIMEOUT, trust_env=False) as client,
        Watcher(container.pid, limit_bytes=None if container.group else LIMIT_BYTES) as watcher,
    ):
        wait_until_alive(client, container)
        told = task(Running(container, client, watcher))
        told |= _memory(watcher, container.group)
        begun = time.monotonic()
        told["exit_status"] = container.stop()
        told["stopping_s"] = round(time.monotonic() - begun, 1)
    return told


def _handed_over(folder: Path) -> Path:
    """To the service's user: the entrypoint does that for its own two folders alone."""
    for each in (folder, *folder.rglob("*")):
        os.chown(each, _OWNER, _OWNER)
    return folder


def _prepare(running: Running) -> dict[str, Any]:
    begun = time.monotonic()
    states = wait_until_prepared(running.client)
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "models": {name: each["status"] for name, each in states.items()},
    }


def _load(running: Running, pictures: Path) -> dict[str, Any]:
    states = wait_until_prepared(running.client)
    asked = requests()
    with by_the_second(running.watcher) as samples, ThreadPoolExecutor(AT_ONCE) as pool:
        begun = time.perf_counter()
        outcomes = list(pool.map(lambda each: _ask(running.client, each, pictures), asked))
        seconds = time.perf_counter() - begun
    for each in outcomes:
        print(f"{each.kind:24}{each.seconds:8.1f} s  {each.status}")
    return {
        "models": {name: each["status"] for name, each in states.items()},
        "requests": len(asked),
        "seconds": round(seconds, 1),
        "statuses": dict(Counter(f"{each.kind}: {each.status}" for each in outcomes)),
        "outcomes": [asdict(each) for each in outcomes],
        "inference": running.client.get("/ready").json()["inference"],
        "by_the_second_mb": samples,
    }


def _memory(watcher: Watcher, group: ControlGroup | None) -> dict[str, Any]:
    return {
        "peak_pss_mb": watcher.peak_bytes // 1_000_000,
        "group_peak_mb": group.peak_bytes() // 1_000_000 if group else None,
        "times_at_limit": group.times_at_limit() if group else None,
        "oom_kills": group.oom_kills() if group else None,
        "killed_over_limit": watcher.over_limit,
    }


def _ask(client: httpx.Client, request: Request, pictures: Path) -> Outcome:
    begun = time.perf_counter()
    route = "/" + {"upscale": "upscale", "process": "process"}.get(
        request.kind.split()[0], "remove-background"
    )
    try:
        with (
            (pictures / request.picture).open("rb") as file,
            client.stream("POST", route, files={"image": file}, data=request.fields) as answer,
        ):
            status = _told(client, answer)
    except httpx.HTTPError as error:
        status = type(error).__name__
    return Outcome(request.kind, status, round(time.perf_counter() - begun, 1))


def _told(client: httpx.Client, answer: httpx.Response) -> str:
    """A print went by whole, or how the models of a record ended."""
    if answer.headers["content-type"] == "image/png":
        end, size = b"", 0
        for piece in answer.iter_raw():
            end, size = (end + piece)[-len(_END_OF_PNG) :], size + len(piece)
        return f"{answer.status_code} {'whole' if end == _END_OF_PNG else 'NOT WHOLE'}"
    record = json.loads(answer.read())
    if "results" not in record:
        return f"{answer.status_code} {record.get('code')}"
    begun = time.monotonic()
    while record.get("status") == "running" and time.monotonic() - begun < _LANDING_S:
        time.sleep(1)
        record = client.get(f"/results/{record['request_id']}").json()
    counts = Counter(_ended(each) for each in record["results"])
    return f"{answer.status_code} " + ", ".join(f"{n} {how}" for how, n in sorted(counts.items()))


def _ended(entry: dict[str, Any]) -> str:
    return str(entry.get("error", {}).get("code") or entry.get("reason") or entry["status"])


def make_pictures(folder: Path) -> None:
    """A photograph at four sizes, a portrait, and artwork on white."""
    folder.mkdir()
    sides = {"photo": (1200, 900), "large": (4000, 3000), "huge": (6000, 4000)}
    sides |= {"giant": (8000, 5500)}
    with Image.open(DATA / "car-1.jpg") as opened:
        for name, size in sides.items():
            enlarged = opened.resize(size, Image.Resampling.BICUBIC)
            enlarged.save(folder / f"{name}.jpg", quality=90)
    with Image.open(DATA / "anime-girl-1.jpg") as opened:
        opened.save(folder / "portrait.jpg", quality=92)
    with Image.open(DATA / "art" / "shamrock_symbol_jonadab__01.png") as opened:
        artwork = opened.convert("RGBA")
    white = Image.fromarray(np.full((*artwork.size[::-1], 4), 255, np.uint8))
    Image.alpha_composite(white, artwork).convert("RGB").save(folder / "art.png")


if __name__ == "__main__":
    main()
