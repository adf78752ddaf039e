"""Gives schemathesis' valid requests real pictures, so that shots and renderings come of them.

Loaded by schemathesis itself (SCHEMATHESIS_HOOKS); one in four keeps what was generated.
"""

import base64
import io
import json
import zlib
from typing import Any

import schemathesis
from hypothesis import strategies
from PIL import Image, ImageDraw
from schemathesis import Case, GenerationMode, HookContext, Response
from schemathesis.core.deserialization import DeserializationContext

_SOURCES = ("image", "image_file", "image_base64", "image_file_b64", "image_url")
_NO_PICTURE = ("bg_image_url", "bg_image_file", "callback_url")
_NATIVE = ("image", "image_base64")
_TAKING = {
    **dict.fromkeys(("/remove-background", "/process", "/upscale", "/analyze"), _NATIVE),
    "/v1.0/removebg": ("image_file", "image_file_b64"),
}
"""Which operations take a picture, and what it is called as a file and as base64."""

_RENDERING = "/results/{request_id}/render"
_MASKS = ("keep", "erase", "mask")


def _picture(ink: tuple[int, int, int]) -> str:
    """A disc on grey, 24 x 20 pixels: a BMP of ASCII bytes alone, so that it is a text as well."""
    picture = Image.new("RGB", (24, 20), (120, 120, 120))
    ImageDraw.Draw(picture).ellipse((5, 3, 18, 16), fill=ink)
    file = io.BytesIO()
    picture.save(file, "BMP")
    content = bytearray(file.getvalue())
    content[2:6], content[34:46] = bytes(4), bytes(12)  # lengths and densities, which may be 0
    return content.decode("ascii")


_PICTURE, _MASK = _picture((100, 10, 15)), _picture((0, 0, 0))

# its own files are of a type that its validator may meet and does not know (4.32.5)
schemathesis.openapi.format(
    "binary", strategies.one_of(strategies.just(_PICTURE), strategies.text(max_size=40))
)


@schemathesis.hook
def before_call(_context: HookContext, case: Case[Any], _kwargs: dict[str, Any]) -> None:
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if not isinstance(case.body, dict) or not case.body:
        return  # none at all is what schemathesis sends to see it refused
    chance = zlib.crc32(repr(sorted(case.body)).encode()) % 4
    if chance == 0:
        return
    if (names := _TAKING.get(case.operation.path)) is not None:
        _put_picture(case, case.body, names, alone=chance < 3)
    elif case.operation.path == _RENDERING:
        case.body = {
            name: _written(case, _MASK) if name in _MASKS else value
            for name, value in case.body.items()
        }


def _put_picture(
    case: Case[Any], body: dict[str, Any], names: tuple[str, str], *, alone: bool
) -> None:
    """As the body's one source, with nobody to call back; a form without files keeps its address.

    `alone` leaves out every parameter: few combinations of them mean something.
    """
    if case.media_type == "application/x-www-form-urlencoded":
        return
    name = names[1] if case.media_type == "application/json" else names[0]
    others = set(body) if alone else {*_SOURCES, *_NO_PICTURE}
    kept = {each: value for each, value in body.items() if each not in others}
    case.body = {**kept, name: _written(case, _PICTURE)}
    for each in list(case.query) if alone else ["callback_url"]:
        case.query.pop(each, None)


@schemathesis.deserializer("application/x-ndjson", "text/event-stream")
def last_event(_context: DeserializationContext, response: Response) -> Any:  # noqa: ANN401  # JSON
    """Of a shot that is told as it goes: its record."""
    events = [line.partition("{") for line in response.content.decode().splitlines()]
    texts = [opened + rest for _, opened, rest in events if opened]
    return json.loads(texts[-1]) if texts else None


@schemathesis.deserializer("image/*", "application/zip")
def nothing(_context: DeserializationContext, _response: Response) -> None:
    """A picture names no shot."""


def _written(case: Case[Any], content: str) -> str:
    if case.media_type == "application/json":
        return base64.b64encode(content.encode()).decode()
    return content
