"""An enlarged picture as an answer: one way for every route that gives one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Send

from models import errors
from models.schemas import EdgeReport, PictureFormat, UpscaleParameters
from services.container import Services
from services.results import PrintKey
from services.upscaler import Enlargement
from utils.clock import Deadline
from utils.rows import Box

ENLARGING_ERRORS = (
    errors.ScaleOutOfRange,
    errors.SideTooLong,
    errors.FileTooLarge,
    errors.Overloaded,
    errors.Draining,
    errors.InsufficientMemory,
    errors.DeadlineExceeded,
    errors.InsufficientStorage,
)
"""What can stand in the way of a print."""

_MEDIA_TYPES = {
    PictureFormat.PNG: "image/png",
    PictureFormat.WEBP: "image/webp",
    PictureFormat.TIFF: "image/tiff",
}


async def _closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


ClosingDep = Annotated[AsyncExitStack, Depends(_closing)]
"""What is entered here ends when the answer has gone out, or its client has."""


@dataclass(frozen=True, slots=True)
class Order:
    """A picture to enlarge: the file, what was asked, a folder for what cannot stay in memory.

    `box` is the part of it to enlarge where that is known already; `keep` names the print that the
    result store should remember; `make` what is sent where that is not the enlarged PNG itself.
    """

    picture: Path
    asked: UpscaleParameters
    scratch: Path
    deadline: Deadline
    box: Box | None = None
    keep: PrintKey | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    make: Callable[[Enlargement], AsyncGenerator[bytes, None]] | None = None


async def answer_enlarged(order: Order, services: Services, closing: AsyncExitStack) -> Response:
    """The enlarged picture; its first strip is made before anything is promised.

    Raises what Upscaler.open and Upscaler.write raise, Overloaded, and DeadlineExceeded.
    """
    await closing.enter_async_context(services.printing_gate.slot(order.deadline))
    try:
        async with asyncio.timeout(order.deadline.remaining_s()):
            work = await services.upscaler.open(
                order.picture, order.asked, scratch=order.scratch, box=order.box
            )
            if order.asked.format is not PictureFormat.PNG:
                return await _file(order, work, services)
            return await _stream(order, work, services, closing)
    except TimeoutError:
        raise errors.DeadlineExceeded(
            "The picture was not ready before the deadline.",
            hint="A PNG without interlacing or a baseline JPEG starts at once; TIFF and WebP "
            "are answered only when they are whole.",
        ) from None


async def _file(order: Order, work: Enlargement, services: Services) -> Response:
    path = await services.upscaler.write(work, deadline=order.deadline)
    return FileResponse(
        path,
        media_type=_MEDIA_TYPES[order.asked.format],
        headers={**_headers(work), **edge_header(work.edge_report()), **order.headers},
    )


async def _stream(
    order: Order, work: Enlargement, services: Services, closing: AsyncExitStack
) -> Response:
    pieces = (order.make or services.upscaler.stream)(work)
    if order.keep is not None and services.results.may_keep(work.predicted_bytes()):
        pieces = services.results.keep_print(order.keep, pieces)
    await closing.enter_async_context(aclosing(pieces))
    return PieceStream(
        await anext(pieces),
        pieces,
        headers={**_headers(work), **order.headers},
        stall_s=services.client_stall_s,
    )


def edge_header(report: EdgeReport | None) -> dict[str, str]:
    """The counts of a picture that is whole; one that is streamed carries them at its end."""
    return {} if report is None else {"X-Edge-Report": report.model_dump_json()}


def _headers(work: Enlargement) -> dict[str, str]:
    report = work.size.report()
    return {
        "X-Width": str(report.width),
        "X-Height": str(report.height),
        "X-Source-DPI": f"{report.source_dpi:g}",
        "X-Output-DPI": f"{report.output_dpi:g}",
        "X-Print-Note": report.note,
    }


class PieceStream(StreamingResponse):
    """A file in pieces, given up when the client takes nothing for `stall_s` seconds."""

    def __init__(
        self,
        first: bytes,
        rest: AsyncGenerator[bytes, None],
        *,
        headers: Mapping[str, str],
        stall_s: float,
        media_type: str = "image/png",
    ) -> None:
        super().__init__(_chained(first, rest), media_type=media_type, headers=headers)
        self._stall_s = stall_s

    async def stream_response(self, send: Send) -> None:
        async def send_or_give_up(message: Message) -> None:
            try:
                async with asyncio.timeout(self._stall_s):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        await super().stream_response(send_or_give_up)


async def _chained(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for piece in rest:
        yield piece
