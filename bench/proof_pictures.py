"""Draws the pictures of docs/PRINT.md about proofs: `python -m bench.proof_pictures [FOLDER]`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.edges import DATA, ROOT
from models.images import Cutout, Pixels, SourceImage
from services.brush import Brush, paint
from services.garment import checkerboard, cloth, laid_on
from services.print_colours import GARMENTS
from services.underbase import CHOKE_MM, Underbase

PAPER = (255, 255, 255)
GAP, TITLE = 6, 18
SHIRT_SIDE = 150
PLATE_DPI = 300


def art(name: str, side: int) -> Pixels:
    """A piece of tests/data/art without its margin, `side` pixels at the most."""
    with Image.open(DATA / "art" / f"{name}.png") as picture:
        rgba = picture.convert("RGBA")
        rgba = rgba.crop(rgba.getchannel("A").getbbox())
        scale = side / max(rgba.size)
        size = (round(rgba.width * scale), round(rgba.height * scale))
        return np.asarray(rgba.resize(size, Image.Resampling.LANCZOS))


def framed(rgba: Pixels, side: int) -> Pixels:
    """In the middle of an empty square."""
    square = np.zeros((side, side, 4), np.uint8)
    height, width = rgba.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = rgba
    return square


def shirts() -> Image.Image:
    """Two pieces on every shirt that has a name."""
    pieces = [
        framed(art(name, SHIRT_SIDE - 30), SHIRT_SIDE)
        for name in ("8_ball_jarno_vasamaa", "daffodil_susan_park_01")
    ]
    tiles = [
        (garment, np.hstack([laid_on(each, worn(garment)) for each in pieces]))
        for garment in GARMENTS
    ]
    return table(tiles, columns=3)


def worn(garment: str) -> Pixels:
    return cloth(garment, height=SHIRT_SIDE, width=SHIRT_SIDE)


def plates() -> Image.Image:
    """A piece, its plates by choke, and a misprint: the colours a hair beside the white."""
    piece = framed(art("war_drum_enrique_meza_c_01", 300), 320)
    shirt = cloth("black", height=320, width=320)
    tiles = [("the print", laid_on(piece, shirt))]
    for choke, millimetres in CHOKE_MM.items():
        plate = plate_of(piece, millimetres)
        tiles.append((f"{choke} {millimetres:g} mm", np.repeat(plate[..., np.newaxis], 3, axis=2)))
    for title, millimetres in (("0.25 mm off, no choke", 0.0), ("the same, 0.3 mm choke", 0.3)):
        tiles.append((title, misprinted(piece, plate_of(piece, millimetres), shirt)))
    crops = [(title, np.ascontiguousarray(tile[40:240, 60:260])) for title, tile in tiles]
    return table(crops, columns=4)


def plate_of(rgba: Pixels, millimetres: float) -> Pixels:
    choke_px = millimetres / 25.4 * PLATE_DPI
    return np.concatenate(list(Underbase(choke_px).plate([rgba])))


def misprinted(rgba: Pixels, plate: Pixels, shirt: Pixels) -> Pixels:
    """White where the plate has it, and the colours three pixels to the right."""
    white = np.dstack([np.full((*plate.shape, 3), 255, np.uint8), plate])
    return laid_on(np.roll(rgba, 3, axis=1), laid_on(white, shirt))


def brush() -> Image.Image:
    """A cut-out that lost a part, a stroke of keep and one of erase, and what comes of them."""
    with Image.open(DATA / "anime-girl-1.jpg") as photo, Image.open(CUT) as cut:
        original = np.asarray(photo.convert("RGB"))
        rgba = np.asarray(cut.convert("RGBA")).copy()
    height, width = rgba.shape[:2]
    rgba[330:470, 260:420, 3] = 0  # what a worse model would have lost
    keep, erase = stroke((width, height), KEPT), stroke((width, height), ERASED)
    cutout = Cutout(rgba[..., :3].copy(), rgba[..., 3].copy())
    paint(cutout, Brush(keep, erase), SourceImage(original, None, "JPEG", 0, ""))
    ground = checkerboard(height=height, width=width)
    before = laid_on(rgba, ground)
    strokes = before.copy()
    strokes[keep > 0] = strokes[keep > 0] // 2 + np.array((0, 110, 0), np.uint8)
    strokes[erase > 0] = strokes[erase > 0] // 2 + np.array((120, 0, 0), np.uint8)
    after = laid_on(np.dstack((cutout.rgb, cutout.alpha)), ground)
    shown = (("the cut-out", before), ("keep green, erase red", strokes), ("rendered", after))
    return table([(title, reduced(tile, 300)) for title, tile in shown], columns=3)


CUT = DATA / "anime-girl-1.isnet-general-use.png"
KEPT = [(350, 350), (415, 360), (400, 440), (370, 440), (400, 400)]
ERASED = [(430, 560), (475, 590)]


def stroke(size: tuple[int, int], points: Sequence[tuple[int, int]]) -> Pixels:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).line(points, fill=255, width=70, joint="curve")
    return np.asarray(mask)


def reduced(tile: Pixels, width: int) -> Pixels:
    size = (width, round(tile.shape[0] * width / tile.shape[1]))
    return np.asarray(Image.fromarray(tile).resize(size, Image.Resampling.LANCZOS))


def table(tiles: Sequence[tuple[str, Pixels]], *, columns: int) -> Image.Image:
    """Tiles under their titles, row by row."""
    height, width = tiles[0][1].shape[:2]
    rows = -(-len(tiles) // columns)
    size = (columns * (width + GAP) - GAP, rows * (height + TITLE + GAP) - GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for index, (title, tile) in enumerate(tiles):
        left = index % columns * (width + GAP)
        top = index // columns * (height + TITLE + GAP)
        draw.text((left + 2, top + 2), title, fill=(40, 40, 40), font=font)
        sheet.paste(Image.fromarray(tile), (left, top + TITLE))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs" / "images")
    folder = parser.parse_args().folder
    for name, picture in (("shirts", shirts()), ("white", plates()), ("brush", brush())):
        picture.save(folder / f"print-{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
