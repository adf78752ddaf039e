"""Every fuzz target over its seeds and some changes of them, and what fuzzing has found before.

The engine is not needed for this: docs/FUZZING.md says how it is run for hours.
"""

import importlib
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

from fuzz.__main__ import TARGETS
from fuzz.decoding import TARGET as DECODING
from fuzz.png_chunks import framed, join, mutate_png, split
from fuzz.png_writing import check
from fuzz.target import Choices, Finding, Target
from models.errors import InvalidParameter
from models.schemas import SessionParameters, SizeParameters, UpscaleParameters
from routers.embedded import take_apart
from routers.multipart import FormReader
from routers.parameters import parse
from services.print_size import free_size_for
from tests.utils.specimens import png, read, write
from utils.containers import read_header
from utils.pictures import CorruptPicture
from utils.png import encode_png

CHANGES = 8


def changed(data: bytes, longest: int, chance: random.Random) -> bytes:
    """A byte changed, a part left out or doubled."""
    held = bytearray(data or b"\0")
    at = chance.randrange(len(held))
    part = held[at : at + chance.randrange(1, 40)]
    match chance.randrange(3):
        case 0:
            held[at] = chance.randrange(256)
        case 1:
            del held[at : at + len(part)]
        case _:
            held[at:at] = part
    return bytes(held[:longest])


@pytest.mark.parametrize("name", sorted(TARGETS))
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about files that are damaged
def test_a_target_finds_nothing_in_its_seeds_and_their_changes(name: str) -> None:
    target: Target = importlib.import_module(f"fuzz.{name}").TARGET
    chance = random.Random(11)  # noqa: S311  # repeatable, not secret
    count = 0
    for seed in target.seeds():
        target.run(seed)
        data = seed
        for _ in range(CHANGES):
            data = _next(target, data, chance)
            target.run(data)
            count += 1
    assert count >= 20


def _next(target: Target, data: bytes, chance: random.Random) -> bytes:
    if target.mutate is None:
        return changed(data, target.longest, chance)
    return target.mutate(
        data,
        target.longest,
        chance.randrange(1 << 32),
        lambda part, longest: changed(part, longest, chance),
    )


def test_a_png_stays_one_under_its_mutations() -> None:
    """Else no mutation would reach what lies behind the checksums."""
    content = png((8, 4, 8, 2), (b"\0" + bytes(24)) * 4, (b"tEXt", b"a\0b"))
    assert join(split(content)) == content
    intact = 0
    chance = random.Random(11)  # noqa: S311  # repeatable, not secret
    for seed in range(200):
        made = mutate_png(content, 4096, seed, lambda part, most: changed(part, most, chance))
        intact += bool(split(made)) and join(split(made)) == made
    assert intact > 150


@pytest.mark.parametrize(
    ("fault", "damage"),
    [
        ("checksum", lambda made: made[:-1] + b"\0"),
        ("leaves the file", lambda made: made[:-6]),
        ("order", lambda made: made + framed(b"IDAT", b"")),
        ("unknown chunk", lambda made: made[:33] + framed(b"abCD", b"") + made[33:]),
        ("density", lambda made: made[:46] + framed(b"pHYs", bytes(9)) + made[46:]),
    ],
)
def test_the_check_of_written_files_sees_each_fault(fault: str, damage: object) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    made = encode_png(pixels)
    check(made, pixels, dpi=None, text={})
    with pytest.raises(Finding, match=fault):
        check(damage(made), pixels, dpi=None, text={})  # type: ignore[operator]
    with pytest.raises(Finding, match="other pixels"):
        check(made, pixels + 1, dpi=None, text={})


def test_choices_stay_in_their_range_and_end_with_the_least() -> None:
    choices = Choices(b"\xff\xff\x01\x00")
    assert 3 <= choices.number(3, 9) <= 9
    assert choices.take(1) == b"\xff"
    assert choices.number(0, 70_000) == 256
    assert (choices.number(5, 9), choices.flag(), choices.take(3)) == (5, False, b"")


# --- found by fuzzing


PALETTE = (b"PLTE", bytes(range(24)))
ROWS = (b"\0" + bytes(range(8))) * 4


@pytest.mark.parametrize(
    "chunks",
    [
        [PALETTE, (b"tRNS", b"\0\x80"), (b"tRNS", b"")],
        [(b"tRNS", b"\0\x80"), PALETTE],
        [PALETTE, PALETTE],
    ],
)
def test_a_png_whose_chunks_are_out_of_order_is_refused(
    tmp_path: Path, chunks: list[tuple[bytes, bytes]]
) -> None:
    """Pillow took the last transparency, libpng the first: a shot and a print saw two pictures."""
    path = write(tmp_path / "x", png((8, 4, 8, 3), ROWS, *chunks))
    with pytest.raises(CorruptPicture, match="out of order"):
        read_header(path)


def test_pixels_of_a_png_that_lie_apart_are_refused(tmp_path: Path) -> None:
    head, pixels, end = split(png((8, 4, 8, 0), ROWS))
    parts = [(b"IDAT", pixels[1][:5]), (b"tEXt", b"a\0b"), (b"IDAT", pixels[1][5:])]
    path = write(tmp_path / "x", join([head, *parts, end]))
    with pytest.raises(CorruptPicture, match="out of order"):
        read_header(path)
    parts = [parts[0], parts[2]]
    read(write(tmp_path / "x", join([head, *parts, end])))


