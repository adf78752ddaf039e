"""Lanczos by strips of rows that cannot be told from Lanczos over the whole picture.

A picture is resized across and then down, as Pillow does, each pass on its own so that no version
of Pillow may choose another order. A strip is resized with the rows around it that the kernel
reaches and loses them again afterwards: every coefficient is then the one that the whole picture
would have got, and the result equals it to the bit wherever a strip's borders fall on rows of both
pictures. Where they do not (sizes without a small common divisor) the strip's place is given to the
resize as a fraction, and a value may round the other way.

Pixels are (rows, width, channels) uint8, straight; alpha is the last of 2 or 4 channels. Pillow
averages premultiplied colours, so what hides under alpha 0 never bleeds.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.images import Pixels
from utils.rows import Rows

REACH = 3
"""Source pixels that Lanczos-3 sees to either side when it enlarges."""
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}


@dataclass(frozen=True, slots=True)
class Resizing:
    """From (source_width, source_height) to (width, height), all at least 1."""

    source_width: int
    source_height: int
    width: int
    height: int

    @property
    def is_identity(self) -> bool:
        return (self.source_width, self.source_height) == (self.width, self.height)

    @property
    def reach(self) -> int:
        """Source rows that a strip depends on to either side, counting those of the row above."""
        shrunk = self.source_height / self.height
        return REACH * max(1, math.ceil(shrunk)) + max(1, math.floor(shrunk))

    @property
    def step(self) -> tuple[int, int]:
        """The fewest rows of source and result that cover each other exactly."""
        common = math.gcd(self.source_height, self.height)
        return self.source_height // common, self.height // common

    def strips(self, rows: int) -> Iterator["Strip"]:
        """Strips from top to bottom, of about `rows` source rows each, at least one."""
        source_step, _ = self.step
        if source_step <= rows:
            return self._aligned(rows // source_step)
        return self._between(max(1, rows * self.height // self.source_height))

    def _aligned(self, steps: int) -> Iterator["Strip"]:
        source_step, step = self.step
        margin = math.ceil(self.reach / source_step)
        last = self.height // step
        for top in range(0, last, steps):
            bottom = min(top + steps, last)
            first, end = max(0, top - margin), min(last, bottom + margin)
            yield Strip(
                resizing=self,
                source=range(first * source_step, end * source_step),
                rows=range(top * step, bottom * step),
                margin=(top - first) * step,
            )

    def _between(self, count: int) -> Iterator["Strip"]:
        for top in range(0, self.height, count):
            bottom = min(top + count, self.height)
            begin = self._source_row(max(0, top - 1))
            first = max(0, math.floor(begin) - self.reach - 1)
            end = min(self.source_height, math.ceil(self._source_row(bottom)) + self.reach + 1)
            yield Strip(
                resizing=self,
                source=range(first, end),
                rows=range(top, bottom),
                margin=min(top, 1),
                offset=begin - first,
            )

    def _source_row(self, row: int) -> float:
        return row * self.source_height / self.height


@dataclass(frozen=True, slots=True)
class Strip:
    """Rows of the result and the source rows that make them.

    The strip is resized with `margin` rows above it, which are cut off again (the last of them is
    the row above, which PNG filters ask for). `offset` is None where the source's borders are the
    strip's, else the place of the first resized row in rows of the source window.
    """

    resizing: Resizing
    source: range
    rows: range
    margin: int
    offset: float | None = None

    def resize(self, window: Pixels) -> Pixels:
        """The strip's rows and the one above it, if there is one, from the rows `source` names."""
        above = min(self.rows.start, 1)
        if self.resizing.is_identity:
            first = self.rows.start - above - self.source.start
            return window[first : first + above + len(self.rows)]
        across = _across(_picture(window), self.resizing.width)
        resized, cut = self._down(across, above=above)
        return _pixels(
            resized, first=cut, rows=above + len(self.rows), mode=_MODES[window.shape[2]]
        )

    def nearest_rows(self) -> NDArray[np.intp]:
        """For the row above (if any) and each of `rows`, the row of the window that it lies in."""
        wanted = np.arange(self.rows.start - min(self.rows.start, 1), self.rows.stop)
        resizing = self.resizing
        return nearest(wanted, resizing.source_height, resizing.height) - self.source.start

    def _down(self, across: Image.Image, *, above: int) -> tuple[Image.Image, int]:
        """The rows resized, and how many of the first of them are margin."""
        width = self.resizing.width
        if self.offset is not None:
            count = above + len(self.rows)
            height = count * self.resizing.source_height / self.resizing.height
            box = (0, self.offset, width, min(self.offset + height, across.height))
            return across.resize((width, count), Image.Resampling.LANCZOS, box=box), 0
        source_step, step = self.resizing.step
        size = (width, across.height // source_step * step)
        return across.resize(size, Image.Resampling.LANCZOS), self.margin - above


def windows(rows: Rows, strips: Iterator[Strip]) -> Iterator[tuple[Strip, Pixels]]:
    """Each strip with the source rows it needs. Blocks while it reads."""
    held, first = np.empty((0, rows.width, rows.channels), np.uint8), 0
    for strip in strips:
        kept = held[strip.source.start - first :]
        fresh = rows.read(len(strip.source) - len(kept))
        held, first = np.concatenate((kept, fresh)), strip.source.start
        yield strip, held


def nearest(wanted: NDArray[np.intp], source: int, target: int) -> NDArray[np.intp]:
    """The sample of `source` in which the centre of each wanted one of `target` lies."""
    return ((2 * wanted + 1) * source) // (2 * target)


def _picture(window: Pixels) -> Image.Image:
    """The window as Pillow has it, premultiplied where there is alpha."""
    samples = window if window.shape[2] > 1 else window[..., 0]
    picture = Image.fromarray(np.ascontiguousarray(samples))
    mode = _PREMULTIPLIED.get(picture.mode)
    return picture.convert(mode) if mode else picture


def _pixels(picture: Image.Image, *, first: int, rows: int, mode: str) -> Pixels:
    """Rows of a picture in a mode as an array of our own: one copy where Pillow shares memory."""
    picture = picture if picture.mode == mode else picture.convert(mode)
    channels = len(mode)
    if mode not in ("L", "RGBA"):  # of another layout inside Pillow
        whole = np.array(picture).reshape(picture.height, picture.width, channels)
        return whole[first : first + rows]
    pixels = np.empty((rows, picture.width, channels), np.uint8)
    shared = Image.frombuffer(mode, (picture.width, rows), pixels, "raw", mode, 0, 1)
    shared.readonly = 0
    shared.paste(picture, (0, -first))
    return pixels


def _across(picture: Image.Image, width: int) -> Image.Image:
    if picture.width == width:
        return picture
    return picture.resize((width, picture.height), Image.Resampling.LANCZOS)
