"""Turns any picture file into upright 8-bit straight sRGB pixels, with its alpha apart.

The file's header comes first (`utils/containers.py`), so that a caller can refuse between the two.

Why the format's own reader is called and not `Image.open`: the signature already names the format,
so no second reader may have a try at the file (stricter than `formats=`), and Pillow's size guard
is a process-wide number that warns above 89 million pixels; the caller's own limit, checked against
the header, replaces it without touching a global that other threads read.
"""

import importlib
import io
import itertools
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from utils.colour import Bytes8, Colour, is_srgb, profile_name, white_of
from utils.pictures import CorruptPicture, CutShort, Header, PictureError, Span
from utils.png_rows import check_rows
from utils.tiff import exif_orientation

if TYPE_CHECKING:
    from typing_extensions import Buffer

# what readers raise on bytes they cannot make sense of; MemoryError is not among them
_READER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)


def read_pixels(path: Path, *, header: Header) -> tuple[Bytes8, Bytes8 | None]:
    """Upright straight sRGB (height, width, 3) and alpha (height, width) or None, both uint8.

    Alpha is None where the file has none, and also where every pixel of it is 255: an opaque alpha
    channel says nothing about the picture. Peak memory is the reader's own picture (4 bytes a pixel
    for colour, 1 for grey and palette) plus the result, 3 bytes and 1 for alpha.
    """
    with path.open("rb") as file:
        try:
            return _decode(_excerpt(file, spans=header.spans), header=header)
        except _READER_ERRORS as error:
            raise _classified(error, name=header.format) from error


def stored_colour(path: Path, *, header: Header) -> tuple[str, str | None, bool]:
    """How a file has its colours: Pillow's mode, its profile's name, whether that is sRGB's.

    The name is None where there is no profile that can be used. Nothing is decoded. Raises
    PictureError.
    """
    with path.open("rb") as file:
        try:
            with _reader_class(header.format)(_excerpt(file, spans=header.spans)) as picture:
                mode = picture.mode
                profile = header.icc or picture.info.get("icc_profile")
        except _READER_ERRORS as error:
            raise _classified(error, name=header.format) from error
    return mode, profile_name(profile), is_srgb(profile, mode=mode)


# --- readers: Pillow's, fed only what makes pixels


class _Excerpt(io.RawIOBase):
    """The given (start, stop) ranges of a file, read as one file."""

    def __init__(self, file: IO[bytes], *, spans: tuple[Span, ...]) -> None:
        super().__init__()
        self._file = file
        self._spans = spans
        self._starts = list(itertools.accumulate((b - a for a, b in spans), initial=0))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, target: "Buffer", /) -> int:
        room = memoryview(target)
        index = bisect_right(self._starts, self._at) - 1
        if index >= len(self._spans):
            return 0
        place = self._spans[index][0] + self._at - self._starts[index]
        self._file.seek(place)
        held = self._file.read(min(len(room), self._spans[index][1] - place))
        room[: len(held)] = held
        self._at += len(held)
        return len(held)


class _StoredTiff(TiffImagePlugin.TiffImageFile):
    """A TIFF as stored: Pillow's would turn it (a second copy) and read EXIF (which may warn)."""

    def load_prepare(self) -> None:
        self._size = self._tile_size
        ImageFile.ImageFile.load_prepare(self)

    def load_end(self) -> None:
        """Nothing: the orientation is applied in `read_pixels`."""


def _excerpt(file: IO[bytes], *, spans: tuple[Span, ...] | None) -> IO[bytes]:
    if spans is None:
        return file
    return io.BufferedReader(_Excerpt(file, spans=spans), 1 << 16)


@contextmanager
def _reader(file: IO[bytes], *, header: Header) -> Iterator[Image.Image]:
    """The loaded first picture, never larger than its header said."""
    with _reader_class(header.format)(file) as picture:
        if picture.size[0] * picture.size[1] > header.pixels:
            raise CorruptPicture("header and content differ in size", format=header.format)
        picture.load()
        yield picture


def _reader_class(name: str) -> Callable[[IO[bytes]], ImageFile.ImageFile]:
    if name == "HEIC":
        plugin = importlib.import_module("pillow_heif.as_plugin")
        return cast("Callable[[IO[bytes]], ImageFile.ImageFile]", plugin.HeifImageFile)
    return _READERS[name]


