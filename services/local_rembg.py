"""rembg's networks on this machine: its names, files and sessions, our pre- and post-processing.

rembg says which networks there are, and which file each is; a process of its own runs them
(services/inference_process.py). rembg's `remove()` premultiplies, divides by the picture's maximum,
stretches an empty prediction to full noise and drops existing alpha; here the mask alone is taken
and the cut-out is made from the customer's own pixels.

Only the networks named in NETWORKS can be opened: rembg's default needs a paid licence for
commercial use, and some of its sessions send the picture to third parties.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import RemoverUnavailable
from models.images import Cutout, Flag, Pixels, SourceImage
from models.inference import Architecture
from models.schemas import ModelId, ModelStatus
from services.inference_process import InferenceProcess
from services.prepared import NotPrepared, place_of, prepared
from services.profiles import Way
from services.remover import Availability, RemovalOptions, cut_with, opaque
from services.weights import WeightsStore
from services.workers import Workers
from utils import heap
from utils.clock import Deadline
from utils.spans import spanned

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
    needs a sigmoid; `convolutions` are its deformable ones, `untouched_bytes` what the released
    file takes at its peak where it cannot be rewritten. `variant` is said in results.
    """

    model: ModelId
    session: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    logits: bool
    architecture: Architecture
    convolutions: int = 0
    untouched_bytes: int = 0
    variant: str | None = None


NETWORKS: Mapping[ModelId, Network] = {
    ModelId.LOCAL_ISNET: Network(
        ModelId.LOCAL_ISNET,
        "isnet-general-use",
        mean=(0.5, 0.5, 0.5),
        std=(1.0, 1.0, 1.0),
        logits=False,
        architecture=Architecture.ISNET,
    ),
    ModelId.LOCAL_BIREFNET: Network(
        ModelId.LOCAL_BIREFNET,
        "birefnet-general",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        logits=True,
        architecture=Architecture.BIREFNET,
        convolutions=20,
        untouched_bytes=14 * _GIB,
    ),
}
BIREFNET_LITE = replace(
    NETWORKS[ModelId.LOCAL_BIREFNET],
    session="birefnet-general-lite",
    architecture=Architecture.BIREFNET_LITE,
    untouched_bytes=12 * _GIB,
    variant="lite",
)
_ALLOWED = {network.session: network for network in (*NETWORKS.values(), BIREFNET_LITE)}


class Colours(Protocol):
    """How a network was trained to see colours; `mean` and `std` as in Network."""

    @property
    def mean(self) -> tuple[float, float, float]: ...
    @property
    def std(self) -> tuple[float, float, float]: ...


class InferenceSession(Protocol):
    """The part of onnxruntime's session that is used."""

    def get_inputs(self) -> list[Any]: ...
    def get_outputs(self) -> list[Any]: ...
    def run(self, names: list[str], feed: dict[str, Any]) -> list[Any]: ...


