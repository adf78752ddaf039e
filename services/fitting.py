"""A picture made to fit a provider's limits, and the provider's answer fitted back onto it.

What goes out is a flat, smaller copy; what comes back may have any size, format and colour. Only
its alpha is believed, and it is laid over the customer's own pixels.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from models.errors import BadPicture, EmptyFile, FailureCode, RemoverError
from models.images import Cutout, Pixels, SourceImage
from services.intake import decode
from services.remover import cut_with, opaque
from utils import heap
from utils.png import encode_png
from utils.spans import spanned

_JPEG_QUALITIES = (95, 90, 80)
_SHRINK = 0.8
_MOST_ENLARGED = 4  # times the copy's pixels; beyond that an answer is not an answer
_DUST = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """What a provider takes: sides and pixels in pixels, size in bytes of the encoded file."""

    max_side: int
    max_pixels: int
    max_bytes: int
    min_side: int = 1


@dataclass(frozen=True, slots=True)
class Copy:
    """The picture as it is sent.

    `content` is a PNG or JPEG of `width` x `height`; the picture fills its left upper `filled`
    (width, height) and its rim is repeated into the rest.
    """

    content: bytes
    media_type: str
    width: int
    height: int
    filled: tuple[int, int]


@spanned("fit")
def fit(image: SourceImage, limits: Limits) -> Copy:
    """A copy within the limits; transparency is laid on grey, small pictures are enlarged.

    Seconds for a large picture: call it in the pool.
    """
    copy = _fitted(image, limits)
    heap.trim_after(4 * image.width * image.height)
    return copy


def _fitted(image: SourceImage, limits: Limits) -> Copy:
    flat = Image.fromarray(opaque(image))
    scale = _scale(image.width, image.height, limits)
    while True:
        copy = _copy(flat, scale, limits)
        if len(copy.content) <= limits.max_bytes or max(copy.filled) <= limits.min_side:
            return copy
        scale *= _SHRINK


@spanned("project")
def project(image: SourceImage, copy: Copy, answer: Path) -> Cutout:
    """The answer's alpha over the picture's own pixels, its soft pixels freed of the background.

    Raises RemoverError(provider_bad_result) for an answer that is no cut-out. Call it in the pool.
    """
    mask = _without_padding(_alpha_of(answer, copy), copy)
    if int(mask.max()) <= _DUST and not _is_blank(image):
        raise _bad("an empty picture")
    return cut_with(image, mask)


def _scale(width: int, height: int, limits: Limits) -> float:
    """1 where the picture fits; a side that is too short is enlarged as far as the long one may."""
    most = min(
        limits.max_side / max(width, height), math.sqrt(limits.max_pixels / (width * height))
    )
    least = limits.min_side / min(width, height)
    return min(most, max(1.0, least))


def _copy(flat: Image.Image, scale: float, limits: Limits) -> Copy:
    width, height = (max(1, math.floor(side * scale)) for side in flat.size)
    sized = flat.resize((width, height), Image.Resampling.LANCZOS) if scale != 1 else flat
    rgb = _padded(np.asarray(sized), limits.min_side)
    content, media_type = _encoded(rgb, limits.max_bytes)
    return Copy(content, media_type, rgb.shape[1], rgb.shape[0], (width, height))


def _padded(rgb: Pixels, least: int) -> Pixels:
    down, right = (max(0, least - side) for side in rgb.shape[:2])
    return np.pad(rgb, ((0, down), (0, right), (0, 0)), mode="edge") if down or right else rgb


def _encoded(rgb: Pixels, max_bytes: int) -> tuple[bytes, str]:
    """PNG where it is small enough, else JPEG; the last may still be too large."""
    content = encode_png(rgb)
    if len(content) <= max_bytes:
        return content, "image/png"
    for quality in _JPEG_QUALITIES:
        out = io.BytesIO()
        Image.fromarray(rgb).save(out, "JPEG", quality=quality, subsampling=0)
        content = out.getvalue()
        if len(content) <= max_bytes:
            break
    return content, "image/jpeg"


def _alpha_of(answer: Path, copy: Copy) -> Pixels:
    try:
        picture = decode(answer, max_pixels=_MOST_ENLARGED * max(copy.width * copy.height, 10**6))
    except (BadPicture, EmptyFile) as error:
        raise _bad("something that is no picture") from error
    if picture.alpha is None:
        raise _bad("a picture without transparency")
    return picture.alpha


def _is_blank(image: SourceImage) -> bool:
    """Whether the provider was shown one single colour, in which there is nothing to find."""
    return not np.ptp(opaque(image), axis=(0, 1)).any()


def _without_padding(alpha: Pixels, copy: Copy) -> Pixels:
    """The part of the answer, of whatever size, that the picture filled."""
    width = round(alpha.shape[1] * copy.filled[0] / copy.width)
    height = round(alpha.shape[0] * copy.filled[1] / copy.height)
    return alpha[: max(1, height), : max(1, width)]


def _bad(what: str) -> RemoverError:
    return RemoverError(
        FailureCode.PROVIDER_BAD_RESULT, f"The provider returned {what}.", retryable=False
    )
