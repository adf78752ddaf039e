"""Picture files for the tests: made byte by byte or by Pillow, each of a kind the service reads."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from utils.containers import read_header
from utils.image_utils import read_pixels

U8 = NDArray[np.uint8]

# JPEG at quality 95 without subsampling moves smooth colours by a few levels; three is its rounding
# through YCbCr twice, eight covers what the DCT does to a gradient
JPEG_TOLERANCE = 8

HAS_AVIF = features.check("avif")
needs_avif = pytest.mark.skipif(not HAS_AVIF, reason="Pillow without AVIF")


def read(path: Path) -> tuple[U8, U8 | None]:
    header = read_header(path)
    assert header.complete
    return read_pixels(path, header=header)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def saved(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, **options)  # type: ignore[arg-type]  # Pillow types every option apart
    return file.getvalue()


def gradient(height: int = 24, width: int = 32) -> U8:
    """A smooth picture with no symmetry, so that every turn of it differs."""
    y, x = np.mgrid[0:height, 0:width]
    bands = [x * 255 // (width - 1), y * 255 // (height - 1), 200 - x * 3]
    return np.stack(bands, axis=-1).astype(np.uint8)


def far(got: U8, wanted: U8) -> int:
    assert got.shape == wanted.shape
    return int(np.abs(got.astype(int) - wanted).max())


def png(ihdr: tuple[int, int, int, int], rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of (width, height, depth, colour type) with unfiltered rows already led by zeros."""
    head = struct.pack(">IIBBBBB", *ihdr, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def tiff(
    tags: list[tuple[int, int, tuple[int, ...]]],
    strip: bytes,
    *,
    order: str = "<",
    big: bool = False,
) -> bytes:
    """A one-strip TIFF with its pixels after the header; kinds 3 (short) and 4 (long)."""
    word = "Q" if big else "I"
    size = struct.calcsize(word)
    mark = b"II" if order == "<" else b"MM"
    first = 16 if big else 8
    entries = sorted([*tags, (0x111, 4, (first,)), (0x117, 4, (len(strip),))])
    at = first + len(strip) + len(strip) % 2
    extra_at = at + (8 if big else 2) + len(entries) * (4 + 2 * size) + size
    table, extra = b"", b""
    for tag, kind, values in entries:
        packed = struct.pack(order + ("H" if kind == 3 else "I") * len(values), *values)
        held = packed.ljust(size, b"\0")
        if len(packed) > size:
            held = struct.pack(order + word, extra_at + len(extra))
            extra += packed
        table += struct.pack(order + "HH" + word, tag, kind, len(values)) + held
    magic = struct.pack(order + "HHHQ", 43, 8, 0, at) if big else struct.pack(order + "HI", 42, at)
    count = struct.pack(order + ("Q" if big else "H"), len(entries))
    body = strip + b"\0" * (len(strip) % 2)
    return mark + magic + body + count + table + struct.pack(order + word, 0) + extra


def tags(
    width: int, height: int, *, bits: tuple[int, ...], photometric: int
) -> list[tuple[int, int, tuple[int, ...]]]:
    return [
        (0x100, 4, (width,)),
        (0x101, 4, (height,)),
        (0x102, 3, bits),
        (0x103, 3, (1,)),
        (0x106, 3, (photometric,)),
        (0x115, 3, (len(bits),)),
        (0x116, 4, (height,)),
    ]


def specimens() -> dict[str, bytes]:
    """One ordinary file of each kind, with noise so that its pixel bytes are most of it."""
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8))
    frames = [noise.transpose(Image.Transpose.ROTATE_180)]
    kinds: dict[str, bytes] = {
        "png": saved(noise, format="PNG"),
        "png-palette": saved(noise.quantize(16), format="PNG"),
        "apng": saved(noise, format="PNG", save_all=True, append_images=frames),
        "jpeg": saved(noise, format="JPEG", quality=90, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
        "jpeg-progressive": saved(noise, format="JPEG", progressive=True),
        "webp": saved(noise, format="WEBP"),
        "webp-lossless": saved(noise, format="WEBP", lossless=True),
        "webp-animated": saved(noise, format="WEBP", save_all=True, append_images=frames),
        "webp-alpha": saved(noise.convert("RGBA"), format="WEBP", exif=b"Exif\0\0II*\0"),
        "tiff": saved(noise, format="TIFF"),
        "tiff-lzw": saved(noise, format="TIFF", compression="tiff_lzw"),
        "tiff-jpeg": saved(noise, format="TIFF", compression="jpeg"),
        "tiff-pages": saved(noise, format="TIFF", save_all=True, append_images=frames),
        "tiff-pixels-first": tiff(tags(50, 40, bits=(8, 8, 8), photometric=2), noise.tobytes()),
        "bmp": saved(noise, format="BMP"),
        "bmp-palette": saved(noise.quantize(16), format="BMP"),
        "gif": saved(noise, format="GIF"),
        "gif-animated": saved(noise, format="GIF", save_all=True, append_images=frames),
    }
    if HAS_AVIF:
        kinds["avif"] = saved(noise, format="AVIF")
    return kinds


SPECIMENS = specimens()
