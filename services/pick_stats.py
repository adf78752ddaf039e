"""The tally of picks as the tables that /preferences/stats answers with."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

from models.preferences import GroupBy, GroupWins, ModelWins, PlaceWins, PreferenceStats, StatsQuery
from services.tally import MODELS, Cell, Tally, total
from services.taste import Fit, Weighed, fit, wilson

_DOLLAR = 1e6


def stats_of(tally: Tally, asked: StatsQuery) -> PreferenceStats:
    """Wins, rates, strengths and costs of the picks asked for. Some tens of ms for every group."""
    chosen = list(
        tally.select(
            kind=asked.kind,
            since=asked.since.isoformat() if asked.since else "",
            until=asked.until.isoformat() if asked.until else "9999-99-99",
        )
    )
    summed = total(cell for _, _, cell in chosen)
    fitted = _fit(summed)
    return PreferenceStats(
        kind=asked.kind,
        since=asked.since,
        until=asked.until,
        picks=summed.picks,
        models=_models(summed, fitted),
        places=_places(summed, fitted),
        places_known=fitted.places_known,
        groups=_groups(chosen, asked.by, fitted) if asked.by else None,
    )


def group_name(day: str, kind: str, by: GroupBy) -> str:
    """What a day and kind are counted under."""
    match by:
        case "kind":
            return kind
        case "day":
            return day
        case "week":
            year, week, _ = date.fromisoformat(day).isocalendar()
            return f"{year}-W{week:02d}"
        case "month":
            return day[:7]


def grouped(chosen: Sequence[tuple[str, str, Cell]], by: GroupBy) -> dict[str, Cell]:
    """The sums of (day, kind, cell) by name, in the order of names."""
    named: dict[str, list[Cell]] = {}
    for day, kind, cell in chosen:
        named.setdefault(group_name(day, kind, by), []).append(cell)
    return {name: total(cells) for name, cells in sorted(named.items())}


def _groups(chosen: Sequence[tuple[str, str, Cell]], by: GroupBy, overall: Fit) -> list[GroupWins]:
    """Every group begins with what is known of all."""
    return [
        GroupWins(name=name, picks=cell.picks, models=_models(cell, _fit(cell, overall)))
        for name, cell in grouped(chosen, by).items()
    ]


def _fit(cell: Cell, overall: Fit | None = None) -> Fit:
    weighed = Weighed.empty()
    weighed.add(cell)
    return fit(weighed, around=overall.strengths if overall else None)


def _naive(cell: Cell) -> Fit:
    weighed = Weighed.empty()
    weighed.add(cell)
    return fit(weighed, corrected=False)


def _models(cell: Cell, fitted: Fit) -> list[ModelWins]:
    """Every model that was shown or cost something, in the fixed order."""
    naive = _naive(cell) if fitted.places_known else replace(fitted)
    shown, wins = cell.shown.sum(1), cell.wins.sum(1)
    rows = []
    for index, model in enumerate(MODELS):
        seen, won, cost = int(shown[index]), int(wins[index]), int(cell.cost[index]) / _DOLLAR
        if not seen and not cost:
            continue
        low, high = wilson(won, seen)
        rows.append(
            ModelWins(
                model=model,
                shown=seen,
                wins=won,
                win_rate=won / seen if seen else None,
                win_rate_low=low,
                win_rate_high=high,
                strength=float(fitted.strengths[index]),
                strength_uncorrected=float(naive.strengths[index]),
                cost_usd=cost,
                cost_per_win_usd=cost / won if won else None,
            )
        )
    return rows


def _places(cell: Cell, fitted: Fit) -> list[PlaceWins]:
    shown, wins = cell.shown.sum(0), cell.wins.sum(0)
    return [
        PlaceWins(
            place=index + 1,
            shown=int(shown[index]),
            wins=int(wins[index]),
            weight=float(fitted.places[index]),
        )
        for index in range(len(MODELS))
        if shown[index]
    ]
