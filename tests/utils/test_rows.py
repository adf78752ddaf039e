"""Rows read one after another are the pixels that the whole-picture reader finds."""

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.utils.specimens import SPECIMENS, U8, far, gradient, png, saved, tags, tiff, write
from utils.containers import read_header
from utils.image_utils import read_pixels
from utils.pictures import PictureError
from utils.rows import Cropped, PictureFile, Rows, held_bytes, narrowed, open_picture, spilled_bytes

EXIF_TURNED = struct.pack("<2sHIHHHIHH", b"II", 42, 8, 1, 0x112, 3, 1, 6, 0)


def opened(path: Path) -> PictureFile:
    header = read_header(path)
    scratch = path.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    picture = open_picture(path, header=header, scratch=scratch)
    for _ in picture.prepare():
        pass
    return picture


def all_rows(rows: Rows, *, at_once: int = 7) -> U8:
    strips = []
    while len(strip := rows.read(at_once)):
        strips.append(strip)
    pixels: U8 = np.concatenate(strips)
    assert pixels.shape == (rows.height, rows.width, rows.channels)
    return pixels


def both(path: Path) -> tuple[U8, U8]:
    """RGBA by rows, and RGBA of the whole-picture reader."""
    pixels = all_rows(opened(path).rows())
    rgb, alpha = read_pixels(path, header=read_header(path))
    solid = np.full(rgb.shape[:2], 255, np.uint8)
    return as_rgba(pixels), np.dstack((rgb, solid if alpha is None else alpha))


def as_rgba(pixels: U8) -> U8:
    channels = pixels.shape[2]
    grey = np.repeat(pixels[..., :1], 3, axis=2) if channels < 3 else pixels[..., :3]
    alpha = pixels[..., -1:] if channels in (2, 4) else np.full_like(pixels[..., :1], 255)
    return np.concatenate((grey, alpha), axis=2)


