"""Every kind of picture file, made here byte by byte or by Pillow, becomes the pixels it means."""

import io
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin, features

from utils import image_utils
from utils.image_utils import (
    CorruptPicture,
    CutShort,
    Header,
    UnknownFormat,
    read_header,
    read_pixels,
)

U8 = NDArray[np.uint8]

# JPEG at quality 95 without subsampling moves smooth colours by a few levels; three is its rounding
# through YCbCr twice, eight covers what the DCT does to a gradient
JPEG_TOLERANCE = 8
# an 8-bit profile transform rounds once on the way in and once on the way out
ICC_TOLERANCE = 2


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


def profile(space: bytes, tag_table: list[tuple[bytes, bytes]], *, pcs: bytes = b"XYZ ") -> bytes:
    """An ICC version 2 profile of a colour space with the given tags (ICC.1:2001-04, 6 and 7)."""
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061)
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    table = [(b"desc", text), (b"cprt", b"text\0\0\0\0none\0"), (b"wtpt", white), *tag_table]
    at = 128 + 4 + 12 * len(table)
    index, body = struct.pack(">I", len(table)), b""
    for name, content in table:
        index += name + struct.pack(">II", at + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x02100000, kind, space, pcs)
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + index + body


def gamma_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def display_p3() -> bytes:
    """Display P3 primaries adapted to D50 (Apple's published matrix) with gamma 2.2."""
    columns = {
        b"rXYZ": (0.51512, 0.2412, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.1571, 0.06657, 0.78407),
    }
    primaries = [
        (name, b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(v * 65536) for v in column)))
        for name, column in columns.items()
    ]
    curves = [(name, gamma_curve(2.2)) for name in (b"rTRC", b"gTRC", b"bTRC")]
    return profile(b"RGB ", primaries + curves)


def inks() -> bytes:
    """A CMYK profile with a two-point table: lightness falls with ink, cyan alone is blue."""
    identity = bytes(range(256))
    table = b""
    for corner in range(16):
        ink = [corner >> shift & 1 for shift in (3, 2, 1, 0)]
        light = max(0, 255 - 90 * sum(ink[:3]) - 255 * ink[3])
        table += bytes([light, 128, 128 - 60 * (ink[0] and not any(ink[1:]))])
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + identity * 4 + table + identity * 3
    return profile(b"CMYK", [(b"A2B0", lut)], pcs=b"Lab ")


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


