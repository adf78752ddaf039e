"""Layouts to the pixel: what roi, crop, margins, scale and position make of a known subject."""

import pytest

from models.errors import InvalidParameter, RegionEmpty, RegionOutside
from models.removebg import RemovebgParameters
from services.canvas import Layout, colour, filling, lay_out, margins, region, shrunk

PICTURE = (200, 100)
SUBJECT = (60, 20, 100, 70)  # 40 x 50


def laid_out(**said: str) -> Layout:
    asked = RemovebgParameters.model_validate({"size": "full", **said})
    return lay_out(asked, PICTURE, SUBJECT, most_pixels=10**6)


@pytest.mark.parametrize(
    ("said", "canvas", "foreground"),
    [
        ({}, (200, 100), (60, 20, 100, 70)),
        ({"crop": "true"}, (40, 50), (0, 0, 40, 50)),
        ({"crop": "true", "crop_margin": "10px"}, (60, 70), (10, 10, 50, 60)),
        ({"crop": "true", "crop_margin": "10%"}, (48, 60), (4, 5, 44, 55)),
        ({"crop": "true", "crop_margin": "3px 50%"}, (80, 56), (20, 3, 60, 53)),
        ({"crop": "true", "crop_margin": "1px 2px 3px 4px"}, (46, 54), (4, 1, 44, 51)),
        ({"crop_margin": "10px"}, (200, 100), (60, 20, 100, 70)),
        ({"scale": "100%"}, (200, 100), (60, 0, 140, 100)),
        ({"scale": "50%"}, (200, 100), (80, 25, 120, 75)),
        ({"scale": "10%"}, (200, 100), (96, 45, 104, 55)),
        ({"scale": "50%", "position": "0%"}, (200, 100), (0, 0, 40, 50)),
        ({"scale": "50%", "position": "100% 50%"}, (200, 100), (160, 25, 200, 75)),
        ({"scale": "20%", "position": "original"}, (200, 100), (72, 35, 88, 55)),
        ({"scale": "100%", "position": "original"}, (200, 100), (40, 0, 120, 100)),
        ({"position": "original"}, (200, 100), (60, 20, 100, 70)),
        ({"position": "center"}, (200, 100), (80, 25, 120, 75)),
        ({"position": "0% 100%"}, (200, 100), (0, 50, 40, 100)),
        ({"position": "25%"}, (200, 100), (40, 12, 80, 62)),
        ({"crop": "true", "scale": "50%"}, (40, 50), (10, 12, 30, 37)),
        (
            {"crop": "true", "crop_margin": "10px", "position": "0% 0%"},
            (60, 70),
            (0, 0, 40, 50),
        ),
    ],
    ids=str,
)
def test_the_subject_stands_where_it_was_asked_to(
    said: dict[str, str], canvas: tuple[int, int], foreground: tuple[int, int, int, int]
) -> None:
    layout = laid_out(**said)
    assert (layout.canvas, layout.foreground) == (canvas, foreground)
    assert (*layout.at, layout.at[0] + layout.size[0], layout.at[1] + layout.size[1]) in (
        foreground,
        (0, 0, *canvas),
    )


def test_a_picture_is_made_as_large_as_the_description_has_it() -> None:
    assert shrunk((6250, 4000), 250_000) == (625, 400)
    assert shrunk((6250, 4000), 25_000_000) == (6250, 4000)
    assert shrunk((5000, 4000), 10_000_000) == (3535, 2828)
    assert shrunk((100, 100), 250_000) == (100, 100)
    assert shrunk((1, 1_000_000), 250_000) == (1, 250_000)


def test_a_smaller_picture_takes_its_subject_along() -> None:
    asked = RemovebgParameters.model_validate({"crop": "true", "crop_margin": "5px"})
    layout = lay_out(asked, (2000, 1000), (600, 200, 1000, 700), most_pixels=20_000)
    assert layout.source == (600, 200, 1000, 700)
    assert (layout.size, layout.at, layout.canvas) == ((40, 50), (5, 5), (50, 60))


@pytest.mark.parametrize(
    ("roi", "box"),
    [
        ("0% 0% 100% 100%", (0, 0, 200, 100)),
        ("10px 20px 110px 70px", (10, 20, 110, 70)),
        ("50% 0px 200px 25.5%", (100, 0, 200, 26)),
    ],
)
def test_a_region_is_said_in_pixels_and_shares(roi: str, box: tuple[int, ...]) -> None:
    assert region(roi, PICTURE) == box


@pytest.mark.parametrize("roi", ["0% 0% 101% 100%", "0px 0px 201px 100px", "0px 101px 9px 9px"])
def test_a_region_stays_inside_the_picture(roi: str) -> None:
    with pytest.raises(RegionOutside):
        region(roi, PICTURE)


@pytest.mark.parametrize("roi", ["50% 0% 50% 100%", "100px 0px 99px 9px", "0px 0px 0.4px 100px"])
def test_a_region_holds_pixels(roi: str) -> None:
    with pytest.raises(RegionEmpty):
        region(roi, PICTURE)


@pytest.mark.parametrize("text", ["1px 2px 3px", "501px", "51%", "0 0 0 500.5px"])
def test_margins_that_are_none(text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        margins(text, (40, 50))
    assert caught.value.field == "crop_margin"


@pytest.mark.parametrize(
    ("text", "rgba"),
    [
        ("fff", (255, 255, 255, 255)),
        ("81d4fa", (0x81, 0xD4, 0xFA, 255)),
        ("81d4fa77", (0x81, 0xD4, 0xFA, 0x77)),
        ("f0a8", (255, 0, 170, 136)),
        ("green", (0, 128, 0, 255)),
        ("rebeccapurple", (102, 51, 153, 255)),
    ],
)
def test_colours_have_digits_or_names(text: str, rgba: tuple[int, ...]) -> None:
    assert colour(text) == rgba


@pytest.mark.parametrize("text", ["#fff", "ff", "fffff", "grün", "rgb(1,2,3)", "hsl(0,0%,0%)"])
def test_colours_that_are_none(text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        colour(text)
    assert caught.value.field == "bg_color"


@pytest.mark.parametrize(
    ("size", "canvas", "box"),
    [
        ((200, 100), (50, 50), (50, 0, 150, 100)),
        ((100, 200), (50, 50), (0, 50, 100, 150)),
        ((200, 100), (200, 100), (0, 0, 200, 100)),
        ((3, 3), (300, 1), (0, 1, 3, 2)),
    ],
)
def test_a_background_fills_the_canvas_from_its_middle(
    size: tuple[int, int], canvas: tuple[int, int], box: tuple[int, ...]
) -> None:
    assert filling(size, canvas) == box
