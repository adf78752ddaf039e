"""One peer of bench.upscale in an environment of its own: paths come in, times and sizes go out.

`python -P upscale_child.py pillow|opencv` says its version, then answers each line of standard
input, a path, with a line of JSON. It imports nothing of ours.
"""

import importlib
import io
import json
import sys
import time
from collections.abc import Callable

SCALE = 4


def pillow() -> tuple[str, Callable[[str], int]]:
    """Lanczos and the save defaults; also Pillow-SIMD, where that is what is installed."""
    picture = importlib.import_module("PIL.Image")

    def enlarge(path: str) -> int:
        with picture.open(path) as source:
            size = (source.width * SCALE, source.height * SCALE)
            file = io.BytesIO()
            source.resize(size, picture.Resampling.LANCZOS).save(file, "PNG")
        return len(file.getvalue())

    return importlib.import_module("PIL").__version__, enlarge


def opencv() -> tuple[str, Callable[[str], int]]:
    cv2 = importlib.import_module("cv2")

    def enlarge(path: str) -> int:
        source = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        size = (source.shape[1] * SCALE, source.shape[0] * SCALE)
        enlarged = cv2.resize(source, size, interpolation=cv2.INTER_LANCZOS4)
        return len(cv2.imencode(".png", enlarged)[1])

    return cv2.__version__, enlarge


def main() -> None:
    version, enlarge = {"pillow": pillow, "opencv": opencv}[sys.argv[1]]()
    print(json.dumps({"version": version}), flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        size = enlarge(line.rstrip("\n"))
        ms = (time.perf_counter() - begun) * 1e3
        print(json.dumps({"ms": ms, "bytes": size}), flush=True)


if __name__ == "__main__":
    main()