class TestFormats:
    """Each format's pixels come out as they went in."""

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("PNG", {}),
            ("WEBP", {"lossless": True}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("TIFF", {"compression": "tiff_adobe_deflate"}),
            ("BMP", {}),
        ],
    )
    def test_lossless_rgb_is_exact(
        self, tmp_path: Path, name: str, options: dict[str, object]
    ) -> None:
        path = write(tmp_path / "x", saved(Image.fromarray(gradient()), format=name, **options))
        rgb, alpha = read(path)
        assert read_header(path).format == name
        assert np.array_equal(rgb, gradient())
        assert alpha is None

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
    def test_jpeg_is_close(self, tmp_path: Path, options: dict[str, object]) -> None:
        content = saved(
            Image.fromarray(gradient()), format="JPEG", quality=95, subsampling=0, **options
        )
        rgb, alpha = read(write(tmp_path / "x", content))
        assert far(rgb, gradient()) <= JPEG_TOLERANCE
        assert alpha is None

    def test_grey_jpeg_has_three_equal_channels(self, tmp_path: Path) -> None:
        grey = gradient()[:, :, 0]
        rgb, _ = read(write(tmp_path / "x", saved(Image.fromarray(grey), format="JPEG")))
        assert far(rgb, np.repeat(grey[:, :, None], 3, axis=2)) <= JPEG_TOLERANCE

    @pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
    def test_avif_is_close(self, tmp_path: Path) -> None:
        content = saved(
            Image.fromarray(gradient()), format="AVIF", quality=100, subsampling="4:4:4"
        )
        rgb, _ = read(write(tmp_path / "x", content))
        assert far(rgb, gradient()) <= JPEG_TOLERANCE

    def test_mpo_of_a_phone_is_a_jpeg(self, tmp_path: Path) -> None:
        first, second = Image.fromarray(gradient()), Image.new("RGB", (32, 24))
        content = saved(first, format="MPO", save_all=True, append_images=[second], quality=95)
        path = write(tmp_path / "x", content)
        assert read_header(path).format == "JPEG"
        assert far(read(path)[0], gradient()) <= 4 * JPEG_TOLERANCE  # chroma is subsampled

    def test_interlaced_png_is_read(self, tmp_path: Path) -> None:
        head = struct.pack(">IIBBBBB", 2, 1, 8, 0, 0, 0, 1)
        rows = zlib.compress(b"\0\x0a" + b"\0\xc8")  # pass 1 holds x=0, pass 6 holds x=1
        parts = [(b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")]
        content = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
        assert read(write(tmp_path / "x", content))[0][0, :, 0].tolist() == [10, 200]

    def test_a_picture_of_many_strips_is_whole(self, tmp_path: Path) -> None:
        tall = np.random.default_rng(1).integers(0, 256, (3000, 401, 3), np.uint8)
        path = write(tmp_path / "x", saved(Image.fromarray(tall), format="BMP"))
        assert np.array_equal(read(path)[0], tall)

    @pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG"])
    def test_first_frame_of_an_animation(self, tmp_path: Path, name: str) -> None:
        frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
        content = saved(
            frames[0], format=name, save_all=True, append_images=frames[1:], lossless=True
        )
        rgb, alpha = read(write(tmp_path / "x", content))
        assert (rgb == (255, 0, 0)).all()
        assert alpha is None

    def test_broken_animation_control_neither_fails_nor_warns(self, tmp_path: Path) -> None:
        content = png((1, 1, 8, 0), b"\0\x50", (b"acTL", struct.pack(">II", 0, 0)))
        assert read(write(tmp_path / "x", content))[0].tolist() == [[[80, 80, 80]]]

    def test_first_page_of_a_tiff(self, tmp_path: Path) -> None:
        pages = [Image.new("L", (5, 4), 90), Image.new("L", (5, 4), 10)]
        content = saved(pages[0], format="TIFF", save_all=True, append_images=pages[1:])
        assert (read(write(tmp_path / "x", content))[0] == 90).all()

    @pytest.mark.parametrize(
        ("order", "big"), [("<", False), (">", False), ("<", True)], ids=["II", "MM", "bigtiff"]
    )
    def test_tiff_in_either_byte_order(self, tmp_path: Path, order: str, big: bool) -> None:
        table = tags(3, 2, bits=(8, 8, 8), photometric=2)
        pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
        content = tiff(table, pixels.tobytes(), order=order, big=big)
        assert np.array_equal(read(write(tmp_path / "x", content))[0], pixels)

    def test_top_down_bmp_and_rle_bmp(self, tmp_path: Path) -> None:
        head = struct.pack("<IiiHHIIiiII", 40, 2, -2, 1, 24, 0, 0, 0, 0, 0, 0)
        rows = bytes([0, 0, 255, 0, 255, 0, 0, 0, 255, 0, 0, 9, 9, 9, 0, 0])
        content = b"BM" + struct.pack("<IHHI", 70, 0, 0, 54) + head + rows
        rgb, _ = read(write(tmp_path / "x", content))
        assert rgb.tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]]

        coded = bytes([2, 1, 0, 0, 2, 0, 0, 1])  # two of 1, end of line, two of 0, end
        head = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 8, 1, len(coded), 0, 0, 2, 0)
        palette = bytes([0, 0, 0, 0, 30, 20, 10, 0])
        content = b"BM" + struct.pack("<IHHI", 0, 0, 0, 62) + head + palette + coded
        rgb, _ = read(write(tmp_path / "x", content))
        assert rgb.tolist() == [[[0, 0, 0]] * 2, [[10, 20, 30]] * 2]


