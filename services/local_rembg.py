"""rembg's networks on this machine: its names, files and sessions, our pre- and post-processing.

rembg is asked for a session and nothing else. Its `remove()` premultiplies, divides by the
picture's maximum, stretches an empty prediction to full noise and drops existing alpha; here the
mask alone is taken and the cut-out is made from the customer's own pixels.

Only the networks named in NETWORKS can be opened: rembg's default needs a paid licence for
commercial use, and some of its sessions send the picture to third parties.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import RemoverUnavailable
from models.images import Cutout, Flag, Pixels, SourceImage
from models.schemas import ModelId, ModelStatus
from services.remover import READY, Availability, RemovalOptions, cut_with, opaque
from services.weights import WeightsStore
from services.workers import Workers
from utils.clock import Deadline, Stopwatch

_log = logging.getLogger(__name__)

_GIB = 1024**3
_SIDE = 1024
# With the real ISNet plain and gradient pictures reach 0.05 and uniform noise 0.18; every picture
# with a subject in tests/data reaches 0.99 (bench/isnet.py prints both).
_EMPTY_BELOW = 0.25

Prediction = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Network:
    """One allow-listed rembg session and what its graph expects.

    `mean` and `std` are per channel of RGB in 0..1; `logits` says that the graph's output still
    needs a sigmoid; `peak_bytes` is the memory one 1024x1024 run takes with our options.
    """

    model: ModelId
    session: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    logits: bool
    peak_bytes: int


NETWORKS: Mapping[ModelId, Network] = {
    ModelId.LOCAL_ISNET: Network(
        ModelId.LOCAL_ISNET,
        "isnet-general-use",
        mean=(0.5, 0.5, 0.5),
        std=(1.0, 1.0, 1.0),
        logits=False,
        peak_bytes=_GIB * 3 // 2,
    ),
    ModelId.LOCAL_BIREFNET: Network(
        ModelId.LOCAL_BIREFNET,
        "birefnet-general",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        logits=True,
        peak_bytes=14 * _GIB,
    ),
}


class InferenceSession(Protocol):
    """The part of onnxruntime's session that is used."""

    def get_inputs(self) -> list[Any]: ...
    def get_outputs(self) -> list[Any]: ...
    def run(self, names: list[str], feed: dict[str, Any]) -> list[Any]: ...


class LocalRembg:
    """One rembg network as a remover; its session is opened at the first picture."""

    def __init__(  # noqa: PLR0913  # its parts, all named
        self,
        network: Network,
        *,
        weights: WeightsStore,
        workers: Workers,
        threads: int,
        download: bool,
        granted_bytes: int | None,
    ) -> None:
        self._network = network
        self._weights = weights
        self._workers = workers
        self._threads = threads
        self._download = download
        self._path: Path | None = None
        self._too_small = _memory_verdict(network, granted_bytes)
        self._availability = self._too_small or Availability(
            ModelStatus.LOADING, "The weights are being looked for."
        )
        self._session: InferenceSession | None = None
        self._preparing = asyncio.Lock()
        self._opening = asyncio.Lock()

    @property
    def name(self) -> ModelId:
        return self._network.model

    def availability(self) -> Availability:
        return self._availability

    async def prepare(self) -> None:
        """Have the weights on disk, fetched where allowed; `availability` says why not."""
        async with self._preparing:
            if self._too_small or self._path is not None:
                return
            try:
                self._path = await self._find_weights()
            except RemoverUnavailable as error:
                self._availability = Availability(ModelStatus.UNAVAILABLE, error.reason)
                _log.warning(
                    "weights_unavailable", extra={"model": self.name, "reason": error.reason}
                )
            else:
                self._availability = READY

    async def remove(
        self,
        image: SourceImage,
        *,
        options: RemovalOptions,  # noqa: ARG002  # networks take none
        deadline: Deadline,  # noqa: ARG002  # the shotgun's time-out covers it
    ) -> Cutout:
        session = await self._open()
        prediction = await self._workers.inference(predict, session, self._network, image)
        return await self._workers.pixels(cut_out, image, prediction)

    async def _find_weights(self) -> Path:
        session = self._network.session
        if self._download:
            self._availability = Availability(ModelStatus.LOADING, "The weights are being fetched.")
            return await self._weights.ensure(session)
        found = await self._weights.prove(session)
        if found is None:
            raise RemoverUnavailable("The weights are not on disk: run `make weights`.")
        return found

    async def _open(self) -> InferenceSession:
        """The session, loaded once; who comes meanwhile waits for the same one."""
        await self.prepare()
        async with self._opening:
            if self._path is None:
                raise RemoverUnavailable(self._availability.reason or "There are no weights.")
            if self._session is None:
                self._session = await self._load(self._path)
            return self._session

    async def _load(self, path: Path) -> InferenceSession:
        watch = Stopwatch()
        self._availability = Availability(ModelStatus.LOADING, "The network is being loaded.")
        try:
            session = await self._workers.inference(
                open_session, self._network.session, path, self._threads
            )
        finally:
            self._availability = READY
        _log.info("model_loaded", extra={"model": self.name, "ms": watch.ms()})
        return session


