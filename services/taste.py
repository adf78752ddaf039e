"""What counts of picks say about the models: win rates, strengths, what the place did, whom to ask.

The customer's choice is modelled by Luce's axiom with a weight for the place: of those shown, model
i at place p is picked with a chance in proportion to s_i * w_p. Any two of one choice then compare
as in Bradley and Terry, P(i at p over j at q) = s_i w_p / (s_i w_p + s_j w_q), so the comparisons
of the picked one with every other are enough, and the place is told apart from the model wherever
a model was seen at several places. Their logarithms are the logistic regression of these
comparisons (Bradley and Terry, Biometrika 39, 1952), climbed by Newton's steps: the MM steps of
D. R. Hunter (Annals of Statistics 32, 2004) were tried first and crawled where the strongest is
mostly shown first. w plays the part of the examination weight in the position-based click model
(Craswell et al., WSDM 2008). Pure arithmetic: no file, no clock.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.schemas import ModelId
from services.tally import MODELS, Cell, Counts

Floats: TypeAlias = NDArray[np.float64]

FLOOR = 0.1
"""The least a model's word is worth: one that always loses is still heard."""
EXPLORE = 0.05
"""Of the shots, those in which a paid model is asked whatever is known of it."""
TRUSTED_FROM = 30
"""Picks below which nothing is said about whom to ask."""
_HALF_TRUSTED = 50  # picks at which a strength is believed half
_PSEUDO = 1.0  # invented wins and losses against the average: every estimate stays finite
_PSEUDO_OF_KIND = 10.0  # and against what is known of all kinds
_CERTAIN = 1e9
_ROUNDS = 50
_STILL = 1e-8
_LONGEST_STEP = 2.0
_Z = 1.959963984540054  # 95 %
_ONE_PLACE = 0.95  # of its showings at one place: nothing can be told about places from this model


@dataclass(frozen=True, slots=True)
class Fit:
    """Strengths by model (geometric mean 1) with the standard error of their logarithm.

    `places` are weights by place, the first is 1; `places_known` says whether the data tells places
    from models, otherwise all are 1. `picks` may be fractional where old ones count less.
    """

    strengths: Floats
    errors: Floats
    places: Floats
    places_known: bool
    picks: float


