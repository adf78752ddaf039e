"""BEN2 as a remover: the operator's own file, proven, tried once, run on a card by itself.

The network has a process and a queue of its own, so that a card never waits behind the networks on
the processor. Nothing of it is on this machine unless somebody puts it there: which bytes are right
is said by a checksum in the settings, what the graph takes and answers is looked up in the graph,
and a run on plain grey shows at the start whether it works here.

rembg is not used: its session for this network subtracts 0.5 from the picture, wants the file below
its own folder and takes no provider's failure for one (docs/decisions/0002).
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.errors import FailureCode, RemoverError, RemoverUnavailable
from models.images import Cutout, SourceImage
from models.inference import Device, Engine, RunPlan
from models.schemas import Ben2Info, CardInfo, ModelId, ModelStatus
from services.cuda import Cards, Seat
from services.inference import GraphRefused, Tensor, estimated_bytes
from services.inference_process import InferenceProcess, InferenceStatus
from services.local_rembg import Prediction, cut_out, network_input
from services.remover import Availability, RemovalOptions
from services.weight_sources import in_thread, sha256_of
from services.workers import Workers
from utils import memory
from utils.clock import Deadline
from utils.spans import spanned

_log = logging.getLogger(__name__)

_SIDE = 1024
_SLACK = 0.01  # beyond 0 and 1: what rounding to float16 may add
_TRIAL_S = 300
_GUESSED_S = 20  # until the trial has told
_GIB = 1024**3
_ON_CPU_BYTES = 4_096_000_000  # reported by another project, not measured here


@dataclass(frozen=True, slots=True)
class PlainColours:
    """What the network is shown: RGB, 255 is 1, nothing subtracted."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


_COLOURS = PlainColours()


@dataclass(frozen=True, slots=True)
class Ben2File:
    """Where the operator put the network, and the checksum that proves it (None: none given)."""

    path: Path
    sha256: str | None


class LocalBen2:
    """The network in `file` as a remover, run at its `seat`; `room_bytes` as for the others."""

    def __init__(  # noqa: PLR0913  # its parts, all named
        self,
        file: Ben2File,
        *,
        asked: Device,
        seat: Seat,
        cards: Cards,
        workers: Workers,
        inference: InferenceProcess,
        threads: int,
        room_bytes: int | None,
    ) -> None:
        self._file = file
        self._asked = asked
        self._seat = seat
        self._cards = cards
        self._workers = workers
        self._inference = inference
        self._plan = RunPlan(
            file.path,
            engine=Engine.ONNXRUNTIME,
            threads=threads,
            device=seat.device or Device.CPU,
            side=_SIDE,
        )
        self._expected_s = float(_GUESSED_S)
        self._preparing = asyncio.Lock()
        self._lost = _verdict(file, seat, room_bytes)  # for good: no use to try again
        self._availability = self._lost or Availability(
            ModelStatus.LOADING, "The network is being looked for."
        )

    @property
    def name(self) -> ModelId:
        return ModelId.LOCAL_BEN2

    def availability(self) -> Availability:
        return self._availability

    async def prepare(self) -> None:
        """Prove the file and try the network; `availability` says why it is not to be had."""
        async with self._preparing:
            if self._lost or self._availability.status is ModelStatus.READY:
                return
            try:
                await self._prove()
                first_answer_s = await self._try()
            except GraphRefused as error:
                self._lost = self._unavailable(error.message)
                await self._inference.close()
            except RemoverError as error:
                self._unavailable(error.message)
            except RemoverUnavailable as error:
                self._unavailable(error.reason)
            else:
                self._availability = Availability(
                    ModelStatus.READY, first_answer_s=round(first_answer_s, 2)
                )

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        await self.prepare()
        if self._availability.status is not ModelStatus.READY:
            raise RemoverUnavailable(self._availability.reason or "It is not ready.")
        await options.place.take()
        tensor = await self._workers.pixels(network_input, image, _COLOURS)
        options.place.leave()
        output = await self._inference.run(
            self._plan, tensor, timeout_s=deadline.remaining_s(), expected_s=self._expected_s
        )
        await options.place.take()
        return await self._workers.pixels(_cut_out_of, image, output)

    def process(self) -> InferenceStatus:
        return self._inference.status()

    async def info(self) -> Ben2Info:
        """What /ready tells; asks nvidia-smi where its last answer is old."""
        seen, now = await self._cards.look(), self._inference.status()
        card = seen.card
        return Ben2Info(
            asked=self._asked,
            device=self._seat.device if not self._lost else None,
            why=(self._lost and self._lost.reason) or self._seat.why,
            card=None
            if card is None
            else CardInfo(
                name=card.name,
                driver=card.driver,
                memory_total_mb=card.memory_total_mb,
                memory_used_mb=card.memory_used_mb,
            ),
            resident_mb=None if now.pid is None else _mib(memory.resident_bytes(pid=now.pid)),
            loaded=bool(now.loaded),
            running=now.running,
            waiting=now.waiting,
        )

    async def _prove(self) -> None:
        path, wanted = self._file.path, self._file.sha256
        self._availability = Availability(ModelStatus.LOADING, "The file is being proven.")
        try:
            sha256 = await in_thread(sha256_of, path)
        except OSError as error:
            raise RemoverUnavailable(f"{path} cannot be read: {error.strerror}.") from error
        if sha256 != wanted:
            raise RemoverUnavailable(
                f"{path} is not run: its sha256 is {sha256}, BEN2_SHA256 says {wanted}."
            )

    async def _try(self) -> float:
        """The network's answer to plain grey is what it must be; the seconds that took."""
        self._availability = Availability(ModelStatus.LOADING, "The network is being tried.")
        grey = np.full((1, 3, _SIDE, _SIDE), 0.5, np.float32)
        start_s = time.monotonic()
        output = await self._inference.run(
            self._plan, grey, timeout_s=_TRIAL_S, expected_s=self._expected_s
        )
        prediction_of(output)
        self._expected_s = time.monotonic() - start_s
        _log.info(
            "network_tried",
            extra={
                "model": self.name,
                "device": self._plan.device,
                "ms": round(1000 * self._expected_s),
            },
        )
        return self._expected_s

    def _unavailable(self, reason: str) -> Availability:
        self._availability = Availability(ModelStatus.UNAVAILABLE, reason)
        _log.warning("network_unavailable", extra={"model": self.name, "reason": reason})
        return self._availability


