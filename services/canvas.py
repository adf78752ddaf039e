"""Where a subject stands on its canvas: roi, crop, margins, scale and position, in pixels.

Pure arithmetic on boxes (left, top, right, bottom, the last two exclusive) and sizes (width,
height). The picture is first brought to the size asked for; everything else happens in those
pixels, but for `roi`, which is said in pixels of the picture that was sent.
"""

import math
import re
from dataclasses import dataclass

from PIL import ImageColor

from models.errors import InvalidParameter, RegionEmpty, RegionOutside
from models.removebg import RemovebgParameters
from utils.rows import Box

MOST_MARGIN_PX = 500
MOST_MARGIN_PERCENT = 50

_MILLION = 1_000_000
_MOST_PIXELS = {
    "preview": _MILLION // 4,
    "small": _MILLION // 4,
    "regular": _MILLION // 4,
    "medium": _MILLION * 3 // 2,
    "hd": 4 * _MILLION,
}
_MOST_AS_JPEG = 25 * _MILLION
_MOST_AS_PNG = 10 * _MILLION
_HEX = re.compile(r"[0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Layout:
    """The part `source` of a cut-out becomes `size` and is put `at` (x, y) on the `canvas`.

    `foreground` is where the subject then is on it.
    """

    source: Box
    size: tuple[int, int]
    at: tuple[int, int]
    canvas: tuple[int, int]
    foreground: Box


def lay_out(
    asked: RemovebgParameters, picture: tuple[int, int], subject: Box, *, most_pixels: int
) -> Layout:
    """What becomes of a picture of that size whose subject fills that box."""
    frame = shrunk(picture, most_pixels)
    still = _mapped(subject, picture, frame)
    if not (asked.crop or moves(asked)):
        return Layout((0, 0, *picture), frame, (0, 0), frame, still)
    size, at, canvas = (still[2] - still[0], still[3] - still[1]), still[:2], frame
    if asked.crop:
        top, right, bottom, left = margins(asked.crop_margin, size)
        at, canvas = (left, top), (size[0] + left + right, size[1] + top + bottom)
    if moves(asked):
        at, size = _moved(asked, at, size, canvas, subject)
    box = (*at, at[0] + size[0], at[1] + size[1])
    return Layout(subject, size, at, canvas, box)


def moves(asked: RemovebgParameters) -> bool:
    """Whether the subject is to be scaled or put elsewhere."""
    return asked.scale != "original" or asked.position not in (None, "original")


def has_margin(asked: RemovebgParameters) -> bool:
    return any(float(word.rstrip("px%")) for word in asked.crop_margin.split())


def most_pixels(asked: RemovebgParameters, *, as_png: bool) -> int:
    """How many pixels the size asked for has at most."""
    return _MOST_PIXELS.get(asked.size, _MOST_AS_PNG if as_png else _MOST_AS_JPEG)


def shrunk(size: tuple[int, int], most: int) -> tuple[int, int]:
    """The same proportions in at most so many pixels; never larger than it is."""
    width, height = size
    if width * height <= most:
        return size
    factor = math.sqrt(most / (width * height))
    # a hair above a whole number is that number: 0.1 * 6250 is 625
    smaller = [max(1, math.floor(side * factor + 1e-6)) for side in size]
    return min(smaller[0], most), min(smaller[1], most)


def region(roi: str, size: tuple[int, int]) -> Box:
    """The box that `roi` names in a picture of that size.

    Raises RegionOutside where it reaches beyond the picture, RegionEmpty where nothing is in it.
    """
    lengths = [
        _length(word, of=size[index % 2], field="roi") for index, word in enumerate(roi.split())
    ]
    left, top, right, bottom = (round(each) for each in lengths)
    if max(left, right) > size[0] or max(top, bottom) > size[1]:
        raise RegionOutside(
            f"roi: reaches beyond the picture of {size[0]} x {size[1]} pixels.", field="roi"
        )
    if left >= right or top >= bottom:
        raise RegionEmpty("roi: holds no pixel.", field="roi")
    return left, top, right, bottom


def margins(text: str, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, right, bottom and left margin around a subject of that size; 1, 2 or 4 are said.

    Raises InvalidParameter for three of them, or for one that is too large.
    """
    words = text.split()
    spread = {1: [0, 0, 0, 0], 2: [0, 1, 0, 1], 4: [0, 1, 2, 3]}.get(len(words))
    if spread is None:
        raise InvalidParameter("crop_margin: takes one, two or four values.", field="crop_margin")
    for word in words:
        _check_margin(word)
    top, right, bottom, left = (
        round(_length(words[index], of=size[1 - side % 2], field="crop_margin"))
        for side, index in enumerate(spread)
    )
    return top, right, bottom, left


def colour(text: str) -> tuple[int, int, int, int]:
    """Straight RGBA of hex digits or a colour's name; raises InvalidParameter."""
    try:
        named = ImageColor.getrgb(f"#{text}" if _HEX.fullmatch(text) else _name(text))
    except ValueError:
        raise InvalidParameter(
            "bg_color: is neither 3, 4, 6 or 8 hex digits nor the name of a colour.",
            field="bg_color",
        ) from None
    return (*named[:3], named[3] if len(named) == 4 else 255)


def filling(size: tuple[int, int], canvas: tuple[int, int]) -> Box:
    """The largest box in the middle of a picture that has the canvas' proportions."""
    (width, height), (wide, high) = size, canvas
    if width * high > wide * height:
        part = max(1, round(height * wide / high))
        left = (width - part) // 2
        return left, 0, left + part, height
    part = max(1, round(width * high / wide))
    top = (height - part) // 2
    return 0, top, width, top + part


def _moved(
    asked: RemovebgParameters,
    at: tuple[int, int],
    size: tuple[int, int],
    canvas: tuple[int, int],
    subject: Box,
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Place and size of the subject when scale and position have had their say."""
    middle = [at[axis] + size[axis] / 2 for axis in (0, 1)]
    if asked.scale != "original":
        size = _scaled(_percent(asked.scale), subject, canvas)
    room = [canvas[axis] - size[axis] for axis in (0, 1)]
    shares = _shares(asked)
    if shares is None:
        wished = [middle[axis] - size[axis] / 2 for axis in (0, 1)]
        x, y = (min(max(0, round(wished[axis])), room[axis]) for axis in (0, 1))
    else:
        x, y = (round(share * free) for share, free in zip(shares, room, strict=True))
    return (x, y), size


def _scaled(share: float, subject: Box, canvas: tuple[int, int]) -> tuple[int, int]:
    """As large as fits into that share of the canvas' width and height."""
    width, height = subject[2] - subject[0], subject[3] - subject[1]
    factor = share * min(canvas[0] / width, canvas[1] / height)
    return (
        min(canvas[0], max(1, round(width * factor))),
        min(canvas[1], max(1, round(height * factor))),
    )


def _shares(asked: RemovebgParameters) -> tuple[float, float] | None:
    """How the free room is shared out, across and down; None where the subject stays."""
    position = asked.position or ("center" if asked.scale != "original" else "original")
    if position == "original":
        return None
    if position == "center":
        return 0.5, 0.5
    words = position.split()
    return _percent(words[0]), _percent(words[-1])


def _mapped(box: Box, whole: tuple[int, int], frame: tuple[int, int]) -> Box:
    """The same box after a resize, at least a pixel and inside the frame."""
    left, top = (
        min(round(box[axis] * frame[axis] / whole[axis]), frame[axis] - 1) for axis in (0, 1)
    )
    width, height = (
        max(1, round((box[2 + axis] - box[axis]) * frame[axis] / whole[axis])) for axis in (0, 1)
    )
    return left, top, min(left + width, frame[0]), min(top + height, frame[1])


def _check_margin(word: str) -> None:
    limits = {"%": MOST_MARGIN_PERCENT, "px": MOST_MARGIN_PX}
    for unit, limit in limits.items():
        if word.endswith(unit) and float(word.removesuffix(unit)) > limit:
            raise InvalidParameter(
                f"crop_margin: is at most {MOST_MARGIN_PX}px or {MOST_MARGIN_PERCENT}%.",
                field="crop_margin",
                limit=limit,
                actual=float(word.removesuffix(unit)),
            )


def _length(word: str, *, of: int, field: str) -> float:
    """Pixels; a share counts of the side it lies along."""
    if word.endswith("%"):
        share = _percent(word)
        if field == "roi" and share > 1:
            raise RegionOutside("roi: is more than 100% of the picture.", field="roi")
        return share * of
    return float(word.removesuffix("px"))


def _percent(word: str) -> float:
    return float(word.removesuffix("%")) / 100


def _name(text: str) -> str:
    """A name, and nothing else that Pillow's parser would take; raises ValueError."""
    if text not in ImageColor.colormap:
        raise ValueError(text)
    return text
