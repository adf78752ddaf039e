"""The fringe that is left round a cut-out, as printed: ours against plain rembg on the same masks.

`python -m bench.fringe [--side PIXELS] [--json FILE]`: each piece of tests/data/art, enlarged, over
white, black, grass and a photo. The background is removed by each local model that is here; what
each way makes of the model's one mask is laid on a dark and on a white shirt and compared with the
artwork itself laid on them. rembg's two ways are its own functions, called as its `remove` does:
`naive_cutout`, its default, and `decontaminate_cutout`.

Errors are mean levels of 255 over the pixels of the artwork's soft rim and two around, where the
mask is about right: a leaf that a network left out is no fringe, and is as wrong for everybody.
`all` counts those as well. What is seen on a shirt holds the mask's own error, which hides a fringe
of the shirt's colour; `colour` is what the ink alone is off, at the coverage each cut-out has.
"""

import os

os.environ.update(OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from bench.edges import PIECES, WEIGHTS, artwork, laid_on, photo
from models.images import Cutout, Pixels, SourceImage
from models.schemas import ModelId
from services.knockout import knock_out
from services.local_rembg import NETWORKS, cut_out, mask_from, open_session, predict
from utils.png import encode_png

GROUNDS = ("white", "black", "grass", "photo")
SHIRTS = {"dark": (20, 20, 24), "white": (255, 255, 255)}
WAYS = ("naive", "decontaminate", "ours")
RIM = 2  # pixels round the soft ones
ABOUT_RIGHT = 24  # levels between mask and truth, averaged over the window below
WINDOW = 31

Mask: TypeAlias = NDArray[np.bool_]
Rgba: TypeAlias = tuple[Pixels, Pixels]
Row: TypeAlias = dict[str, str | float]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model gave: our cut-out, and its mask as rembg brings it to the picture's size."""

    cutout: Cutout
    mask: Pixels


def under(name: str, height: int, width: int) -> Pixels:
    if name == "grass":
        return grass(height, width)
    if name == "photo":
        return photo("car-1", height, width)
    return np.full((height, width, 3), {"white": 255, "black": 0}[name], np.uint8)


def grass(height: int, width: int) -> Pixels:
    """Upright blades, some pixels wide and a few dozen long, from dark to light green."""
    random = np.random.default_rng(4)
    blades = ndimage.gaussian_filter(random.normal(size=(height, width)), (9, 1.2))
    light = (blades / blades.std() * 0.25 + 0.5).clip(0, 1)[..., None]
    dark, bright = np.array([28, 60, 16]), np.array([150, 190, 80])
    return np.asarray(np.rint(dark + light * (bright - dark)), np.uint8)


def knocked_out(image: SourceImage) -> Answer:
    cutout = knock_out(image.rgb)
    return Answer(cutout, cutout.alpha)


def by_isnet() -> Callable[[SourceImage], Answer]:
    network = NETWORKS[ModelId.LOCAL_ISNET]
    session = open_session(network.session, WEIGHTS, 2)

    def answer(image: SourceImage) -> Answer:
        prediction = predict(session, network, image)
        mask = Image.fromarray(mask_from(prediction)[0])
        plain = mask.resize((image.width, image.height), Image.Resampling.LANCZOS)
        return Answer(cut_out(image, prediction), np.asarray(plain))

    return answer


def models() -> dict[str, Callable[[SourceImage], Answer]]:
    """The local models whose files are here; BiRefNet's 1 GB is left to who has the memory."""
    found: dict[str, Callable[[SourceImage], Answer]] = {"knock-out": knocked_out}
    if WEIGHTS.exists():
        found["ISNet"] = by_isnet()
    return found


def cut_each_way(image: SourceImage, answer: Answer) -> dict[str, Rgba]:
    from rembg.bg import decontaminate_cutout, naive_cutout  # noqa: PLC0415  # compiles a minute

    picture, mask = Image.fromarray(image.rgb), Image.fromarray(answer.mask)
    naive, clean = (np.asarray(cut(picture, mask)) for cut in (naive_cutout, decontaminate_cutout))
    return {
        "naive": (naive[..., :3], naive[..., 3]),
        "decontaminate": (clean[..., :3], clean[..., 3]),
        "ours": (answer.cutout.rgb, answer.cutout.alpha),
    }


def rim(alpha: Pixels) -> Mask:
    soft = (alpha > 0) & (alpha < 255)
    return np.asarray(ndimage.maximum_filter(soft, 2 * RIM + 1))


def about_right(mask: Pixels, truth: Pixels) -> Mask:
    off = np.abs(mask.astype(np.float32) - truth)
    return np.asarray(ndimage.uniform_filter(off, WINDOW) < ABOUT_RIGHT)


def continued(colours: Pixels, alpha: Pixels) -> Pixels:
    """The artwork's colours, going on from its nearest pixel of some alpha where it has none."""
    known = alpha >= 32  # below, its 8 bits of premultiplied colour say little
    at = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(colours[at[0], at[1]])


def ink_error(cut: Rgba, own: Pixels) -> NDArray[np.float32]:
    rgb, alpha = cut
    off = np.abs(rgb.astype(np.float32) - own) * (alpha / np.float32(255))[..., None]
    return np.asarray(off, np.float32)


def worn(cut: Rgba, shirt: tuple[int, int, int]) -> Pixels:
    rgb, alpha = cut
    return laid_on(rgb, alpha, np.full_like(rgb, shirt))


def rows(path: Path, side: int) -> Iterator[Row]:
    colours, alpha = artwork(path, side)
    own = continued(colours, alpha)
    for ground in GROUNDS:
        rgb = laid_on(colours, alpha, under(ground, *alpha.shape))
        image = SourceImage(rgb, None, "PNG", 0, "")
        for model, work in LOCAL.items():
            answer = work(image)
            near = rim(alpha)
            right = near & about_right(answer.mask, alpha)
            cuts = cut_each_way(image, answer)
            inks = {way: ink_error(cut, own) for way, cut in cuts.items()}
            for shirt, cloth in SHIRTS.items():
                wanted = worn((colours, alpha), cloth).astype(np.int16)
                off = {way: np.abs(worn(cut, cloth) - wanted) for way, cut in cuts.items()}
                yield {
                    "piece": path.stem,
                    "ground": ground,
                    "model": model,
                    "shirt": shirt,
                    "judged": float(right.sum() / near.sum()),
                    **{way: _mean(each, right) for way, each in off.items()},
                    **{f"{way}, colour": _mean(each, right) for way, each in inks.items()},
                    **{f"{way}, all": _mean(each, near) for way, each in off.items()},
                }


def _mean(off: NDArray[np.generic], where: Mask) -> float:
    return float(off[where].mean()) if where.any() else float("nan")


def hidden_cost(path: Path, side: int) -> Row:
    """What the colours that go on under alpha 0 cost: bytes of the PNG with them and without."""
    colours, alpha = artwork(path, side)
    cutout = knock_out(laid_on(colours, alpha, under("white", *alpha.shape)))
    bare = np.where(cutout.alpha[..., None] > 0, cutout.rgb, np.uint8(0))
    sizes = [len(encode_png(np.dstack((rgb, cutout.alpha)))) for rgb in (cutout.rgb, bare)]
    return {"piece": path.stem, "share": sizes[0] / sizes[1]}


def show(found: list[Row], ending: str = "") -> None:
    print(
        f"| model | ground | shirt |{'|'.join(f' {w} ' for w in WAYS)}| ours lowest in | judged |"
    )
    keys = sorted({(str(r["model"]), str(r["ground"]), str(r["shirt"])) for r in found})
    for model, ground, shirt in keys:
        mine = [
            r
            for r in found
            if (r["model"], r["ground"], r["shirt"]) == (model, ground, shirt)
            and not np.isnan(float(r["ours" + ending]))
        ]
        each = {way: [float(r[way + ending]) for r in mine] for way in WAYS}
        won = sum(
            o <= min(a, b)
            for a, b, o in zip(each["naive"], each["decontaminate"], each["ours"], strict=True)
        )
        cells = " | ".join(f"{median(values):.2f}" for values in each.values())
        judged = median(float(r["judged"]) for r in mine)
        print(f"| {model} | {ground} | {shirt} | {cells} | {won} of {len(mine)} | {judged:.0%} |")


LOCAL: dict[str, Callable[[SourceImage], Answer]] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=1600, help="pixels of the longest side")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import rembg.bg  # noqa: F401, PLC0415  # before anything of ours switches its compiler off

    LOCAL.update(models())
    found = [row for path in PIECES for row in rows(path, options.side)]
    show(found)
    show(found, ", colour")
    show(found, ", all")
    hidden = [hidden_cost(path, options.side) for path in PIECES]
    for row in hidden:
        print(row)
    if options.json:
        options.json.write_text(json.dumps({"fringe": found, "hidden": hidden}, indent=1))


if __name__ == "__main__":
    main()
