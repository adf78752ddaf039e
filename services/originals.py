"""The customer's picture made small, in bounded memory, whatever its size and format."""

import io
from pathlib import Path

from PIL import Image

from models.errors import OriginalNotKept
from models.images import Pixels
from services.disagreement import shrunk
from services.intake import inspect, refusals
from utils.rows import open_picture

_QUALITY = 82
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def original_webp(path: Path, longest_side: int, scratch: Path) -> bytes:
    """Upright, sRGB, averaged over squares of whole pixels; alpha is kept. Blocks.

    Raises OriginalNotKept where the file was evicted meanwhile.
    """
    try:
        pixels = _small(path, longest_side, scratch)
    except FileNotFoundError:
        raise OriginalNotKept("The picture is no longer kept.") from None
    size = (pixels.shape[1], pixels.shape[0])
    out = io.BytesIO()
    small = Image.frombytes(_MODES[pixels.shape[2]], size, pixels.tobytes())
    small.convert("RGBA" if "A" in small.mode else "RGB").save(out, "WEBP", quality=_QUALITY)
    return out.getvalue()


def _small(path: Path, longest_side: int, scratch: Path) -> Pixels:
    header = inspect(path)
    with refusals():
        picture = open_picture(path, header=header, scratch=scratch)
        for _ in picture.prepare():
            pass
        return shrunk(picture.rows(), longest_side)