class TestDepth:
    """Samples wider or narrower than eight bits land on the nearest of 256 levels."""

    SAMPLES = (0, 127, 128, 129, 385, 386, 32767, 32768, 65406, 65407, 65535)

    def nearest(self) -> list[int]:
        return [round(v / 257) for v in self.SAMPLES]

    def test_16_bit_grey_png_is_rounded(self, tmp_path: Path) -> None:
        rows = b"\0" + struct.pack(f">{len(self.SAMPLES)}H", *self.SAMPLES)
        rgb, _ = read(write(tmp_path / "x", png((len(self.SAMPLES), 1, 16, 0), rows)))
        assert rgb[0, :, 0].tolist() == self.nearest()

    @pytest.mark.parametrize(("order", "photometric"), [("<", 1), (">", 1), ("<", 0)])
    def test_16_bit_grey_tiff_is_rounded(
        self, tmp_path: Path, order: str, photometric: int
    ) -> None:
        count = len(self.SAMPLES)
        table = tags(count, 1, bits=(16,), photometric=photometric)
        content = tiff(table, struct.pack(f"{order}{count}H", *self.SAMPLES), order=order)
        levels = self.nearest() if photometric else [255 - level for level in self.nearest()]
        assert read(write(tmp_path / "x", content))[0][0, :, 0].tolist() == levels

    def test_12_bit_grey_tiff_uses_its_own_white(self, tmp_path: Path) -> None:
        table = tags(2, 1, bits=(12,), photometric=1)
        content = tiff(table, bytes([0xFF, 0xF8, 0x00]))  # 4095, 2048
        assert read(write(tmp_path / "x", content))[0][0, :, 0].tolist() == [255, 128]

    @pytest.mark.parametrize(("colour", "bands"), [(2, 3), (6, 4)])
    def test_16_bit_colour_png_keeps_its_high_byte(
        self, tmp_path: Path, colour: int, bands: int
    ) -> None:
        """Pillow drops the low byte: exact for widened 8-bit, else one level low at most."""
        samples = np.array([[v] * bands for v in self.SAMPLES], ">u2")
        content = png((len(self.SAMPLES), 1, 16, colour), b"\0" + samples.tobytes())
        rgb, _ = read(write(tmp_path / "x", content))
        assert rgb[0, :, 0].tolist() == [v >> 8 for v in self.SAMPLES]
        assert (
            max(abs(a - b) for a, b in zip(rgb[0, :, 0].tolist(), self.nearest(), strict=True)) <= 1
        )

    @pytest.mark.parametrize("level", [0, 1, 77, 254, 255])
    def test_8_bit_levels_widened_to_16_come_back_exactly(self, tmp_path: Path, level: int) -> None:
        content = png((1, 1, 16, 2), b"\0" + struct.pack(">3H", *[level * 257] * 3))
        assert read(write(tmp_path / "x", content))[0][0, 0].tolist() == [level] * 3

    def test_16_bit_grey_with_alpha(self, tmp_path: Path) -> None:
        content = png((1, 1, 16, 4), b"\0" + struct.pack(">2H", 100 * 257, 40 * 257))
        rgb, alpha = read(write(tmp_path / "x", content))
        assert rgb.tolist() == [[[100, 100, 100]]]
        assert alpha is not None
        assert alpha.tolist() == [[40]]

    @pytest.mark.parametrize(
        ("samples", "levels"),
        [
            ([0.0, 0.5, 1.0], [0, 128, 255]),
            ([0.0, 100.0, 255.0], [0, 100, 255]),
            ([0.0, 25700.0, 65535.0], [0, 100, 255]),
            ([-1.0, float("nan"), 1.0], [0, 0, 255]),
            ([0.0, float("inf"), 1.0], [0, 255, 255]),
        ],
    )
    def test_float_tiff(self, tmp_path: Path, samples: list[float], levels: list[int]) -> None:
        picture = Image.fromarray(np.array([samples], np.float32))
        rgb, _ = read(write(tmp_path / "x", saved(picture, format="TIFF")))
        assert rgb[0, :, 0].tolist() == levels

    def test_32_bit_integer_tiff(self, tmp_path: Path) -> None:
        picture = Image.fromarray(np.array([[0, 25700, 65535]], np.int32))
        rgb, _ = read(write(tmp_path / "x", saved(picture, format="TIFF")))
        assert rgb[0, :, 0].tolist() == [0, 100, 255]

    @pytest.mark.parametrize("name", ["PNG", "TIFF", "BMP"])
    def test_one_bit(self, tmp_path: Path, name: str) -> None:
        bits = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)
        content = saved(Image.fromarray(bits).convert("1"), format=name)
        assert np.array_equal(read(write(tmp_path / "x", content))[0][:, :, 1], bits)


