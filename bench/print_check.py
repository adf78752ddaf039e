"""How long a print check takes, and what memory, against the same measured in the plain way.

`python -m bench.print_check [--json FILE]`: pieces of tests/data/art enlarged to 4 megapixels, at
one pixel of theirs for one of the print, at 11 inches and at four times; then 64 megapixels. The
peer makes the whole print's alpha and measures it with scipy: two distance transforms, one label.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np
from PIL import Image
from scipy import ndimage

from models.images import Edge, Pixels
from models.print_check import PrintLimits
from models.schemas import SizeParameters
from services.print_check import Art, Wish, check_print
from utils import heap

ART = Path(__file__).parents[1] / "tests" / "data" / "art"
PIECES = ("war_drum_enrique_meza_c_01", "8_ball_jarno_vasamaa", "shamrock_symbol_jonadab__01")
SIDE, LARGE_SIDE = 2000, 8000
SIZES_IN = {"1 : 1": SIDE / 300, "11 in": 11.0, "4 x": 4 * SIDE / 300}
ROUNDS = {"ours": 5, "peer": 2}


def piece(name: str, side: int) -> Art:
    with Image.open(ART / f"{name}.png") as picture:
        rgba = np.asarray(picture.convert("RGBA").resize((side, side), Image.Resampling.BICUBIC))
    return Art(np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3]))


def ours(art: Art, width_in: float, edge: Edge = Edge.SOFT) -> object:
    wish = Wish(SizeParameters(width_in=width_in, edge=edge), garment="black")
    return check_print(art, wish, PrintLimits())


def plainly(art: Art, width_in: float) -> object:
    """Ghosts, soft areas, edges, specks, lines and gaps of the whole print at once."""
    assert art.alpha is not None
    alpha = _printed(art.alpha, round(300 * width_in))
    shape = alpha >= 128
    inside, outside = (ndimage.distance_transform_edt(each) for each in (shape, ~shape))
    away = np.maximum(inside, outside)
    middle = (alpha > 25) & (alpha < 230)
    ridge = (inside == ndimage.maximum_filter(inside, 3)) & shape
    gap = (outside == ndimage.maximum_filter(outside, 3)) & ~shape
    _, count = ndimage.label(alpha > 25, np.ones((3, 3)))
    return (
        int(((alpha > 0) & (alpha <= 25) & (outside > 4)).sum()),
        int((middle & (away > 3)).sum()),
        int((middle & (away <= 3)).sum()) / max(int((shape & (inside <= 1)).sum()), 1),
        count,
        float(2 * inside[ridge].min(initial=np.inf)),
        float(2 * outside[gap].min(initial=np.inf)),
    )


def _printed(alpha: Pixels, width: int) -> Pixels:
    if width == alpha.shape[1]:
        return alpha
    height = round(alpha.shape[0] * width / alpha.shape[1])
    return np.asarray(Image.fromarray(alpha).resize((width, height), Image.Resampling.LANCZOS))


def milliseconds(work: Callable[[], object], *, rounds: int) -> tuple[float, float]:
    """The best of some rounds, as the clock and as this thread's CPU time has it."""
    spent = []
    for _ in range(rounds):
        clock, cpu = perf_counter(), thread_time()
        work()
        spent.append((1e3 * (perf_counter() - clock), 1e3 * (thread_time() - cpu)))
    return min(each[0] for each in spent), min(each[1] for each in spent)


def peak_mb(work: Callable[[], object]) -> float:
    """What the process grows by at its peak, beyond the picture."""
    heap.trim()
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1e6


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def rows(side: int, sizes: dict[str, float], *, with_peer: bool) -> list[dict[str, object]]:
    table = []
    for name in PIECES:
        art = piece(name, side)
        for size, width_in in sizes.items():
            look, peer_look = partial(ours, art, width_in), partial(plainly, art, width_in)
            clock, cpu = milliseconds(look, rounds=ROUNDS["ours"])
            row: dict[str, object] = {
                "piece": name,
                "print": size,
                "ms": round(clock),
                "cpu_ms": round(cpu),
                "mb": round(peak_mb(look), 1),
            }
            if with_peer:
                peer, peer_cpu = milliseconds(peer_look, rounds=ROUNDS["peer"])
                row |= {
                    "peer_ms": round(peer),
                    "peer_mb": round(peak_mb(peer_look)),
                    "share": round(cpu / peer_cpu, 3),
                }
            table.append(row)
            print(row, flush=True)
    return table


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--json", type=Path)
    given = asked.parse_args()
    table = {
        "4 megapixels": rows(SIDE, SIZES_IN, with_peer=True),
        "64 megapixels": rows(
            LARGE_SIDE, {"1 : 1": LARGE_SIDE / 300, "11 in": 11.0}, with_peer=False
        ),
    }
    if given.json:
        given.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
