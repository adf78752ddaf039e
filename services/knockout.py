"""The free remover's pure core: knocks the plain ground out of artwork from the borders inwards.

A flood in CIELAB finds the ground, then the rim is un-mixed: artwork is composited in encoded
sRGB, I = aF + (1-a)B, so alpha and the pure colour F follow from the ground B and from the
colour that a short climb away from the ground ends on. Flat art comes back to within rounding.

What no colour rule can do: art of the ground's own colour that nothing encloses is ground, and
translucent art (a glaze, not a grey shadow) comes back opaque in its mixed colour.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.images import Cutout, Flag, Holes, Pixels

Mask: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.intp]
_Scalar = TypeVar("_Scalar", bound=np.generic)
_Places: TypeAlias = tuple[Ints, Ints]  # (n,) rows, (n,) columns

# CIELAB units. Median IoU by bench/knockout.py: clean art 0.999 for any of 4 to 20; JPEG 75 0.980,
# 0.993, 0.996, 0.997, 0.997 for 4, 8, 12, 16, 20. More gains nothing and eats paler art.
TOLERANCE = 12.0
# A clean file needs no room for noise, so pale art 3 units from the ground survives there.
CLEAN_SHARE = 0.25
# Share of pixels near the rim that kink by over 3/4 unit along their row. PNG: at most 0.07, a bare
# soft shadow 0.08; JPEG at quality 95: 0.13 to 0.52.
NOISY_SHARE = 0.1
UNITS = 8  # distances are stored in eighths of a CIELAB unit; 255 says "32 or more"
REACH = 40  # levels per channel beyond which no colour is ground, whatever the tolerance
STRIP = 256  # rows worked on at once: bounds every float array
HALO = 8  # rows a strip's rim may look outside: LAYERS + CLIMBS + 1
LAYERS = 3  # pixels of rim: one for anti-aliasing, three after resampling
CLIMBS = 4
FAINT = 2  # pixels outside the flood's front where a trace of art may lie
SHADOW_STEP = 8  # levels between neighbours in a soft shadow
SHADOW_HUE = 4  # levels a shadow may be off the ground's hue
SHADOW_FLOOR = 0.2  # of the ground's brightness; darker is an object
SPECK_NEIGHBOURS = 4  # of 8; a straight edge has 3
FADING_SHARE = 0.02  # of the front: fewer calm pixels are chance, and no time is spent
WEAK_SHARE = 0.03
TOUCH_SHARE = 0.002
CRACK_SHARE = 0.3  # art as drawn has at most 0.26, eaten outlines 0.32 to 0.6
AROUND = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))
TO_XYZ = np.array(  # sRGB (IEC 61966-2-1), each row divided by the D65 white
    [[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8728]], np.float32
)


@dataclass(frozen=True, slots=True)
class _Rules:
    """How one picture is read.

    `limit`: the flood's, in stored units. `step`: levels by which a neighbour must be farther
    from the ground to be purer, not just shaded. A mixture may lie `slack` levels, or `bend` of
    its own distance, off the line from the ground to its pure colour.
    """

    limit: int
    noisy: bool
    step: float
    slack: float
    bend: float


@dataclass(frozen=True, slots=True)
class _Scene:
    """A picture, or a strip of it, with what is known: which pixels are ground or shadow."""

    rgb: Pixels
    distance: Pixels
    removed: Mask
    shadow: Mask
    ground: Floats
    rules: _Rules

    def strip(self, rows: slice) -> "_Scene":
        return replace(
            self,
            rgb=self.rgb[rows],
            distance=self.distance[rows],
            removed=self.removed[rows],
            shadow=self.shadow[rows],
        )

    def mixed(self, at: _Places) -> Floats:
        """Colours at the places less the ground, (n, 3)."""
        return self.rgb[at] - self.ground


def knock_out(rgb: Pixels, *, holes: Holes = Holes.KEEP, tolerance: float = TOLERANCE) -> Cutout:
    """Remove the ground that reaches the border of `rgb`, (H, W, 3) uint8 sRGB.

    `tolerance` is how far, in CIELAB units (CIE76), noise may carry a ground pixel; at most 30.
    A clean file is given a quarter of it. Straight colour is changed only where
    0 < alpha < 255; under alpha 0 the source's colour stays.

    RIM_EQUALS_GROUND is a caution, raised where the border is not one colour or art touches it,
    where a stretch of the rim fades into the ground without an edge, and where ground runs through
    the art in cracks, as it does when outlines have its colour. It cannot see art that
    equals the ground and has no other trace. EMPTY and FULL_FRAME: next to nothing is left, or
    was removed.

    Beyond its input a call peaks at 8 bytes a pixel, 10 with a soft shadow (tracemalloc, 16 MP);
    4 of them are what it returns.
    """
    ground = _ground(rgb)
    distance = _distances(rgb, ground)
    rules = _rules(distance, tolerance)
    removed = _removed(distance, rules, holes)
    shadow = _shadow(rgb, removed, ground)
    scene = _Scene(rgb, distance, removed, shadow, ground, rules)
    return _unmixed(_without_specks(scene) if rules.noisy else scene)


def _border(plane: NDArray[_Scalar]) -> NDArray[_Scalar]:
    return np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])


def _ground(rgb: Pixels) -> Floats:
    """The border's commonest colour, (3,) sRGB levels: a mode, so art at the border is no bias."""
    border = _border(rgb)
    bins = (border >> 3).astype(np.intp) @ np.array([1024, 32, 1])
    core = np.median(border[bins == np.bincount(bins).argmax()], axis=0)
    near = np.abs(border - core).max(axis=1) <= 8
    return np.asarray(np.median(border[near], axis=0).round(), np.float32)


