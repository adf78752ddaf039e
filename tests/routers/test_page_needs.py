"""What the pick page asks of the service beside a shot: to stay, to look back, to take back."""

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from services.originals import original_webp
from tests.answering import ISNET, KNOCKOUT, Cutter, await_status, names, ndjson, stream, table
from tests.conftest import DATA, Server, artwork, problem, serving

KEY = "a-key-of-the-shop-01"
OTHER = "a-key-of-others-0002"
PICTURE = artwork()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    with serving(
        folder, stand_ins=table(Cutter(ISNET)), api_keys=f"shop:{KEY},other:{OTHER}"
    ) as server:
        yield server


def session(server: Server) -> dict[str, str]:
    answer = server.client.post("/sessions", headers={"X-API-Key": KEY})
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def shot(server: Server, headers: dict[str, str]) -> str:
    answer = server.client.post(
        "/remove-background",
        files={"image": PICTURE},
        data={"models": "local-isnet"},
        headers=headers,
    )
    return str(answer.raise_for_status().json()["request_id"])


def test_ready_says_whether_keys_are_wanted(guarded: Server, tmp_path: Path) -> None:
    assert guarded.client.get("/ready").json()["keys_required"] is True
    with serving(tmp_path) as server:
        assert server.client.get("/ready").json()["keys_required"] is False


@pytest.mark.parametrize(("prefer", "end"), [("respond-async", "succeeded"), ("", "failed")])
def test_a_streamed_shot_stays_when_it_was_asked_to(tmp_path: Path, prefer: str, end: str) -> None:
    cutters = [Cutter(ISNET, held=True), Cutter(KNOCKOUT)]
    with serving(tmp_path, stand_ins=table(*cutters)) as server:
        with (
            httpx.Client(base_url=server.url, trust_env=False) as brief,
            brief.stream(
                "POST",
                "/remove-background",
                files={"image": PICTURE},
                data={"models": names(*cutters), "stream": "ndjson"},
                headers={"Prefer": prefer},
            ) as response,
        ):
            assert response.headers.get("preference-applied", "") == prefer
            accepted = next(ndjson(response.iter_lines()))[1]
            assert cutters[0].asked.wait(20)
        if prefer:
            threading.Event().wait(0.2)  # long enough to be noticed as gone
            cutters[0].release()
        record = await_status(server, accepted["request_id"])
    assert accepted["record_url"] == f"/results/{record['request_id']}"
    assert [each["status"] for each in record["results"]] == [end, "succeeded"]


def test_the_first_event_has_a_link_that_opens_the_record(guarded: Server) -> None:
    guarded.client.headers.update(session(guarded))
    try:
        with stream(guarded, PICTURE, stream="ndjson", models="local-isnet") as response:
            told = list(ndjson(response.iter_lines()))
    finally:
        del guarded.client.headers["Authorization"]
    link = told[0][1]["record_url"]
    assert "token=" in link
    assert guarded.client.get(link).status_code == 200
    assert guarded.client.get(link.partition("?")[0]).status_code == 401


def test_the_picture_that_was_sent_comes_back_upright_and_small(tmp_path: Path) -> None:
    turned = io.BytesIO()
    photo = Image.open(DATA / "car-1.jpg").convert("RGB").resize((300, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(turned, "JPEG", exif=exif)
    with serving(tmp_path, stand_ins=table(Cutter(ISNET))) as server:
        answer = server.client.post(
            "/remove-background", files={"image": turned.getvalue()}, data={"models": "local-isnet"}
        )
        address = f"/results/{answer.json()['request_id']}/original.webp"
        small = server.client.get(address, params={"preview": 150})
        assert small.headers["content-type"] == "image/webp"
        assert Image.open(io.BytesIO(small.content)).size == (100, 150)
        again = server.client.get(
            address, params={"preview": 150}, headers={"If-None-Match": small.headers["etag"]}
        )
        assert again.status_code == 304
        wrong = server.client.get(address, params={"preview": 4})
        problem(wrong, 400, "invalid_parameter")
        home = next((tmp_path).rglob("original"))
        home.unlink()
        problem(server.client.get(address), 409, "original_not_kept")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_every_sort_of_picture_is_shown(tmp_path: Path, mode: str) -> None:
    picture = Image.open(io.BytesIO(PICTURE)).convert(mode)
    picture.save(tmp_path / "original", "PNG")
    (tmp_path / "scratch").mkdir()
    shown = Image.open(io.BytesIO(original_webp(tmp_path / "original", 32, tmp_path / "scratch")))
    assert shown.size == (32, 24)
    wanted = picture.convert("RGB").resize(shown.size)
    for place in ((0, 0), (16, 12)):  # the ground, the disc; WebP is lossy
        seen, was = shown.convert("RGB").getpixel(place), wanted.getpixel(place)
        assert np.allclose(seen, was, atol=16)  # type: ignore[arg-type]


def test_a_session_takes_back_its_own_picks_and_nobody_elses(guarded: Server) -> None:
    mine, theirs = session(guarded), session(guarded)
    request_id = shot(guarded, mine)
    told = guarded.client.post(
        "/preferences", json={"request_id": request_id, "model": "local-isnet"}, headers=mine
    )
    assert told.status_code == 201
    address = f"/preferences/{request_id}"
    problem(guarded.client.delete(address, headers=theirs), 404, "result_not_found")
    problem(guarded.client.delete(address, headers={"X-API-Key": OTHER}), 404, "result_not_found")
    assert guarded.client.delete(address, headers=mine).status_code == 204
    problem(guarded.client.delete(address, headers=mine), 404, "result_not_found")
    refused = guarded.client.delete(f"/results/{request_id}", headers=mine)
    problem(refused, 403, "not_allowed")
    assert (
        "local-isnet"
        not in guarded.client.get("/preferences/export", headers={"X-API-Key": KEY}).text
    )
