"""POST /upscale over real HTTP: what comes back, how it flows, and every error it can give."""

import io
import shutil
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms

from models.images import Edge, Pixels
from services.edge_modes import EdgeFinish
from tests import printing
from tests.conftest import DATA, Server, artwork, png_bytes, problem, serving
from tests.utils.specimens import png

ART = DATA / "art" / "aircraft_jarno_vasamaa3.png"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("upscale")) as server:
        yield server


def enlarge(server: Server, picture: bytes, **parameters: object) -> httpx.Response:
    return server.client.post(
        "/upscale",
        files={"image": ("customer.png", picture)},
        data={name: str(value) for name, value in parameters.items()},
    )


def pixels_of(response: httpx.Response) -> Pixels:
    response.raise_for_status()
    formats = {"image/png": "PNG", "image/webp": "WEBP", "image/tiff": "TIFF"}
    with Image.open(
        io.BytesIO(response.content), formats=(formats[response.headers["content-type"]],)
    ) as picture:
        return np.asarray(picture)


def wanted(pixels: Pixels, *, scale: float = 4, edge: Edge = Edge.SOFT) -> Pixels:
    """The same enlargement in one strip."""
    return printing.enlarged(pixels, EdgeFinish(edge), scale=scale)[0]


def art() -> Pixels:
    return np.asarray(Image.open(ART).convert("RGBA"))


def noise(channels: int, *, width: int = 70, height: int = 50) -> Pixels:
    rng = np.random.default_rng(channels)
    shape = (height, width, channels) if channels > 1 else (height, width)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def test_four_times_larger_with_its_alpha(server: Server) -> None:
    response = enlarge(server, ART.read_bytes())
    assert np.array_equal(pixels_of(response), wanted(art()))
    assert response.headers["x-width"] == str(art().shape[1] * 4)
    assert response.headers["x-height"] == str(art().shape[0] * 4)
    assert response.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("edge", Edge)
@pytest.mark.parametrize("scale", [2, 3, 8, 0.5])
def test_scale_and_edge_reach_the_pixels(server: Server, scale: float, edge: Edge) -> None:
    got = pixels_of(enlarge(server, png_bytes(noise(4)), scale=scale, edge=edge))
    assert np.array_equal(got, wanted(noise(4), scale=scale, edge=edge))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_stay_what_they_were(server: Server, channels: int) -> None:
    got = pixels_of(enlarge(server, png_bytes(noise(channels))))
    assert got.shape == (200, 280, channels)[: 2 + (channels > 1)]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 40), (40, 1)])
def test_the_smallest_pictures(server: Server, width: int, height: int) -> None:
    assert pixels_of(enlarge(server, png_bytes(noise(4, width=width, height=height)))).shape == (
        height * 4,
        width * 4,
        4,
    )


@pytest.mark.parametrize("compression", ["fast", "small"])
@pytest.mark.parametrize("form", ["webp", "tiff"])
def test_every_format_has_the_same_pixels(server: Server, form: str, compression: str) -> None:
    asked = {"edge": "print", "compression": compression}
    flat = pixels_of(enlarge(server, ART.read_bytes(), **asked))
    assert np.array_equal(pixels_of(enlarge(server, ART.read_bytes(), format=form, **asked)), flat)


def test_inches_set_the_size_and_the_headers_tell_both_resolutions(server: Server) -> None:
    response = enlarge(server, png_bytes(noise(4)), width_in=0.7, dpi=200)
    assert pixels_of(response).shape == (100, 140, 4)
    assert response.headers["x-source-dpi"] == "100"
    assert response.headers["x-output-dpi"] == "200"
    assert "adds no detail" in response.headers["x-print-note"]
    with Image.open(io.BytesIO(response.content)) as picture:
        assert picture.info["dpi"] == pytest.approx((200, 200), abs=0.01)
        assert picture.info["srgb"] == 0


