"""Picture files in and out, as a provider reads and writes them."""

import base64
import binascii
import io
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from PIL import Image

from models.images import Pixels

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_READER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    ArithmeticError,
    Image.DecompressionBombError,
    Warning,
)


class OutputFormat(StrEnum):
    JPG = "JPG"
    PNG = "PNG"
    WEBP = "WEBP"

    @property
    def media_type(self) -> str:
        return "image/jpeg" if self is OutputFormat.JPG else f"image/{self.lower()}"


class BadPicture(Exception):
    """The bytes are no picture we take; the message says why."""


@dataclass(frozen=True, slots=True)
class Picture:
    """(height, width, 3) and (height, width) uint8; alpha None where the file has none."""

    rgb: Pixels
    alpha: Pixels | None
    format: str
    bytes: int

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])


def decode(content: bytes, *, max_pixels: int, max_side_px: int | None = None) -> Picture:
    """Read a file of any format we take, shrunk where a side is longer; raises BadPicture."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
            if opened.width * opened.height > max_pixels:
                raise BadPicture(f"the picture has more than {max_pixels} pixels")
            image = _shrunk(opened, max_side_px)
            return _split(image, format_=opened.format or "", size=len(content))
    except _READER_ERRORS as error:
        raise BadPicture("the bytes are not a picture that can be read") from error


def _shrunk(image: Image.Image, max_side_px: int | None) -> Image.Image:
    if max_side_px is None or max(image.size) <= max_side_px:
        return image
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    return image


def _split(image: Image.Image, *, format_: str, size: int) -> Picture:
    if not image.has_transparency_data:
        return Picture(np.array(image.convert("RGB")), None, format_, size)
    rgba = np.array(image.convert("RGBA"))
    return Picture(rgba[..., :3].copy(), rgba[..., 3].copy(), format_, size)


def decode_base64(text: str) -> bytes:
    """Bare base64 or a data URI of it; raises BadPicture."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise BadPicture("the data URI is not base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadPicture("the text is not base64") from error


def data_uri(content: bytes, *, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def encode(rgb: Pixels, alpha: Pixels, *, format_: OutputFormat, quality: int = 95) -> bytes:
    """A file of the format; JPG has no alpha, so the cut-out is laid on white."""
    rgba = Image.fromarray(np.dstack([rgb, alpha]))
    out = io.BytesIO()
    if format_ is OutputFormat.JPG:
        ground = Image.new("RGB", rgba.size, "white")
        ground.paste(rgba, mask=rgba.getchannel("A"))
        ground.save(out, "JPEG", quality=quality)
    elif format_ is OutputFormat.WEBP:
        rgba.save(out, "WEBP", lossless=True, quality=20, method=0, exact=True)
    else:
        rgba.save(out, "PNG", compress_level=1)
    return out.getvalue()


def encode_opaque(rgb: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "PNG", compress_level=1)
    return out.getvalue()
