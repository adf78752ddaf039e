"""Structured logs: one JSON object a line on standard output, each with its request's id.

Callers log an event name as the message and its facts in `extra`; pictures, keys and user file
names never belong there.
"""

import logging
import sys
from contextvars import ContextVar

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
key_id: ContextVar[str] = ContextVar("key_id", default="open")
"""Whose API key the request came with, by its id; `open` where the service asks for none."""

_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_NAMES = {"asctime": "time", "levelname": "level", "name": "logger", "message": "event"}
_LEFT_OUT = [*RESERVED_ATTRS, "color_message"]  # uvicorn adds its line a second time, coloured
# they log whole addresses, headers or frames: keys and pictures
_TALKATIVE = ("httpx", "httpcore", "websockets", "python_multipart")
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


def _stamp_request_id(record: logging.LogRecord) -> bool:
    if (current := request_id.get()) is not None:
        record.request_id = current
        record.key_id = key_id.get()
    return True