def test_trim_cuts_to_what_is_visible(server: Server) -> None:
    pixels = np.zeros((60, 80, 4), np.uint8)
    pixels[20:50, 10:40] = (10, 200, 30, 255)
    pixels[5, 5, 3] = 9  # dust
    response = enlarge(server, png_bytes(pixels), trim=1, scale=2)
    assert np.array_equal(pixels_of(response), np.full((60, 60, 4), (10, 200, 30, 255)))


@pytest.mark.parametrize("picture", [np.zeros((9, 9, 4), np.uint8), noise(3)])
def test_trim_leaves_what_has_nothing_to_trim(server: Server, picture: Pixels) -> None:
    height, width, _ = picture.shape
    assert pixels_of(enlarge(server, png_bytes(picture), trim=1)).shape[:2] == (
        4 * height,
        4 * width,
    )


def test_a_colour_profile_is_turned_into_srgb(server: Server) -> None:
    """A profile whose green and red are exchanged: nobody could overlook it."""
    out = io.BytesIO()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    swapped = bytearray(profile)
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    Image.new("RGB", (20, 20), (250, 10, 10)).save(out, "PNG", icc_profile=bytes(swapped))
    red_level, green_level, _ = pixels_of(enlarge(server, out.getvalue()))[40, 40]
    assert green_level > 200
    assert red_level < 100


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_turned_photo_comes_upright(server: Server, options: dict[str, object]) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    out = io.BytesIO()
    Image.open(DATA / "car-1.jpg").save(out, "JPEG", exif=exif, **options)
    with Image.open(io.BytesIO(out.getvalue())) as stored:
        upright = np.rot90(np.asarray(stored), -1)
    assert np.array_equal(
        pixels_of(enlarge(server, out.getvalue(), scale=2)), wanted(upright, scale=2)
    )


@pytest.mark.parametrize("form", ["BMP", "GIF", "WEBP", "TIFF"])
def test_every_format_is_taken(server: Server, form: str) -> None:
    out = io.BytesIO()
    Image.fromarray(noise(3)).save(out, form, lossless=True, compression="tiff_lzw")
    assert pixels_of(enlarge(server, out.getvalue())).shape[:2] == (200, 280)


def test_others_open_the_result(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(enlarge(server, ART.read_bytes()).content)
    seen = pyvips.Image.pngload(str(tmp_path / "x.png"), fail_on="warning")
    held = np.frombuffer(seen.write_to_memory(), np.uint8)
    assert np.array_equal(held.reshape(seen.height, seen.width, 4), wanted(art()))


@pytest.mark.skipif(shutil.which("pngcheck") is None, reason="pngcheck (Debian) is not installed")
@pytest.mark.parametrize("compression", ["fast", "small"])
def test_pngcheck_is_silent(server: Server, compression: str, tmp_path: Path) -> None:
    for channels in (1, 2, 3, 4):
        path = tmp_path / f"{channels}.png"
        response = enlarge(server, png_bytes(noise(channels)), compression=compression)
        path.write_bytes(response.content)
        done = subprocess.run(["pngcheck", "-q", path], capture_output=True, text=True, check=True)
        assert done.stdout + done.stderr == ""


def test_the_picture_may_come_as_json_or_in_the_query(server: Server) -> None:
    import base64

    encoded = base64.b64encode(artwork()).decode()
    body = {"image_base64": encoded, "scale": 2}
    assert pixels_of(server.client.post("/upscale", json=body)).shape == (96, 128, 3)
    response = server.client.post("/upscale?scale=3", files={"image": artwork()})
    assert pixels_of(response).shape == (144, 192, 3)


# --- errors


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"scale": 0}, "scale"),
        ({"scale": "nan"}, "scale"),
        ({"width_in": -1}, "width_in"),
        ({"dpi": 0}, "dpi"),
        ({"edge": "halftoned"}, "edge"),
        ({"format": "jpeg"}, "format"),
        ({"compression": "best"}, "compression"),
        ({"models": "local-isnet"}, "models"),
        ({"scale": 2, "width_in": 1}, "scale"),
    ],
)
def test_a_bad_parameter_is_named(server: Server, asked: dict[str, object], field: str) -> None:
    body = problem(enlarge(server, artwork(), **asked), 400, "invalid_parameter")
    assert body["field"] == field


