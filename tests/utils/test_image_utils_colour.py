"""Samples of any depth and any profile become the 8-bit sRGB that they mean."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.utils.specimens import U8, far, gradient, png, read, saved, tags, tiff, write

# an 8-bit profile transform rounds once on the way in and once on the way out
ICC_TOLERANCE = 2

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


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
