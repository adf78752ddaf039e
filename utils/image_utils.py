"""Turns any picture file into upright 8-bit straight sRGB pixels, with its alpha apart.

Two steps, so that a caller can refuse between them: `read_header` walks the container from its
first byte to its end marker without decoding a pixel, `read_pixels` decodes.

Why the format's own reader is called and not `Image.open`: the signature already names the format,
so no second reader may have a try at the file (stricter than `formats=`), and Pillow's size guard
is a process-wide number that warns above 89 million pixels; the caller's own limit, checked against
the header, replaces it without touching a global that other threads read.

Why a PNG or JPEG reaches its reader without its metadata: text, EXIF and animation chunks make no
pixels of the first picture, yet they are where readers warn, raise and unpack without need.
"""

import importlib
import importlib.util
import io
import itertools
import mmap
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

Bytes8: TypeAlias = NDArray[np.uint8]
Span: TypeAlias = tuple[int, int]
FileBytes: TypeAlias = "mmap.mmap | bytes"

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


class PictureError(Exception):
    """A file that cannot become pixels; `format` is its format where that is known."""

    def __init__(self, reason: str, *, format: str | None = None) -> None:  # noqa: A002 - Pillow's word
        super().__init__(reason)
        self.format = format


class UnknownFormat(PictureError):
    """The signature is none of ours, or the format's decoder is not installed."""


class CorruptPicture(PictureError):
    """The format is known, the content breaks its rules."""


class CutShort(PictureError):
    """The file ends before the picture does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of itself before a pixel is decoded.

    `width` and `height` are as stored (before `orientation`, EXIF's 1 to 8; 0 where only the
    reader knows it). `complete` tells whether the container reaches its end marker. `spans` are the
    (start, stop) byte ranges that make pixels, None for the whole file. `depth` is bits a sample
    where it is known, `inverted` says that 16-bit and float samples count from white.
    `largest_buffer` is the pixels a reader will hold at once (a TIFF's tile may exceed its image).
    """

    format: str
    width: int
    height: int
    complete: bool
    orientation: int = 1
    depth: int = 8
    inverted: bool = False
    spans: tuple[Span, ...] | None = None
    icc: bytes | None = None
    largest_buffer: int = 0

    @property
    def pixels(self) -> int:
        """The number that a pixel limit judges."""
        return max(self.width * self.height, self.largest_buffer)


