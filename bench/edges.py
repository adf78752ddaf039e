"""How well and how fast an enlarged alpha and cleaned colours match artwork whose truth is known.

`python -m bench.edges [--side PIXELS] [--json FILE]`: each piece of tests/data/art, enlarged, on
each ground. Every candidate sees the same inputs in the same run; seconds are CPU seconds on one
thread. pymatting compiles for a minute, so it runs in a process of its own, and only in this file.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from models.images import Pixels, SourceImage
from models.schemas import ModelId
from services.edges import RADIUS, RIDGE, decontaminate, project_alpha

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
WEIGHTS = ROOT / "weights" / "models" / "isnet-general-use" / "isnet-general-use.onnx"
PIECES = tuple(sorted((DATA / "art").glob("*.png")))
PHOTOS = ("car-1", "anime-girl-1")
GROUNDS = ("white", "pastel", "texture", *PHOTOS)
COARSE = 1024
BAND = 8  # pixels round the soft ones in which errors count
NATIVE = 1000  # longest side at which colours are compared
LANCZOS, BILINEAR = Image.Resampling.LANCZOS, Image.Resampling.BILINEAR

Floats: TypeAlias = NDArray[np.float32]
Layer: TypeAlias = Callable[[Pixels, Pixels], Pixels]  # rgb and alpha into a result


@dataclass(frozen=True, slots=True)
class Scene:
    """A piece on a ground: the picture, and the colours and alpha it was made of."""

    rgb: Pixels
    colours: Pixels
    alpha: Pixels


def artwork(path: Path, side: int) -> tuple[Pixels, Pixels]:
    """The piece's straight colours and alpha, Lanczos-enlarged premultiplied to `side` pixels."""
    rgba = np.asarray(Image.open(path).convert("RGBA"), np.float32)
    scale = side / max(rgba.shape[:2])
    size = (round(rgba.shape[1] * scale), round(rgba.shape[0] * scale))
    share = rgba[..., 3] / 255
    alpha = _plane(rgba[..., 3], size).clip(0, 255)
    colours = [_plane(rgba[..., c] * share, size) * 255 / np.maximum(alpha, 1) for c in range(3)]
    return _rounded(np.stack(colours, -1)), _rounded(alpha)


def ground(name: str, height: int, width: int) -> Pixels:
    """White, a pastel, a coarse grainy texture, or a photo enlarged to cover."""
    if name in PHOTOS:
        return photo(name, height, width)
    if name == "texture":
        return _texture(height, width)
    colour = {"white": (255, 255, 255), "pastel": (200, 220, 240)}[name]
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3))


