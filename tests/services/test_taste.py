"""What picks say: intervals, strengths with the place taken out, floors, and whom to ask."""

import numpy as np
import pytest

from bench.picks_simulation import BEFORE, FREE, PAID_FIVE, PRICES, place_bias, play
from models.schemas import ModelId
from services.tally import MODELS, Ballot, Cell
from services.taste import (
    FLOOR,
    Fit,
    Stakes,
    Weighed,
    faded,
    fit,
    prior_weights,
    sampled,
    wilson,
    worth_asking,
)

FIRST, SECOND, THIRD = 0, 1, 2
BEST = MODELS.index(ModelId.KIE_RECRAFT)


def cell(*picks: tuple[int, tuple[int, ...]]) -> Cell:
    counted = Cell.empty()
    for winner, shown in picks:
        counted.count(Ballot("2026-11-24", "photo", winner, shown, ()), 1)
    return counted


def weighed(*picks: tuple[int, tuple[int, ...]]) -> Weighed:
    found = Weighed.empty()
    found.add(cell(*picks))
    return found


def drawn(strengths: np.ndarray, picks: int = 2000) -> Weighed:
    """Picks out of the five in an order by chance, by Luce's axiom."""
    luck = np.random.default_rng(5)
    found = Cell.empty()
    for _ in range(picks):
        shown = luck.permutation(5)
        chance = strengths[shown] / strengths[shown].sum()
        winner = int(luck.choice(shown, p=chance))
        found.count(Ballot("", "", winner, tuple(map(int, shown)), ()), 1)
    result = Weighed.empty()
    result.add(found)
    return result


@pytest.mark.parametrize(
    ("wins", "shown", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1.0)],
)
def test_wilsons_interval_is_the_published_one(
    wins: int, shown: int, low: float, high: float
) -> None:
    assert wilson(wins, shown) == pytest.approx((low, high), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_nothing_seen_means_all_alike() -> None:
    fitted = fit(Weighed.empty())
    assert fitted.strengths == pytest.approx(np.ones(len(MODELS)))
    luck = np.random.default_rng(0)
    assert set(prior_weights(fitted, sampled(fitted, luck)).values()) == {1.0}


def test_known_strengths_are_found_again() -> None:
    found = fit(drawn(BEFORE)).strengths[:5]
    assert np.argmax(found) == BEST
    ratio = (found / found.mean()) / (BEFORE[:5] / BEFORE[:5].mean())
    assert ratio == pytest.approx(np.ones(5), rel=0.2)


def test_one_that_always_wins_stays_finite_and_above() -> None:
    fitted = fit(weighed(*[(FIRST, (SECOND, FIRST))] * 50, *[(FIRST, (FIRST, SECOND))] * 50))
    assert np.isfinite(fitted.strengths).all()
    assert fitted.strengths[FIRST] > 20 * fitted.strengths[SECOND]


def test_the_place_is_told_apart_where_the_naive_estimate_is_wrong() -> None:
    """The worst is mostly shown first, and first places are looked at most."""
    found = place_bias(shots=2500)
    assert found["largest_error_corrected"] < 0.15
    assert found["largest_error_naive"] > 0.3
    assert found["places"] == pytest.approx(found["places_truth"], abs=0.12)


def test_one_order_for_ever_tells_nothing_about_places() -> None:
    fitted = fit(weighed(*[(FIRST, (FIRST, SECOND, THIRD))] * 100))
    assert not fitted.places_known
    assert set(fitted.places) == {1.0}


def test_a_kind_with_few_picks_is_near_what_is_known_of_all() -> None:
    overall = fit(drawn(BEFORE))
    few = fit(weighed((FIRST, (FIRST, BEST))), around=overall.strengths)
    assert np.argmax(few.strengths) == BEST


def test_old_picks_fade() -> None:
    old, new = cell(*[(FIRST, (FIRST, SECOND))] * 100), cell(*[(SECOND, (FIRST, SECOND))] * 30)
    assert fit(faded([(0, old), (0, new)], 14)).strengths[FIRST] > 1
    assert fit(faded([(70, old), (0, new)], 14)).strengths[SECOND] > 1


def test_no_model_starves() -> None:
    fitted = fit(drawn(np.array([1, 1, 500, 1, 1, 1.0])))
    weights = prior_weights(fitted, fitted.strengths)
    assert weights[ModelId.KIE_RECRAFT] == 1
    assert min(weights.values()) >= FLOOR
    luck = np.random.default_rng(2)
    asked = [each for _ in range(400) for each in _asked(fitted, luck, worth_usd=0.0)]
    assert set(asked) == set(PAID_FIVE)
    assert len(asked) < 120  # 5 % of 3 times 400 are 60


def test_a_model_is_asked_where_its_chance_is_worth_the_price() -> None:
    fitted, luck = fit(drawn(BEFORE)), np.random.default_rng(1)
    rounds = [_asked(fitted, luck, worth_usd=0.05) for _ in range(100)]
    kie = sum(ModelId.KIE_RECRAFT in each for each in rounds)
    dear = sum(ModelId.RUNWARE_RMBG in each for each in rounds)
    assert kie == 100
    assert dear < 20
    everybody = [_asked(fitted, luck, worth_usd=10.0) for _ in range(20)]
    assert all(len(each) == 3 and each[0] == ModelId.KIE_RECRAFT for each in everybody)


def test_before_there_are_picks_the_cheapest_are_asked_first() -> None:
    asked = _asked(fit(Weighed.empty()), np.random.default_rng(0), worth_usd=0.0)
    assert asked == tuple(sorted(PAID_FIVE, key=lambda model: PRICES[model]))


def _asked(fitted: Fit, luck: np.random.Generator, worth_usd: float) -> tuple[ModelId, ...]:
    stakes = Stakes(PRICES, worth_usd)
    return worth_asking(fitted, free=FREE, paid=PAID_FIVE, stakes=stakes, luck=luck)


def test_the_adaptive_shot_costs_less_and_follows_a_changed_taste() -> None:
    """A short course of bench/picks_simulation.py; the long one is in docs/BENCHMARKS.md."""
    adaptive, always = play(adaptive=True, days=20), play(days=20)
    assert adaptive.summary["cost_usd"] < 0.8 * always.summary["cost_usd"]
    kie = [play(always=["kie"], days=20).summary["cost_and_regret_usd"]]
    assert adaptive.summary["cost_and_regret_usd"] < min(kie)
