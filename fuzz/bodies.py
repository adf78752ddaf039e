"""Any body: multipart in pieces, and JSON, forms and base64 taken apart on the disk.

However a body is cut, the same comes of it; and what is taken out of a document is what a reader
that holds all of it in memory would take out.
"""

import base64
import binascii
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch
from urllib.parse import parse_qsl

from fuzz.target import Choices, Finding, Target
from models.errors import FileTooLarge, InvalidParameter
from routers import embedded
from routers.embedded import BASE64_FIELD, decode_text, take_apart, take_form_apart, take_masks
from routers.multipart import Body, FormReader

Told: TypeAlias = dict[str, Any]

_LIMIT = 600
_BOUNDARY = b"cut-here"
_REFUSALS = (FileTooLarge, InvalidParameter)


def run(data: bytes) -> None:
    choices = Choices(data)
    way = choices.number(0, len(_WAYS) - 1)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_memory()))
    try:
        _WAYS[way](choices, folder)
    finally:
        shutil.rmtree(folder)


def _memory() -> Path | None:
    """Where files cost no disk."""
    shared = Path("/dev/shm")  # noqa: S108  # a folder of its own is made in it
    return shared if shared.is_dir() else None


# --- multipart


def _multipart(choices: Choices, folder: Path) -> None:
    native = choices.flag()
    sizes = [choices.number(1, 40) for _ in range(choices.number(1, 12))]
    body = choices.rest()
    whole = _outcome(lambda: _fed([body], folder / "whole", native=native))
    cut = _outcome(lambda: _fed(list(_cut(body, sizes)), folder / "cut", native=native))
    single = [body[at : at + 1] for at in range(len(body))]
    bytewise = _outcome(lambda: _fed(single, folder / "bytewise", native=native))
    if not whole == cut == bytewise:
        raise Finding(f"another cut, another body: {whole} {cut} {bytewise}")


def _cut(body: bytes, sizes: list[int]) -> Iterator[bytes]:
    at, turn = 0, 0
    while at < len(body):
        size = sizes[turn % len(sizes)]
        yield body[at : at + size]
        at, turn = at + size, turn + 1


