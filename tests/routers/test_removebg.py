"""remove.bg's API as its description has it, against a real uvicorn: answers and refusals."""

import base64
import io
import json
import logging
import threading
import zipfile
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.images import Cutout, SourceImage
from models.removebg import RemovebgParameters
from models.schemas import ModelId, ModelStatus
from services.credits import credits_left
from services.remover import Availability, RemovalOptions
from tests.conftest import Server, png_bytes, serving
from tests.fakes import FakeRemover, unavailable
from tests.sandbox_thread import provider_settings, running_sandbox
from utils.clock import Deadline

ISNET = ModelId.LOCAL_ISNET
WIDTH, HEIGHT = 200, 100
LEFT, TOP, RIGHT, BOTTOM = BOX = (60, 20, 100, 70)
GROUND, RED = (10, 90, 200), (210, 20, 30)
SHOP, TILL = "a-key-of-the-shop", "a-key-of-the-till"

Size: TypeAlias = tuple[int, int]
Box: TypeAlias = tuple[int, int, int, int]


class Reds(FakeRemover):
    """Keeps what is as red as the subject; counts how often it was asked."""

    calls = 0

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        self.calls += 1
        cutout = await super().remove(image, options=options, deadline=deadline)
        alpha = np.where(image.rgb[..., 0] > 128, 255, 0).astype(np.uint8)
        return Cutout(rgb=cutout.rgb, alpha=alpha)


def scene() -> NDArray[np.uint8]:
    """A red box on a blue ground."""
    pixels = np.full((HEIGHT, WIDTH, 3), GROUND, np.uint8)
    pixels[TOP:BOTTOM, LEFT:RIGHT] = RED
    return pixels


SCENE = png_bytes(scene())
B64 = base64.b64encode(SCENE).decode()
GREEN = png_bytes(np.full((40, 40, 3), (0, 200, 0), np.uint8))
LARGE = png_bytes(np.zeros((400, 400), np.uint8))
EMPTY = png_bytes(np.full((40, 40, 3), GROUND, np.uint8))


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """A server of pictures on loopback: /scene.png, /green.png; all else is 404."""

    class Handler(BaseHTTPRequestHandler):
        pictures: ClassVar = {"/scene.png": SCENE, "/green.png": GREEN}

        def do_GET(self) -> None:
            found = self.pictures.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, host: str) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("removebg"),
        stand_ins={ISNET: Reds(ISNET)},
        removebg_models="local-isnet",
        image_url_allowed_hosts=host,
        max_upload_mb=1,
        max_megapixels=0.1,
    ) as server:
        yield server


def ask(server: Server, **said: Any) -> httpx.Response:  # noqa: ANN401  # httpx's own words
    return server.client.post("/v1.0/removebg", **said)


def removed(server: Server, **parameters: str) -> httpx.Response:
    answer = ask(server, files={"image_file": ("customer.png", SCENE)}, data=parameters)
    assert answer.status_code == 200, answer.text
    return answer


def pixels(answer: httpx.Response) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def geometry(answer: httpx.Response) -> tuple[Size, Box]:
    """The size and the foreground's box as the headers tell them."""
    width, height = (int(answer.headers[f"x-{name}"]) for name in ("width", "height"))
    left, top, wide, high = (
        int(answer.headers[f"x-foreground-{name}"]) for name in ("left", "top", "width", "height")
    )
    return (width, height), (left, top, left + wide, top + high)