def open_session(name: str, weights: Path, threads: int) -> InferenceSession:
    """Load rembg's session `name` from exactly that file; blocks for seconds.

    Raises ValueError for a name that is not allow-listed.
    """
    if name not in {network.session for network in NETWORKS.values()}:
        raise ValueError(f"{name!r} is not one of the allowed rembg sessions")
    _quieten_imports()
    from rembg.sessions import sessions_class  # noqa: PLC0415  # heavy, and only in the pool

    found = next(each for each in sessions_class if each.name() == name)
    pinned = type("PinnedSession", (found,), {"download_models": lambda *_, **__: str(weights)})
    session = pinned(name, _session_options(threads), providers=["CPUExecutionProvider"])
    inner: InferenceSession = session.inner_session
    return inner


def predict(session: InferenceSession, network: Network, image: SourceImage) -> Prediction:
    """The network's subject probability for `image`, (1024, 1024) float32 in 0..1."""
    feed = {session.get_inputs()[0].name: network_input(image, network)}
    (output,) = session.run([session.get_outputs()[0].name], feed)
    prediction: Prediction = np.asarray(output, dtype=np.float32)[0, 0]
    return _sigmoid(prediction) if network.logits else prediction


def network_input(image: SourceImage, network: Network) -> NDArray[np.float32]:
    """(1, 3, 1024, 1024) float32, normalised as the network was trained: 255 is 1.

    rembg divides by the picture's own maximum instead, which brightens dark pictures.
    """
    small = Image.fromarray(opaque(image)).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    scaled = np.asarray(small, dtype=np.float32) / np.float32(255)
    mean, std = (np.array(each, np.float32) for each in (network.mean, network.std))
    return np.ascontiguousarray(((scaled - mean) / std).transpose(2, 0, 1)[None])


def cut_out(image: SourceImage, prediction: Prediction) -> Cutout:
    """The customer's own pixels under the predicted mask."""
    mask, flags = mask_from(prediction)
    return cut_with(image, mask, flags=flags)


def mask_from(prediction: Prediction) -> tuple[Pixels, tuple[Flag, ...]]:
    """An 8-bit mask of the prediction's size, stretched to full range as rembg does.

    A prediction that never rises means there is no subject: stretched, it would be noise. One
    without any contrast has no range to stretch.
    """
    low, high = float(prediction.min()), float(prediction.max())
    if high < _EMPTY_BELOW:
        return np.zeros(prediction.shape, np.uint8), (Flag.EMPTY,)
    if high > low:
        prediction = (prediction - low) / (high - low)
    return np.rint(prediction.clip(0, 1) * 255).astype(np.uint8), ()


def _sigmoid(logits: Prediction) -> Prediction:
    with np.errstate(over="ignore"):
        result: Prediction = np.float32(1) / (np.float32(1) + np.exp(-logits))
    return result


def _session_options(threads: int) -> Any:  # noqa: ANN401  # onnxruntime ships no types
    import onnxruntime as ort  # noqa: PLC0415  # heavy, and only in the pool

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _quieten_imports() -> None:
    """Keep rembg's import from compiling pymatting's numba functions for a minute: none is used.

    onnxruntime writes a device id and sends telemetry unless told otherwise before its import.
    """
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _memory_verdict(network: Network, granted: int | None) -> Availability | None:
    if granted is None or granted >= network.peak_bytes:
        return None
    return Availability(
        ModelStatus.UNAVAILABLE,
        f"One run needs {network.peak_bytes / _GIB:.1f} GiB of memory and this service is "
        f"granted {granted / _GIB:.1f} GiB.",
    )