def _strips(height: int) -> Iterator[tuple[slice, slice]]:
    """Rows of each strip with its halo, and the strip's own rows inside those."""
    for top in range(0, height, STRIP):
        start, stop = max(top - HALO, 0), min(top + STRIP, height)
        yield slice(start, min(stop + HALO, height)), slice(top - start, stop - start)


def _distances(rgb: Pixels, ground: Floats) -> Pixels:
    """CIE76 distance of every pixel to the ground, (H, W) in eighths, by table look-up."""
    axes = [np.arange(max(int(c) - REACH, 0), min(int(c) + REACH, 255) + 1) for c in ground]
    table = _distance_table(axes, ground)
    strides = (len(axes[1]) * len(axes[2]), len(axes[2]), 1)
    red, green, blue = map(_offsets, axes, strides)
    distance = np.empty(rgb.shape[:2], np.uint8)
    for top in range(0, len(rgb), STRIP):
        rows = rgb[top : top + STRIP]
        index = red[rows[..., 0]]
        index += green[rows[..., 1]]
        index += blue[rows[..., 2]]
        distance[top : top + STRIP] = table.take(index, mode="clip")
    return distance


def _offsets(axis: NDArray[np.intp], stride: int) -> NDArray[np.int32]:
    """Where each of the 256 levels leads in the table; past its end if out of reach."""
    offsets = np.full(256, 1 << 28, np.int32)
    offsets[axis] = (axis - axis[0]) * stride
    return offsets


def _distance_table(axes: list[NDArray[np.intp]], ground: Floats) -> Pixels:
    """Distance of each colour of a box round the ground, flat; a last entry says "far"."""
    lab = _lab(np.ix_(*(axis.astype(np.float32) for axis in axes)))
    origin = _lab(np.ix_(*ground[:, None]))
    light, a, b = ((plane - start) ** 2 for plane, start in zip(lab, origin, strict=True))
    eighths = np.ceil(np.sqrt(light + a + b) * UNITS)
    return np.append(np.minimum(eighths, 255).astype(np.uint8).ravel(), np.uint8(255))


def _lab(levels: tuple[NDArray[np.float32], ...]) -> tuple[Floats, Floats, Floats]:
    """CIELAB (D65) of sRGB levels 0..255, one broadcastable array a channel."""
    encoded = [level / np.float32(255) for level in levels]
    linear = [np.where(v > 0.04045, ((v + 0.055) / 1.055) ** 2.4, v / 12.92) for v in encoded]
    x, y, z = (_lab_curve(r * linear[0] + g * linear[1] + b * linear[2]) for r, g, b in TO_XYZ)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _lab_curve(t: Floats) -> Floats:
    return np.where(t > 0.008856, np.cbrt(t), 7.787 * t + np.float32(16 / 116))


def _grown(mask: Mask, by: int = 1) -> Mask:
    """Dilate by a square of 2 * by + 1; a quarter of scipy's time."""
    for _ in range(by):
        wide = mask.copy()
        wide[:, 1:] |= mask[:, :-1]
        wide[:, :-1] |= mask[:, 1:]
        mask = wide.copy()
        mask[1:] |= wide[:-1]
        mask[:-1] |= wide[1:]
    return mask


