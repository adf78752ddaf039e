"""Walks a picture file's container from its first byte to its end marker, decoding no pixel.

A walker tells the size, the orientation, whether the file is complete, and for PNG and JPEG which
bytes make pixels: text, EXIF and animation chunks make none of the first picture's, yet they are
where readers warn, raise and unpack without need.
"""

import importlib.util
import itertools
import mmap
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from PIL import features

from utils.pictures import (
    CorruptPicture,
    CutShort,
    FileBytes,
    Header,
    PictureError,
    Span,
    UnknownFormat,
)
from utils.tiff import exif_orientation, walk_tiff


def read_header(path: Path) -> Header:
    """The header of a non-empty file; raises PictureError kinds. Costs one pass over its bytes."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        name = _sniff(content[:32])
        header = _walk(content, name=name)
    if header.width < 1 or header.height < 1:
        raise CorruptPicture("the header names a side of zero pixels", format=name)
    return header


def decoder_installed(name: str) -> bool:
    """Whether this installation decodes the format (Pillow may be built without some)."""
    if name == "HEIC":
        return importlib.util.find_spec("pillow_heif") is not None
    feature = {"WEBP": "webp", "AVIF": "avif", "JPEG": "jpg", "PNG": "zlib"}.get(name)
    return feature is None or bool(features.check(feature))


def _sniff(head: bytes) -> str:
    """The format whose signature opens the file; raises UnknownFormat."""
    name = next((name for name, pattern in _SIGNATURES.items() if pattern.match(head)), None)
    if name is None:
        raise UnknownFormat("the file is not in a picture format that is read here")
    if not decoder_installed(name):
        raise UnknownFormat(f"no {name} decoder is installed", format=name)
    return name


def _walk(file: FileBytes, *, name: str) -> Header:
    try:
        return _WALKERS[name](file)
    except (struct.error, IndexError) as error:
        raise CutShort("the file ends inside its header", format=name) from error
    except KeyError as error:
        raise CorruptPicture("the header breaks its format's rules", format=name) from error
    except PictureError as error:
        error.format = name
        raise


def _check_frames(count: int) -> None:
    """Only the first frame is used, but libwebp lists them all (140 bytes each) before it."""
    if count > MOST_FRAMES:
        raise CorruptPicture("the file has too many frames")


# --- PNG third edition, 5 and 11


def _walk_png(file: FileBytes) -> Header:
    """Chunks to IEND; the checksums of those that make pixels are compared."""
    if len(file) < 33:
        raise CutShort("the PNG ends inside its header")
    if file[12:16] != b"IHDR":
        raise CorruptPicture("a PNG opens with IHDR")
    width, height, depth = struct.unpack(">IIB", file[16:25])
    spans: list[Span] = [(0, 8)]
    extras: dict[bytes, bytes] = {}
    complete = False
    frames = 0
    palette = False
    transparent = file[25] in _PNG_WITH_ALPHA
    before, colours = b"", 0
    for kind, start, stop in _png_chunks(file):
        frames += kind == b"fcTL"
        palette = palette or kind == b"PLTE"
        if kind == b"IDAT" and file[25] == 3 and not palette:
            raise CorruptPicture("the PNG has no palette")
        if kind in _PNG_PIXEL_CHUNKS:
            _check_png_order(kind, before=before, at_once=spans[-1][1] == start)
            _check_crc(file, start=start, stop=stop)
            before = kind
        if kind == b"PLTE":
            colours = min((stop - start - 12) // 3, 1 << min(depth, 8))
        if kind == b"tRNS" and not _is_transparency(file, at=start, colours=colours):
            continue
        if kind in _PNG_PIXEL_CHUNKS:
            spans.append((start, stop))
        elif kind in (b"eXIf", b"iCCP"):
            extras.setdefault(kind, file[start + 8 : stop - 4])
        transparent = transparent or kind == b"tRNS"
        complete = kind == b"IEND"
    _check_frames(frames)
    return Header(
        format="PNG",
        width=width,
        height=height,
        complete=complete,
        orientation=exif_orientation(extras.get(b"eXIf", b"")),
        depth=depth,
        spans=_joined(spans),
        icc=_png_profile(extras.get(b"iCCP", b"")),
        by_rows=True,
        held_bytes=width * height * _png_pixel_bytes(file) if file[28] else 0,
        may_have_alpha=transparent,
    )


def _png_pixel_bytes(file: FileBytes) -> int:
    """Bytes a pixel in a reader's hands; a palette and a transparent colour are written out."""
    depth, colour_type = file[24], file[25]
    return _PNG_CHANNELS.get(colour_type, 4) * (2 if depth == 16 else 1)


