"""What the picks so far say, period by period, and what a shot that learns would have saved."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

import numpy as np

from models.preferences import GroupBy
from models.schemas import ModelId
from services.catalogue import PAID
from services.pick_stats import group_name, grouped
from services.preferences import fits_by_kind
from services.tally import MODELS, Cell, Tally
from services.taste import Fit, Stakes, Weighed, fit, worth_asking

_DRAWS = 50
_MICRO = 1e6


@dataclass(frozen=True, slots=True)
class Learning:
    """How the adaptive shot is imagined."""

    half_life_days: float
    stakes: Stakes


@dataclass(slots=True)
class Report:
    """By period: win rates; dollars spent on paid models and what the adaptive shot would have.

    `lost` are picks whose winner it would not have asked.
    """

    models: list[str] = field(default_factory=list)
    periods: list[dict[str, Any]] = field(default_factory=list)
    spent_usd: list[float] = field(default_factory=list)
    adaptive_usd: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    picks: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def report_of(tally: Tally, by: GroupBy, learning: Learning, *, seed: int = 0) -> Report:
    """Every period is judged by what was known before it began, never by its own picks."""
    luck = np.random.default_rng(seed)
    chosen = list(tally.select())
    report = Report()
    for name, cell in grouped(chosen, by).items():
        inside = [each for each in chosen if group_name(each[0], each[1], by) == name]
        first = min(day for day, _, _ in inside)
        fits = _known_before(tally, first, learning.half_life_days)
        spent, adaptive, lost = 0.0, 0.0, 0.0
        for kind, of_kind in grouped(inside, "kind").items():
            fitted = fits.get(kind) or fits[None]
            shares = _shares_asked(of_kind, fitted, learning.stakes, luck)
            for model, share in shares.items():
                index = MODELS.index(model)
                cost = float(of_kind.cost[index]) / _MICRO
                spent += cost
                adaptive += share * cost
                lost += (1 - share) * float(of_kind.wins[index].sum())
        report.periods.append({"name": name, "picks": cell.picks, "win_rates": _rates(cell)})
        report.spent_usd.append(spent)
        report.adaptive_usd.append(adaptive)
        report.lost.append(lost)
        report.picks += cell.picks
    seen = {model for period in report.periods for model in period["win_rates"]}
    report.models = [model.value for model in MODELS if model.value in seen]
    return report


def _known_before(tally: Tally, day: str, half_life_days: float) -> Mapping[str | None, Fit]:
    earlier = Tally()
    earlier.cells = {key: cell for key, cell in tally.cells.items() if key[0] < day}
    if not earlier.cells:
        return {None: fit(Weighed.empty())}
    return fits_by_kind(earlier, date.fromisoformat(day), half_life_days)


def _shares_asked(
    cell: Cell, fitted: Fit, stakes: Stakes, luck: np.random.Generator
) -> dict[ModelId, float]:
    """Of the paid models that were asked: the share of shots in which they would have been."""
    seen = cell.shown.sum(1)
    free = [model for at, model in enumerate(MODELS) if model not in PAID and seen[at]]
    paid = [
        model for at, model in enumerate(MODELS) if model in PAID and (seen[at] or cell.cost[at])
    ]
    counts = dict.fromkeys(paid, 0)
    for _ in range(_DRAWS):
        for model in worth_asking(fitted, free=free, paid=paid, stakes=stakes, luck=luck):
            counts[model] += 1
    return {model: count / _DRAWS for model, count in counts.items()}


def _rates(cell: Cell) -> dict[str, float]:
    shown, wins = cell.shown.sum(1), cell.wins.sum(1)
    return {
        model.value: float(wins[at] / shown[at]) for at, model in enumerate(MODELS) if shown[at] > 0
    }
