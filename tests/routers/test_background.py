"""POST /remove-background over real HTTP: what comes back, and every error it can give."""

import base64
import errno
import io
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.errors import FailureCode, RemoverError, RemoverUnavailable
from models.schemas import ModelId
from services.results import ResultStore
from tests.conftest import DATA, Server, artwork, png_bytes, problem, serving
from tests.fakes import FakeRemover, unavailable

ISNET, KNOCKOUT = ModelId.LOCAL_ISNET, ModelId.LOCAL_KNOCKOUT


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    stand_ins = {ISNET: FakeRemover(ISNET)}
    with serving(
        tmp_path_factory.mktemp("background"),
        stand_ins=stand_ins,
        max_upload_mb=1,
        max_megapixels=0.6,
    ) as server:
        yield server


def test_a_shot_answers_with_one_entry_per_default_model_in_the_fixed_order(
    server: Server,
) -> None:
    record = server.shoot(artwork()).raise_for_status().json()
    assert [entry["model"] for entry in record["results"]] == [
        "runware-rmbg-2.0",
        "runware-birefnet-portrait",
        "kie-recraft",
        "local-birefnet-general",
        "local-isnet",
    ]
    assert record["status"] == "complete"
    assert len(record["request_id"]) == 32


def test_models_without_a_key_are_skipped_as_unconfigured(server: Server) -> None:
    record = server.shoot(artwork()).json()
    reasons = {entry["model"]: entry.get("reason") for entry in record["results"]}
    for model in ("runware-rmbg-2.0", "runware-birefnet-portrait", "kie-recraft"):
        assert reasons[model] == "unconfigured"


def test_the_knockout_cuts_artwork_out_and_its_png_is_aligned_with_the_input(
    server: Server,
) -> None:
    record = server.shoot(artwork(width=90, height=60), models="local-knockout").json()
    (entry,) = record["results"]
    assert entry["status"] == "succeeded"
    assert (entry["width"], entry["height"]) == (90, 60)
    content = server.client.get(entry["url"]).content
    picture = Image.open(io.BytesIO(content))
    assert (picture.mode, picture.size) == ("RGBA", (90, 60))
    assert picture.getpixel((0, 0))[3] == 0  # type: ignore[index]  # RGBA gives a tuple
    assert picture.getpixel((45, 30)) == (200, 20, 30, 255)
    assert entry["bytes"] == len(content)
    left, top, right, bottom = entry["bbox"]
    alpha = np.asarray(picture)[..., 3]
    assert alpha[top:bottom, left:right].max() == 255
    assert (alpha > 10).sum() == (alpha[top:bottom, left:right] > 10).sum()


def test_the_record_describes_the_picture(server: Server) -> None:
    picture = artwork(width=90, height=60)
    image = server.shoot(picture, models="local-knockout").json()["image"]
    assert (image["width"], image["height"]) == (90, 60)
    assert image["format"] == "PNG"
    assert image["bytes"] == len(picture)
    assert image["had_alpha"] is False
    assert len(image["sha256"]) == 64


def test_existing_alpha_is_multiplied_in(server: Server) -> None:
    pixels = np.full((40, 40, 4), 255, np.uint8)
    pixels[10:30, 10:30] = (0, 90, 0, 128)
    record = server.shoot(png_bytes(pixels), models="local-knockout").json()
    assert record["image"]["had_alpha"] is True
    content = server.client.get(record["results"][0]["url"]).content
    alpha = np.asarray(Image.open(io.BytesIO(content)))[..., 3]
    assert alpha[20, 20] == 128
    assert alpha[0, 0] == 0


def test_holes_open_reaches_the_knockout(server: Server) -> None:
    ring = np.full((60, 60, 3), 255, np.uint8)
    rows, columns = np.mgrid[:60, :60] - 30
    distance = np.hypot(rows, columns)
    ring[(distance < 25) & (distance > 12)] = (0, 60, 160)
    middle = {}
    for holes in ("keep", "open"):
        record = server.shoot(png_bytes(ring), models="local-knockout", holes=holes).json()
        content = server.client.get(record["results"][0]["url"]).content
        middle[holes] = np.asarray(Image.open(io.BytesIO(content)))[30, 30, 3]
    assert middle == {"keep": 255, "open": 0}


