"""Which cut-out to put first, how sure that is, and what is wrong with the others.

No rule here knows the truth, so several that fail differently are weighed together. Agreement
alone would let two copies of one mistake outvote the rest: masks that are nearly the same share a
vote, and the picture has a say of its own (services/evidence.py). `python -m bench.ranking`
measures what each is worth on artwork whose truth is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.images import Flag, Pixels
from models.schemas import ModelId
from services.evidence import (
    SOLID,
    Column,
    Floats,
    Ground,
    Masks,
    Solids,
    Table,
    edge_distances,
    like_colours,
    off_ground,
    on_edges,
    overlaps_of,
    plain_ground,
    vote_of,
)

_Number = TypeVar("_Number", np.uint8, np.float32)

DEGENERATE = frozenset({Flag.EMPTY, Flag.FULL_FRAME})

# What a model's word is worth before its mask is seen, 0..1: its share of the vote and a part of
# its score. The networks are equal: nothing measured here tells the paid ones apart. The knock-out
# is as good as they are on a plain ground (mean IoU 0.89 for 0.84 and 0.86, bench/ranking.py), and
# not elsewhere (0.31 for 0.73 and 0.69).
DEFAULT_PRIORS: Mapping[ModelId, float] = dict.fromkeys(ModelId, 1.0)
_KNOCKOUT_ELSEWHERE = 0.2  # of its prior, where the border is not one colour
_CAUTIONED = 0.5  # of its prior, where the knock-out itself doubts its rim

_NEXT_TO_NOTHING = 2e-4  # of the picture's area, in mean alpha: a square of 7 pixels of 512
_NEXT_TO_ALL = 0.995
_TWINS_FROM = 0.85  # IoU from which two masks begin to count as one
_SHARED = 1.0  # 1: two perfect twins have one vote together
_NEAR_PX = 20.0  # distance of edges at which nearness has fallen to 1/e
_GONE = 64  # alpha below which a pixel is lost
_CONSENSUS = 0.6  # of the votes: two against two and a half voice are none
_LOST_RIM = 7  # pixels: what is narrower is an edge and no interior
_LOST_SHARE = 0.01  # of what the consensus keeps
_ISLANDS = 10
_ISLAND_SHARE = 0.01  # of the largest part
_AROUND = np.ones((3, 3), np.bool_)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The small form of a shot: a picture, (h, w, 3) uint8, and each landed alpha, (h, w) uint8.

    `flags` are those that the remover or the full-size pixels gave.
    """

    picture: Pixels
    masks: Mapping[ModelId, Pixels]
    flags: Mapping[ModelId, frozenset[Flag]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one candidate stands: `score` 0..1, `rank` from 1, and all that is known against it."""

    score: float
    rank: int
    flags: frozenset[Flag]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The order of a shot's candidates; `agreement` is their mean pairwise IoU, None below two."""

    places: Mapping[ModelId, Place]
    recommended: ModelId | None
    agreement: float | None


UNRANKED = Verdict({}, None, None)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for one candidate, each 0..1; None where the shot has nothing to say about it.

    `overlap` and `nearness` compare it with the others (IoU, distance of edges), `edges`, `colours`
    and `ground` with the picture; `prior` is the model's own.
    """

    overlap: float | None
    nearness: float | None
    edges: float | None
    colours: float | None
    ground: float | None
    prior: float


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each kind of evidence counts in the score.

    They count alike, a prior half as much, since weights fitted by bench/ranking.py chose no better
    on pieces that the fit had not seen.
    """

    overlap: float = 1.0
    nearness: float = 1.0
    edges: float = 1.0
    colours: float = 1.0
    ground: float = 1.0
    prior: float = 0.5


DEFAULT_WEIGHTS = Weights()


@dataclass(frozen=True, slots=True)
class Judged:
    """A shot's models in the fixed order, and what was found about each."""

    models: Sequence[ModelId]
    overlaps: Table
    evidence: Sequence[Evidence]
    flags: Sequence[frozenset[Flag]]


def rank(
    shot: Candidates,
    *,
    priors: Mapping[ModelId, float] = DEFAULT_PRIORS,
    weights: Weights = DEFAULT_WEIGHTS,
) -> Verdict:
    """The candidates in order; who is empty or full-frame comes after all who are not.

    `priors` are 0..1 by model, 1 where none is named. Ties go to the fixed order of the models.
    Masks and picture must be of one size. Blocks.
    """
    if not shot.masks:
        return UNRANKED
    judged = judge(shot, priors=priors)
    scored = [
        (bool(flags & DEGENERATE), -score_of(evidence, flags, weights), at)
        for at, (evidence, flags) in enumerate(zip(judged.evidence, judged.flags, strict=True))
    ]
    places = {
        judged.models[at]: Place(-score, place, judged.flags[at])
        for place, (_, score, at) in enumerate(sorted(scored), 1)
    }
    return Verdict(places, next(iter(places)), agreement_of(judged.overlaps))


def judge(shot: Candidates, *, priors: Mapping[ModelId, float] = DEFAULT_PRIORS) -> Judged:
    """What `rank` goes by. Blocks."""
    models = [model for model in ModelId if model in shot.masks]
    masks = np.stack([shot.masks[model] for model in models])
    ground = plain_ground(shot.picture)
    flags = [
        shot.flags.get(model, frozenset()) | _extent(mask)
        for model, mask in zip(models, masks, strict=True)
    ]
    prior = [
        _prior(model, priors, known, plain=ground is not None)
        for model, known in zip(models, flags, strict=True)
    ]
    overlaps = overlaps_of(masks >= SOLID)
    votes = _votes(overlaps, np.array(prior), flags)
    evidence = _evidence(shot.picture, masks, overlaps, votes, ground=ground, prior=prior)
    damage = _damage(masks, votes)
    return Judged(
        models,
        overlaps,
        evidence,
        [known | found for known, found in zip(flags, damage, strict=True)],
    )


def score_of(evidence: Evidence, flags: frozenset[Flag], weights: Weights) -> float:
    """The weighted mean of what evidence there is; 0 if degenerate."""
    if flags & DEGENERATE:
        return 0.0
    total = gained = 0.0
    for each in fields(Evidence):
        value, weight = getattr(evidence, each.name), getattr(weights, each.name)
        if value is not None:
            total += weight
            gained += weight * value
    return round(min(1.0, gained / total), 4) if total else 0.0


def agreement_of(overlaps: Table) -> float | None:
    """Mean over the pairs of different candidates, None where there is no pair."""
    pairs = overlaps[np.triu_indices(len(overlaps), k=1)]
    return round(float(pairs.mean()), 4) if pairs.size else None


def _extent(mask: Pixels) -> frozenset[Flag]:
    share = float(mask.mean()) / 255
    if share <= _NEXT_TO_NOTHING:
        return frozenset({Flag.EMPTY})
    return frozenset({Flag.FULL_FRAME}) if share >= _NEXT_TO_ALL else frozenset()


def _prior(
    model: ModelId, priors: Mapping[ModelId, float], flags: frozenset[Flag], *, plain: bool
) -> float:
    prior = priors.get(model, 1.0)
    if model is ModelId.LOCAL_KNOCKOUT and not plain:
        prior *= _KNOCKOUT_ELSEWHERE
    return prior * _CAUTIONED if Flag.RIM_EQUALS_GROUND in flags else prior


def _votes(overlaps: Table, prior: Column, flags: Sequence[frozenset[Flag]]) -> Column:
    """Who counts how much: the prior, shared among near-identical masks, none for degenerates."""
    sound = np.array([not each & DEGENERATE for each in flags])
    twins = ((overlaps - _TWINS_FROM) / (1 - _TWINS_FROM)).clip(0, 1) * sound
    np.fill_diagonal(twins, 0)
    return np.asarray(sound * prior / (1 + _SHARED * twins.sum(axis=1)))


def _evidence(  # noqa: PLR0913  # what the columns are made of
    picture: Pixels,
    masks: Masks,
    overlaps: Table,
    votes: Column,
    *,
    ground: Ground | None,
    prior: Sequence[float],
) -> list[Evidence]:
    nearness = np.exp(-edge_distances(masks) / _NEAR_PX)
    together = [_by_others(table, votes) for table in (overlaps, nearness)]
    edges = on_edges(picture, masks)
    colours = like_colours(picture, masks, vote_of(masks, votes))
    grounds = None if ground is None else off_ground(ground, masks)
    return [
        Evidence(
            overlap=together[0][at],
            nearness=together[1][at],
            edges=float(edges[at]),
            colours=None if together[0][at] is None else float(colours[at]),
            ground=None if grounds is None else float(grounds[at]),
            prior=prior[at],
        )
        for at in range(len(masks))
    ]


def _by_others(table: Table, votes: Column) -> list[float | None]:
    """Each candidate's mean over the others, as they have votes; None where nobody else has one."""
    others = np.tile(votes, (len(votes), 1))
    np.fill_diagonal(others, 0)
    totals = others.sum(axis=1)
    return [
        float(row @ weights / total) if total > 0 else None
        for row, weights, total in zip(table, others, totals, strict=True)
    ]


def _damage(masks: Masks, votes: Column) -> list[frozenset[Flag]]:
    """What the others show to be wrong with each."""
    vote = vote_of(masks, votes)
    consensus = vote > _CONSENSUS if (votes > 0).sum() > 2 else np.zeros_like(vote, np.bool_)
    found = []
    for at, mask in enumerate(masks):
        flags = set()
        if _lost_interior(mask, consensus):
            flags.add(Flag.LOST_INTERIOR)
        if _many_islands(mask, vote_of(masks, np.where(np.arange(len(masks)) == at, 0, votes))):
            flags.add(Flag.MANY_ISLANDS)
        found.append(frozenset(flags))
    return found


def _lost_interior(mask: Pixels, consensus: Solids) -> bool:
    """Whether a large part inside of what most keep is transparent here."""
    lost = consensus & (mask < _GONE)
    least = _LOST_SHARE * np.count_nonzero(consensus)
    if np.count_nonzero(lost) <= least:
        return False
    inner = ndimage.minimum_filter(lost.view(np.uint8), _LOST_RIM)
    regions, _ = ndimage.label(inner)
    return bool(np.bincount(regions.ravel())[1:].max(initial=0) > least)


def _halved(plane: NDArray[_Number]) -> NDArray[_Number]:
    """Half as wide and high, the largest of four: nothing small is lost."""
    rows = np.maximum(
        plane[::2], plane[np.minimum(np.arange(1, len(plane) + 1, 2), len(plane) - 1)]
    )
    width = plane.shape[1]
    return np.maximum(rows[:, ::2], rows[:, np.minimum(np.arange(1, width + 1, 2), width - 1)])


def _many_islands(mask: Pixels, others: Floats) -> bool:
    """Whether there are many small parts that the others do not have."""
    regions, count = ndimage.label(_halved(mask) >= SOLID, _AROUND)
    if count <= _ISLANDS:
        return False
    sizes = np.bincount(regions.ravel())[1:]
    kept = np.bincount(regions.ravel(), weights=_halved(others).ravel())[1:] / sizes
    stray = (sizes < _ISLAND_SHARE * sizes.max()) & (kept < 0.5)
    return int(np.count_nonzero(stray)) >= _ISLANDS
