"""A look at a customer's picture before money is spent on it: what kind it is, by measure.

Pure and free. Shares are measured on at most 512 pixels a side, which keeps it at a few
milliseconds; what withholds a paid model (`transparent`, `blank`) is confirmed on every pixel or on
the whole border, for there a mistake would cost the customer the better cut-outs.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull

from models.images import PictureKind, Pixels, SourceImage
from models.outcomes import Skipped, SkipReason
from models.schemas import ModelId
from services.catalogue import PAID
from services.checkerboard import Board, find_board
from utils.spans import spanned

Mask: TypeAlias = NDArray[np.bool_]

SIDE = 512  # pixels: enough to tell the kinds apart, and little to look at
STRIP = 256  # rows looked at together
NEUTRAL_GREY = 128

# Levels off the median. About 3 units of lightness near white: where the knock-out, the finest of
# the removers, stops telling art from the ground of a clean file.
EVEN = 8
CLEAR, SOLID = 10, 245  # alpha: nothing a printer would see, and all of it

LEAST_CLEAR = 0.05  # of the picture; the rounded corners of a badge have at most 0.04
LEAST_VISIBLE = 0.0005
LEAST_CLEAR_BORDER = 0.5  # a bust may stand on one side and touch two more
MOST_SOFT = 0.5  # of what is visible; more is a veil, not a rim, a glow or a shadow

# A part that fills its convex hull may be a photo, or artwork on its box, in a frame of any shape.
# Frames at hand fill 0.98 and more, cut-outs at most 0.96 (a ball with its shadow). A badge with
# such an outline is not told from them: then the paid models are asked.
FILLS_HULL = 0.97
LEAST_PART = 0.1  # of what is visible: smaller parts do not make a picture a frame
MOST_FRAMED = 0.5  # of what is visible

NEAR_GROUND = 16  # levels
LEAST_PLAIN_BORDER = 0.9  # artwork on a ground has 1.0, photos 0.2 to 0.8, a starry sky 0.94
FLAT_STEP = 4  # levels between neighbours at 512 pixels
LEAST_FLAT = 0.6  # of the picture, its ground included: artwork 0.86 to 0.96, the sky 0.34
FEW_COLOURS = 16  # of 64 levels a channel, that hold nine tenths of line art
_MOST_OF_IT = 0.9

_NOTES = {
    PictureKind.TRANSPARENT: "The picture is already cut out.",
    PictureKind.BLANK: "The picture is blank.",
    PictureKind.CHECKERBOARD: "The transparency is painted: the checkerboard is part of the "
    "picture and would be printed.",
}
_NEEDS_NO_MODEL = frozenset({PictureKind.TRANSPARENT, PictureKind.BLANK})


@dataclass(frozen=True, slots=True)
class Triage:
    """What a picture is taken for; `reasons` say what was measured, `note` what to tell people."""

    kind: PictureKind
    reasons: tuple[str, ...]

    @property
    def note(self) -> str | None:
        return _NOTES.get(self.kind)


@spanned("triage")
def look_at(image: SourceImage) -> Triage:
    """The kind of a picture. CPU work of milliseconds: call it in the pool."""
    small = _reduced(image)
    why_blank = _blank(image, small)
    if why_blank is not None:
        return Triage(PictureKind.BLANK, (why_blank,))
    cut = None if image.alpha is None else _measure_cut(image.alpha)
    if cut is not None and cut.clean:
        return Triage(PictureKind.TRANSPARENT, cut.reasons())
    board = find_board(image.rgb, image.alpha)
    if board is not None:
        return Triage(PictureKind.CHECKERBOARD, _said_of(board))
    drawn = _measure_drawing(small, clear_border=cut.clear_border if cut else 0.0)
    kind = PictureKind.ARTWORK if drawn.plain else PictureKind.PHOTO
    return Triage(kind, drawn.reasons() + (cut.reasons() if cut else ()))


def not_needed(model: ModelId, seen: Triage | None) -> Skipped | None:
    """Why money would be wasted on asking this model about such a picture, if it would be."""
    if seen is None or model not in PAID or seen.kind not in _NEEDS_NO_MODEL:
        return None
    measured = ", ".join(seen.reasons)
    detail = f"{seen.note} ({measured}); with triage=off it is asked all the same."
    return Skipped(SkipReason.NOT_NEEDED, detail)


def _reduced(image: SourceImage) -> Pixels:
    """At most 512 x 512, (h, w, 3), what is transparent in grey.

    Thinned first and averaged then: the whole picture need not be copied.
    """
    step = max(1, max(image.width, image.height) // (2 * SIDE))
    small = Image.fromarray(np.ascontiguousarray(image.rgb[::step, ::step]))
    if image.alpha is not None:
        ground = Image.new("RGB", small.size, (NEUTRAL_GREY,) * 3)
        mask = Image.fromarray(np.ascontiguousarray(image.alpha[::step, ::step]))
        ground.paste(small, mask=mask)
        small = ground
    small.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small)


def _blank(image: SourceImage, small: Pixels) -> str | None:
    """Why there is nothing to cut out, if so: every pixel of the picture is asked."""
    if image.alpha is not None and int(image.alpha.max()) <= CLEAR:
        return "nothing is visible"
    if not _even(small) or not _even(image.rgb):
        return None
    if image.alpha is not None and not _even(image.alpha[..., None]):
        return None
    return f"every pixel is within {EVEN} levels of one colour"


def _even(pixels: Pixels) -> bool:
    """Whether (h, w, channels) holds next to one colour; ends at the first strip that says no."""
    height, width, channels = pixels.shape
    step = max(1, max(height, width) // SIDE)
    middle = np.median(pixels[::step, ::step].reshape(-1, channels), axis=0)
    for top in range(0, height, STRIP):
        rows = pixels[top : top + STRIP].reshape(-1, width * channels)
        low = rows.min(axis=0).reshape(width, channels).min(axis=0)
        high = rows.max(axis=0).reshape(width, channels).max(axis=0)
        if (middle - low > EVEN).any() or (high - middle > EVEN).any():
            return False
    return True


@dataclass(frozen=True, slots=True)
class _Cut:
    """An alpha by numbers: shares of the picture (`clear`), of its border, of what is visible.

    `framed` is the share in parts with a convex outline: rectangles, ovals and the like.
    """

    clear: float
    clear_border: float
    soft: float
    framed: float

    @property
    def clean(self) -> bool:
        """Whether the background is gone, and not just trimmed to a frame around it."""
        return (
            LEAST_CLEAR <= self.clear <= 1 - LEAST_VISIBLE
            and self.clear_border >= LEAST_CLEAR_BORDER
            and self.soft <= MOST_SOFT
            and self.framed <= MOST_FRAMED
        )

    def reasons(self) -> tuple[str, ...]:
        return (
            f"{self.clear:.0%} of it and {self.clear_border:.0%} of its border are transparent",
            f"{self.soft:.0%} of what is visible is translucent",
            f"{self.framed:.0%} of what is visible has the outline of a frame",
        )


def _measure_cut(alpha: Pixels) -> _Cut:
    step = max(1, -(-max(alpha.shape) // SIDE))
    thin = alpha[::step, ::step]
    seen = thin > CLEAR
    visible = max(1, int(np.count_nonzero(seen)))
    return _Cut(
        clear=1 - float(seen.mean()),
        clear_border=float((_border(alpha, 1) <= CLEAR).mean()),
        soft=np.count_nonzero(seen & (thin < SOLID)) / visible,
        framed=_framed_area(seen) / visible,
    )


def _framed_area(seen: Mask) -> int:
    """How many of the pixels belong to parts with a convex outline."""
    labels, count = ndimage.label(seen)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    boxes = ndimage.find_objects(labels)
    area = 0
    for each in np.flatnonzero(sizes >= LEAST_PART * max(1, sizes.sum())):
        if _hull_share(labels[boxes[each - 1]] == each) >= FILLS_HULL:
            area += int(sizes[each])
    return area


def _hull_share(part: Mask) -> float:
    """How much of its convex hull a part fills, holes counted as filled."""
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    left, right = _ends(part[rows])
    if len(rows) < 3 or len(columns) < 3:
        return 1.0
    corners = np.concatenate([np.stack([left, rows], 1), np.stack([right, rows], 1)])
    if np.linalg.matrix_rank(corners - corners[0]) < 2:
        return 1.0
    hull = ConvexHull(corners)
    top, bottom = _ends(part[:, columns].T)
    filled = min(int((right - left + 1).sum()), int((bottom - top + 1).sum()))
    # Pick: between pixels' centres lies less than the pixels cover (in 2-D: area is the perimeter)
    return float(filled / (hull.volume + hull.area / 2 + 1))


def _ends(lines: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The first and the last place that each line has."""
    return lines.argmax(axis=1), lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1)


