"""Large enlargements over HTTP: how fast, how much memory, and four of them at once in 4 GB."""

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import httpx

from bench.memory_watch import new_control_group
from bench.png import DATA
from bench.upscale_peers import our_side
from bench.upscale_service import ROOT, Answer, Service, post_upscale, running_service
from bench.upscale_sources import write_gang_sheet, write_photo

SQUARE_SIDE = 10_000
GANG_WIDTH = 6600
GANG_HEIGHTS = (4500, 9000, 18_000)
PHOTO_TILE = 1000
GROWTH_TILE = 250
# source sides, each with how often it is measured
GROWTH_RUNS = {250: 9, 500: 9, 1000: 7, 2000: 5, 4000: 3}
GROWTH_LARGE_RUNS = {10_000: 1}
HARD_LIMIT_BYTES = 4 << 30
SHOT_MODELS = "local-isnet,local-knockout"
SHOT_PAUSE_S = 3


@dataclass(frozen=True, slots=True)
class LargeRow:
    """One large picture through a service of its own; memory is what came on top of idle."""

    picture: str
    source_height: int
    answer: Answer
    source_bytes: int
    idle_bytes: int
    peak_bytes: int
    group_peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class GrowthRow:
    """Milliseconds a megapixel of the result, the best run in process and over HTTP.

    Processor time, of all threads, is what a busy machine blurs least.
    """

    megapixels: float
    ms_per_megapixel: float
    cpu_ms_per_megapixel: float
    http_ms_per_megapixel: float


@dataclass(frozen=True, slots=True)
class FourRow:
    """Four large enlargements at once beside background removals, under a hard limit."""

    limit_by: str
    jobs: str
    seconds: float
    answers: dict[str, Answer]
    idle_bytes: int
    peak_bytes: int
    over_limit: bool
    group_peak_bytes: int | None
    times_at_limit: int | None
    oom_kills: int | None
    shots: dict[str, int]
    shot_median_s: float
    shot_longest_s: float


def measure_large(folder: Path) -> Iterator[LargeRow]:
    square = write_photo(folder / "square.png", side=SQUARE_SIDE, tile=PHOTO_TILE)
    yield _large("photo", square, SQUARE_SIDE)
    square.unlink()
    for height in GANG_HEIGHTS:
        sheet = write_gang_sheet(folder / "sheet.png", width=GANG_WIDTH, height=height)
        yield _large("gang sheet", sheet, height)


def measure_growth(folder: Path, runs: dict[int, int]) -> Iterator[GrowthRow]:
    """One picture, repeated in ever larger squares, so that only the size grows."""
    with our_side(folder / "scratch") as ours, running_service(folder, watched=False) as service:
        for side, count in runs.items():
            path = write_photo(folder / "growth.png", side=side, tile=GROWTH_TILE)
            in_process, cpu, http = [], [], []
            for _ in range(count):
                begun = time.process_time()
                in_process.append(ours.enlarge_in_passing(path).ms)
                cpu.append((time.process_time() - begun) * 1e3)
                http.append(_whole(post_upscale(service, path)))
            megapixels = http[0].megapixels
            least = (min(in_process), min(cpu), min(each.ms for each in http))
            yield GrowthRow(megapixels, *(ms / megapixels for ms in least))


