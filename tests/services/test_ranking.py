"""Which candidate wins, and what is said against the others, on masks drawn by hand."""

import itertools
from collections.abc import Mapping

import numpy as np
import pytest

from models.images import Flag, Pixels
from models.schemas import ModelId
from services.ranking import Candidates, Verdict, Weights, rank
from tests.services.shapes import disc, picture_of, textured

FIRST, SECOND, THIRD, FOURTH, FIFTH, KNOCKOUT, _ = ModelId
SIDE = 160
TRUE = disc(SIDE)
EMPTY = np.zeros((SIDE, SIDE), np.uint8)
FULL = np.full((SIDE, SIDE), 255, np.uint8)


def ranked(
    masks: Mapping[ModelId, Pixels],
    *,
    picture: Pixels | None = None,
    priors: Mapping[ModelId, float] | None = None,
    flags: Mapping[ModelId, frozenset[Flag]] | None = None,
) -> Verdict:
    shot = Candidates(picture_of(TRUE) if picture is None else picture, masks, flags or {})
    return rank(shot) if priors is None else rank(shot, priors=priors)


def moved(pixels: int) -> Pixels:
    return np.roll(TRUE, pixels, axis=1)


def with_hole() -> Pixels:
    found = TRUE.copy()
    found[disc(SIDE, radius=18) > 127] = 0
    return found


def with_islands() -> Pixels:
    found = TRUE.copy()
    for row in range(4, SIDE, 12):
        found[row : row + 3, 3:6] = 255
    return found


def test_the_order_in_which_candidates_are_given_changes_nothing() -> None:
    masks = {FIRST: moved(4), SECOND: TRUE, THIRD: with_hole(), KNOCKOUT: moved(-9)}
    verdicts = [
        ranked({model: masks[model] for model in order}) for order in itertools.permutations(masks)
    ]
    assert all(verdict == verdicts[0] for verdict in verdicts)


def test_identical_candidates_agree_fully_and_the_first_in_the_fixed_order_wins() -> None:
    verdict = ranked({FIFTH: TRUE, THIRD: TRUE, SECOND: TRUE})
    assert verdict.agreement == 1
    assert verdict.recommended is SECOND
    assert {m: place.rank for m, place in verdict.places.items()} == {SECOND: 1, THIRD: 2, FIFTH: 3}
    assert len({place.score for place in verdict.places.values()}) == 1


def test_an_outlier_comes_last_and_lowers_the_agreement() -> None:
    verdict = ranked({FIRST: moved(40), SECOND: TRUE, THIRD: moved(1), FOURTH: TRUE})
    assert verdict.places[FIRST].rank == 4
    assert verdict.agreement is not None
    assert verdict.agreement < 0.9
    assert verdict.recommended is SECOND


@pytest.mark.parametrize("degenerate", [EMPTY, FULL])
def test_who_keeps_nothing_or_everything_never_wins(degenerate: Pixels) -> None:
    """Not even two of them against one that is badly wrong."""
    verdict = ranked({FIRST: degenerate, SECOND: degenerate, THIRD: moved(60)})
    flag = Flag.EMPTY if degenerate is EMPTY else Flag.FULL_FRAME
    assert verdict.recommended is THIRD
    assert verdict.places[THIRD].flags == frozenset()
    for model in (FIRST, SECOND):
        assert flag in verdict.places[model].flags
        assert verdict.places[model].score == 0


def test_a_removers_own_word_that_nothing_is_left_counts() -> None:
    verdict = ranked({FIRST: TRUE, SECOND: moved(3)}, flags={FIRST: frozenset({Flag.EMPTY})})
    assert verdict.recommended is SECOND


def test_where_all_are_degenerate_one_is_still_named() -> None:
    assert ranked({FIRST: EMPTY, SECOND: EMPTY}).recommended is FIRST


def test_a_faint_trace_is_empty_and_a_small_motif_is_not() -> None:
    motif = disc(SIDE, radius=5)
    verdict = ranked({FIRST: np.minimum(motif, 12), SECOND: motif}, picture=picture_of(motif))
    assert verdict.places[FIRST].flags == {Flag.EMPTY}
    assert verdict.places[SECOND].flags == frozenset()


@pytest.mark.parametrize("picture", [picture_of(TRUE), textured(TRUE)], ids=["plain", "textured"])
def test_an_interior_that_most_keep_and_one_lost_is_flagged(picture: Pixels) -> None:
    verdict = ranked(
        {FIRST: with_hole(), SECOND: TRUE, THIRD: moved(1), FOURTH: TRUE}, picture=picture
    )
    assert verdict.places[FIRST].flags == {Flag.LOST_INTERIOR}
    assert verdict.places[FIRST].rank == 4
    for model in (SECOND, THIRD, FOURTH):
        assert verdict.places[model].flags == frozenset()