def test_output_base64_carries_the_same_png_as_the_link(server: Server) -> None:
    entry = server.shoot(artwork(), models="local-knockout", output="base64").json()["results"][0]
    content = server.client.get(entry["url"]).content
    assert base64.b64decode(entry["image_base64"]) == content


def test_accept_png_answers_one_cutout_as_bytes(server: Server) -> None:
    response = server.client.post(
        "/remove-background",
        files={"image": artwork()},
        data={"models": "local-isnet,local-knockout"},
        headers={"Accept": "image/png"},
    )
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-model"] == "local-knockout"  # the other kept the whole frame
    assert response.headers["x-cost-usd"] == "0.000000"
    assert Image.open(io.BytesIO(response.content)).mode == "RGBA"


@pytest.mark.parametrize("field", ["image", "file", "image_file"])
def test_the_file_part_has_aliases(server: Server, field: str) -> None:
    response = server.client.post(
        "/remove-background", files={field: artwork()}, data={"models": "local-knockout"}
    )
    assert response.status_code == 200


def test_json_with_base64_is_the_same_shot(server: Server) -> None:
    picture = artwork()
    encoded = base64.b64encode(picture).decode()
    for text in (encoded, f"data:image/png;base64,{encoded}"):
        response = server.client.post(
            "/remove-background", json={"image_base64": text, "models": ["local-knockout"]}
        )
        assert response.json()["image"]["bytes"] == len(picture)


def test_parameters_may_stand_in_the_query(server: Server) -> None:
    response = server.client.post(
        "/remove-background?models=local-knockout", files={"image": artwork()}
    )
    assert [each["model"] for each in response.json()["results"]] == ["local-knockout"]


def test_the_answer_says_what_it_cost(server: Server) -> None:
    response = server.shoot(artwork(), models="local-knockout")
    assert response.headers["x-cost-usd"] == "0.000000"
    assert response.json()["cost_usd"] == 0


def test_links_are_absolute_where_the_public_address_is_known(tmp_path: Path) -> None:
    with serving(tmp_path, public_base_url="https://cut.example/") as server:
        entry = server.shoot(artwork(), models="local-knockout").json()["results"][0]
    assert entry["url"].startswith("https://cut.example/results/")
    assert entry["preview_url"].startswith("https://cut.example/results/")


def test_knockout_enabled_joins_the_default_models(tmp_path: Path) -> None:
    with serving(tmp_path, knockout_enabled=True) as server:
        record = server.shoot(artwork()).json()
    assert record["results"][-1]["model"] == "local-knockout"
    assert record["results"][-1]["status"] == "succeeded"


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (RemoverError(FailureCode.PROVIDER_QUOTA, "No credit."), "provider_quota", False),
        (MemoryError(), "insufficient_memory", True),
        (OSError(errno.ENOSPC, "boom"), "insufficient_storage", True),
        (OSError(errno.EROFS, "boom"), "storage_unavailable", True),
        (ValueError("boom"), "model_crashed", False),
    ],
    ids=["remover error", "out of memory", "disk full", "disk read-only", "crash"],
)
def test_one_failing_model_leaves_the_others_alone(
    tmp_path: Path, error: Exception, code: str, retryable: bool
) -> None:
    with serving(tmp_path, stand_ins={ISNET: FakeRemover(ISNET, error=error)}) as server:
        record = server.shoot(artwork(), models="local-isnet,local-knockout").json()
    failed, succeeded = record["results"]
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == code
    assert failed["error"]["retryable"] is retryable
    assert "boom" not in failed["error"]["message"]
    assert succeeded["status"] == "succeeded"