def refusal(answer: httpx.Response, status: int, code: str) -> dict[str, str]:
    """The one error, checked for remove.bg's shape and for the end of every answer of ours."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    ((error,),) = answer.json().values()
    assert set(answer.json()) == {"errors"}
    assert set(error) == {"title", "code", "detail"}
    assert error["code"] == code
    return dict(error)


# --- geometry and colours

GEOMETRY: list[tuple[dict[str, str], Size, Box]] = [
    ({}, (200, 100), BOX),
    ({"size": "full", "type": "auto", "roi": "0% 0% 100% 100%"}, (200, 100), BOX),
    ({"crop": "true"}, (40, 50), (0, 0, 40, 50)),
    ({"crop": "true", "crop_margin": "1px 2px 3px 4px"}, (46, 54), (4, 1, 44, 51)),
    ({"crop": "1", "crop_margin": "50%"}, (80, 100), (20, 25, 60, 75)),
    ({"scale": "50%"}, (200, 100), (80, 25, 120, 75)),
    ({"scale": "100%", "position": "100%"}, (200, 100), (120, 0, 200, 100)),
    ({"position": "0% 100%"}, (200, 100), (0, 50, 40, 100)),
    ({"roi": "80px 0px 200px 50px"}, (200, 100), (80, 20, 100, 50)),
    ({"roi": "40% 0% 100% 50%", "crop": "true"}, (20, 30), (0, 0, 20, 30)),
]


@pytest.mark.parametrize(("said", "size", "box"), GEOMETRY, ids=str)
def test_geometry_is_exact_to_the_pixel(
    server: Server, said: dict[str, str], size: Size, box: Box
) -> None:
    answer = removed(server, **said)
    assert geometry(answer) == (size, box)
    assert answer.headers["content-type"] == "image/png"
    expected = np.zeros((size[1], size[0], 4), np.uint8)
    expected[box[1] : box[3], box[0] : box[2]] = (*RED, 255)
    np.testing.assert_array_equal(pixels(answer), expected)


@pytest.mark.parametrize(
    ("said", "ground"),
    [
        ({"bg_color": "fff"}, (255, 255, 255, 255)),
        ({"bg_color": "81d4fa"}, (0x81, 0xD4, 0xFA, 255)),
        ({"bg_color": "81d4fa77"}, (0x81, 0xD4, 0xFA, 0x77)),
        ({"bg_color": "green"}, (0, 128, 0, 255)),
        ({"bg_image_url": "http://{host}/green.png"}, (0, 200, 0, 255)),
    ],
    ids=str,
)
def test_backgrounds_are_exact_in_colour(
    server: Server, host: str, said: dict[str, str], ground: tuple[int, ...]
) -> None:
    said = {name: value.format(host=host) for name, value in said.items()}
    answer = removed(server, format="png", **said)
    expected = np.full((HEIGHT, WIDTH, 4), ground, np.uint8)
    expected[TOP:BOTTOM, LEFT:RIGHT] = (*RED, 255)
    np.testing.assert_array_equal(pixels(answer), expected)


def test_a_background_file_is_centred_and_fills(server: Server) -> None:
    """Twice as high as the canvas: its middle half is seen, as it is."""
    behind = np.zeros((2 * HEIGHT, WIDTH, 3), np.uint8)
    behind[...] = np.arange(2 * HEIGHT, dtype=np.uint8)[:, np.newaxis, np.newaxis]
    files = {"image_file": ("a.png", SCENE), "bg_image_file": ("b.png", png_bytes(behind))}
    answer = ask(server, files=files, data={"format": "png"})
    expected = behind[50:150].copy()
    expected[TOP:BOTTOM, LEFT:RIGHT] = RED
    np.testing.assert_array_equal(pixels(answer)[..., :3], expected)


@pytest.mark.parametrize(
    ("said", "media_type", "magic"),
    [
        ({}, "image/png", b"\x89PNG"),
        ({"format": "png", "bg_color": "fff"}, "image/png", b"\x89PNG"),
        ({"bg_color": "fff"}, "image/jpeg", b"\xff\xd8\xff"),
        ({"format": "jpg"}, "image/jpeg", b"\xff\xd8\xff"),
        ({"format": "zip"}, "application/zip", b"PK\x03\x04"),
    ],
    ids=str,
)
def test_formats(server: Server, said: dict[str, str], media_type: str, magic: bytes) -> None:
    answer = removed(server, **said)
    assert answer.headers["content-type"] == media_type
    assert answer.content.startswith(magic)


def test_a_jpeg_is_on_white_and_the_zip_makes_the_cutout_again(server: Server) -> None:
    assert np.abs(pixels(removed(server, format="jpg"))[0, 0].astype(int) - 255).max() <= 1
    with zipfile.ZipFile(io.BytesIO(removed(server, format="zip").content)) as archive:
        assert archive.namelist() == ["color.jpg", "alpha.png"]
        colours, alpha = (
            np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()
        )
    assert alpha.shape == (HEIGHT, WIDTH)
    assert np.abs(colours[alpha == 255].astype(int) - RED).max() <= 2
    assert (alpha == 255).sum() == 40 * 50


def test_the_alpha_channel_alone(server: Server) -> None:
    matte = pixels(removed(server, channels="alpha"))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[TOP:BOTTOM, LEFT:RIGHT] = 255
    np.testing.assert_array_equal(matte, expected)


SIZES = {
    **dict.fromkeys(("preview", "small", "regular"), ((707, 353), "0.25")),
    "medium": ((1732, 866), "1"),
    **dict.fromkeys(("hd", "full", "4k", "auto"), ((2000, 1000), "1")),
}


def test_sizes_and_what_they_are_charged(tmp_path: Path) -> None:
    picture = png_bytes(scene().repeat(10, axis=0).repeat(10, axis=1))
    stand_ins = {ISNET: Reds(ISNET)}
    with serving(tmp_path, stand_ins=stand_ins, removebg_models="local-isnet") as server:
        for size, (shape, charged) in SIZES.items():
            answer = ask(server, files={"image_file": picture}, data={"size": size})
            assert geometry(answer)[0] == Image.open(io.BytesIO(answer.content)).size == shape
            assert answer.headers["x-credits-charged"] == charged


# --- the three kinds of body, and the two of answer


def test_every_kind_of_body_gives_the_same_picture(server: Server, host: str) -> None:
    url = f"http://{host}/scene.png"
    bodies: list[dict[str, Any]] = [
        {"files": {"image_file": ("über ../x.png", SCENE)}, "data": {"crop": "true"}},
        {"files": {"image_file": ("a.png", SCENE), "image_url": (None, "")}, "data": {"crop": "1"}},
        {"files": {"image_file_b64": (None, B64), "crop": (None, "true")}},
        {"files": {"image_url": (None, url), "crop": (None, "true"), "image_file": ("", b"")}},
        {"data": {"image_url": url, "crop": "true", "bg_color": ""}},
        {"data": {"image_file_b64": B64, "crop": "true"}},
        {"data": {"crop": "true", "image_file_b64": f"data:image/png;base64,{B64}"}},
        {"json": {"image_file_b64": B64, "crop": True, "type_level": 1, "bg_color": None}},
        {"json": {"image_file_b64": f"data:image/png;base64,{B64}", "crop": "true"}},
        {"json": {"image_url": url, "crop": True, "image_file_b64": ""}},
    ]
    answers = [ask(server, **body) for body in bodies]
    assert [each.status_code for each in answers] == [200] * len(bodies)
    assert {each.content for each in answers} == {removed(server, crop="true").content}


def test_a_long_form_is_decoded_piece_by_piece(server: Server) -> None:
    """Bytes whose base64 is full of what a form must escape, over more than one piece's border."""
    noise = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
    noise[..., 0] = 255
    picture = png_bytes(noise)
    encoded = base64.b64encode(picture).decode()
    assert min(map(encoded.count, "+/")) > 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("routers.embedded._PIECE_BYTES", 997)
        form = ask(server, data={"image_file_b64": encoded})
    assert form.content == ask(server, files={"image_file": picture}).content


