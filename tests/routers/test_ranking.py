"""Ranking through the whole service: records, the recommended, and where cut-outs differ."""

import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.images import Cutout, Pixels, SourceImage
from models.schemas import ModelId
from services import standings
from services.ranking import Candidates, Verdict
from services.remover import RemovalOptions
from tests.conftest import Server, png_bytes, problem, serving
from tests.fakes import FakeRemover
from tests.services.shapes import disc, picture_of
from utils.clock import Deadline

WRONG, RIGHT, ALSO_RIGHT, FULL = list(ModelId)[:4]
SIDE = 600
TRUE = disc(SIDE)
HOLED = np.where(disc(SIDE, radius=60) > 127, 0, TRUE).astype(np.uint8)
PICTURE = png_bytes(picture_of(TRUE))


class Cutter(FakeRemover):
    """Cuts out with the alpha it was given."""

    def __init__(self, name: ModelId, alpha: Pixels, *, held: bool = False) -> None:
        super().__init__(name, held=held)
        self._alpha = alpha

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        return replace(
            await super().remove(image, options=options, deadline=deadline), alpha=self._alpha
        )


def cutters() -> dict[ModelId, FakeRemover]:
    alphas = {
        WRONG: HOLED,
        RIGHT: TRUE,
        ALSO_RIGHT: np.roll(TRUE, 2, axis=1),
        FULL: np.full((SIDE, SIDE), 255, np.uint8),
    }
    return {model: Cutter(model, alpha) for model, alpha in alphas.items()}


FOUR = f"{WRONG},{RIGHT},{ALSO_RIGHT},{FULL}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("ranking"), stand_ins=cutters()) as server:
        yield server


@pytest.fixture(scope="module")
def record(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.shoot(PICTURE, models=FOUR).raise_for_status().json()
    return found


def by_model(record: dict[str, Any], field: str) -> dict[str, Any]:
    return {entry["model"]: entry.get(field) for entry in record["results"]}


def pixels(response: httpx.Response) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(response.raise_for_status().content), formats=("PNG",)))


def test_a_complete_record_has_scores_ranks_flags_and_a_recommendation(
    record: dict[str, Any],
) -> None:
    assert by_model(record, "rank") == {RIGHT: 1, ALSO_RIGHT: 2, WRONG: 3, FULL: 4}
    scores = by_model(record, "score")
    assert 1 >= scores[RIGHT] >= scores[ALSO_RIGHT] > scores[WRONG] > scores[FULL] == 0
    assert by_model(record, "flags") == {
        WRONG: ["lost_interior"],
        RIGHT: [],
        ALSO_RIGHT: [],
        FULL: ["full_frame"],
    }
    assert record["recommended"] == RIGHT
    assert 0.4 < record["agreement"] < 0.9


def test_the_stored_record_says_the_same(server: Server, record: dict[str, Any]) -> None:
    stored = server.client.get(f"/results/{record['request_id']}").json()
    for field in ("results", "recommended", "agreement"):
        assert stored[field] == record[field]


def test_one_png_is_the_recommended(server: Server) -> None:
    for path in ("/remove-background", "/process"):
        response = server.client.post(
            path,
            files={"image": PICTURE},
            data={"models": FOUR},
            headers={"Accept": "image/png"},
        )
        assert response.headers["x-model"] == RIGHT
    picked = server.client.post(
        "/process", files={"image": PICTURE}, data={"models": FOUR, "pick": "recommended"}
    )
    assert picked.headers["x-model"] == RIGHT
    other = server.client.post(
        "/process", files={"image": PICTURE}, data={"models": FOUR, "pick": WRONG}
    )
    assert other.headers["x-model"] == WRONG


def test_an_answer_at_the_deadline_ranks_what_has_landed_and_the_rest_later(
    tmp_path: Path,
) -> None:
    late = Cutter(RIGHT, TRUE, held=True)
    with serving(tmp_path, stand_ins={**cutters(), RIGHT: late}) as server:
        answered = server.shoot(PICTURE, models=FOUR, deadline_s="1").json()
        assert by_model(answered, "rank") == {ALSO_RIGHT: 1, WRONG: 2, FULL: 3, RIGHT: None}
        assert answered["recommended"] == ALSO_RIGHT
        assert by_model(answered, "flags")[WRONG] == []  # two are no consensus
        path = f"/results/{answered['request_id']}"
        assert server.client.get(path).json()["recommended"] == ALSO_RIGHT
        late.release()
        while (complete := server.client.get(path).json())["status"] == "running":
            time.sleep(0.02)
        assert complete["recommended"] == RIGHT
        assert by_model(complete, "rank")[RIGHT] == 1
        assert by_model(complete, "flags")[WRONG] == ["lost_interior"]


def test_a_ranking_that_crashes_fails_no_shot(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(_: Candidates) -> Verdict:
        raise ZeroDivisionError("ranking is broken")

    monkeypatch.setattr(standings, "rank", crash)
    record = server.shoot(PICTURE, models=FOUR).raise_for_status().json()
    assert record["status"] == "complete"
    assert not {"recommended", "agreement"} & record.keys()
    assert set(by_model(record, "rank").values()) == {None}
    assert "ranking_failed" in caplog.text
    picked = server.client.post(
        "/remove-background",
        files={"image": PICTURE},
        data={"models": FOUR},
        headers={"Accept": "image/png"},
    )
    assert picked.headers["x-model"] == WRONG  # the first success


def test_the_heat_map_glows_where_the_cutouts_differ(
    server: Server, record: dict[str, Any]
) -> None:
    response = server.client.get(f"/results/{record['request_id']}/disagreement.png")
    assert response.headers["content-type"] == "image/png"
    picture = pixels(response)
    assert picture.shape == (SIDE // 2, SIDE // 2, 3)
    glows = picture.max(axis=2).astype(int) - picture.min(axis=2) > 60
    differs = (HOLED != TRUE)[::2, ::2]
    assert glows[differs].mean() > 0.95
    solid = (disc(SIDE, radius=SIDE / 3 - 6) > 127)[::2, ::2] & ~(disc(SIDE, radius=64) > 127)[
        ::2, ::2
    ]
    assert not glows[solid].any()
    outside = (disc(SIDE, radius=SIDE / 3 + 6) == 0)[::2, ::2]
    assert not glows[outside].any()  # the full-frame one is left out


def test_the_heat_map_is_not_sent_twice(server: Server, record: dict[str, Any]) -> None:
    path = f"/results/{record['request_id']}/disagreement.png"
    etag = server.client.get(path).headers["etag"]
    again = server.client.get(path, headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    assert server.client.get(path, headers={"If-None-Match": '"x"'}).status_code == 200


def test_where_nothing_can_be_compared_says_why(server: Server) -> None:
    problem(server.client.get(f"/results/{'0' * 32}/disagreement.png"), 404, "result_not_found")
    single = server.shoot(PICTURE, models=RIGHT).json()["request_id"]
    path = f"/results/{single}/disagreement.png"
    body = problem(server.client.get(path), 409, "nothing_to_compare")
    assert "1 cut-out" in str(body["detail"])


def test_a_heat_map_of_evicted_cutouts_is_404(server: Server) -> None:
    request_id = server.shoot(PICTURE, models=FOUR).json()["request_id"]
    (server.temp_dir / "results" / request_id / f"{RIGHT}.png").unlink()
    path = f"/results/{request_id}/disagreement.png"
    problem(server.client.get(path), 404, "result_not_found")
