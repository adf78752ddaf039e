"""The only home of edge work on a predicted alpha: its enlargement and the colours under it.

A network answers at about 1024 pixels. Its alpha is enlarged by *detail injection*: in a small
window of the coarse grid alpha is close to an affine function of colour, so what the coarse alpha
lacks is that function's slope times what the coarse picture lacks, which the full picture shows.
Where a mixture I = aF + (1 - a)B holds locally this is exact; where the picture has no detail, or
colour does not explain alpha, it is plain bicubic enlargement.

Colours come from the same mixture: F and B are first averaged nearby, then one Kalman step moves
F by what I leaves unexplained. Everything works in encoded sRGB, where artwork is composited, tile
by tile, and only tiles that hold a boundary cost anything. bench/edges.py compares the peers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from models.images import Pixels

Mask: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float32]
_Level = TypeVar("_Level", bound=np.generic)
_Kernel: TypeAlias = Image.Resampling
_Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom

TILE = 256  # pixels a side: bounds every float array
STRIP = 64  # coarse rows reduced at once
RADIUS = 2  # of the coarse window the slope is fitted in; 1 to 4 tried, 3 loses 10 %
# Added to the colours' variance, in squared levels: coarse pixels are rounded, pictures noisy.
RIDGE = 4.0
# The kernel that shrank the caller's alpha is not known. Assuming Hamming leaves 0.25 to 0.6 of
# plain Lanczos' error for any of four; assuming the sharper Lanczos 0.06 to 0.8.
REDUCING = Image.Resampling.HAMMING
ENLARGING = Image.Resampling.BICUBIC
EXTENDED = 8  # pixels of foreground colour beyond the alpha's outer edge
REACH = 24  # pixels within which a nearest pure colour is looked for one by one
GRID = 512  # a side of the grid where it is looked for beyond that
BLUR = 7  # cells of that grid: no seams where far colours meet
HALO = 2 * REACH + 2  # a pixel's crest, that crest's ground, and half a crest's window
CLEAR = 4  # alpha up to which a pixel shows the ground: networks are seldom exactly 0
CREST, LEAST_CREST = 5, 64  # window in pixels, and alpha under which un-mixing is mostly noise
NOISE = 0.02  # variance of the mixture, as a share of that of F and B; 0.1 doubles some errors


@dataclass(frozen=True, slots=True)
class _Coarse:
    """What is known on the alpha's own grid: (h, w) alpha, (h, w, 3) picture, extremes of 3 x 3."""

    alpha: Pixels
    rgb: Pixels
    least: Pixels
    most: Pixels


@dataclass(frozen=True, slots=True)
class _Frame:
    """A tile of the picture, the coarse cells round it, and the tile's box among those cells."""

    rows: slice
    columns: slice
    cells: tuple[slice, slice]
    box: _Box

    @property
    def size(self) -> tuple[int, int]:
        """Pillow's: width, height."""
        return self.columns.stop - self.columns.start, self.rows.stop - self.rows.start


@dataclass(frozen=True, slots=True)
class _Place:
    """A tile in the picture, the tile with its surroundings, and the tile inside those."""

    own: tuple[slice, slice]
    halo: tuple[slice, slice]
    inner: tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class _Far:
    """Nearest clear and solid colours on every `step`-th pixel, for tiles that have none."""

    step: int
    clear: Pixels
    solid: Pixels

    def seen(self, colours: Pixels, halo: tuple[slice, slice], shape: tuple[int, ...]) -> Pixels:
        """The colours, (height, width, 3), on the pixels of a halo of that shape."""
        top, left = halo[0].start, halo[1].start
        corners = (left, top, left + shape[1], top + shape[0])
        box = (*(corner / self.step for corner in corners),)
        enlarged = Image.fromarray(colours).resize(
            (shape[1], shape[0]), Image.Resampling.BILINEAR, box
        )
        return np.asarray(enlarged)


