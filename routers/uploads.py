"""A picture on its way in: multipart, form, JSON or address, spooled to disk under a byte limit.

Nothing of the body is held whole in memory.
The customer's file name is never looked at.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from models.errors import (
    EmptyFile,
    FileTooLarge,
    ImageDownloadFailed,
    ImageTruncated,
    ImageUrlRefused,
    InsufficientStorage,
    InvalidParameter,
    MissingSource,
    MultipleSources,
    Overloaded,
    UnreadableImage,
    UnsupportedMediaType,
)
from routers.dependencies import ServicesDep
from routers.embedded import take_apart, take_masks
from routers.multipart import FILE_FIELDS, MAX_FIELD_BYTES, Body, FormReader, too_large
from services.admission import Gate
from services.container import Services
from services.room import full_disk_said

INTAKE_ERRORS = (
    MissingSource,
    MultipleSources,
    EmptyFile,
    ImageUrlRefused,
    InvalidParameter,
    FileTooLarge,
    UnsupportedMediaType,
    UnreadableImage,
    ImageTruncated,
    ImageDownloadFailed,
    InsufficientStorage,
)
"""What can be wrong with a picture on its way in."""

URL_FIELD = "image_url"

MAX_MASK_BYTES = 8 << 20
"""Of one mask of a brush as a file; of all of them together inside JSON."""

_MIB = 1024 * 1024
_FORM_OVERHEAD = 256 * 1024  # boundaries, headers and small fields around the file
_MAX_DRAINED = 32 * _MIB
_DRAIN_S = 5


@dataclass(frozen=True, slots=True)
class Submission:
    """A picture on disk, what was said about it (names to raw values), and since when we know.

    `received_at` is on the monotonic clock: the body has arrived, silence begins.
    """

    picture: Path
    parameters: dict[str, Any]
    received_at: float


@asynccontextmanager
async def receive(request: Request, services: Services, gate: Gate) -> AsyncIterator[Submission]:
    """The request's one picture on disk, removed again when the caller is done with it.

    Raises Overloaded before the body is read, where nothing of it could even wait at `gate`;
    MissingSource, MultipleSources, EmptyFile, FileTooLarge, UnsupportedMediaType,
    InvalidParameter, ImageUrlRefused, ImageDownloadFailed or InsufficientStorage.
    """
    await _refuse_if_full(request, gate)
    async with services.scratch() as folder:
        with full_disk_said("uploads"):
            body = await _read_body(request, services, folder)
            received_at = time.monotonic()
            body.parameters = {**request.query_params, **body.parameters}
            picture = await _one_picture(body, services, folder)
        yield Submission(picture, body.parameters, received_at)


@asynccontextmanager
async def receive_masks(
    request: Request, services: Services, names: AbstractSet[str]
) -> AsyncIterator[Body]:
    """Parameters and, by their names, files that are no picture of their own, until it is done.

    Raises Overloaded before the body is read, FileTooLarge, UnsupportedMediaType,
    InvalidParameter, EmptyFile or InsufficientStorage.
    """
    await _refuse_if_full(request, services.gate)
    limit = min(services.max_upload_bytes, MAX_MASK_BYTES)
    async with services.scratch() as folder:
        with full_disk_said("uploads"):
            kind, options = parse_options_header(request.headers.get("content-type", ""))
            if kind == b"multipart/form-data":
                limits = dict.fromkeys(names, limit)
                body = await _read_multipart(
                    request, options.get(b"boundary"), folder, limit, beside=limits
                )
            elif kind == b"application/json":
                spool = await _spooled(request, folder, limit)
                body = await services.workers.pixels(take_masks, spool, folder, names, limit)
            else:
                body = await _read_body(request, services, folder)
            body.parameters = {**request.query_params, **body.parameters}
        yield body


async def _submission(request: Request, services: ServicesDep) -> AsyncIterator[Submission]:
    async with receive(request, services, services.gate) as submission:
        yield submission


async def _to_enlarge(request: Request, services: ServicesDep) -> AsyncIterator[Submission]:
    async with receive(request, services, services.printing_gate) as submission:
        yield submission


SubmissionDep = Annotated[Submission, Depends(_submission)]
"""The request's picture for a shot, until its answer has gone out."""

EnlargingDep = Annotated[Submission, Depends(_to_enlarge)]
"""The same for an enlargement."""