def photo(name: str, height: int, width: int) -> Pixels:
    picture = Image.open(DATA / f"{name}.jpg").convert("RGB")
    scale = max(height / picture.height, width / picture.width)
    size = (-int(-picture.width * scale // 1), -int(-picture.height * scale // 1))
    return np.asarray(picture.resize(size, LANCZOS))[:height, :width]


def _texture(height: int, width: int) -> Pixels:
    """Brown, blotched with a deviation of 25 levels over some ten pixels, and grain of 6."""
    random = np.random.default_rng(0)
    small = ndimage.gaussian_filter(random.normal(size=(height // 4 + 1, width // 4 + 1)), 1.5)
    blotches = np.kron(small / small.std(), np.ones((4, 4)))[:height, :width] * 25
    grain = random.normal(size=(height, width)) * 6
    return _rounded(np.array([150, 120, 90]) + (blotches + grain)[..., None])


def scenes(path: Path, side: int) -> Iterator[tuple[str, Scene]]:
    colours, alpha = artwork(path, side)
    for name in GROUNDS:
        yield name, Scene(laid_on(colours, alpha, ground(name, *alpha.shape)), colours, alpha)


def laid_on(colours: Pixels, alpha: Pixels, under: Pixels) -> Pixels:
    share = (alpha / np.float32(255))[..., None]
    return _rounded(colours * share + under * (1 - share))


def coarse(alpha: Pixels, *, squashed: bool) -> Pixels:
    """The alpha as a network would return it: 1024 on the longest side, or 1024 x 1024."""
    scale = COARSE / max(alpha.shape)
    height, width = (COARSE if squashed else round(side * scale) for side in alpha.shape)
    return np.asarray(Image.fromarray(alpha).resize((width, height), LANCZOS))


def band(alpha: Pixels) -> NDArray[np.bool_]:
    soft = (alpha > 0) & (alpha < 255)
    return np.asarray(ndimage.maximum_filter(soft, 2 * BAND + 1))


def _rounded(values: NDArray[np.floating]) -> Pixels:
    return np.asarray(np.rint(values.clip(0, 255)), np.uint8)


def _plane(
    plane: NDArray[np.generic], size: tuple[int, int], kernel: Image.Resampling = LANCZOS
) -> Floats:
    return np.asarray(Image.fromarray(np.asarray(plane, np.float32)).resize(size, kernel))


def _plain(kernel: Image.Resampling) -> Layer:
    return lambda rgb, alpha: np.asarray(
        Image.fromarray(alpha).resize((rgb.shape[1], rgb.shape[0]), kernel)
    )


def guided(rgb: Pixels, alpha: Pixels) -> Pixels:
    """The fast guided filter: He and Sun 2015, colour guide, our window and regularisation."""
    full = (rgb.shape[1], rgb.shape[0])
    small = np.asarray(Image.fromarray(rgb).resize(alpha.shape[::-1], Image.Resampling.BOX))
    guide, level = small.astype(np.float32), alpha.astype(np.float32)
    means = _box(guide)
    spread = _box(guide[..., None] * guide[..., None, :]) - means[..., None] * means[..., None, :]
    shared = _box(guide * level[..., None]) - means * _box(level)[..., None]
    slopes = np.linalg.solve(spread + RIDGE * np.eye(3, dtype=np.float32), shared[..., None])
    offsets = _box(_box(level) - (slopes[..., 0] * means).sum(-1))
    fine = _plane(offsets, full, BILINEAR).copy()
    for c in range(3):
        fine += _plane(_box(slopes[..., c, 0]), full, BILINEAR) * rgb[..., c]
    return _rounded(fine)


def _box(planes: Floats) -> Floats:
    side = 2 * RADIUS + 1
    size = (side, side) + (1,) * (planes.ndim - 2)
    return np.asarray(ndimage.uniform_filter(planes, size, mode="nearest"))


def locally_unmixed(rgb: Pixels, alpha: Pixels) -> Pixels:
    """Alpha from the nearest solid and clear colours, blended with the plain resize.

    The un-mixed value counts by how far apart the colours are and how well they explain the pixel.
    """
    plain = _plain(BILINEAR)(rgb, alpha)
    front, back = (_nearest(rgb, plain == end).astype(np.float32) for end in (255, 0))
    way, mixed = front - back, rgb - back
    square = (way * way).sum(-1)
    share = ((mixed * way).sum(-1) / np.maximum(square, 1)).clip(0, 1)
    off = ((mixed - share[..., None] * way) ** 2).sum(-1)
    trust = np.where((plain > 0) & (plain < 255), square / (square + 20 * off + 900), 0)
    return _rounded(plain + trust * (255 * share - plain))


def _nearest(rgb: Pixels, known: NDArray[np.bool_]) -> Pixels:
    if not known.any():
        return rgb
    at = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(rgb[at[0], at[1]])


def blur_fusion(rgb: Pixels, alpha: Pixels) -> Pixels:
    """Forte and Pitié 2021: two passes, r = 90 and r = 6."""
    mixed, share = rgb.astype(np.float32), (alpha[..., None] / 255).astype(np.float32)
    front, back = _fused(mixed, mixed, mixed, share, 90)
    return _rounded(_fused(mixed, front, back, share, 6)[0])


def _fused(  # noqa: PLR0913  # the formula's terms
    mixed: Floats, front: Floats, back: Floats, share: Floats, side: int, *, least: float = 1e-5
) -> tuple[Floats, Floats]:
    def blur(planes: Floats) -> Floats:
        return np.asarray(ndimage.uniform_filter(planes, (side, side, 1)))

    weight = blur(share)
    front_mean = blur(front * share) / (weight + least)
    back_mean = blur(back * (1 - share)) / (1 - weight + least)
    step = share * (mixed - share * front_mean - (1 - share) * back_mean)
    return (front_mean + step).clip(0, 255), back_mean


def _naive(rgb: Pixels, alpha: Pixels) -> Pixels:
    """Plain rembg's: Pillow's composite leaves the colour multiplied by alpha."""
    return _rounded(rgb * (alpha / np.float32(255))[..., None])


def multilevel(rgb: Pixels, alpha: Pixels) -> Pixels:
    """The multilevel estimate of pymatting (Germer 2020)."""
    from pymatting import estimate_foreground_ml  # noqa: PLC0415  # compiles for a minute

    return _rounded(np.asarray(estimate_foreground_ml(rgb / 255, alpha / 255)) * 255)


ALPHAS: dict[str, Layer] = {
    "bilinear": _plain(BILINEAR),
    "lanczos": _plain(LANCZOS),
    "guided": guided,
    "unmixed": locally_unmixed,
    "ours": lambda rgb, alpha: project_alpha(rgb, alpha=alpha),
}
COLOURS: dict[str, Layer] = {
    "source": lambda rgb, _: rgb,
    "naive": _naive,
    "nearest": lambda rgb, alpha: _nearest(rgb, alpha == 255),
    "fusion": blur_fusion,
    "ours": lambda rgb, alpha: decontaminate(rgb, alpha=alpha),
}
PEERS: dict[str, Layer] = {"pymatting": multilevel}


def alpha_rows(path: Path, side: int) -> list[dict[str, object]]:
    """Mean alpha error in levels, in the band, of each candidate on each ground and coarse grid."""
    rows: list[dict[str, object]] = []
    for name, scene in scenes(path, side):
        near = band(scene.alpha)
        truth = scene.alpha[near].astype(np.int16)
        for squashed in (False, True):
            given = coarse(scene.alpha, squashed=squashed)
            row = {"piece": path.stem, "ground": name, "grid": ("longest", "squashed")[squashed]}
            found = {each: ALPHAS[each](scene.rgb, given)[near] for each in ALPHAS}
            errors = {each: float(np.abs(a - truth).mean()) for each, a in found.items()}
            rows.append({**row, **errors})
    return rows


def colour_rows(path: Path, candidates: dict[str, Layer]) -> list[dict[str, object]]:
    """Error in levels of soft pixels as printed on any shirt, the true alpha given."""
    rows: list[dict[str, object]] = []
    for name, scene in scenes(path, NATIVE):
        soft = (scene.alpha > 0) & (scene.alpha < 255)
        share = (scene.alpha[soft] / 255)[:, None]
        truth = scene.colours[soft].astype(np.int16)
        found = {each: work(scene.rgb, scene.alpha)[soft] for each, work in candidates.items()}
        errors = {each: float((np.abs(c - truth) * share).mean()) for each, c in found.items()}
        rows.append({"piece": path.stem, "ground": name, **errors})
    return rows


def printed_rows(path: Path, side: int) -> list[dict[str, object]]:
    """Error in levels in the band as printed on black and on white, alpha and colour both found."""
    rows: list[dict[str, object]] = []
    for name, scene in scenes(path, side):
        near, given = band(scene.alpha), coarse(scene.alpha, squashed=False)
        row: dict[str, object] = {"piece": path.stem, "ground": name}
        for label, alpha in (("plain", "bilinear"), ("ours", "ours")):
            fine = ALPHAS[alpha](scene.rgb, given)
            colours = decontaminate(scene.rgb, alpha=fine) if label == "ours" else scene.rgb
            for shirt in (0, 255):
                seen = _printed(colours[near], fine[near], shirt)
                wanted = _printed(scene.colours[near], scene.alpha[near], shirt)
                row[f"{label} on {shirt}"] = float(np.abs(seen - wanted).mean())
        rows.append(row)
    return rows


def _printed(colours: Pixels, alpha: Pixels, shirt: int) -> Floats:
    share = (alpha / np.float32(255))[:, None]
    return np.asarray(colours * share + shirt * (1 - share), np.float32)


def costs(path: Path, side: int) -> dict[str, dict[str, float]]:
    """CPU seconds per megapixel, and peak bytes a pixel beyond the inputs, result included."""
    colours, alpha = artwork(path, side)
    rgb = laid_on(colours, alpha, ground("texture", *alpha.shape))
    given = coarse(alpha, squashed=False)
    return {
        **{f"alpha {each}": _cost(work, rgb, given) for each, work in ALPHAS.items()},
        **{f"colour {each}": _cost(work, rgb, alpha) for each, work in COLOURS.items()},
    }


def _cost(work: Layer, rgb: Pixels, alpha: Pixels) -> dict[str, float]:
    pixels = rgb.shape[0] * rgb.shape[1]
    begun = time.process_time()
    work(rgb, alpha)
    spent = time.process_time() - begun
    tracemalloc.start()
    work(rgb, alpha)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"s_per_mp": spent * 1e6 / pixels, "bytes_per_pixel": peak / pixels}


def peer_report() -> dict[str, object]:
    """What pymatting does; meant for a process of its own."""
    multilevel(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8))
    colours, alpha = artwork(PIECES[1], 2000)
    rgb = laid_on(colours, alpha, ground("texture", *alpha.shape))
    rows = [row for path in PIECES for row in colour_rows(path, PEERS)]
    return {"rows": rows, "cost": _cost(multilevel, rgb, alpha)}


def _peer_in_own_process() -> dict[str, object]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "bench.edges", "--peer", "--json", file.name]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, object] = json.load(file)
    return found


@cache
def network_alpha(name: str) -> Pixels:
    """ISNet's 8-bit mask of a test photo, (1024, 1024)."""
    from services.local_rembg import (  # noqa: PLC0415  # loads the network
        NETWORKS,
        mask_from,
        open_session,
        predict,
    )

    network = NETWORKS[ModelId.LOCAL_ISNET]
    rgb = np.asarray(Image.open(DATA / f"{name}.jpg").convert("RGB"))
    session = open_session(network.session, WEIGHTS, 1)
    return mask_from(predict(session, network, SourceImage(rgb, None, "JPEG", 0, "")))[0]


def network_rows(name: str, side: int) -> dict[str, dict[str, int]]:
    """Islands and holes (connected at alpha 128) of ISNet's mask, enlarged plainly and by us."""
    picture = Image.open(DATA / f"{name}.jpg").convert("RGB")
    scale = side / max(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    rgb = np.asarray(picture.resize(size, LANCZOS))
    return {each: _regions(ALPHAS[each](rgb, network_alpha(name))) for each in ALPHAS}


def _regions(alpha: Pixels) -> dict[str, int]:
    solid = alpha > 127
    return {
        "islands": int(ndimage.label(solid)[1]),
        "holes": int(ndimage.label(~solid)[1]),
        "soft_pixels": int(((alpha > 0) & (alpha < 255)).sum()),
    }


def show(rows: list[dict[str, object]]) -> None:
    """One line a row, then the median over the rows of each column of numbers."""
    numbers = [key for key, value in rows[0].items() if isinstance(value, float)]
    names = [key for key in rows[0] if key not in numbers]
    print("".join(f"{key:16}" for key in names) + "".join(f"{key:>13}" for key in numbers))
    for row in rows:
        cells = "".join(f"{row[key]:13.2f}" for key in numbers)
        print("".join(f"{str(row[key])[:14]:16}" for key in names) + cells)
    middles = [median(float(str(row[key])) for row in rows) for key in numbers]
    print(f"{'median':{16 * len(names)}}" + "".join(f"{each:13.2f}" for each in middles))


def report(side: int) -> dict[str, object]:
    sides, count = [side] * len(PIECES), os.cpu_count() or 1
    with ProcessPoolExecutor(min(2, count)) as pool:
        alphas = [row for rows in pool.map(alpha_rows, PIECES, sides) for row in rows]
        printed = [row for rows in pool.map(printed_rows, PIECES, sides) for row in rows]
    peer = _peer_in_own_process()
    peers = peer["rows"]
    assert isinstance(peers, list)
    ours = [row for path in PIECES for row in colour_rows(path, COLOURS)]
    colours = [{**row, **theirs} for row, theirs in zip(ours, peers, strict=True)]
    for rows in (alphas, printed, colours):
        show(rows)
    return {
        "alpha": alphas,
        "printed": printed,
        "colour": colours,
        "cost": {**costs(PIECES[1], side), "colour pymatting": peer["cost"]},
        "network": {name: network_rows(name, side) for name in PHOTOS if WEIGHTS.exists()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=4000, help="pixels of the longest side")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    found = peer_report() if options.peer else report(options.side)
    text = json.dumps(found, indent=1)
    if options.json:
        options.json.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
