"""Customers of known taste: what does a shot that learns cost, and what does it miss?

`python -m bench.picks_simulation [--plots FOLDER]` plays 10 000 shots in 100 days. A customer likes
a cut-out by the model's strength and by luck (Gumbel, so that picks follow Luce's axiom), and looks
at a place by its weight. Half-way the taste changes. The adaptive shot asks the free models and,
of the paid ones, those that services/taste.py thinks worth their price; it learns at the end of a
day from what was picked, as the service does. Regret is a favourite of the five that the customer
was not offered, valued at WORTH_USD.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.upscale_peers import PeerMissing, second_python
from models.schemas import ModelId
from services.catalogue import PAID
from services.tally import MODELS, Ballot, Cell, Counts
from services.taste import (
    Fit,
    Floats,
    Stakes,
    Weighed,
    faded,
    fit,
    prior_weights,
    sampled,
    worth_asking,
)

DAYS, SHOTS_A_DAY = 100, 100
HALF_LIFE_DAYS = 14.0
WORTH_USD = 0.05
PRICES = {
    ModelId.RUNWARE_RMBG: 0.018,
    ModelId.RUNWARE_BIREFNET: 0.0006,
    ModelId.KIE_RECRAFT: 0.005,
}
FIVE = MODELS[:5]
FREE = tuple(model for model in FIVE if model not in PAID)
PAID_FIVE = tuple(model for model in FIVE if model in PAID)
LOOKED_AT = np.array([1.0, 0.7, 0.5, 0.4, 0.3, 0.3])
# in the models' order, without BEN2; what is best at first is worth its price, then another is
BEFORE = np.array([1.0, 0.5, 4.0, 1.5, 0.8, 0.5])
AFTER = np.array([5.0, 0.5, 0.4, 1.0, 2.0, 0.5])


@dataclass
class Course:
    """What one way of asking did, by day."""

    name: str
    cost_usd: list[float] = field(default_factory=list)
    missed: list[int] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, Any]:
        shots = len(self.cost_usd) * SHOTS_A_DAY
        half = len(self.cost_usd) // 2
        return {
            "shots": shots,
            "cost_usd": round(sum(self.cost_usd), 2),
            "favourite_missed_%": round(100 * sum(self.missed) / shots, 2),
            "regret_usd": round(sum(self.missed) * WORTH_USD, 2),
            "cost_and_regret_usd": round(sum(self.cost_usd) + sum(self.missed) * WORTH_USD, 2),
            "missed_in_20_days_%": {
                "before the change": _share(self.missed[half - 20 : half]),
                "after it": _share(self.missed[half : half + 20]),
                "at the end": _share(self.missed[-20:]),
            },
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plots", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    courses = [play(adaptive=True), play(adaptive=False), *(play(always=n) for n in ([], ["kie"]))]
    measured = {
        "courses": {course.name: course.summary for course in courses},
        "places": place_bias(),
    }
    print(json.dumps(measured, indent=1))
    if asked.plots:
        series = [vars(course) for course in courses[:2]]
        draw({"simulation": series, "worth_usd": WORTH_USD, "shots": SHOTS_A_DAY}, asked.plots)


def play(
    *, adaptive: bool = False, always: list[str] | None = None, days: int = DAYS, seed: int = 7
) -> Course:
    """One course of days; `always` names the paid models asked every time (None: all of them)."""
    luck = np.random.default_rng(seed)
    fixed = [each for each in PAID_FIVE if always is None or any(n in each for n in always)]
    course = Course("adaptive" if adaptive else f"always {len(FREE) + len(fixed)}")
    cells: list[tuple[int, Cell]] = []
    learned = fit(Weighed.empty())
    for day in range(days):
        taste = BEFORE if day < days // 2 else AFTER
        cell = Cell.empty()
        cost, missed, asked = 0.0, 0, 0
        for _ in range(SHOTS_A_DAY):
            paid = _worth(learned, luck) if adaptive else tuple(fixed)
            shown = _in_order([*FREE, *paid], learned, luck)
            liking = np.log(taste) + luck.gumbel(size=len(taste))
            cell.count(_ballot(shown, _picked(shown, liking)), 1)
            cost += sum(PRICES[model] for model in paid)
            favourite = MODELS[int(np.argmax(liking[: len(FIVE)]))]
            missed += favourite not in {*FREE, *paid}
            asked += len(paid)
        cells.append((day, cell))
        learned = fit(faded([(day - at, each) for at, each in cells], HALF_LIFE_DAYS))
        course.cost_usd.append(cost)
        course.missed.append(missed)
        course.asked.append(asked / SHOTS_A_DAY)
    return course


def place_bias(shots: int = 4000, seed: int = 3) -> dict[str, Any]:
    """Known strengths, shown nearly always best first: who finds them again?"""
    luck = np.random.default_rng(seed)
    truth = BEFORE[:5]
    order_of_show = np.argsort(BEFORE[:5])  # the worst is mostly shown first
    cell = Cell.empty()
    for _ in range(shots):
        shown = order_of_show.copy()
        if luck.random() < 0.5:
            shown = np.roll(shown, int(luck.integers(1, 5)))
        models = [int(each) for each in shown]
        liking = np.log(BEFORE)
        worth = np.exp(liking[models]) * LOOKED_AT[: len(models)]
        winner = models[int(luck.choice(len(models), p=worth / worth.sum()))]
        cell.count(Ballot("2026-11-24", "photo", winner, tuple(models), ()), 1)
    weighed = Weighed.empty()
    weighed.add(cell)
    corrected, naive = fit(weighed), fit(weighed, corrected=False)
    return {
        "shots": shots,
        "truth": _scaled(truth),
        "corrected": _scaled(corrected.strengths[:5]),
        "naive": _scaled(naive.strengths[:5]),
        "places_truth": LOOKED_AT[:5].tolist(),
        "places": [round(float(each), 3) for each in corrected.places[:5]],
        "largest_error_corrected": _largest_error(corrected.strengths[:5], truth),
        "largest_error_naive": _largest_error(naive.strengths[:5], truth),
        "naive_best_is_right": bool(np.argmax(naive.strengths[:5]) == np.argmax(truth)),
    }


def draw(series: dict[str, Any], folder: Path) -> None:
    """By matplotlib, in the bench's second environment."""
    try:
        command = [str(second_python()), "-P", str(Path(__file__).parent / "picks_plots.py")]
    except PeerMissing as error:
        print(f"!! NO PLOT: {error}", file=sys.stderr)
        return
    subprocess.run([*command, str(folder)], input=json.dumps(series), text=True, check=True)


