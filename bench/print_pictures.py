"""Draws the pictures of docs/PRINT.md about edges: `python -m bench.print_pictures [FOLDER]`.

What a shirt shows is drawn in two ways: as a screen blends alpha, and as a RIP prints it, with
white ink under every pixel that has any alpha and the colours on top.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.edges import DATA, PIECES, ROOT, artwork, laid_on
from bench.fringe import by_isnet, cut_each_way, under
from models.images import Cutout, Edge, Pixels, SourceImage
from services.edge_modes import EdgeFinish
from services.overlay import marked
from services.print_edges import edged

BLACK = (16, 16, 18)
PAPER = (255, 255, 255)
GAP, TITLE = 6, 18
SCALE = 4


def printed(cutout: Cutout, edge: EdgeFinish) -> Pixels:
    height, width = cutout.alpha.shape
    large, _ = edged(cutout, edge, size=(width * SCALE, height * SCALE))
    return np.dstack((large.rgb, large.alpha))


def plain(cutout: Cutout) -> Pixels:
    """As Pillow alone enlarges it."""
    picture = Image.fromarray(np.dstack((cutout.rgb, cutout.alpha)))
    size = (picture.width * SCALE, picture.height * SCALE)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def blended(rgba: Pixels, shirt: tuple[int, int, int] = BLACK) -> Pixels:
    return laid_on(rgba[..., :3], rgba[..., 3], np.full_like(rgba[..., :3], shirt))


def underlaid(rgba: Pixels) -> Pixels:
    """White ink under any alpha: what the shirt gets from a RIP."""
    return np.where(rgba[..., 3:] > 0, blended(rgba, PAPER), np.array(BLACK, np.uint8))


def sheet(titles: list[str], lines: list[list[Pixels]]) -> Image.Image:
    """Pictures of one size in a grid, a title over each column."""
    height, width = lines[0][0].shape[:2]
    size = (
        len(titles) * (width + GAP) - GAP,
        TITLE + len(lines) * (height + GAP) - GAP,
    )
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        left = column * (width + GAP)
        draw.text((left + 2, 2), title, (0, 0, 0), ImageFont.load_default(13))
        for row, line in enumerate(lines):
            page.paste(Image.fromarray(line[column]), (left, TITLE + row * (height + GAP)))
    return page


def cut(rgba: Pixels, box: tuple[int, int, int], *, zoom: int = 1) -> Pixels:
    """A square of `box` = left, top, side, each pixel `zoom` times."""
    left, top, side = box
    part = rgba[top : top + side, left : left + side]
    return part.repeat(zoom, axis=0).repeat(zoom, axis=1)


def lettering() -> Cutout:
    """Yellow letters with a hard edge and three specks, at 75 dpi."""
    picture = Image.new("1", (64, 64))
    ImageDraw.Draw(picture).text((6, 2), "R8", 1, ImageFont.load_default(44))
    alpha = np.asarray(picture, np.uint8) * 255
    alpha[58, 20] = alpha[4, 60] = 255
    alpha[56:59, 40:43] = 22
    return Cutout(np.full((64, 64, 3), (250, 200, 40), np.uint8), np.ascontiguousarray(alpha))


def glow() -> Cutout:
    """A ball and the glow round it, 480 pixels a side."""
    y, x = np.mgrid[:480, :480] - 239.5
    far = np.hypot(x, y)
    alpha = np.where(far < 100, 255, 225 * np.exp(-(((far - 100) / 75) ** 2)))
    rgb = np.full((480, 480, 3), (255, 150, 40), np.uint8)
    rgb[far < 100] = (210, 40, 30)
    return Cutout(rgb, np.asarray(np.rint(alpha), np.uint8))


def edges_on_black() -> Image.Image:
    source = lettering()
    ways = [plain(source), *(printed(source, EdgeFinish(edge)) for edge in list(Edge)[:3])]
    titles = ["plain Lanczos", "edge=soft", "edge=print", "edge=hard"]
    return sheet(titles, [[blended(each) for each in ways], [underlaid(each) for each in ways]])


def overlays() -> Image.Image:
    source = lettering()
    ways = [plain(source), *(printed(source, EdgeFinish(edge)) for edge in list(Edge)[:3])]
    titles = ["plain Lanczos", "edge=soft", "edge=print", "edge=hard"]
    return sheet(titles, [[blended(marked(each), (200, 200, 200)) for each in ways]])


def network() -> Image.Image:
    """A cut-out that rembg made with ISNet: where it is semi-transparent, and where as a print."""
    rgba = np.asarray(Image.open(DATA / "anime-girl-1.isnet-general-use.png").convert("RGBA"))
    source = Cutout(rgba[..., :3], np.ascontiguousarray(rgba[..., 3]))
    ways = [edged(source, EdgeFinish(edge)) for edge in (Edge.SOFT, Edge.PRINT)]
    for _, report in ways:
        print(report)
    shown = [np.dstack((way.rgb, way.alpha)) for way, _ in ways]
    return sheet(
        ["edge=soft", "its overlay", "overlay of edge=print"],
        [[cut(blended(each), NETWORK_BOX) for each in (shown[0], *map(marked, shown))]],
    )


def halftones() -> Image.Image:
    source = glow()
    soft = np.dstack((source.rgb, source.alpha))
    dotted, _ = edged(source, EdgeFinish(Edge.HALFTONE))
    dots = np.dstack((dotted.rgb, dotted.alpha))
    whole, near = (60, 60, 360), (300, 130, 120)
    lines = [
        [cut(underlaid(each), whole) for each in (soft, dots)],
        [cut(underlaid(each), near, zoom=3) for each in (soft, dots)],
    ]
    return sheet(["edge=soft", "edge=halftone, 45 lpi, 45 degrees"], lines)


def fringes() -> Image.Image:
    """One piece cut off three grounds by ISNet, laid on the shirt that shows most of each."""
    colours, alpha = artwork(PIECES[4], 1600)
    answer, lines = by_isnet(), []
    for ground, shirt in (("white", BLACK), ("black", PAPER), ("grass", PAPER)):
        rgb = laid_on(colours, alpha, under(ground, *alpha.shape))
        image = SourceImage(rgb, None, "PNG", 0, "")
        ways = [*cut_each_way(image, answer(image)).values(), (colours, alpha)]
        lines.append([cut(blended(np.dstack(way), shirt), FRINGE_BOX, zoom=3) for way in ways])
    return sheet(["rembg", "rembg decontaminate", "ours", "the artwork itself"], lines)


NETWORK_BOX = (180, 0, 600)
FRINGE_BOX = (20, 560, 80)
LOSSLESS = {"print-overlay", "print-halftone"}
PICTURES = {
    "print-edges": edges_on_black,
    "print-overlay": overlays,
    "print-network": network,
    "print-halftone": halftones,
    "print-fringe": fringes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs" / "images")
    folder = parser.parse_args().folder
    folder.mkdir(exist_ok=True)
    import rembg.bg  # noqa: F401, PLC0415  # before anything of ours switches its compiler off

    for name, draw in PICTURES.items():
        path = folder / f"{name}.webp"
        draw().save(path, lossless=name in LOSSLESS, method=6, quality=80)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