def _fed(pieces: list[bytes], folder: Path, *, native: bool) -> Told:
    folder.mkdir()
    if native:
        reader = FormReader(_BOUNDARY, folder, max_file_bytes=_LIMIT)
    else:
        beside = {"keep": _LIMIT // 2, "erase": _LIMIT // 2}
        reader = FormReader(
            _BOUNDARY, folder, max_file_bytes=_LIMIT, file_fields=(), beside_fields=beside
        )
    try:
        for piece in pieces:
            reader.feed(piece)
        return _told(reader.finish())
    finally:
        reader.close()


# --- documents


def _json(choices: Choices, folder: Path) -> None:
    with _pieces_of(choices.number(12, 60)):
        text = choices.rest()
        spool = _spooled(folder, text)
        got = _outcome(lambda: _told(take_apart(spool, folder / "decoded", max_file_bytes=_LIMIT)))
    if isinstance(got, dict) and got["pictures"]:
        _compare(got, _json_in_memory(text))


def _json_in_memory(text: bytes) -> Told:
    document = json.loads(text.decode("utf-8-sig"))
    encoded = document.pop(BASE64_FIELD, None)
    pictures = [] if encoded is None else [_decoded(encoded)]
    return {"parameters": document, "pictures": pictures, "beside": {}}


def _form(choices: Choices, folder: Path) -> None:
    with _pieces_of(choices.number(12, 60)):
        text = choices.rest()
        spool = _spooled(folder, text)
        got = _outcome(
            lambda: _told(
                take_form_apart(spool, folder / "decoded", max_file_bytes=_LIMIT, field="picture")
            )
        )
    if isinstance(got, dict) and got["pictures"]:
        pairs = parse_qsl(text.replace(b"+", b"%2B").decode(), keep_blank_values=True)
        encoded = next(value for name, value in pairs if name == "picture")
        _compare(got["pictures"], [_decoded(encoded)])


def _alone(choices: Choices, folder: Path) -> None:
    pieces = _pieces_of(choices.number(12, 60))
    text = choices.rest()
    spool, target = _spooled(folder, text), folder / "decoded"

    def decode() -> Told:
        decode_text(spool, target, max_file_bytes=_LIMIT, field="picture")
        return {"picture": target.read_bytes()}

    with pieces:
        got = _outcome(decode)
    if isinstance(got, dict):
        _compare(got["picture"], _decoded(text.decode("ascii")))


def _masks(choices: Choices, folder: Path) -> None:
    spool = _spooled(folder, choices.rest())
    names = {"keep", "erase"}
    _outcome(lambda: _told(take_masks(spool, folder, names, _LIMIT)))


def _pieces_of(count: int) -> AbstractContextManager[object]:
    """A few bytes are taken at a time where the service takes megabytes."""
    return patch.object(embedded, "_PIECE_BYTES", count)


def _spooled(folder: Path, text: bytes) -> Path:
    spool = folder / "body"
    spool.write_bytes(text)
    return spool


def _decoded(encoded: str) -> bytes:
    """Base64 as one would decode it with all of it in memory; blanks count for nothing."""
    if encoded.lower().startswith(("data:", "data%3a")):
        encoded = encoded.replace("%2C", ",").replace("%2c", ",").partition(",")[2]
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Finding(f"taken for base64, which it is not: {error}") from error


def _compare(got: object, wanted: object) -> None:
    # NaN is what JSON may hold and is unequal to itself
    if repr(got) != repr(wanted):
        raise Finding(f"taken apart {got!r}, in memory {wanted!r}")


# --- outcomes


def _outcome(work: Callable[[], Told]) -> Told | str:
    """What came of it; a documented refusal by its kind, field and words."""
    try:
        return work()
    except _REFUSALS as refusal:
        return f"{type(refusal).__name__} {refusal.field}"


def _told(body: Body) -> Told:
    return {
        "parameters": body.parameters,
        "pictures": [path.read_bytes() for path in body.pictures],
        "beside": {name: path.read_bytes() for name, path in sorted(body.beside.items())},
    }


_WAYS = (_multipart, _json, _form, _alone, _masks)


def seeds() -> Iterator[bytes]:
    """Bodies as clients send them."""
    for native in (0, 1):
        for parts in _FORMS:
            yield bytes((0, native, 2, 7, 1, 30)) + _form_body(parts)
    encoded = base64.b64encode(bytes(range(60))).decode()
    yield b"\x01\x10" + json.dumps({"image_base64": encoded, "models": ["local-isnet"]}).encode()
    yield b"\x01\x10" + json.dumps({"image_base64": f"data:image/png;base64,{encoded}"}).encode()
    yield b'\x01\x10{"a": {"b": [1, 2.5, null, true]}, "image_base64" : "QUJD\\u0052\\n"}'
    yield b"\x01\x10{}"
    yield b"\x02\x10size=auto&picture=QUJD%2BQUJ&crop=true"
    yield b"\x02\x10picture=data%3Aimage%2Fpng%3Bbase64%2CQUJDRA%3D%3D"
    yield b"\x03\x10data:image/png;base64," + encoded.encode()
    yield b"\x03\x10QUJD\r\nQUJD"
    yield b"\x04" + json.dumps({"keep": encoded, "erase": encoded, "feather": 2}).encode()


_FORMS: tuple[tuple[tuple[str, str | None, bytes], ...], ...] = (
    (("image", "a.png", bytes(range(256))), ("models", None, b"local-isnet")),
    (("keep", "k.png", b"\r\n--cut-her\r\n"), ("erase", None, b"12")),
    (("name", None, "größe".encode()),),
    (),
)


def _form_body(parts: tuple[tuple[str, str | None, bytes], ...]) -> bytes:
    body = b""
    for name, file, held in parts:
        called = f'; filename="{file}"' if file else ""
        head = f'Content-Disposition: form-data; name="{name}"{called}\r\n\r\n'
        body += b"--" + _BOUNDARY + b"\r\n" + head.encode() + held + b"\r\n"
    return body + b"--" + _BOUNDARY + b"--\r\n"


TARGET = Target(run, seeds, longest=2048)
