"""The look-alikes' hands: cuts pictures with the knock-out or ISNet, in a small pool of its own.

Every model has a style (how far a colour may be off, how soft the edge is), so that two models'
answers to one picture differ as they do in life.
"""

import asyncio
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from models.images import Cutout, Flag, Pixels, SourceImage
from sandbox.faults import Kind, TaskFaults
from sandbox.options import KIE_MODEL
from sandbox.pictures import OutputFormat, Picture, encode, encode_opaque
from services.knockout import knock_out
from services.local_rembg import NETWORKS, InferenceSession, Prediction, cut_out, predict
from services.local_rembg import open_session as open_network

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
Levels: TypeAlias = NDArray[np.float32]

_SESSION = "isnet-general-use"
_NETWORK = next(each for each in NETWORKS.values() if each.session == _SESSION)
_PREDICTIONS_KEPT = 4
_BEYOND_KNOCK_OUT = {Flag.RIM_EQUALS_GROUND, Flag.EMPTY, Flag.FULL_FRAME}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """`gain` steepens the edge about its middle, `blur_px` is a Gaussian's sigma."""

    tolerance: float
    blur_px: float = 0.0
    gain: float = 1.0
    largest_only: bool = False


_STYLES: Mapping[str, Style] = {
    "bria:2@1": Style(tolerance=12, blur_px=0.8),
    "runware:110@1": Style(tolerance=12, blur_px=0.6),
    "runware:112@10": Style(tolerance=18, gain=1.6),
    "runware:112@5": Style(tolerance=15, gain=1.2),
    "runware:112@9": Style(tolerance=9, blur_px=1.2),
    "runware:109@1": Style(tolerance=22, blur_px=1.5),
    KIE_MODEL: Style(tolerance=16, blur_px=1.1, gain=1.3, largest_only=True),
}
_PLAIN = Style(tolerance=14)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    picture: Picture
    model: str
    format: OutputFormat
    faults: TaskFaults
    quality: int = 95
    keep_alpha: bool = True


@dataclass(frozen=True, slots=True)
class Made:
    content: bytes
    media_type: str

    @property
    def extension(self) -> str:
        return {"image/jpeg": "jpg"}.get(self.media_type, self.media_type.partition("/")[2])


class Studio:
    """Decoding, cutting and encoding, all in `threads` threads."""

    def __init__(self, *, threads: int, isnet: Path | None) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="sandbox")
        self._network = _Network(isnet) if isnet is not None and isnet.is_file() else None

    async def run(self, work: Callable[..., _T], /, *args: object, **kwargs: object) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(work, *args, **kwargs))

    async def make(self, job: Job) -> Made:
        return await self.run(_make, job, self._network)

    async def close(self) -> None:
        """Returns when the last thread has ended."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)


class _Network:
    """ISNet, loaded at the first picture the knock-out cannot do."""

    def __init__(self, weights: Path) -> None:
        self._weights = weights
        self._lock = threading.Lock()
        self._session: InferenceSession | None = None
        self._predictions: OrderedDict[str, Prediction] = OrderedDict()

    def cut(self, image: SourceImage) -> Cutout:
        with self._lock:
            prediction = self._predictions.pop(image.sha256, None)
            if prediction is None:
                prediction = predict(self._opened(), _NETWORK, image)
            self._predictions[image.sha256] = prediction
            if len(self._predictions) > _PREDICTIONS_KEPT:
                self._predictions.popitem(last=False)
        return cut_out(image, prediction)

    def _opened(self) -> InferenceSession:
        if self._session is None:
            self._session = open_network(_SESSION, self._weights, 1)
        return self._session


def _make(job: Job, network: _Network | None) -> Made:
    rgb, alpha = _cut(job, network)
    rgb, alpha = _resized(rgb, alpha, faults=job.faults)
    if Kind.EMPTY_ALPHA in job.faults:
        alpha = np.zeros_like(alpha)
    if Kind.NO_ALPHA in job.faults:
        return Made(encode_opaque(rgb), OutputFormat.PNG.media_type)
    format_ = OutputFormat.WEBP if Kind.WEBP in job.faults else job.format
    return Made(encode(rgb, alpha, format_=format_, quality=job.quality), format_.media_type)


def _cut(job: Job, network: _Network | None) -> tuple[Pixels, Pixels]:
    style = _STYLES.get(job.model, _PLAIN)
    opaque = _on_white(job.picture)
    cutout = knock_out(opaque, tolerance=style.tolerance)
    if network is not None and _BEYOND_KNOCK_OUT & set(cutout.flags):
        cutout = network.cut(_source(opaque))
    alpha = _styled(cutout.alpha, style)
    if job.keep_alpha and job.picture.alpha is not None:
        alpha = np.rint(alpha.astype(np.float32) * job.picture.alpha / 255).astype(np.uint8)
    return cutout.rgb, alpha


def _on_white(picture: Picture) -> Pixels:
    if picture.alpha is None:
        return picture.rgb
    ground = Image.new("RGB", (picture.width, picture.height), "white")
    ground.paste(Image.fromarray(picture.rgb), mask=Image.fromarray(picture.alpha))
    return np.array(ground)


def _source(rgb: Pixels) -> SourceImage:
    sha256 = hashlib.sha256(rgb.tobytes()).hexdigest()
    return SourceImage(rgb=rgb, alpha=None, format="PNG", bytes=rgb.nbytes, sha256=sha256)


def _styled(alpha: Pixels, style: Style) -> Pixels:
    if style.largest_only:
        alpha = _largest_piece(alpha)
    level: Levels = alpha.astype(np.float32)
    if style.blur_px:
        level = ndimage.gaussian_filter(level, style.blur_px)
    level = (level - 127.5) * style.gain + 127.5
    styled: Pixels = np.rint(level.clip(0, 255)).astype(np.uint8)
    return styled


def _largest_piece(alpha: Pixels) -> Pixels:
    labels, count = ndimage.label(alpha > 10, np.ones((3, 3)))
    if count < 2:
        return alpha
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.where(labels == sizes.argmax(), alpha, 0).astype(np.uint8)


def _resized(rgb: Pixels, alpha: Pixels, *, faults: TaskFaults) -> tuple[Pixels, Pixels]:
    factor = faults.amount(Kind.WRONG_SIZE, 0.5)
    if not factor:
        return rgb, alpha
    size = tuple(max(1, round(side * factor)) for side in (rgb.shape[1], rgb.shape[0]))
    resized = (np.array(Image.fromarray(each).resize(size)) for each in (rgb, alpha))
    small_rgb, small_alpha = resized
    return small_rgb, small_alpha
