"""Where a shot's cut-outs differ, as a picture of at most 512 pixels for people to look at.

How to read it: the customer's picture in dark grey, and over it the standard deviation of alpha
among the cut-outs. Nothing where they are of one mind, yellow where they begin to differ, through
orange to red where half of them keep a pixel and the others do not.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from models.errors import NothingToCompare, ResultNotFound
from models.images import Pixels
from models.schemas import ResultEntry, ShotRecord
from services.evidence import SIDE, Floats
from services.intake import inspect
from services.ranking import DEGENERATE
from utils.rows import Rows, open_picture

_STRIP_BYTES = 4 * 1024 * 1024
_LARGEST_DEVIATION = 127.5  # half of the cut-outs at 0, half at 255
_SHOWS_FROM = 0.25  # of it, from which the colour covers the picture
_FIRST = np.array([255, 215, 0], np.float32)
_LAST = np.array([225, 0, 45], np.float32)
_DIMMED = 0.3


def comparable(record: ShotRecord) -> list[ResultEntry]:
    """The cut-outs to compare: those with a subject and a background, or all where too few have.

    Raises NothingToCompare where fewer than two have landed.
    """
    landed = [entry for entry in record.results if entry.status == "succeeded"]
    if len(landed) < 2:
        running = record.status == "running"
        raise NothingToCompare(
            f"Shot {record.request_id} holds {len(landed)} cut-out(s); it takes two to differ.",
            hint="Models are still running: ask again." if running else None,
        )
    sound = [entry for entry in landed if not DEGENERATE & set(entry.flags or ())]
    return sound if len(sound) > 1 else landed


def digest_of(entries: Sequence[ResultEntry]) -> str:
    """What the picture depends on, in short (hex)."""
    named = " ".join(f"{entry.model}:{entry.sha256}" for entry in entries)
    return hashlib.sha256(named.encode()).hexdigest()


def disagreement_png(paths: Sequence[Path], scratch: Path) -> bytes:
    """The heat map of stored cut-outs; a few megabytes at once, however large they are. Blocks.

    Raises ResultNotFound where one was evicted meanwhile.
    """
    try:
        cutouts = [_small(path, scratch) for path in paths]
    except FileNotFoundError:
        raise ResultNotFound("The cut-outs are no longer kept.") from None
    out = io.BytesIO()
    Image.fromarray(heat_map(cutouts)).save(out, "PNG")
    return out.getvalue()


def heat_map(cutouts: Sequence[Pixels]) -> Pixels:
    """(h, w, 3) out of cut-outs of one size, (h, w, 4); the first one gives the picture."""
    deviation = deviation_of(np.stack([each[..., 3] for each in cutouts]))[..., None]
    grey = np.asarray(Image.fromarray(cutouts[0][..., :3]).convert("L"), np.float32)[..., None]
    heat = _FIRST + (_LAST - _FIRST) * deviation
    cover = (deviation / _SHOWS_FROM).clip(0, 1)
    return np.asarray(np.rint(heat * cover + _DIMMED * grey * (1 - cover)), np.uint8)


def deviation_of(alphas: Pixels) -> Floats:
    """The standard deviation of each pixel over (n, h, w) alphas, as a share of the largest."""
    return np.asarray(alphas.std(axis=0, dtype=np.float32) / np.float32(_LARGEST_DEVIATION))


def _small(path: Path, scratch: Path) -> Pixels:
    return shrunk(open_picture(path, header=inspect(path), scratch=scratch).rows())


def shrunk(rows: Rows, side: int = SIDE) -> Pixels:
    """Averaged over squares of whole pixels, so that none of its sides has more. Blocks."""
    factor = -(-max(rows.width, rows.height) // side)
    step = factor * max(1, _STRIP_BYTES // (factor * rows.width * rows.channels))
    return np.concatenate([_averaged(rows.read(step), factor) for _ in range(0, rows.height, step)])


def _averaged(strip: Pixels, factor: int) -> Pixels:
    """Means over squares of `factor` pixels, cut short at the right and below."""
    lines, columns = (np.arange(0, side, factor) for side in strip.shape[:2])
    sums = np.add.reduceat(strip, lines, axis=0, dtype=np.uint32)
    sums = np.add.reduceat(sums, columns, axis=1)
    heights, widths = (
        np.diff(starts, append=side)
        for starts, side in zip((lines, columns), strip.shape[:2], strict=True)
    )
    areas = heights[:, None, None] * widths[None, :, None]
    return np.asarray(np.rint(sums / areas), np.uint8)
