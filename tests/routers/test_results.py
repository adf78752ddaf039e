"""GET and DELETE /results over real HTTP."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Server, artwork, problem, serving

NOBODY = "0" * 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("results")) as server:
        yield server


def shot(server: Server) -> str:
    record = server.shoot(artwork(), models="local-knockout").raise_for_status().json()
    return str(record["request_id"])


def test_the_stored_record_is_the_one_that_was_answered(server: Server) -> None:
    answered = server.shoot(artwork(), models="local-knockout").json()
    stored = server.client.get(f"/results/{answered['request_id']}").json()
    assert stored["results"] == answered["results"]
    assert stored["image"] == answered["image"]


def test_a_cutout_carries_its_digest_as_etag_and_is_not_sent_twice(server: Server) -> None:
    path = f"/results/{shot(server)}/local-knockout.png"
    first = server.client.get(path)
    assert first.headers["content-type"] == "image/png"
    assert first.headers["cache-control"].startswith("private")
    again = server.client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = server.client.get(path, headers={"If-None-Match": '"another"'})
    assert other.content == first.content


def test_a_preview_is_a_small_webp_with_alpha(server: Server) -> None:
    path = f"/results/{shot(server)}/local-knockout.png"
    response = server.client.get(path, params={"preview": 32})
    picture = Image.open(io.BytesIO(response.content))
    assert response.headers["content-type"] == "image/webp"
    assert picture.format == "WEBP"
    assert max(picture.size) == 32
    assert np.asarray(picture.convert("RGBA"))[0, 0, 3] == 0
    assert response.headers["etag"] != server.client.get(path).headers["etag"]


def test_the_links_of_an_entry_work(server: Server) -> None:
    entry = server.shoot(artwork(), models="local-knockout").json()["results"][0]
    assert server.client.get(entry["url"]).status_code == 200
    assert server.client.get(entry["preview_url"]).status_code == 200


@pytest.mark.parametrize("side", ["15", "2049", "wide"])
def test_a_preview_of_a_mad_size_is_a_bad_parameter(server: Server, side: str) -> None:
    path = f"/results/{shot(server)}/local-knockout.png"
    body = problem(server.client.get(path, params={"preview": side}), 400, "invalid_parameter")
    assert body["field"] == "preview"


def test_what_is_not_there_is_404(server: Server) -> None:
    problem(server.client.get(f"/results/{NOBODY}"), 404, "result_not_found")
    problem(server.client.delete(f"/results/{NOBODY}"), 404, "result_not_found")
    path = f"/results/{shot(server)}/local-isnet.png"
    problem(server.client.get(path), 404, "result_not_found")


def test_an_id_that_cannot_be_ours_is_a_bad_parameter(server: Server) -> None:
    problem(server.client.get("/results/..%2fetc"), 404, "not_found")
    problem(server.client.get("/results/ABC"), 400, "invalid_parameter")


def test_delete_forgets_record_and_pictures_at_once(server: Server) -> None:
    request_id = shot(server)
    assert server.client.delete(f"/results/{request_id}").status_code == 204
    problem(server.client.get(f"/results/{request_id}"), 404, "result_not_found")
    problem(server.client.get(f"/results/{request_id}/local-knockout.png"), 404, "result_not_found")
    assert not (server.temp_dir / "results" / request_id).exists()


def test_what_nobody_foresaw_is_a_problem_without_a_stack_trace(server: Server) -> None:
    request_id = shot(server)
    (record,) = (server.temp_dir / "data" / "records").glob(f"*/{request_id}.json")
    record.write_text("{ damaged")
    response = server.client.get(f"/results/{request_id}")
    problem(response, 500, "internal_error")
    assert "Traceback" not in response.text
    assert "ValidationError" not in response.text


def test_results_expire(tmp_path: Path) -> None:
    with serving(tmp_path, result_ttl_h=1 / 3600) as server:
        request_id = shot(server)
        time.sleep(1.1)
        record = server.client.get(f"/results/{request_id}").json()
        picture = server.client.get(f"/results/{request_id}/local-knockout.png")
        problem(picture, 404, "result_not_found")
        assert server.client.delete(f"/results/{request_id}").status_code == 204
        problem(server.client.get(f"/results/{request_id}"), 404, "result_not_found")
    assert record["status"] == "expired"
    assert "url" not in record["results"][0]


def test_results_survive_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        request_id = shot(server)
    with serving(tmp_path) as server:
        assert server.client.get(f"/results/{request_id}").json()["status"] == "complete"
        path = f"/results/{request_id}/local-knockout.png"
        assert server.client.get(path).status_code == 200
