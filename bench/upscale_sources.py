"""The pictures that bench.upscale enlarges, written strip by strip so that none is ever whole.

Large pictures are mosaics of small ones: every piece is turned over and tinted by chance, or a
repeated row would be one long match for deflate and no measure of anything.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.png import DATA, PHOTOS, cut_out, open_art, save
from utils.png import write_png

Pixels = NDArray[np.uint8]

ART = sorted(path.name for path in (DATA / "art").glob("*.png"))
ART_CELL = (1100, 1125)
_LEAST_TINT = 0.6


def write_peers_pictures(folder: Path) -> dict[str, Path]:
    """A square cut-out of a photograph and every piece of artwork, as Pillow saves them."""
    pictures = {"photo": cut_out(PHOTOS[0], side=1000)}
    pictures |= {f"art {name.split('_')[0]}": open_art(name) for name in ART}
    paths = {name: folder / f"{name}.png" for name in pictures}
    for name, picture in pictures.items():
        paths[name].write_bytes(save(picture))
    return paths


def write_photo(path: Path, *, side: int, tile: int) -> Path:
    """A square of cut-out photographs, each `tile` pixels a side."""
    picture = np.asarray(cut_out(PHOTOS[0], side=tile))
    return _write(path, [picture], across=side // tile, down=side // tile)


def write_gang_sheet(path: Path, *, width: int, height: int) -> Path:
    """Artwork side by side on transparency, as a shop fills a roll of film."""
    cell_width, cell_height = ART_CELL
    cells = [_in_cell(name) for name in ART]
    return _write(path, cells, across=width // cell_width, down=height // cell_height)


def _write(path: Path, pieces: Sequence[Pixels], *, across: int, down: int) -> Path:
    height, width, channels = pieces[0].shape
    strips = _mosaic(pieces, across=across, down=down)
    with path.open("wb") as file:
        file.writelines(
            write_png(strips, width=width * across, height=height * down, channels=channels)
        )
    return path


def _mosaic(pieces: Sequence[Pixels], *, across: int, down: int) -> Iterator[Pixels]:
    """One row of pieces after the other; each begins with the next piece."""
    chance = np.random.default_rng(0)
    for row in range(down):
        shown = [pieces[(row + column) % len(pieces)] for column in range(across)]
        yield np.concatenate([_varied(piece, chance) for piece in shown], axis=1)


def _varied(piece: Pixels, chance: np.random.Generator) -> Pixels:
    tint = chance.uniform(_LEAST_TINT, 1, 3)
    colours = [np.arange(256) * share for share in tint]
    turned = piece[:: chance.choice((1, -1)), :: chance.choice((1, -1))]
    planes = [each.astype(np.uint8)[turned[..., i]] for i, each in enumerate(colours)]
    return np.dstack((*planes, turned[..., 3]))


def _in_cell(name: str) -> Pixels:
    width, height = ART_CELL
    art = np.asarray(open_art(name))
    top, left = (height - len(art)) // 2, (width - art.shape[1]) // 2
    cell = np.zeros((height, width, 4), np.uint8)
    cell[top : top + len(art), left : left + art.shape[1]] = art
    return cell
