"""Bad picture files, made by code: each with a name and the code that it is refused with."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from tests.utils.specimens import SPECIMENS, chunk, png, saved, tags, tiff
from tests.utils.test_containers import (
    gif_frames,
    png_frames,
    scans,
    tiff_of_overlapping_pages,
    tiff_pages,
    tiff_with_many,
    webp_frames,
)

EMPTY, UNKNOWN = "empty_file", "unsupported_media_type"
TRUNCATED, UNREADABLE, TOO_MANY = "image_truncated", "unreadable_image", "too_many_pixels"


UNTRIED = "untried"


@dataclass(frozen=True, slots=True)
class Bad:
    """A file and its code; `enlarged` is the code where /upscale, which has no limit, differs.

    `enlarged` is UNTRIED where the enlargement is right to begin: what is wrong comes much later.
    """

    name: str
    content: bytes
    code: str
    enlarged: str = ""


def bad_pictures() -> list[Bad]:
    """All of them, of different names."""
    return [
        *_cut(),
        *_broken_png(),
        *_broken_jpeg(),
        *_broken_gif(),
        *_broken_webp(),
        *_broken_tiff(),
        *_broken_bmp(),
        *_huge(),
        *_floods(),
        *_bombs(),
        *_others(),
    ]


# --- truncations: at each structure's beginning, in its head, in its middle


def _cut() -> Iterator[Bad]:
    for kind, cuts in (
        ("png", _png_cuts(SPECIMENS["png"])),
        ("png-palette", _png_cuts(SPECIMENS["png-palette"])),
        ("apng", _png_cuts(SPECIMENS["apng"])),
        ("jpeg", _jpeg_cuts(SPECIMENS["jpeg"])),
        ("jpeg-progressive", _jpeg_cuts(SPECIMENS["jpeg-progressive"])),
        ("gif", _gif_cuts(SPECIMENS["gif"])),
        ("gif-animated", _gif_cuts(SPECIMENS["gif-animated"])),
        ("webp", _webp_cuts(SPECIMENS["webp"])),
        ("webp-alpha", _webp_cuts(SPECIMENS["webp-alpha"])),
        ("webp-animated", _webp_cuts(SPECIMENS["webp-animated"])),
        ("tiff", _tiff_cuts(SPECIMENS["tiff"])),
        ("tiff-lzw", _tiff_cuts(SPECIMENS["tiff-lzw"])),
        ("bmp", {"first-row": 60, "middle": 3000, "last-byte": len(SPECIMENS["bmp"]) - 1}),
        ("bmp-palette", {"palette": 90, "last-byte": len(SPECIMENS["bmp-palette"]) - 1}),
    ):
        for place, length in cuts.items():
            yield Bad(f"{kind} cut at {place}", SPECIMENS[kind][:length], TRUNCATED)


def _png_cuts(whole: bytes) -> dict[str, int]:
    cuts, at = {}, 8
    while at < len(whole):
        size, kind = struct.unpack(">I4s", whole[at : at + 8])
        name = f"{kind.decode()}@{at}"
        if at > 8:
            cuts[name] = at
        cuts[f"{name} head"] = at + 6
        cuts[f"{name} middle"] = at + 8 + size // 2
        at += 12 + size
    return cuts


def _jpeg_cuts(whole: bytes) -> dict[str, int]:
    cuts, at = {}, 2
    while whole[at : at + 2] != b"\xff\xd9":
        size = int.from_bytes(whole[at + 2 : at + 4], "big")
        name = f"{whole[at + 1]:02x}@{at}"
        if at > 2:
            cuts[name] = at
        cuts[f"{name} middle"] = at + 2 + size // 2 if at > 2 else at + 2
        at += 2 + size
        while whole[at] != 0xFF or whole[at + 1] in (0, *range(0xD0, 0xD8)):
            at += 1
    cuts["before the end"] = at
    return cuts


def _gif_cuts(whole: bytes) -> dict[str, int]:
    image = whole.index(b",", 13 + (3 << (whole[10] & 7) + 1))
    return {
        "screen": 11,
        "palette": 20,
        "image": image,
        "image head": image + 5,
        "blocks": image + 200,
        "trailer": len(whole) - 1,
    }


def _webp_cuts(whole: bytes) -> dict[str, int]:
    cuts, at = {}, 12
    while at < len(whole):
        kind, size = struct.unpack("<4sI", whole[at : at + 8])
        if at > 12:
            cuts[f"{kind.decode().strip()}@{at}"] = at
        cuts[f"{kind.decode().strip()}@{at} middle"] = max(at + 8 + size // 2, 40)
        at += 8 + size + size % 2
    return {name: cut for name, cut in cuts.items() if cut < len(whole) - 1}


def _tiff_cuts(whole: bytes) -> dict[str, int]:
    at = int.from_bytes(whole[4:8], "little")
    return {
        "offset": 6,
        "count": at + 1,
        "entry": at + 2 + 12 + 5,
        "next": at + 2 + 12 * int.from_bytes(whole[at : at + 2], "little") + 2,
        "pixels": len(whole) - 9,
    }


# --- broken: the structure contradicts itself


def _broken_png() -> Iterator[Bad]:
    whole = SPECIMENS["png"]
    data = whole.index(b"IDAT")
    for name, ihdr in (
        ("width 0", (0, 5, 8, 2)),
        ("height 0", (5, 0, 8, 2)),
        ("depth 3", (5, 5, 3, 2)),
        ("depth 255", (5, 5, 255, 2)),
        ("colour type 1", (5, 5, 8, 1)),
        ("colour type 7", (5, 5, 8, 7)),
        ("16-bit palette", (5, 5, 16, 3)),
    ):
        yield Bad(f"png of {name}", png(ihdr, bytes(80)), UNREADABLE)
    yield Bad("png without IHDR", whole[:8] + whole[33:], UNREADABLE)
    yield Bad("png with IHDR's checksum wrong", _flipped(whole, 30), UNREADABLE)
    yield Bad("png with IDAT's checksum wrong", _flipped(whole, data + 20), UNREADABLE)
    yield Bad("png with IEND's checksum wrong", whole[:-1] + b"\0", UNREADABLE)
    yield Bad("png that is IHDR and IEND", png((5, 5, 8, 2), b"")[:33] + whole[-12:], UNREADABLE)
    yield Bad("png whose pixels are no deflate", _png_of_idat(b"not deflate at all"), UNREADABLE)
    yield Bad(
        "png whose deflate is cut",
        _png_of_idat(zlib.compress(bytes(400))[:-6]),
        TRUNCATED,
        UNREADABLE,
    )
    yield Bad("png of too few rows", png((50, 40, 8, 2), bytes(151 * 20)), TRUNCATED, UNREADABLE)
    yield Bad("png with filter 9", png((5, 5, 8, 0), (b"\x09" + bytes(5)) * 5), UNREADABLE)
    yield Bad(
        "png whose chunk is 2 GiB long",
        whole[: data - 4] + b"\x7f\xff\xff\xff" + whole[data:],
        TRUNCATED,
    )
    yield Bad(
        "png whose chunk is 4 GiB long", whole[: data - 4] + b"\xff" * 4 + whole[data:], TRUNCATED
    )
    yield Bad("png of zeros", whole[:33] + bytes(4000), TRUNCATED)
    yield Bad("png signature alone", whole[:8], TRUNCATED)
    yield Bad("png palette without PLTE", png((5, 5, 8, 3), bytes(30)), UNREADABLE)
    yield Bad("png in a png", png((5, 5, 8, 2), b"")[:33] + whole, TRUNCATED)


def _png_of_idat(content: bytes) -> bytes:
    head = png((50, 40, 8, 2), b"")[:33]
    return head + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def _broken_jpeg() -> Iterator[Bad]:
    whole = SPECIMENS["jpeg"]
    frame = whole.index(b"\xff\xc0")
    scan = whole.index(b"\xff\xda")
    tables = whole.index(b"\xff\xdb")
    yield Bad("jpeg start alone", b"\xff\xd8\xff", TRUNCATED)
    yield Bad("jpeg start and end", b"\xff\xd8\xff\xd9", TRUNCATED)
    yield Bad("jpeg without a frame", whole[:frame] + whole[scan:], TRUNCATED)
    yield Bad("jpeg without a scan", whole[:scan] + b"\xff\xd9", TRUNCATED)
    yield Bad("jpeg without quantisation", whole[:tables] + whole[frame:], UNREADABLE)
    yield Bad("jpeg of width 0", _at(whole, frame + 7, b"\0\0"), UNREADABLE)
    yield Bad("jpeg of height 0", _at(whole, frame + 5, b"\0\0"), UNREADABLE)
    yield Bad("jpeg of 12 bits", _at(whole, frame + 4, b"\x0c"), UNREADABLE)
    yield Bad("jpeg of 9 components", _at(whole, frame + 9, b"\x09"), UNREADABLE)
    yield Bad("jpeg of sampling 0", _at(whole, frame + 11, b"\0"), UNREADABLE)
    yield Bad("jpeg of sampling 15", _at(whole, frame + 11, b"\xff"), UNREADABLE)
    yield Bad("jpeg with two frames", whole[:scan] + whole[frame:], UNREADABLE)
    yield Bad("jpeg segment beyond the end", _at(whole, tables + 2, b"\xff\xff"), TRUNCATED)
    yield Bad("jpeg of lossless coding", _at(whole, frame + 1, b"\xc3"), UNREADABLE)
    yield Bad("jpeg scan of an unknown component", _at(whole, scan + 5, b"\x77"), UNREADABLE)
    yield Bad(
        "jpeg in a jpeg's comment alone", b"\xff\xd8\xff\xfe\x03\xea" + whole[:1000], TRUNCATED
    )


def _broken_gif() -> Iterator[Bad]:
    screen = b"GIF89a" + struct.pack("<HHBBB", 5, 5, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 5, 5, 0)
    yield Bad("gif without a frame", screen + b";", UNREADABLE)
    yield Bad("gif signature alone", b"GIF89a", TRUNCATED)
    yield Bad("gif of an unknown block", screen + b"\x99" * 40, UNREADABLE)
    yield Bad("gif of code size 13", screen + frame + b"\x0d\x02\x44\x01\0;", UNREADABLE)
    yield Bad("gif of code size 255", screen + frame + b"\xff\x02\x44\x01\0;", UNREADABLE)
    yield Bad("gif frame without data", screen + frame + b"\x02\0;", TRUNCATED)
    yield Bad("gif of wild codes", screen + frame + b"\x02\x08" + b"\xff" * 8 + b"\0;", UNREADABLE)
    yield Bad(
        "gif of width 0", _at(screen, 6, bytes(4)) + frame[:5] + bytes(5) + b"\x02\0;", UNREADABLE
    )


def _broken_webp() -> Iterator[Bad]:
    whole, lossless = SPECIMENS["webp"], SPECIMENS["webp-lossless"]
    yield Bad("webp head alone", whole[:16], TRUNCATED)
    yield Bad("webp without start code", _at(whole, 23, bytes(3)), UNREADABLE)
    yield Bad("webp of width 0", _at(whole, 26, bytes(4)), UNREADABLE)
    yield Bad(
        "webp of another size inside", _at(SPECIMENS["webp-alpha"], 24, b"\x07\0\0"), UNREADABLE
    )
    yield Bad("webp of wild bits", _at(lossless, 40, b"\xff" * 200), UNREADABLE, TRUNCATED)
    yield Bad("webp signature lost", _at(lossless, 20, b"\0"), UNREADABLE)
    yield Bad("webp riff 4 GiB long", _at(whole, 4, b"\xff" * 4), TRUNCATED)
    yield Bad("webp chunk longer than the file", _at(whole, 16, b"\xff\xff\xff\x0f"), UNREADABLE)
    yield Bad(
        "webp canvas without a picture",
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\x07\0\0\x07\0\0" + bytes(10),
        UNREADABLE,
    )


def _broken_tiff() -> Iterator[Bad]:
    grey = tags(8, 8, bits=(8,), photometric=1)
    pixels = bytes(64)

    def changed(tag: int, kind: int, *values: int) -> bytes:
        kept = [each for each in grey if each[0] != tag]
        return tiff([*kept, (tag, kind, values)], pixels)

    whole = tiff(grey, pixels)
    directory = int.from_bytes(whole[4:8], "little")
    yield Bad("tiff of width 0", changed(0x100, 4, 0), UNREADABLE)
    yield Bad("tiff of height 0", changed(0x101, 4, 0), UNREADABLE)
    yield Bad("tiff without a size", tiff(grey[2:], pixels), UNREADABLE)
    yield Bad("tiff of 77 bits", changed(0x102, 3, 77), UNREADABLE)
    yield Bad("tiff of unknown compression", changed(0x103, 3, 4242), UNREADABLE)
    yield Bad("tiff of unknown colours", changed(0x106, 3, 999), UNREADABLE)
    yield Bad("tiff of 65535 samples", changed(0x115, 3, 65535), UNREADABLE)
    yield Bad("tiff of 0 samples", changed(0x115, 3, 0), UNREADABLE)
    yield Bad("tiff of no lzw", changed(0x103, 3, 5), UNREADABLE)
    yield Bad("tiff of no deflate", changed(0x103, 3, 8), UNREADABLE)
    yield Bad("tiff of no jpeg", changed(0x103, 3, 7), UNREADABLE)
    yield Bad("tiff of no fax", changed(0x103, 3, 4), UNREADABLE)
    yield Bad("tiff directory beyond the end", _at(whole, 4, b"\0\xff\0\0"), TRUNCATED)
    yield Bad("tiff directory of 65535 entries", _at(whole, directory, b"\xff\xff"), UNREADABLE)
    yield Bad("tiff without entries", _at(whole, directory, bytes(2)), UNREADABLE)
    yield Bad(
        "tiff of a size that is text", tiff([(0x100, 2, (8,)), *grey[1:]], pixels), UNREADABLE
    )
    yield Bad(
        "tiff strips beyond the end",
        tiff(tags(8, 8000, bits=(8,), photometric=1), pixels),
        TRUNCATED,
        UNREADABLE,
    )
    yield Bad("tiff head alone", b"II*\0", TRUNCATED)
    yield Bad("bigtiff head alone", b"II+\0\x08\0\0\0", TRUNCATED)
    yield Bad("bigtiff offset of 2^63", b"II+\0\x08\0\0\0" + b"\xff" * 8, TRUNCATED)


def _broken_bmp() -> Iterator[Bad]:
    yield Bad("bmp head alone", _bmp(5, 5, 24, b"")[:30], TRUNCATED)
    yield Bad("bmp of width 0", _bmp(0, 5, 24, bytes(99)), UNREADABLE)
    yield Bad("bmp of height 0", _bmp(5, 0, 24, bytes(99)), UNREADABLE)
    yield Bad("bmp of negative width", _bmp(-5, 5, 24, bytes(99)), UNREADABLE)
    yield Bad("bmp of 13 bits", _bmp(5, 5, 13, bytes(99)), UNREADABLE)
    yield Bad("bmp of unknown compression", _bmp(5, 5, 8, bytes(99), compression=77), UNREADABLE)
    yield Bad("bmp with a png inside", _bmp(5, 5, 0, SPECIMENS["png"], compression=5), UNREADABLE)
    yield Bad("bmp runs that end at once", _bmp(50, 50, 8, b"\0\1", compression=1), UNREADABLE)
    yield Bad(
        "bmp pixels far away", _at(_bmp(5, 5, 24, bytes(99)), 10, b"\xff\xff\xff\x7f"), TRUNCATED
    )


def _bmp(width: int, height: int, bits: int, pixels: bytes, *, compression: int = 0) -> bytes:
    palette = bytes(1024) if bits == 8 else b""
    first = 54 + len(palette)
    info = (40, width, height, 1, bits, compression, len(pixels), 0, 0, len(palette) // 4, 0)
    head = b"BM" + struct.pack("<IHHI", first + len(pixels), 0, 0, first)
    return head + struct.pack("<IiiHHIIiiII", *info) + palette + pixels


# --- too large: told by the header


def _huge() -> Iterator[Bad]:
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x01\0\0"
    gif = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + frame + b";"
    jpeg = SPECIMENS["jpeg"]
    at = jpeg.index(b"\xff\xc0") + 5
    huge_jpeg = _at(jpeg, at, struct.pack(">HH", 65500, 65500))
    progressive = SPECIMENS["jpeg-progressive"]
    at = progressive.index(b"\xff\xc2") + 5
    for side in (60_000, 2**31 - 1):
        yield Bad(f"png of {side} a side", png((side, side, 8, 6), bytes(90)), TOO_MANY, UNREADABLE)
    yield Bad(
        "png of 2^32-1 a side", png((2**32 - 1, 2**32 - 1, 8, 6), bytes(9)), TOO_MANY, UNREADABLE
    )
    yield Bad("png of 1 x 2^31-1", png((1, 2**31 - 1, 1, 0), bytes(9)), TOO_MANY, UNREADABLE)
    yield Bad("png of 2^31-1 x 1", png((2**31 - 1, 1, 1, 0), bytes(9)), TOO_MANY, UNREADABLE)
    yield Bad("jpeg of 65500 a side", huge_jpeg, TOO_MANY, TRUNCATED)
    yield Bad(
        "progressive jpeg of 65500 a side",
        _at(progressive, at, struct.pack(">HH", 65500, 65500)),
        UNREADABLE,
    )
    yield Bad("gif of 65535 a side", gif, TOO_MANY, "insufficient_memory")
    yield Bad(
        "webp of 2^24 a side",
        b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6 + bytes(30),
        TOO_MANY,
        "insufficient_memory",
    )
    yield Bad("bmp of 2^31 a side", _bmp(2**31 - 1, -(2**31), 1, b""), TOO_MANY, TRUNCATED)
    for side in (60_000, 2**32 - 1):
        yield Bad(
            f"tiff of {side} a side",
            tiff(tags(side, side, bits=(8,), photometric=1), bytes(9)),
            TOO_MANY,
            UNREADABLE,
        )
    tiles = [(0x142, 4, (60_000,)), (0x143, 4, (60_000,)), (0x144, 4, (8,)), (0x145, 4, (9,))]
    small = tags(8, 8, bits=(8,), photometric=1)[:-1]
    yield Bad(
        "tiff of one tile of 60000 a side",
        tiff([*small, *tiles], bytes(9)),
        TOO_MANY,
        "insufficient_memory",
    )


# --- floods and bombs: small files that ask for much


def _floods() -> Iterator[Bad]:
    whole = SPECIMENS["png"]
    data = whole.index(b"IDAT") - 4
    yield Bad("webp of 5000 frames", webp_frames(5000), UNREADABLE)
    yield Bad("gif of 5000 frames", gif_frames(5000), UNREADABLE)
    yield Bad("png of 5000 frames", png_frames(5000), UNREADABLE)
    yield Bad("tiff of 5000 pages", tiff_pages(5000), UNREADABLE)
    yield Bad("tiff of overlapping pages", tiff_of_overlapping_pages(3000), UNREADABLE)
    yield Bad("tiff of 280000 strips", tiff_with_many(0x111), UNREADABLE)
    yield Bad("tiff of 280000 colours", tiff_with_many(0x140), UNREADABLE)
    yield Bad("tiff of 280000 depths", tiff_with_many(0x102), UNREADABLE)
    yield Bad("png of 140000 chunks", whole[:data] + chunk(b"tEXt", b"") * 140_000, UNREADABLE)
    yield Bad("jpeg of 500 scans", scans(SPECIMENS["jpeg-progressive"], 500), UNREADABLE)
    yield Bad("jpeg of 70000 segments", b"\xff\xd8" + b"\xff\xe0\0\x02" * 70_000, UNREADABLE)
    yield Bad("gif of empty blocks", b"GIF89a\x05\0\x05\0\0\0\0" + bytes(1 << 20), UNREADABLE)
    yield Bad(
        "gif of endless sub-blocks",
        b"GIF89a\x05\0\x05\0\0\0\0!\xff" + b"\x01!" * (1 << 20),
        UNREADABLE,
    )


def _bombs() -> Iterator[Bad]:
    """What would unpack to more than the picture has; a gigabyte of zeros is a megabyte packed."""
    rows = _packed_zeros(1 << 30)
    head = png((50, 40, 8, 2), b"")[:33]
    broken_end = chunk(b"IDAT", rows)[:-1] + b"\0"
    yield Bad("png bomb with a wrong checksum", head + broken_end + chunk(b"IEND", b""), UNREADABLE)
    huge = png((60_000, 60_000, 8, 2), b"")[:33]
    yield Bad(
        "png bomb of 10 gigabytes",
        huge + chunk(b"IDAT", rows) + chunk(b"IEND", b""),
        TOO_MANY,
        UNTRIED,
    )
    bomb = tags(8, 8, bits=(8,), photometric=1)
    for name, compression in (("deflate", 8), ("packbits", 32773), ("lzw", 5), ("lzma", 34925)):
        large = [(0x100, 4, (60_000,)), (0x101, 4, (60_000,)), (0x103, 3, (compression,))]
        rest = [each for each in bomb if each[0] not in (0x100, 0x101, 0x103, 0x116)]
        yield Bad(
            f"tiff {name} bomb",
            tiff([*large, *rest, (0x116, 4, (60_000,))], b"\0" * 99),
            TOO_MANY,
            "insufficient_memory",
        )


def _packed_zeros(size: int) -> bytes:
    """A whole stream of deflate: the same flushed block again and again, and the checksum."""
    packer = zlib.compressobj(9)
    first = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    adler = (size % 65521) << 16 | 1
    return first + again * ((size >> 20) - 1) + b"\x03\x00" + struct.pack(">I", adler)


# --- no picture, or none that is read here


def _others() -> Iterator[Bad]:
    picture = SPECIMENS["png"]
    yield Bad("nothing", b"", EMPTY)
    for name, content in {
        "one byte": b"\x89",
        "text": b"just some text, long enough to hold any signature there might be",
        "zeros": bytes(4096),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "svg that includes a file": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        "svg with a png inside": b"<svg><image href='data:image/png;base64,iVBORw0KGgo='/></svg>",
        "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj",
        "pdf with a png inside": b"%PDF-1.7\nstream\n" + picture + b"\nendstream",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "html": b"<!doctype html><script>alert(1)</script>",
        "zip": b"PK\x03\x04\x14" + bytes(90),
        "gzip of a png": b"\x1f\x8b\x08" + bytes(30) + picture,
        "png after a byte": b"\0" + picture,
        "png after a line": b"\n" + picture,
        "ico": b"\0\0\x01\0\x01\0\x10\x10\0\0" + bytes(90),
        "photoshop": b"8BPS\0\x01" + bytes(90),
        "mp4": b"\0\0\0\x18ftypmp42" + bytes(90),
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(90),
        "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(90),
        "jpeg xl": b"\xff\x0a" + bytes(90),
        "jpeg xl in boxes": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(90),
        "openexr": b"\x76\x2f\x31\x01" + bytes(90),
        "fits": b"SIMPLE  =                    T" + bytes(90),
        "radiance": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n",
        "vips": b"\x08\xf2\xa6\xb6" + bytes(90),
        "matlab": b"MATLAB 5.0 MAT-file" + bytes(190),
        "mng": b"\x8aMNG\r\n\x1a\n" + bytes(90),
        "targa": bytes(2) + b"\x02" + bytes(9) + b"\x01\0\x01\0\x18\0" + bytes(9),
        "magick script": b"push graphic-context\nviewbox 0 0 9 9\nimage over 0,0 0,0 '|id'\n",
        "elf": b"\x7fELF\x02\x01\x01" + bytes(90),
        "riff that is sound": b"RIFF\x24\0\0\0WAVEfmt " + bytes(90),
        "bm of a sentence": b"BM is how this sentence begins, and nothing else",
    }.items():
        yield Bad(name, content, UNKNOWN)
    for name in ("PPM", "ICO", "PCX", "SGI", "EPS", "TGA", "DDS", "JPEG2000"):
        yield from _by_pillow(name)


def _by_pillow(name: str) -> Iterator[Bad]:
    """A good picture in a format that Pillow could read as well."""
    out = io.BytesIO()
    try:
        Image.new("RGB", (64, 64)).save(out, name)
    except (KeyError, OSError):
        return
    yield Bad(f"a good {name}", out.getvalue(), UNKNOWN)


def _at(content: bytes, at: int, changed: bytes) -> bytes:
    return content[:at] + changed + content[at + len(changed) :]


def _flipped(content: bytes, at: int) -> bytes:
    return _at(content, at, bytes([content[at] ^ 0xFF]))


def odd_but_fine() -> dict[str, bytes]:
    """Files that look wrong and are pictures all the same: what is wrong makes no pixel."""
    picture = Image.new("RGB", (20, 12), (200, 30, 40))
    whole = saved(picture, format="PNG")
    jpeg = saved(picture, format="JPEG")
    bomb = _packed_zeros(1 << 30)
    return {
        "png with a broken profile": saved(picture, format="PNG", icc_profile=b"no profile" * 9),
        "jpeg with a broken profile": saved(picture, format="JPEG", icc_profile=b"no profile" * 9),
        "jpeg with broken exif": saved(
            picture, format="JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"
        ),
        "jpeg with exif of a loop": saved(
            picture, format="JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0"
        ),
        "png whose profile is a bomb": _with(whole, chunk(b"iCCP", b"x\0\0" + bomb)),
        "png whose text is a bomb": _with(whole, chunk(b"zTXt", b"x\0\0" + bomb)),
        "png whose international text is a bomb": _with(
            whole, chunk(b"iTXt", b"x\0\1\0\0\0" + bomb)
        ),
        "png with a text's checksum wrong": _with(whole, chunk(b"tEXt", b"a\0b")[:-1] + b"\0"),
        "png and a zip": whole + b"PK\x03\x04" + bytes(90) + b"PK\x05\x06" + bytes(18),
        "png and a page": whole + b"<html><script>alert(1)</script></html>",
        "jpeg and a page": jpeg + b"<html><script>alert(1)</script></html>",
        "jpeg with a page in its comment": saved(
            picture, format="JPEG", comment=b"<script>1</script>"
        ),
        "gif that is a script": _gif_script(),
        "png and another png": whole + saved(Image.new("L", (9, 9)), format="PNG"),
        "png bomb behind the last row": _after_last_row(),
        "jpeg without Huffman tables": _without_huffman(jpeg),
        "one pixel": saved(Image.new("RGB", (1, 1)), format="PNG"),
        "100000 x 1": saved(Image.new("RGB", (100_000, 1), (9, 200, 9)), format="PNG"),
        "1 x 100000": saved(Image.new("RGB", (1, 100_000), (9, 200, 9)), format="PNG"),
        "tiff of 100 pages": saved(
            picture, format="TIFF", save_all=True, append_images=[picture] * 99
        ),
        "gif of 100 frames": gif_frames(100),
        "webp of 100 frames": webp_frames(100),
    }


def _without_huffman(jpeg: bytes) -> bytes:
    """As frames of motion JPEG are: the standard's own tables are meant, and these are they."""
    return jpeg[: jpeg.index(b"\xff\xc4")] + jpeg[jpeg.index(b"\xff\xda") :]


def _with(whole: bytes, extra: bytes) -> bytes:
    at = whole.index(b"IDAT") - 4
    return whole[:at] + extra + whole[at:]


def _gif_script() -> bytes:
    """A GIF whose width is a comment's beginning in JavaScript: GIF89a/* … */=1."""
    whole = bytearray(saved(Image.new("L", (0x2A2F, 1)), format="GIF"))
    assert whole[6:8] == b"/*"
    return bytes(whole) + b"*/=1;alert(1)"


def _after_last_row() -> bytes:
    """All its rows, then a gigabyte in the same stream of deflate."""
    rows = _packed_zeros(1 << 30)
    return png((50, 40, 8, 2), b"")[:33] + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
