"""TIFF directories: what they say is believed only where it lies within the file."""

from pathlib import Path

import pytest

from tests.utils.specimens import tags, tiff, write
from utils.containers import read_header
from utils.pictures import CorruptPicture
from utils.tiff import exif_orientation


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
def test_unreadable_exif_means_upright(exif: bytes) -> None:
    assert exif_orientation(exif) == 1


def test_a_tiffs_tile_counts_as_pixels(tmp_path: Path) -> None:
    table = tags(1, 1, bits=(8,), photometric=1)
    content = tiff([*table, (0x142, 4, (60000,)), (0x143, 4, (60000,))], b"x")
    assert read_header(write(tmp_path / "x", content)).pixels == 60000**2


@pytest.mark.parametrize(
    "content",
    [
        b"II*\0\x08\0\0\0\x00\0\0\0\0\0",
        b"II*\0\x08\0\0\0\xff\xff" + bytes(70000 * 12),
    ],
    ids=["nothing", "endless"],
)
def test_directories_that_break_the_rules_are_corrupt(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CorruptPicture):
        read_header(write(tmp_path / "x", content))


def test_pages_that_lead_to_each_other_end_the_walk(tmp_path: Path) -> None:
    content = tiff(tags(1, 1, bits=(8,), photometric=1), b"x")
    first = content[4:8]
    looped = content[:-4] + first
    assert read_header(write(tmp_path / "x", looped)).complete
    beyond = content[:-4] + b"\xff\xff\0\0"
    assert not read_header(write(tmp_path / "x", beyond)).complete