@dataclass(frozen=True, slots=True)
class _Drawing:
    """A picture by what tells artwork on a plain ground from a photo.

    `border` is the share of the border in one colour, `flat` the share of the picture without
    texture, `colours` how many hold most of it.
    """

    border: float
    flat: float
    colours: int

    @property
    def plain(self) -> bool:
        flat = self.flat >= LEAST_FLAT or self.colours <= FEW_COLOURS
        return self.border >= LEAST_PLAIN_BORDER and flat

    def reasons(self) -> tuple[str, ...]:
        return (
            f"{self.border:.0%} of its border has one colour",
            f"{self.flat:.0%} of it is flat",
            f"it has {self.colours} main colours",
        )


def _measure_drawing(small: Pixels, *, clear_border: float) -> _Drawing:
    """What is transparent at the border (a share) is no painted ground."""
    border = _border(small, 2)
    off = np.abs(border.astype(np.int16) - _commonest(border)).max(axis=1)
    return _Drawing(
        border=max(0.0, float((off <= NEAR_GROUND).mean()) - clear_border),
        flat=_flat_share(small),
        colours=_how_many_hold_most(np.bincount(_boxed(small.reshape(-1, 3), 2))),
    )


def _border(plane: Pixels, width: int) -> Pixels:
    """The outermost pixels, (n, ...)."""
    sides = (plane[:width], plane[-width:], plane[:, :width], plane[:, -width:])
    return np.concatenate([each.reshape(-1, *plane.shape[2:]) for each in sides])


