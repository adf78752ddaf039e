"""The PNG writer: every recipe's file decodes to the pixels put in, whatever their shape."""

import io
import itertools
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image

from bench.png import Picture, pictures, save
from utils.png import (
    PLANS,
    Block,
    Compression,
    Filter,
    PngBody,
    Recipe,
    apply_filter,
    cut_blocks,
    encode_as,
    encode_block,
    encode_png,
    encode_rows,
    join_blocks,
    png_head,
    rgba_strips,
    text_behind,
    write_png,
)

Bytes: TypeAlias = NDArray[np.uint8]
Draw: TypeAlias = Callable[[int, int, int], Bytes]
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
RECIPES = {
    f"{compression}-{i}-{recipe.filter.name}": recipe
    for compression, plan in PLANS.items()
    for i, recipe in enumerate(plan.recipes)
}


def noise(height: int, width: int, channels: int) -> Bytes:
    random = np.random.default_rng(height * width * channels)
    return random.integers(0, 256, (height, width, channels), dtype=np.uint8)


def gradient(height: int, width: int, channels: int) -> Bytes:
    y, x, c = np.ogrid[:height, :width, :channels]
    return np.asarray((2 * x + 3 * y + 50 * c) % 256, np.uint8)


def flat(height: int, width: int, channels: int) -> Bytes:
    return np.full((height, width, channels), 200, np.uint8)


