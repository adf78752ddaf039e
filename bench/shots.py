"""What a shot takes beyond its models, and what the modes cost: `python -m bench.shots`.

The service and the sandbox are processes of their own; the providers' delays are set with the
sandbox's switches. Each shot is streamed, so one reading gives the first result and the whole.
`--agreement` measures instead how far agreement of the free models vouches for them: artwork on
plain and busy grounds, ISNet against the knock-out, each against the artwork's true alpha.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from bench.isnet import ISNET, THREADS, WEIGHTS
from bench.knockout import GROUNDS, laid_on, load_pieces
from bench.upscale_service import ROOT, Service, running_service
from models.images import Pixels, SourceImage
from services.knockout import knock_out
from services.local_rembg import cut_out, open_session, predict
from services.modes import AGREE_FROM, agreement, mask_of
from utils.png import encode_png

PROVIDERS = "runware-rmbg-2.0,runware-birefnet-portrait,kie-recraft"
DELAYS = "runware.slow=1@runware:112@10,runware.slow=2@bria:2@1,kie.slow=3"
DELAYED = "Portrait 1 s, RMBG 2 s, Recraft 3 s"
PACE = "0.2"
DATA = ROOT / "tests" / "data"
PHOTO = DATA / "car-1.jpg"
ART = {  # as --agreement finds them
    "artwork the free ones agree on": "8_ball_jarno_vasamaa.png",
    "artwork they disagree on": "aircraft_jarno_vasamaa3.png",
}
MODES = ("all", "fast", "cascade")
BESIDE = (4000, 3000)  # the 12 megapixels that are enlarged beside the shots


@dataclass(frozen=True)
class Shot:
    """One streamed shot in milliseconds, and what it cost in the end.

    At `accepted` the picture is read and the models are asked. `first_own` and `slowest_own` are
    the models' own latencies, as their entries give them.
    """

    accepted: float
    first: float
    first_own: int
    total: float
    slowest_own: int
    cost_usd: float
    outcomes: dict[str, str]

    @property
    def first_extra(self) -> float:
        return self.first - self.first_own

    @property
    def total_ratio(self) -> float:
        return self.total / self.slowest_own


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--shots", type=int, default=10)
    asked.add_argument("--pixel-threads", type=int, default=2)
    asked.add_argument("--no-modes", action="store_true")
    asked.add_argument("--agreement", action="store_true")
    given = asked.parse_args()
    if given.agreement:
        measure_agreement()
    else:
        measure_shots(given.shots, threads=given.pixel_threads, with_modes=not given.no_modes)


def measure_shots(shots: int, *, threads: int, with_modes: bool) -> None:
    told: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="bench-shots-") as folder,
        _service(folder, threads=threads) as service,
    ):
        _warm(service)
        print(f"| shots of {PHOTO.name}, {shots} each | total / slowest model | first result less "
              "its own latency, ms | of which before the models are asked |\n"
              "| --- | --- | --- | --- |")  # fmt: skip
        alone = [_shoot(service, models=PROVIDERS) for _ in range(shots)]
        told["providers"] = _latency_row(f"providers alone ({DELAYED})", alone)
        with _enlarging(service, Path(folder)):
            beside = [_shoot(service, models=f"{PROVIDERS},local-isnet") for _ in range(shots)]
        told["beside"] = _latency_row("with ISNet, an /upscale of 12 megapixels beside", beside)
        if with_modes:
            told |= _measure_modes(service, max(3, shots // 2))
    print(json.dumps(told))


def _measure_modes(service: Service, shots: int) -> dict[str, Any]:
    print("\n| picture, mode | answer, median ms | dollars a shot | models of a shot |"
          "\n| --- | --- | --- | --- |")  # fmt: skip
    on_white = {name: _on_white(DATA / "art" / file) for name, file in ART.items()}
    told = {}
    for picture, content in {"photo": PHOTO.read_bytes(), **on_white}.items():
        for mode in MODES:
            seen = [_shoot(service, content, mode=mode) for _ in range(shots)]
            told[f"{picture}, {mode}"] = _mode_row(f"{picture}, `{mode}`", seen)
    return told


def measure_agreement() -> None:
    """Print agreement and true IoU of both free models, piece by piece, the best agreed last."""
    session = open_session(ISNET.session, WEIGHTS, THREADS)
    rows: list[tuple[float, float, float, str]] = []
    for piece in load_pieces():
        truth = mask_of(np.ascontiguousarray(piece.rgba[..., 3]))
        for name, pixels in _grounds(piece.rgba):
            image = SourceImage(rgb=pixels, alpha=None, format="PNG", bytes=0, sha256="")
            masks = [
                mask_of(cut_out(image, predict(session, ISNET, image)).alpha),
                mask_of(knock_out(pixels, holes=piece.holes).alpha),
            ]
            isnet, knockout = (agreement([mask, truth]) for mask in masks)
            rows.append((agreement(masks), isnet, knockout, f"{piece.name} on {name}"))
    print("| agreement | ISNet's true IoU | the knock-out's | picture |\n| --- | --- | --- | --- |")
    for agreed, isnet, knockout, picture in sorted(rows):
        print(f"| {agreed:.3f} | {isnet:.3f} | {knockout:.3f} | {picture} |")
    for threshold in (0.8, 0.9, AGREE_FROM, 0.98):
        passed = [row for row in rows if row[0] >= threshold]
        worst = min((max(isnet, knockout) for _, isnet, knockout, _ in passed), default=0.0)
        print(f"from {threshold}: {len(passed)} of {len(rows)}, worst best IoU {worst:.3f}")


def _grounds(rgba: Pixels) -> Iterator[tuple[str, Pixels]]:
    """The artwork on each plain ground of bench.knockout, on a gradient and on noise."""
    for name, colour in GROUNDS.items():
        yield name, laid_on(rgba, colour)
    height, width = rgba.shape[:2]
    ramp = np.broadcast_to(np.linspace(90, 220, width)[None, :, None], (height, width, 3))
    noise = np.random.default_rng(0).normal(150, 25, (height, width, 3))
    share = rgba[..., 3:] / 255
    for name, ground in (("gradient", ramp), ("noise", noise)):
        mixed = rgba[..., :3] * share + ground * (1 - share)
        yield name, np.rint(mixed.clip(0, 255)).astype(np.uint8)


@contextmanager
def _service(folder: str, *, threads: int) -> Iterator[Service]:
    with _sandbox() as addresses:
        hosts = [addresses[name].partition("://")[2] for name in ("runware_files", "kie_files")]
        env = {
            "RUNWARE_API_KEY": "sandbox-bench",
            "KIE_API_KEY": "sandbox-bench",
            "RUNWARE_URL": addresses["runware_ws"],
            "KIE_API_URL": addresses["kie_api"],
            "KIE_UPLOAD_URL": addresses["kie_upload"],
            "PROVIDER_RESULT_DOMAINS": ",".join(hosts),
            "PROVIDER_PACE": PACE,
            "WEIGHTS_DIR": str(ROOT / "weights"),
            "PIXEL_THREADS": str(threads),
        }
        with running_service(Path(folder), watched=False, env=env) as service:
            yield service


@contextmanager
def _sandbox() -> Iterator[dict[str, str]]:
    """The look-alikes in a process of their own, cutting with the knock-out: their addresses."""
    told = [sys.executable, "-m", "sandbox", "--free-ports", "--json", "--no-isnet"]
    with subprocess.Popen(
        [*told, "--delay", "0.05", "--faults", DELAYS], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            addresses: dict[str, str] = json.loads(process.stdout.readline())
            yield addresses
        finally:
            process.terminate()


def _warm(service: Service) -> None:
    """Sockets and ISNet are there before anything is measured."""
    while service.client.get("/ready").json()["models"]["local-isnet"]["status"] == "loading":
        time.sleep(0.2)
    _shoot(service, models=f"{PROVIDERS},local-isnet")


def _shoot(service: Service, picture: bytes | None = None, **asked: str) -> Shot:
    """A streamed shot by the client's clock, from the first byte sent; its cost once all landed."""
    begun, accepted, first, first_own = time.perf_counter(), 0.0, 0.0, 0
    with service.client.stream(
        "POST",
        "/remove-background",
        files={"image": picture or PHOTO.read_bytes()},
        data={"stream": "ndjson", **asked},
    ) as answer:
        for line in answer.iter_lines():
            event = json.loads(line)
            accepted = accepted or _ms_since(begun)
            if event["event"] == "result" and event["status"] == "succeeded" and not first:
                first, first_own = _ms_since(begun), event["latency_ms"]
    total = _ms_since(begun)
    assert event["event"] == "done", event
    slowest = max(each.get("latency_ms", 0) for each in event["results"])
    record = _complete(service, event["request_id"])
    return Shot(accepted, first, first_own, total, slowest, record["cost_usd"], _outcomes(record))