def _rules(distance: Pixels, tolerance: float) -> _Rules:
    full = int(min(tolerance, 30) * UNITS)
    if _is_noisy(distance, full):
        return _Rules(limit=full, noisy=True, step=10, slack=30, bend=0.5)
    return _Rules(limit=int(full * CLEAN_SHARE), noisy=False, step=5, slack=6, bend=0.15)


def _is_noisy(distance: Pixels, limit: int) -> bool:
    """Tell whether ground colours near the art, or anywhere if there is none, are uneven.

    JPEG rings beside edges while the rest of its ground is clean, so that is where to look. Kinks
    count, not values or steps: pale flat art is no noise, nor is a soft shadow.
    """
    uneven, total = 0, 0
    for outer, own in _strips(len(distance)):
        strip = distance[outer]
        art = strip > limit
        rows, columns = np.nonzero((_grown(art, 5) & ~_grown(art))[own])
        rows += own.start
        beside = (np.clip(columns + by, 0, strip.shape[1] - 1) for by in (-1, 0, 1))
        left, here, right = (strip[rows, column].astype(int) for column in beside)
        uneven += int((np.abs(left - 2 * here + right) > 0.75 * UNITS).sum())
        total += len(rows)
    return uneven > NOISY_SHARE * total


def _removed(distance: Pixels, rules: _Rules, holes: Holes) -> Mask:
    """The ground: what is near its colour and reaches the border, with islands if opened."""
    labels, count = ndimage.label(distance <= rules.limit)
    chosen = np.zeros(count + 1, np.bool_)
    if holes is Holes.OPEN:
        exact = _counts(labels, distance <= 1.5 * UNITS, count)
        chosen |= exact * 4 >= _counts(labels, labels > 0, count)
    chosen[_border(labels)] = True
    chosen[0] = False
    return _picked(chosen, labels)


def _picked(chosen: Mask, labels: NDArray[np.int32]) -> Mask:
    picked: Mask = chosen[labels]
    return picked


def _counts(labels: NDArray[np.int32], mask: Mask, count: int) -> Ints:
    """How many pixels of each label the mask has, (count + 1,)."""
    sums = np.zeros(count + 1, np.intp)
    for top in range(0, len(labels), STRIP):
        rows = slice(top, top + STRIP)
        sums += np.bincount(labels[rows][mask[rows]], minlength=count + 1)
    return sums


def _shadow(rgb: Pixels, removed: Mask, ground: Floats) -> Mask:
    """The soft grey shadows: darkened ground that fades into the ground without an edge.

    A shaded object that is white at one place of its rim fades there too, but is cut off hard
    elsewhere: such a region is left alone.
    """
    front = _grown(removed) & ~removed
    level = _fade_level(rgb, _places(front), ground)
    if level is None:
        return np.broadcast_to(np.False_, removed.shape)
    labels, count = ndimage.label(_shaded(rgb, removed, ground))
    touching = _counts(labels, front, count)
    rim = _grown(front, FAINT)
    cut_off = rim.copy()
    cut_off[rim] = _shade(rgb[rim], ground)[0] < level - 3 * SHADOW_STEP / ground.max()
    soft = (touching > 0) & (_counts(labels, cut_off, count) * 10 <= _counts(labels, rim, count))
    soft[0] = False
    return _picked(soft, labels)


def _fade_level(rgb: Pixels, front: _Places, ground: Floats) -> float | None:
    """Brightness (share of the ground's) at which shadows leave the flood, if any do."""
    if ground.min() < 64 or not len(front[0]):
        return None
    share, off = _shade(rgb[front], ground)
    calm = off <= SHADOW_HUE
    for step in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        beside, _ = _shade(rgb[_moved(front, step, rgb.shape)], ground)
        calm &= np.abs(beside - share) * ground.max() <= SHADOW_STEP
    return float(np.median(share[calm])) if calm.mean() > FADING_SHARE else None


def _shade(colours: Pixels, ground: Floats) -> tuple[Floats, Floats]:
    """Brightness of (..., 3) colours as a share of the ground's, and levels off its hue."""
    share = (colours @ ground) / np.float32(ground @ ground)
    return share, np.abs(colours - share[..., None] * ground).max(axis=-1)


