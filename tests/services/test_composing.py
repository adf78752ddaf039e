"""Composing by strips: equal to the whole picture at once, exact in colour, quiet under JPEG."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.errors import UnknownForeground
from models.images import Pixels
from models.removebg import RemovebgParameters
from services import composing
from services.composing import Composed, Plain, bled, compose, open_background, over
from tests.conftest import png_bytes
from utils.memory import resident_bytes


def stored(folder: Path, rgba: NDArray[np.uint8]) -> Path:
    path = folder / "cutout.png"
    path.write_bytes(png_bytes(rgba))
    return path


def disc(width: int = 120, height: int = 90, radius: float = 30) -> Pixels:
    """A soft-rimmed disc in two colours that meet in its middle, RGBA."""
    rows, columns = np.mgrid[:height, :width]
    far = np.hypot(rows - height / 2, columns - width / 2)
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[..., 0] = np.where(columns < width / 2, 220, 30)
    rgba[..., 1], rgba[..., 2] = 60, 140
    rgba[..., 3] = np.clip((radius + 1.5 - far) * 85, 0, 255)
    rgba[rgba[..., 3] == 0] = 0
    return rgba


def composed(
    folder: Path, rgba: Pixels, background: composing.Background | None = None, /, **said: str
) -> Composed:
    asked = RemovebgParameters.model_validate({"size": "full", **said})
    return compose(stored(folder, rgba), asked, background, scratch=folder)


def pixels(made: Composed) -> Pixels:
    with Image.open(made.path) as picture:
        return np.asarray(picture).copy()


def test_a_cutout_that_stays_as_it_is_keeps_every_bit(tmp_path: Path) -> None:
    rgba = disc()
    made = composed(tmp_path, rgba)
    assert made.media_type == "image/png"
    np.testing.assert_array_equal(pixels(made), rgba)
    assert made.foreground == (29, 14, 92, 77)


@pytest.mark.parametrize("strip_pixels", [1, 120 * 7, 1 << 19])
def test_strips_of_any_height_make_the_same_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strip_pixels: int
) -> None:
    """Against the whole picture in one piece: resized, moved, over a picture."""
    (tmp_path / "behind").mkdir()
    behind = np.random.default_rng(3).integers(0, 256, (200, 150, 3), np.uint8)
    (tmp_path / "behind.png").write_bytes(png_bytes(behind))

    def made() -> Pixels:
        ground = open_background(
            tmp_path / "behind.png", max_pixels=10**6, scratch=tmp_path / "behind"
        )
        return pixels(composed(tmp_path, disc(), ground, scale="70%", format="png"))

    whole = made()
    monkeypatch.setattr(composing, "_STRIP_PIXELS", strip_pixels)
    monkeypatch.setattr(composing, "_LEAST_ROWS", 1)
    assert np.abs(made().astype(int) - whole.astype(int)).max() <= 1


def test_resizing_averages_premultiplied_colours(tmp_path: Path) -> None:
    """A red half beside an invisible green one: no green in what they become together."""
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[:, :20] = (255, 0, 0, 255)
    rgba[:, 20:] = (0, 255, 0, 0)
    rgba[0] = rgba[-1] = (255, 0, 0, 255)
    made = pixels(composed(tmp_path, rgba, scale="33%"))
    seen = made[..., 3] > 0
    assert ((made[..., 3] > 0) & (made[..., 3] < 255)).any()
    assert (made[seen][:, :3] == (255, 0, 0)).all()


def test_over_is_exact() -> None:
    above = np.array([[[200, 100, 0, 128], [9, 9, 9, 0], [1, 2, 3, 255]]], np.uint8)
    white = np.full_like(above, 255)
    assert over(above, white).tolist() == [
        [[227, 177, 127, 255], [255, 255, 255, 255], [1, 2, 3, 255]]
    ]
    glass = np.broadcast_to(np.array([0, 0, 255, 128], np.uint8), above.shape)
    # (200*128*255 + 0) / (128*255 + 128*127) and so on
    assert over(above, glass).tolist() == [[[134, 67, 85, 192], [0, 0, 255, 128], [1, 2, 3, 255]]]


@pytest.mark.parametrize(
    ("said", "rgba", "media_type"),
    [
        ({}, disc(), "image/png"),
        ({}, np.full((20, 30, 4), 255, np.uint8), "image/jpeg"),
        ({"scale": "50%"}, np.full((20, 30, 4), 255, np.uint8), "image/png"),
        ({"crop": "true", "crop_margin": "1px"}, np.full((20, 30, 4), 255, np.uint8), "image/png"),
        ({"crop_margin": "1px"}, np.full((20, 30, 4), 255, np.uint8), "image/jpeg"),
        ({"roi": "0% 0% 50% 100%"}, np.full((20, 30, 4), 255, np.uint8), "image/png"),
        ({"channels": "alpha"}, np.full((20, 30, 4), 255, np.uint8), "image/png"),
    ],
    ids=str,
)
def test_auto_is_png_where_anything_shows_through(
    tmp_path: Path, said: dict[str, str], rgba: Pixels, media_type: str
) -> None:
    assert composed(tmp_path, rgba, **said).media_type == media_type


def test_a_background_decides_what_auto_means(tmp_path: Path) -> None:
    assert composed(tmp_path, disc(), Plain((1, 2, 3, 255))).media_type == "image/jpeg"
    assert composed(tmp_path, disc(), Plain((1, 2, 3, 254))).media_type == "image/png"


def test_a_jpeg_without_background_is_on_white(tmp_path: Path) -> None:
    made = pixels(composed(tmp_path, disc(), format="jpg"))
    assert made.shape == (90, 120, 3)
    assert (made[0, 0] == 255).all()


def test_the_matte_is_the_alpha(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        pixels(composed(tmp_path, disc(), channels="alpha")), disc()[..., 3]
    )


def test_nothing_visible_in_the_region_is_no_foreground(tmp_path: Path) -> None:
    with pytest.raises(UnknownForeground):
        composed(tmp_path, disc(), roi="0px 0px 10px 10px")


def test_outside_the_region_nothing_is_left(tmp_path: Path) -> None:
    made = composed(tmp_path, disc(), roi="0% 0% 50% 100%")
    expected = disc()
    expected[:, 60:] = 0
    np.testing.assert_array_equal(pixels(made), expected)
    assert made.foreground == (29, 14, 60, 77)


def zipped(made: Composed) -> tuple[Pixels, Pixels]:
    with zipfile.ZipFile(made.path) as archive:
        assert archive.namelist() == ["color.jpg", "alpha.png"]
        colours, matte = (Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist())
        assert (colours.format, matte.format) == ("JPEG", "PNG")
        return np.asarray(colours), np.asarray(matte)


def test_a_zip_holds_colours_that_have_no_edge_at_the_rim(tmp_path: Path) -> None:
    """Its rim is nearer to the cut-out's own colours than a plain JPEG's of it would be."""
    rgba = disc()
    colours, matte = zipped(composed(tmp_path, rgba, format="zip"))
    np.testing.assert_array_equal(matte, rgba[..., 3])
    plain = io.BytesIO()
    Image.fromarray(rgba[..., :3].copy()).save(plain, "JPEG", quality=95, subsampling=0)
    seen = rgba[..., 3] > 0
    seen[:, 48:72] = False  # where its two colours meet there is an edge of its own
    ours, theirs = (
        np.abs(each[seen].astype(int) - rgba[..., :3][seen])
        for each in (colours, np.asarray(Image.open(plain)))
    )
    assert ours.max() <= 8 < theirs.max()
    assert ours.mean() < theirs.mean() / 2


def test_the_same_picture_is_the_same_zip(tmp_path: Path) -> None:
    first = composed(tmp_path, disc(), format="zip").path.read_bytes()
    assert composed(tmp_path, disc(), format="zip").path.read_bytes() == first


def test_bleeding_by_strips_equals_bleeding_at_once() -> None:
    rgba = disc(width=700, height=400, radius=180)
    parts = [rgba[top : top + 64] for top in range(0, 400, 64)]
    np.testing.assert_array_equal(
        np.concatenate(list(composing._bled_strips(iter(parts)))), bled(rgba)
    )


def test_colours_run_out_under_nothing_and_stay_where_they_show() -> None:
    rgba = disc()
    colours = bled(rgba)
    seen = rgba[..., 3] > 10
    np.testing.assert_array_equal(colours[seen], rgba[..., :3][seen])
    assert (colours[0, 0] == 255).all()
    rgba[3, 3] = (0, 0, 255, 10)  # a speck of dust
    np.testing.assert_array_equal(bled(rgba), colours)
    assert abs(int(colours[45, 26, 0]) - 220) <= 1
    assert abs(int(colours[45, 94, 0]) - 30) <= 1


def test_a_large_cutout_is_never_whole_in_memory(tmp_path: Path) -> None:
    """25 million pixels, 100 MB as RGBA: brought to 10 million by strips."""
    path = tmp_path / "cutout.png"
    rgba = np.zeros((5000, 5000, 4), np.uint8)
    rgba[1000:4000, 1000:4000] = (200, 30, 40, 255)
    Image.fromarray(rgba).save(path, "PNG", compress_level=1)
    del rgba
    before = resident_bytes() or 0
    highest = before

    class Watched(composing.Canvas):
        def strips(self) -> Iterator[Pixels]:
            nonlocal highest
            for strip in super().strips():
                highest = max(highest, resident_bytes() or 0)
                yield strip

    asked = RemovebgParameters.model_validate({"size": "full"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composing, "Canvas", Watched)
        made = compose(path, asked, None, scratch=tmp_path)
    assert made.size == (3162, 3162)
    assert highest - before < 60 << 20