class TestAlpha:
    """Alpha is kept apart, straight, and only where it says something."""

    def rgba(self) -> U8:
        alpha = np.broadcast_to(np.arange(32, dtype=np.uint8) * 8, (24, 32))
        return np.dstack([gradient(), alpha])

    @pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
    def test_rgba_is_straight_and_exact(self, tmp_path: Path, name: str) -> None:
        content = saved(Image.fromarray(self.rgba()), format=name, lossless=True, exact=True)
        rgb, alpha = read(write(tmp_path / "x", content))
        assert np.array_equal(rgb, self.rgba()[:, :, :3])
        assert alpha is not None
        assert np.array_equal(alpha, self.rgba()[:, :, 3])

    def test_an_opaque_alpha_channel_counts_as_none(self, tmp_path: Path) -> None:
        picture = Image.fromarray(gradient()).convert("RGBA")
        assert read(write(tmp_path / "x", saved(picture, format="PNG")))[1] is None

    def test_grey_with_alpha(self, tmp_path: Path) -> None:
        content = png((2, 1, 8, 4), bytes([0, 10, 255, 20, 7]))
        rgb, alpha = read(write(tmp_path / "x", content))
        assert rgb[0, :, 2].tolist() == [10, 20]
        assert alpha is not None
        assert alpha.tolist() == [[255, 7]]

    def test_premultiplied_tiff_is_divided(self, tmp_path: Path) -> None:
        table = [*tags(1, 1, bits=(8, 8, 8, 8), photometric=2), (0x152, 3, (1,))]
        rgb, alpha = read(write(tmp_path / "x", tiff(table, bytes([50, 100, 128, 128]))))
        assert alpha is not None
        assert alpha.tolist() == [[128]]
        assert far(rgb, np.array([[[100, 199, 255]]], np.uint8)) <= 1  # the division rounds

    def test_premultiplied_grey_tiff_is_divided(self, tmp_path: Path) -> None:
        table = [*tags(1, 1, bits=(8, 8), photometric=1), (0x152, 3, (1,))]
        rgb, alpha = read(write(tmp_path / "x", tiff(table, bytes([50, 128]))))
        assert alpha is not None
        assert alpha.tolist() == [[128]]
        assert far(rgb, np.array([[[100, 100, 100]]], np.uint8)) <= 1  # the division rounds

    def test_palette_with_alpha_tiff(self, tmp_path: Path) -> None:
        ramp = tuple(v * 257 for v in range(256))
        table = [
            *tags(2, 1, bits=(8, 8), photometric=3),
            (0x140, 3, ramp + ramp[::-1] + ramp),
            (0x152, 3, (2,)),
        ]
        rgb, alpha = read(write(tmp_path / "x", tiff(table, bytes([10, 255, 20, 3]))))
        assert rgb.tolist() == [[[10, 245, 10], [20, 235, 20]]]
        assert alpha is not None
        assert alpha.tolist() == [[255, 3]]

    @pytest.mark.parametrize(
        ("trns", "wanted"), [(b"\xff\x00\xff", [255, 0, 255]), (b"\x05\x80", [5, 128, 255])]
    )
    def test_palette_transparency(self, tmp_path: Path, trns: bytes, wanted: list[int]) -> None:
        palette = bytes([1, 2, 3, 40, 50, 60, 70, 80, 90])
        content = png((3, 1, 8, 3), bytes([0, 0, 1, 2]), (b"PLTE", palette), (b"tRNS", trns))
        rgb, alpha = read(write(tmp_path / "x", content))
        assert rgb.reshape(-1).tolist() == list(palette)
        assert alpha is not None
        assert alpha[0].tolist() == wanted

    @pytest.mark.parametrize(
        ("ihdr", "row", "trns"),
        [
            ((2, 1, 8, 2), bytes([1, 2, 3, 1, 2, 4]), struct.pack(">3H", 1, 2, 3)),
            ((2, 1, 8, 0), bytes([7, 8]), struct.pack(">H", 7)),
            ((2, 1, 4, 0), bytes([0x3C]), struct.pack(">H", 3)),
            ((2, 1, 2, 0), bytes([0b01100000]), struct.pack(">H", 1)),
            ((2, 1, 1, 0), bytes([0b01000000]), struct.pack(">H", 0)),
            ((2, 1, 1, 0), bytes([0b10000000]), struct.pack(">H", 1)),
            ((2, 1, 16, 0), struct.pack(">2H", 515, 514), struct.pack(">H", 515)),
            ((2, 1, 16, 2), struct.pack(">6H", 515, 9, 9, 9, 9, 9), struct.pack(">3H", 515, 9, 9)),
        ],
        ids=["rgb8", "grey8", "grey4", "grey2", "black1", "white1", "grey16", "rgb16"],
    )
    def test_colour_key(
        self, tmp_path: Path, ihdr: tuple[int, int, int, int], row: bytes, trns: bytes
    ) -> None:
        content = png(ihdr, b"\0" + row, (b"tRNS", trns))
        alpha = read(write(tmp_path / "x", content))[1]
        assert alpha is not None
        assert alpha.tolist() == [[0, 255]]

    def test_transparent_gif(self, tmp_path: Path) -> None:
        picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
        picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        rgb, alpha = read(write(tmp_path / "x", saved(picture, format="GIF", transparency=1)))
        assert alpha is not None
        assert alpha.tolist() == [[255, 0, 255]]
        assert rgb[0, 0].tolist() == [255, 0, 0]
        assert rgb[0, 2].tolist() == [0, 0, 255]

    def test_an_ignored_fourth_sample_is_not_alpha(self, tmp_path: Path) -> None:
        table = [*tags(1, 1, bits=(8, 8, 8, 8), photometric=2), (0x152, 3, (0,))]
        rgb, alpha = read(write(tmp_path / "x", tiff(table, bytes([5, 6, 7, 0]))))
        assert rgb.tolist() == [[[5, 6, 7]]]
        assert alpha is None


