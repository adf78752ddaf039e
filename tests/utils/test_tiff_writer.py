"""The TIFFs are whole, and others read out of them what went in."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image

from tests.utils.specimens import U8
from utils.containers import read_header
from utils.png import Compression
from utils.tiff_writer import CLASSIC_BYTES, TiffWriter, deflate_strip


def noise(channels: int) -> U8:
    rng = np.random.default_rng(channels)
    return rng.integers(0, 256, (53, 41, channels), dtype=np.uint8)


def written(
    path: Path,
    pixels: U8,
    *,
    rows: int = 16,
    compression: Compression = Compression.FAST,
    classic_bytes: int = CLASSIC_BYTES,
) -> Path:
    height, width, channels = pixels.shape
    with path.open("wb") as file:
        writer = TiffWriter(
            file,
            width=width,
            height=height,
            channels=channels,
            rows_per_strip=rows,
            dpi=300,
            classic_bytes=classic_bytes,
        )
        for top in range(0, height, rows):
            writer.add(deflate_strip(pixels[top : top + rows], compression=compression))
        writer.finish()
    return path


def as_array(picture: Image.Image, channels: int) -> U8:
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


@pytest.mark.parametrize("classic_bytes", [CLASSIC_BYTES, 0], ids=["classic", "big"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pillow_and_libvips_read_what_was_written(
    channels: int, classic_bytes: int, tmp_path: Path
) -> None:
    pixels = noise(channels)
    path = written(tmp_path / "x.tif", pixels, classic_bytes=classic_bytes)
    assert path.read_bytes()[2] == (42 if classic_bytes else 43)
    vips = pyvips.Image.tiffload(str(path))
    held = np.frombuffer(vips.write_to_memory(), np.uint8)
    assert np.array_equal(held.reshape(pixels.shape), pixels)
    with Image.open(path, formats=("TIFF",)) as picture:
        assert np.array_equal(as_array(picture, channels), pixels)
        assert picture.info["dpi"] == (300, 300)
        assert ("icc_profile" in picture.info) == (channels > 2)


@pytest.mark.parametrize("compression", Compression)
def test_both_compressions_are_lossless(compression: Compression, tmp_path: Path) -> None:
    path = written(tmp_path / "x.tif", noise(4), compression=compression)
    with Image.open(path, formats=("TIFF",)) as picture:
        assert np.array_equal(np.asarray(picture), noise(4))


def test_alpha_is_said_to_be_straight(tmp_path: Path) -> None:
    with Image.open(written(tmp_path / "x.tif", noise(4)), formats=("TIFF",)) as picture:
        assert picture.mode == "RGBA"
        assert picture.tag_v2[338] == (2,)  # type: ignore[attr-defined]  # a TIFF has tags


def test_one_strip_of_one_row_fits_into_the_directory(tmp_path: Path) -> None:
    pixels = noise(3)[:1]
    with Image.open(written(tmp_path / "x.tif", pixels), formats=("TIFF",)) as picture:
        assert np.array_equal(np.asarray(picture), pixels)


def test_our_own_reader_finds_it_whole(tmp_path: Path) -> None:
    header = read_header(written(tmp_path / "x.tif", noise(4)))
    assert header.complete
    assert header.by_rows


@pytest.mark.skipif(shutil.which("tiffinfo") is None, reason="tiffinfo (libtiff-tools) is missing")
def test_libtiff_has_nothing_to_say(tmp_path: Path) -> None:
    for classic_bytes in (CLASSIC_BYTES, 0):
        path = written(tmp_path / "x.tif", noise(4), classic_bytes=classic_bytes)
        done = subprocess.run(["tiffinfo", "-D", path], capture_output=True, text=True, check=True)
        assert done.stderr == ""
