"""All cut-outs of a shot on one sheet: a row for each, on a checkerboard and on shirts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.images import Pixels
from services.garment import checkerboard, cloth, laid_on

_GAP = 12
_LABEL = 22  # pixels high
_TEXT = 15
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row: what is written over it, and the small cut-out (height, width, 4)."""

    label: str
    art: Pixels


def contact_sheet(candidates: Sequence[Candidate], garments: Sequence[str]) -> Image.Image:
    """The sheet in RGB; every cut-out has the size of the first."""
    tiles = [_tiles(each.art, garments) for each in candidates]
    height, width, _ = tiles[0][0].shape
    columns = len(tiles[0])
    size = (
        _GAP + columns * (width + _GAP),
        _GAP + len(tiles) * (_LABEL + height + _GAP),
    )
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_TEXT)
    for row, (candidate, pictures) in enumerate(zip(candidates, tiles, strict=True)):
        top = _GAP + row * (_LABEL + height + _GAP)
        draw.text((_GAP, top), candidate.label, fill=_INK, font=font)
        for column, picture in enumerate(pictures):
            place = (_GAP + column * (width + _GAP), top + _LABEL)
            sheet.paste(Image.fromarray(picture), place)
    return sheet


def _tiles(art: Pixels, garments: Sequence[str]) -> list[Pixels]:
    height, width = art.shape[:2]
    grounds = [checkerboard(height=height, width=width)]
    grounds += [cloth(each, height=height, width=width) for each in garments]
    return [np.ascontiguousarray(laid_on(art, ground)) for ground in grounds]