def _png_chunks(file: FileBytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, stop) of each whole chunk up to IEND, length field and checksum included."""
    start = 8
    for _ in range(_MOST_CHUNKS):
        stop = start + 12 + int.from_bytes(file[start : start + 4], "big")
        if stop > len(file):
            return
        kind = file[start + 4 : start + 8]
        yield kind, start, stop
        if kind == b"IEND":
            return
        start = stop
    raise CorruptPicture("the PNG has too many chunks")


def _is_transparency(file: FileBytes, *, at: int, colours: int) -> bool:
    """Whether the tRNS chunk is one; libpng passes over others, and Pillow would read them."""
    length, depth, colour_type = int.from_bytes(file[at : at + 4], "big"), file[24], file[25]
    if (depth, colour_type, length) == (1, 0, 2) and file[at + 8 : at + 10] > b"\0\1":
        raise CorruptPicture("the PNG's transparent grey is neither of its two")
    lengths = {0: (2,), 2: (6,), 3: range(1, colours + 1)}
    return length in lengths.get(colour_type, ())


def _check_png_order(kind: bytes, *, before: bytes, at_once: bool) -> None:
    """Chunks that make pixels are in order, IDATs together and the others once (PNG 5.6).

    Of files that break this, readers make different pictures.
    """
    rank = _PNG_PIXEL_CHUNKS.index
    more_pixels = kind == before == b"IDAT" and at_once
    if before and rank(kind) <= rank(before) and not more_pixels:
        raise CorruptPicture("the PNG's chunks are out of order")


def _check_crc(file: FileBytes, *, start: int, stop: int) -> None:
    """Pillow leaves the checksums of IDAT unread, so a flipped bit would pass as a picture."""
    with memoryview(file) as view:
        crc = zlib.crc32(view[start + 4 : stop - 4])
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


def _joined(spans: list[Span]) -> tuple[Span, ...]:
    """Neighbouring ranges as one."""
    joined: list[Span] = []
    for start, stop in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return tuple(joined)


# --- JPEG: ITU T.81 annex B


def _walk_jpeg(file: FileBytes) -> Header:
    """Marker segments, each scan's entropy-coded bytes, EOI.

    A block of 64 coefficients has a Huffman code for its DC and, unless later scans bring the rest,
    one for its end: so many bits at least. Readers fill in what is missing with grey, for as many
    pixels as a header of 20 bytes may promise.
    """
    spans: list[Span] = []
    frame = b""
    orientation = 1
    scans = coded = 0
    progressive = complete = False
    for marker, start, stop in _jpeg_segments(file):
        segment = file[start + 4 : stop] if marker else b""
        scans += marker == 0xDA
        coded += 0 if marker else stop - start
        if marker in _JPEG_ARITHMETIC:
            raise CorruptPicture("arithmetic coding is not read")
        if marker in _JPEG_FRAMES:
            frame = frame or segment
            progressive = marker not in _JPEG_SEQUENTIAL
        elif marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            orientation = exif_orientation(segment)
        if marker not in _JPEG_METADATA:
            spans.append((start, stop))
        complete = marker == 0xD9
    height, width = struct.unpack(">HH", frame[1:5])
    coefficients = _jpeg_coefficients(frame)
    held_bytes = 2 * coefficients if progressive or scans > 1 else 0
    if held_bytes and scans * coefficients > _MOST_SCANNED:
        raise CorruptPicture("the JPEG has too many scans for its size")
    complete = complete and 8 * coded >= coefficients // 64 * (1 if progressive else 2)
    return Header(
        format="JPEG",
        width=width,
        height=height,
        complete=complete,
        orientation=orientation,
        spans=_joined(spans),
        by_rows=True,
        held_bytes=held_bytes,
        may_have_alpha=False,
    )


def _jpeg_coefficients(frame: bytes) -> int:
    """As many as samples, as subsampled; libjpeg keeps 16 bits of each if there are many scans."""
    height, width, count = struct.unpack(">HHB", frame[1:6])
    factors = [(each >> 4, each & 15) for each in frame[7 : 6 + 3 * count : 3]]
    across = max((h for h, _ in factors), default=1) or 1
    down = max((v for _, v in factors), default=1) or 1
    samples = width * height * sum(h * v for h, v in factors) // (across * down)
    return int(samples)


def _jpeg_segments(file: FileBytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, stop) of each whole segment up to EOI; scan data follows SOS as marker 0."""
    yield 0xD8, 0, 2
    stop, scans = 2, 0
    for _ in range(_MOST_SEGMENTS):
        start = _next_marker(file, at=stop)
        if file[start : start + 2] == b"\xff\xd9":
            yield 0xD9, start, start + 2
            return
        stop = start + 2 + int.from_bytes(file[start + 2 : start + 4], "big")
        if max(stop, start + 4) > len(file):
            return
        yield file[start + 1], start, stop
        if file[start + 1] == 0xDA:
            scan, stop = stop, _next_marker(file, at=stop)
            yield 0, scan, stop
            scans += 1
        if scans > _MOST_SCANS:
            break
    raise CorruptPicture("the JPEG has too many scans or segments")


