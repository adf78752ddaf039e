"""ISNet on this machine: time and peak memory of our session and processing against plain rembg's.

`python -m bench.isnet` prints a table and JSON. Each side runs in a process of its own with the
same weights, the same picture and two threads; what the network says of pictures without a
subject is printed beside it, since the threshold for "empty" rests on it.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.images import SourceImage
from models.schemas import ModelId
from services.local_rembg import NETWORKS, cut_out, open_session, predict

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"
WEIGHTS = ROOT / "weights" / "models" / "isnet-general-use" / "isnet-general-use.onnx"
ISNET = NETWORKS[ModelId.LOCAL_ISNET]
RUNS = 5
THREADS = 2


def main() -> None:
    sides = {name: _in_own_process(name) for name in ("rembg", "ours")}
    rembg, ours = sides["rembg"], sides["ours"]
    print(f"{'':8}{'load s':>9}{'s/picture':>11}{'peak MB':>9}{'IoU':>8}")
    for name, side in sides.items():
        print(
            f"{name:8}{side['load_s']:9.2f}{side['picture_s']:11.2f}"
            f"{side['peak_mb']:9.0f}{side['iou']:8.4f}"
        )
    print(
        f"ratio   {rembg['load_s'] / ours['load_s']:9.2f}"
        f"{rembg['picture_s'] / ours['picture_s']:11.2f}"
        f"{rembg['peak_mb'] / ours['peak_mb']:9.2f}"
    )
    heights = _highest_predictions()
    for name, highest in heights.items():
        print(f"highest prediction, {name}: {highest:.3f}")
    print(json.dumps({**sides, "highest_prediction": heights}))


def side(name: str) -> dict[str, float]:
    """Load, cut a photo out RUNS times, and report; meant for a process of its own."""
    photo = Image.open(DATA / "anime-girl-1.jpg").convert("RGB")
    begun = time.perf_counter()
    cut = _rembg(photo) if name == "rembg" else _ours(photo)
    alpha = cut()
    load_s = time.perf_counter() - begun
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        cut()
        times.append(time.perf_counter() - begun)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "load_s": load_s,
        "picture_s": median(times),
        "peak_mb": peak_kib / 1024,
        "iou": _iou(alpha),
    }


def _rembg(photo: Image.Image) -> Callable[[], NDArray[np.uint8]]:
    """Plain rembg, told its session and threads and nothing else."""
    os.environ.update(REMBG_HOME=str(ROOT / "weights"), OMP_NUM_THREADS=str(THREADS))
    os.environ.pop("U2NET_HOME", None)
    from rembg import new_session, remove  # noqa: PLC0415  # its import is part of its cost

    session = new_session(ISNET.session, providers=["CPUExecutionProvider"])
    return lambda: np.asarray(remove(photo, session=session))[..., 3]


def _ours(photo: Image.Image) -> Callable[[], NDArray[np.uint8]]:
    session = open_session(ISNET.session, WEIGHTS, THREADS)
    image = _source(np.asarray(photo))
    return lambda: cut_out(image, predict(session, ISNET, image)).alpha


def _in_own_process(name: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.isnet", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _highest_predictions() -> dict[str, float]:
    session = open_session(ISNET.session, WEIGHTS, THREADS)
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
    ramp = np.linspace(0, 255, 500).astype(np.uint8)
    pictures = {
        "white": np.full((500, 500, 3), 255, np.uint8),
        "black": np.zeros((500, 500, 3), np.uint8),
        "gradient": np.tile(ramp[None, :, None], (500, 1, 3)),
        "noise": noise,
        **{path.stem: _on_white(path) for path in sorted((DATA / "art").glob("*.png"))},
    }
    return {
        name: float(predict(session, ISNET, _source(pixels)).max())
        for name, pixels in pictures.items()
    }


def _on_white(path: Path) -> NDArray[np.uint8]:
    art = Image.open(path).convert("RGBA")
    ground = Image.new("RGBA", art.size, "white")
    return np.asarray(Image.alpha_composite(ground, art).convert("RGB"))


def _source(rgb: NDArray[np.uint8]) -> SourceImage:
    return SourceImage(rgb=rgb, alpha=None, format="PNG", bytes=0, sha256="")


def _iou(alpha: NDArray[np.uint8]) -> float:
    published = np.asarray(Image.open(DATA / "anime-girl-1.isnet-general-use.png"))[..., 3]
    ours, theirs = alpha >= 128, published >= 128
    return float((ours & theirs).sum() / (ours | theirs).sum())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(side(sys.argv[1])))
    else:
        main()
