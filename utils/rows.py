"""A picture file's rows in order, as 8-bit straight sRGB, few of them in memory at a time.

libvips decodes row by row what its decoders can (`by_rows` of a header), Pillow decodes whole what
is left. Rows that cannot come in the order wanted (a turned picture), or only out of a picture held
whole (interlaced PNG, progressive JPEG, WebP, ...), go through a file of raw rows: the memory is
free again before anybody waits for a slow consumer.
"""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias, cast

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image

from utils.colour import Bytes8, Colour
from utils.image_utils import as_stored, read_pixels
from utils.pictures import CorruptPicture, CutShort, Header, PictureError, Span
from utils.tiff import exif_orientation

Box: TypeAlias = tuple[int, int, int, int]

EXCERPT = "excerpt"
RAW_ROWS = "rows"


class Rows(Protocol):
    """Rows of a picture from top to bottom; `channels` is 1 grey, 2 with alpha, 3 RGB, 4 RGBA."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def channels(self) -> int: ...

    def read(self, rows: int) -> Bytes8:
        """The next rows, (rows, width, channels), fewer at the end. Raises PictureError. Blocks."""
        ...


@dataclass(frozen=True, slots=True)
class PictureFile:
    """An opened picture, upright `width` x `height`, whose rows can be read more than once.

    Where it does not stream, `prepare` must have run to its end before the first `rows`.
    """

    path: Path
    header: Header
    orientation: int
    width: int
    height: int
    channels: int
    raw: Path | None

    def prepare(self) -> Iterator[int]:
        """Write the file of raw rows; yields each strip's height. Raises PictureError. Blocks."""
        if self.raw is None or self.raw.exists():
            return
        upright, mapped = _mapped(self.raw, (self.height, self.width, self.channels))
        target = as_stored(upright, orientation=self.orientation)
        decoded = _Decoded(_vips_image(self.path, self.header), self.header)
        for top, strip in each_strip(decoded):
            target[top : top + len(strip)] = strip
            _release(mapped)
            yield len(strip)

    def rows(self) -> Rows:
        if self.raw is None:
            return _Decoded(_vips_image(self.path, self.header), self.header)
        return _Raw(self.raw, self.width, self.height, self.channels)


def held_bytes(header: Header) -> int:
    """What decoding keeps in memory at once, beyond a few rows."""
    return header.held_bytes if header.by_rows else header.pixels * _WHOLE_PIXEL_BYTES


def spilled_bytes(header: Header) -> int:
    """The most that the file of raw rows may take, 0 where rows come straight from the decoder."""
    streams = held_bytes(header) == 0 and header.orientation == 1
    return 0 if streams else 4 * header.width * header.height


def open_picture(path: Path, *, header: Header, scratch: Path) -> PictureFile:
    """Look at a picture, or, where only Pillow can, decode it into a file. Blocks.

    What is no pixel (EXIF, text) is kept from libvips by a copy without it; the copy and the raw
    rows lie in the folder `scratch`, which is the caller's to remove. Raises PictureError.
    """
    if not header.by_rows:
        return _decoded_whole(path, header=header, raw=scratch / RAW_ROWS)
    path = _excerpt(path, header=header, target=scratch / EXCERPT)
    image = _vips_image(path, header)
    if (image.width, image.height) != (header.width, header.height):
        raise CorruptPicture("header and content differ in size", format=header.format)
    orientation = header.orientation or exif_orientation(_blob(image, "exif-data") or b"")
    size = (image.width, image.height) if orientation < 5 else (image.height, image.width)
    streams = held_bytes(header) == 0 and orientation == 1
    raw = None if streams else scratch / RAW_ROWS
    channels = _Decoded(image, header).channels
    return PictureFile(path, header, orientation, *size, channels, raw)