def wilson(wins: int, shown: int) -> tuple[float, float]:
    """The 95 % interval of a rate (E. B. Wilson 1927); 0 and 1 where nothing was seen."""
    if shown == 0:
        return 0.0, 1.0
    rate, square = wins / shown, _Z * _Z
    middle = (rate + square / (2 * shown)) / (1 + square / shown)
    half = (
        _Z / (1 + square / shown) * math.sqrt(rate * (1 - rate) / shown + square / (4 * shown**2))
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def faded(cells: Iterable[tuple[int, Cell]], half_life_days: float) -> "Weighed":
    """The sum of (age in days, cell), each counting half as much for every half-life of age."""
    weighed = Weighed.empty()
    for age, cell in cells:
        weighed.add(cell, 0.5 ** (max(0, age) / half_life_days))
    return weighed


@dataclass(slots=True, eq=False)
class Weighed:
    """Counts as `Cell` has them, weighed: pairs[i, p, j, q], shown[i, p], wins[i, p]."""

    pairs: Floats
    shown: Floats
    wins: Floats

    @classmethod
    def empty(cls) -> "Weighed":
        side = len(MODELS)
        square = np.zeros((2, side, side))
        return cls(np.zeros((side,) * 4), square[0], square[1])

    def add(self, cell: Cell, weight: float = 1.0) -> None:
        self.pairs += weight * cell.pairs
        self.shown += weight * cell.shown
        self.wins += weight * cell.wins


def fit(seen: Weighed, *, around: Floats | None = None, corrected: bool = True) -> Fit:
    """Strengths and weights of places; `around` is what a model is taken for where little is known.

    With `corrected=False` places are ignored, as if all had been looked at alike.
    """
    pairs = np.maximum(seen.pairs, 0)
    middle = np.ones(len(MODELS)) if around is None else around
    known = corrected and _places_vary(seen.shown)
    held = _PSEUDO if around is None else _PSEUDO_OF_KIND
    prior = _Prior(np.log(middle), held, known)
    picks = float(seen.wins.sum())
    candidates = float(seen.shown.sum()) / picks if picks else 2.0
    logs, errors = _climb(pairs, prior, candidates)
    strengths, places = logs[: len(MODELS)], logs[len(MODELS) :]
    return Fit(
        strengths=np.exp(strengths - strengths.mean()),
        errors=errors,
        places=np.exp(places - places[0]) if known else np.ones(len(MODELS)),
        places_known=known,
        picks=picks,
    )


@dataclass(frozen=True, slots=True)
class _Prior:
    """What is believed before any pick: `held` wins and losses against `middle` (log strengths).

    Places are believed alike; where `fit_places` is False they are not doubted.
    """

    middle: Floats
    held: float
    fit_places: bool

    def slopes(self, logs: Floats) -> tuple[Floats, Floats]:
        """First derivative and (negative) second of its log-likelihood, for models then places."""
        side = len(self.middle)
        weight = np.repeat([self.held, _PSEUDO if self.fit_places else _CERTAIN], side)
        chance = _logistic(logs - np.append(self.middle, np.zeros(side)))
        return weight * (1 - 2 * chance), 2 * weight * chance * (1 - chance)


def _climb(pairs: Floats, prior: _Prior, candidates: float) -> tuple[Floats, Floats]:
    """Logarithms of strengths, then places, at the top of the likelihood; errors of the former.

    It is a logistic regression, concave with one top, so Newton's steps find it in a few rounds.
    The k - 1 pairs of one pick out of k are not independent: for equal strengths they look k / 2
    times as informative as the pick is, so for the errors the information is divided by that.
    """
    side = len(MODELS)
    won = pairs.reshape(side * side, side * side)
    met = won + won.T
    logs = np.append(prior.middle, np.zeros(side))
    for _ in range(_ROUNDS):
        worth = _DESIGN @ logs
        chance = _logistic(worth[:, None] - worth[None])
        spread = met * chance * (1 - chance)
        seen = _DESIGN.T @ (np.diag(spread.sum(1)) - spread) @ _DESIGN
        slope, curve = prior.slopes(logs)
        slope = slope + _DESIGN.T @ (won.sum(1) - (met * chance).sum(1))
        step = np.linalg.solve(seen + np.diag(curve), slope)
        logs = logs + step * min(1.0, _LONGEST_STEP / max(np.abs(step).max(), _STILL))
        if np.abs(step).max() < _STILL:
            break
    information = seen / max(1.0, candidates / 2) + np.diag(curve)
    doubt = np.linalg.inv(information).astype(np.float64)
    return logs, _errors(doubt[:side, :side], np.diag(seen)[:side])


def _errors(doubt: Floats, known: Floats) -> Floats:
    """Standard errors against the models' mean, which is itself weighed by what is known of each.

    Picks compare: the height of all of them together is not known and does not matter.
    """
    share = (known + _STILL) / (known + _STILL).sum()
    against_mean = np.eye(len(known)) - share[None]
    errors: Floats = np.sqrt(np.diag(against_mean @ doubt @ against_mean.T))
    return errors


def _logistic(x: Floats) -> Floats:
    found: Floats = 0.5 * (1 + np.tanh(x / 2))
    return found


def _design() -> Floats:
    """Which strength and which place make the worth of (model, place): (s * s, 2 s) of 0 and 1."""
    side = len(MODELS)
    ones = np.eye(side)
    return np.hstack([np.repeat(ones, side, axis=0), np.tile(ones, (side, 1))])


_DESIGN = _design()


def _places_vary(shown: Floats | Counts) -> bool:
    totals = shown.sum(1)
    seen = totals > 0
    if not seen.any():
        return False
    return bool((shown[seen].max(1) < _ONE_PLACE * totals[seen]).any())


def sampled(fitted: Fit, luck: np.random.Generator) -> Floats:
    """Strengths as they may be, given what is known (Thompson sampling); any positive scale."""
    drawn: Floats = fitted.strengths * np.exp(fitted.errors * luck.standard_normal(len(MODELS)))
    return drawn


def prior_weights(fitted: Fit, strengths: Floats) -> dict[ModelId, float]:
    """What each model's word is worth before its cut-out is seen: FLOOR to 1, the best is 1.

    Without picks all are 1; the more picks there are, the more the strengths show.
    """
    trust = fitted.picks / (fitted.picks + _HALF_TRUSTED)
    weights = np.maximum(FLOOR, (strengths / strengths.max()) ** trust)
    return dict(zip(MODELS, weights.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Stakes:
    """What is at stake when a paid model is asked: its price, and what a better pick is worth."""

    prices: Mapping[ModelId, float]
    worth_usd: float


def worth_asking(
    fitted: Fit,
    *,
    free: Iterable[ModelId],
    paid: Iterable[ModelId],
    stakes: Stakes,
    luck: np.random.Generator,
) -> tuple[ModelId, ...]:
    """The paid models that are worth their price for one shot, the best first.

    A model is worth asking when the chance that the customer takes it, over the free candidates and
    the paid ones before it, times `worth_usd` exceeds its price, by strengths drawn for this shot;
    in EXPLORE of the shots it is asked anyway. Until TRUSTED_FROM picks: all, the cheapest first.
    """
    paid = sorted(paid, key=lambda model: stakes.prices.get(model, 0.0))
    if fitted.picks < TRUSTED_FROM:
        return tuple(paid)
    drawn = dict(zip(MODELS, sampled(fitted, luck).tolist(), strict=True))
    against = sum(drawn[model] for model in free)
    asked: list[ModelId] = []
    waiting = list(paid)
    while waiting:
        best = max(waiting, key=lambda model: _gain(model, drawn, against, stakes))
        waiting.remove(best)
        if _gain(best, drawn, against, stakes) > 0 or luck.random() < EXPLORE:
            asked.append(best)
            against += drawn[best]
    return tuple(asked)


def _gain(model: ModelId, drawn: Mapping[ModelId, float], against: float, stakes: Stakes) -> float:
    chance = drawn[model] / (drawn[model] + against)
    return chance * stakes.worth_usd - stakes.prices.get(model, 0.0)
