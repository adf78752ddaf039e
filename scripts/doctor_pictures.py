"""The doctor's pictures: weights proven, each local model tried once, one enlargement compared.

The service is opened as the settings say, but without keys and in a folder of the doctor's own: the
running one, its uploads and its data are not touched. Memory is shared with it, so a network is
tried only where its peak is free.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from config import MIB, Ben2Settings, LocalSettings, Settings
from models.errors import RemoverError, RemoverUnavailable, ServiceError
from models.images import Cutout, Pixels, SourceImage
from models.inference import Form
from models.schemas import ModelId, ModelStatus, UpscaleParameters
from scripts.findings import Finding, broken, skipped, warning, well
from services.budget import FLOOR_BYTES
from services.container import Services, networks_of, open_services
from services.intake import inspect
from services.local_rembg import Network
from services.openvino_form import FormManifest
from services.prepared import place_of
from services.profiles import Way
from services.remover import AbsentRemover, RemovalOptions
from services.rewrite_prepare import Place, manifest_of, read_manifest
from services.weight_sources import sha256_of
from services.weights import WEIGHT_FILES, WeightFile
from utils import memory
from utils.clock import Deadline
from utils.image_utils import read_pixels
from utils.png import encode_png

_SIDE = 600
_SCALE = 4
_RUN_S = 300
_KNOCK_OUT_BYTES = 64 * MIB
_HEAVY = (ModelId.LOCAL_ISNET, ModelId.LOCAL_BIREFNET, ModelId.LOCAL_BEN2)
_BEN2_ON_CPU_MB = 4096
_LIKE = 0.9  # a cut-out that overlaps the drawn subject less has not found it
_ALPHA_MAY_DIFFER = 1  # of 255: rounding

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture whose subject is known: `truth` is True where it is."""

    image: SourceImage
    truth: Mask


@dataclass(slots=True)
class Ward:
    """What the checks of one run share; `free` tells the bytes of memory that nobody needs."""

    settings: Settings
    scratch: Path
    free: Callable[[], int | None] = memory.free_bytes
    usable: set[ModelId] = field(default_factory=set)
    answered: set[ModelId] = field(default_factory=set)

    def ways(self) -> Mapping[ModelId, tuple[Network, Way]]:
        granted = self.settings.local.memory_limit_mb * MIB or memory.granted_bytes()
        return networks_of(self.settings, granted=granted)

    def opened(self, *models: ModelId) -> AbstractAsyncContextManager[Services]:
        """The service with these of the heavy models alone, in a folder of our own."""
        away = {
            model: AbsentRemover(model, "It is not tried now.")
            for model in _HEAVY
            if model not in models
        }
        ben2 = ModelId.LOCAL_BEN2 in models
        return open_services(
            _apart(self.settings, self.scratch, ben2=ben2), version="doctor", stand_ins=away
        )


def _apart(settings: Settings, scratch: Path, *, ben2: bool) -> Settings:
    storage = settings.storage.model_copy(
        update={"temp_dir": scratch / "temp", "data_dir": scratch / "data", "min_free_disk_mb": 0}
    )
    keyless = {"runware_api_key": None, "kie_api_key": None}
    return settings.model_copy(
        update={
            "storage": storage,
            "providers": settings.providers.model_copy(update=keyless),
            "local": settings.local.model_copy(update={"weights_download": False}),
            "ben2": settings.ben2
            if ben2
            else settings.ben2.model_copy(update={"ben2_weights": None}),
        }
    )


async def examined(ward: Ward, *, quick: bool, paid: Collection[str]) -> AsyncIterator[Finding]:
    """All of it in order; `paid` are the providers that would answer a shot as well."""
    for finding in weights(ward):
        yield finding
    for looks in (division, knock_out):
        async for finding in looks(ward):
            yield finding
    if quick:
        most = max(way.peak_bytes for _, way in ward.ways().values()) // MIB
        yield skipped("networks", f"--quick: not tried; {most} MiB at most, one at a time.")
        return
    async for finding in networks(ward):
        yield finding
    yield conclusion(ward, paid=paid)


