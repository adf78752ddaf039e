"""Structured logs: one JSON object a line on standard output, each with its request's id.

Callers log an event name as the message and its facts in `extra`; pictures, keys and user file
names never belong there.
"""

import logging
import re
import sys
from contextvars import ContextVar
from typing import NamedTuple

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
key_id: ContextVar[str] = ContextVar("key_id", default="open")
"""Whose API key the request came with, by its id; `open` where the service asks for none."""

trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)
"""Of the caller's own trace, where it told of one, else of the trace that we export."""

_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_NAMES = {"asctime": "time", "levelname": "level", "name": "logger", "message": "event"}
_LEFT_OUT = [*RESERVED_ATTRS, "color_message"]  # uvicorn adds its line a second time, coloured
# they log whole addresses, headers, frames or metadata: keys and pictures
_TALKATIVE = ("httpx", "httpcore", "websockets", "python_multipart", "PIL", "urllib3")
_UVICORN = ("uvicorn", "uvicorn.error")


def configure(level: str) -> None:
    """Send every log of the process through one JSON handler; call it once, at start.

    uvicorn's access log is switched off: it would print query strings, which may hold signed
    addresses, and the service writes its own line for each request.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(_FORMAT, rename_fields=_NAMES, reserved_attrs=_LEFT_OUT))
    handler.addFilter(_stamp_request_id)
    logging.root.handlers = [handler]
    logging.root.setLevel(level)
    for name in _UVICORN:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    # its warnings are about customers' files, as many as one likes to cause; what fails is raised
    logging.getLogger("pyvips").setLevel(logging.ERROR)


def _stamp_request_id(record: logging.LogRecord) -> bool:
    if (current := request_id.get()) is not None:
        record.request_id = current
        record.key_id = key_id.get()
    if (trace := trace_id.get()) is not None:
        record.trace_id = trace
    return True


class Parent(NamedTuple):
    """The step of a caller's trace that a request came of, as the W3C's Trace Context tells it."""

    trace_id: str
    span_id: str
    flags: int

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


_TRACEPARENT = re.compile(
    "(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)


def parent_from(traceparent: str) -> Parent | None:
    """What a `traceparent` header says; None for one that says nothing valid."""
    told = _TRACEPARENT.fullmatch(traceparent.strip())
    if told is None:
        return None
    return Parent(told[1], told[2], int(told[3], 16) & 1)
