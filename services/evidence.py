"""What speaks for one cut-out among several: pure measurements on masks of at most 512 pixels.

Masks are compared with one another (how much they share, how far their edges are apart), and each
with the picture: whether its edges lie on the picture's, whether what it keeps has the colours of
what nobody disputes, and, where the border is one colour, whether it keeps what that colour is not.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

from models.images import Pixels, SourceImage

SIDE = 512
SOLID = 128  # alpha from which a pixel counts as kept

Floats: TypeAlias = NDArray[np.float32]
Masks: TypeAlias = NDArray[np.uint8]  # (candidates, height, width) alpha
Solids: TypeAlias = NDArray[np.bool_]
Table: TypeAlias = NDArray[np.float64]  # (candidates, candidates)
Column: TypeAlias = NDArray[np.float64]  # (candidates,)

_SURE = 0.9  # of the votes, from which a pixel is undisputed
_BITS = 4  # of each channel that the colour histograms tell apart
_UNSEEN = 2e-3  # share of a histogram below which a colour says little
_COLOUR_TRUST = 0.5  # of the colours' word beside the votes'
_GROUND_LEVELS = 14  # a ground pixel may be off the ground's colour, in any channel
_PLAIN_SHARE = 0.8  # of the border that must be one colour
_EDGE_REACH = 2  # pixels to either side between which a gradient is taken


@dataclass(frozen=True, slots=True)
class Ground:
    """A plain ground: `certain` are its pixels that reach the border, `unlike` all that are not it.

    What has the ground's colour and is enclosed may be a hole or white lettering: it is in neither.
    """

    certain: Solids
    unlike: Solids


def small_alpha(alpha: Pixels) -> Pixels:
    """Area-averaged to at most SIDE pixels on the longest side; (height, width) uint8. Blocks."""
    return _reduced(Image.fromarray(alpha))


def small_picture(image: SourceImage) -> Pixels:
    """The picture as small as its masks, (h, w, 3); what is transparent becomes grey. Blocks."""
    colours = _reduced(Image.fromarray(image.rgb))
    if image.alpha is None:
        return colours
    share = small_alpha(image.alpha)[..., None] / np.float32(255)
    return np.rint(colours * share + 128 * (1 - share)).astype(np.uint8)


def _reduced(picture: Image.Image) -> Pixels:
    scale = min(1.0, SIDE / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.resize(size, Image.Resampling.BOX))


def overlaps_of(solids: Solids) -> Table:
    """IoU of every pair of (candidates, height, width) bool; two that hold nothing agree."""
    # counted, not multiplied: BLAS would start threads of its own
    shared = np.array([[np.count_nonzero(one & other) for other in solids] for one in solids])
    areas = np.diag(shared)
    joined = areas[:, None] + areas[None, :] - shared
    return np.where(joined > 0, shared / np.maximum(joined, 1), 1.0)


def edge_distances(masks: Masks) -> Table:
    """Mean distance of the edges of every pair, both ways, in pixels where the longest side is 512.

    Taken on every other row and column. Infinite where only one of two has an edge, 0 where
    neither has.
    """
    solids = masks[:, ::2, ::2] >= SOLID
    scale = SIDE / max(solids.shape[1:])
    outlines = [_Outline.of(solid) for solid in solids]
    return np.array([[scale * one.distance(other) for other in outlines] for one in outlines])


@dataclass(frozen=True, slots=True)
class _Outline:
    """The edge pixels of a mask, and how far every pixel is from the nearest of them."""

    edge: Solids
    away: NDArray[np.float64] | None

    @staticmethod
    def of(solid: Solids) -> "_Outline":
        edge = edge_pixels(solid)
        return _Outline(edge, ndimage.distance_transform_edt(~edge) if edge.any() else None)

    def distance(self, other: "_Outline") -> float:
        if self.away is None or other.away is None:
            return 0.0 if self.away is other.away else np.inf
        return float(other.away[self.edge].mean() + self.away[other.edge].mean()) / 2


def edge_pixels(solid: Solids) -> Solids:
    """The solid pixels beside one that is not, of four neighbours; the frame is no edge."""
    edge = np.zeros_like(solid)
    edge[:, 1:] |= solid[:, 1:] > solid[:, :-1]
    edge[:, :-1] |= solid[:, :-1] > solid[:, 1:]
    edge[1:] |= solid[1:] > solid[:-1]
    edge[:-1] |= solid[:-1] > solid[1:]
    return edge


def on_edges(picture: Pixels, masks: Masks) -> Column:
    """How steep the picture is along each mask's edge: the mean rank of its gradient, 0..1.

    0.5 is what a line drawn anywhere would get. A mask without an edge gets 0.
    """
    steepness = _steepness(picture)
    counts = np.bincount(steepness.ravel(), minlength=256)
    ranks = (np.cumsum(counts) - counts / 2) / steepness.size
    found = [steepness[edge_pixels(mask >= SOLID)] for mask in masks]
    return np.array([ranks[each].mean() if each.size else 0.0 for each in found])


def _steepness(picture: Pixels) -> Pixels:
    """The largest difference of any channel across each pixel, of a slightly blurred picture.

    The steepest of the neighbourhood counts, so that an edge may be a pixel off.
    """
    calm = Image.fromarray(picture).filter(ImageFilter.BoxBlur(1))
    steep = np.zeros(picture.shape[:2], np.uint8)
    for channel in calm.split():
        plane = np.pad(np.asarray(channel), _EDGE_REACH, mode="edge")
        near, far = slice(_EDGE_REACH, -_EDGE_REACH), 2 * _EDGE_REACH
        np.maximum(steep, _apart(plane[near, far:], plane[near, :-far]), out=steep)
        np.maximum(steep, _apart(plane[far:, near], plane[:-far, near]), out=steep)
    padded = np.pad(steep, 1)
    rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    return np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def _apart(first: Pixels, second: Pixels | np.uint8) -> Pixels:
    """The absolute difference, in uint8 throughout: a tenth of the time that wider types take."""
    return np.asarray(np.maximum(first, second) - np.minimum(first, second))


def vote_of(masks: Masks, votes: Column) -> Floats:
    """The share of the votes that keeps each pixel, (h, w) 0..1; 0 where nobody has a vote."""
    if votes.sum() <= 0:
        return np.zeros(masks.shape[1:], np.float32)
    kept = np.zeros(masks.shape[1:], np.float32)
    for mask, share in zip(masks, votes / (255 * votes.sum()), strict=True):
        if share > 0:
            kept += mask * np.float32(share)
    return kept


def like_colours(picture: Pixels, masks: Masks, vote: Floats) -> Column:
    """Soft IoU of each mask with what votes and colours together expect, 0..1.

    Colours are learned from the pixels that nearly all votes keep, or clear.
    """
    expected = _expected(picture, vote) * np.float32(255)
    shared = [np.minimum(mask, expected).sum(dtype=np.float64) for mask in masks]
    joined = [np.maximum(mask, expected).sum(dtype=np.float64) for mask in masks]
    return np.array(shared) / np.maximum(joined, 1)


def _expected(picture: Pixels, vote: Floats) -> Floats:
    """The chance of each pixel to belong to the subject, by votes and by colour."""
    colour = picture >> (8 - _BITS)
    index = (
        (colour[..., 0].astype(np.intp) << (2 * _BITS))
        | (colour[..., 1].astype(np.intp) << _BITS)
        | colour[..., 2]
    )
    kept, cleared = _histogram(index[vote >= _SURE]), _histogram(index[vote <= 1 - _SURE])
    by_colour = np.log((kept + _UNSEEN) / (cleared + _UNSEEN)).astype(np.float32)[index]
    calm = ndimage.uniform_filter(by_colour, 5)
    clipped = vote.clip(0.02, 0.98)
    certainty = np.log(clipped / (1 - clipped)) + np.float32(_COLOUR_TRUST) * calm
    return np.asarray(1 / (1 + np.exp(-certainty)), np.float32)


def _histogram(index: NDArray[np.intp]) -> Floats:
    """How often each colour occurs against the most frequent, neighbouring colours sharing."""
    side = 1 << _BITS
    counts = np.bincount(index, minlength=side**3).astype(np.float32).reshape(side, side, side)
    spread = ndimage.gaussian_filter(counts, 0.6)
    return np.asarray(spread / max(float(spread.sum()), 1.0)).ravel()


def plain_ground(picture: Pixels) -> Ground | None:
    """The ground where the border is one colour; None where it is not."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    colour = np.median(border, axis=0).astype(np.uint8)
    if _alike(border, colour).mean() < _PLAIN_SHARE:
        return None
    alike = _alike(picture, colour)
    regions, count = ndimage.label(alike)
    outer = np.zeros(count + 1, np.bool_)
    for side in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        outer[side] = True
    outer[0] = False
    return Ground(certain=outer[regions], unlike=~alike)


def _alike(colours: Pixels, colour: Pixels) -> Solids:
    alike = np.ones(colours.shape[:-1], np.bool_)
    for channel in range(3):
        plane = np.ascontiguousarray(colours[..., channel])
        alike &= _apart(plane, colour[channel]) <= _GROUND_LEVELS
    return alike


def off_ground(ground: Ground, masks: Masks) -> Column:
    """IoU of each mask with what is certainly not the ground, where that is certain at all."""
    known = ground.certain | ground.unlike
    solids = (masks >= SOLID) & known
    shared = (solids & ground.unlike).sum(axis=(1, 2))
    joined = (solids | ground.unlike).sum(axis=(1, 2))
    return np.where(joined > 0, shared / np.maximum(joined, 1), 1.0)