def test_more_than_eight_times_is_422_with_the_numbers(server: Server) -> None:
    for asked in ({"scale": 9}, {"width_in": 20}):
        body = problem(enlarge(server, artwork(), **asked), 422, "scale_out_of_range")
        assert body["limit"] == 8


def test_a_webp_side_beyond_its_limit_is_422(server: Server) -> None:
    wide = png_bytes(np.zeros((1, 4100, 4), np.uint8))
    body = problem(enlarge(server, wide, format="webp"), 422, "side_too_long")
    assert (body["limit"], body["actual"]) == (16383, 16400)
    assert pixels_of(enlarge(server, wide)).shape == (4, 16400, 4)


def test_no_picture_no_format_and_a_cut_file_are_refused(server: Server) -> None:
    problem(server.client.post("/upscale"), 400, "missing_source")
    problem(enlarge(server, b""), 400, "empty_file")
    problem(enlarge(server, b"hello, world" * 9), 415, "unsupported_media_type")
    problem(enlarge(server, ART.read_bytes()[:-40]), 422, "image_truncated")
    problem(enlarge(server, ART.read_bytes()[:9000]), 422, "image_truncated")
    damaged = bytearray(ART.read_bytes())
    damaged[9000] ^= 255
    problem(enlarge(server, bytes(damaged)), 422, "unreadable_image")


def test_what_must_be_held_whole_is_held_within_the_budget(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.new("RGB", (2400, 2400)).save(out, "JPEG", progressive=True, subsampling=0)
    with serving(tmp_path, upscale_memory_mb=32) as server:
        body = problem(enlarge(server, out.getvalue()), 503, "insufficient_memory")
        assert body["actual"] == 6 * 2400 * 2400
        assert body["limit"] == 32 << 20
        wide = png_bytes(np.zeros((300, 2400, 4), np.uint8))
        problem(enlarge(server, wide, format="webp"), 503, "insufficient_memory")
        assert enlarge(server, wide).status_code == 200


def test_rows_too_wide_for_the_budget_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path, upscale_memory_mb=32) as server:
        wide = png_bytes(np.zeros((1, 500_000), np.uint8))
        problem(enlarge(server, wide), 503, "insufficient_memory")


def test_a_disk_without_room_for_the_rows_or_the_file_is_507(tmp_path: Path) -> None:
    with serving(tmp_path, min_free_disk_mb=10**9) as server:
        assert enlarge(server, artwork()).status_code == 200  # streams: needs no disk
        assert problem(enlarge(server, artwork(), format="tiff"), 507, "insufficient_storage")
        out = io.BytesIO()
        Image.fromarray(noise(3)).save(out, "WEBP")
        body = problem(enlarge(server, out.getvalue()), 507, "insufficient_storage")
        assert {"limit", "actual"} <= body.keys()


def test_a_file_beyond_the_quota_is_413_with_the_numbers(tmp_path: Path) -> None:
    with serving(tmp_path, result_quota_mb=1) as server:
        picture = png_bytes(noise(4, width=700, height=700))
        body = problem(enlarge(server, picture, format="tiff"), 413, "file_too_large")
        assert body["limit"] == 1 << 20
        assert enlarge(server, picture).status_code == 200


def test_a_turn_that_comes_too_late_is_503_with_retry_after(tmp_path: Path) -> None:
    with (
        serving(tmp_path, max_concurrent_jobs=1, deadline_s=4) as server,
        flowing(server, large(1000)) as pieces,
    ):
        next(pieces)  # and it holds the only place
        late = enlarge(server, artwork())
        problem(late, 503, "overloaded")
        assert int(late.headers["retry-after"]) > 0


