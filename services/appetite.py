"""How much memory a shot will take, from its picture's header; docs/BENCHMARKS.md compares."""

from collections.abc import Collection
from dataclasses import dataclass

from models.schemas import ModelId
from services.catalogue import PAID
from utils.pictures import Header

_MIB = 1 << 20

# Bytes a pixel, measured by bench/admission.py.
_READER = {"JPEG": 4, "PNG": 4, "BMP": 4, "GIF": 4, "TIFF": 8, "WEBP": 13}
_UNKNOWN_READER = 16  # AVIF and HEIC: their libraries keep pictures of their own
# What the network sees, then the cut-out; by whether there is alpha.
_OWN_CUTTING = {False: 5.5, True: 9}
_KNOCKING_OUT = 10
# For a provider the picture is copied whole, then made as large as it takes, Kie.ai's 16 megapixels
# at most; its answer of that size takes less.
_COPYING = {False: 4, True: 7}
_SENDING = 14
_LARGEST_SENT = 16_000_000
# What was sent, as bytes, as base64 and inside a message, is kept until the answer.
_SENT = 15
_MOST_SENT = 24 * _MIB
_ANY_SHOT = 16 * _MIB  # tiles and strips
_CHECKING = 24 * _MIB  # a print check's strips and blocks: 8 as a rule, 23 of nothing but specks


@dataclass(frozen=True, slots=True)
class Appetite:
    """What a shot takes at its peak, and how many of its models may work on its pixels at once."""

    bytes: int
    at_once: int


def appetite(
    header: Header,
    models: Collection[ModelId],
    *,
    at_most: int,
    budget_bytes: int | None,
    checked: bool = False,
) -> Appetite:
    """The most models at once, up to `at_most`, that fit into the budget; where none fits, one.

    `checked` says that each is looked at for print as well. Whoever is given what does not fit is
    refused at the gate.
    """
    models_at_once = range(max(1, min(at_most, len(models))), 0, -1)
    asked = [
        Appetite(_peak(header, models, count, checked=checked), count) for count in models_at_once
    ]
    fitting = (each for each in asked if budget_bytes is None or each.bytes <= budget_bytes)
    return next(fitting, asked[-1])


def still_needed(
    header: Header, models: Collection[ModelId], *, at_once: int, checked: bool = False
) -> int:
    """Bytes at the peak of what is left to do, once the picture is read: these models' work."""
    pixels, alpha = header.pixels, header.may_have_alpha
    works = sorted((_work(model, pixels, alpha=alpha) for model in models), reverse=True)
    sent = sum(min(_SENT * pixels, _MOST_SENT) for model in models if model in PAID)
    checks = len(works[:at_once]) * _CHECKING if checked else 0
    return _picture(header) + round(sum(works[:at_once])) + sent + checks + _ANY_SHOT


def _peak(header: Header, models: Collection[ModelId], at_once: int, *, checked: bool) -> int:
    """The decoded picture stays; the reader is gone before the models begin."""
    working = still_needed(header, models, at_once=at_once, checked=checked)
    return max(_reading(header) + _ANY_SHOT, working)


def _picture(header: Header) -> int:
    return header.pixels * (3 + header.may_have_alpha)


def _reading(header: Header) -> int:
    """A progressive JPEG's coefficients are gone before the picture is copied out of the reader."""
    held = header.held_bytes if header.format == "JPEG" else 0
    return header.pixels * _READER.get(header.format, _UNKNOWN_READER) + max(held, _picture(header))


def _work(model: ModelId, pixels: int, *, alpha: bool) -> float:
    """What one model's picture-sized arrays take while it has a place."""
    if model is ModelId.LOCAL_KNOCKOUT:
        return _KNOCKING_OUT * pixels
    cutting = _OWN_CUTTING[alpha] * pixels
    if model not in PAID:
        return cutting
    return max(cutting, _COPYING[alpha] * pixels + _SENDING * min(pixels, _LARGEST_SENT))