def _next_marker(file: FileBytes, *, at: int) -> int:
    """Where the next marker that is neither fill, stuffing nor restart begins, else the end."""
    found = _JPEG_MARKER.search(file, at)
    return found.start() if found else len(file)


# --- WebP: RFC 9649, 2.4 to 2.7


def _walk_webp(file: FileBytes) -> Header:
    """The canvas of the first chunk, the RIFF size against the file's; frames are counted."""
    (size,) = struct.unpack("<I", file[4:8])
    width, height = _WEBP_SIZES[file[12:16]](file)
    _check_frames(sum(kind == b"ANMF" for kind in _webp_chunks(file, stop=size + 8)))
    complete = len(file) >= size + 8
    return Header(
        format="WEBP",
        width=width,
        height=height,
        complete=complete,
        orientation=0,
        by_rows=True,
        held_bytes=_WEBP_PIXEL_BYTES * width * height,
    )


def _webp_chunks(file: FileBytes, *, stop: int) -> Iterator[bytes]:
    """The type of each chunk; they are padded to even lengths."""
    at = 12
    for _ in range(_MOST_CHUNKS):
        if at + 8 > min(stop, len(file)):
            return
        kind, size = struct.unpack("<4sI", file[at : at + 8])
        yield kind
        at += 8 + size + size % 2
    raise CorruptPicture("the WebP has too many chunks")


def _vp8_size(file: FileBytes) -> tuple[int, int]:
    width, height = struct.unpack("<HH", file[26:30])
    if file[23:26] != b"\x9d\x01\x2a":
        raise CorruptPicture("the WebP's VP8 frame has no start code")
    return width & 0x3FFF, height & 0x3FFF


def _vp8l_size(file: FileBytes) -> tuple[int, int]:
    (bits,) = struct.unpack("<I", file[21:25])
    return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1


def _vp8x_size(file: FileBytes) -> tuple[int, int]:
    low_w, high_w, low_h, high_h = struct.unpack("<HBHB", file[24:30])
    return (low_w | high_w << 16) + 1, (low_h | high_h << 16) + 1


# --- BMP: the Windows and OS/2 headers


def _walk_bmp(file: FileBytes) -> Header:
    """The pixels behind the header; uncompressed rows are padded to four bytes."""
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


# --- GIF89a


def _walk_gif(file: FileBytes) -> Header:
    """The screen, grown as Pillow does by a first frame that leaves it; the trailer."""
    width, height, flags = struct.unpack("<HHB", file[6:11])
    frames = []
    complete = False
    for kind, at in _gif_blocks(file, at=13 + _gif_table_bytes(flags)):
        if kind == 0x2C:
            frames.append(struct.unpack("<HHHH", file[at + 1 : at + 9]))
        complete = kind == 0x3B
        _check_frames(len(frames))
    if complete and not frames:
        raise CorruptPicture("the GIF has no frame")
    left, top, wide, high = frames[0] if frames else (0, 0, 0, 0)
    width, height = max(width, left + wide), max(height, top + high)
    return Header(format="GIF", width=width, height=height, complete=complete)


def _gif_blocks(file: FileBytes, *, at: int) -> Iterator[tuple[int, int]]:
    """(kind, position) of each whole block up to the trailer 0x3B."""
    for _ in range(_MOST_BLOCKS):
        try:
            kind, stop = file[at], _gif_block_end(file, at=at)
        except IndexError:
            return
        yield kind, at
        if kind == 0x3B:
            return
        at = stop
    raise CorruptPicture("the GIF has too many blocks")