def _commonest(colours: Pixels) -> NDArray[np.int16]:
    """The colour that most of (n, 3) have: the median of the fullest box of 32 levels."""
    boxes = _boxed(colours, 5)
    core = colours[boxes == np.bincount(boxes).argmax()]
    middle: NDArray[np.int16] = np.median(core, axis=0).astype(np.int16)
    return middle


def _boxed(colours: Pixels, shift: int) -> NDArray[np.intp]:
    bits = 8 - shift
    boxes: NDArray[np.intp] = (colours >> shift).astype(np.intp) @ np.array(
        [1 << 2 * bits, 1 << bits, 1]
    )
    return boxes


def _flat_share(small: Pixels) -> float:
    """The share of the pixels that hardly differ from their right and lower neighbours."""
    here = small[:-1, :-1]
    if not here.size:
        return 1.0
    steps = np.maximum(_gap(here, small[:-1, 1:]), _gap(here, small[1:, :-1]))
    return float((steps <= FLAT_STEP).all(axis=2).mean())


def _gap(one: Pixels, other: Pixels) -> Pixels:
    return np.maximum(one, other) - np.minimum(one, other)


def _how_many_hold_most(counts: NDArray[np.intp]) -> int:
    """How many colours, the commonest first, it takes for nine tenths of all."""
    held = np.cumsum(np.sort(counts)[::-1])
    return int(np.searchsorted(held, _MOST_OF_IT * held[-1])) + 1


def _said_of(board: Board) -> tuple[str, ...]:
    return (
        f"the border is a checkerboard of squares of {board.square_px:.1f} pixels",
        f"its greys are {board.dark} and {board.light}",
        f"it is regular to {board.regularity:.2f} of 1",
    )
