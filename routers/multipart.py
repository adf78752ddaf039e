"""A multipart body in pieces: its picture goes straight to disk, its fields are few and short."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from models.errors import FileTooLarge, InvalidParameter

FILE_FIELDS = ("image", "file", "image_file")
MAX_FIELD_BYTES = 16 * 1024

_MIB = 1024 * 1024
_MAX_PARTS = 40
_MOST_NAME_TOLD = 64


@dataclass(slots=True)
class Body:
    """What a request's body held: parameters, and any pictures already on disk.

    `beside` are files that are not the picture itself, by the names of their parts.
    """

    parameters: dict[str, Any]
    pictures: list[Path]
    beside: dict[str, Path] = field(default_factory=dict)


class FormReader:
    """Takes a multipart body in pieces; file parts go straight to `folder`. Blocks on the disk.

    Parts called one of `file_fields` are the picture, at most `max_file_bytes` together;
    `beside_fields` are further parts that go to files, each with its own limit in bytes.
    """

    def __init__(
        self,
        boundary: bytes,
        folder: Path,
        *,
        max_file_bytes: int,
        file_fields: Sequence[str] = FILE_FIELDS,
        beside_fields: Mapping[str, int] | None = None,
    ) -> None:
        self._folder = folder
        self._file_fields = file_fields
        self._limits = {"": max_file_bytes, **(beside_fields or {})}
        self._body = Body({}, [])
        self._parts = 0
        self._begun = self._ended = False
        self._header_name = b""
        self._disposition = b""
        self._field = ""
        self._text = bytearray()
        self._file: IO[bytes] | None = None
        self._sort = ""
        self._file_bytes = Counter[str]()
        self._parser = _parser(boundary, self)

    def feed(self, chunk: bytes) -> None:
        # left to the parser, a blank line at the start hides whatever else its piece begins with
        piece = chunk if self._begun else chunk.lstrip(b"\r\n")
        self._begun = self._begun or bool(piece)
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise _malformed() from error

    def finish(self) -> Body:
        if not self._ended:
            raise _malformed()
        return self._body

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvalidParameter(f"A form has at most {_MAX_PARTS} parts.", field="body")
        self._disposition = b""
        self._header_name = b""
        self._text.clear()

    def on_header_field(self, piece: bytes, start: int, end: int) -> None:
        self._header_name += piece[start:end]

    def on_header_value(self, piece: bytes, start: int, end: int) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition += piece[start:end]

    def on_header_end(self) -> None:
        self._header_name = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._field = options.get(b"name", b"").decode(errors="replace")
        if self._field and self._field in (*self._file_fields, *self._limits):
            self._open_file(self._folder / f"part{self._parts}")
        elif b"filename" in options:
            names = self._file_fields[:1] or sorted(filter(None, self._limits))
            raise InvalidParameter(
                f"A file's part is called `{'` or `'.join(names)}`.",
                field=self._field[:_MOST_NAME_TOLD],  # to the caller; the log gets none of it
            )

    def _open_file(self, path: Path) -> None:
        self._file = path.open("wb")
        self._sort = "" if self._field in self._file_fields else self._field
        if not self._sort:
            self._body.pictures.append(path)
        elif self._body.beside.setdefault(self._field, path) != path:
            raise InvalidParameter(f"{self._field}: stands there twice.", field=self._field)

    def on_part_data(self, piece: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file_bytes[self._sort] += end - start
            if self._file_bytes[self._sort] > self._limits[self._sort]:
                raise too_large(self._limits[self._sort], self._file_bytes[self._sort])
            self._file.write(memoryview(piece)[start:end])
            return
        self._text += piece[start:end]
        if len(self._text) > MAX_FIELD_BYTES:
            raise InvalidParameter(f"{self._field}: is too long.", field=self._field)

    def on_part_end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            return
        try:
            self._body.parameters[self._field] = self._text.decode()
        except UnicodeDecodeError as error:
            raise InvalidParameter("A form field is not UTF-8.", field="body") from error

    def on_end(self) -> None:
        self._ended = True


def _parser(boundary: bytes, reader: FormReader) -> MultipartParser:
    try:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": reader.on_part_begin,
                "on_header_field": reader.on_header_field,
                "on_header_value": reader.on_header_value,
                "on_header_end": reader.on_header_end,
                "on_headers_finished": reader.on_headers_finished,
                "on_part_data": reader.on_part_data,
                "on_part_end": reader.on_part_end,
                "on_end": reader.on_end,
            },
        )
    except FormParserError as error:
        raise _malformed() from error


def _malformed() -> InvalidParameter:
    return InvalidParameter("The multipart body is malformed or cut short.", field="body")


def too_large(limit: int, actual: int) -> FileTooLarge:
    return FileTooLarge(
        f"The picture is larger than {limit // _MIB} MiB.", limit=limit, actual=actual
    )