def read_header(path: Path) -> Header:
    """The header of a non-empty file; raises PictureError kinds. Costs one pass over its bytes."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        name = sniff(content[:32])
        try:
            header = _WALKERS[name](content)
        except (struct.error, IndexError) as error:
            raise CutShort("the file ends inside its header", format=name) from error
        except KeyError as error:
            raise CorruptPicture("the header breaks its format's rules", format=name) from error
        except CorruptPicture as error:
            error.format = name
            raise
    if header.width < 1 or header.height < 1:
        raise CorruptPicture("the header names a side of zero pixels", format=name)
    return header


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


def sniff(head: bytes) -> str:
    """The format whose signature opens the file; raises UnknownFormat."""
    name = next((name for name, pattern in _SIGNATURES if pattern.match(head)), None)
    if name is None:
        raise UnknownFormat("the file is not in a picture format that is read here")
    if not decoder_installed(name):
        raise UnknownFormat(f"no {name} decoder is installed", format=name)
    return name


def decoder_installed(name: str) -> bool:
    """Whether this installation decodes the format (Pillow may be built without some)."""
    if name == "HEIC":
        return importlib.util.find_spec("pillow_heif") is not None
    feature = {"WEBP": "webp", "AVIF": "avif", "JPEG": "jpg", "PNG": "zlib"}.get(name)
    return feature is None or bool(features.check(feature))


def exif_orientation(exif: bytes) -> int:
    """EXIF tag 0x0112 of an EXIF block (with or without its `Exif` prefix), 1 where unreadable."""
    tiff = exif.removeprefix(b"Exif\0\0")
    try:
        fields, _ = _directory(tiff, layout=_tiff_layout(tiff), at=None)
        value = int(_numbers(tiff, field=fields[0x0112], order=_tiff_layout(tiff).order)[0])
    except (LookupError, CorruptPicture):
        return 1
    return value if 1 <= value <= 8 else 1


# --- the walkers: one container each, from signature to end marker


def _png(file: FileBytes) -> Header:
    """PNG third edition, 5 and 11: chunks to IEND, checksums of those that make pixels."""
    if file[12:16] != b"IHDR":
        raise CorruptPicture("a PNG opens with IHDR")
    width, height, depth = struct.unpack(">IIB", file[16:25])
    spans: list[Span] = [(0, 8)]
    extras: dict[bytes, bytes] = {}
    complete = False
    for kind, start, stop in _png_chunks(file):
        if kind in _PNG_PIXEL_CHUNKS:
            _check_crc(file, start=start, stop=stop)
            spans.append((start, stop))
        elif kind in (b"eXIf", b"iCCP"):
            extras.setdefault(kind, file[start + 8 : stop - 4])
        complete = kind == b"IEND"
    orientation = exif_orientation(extras.get(b"eXIf", b""))
    icc = _png_profile(extras.get(b"iCCP", b""))
    return Header(
        format="PNG",
        width=width,
        height=height,
        complete=complete,
        orientation=orientation,
        depth=depth,
        spans=_joined(spans),
        icc=icc,
    )


def _png_chunks(file: FileBytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, stop) of each whole chunk up to IEND, length field and checksum included."""
    at = 8
    for _ in range(_MOST_BLOCKS):
        if at + 12 > len(file):
            return
        length, kind = struct.unpack(">I4s", file[at : at + 8])
        stop = at + 12 + length
        if stop > len(file):
            return
        yield kind, at, stop
        if kind == b"IEND":
            return
        at = stop
    raise CorruptPicture("the PNG has too many chunks")


def _check_crc(file: FileBytes, *, start: int, stop: int) -> None:
    """Pillow leaves the checksums of IDAT unread, so a flipped bit would pass as a picture."""
    crc = 0
    for at in range(start + 4, stop - 4, _MIB):
        crc = zlib.crc32(file[at : min(at + _MIB, stop - 4)], crc)
    if crc != int.from_bytes(file[stop - 4 : stop], "big"):
        raise CorruptPicture("a PNG chunk does not match its checksum")


def _png_profile(chunk: bytes) -> bytes | None:
    """The ICC profile of an iCCP chunk: name, zero, method, then deflate; bounded at 4 MiB."""
    packed = chunk.partition(b"\0")[2][1:]
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(packed, 4 * _MIB)
    except zlib.error:
        return None
    return profile if unpacker.eof else None


def _jpeg(file: FileBytes) -> Header:
    """ITU T.81 annex B: marker segments, each scan's entropy-coded bytes, EOI."""
    spans: list[Span] = []
    frame: bytes | None = None
    orientation = 1
    complete = False
    for marker, start, stop in _jpeg_segments(file):
        segment = file[start + 4 : stop] if stop - start <= 0x10001 else b""
        if marker in _JPEG_FRAMES:
            frame = frame or segment
        elif marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            orientation = exif_orientation(segment)
        if marker not in _JPEG_METADATA:
            spans.append((start, stop))
        complete = marker == 0xD9
    if frame is None:
        raise CutShort("the JPEG ends before its frame header", format="JPEG")
    height, width = struct.unpack(">HH", frame[1:5])
    return Header(
        format="JPEG",
        width=width,
        height=height,
        complete=complete,
        orientation=orientation,
        spans=_joined(spans),
    )