@pytest.mark.parametrize("kind", SPECIMENS)
def test_every_kind_of_file_reads_alike_by_rows_and_whole(kind: str, tmp_path: Path) -> None:
    got, wanted = both(write(tmp_path / "x", SPECIMENS[kind]))
    # the wheels of pyvips and Pillow bring their own libwebp, whose upsampling may round apart
    assert far(got, wanted) <= (1 if kind.startswith("webp") else 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png_reads_alike(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(gradient())
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.fromarray(gradient()[..., 1]))
    if mode == "I;16":
        picture = Image.fromarray(gradient()[..., 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        picture = picture.convert(mode)
    got, wanted = both(write(tmp_path / "x", saved(picture, format="PNG")))
    assert far(got, wanted) == 0


@pytest.mark.parametrize(
    ("mode", "key"), [("P", b"\x00\x80\xff" * 9), ("RGB", (32, 55, 188)), ("L", 66)]
)
def test_transparent_colours_and_palettes_read_alike(
    mode: str, key: object, tmp_path: Path
) -> None:
    picture = Image.fromarray(gradient())
    picture = picture.quantize(16) if mode == "P" else picture.convert(mode)
    got, wanted = both(write(tmp_path / "x", saved(picture, format="PNG", transparency=key)))
    assert far(got, wanted) == 0
    assert got[..., 3].min() < 255


def test_few_bits_of_grey_are_stretched(tmp_path: Path) -> None:
    rows = b"\0\x1b" * 3  # the four greys of two bits
    path = write(tmp_path / "x", png((4, 3, 2, 0), rows))
    assert all_rows(opened(path).rows())[0, :, 0].tolist() == [0, 85, 170, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_rounded(channels: int, tmp_path: Path) -> None:
    values = np.arange(0, 65536, 331, dtype=np.uint16).reshape(11, -1)
    samples = np.repeat(values[..., None], channels, axis=2)
    body = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    colour_type = {1: 0, 3: 2}[channels]
    path = write(tmp_path / "x", png((values.shape[1], 11, 16, colour_type), body))
    pixels = all_rows(opened(path).rows())
    assert far(pixels[..., 0], np.round(values / 257).astype(np.uint8)) == 0


def test_narrowing_rounds_every_sample() -> None:
    samples = np.arange(65536, dtype=np.uint16)
    exact = (samples.astype(np.int64) * 255 * 2 + 65535) // (2 * 65535)
    assert np.array_equal(narrowed(samples), exact)


def test_colour_profiles_apply_to_every_strip(tmp_path: Path) -> None:
    lab = ImageCms.createProfile("LAB")
    wrong = ImageCms.ImageCmsProfile(lab).tobytes()
    swapped = saved(Image.fromarray(gradient()), format="PNG", icc_profile=wrong)
    got, wanted = both(write(tmp_path / "x", swapped))
    assert far(got, wanted) == 0


def test_cmyk_reads_alike_and_becomes_rgb(tmp_path: Path) -> None:
    content = saved(Image.fromarray(gradient()).convert("CMYK"), format="JPEG", quality=95)
    path = write(tmp_path / "x", content)
    got, wanted = both(path)
    assert far(got, wanted) <= 1
    assert opened(path).channels == 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_turned_pictures_come_upright(name: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    content = saved(Image.fromarray(gradient()), format=name, exif=exif, lossless=True)
    path = write(tmp_path / "x", content)
    got, wanted = both(path)
    assert far(got, wanted) == 0
    picture = opened(path)
    assert (picture.raw is None) == (orientation == 1 and name != "WEBP")


def test_grey_stays_grey_and_alpha_stays_though_opaque(tmp_path: Path) -> None:
    grey = Image.fromarray(gradient()[..., 0])
    assert opened(write(tmp_path / "a", saved(grey, format="PNG"))).channels == 1
    opaque = Image.fromarray(gradient()).convert("RGBA")
    assert opened(write(tmp_path / "b", saved(opaque, format="PNG"))).channels == 4


@pytest.mark.parametrize(
    ("kind", "streams"),
    [
        ("png", True),
        ("jpeg", True),
        ("tiff", True),
        ("jpeg-progressive", False),
        ("tiff-lzw", False),
        ("webp", False),
        ("gif", False),
    ],
)
def test_what_streams_needs_neither_memory_nor_disk(
    kind: str, streams: bool, tmp_path: Path
) -> None:
    path = write(tmp_path / "x", SPECIMENS[kind])
    header = read_header(path)
    assert (held_bytes(header) == 0) == streams
    assert (spilled_bytes(header) == 0) == streams
    picture = opened(path)
    assert (picture.raw is None) == streams
    if picture.raw is not None:
        assert picture.raw.stat().st_size <= spilled_bytes(header)


def test_a_progressive_jpeg_holds_its_coefficients(tmp_path: Path) -> None:
    picture = Image.fromarray(gradient(64, 64))
    sizes = [
        held_bytes(read_header(write(tmp_path / "x", saved(picture, format="JPEG", **options))))
        for options in ({"progressive": True, "subsampling": s} for s in (0, 1, 2))
    ]
    assert sizes == [6 * 64 * 64, 4 * 64 * 64, 3 * 64 * 64]


def test_an_interlaced_png_reads_alike_and_is_held(tmp_path: Path) -> None:
    path = write(tmp_path / "x", interlaced(gradient(9, 13)))
    assert held_bytes(read_header(path)) > 0
    got, wanted = both(path)
    assert far(got, wanted) == 0
    assert far(got[..., :3], gradient(9, 13)) == 0


def interlaced(pixels: U8) -> bytes:
    """Adam7 of an RGB picture, rows unfiltered."""
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4)]
    passes += [(2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    parts = (pixels[y0::dy, x0::dx] for y0, dy, x0, dx in passes)
    body = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    plain = bytearray(png((pixels.shape[1], pixels.shape[0], 8, 2), body))
    plain[28] = 1
    plain[29:33] = struct.pack(">I", _crc(plain[12:29]))
    return bytes(plain)


def _crc(content: bytes | bytearray) -> int:
    import zlib

    return zlib.crc32(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda page: [(*each[:2], (7,)) if each[0] == 0x103 else each for each in page],
        lambda page: [(*each[:2], (0,)) if each[0] == 0x106 else each for each in page],
        lambda page: [*page, (0x11C, 3, (2,))],
    ],
    ids=["jpeg-in-tiff", "white-is-zero", "planes"],
)
def test_unusual_tiffs_are_left_to_the_whole_reader(
    change: Callable[[list[tuple[int, int, tuple[int, ...]]]], object], tmp_path: Path
) -> None:
    page = tags(32, 24, bits=(8, 8, 8), photometric=2)
    content = tiff(change(page), gradient().tobytes())  # type: ignore[arg-type]  # still a page
    assert not read_header(write(tmp_path / "x", content)).by_rows


def test_a_box_is_cut_out_of_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "x", saved(Image.fromarray(gradient()), format="PNG"))
    box = Cropped(opened(path).rows(), (3, 5, 20, 17))
    assert np.array_equal(all_rows(box, at_once=5), gradient()[5:17, 3:20])


def test_rows_can_be_read_again(tmp_path: Path) -> None:
    for kind in ("png", "webp"):
        folder = tmp_path / kind
        folder.mkdir()
        picture = opened(write(folder / "x", SPECIMENS[kind]))
        assert np.array_equal(all_rows(picture.rows()), all_rows(picture.rows()))


def test_damage_inside_the_pixels_is_an_error(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in gradient()[:10])
    path = write(tmp_path / "x", png((32, 24, 8, 2), rows))
    with pytest.raises(PictureError):
        all_rows(opened(path).rows())


def test_metadata_never_reaches_the_decoder(tmp_path: Path) -> None:
    noise = np.zeros((8, 8, 3), np.uint8)
    body = b"".join(b"\0" + row.tobytes() for row in noise)
    path = write(tmp_path / "x", png((8, 8, 8, 2), body, (b"zTXt", b"broken\0\0" + b"x" * 99)))
    picture = opened(path)
    assert b"zTXt" not in picture.path.read_bytes()
    assert all_rows(picture.rows()).max() == 0


@pytest.mark.parametrize("kind", SPECIMENS)
def test_a_damaged_file_gives_pixels_or_a_picture_error_and_nothing_else(
    kind: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(len(kind))
    for each in range(60):
        content = bytearray(SPECIMENS[kind])
        for place in rng.integers(0, len(content), 1 + each % 4):
            content[place] = rng.integers(0, 256)
        folder = tmp_path / str(each)
        folder.mkdir()
        with contextlib.suppress(PictureError):
            rows = opened(write(folder / "x", bytes(content[: rng.integers(99, 2 * len(content))])))
            all_rows(rows.rows())