def each_strip(rows: Rows) -> Iterator[tuple[int, Bytes8]]:
    """(top, rows) to the end, of a few megabytes each."""
    step = max(1, _STRIP_BYTES // (rows.width * rows.channels))
    for top in range(0, rows.height, step):
        yield top, rows.read(step)


class Cropped:
    """The part of some rows inside a box: left, top, right, bottom, the last two exclusive."""

    def __init__(self, whole: Rows, box: Box) -> None:
        left, top, right, bottom = box
        self.width, self.height, self.channels = right - left, bottom - top, whole.channels
        self._columns = slice(left, right)
        self._whole = whole
        self._above = top
        self._left = self.height

    def read(self, rows: int) -> Bytes8:
        step = max(1, _STRIP_BYTES // (self._whole.width * self.channels))
        while self._above:
            self._above -= len(self._whole.read(min(step, self._above)))
        rows = min(rows, self._left)
        self._left -= rows
        return self._whole.read(rows)[:, self._columns]


class _Decoded:
    """Rows out of libvips' decoder, as stored, in sRGB."""

    def __init__(self, image: pyvips.Image, header: Header) -> None:
        self._image = image
        self._format = header.format
        self._mode = _mode(image, header)
        self._next = 0
        profile = header.icc or _blob(image, "icc-profile-data")
        self._colour = Colour.of(self._mode, profile=profile)
        self._as_is = self._colour.transform is None and self._mode != "CMYK"
        grey = self._as_is and self._mode in ("L", "LA")
        self.width: int = image.width
        self.height: int = image.height
        self.channels = (1 if grey else 3) + (self._mode in ("LA", "RGBA"))

    def read(self, rows: int) -> Bytes8:
        rows = min(rows, self.height - self._next)
        if rows == 0:
            return np.empty((0, self.width, self.channels), np.uint8)
        samples = self._fetch(rows)
        self._next += rows
        return samples if self._as_is else self._in_srgb(samples)

    def _fetch(self, rows: int) -> Bytes8:
        """By a region of our own: libvips ties a region's buffers to the thread that made it."""
        try:
            held = pyvips.Region.new(self._image).fetch(0, self._next, self.width, rows)
        except pyvips.Error as error:
            raise _classified(error, name=self._format) from error
        wide = self._image.format == "ushort"
        samples = np.frombuffer(held, np.uint16 if wide else np.uint8)
        return narrowed(samples.reshape(rows, self.width, self._image.bands))

    def _in_srgb(self, samples: Bytes8) -> Bytes8:
        count = {"L": 1, "LA": 1, "CMYK": 4}.get(self._mode, 3)
        base = np.ascontiguousarray(samples[..., :count])
        strip = Image.fromarray(base[..., 0] if count == 1 else base, _BASE_MODES[count])
        colour = self._colour.pixels(strip)
        colour = np.broadcast_to(colour, (*colour.shape[:2], 3))
        return np.concatenate((colour, samples[..., count:]), axis=2)


class _Raw:
    """Rows out of a file that holds nothing else; it is open only while it is read."""

    def __init__(self, path: Path, width: int, height: int, channels: int) -> None:
        self._path = path
        self.width, self.height, self.channels = width, height, channels
        self._next = 0

    def read(self, rows: int) -> Bytes8:
        rows = min(rows, self.height - self._next)
        row_bytes = self.width * self.channels
        with self._path.open("rb") as file:
            file.seek(self._next * row_bytes)
            held = file.read(rows * row_bytes)
        if len(held) != rows * row_bytes:
            raise CutShort("the file of raw rows is too short")
        self._next += rows
        return np.frombuffer(held, np.uint8).reshape(rows, self.width, self.channels)


def narrowed(samples: NDArray[np.generic]) -> Bytes8:
    """16 bits to 8, v * 255 / 65535 to the nearest; 8 bits stay as they are."""
    if samples.dtype == np.uint8:
        return cast("Bytes8", samples)
    wide = samples.astype(np.uint32)
    wide *= 255
    wide += 32895  # half of 65535, and what makes a shift by 16 divide by 65535
    wide >>= 16
    return wide.astype(np.uint8)


def _decoded_whole(path: Path, *, header: Header, raw: Path) -> PictureFile:
    """By Pillow, into the file of raw rows."""
    rgb, alpha = read_pixels(path, header=header)
    height, width, _ = rgb.shape
    channels = 3 if alpha is None else 4
    with raw.open("wb") as file:
        for top in range(height):
            row = rgb[top] if alpha is None else np.dstack((rgb[top], alpha[top]))
            file.write(np.ascontiguousarray(row).data)
    return PictureFile(path, header, 1, width, height, channels, raw)


def _mapped(path: Path, shape: tuple[int, int, int]) -> tuple[Bytes8, mmap.mmap]:
    """A new file as an array; it lives as long as the array."""
    with path.open("w+b") as file:
        _reserve(file, shape[0] * shape[1] * shape[2])
        mapped = mmap.mmap(file.fileno(), 0)
    return np.frombuffer(mapped, np.uint8).reshape(shape), mapped


def _reserve(file: BinaryIO, size: int) -> None:
    """Blocks for all of it now: a disk that fills up under a mapping ends the process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def _release(mapped: mmap.mmap) -> None:
    """Let go of the mapped pages: they stay in the file and leave our resident set."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _excerpt(path: Path, *, header: Header, target: Path) -> Path:
    """The file itself where next to nothing else is in it, else a copy of what makes pixels."""
    spans = header.spans
    if spans is None or _is_nearly_all(spans, path.stat().st_size):
        return path
    with path.open("rb") as source, target.open("wb") as copy:
        for start, stop in spans:
            source.seek(start)
            for at in range(start, stop, _STRIP_BYTES):
                copy.write(source.read(min(_STRIP_BYTES, stop - at)))
    return target


def _is_nearly_all(spans: tuple[Span, ...], size: int) -> bool:
    """Whether only small chunks (density, gamma) lie between the spans: too small to do harm."""
    starts = [start for start, _ in spans] + [size]
    stops = [0] + [stop for _, stop in spans]
    return all(b - a <= _HARMLESS_BYTES for a, b in zip(stops, starts, strict=True))


def _vips_image(path: Path, header: Header) -> pyvips.Image:
    """By the one loader that the signature named: libvips is not left to guess."""
    load = getattr(pyvips.Image, _LOADERS[header.format])
    limits = {} if header.format == "WEBP" else {"unlimited": True}  # the caller has limits
    try:
        return load(str(path), access="sequential", fail_on="error", **limits)
    except pyvips.Error as error:
        raise _classified(error, name=header.format) from error


def _mode(image: pyvips.Image, header: Header) -> str:
    """Pillow's name of what the decoder delivers."""
    kind = "CMYK" if image.interpretation == "cmyk" else ""
    mode = kind or {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}.get(image.bands, "")
    if image.format not in ("uchar", "ushort") or (kind and image.bands != 4) or not mode:
        raise CorruptPicture("the samples are of no known kind", format=header.format)
    return mode


def _blob(image: pyvips.Image, name: str) -> bytes | None:
    return bytes(image.get(name)) if image.get_typeof(name) else None


def _classified(error: pyvips.Error, *, name: str) -> PictureError:
    """Libvips' failure in our words; its decoders have several words for bytes that ran out."""
    text = str(error).lower()
    ended = any(
        word in text for word in ("truncated", "premature", "end of", "eof", "unable to read")
    )
    kind = CutShort if ended else CorruptPicture
    return kind(f"the {name} cannot be decoded", format=name)


_STRIP_BYTES = 1 << 22
_HARMLESS_BYTES = 64
# Pillow's own picture and the result; measured 8 (BMP), 10 (compressed TIFF), 5 (GIF)
_WHOLE_PIXEL_BYTES = 12
_BASE_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
_LOADERS = {"PNG": "pngload", "JPEG": "jpegload", "TIFF": "tiffload", "WEBP": "webpload"}
# libvips' own names of these, reading a file by its path
_LOADER_TYPES = tuple(f"VipsForeignLoad{name}File" for name in ("Png", "Jpeg", "Tiff", "Webp"))


def _confine_libvips() -> None:
    """Close every way of reading and writing files but those four: SVG, PDF, raw, CSV and the like.

    For the whole process, and whatever else a build of libvips brings: a list of what is allowed,
    on top of libvips' own list of what it does not trust.
    """
    pyvips.cache_set_max(0)  # its cache of operations would keep files open that are long deleted
    pyvips.block_untrusted_set(state=True)
    for kind in ("VipsForeignLoad", "VipsForeignSave"):
        pyvips.operation_block_set(kind, state=True)
    for loader in _LOADER_TYPES:
        pyvips.operation_block_set(loader, state=False)


_confine_libvips()
