"""Draws bench.load's memory over time: `python -P load_plots.py FOLDER < JSON`.

Runs in the bench's second environment, where matplotlib is, and imports nothing of ours.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

INK, SECOND, THIRD, LIMIT, BURST = "#1f5fa8", "#d9822b", "#3a8f4d", "#a33b3b", "#eeeeee"
_MINUTE_S = 60


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    draw(json.load(sys.stdin), folder / "load-memory.png")


def draw(measured: dict[str, Any], target: Path) -> None:
    """The tree, its two parts, the group and its limit, against minutes; bursts are shaded."""
    importlib.import_module("matplotlib").use("Agg")
    figure, axes = importlib.import_module("matplotlib.pyplot").subplots(
        figsize=(10, 4.2), layout="constrained"
    )
    samples = measured["samples"]
    minutes = [each["at_s"] / _MINUTE_S for each in samples]
    for burst in measured["bursts"]:
        axes.axvspan(*(at / _MINUTE_S for at in burst), color=BURST, lw=0)
    if all(each["group_mb"] is not None for each in samples):
        group = [each["group_mb"] for each in samples]
        axes.plot(minutes, group, color=SECOND, lw=1, label="control group, with page cache")
        axes.axhline(measured["limit_mb"], color=LIMIT, linestyle=":", label="its limit")
    tree = [each["service_mb"] + each["others_mb"] for each in samples]
    axes.plot(minutes, tree, color=INK, lw=1.2, label="process tree (PSS)")
    own = [each["service_mb"] for each in samples]
    axes.plot(minutes, own, color=THIRD, lw=1, label="of it the service itself")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("minutes (grey: 50 clients)")
    axes.set_ylabel("MB")
    axes.set_title("Memory under fire", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    main()
