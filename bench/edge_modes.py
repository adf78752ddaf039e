"""What each edge mode costs: `python -m bench.edge_modes`.

A cut-out photograph, a piece of art and a glow, each 1000 pixels a side, become 4000: CPU
milliseconds a megapixel of the result on one thread, the best of five, of the plain Lanczos resize
(premultiplied, as strips do it) and of what each mode adds to it, islands and counts included.
"""

import time

import numpy as np
from PIL import Image

from bench.edges import DATA, PIECES
from models.images import Cutout, Edge, Pixels
from services.edge_modes import EdgeFinish
from services.lanczos import Resizing
from services.print_edges import PassingCutout

SIDE, SCALE, RUNS = 1000, 4, 5


def sources() -> dict[str, Pixels]:
    photo = Image.open(DATA / "anime-girl-1.isnet-general-use.png").convert("RGBA")
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    glow = np.full((SIDE, SIDE, 4), 200, np.uint8)
    glow[..., 3] = (255 - np.hypot(x, y) / 2).clip(0, 255)
    art = Image.open(PIECES[1]).convert("RGBA")
    return {
        "photo": np.asarray(photo.resize((SIDE, SIDE))),
        "art": np.asarray(art.resize((SIDE, SIDE))),
        "glow": glow,
    }


def best_ms(work: object) -> float:
    """CPU milliseconds a megapixel of the result."""
    assert callable(work)
    spent = []
    for _ in range(RUNS):
        begun = time.process_time()
        work()
        spent.append(time.process_time() - begun)
    return min(spent) * 1e9 / (SIDE * SCALE) ** 2


def resized(rgba: Pixels) -> None:
    (strip,) = Resizing(SIDE, SIDE, SIDE * SCALE, SIDE * SCALE).strips(SIDE)
    strip.resize(rgba)


def passed(rgba: Pixels, edge: Edge) -> None:
    cutout = Cutout(rgba[..., :3], np.ascontiguousarray(rgba[..., 3]))
    size = (SIDE * SCALE, SIDE * SCALE)
    for _ in PassingCutout(cutout, EdgeFinish(edge), size=size).strips():
        pass


def main() -> None:
    print("| picture | resize | " + " | ".join(Edge) + " |")
    for name, rgba in sources().items():
        plain = best_ms(lambda: resized(rgba))  # noqa: B023  # called at once
        added = [best_ms(lambda: passed(rgba, edge)) - plain for edge in Edge]  # noqa: B023
        cells = " | ".join(f"{each:.1f}" for each in added)
        print(f"| {name} | {plain:.1f} | {cells} |")


if __name__ == "__main__":
    main()
