"""What shots take of the memory, and whether the budget holds: `python -m bench.admission PART`.

`stages`: bytes a pixel of each step, in a process of its own, against services/appetite.py.
`shots`: the service's own process at its peak, above idle, against what it had reserved.
`eight`: eight pictures of 64 megapixels at once under a memory control group of 4 GiB, with the
budget and without it.
`burst`: rounds of fifty shots at once, five of them at a provider that never answers.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import numpy as np
from PIL import Image

from bench.memory_watch import new_control_group, tree_pss_bytes
from bench.upscale_service import ROOT, Service, running_service
from models.images import SourceImage
from models.schemas import ModelId
from sandbox.marks import draw
from sandbox.opening import Sandbox, open_sandbox
from services.appetite import appetite
from services.fitting import Limits, fit
from services.intake import inspect, read
from services.knockout import knock_out
from services.remover import cut_with
from utils import heap
from utils.png import rgba_strips, write_png

DATA = ROOT / "tests" / "data"
PHOTO = DATA / "anime-girl-1.jpg"
ART = DATA / "art" / "aircraft_jarno_vasamaa3.png"
MB = 1_000_000
SIDES = (1000, 2000, 4000, 8000)
LIMIT_BYTES = 4 << 30
NO_BUDGET_MB = 1_000_000
FORMATS: dict[str, dict[str, Any]] = {
    "jpg": {"format": "JPEG", "quality": 90},
    "progressive.jpg": {"format": "JPEG", "quality": 90, "progressive": True, "subsampling": 0},
    "png": {"format": "PNG", "compress_level": 1},
    "lzw.tif": {"format": "TIFF", "compression": "tiff_lzw"},
    "webp": {"format": "WEBP", "quality": 90, "method": 0},
    "lossless.webp": {"format": "WEBP", "lossless": True, "method": 0, "quality": 0},
    "bmp": {"format": "BMP"},
    "gif": {"format": "GIF"},
}
STAGE_SIDE = 4000
ROUNDS = 4
AT_ONCE = 50
HANGING = 5
FAULT_CELLS_SIDE = 512


def main() -> None:
    parts: dict[str, Callable[[Path], None]] = {
        "stages": stages,
        "shots": shots,
        "eight": eight,
        "burst": burst,
    }
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("part", choices=[*parts, "one-stage"])
    asked.add_argument("rest", nargs="*")
    given = asked.parse_args()
    if given.part == "one-stage":
        print(json.dumps(one_stage(given.rest[0], Path(given.rest[1]))))
        return
    with tempfile.TemporaryDirectory(prefix="bench-admission-", dir="/tmp") as folder:
        parts[given.part](Path(folder))


# --- pictures


def photo(path: Path, side: int, kind: str = "jpg") -> Path:
    """The photo as a square of that side."""
    with Image.open(PHOTO) as picture:
        picture.convert("RGB").resize((side, side)).save(path, **FORMATS[kind])
    return path


def art(path: Path, side: int, *, alpha: bool) -> Path:
    """The artwork as a square PNG, on white or as it is."""
    with Image.open(ART) as picture:
        large = picture.convert("RGBA").resize((side, side))
    if not alpha:
        ground = Image.new("RGB", large.size, "white")
        ground.paste(large, mask=large)
        large = ground
    large.save(path, "PNG", compress_level=1)
    return path


# --- stages


def stages(folder: Path) -> None:
    print("| step | picture | bytes a pixel | predicted |\n|---|---|---|---|")
    for kind in FORMATS:
        path = photo(folder / f"photo.{kind}", STAGE_SIDE, kind)
        _say_stage("read", path, kind)
    for alpha in (False, True):
        path = art(folder / f"art-{alpha}.png", STAGE_SIDE, alpha=alpha)
        for step in ("read", "fit", "cut", "knock", "store"):
            _say_stage(step, path, "art with alpha" if alpha else "art")


def _say_stage(step: str, path: Path, name: str) -> None:
    command = [sys.executable, "-m", "bench.admission", "one-stage", step, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    print(f"| {step} | {name} | {told['taken']:.1f} | {told['predicted']:.1f} |", flush=True)


def one_stage(step: str, path: Path) -> dict[str, float]:
    """Bytes a pixel that a step takes at its peak beyond what was there, and what is predicted."""
    header = inspect(path)
    pixels = header.pixels
    models = {"knock": ModelId.LOCAL_KNOCKOUT, "fit": ModelId.KIE_RECRAFT}
    model = models.get(step, ModelId.LOCAL_ISNET)
    predicted = appetite(header, [model], at_most=1, budget_bytes=None).bytes / pixels
    if step == "read":
        predicted = appetite(header, [], at_most=1, budget_bytes=None).bytes / pixels
        return {"taken": _peak(lambda: read(path, header)) / pixels, "predicted": predicted}
    image = read(path, header)
    predicted -= 3 + header.may_have_alpha
    return {"taken": _peak(_step(step, image)) / pixels, "predicted": predicted}


def _step(step: str, image: SourceImage) -> Callable[[], object]:
    mask = np.asarray(Image.fromarray(image.rgb[..., 1]).resize((1024, 1024)))
    match step:
        case "fit":
            limits = Limits(max_side=4096, max_pixels=16_000_000, max_bytes=5_000_000)
            return lambda: fit(image, limits)
        case "cut":
            return lambda: cut_with(image, mask)
        case "knock":
            return lambda: knock_out(image.rgb)
        case _:
            return lambda: _store(image, mask)


def _store(image: SourceImage, mask: Any) -> None:  # noqa: ANN401  # an array
    cutout = cut_with(image, mask)
    strips = rgba_strips(cutout.rgb, cutout.alpha)
    with Path("/dev/null").open("wb") as file:
        file.writelines(write_png(strips, width=image.width, height=image.height, channels=4))


def _peak(work: Callable[[], object]) -> int:
    heap.trim()
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    before = _status("self", "VmRSS")
    work()
    return _status("self", "VmHWM") - before


def _status(pid: int | str, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


# --- shots


def shots(folder: Path) -> None:
    """One shot at a time through a service without a bound, so that nothing is refused."""
    env = {"WEIGHTS_DIR": str(ROOT / "weights"), "MEMORY_LIMIT_MB": str(NO_BUDGET_MB)}
    print("| picture | models | MP | peak above idle MB | reserved MB |\n|---|---|---|---|---|")
    with running_service(folder, watched=False, env=env) as service:
        _wait_for_isnet(service)
        for side in SIDES:
            for name, path in _shot_pictures(folder, side):
                for models in ("local-isnet", "local-isnet,local-knockout"):
                    taken, reserved = _one_shot(service, path, models)
                    row = (name, models, side * side // 1_000_000, taken // MB, reserved // MB)
                    print("|", " | ".join(str(each) for each in row), "|", flush=True)


def _shot_pictures(folder: Path, side: int) -> Iterator[tuple[str, Path]]:
    yield "photo, JPEG", photo(folder / "photo.jpg", side)
    yield "art, PNG", art(folder / "art.png", side, alpha=False)
    yield "art, PNG with alpha", art(folder / "alpha.png", side, alpha=True)


def _one_shot(service: Service, path: Path, models: str) -> tuple[int, int]:
    """The server process' peak above idle, and what the shot reserved, both in bytes.

    A small shot comes first, so that everything is imported and the network is loaded.
    """
    _shoot(service, DATA / "car-1.jpg", models)
    time.sleep(1)
    pid = service.watcher.pid
    idle = _status(pid, "VmRSS")
    Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")
    with _most_reserved(service) as most:
        status = _shoot(service, path, models)
    if not status.startswith("200"):
        raise RuntimeError(status)
    return _status(pid, "VmHWM") - idle, most[0] << 20


@contextlib.contextmanager
def _most_reserved(service: Service) -> Iterator[list[int]]:
    """The most MiB that /ready saw reserved."""
    most, done = [0], Event()

    def watch() -> None:
        with httpx.Client(base_url=service.client.base_url, trust_env=False) as client:
            while not done.wait(0.1):
                told = client.get("/ready", timeout=60).json()["memory"]["reserved_mb"]
                most[0] = max(most[0], told)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def _wait_for_isnet(service: Service) -> None:
    for _ in range(300):
        state = service.client.get("/ready").json()["models"]["local-isnet"]
        if state["status"] != "loading":
            break
        time.sleep(0.2)
    if state["status"] != "ready":
        raise SystemExit(f"local-isnet is {state['status']}: {state['reason']}")


def _shoot(service: Service, path: Path, models: str, **more: str) -> str:
    """`200 succeeded, pending`, or the status and code of a refusal, or what broke."""
    try:
        with path.open("rb") as file:
            answer = service.client.post(
                "/remove-background", files={"image": file}, data={"models": models, **more}
            )
    except httpx.HTTPError as error:
        return type(error).__name__
    body = answer.json()
    if not answer.is_success:
        return f"{answer.status_code} {body['code']}"
    return "200 " + ", ".join(each["status"] for each in body["results"])


# --- eight at once


def eight(folder: Path) -> None:
    picture = photo(folder / "photo.jpg", 8000)
    drawn = art(folder / "art.png", 8000, alpha=False)
    for models in ("local-isnet", "local-isnet,local-knockout"):
        for budget in (True, False):
            told = _eight(folder, [picture, drawn] * 4, models, budget=budget)
            print(json.dumps({"models": models, "budget": budget, **told}), flush=True)


def _eight(folder: Path, pictures: list[Path], models: str, *, budget: bool) -> dict[str, Any]:
    env = {"WEIGHTS_DIR": str(ROOT / "weights"), "MAX_CONCURRENT_JOBS": "4", "DEADLINE_S": "55"}
    limit = LIMIT_BYTES >> 20 if budget else NO_BUDGET_MB
    env["MEMORY_LIMIT_MB"] = str(limit)
    with (
        new_control_group(limit_bytes=LIMIT_BYTES) as group,
        running_service(folder, group=group, limit_bytes=LIMIT_BYTES, env=env) as service,
    ):
        _wait_for_isnet(service)
        begun = time.perf_counter()
        with ThreadPoolExecutor(len(pictures)) as pool:
            outcomes = list(
                pool.map(lambda path: _shoot(service, path, models, deadline_s="55"), pictures)
            )
        seconds = time.perf_counter() - begun
        return {
            "seconds": round(seconds, 1),
            "outcomes": dict(Counter(outcomes)),
            "peak_pss_mb": service.watcher.peak_bytes // MB,
            "group_peak_mb": group.peak_bytes() // MB if group else None,
            "times_at_limit": group.times_at_limit() if group else None,
            "oom_kills": group.oom_kills() if group else None,
            "memory": _memory(service),
        }


def _memory(service: Service) -> Any:  # noqa: ANN401  # JSON
    try:
        return service.client.get("/ready").json()["memory"]
    except httpx.HTTPError as error:
        return type(error).__name__


# --- bursts


def burst(folder: Path) -> None:
    """The paid model is the sandbox's, in this process, so that its memory is not the service's."""
    side = FAULT_CELLS_SIDE
    sound = photo(folder / "sound.png", side, "png")
    with Image.open(sound) as picture:
        marked = draw(np.asarray(picture), "runware.silent")
    hanging = folder / "hanging.png"
    Image.fromarray(marked).save(hanging, "PNG")
    env = {
        "RUNWARE_API_KEY": "sandbox-burst",
        "RUNWARE_TIMEOUT_S": "30",
        "MAX_CONCURRENT_JOBS": "10",
        "QUEUE_LIMIT": "24",
    }
    print(
        "| round | answers of 45 sound shots | longest s | median s | hanging | peak MB | after |"
    )
    print("|---|---|---|---|---|---|---|")
    with (
        _sandbox() as sandbox,
        running_service(folder, env=env | _addresses(sandbox)) as service,
    ):
        for number in range(ROUNDS):
            _burst(service, sound, hanging, number)
        print("queue and memory in the end:", service.client.get("/ready").json()["queue"])
        print(_memory(service))


@contextlib.contextmanager
def _sandbox() -> Iterator[Sandbox]:
    """The look-alikes on a thread of their own."""
    opened: list[Sandbox] = []
    ready, closing, loop = Event(), asyncio.Event(), asyncio.new_event_loop()

    async def live() -> None:
        async with open_sandbox() as sandbox:
            opened.append(sandbox)
            ready.set()
            await closing.wait()

    thread = Thread(target=loop.run_until_complete, args=(live(),))
    thread.start()
    try:
        ready.wait()
        yield opened[0]
    finally:
        loop.call_soon_threadsafe(closing.set)
        thread.join()
        loop.close()


def _addresses(sandbox: Sandbox) -> dict[str, str]:
    host = sandbox.runware_files.partition("://")[2]
    return {"RUNWARE_URL": sandbox.runware_ws, "PROVIDER_RESULT_DOMAINS": host}


def _burst(service: Service, sound: Path, hanging: Path, number: int) -> None:
    models = "runware-birefnet-portrait,local-knockout"
    service.watcher.peak_bytes = 0

    def one(path: Path) -> tuple[str, float]:
        begun = time.perf_counter()
        deadline = "3" if path is hanging else "30"
        return _shoot(service, path, models, deadline_s=deadline), time.perf_counter() - begun

    with ThreadPoolExecutor(AT_ONCE) as pool:
        first = [pool.submit(one, hanging) for _ in range(HANGING)]
        rest = [pool.submit(one, sound) for _ in range(AT_ONCE - HANGING)]
        stuck = Counter(each.result()[0] for each in first)
        answers = [each.result() for each in rest]
    seconds = [taken for outcome, taken in answers if outcome.startswith("200")]
    while service.client.get("/ready").json()["queue"]["running"]:
        time.sleep(0.5)
    time.sleep(1)
    row = (
        number + 1,
        dict(Counter(outcome for outcome, _ in answers)),
        f"{max(seconds):.1f}",
        f"{statistics.median(seconds):.1f}",
        dict(stuck),
        service.watcher.peak_bytes // MB,
        tree_pss_bytes(service.watcher.pid) // MB,
    )
    print("|", " | ".join(str(each) for each in row), "|", flush=True)


if __name__ == "__main__":
    main()
