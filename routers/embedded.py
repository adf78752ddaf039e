"""A JSON body with a picture inside, taken apart on the disk: neither is ever whole in memory."""

import base64
import binascii
import json
import mmap
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from itertools import islice
from pathlib import Path
from typing import IO, Any

from models.errors import InvalidParameter
from routers.multipart import Body, too_large

BASE64_FIELD = "image_base64"

_KEY = re.compile(rb'"image_base64"\s*:\s*"')
_PIECE_BYTES = 1 << 22
_LONGEST_ESCAPE = 6  # a backslash, u and four digits
_MAX_DOCUMENT_BYTES = 1 << 20  # without its picture
_MAX_PREFIX_BYTES = 256  # data:image/png;base64,


def take_apart(spool: Path, target: Path, *, max_file_bytes: int) -> Body:
    """The document in `spool`, its picture decoded into `target`. Blocks; call it in the pool.

    Raises InvalidParameter or FileTooLarge.
    """
    if spool.stat().st_size == 0:
        raise _no_json()
    with spool.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        span = _picture_span(text)
        document = _document(text, span)
        encoded = document.pop(BASE64_FIELD, None)
        if encoded is None:
            return Body(document, [])
        if not isinstance(encoded, str):
            raise _bad("must be a string.")
        with target.open("wb") as out:
            _decode(_pieces(text, *span), out, max_file_bytes)
    return Body(document, [target])


def take_masks(spool: Path, folder: Path, names: AbstractSet[str], max_bytes: int) -> Body:
    """A document of a few megabytes with files in base64 under `names`, written to `folder`.

    Blocks; call it in the pool. Raises InvalidParameter or FileTooLarge.
    """
    try:
        document = json.loads(spool.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _no_json() from error
    if not isinstance(document, dict):
        raise InvalidParameter("The JSON body must be an object.", field="body")
    body = Body(document, [])
    for name in sorted(names & document.keys()):
        encoded = document.pop(name)
        if not isinstance(encoded, str):
            raise InvalidParameter(f"{name}: must be a string of base64.", field=name)
        text = encoded.partition(",")[2] if encoded.startswith("data:") else encoded
        path = folder / name
        try:
            path.write_bytes(base64.b64decode("".join(text.split()), validate=True))
        except ValueError as error:
            raise InvalidParameter(f"{name}: is not base64.", field=name) from error
        if path.stat().st_size > max_bytes:
            raise too_large(max_bytes, path.stat().st_size)
        body.beside[name] = path
    return body


def _picture_span(text: mmap.mmap) -> tuple[int, int]:
    """Where the picture's characters start and stop; (0, 0) where there is no such string."""
    found = list(islice(_KEY.finditer(text), 2))
    if len(found) > 1:
        raise _bad("stands there more than once.")
    if not found:
        return 0, 0
    stop = text.find(b'"', found[0].end())
    if stop < 0:
        raise _no_json()
    return found[0].end(), stop


def _document(text: mmap.mmap, span: tuple[int, int]) -> dict[str, Any]:
    """The document with an empty string in the picture's place."""
    if len(text) - (span[1] - span[0]) > _MAX_DOCUMENT_BYTES:
        raise InvalidParameter("The JSON body is too long without its picture.", field="body")
    try:
        document = json.loads(text[: span[0]] + text[span[1] :])
    except (ValueError, RecursionError) as error:
        raise _no_json() from error
    if not isinstance(document, dict):
        raise InvalidParameter("The JSON body must be an object.", field="body")
    return document


def _pieces(text: mmap.mmap, start: int, stop: int) -> Iterator[str]:
    """The string's characters, unescaped, a few megabytes at a time, without a `data:` prefix."""
    if text[start : start + 5] == b"data:":
        comma = text.find(b",", start, min(stop, start + _MAX_PREFIX_BYTES))
        start = comma + 1 if comma >= 0 else stop
    while start < stop:
        piece = text[start : min(stop, start + _PIECE_BYTES)]
        if start + len(piece) < stop:
            escape = piece.rfind(b"\\", -_LONGEST_ESCAPE)
            piece = piece[:escape] if escape > 0 else piece
        start += len(piece)
        try:
            yield json.loads(b'"' + piece + b'"')
        except ValueError as error:
            raise _no_json() from error


def _decode(pieces: Iterator[str], out: IO[bytes], max_file_bytes: int) -> None:
    """Base64 of any line length into bytes."""
    rest, padded = "", False
    for piece in pieces:
        text = rest + "".join(piece.split())
        if text and padded:
            raise _bad("is not base64.")
        whole = len(text) // 4 * 4
        out.write(_bytes(text[:whole]))
        rest, padded = text[whole:], text.endswith("=", 0, whole)
        if out.tell() > max_file_bytes:
            raise too_large(max_file_bytes, out.tell())
    if rest:
        raise _bad("is not base64.")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad("is not base64.") from error


def _bad(what: str) -> InvalidParameter:
    return InvalidParameter(f"{BASE64_FIELD}: {what}", field=BASE64_FIELD)


def _no_json() -> InvalidParameter:
    return InvalidParameter("The body is not valid JSON.", field="body")