def _shaded(rgb: Pixels, removed: Mask, ground: Floats) -> Mask:
    """Pixels in the ground's hue, darker than it, that differ little from their neighbours."""
    floor = SHADOW_FLOOR * ground[1]
    hues = [(np.arange(256) * c / ground[1]).clip(0, 255).astype(np.uint8) for c in ground]
    shaded = np.empty_like(removed)
    for outer, own in _strips(len(rgb)):
        red, green, blue = (np.ascontiguousarray(rgb[outer][..., c]) for c in range(3))
        off = np.maximum(_gap(red, hues[0][green]), _gap(blue, hues[2][green]))
        fits = (off <= SHADOW_HUE) & (green >= floor) & (green < ground[1]) & ~removed[outer]
        shaded[outer][own] = (fits & ~_steep(green))[own]
    return shaded


def _gap(one: Pixels, other: Pixels) -> Pixels:
    return np.maximum(one, other) - np.minimum(one, other)


def _steep(level: Pixels) -> Mask:
    """Where a neighbour above, below or beside differs by more than a shadow's step."""
    steep = np.zeros(level.shape, np.bool_)
    down = _gap(level[1:], level[:-1]) > SHADOW_STEP
    across = _gap(level[:, 1:], level[:, :-1]) > SHADOW_STEP
    steep[1:] |= down
    steep[:-1] |= down
    steep[:, 1:] |= across
    steep[:, :-1] |= across
    return steep


def _without_specks(scene: _Scene) -> _Scene:
    """Count as ground the faint pixels mostly surrounded by it: what JPEG strews about edges."""
    removed = scene.removed.copy()
    for outer, own in _strips(len(removed)):
        strip = scene.strip(outer)
        faint = strip.distance <= 2 * scene.rules.limit
        for _ in range(2):
            around = (strip.removed | strip.shadow).astype(np.uint8)
            specks = faint & ~strip.shadow & (_neighbours(around) > SPECK_NEIGHBOURS)
            strip = replace(strip, removed=strip.removed | specks)
        removed[outer][own] = strip.removed[own]
    return replace(scene, removed=removed)


def _neighbours(marks: Pixels) -> Pixels:
    """Sum of each 3 x 3 neighbourhood, the middle included."""
    wide = marks.copy()
    wide[:, 1:] += marks[:, :-1]
    wide[:, :-1] += marks[:, 1:]
    tall = wide.copy()
    tall[1:] += wide[:-1]
    tall[:-1] += wide[1:]
    return tall


def _unmixed(scene: _Scene) -> Cutout:
    """Solve the rim strip by strip; everything else is fully ground or fully art."""
    rgb = scene.rgb.copy()
    alpha = np.multiply(~scene.removed, 255, dtype=np.uint8)
    edges, weak = 0, 0
    for outer, own in _strips(len(rgb)):
        strip = scene.strip(outer)
        _cast(strip, rgb[outer], alpha[outer])
        rim = _rim(strip)
        tops = _climb(strip, rim)
        mine = (rim[0] >= own.start) & (rim[0] < own.stop)
        rim, tops = (rim[0][mine], rim[1][mine]), (tops[0][mine], tops[1][mine])
        _solve(strip, rim, tops, rgb=rgb[outer], alpha=alpha[outer])
        near = ~strip.removed[rim]
        edges += int(near.sum())
        weak += int((near & (strip.distance[tops] <= 2 * scene.rules.limit)).sum())
    return Cutout(rgb, alpha, _flags(alpha, weak / max(edges, 1)))


def _cast(strip: _Scene, rgb: Pixels, alpha: Pixels) -> None:
    """Turn the soft shadow into black that lets the ground through."""
    share, _ = _shade(strip.rgb[strip.shadow], strip.ground)
    alpha[strip.shadow] = np.rint(255 * (1 - share))
    rgb[strip.shadow] = 0


def _rim(strip: _Scene) -> _Places:
    """Pixels that may be a mix of ground and art: from the front up to the first summit.

    A layer goes on only where the colour still leaves the ground, so a kept island of the
    ground's colour behind a thin outline stays whole.
    """
    seen = strip.removed | strip.shadow
    rim = _grown(seen) & ~seen
    front = _places(rim)
    for _ in range(LAYERS - 1):
        front = _uphill(strip, front, rim | seen)
        rim[front] = True
    if not strip.rules.noisy:
        rim |= _grown(~seen, FAINT) & strip.removed & (strip.distance > 0)
    return _places(rim)


def _uphill(strip: _Scene, front: _Places, seen: Mask) -> _Places:
    """The unseen neighbours of the front that are clearly farther from the ground."""
    ahead = np.zeros_like(seen)
    height = np.linalg.norm(strip.mixed(front), axis=1)
    for step in AROUND:
        there = _moved(front, step, seen.shape)
        higher = np.linalg.norm(strip.mixed(there), axis=1) > height + strip.rules.step / 2
        ahead[there[0][higher], there[1][higher]] = True
    return _places(ahead & ~seen)