@pytest.mark.parametrize("alphas", [0, 9, 44])
def test_a_transparency_that_is_none_is_passed_over_by_both_readers(
    tmp_path: Path, alphas: int
) -> None:
    """Longer than its palette: libpng passes over it, Pillow took it."""
    content = png((8, 4, 8, 3), ROWS, PALETTE, (b"tRNS", bytes(alphas)))
    DECODING.run(content)
    _, alpha = read(write(tmp_path / "x", content))
    assert alpha is None
    right = png((8, 4, 8, 3), ROWS, PALETTE, (b"tRNS", bytes(8)))
    _, alpha = read(write(tmp_path / "x", right))
    assert alpha is not None
    assert not alpha.any()


@pytest.mark.parametrize(
    ("depth", "colour_type", "row", "key"),
    [
        (2, 0, b"\0\x1b", b"\0\x80"),
        (4, 0, b"\0\x01\x23", b"\xff\xf2"),
        (8, 0, b"\0abcd", b"\x01b"),
        (8, 2, b"\0" + bytes(12), b"\xff\0" * 3),
    ],
)
def test_only_as_many_bits_of_a_transparent_colour_count_as_a_sample_has(
    tmp_path: Path, depth: int, colour_type: int, row: bytes, key: bytes
) -> None:
    content = png((4, 3, depth, colour_type), row * 3, (b"tRNS", key))
    DECODING.run(content)
    _, alpha = read(write(tmp_path / "x", content))
    assert alpha is not None
    assert not alpha.all()


def test_a_transparent_grey_that_one_bit_cannot_be_is_refused(tmp_path: Path) -> None:
    """Pillow takes anything but 0 for white, libpng the last bit."""
    path = write(tmp_path / "x", png((8, 1, 1, 0), b"\0\x0f", (b"tRNS", b"\0\x02")))
    with pytest.raises(CorruptPicture, match="neither of its two"):
        read_header(path)
    right = png((8, 1, 1, 0), b"\0\x0f", (b"tRNS", b"\0\x01"))
    DECODING.run(right)
    _, alpha = read(write(tmp_path / "x", right))
    assert alpha is not None
    assert alpha[0].tolist() == [255] * 4 + [0] * 4


@pytest.mark.parametrize("scale", [1.7e308, 5e-324, float("inf"), float("nan"), 0])
def test_a_scale_that_no_picture_can_have_is_refused_before_it_is_multiplied(scale: float) -> None:
    """Pixels times 1.7e308 are no number of pixels, and were answered with a 500."""
    with pytest.raises(InvalidParameter, match="scale"):
        parse(UpscaleParameters, {"scale": scale})


@pytest.mark.parametrize("scale", [0.001, 8])
def test_what_a_scale_means_can_be_told(scale: float) -> None:
    size = free_size_for(60_000, 1, SizeParameters(scale=scale, dpi=10_000))
    assert json.loads(size.report().model_dump_json())["source_dpi"] == 10_000 / scale


def test_true_is_no_number() -> None:
    for raw in ({"shots": True}, {"ttl_s": False}, {"max_cost_usd": True}):
        with pytest.raises(InvalidParameter, match="true or false"):
            parse(SessionParameters, raw)
    assert parse(UpscaleParameters, {"trim": True}).trim
    assert parse(SessionParameters, {"shots": 3}).shots == 3


def test_blank_lines_before_a_form_count_alike_however_it_is_cut(tmp_path: Path) -> None:
    """python-multipart passed over anything behind a line break, if it came in one piece."""
    part = b'Content-Disposition: form-data; name="a"\r\n\r\nb\r\n'
    form = b"--cut\r\n" + part + b"--cut--\r\n"
    for at_once in (1, 3, 1000):
        assert _fed(b"\r\n\n" + form, at_once, tmp_path) == {"a": "b"}
        with pytest.raises(InvalidParameter):
            _fed(b"\nwhat is this\r\n" + form, at_once, tmp_path)


def _fed(body: bytes, at_once: int, folder: Path) -> dict[str, object]:
    reader = FormReader(b"cut", folder, max_file_bytes=100)
    for at in range(0, len(body), at_once):
        reader.feed(body[at : at + at_once])
    return reader.finish().parameters


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"image_base64": "data:image/png;base64"}', "is not base64"),
        (b'{"image_base64": "data:image/\xffpng;base64,QUJD"}', "is not base64"),
        (b'{"image_base64": "data:image/\\png;base64,QUJD"}', "not valid JSON"),
        (b'{"image\\u005fbase64": "QUJD"}', "without escapes"),
        ('{"image_base64": "QUJD"}'.encode("utf-16"), "not valid JSON"),
    ],
)
def test_what_stands_before_the_base64_is_looked_at_as_well(
    tmp_path: Path, body: bytes, fault: str
) -> None:
    """It was passed over, and an empty picture came of it."""
    spool = write(tmp_path / "body", body)
    with pytest.raises(InvalidParameter, match=re.escape(fault)):
        take_apart(spool, tmp_path / "decoded", max_file_bytes=100)


def test_a_document_may_begin_with_the_mark_that_some_programs_write(tmp_path: Path) -> None:
    spool = write(tmp_path / "body", '\ufeff{"image_base64": "QUJD", "a": 1}'.encode())
    body = take_apart(spool, tmp_path / "decoded", max_file_bytes=100)
    assert body.parameters == {"a": 1}
    assert body.pictures[0].read_bytes() == b"ABC"