def weights(ward: Ward) -> Iterator[Finding]:
    """Each file hashed, not believed; those that are right may be run."""
    for model, (network, way) in ward.ways().items():
        found = _weights_of(ward.settings.local, network, way)
        if found.level == "well":
            ward.usable.add(model)
        yield found
    if ward.settings.ben2.ben2_weights is not None:
        yield _ben2_weights(ward)


def _weights_of(local: LocalSettings, network: Network, way: Way) -> Finding:
    name = f"weights {network.session}"
    file = next(each for each in WEIGHT_FILES if each.name == network.session)
    if network.session in local.unverified_weights:
        file = file.accepting(local.unverified_weights[network.session])
    released = local.weights_dir / file.relative_path
    form = place_of(released, way.form) if network.convolutions else None
    advice = "`make weights`, or in an image another BIREFNET build argument (docs/IMAGE.md)."
    if released.exists():
        finding = _released(name, file, released, way)
        if finding.level != "well" or form is None:
            return finding
    if form is None or not (released.exists() or form.exists()):
        return warning(name, f"There are none: {network.model} is left out.", advice)
    if not form.exists():
        return warning(
            name,
            f"{form.name} is not made yet: the service makes it when it starts, in 2.2 GB of "
            "memory and a minute.",
            "Start the service, and look again.",
        )
    return _form(name, file, form, way)


def _released(name: str, file: WeightFile, path: Path, way: Way) -> Finding:
    sha256 = sha256_of(path)
    source = file.source_of(sha256)
    if source is None:
        return broken(
            name,
            f"A foreign file (sha256 {sha256[:12]}…): it is never run.",
            f"Move {path} away and fetch the known one by `make weights`.",
        )
    takes = f"a run takes {way.peak_bytes // MIB} MiB"
    return well(name, f"Proven by sha256 {sha256[:12]}…, {source.label}; {takes}.")


def _form(name: str, file: WeightFile, form: Path, way: Way) -> Finding:
    """The prepared form against its own manifest, and that against the released files."""
    source, places = _told_by_manifest(form, way)
    if source is None or file.source_of(source) is None:
        return broken(
            name, f"Nothing says what {form.name} was made of.", "Remove it; it is made again."
        )
    for path, place in places.items():
        if not path.exists() or sha256_of(path) != place.sha256:
            return broken(
                name, f"{path.name} is not what was made.", f"Remove {form.name}; it is made again."
            )
    return well(
        name,
        f"{form.name}, made of the file of sha256 {source[:12]}…, is whole; a run takes "
        f"{way.peak_bytes // MIB} MiB.",
    )


def _told_by_manifest(form: Path, way: Way) -> tuple[str | None, dict[Path, Place]]:
    """The SHA-256 of the file that the form was made of, and the form's own files."""
    if way.form is Form.ROWS:
        rewritten = manifest_of(form)
        return (
            (None, {}) if rewritten is None else (rewritten.source.sha256, {form: rewritten.result})
        )
    made = read_manifest(form, FormManifest)
    if made is None:
        return None, {}
    return made.source.sha256, {form: made.network, form.with_suffix(".bin"): made.weights}


def _ben2_weights(ward: Ward) -> Finding:
    asked: Ben2Settings = ward.settings.ben2
    path = asked.ben2_weights
    if path is None or not path.is_file():
        return broken("weights ben2", f"{path} is not a file.", "Correct BEN2_WEIGHTS.")
    sha256 = sha256_of(path)
    if sha256 != asked.ben2_sha256:
        return broken(
            "weights ben2", f"Its sha256 is {sha256}.", "BEN2_SHA256 says another; docs/GPU.md."
        )
    ward.usable.add(ModelId.LOCAL_BEN2)
    return well("weights ben2", f"Proven by sha256 {sha256[:12]}…")