def project_alpha(rgb: Pixels, *, alpha: Pixels) -> Pixels:
    """Bring `alpha`, (h, w) uint8 of any size, to the picture's size along the picture's edges.

    `rgb` is (H, W, 3) uint8 straight sRGB. Returns (H, W) uint8; an alpha of that size comes back
    as it is. An axis on which alpha is the larger is reduced with a kernel that cannot ring.
    Where the 3 x 3 coarse pixels round a place agree, the result is exactly their value.

    Source: the slope is the guided filter's (He, Sun and Tang 2013, eq. 5 and 6, colour guide),
    applied to the difference between the picture and its own reduction.
    """
    height, width = rgb.shape[:2]
    alpha = _resized(alpha, min(height, alpha.shape[0]), min(width, alpha.shape[1]))
    if alpha.shape == (height, width):
        return alpha
    least, most = (
        extreme(alpha, 3) for extreme in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    coarse = _Coarse(alpha, _reduced(rgb, alpha.shape), least, most)
    fine = np.empty((height, width), np.uint8)
    for frame in _frames((height, width), alpha.shape):
        place = (frame.rows, frame.columns)
        fine[place] = _projected(rgb[place], coarse, frame)
    return fine


def decontaminate(rgb: Pixels, *, alpha: Pixels) -> Pixels:
    """The foreground's own colours, (H, W, 3) uint8 straight sRGB, under `alpha`, (H, W) uint8.

    Where alpha is 255 the colour is the source's bit for bit; where it is between, the background's
    share is taken out. Under alpha 0 the foreground goes on for EXTENDED pixels, so that no
    resampler draws background in; beyond that it is zero: small in a PNG, and nothing hidden leaks.

    F and B start as the nearest crest's and the nearest clear pixel's colour; then one Kalman
    step. With alpha for its gain that step is Forte and Pitié's, 2021, "Approximate fast foreground
    colour estimation".
    """
    clean, far = np.empty_like(rgb), _far(rgb, alpha)
    for place in _places(alpha.shape):
        clean[place.own] = _cleaned(rgb, alpha, far, place)
    return clean


def _resized(plane: Pixels, height: int, width: int) -> Pixels:
    if plane.shape == (height, width):
        return plane
    return np.asarray(Image.fromarray(plane).resize((width, height), REDUCING))


def _reduced(rgb: Pixels, shape: tuple[int, ...]) -> Pixels:
    """The picture on the coarse grid, strip by strip: Pillow holds four bytes a pixel."""
    scale, support = len(rgb) / shape[0], 2
    small = np.empty((*shape, 3), np.uint8)
    for top in range(0, shape[0], STRIP):
        bottom = min(top + STRIP, shape[0])
        start = max(int((top - support) * scale), 0)
        strip = rgb[start : int(np.ceil((bottom + support) * scale))]
        box = (0, top * scale - start, rgb.shape[1], min(bottom * scale - start, len(strip)))
        picture = Image.fromarray(strip).resize((shape[1], bottom - top), REDUCING, box)
        small[top:bottom] = np.asarray(picture)
    return small


def _frames(shape: tuple[int, int], coarse: tuple[int, ...]) -> Iterator[_Frame]:
    halo = RADIUS + 2  # two for the bicubic kernel
    ratios = [small / full for small, full in zip(coarse, shape, strict=True)]
    for rows, columns in product(*map(_spans, shape)):
        high, top, bottom = _cells(rows, ratios[0], coarse[0], halo)
        wide, left, right = _cells(columns, ratios[1], coarse[1], halo)
        yield _Frame(rows, columns, (high, wide), (left, top, right, bottom))


def _cells(pixels: slice, ratio: float, count: int, halo: int) -> tuple[slice, float, float]:
    """Coarse cells round the pixels, and where the pixels start and stop among them."""
    start, stop = pixels.start * ratio, min(pixels.stop * ratio, count)
    first = max(int(start) - halo, 0)
    return slice(first, min(int(np.ceil(stop)) + halo, count)), start - first, stop - first


def _spans(length: int) -> Iterator[slice]:
    for start in range(0, length, TILE):
        yield slice(start, min(start + TILE, length))


def _places(shape: tuple[int, ...]) -> Iterator[_Place]:
    for rows, columns in product(*map(_spans, shape)):
        tops = (max(rows.start - HALO, 0), max(columns.start - HALO, 0))
        own = (rows, columns)
        halo = (slice(tops[0], rows.stop + HALO), slice(tops[1], columns.stop + HALO))
        inner = tuple(slice(s.start - t, s.stop - t) for s, t in zip(own, tops, strict=True))
        yield _Place(own, halo, (inner[0], inner[1]))


def _projected(rgb: Pixels, coarse: _Coarse, frame: _Frame) -> Pixels:
    """One tile of the fine alpha."""
    alpha, small = coarse.alpha[frame.cells], coarse.rgb[frame.cells]
    least, most = coarse.least[frame.cells], coarse.most[frame.cells]
    if alpha.min() == alpha.max():
        return np.full(rgb.shape[:2], alpha[0, 0], np.uint8)
    fine = _enlarged(alpha, frame)
    for channel, slope in enumerate(_slopes(small, alpha, least != most)):
        detail = rgb[..., channel] - _enlarged(small[..., channel], frame)
        fine += detail * _enlarged(slope, frame, Image.Resampling.BILINEAR)
    low, high = (_enlarged(each, frame, Image.Resampling.NEAREST) for each in (least, most))
    room = high - low  # a faintly soft interior may not become a hole
    fine = fine.clip(low - room, high + room).clip(0, 255)
    return np.asarray(np.rint(fine), np.uint8)


def _enlarged(plane: NDArray[np.generic], frame: _Frame, kernel: _Kernel = ENLARGING) -> Floats:
    picture = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.array(picture.resize(frame.size, kernel, frame.box))


def _slopes(rgb: Pixels, alpha: Pixels, moving: Mask) -> Floats:
    """Alpha per level of each channel, (3, h, w): least squares in each window, zero where still.

    `moving` says where alpha varies at all. A slope counts as far as it explains alpha (adjusted
    R squared): grain explains nothing, and would be injected fourfold.
    """
    near = ndimage.maximum_filter(moving, 2 * RADIUS + 1)
    colour, level = np.moveaxis(rgb, -1, 0).astype(np.float32), alpha.astype(np.float32)
    products = [first * second for first, second in _pairs([*colour, level])]
    means = _averages(np.stack([*colour, level, *products]), RADIUS)[:, near]
    moments = [a * b for a, b in _pairs([*means[:4]])]
    red, rg, rb, ra, green, gb, ga, blue, ba, variance = means[4:] - np.stack(moments)
    spread = np.array([[red, rg, rb], [rg, green, gb], [rb, gb, blue]]).transpose(2, 0, 1)
    shared = np.stack([ra, ga, ba], -1)
    ridge = np.float32(RIDGE) * np.eye(3, dtype=np.float32)
    fitted = np.linalg.solve(spread + ridge, shared[..., None])[..., 0]
    explained = (fitted * shared).sum(-1) / np.maximum(variance, np.float32(1e-3))
    slopes = np.zeros(colour.shape, np.float32)
    slopes[:, near] = (fitted * _adjusted(explained)[:, None]).T
    return slopes


def _pairs(planes: list[Floats]) -> Iterator[tuple[Floats, Floats]]:
    return combinations_with_replacement(planes, 2)


def _adjusted(explained: Floats) -> Floats:
    """R squared less what three regressors explain of a window by chance, in 0..1."""
    count = (2 * RADIUS + 1) ** 2
    return np.asarray((1 - (1 - explained) * (count - 1) / (count - 4)).clip(0, 1), np.float32)


def _averages(planes: Floats, radius: int) -> Floats:
    """Box means of (n, h, w) planes."""
    side = 2 * radius + 1
    averaged: Floats = ndimage.uniform_filter(planes, (1, side, side), mode="nearest")
    return averaged


def _far(rgb: Pixels, alpha: Pixels) -> _Far:
    step = -(-max(alpha.shape) // GRID)
    thin, level = rgb[::step, ::step], alpha[::step, ::step]
    nearest = (_nearest(thin, known)[0] for known in (level <= CLEAR, level == 255))
    clear, solid = (ndimage.uniform_filter(colours, (BLUR, BLUR, 1)) for colours in nearest)
    return _Far(step, clear, solid)


def _nearest(rgb: NDArray[_Level], known: Mask) -> tuple[NDArray[_Level], Floats]:
    """Each pixel's nearest known colour and how far it is; its own where nothing is known."""
    if not known.any():
        return rgb, np.full(known.shape, np.inf, np.float32)
    distance, (rows, columns) = ndimage.distance_transform_edt(~known, return_indices=True)
    return rgb[rows, columns], distance.astype(np.float32)


def _filled(rgb: NDArray[_Level], known: Mask, otherwise: Pixels) -> Floats:
    """Each pixel's nearest known colour, faded into the other one up to REACH, so nothing jumps."""
    nearest, distance = _nearest(rgb, known)
    trust = (2 - distance * np.float32(2 / REACH)).clip(0, 1)[..., None]
    return np.asarray(otherwise + trust * (nearest - otherwise.astype(np.float32)), np.float32)


def _cleaned(rgb: Pixels, alpha: Pixels, far: _Far, place: _Place) -> Pixels:
    """One tile's colours; `rgb` and `alpha` are the whole picture's."""
    own, colours = alpha[place.own], rgb[place.own]
    if own.min() == 255:
        return colours
    around, tinted = alpha[place.halo], rgb[place.halo]
    printed = ndimage.maximum_filter(around, 2 * EXTENDED + 1)[place.inner] > 0
    clean = np.where(printed[..., None], colours, np.uint8(0))
    asked = printed & (own < 255)
    if asked.any():
        ground, usual = _layers(tinted, around, far, place.halo)
        layers = (colours, usual[place.inner], ground[place.inner])
        clean[asked] = _foreground(own[asked], *(layer[asked] for layer in layers))
    return clean


def _layers(
    rgb: Pixels, alpha: Pixels, far: _Far, halo: tuple[slice, slice]
) -> tuple[Floats, Floats]:
    """The nearest ground and the nearest foreground colour of each pixel of a halo."""
    ground = _filled(rgb, alpha <= CLEAR, far.seen(far.clear, halo, alpha.shape))
    crests = _crests(alpha)
    share = alpha[crests, None] / np.float32(255)
    pure = rgb.astype(np.float32)
    pure[crests] = (ground[crests] + (pure[crests] - ground[crests]) / share).clip(0, 255)
    return ground, _filled(pure, crests, far.seen(far.solid, halo, alpha.shape))


def _crests(alpha: Pixels) -> Mask:
    """The most opaque pixels of their surroundings: solid ones, and what thin hair has instead."""
    highest = alpha == ndimage.maximum_filter(alpha, CREST)
    return np.asarray(highest & (alpha >= LEAST_CREST))


def _foreground(alpha: Pixels, mixed: Pixels, usual: Floats, ground: Floats) -> Floats:
    """F of I = aF + (1 - a)B for (n,) alphas and (n, 3) colours, in rounded levels.

    F starts as the usual colour nearby and takes a share of what that leaves unexplained.
    """
    share = alpha[:, None] / np.float32(255)
    gain = share / (share**2 + (1 - share) ** 2 + np.float32(NOISE))
    unexplained = mixed - share * usual - (1 - share) * ground
    return np.asarray(np.rint((usual + gain * unexplained).clip(0, 255)), np.float32)
