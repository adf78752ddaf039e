"""NVIDIA's cards: which there is, and whether onnxruntime truly runs on it.

onnxruntime falls back to the processor without a word where CUDA cannot be used: when it opens a
session, and again when a run fails. Both are switched off here, and what is in force is looked up.
"""

import asyncio
import ctypes
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.inference import Device

_PROVIDER = "CUDAExecutionProvider"
_DRIVER = "libcuda.so.1"
_FAILURE = "CUDA failure "
_SMI = "nvidia-smi"
_QUERY = "name,driver_version,memory.total,memory.used"
_SMI_TIMEOUT_S = 10
_FRESH_S = 5
_REASON_CHARACTERS = 200


class CudaMissing(Exception):
    """A session would not run on a card; the text says what is missing, for people."""


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card as nvidia-smi names it; MiB, None where it does not tell."""

    name: str
    driver: str
    memory_total_mb: int | None
    memory_used_mb: int | None


@dataclass(frozen=True, slots=True)
class Sighting:
    """The first card, or a clause that says why none was seen."""

    card: Card | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a network runs, and a sentence that says why; `device` None: nowhere."""

    device: Device | None
    why: str


class Cards:
    """What nvidia-smi says, asked again when its last answer is older than five seconds."""

    def __init__(self, *, timeout_s: float = _SMI_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._seen = Sighting(None, "nobody has looked yet")
        self._seen_at: float | None = None
        self._looking = asyncio.Lock()

    async def look(self) -> Sighting:
        async with self._looking:
            if self._seen_at is None or time.monotonic() - self._seen_at > _FRESH_S:
                self._seen = await _ask(self._timeout_s)
                self._seen_at = time.monotonic()
            return self._seen


async def seat(asked: Device, cards: Cards) -> Seat:
    """Where a network that is asked to run on `asked` runs here; `auto` never means the CPU."""
    if asked is not Device.AUTO:
        return Seat(asked, "It was asked for.")
    seen = await cards.look()
    if seen.card is None:
        return Seat(
            None,
            f"There is no graphics card: {seen.why}. BEN2_DEVICE=cpu would take the processor.",
        )
    return Seat(Device.CUDA, f"nvidia-smi names {seen.card.name}.")


def open_on_card(ort: Any, path: Path, options: Any) -> Any:  # noqa: ANN401  # onnxruntime ships no types
    """An onnxruntime session that runs on the card and nowhere else. Blocks.

    Raises:
        CudaMissing: it would have run on the processor.
    """
    if _PROVIDER not in ort.get_available_providers():
        raise CudaMissing(
            f"this onnxruntime ({ort.__version__}) is built without CUDA; "
            "requirements-gpu.txt names the one that has it"
        )
    try:
        ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise CudaMissing(f"there is no NVIDIA driver here ({error})") from error
    ort.preload_dlls()  # CUDA's libraries lie in site-packages/nvidia, where no loader looks
    try:
        session = ort.InferenceSession(
            str(path), options, providers=[_PROVIDER, "CPUExecutionProvider"], enable_fallback=0
        )
    except RuntimeError as error:
        if (failure := cuda_failure(str(error))) is None:
            raise
        raise CudaMissing(failure) from error
    require_active(session.get_providers())
    return session


def cuda_failure(words: str) -> str | None:
    """CUDA's own sentence out of onnxruntime's error, which buries it behind types and paths."""
    _, found, rest = words.rpartition(_FAILURE)
    return f"{_FAILURE}{rest.partition(' ;')[0]}" if found else None


def require_active(providers: list[str]) -> None:
    """Raises CudaMissing unless CUDA comes first among a session's providers."""
    if providers[:1] != [_PROVIDER]:
        raise CudaMissing(
            f"onnxruntime took {', '.join(providers)} instead of CUDA; its libraries or a driver "
            "that is new enough are missing (docs/GPU.md)"
        )


async def _ask(timeout_s: float) -> Sighting:
    """One question to nvidia-smi, ended when it hangs, as it does beside a broken driver."""
    try:
        process = await asyncio.create_subprocess_exec(
            _SMI,
            f"--query-gpu={_QUERY}",
            "--format=csv,noheader,nounits",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        return Sighting(None, f"{_SMI} cannot be started ({error.strerror})")
    try:
        async with asyncio.timeout(timeout_s):
            told, _ = await process.communicate()
    except TimeoutError:
        return Sighting(None, f"{_SMI} did not answer within {timeout_s:g} s")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return read_answer(told.decode(errors="replace"), status=process.returncode)


def read_answer(text: str, *, status: int | None) -> Sighting:
    """The first card in nvidia-smi's comma-separated answer; its own words where it has none."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no words")
    fields = [field.strip() for field in line.split(",")]
    if status != 0 or len(fields) != len(_QUERY.split(",")):
        return Sighting(None, f"{_SMI} says: {line[:_REASON_CHARACTERS].rstrip('.')}")
    name, driver, total, used = fields
    return Sighting(Card(name, driver, _whole(total), _whole(used)))


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