def _complete(service: Service, request_id: str) -> dict[str, Any]:
    while True:
        record: dict[str, Any] = service.client.get(f"/results/{request_id}").json()
        if record["status"] == "complete":
            return record
        time.sleep(0.05)


def _outcomes(record: dict[str, Any]) -> dict[str, str]:
    return {
        each["model"]: each.get("error", {}).get("code") or each.get("reason") or each["status"]
        for each in record["results"]
    }


@contextmanager
def _enlarging(service: Service, folder: Path) -> Iterator[None]:
    """One /upscale of 12 megapixels after another, as long as the block lasts."""
    picture = folder / "beside.jpg"
    _noise(*BESIDE).save(picture, "JPEG", quality=90)
    done = threading.Event()

    def enlarge() -> None:
        while not done.is_set():
            with service.client.stream(
                "POST", "/upscale", files={"image": picture.read_bytes()}
            ) as answer:
                for _ in answer.iter_raw():
                    if done.is_set():
                        break

    thread = threading.Thread(target=enlarge)
    thread.start()
    time.sleep(1)
    try:
        yield
    finally:
        done.set()
        thread.join()


def _noise(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def _on_white(path: Path) -> bytes:
    return encode_png(laid_on(np.asarray(Image.open(path).convert("RGBA")), GROUNDS["white"]))


def _latency_row(name: str, shots: list[Shot]) -> list[dict[str, Any]]:
    ratios = [shot.total_ratio for shot in shots]
    extras = [shot.first_extra for shot in shots]
    print(
        f"| {name} | {median(ratios):.3f} (worst {max(ratios):.3f}) | "
        f"{median(extras):.0f} (worst {max(extras):.0f}) | "
        f"{median(shot.accepted for shot in shots):.0f} |"
    )
    return [asdict(shot) for shot in shots]


def _mode_row(name: str, shots: list[Shot]) -> list[dict[str, Any]]:
    cost = sum(shot.cost_usd for shot in shots) / len(shots)
    became = Counter(shot.outcomes[model] for shot in shots for model in shot.outcomes)
    words = ", ".join(f"{count / len(shots):g} {outcome}" for outcome, count in became.items())
    print(f"| {name} | {median(shot.total for shot in shots):.0f} | {cost:.4f} | {words} |")
    return [asdict(shot) for shot in shots]


def _ms_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000


if __name__ == "__main__":
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    main()
