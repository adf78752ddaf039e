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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from models.errors import (
    BodyTooSlow,
    EmptyFile,
    FileTooLarge,
    ImageDownloadFailed,
    ImageTruncated,
    ImageUrlRefused,
    InsufficientStorage,
    InvalidParameter,
    MissingSource,
    MultipleSources,
    NotAdmitted,
    UnreadableImage,
    UnsupportedMediaType,
)
from routers.dependencies import ServicesDep
from routers.embedded import (
    BASE64_FIELD,
    decode_text,
    form_fields,
    take_apart,
    take_form_apart,
    take_masks,
)
from routers.multipart import FILE_FIELDS, MAX_FIELD_BYTES, Body, FormReader, too_large
from services.admission import Gate
from services.container import Services
from services.room import full_disk_said
from utils.spans import span, spanned

INTAKE_ERRORS = (
    MissingSource,
    MultipleSources,
    EmptyFile,
    ImageUrlRefused,
    InvalidParameter,
    BodyTooSlow,
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
    beside: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """What the parts of a request are called: the picture as a file and as base64, files beside it.

    Where `base64_in_forms`, forms may hold base64 as well; an empty source then counts as none.
    """

    files: tuple[str, ...] = FILE_FIELDS
    base64: str = BASE64_FIELD
    base64_in_forms: bool = False
    beside: tuple[str, ...] = ()


NATIVE = Naming()


@asynccontextmanager
async def receive(
    request: Request, services: Services, gate: Gate, *, naming: Naming = NATIVE
) -> AsyncIterator[Submission]:
    """The request's one picture on disk, removed again when the caller is done with it.

    Raises Overloaded or Draining before the body is read, where nothing of it could even wait at
    `gate`;
    MissingSource, MultipleSources, EmptyFile, FileTooLarge, UnsupportedMediaType,
    InvalidParameter, ImageUrlRefused, ImageDownloadFailed or InsufficientStorage.
    """
    await _refuse_if_full(request, gate)
    async with services.scratch() as folder:
        with full_disk_said("uploads"):
            body = await _read_body(request, services, folder, naming)
            received_at = time.monotonic()
            body.parameters = {**request.query_params, **body.parameters}
            if naming.base64_in_forms:
                _forget_empty(body)
            picture = await _one_picture(body, services, folder, naming)
        yield Submission(picture, body.parameters, received_at, body.beside)


@asynccontextmanager
async def receive_masks(
    request: Request, services: Services, names: AbstractSet[str]
) -> AsyncIterator[Body]:
    """Parameters and, by their names, files that are no picture of their own, until it is done.

    Raises Overloaded or Draining before the body is read, FileTooLarge, UnsupportedMediaType,
    InvalidParameter, EmptyFile or InsufficientStorage.
    """
    await _refuse_if_full(request, services.gate)
    limit = min(services.max_upload_bytes, MAX_MASK_BYTES)
    async with services.scratch() as folder:
        with full_disk_said("uploads"):
            kind, options = parse_options_header(request.headers.get("content-type", ""))
            if kind == b"multipart/form-data":
                body = await _read_multipart(
                    request,
                    options.get(b"boundary"),
                    folder,
                    limit=limit,
                    files=(),
                    beside=dict.fromkeys(names, limit),
                )
            elif kind == b"application/json":
                spool = folder / "body.json"
                await _spool(request, spool, _as_base64(limit) + _FORM_OVERHEAD, limit)
                body = await services.workers.pixels(take_masks, spool, folder, names, limit)
            else:
                body = await _read_body(request, services, folder, NATIVE)
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
    except NotAdmitted:
        if request.headers.get("expect", "").lower() != "100-continue":
            await _drain(request.stream())
        raise


@spanned("receive")
async def _read_body(request: Request, services: Services, folder: Path, naming: Naming) -> Body:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    limit = services.max_upload_bytes
    if kind == b"multipart/form-data":
        beside = dict.fromkeys(naming.beside, limit)
        if naming.base64_in_forms:
            beside[naming.base64] = _as_base64(limit)
        body = await _read_multipart(
            request,
            options.get(b"boundary"),
            folder,
            limit=limit,
            files=naming.files,
            beside=beside,
        )
        return await _with_decoded(body, services, folder, naming)
    if kind == b"application/json":
        return await _read_json(request, services, folder, naming)
    if kind == b"application/x-www-form-urlencoded" and naming.base64_in_forms:
        return await _read_long_form(request, services, folder, naming)
    if kind == b"application/x-www-form-urlencoded":
        return await _read_urlencoded(request)
    if kind and await _has_body(request):
        raise UnsupportedMediaType(
            f"A body of type {kind.decode('latin-1')} is not read here.",
            hint=f"Send multipart/form-data with a part `{naming.files[0]}`, or JSON.",
        )
    return Body({}, [])


async def _one_picture(body: Body, services: Services, folder: Path, naming: Naming) -> Path:
    url = body.parameters.pop(URL_FIELD, None)
    sources = len(body.pictures) + (url is not None)
    if sources == 0:
        raise MissingSource(
            f"There is no picture: send a file part `{naming.files[0]}`, or image_url."
        )
    if sources > 1:
        raise MultipleSources("There is more than one picture: send exactly one.")
    if url is None:
        return _not_empty(body.pictures[0])
    if not isinstance(url, str):
        raise InvalidParameter("image_url: must be a string.", field=URL_FIELD)
    picture = folder / "download"
    with span("download"):
        await services.fetcher.fetch(url, into=picture)
    return _not_empty(picture)


async def _read_multipart(  # noqa: PLR0913  # the form's parts, all named
    request: Request,
    boundary: bytes | None,
    folder: Path,
    *,
    limit: int,
    files: tuple[str, ...],
    beside: Mapping[str, int],
) -> Body:
    """`files` are the names a picture may have, `beside` other files and how long each may be."""
    if not boundary:
        raise InvalidParameter("The multipart body names no boundary.", field="content-type")
    _refuse_announced(request, limit * bool(files) + sum(beside.values()) + _FORM_OVERHEAD, limit)
    form = FormReader(
        boundary, folder, max_file_bytes=limit, file_fields=files, beside_fields=beside
    )
    with contextlib.closing(form) as reader:
        stream = request.stream()
        try:
            async for chunk in stream:
                await asyncio.to_thread(reader.feed, chunk)
            return reader.finish()
        except (FileTooLarge, InvalidParameter):
            await _drain(stream)
            raise


async def _with_decoded(body: Body, services: Services, folder: Path, naming: Naming) -> Body:
    """With the picture that a form held as base64 among its pictures."""
    text = body.beside.pop(naming.base64, None)
    if text is not None:
        await services.workers.pixels(
            decode_text,
            text,
            folder / "decoded",
            max_file_bytes=services.max_upload_bytes,
            field=naming.base64,
        )
        body.pictures.append(folder / "decoded")
    return body


async def _read_json(request: Request, services: Services, folder: Path, naming: Naming) -> Body:
    """JSON with the picture inside: spooled, then taken apart in the pool."""
    limit = services.max_upload_bytes
    spool = folder / "body.json"
    await _spool(request, spool, _as_base64(limit) + _FORM_OVERHEAD, limit)
    return await services.workers.pixels(
        take_apart, spool, folder / "decoded", max_file_bytes=limit, field=naming.base64
    )


async def _read_long_form(
    request: Request, services: Services, folder: Path, naming: Naming
) -> Body:
    """The same for a form, in which a few characters of base64 take three."""
    limit = services.max_upload_bytes
    spool = folder / "body.form"
    await _spool(request, spool, _as_base64(limit) * 6 // 5 + _FORM_OVERHEAD, limit)
    return await services.workers.pixels(
        take_form_apart, spool, folder / "decoded", max_file_bytes=limit, field=naming.base64
    )


async def _spool(request: Request, spool: Path, longest: int, limit: int) -> None:
    """The body on disk; raises FileTooLarge where it is longer than `limit` makes it."""
    _refuse_announced(request, longest, limit)
    with spool.open("wb") as file:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > longest:
                raise too_large(limit, size)
            await asyncio.to_thread(file.write, chunk)


def _as_base64(size: int) -> int:
    return size * 4 // 3


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
    return Body(form_fields(text), [])


def _forget_empty(body: Body) -> None:
    """Leave out what is said to be nothing; a lone empty file stays, to be called one."""
    body.parameters = {
        name: said for name, said in body.parameters.items() if said not in ("", None)
    }
    filled = [each for each in body.pictures if each.stat().st_size]
    if filled or URL_FIELD in body.parameters:
        body.pictures = filled
    body.beside = {name: path for name, path in body.beside.items() if path.stat().st_size}


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