def test_a_disk_that_refuses_is_said_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def refuse(path: Path, *, parents: bool = False, exist_ok: bool = False) -> None:
        if path.parent.name == "uploads":
            raise OSError(errno.EROFS, "Read-only file system")
        mkdir(path, parents=parents, exist_ok=exist_ok)

    def unreadable(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with serving(tmp_path) as server:
        done = server.shoot(artwork(), models="local-knockout").json()["request_id"]
        with monkeypatch.context() as refusing:
            refusing.setattr(Path, "mkdir", refuse)
            refused = server.shoot(artwork(), models="local-knockout")
            refusing.setattr(ResultStore, "_read_record", unreadable)
            unread = server.client.get(f"/results/{done}")
        for answer in (refused, unread):
            assert problem(answer, 503, "storage_unavailable")["retryable"]
            assert int(answer.headers["Retry-After"]) > 0
        assert server.shoot(artwork(), models="local-knockout").status_code == 200


def test_a_model_that_proves_unavailable_is_skipped(tmp_path: Path) -> None:
    gone = FakeRemover(ISNET, error=RemoverUnavailable("the weights vanished"))
    with serving(tmp_path, stand_ins={ISNET: gone}) as server:
        record = server.shoot(artwork(), models="local-isnet,local-knockout").json()
    assert record["results"][0]["reason"] == "unavailable"
    assert record["results"][0]["detail"] == "the weights vanished"


def test_a_late_model_is_pending_and_lands_in_the_record(tmp_path: Path) -> None:
    late = FakeRemover(ISNET, held=True)
    with serving(tmp_path, stand_ins={ISNET: late}) as server:
        record = server.shoot(artwork(), models="local-isnet,local-knockout", deadline_s="1").json()
        assert record["status"] == "running"
        assert [each["status"] for each in record["results"]] == ["pending", "succeeded"]
        late.release()
        found = _await_complete(server, record["request_id"])
    assert [each["status"] for each in found["results"]] == ["succeeded", "succeeded"]


def _await_complete(server: Server, request_id: str) -> dict[str, list[dict[str, str]]]:
    for _ in range(200):
        found: dict[str, list[dict[str, str]]] = server.client.get(f"/results/{request_id}").json()
        if str(found["status"]) == "complete":
            return found
        threading.Event().wait(0.02)
    raise AssertionError("the late model never landed")


def test_a_model_past_its_own_time_fails(tmp_path: Path) -> None:
    stuck = FakeRemover(ISNET, held=True)
    with serving(tmp_path, stand_ins={ISNET: stuck}, model_timeout_s=1) as server:
        record = server.shoot(artwork(), models="local-isnet,local-knockout").json()
    assert record["results"][0]["error"]["code"] == "provider_timeout"


def test_missing_source(server: Server) -> None:
    problem(server.client.post("/remove-background"), 400, "missing_source")
    response = server.client.post("/remove-background", json={"models": ["local-isnet"]})
    problem(response, 400, "missing_source")


def test_multiple_sources(server: Server) -> None:
    for files in (
        [("image", artwork()), ("file", artwork())],
        [("image", artwork()), ("image", artwork())],
    ):
        response = server.client.post("/remove-background", files=files)
        problem(response, 400, "multiple_sources")
    both = server.client.post(
        "/remove-background", files={"image": artwork()}, data={"image_url": "https://a.example"}
    )
    problem(both, 400, "multiple_sources")


def test_empty_file(server: Server) -> None:
    problem(server.shoot(b""), 400, "empty_file")
    response = server.client.post("/remove-background", json={"image_base64": ""})
    problem(response, 400, "empty_file")


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"models": "no-such-model"}, "models.0"),
        ({"output": "fax"}, "output"),
        ({"deadline_s": "56"}, "deadline_s"),
        ({"deadline_s": "soon"}, "deadline_s"),
        ({"holes": "maybe"}, "holes"),
        ({"modles": "local-isnet"}, "modles"),
    ],
)
def test_a_bad_parameter_is_named(server: Server, parameters: dict[str, str], field: str) -> None:
    body = problem(server.shoot(artwork(), **parameters), 400, "invalid_parameter")
    assert body["field"] == field


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "application/json"),
        (b"[1]", "application/json"),
        (b'{"image_base64": 7}', "application/json"),
        (b'{"image_base64": "%%%"}', "application/json"),
        (b'{"image_url": 7}', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x"),
        (b"--x--", "multipart/form-data"),
        (b"--wrong--\r\n", "multipart/form-data; boundary=x"),
        (b"models=%ff", "application/x-www-form-urlencoded"),
    ],
)
def test_a_malformed_body_is_a_bad_parameter(server: Server, content: bytes, kind: str) -> None:
    response = server.client.post(
        "/remove-background", content=content, headers={"Content-Type": kind}
    )
    problem(response, 400, "invalid_parameter")