def _worth(learned: Fit, luck: np.random.Generator) -> tuple[ModelId, ...]:
    stakes = Stakes(PRICES, WORTH_USD)
    return worth_asking(learned, free=FREE, paid=PAID_FIVE, stakes=stakes, luck=luck)


def _in_order(models: list[ModelId], learned: Fit, luck: np.random.Generator) -> list[ModelId]:
    """As ranking would show them: by prior, which is drawn anew for every shot."""
    weights = prior_weights(learned, sampled(learned, luck))
    return sorted(models, key=lambda model: -weights[model])


def _picked(shown: list[ModelId], liking: Floats) -> ModelId:
    """The best liked, where a place that is looked at less makes less of it."""
    worth = [
        liking[MODELS.index(model)] + np.log(LOOKED_AT[place]) for place, model in enumerate(shown)
    ]
    return shown[int(np.argmax(worth))]


def _ballot(shown: list[ModelId], winner: ModelId) -> Ballot:
    places = tuple(MODELS.index(model) for model in shown)
    return Ballot("2026-11-24", "photo", MODELS.index(winner), places, ())


def _scaled(strengths: Floats | Counts) -> list[float]:
    scaled = strengths / np.exp(np.log(strengths).mean())
    return [round(float(each), 3) for each in scaled]


def _largest_error(found: Floats, truth: Floats) -> float:
    """The largest factor between the two, less one."""
    ratio = np.log(found / np.exp(np.log(found).mean()))
    ratio -= np.log(truth / np.exp(np.log(truth).mean()))
    return round(float(np.exp(np.abs(ratio).max()) - 1), 3)


def _share(missed: list[int]) -> float:
    return round(100 * sum(missed) / (len(missed) * SHOTS_A_DAY), 2) if missed else 0.0


if __name__ == "__main__":
    main()