class TestOrientation:
    """EXIF's eight orientations, wherever the format keeps them."""

    TURNS = {  # noqa: RUF012 - a table, not state
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: np.swapaxes(a, 0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
        8: lambda a: np.rot90(a, 1),
    }

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
    def test_stored_pixels_are_turned_upright(
        self, tmp_path: Path, name: str, orientation: int
    ) -> None:
        if name == "AVIF" and not features.check("avif"):
            pytest.skip("Pillow without AVIF")
        exif = Image.Exif()
        exif[0x0112] = orientation
        lossy = {"quality": 95, "subsampling": "4:4:4"} if name in ("JPEG", "AVIF") else {}
        content = saved(Image.fromarray(gradient()), format=name, exif=exif, lossless=True, **lossy)
        rgb, _ = read(write(tmp_path / "x", content))
        tolerance = JPEG_TOLERANCE if lossy else 0
        assert far(rgb, self.TURNS[orientation](gradient())) <= tolerance

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_heic_is_turned_once(self, tmp_path: Path, orientation: int) -> None:
        """Its own `irot` and `imir` turn it; the EXIF tag beside them must not do so again."""
        heif = pytest.importorskip("pillow_heif")
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = gradient(120, 160)
        heif.from_pillow(Image.fromarray(picture)).save(
            tmp_path / "x", quality=95, chroma=444, exif=exif.tobytes()
        )
        rgb, _ = read(tmp_path / "x")
        assert read_header(tmp_path / "x").format == "HEIC"
        wanted = self.TURNS[orientation](picture)
        assert rgb.shape == wanted.shape
        # a wrapped gradient has edges that the codec blurs: judged by its mean
        assert np.abs(rgb.astype(int) - wanted).mean() <= JPEG_TOLERANCE

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
    def test_tiff_alpha_turns_with_its_colours(self, tmp_path: Path, compression: str) -> None:
        picture = np.dstack([gradient(), gradient()[:, :, 0]])
        exif = Image.Exif()
        exif[0x0112] = 6
        content = saved(Image.fromarray(picture), format="TIFF", exif=exif, compression=compression)
        rgb, alpha = read(write(tmp_path / "x", content))
        assert alpha is not None
        assert np.array_equal(np.dstack([rgb, alpha]), np.rot90(picture, -1))

    @pytest.mark.parametrize(
        "exif",
        [
            b"",
            b"Exif\0\0",
            b"Exif\0\0II*\0\x08\0\0\0",
            b"Exif\0\0XX*\0\x08\0\0\0\0\0",
            b"Exif\0\0II*\0\xff\xff\xff\xff",
            b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",
            b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
            b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\0\0\0\0\x06\0\0\0\0\0\0\0",
        ],
        ids=["none", "bare", "cut", "order", "far", "nine", "text", "empty"],
    )
    def test_unreadable_exif_means_upright(self, exif: bytes) -> None:
        assert image_utils.exif_orientation(exif) == 1

    def test_broken_exif_does_not_fail_a_jpeg(self, tmp_path: Path) -> None:
        content = saved(Image.new("L", (8, 8), 9), format="JPEG", exif=b"Exif\0\0II*\0\xff\xff")
        assert read(write(tmp_path / "x", content))[0].shape == (8, 8, 3)


class TestColour:
    """Profiles are honoured, their absence has a meaning, broken ones are passed over."""

    def test_srgb_profile_keeps_every_pixel(self, tmp_path: Path) -> None:
        content = saved(Image.fromarray(gradient()), format="PNG", icc_profile=SRGB)
        assert np.array_equal(read(write(tmp_path / "x", content))[0], gradient())

    @pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_display_p3_is_converted(self, tmp_path: Path, name: str) -> None:
        """P3's (200, 100, 100) is sRGB's (211, 96, 97), by the two published matrices."""
        wanted = self._p3_to_srgb((200, 100, 100))
        lossy = {"quality": 100, "subsampling": 0} if name == "JPEG" else {}
        picture = Image.new("RGB", (16, 16), (200, 100, 100))
        content = saved(picture, format=name, icc_profile=display_p3(), lossless=True, **lossy)
        rgb, _ = read(write(tmp_path / "x", content))
        assert far(rgb, np.full((16, 16, 3), wanted, np.uint8)) <= ICC_TOLERANCE

    def _p3_to_srgb(self, colour: tuple[int, int, int]) -> list[int]:
        """The formula without lcms: gamma 2.2, P3 to XYZ (D50), XYZ to linear sRGB, its curve."""
        p3 = np.array(
            [[0.51512, 0.29198, 0.1571], [0.2412, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
        )
        srgb = np.array(
            [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.7141]]
        )
        linear = np.linalg.solve(srgb, p3 @ (np.array(colour) / 255) ** 2.2).clip(0, 1)
        encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
        return [round(v) for v in encoded * 255]

    def test_alpha_is_untouched_by_a_profile(self, tmp_path: Path) -> None:
        picture = Image.new("RGBA", (4, 4), (200, 100, 100, 33))
        content = saved(picture, format="PNG", icc_profile=display_p3())
        rgb, alpha = read(write(tmp_path / "x", content))
        assert alpha is not None
        assert (alpha == 33).all()
        assert rgb[0, 0, 0] > 205

    @pytest.mark.parametrize("mode", ["L", "I;16"])
    def test_grey_profile_is_converted(self, tmp_path: Path, mode: str) -> None:
        """Gamma 1.0: linear 128/255 is sRGB 188."""
        linear = profile(b"GRAY", [(b"kTRC", gamma_curve(1.0))])
        level = 128 if mode == "L" else 128 * 257
        samples = np.full((4, 4), level, np.uint8 if mode == "L" else np.uint16)
        content = saved(Image.fromarray(samples), format="PNG", icc_profile=linear)
        rgb, _ = read(write(tmp_path / "x", content))
        assert far(rgb, np.full((4, 4, 3), 188, np.uint8)) <= ICC_TOLERANCE

    def test_colour_profile_on_a_grey_picture(self, tmp_path: Path) -> None:
        content = saved(Image.new("L", (4, 4), 100), format="PNG", icc_profile=display_p3())
        rgb, _ = read(write(tmp_path / "x", content))
        assert far(rgb, np.full((4, 4, 3), self._p3_to_srgb((100, 100, 100)), np.uint8)) <= 2

    @pytest.mark.parametrize(
        "broken",
        [b"not a profile", SRGB[:200], profile(b"CMYK", [])],
        ids=["text", "cut", "other space"],
    )
    @pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "WEBP"])
    def test_broken_profile_is_passed_over(self, tmp_path: Path, name: str, broken: bytes) -> None:
        picture = Image.new("RGB", (8, 8), (200, 100, 100))
        lossy = {"quality": 100, "subsampling": 0} if name == "JPEG" else {}
        content = saved(picture, format=name, icc_profile=broken, lossless=True, **lossy)
        rgb, _ = read(write(tmp_path / "x", content))
        assert far(rgb, np.full((8, 8, 3), (200, 100, 100), np.uint8)) <= 1  # JPEG's rounding

    @pytest.mark.parametrize(
        "packed", [b"x\0\0junk", b"", b"x\0\0" + zlib.compress(bytes(9 << 20))]
    )
    def test_broken_or_huge_profile_chunk_is_passed_over(
        self, tmp_path: Path, packed: bytes
    ) -> None:
        content = png((1, 1, 8, 0), b"\0\x50", (b"iCCP", packed))
        assert read(write(tmp_path / "x", content))[0].tolist() == [[[80, 80, 80]]]

    @pytest.mark.parametrize("name", ["JPEG", "TIFF"])
    def test_cmyk_without_profile(self, tmp_path: Path, name: str) -> None:
        """(1 - C)(1 - K); Pillow writes CMYK JPEG as Adobe does, inverted and marked so."""
        content = saved(Image.new("CMYK", (8, 8), (255, 0, 51, 51)), format=name, quality=100)
        if name == "JPEG":
            assert b"Adobe" in content
        rgb, _ = read(write(tmp_path / "x", content))
        assert far(rgb, np.full((8, 8, 3), (0, 204, 163), np.uint8)) <= 2  # JPEG's rounding

    @pytest.mark.parametrize("name", ["JPEG", "TIFF"])
    def test_cmyk_with_profile(self, tmp_path: Path, name: str) -> None:
        """Full cyan is L* 65 and b* -60 in the test's table: a light blue, no (0, 255, 255)."""
        picture = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
        content = saved(picture, format=name, quality=100, icc_profile=inks())
        rgb, _ = read(write(tmp_path / "x", content))
        assert far(rgb, self._lab_to_srgb(165 / 255 * 100, 0, -60)) <= 4  # 8-bit Lab table

    def _lab_to_srgb(self, light: float, a: float, b: float) -> U8:
        """CIE Lab (D50) to sRGB by formula, as an 8x8 picture."""
        f = np.array(
            [(light + 16) / 116 + a / 500, (light + 16) / 116, (light + 16) / 116 - b / 200]
        )
        xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1, 0.8249)
        srgb = np.array(
            [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.7141]]
        )
        linear = np.linalg.solve(srgb, xyz).clip(0, 1)
        encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
        return np.full((8, 8, 3), np.round(encoded * 255), np.uint8)

    def test_lab_tiff(self, tmp_path: Path) -> None:
        """L* 60, a* 20, b* -30 as TIFF 6.0 section 23 stores them: a and b signed."""
        strip = bytes([153, 20, 256 - 30] * 64)
        content = tiff(tags(8, 8, bits=(8, 8, 8), photometric=8), strip)
        rgb, _ = read(write(tmp_path / "x", content))
        assert far(rgb, self._lab_to_srgb(60, 20, -30)) <= ICC_TOLERANCE


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
    if features.check("avif"):
        kinds["avif"] = saved(noise, format="AVIF")
    return kinds