def _classified(error: Exception, *, name: str) -> PictureError:
    """A reader's failure in our words; readers say `truncated` when the bytes ran out."""
    kind = CutShort if "truncated" in str(error) else CorruptPicture
    return kind(f"the {name} cannot be decoded", format=name)


# --- pixels: strip by strip, so that nothing but reader and result is held whole


def _decode(file: IO[bytes], *, header: Header) -> tuple[Bytes8, Bytes8 | None]:
    with _reader(file, header=header) as picture:
        if header.format == "PNG" and _ends_in_zeros(picture):
            check_rows(file)
        key = picture.info.pop("transparency", None)
        orientation = header.orientation or exif_orientation(picture.info.get("exif") or b"")
        colour = Colour.of(
            picture.mode,
            profile=header.icc or picture.info.get("icc_profile"),
            white=white_of(picture, depth=header.depth),
            inverted=header.inverted,
        )
        alpha = _Alpha(key, header.depth)
        opaque = key is None and picture.mode not in _ALPHA_MODES
        width, height = picture.size if orientation < 5 else picture.size[::-1]
        rgb = np.empty((height, width, 3), np.uint8)
        mask = None if opaque else np.empty((height, width), np.uint8)
        for top, strip in _strips(picture):
            rows = slice(top, top + strip.height)
            as_stored(rgb, orientation=orientation)[rows] = colour.pixels(strip)
            if mask is not None:
                as_stored(mask, orientation=orientation)[rows] = alpha.pixels(strip)
    return rgb, mask if mask is not None and mask.min() < 255 else None


def _ends_in_zeros(picture: Image.Image) -> bool:
    """Whether the last row may be one that was never there: many a cut-out's is zero as well."""
    last = picture.crop((0, picture.height - 1, picture.width, picture.height))
    return not any(last.tobytes())


def _strips(picture: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """(top, rows) of about half a million pixels each."""
    rows = max(1, _STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        yield top, picture.crop((0, top, picture.width, min(top + rows, picture.height)))


def as_stored(upright: Bytes8, *, orientation: int) -> Bytes8:
    """A view of an upright array in the rows and columns of the file (EXIF 2.32, tag 0x0112)."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]


@dataclass(frozen=True, slots=True)
class _Alpha:
    """Alpha of a strip, from its channel, its palette or its transparent colour.

    `key` is Pillow's `transparency`: a palette index or its bytes, a grey, or a triple, in the
    file's own sample range, which `depth` tells.
    """

    key: int | bytes | tuple[int, int, int] | None
    depth: int

    def pixels(self, strip: Image.Image) -> Bytes8:
        """(rows, width) uint8."""
        if strip.mode in _ALPHA_MODES:
            return np.asarray(strip.getchannel(strip.getbands()[-1]))
        if strip.mode == "P":
            opacity: Bytes8 = self._palette()[np.asarray(strip)]
            return opacity
        samples = np.asarray(strip.convert("L") if strip.mode == "1" else strip)
        same = samples == self._key_as_read(strip.mode)
        return np.where(same if samples.ndim == 2 else same.all(axis=2), 0, 255).astype(np.uint8)

    def _palette(self) -> Bytes8:
        table = np.full(256, 255, np.uint8)
        if isinstance(self.key, bytes):
            table[: len(self.key)] = np.frombuffer(self.key[:256], np.uint8)
        elif isinstance(self.key, int):
            table[self.key] = 0
        return table

    def _key_as_read(self, mode: str) -> NDArray[np.int64]:
        """The key in the range the reader delivers: 2 and 4 bits stretched, 16-bit RGB halved.

        Of its 16 bits those of the depth count (PNG 11.3.1.1).
        """
        key = np.asarray(self.key, np.int64) & ((1 << max(self.depth, 8 * (mode == "1"))) - 1)
        if mode == "L" and self.depth in (2, 4):
            return key * 255 // ((1 << self.depth) - 1)
        return key >> 8 if mode == "RGB" and self.depth == 16 else key


_STRIP_PIXELS = 1 << 19
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_READERS: dict[str, Callable[[IO[bytes]], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": _StoredTiff,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