def test_a_file_part_of_another_name_is_refused(server: Server) -> None:
    response = server.client.post("/remove-background", files={"photo": artwork()})
    assert problem(response, 400, "invalid_parameter")["field"] == "photo"


def test_a_form_with_too_many_parts_or_too_long_a_field_is_refused(server: Server) -> None:
    many = {f"f{index}": (None, "x") for index in range(50)}
    problem(server.client.post("/remove-background", files=many), 400, "invalid_parameter")
    long = server.shoot(artwork(), holes="x" * 20_000)
    problem(long, 400, "invalid_parameter")


def test_a_body_of_another_type_is_415(server: Server) -> None:
    response = server.client.post(
        "/remove-background", content=artwork(), headers={"Content-Type": "image/png"}
    )
    problem(response, 415, "unsupported_media_type")


def test_a_file_that_is_no_picture_is_415(server: Server) -> None:
    problem(server.shoot(b"just some words"), 415, "unsupported_media_type")
    problem(
        server.shoot(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 415, "unsupported_media_type"
    )


def test_a_large_file_is_413_with_the_numbers(server: Server) -> None:
    noise = np.random.default_rng(0).integers(0, 255, 1_500_000, np.uint8).tobytes()
    body = problem(server.shoot(noise), 413, "file_too_large")
    assert body["limit"] == 1024 * 1024


def test_a_large_body_of_unknown_length_is_413_too(server: Server) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield bytes(65536)
        yield b"\r\n--x--\r\n"

    response = server.client.post(
        "/remove-background",
        content=pieces(),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    problem(response, 413, "file_too_large")


def test_large_base64_is_413(server: Server) -> None:
    text = base64.b64encode(bytes(1_200_000)).decode()
    response = server.client.post("/remove-background", json={"image_base64": text})
    problem(response, 413, "file_too_large")


def test_a_corrupt_picture_is_422(server: Server) -> None:
    damaged = bytearray(artwork())
    start = damaged.index(b"IDAT") + 8
    damaged[start : start + 8] = bytes(8)
    problem(server.shoot(bytes(damaged)), 422, "unreadable_image")


def test_a_truncated_picture_is_422(server: Server) -> None:
    problem(server.shoot(artwork()[:-40]), 422, "image_truncated")
    photo = (DATA / "anime-girl-1.jpg").read_bytes()
    problem(server.shoot(photo[: len(photo) // 2]), 422, "image_truncated")


def test_too_many_pixels_is_422_with_the_numbers(server: Server) -> None:
    body = problem(server.shoot(artwork(width=1000, height=700)), 422, "too_many_pixels")
    assert body["limit"] == 600_000
    assert body["actual"] == 700_000


def test_an_address_inside_is_refused(server: Server) -> None:
    for url in ("http://127.0.0.1/a.png", "http://[::1]/a.png", "ftp://a.example/a.png"):
        response = server.client.post("/remove-background", json={"image_url": url})
        problem(response, 400, "image_url_refused")
        form = server.client.post("/remove-background", data={"image_url": url})
        problem(form, 400, "image_url_refused")


@pytest.fixture
def picture_host() -> Iterator[str]:
    """A loopback server: /art.png is a picture, all else is 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/art.png"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(artwork() if found else b"")

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as host:
        thread = threading.Thread(target=host.serve_forever)
        thread.start()
        yield f"127.0.0.1:{host.server_port}"
        host.shutdown()
        thread.join()


def test_a_picture_by_address(tmp_path: Path, picture_host: str) -> None:
    with serving(tmp_path, image_url_allowed_hosts=picture_host) as server:
        url = f"http://{picture_host}/art.png"
        for sent in (
            {"json": {"image_url": url, "models": "local-knockout"}},
            {"data": {"image_url": url, "models": "local-knockout"}},
        ):
            response = server.client.post("/remove-background", **sent)  # type: ignore[arg-type]
            assert response.json()["image"]["bytes"] == len(artwork())
        missing = server.client.post(
            "/remove-background", json={"image_url": f"http://{picture_host}/no.png"}
        )
        problem(missing, 422, "image_download_failed")


def test_when_all_that_ran_failed_it_is_502(tmp_path: Path) -> None:
    broken = FakeRemover(ISNET, error=ValueError("boom"))
    with serving(tmp_path, stand_ins={ISNET: broken}) as server:
        body = problem(server.shoot(artwork()), 502, "all_models_failed")
    assert "local-isnet: model_crashed" in str(body["detail"])
    assert body["retryable"] is True


def test_when_every_model_is_skipped_it_is_503(tmp_path: Path) -> None:
    with serving(tmp_path, stand_ins={ISNET: unavailable(ISNET)}) as server:
        problem(server.shoot(artwork()), 503, "no_model_available")


def test_a_full_house_is_503_with_retry_after(tmp_path: Path) -> None:
    stuck = FakeRemover(ISNET, held=True)
    with serving(
        tmp_path, stand_ins={ISNET: stuck}, max_concurrent_jobs=1, queue_limit=0
    ) as server:
        first = server.shoot(artwork(), models="local-isnet", deadline_s="1")
        assert first.json()["results"][0]["status"] == "pending"
        refused = server.shoot(artwork(), models="local-knockout")
        problem(refused, 503, "overloaded")
        assert int(refused.headers["retry-after"]) > 0
        stuck.release()
        _await_complete(server, first.json()["request_id"])
        assert server.shoot(artwork(), models="local-knockout").status_code == 200


def test_a_turn_that_comes_too_late_is_503_with_retry_after(tmp_path: Path) -> None:
    stuck = FakeRemover(ISNET, held=True)
    with serving(tmp_path, stand_ins={ISNET: stuck}, max_concurrent_jobs=1) as server:
        server.shoot(artwork(), models="local-isnet", deadline_s="1")
        late = server.shoot(artwork(), models="local-knockout", deadline_s="1")
        problem(late, 503, "overloaded")
        assert int(late.headers["retry-after"]) > 0


def test_accept_png_with_nothing_landed_is_504(tmp_path: Path) -> None:
    stuck = FakeRemover(ISNET, held=True)
    with serving(tmp_path, stand_ins={ISNET: stuck}) as server:
        response = server.client.post(
            "/remove-background",
            files={"image": artwork()},
            data={"models": "local-isnet", "deadline_s": "1"},
            headers={"Accept": "image/png"},
        )
    problem(response, 504, "deadline_exceeded")


def test_a_full_disk_is_507_with_the_numbers(tmp_path: Path) -> None:
    with serving(tmp_path, min_free_disk_mb=1_000_000_000) as server:
        body = problem(
            server.shoot(artwork(), models="local-knockout"), 507, "insufficient_storage"
        )
    assert body["limit"] == 1_000_000_000 * 1024 * 1024
    assert 0 < float(str(body["actual"])) < 1e15


def test_nothing_of_an_upload_is_left_behind(server: Server) -> None:
    server.shoot(artwork(), models="local-knockout")
    server.shoot(b"no picture")
    server.shoot(bytes(2_000_000))
    assert list((server.temp_dir / "uploads").iterdir()) == []


def test_a_client_that_leaves_in_mid_upload_leaves_no_file(server: Server) -> None:
    host, port = server.client.base_url.host, server.client.base_url.port or 80
    with socket.create_connection((host, port)) as connection:
        connection.sendall(
            b"POST /remove-background HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc'
        )
    for _ in range(200):
        if not list((server.temp_dir / "uploads").iterdir()):
            return
        threading.Event().wait(0.02)
    raise AssertionError("the half upload is still there")


def test_request_ids_are_echoed_when_sane_and_replaced_when_not(server: Server) -> None:
    sane = server.client.get("/health", headers={"X-Request-ID": "order-4711"})
    assert sane.headers["x-request-id"] == "order-4711"
    mad = server.client.get("/health", headers={"X-Request-ID": "a b\tc" * 50})
    assert len(mad.headers["x-request-id"]) == 32
    refused = server.client.post("/remove-background", headers={"X-Request-ID": "order-4712"})
    assert problem(refused, 400, "missing_source")["request_id"] == "order-4712"


def test_unknown_routes_and_wrong_methods_are_problems_too(server: Server) -> None:
    problem(server.client.get("/no-such-route"), 404, "not_found")
    problem(server.client.get("/remove-background"), 405, "method_not_allowed")


def test_every_answer_carries_its_time(server: Server) -> None:
    response = server.shoot(artwork(), models="local-knockout")
    assert "total;dur=" in response.headers["server-timing"]
