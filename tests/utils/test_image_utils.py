"""Every kind of picture file becomes the pixels it means: upright, with its alpha apart."""

import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from tests.utils.specimens import (
    JPEG_TOLERANCE,
    SPECIMENS,
    U8,
    chunk,
    far,
    gradient,
    needs_avif,
    png,
    read,
    saved,
    tags,
    tiff,
    write,
)
from utils.containers import read_header
from utils.image_utils import read_pixels
from utils.pictures import CorruptPicture, CutShort, Header


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

    @needs_avif
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

    @pytest.mark.skipif(
        (b"II", 1, (1,), 1, (8, 8), (1,)) not in TiffImagePlugin.OPEN_INFO,
        reason="Pillow before 13 refuses this layout",
    )
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
    @pytest.mark.parametrize(
        "name", ["JPEG", "PNG", "WEBP", "TIFF", pytest.param("AVIF", marks=needs_avif)]
    )
    def test_stored_pixels_are_turned_upright(
        self, tmp_path: Path, name: str, orientation: int
    ) -> None:
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

    def test_broken_exif_does_not_fail_a_jpeg(self, tmp_path: Path) -> None:
        content = saved(Image.new("L", (8, 8), 9), format="JPEG", exif=b"Exif\0\0II*\0\xff\xff")
        assert read(write(tmp_path / "x", content))[0].shape == (8, 8, 3)


class TestReaders:
    """Pillow's readers get what makes pixels, and their failures become ours."""

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

    def test_png_with_too_few_pixels_is_not_a_picture(self, tmp_path: Path) -> None:
        with pytest.raises((CorruptPicture, CutShort)):
            read(write(tmp_path / "x", png((4, 4, 8, 0), b"\0abcd\0ab")))

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
