"""Measures the enlargement: `python -m bench.upscale` prints tables, goals met or not, and JSON.

Without flags: four times against Pillow, Pillow-SIMD, OpenCV and sharp, the time by stage, and the
time a megapixel up to 256. `--gigapixel` (10 000 x 10 000 and gang sheets, their memory) and
`--four-at-once` (four of those in 4 GB) run instead, `--all` runs everything.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.upscale_load import GROWTH_LARGE_RUNS, GROWTH_RUNS
from bench.upscale_peers import HERE, PeerMissing, second_python
from bench.upscale_tables import show_four, show_growth, show_large, show_peers

ROUNDS = 5
JOBS = 0  # the service's own default


def main() -> None:
    asked = _arguments()
    print(f"{os.cpu_count()} cores; load before {os.getloadavg()[0]:.2f} (others blur wall clocks)")
    with tempfile.TemporaryDirectory(prefix="bench-upscale-") as folder:
        measured = measure(asked, Path(folder))
    text = json.dumps(measured)
    if asked.json:
        asked.json.write_text(text, "utf-8")
    if asked.plots:
        draw(asked.plots, text)
    print(text)


def measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    large = asked.gigapixel or asked.all
    four = asked.four_at_once or asked.all
    small = asked.all or not (large or four)
    measured: dict[str, Any] = {}
    if small:
        measured |= show_peers(folder, rounds_count=asked.rounds)
    if small or large:
        runs = GROWTH_RUNS | (GROWTH_LARGE_RUNS if large else {})
        measured["growth"] = show_growth(folder, runs)
    if large:
        measured["large"] = show_large(folder)
    if four:
        measured["four"] = show_four(folder, jobs=asked.jobs or None)
    return measured


def draw(folder: Path, measured: str) -> None:
    """Plots of what this run measured, by matplotlib in the bench's second environment."""
    try:
        command = [str(second_python()), "-P", str(HERE / "upscale_plots.py"), str(folder)]
    except PeerMissing as error:
        print(f"!! NO PLOTS: {error}", file=sys.stderr)
        return
    subprocess.run(command, input=measured, text=True, check=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigapixel", action="store_true", help="the large pictures; a minute")
    parser.add_argument("--four-at-once", action="store_true", help="under 4 GB; two minutes")
    parser.add_argument("--all", action="store_true", help="everything; six minutes")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each peer")
    parser.add_argument(
        "--jobs",
        type=int,
        default=JOBS,
        help="MAX_CONCURRENT_JOBS for --four-at-once; 0: the service's default",
    )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw what was measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the JSON there as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