def test_a_hole_that_most_have_is_no_loss() -> None:
    ring = with_hole()
    verdict = ranked({FIRST: ring, SECOND: ring, THIRD: TRUE}, picture=picture_of(ring))
    assert all(place.flags == frozenset() for place in verdict.places.values())


def test_two_who_differ_make_no_consensus_to_lose_from() -> None:
    assert ranked({FIRST: with_hole(), SECOND: TRUE}).places[FIRST].flags == frozenset()


def test_a_thinner_rim_is_no_lost_interior() -> None:
    thin = disc(SIDE, radius=SIDE / 3 - 3)
    verdict = ranked({FIRST: thin, SECOND: TRUE, THIRD: TRUE})
    assert verdict.places[FIRST].flags == frozenset()


def test_strewn_islands_are_flagged_and_cost_the_win() -> None:
    verdict = ranked({FIRST: with_islands(), SECOND: TRUE, THIRD: TRUE})
    assert verdict.places[FIRST].flags == {Flag.MANY_ISLANDS}
    assert verdict.recommended is SECOND


def test_confetti_that_all_keep_is_artwork() -> None:
    confetti = with_islands()
    verdict = ranked(dict.fromkeys((FIRST, SECOND, THIRD), confetti), picture=picture_of(confetti))
    assert all(place.flags == frozenset() for place in verdict.places.values())


def test_a_single_candidate_is_recommended_without_agreement() -> None:
    verdict = ranked({FOURTH: TRUE})
    assert verdict.recommended is FOURTH
    assert verdict.agreement is None
    assert verdict.places[FOURTH].rank == 1
    assert 0 < verdict.places[FOURTH].score <= 1


def test_no_candidate_no_verdict() -> None:
    verdict = ranked({})
    assert (verdict.recommended, verdict.agreement, dict(verdict.places)) == (None, None, {})


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3)])
def test_pictures_of_a_single_row_or_column_are_ranked(shape: tuple[int, int]) -> None:
    half = np.zeros(shape, np.uint8)
    half[: (shape[0] + 1) // 2, : (shape[1] + 1) // 2] = 255
    masks = {FIRST: half, SECOND: np.zeros(shape, np.uint8), KNOCKOUT: half}
    verdict = ranked(masks, picture=picture_of(half))
    assert sorted(place.rank for place in verdict.places.values()) == [1, 2, 3]
    assert all(0 <= place.score <= 1 for place in verdict.places.values())


@pytest.mark.parametrize("picture", [picture_of(TRUE), textured(TRUE)], ids=["plain", "textured"])
def test_two_copies_of_one_mistake_do_not_outvote_two_who_are_right(picture: Pixels) -> None:
    wrong = TRUE.copy()
    wrong[SIDE // 2 :] = 0
    masks = {FIRST: wrong, SECOND: np.roll(wrong, 1, axis=1), THIRD: TRUE, FOURTH: moved(2)}
    assert ranked(masks, picture=picture).recommended is THIRD


def test_on_a_plain_ground_the_picture_overrules_a_pair() -> None:
    wrong = TRUE.copy()
    wrong[SIDE // 2 :] = 0
    masks = {FIRST: wrong, SECOND: np.roll(wrong, 1, axis=1), KNOCKOUT: TRUE}
    assert ranked(masks).recommended is KNOCKOUT


def test_a_models_prior_decides_between_equals() -> None:
    masks = {FIRST: TRUE, SECOND: TRUE}
    assert ranked(masks, priors={FIRST: 0.5}).recommended is SECOND
    assert ranked(masks, priors={SECOND: 0.5}).recommended is FIRST


def test_a_knockout_that_doubts_its_rim_loses_a_tie_and_its_caution_stays_in_the_flags() -> None:
    doubt = frozenset({Flag.RIM_EQUALS_GROUND})
    sure = ranked({KNOCKOUT: TRUE, FIFTH: moved(1)}).places[KNOCKOUT]
    doubted = ranked({KNOCKOUT: TRUE, FIFTH: moved(1)}, flags={KNOCKOUT: doubt}).places[KNOCKOUT]
    assert doubted.score < sure.score
    assert doubted.flags == doubt


def test_weights_of_nothing_score_nothing() -> None:
    shot = Candidates(picture_of(TRUE), {FIRST: TRUE}, {})
    nothing = Weights(overlap=0, nearness=0, edges=0, colours=0, ground=0, prior=0)
    assert rank(shot, weights=nothing).places[FIRST].score == 0
