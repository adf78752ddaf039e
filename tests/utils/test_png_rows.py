"""A PNG whose compressed data ends before its last row is cut short, whoever forgets to say so."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.utils.specimens import png, read, saved, write
from tests.utils.test_rows import interlaced
from utils.pictures import CutShort
from utils.png_rows import check_rows


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_what_pillow_writes_is_whole(mode: str, tmp_path: Path) -> None:
    content = saved(Image.new(mode, (13, 9)), format="PNG")
    check_rows(io.BytesIO(content))
    assert read(write(tmp_path / "x", content))[0].shape == (9, 13, 3)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 5), (9, 13)])
def test_an_interlaced_one_is_whole(size: tuple[int, int]) -> None:
    check_rows(io.BytesIO(interlaced(np.zeros((*size, 3), np.uint8))))


@pytest.mark.parametrize("missing", [1, 31, 31 * 8])
def test_a_row_that_is_not_there_is_missed(missing: int, tmp_path: Path) -> None:
    """Of 9 rows of 31 bytes; black is what Pillow makes of them."""
    content = png((10, 9, 8, 2), bytes(31 * 9 - missing))
    with pytest.raises(CutShort):
        read(write(tmp_path / "x", content))


def test_black_pictures_are_pictures(tmp_path: Path) -> None:
    content = png((10, 9, 8, 2), bytes(31 * 9))
    assert read(write(tmp_path / "x", content))[0].max() == 0