def test_a_full_house_is_503_with_retry_after(tmp_path: Path) -> None:
    with (
        serving(tmp_path, max_concurrent_jobs=1, queue_limit=0) as server,
        flowing(server, large()) as pieces,
    ):
        next(pieces)
        response = enlarge(server, artwork())
        problem(response, 503, "overloaded")
        assert response.headers["retry-after"]


def test_enlargements_leave_the_places_of_the_shots_free(tmp_path: Path) -> None:
    """Their clients may read for minutes."""
    with serving(tmp_path, max_concurrent_jobs=1) as server, flowing(server, large()) as pieces:
        next(pieces)
        record = server.shoot(artwork(), models="local-knockout").json()
        assert record["results"][0]["status"] == "succeeded"


# --- how it flows


def large(rows: int = 3000) -> bytes:
    """A picture whose enlargement takes many strips and does not compress."""
    return png_bytes(noise(4, width=600, height=rows))


@contextmanager
def flowing(server: Server, picture: bytes) -> Iterator[Iterator[bytes]]:
    with server.client.stream("POST", "/upscale", files={"image": ("x.png", picture)}) as response:
        response.raise_for_status()
        yield response.iter_raw(1 << 16)


def eventually(holds: Callable[[], bool], *, within_s: float = 20) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)


def is_idle(server: Server) -> bool:
    queue = server.client.get("/ready").json()["printing"]
    return queue["running"] == 0 and not list((server.temp_dir / "uploads").iterdir())


def test_nothing_is_left_behind(server: Server) -> None:
    for asked in ({}, {"format": "tiff"}, {"format": "webp"}, {"scale": 9}):
        enlarge(server, artwork(), **asked)
    eventually(lambda: is_idle(server))


def test_a_client_that_leaves_stops_the_work(server: Server) -> None:
    with flowing(server, large()) as pieces:
        assert next(pieces).startswith(b"\x89PNG")
        assert not is_idle(server)
    eventually(lambda: is_idle(server))


def test_a_client_that_takes_nothing_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path, client_stall_s=0.5) as server, flowing(server, large()) as pieces:
        next(pieces)
        eventually(lambda: is_idle(server))


def test_the_work_waits_for_a_slow_client(server: Server) -> None:
    """What has been sent and what waits to be sent is a few strips, not the picture."""
    with flowing(server, large()) as pieces:
        next(pieces)
        time.sleep(1)  # long enough for all of it, were nobody waiting
        assert not is_idle(server)
        assert sum(map(len, pieces)) > 20 << 20
    eventually(lambda: is_idle(server))


def test_a_picture_that_breaks_off_ends_the_body_without_its_last_chunk(server: Server) -> None:
    """Whole to look at, checksums and all, but the rows run out half way down."""
    width, height = 600, 3000
    rows = b"".join(b"\0" + row.tobytes() for row in noise(4, width=width, height=height // 2))
    broken = png((width, height, 8, 6), rows)
    with (
        pytest.raises(httpx.RemoteProtocolError),
        flowing(server, broken) as pieces,
    ):
        assert sum(map(len, pieces)) > 0
    eventually(lambda: is_idle(server))


def test_a_picture_that_breaks_in_its_first_rows_is_an_error_and_no_picture(
    server: Server,
) -> None:
    broken = png((600, 400, 8, 6), b"\0" + bytes(600 * 4))
    problem(enlarge(server, broken), 422, "unreadable_image")


def test_one_large_picture_leaves_room_for_a_small_one(server: Server) -> None:
    with flowing(server, large()) as pieces:
        next(pieces)
        assert enlarge(server, artwork()).status_code == 200
        assert not is_idle(server)
        for _ in pieces:
            pass


def test_a_png_bomb_costs_rows_and_no_memory(server: Server) -> None:
    """Two hundred megapixels in a few kilobytes."""
    head = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(20_001)) for _ in range(10_000)) + packer.flush()
    chunks = [(b"IHDR", head), (b"IDAT", packed), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    with flowing(server, content) as pieces:
        assert next(pieces)
    eventually(lambda: is_idle(server))
