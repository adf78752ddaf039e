"""Draws what bench.upscale measured: `python -P upscale_plots.py FOLDER < JSON`.

Runs in the bench's second environment, where matplotlib is, and imports nothing of ours.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

GOAL_MB = 400
MB = 1_000_000
INK, SECOND, GOAL = "#1f5fa8", "#d9822b", "#999999"


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    measured = json.load(sys.stdin)
    sheets = [row for row in measured.get("large", []) if row["picture"] == "gang sheet"]
    if sheets:
        draw_memory(sheets, folder / "upscale-memory.png")
    if measured.get("growth"):
        draw_growth(measured["growth"], folder / "upscale-growth.png")


def draw_memory(rows: list[dict[str, Any]], target: Path) -> None:
    """Peak above idle against the source's height."""
    figure, axes = new_plot()
    heights = [row["source_height"] for row in rows]
    held = [row["peak_bytes"] / MB for row in rows]
    axes.plot(heights, held, "o-", color=INK, label="process tree (PSS)")
    if all(row["group_peak_bytes"] is not None for row in rows):
        group = [row["group_peak_bytes"] / MB for row in rows]
        axes.plot(heights, group, "s--", color=SECOND, label="control group, with page cache")
    axes.axhline(GOAL_MB, color=GOAL, linestyle=":", label=f"goal, {GOAL_MB} MB")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("height of the source, pixels (6600 wide, enlarged 4x)")
    axes.set_ylabel("peak above idle, MB")
    finish(figure, axes, "Peak memory by the height of the source", target)


def draw_growth(rows: list[dict[str, Any]], target: Path) -> None:
    """Time a megapixel of the result against its megapixels."""
    figure, axes = new_plot()
    sizes = [row["megapixels"] for row in rows]
    sides = {
        "ms_per_megapixel": ("o-", INK, "in process"),
        "cpu_ms_per_megapixel": ("^:", GOAL, "in process, processor time of both threads"),
        "http_ms_per_megapixel": ("s--", SECOND, "over HTTP, with the upload"),
    }
    for name, (style, colour, label) in sides.items():
        axes.plot(sizes, [row[name] for row in rows], style, color=colour, label=label)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("megapixels of the result (4x)")
    axes.set_ylabel("ms a megapixel")
    finish(figure, axes, "Time a megapixel by the size of the result", target)


def new_plot() -> tuple[Any, Any]:
    importlib.import_module("matplotlib").use("Agg")
    plot: tuple[Any, Any] = importlib.import_module("matplotlib.pyplot").subplots(
        figsize=(7, 4), layout="constrained"
    )
    return plot


def finish(figure: Any, axes: Any, title: str, target: Path) -> None:  # noqa: ANN401  # no types
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    main()
