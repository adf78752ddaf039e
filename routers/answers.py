"""The ways in which a shot is answered: at once, as it goes, or with a promise.

However it is answered, its client is watched: one that leaves takes along what costs nothing.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from models import errors
from models.schemas import Output, RemovalParameters, ResultEntry, ShotRecord, StreamFormat
from routers.presence import while_connected
from routers.problems import told
from routers.results import RETRY_AFTER_S, record_link, shown
from routers.uploads import Submission
from services.container import Services
from services.flight import Flight
from services.shotgun import Plan

HEARTBEAT_S = 8.0
"""Seconds of silence after which a stream says that it lives."""

MEDIA_TYPES = {
    StreamFormat.NDJSON: "application/x-ndjson",
    StreamFormat.SSE: "text/event-stream",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"image/png": {}, **{media_type: {} for media_type in MEDIA_TYPES.values()}},
    },
    202: {
        "model": ShotRecord,
        "description": "With `Prefer: respond-async`: the record as it begins",
        "headers": {
            name: {"schema": {"type": "string"}}
            for name in ("Location", "Retry-After", "Preference-Applied")
        },
    },
}
"""What routes that fire shots say of their successes in the OpenAPI document."""

_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_RESPOND_ASYNC = "respond-async"

Members: TypeAlias = dict[str, Any]
Writer: TypeAlias = Callable[[str, Members], bytes]


@dataclass(frozen=True, slots=True)
class Wish:
    """How the caller wants the answer: `stream` names a format, `later` asks for a promise.

    `stays` says that a streamed shot goes on when nobody listens any more.
    """

    stream: StreamFormat | None
    later: bool
    stays: bool = False


@dataclass(frozen=True, slots=True)
class Shooting:
    """One request that fires a shot."""

    request: Request
    submission: Submission
    plan: Plan
    services: Services

    async def early(self, wish: Wish) -> Response | None:
        """The answer that does not wait for the record, where such a one is wished for."""
        if wish.stream:
            return await self.streamed(wish.stream, stays=wish.stays)
        if wish.later:
            return await self.promised()
        return None

    async def begin(self) -> Flight:
        """Raises what Shotgun.begin raises; ClientDisconnect where nobody waits any more."""
        beginning = self.services.shotgun.begin(self.submission.picture, self.plan)
        return await while_connected(self.request.receive, beginning)

    async def record(self) -> ShotRecord:
        """The record when the answer is due; raises what Shotgun.fire raises."""
        flight = await self.begin()
        try:
            return await while_connected(self.request.receive, flight.answer())
        except ClientDisconnect:
            flight.abandon()
            raise

    async def streamed(self, form: StreamFormat, *, stays: bool) -> StreamingResponse:
        """The events of the shot; nothing is promised before it has begun."""
        return EventStream(await self.begin(), form, self.services, stays=stays)

    async def promised(self) -> JSONResponse:
        """202 with the record as it begins, and where to look for more."""
        flight = await self.begin()
        base_url = self.services.public_base_url
        record = shown(flight.record(), self.services)
        headers = {
            "Location": f"{base_url}/results/{flight.request_id}",
            "Retry-After": str(RETRY_AFTER_S),
            "Preference-Applied": _RESPOND_ASYNC,
        }
        content = record.model_dump(mode="json", exclude_none=True)
        return JSONResponse(content, status_code=202, headers=headers)


def wish_of(asked: RemovalParameters, *, accept: str, prefer: str, as_picture: bool) -> Wish:
    """How to answer, from the parameters and the headers `Accept` and `Prefer`.

    `as_picture` says that bytes of one picture are asked for. A preference gives way to what was
    asked for expressly; two of those that exclude each other raise InvalidParameter.
    """
    stream = asked.stream or next((f for f, kind in MEDIA_TYPES.items() if kind in accept), None)
    if stream and as_picture:
        raise errors.InvalidParameter("stream: one picture cannot be streamed.", field="stream")
    if stream and asked.output is Output.BASE64:
        raise errors.InvalidParameter(
            "stream: gives links; output=base64 would send every picture twice.", field="stream"
        )
    wishes = {each.strip().lower() for each in prefer.split(",")}
    plain = not (stream or as_picture or asked.output is Output.BASE64)
    promised = _RESPOND_ASYNC in wishes
    return Wish(stream, later=plain and promised, stays=promised)


class EventStream(StreamingResponse):
    """A shot told as it goes: accepted, each result, and the whole record or why there is none.

    One that `stays` does not depend on its listener.
    """

    def __init__(
        self, flight: Flight, form: StreamFormat, services: Services, *, stays: bool
    ) -> None:
        write = _WRITERS[form]
        super().__init__(
            (write(event, members) async for event, members in _events(flight, services)),
            media_type=MEDIA_TYPES[form],
            headers=_STREAM_HEADERS | ({"Preference-Applied": _RESPOND_ASYNC} if stays else {}),
        )
        self._flight = flight
        self._stays = stays

    async def __call__(
        self,
        scope: Scope,  # noqa: ARG002  # ASGI's
        receive: Receive,
        send: Send,
    ) -> None:
        try:
            await while_connected(receive, self.stream_response(send))
        except BaseException:
            if not self._stays:
                self._flight.abandon()
            raise


async def _events(flight: Flight, services: Services) -> AsyncIterator[tuple[str, Members]]:
    begun = flight.record()
    yield (
        "accepted",
        {
            "request_id": begun.request_id,
            "models": [entry.model for entry in begun.results],
            "image": _dumped(begun.image),
            "record_url": record_link(begun, services),
        },
    )
    try:
        async for entry in flight.landings(heartbeat_s=HEARTBEAT_S):
            yield (
                ("heartbeat", {}) if entry is None else ("result", _linked(entry, begun, services))
            )
        yield "done", _dumped(shown(await flight.settled(), services))
    except Exception as error:  # noqa: BLE001  # the status has gone out: the stream must say it
        yield "failed", told(error)


def _linked(entry: ResultEntry, record: ShotRecord, services: Services) -> Members:
    """The entry as the record shows it."""
    alone = record.model_copy(update={"results": [entry]})
    return _dumped(shown(alone, services).results[0])


def _dumped(model: BaseModel) -> Members:
    members: Members = model.model_dump(mode="json", exclude_none=True)
    return members


def _ndjson(event: str, members: Members) -> bytes:
    return (_json({"event": event, **members}) + "\n").encode()


def _sse(event: str, members: Members) -> bytes:
    """One `data:` line, since our JSON has no line breaks; a heartbeat is a comment."""
    if event == "heartbeat":
        return b": heartbeat\n\n"
    return f"event: {event}\ndata: {_json(members)}\n\n".encode()


def _json(members: Members) -> str:
    return json.dumps(members, ensure_ascii=False, separators=(",", ":"))


_WRITERS: Mapping[StreamFormat, Writer] = {StreamFormat.NDJSON: _ndjson, StreamFormat.SSE: _sse}
