"""How well and how fast the colour knock-out cuts artwork whose true alpha is known.

`python -m bench.knockout [--json FILE] [--quality Q]`: each piece of tests/data/art on each
ground, optionally through JPEG. Speed is a share of a peer's, measured in the same minute.
"""

import argparse
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.segmentation import flood

from models.images import Cutout, Holes, Pixels
from services.knockout import TOLERANCE, knock_out

ART = Path(__file__).parents[1] / "tests" / "data" / "art"
GROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "pastel": (200, 220, 240)}
TOLERANCES = (4.0, 8.0, 12.0, 16.0, 20.0)
SQUARE = np.ones((3, 3), np.bool_)


@dataclass(frozen=True, slots=True)
class Piece:
    """Artwork with its true alpha, (H, W, 4), and what to ask for its enclosed holes."""

    name: str
    rgba: Pixels
    holes: Holes


@dataclass(frozen=True, slots=True)
class Score:
    """Against the truth: IoU at alpha 128, mean errors in levels (edges as seen on black)."""

    iou: float
    alpha_error: float
    edge_error: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    piece: str
    ground: str
    score: Score
    flags: list[str] = field(default_factory=list)


def load_pieces(folder: Path = ART) -> list[Piece]:
    return [_piece(path) for path in sorted(folder.glob("*.png"))]


def _piece(path: Path) -> Piece:
    rgba = np.asarray(Image.open(path).convert("RGBA"))
    outside = np.pad(rgba[..., 3] < 128, 1, constant_values=True)
    _, regions = ndimage.label(outside)
    return Piece(path.stem, rgba, Holes.OPEN if regions > 1 else Holes.KEEP)


def laid_on(rgba: Pixels, ground: tuple[int, int, int]) -> Pixels:
    """The picture on a plain ground, (H, W, 3), mixed in encoded sRGB."""
    share = rgba[..., 3:].astype(np.float32) / 255
    return np.rint(rgba[..., :3] * share + np.array(ground, np.float32) * (1 - share)).astype(
        np.uint8
    )


def score(found: Cutout, truth: Pixels) -> Score:
    alpha = truth[..., 3]
    ours, theirs = found.alpha > 127, alpha > 127
    edge = ndimage.binary_dilation((alpha > 0) & (alpha < 255), SQUARE)
    shown = laid_on(np.dstack([found.rgb, found.alpha]), GROUNDS["black"])
    wanted = laid_on(truth, GROUNDS["black"])
    return Score(
        iou=int((ours & theirs).sum()) / max(int((ours | theirs).sum()), 1),
        alpha_error=_mean_error(found.alpha, alpha),
        edge_error=_mean_error(shown[edge], wanted[edge]) if edge.any() else 0.0,
    )


def _mean_error(ours: Pixels, theirs: Pixels) -> float:
    return float(np.abs(ours.astype(np.int16) - theirs).mean())


def as_jpeg(rgb: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def rows(pieces: list[Piece], quality: int | None, tolerance: float = TOLERANCE) -> Iterator[Row]:
    for piece in pieces:
        for name, ground in GROUNDS.items():
            picture = laid_on(piece.rgba, ground)
            picture = as_jpeg(picture, quality) if quality else picture
            found = knock_out(picture, holes=piece.holes, tolerance=tolerance)
            flags = [str(flag) for flag in found.flags]
            yield Row(piece.name, name, score(found, piece.rgba), flags)


def peer(rgb: Pixels) -> object:
    """A plain flood of the whole picture in CIELAB, from one corner."""
    lab = rgb2lab(rgb)
    distance = np.linalg.norm(lab - lab[0, 0], axis=-1)
    found: object = flood(distance, (0, 0), tolerance=TOLERANCE)  # type: ignore[no-untyped-call]  # scikit-image ships no types
    return found


def enlarged(rgb: Pixels, megapixels: float = 2.0) -> Pixels:
    scale = (megapixels * 1e6 / (rgb.shape[0] * rgb.shape[1])) ** 0.5
    size = (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def seconds(work: Callable[[Pixels], object], rgb: Pixels) -> float:
    """The best of three: the box is shared."""
    spent = []
    for _ in range(3):
        start = perf_counter()
        work(rgb)
        spent.append(perf_counter() - start)
    return min(spent)


def speeds(pieces: list[Piece]) -> dict[str, dict[str, float]]:
    """Milliseconds per megapixel at 2 MP on white, the peer's, and ours as a share of it."""
    table = {}
    for piece in pieces:
        picture = enlarged(laid_on(piece.rgba, GROUNDS["white"]))
        megapixels = picture.shape[0] * picture.shape[1] / 1e6
        ours, theirs = (seconds(work, picture) * 1e3 / megapixels for work in (knock_out, peer))
        table[piece.name] = {"ms_per_mp": ours, "peer": theirs, "share": ours / theirs}
    return table


def peak_bytes_per_pixel(piece: Piece, megapixels: float = 16.0) -> float:
    """Peak of what a call allocates, its result included and its input not."""
    picture = enlarged(laid_on(piece.rgba, GROUNDS["white"]), megapixels)
    tracemalloc.start()
    knock_out(picture)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return float(peak / (picture.shape[0] * picture.shape[1]))


def median_iou(table: list[Row]) -> float:
    return median(row.score.iou for row in table if row.ground != "black")


def show(table: list[Row]) -> None:
    print(f"{'piece':34}{'ground':8}{'IoU':>8}{'alpha':>8}{'edge':>8}  flags")
    for row in table:
        s = row.score
        cells = f"{s.iou:8.4f}{s.alpha_error:8.2f}{s.edge_error:8.2f}"
        print(f"{row.piece:34}{row.ground:8}{cells}  {' '.join(row.flags)}")
    print(f"median IoU on white and pastel: {median_iou(table):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quality", type=int, help="pass the pictures through JPEG first")
    options = parser.parse_args()
    pieces = load_pieces()
    table = list(rows(pieces, options.quality))
    show(table)
    sweep = {t: median_iou(list(rows(pieces, options.quality, t))) for t in TOLERANCES}
    report = {
        "rows": [asdict(row) for row in table],
        "median_iou_by_tolerance": sweep,
        "speed": speeds(pieces),
        "peak_bytes_per_pixel": {p.name: peak_bytes_per_pixel(p) for p in pieces},
    }
    text = json.dumps(report, indent=1)
    if options.json:
        options.json.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