def _jpeg_segments(file: FileBytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, stop) of each whole segment up to EOI; scan data follows SOS as marker 0."""
    yield 0xD8, 0, 2
    at, scans, segments = 2, 0, 0
    while (start := _next_marker(file, at=at)) >= 0:
        segments += 1
        marker = file[start + 1]
        if marker == 0xD9:
            yield marker, start, start + 2
            return
        if start + 4 > len(file):
            return
        at = start + 2 + int.from_bytes(file[start + 2 : start + 4], "big")
        if at > len(file):
            return
        if scans > _MOST_SCANS or segments > _MOST_SEGMENTS:
            raise CorruptPicture("the JPEG has too many scans or segments")
        yield marker, start, at
        if marker == 0xDA:
            scans += 1
            scan, at = at, _next_marker(file, at=at)
            at = at if at >= 0 else len(file)
            yield 0, scan, at


def _next_marker(file: FileBytes, *, at: int) -> int:
    """Where the next marker that is neither fill, stuffing nor restart begins, or -1."""
    found = _JPEG_MARKER.search(file, at)
    return found.start() if found else -1


def _webp(file: FileBytes) -> Header:
    """RFC 9649, 2.4 to 2.7: the canvas of the first chunk, the RIFF size against the file's."""
    size, kind = struct.unpack("<I4x4s", file[4:16])
    width, height = _WEBP_SIZES[kind](file)
    complete = len(file) >= size + 8
    return Header(format="WEBP", width=width, height=height, complete=complete, orientation=0)


