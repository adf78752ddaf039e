"""A file's header is known before a pixel is decoded, and a file that ends early is told by it."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.utils.specimens import (
    SPECIMENS,
    U8,
    chunk,
    gradient,
    needs_avif,
    png,
    read,
    saved,
    tiff,
    write,
)
from utils.containers import decoder_installed, read_header
from utils.image_utils import read_pixels
from utils.pictures import CorruptPicture, CutShort, UnknownFormat


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
            SPECIMENS["png"][:33] + bytes(12 << 20),
            b"GIF89a\x05\0\x05\0\0\0\0" + bytes(1 << 20),
            b"GIF89a\x05\0\x05\0\0\0\0!\xff" + b"\x01!" * (1 << 20),
        ],
        ids=["png", "gif", "gif-sub-blocks"],
    )
    def test_endless_blocks_are_refused(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(CorruptPicture, match="too many"):
            read_header(write(tmp_path / "x", content))

    @pytest.mark.parametrize(
        "content",
        [
            png((0, 5, 8, 0), b""),
            b"GIF89a\x05\0\x05\0\0\0\0;",
            b"GIF89a\x05\0\x05\0\0\0\0\x99",
            b"RIFF\x20\0\0\0WEBPVP8 \x10\0\0\0" + bytes(20),
            pytest.param(b"\0\0\0\x18ftypavif" + bytes(12) + b"\0\0\0\x08mdat", marks=needs_avif),
            b"\x89PNG\r\n\x1a\n" + bytes(40),
        ],
        ids=["side", "frameless", "block", "vp8", "sizeless", "ihdr"],
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

    @pytest.mark.skipif(decoder_installed("HEIC"), reason="pillow-heif is here")
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

    def test_a_gif_frame_beyond_its_screen_counts(self, tmp_path: Path) -> None:
        frame = b"," + struct.pack("<HHHHB", 0, 0, 9000, 8000, 0) + b"\x02\x01\x00\x00"
        content = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + frame + b";"
        assert read_header(write(tmp_path / "x", content)).pixels == 9000 * 8000


class TestFloods:
    """Headers that ask a reader for work or memory without end are refused before it sees them."""

    def refused(self, path: Path, content: bytes, match: str) -> None:
        with pytest.raises(CorruptPicture, match=match):
            read_header(write(path / "x", content))

    @pytest.mark.parametrize("count", [4096, 4097])
    def test_frames_are_counted_and_not_decoded(self, tmp_path: Path, count: int) -> None:
        for content in (webp_frames(count), gif_frames(count), png_frames(count)):
            if count > 4096:
                self.refused(tmp_path, content, "too many frames")
            else:
                assert read_header(write(tmp_path / "x", content)).complete

    @pytest.mark.parametrize("count", [4096, 4097])
    def test_pages_are_counted(self, tmp_path: Path, count: int) -> None:
        if count > 4096:
            self.refused(tmp_path, tiff_pages(count), "too many pages")
        else:
            assert read_header(write(tmp_path / "x", tiff_pages(count))).complete

    def test_pages_that_lie_over_one_another_are_counted_by_their_fields(
        self, tmp_path: Path
    ) -> None:
        """Each of 3000 overlapping directories has 3855 fields: half a minute of reading."""
        self.refused(tmp_path, tiff_of_overlapping_pages(3000), "too many pages")

    @pytest.mark.parametrize("tag", [0x102, 0x111, 0x117, 0x140, 0x144, 0x152])
    def test_a_field_of_too_many_values_is_refused(self, tmp_path: Path, tag: int) -> None:
        """A colour map of 16 million values took Pillow 2.2 GB."""
        if tag in (0x111, 0x117):
            content = tiff_with_many(tag)
        else:
            content = tiff(
                [(0x100, 4, (8,)), (0x101, 4, (8,)), (tag, 3, (1,) * 280_000)], bytes(64)
            )
        self.refused(tmp_path, content, "too many values")

    def test_a_long_profile_is_not_too_many_values(self, tmp_path: Path) -> None:
        content = saved(Image.new("L", (8, 8)), format="TIFF", icc_profile=bytes(300_000))
        assert read_header(write(tmp_path / "x", content)).complete

    def test_scans_count_by_what_they_pass_over(self, tmp_path: Path) -> None:
        """100 scans of 64 megapixels in 200 kB took 5 s; of a small picture they are harmless."""
        small = scans(SPECIMENS["jpeg-progressive"], 60)
        assert read_header(write(tmp_path / "x", small)).complete
        at = small.index(b"\xff\xc2") + 5
        large = small[:at] + struct.pack(">HH", 16_000, 16_000) + small[at + 4 :]
        self.refused(tmp_path, large, "too many scans for its size")

    def test_chunks_are_bounded(self, tmp_path: Path) -> None:
        whole = SPECIMENS["png"]
        at = whole.index(b"IDAT") - 4
        flood = whole[:at] + chunk(b"IDAT", b"") * 140_000 + whole[at:]
        self.refused(tmp_path, flood, "too many chunks")


def webp_frames(count: int) -> bytes:
    pixel = saved(Image.new("RGB", (1, 1)), format="WEBP", lossless=True)[12:]
    frame = b"ANMF" + struct.pack("<I", 16 + len(pixel)) + bytes(12) + b"\x32\0\0\0" + pixel
    body = b"WEBPVP8X\x0a\0\0\0\x02" + bytes(9) + b"ANIM\x06\0\0\0" + bytes(6) + frame * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif_frames(count: int) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + frame * count + b";"


def png_frames(count: int) -> bytes:
    whole = SPECIMENS["png"]
    at = whole.index(b"IDAT") - 4
    return whole[:at] + chunk(b"fcTL", bytes(26)) * count + whole[at:]


def tiff_pages(count: int) -> bytes:
    entries = [(0x100, 4, 1, 1), (0x101, 4, 1, 1), (0x111, 4, 1, 8), (0x117, 4, 1, 1)]
    table = struct.pack("<H", 4) + b"".join(struct.pack("<HHII", *each) for each in entries)
    size = len(table) + 4
    nexts = [8 + size * (page + 1) for page in range(count - 1)] + [0]
    return b"II*\0\x08\0\0\0" + b"".join(table + struct.pack("<I", at) for at in nexts)


def tiff_with_many(tag: int) -> bytes:
    entries = [(0x100, 4, 1, 1), (0x101, 4, 1, 1), (tag, 4, 280_000, 60)]
    table = struct.pack("<H", 3) + b"".join(struct.pack("<HHII", *each) for each in entries)
    return (b"II*\0\x08\0\0\0" + table + bytes(4)).ljust(60 + 4 * 280_000, b"\0")


def tiff_of_overlapping_pages(count: int) -> bytes:
    """Each begins one entry behind the last, and has 0x0f0f of them: all the same, of one byte."""
    entry = struct.pack("<HHIHH", 1, 1, 1, 0, 0x0F0F)
    content = bytearray(tiff_pages(1)[:-4] + struct.pack("<I", 200)).ljust(202, b"\x0f")
    content += entry * (count + 0x0F0F + 9)
    for at in range(200, 200 + 12 * count, 12):
        struct.pack_into("<I", content, at + 2 + 0x0F0F * 12, at + 12)
    return bytes(content)


def scans(whole: bytes, count: int) -> bytes:
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x00"
    return whole[:-2] + scan * count + whole[-2:]
