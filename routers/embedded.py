"""A body with a picture as base64 inside, taken apart on the disk: neither is ever whole in memory.

JSON, a form, or the text alone.
"""

import base64
import binascii
import json
import mmap
import re
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, unquote_to_bytes

from models.errors import FileTooLarge, InvalidParameter
from routers.multipart import MAX_FIELD_BYTES, Body, too_large

BASE64_FIELD = "image_base64"

_PIECE_BYTES = 1 << 22
_MAX_DOCUMENT_BYTES = 1 << 20  # without its picture
_MOST_JSON_VALUES = 4096
_MAX_PREFIX_BYTES = 256  # data:image/png;base64,
_DATA = re.compile(rb"data(:|%3a)", re.IGNORECASE)
_PREFIX = re.compile(rb"data.*?(,|%2c)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Writing:
    """How a text is escaped where it stands: what begins an escape, how long one is at most."""

    escape: bytes
    longest: int
    plain: Callable[[bytes], str]


_LONGEST_IN_JSON = 6  # a backslash, u and four digits
_IN_JSON = _Writing(b"\\", _LONGEST_IN_JSON, lambda piece: str(json.loads(b'"' + piece + b'"')))
# A + stays one: encoders write %2B, and for those that forget it base64 has no use for a blank.
_IN_FORM = _Writing(b"%", 3, lambda piece: unquote_to_bytes(piece).decode("ascii"))
_ALONE = _Writing(b"", 0, lambda piece: piece.decode("ascii"))


def take_apart(
    spool: Path, target: Path, *, max_file_bytes: int, field: str = BASE64_FIELD
) -> Body:
    """The document in `spool`, its picture decoded into `target`. Blocks; call it in the pool.

    Raises InvalidParameter or FileTooLarge.
    """
    if spool.stat().st_size == 0:
        raise _no_json()
    with spool.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        span = _picture_span(text, field)
        document = _document(text, span)
        encoded = document.pop(field, None)
        if encoded is None:
            return Body(document, [])
        with _named(field):
            if not isinstance(encoded, str):
                raise _Bad("must be a string.")
            if encoded:  # the picture's is empty now: this one stands under an escaped name
                raise _Bad("must be named without escapes.")
            with target.open("wb") as out:
                _decode(_pieces(text, *span, _IN_JSON), out, max_file_bytes)
    return Body(document, [target])


def take_form_apart(spool: Path, target: Path, *, max_file_bytes: int, field: str) -> Body:
    """The same for `application/x-www-form-urlencoded`."""
    if spool.stat().st_size == 0:
        return Body({}, [])
    with spool.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        start, stop = _form_span(text, field)
        if len(text) - (stop - start) > MAX_FIELD_BYTES:
            raise FileTooLarge(
                "A form without its picture is at most 16 KiB.",
                limit=MAX_FIELD_BYTES,
                actual=len(text) - (stop - start),
            )
        body = Body(form_fields(text[:start] + text[stop:]), [])
        if body.parameters.pop(field, None) is None or start == stop:
            return body
        with _named(field), target.open("wb") as out:
            _decode(_pieces(text, start, stop, _IN_FORM), out, max_file_bytes)
    return Body(body.parameters, [target])


def decode_text(spool: Path, target: Path, *, max_file_bytes: int, field: str) -> None:
    """A file of base64 into the file `target`. Blocks; call it in the pool."""
    if spool.stat().st_size == 0:
        target.touch()
        return
    with (
        _named(field),
        spool.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        target.open("wb") as out,
    ):
        _decode(_pieces(text, 0, len(text), _ALONE), out, max_file_bytes)


def form_fields(text: bytes) -> dict[str, Any]:
    """The names and values of a form that holds no file; raises InvalidParameter."""
    try:
        pairs = parse_qsl(text.decode(), keep_blank_values=True, errors="strict", max_num_fields=40)
    except ValueError as error:
        raise InvalidParameter("The form is not valid UTF-8.", field="body") from error
    return dict(pairs)


def _form_span(text: mmap.mmap, field: str) -> tuple[int, int]:
    """Where the picture's characters start and stop; (0, 0) where there is no such field."""
    key = re.compile(rb"(?:\A|&)" + re.escape(field.encode()) + b"=")
    if (found := key.search(text)) is None:
        return 0, 0
    stop = text.find(b"&", found.end())
    return found.end(), len(text) if stop < 0 else stop


def take_masks(spool: Path, folder: Path, names: AbstractSet[str], max_bytes: int) -> Body:
    """A document of a few megabytes with files in base64 under `names`, written to `folder`.

    Blocks; call it in the pool. Raises InvalidParameter or FileTooLarge.
    """
    written = spool.read_bytes()
    _check_shape(written)
    try:
        document = json.loads(written.decode("utf-8-sig"))
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


def _picture_span(text: mmap.mmap, field: str) -> tuple[int, int]:
    """Where the picture's characters start and stop; (0, 0) where there is no such string."""
    key = re.compile(b'"' + re.escape(field.encode()) + rb'"\s*:\s*"')
    found = list(islice(key.finditer(text), 2))
    if len(found) > 1:
        raise InvalidParameter(f"{field}: stands there more than once.", field=field)
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
    written = text[: span[0]] + text[span[1] :]
    _check_shape(written)
    try:
        document = json.loads(written.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _no_json() from error
    if not isinstance(document, dict):
        raise InvalidParameter("The JSON body must be an object.", field="body")
    return document


def _check_shape(written: bytes) -> None:
    """A list of three characters takes 70 bytes once it is Python's: they are counted before."""
    if sum(written.count(sign) for sign in (b",", b"[", b"{")) > _MOST_JSON_VALUES:
        raise InvalidParameter("The JSON body holds too many values.", field="body")


def _pieces(text: mmap.mmap, start: int, stop: int, writing: _Writing) -> Iterator[str]:
    """The string's characters, unescaped, a few megabytes at a time, without a `data:` prefix."""
    if _DATA.match(text, start, stop):
        prefix = _PREFIX.match(text, start, min(stop, start + _MAX_PREFIX_BYTES))
        if prefix is None:
            raise _Bad("is not base64.")
        _plain(prefix.group(), writing)
        start = prefix.end()
    while start < stop:
        piece = text[start : min(stop, start + _PIECE_BYTES)]
        if start + len(piece) < stop:
            escape = piece.rfind(writing.escape, -writing.longest) if writing.escape else -1
            piece = piece[:escape] if escape > 0 else piece
        start += len(piece)
        yield _plain(piece, writing)


def _plain(piece: bytes, writing: _Writing) -> str:
    try:
        return writing.plain(piece)
    except json.JSONDecodeError as error:
        raise _no_json() from error
    except UnicodeDecodeError as error:
        raise _Bad("is not base64.") from error


def _decode(pieces: Iterator[str], out: IO[bytes], max_file_bytes: int) -> None:
    """Base64 of any line length into bytes."""
    rest, padded = "", False
    for piece in pieces:
        text = rest + "".join(piece.split())
        if text and padded:
            raise _Bad("is not base64.")
        whole = len(text) // 4 * 4
        out.write(_bytes(text[:whole]))
        rest, padded = text[whole:], text.endswith("=", 0, whole)
        if out.tell() > max_file_bytes:
            raise too_large(max_file_bytes, out.tell())
    if rest:
        raise _Bad("is not base64.")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _Bad("is not base64.") from error


class _Bad(Exception):
    """What is wrong with the picture's text."""


@contextmanager
def _named(field: str) -> Iterator[None]:
    """What is wrong, with the field's name."""
    try:
        yield
    except _Bad as fault:
        raise InvalidParameter(f"{field}: {fault}", field=field) from fault


def _no_json() -> InvalidParameter:
    return InvalidParameter("The body is not valid JSON.", field="body")