def island(height: int, width: int, channels: int) -> Bytes:
    """Noise in the middle, blank round it, as a cut-out is."""
    pixels = np.zeros((height, width, channels), np.uint8)
    middle = (slice(height // 3, 2 * height // 3), slice(width // 3, 2 * width // 3))
    pixels[middle] = noise(height, width, channels)[middle]
    return pixels


def strips_of(pixels: Bytes, *, heights: Iterable[int]) -> Iterator[Bytes]:
    top = 0
    for height in itertools.cycle(heights):
        if top >= len(pixels):
            return
        yield pixels[top : top + height]
        top += height


def write(
    pixels: Bytes,
    *,
    heights: Iterable[int] = (64,),
    compression: Compression = Compression.FAST,
    dpi: float | None = None,
) -> bytes:
    height, width, channels = pixels.shape
    strips = strips_of(pixels, heights=heights)
    return b"".join(
        write_png(
            strips,
            width=width,
            height=height,
            channels=channels,
            dpi=dpi,
            compression=compression,
        )
    )


def decode_with_pillow(file: bytes) -> Bytes:
    image = Image.open(io.BytesIO(file))
    pixels = np.asarray(image)
    assert image.mode == MODES[1 if pixels.ndim == 2 else pixels.shape[2]]
    return pixels if pixels.ndim == 3 else pixels[..., None]


def walk_chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    assert file[:8] == bytes([137, 80, 78, 71, 13, 10, 26, 10])
    place = 8
    while place < len(file):
        length, kind = struct.unpack_from(">I4s", file, place)
        payload = file[place + 8 : place + 8 + length]
        (crc,) = struct.unpack_from(">I", file, place + 8 + length)
        assert crc == zlib.crc32(kind + payload)
        yield kind, payload
        place += 12 + length
    assert place == len(file)


def unfilter(lines: bytes, *, above: list[int], channels: int) -> list[list[int]]:
    """The specification's reconstruction, a byte at a time."""
    size = len(above) + 1
    decoded = [above]
    for start in range(0, len(lines), size):
        kind, residual = lines[start], lines[start + 1 : start + size]
        row: list[int] = []
        for i, byte in enumerate(residual):
            left = row[i - channels] if i >= channels else 0
            corner = decoded[-1][i - channels] if i >= channels else 0
            row.append((byte + predict(kind, left, decoded[-1][i], corner)) % 256)
        decoded.append(row)
    return decoded[1:]


def predict(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 4:
        estimate = left + up - corner
        return min((left, up, corner), key=lambda value: abs(estimate - value))
    return {0: 0, 1: left, 2: up}[kind]


def peak_memory(*, height: int) -> int:
    strips = (noise(16, 1000, 4) for _ in range(height // 16))
    tracemalloc.start()
    for _ in write_png(strips, width=1000, height=height, channels=4):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@dataclass(frozen=True, slots=True)
class Weighed:
    """A real picture and the bytes Pillow writes for it by default."""

    pixels: Bytes
    max_ratio: float
    pillow_bytes: int


@pytest.fixture(scope="module", params=pictures(), ids=lambda picture: picture.name)
def weighed(request: pytest.FixtureRequest) -> Weighed:
    picture: Picture = request.param
    pixels = picture.draw()
    return Weighed(pixels, picture.max_ratio, len(save(Image.fromarray(pixels))))


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("heights", [(1,), (2,), (7,), (64,), (1, 13, 0, 50), (1000,)], ids=str)
@pytest.mark.parametrize("draw", [noise, gradient, flat, island])
@pytest.mark.parametrize("channels", MODES)
def test_pillow_reads_back_every_pixel(
    draw: Draw, channels: int, heights: tuple[int, ...], compression: Compression
) -> None:
    pixels = draw(157, 83, channels)
    file = write(pixels, heights=heights, compression=compression)
    assert np.array_equal(decode_with_pillow(file), pixels)


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 2), (3, 1), (1, 2)], ids=str)
def test_the_smallest_pictures_are_read_back(size: tuple[int, int], channels: int) -> None:
    for draw in (noise, flat):
        pixels = draw(*size, channels)
        assert np.array_equal(decode_with_pillow(encode_png(pixels)), pixels)


@pytest.mark.parametrize("channels", MODES)
def test_rows_far_wider_than_a_sample_are_read_back(channels: int) -> None:
    pixels = np.vstack((noise(9, 40_000, channels), gradient(40, 40_000, channels)))
    assert np.array_equal(decode_with_pillow(encode_png(pixels)), pixels)


def test_real_pictures_are_read_back_at_about_pillows_size(weighed: Weighed) -> None:
    fast = encode_png(weighed.pixels)
    assert np.array_equal(decode_with_pillow(fast), weighed.pixels)
    assert len(fast) <= weighed.max_ratio * weighed.pillow_bytes


def test_small_is_no_larger_than_pillows_by_more_than_a_twentieth(weighed: Weighed) -> None:
    small = encode_png(weighed.pixels, compression=Compression.SMALL)
    assert np.array_equal(decode_with_pillow(small), weighed.pixels)
    assert len(small) <= 1.05 * weighed.pillow_bytes


@pytest.mark.parametrize("heights", [(1,), (97,), (1, 500, 2)], ids=str)
def test_the_file_does_not_depend_on_how_the_rows_were_cut(heights: tuple[int, ...]) -> None:
    pixels = np.vstack((gradient(400, 900, 4), noise(300, 900, 4), island(400, 900, 4)))
    assert write(pixels, heights=heights) == encode_png(pixels)


def test_blocks_may_be_encoded_in_any_order_on_any_thread() -> None:
    pixels = np.vstack((gradient(400, 900, 4), noise(300, 900, 4), island(400, 900, 4)))
    blocks = list(cut_blocks([pixels.reshape(1100, 3600)], channels=4))
    assert len(blocks) > 3
    with ThreadPoolExecutor(2) as pool:
        encoded = list(pool.map(encode_block, reversed(blocks)))[::-1]
    assert encode_png(pixels).endswith(b"".join(join_blocks(encoded)))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_can_be_undone(recipe: Recipe) -> None:
    for draw in (noise, gradient, flat, island):
        pixels = draw(60, 50, 4)
        block = Block(pixels[1:].reshape(59, 200), pixels[0].ravel(), 4)
        encoded = encode_as(block, recipe=recipe)
        lines = zlib.decompressobj(-15).decompress(encoded.deflated)
        assert len(lines) == encoded.length
        assert zlib.adler32(lines) == encoded.adler
        decoded = unfilter(lines, above=block.above.tolist(), channels=4)
        assert decoded == block.rows.tolist()


@pytest.mark.parametrize("kind", Filter)
@pytest.mark.parametrize("width", [1, 2, 5, 210_000])
def test_every_filter_can_be_undone_at_any_width(width: int, kind: Filter) -> None:
    for draw in (noise, island):
        pixels = draw(3, width, 1)[..., 0]
        pixels[:, width // 2 : width // 2 + 2] = (draw(3, 2, 1)[..., 0])[:, : width - width // 2]
        lines = apply_filter(Block(pixels[1:], pixels[0], 1), kind=kind)
        decoded = unfilter(lines.tobytes(), above=pixels[0].tolist(), channels=1)
        assert decoded == pixels[1:].tolist()


@pytest.mark.parametrize("corner", [0, 1, 2, 3, 64, 127, 128, 129, 200, 253, 254, 255])
def test_paeth_is_the_specifications_for_every_left_and_up(corner: int) -> None:
    left, up = (v.ravel() for v in np.mgrid[:256, :256])
    pixels = np.zeros((2, 2 * 65536), np.uint8)
    pixels[0, ::2], pixels[0, 1::2], pixels[1, ::2] = corner, up, left
    lines = apply_filter(Block(pixels[1:], pixels[0], 1), kind=Filter.PAETH)
    candidates = np.stack((left, up, np.full_like(up, corner)))
    nearest = np.abs(left + up - corner - candidates).argmin(axis=0)
    expected = np.take_along_axis(candidates, nearest[None], axis=0)[0]
    assert np.array_equal(lines[0, 2::2], (-expected % 256).astype(np.uint8))


@pytest.mark.parametrize("channels", MODES)
def test_chunks_and_checksums_are_the_specifications(channels: int) -> None:
    pixels = island(800, 700, channels)
    chunks = list(walk_chunks(write(pixels, dpi=300)))
    kinds = [kind for kind, _ in chunks]
    data = [payload for kind, payload in chunks if kind == b"IDAT"]
    assert kinds == [b"IHDR", b"sRGB", b"pHYs", *[b"IDAT"] * len(data), b"IEND"]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    assert chunks[0][1] == struct.pack(">IIBBBBB", 700, 800, 8, colour_type, 0, 0, 0)
    assert chunks[1][1] == b"\0"
    assert chunks[2][1] == struct.pack(">IIB", 11811, 11811, 1)
    assert chunks[-1][1] == b""
    stream = zlib.decompressobj()
    lines = stream.decompress(b"".join(data))
    assert stream.eof
    assert stream.unused_data == b""
    assert len(lines) == 800 * (700 * channels + 1)


def test_another_reader_gets_the_same_pixels() -> None:
    pixels = np.vstack((noise(20, 30, 4), gradient(20, 30, 4), flat(20, 30, 4)))
    data = (payload for kind, payload in walk_chunks(encode_png(pixels)) if kind == b"IDAT")
    lines = zlib.decompress(b"".join(data))
    assert unfilter(lines, above=[0] * 120, channels=4) == pixels.reshape(60, 120).tolist()


def test_without_dpi_no_density_is_claimed() -> None:
    assert b"pHYs" not in dict(walk_chunks(encode_png(flat(3, 3, 3))))


def test_pillow_reads_the_density() -> None:
    image = Image.open(io.BytesIO(encode_png(flat(3, 3, 3), dpi=300)))
    assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    assert image.info["srgb"] == 0


def test_the_head_is_written_before_the_first_strip_is_read() -> None:
    def unready() -> Iterator[Bytes]:
        raise AssertionError
        yield flat(1, 1, 1)

    pieces = write_png(unready(), width=1, height=1, channels=1)
    assert next(pieces).startswith(b"\x89PNG")
    with pytest.raises(AssertionError):
        next(pieces)


def test_memory_does_not_grow_with_the_height() -> None:
    low, high = peak_memory(height=1600), peak_memory(height=12_800)
    assert high < 1.1 * low
    assert high < 8 << 20


def test_strips_may_be_views_of_any_layout() -> None:
    pixels = noise(40, 60, 3)
    upside_down = encode_png(pixels[::-1, ::2])
    assert np.array_equal(decode_with_pillow(upside_down), pixels[::-1, ::2])


def test_a_grey_picture_needs_no_third_axis() -> None:
    pixels = gradient(40, 60, 1)
    assert encode_png(pixels[..., 0]) == encode_png(pixels)


@pytest.mark.parametrize(
    "strips",
    [
        pytest.param([], id="no strips"),
        pytest.param([noise(9, 5, 3)], id="a row too few"),
        pytest.param([noise(9, 5, 3), noise(2, 5, 3)], id="a row too many"),
        pytest.param([noise(10, 4, 3)], id="too narrow"),
        pytest.param([noise(10, 6, 3)], id="too wide"),
        pytest.param([noise(10, 5, 4)], id="a channel too many"),
        pytest.param([noise(10, 5, 3)[..., 0]], id="no channel axis"),
        pytest.param([noise(10, 5, 3).astype(np.uint16)], id="16 bits"),
        pytest.param([noise(5, 5, 3), noise(5, 5, 3).astype(np.int8)], id="signed later"),
    ],
)
def test_strips_that_do_not_fit_the_header_are_refused(strips: list[Bytes]) -> None:
    with pytest.raises(ValueError, match="strip"):
        list(write_png(strips, width=5, height=10, channels=3))


@pytest.mark.parametrize(
    ("width", "height", "channels", "dpi"),
    [
        (0, 1, 3, None),
        (1, 0, 3, None),
        (1 << 31, 1, 3, None),
        (1, 1, 0, None),
        (1, 1, 5, None),
        (1, 1, 3, 0.0),
        (1, 1, 3, -300.0),
        (1, 1, 3, float("nan")),
        (1, 1, 3, float("inf")),
    ],
)
def test_impossible_headers_are_refused_at_once(
    width: int, height: int, channels: int, dpi: float | None
) -> None:
    with pytest.raises(ValueError, match=r"PNG|channels|dpi"):
        write_png([], width=width, height=height, channels=channels, dpi=dpi)


@pytest.mark.parametrize("shape", [(5,), (0, 5, 3), (5, 5, 5), (2, 5, 5, 3)], ids=str)
def test_arrays_that_are_no_picture_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pixels|PNG|channels"):
        encode_png(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_rgba_strips_join_colour_and_alpha(rows: int) -> None:
    pixels = noise(100, 30, 4)
    strips = list(rgba_strips(pixels[..., :3], pixels[..., 3], rows=rows))
    assert {len(strip) for strip in strips[:-1]} <= {rows}
    assert np.array_equal(np.concatenate(strips), pixels)


@pytest.mark.parametrize(
    ("rgb", "alpha", "rows"),
    [
        pytest.param(noise(4, 4, 3), flat(4, 5, 1)[..., 0], 4, id="other width"),
        pytest.param(noise(4, 4, 4), flat(4, 4, 1)[..., 0], 4, id="four channels"),
        pytest.param(noise(4, 4, 3), np.ones((4, 4)), 4, id="float alpha"),
        pytest.param(noise(4, 4, 3), flat(4, 4, 1)[..., 0], 0, id="no rows a strip"),
    ],
)
def test_colour_and_alpha_that_do_not_match_are_refused(
    rgb: Bytes, alpha: Bytes, rows: int
) -> None:
    with pytest.raises(ValueError, match=r"match|rows"):
        rgba_strips(rgb, alpha, rows=rows)


@pytest.mark.parametrize("text", [{}, {"edge_report": "{}", "another": "x" * 900}])
def test_text_behind_the_pixels_is_read_by_everybody(tmp_path: Path, text: dict[str, str]) -> None:
    pixels = noise(20, 30, 4)
    body = PngBody()
    blocks = encode_rows(
        pixels.reshape(20, -1), channels=4, above=None, compression=Compression.FAST
    )
    path = tmp_path / "with_text.png"
    head = png_head(width=30, height=20, channels=4)
    path.write_bytes(head + b"".join(body.chunk(each) for each in blocks) + body.end(text=text))
    assert np.array_equal(pyvips.Image.new_from_file(str(path)).numpy(), pixels)
    with Image.open(path) as picture:
        picture.load()
        assert {word: picture.info[word] for word in text} == text
    assert {word: text_behind(path, word) for word in text} == text
    assert text_behind(path, "report") is None