async def _refuse_if_full(request: Request, gate: Gate) -> None:
    """Say no while the body is still the client's, where there is not even a place in the line.

    A client that waits for `100 Continue` sends nothing; any other is let finish a little.
    """
    try:
        gate.refuse_if_full()
    except Overloaded:
        if request.headers.get("expect", "").lower() != "100-continue":
            await _drain(request.stream())
        raise


async def _read_body(request: Request, services: Services, folder: Path) -> Body:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    limit = services.max_upload_bytes
    if kind == b"multipart/form-data":
        return await _read_multipart(request, options.get(b"boundary"), folder, limit)
    if kind == b"application/json":
        return await _read_json(request, services, folder)
    if kind == b"application/x-www-form-urlencoded":
        return await _read_urlencoded(request)
    if kind and await _has_body(request):
        raise UnsupportedMediaType(
            f"A body of type {kind.decode('latin-1')} is not read here.",
            hint="Send multipart/form-data with a part `image`, or JSON.",
        )
    return Body({}, [])


async def _one_picture(body: Body, services: Services, folder: Path) -> Path:
    url = body.parameters.pop(URL_FIELD, None)
    sources = len(body.pictures) + (url is not None)
    if sources == 0:
        raise MissingSource("There is no picture: send a file part `image`, or image_url.")
    if sources > 1:
        raise MultipleSources("There is more than one picture: send exactly one.")
    if url is None:
        return _not_empty(body.pictures[0])
    if not isinstance(url, str):
        raise InvalidParameter("image_url: must be a string.", field=URL_FIELD)
    picture = folder / "download"
    await services.fetcher.fetch(url, into=picture)
    return _not_empty(picture)


async def _read_multipart(
    request: Request,
    boundary: bytes | None,
    folder: Path,
    limit: int,
    *,
    beside: Mapping[str, int] | None = None,
) -> Body:
    """With `beside`, files of those names and limits, and no picture."""
    if not boundary:
        raise InvalidParameter("The multipart body names no boundary.", field="content-type")
    most = limit if beside is None else sum(beside.values())
    _refuse_announced(request, most + _FORM_OVERHEAD, limit)
    reader = FormReader(
        boundary,
        folder,
        max_file_bytes=limit,
        file_fields=FILE_FIELDS if beside is None else (),
        beside_fields=beside,
    )
    with contextlib.closing(reader):
        stream = request.stream()
        try:
            async for chunk in stream:
                await asyncio.to_thread(reader.feed, chunk)
            return reader.finish()
        except (FileTooLarge, InvalidParameter):
            await _drain(stream)
            raise


async def _read_json(request: Request, services: Services, folder: Path) -> Body:
    """JSON with the picture inside: spooled, then taken apart in the pool."""
    limit = services.max_upload_bytes
    spool = await _spooled(request, folder, limit)
    return await services.workers.pixels(
        take_apart, spool, folder / "decoded", max_file_bytes=limit
    )


async def _spooled(request: Request, folder: Path, limit: int) -> Path:
    """A body of JSON with files of at most `limit` bytes together inside, on disk."""
    longest = limit * 4 // 3 + _FORM_OVERHEAD
    _refuse_announced(request, longest, limit)
    spool = folder / "body.json"
    with spool.open("wb") as file:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > longest:
                raise too_large(limit, size)
            await asyncio.to_thread(file.write, chunk)
    return spool


async def _read_urlencoded(request: Request) -> Body:
    text = b""
    async for chunk in request.stream():
        text += chunk
        if len(text) > MAX_FIELD_BYTES:
            raise FileTooLarge(
                "A form without file parts is at most 16 KiB.",
                limit=MAX_FIELD_BYTES,
                actual=len(text),
                hint="Send the picture as multipart/form-data.",
            )
    try:
        pairs = parse_qsl(text.decode(), keep_blank_values=True, errors="strict", max_num_fields=40)
    except ValueError as error:
        raise InvalidParameter("The form is not valid UTF-8.", field="body") from error
    return Body(dict(pairs), [])


async def _has_body(request: Request) -> bool:
    async for chunk in request.stream():
        if chunk:
            return True
    return False


def _refuse_announced(request: Request, longest: int, limit: int) -> None:
    """Say no before the body is sent, where its length is announced."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > longest:
        raise too_large(limit, int(announced))


async def _drain(stream: AsyncIterator[bytes]) -> None:
    """Let a client that is still sending finish a little, so that it reads our answer."""
    drained = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            async for chunk in stream:
                drained += len(chunk)
                if drained > _MAX_DRAINED:
                    return


def _not_empty(picture: Path) -> Path:
    if picture.stat().st_size == 0:
        raise EmptyFile("The file has no bytes.")
    return picture
