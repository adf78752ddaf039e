"""A customer's file becomes a SourceImage, or an error a customer understands."""

import hashlib
import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.errors import (
    EmptyFile,
    ImageTruncated,
    TooManyPixels,
    UnreadableImage,
    UnsupportedMediaType,
)
from services.intake import decode

LIMIT = 64_000_000


def saved(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, **options)  # type: ignore[arg-type]  # Pillow types every option apart
    return file.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    samples = np.random.default_rng(2).integers(0, 256, (30, 20, bands), np.uint8)
    return Image.fromarray(samples, mode=mode)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "picture"


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises its pixels and holds none."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + body + struct.pack(">I", zlib.crc32(body))


def tiff_header(width: int, height: int) -> bytes:
    entries = [(0x100, width), (0x101, height), (0x111, 8), (0x117, 8)]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4)


def test_the_record_describes_the_file(path: Path) -> None:
    content = saved(noise("RGBA"), format="PNG")
    path.write_bytes(content)
    source = decode(path, max_pixels=LIMIT)
    assert (source.width, source.height) == (20, 30)
    assert source.format == "PNG"
    assert source.bytes == len(content)
    assert source.sha256 == hashlib.sha256(content).hexdigest()
    assert source.had_alpha
    assert source.alpha is not None
    assert np.array_equal(np.dstack([source.rgb, source.alpha]), np.asarray(noise("RGBA")))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_every_promised_format_is_taken_in(path: Path, name: str) -> None:
    path.write_bytes(saved(noise(), format=name))
    source = decode(path, max_pixels=LIMIT)
    assert source.format == name
    assert source.rgb.shape == (30, 20, 3)
    assert source.rgb.dtype == np.uint8
    assert source.rgb.flags.c_contiguous
    assert not source.had_alpha


def test_a_phones_picture_is_a_jpeg(path: Path) -> None:
    path.write_bytes(saved(noise(), format="MPO", save_all=True, append_images=[noise()]))
    assert decode(path, max_pixels=LIMIT).format == "JPEG"


def test_a_turned_picture_has_its_upright_size(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    path.write_bytes(saved(noise(), format="JPEG", exif=exif))
    source = decode(path, max_pixels=LIMIT)
    assert (source.width, source.height) == (30, 20)
    assert source.rgb.flags.c_contiguous


def test_an_opaque_alpha_is_no_alpha(path: Path) -> None:
    path.write_bytes(saved(noise().convert("RGBA"), format="PNG"))
    assert not decode(path, max_pixels=LIMIT).had_alpha


def test_zero_bytes_are_an_empty_file(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(EmptyFile):
        decode(path, max_pixels=LIMIT)


@pytest.mark.parametrize(
    "content",
    [
        b"just some text, long enough to hold any signature there might be",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b"%PDF-1.4\n",
        b"%!PS-Adobe-3.0\n",
        b"PK\x03\x04\x14\0\0\0",
        b"\0\0\x01\0\x01\0",
        b"x",
    ],
    ids=["text", "svg", "pdf", "ps", "zip", "ico", "byte"],
)
def test_other_files_are_unsupported_and_the_formats_named(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UnsupportedMediaType) as caught:
        decode(path, max_pixels=LIMIT)
    assert caught.value.hint is not None
    assert "PNG" in caught.value.hint


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_a_cut_file_is_truncated(path: Path, name: str) -> None:
    whole = saved(noise(), format=name)
    for length in (len(whole) - 1, len(whole) * 3 // 4, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageTruncated) as caught:
            decode(path, max_pixels=LIMIT)
        assert caught.value.hint is not None


def test_a_damaged_file_is_unreadable(path: Path) -> None:
    content = bytearray(saved(noise(), format="PNG"))
    content[60] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UnreadableImage):
        decode(path, max_pixels=LIMIT)


@pytest.mark.parametrize(
    "content",
    [
        png_header(60_000, 60_000),
        png_header(2**31 - 1, 2**31 - 1),
        tiff_header(2**32 - 1, 2**32 - 1),
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";",
        b"BM" + struct.pack("<IHHI", 0, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
        b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6 + bytes(30),
        b"\xff\xd8\xff\xc0\0\x0b\x08" + struct.pack(">HH", 65500, 65500) + b"\x01\x01\x11\0"
        + b"\xff\xd9",
    ],
    ids=["png", "png largest", "tiff", "gif", "bmp", "webp", "jpeg"],
)  # fmt: skip
def test_a_bomb_is_refused_by_its_header_at_once(path: Path, content: bytes) -> None:
    if content.startswith(b"GIF"):
        frame = b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x01\x00\x00"
        content = content[:-1] + frame + b";"
    path.write_bytes(content)
    started = time.perf_counter()
    with pytest.raises(TooManyPixels) as caught:
        decode(path, max_pixels=LIMIT)
    assert time.perf_counter() - started < 1
    assert caught.value.limit == LIMIT
    assert caught.value.actual is not None
    assert caught.value.actual > LIMIT


def test_the_limit_itself_is_allowed(path: Path) -> None:
    path.write_bytes(saved(noise(), format="BMP"))
    assert decode(path, max_pixels=600).width == 20
    with pytest.raises(TooManyPixels) as caught:
        decode(path, max_pixels=599)
    assert (caught.value.limit, caught.value.actual) == (599, 600)


def test_a_limit_above_pillows_own_is_ours_to_set(path: Path) -> None:
    """`Image.open` would warn at 89.5 million pixels; its number is neither asked nor changed."""
    before = Image.MAX_IMAGE_PIXELS
    path.write_bytes(saved(Image.new("1", (20_000, 4_500)), format="PNG"))
    assert decode(path, max_pixels=90_000_000).width == 20_000
    assert before == Image.MAX_IMAGE_PIXELS


def test_the_test_pictures_are_taken_in() -> None:
    for photo in (Path(__file__).parents[1] / "data").rglob("*.*"):
        if photo.suffix in (".jpg", ".png"):
            source = decode(photo, max_pixels=LIMIT)
            with Image.open(photo, formats=("JPEG", "PNG")) as reference:
                assert (source.width, source.height) == reference.size