async def division(ward: Ward) -> AsyncIterator[Finding]:
    """How the service will divide its memory, and one shot that needs no network."""
    async with ward.opened() as services:
        shares = services.memory
        if shares.granted is None or shares.shots is None:
            yield skipped("memory divided", "Nobody tells how much there is: nothing is bounded.")
        else:
            told = (
                f"Of {shares.granted // MIB} MiB: {FLOOR_BYTES // MIB} for the service, "
                f"{shares.enlarging // MIB} for enlargements, {(shares.networks or 0) // MIB} for "
                f"the networks, {shares.set_aside // MIB} for BEN2 and {shares.shots // MIB} for "
                "shots."
            )
            few = shares.shots < 256 * MIB
            advice = "Grant more, or lower UPSCALE_MEMORY_MB." if few else ""
            yield (warning if few else well)("memory divided", told, advice)


async def knock_out(ward: Ward) -> AsyncIterator[Finding]:
    """The knock-out, then its cut-out four times larger: decoded, and its alpha compared."""
    drawing = draw()
    async with ward.opened() as services:
        before = memory.resident_bytes() or 0
        begun = time.perf_counter()
        cutout = await _cut(services, ModelId.LOCAL_KNOCKOUT, drawing)
        seconds = time.perf_counter() - begun
        more = max(0, (memory.peak_bytes() or before) - before) // MIB
        ward.answered.add(ModelId.LOCAL_KNOCKOUT)
        yield _judged(
            "local-knockout", cutout, drawing, f"{seconds:.2f} s, {more} MiB in this process"
        )
        yield await _enlarged(services, cutout, ward.scratch)


async def _enlarged(services: Services, cutout: Cutout, scratch: Path) -> Finding:
    folder = scratch / "enlargement"
    folder.mkdir()
    path = folder / "cutout.png"
    path.write_bytes(encode_png(np.dstack([cutout.rgb, cutout.alpha])))
    begun = time.perf_counter()
    work = await services.upscaler.open(path, UpscaleParameters(scale=_SCALE), scratch=folder)
    large = folder / "large.png"
    with large.open("wb") as file:
        async for piece in services.upscaler.stream(work):
            file.write(piece)
    seconds = time.perf_counter() - begun
    _, alpha = read_pixels(large, header=inspect(large, max_pixels=(_SCALE * _SIDE) ** 2))
    side, wanted = _SCALE * _SIDE, _alpha_in_one_piece(cutout.alpha)
    if alpha is None or alpha.shape != wanted.shape:
        return broken("enlargement", "What came out has another size or no alpha.", "Report it.")
    apart = int(np.abs(alpha - wanted).max())
    told = f"{side}x{side} in {seconds:.2f} s; alpha within {apart} of 255 of the whole's"
    if apart > _ALPHA_MAY_DIFFER:
        return broken("enlargement", told, "Do not print from this box; report it.")
    return well("enlargement", f"{told}.")


def _alpha_in_one_piece(alpha: Pixels) -> NDArray[np.int16]:
    """Lanczos of the whole, then no less and no more than the 3x3 source pixels around have."""
    source = Image.fromarray(alpha)
    size = (_SCALE * source.width, _SCALE * source.height)
    least, most, whole = (
        np.asarray(each.resize(size, kernel), np.int16)
        for each, kernel in (
            (source.filter(ImageFilter.MinFilter(3)), Image.Resampling.NEAREST),
            (source.filter(ImageFilter.MaxFilter(3)), Image.Resampling.NEAREST),
            (source, Image.Resampling.LANCZOS),
        )
    )
    return whole.clip(least, most)


