"""A JSON body taken apart: the same picture however it was written, in pieces of any length."""

import base64
import json
import random
from pathlib import Path

import pytest

from models.errors import FileTooLarge, InvalidParameter
from routers import embedded
from routers.embedded import take_apart

PICTURE = random.Random(7).randbytes(10_001)  # noqa: S311  # not for secrets
TEXT = base64.b64encode(PICTURE).decode()


def taken_apart(folder: Path, body: bytes, limit: int = 10**6) -> tuple[dict[str, object], bytes]:
    spool, target = folder / "body.json", folder / "decoded"
    spool.write_bytes(body)
    made = take_apart(spool, target, max_file_bytes=limit)
    return made.parameters, made.pictures[0].read_bytes() if made.pictures else b""


@pytest.mark.parametrize("piece_bytes", [7, 8, 100, 1 << 22])
@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"data:image/png;base64,{TEXT}",
        "\n".join(TEXT[at : at + 76] for at in range(0, len(TEXT), 76)),
        f"  {TEXT}\t\r\n",
    ],
)
@pytest.mark.parametrize("slashes", ["/", "\\/", "\\u002f"])
def test_every_way_of_writing_it_gives_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, piece_bytes: int, slashes: str
) -> None:
    monkeypatch.setattr(embedded, "_PIECE_BYTES", piece_bytes)
    body = json.dumps({"models": "local-isnet", "image_base64": text, "deadline_s": 5})
    parameters, picture = taken_apart(tmp_path, body.replace("/", slashes).encode())
    assert picture == PICTURE
    assert parameters == {"models": "local-isnet", "deadline_s": 5}


@pytest.mark.parametrize("piece_bytes", [8, 1 << 22])
@pytest.mark.parametrize("text", ["%%%", "QUI", "QUI=QUI=", "QQ==QUJD", "QUJD=", "QUJ\u00e4"])
def test_what_is_not_base64_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, piece_bytes: int
) -> None:
    monkeypatch.setattr(embedded, "_PIECE_BYTES", piece_bytes)
    with pytest.raises(InvalidParameter, match="is not base64"):
        taken_apart(tmp_path, json.dumps({"image_base64": text}).encode())


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"image_base64": "QUJD', "not valid JSON"),
        (b'{"image_base64": "QU\nJD"}', "not valid JSON"),
        (b'{"image_base64": "QUJD", }', "not valid JSON"),
        (b'["image_base64"]', "must be an object"),
        (b'{"image_base64": 7}', "must be a string"),
        (b'{"image_base64": "QUJD", "image_base64": "QUJD"}', "more than once"),
        (b'{"models": "' + b"x" * (1 << 20) + b'"}', "too long"),
    ],
)
def test_what_is_no_document_is_said(tmp_path: Path, body: bytes, word: str) -> None:
    with pytest.raises(InvalidParameter, match=word):
        taken_apart(tmp_path, body)


def test_no_picture_and_one_inside_something_else_are_left_to_the_parameters(
    tmp_path: Path,
) -> None:
    assert taken_apart(tmp_path, b'{"image_base64": null, "a": 1}') == ({"a": 1}, b"")
    inner = b'{"a": {"image_base64": "QUJD"}}'
    assert taken_apart(tmp_path, inner) == ({"a": {"image_base64": ""}}, b"")


def test_a_picture_above_the_limit_is_not_written_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_PIECE_BYTES", 400)
    with pytest.raises(FileTooLarge):
        taken_apart(tmp_path, json.dumps({"image_base64": TEXT}).encode(), limit=1000)
    assert (tmp_path / "decoded").stat().st_size < 1400