SPECIMENS = specimens()


class TestDamage:
    """A file that ends early, or whose bytes are wrong, never becomes a picture."""

    @pytest.mark.parametrize("kind", SPECIMENS)
    def test_the_whole_file_is_a_picture(self, tmp_path: Path, kind: str) -> None:
        assert read(write(tmp_path / "x", SPECIMENS[kind]))[0].shape == (40, 50, 3)

    @pytest.mark.parametrize("kind", SPECIMENS)
    def test_trailing_garbage_is_tolerated(self, tmp_path: Path, kind: str) -> None:
        content = SPECIMENS[kind] + b"\0\xff trailing \xd9" * 9
        assert read(write(tmp_path / "x", content))[0].shape == (40, 50, 3)

    @pytest.mark.parametrize("kind", SPECIMENS)
    def test_a_cut_file_is_never_a_picture(self, tmp_path: Path, kind: str) -> None:
        whole = SPECIMENS[kind]
        padding = 4 if kind == "tiff-pages" else 0  # Pillow fills its last page to 16 bytes
        lengths = {len(whole) * share // 16 for share in range(1, 16)}
        for length in sorted({*range(36, 200, 7), *lengths, len(whole) - 1 - padding}):
            path = write(tmp_path / "x", whole[:length])
            with pytest.raises((CutShort, CorruptPicture)):
                self._picture(path)

    def _picture(self, path: Path) -> tuple[U8, U8 | None]:
        header = read_header(path)
        if not header.complete:
            raise CutShort("cut", format=header.format)
        return read_pixels(path, header=header)

    @pytest.mark.parametrize("kind", SPECIMENS)
    def test_the_decoder_too_refuses_or_finishes(self, tmp_path: Path, kind: str) -> None:
        """Without the container's word, the reader's failure is still one of ours."""
        whole = SPECIMENS[kind]
        for share in range(4, 16):
            path = write(tmp_path / "x", whole[: len(whole) * share // 16])
            try:
                read_pixels(path, header=read_header(path))
            except (CutShort, CorruptPicture):
                continue

    @pytest.mark.parametrize("kind", SPECIMENS)
    def test_changed_bytes_raise_nothing_foreign(self, tmp_path: Path, kind: str) -> None:
        whole = SPECIMENS[kind]
        dice = np.random.default_rng(5)
        for _ in range(60):
            spoilt = bytearray(whole)
            for at in dice.integers(0, min(len(whole), 400), 3):
                spoilt[at] = dice.integers(0, 256)
            path = write(tmp_path / "x", bytes(spoilt))
            try:
                header = read_header(path)
                if header.complete and header.pixels < 1 << 20:
                    read_pixels(path, header=header)
            except (CutShort, CorruptPicture, UnknownFormat):
                continue

    @pytest.mark.parametrize("end", [b"IEND", b"IDAT"])
    def test_png_pixels_with_a_wrong_checksum_are_corrupt(self, tmp_path: Path, end: bytes) -> None:
        content = bytearray(SPECIMENS["png"])
        content[content.index(end) + 4] ^= 1
        with pytest.raises(CorruptPicture):
            read(write(tmp_path / "x", bytes(content)))

    def test_png_with_too_few_pixels_is_not_a_picture(self, tmp_path: Path) -> None:
        with pytest.raises((CorruptPicture, CutShort)):
            read(write(tmp_path / "x", png((4, 4, 8, 0), b"\0abcd\0ab")))

    def test_jpeg_with_a_thumbnail_is_not_ended_by_the_thumbnails_end(self, tmp_path: Path) -> None:
        thumbnail = b"Exif\0\0II*\0\x08\0\0\0\0\0" + SPECIMENS["jpeg"][:3000] + b"\xff\xd9"
        content = saved(Image.fromarray(gradient()), format="JPEG", exif=thumbnail)
        assert read(write(tmp_path / "x", content))[0].shape == (24, 32, 3)
        assert not read_header(write(tmp_path / "x", content[:-2])).complete

    def test_jpeg_of_endless_scans_is_refused(self, tmp_path: Path) -> None:
        whole = SPECIMENS["jpeg-progressive"]
        scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x00"
        with pytest.raises(CorruptPicture):
            read_header(write(tmp_path / "x", whole[:-2] + scan * 500 + b"\xff\xd9"))

    def test_jpeg_of_endless_segments_is_refused(self, tmp_path: Path) -> None:
        content = b"\xff\xd8" + b"\xff\xe0\0\x02" * 70_000 + SPECIMENS["jpeg"][2:]
        with pytest.raises(CorruptPicture):
            read_header(write(tmp_path / "x", content))

    @pytest.mark.parametrize(
        "content",
        [
            png((0, 5, 8, 0), b""),
            b"II*\0\x08\0\0\0\x00\0\0\0\0\0",
            b"II*\0\x08\0\0\0\xff\xff" + bytes(70000 * 12),
            b"GIF89a\x05\0\x05\0\0\0\0;",
            b"GIF89a\x05\0\x05\0\0\0\0\x99",
            b"RIFF\x20\0\0\0WEBPVP8 \x10\0\0\0" + bytes(20),
            b"\0\0\0\x18ftypavif" + bytes(12) + b"\0\0\0\x08mdat",
            b"\x89PNG\r\n\x1a\n" + bytes(40),
        ],
        ids=["side", "nothing", "endless", "frameless", "block", "vp8", "sizeless", "ihdr"],
    )
    def test_headers_that_break_their_format_are_corrupt(
        self, tmp_path: Path, content: bytes
    ) -> None:
        with pytest.raises(CorruptPicture):
            read_header(write(tmp_path / "x", content))


class TestSignatures:
    """What is not a picture is told by its first bytes."""

    @pytest.mark.parametrize(
        "content",
        [
            b"hello, world, this is a text of no picture at all",
            b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
            b"<?xml version='1.0'?><svg/>",
            b"%PDF-1.7 \n%\xe2\xe3\xcf\xd3",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            b"PK\x03\x04" + bytes(40),
            b"\0\0\x01\0\x01\0\x10\x10\0\0" + bytes(40),
            b"BM is how this sentence begins, and nothing else",
            b"P6 1 1 255 abc",
            b"8BPS\0\x01" + bytes(40),
            b"\0\0\0\x18ftypmp42" + bytes(40),
            b"\x89",
        ],
        ids=["text", "svg", "xml", "pdf", "ps", "zip", "ico", "bm", "ppm", "psd", "mp4", "byte"],
    )
    def test_other_files_are_unknown(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(UnknownFormat):
            read_header(write(tmp_path / "x", content))

    @pytest.mark.skipif(image_utils.decoder_installed("HEIC"), reason="pillow-heif is here")
    def test_heic_without_its_decoder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UnknownFormat) as caught:
            read_header(write(tmp_path / "x", b"\0\0\0\x18ftypheic" + bytes(40)))
        assert caught.value.format == "HEIC"


class TestHeader:
    """Sizes are known before a pixel is decoded."""

    @pytest.mark.parametrize("kind", SPECIMENS)
    def test_size_of_every_format(self, tmp_path: Path, kind: str) -> None:
        header = read_header(write(tmp_path / "x", SPECIMENS[kind]))
        assert (header.width, header.height) == (50, 40)

    def test_a_tiffs_tile_counts_as_pixels(self, tmp_path: Path) -> None:
        table = tags(1, 1, bits=(8,), photometric=1)
        content = tiff([*table, (0x142, 4, (60000,)), (0x143, 4, (60000,))], b"x")
        assert read_header(write(tmp_path / "x", content)).pixels == 60000**2

    def test_a_gif_frame_beyond_its_screen_counts(self, tmp_path: Path) -> None:
        frame = b"," + struct.pack("<HHHHB", 0, 0, 9000, 8000, 0) + b"\x02\x01\x00\x00"
        content = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + frame + b";"
        assert read_header(write(tmp_path / "x", content)).pixels == 9000 * 8000

    def test_a_reader_that_finds_more_pixels_than_the_header_is_stopped(
        self, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "x", SPECIMENS["bmp"])
        smaller = Header(format="BMP", width=10, height=10, complete=True)
        with pytest.raises(CorruptPicture):
            read_pixels(path, header=smaller)

    def test_text_chunks_do_not_reach_the_reader(self, tmp_path: Path) -> None:
        """Pillow refuses a picture whose text chunk unpacks to more than a mebibyte."""
        notes = PngImagePlugin.PngInfo()
        notes.add_text("Comment", "x" * (3 << 20), zip=True)
        content = saved(Image.fromarray(gradient()), format="PNG", pnginfo=notes)
        assert np.array_equal(read(write(tmp_path / "x", content))[0], gradient())


def test_pictures_are_read_in_several_threads_at_once(tmp_path: Path) -> None:
    """Nothing process-wide is touched, so that threads do not see each other."""
    path = write(tmp_path / "x", saved(Image.fromarray(gradient()), format="PNG"))
    seen: list[bool] = []
    threads = [
        threading.Thread(target=lambda: seen.append(np.array_equal(read(path)[0], gradient())))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 8
