"""Draws what picks say: `python -P picks_plots.py FOLDER < JSON`.

Runs in the bench's second environment, where matplotlib is, and imports nothing of ours. It draws
the simulation (bench/picks_simulation.py) and the report (scripts/preferences_report.py).
"""

import importlib
import json
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

COLOURS = ["#1f5fa8", "#d9822b", "#3a8f4d", "#a33b3b", "#7a5aa6", "#666666", "#999999"]
_WINDOW_DAYS = 7


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    given = json.load(sys.stdin)
    if "simulation" in given:
        draw_simulation(given, folder / "picks-simulation.png")
    if "report" in given:
        draw_report(given["report"], folder / "preferences.png")


def draw_simulation(given: dict[str, Any], target: Path) -> None:
    """Favourites missed by day, and money added up."""
    figure, (left, right) = new_plot(2)
    for colour, course in zip(COLOURS, given["simulation"], strict=False):
        missed = [100 * each / given["shots"] for each in smooth(course["missed"])]
        left.plot(missed, color=colour, label=course["name"])
        money = list(accumulate(course["cost_usd"]))
        right.plot(money, color=colour, label=f"{course['name']}: cost")
        lost = list(accumulate(each * given["worth_usd"] for each in course["missed"]))
        both = [cost + loss for cost, loss in zip(money, lost, strict=True)]
        right.plot(both, ":", color=colour, label=f"{course['name']}: with regret")
    for axes in (left, right):
        axes.axvline(len(given["simulation"][0]["missed"]) / 2, color="#bbbbbb", linestyle="--")
    label(left, "Favourite not offered, 7 days' mean", "day", "% of shots")
    label(right, "Money, added up", "day", "USD")
    figure.savefig(target, dpi=80)


def draw_report(report: dict[str, Any], target: Path) -> None:
    """Win rates over time, and what an adaptive shot would have saved."""
    figure, (left, right) = new_plot(2)
    periods = [period["name"] for period in report["periods"]]
    for colour, model in zip(COLOURS, report["models"], strict=False):
        rates = [period["win_rates"].get(model) for period in report["periods"]]
        points = [(at, 100 * rate) for at, rate in enumerate(rates) if rate is not None]
        if points:
            left.plot(*zip(*points, strict=True), ".-", color=colour, label=model)
    right.plot(list(accumulate(report["spent_usd"])), color=COLOURS[0], label="spent")
    right.plot(list(accumulate(report["adaptive_usd"])), color=COLOURS[1], label="adaptive")
    for axes in (left, right):
        step = max(1, len(periods) // 6)
        axes.set_xticks(range(0, len(periods), step), periods[::step], rotation=30, fontsize=7)
    label(left, "Win rates", "", "% of picks in which it was shown")
    label(right, "Paid models, added up", "", "USD")
    figure.savefig(target, dpi=100)


def smooth(values: list[float]) -> list[float]:
    """The mean of the last days."""
    return [
        sum(values[max(0, at - _WINDOW_DAYS + 1) : at + 1]) / min(at + 1, _WINDOW_DAYS)
        for at in range(len(values))
    ]


def new_plot(columns: int) -> tuple[Any, Any]:
    importlib.import_module("matplotlib").use("Agg")
    plot: tuple[Any, Any] = importlib.import_module("matplotlib.pyplot").subplots(
        1, columns, figsize=(10, 3.6), layout="constrained"
    )
    return plot


def label(axes: Any, title: str, across: str, up: str) -> None:  # noqa: ANN401  # no types
    axes.set_title(title, loc="left")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main()