def four_at_once(folder: Path, *, jobs: int | None) -> FourRow:
    """`jobs` is MAX_CONCURRENT_JOBS, None for the service's default."""
    square = write_photo(folder / "square.png", side=SQUARE_SIDE, tile=PHOTO_TILE)
    sheet = write_gang_sheet(folder / "sheet.png", width=GANG_WIDTH, height=GANG_HEIGHTS[-1])
    pictures = {"photo 1": square, "sheet 1": sheet, "photo 2": square, "sheet 2": sheet}
    env = {"WEIGHTS_DIR": str(ROOT / "weights")}
    env |= {} if jobs is None else {"MAX_CONCURRENT_JOBS": str(jobs)}
    with (
        new_control_group(limit_bytes=HARD_LIMIT_BYTES) as group,
        running_service(folder, group=group, limit_bytes=HARD_LIMIT_BYTES, env=env) as service,
    ):
        _wait_for_weights(service)
        _shoot(service)  # loads the network
        idle = service.watcher.settle()
        if group is not None:
            group.reset()
        begun = time.perf_counter()
        answers, shots = _all_at_once(service, pictures)
        seconds = time.perf_counter() - begun
        return FourRow(
            limit_by="control group" if group else "watcher",
            jobs=str(jobs or "default"),
            seconds=seconds,
            answers=answers,
            idle_bytes=idle,
            peak_bytes=service.watcher.peak_bytes,
            over_limit=service.watcher.over_limit,
            group_peak_bytes=group.peak_bytes() if group else None,
            times_at_limit=group.times_at_limit() if group else None,
            oom_kills=group.oom_kills() if group else None,
            shots=dict(Counter(outcome for _, outcome in shots).most_common()),
            shot_median_s=statistics.median(taken for taken, _ in shots),
            shot_longest_s=max(taken for taken, _ in shots),
        )


def _large(name: str, path: Path, source_height: int) -> LargeRow:
    """A service that has done nothing yet, so that idle owes nothing to the picture before."""
    with (
        new_control_group() as group,
        running_service(path.parent, group=group) as service,
    ):
        idle = service.watcher.settle()
        group_idle = 0
        if group is not None:
            group.reset()
            group_idle = group.usage_bytes()
        answer = post_upscale(service, path)
        return LargeRow(
            picture=name,
            source_height=source_height,
            answer=answer,
            source_bytes=path.stat().st_size,
            idle_bytes=idle,
            peak_bytes=service.watcher.peak_bytes - idle,
            group_peak_bytes=group.peak_bytes() - group_idle if group else None,
        )


def _whole(answer: Answer) -> Answer:
    if answer.fault:
        raise RuntimeError(f"POST /upscale: {answer.fault}")
    return answer


def _all_at_once(
    service: Service, pictures: dict[str, Path]
) -> tuple[dict[str, Answer], list[tuple[float, str]]]:
    """The enlargements' answers, and the removals fired until the last of them had come."""
    done = Event()
    with ThreadPoolExecutor(len(pictures) + 1) as pool:
        shooting = pool.submit(_shoot_until, done, service)
        posted = {name: pool.submit(post_upscale, service, path) for name, path in pictures.items()}
        try:
            answers = {name: each.result() for name, each in posted.items()}
        finally:
            done.set()
        return answers, shooting.result()


def _shoot_until(done: Event, service: Service) -> list[tuple[float, str]]:
    """One removal after another with a pause between."""
    shots = []
    while not done.is_set():
        shots.append(_shoot(service))
        done.wait(SHOT_PAUSE_S)
    return shots


def _shoot(service: Service) -> tuple[float, str]:
    """Seconds and outcome of one removal."""
    begun = time.perf_counter()
    picture = (DATA / "car-1.jpg").read_bytes()
    try:
        answer = service.client.post(
            "/remove-background", files={"image": picture}, data={"models": SHOT_MODELS}
        )
    except httpx.HTTPError as error:
        return time.perf_counter() - begun, type(error).__name__
    return time.perf_counter() - begun, _outcome(answer)


def _outcome(answer: httpx.Response) -> str:
    if not answer.is_success:
        return f"HTTP {answer.status_code} {answer.json().get('code', '')}"
    return ", ".join(f"{one['model']} {one['status']}" for one in answer.json()["results"])


def _wait_for_weights(service: Service) -> None:
    for _ in range(300):
        state = service.client.get("/ready").json()["models"]["local-isnet"]
        if state["status"] != "loading":
            break
        time.sleep(0.2)
    if state["status"] != "ready":
        print(f"!! local-isnet is {state['status']}: {state['reason']}; run `make weights`")
