"""A stored cut-out onto its canvas and into a file, by strips of rows (the layouts: canvas.py).

A strip is resized premultiplied (services/lanczos.py), put in its place, and laid over the
background. The picture is never whole in memory but for a JPEG, which Pillow encodes at once: four
bytes a pixel, 25 million pixels at most. All of it blocks: call it in the pool, whose width then
bounds the memory.

Rows are (rows, width, 4) uint8, straight sRGB, alpha last.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

from models.errors import UnknownForeground
from models.images import Pixels
from models.removebg import RemovebgParameters
from services.canvas import (
    Layout,
    colour,
    filling,
    has_margin,
    lay_out,
    most_pixels,
    moves,
    region,
)
from services.edge_modes import EdgeFinish
from services.intake import inspect, refusals
from services.lanczos import Resizing
from services.records import visible_box
from services.ringing import finish_alpha
from utils.png import write_png
from utils.rows import Box, Cropped, PictureFile, Rows, each_strip, open_picture

COLOUR_FILE, MATTE_FILE = "color.jpg", "alpha.png"
MAX_JPEG_SIDE = 65_500
"""Pixels a side that a JPEG encoder takes (libjpeg's JPEG_MAX_DIMENSION)."""

_STRIP_PIXELS = 1 << 19
_LEAST_ROWS = 64  # so that a strip's neighbours are always enough to bleed from
_JPEG = {"quality": 95, "subsampling": 0}
_SOFT = EdgeFinish()
_WHITE = (255, 255, 255, 255)
# Bleeding: beyond 16 pixels no block of a JPEG (8 x 8, colours not subsampled) touches the rim.
_BLEED_RADII = (16, 6, 2)
_HALO = max(_BLEED_RADII)
_DUST = 10  # alpha that no box of what is visible includes (services/records.py)
_PART_COLUMNS = 256
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a ZIP can say: the same picture, the same bytes


@dataclass(frozen=True, slots=True)
class Composed:
    """A finished file; `foreground` is where the subject is in it."""

    path: Path
    media_type: str
    size: tuple[int, int]
    foreground: Box


@dataclass(frozen=True, slots=True)
class Findings:
    """What a look at a cut-out's alpha says: the box of what is visible, and if all is solid."""

    subject: Box | None
    opaque: bool


class Background(Protocol):
    """What lies behind the subject."""

    @property
    def opaque(self) -> bool: ...

    def rows(self, canvas: tuple[int, int]) -> Rows:
        """Rows of exactly that size."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """One colour, straight RGBA."""

    rgba: tuple[int, int, int, int]

    @property
    def opaque(self) -> bool:
        return self.rgba[3] == 255

    def rows(self, canvas: tuple[int, int]) -> Rows:
        return _PlainRows(self.rgba, *canvas)


@dataclass(frozen=True, slots=True)
class Behind:
    """A picture, centred and filling the canvas; as it is where it has the canvas' size."""

    picture: PictureFile

    @property
    def opaque(self) -> bool:
        return self.picture.channels in (1, 3)

    def rows(self, canvas: tuple[int, int]) -> Rows:
        size = (self.picture.width, self.picture.height)
        box = filling(size, canvas)
        return Resized(Coloured(Cropped(self.picture.rows(), box)), canvas)


def open_background(path: Path, *, max_pixels: int, scratch: Path) -> Behind:
    """A background picture, proven readable to its last row. Raises BadPicture kinds."""
    header = inspect(path, max_pixels=max_pixels)
    with refusals():
        picture = open_picture(path, header=header, scratch=scratch)
        for _ in picture.prepare():
            pass
        for _ in each_strip(picture.rows()):
            pass
    return Behind(picture)


def plain_background(asked: RemovebgParameters) -> Plain | None:
    """The colour behind the subject; raises InvalidParameter."""
    return None if asked.bg_color is None else Plain(colour(asked.bg_color))


def compose(
    cutout: Path, asked: RemovebgParameters, background: Background | None, *, scratch: Path
) -> Composed:
    """The answer's file for a stored cut-out, written to the folder `scratch`.

    Raises UnknownForeground where nothing is visible in the region; RegionOutside, RegionEmpty.
    """
    picture = open_picture(cutout, header=inspect(cutout), scratch=scratch)
    size = (picture.width, picture.height)
    box = region(asked.roi, size)
    found = examine(Within(picture.rows(), box), box)
    if found.subject is None:
        raise UnknownForeground(
            "Nothing in the picture was recognised as foreground.",
            hint="The record of the shot shows what each model found.",
        )
    kind = _kind(asked, background, opaque=found.opaque)
    layout = lay_out(
        asked, size, found.subject, most_pixels=most_pixels(asked, as_png=kind == "png")
    )
    if kind == "jpg" and background is None and asked.channels == "rgba":
        background = Plain(_WHITE)
    canvas = Canvas(picture, box, layout, background)
    target = scratch / f"composed.{kind}"
    _WRITERS[kind](canvas, target, asked.channels == "alpha")
    return Composed(target, _MEDIA_TYPES[kind], layout.canvas, layout.foreground)


def examine(rows: Rows, region: Box) -> Findings:
    """Where what is visible lies, and whether all of the picture is solid."""
    found: list[Box] = []
    least = 255
    for top, strip in each_strip(rows):
        alpha = strip[..., -1] if strip.shape[2] in (2, 4) else np.full(strip.shape[:2], 255)
        least = min(least, int(alpha.min()))
        if (seen := visible_box(alpha.astype(np.uint8, copy=False))) is not None:
            found.append((seen[0], seen[1] + top, seen[2], seen[3] + top))
    if not found:
        return Findings(None, opaque=False)
    lefts, tops, rights, bottoms = zip(*found, strict=True)
    whole = region == (0, 0, rows.width, rows.height)
    subject = (min(lefts), min(tops), max(rights), max(bottoms))
    return Findings(subject, opaque=whole and least == 255)


def over(above: Pixels, below: Pixels) -> Pixels:
    """One picture over another (Porter and Duff, 1984), both straight, to the nearest level."""
    a = above[..., 3:].astype(np.uint32)
    share = below[..., 3:].astype(np.uint32) * (255 - a)
    total = 255 * a + share
    rgb = above[..., :3] * (255 * a) + below[..., :3] * share
    result = np.empty_like(above)
    result[..., :3] = (rgb + total // 2) // np.maximum(total, 1)
    result[..., 3:] = (total + 127) // 255
    return result


def bled(block: Pixels) -> Pixels:
    """A block's colours (rows, width, 3), those of visible pixels run out under what is not.

    The nearer the rim, the smaller the surroundings that a colour is the mean of; what is farther
    from anything visible than 16 pixels becomes white. Traces of alpha count as hidden: their
    colours are noise. Only parts that a rim crosses are worked on.
    """
    hidden = block[..., 3] <= _DUST
    rgb = block[..., :3].copy()
    rgb[hidden] = 255
    for left in range(0, block.shape[1], _PART_COLUMNS):
        first, right = max(0, left - _HALO), left + _PART_COLUMNS
        around = slice(first, right + _HALO)
        if hidden[:, around].any() and not hidden[:, around].all():
            part = _filled(block[:, around], hidden[:, around], rgb[:, around])
            rgb[:, left:right] = part[:, left - first :][:, :_PART_COLUMNS]
    return rgb


def _filled(block: Pixels, hidden: NDArray[np.bool_], rgb: Pixels) -> Pixels:
    """The colours `rgb` of a part, with the means of what is visible where nothing is."""
    rgb = rgb.copy()
    weight = np.where(hidden, 0, block[..., 3]).astype(np.float32)
    weighted = block[..., :3] * weight[..., np.newaxis]
    for radius in _BLEED_RADII:
        near = _mean(weight, radius)
        reached = hidden & (near > _TRACE)
        for channel in range(3):
            mean = _mean(weighted[..., channel], radius)[reached] / near[reached]
            rgb[reached, channel] = np.rint(mean).clip(0, 255)
    return rgb


class Canvas:
    """The composed picture; its strips can be asked for more than once."""

    def __init__(
        self, picture: PictureFile, region: Box, layout: Layout, background: Background | None
    ) -> None:
        self._picture = picture
        self._region = region
        self._layout = layout
        self._background = background
        self.width, self.height = layout.canvas

    def strips(self) -> Iterator[Pixels]:
        """From top to bottom."""
        layout = self._layout
        inside = Within(self._picture.rows(), self._region)
        subject = Resized(Coloured(Cropped(inside, layout.source)), layout.size)
        below = self._background.rows(layout.canvas) if self._background else None
        step = max(_LEAST_ROWS, _STRIP_PIXELS // self.width)
        for top in range(0, self.height, step):
            count = min(step, self.height - top)
            strip = self._placed(subject, top, count)
            yield strip if below is None else over(strip, below.read(count))

    def _placed(self, subject: "Resized", top: int, count: int) -> Pixels:
        """The next rows of the subject, in their place."""
        strip = np.zeros((count, self.width, 4), np.uint8)
        (x, y), (width, height) = self._layout.at, self._layout.size
        first, last = max(top, y), min(top + count, y + height)
        if first < last:
            strip[first - top : last - top, x : x + width] = subject.read(last - first)
        return strip


class Within:
    """The same rows, with nothing visible outside a box."""

    def __init__(self, whole: Rows, box: Box) -> None:
        self.width, self.height, self.channels = whole.width, whole.height, whole.channels
        self._whole = whole
        self._box = box
        self._next = 0

    def read(self, rows: int) -> Pixels:
        strip = self._whole.read(rows)
        left, top, right, bottom = self._box
        if (left, top, right, bottom) == (0, 0, self.width, self.height):
            return strip
        first = self._next
        self._next += len(strip)
        kept = np.zeros_like(strip)
        inside = slice(max(0, top - first), max(0, bottom - first))
        kept[inside, left:right] = strip[inside, left:right]
        return kept


class Coloured:
    """The same rows as RGBA, whatever channels they have."""

    channels = 4

    def __init__(self, whole: Rows) -> None:
        self.width, self.height = whole.width, whole.height
        self._whole = whole

    def read(self, rows: int) -> Pixels:
        strip = self._whole.read(rows)
        if strip.shape[2] == 4:
            return strip
        pixels = np.full((*strip.shape[:2], 4), 255, np.uint8)
        has_alpha = strip.shape[2] == 2
        pixels[..., :3] = strip[..., :1] if strip.shape[2] < 3 else strip
        if has_alpha:
            pixels[..., 3] = strip[..., 1]
        return pixels


class Resized:
    """RGBA rows resized to (width, height), read by as many as are wanted."""

    channels = 4

    def __init__(self, whole: Rows, size: tuple[int, int]) -> None:
        self.width, self.height = size
        self._whole = whole
        self._made = self._strips()
        self._left = np.empty((0, self.width, 4), np.uint8)

    def read(self, rows: int) -> Pixels:
        held = [self._left]
        missing = rows - len(self._left)
        while missing > 0 and (strip := next(self._made, None)) is not None:
            held.append(strip)
            missing -= len(strip)
        together = np.concatenate(held)
        self._left = together[rows:]
        return together[:rows]

    def _strips(self) -> Iterator[Pixels]:
        whole = self._whole
        resizing = Resizing(whole.width, whole.height, self.width, self.height)
        window = np.empty((0, whole.width, 4), np.uint8)
        first = 0
        # much longer than what it overlaps with its neighbours
        rows = max(32, 4 * resizing.reach, _STRIP_PIXELS // whole.width)
        for strip in resizing.strips(rows):
            window = window[strip.source.start - first :]
            first = strip.source.start
            window = np.concatenate((window, whole.read(strip.source.stop - first - len(window))))
            resized = strip.resize(window)
            resized = finish_alpha(resized, window=window, strip=strip, edge=_SOFT)
            yield resized[min(strip.rows.start, 1) :]


class _PlainRows:
    channels = 4

    def __init__(self, rgba: tuple[int, int, int, int], width: int, height: int) -> None:
        self.width, self.height = width, height
        self._rgba = np.array(rgba, np.uint8)

    def read(self, rows: int) -> Pixels:
        return np.broadcast_to(self._rgba, (rows, self.width, 4))


def _kind(asked: RemovebgParameters, background: Background | None, *, opaque: bool) -> str:
    """What `format=auto` means for this picture."""
    if asked.format != "auto":
        return asked.format
    if asked.channels == "alpha":
        return "png"  # a matte that JPEG has been at is none
    solid = opaque and not moves(asked) and not (asked.crop and has_margin(asked))
    if background is not None:
        solid = solid or background.opaque
    return "jpg" if solid else "png"


def _write_png(canvas: Canvas, target: Path, only_matte: bool) -> None:  # noqa: FBT001  # a table's call
    strips = canvas.strips()
    if only_matte:
        strips = (strip[..., 3:] for strip in strips)
    pieces = write_png(
        strips, width=canvas.width, height=canvas.height, channels=1 if only_matte else 4
    )
    with target.open("wb") as file:
        file.writelines(pieces)


def _write_jpeg(canvas: Canvas, target: Path, only_matte: bool) -> None:  # noqa: FBT001  # a table's call
    strips = canvas.strips()
    parts = (strip[..., 3] if only_matte else strip[..., :3] for strip in strips)
    _save_jpeg(parts, canvas, target, mode="L" if only_matte else "RGB")


def _write_zip(canvas: Canvas, target: Path, _: bool) -> None:  # noqa: FBT001  # a table's call
    """Colours and matte apart; the colours go on where the matte ends, so that JPEG has no edge."""
    colour_file = target.with_name(COLOUR_FILE)
    matte_file = target.with_name(MATTE_FILE)
    _save_jpeg(_bled_strips(canvas.strips()), canvas, colour_file, mode="RGB")
    _write_png(canvas, matte_file, only_matte=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for part in (colour_file, matte_file):
            entry = zipfile.ZipInfo(part.name, _ZIP_DATE)
            with part.open("rb") as source, archive.open(entry, "w") as sink:
                while piece := source.read(1 << 20):
                    sink.write(piece)
            part.unlink()


def _save_jpeg(parts: Iterator[Pixels], canvas: Canvas, target: Path, *, mode: str) -> None:
    whole = Image.new(mode, (canvas.width, canvas.height))
    top = 0
    for part in parts:
        whole.paste(Image.fromarray(np.ascontiguousarray(part)), (0, top))
        top += len(part)
    whole.save(target, "JPEG", **_JPEG)


def _bled_strips(strips: Iterator[Pixels]) -> Iterator[Pixels]:
    """Every strip bled with the rows around it in sight."""
    above: Pixels | None = None
    here = next(strips)
    for below in strips:
        yield _bled_part(above, here, below)
        above = here[-_HALO:] if above is None else np.concatenate((above, here))[-_HALO:]
        here = below
    yield _bled_part(above, here, None)


def _bled_part(above: Pixels | None, here: Pixels, below: Pixels | None) -> Pixels:
    around = (above, here, None if below is None else below[:_HALO])
    block = np.concatenate([part for part in around if part is not None])
    first = 0 if above is None else len(above)
    return bled(block)[first : first + len(here)]


def _mean(plane: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = uniform_filter(plane, 2 * radius + 1, mode="constant")
    return mean


_TRACE = 1e-3  # of a level of alpha, averaged: less is what adding up in 32 bits leaves behind
_WRITERS = {"png": _write_png, "jpg": _write_jpeg, "zip": _write_zip}
_MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg", "zip": "application/zip"}