def _gif_block_end(file: FileBytes, *, at: int) -> int:
    """Where the block ends; raises IndexError where the file ends first."""
    kind = file[at]
    if kind in (0, 0x3B):  # stray zeros between blocks are passed over
        return at + 1
    if kind == 0x21:
        return _gif_sub_blocks_end(file, at=at + 2)
    if kind == 0x2C:
        return _gif_sub_blocks_end(file, at=at + 11 + _gif_table_bytes(file[at + 9]))
    raise CorruptPicture("the GIF has an unknown block")


def _gif_sub_blocks_end(file: FileBytes, *, at: int) -> int:
    for _ in range(_MOST_BLOCKS):
        size = file[at]
        at += 1 + size
        if size == 0:
            return at
    raise CorruptPicture("the GIF has too many blocks")


def _gif_table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


# --- AVIF and HEIC: ISO 14496-12


def _walk_iso_media(file: FileBytes, *, name: str) -> Header:
    """The boxes to the end; the size is the largest `ispe` (a grid's whole)."""
    complete, meta = _iso_boxes(file)
    places = itertools.islice(re.finditer(b"ispe", meta), _MOST_BOXES)
    sizes = [struct.unpack(">II", meta[at.end() + 4 : at.end() + 12]) for at in places]
    if not sizes:
        kind = CorruptPicture if complete else CutShort
        raise kind("the file names no picture size")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return Header(format=name, width=width, height=height, complete=complete, orientation=0)


def _iso_boxes(file: FileBytes) -> tuple[bool, bytes]:
    """Whether the boxes end where the file does, or before trailing bytes; and the `meta` box."""
    at, meta, found = 0, b"", False
    for _ in range(_MOST_BOXES):
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


_MIB = 1 << 20
MOST_FRAMES = 4096
"""Of an animation; a TIFF has as many pages."""
# bounds on what a hostile 100 MiB file can make the walkers loop over; real files stay far below
_MOST_BLOCKS = 1 << 20
_MOST_BOXES = 4096
_MOST_CHUNKS = 1 << 17  # 100 MiB in chunks of a kilobyte; libpng's own are eight times as large
_MOST_SEGMENTS = 1 << 16
_MOST_SCANS = 128
# A progressive JPEG has about ten scans, and each is a pass over the coefficients it covers though
# it hold no bit. 64 million of them in 100 scans took 5 s; ten scans of 256 megapixels remain.
_MOST_SCANNED = 5_000_000_000

_PNG_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# bytes a pixel that libwebp and libvips hold between them (8.1 measured, lossy and lossless)
_WEBP_PIXEL_BYTES = 9
# colour types 0 grey, 2 RGB, 4 grey and alpha; palettes (3) become RGBA
_PNG_CHANNELS = {0: 2, 2: 4, 4: 2}
_PNG_WITH_ALPHA = (4, 6)
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_SEQUENTIAL = {0xC0, 0xC1}
_JPEG_ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
# APP1 and APP3 to APP13, comments; APP0 (JFIF), APP2 (ICC) and APP14 (Adobe's inks) tell colour
_JPEG_METADATA = {0xE1, *range(0xE3, 0xEE), 0xEF, 0xFE}
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_WEBP_SIZES: dict[bytes, Callable[[FileBytes], tuple[int, int]]] = {
    b"VP8 ": _vp8_size,
    b"VP8L": _vp8l_size,
    b"VP8X": _vp8x_size,
}
# what may stand at the top of an AVIF or HEIC file; anything else is what follows its end
_ISO_BOXES = {
    *(b"ftyp", b"styp", b"meta", b"mdat", b"moov", b"moof", b"mfra", b"sidx"),
    *(b"idat", b"free", b"skip", b"uuid", b"wide", b"pnot", b"prft", b"emsg"),
}

_SIGNATURES = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "WEBP": re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL),
    "TIFF": re.compile(rb"II[*+]\0|MM\0[*+]"),
    "BMP": re.compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL),
    "GIF": re.compile(rb"GIF8[79]a"),
    "AVIF": re.compile(rb".{4}ftyp(avi[fs]|mif1.{4}.*avif)", re.DOTALL),
    "HEIC": re.compile(rb".{4}ftyp(hei[cxms]|hev[cx]|m[is]f1)", re.DOTALL),
}
_WALKERS: dict[str, Callable[[FileBytes], Header]] = {
    "PNG": _walk_png,
    "JPEG": _walk_jpeg,
    "WEBP": _walk_webp,
    "TIFF": walk_tiff,
    "BMP": _walk_bmp,
    "GIF": _walk_gif,
    "AVIF": partial(_walk_iso_media, name="AVIF"),
    "HEIC": partial(_walk_iso_media, name="HEIC"),
}