def _vp8_size(file: FileBytes) -> tuple[int, int]:
    if file[23:26] != b"\x9d\x01\x2a":
        raise CorruptPicture("the WebP's VP8 frame has no start code")
    width, height = struct.unpack("<HH", file[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _vp8l_size(file: FileBytes) -> tuple[int, int]:
    (bits,) = struct.unpack("<I", file[21:25])
    return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1


def _vp8x_size(file: FileBytes) -> tuple[int, int]:
    low_w, high_w, low_h, high_h = struct.unpack("<HBHB", file[24:30])
    return (low_w | high_w << 16) + 1, (low_h | high_h << 16) + 1


def _bmp(file: FileBytes) -> Header:
    """The Windows and OS/2 headers; uncompressed rows are padded to four bytes."""
    first, size = struct.unpack("<II", file[10:18])
    if size == 12:
        width, height, bits = struct.unpack("<HH2xH", file[18:26])
        compression = stored = 0
    else:
        width, height, bits, compression, stored = struct.unpack("<ii2xHII", file[18:38])
    if compression in (0, 3, 6):
        stored = (width * bits + 31) // 32 * 4 * abs(height)
    complete = len(file) >= first + max(stored, 1)
    return Header(format="BMP", width=width, height=abs(height), complete=complete)


def _gif(file: FileBytes) -> Header:
    """GIF89a: the screen, grown as Pillow does by a first frame that leaves it; the trailer."""
    width, height, flags = struct.unpack("<HHB", file[6:11])
    frames = []
    complete = False
    for kind, at in _gif_blocks(file, at=13 + _gif_table_bytes(flags)):
        if kind == 0x2C:
            frames.append(struct.unpack("<HHHH", file[at + 1 : at + 9]))
        complete = kind == 0x3B
    if complete and not frames:
        raise CorruptPicture("the GIF has no frame")
    left, top, wide, high = frames[0] if frames else (0, 0, 0, 0)
    width, height = max(width, left + wide), max(height, top + high)
    return Header(format="GIF", width=width, height=height, complete=complete)


def _gif_blocks(file: FileBytes, *, at: int) -> Iterator[tuple[int, int]]:
    """(kind, position) of each whole block to the trailer 0x3B; stray zeros are passed over."""
    for _ in range(_MOST_BLOCKS):
        if at >= len(file):
            return
        kind = file[at]
        if kind == 0x3B:
            yield kind, at
            return
        end = _gif_block_end(file, kind=kind, at=at)
        if end > len(file):
            return
        if kind:
            yield kind, at
        at = end
    raise CorruptPicture("the GIF has too many blocks")


def _gif_block_end(file: FileBytes, *, kind: int, at: int) -> int:
    """Where the block ends; beyond the file where the file ends first."""
    beyond = len(file) + 1
    if kind == 0:
        return at + 1
    if kind == 0x21:
        return _gif_sub_blocks_end(file, at=at + 2)
    if kind != 0x2C:
        raise CorruptPicture("the GIF has an unknown block")
    if at + 10 > len(file):
        return beyond
    return _gif_sub_blocks_end(file, at=at + 11 + _gif_table_bytes(file[at + 9]))


def _gif_sub_blocks_end(file: FileBytes, *, at: int) -> int:
    for _ in range(_MOST_BLOCKS):
        if at >= len(file):
            return len(file) + 1
        size = file[at]
        at += 1 + size
        if size == 0:
            return at
    raise CorruptPicture("the GIF has too many blocks")


def _gif_table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _iso_media(file: FileBytes, *, name: str) -> Header:
    """ISO 14496-12 boxes to the end; the size is the largest `ispe` (a grid's whole)."""
    complete, meta = _iso_boxes(file)
    sizes = [struct.unpack(">II", meta[at + 8 : at + 16]) for at in _places(b"ispe", content=meta)]
    if not sizes:
        kind = CorruptPicture if complete else CutShort
        raise kind("the file names no picture size", format=name)
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return Header(format=name, width=width, height=height, complete=complete, orientation=0)


def _iso_boxes(file: FileBytes) -> tuple[bool, bytes]:
    """Whether the boxes end where the file does, or before trailing bytes; and the `meta` box."""
    at, meta, found = 0, b"", False
    for _ in range(_MOST_FIELDS):
        if at + 8 > len(file):
            break
        size, kind = struct.unpack(">I4s", file[at : at + 8])
        if size == 1 and at + 16 <= len(file):
            size = int.from_bytes(file[at + 8 : at + 16], "big")
        size = len(file) - at if size == 0 else size
        if size < 8 or kind not in _ISO_BOXES:
            break
        if kind == b"meta":
            meta = file[at : min(at + size, at + 16 * _MIB, len(file))]
        found = found or kind == b"mdat"
        at += size
    return (found or b"idat" in meta) and at <= len(file), meta


def _places(word: bytes, *, content: bytes) -> list[int]:
    """Where a word stands, at most four thousand times."""
    found = re.finditer(re.escape(word), content)
    return [each.start() for each in itertools.islice(found, _MOST_FIELDS)]


def _avif(file: FileBytes) -> Header:
    return _iso_media(file, name="AVIF")


def _heic(file: FileBytes) -> Header:
    return _iso_media(file, name="HEIC")


# --- TIFF 6.0 and BigTIFF: directories of fields


@dataclass(frozen=True, slots=True)
class _Layout:
    """Byte order (`<` or `>`) and whether offsets take eight bytes (BigTIFF)."""

    order: str
    big: bool


@dataclass(frozen=True, slots=True)
class _Field:
    kind: int
    count: int
    at: int

    @property
    def end(self) -> int:
        return self.at + self.count * _TIFF_BYTES.get(self.kind, 1)


def _tiff(file: FileBytes) -> Header:
    """The first page's fields; every page must lie within the file."""
    layout = _tiff_layout(file)
    fields, after = _directory(file, layout=layout, at=None)

    def number(tag: int, *, default: int) -> int:
        if tag not in fields:
            return default
        held = _numbers(file, field=fields[tag], order=layout.order)
        return int(held[0]) if held.size else default

    orientation = number(0x112, default=1)
    return Header(
        format="TIFF",
        width=number(0x100, default=0),
        height=number(0x101, default=0),
        complete=_page_complete(file, fields=fields, order=layout.order)
        and _pages_complete(file, layout=layout, at=after),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        depth=number(0x102, default=1),
        inverted=number(0x106, default=1) == 0,
        largest_buffer=number(0x142, default=0) * number(0x143, default=0),
    )


def _tiff_layout(file: FileBytes) -> _Layout:
    order = {b"II": "<", b"MM": ">"}.get(bytes(file[:2]))
    if order is None:
        raise CorruptPicture("no TIFF byte order")
    return _Layout(order, b"+" in file[2:4])


def _directory(
    file: FileBytes, *, layout: _Layout, at: int | None
) -> tuple[dict[int, _Field], int]:
    """The fields by tag of the directory at an offset (None: the first), and the next's offset."""
    order, size = layout.order, 8 if layout.big else 4
    if at is None:
        at = _whole(file, at=size, size=size, order=order)
    count_bytes = 8 if layout.big else 2
    count = _whole(file, at=at, size=count_bytes, order=order)
    at += count_bytes
    if count > _MOST_FIELDS:
        raise CorruptPicture("the TIFF directory is too long")
    fields = {}
    for _ in range(count):
        fields[_whole(file, at=at, size=2, order=order)] = _field(file, layout=layout, at=at)
        at += 4 + 2 * size
    return fields, _whole(file, at=at, size=size, order=order)


def _field(file: FileBytes, *, layout: _Layout, at: int) -> _Field:
    """The field whose entry is there: short values lie in the entry itself, others elsewhere."""
    order, size = layout.order, 8 if layout.big else 4
    kind = _whole(file, at=at + 2, size=2, order=order)
    count = _whole(file, at=at + 4, size=size, order=order)
    value = at + 4 + size
    if count * _TIFF_BYTES.get(kind, 1) > size:
        value = _whole(file, at=value, size=size, order=order)
    return _Field(kind, count, value)


def _whole(file: FileBytes, *, at: int, size: int, order: str) -> int:
    """The unsigned number of `size` bytes; raises IndexError beyond the file."""
    if at + size > len(file):
        raise IndexError("the TIFF directory lies beyond the file")
    return int.from_bytes(file[at : at + size], "little" if order == "<" else "big")


def _numbers(file: FileBytes, *, field: _Field, order: str) -> NDArray[np.uint64]:
    """A field's whole numbers; raises LookupError where it does not hold any."""
    if field.end > len(file):
        raise IndexError("the TIFF field lies beyond the file")
    stored = np.dtype(order + _TIFF_NUMBERS[field.kind])
    return np.frombuffer(file[field.at : field.end], dtype=stored).astype(np.uint64)


def _page_complete(file: FileBytes, *, fields: dict[int, _Field], order: str) -> bool:
    """Whether every field's value and every strip or tile of one page lies within the file."""
    if any(field.end > len(file) for field in fields.values()):
        return False
    for offsets, counts in ((0x111, 0x117), (0x144, 0x145), (0x201, 0x202)):
        if offsets not in fields:
            continue
        ends = _numbers(file, field=fields[offsets], order=order)
        if counts in fields:
            lengths = _numbers(file, field=fields[counts], order=order)
            ends = ends[: len(lengths)] + lengths[: len(ends)]
        if len(ends) and int(ends.max()) > len(file):
            return False
    return True


def _pages_complete(file: FileBytes, *, layout: _Layout, at: int) -> bool:
    """Whether the pages after the first lie within the file too; a chain that loops ends there."""
    seen: set[int] = set()
    while at and at not in seen and len(seen) < _MOST_PAGES:
        seen.add(at)
        try:
            fields, after = _directory(file, layout=layout, at=at)
        except IndexError:
            return False
        if not _page_complete(file, fields=fields, order=layout.order):
            return False
        at = after
    return True


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
    return cast("IO[bytes]", io.BufferedReader(_Excerpt(file, spans=spans), 1 << 16))


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
        key = picture.info.pop("transparency", None)
        orientation = header.orientation or exif_orientation(picture.info.get("exif") or b"")
        colour = _Colour.of(picture, header=header)
        alpha = _Alpha(key, header.depth)
        opaque = key is None and picture.mode not in _ALPHA_MODES
        width, height = picture.size if orientation < 5 else picture.size[::-1]
        rgb = np.empty((height, width, 3), np.uint8)
        mask = None if opaque else np.empty((height, width), np.uint8)
        for top, strip in _strips(picture):
            rows = slice(top, top + strip.height)
            _as_stored(rgb, orientation=orientation)[rows] = colour.pixels(strip)
            if mask is not None:
                _as_stored(mask, orientation=orientation)[rows] = alpha.pixels(strip)
    return rgb, mask if mask is not None and mask.min() < 255 else None


def _strips(picture: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """(top, rows) of about half a million pixels each."""
    rows = max(1, _STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        yield top, picture.crop((0, top, picture.width, min(top + rows, picture.height)))


def _as_stored(upright: Bytes8, *, orientation: int) -> Bytes8:
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
        """The key in the range the reader delivers: 2 and 4 bits stretched, 16-bit RGB halved."""
        key = np.asarray(self.key, np.int64)
        if mode == "L" and self.depth in (2, 4):
            return key * 255 // ((1 << self.depth) - 1)
        return key >> 8 if mode == "RGB" and self.depth == 16 else key


@dataclass(frozen=True, slots=True)
class _Colour:
    """From a strip in any of the readers' modes to sRGB.

    `transform` is None where no (usable) profile asks for one. `white` is the sample value that
    becomes 255 for samples wider than 8 bits; `inverted` swaps black and white of those.
    """

    transform: ImageCms.ImageCmsTransform | None
    input_mode: str
    white: float
    inverted: bool

    @classmethod
    def of(cls, picture: Image.Image, *, header: Header) -> "_Colour":
        profile = header.icc or picture.info.get("icc_profile")
        mode = _base_mode(picture.mode)
        transform, input_mode = _transform(profile, mode=mode)
        white = _white(picture, depth=header.depth)
        return cls(transform, input_mode, white, header.inverted)

    def pixels(self, strip: Image.Image) -> Bytes8:
        """(rows, width, 3) uint8 sRGB, or (rows, width, 1) where the three are equal."""
        base = self._base(strip)
        if base.mode != self.input_mode:
            base = base.convert(self.input_mode)
        if self.transform is not None:
            base = ImageCms.applyTransform(base, self.transform) or base
        elif base.mode == "CMYK":
            base = base.convert("RGB")
        samples: Bytes8 = np.asarray(base)
        return samples if samples.ndim == 3 else samples[:, :, np.newaxis]

    def _base(self, strip: Image.Image) -> Image.Image:
        """The strip as L, RGB, CMYK or LAB."""
        if strip.mode in _WIDE_MODES:
            return Image.fromarray(self._narrowed(np.asarray(strip)))
        if strip.mode in ("La", "RGBa"):
            strip = strip.convert(strip.mode.upper())
        mode = _base_mode(strip.mode)
        return strip if strip.mode == mode else strip.convert(mode)

    def _narrowed(self, samples: NDArray[np.generic]) -> Bytes8:
        """Wide samples over `white`, rounded to the nearest of 0 to 255; NaN is black."""
        share = np.nan_to_num(samples.astype(np.float64) / self.white, posinf=1, neginf=0)
        rounded = np.floor(np.clip(share, 0, 1) * 255 + 0.5).astype(np.uint8)
        return 255 - rounded if self.inverted else rounded


def _base_mode(mode: str) -> str:
    if mode in ("L", "LA", "La", "1", *_WIDE_MODES):
        return "L"
    return mode if mode in ("CMYK", "LAB") else "RGB"


def _white(picture: Image.Image, *, depth: int) -> float:
    """The sample that is white: full scale where the depth is known, else a guess by the largest.

    32-bit and float files do not say their range: the smallest usual one that holds them is taken.
    """
    if picture.mode.startswith("I;16"):
        return float((1 << depth) - 1) if 8 < depth <= 16 else 65535.0
    if picture.mode not in _WIDE_MODES:
        return 255.0
    top = float(cast("tuple[float, float]", picture.getextrema())[1])
    usual = (1.0, 255.0, 65535.0) if picture.mode == "F" else (255.0, 65535.0)
    return next((white for white in usual if top <= white), top if np.isfinite(top) else 1.0)


def _transform(
    profile: bytes | None, *, mode: str
) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """The transform to sRGB and the mode it takes; a broken or foreign profile counts as none.

    Perceptual with black-point compensation, as print houses proof on screen; a matrix profile has
    one table only, and is then colorimetric.
    """
    lab = mode == "LAB"
    try:
        source = _profile(profile) if profile and not lab else None
        space = "LAB" if lab else source.profile.xcolor_space.strip() if source else ""
        takes = "RGB" if (mode, space) == ("L", "RGB") else mode
        if space != {"L": "GRAY"}.get(takes, takes):
            return None, mode
        transform = ImageCms.buildTransform(
            source or ImageCms.createProfile("LAB"),
            ImageCms.createProfile("sRGB"),
            takes,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, *_READER_ERRORS):
        return None, mode
    return (None, mode) if takes == "RGB" and _changes_nothing(transform) else (transform, takes)


def _profile(content: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(content))


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a profile is sRGB by another name: those pixels are kept to the bit.

    A lattice of 9x9x9 colours may move by one level, lcms's own rounding.
    """
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    moved = ImageCms.applyTransform(Image.fromarray(lattice), transform)
    return moved is not None and bool(
        np.abs(np.asarray(moved).astype(np.int16) - lattice).max() <= 1
    )


def _joined(spans: list[Span]) -> tuple[Span, ...]:
    """Neighbouring ranges as one, empty ones dropped."""
    joined: list[Span] = []
    for start, stop in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        elif stop > start:
            joined.append((start, stop))
    return tuple(joined)


_MIB = 1 << 20
_STRIP_PIXELS = 1 << 19
# bounds on what a hostile 100 MiB file can make the walkers loop over; real files stay far below
_MOST_BLOCKS = 1 << 20
_MOST_FIELDS = 4096
_MOST_PAGES = 4096
_MOST_SEGMENTS = 1 << 16
_MOST_SCANS = 128  # a progressive JPEG has about ten; each costs a pass over all its pixels

_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_PNG_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# APP1 and APP3 to APP13, comments; APP0 (JFIF), APP2 (ICC) and APP14 (Adobe's inks) tell colour
_JPEG_METADATA = {0xE1, *range(0xE3, 0xEE), 0xEF, 0xFE}
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# what may stand at the top of an AVIF or HEIC file; anything else is what follows its end
_ISO_BOXES = {
    *(b"ftyp", b"styp", b"meta", b"mdat", b"moov", b"moof", b"mfra", b"sidx"),
    *(b"idat", b"free", b"skip", b"uuid", b"wide", b"pnot", b"prft", b"emsg"),
}
_WEBP_SIZES: dict[bytes, Callable[[FileBytes], tuple[int, int]]] = {
    b"VP8 ": _vp8_size,
    b"VP8L": _vp8l_size,
    b"VP8X": _vp8x_size,
}
# bytes a value of each TIFF type takes, and the types that are whole numbers
_TIFF_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_NUMBERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}

_SIGNATURES = (
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("WEBP", re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL)),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("BMP", re.compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL)),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("AVIF", re.compile(rb".{4}ftyp(avi[fs]|mif1.{4}.*avif)", re.DOTALL)),
    ("HEIC", re.compile(rb".{4}ftyp(hei[cxms]|hev[cx]|m[is]f1)", re.DOTALL)),
)
_WALKERS: dict[str, Callable[[FileBytes], Header]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "WEBP": _webp,
    "TIFF": _tiff,
    "BMP": _bmp,
    "GIF": _gif,
    "AVIF": _avif,
    "HEIC": _heic,
}
_READERS: dict[str, Callable[[IO[bytes]], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": _StoredTiff,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
