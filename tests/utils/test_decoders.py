"""What may decode a customer's file is a list of what is allowed, in Pillow and in libvips."""

from pathlib import Path
from typing import Any

import pytest
import pyvips
from PIL import Image
from pyvips import ffi, vips_lib

from tests.utils.specimens import saved, write
from utils import image_utils, rows
from utils.containers import read_header
from utils.pictures import UnknownFormat

ALLOWED = {"pngload", "jpegload", "tiffload", "webpload"}


_BLOCKED = 32  # VIPS_OPERATION_BLOCKED of libvips/operation.h


def operations(base: str) -> list[str]:
    """The nicknames of all concrete operations of this build of libvips below a class."""
    found: set[str] = set()

    def visit(kind: int, *_: Any) -> Any:  # noqa: ANN401  # libvips' own types
        name = ffi.string(vips_lib.vips_nickname_find(kind)).decode()
        if _is_concrete(name):
            found.add(name)
        pyvips.type_map(kind, visit)
        return ffi.NULL

    pyvips.type_map(pyvips.type_from_name(base), visit)
    return sorted(found)


def _is_concrete(name: str) -> bool:
    try:
        pyvips.Operation.new_from_name(name)
    except pyvips.Error:
        return False
    return True


LOADERS = operations("VipsForeignLoad")


def is_blocked(operation: str) -> bool:
    made = pyvips.Operation.new_from_name(operation)
    return bool(vips_lib.vips_operation_get_flags(made.pointer) & _BLOCKED)


def test_this_build_has_loaders_that_must_not_run() -> None:
    """Else the next test would prove nothing."""
    assert {"svgload", "gifload", "heifload", "rawload", "csvload"} <= set(LOADERS)


@pytest.mark.parametrize("loader", [each for each in LOADERS if each not in ALLOWED])
def test_every_other_loader_of_this_libvips_is_blocked(loader: str) -> None:
    assert is_blocked(loader)


@pytest.mark.parametrize("loader", sorted(ALLOWED))
def test_the_four_that_are_used_are_open(loader: str) -> None:
    assert not is_blocked(loader)


def test_no_saver_is_open_either() -> None:
    savers = operations("VipsForeignSave")
    assert len(savers) > 20
    assert [each for each in savers if not is_blocked(each)] == []


def test_a_blocked_loader_says_so_and_reads_nothing(tmp_path: Path) -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    with pytest.raises(pyvips.Error, match="blocked"):
        pyvips.Image.svgload(str(write(tmp_path / "x.svg", svg)))
    with pytest.raises(pyvips.Error, match="not a known file format"):
        pyvips.Image.new_from_file(str(tmp_path / "x.svg"))


def test_libvips_loads_what_the_signature_named_by_these_loaders_alone() -> None:
    assert set(rows._LOADERS.values()) == ALLOWED


def test_pillow_reads_by_the_classes_in_one_table() -> None:
    assert sorted(image_utils._READERS) == sorted(
        ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"]
    )


@pytest.mark.parametrize(
    "name", ["PPM", "TGA", "ICO", "PCX", "SGI", "EPS", "PDF", "DDS", "MSP", "XBM", "IM", "SPIDER",
             "ICNS", "JPEG2000", "BLP", "QOI", "DIB"]
)  # fmt: skip
def test_what_pillow_could_read_besides_is_no_picture_here(name: str, tmp_path: Path) -> None:
    mode = {"XBM": "1", "MSP": "1", "SPIDER": "F", "BLP": "P"}.get(name, "RGB")
    try:
        content = saved(Image.new(mode, (64, 64)), format=name)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {name}")
    with pytest.raises(UnknownFormat):
        read_header(write(tmp_path / "x", content))