async def networks(ward: Ward) -> AsyncIterator[Finding]:
    """Each network once, in a process of its own that has never run another."""
    needs = {model: way.peak_bytes for model, (_, way) in ward.ways().items()}
    if ward.settings.ben2.ben2_weights is not None:
        needs[ModelId.LOCAL_BEN2] = _BEN2_ON_CPU_MB * 1_000_000
    for model, needed in needs.items():
        if model not in ward.usable:
            yield skipped(model, "Not tried: it has no proven weights.")
        elif (free := ward.free()) is not None and free < needed:
            yield warning(
                model,
                f"Not tried: it takes {needed // MIB} MiB and {free // MIB} are free now.",
                "Ask again when the service is idle (INFERENCE_IDLE_S) or stopped.",
            )
        else:
            yield await _network(ward, model)


async def _network(ward: Ward, model: ModelId) -> Finding:
    drawing = draw()
    async with ward.opened(model) as services:
        begun = time.perf_counter()
        try:
            cutout = await _cut(services, model, drawing)
        except RemoverUnavailable as error:
            return warning(model, error.reason, "docs/DEPLOYMENT.md, troubleshooting")
        except (RemoverError, ServiceError) as error:
            return broken(model, f"It failed: {error}", "Less LOCAL_PROFILE, or more memory.")
        seconds = time.perf_counter() - begun
        peak = await _peak_mib(services, model)
    ward.answered.add(model)
    told = f"{seconds:.1f} s from nothing loaded, {peak} MiB at the peak of its process"
    return _judged(model, cutout, drawing, told)


async def _peak_mib(services: Services, model: ModelId) -> str:
    if model is ModelId.LOCAL_BEN2 and services.ben2 is not None:
        return f"{(await services.ben2.info()).resident_mb} (now)"
    pid = services.inference.status().pid
    peak = None if pid is None else memory.peak_bytes(pid=pid)
    return "an unknown number of" if peak is None else str(peak // MIB)


async def _cut(services: Services, model: ModelId, drawing: Drawing) -> Cutout:
    remover = services.removers[model]
    state = remover.availability()
    if state.status is ModelStatus.UNAVAILABLE:
        raise RemoverUnavailable(state.reason or "It is not to be had.")
    return await remover.remove(
        drawing.image, options=RemovalOptions(), deadline=Deadline.after(_RUN_S)
    )


def _judged(name: str, cutout: Cutout, drawing: Drawing, cost: str) -> Finding:
    """How much of subject and cut-out they have in common (intersection over union)."""
    found = cutout.alpha > 127
    union = int((found | drawing.truth).sum())
    like = int((found & drawing.truth).sum()) / union if union else 0.0
    told = f"{cost}; {100 * like:.1f} % like the subject that was drawn."
    if like < _LIKE:
        return broken(name, told, "It runs and does not see: do not trust this box's cut-outs.")
    return well(name, told)


def conclusion(ward: Ward, *, paid: Collection[str]) -> Finding:
    """Whether a shot without models= would find anybody."""
    answering = sorted({*paid, *(ward.answered - {ModelId.LOCAL_KNOCKOUT})})
    if ModelId.LOCAL_KNOCKOUT in ward.answered and ward.settings.local.knockout_enabled:
        answering.append(ModelId.LOCAL_KNOCKOUT)
    if not answering:
        return broken(
            "a default shot",
            "No model would answer one.",
            "Set a provider's key, fetch the weights, or set KNOCKOUT_ENABLED.",
        )
    return well("a default shot", f"Would be answered by {', '.join(answering)}.")


def draw() -> Drawing:
    """A shaded ball on a plain ground, 600 pixels a side: networks and knock-out both know it."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE].astype(np.float32)
    across, down = (columns - _SIDE / 2) / (_SIDE / 3), (rows - _SIDE / 2) / (_SIDE / 3)
    inside = across**2 + down**2 < 1
    light = np.clip(0.45 - 0.4 * across - 0.5 * down, 0.1, 1)[..., None]
    ball = light * np.array([235, 90, 40], np.float32) + 20
    pixels = np.where(inside[..., None], ball, np.float32(245)).astype(np.uint8)
    rgb = np.ascontiguousarray(pixels)
    content = rgb.tobytes()
    image = SourceImage(
        rgb=rgb,
        alpha=None,
        format="PNG",
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return Drawing(image, inside)
