"""POST /analyze and print_check=true over real HTTP: what is told, when, and what is refused."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageCms

from models.print_check import CheckId, PrintLimits
from models.schemas import ModelId, SizeParameters
from services.admission import Gate
from services.print_check import Wish
from services.remover import RemovalOptions
from services.shotgun import Plan, Shotgun
from services.workers import Workers
from tests.answering import Cutter, await_status, read_to_end, stream
from tests.conftest import DATA, Server, artwork, png_bytes, problem, serving
from tests.fakes import FakeRemover
from tests.services.drawings import disc
from tests.services.test_results import opened
from utils.clock import Deadline

ART = DATA / "art" / "aircraft_jarno_vasamaa3.png"
ISNET = ModelId.LOCAL_ISNET
SHOP = "a-key-of-the-shop"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    failing = FakeRemover(ModelId.KIE_RECRAFT, error=RuntimeError("it broke"))
    stand_ins = {ISNET: Cutter(ISNET), failing.name: failing}
    with serving(tmp_path_factory.mktemp("analyze"), stand_ins=stand_ins) as server:
        yield server


def analyze(server: Server, picture: bytes, **asked: object) -> httpx.Response:
    data = {name: str(value) for name, value in asked.items()}
    return server.client.post("/analyze", files={"image": picture}, data=data)


def told(response: httpx.Response) -> dict[str, Any]:
    report: dict[str, Any] = response.raise_for_status().json()
    return report


def by_id(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["id"]: each for each in report["checks"]}


def drawn(side: int = 400, radius: float = 150) -> bytes:
    """A red disc on nothing, as PNG."""
    alpha = disc(side, radius)
    rgba = np.dstack([*(np.full_like(alpha, level) for level in (200, 30, 40)), alpha])
    return png_bytes(rgba)


def test_a_picture_is_told_with_its_facts_and_both_resolutions(server: Server) -> None:
    response = analyze(server, ART.read_bytes(), preset="front", garment="black")
    report = told(response)
    assert response.headers["x-cost-usd"] == "0.000000"
    image = report["image"]
    assert (image["width"], image["height"], image["format"]) == (1052, 744, "PNG")
    assert (image["kind"], image["had_alpha"]) == ("transparent", True)
    assert (report["width_in"], report["sized"]) == (11, True)
    assert report["effective_dpi"] == pytest.approx(1052 / 11, abs=0.1)
    assert report["output_dpi"] == 300
    assert [each["id"] for each in report["checks"]] == [str(each) for each in CheckId]
    assert report["not_checked"] == []
    assert report["verdict"] == "fail"
    assert "resize" in report["autofixes"]
    assert report["suggestions"]


def test_without_a_size_its_pixels_are_taken_at_300_dpi(server: Server) -> None:
    report = told(analyze(server, drawn()))
    assert (report["sized"], report["width_in"]) == (False, 1.333)
    missing = {each["id"] for each in report["not_checked"]}
    assert missing == {"effective_dpi", "aspect_size", "visible_on_garment"}


def test_a_photo_has_its_background_to_lose_first(server: Server) -> None:
    report = told(analyze(server, (DATA / "car-1.jpg").read_bytes(), width_in=4))
    assert by_id(report)["has_transparency"]["severity"] == "fail"
    assert "min_line_px" in {each["id"] for each in report["not_checked"]}
    assert report["image"]["kind"] == "photo"


def test_the_picture_may_come_inside_json(server: Server) -> None:
    body = {"image_base64": base64.b64encode(drawn()).decode(), "height_in": 1.0, "trim": True}
    report = told(server.client.post("/analyze", json=body))
    assert report["height_in"] == 1
    assert by_id(report)["margin"]["severity"] == "pass"


def _with_profile(mode: str, profile: bytes | None, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (40, 30), 90 if mode == "L" else (9, 90, 40, 0)[: len(mode)]).save(
        out, form, **({"icc_profile": profile} if profile else {})
    )
    return out.getvalue()


@pytest.mark.parametrize(
    ("picture", "wanted"),
    [
        (_with_profile("RGB", None), "pass"),
        (_with_profile("L", None), "pass"),
        (
            _with_profile(
                "RGB", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
            ),
            "pass",
        ),
        (_with_profile("CMYK", None, "JPEG"), "fail"),
        (_with_profile("RGB", b"not a profile at all"), "pass"),
    ],
)
def test_colours_are_read_from_the_file(server: Server, picture: bytes, wanted: str) -> None:
    assert by_id(told(analyze(server, picture)))["colour"]["severity"] == wanted


def test_another_colour_space_is_named(server: Server) -> None:
    found = by_id(told(analyze(server, _with_profile("RGB", _wide_profile()))))["colour"]
    assert found["severity"] == "warn"
    assert "sRGB built-in" in found["issue"]


def _wide_profile() -> bytes:
    """SRGB whose red is turned to its blue's place: a matrix that is not sRGB's."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}
    red, blue = (
        int.from_bytes(profile[tags[name] + 4 : tags[name] + 8], "big")
        for name in (b"rXYZ", b"bXYZ")
    )
    profile[red + 8 : red + 20], profile[blue + 8 : blue + 20] = (
        profile[blue + 8 : blue + 20],
        profile[red + 8 : red + 20],
    )
    return bytes(profile)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"garment": "chartreuse"}, "garment"),
        ({"preset": "moon"}, "preset"),
        ({"preset": "front", "width_in": 4}, "preset"),
        ({"width_in": 0}, "width_in"),
        ({"scale": 2}, "scale"),
        ({"edge": "frayed"}, "edge"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_name(
    server: Server, asked: dict[str, object], field: str
) -> None:
    body = problem(analyze(server, drawn(40, 15), **asked), 400, "invalid_parameter")
    assert body["field"] == field


def test_what_is_no_picture_is_refused(server: Server) -> None:
    problem(server.client.post("/analyze"), 400, "missing_source")
    problem(analyze(server, b"no picture"), 415, "unsupported_media_type")
    problem(analyze(server, drawn()[:-30]), 422, "image_truncated")


def test_a_full_house_refuses_and_a_large_picture_does_not_fit(tmp_path: Path) -> None:
    held = FakeRemover(ISNET, held=True)
    limits = {"max_concurrent_jobs": 1, "queue_limit": 0, "max_megapixels": 0.1}
    with serving(tmp_path, stand_ins={ISNET: held}, **limits) as server:
        problem(analyze(server, drawn()), 422, "too_many_pixels")
        first = server.client.post(
            "/remove-background",
            files={"image": artwork()},
            data={"models": ISNET},
            headers={"Prefer": "respond-async"},
        )
        assert first.status_code == 202
        assert held.asked.wait(20)
        problem(analyze(server, artwork()), 503, "overloaded")
        held.release()
        await_status(server, first.json()["request_id"])
        assert told(analyze(server, artwork()))["image"]["width"] == 64


def test_a_session_may_analyze_as_often_as_it_may_shoot(tmp_path: Path) -> None:
    with serving(tmp_path, api_keys=f"shop:{SHOP}") as server:
        problem(analyze(server, artwork()), 401, "missing_key")
        shop = {"Authorization": f"Bearer {SHOP}"}
        token = server.client.post("/sessions", json={"shots": 1}, headers=shop).json()["token"]
        session = {"Authorization": f"Bearer {token}"}
        files = {"image": artwork()}
        assert server.client.post("/analyze", files=files, headers=session).status_code == 200
        again = server.client.post("/analyze", files=files, headers=session)
        problem(again, 403, "session_exhausted")


# --- print_check=true


def shoot(server: Server, path: str = "/remove-background", **asked: object) -> httpx.Response:
    data = {
        "models": "local-isnet,kie-recraft",
        **{name: str(each) for name, each in asked.items()},
    }
    headers = {"Idempotency-Key": str(asked.pop("key"))} if "key" in asked else {}
    data.pop("key", None)
    return server.client.post(path, files={"image": artwork()}, data=data, headers=headers)


def entries(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["model"]: each for each in record["results"]}


def test_every_cutout_has_its_report_in_answer_record_and_replay(server: Server) -> None:
    asked = {"print_check": "true", "preset": "left_chest", "garment": "white", "key": "order-1"}
    record = shoot(server, **asked).raise_for_status().json()
    report = entries(record)["local-isnet"]["print_check"]
    assert report["width_in"] == 4
    assert report["effective_dpi"] == 16
    # half of the picture is kept: its right half is margin
    assert by_id(report)["margin"]["measured"] == 50
    assert by_id(report)["visible_on_garment"]
    assert "print_check" not in entries(record)["kie-recraft"], "it failed"
    stored = server.client.get(f"/results/{record['request_id']}").json()
    assert entries(stored)["local-isnet"]["print_check"] == report
    again = shoot(server, **asked)
    assert again.headers["idempotent-replayed"] == "true"
    assert entries(again.json())["local-isnet"]["print_check"] == report
    other = shoot(server, **{**asked, "garment": "black"})
    problem(other, 422, "idempotency_mismatch")


def test_a_stream_tells_it_with_the_result(server: Server) -> None:
    asked = {"models": "local-isnet", "stream": "ndjson", "print_check": "1", "width_in": "3"}
    with stream(server, artwork(), **asked) as response:
        events = dict(read_to_end(response))
    assert events["result"]["print_check"]["width_in"] == 3
    assert events["done"]["results"][0]["print_check"] == events["result"]["print_check"]


def test_nobody_who_does_not_ask_gets_one(server: Server) -> None:
    assert "print_check" not in entries(shoot(server).json())["local-isnet"]


@pytest.mark.parametrize(
    ("path", "asked", "field"),
    [
        ("/remove-background", {"print_check": 1}, "print_check"),
        ("/remove-background", {"print_check": 1, "garment": "black"}, "print_check"),
        ("/remove-background", {"width_in": 4}, "print_check"),
        ("/remove-background", {"garment": "black"}, "garment"),
        ("/remove-background", {"print_check": 1, "preset": "neck", "width_in": 2}, "preset"),
        ("/process", {"garment": "black"}, "garment"),
        ("/process", {"preset": "neck", "width_in": 2, "trim": 1}, "preset"),
        ("/process", {"preset": "neck", "scale": 2, "trim": 1}, "scale"),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_model_is_asked(
    server: Server, path: str, asked: dict[str, object], field: str
) -> None:
    body = problem(shoot(server, path, **asked), 400, "invalid_parameter")
    assert body["field"] == field
    if asked.keys() == {"print_check"}:
        assert "preset" in str(body["hint"])


def test_process_tells_of_the_print_as_it_will_be_made(server: Server) -> None:
    soft, hard = (
        entries(shoot(server, "/process", print_check=1, scale=4, edge=edge).json())["local-isnet"]
        for edge in ("soft", "hard")
    )
    assert soft["print_check"]["width_in"] == soft["print"]["width_in"]
    assert soft["print_check"]["effective_dpi"] == soft["print"]["source_dpi"] == 75
    assert by_id(soft["print_check"])["edge_band_px"]["measured"] > 1
    assert by_id(hard["print_check"])["edge_band_px"]["measured"] == 0


def test_a_size_too_large_to_print_is_still_reported(server: Server) -> None:
    entry = entries(shoot(server, "/process", print_check=1, preset="front", trim=1).json())
    assert "8 times" in entry["local-isnet"]["print_problem"]
    assert entry["local-isnet"]["print_check"]["verdict"] == "fail"


@pytest.mark.anyio
async def test_a_check_that_breaks_costs_the_cutout_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "picture.png"
    source.write_bytes(artwork())
    impossible = PrintLimits(target_dpi=0)  # no setting allows it
    shotgun = Shotgun(
        removers={ISNET: Cutter(ISNET)},
        results=opened(tmp_path),
        workers=Workers(pixel_threads=1),
        gate=Gate(running_limit=1, queue_limit=1),
        max_pixels=10**6,
        model_timeout_s=30,
        print_limits=impossible,
    )
    plan = Plan(
        models=(ISNET,),
        options=RemovalOptions(),
        deadline=Deadline.after(30),
        check=Wish(SizeParameters(width_in=1)),
    )
    record = await shotgun.fire(source, plan)
    (entry,) = record.results
    assert (entry.status, entry.print_check) == ("succeeded", None)
    assert "print_check_failed" in caplog.text
    await shotgun.close()


# --- presets on the other routes


def test_a_preset_sizes_a_print_everywhere(server: Server) -> None:
    picture = artwork(width=400, height=300)
    files = {"image": picture}
    larger = server.client.post("/upscale", files=files, data={"preset": "left_chest"})
    assert larger.headers["x-width"] == "1200"
    record = server.client.post(
        "/process", files=files, data={"models": "local-isnet", "preset": "left_chest"}
    ).json()
    (entry,) = record["results"]
    assert (entry["print_width"], record["prints"]["preset"]) == (1200, "left_chest")
    assert "preset=left_chest" in entry["print_url"]
    assert server.client.get(entry["print_url"]).headers["x-width"] == "1200"
    narrow = server.client.get(f"{entry['url']}?preset=neck")
    assert narrow.headers["x-width"] == "750"
    both = server.client.post("/upscale", files=files, data={"preset": "neck", "width_in": "2"})
    problem(both, 400, "invalid_parameter")