def _places(mask: Mask) -> _Places:
    rows, columns = np.nonzero(mask)
    return rows, columns


def _moved(places: _Places, step: tuple[int, int], shape: tuple[int, ...]) -> _Places:
    rows = np.clip(places[0] + step[0], 0, shape[0] - 1)
    return rows, np.clip(places[1] + step[1], 0, shape[1] - 1)


def _climb(strip: _Scene, rim: _Places) -> _Places:
    """Where each rim pixel's pure colour stands: the summit of its own line of mixtures."""
    tops = (rim[0].copy(), rim[1].copy())
    active = np.arange(len(rim[0]))
    for _ in range(CLIMBS):
        here = (tops[0][active], tops[1][active])
        rows, columns = _purest(strip, here, strip.mixed((rim[0][active], rim[1][active])))
        moved = (rows != here[0]) | (columns != here[1])
        active = active[moved]
        tops[0][active], tops[1][active] = rows[moved], columns[moved]
    return tops


def _purest(strip: _Scene, here: _Places, mixed: Floats) -> _Places:
    """The neighbour farthest from the ground on the line from it through the (n, 3) mixture."""
    rows, columns = here[0].copy(), here[1].copy()
    best = np.linalg.norm(strip.mixed(here), axis=1) + strip.rules.step
    room = np.maximum(strip.rules.slack, strip.rules.bend * np.linalg.norm(mixed, axis=1))
    for step in AROUND:
        there = _moved(here, step, strip.removed.shape)
        pure = strip.mixed(there)
        square = np.einsum("ij,ij->i", pure, pure)
        share = np.einsum("ij,ij->i", mixed, pure) / np.maximum(square, 1)
        off = np.linalg.norm(mixed - share[:, None] * pure, axis=1)
        better = (np.sqrt(square) > best) & (off <= room)
        best[better] = np.sqrt(square[better])
        rows[better], columns[better] = there[0][better], there[1][better]
    return rows, columns


def _solve(strip: _Scene, rim: _Places, tops: _Places, *, rgb: Pixels, alpha: Pixels) -> None:
    """Write alpha and the pure colour, F = B + (I - B) / a, of the rim into the strip."""
    mixed, pure = strip.mixed(rim), strip.mixed(tops)
    share = np.einsum("ij,ij->i", mixed, pure) / np.maximum(np.einsum("ij,ij->i", pure, pure), 1)
    share = np.maximum(share, _least_share(mixed, strip.ground))
    stays_ground = strip.removed[rim] & (rim[0] == tops[0]) & (rim[1] == tops[1])
    solved = np.rint(255 * np.where(stays_ground, 0, np.clip(share, 0, 1))).astype(np.uint8)
    alpha[rim] = solved
    soft = (solved > 0) & (solved < 255)
    colour = strip.ground + mixed[soft] * (np.float32(255) / solved[soft])[:, None]
    rgb[rim[0][soft], rim[1][soft]] = np.clip(np.rint(colour), 0, 255)


def _least_share(mixed: Floats, ground: Floats) -> Floats:
    """The smallest alpha, (n,), for which the pure colour still is one: within 0..255."""
    room = np.maximum(np.where(mixed > 0, 255 - ground, ground), 1)
    return np.asarray(np.max(np.abs(mixed) / room, axis=1))


def _flags(alpha: Pixels, weak_share: float) -> tuple[Flag, ...]:
    if not np.any(alpha > 10):
        return (Flag.EMPTY,)
    found = {
        Flag.FULL_FRAME: np.mean(alpha == 255) > 0.999,
        Flag.RIM_EQUALS_GROUND: (
            np.mean(_border(alpha) > 127) > TOUCH_SHARE
            or weak_share > WEAK_SHARE
            or _crack_share(alpha) > CRACK_SHARE
        ),
    }
    return tuple(flag for flag, holds in found.items() if holds)


def _crack_share(alpha: Pixels) -> float:
    """Ground that runs through the art in cracks, per pixel of outline, at about a megapixel.

    Where drawing lines have the ground's colour, the flood eats the outline and the lines joined
    to it.
    """
    pace = max(1, round(max(alpha.shape) / 1000))
    art = alpha[::pace, ::pace] > 127
    closed = ~_grown(~_grown(art, 2), 2)
    outline = int((_grown(art) & ~art).sum())
    return int((closed & ~art).sum()) / max(outline, 1)