@pytest.mark.parametrize("accept", ["application/json", "application/json;q=0.9, text/plain"])
def test_as_json(server: Server, accept: str) -> None:
    answer = ask(
        server,
        files={"image_file": SCENE},
        data={"crop": "true", "crop_margin": "3px"},
        headers={"Accept": accept},
    )
    assert answer.headers["content-type"] == "application/json"
    data = answer.json()["data"]
    assert base64.b64decode(data.pop("result_b64")) == (
        removed(server, crop="true", crop_margin="3px").content
    )
    names = ("top", "left", "width", "height")
    assert data == dict(zip((f"foreground_{name}" for name in names), (3, 3, 40, 50), strict=True))


@pytest.mark.parametrize(
    "accept", ["*/*", "image/*", "image/png", "application/json, text/plain, */*"]
)
def test_as_a_picture(server: Server, accept: str) -> None:
    answer = ask(server, files={"image_file": SCENE}, headers={"Accept": accept})
    assert answer.headers["content-type"] == "image/png"


def test_the_headers_tell_of_the_shot(server: Server) -> None:
    answer = removed(server)
    assert answer.headers["x-model"] == "local-isnet"
    assert answer.headers["x-cost-usd"] == "0.000000"
    assert answer.headers["x-ratelimit-limit"] == "600"
    whole = server.client.get(answer.headers["x-result-url"])
    assert whole.headers["content-type"] == "image/png"
    record = server.client.get(answer.headers["x-result-url"].rpartition("/")[0]).json()
    assert record["recommended"] == "local-isnet"


