"""Files the look-alikes host for a while: inputs that were uploaded, results to be fetched."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from sandbox.faults import Kind, TaskFaults
from sandbox.listeners import Hangup
from sandbox.options import Clock

FOREIGN_URL = "http://169.254.169.254/latest/meta-data/result.png"
_ENDLESS_BYTES = 256 << 20
_PIECE_BYTES = 1 << 16
_SLOW_PIECES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedFile:
    content: bytes
    media_type: str
    expires_at: float
    faults: TaskFaults = field(default_factory=TaskFaults)


class Shelf:
    """Files by path, within a number of bytes: the oldest make room for new ones."""

    def __init__(self, *, max_bytes: int, clock: Clock) -> None:
        self._files: OrderedDict[str, HostedFile] = OrderedDict()
        self._max_bytes = max_bytes
        self._bytes = 0
        self._clock = clock

    def put(self, path: str, file: HostedFile) -> None:
        self._drop(path)
        self._files[path] = file
        self._bytes += len(file.content)
        while self._bytes > self._max_bytes and len(self._files) > 1:
            self._drop(next(iter(self._files)))

    def get(self, path: str) -> HostedFile | None:
        """The file, unless it was never here or its time is over."""
        file = self._files.get(path)
        return None if file is None or self.expired(path) else file

    def expired(self, path: str) -> bool:
        file = self._files.get(path)
        return file is not None and self._clock() >= file.expires_at

    def _drop(self, path: str) -> None:
        if (gone := self._files.pop(path, None)) is not None:
            self._bytes -= len(gone.content)


async def answer_file(shelf: Shelf, path: str, *, slow_s: float, expired: Response) -> Response:
    """What a GET of `path` is answered, faults first."""
    file = shelf.get(path)
    if file is None:
        return expired if shelf.expired(path) else _not_found()
    if Kind.URL_EXPIRED in file.faults:
        return expired
    return _instead(file.faults) or _body(file, slow_s=slow_s)


def _instead(faults: TaskFaults) -> Response | None:
    if faults.take(Kind.URL_503):
        return HTMLResponse("<h1>503 Service Temporarily Unavailable</h1>", 503)
    if Kind.URL_404 in faults:
        return _not_found()
    if Kind.URL_HTML in faults:
        return HTMLResponse("<!doctype html><title>One moment</title><p>Checking your browser</p>")
    if Kind.URL_REDIRECT in faults:
        return RedirectResponse(FOREIGN_URL, 302)
    return None


def _body(file: HostedFile, *, slow_s: float) -> Response:
    faults = file.faults
    if Kind.URL_TRUNCATED in faults:
        return Hangup(after=file.content[: len(file.content) // 2], announced=len(file.content))
    if Kind.URL_ENDLESS in faults:
        return StreamingResponse(_endless(file.content), media_type=file.media_type)
    if Kind.SLOW_BODY in faults:
        pause_s = faults.amount(Kind.SLOW_BODY, slow_s) / _SLOW_PIECES
        return StreamingResponse(_slowly(file.content, pause_s), media_type=file.media_type)
    return Response(file.content, media_type=file.media_type)


def _not_found() -> Response:
    return HTMLResponse("<h1>404 Not Found</h1>", 404)


async def _endless(content: bytes) -> AsyncIterator[bytes]:
    yield content
    for _ in range(_ENDLESS_BYTES // _PIECE_BYTES):
        yield bytes(_PIECE_BYTES)


async def _slowly(content: bytes, pause_s: float) -> AsyncIterator[bytes]:
    size = len(content) // _SLOW_PIECES + 1
    for start in range(0, len(content), size):
        yield content[start : start + size]
        await asyncio.sleep(pause_s)
