"""What a composed answer takes at 25 megapixels: `python -m bench.removebg`.

Time and memory of services/composing.py for each format, and against Pillow's way of holding whole
pictures (decode, resize premultiplied, encode) in the same run, each in a process of its own.
"""

import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from models.removebg import RemovebgParameters
from services.composing import compose
from utils.memory import resident_bytes
from utils.png import encode_png

WIDTH, HEIGHT = 5760, 4320
CASES = {
    "preview": {"size": "preview", "format": "png"},
    "png": {"size": "full", "format": "png"},
    "jpg": {"size": "full", "format": "jpg"},
    "zip": {"size": "full", "format": "zip"},
}
PILLOW_SIZES = {"preview": (577, 433), "png": (3651, 2738), "jpg": (WIDTH, HEIGHT)}
ROUNDS = 3


def main() -> None:
    if len(sys.argv) > 1:
        way, case, folder = sys.argv[1:]
        print(json.dumps(measured(WAYS[way], case, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "cutout.png").write_bytes(encode_png(cutout()))
        print("| answer | ours, s | MiB | Pillow, s | MiB |\n| --- | --- | --- | --- | --- |")
        for case in CASES:
            cells = [best(way, case, folder) for way in WAYS]
            print(f"| {case} | " + " | ".join(cells) + " |")


def best(way: str, case: str, folder: str) -> str:
    """The quickest round, and the least memory."""
    if way == "pillow" and case not in PILLOW_SIZES:
        return "| "
    command = [sys.executable, "-m", "bench.removebg", way, case, folder]
    rounds = [json.loads(subprocess.check_output(command)) for _ in range(ROUNDS)]
    return f"{min(each[0] for each in rounds):.1f} | {min(each[1] for each in rounds):.0f}"


def cutout() -> np.ndarray:
    """A photograph inside a soft ellipse, RGBA."""
    with Image.open("tests/data/car-1.jpg") as car:
        rgb = np.asarray(car.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    far = np.hypot(rows - HEIGHT / 2, (columns - WIDTH / 2) / 1.3)
    alpha = np.clip((2000 - far) * 60, 0, 255).astype(np.uint8)
    rgba = np.dstack((rgb, alpha))
    rgba[alpha == 0] = 0
    return rgba


def ours(case: str, folder: Path) -> None:
    asked = RemovebgParameters.model_validate(CASES[case])
    compose(folder / "cutout.png", asked, None, scratch=folder)


def pillow(case: str, folder: Path) -> None:
    with Image.open(folder / "cutout.png") as picture:
        picture.load()
        size = PILLOW_SIZES[case]
        if size != picture.size:
            whole = picture.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
        else:
            whole = picture.copy()
    if case == "jpg":
        white = Image.new("RGBA", whole.size, "white")
        Image.alpha_composite(white, whole).convert("RGB").save(
            io.BytesIO(), "JPEG", quality=95, subsampling=0
        )
    else:
        whole.save(folder / "pillow.png", "PNG")


WAYS = {"ours": ours, "pillow": pillow}


def measured(work: Callable[[str, Path], None], case: str, folder: Path) -> tuple[float, float]:
    """Seconds, and MiB above what was resident before."""
    before, done, highest = resident_bytes() or 0, threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.005):
            highest[0] = max(highest[0], resident_bytes() or 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    work(case, folder)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return seconds, (highest[0] - before) / (1 << 20)


if __name__ == "__main__":
    main()