def host_bytes(path: Path, device: Device) -> int:
    """The memory (not the card's) to keep for the network's process.

    On a card this is the line of onnxruntime's other networks (services/inference.py), unmeasured
    for CUDA. A file that is missing takes nothing.
    """
    if device is Device.CPU:
        return _ON_CPU_BYTES
    try:
        return estimated_bytes(RunPlan(path, engine=Engine.ONNXRUNTIME))
    except OSError:
        return 0


def prediction_of(output: Tensor) -> Prediction:
    """The probability in a network's answer of (1, 1, 1024, 1024), as it is: nothing is applied.

    BEN2's published model ends in a sigmoid. Raises GraphRefused for an answer that does not look
    like one: stretched, it would be a mask of nonsense.
    """
    if output.shape != (1, 1, _SIDE, _SIDE):
        raise GraphRefused(f"The network answers {output.shape} where one mask is expected.")
    low, high = float(output.min()), float(output.max())
    if not -_SLACK <= low <= high <= 1 + _SLACK:  # NaN fails here as well
        raise GraphRefused(
            f"The network answers numbers from {low:g} to {high:g} where 0 to 1 is expected."
        )
    prediction: Prediction = output[0, 0]
    return prediction


@spanned("project")
def _cut_out_of(image: SourceImage, output: Tensor) -> Cutout:
    """What is wrong with one answer is that picture's failure, not the file's."""
    try:
        return cut_out(image, prediction_of(output))
    except GraphRefused as error:
        raise RemoverError(FailureCode.MODEL_CRASHED, error.message) from error


def _verdict(file: Ben2File, seat: Seat, room_bytes: int | None) -> Availability | None:
    """Why it can never run here, as far as that is known before anything is opened."""
    if seat.device is None:
        return Availability(ModelStatus.UNAVAILABLE, seat.why)
    if file.sha256 is None:
        return Availability(
            ModelStatus.UNAVAILABLE,
            f"BEN2_SHA256 is not set, so nothing says that {file.path} is what it should be.",
        )
    needed = host_bytes(file.path, seat.device)
    if room_bytes is not None and needed > room_bytes:
        return Availability(
            ModelStatus.UNAVAILABLE,
            f"Its process needs {needed / _GIB:.1f} GiB of memory and {room_bytes / _GIB:.1f} GiB "
            "are left beside the rest of the service.",
        )
    return None


def _mib(size: int | None) -> int | None:
    return None if size is None else size >> 20
