"""How many models a shot needs: `all`, `fast` and `cascade` as decisions without any work.

Nothing here waits, asks or stores; services/shotgun.py carries out what is decided.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.images import Flag, Pixels, SourceImage
from models.schemas import Mode, ModelId, ResultEntry
from services.catalogue import PAID
from services.evidence import SOLID, overlaps_of, small_alpha

Mask: TypeAlias = NDArray[np.bool_]

AGREE_FROM = 0.95
"""By `bench.shots --agreement`, 30 pictures of known alpha: where ISNet and the knock-out agreed by
0.883 to 0.940, the better of them was still off (true IoU 0.861 to 0.950); from 0.980 on both were
right (0.980 to 1.000), but for one piece on three grounds whose missing parts both overlook."""

FREE_SHARE = 0.5
"""Of the time to the deadline: free models that have not landed by then count as failed, so that
the paid ones still have the other half, which is more than the slower provider usually takes."""

_UNACCEPTABLE = frozenset({Flag.EMPTY, Flag.FULL_FRAME})
_PLAIN_SHARE = 0.9  # of the border; artwork may touch it here and there
_PLAIN_WITHIN = 8  # levels per channel: what JPEG does to one colour


@dataclass(frozen=True, slots=True)
class Policy:
    """When a shot may be answered and whom it asks.

    `min_results` successes are enough for an answer. For the cascade: `prices` are dollars a
    picture, by which it finds the cheapest paid model; `may_add_knockout` where the caller named
    no models.
    """

    mode: Mode = Mode.ALL
    min_results: int | None = None
    may_add_knockout: bool = False
    prices: Mapping[ModelId, Decimal] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one model cut out; `mask` is (height, width) bool, at most 512 on a side."""

    mask: Mask
    acceptable: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the cascade does next: the paid models to ask now, and why the others are not needed."""

    ask: tuple[ModelId, ...]
    detail: str = ""


def is_acceptable(flags: Iterable[Flag] | None) -> bool:
    """Whether a cut-out shows something and leaves something out."""
    return not _UNACCEPTABLE.intersection(flags or ())


def suffices(policy: Policy, entries: Iterable[ResultEntry]) -> bool:
    """Whether what has landed is enough for an answer."""
    landed = [entry for entry in entries if entry.status == "succeeded"]
    if policy.mode is Mode.FAST:
        return any(is_acceptable(entry.flags) for entry in landed)
    return policy.min_results is not None and len(landed) >= policy.min_results


def mask_of(alpha: Pixels) -> Mask:
    """Where the subject is: alpha of at least 128, at no more than 512 pixels a side."""
    return small_alpha(alpha) >= SOLID


def agreement(masks: Sequence[Mask]) -> float:
    """The lowest intersection over union of any two masks of one shape, 0 to 1.

    The lowest, since one that sees something else is what the others are to be doubted for. Two
    empty masks agree. Raises ValueError where there are fewer than two.
    """
    if len(masks) < 2:
        raise ValueError("Agreement takes two masks.")
    return float(overlaps_of(np.stack(masks)).min())


def cheapest_first(models: Iterable[ModelId], policy: Policy) -> tuple[ModelId, ...]:
    """In the order of their prices; in the fixed order where those are equal."""
    return tuple(sorted(models, key=lambda model: policy.prices.get(model, Decimal(0))))


def next_paid(waiting: Sequence[ModelId], opinions: Sequence[Opinion]) -> Verdict:
    """Whom the cascade asks of those `waiting` (cheapest first), after the `opinions` so far.

    A single acceptable opinion is worth one more, the cheapest; agreement of two is enough; all
    else, be it disagreement, a cut-out with nothing in it, or no cut-out, asks everybody.
    """
    if any(not opinion.acceptable for opinion in opinions) or not opinions:
        return Verdict(tuple(waiting))
    if len(opinions) == 1:
        return Verdict(tuple(waiting[:1]))
    measured = agreement([opinion.mask for opinion in opinions])
    if measured < AGREE_FROM:
        return Verdict(tuple(waiting))
    return Verdict(
        (),
        f"{len(opinions)} cut-outs agree: intersection over union {measured:.3f}, "
        f"{AGREE_FROM:g} is enough.",
    )


def models_for(
    image: SourceImage, models: tuple[ModelId, ...], policy: Policy
) -> tuple[ModelId, ...]:
    """The models, in the fixed order: on a plain ground the cascade may add the knock-out."""
    if not policy.may_add_knockout or image.had_alpha or not has_plain_ground(image.rgb):
        return models
    return tuple(each for each in ModelId if each in {*models, ModelId.LOCAL_KNOCKOUT})


def has_plain_ground(rgb: Pixels) -> bool:
    """Whether nearly all of the border of (height, width, 3) uint8 is of one colour."""
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).astype(np.int16)
    off = np.abs(border - np.median(border, axis=0)).max(axis=1)
    return float((off <= _PLAIN_WITHIN).mean()) >= _PLAIN_SHARE


def split(models: Iterable[ModelId]) -> tuple[list[ModelId], list[ModelId]]:
    """Those that are free, and those that cost money."""
    models = list(models)
    return [each for each in models if each not in PAID], [each for each in models if each in PAID]