@pytest.mark.parametrize(
    ("level", "kind"), [("none", None), ("1", "other"), ("2", "graphics"), ("latest", "graphics")]
)
def test_the_type_is_what_a_look_at_the_picture_tells(
    server: Server, level: str, kind: str | None
) -> None:
    assert removed(server, type_level=level).headers.get("x-type") == kind


@pytest.mark.parametrize(
    "said",
    [{"add_shadow": "false", "shadow_method": "legacy"}, {"semitransparency": "true"}],
    ids=str,
)
def test_what_has_no_effect_by_the_description_is_taken(
    server: Server, said: dict[str, str]
) -> None:
    assert geometry(removed(server, **said)) == ((WIDTH, HEIGHT), BOX)


def test_every_parameter_of_the_description_is_known() -> None:
    """The names in APIs/remove.bg/1.0.0 of APIs-guru/openapi-directory, without the sources."""
    assert set(RemovebgParameters.model_fields) == {
        *("size", "type", "type_level", "format", "roi", "crop", "crop_margin", "scale"),
        *("position", "channels", "add_shadow", "shadow_method", "semitransparency"),
        *("bg_color", "bg_image_url"),
    }


# --- refusals

BAD_PARAMETERS = [
    ({"size": "huge"}, "invalid_size"),
    ({"format": "webp"}, "invalid_format"),
    ({"channels": "rgb"}, "invalid_channels"),
    ({"channels": "alpha", "format": "zip"}, "invalid_channels"),
    ({"channels": "alpha", "bg_color": "fff"}, "invalid_channels"),
    ({"crop_margin": "ten"}, "invalid_crop_margin"),
    ({"crop": "true", "crop_margin": "501px"}, "invalid_crop_margin"),
    ({"crop": "true", "crop_margin": "1px 2px 3px"}, "invalid_crop_margin"),
    ({"crop_margin": "60%"}, "invalid_crop_margin"),
    ({"scale": "9%"}, "invalid_scale"),
    ({"scale": "101%"}, "invalid_scale"),
    ({"scale": "50"}, "invalid_scale"),
    ({"position": "101%"}, "invalid_position"),
    ({"position": "1% 2% 3%"}, "invalid_position"),
    ({"position": "left"}, "invalid_position"),
    ({"roi": "1 2 3 4"}, "invalid_roi"),
    ({"roi": "0% 0% 100%"}, "invalid_roi"),
    ({"roi": "0px 0px 201px 100px"}, "roi_exceeds_bounds"),
    ({"roi": "0% 0% 100% 101%"}, "roi_exceeds_bounds"),
    ({"roi": "10px 10px 10px 20px"}, "roi_region_empty"),
    ({"roi": "0px 0px 20px 20px"}, "unknown_foreground"),
    ({"bg_color": "#fff"}, "invalid_bg_color"),
    ({"bg_color": "nocolour"}, "invalid_bg_color"),
    ({"bg_image_url": "ftp://a.example/b.png"}, "invalid_bg_image_url"),
    ({"bg_image_url": "http://127.0.0.1:9/b.png"}, "invalid_bg_image_url"),
    ({"bg_image_url": "http://{host}/no.png"}, "failed_bg_download"),
    ({"bg_color": "fff", "bg_image_url": "http://{host}/green.png"}, "multiple_bg_sources"),
    ({"semitransparency": "maybe"}, "invalid_semitransparency"),
    ({"semitransparency": "false"}, "invalid_semitransparency"),
    ({"add_shadow": "true"}, "unsupported_parameter"),
    ({"type": "person"}, "unsupported_parameter"),
    ({"type": "horse"}, "invalid_parameter"),
    ({"type_level": "3"}, "invalid_parameter"),
    ({"shadow_opacity": "50"}, "invalid_parameter"),
]


