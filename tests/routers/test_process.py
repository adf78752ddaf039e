"""POST /process over real HTTP: cut-outs with prints, made when asked for, and kept."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.errors import FailureCode, RemoverError
from models.images import Edge, Pixels
from models.schemas import ModelId
from services.edge_modes import EdgeFinish
from tests import printing
from tests.conftest import Server, artwork, problem, serving
from tests.fakes import FakeRemover, unavailable

ISNET, KNOCKOUT = ModelId.LOCAL_ISNET, ModelId.LOCAL_KNOCKOUT


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    failing = FakeRemover(ISNET, error=RemoverError(FailureCode.CONTENT_REJECTED, "no"))
    with serving(tmp_path_factory.mktemp("process"), stand_ins={ISNET: failing}) as server:
        yield server


def process(server: Server, *, accept: str = "application/json", **asked: object) -> httpx.Response:
    return server.client.post(
        "/process",
        files={"image": ("customer.png", artwork())},
        data={"models": "local-knockout", **{name: str(value) for name, value in asked.items()}},
        headers={"Accept": accept},
    )


def entry_of(response: httpx.Response) -> dict[str, Any]:
    entry: dict[str, Any] = response.raise_for_status().json()["results"][-1]
    return entry


def pixels_of(response: httpx.Response) -> Pixels:
    with Image.open(io.BytesIO(response.raise_for_status().content), formats=("PNG",)) as picture:
        return np.asarray(picture)


def enlarged(pixels: Pixels, *, scale: int = 4, edge: Edge = Edge.SOFT) -> Pixels:
    """The same enlargement in one strip."""
    return printing.enlarged(pixels, EdgeFinish(edge), scale=scale)[0]


def kept(server: Server, entry: dict[str, Any]) -> list[Path]:
    shot = entry["url"].split("/")[2]
    return list((server.temp_dir / "results" / shot).glob("*.print-*"))


def test_every_cutout_has_a_print_four_times_its_size(server: Server) -> None:
    entry = entry_of(process(server))
    assert (entry["print_width"], entry["print_height"]) == (256, 192)
    cutout = pixels_of(server.client.get(entry["url"]))
    assert np.array_equal(pixels_of(server.client.get(entry["print_url"])), enlarged(cutout))


def test_the_print_is_made_when_it_is_asked_for_and_then_kept(server: Server) -> None:
    entry = entry_of(process(server))
    assert kept(server, entry) == []
    first = server.client.get(entry["print_url"])
    (path,) = kept(server, entry)
    assert path.read_bytes() == first.content
    again = server.client.get(entry["print_url"])
    assert again.content == first.content
    assert again.headers["etag"] == first.headers["etag"]
    assert again.headers["content-length"] == str(len(first.content))
    unchanged = {"If-None-Match": first.headers["etag"]}
    assert server.client.get(entry["print_url"], headers=unchanged).status_code == 304


def test_the_wish_is_in_the_link_and_in_the_record(server: Server) -> None:
    record = process(server, scale=2, edge="hard").json()
    entry = record["results"][0]
    assert record["prints"]["scale"] == 2
    assert pixels_of(server.client.get(entry["print_url"])).shape == (96, 128, 4)
    later = server.client.get(f"/results/{record['request_id']}").json()
    assert later["results"][0]["print_url"] == entry["print_url"]
    cutout = pixels_of(server.client.get(entry["url"]))
    hard = pixels_of(server.client.get(entry["print_url"]))
    assert np.array_equal(hard, enlarged(cutout, scale=2, edge=Edge.HARD))


def test_inches_and_trim_size_the_subject(server: Server) -> None:
    entry = entry_of(process(server, width_in=1, dpi=100, trim=1))
    left, top, right, bottom = entry["bbox"]
    assert entry["print_width"] == 100
    assert entry["print"]["source_dpi"] == pytest.approx(right - left, abs=0.1)
    shape = pixels_of(server.client.get(entry["print_url"])).shape
    assert shape == (entry["print_height"], 100, 4)
    assert entry["print_height"] == round((bottom - top) * 100 / (right - left))


def test_a_subject_too_small_for_the_inches_says_so_in_its_entry(server: Server) -> None:
    entry = entry_of(process(server, width_in=1.6, trim=1))
    assert entry["status"] == "succeeded"
    assert "print_url" not in entry
    assert "8 times" in entry["print_problem"]


def test_one_print_as_bytes(server: Server) -> None:
    for response in (
        process(server, accept="image/png"),
        process(server, pick="recommended"),
        process(server, pick="local-knockout"),
    ):
        assert pixels_of(response).shape == (192, 256, 4)
        assert response.headers["x-model"] == "local-knockout"
        assert response.headers["x-cost-usd"] == "0.000000"
        assert response.headers["x-source-dpi"] == "75"


def test_the_recommended_is_one_that_succeeded(server: Server) -> None:
    response = process(server, models="local-isnet,local-knockout", pick="recommended")
    assert response.headers["x-model"] == "local-knockout"


def test_a_picked_print_is_kept_for_its_link(server: Server) -> None:
    response = process(server, pick="local-knockout")
    shot = response.headers["etag"]
    folders = [
        path
        for path in (server.temp_dir / "results").glob("*/*.print-*")
        if path.read_bytes() == response.content
    ]
    assert shot
    assert folders


def test_a_pick_that_failed_is_502_and_names_the_record(server: Server) -> None:
    response = process(server, models="local-isnet,local-knockout", pick="local-isnet")
    body = problem(response, 502, "pick_failed")
    assert "content_rejected" in str(body["detail"])
    assert "/results/" in str(body["hint"])


def test_a_pick_that_was_not_asked_is_a_bad_parameter(server: Server) -> None:
    body = problem(process(server, pick="kie-recraft"), 400, "invalid_parameter")
    assert body["field"] == "pick"


def test_an_impossible_size_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    isnet = FakeRemover(ISNET)
    with serving(tmp_path, stand_ins={ISNET: isnet}) as server:
        problem(process(server, models="local-isnet", scale=9), 422, "scale_out_of_range")
        problem(process(server, models="local-isnet", width_in=20), 422, "scale_out_of_range")
        assert not isnet.asked.is_set()


def test_a_pick_still_running_at_the_deadline_is_504(tmp_path: Path) -> None:
    isnet = FakeRemover(ISNET, held=True)
    with serving(tmp_path, stand_ins={ISNET: isnet}) as server:
        response = process(server, models="local-isnet", pick="local-isnet", deadline_s=1)
        problem(response, 504, "deadline_exceeded")
        isnet.release()


def test_removal_errors_stay_what_they_are(tmp_path: Path) -> None:
    with serving(tmp_path, stand_ins={ISNET: unavailable(ISNET)}) as server:
        problem(process(server, models="local-isnet"), 503, "no_model_available")
        problem(server.client.post("/process"), 400, "missing_source")


def test_any_size_of_any_cutout_can_be_had_later(server: Server) -> None:
    url = server.shoot(artwork(), models="local-knockout").json()["results"][0]["url"]
    assert pixels_of(server.client.get(f"{url}?print=1")).shape == (192, 256, 4)
    assert pixels_of(server.client.get(f"{url}?scale=1.5")).shape == (72, 96, 4)
    assert pixels_of(server.client.get(f"{url}?width_in=2&dpi=100")).shape == (150, 200, 4)
    problem(server.client.get(f"{url}?scale=9"), 422, "scale_out_of_range")
    problem(server.client.get(f"{url}?print=1&preview=64"), 400, "invalid_parameter")
    problem(server.client.get(f"{url}?prints=1"), 400, "invalid_parameter")
    missing = url.replace("local-knockout", "local-isnet")
    problem(server.client.get(f"{missing}?print=1"), 404, "result_not_found")


def test_deleting_a_shot_deletes_its_prints(server: Server) -> None:
    entry = entry_of(process(server))
    server.client.get(entry["print_url"]).raise_for_status()
    shot = entry["url"].split("/")[2]
    assert server.client.delete(f"/results/{shot}").status_code == 204
    assert not (server.temp_dir / "results" / shot).exists()
    problem(server.client.get(entry["print_url"]), 404, "result_not_found")


def test_a_print_that_does_not_fit_into_the_quota_is_sent_and_not_kept(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    with serving(tmp_path, stand_ins={ISNET: FakeRemover(ISNET)}, result_quota_mb=4) as server:
        record = server.client.post(
            "/process", files={"image": out.getvalue()}, data={"models": "local-isnet"}
        )
        entry = entry_of(record)
        assert pixels_of(server.client.get(entry["print_url"])).shape == (2800, 2800, 4)
        assert kept(server, entry) == []


def test_links_to_prints_are_absolute_where_the_address_is_known(tmp_path: Path) -> None:
    with serving(tmp_path, public_base_url="https://cutouts.example") as server:
        entry = entry_of(process(server))
        assert entry["print_url"].startswith("https://cutouts.example/results/")