class LocalRembg:
    """One rembg network as a remover, run the `way` it was given on the file found here."""

    def __init__(  # noqa: PLR0913  # its parts, all named
        self,
        network: Network,
        *,
        weights: WeightsStore,
        workers: Workers,
        inference: InferenceProcess,
        way: Way,
        download: bool,
        room_bytes: int | None,
    ) -> None:
        self._network = network
        self._weights = weights
        self._workers = workers
        self._inference = inference
        self._way = way
        self._download = download
        self._room_bytes = room_bytes
        self._path: Path | None = None
        self._unfit = _memory_verdict(way.peak_bytes, room_bytes)  # for good: no use to try again
        self._availability = self._unfit or Availability(
            ModelStatus.LOADING, "The weights are being looked for."
        )
        self._preparing = asyncio.Lock()

    @property
    def name(self) -> ModelId:
        return self._network.model

    def availability(self) -> Availability:
        return self._availability

    async def prepare(self) -> None:
        """Have the weights on disk, fetched where allowed; `availability` says why not."""
        async with self._preparing:
            if self._unfit or self._path is not None:
                return
            try:
                ready = await self._form_alone()
                self._path = ready or await self._cheap_form(await self._find_weights())
            except RemoverUnavailable as error:
                self._availability = Availability(ModelStatus.UNAVAILABLE, error.reason)
                _log.warning(
                    "weights_unavailable", extra={"model": self.name, "reason": error.reason}
                )
            else:
                self._availability = Availability(
                    ModelStatus.READY,
                    first_answer_s=self._way.load_s + self._way.expected_s,
                )

    async def remove(
        self,
        image: SourceImage,
        *,
        options: RemovalOptions,
        deadline: Deadline,
    ) -> Cutout:
        await self.prepare()
        if self._path is None:
            raise RemoverUnavailable(self._availability.reason or "There are no weights.")
        await options.place.take()
        tensor = await self._workers.pixels(network_input, image, self._network)
        options.place.leave()
        output = await self._inference.run(
            replace(self._way.plan, path=self._path),
            tensor,
            timeout_s=deadline.remaining_s(),
            expected_s=self._way.expected_s,
        )
        await options.place.take()
        cutout = await self._workers.pixels(_cut_out_of, image, self._network, output)
        return replace(cutout, variant=self._variant())

    async def _form_alone(self) -> Path | None:
        """The rewritten file where it was put without the released one, as in an image."""
        released = self._weights.place(self._network.session)
        if released.exists() or not place_of(released, self._way.form).exists():
            return None
        try:
            return await self._prepared(released)
        except (NotPrepared, TimeoutError, OSError):
            return None

    async def _prepared(self, released: Path) -> Path:
        session = self._network.session
        manifest = self._weights.manifest(session)
        return await prepared(
            released,
            convolutions=self._network.convolutions,
            form=self._way.form,
            licence=manifest.licence if manifest else "",
            released=self._weights.checksums(session),
        )

    async def _cheap_form(self, released: Path) -> Path:
        """The rewritten file; the released one where that is refused and memory is plentiful."""
        network = self._network
        if network.convolutions == 0:
            return released
        self._availability = Availability(ModelStatus.LOADING, "The network is being rewritten.")
        try:
            return await self._prepared(released)
        except (NotPrepared, TimeoutError, OSError) as error:
            _log.warning("network_not_rewritten", extra={"model": self.name, "reason": str(error)})
            if _memory_verdict(network.untouched_bytes, self._room_bytes):
                reason = f"The network cannot be made small enough for this machine: {error}."
                if isinstance(error, NotPrepared):
                    self._unfit = Availability(ModelStatus.UNAVAILABLE, reason)
                raise RemoverUnavailable(reason) from error
            return released

    def _variant(self) -> str | None:
        """What sets the result apart from the network of this name as it was released."""
        unverified = self._weights.is_unverified(self._network.session)
        words = [self._network.variant, "unverified" if unverified else None]
        return ", ".join(word for word in words if word) or None

    async def _find_weights(self) -> Path:
        session = self._network.session
        if self._download:
            self._availability = Availability(ModelStatus.LOADING, "The weights are being fetched.")
            return await self._weights.ensure(session)
        found = await self._weights.prove(session)
        if found is None:
            raise RemoverUnavailable("The weights are not on disk: run `make weights`.")
        return found


def network_of(session: str) -> Network:
    """The allow-listed network that rembg calls `session`; raises KeyError for any other."""
    return _ALLOWED[session]


def open_session(name: str, weights: Path, threads: int) -> InferenceSession:
    """The session `name` as rembg runs it, on exactly that file: our reference. Blocks.

    Raises ValueError for a name that is not allow-listed.
    """
    if name not in _ALLOWED:
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
    return prediction_from(np.asarray(output, dtype=np.float32), network)


def prediction_from(output: NDArray[np.float32], network: Network) -> Prediction:
    """The probability out of a network's output, (1, 1, height, width)."""
    prediction: Prediction = output[0, 0]
    return _sigmoid(prediction) if network.logits else prediction


@spanned("network_input")
def network_input(image: SourceImage, network: Colours) -> NDArray[np.float32]:
    """(1, 3, 1024, 1024) float32, normalised as the network was trained: 255 is 1.

    rembg divides by the picture's own maximum instead, which brightens dark pictures.
    """
    small = Image.fromarray(opaque(image)).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    heap.trim_after(4 * image.width * image.height)
    scaled = np.asarray(small, dtype=np.float32) / np.float32(255)
    mean, std = (np.array(each, np.float32) for each in (network.mean, network.std))
    return np.ascontiguousarray(((scaled - mean) / std).transpose(2, 0, 1)[None])


def cut_out(image: SourceImage, prediction: Prediction) -> Cutout:
    """The customer's own pixels under the predicted mask."""
    mask, flags = mask_from(prediction)
    return cut_with(image, mask, flags=flags)


@spanned("project")
def _cut_out_of(image: SourceImage, network: Network, output: NDArray[np.float32]) -> Cutout:
    return cut_out(image, prediction_from(output, network))


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


def _memory_verdict(needed: int, room: int | None) -> Availability | None:
    if room is None or room >= needed:
        return None
    return Availability(
        ModelStatus.UNAVAILABLE,
        f"One run needs {needed / _GIB:.1f} GiB of memory and {room / _GIB:.1f} GiB are left "
        "beside the rest of the service.",
    )