@pytest.mark.parametrize(("said", "code"), BAD_PARAMETERS, ids=str)
def test_what_is_wrong_or_not_done_is_told(
    server: Server, host: str, said: dict[str, str], code: str
) -> None:
    said = {name: value.format(host=host) for name, value in said.items()}
    refusal(ask(server, files={"image_file": SCENE}, data=said), 400, code)


def test_bad_parameters_cost_nothing(tmp_path: Path, host: str) -> None:
    """No model is asked before all that can be known beforehand has proven good."""
    reds = Reds(ISNET)
    with serving(
        tmp_path,
        stand_ins={ISNET: reds},
        removebg_models="local-isnet",
        image_url_allowed_hosts=host,
    ) as server:
        for said, code in BAD_PARAMETERS:
            told = {name: value.format(host=host) for name, value in said.items()}
            if code != "unknown_foreground":
                ask(server, files={"image_file": SCENE}, data=told)
        ask(server, files={"image_file": SCENE, "bg_image_file": SCENE[:-20]})
    assert reds.calls == 0


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({}, "missing_source"),
        ({"data": {"size": "full"}}, "missing_source"),
        ({"json": {"size": "full"}}, "missing_source"),
        ({"files": {"image_file": b""}}, "failed_to_read_image"),
        ({"files": {"image_file": SCENE, "image_file_b64": (None, B64)}}, "multiple_sources"),
        (
            {"files": {"image_file": SCENE}, "data": {"image_url": "https://a.example/"}},
            "multiple_sources",
        ),
        ({"json": {"image_file_b64": B64, "image_url": "https://a.example/"}}, "multiple_sources"),
        ({"json": {"image_url": "nonsense"}}, "invalid_image_url"),
        ({"data": {"image_url": "http://127.0.0.1:9/a.png"}}, "invalid_image_url"),
        ({"data": {"image_url": "http://169.254.169.254/latest/"}}, "invalid_image_url"),
        ({"data": {"image_url": "http://{host}/no.png"}}, "failed_image_download"),
        ({"files": {"image_file": b"no picture at all"}}, "invalid_file_type"),
        ({"files": {"image_file": SCENE[:-40]}}, "failed_to_read_image"),
        ({"json": {"image_file_b64": "?"}}, "failed_to_read_image"),
        ({"data": {"image_file_b64": "no%base64!"}}, "failed_to_read_image"),
        ({"files": {"image_file": bytes(1_100_000)}}, "file_too_large"),
        (
            {"files": {"image_file": png_bytes(np.zeros((400, 400), np.uint8))}},
            "resolution_too_high",
        ),
        ({"files": {"image_file": EMPTY}}, "unknown_foreground"),
        ({"files": {"image_file": SCENE, "bg_image_file": b"no"}}, "invalid_file_type"),
        (
            {"files": {"image_file": SCENE, "bg_image_file": GREEN}, "data": {"bg_color": "fff"}},
            "multiple_bg_sources",
        ),
        ({"files": {"picture": SCENE}}, "invalid_parameter"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, "invalid_parameter"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_pictures_that_do_not_come_through(
    server: Server, host: str, request_: dict[str, Any], code: str
) -> None:
    if "image_url" in request_.get("data", {}):
        url = request_["data"]["image_url"].format(host=host)
        request_ = {**request_, "data": {"image_url": url}}
    refusal(ask(server, **request_), 400, code)


def test_a_side_that_no_jpeg_has(tmp_path: Path) -> None:
    picture = png_bytes(np.full((1, 65_501), 200, np.uint8))
    with serving(tmp_path, stand_ins={ISNET: Reds(ISNET)}, removebg_models="local-isnet") as server:
        told = refusal(ask(server, files={"image_file": picture}), 400, "invalid_dimensions")
        assert "format=png" in told["detail"]
        files = {"image_file": picture}
        assert ask(server, files=files, data={"format": "png"}).status_code == 200


def test_other_addresses_and_methods_answer_in_the_same_shape(server: Server) -> None:
    refusal(server.client.post("/v1.0/improve"), 404, "not_found")
    wrong = server.client.get("/v1.0/removebg")
    refusal(wrong, 405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


def test_the_rest_of_the_service_keeps_its_own_shape(server: Server) -> None:
    assert server.client.get("/v1/nothing").headers["content-type"] == "application/problem+json"


def test_a_bad_idempotency_key_is_told_in_the_same_shape(server: Server) -> None:
    headers = {"Idempotency-Key": "with a blank"}
    answer = ask(server, files={"image_file": SCENE}, headers=headers)
    refusal(answer, 400, "invalid_parameter")


@pytest.mark.parametrize(
    ("remover", "status", "code"),
    [
        (unavailable(ISNET), 503, "no_model_available"),
        (FakeRemover(ISNET, error=ValueError("boom")), 502, "all_models_failed"),
        (FakeRemover(ISNET, held=True), 504, "deadline_exceeded"),
    ],
    ids=["away", "broken", "late"],
)
def test_models_that_give_nothing(
    tmp_path: Path, remover: FakeRemover, status: int, code: str
) -> None:
    with serving(
        tmp_path, stand_ins={ISNET: remover}, removebg_models="local-isnet", deadline_s=1
    ) as server:
        refusal(ask(server, files={"image_file": SCENE}), status, code)


def test_a_full_house_says_when_to_come_again(tmp_path: Path) -> None:
    stuck = FakeRemover(ISNET, held=True)
    with serving(
        tmp_path,
        stand_ins={ISNET: stuck},
        removebg_models="local-isnet",
        max_concurrent_jobs=1,
        queue_limit=0,
        deadline_s=1,
    ) as server:
        ask(server, files={"image_file": SCENE})
        full = ask(server, files={"image_file": SCENE})
    refusal(full, 503, "overloaded")
    assert int(full.headers["retry-after"]) > 0


def test_what_crashes_is_told_in_the_same_shape(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("routers.removebg.compose", broken)
    crashed = ask(server, files={"image_file": SCENE})
    refusal(crashed, 500, "internal_error")
    assert "a bug" not in crashed.text


# --- keys, money, repeats


def test_the_keys_are_the_services_own(tmp_path: Path) -> None:
    with serving(
        tmp_path,
        stand_ins={ISNET: Reds(ISNET)},
        removebg_models="local-isnet",
        api_keys=f"shop:{SHOP},till:{TILL}",
    ) as server:
        refusal(ask(server, files={"image_file": SCENE}), 403, "auth_failed")
        refusal(server.client.get("/v1.0/account"), 403, "auth_failed")
        refusal(server.client.get("/v1.0/nothing"), 403, "auth_failed")
        wrong = ask(server, files={"image_file": SCENE}, headers={"X-Api-Key": "nobody's-key"})
        refusal(wrong, 403, "auth_failed")
        answer = ask(server, files={"image_file": SCENE}, headers={"X-Api-Key": SHOP})
        link = answer.headers["x-result-url"]
        assert server.client.get(link).status_code == 200  # by its token
        bare = link.partition("?")[0]
        assert server.client.get(bare, headers={"X-Api-Key": SHOP}).status_code == 200
        assert server.client.get(bare, headers={"X-Api-Key": TILL}).status_code == 404
        minted = server.client.post("/sessions", headers={"X-Api-Key": SHOP}).json()["token"]
        session = ask(server, files={"image_file": SCENE}, headers={"X-Api-Key": minted})
        refusal(session, 403, "not_allowed")


def test_a_repeat_is_composed_anew_and_charged_nothing(tmp_path: Path) -> None:
    reds = Reds(ISNET)
    with serving(tmp_path, stand_ins={ISNET: reds}, removebg_models="local-isnet") as server:
        answers = [
            ask(
                server,
                files={"image_file": SCENE},
                data=said,
                headers={"Idempotency-Key": "order-7"},
            )
            for said in ({"size": "full"}, {"size": "full", "crop": "true"})
        ]
        other = ask(server, files={"image_file": EMPTY}, headers={"Idempotency-Key": "order-7"})
    assert reds.calls == 1
    assert [each.headers["x-credits-charged"] for each in answers] == ["1", "0"]
    assert answers[1].headers["idempotent-replayed"] == "true"
    assert [geometry(each)[0] for each in answers] == [(200, 100), (40, 50)]
    refusal(other, 400, "idempotency_mismatch")


def account(server: Server, key: str | None = None) -> dict[str, Any]:
    headers = {} if key is None else {"X-Api-Key": key}
    attributes: dict[str, Any] = server.client.get("/v1.0/account", headers=headers).json()["data"][
        "attributes"
    ]
    assert attributes["api"] == {"free_calls": 0, "sizes": "all"}
    assert attributes["credits"]["payg"] == attributes["credits"]["enterprise"] == 0
    assert attributes["credits"]["subscription"] == attributes["credits"]["total"]
    return attributes


def test_credits_are_what_the_budgets_leave(tmp_path: Path) -> None:
    """Recraft costs 0.005 dollars: a budget of 0.012 holds 2.4 calls, then 1.4, then 0.4."""
    with (
        running_sandbox() as sandbox,
        serving(
            tmp_path,
            **provider_settings(sandbox),
            api_keys=f"shop:{SHOP},till:{TILL}",
            removebg_models="kie-recraft",
            removebg_mode="all",
            key_daily_budgets="shop=0.012",
        ) as server,
    ):
        assert account(server, SHOP)["credits"]["total"] == 2.4
        assert account(server, TILL)["credits"]["total"] is None
        answers = [
            ask(server, files={"image_file": SCENE}, headers={"X-Api-Key": SHOP}) for _ in range(3)
        ]
        assert [each.status_code for each in answers] == [200, 200, 402]
        assert [each.headers["x-cost-usd"] for each in answers[:2]] == ["0.005000"] * 2
        refusal(answers[2], 402, "insufficient_credits")
        assert account(server, SHOP)["credits"]["total"] == 0.4
        assert sandbox.bill.total_usd == Decimal("0.01")


def test_paid_and_found_nothing_says_what_it_cost(tmp_path: Path) -> None:
    """The picture is one nobody finds anything in; the provider wants its money all the same."""

    class Nothing(FakeRemover):
        async def remove(
            self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
        ) -> Cutout:
            options.on_sent()
            alpha = np.zeros((image.height, image.width), np.uint8)
            return Cutout(rgb=image.rgb, alpha=alpha, cost_usd=Decimal("0.018"))

    paid = ModelId.RUNWARE_RMBG
    with serving(tmp_path, stand_ins={paid: Nothing(paid)}, removebg_models=paid) as server:
        answer = ask(server, files={"image_file": SCENE})
    refusal(answer, 400, "unknown_foreground")
    assert answer.headers["x-cost-usd"] == "0.018000"


@pytest.mark.parametrize(
    ("lefts", "price", "left"),
    [
        ([], "0.02", None),
        (["1"], "0", None),
        (["1", "0.5"], "0.02", 25.0),
        (["-0.01"], "0.02", 0.0),
        (["0.0299"], "0.01", 2.99),
    ],
)
def test_credits_left(lefts: list[str], price: str, left: float | None) -> None:
    assert credits_left([Decimal(each) for each in lefts], price=Decimal(price)) == left


def test_the_default_is_a_cascade_over_the_default_models(tmp_path: Path) -> None:
    """The free model's cut-out is alone: where nothing contradicts it, no paid one is asked."""
    paid = Availability(ModelStatus.READY, None)
    asked = {model: FakeRemover(model, state=paid) for model in (ModelId.RUNWARE_RMBG,)}
    with serving(tmp_path, stand_ins={ISNET: Reds(ISNET), **asked}) as server:
        answer = removed(server)
        record = server.client.get(answer.headers["x-result-url"].rpartition("/")[0]).json()
    assert {each["model"] for each in record["results"]} >= {"local-isnet", "runware-rmbg-2.0"}


def test_no_name_and_no_pixels_in_the_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    files = {"image_file": ("private-name.png", SCENE)}
    ask(server, files=files, headers={"Accept": "application/json"})
    ask(server, data={"image_file_b64": B64})
    ask(server, json={"image_file_b64": B64[:-8] + "?"})
    lines = json.dumps([vars(record) for record in caplog.records], default=str)
    assert "removebg" in lines
    assert "private-name" not in lines
    assert B64[40:80] not in lines
