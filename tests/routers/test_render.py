"""POST /results/{id}/render over real HTTP: exact, free, owned, and rendered again."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.errors import FailureCode, RemoverError
from models.images import Pixels
from models.schemas import ModelId
from tests.answering import Cutter
from tests.conftest import DATA, Server, artwork, png_bytes, problem, serving
from tests.fakes import FakeRemover

ISNET, BIREFNET, KIE = ModelId.LOCAL_ISNET, ModelId.LOCAL_BIREFNET, ModelId.KIE_RECRAFT
NOBODY = "0" * 32
WIDTH, HEIGHT = 64, 48


def stand_ins() -> dict[ModelId, FakeRemover]:
    """One that keeps the left half, one that fails, and a provider that must not be asked again."""
    failing = RemoverError(FailureCode.CONTENT_REJECTED, "no")
    return {
        ISNET: Cutter(ISNET),
        BIREFNET: FakeRemover(BIREFNET, error=failing),
        KIE: Cutter(KIE, share=0.25, sends=True),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("render"), stand_ins=stand_ins()) as server:
        yield server


def shoot(server: Server, picture: bytes | None = None, models: str = ISNET) -> str:
    record = server.shoot(picture or artwork(), models=models).raise_for_status().json()
    return str(record["request_id"])


def render(server: Server, shot: str, **asked: object) -> dict[str, Any]:
    """The record of a rendering; masks are arrays, everything else is a parameter."""
    files = {name: png_bytes(each) for name, each in asked.items() if isinstance(each, np.ndarray)}
    data = {name: str(each) for name, each in asked.items() if name not in files}
    answer = server.client.post(f"/results/{shot}/render", files=files or None, data=data)
    record: dict[str, Any] = answer.raise_for_status().json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/results/{record['request_id']}"
    assert answer.headers["x-cost-usd"] == "0.000000"
    return record


def pixels(server: Server, address: str) -> Pixels:
    answer = server.client.get(address).raise_for_status()
    with Image.open(io.BytesIO(answer.content), formats=("PNG",)) as picture:
        return np.asarray(picture)


def cutout(server: Server, shot: str, model: str = ISNET) -> Pixels:
    return pixels(server, f"/results/{shot}/{model}.png")


def original(picture: bytes) -> Pixels:
    with Image.open(io.BytesIO(picture)) as opened:
        return np.asarray(opened.convert("RGB"))


def mask(rows: slice, columns: slice, *, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Pixels:
    painted = np.zeros(size, np.uint8)
    painted[rows, columns] = 255
    return painted


ALL = slice(None)


def test_keep_restores_what_the_model_cut_away_exactly(server: Server) -> None:
    shot = shoot(server)
    record = render(server, shot, keep=mask(slice(10, 30), ALL))
    before, after = cutout(server, shot), cutout(server, record["request_id"])
    assert np.array_equal(after[10:30, :, :3], original(artwork())[10:30])
    assert (after[10:30, :, 3] == 255).all()
    assert np.array_equal(np.delete(after, range(10, 30), 0), np.delete(before, range(10, 30), 0))
    told = record["rendered_from"]
    assert (told["restored_px"], told["erased_px"]) == (20 * WIDTH // 2, 0)


def test_a_photograph_comes_back_as_the_customer_sent_it(server: Server) -> None:
    photo = (DATA / "car-1.jpg").read_bytes()
    shot = shoot(server, photo)
    size = original(photo).shape[:2]
    record = render(server, shot, keep=mask(ALL, ALL, size=size))
    assert np.array_equal(cutout(server, record["request_id"])[..., :3], original(photo))


def test_almost_white_becomes_white_and_nothing_else_changes(server: Server) -> None:
    almost = np.full((HEIGHT, WIDTH, 3), (250, 251, 254), np.uint8)
    almost[10:20, :, 1] = 249  # one channel below: a colour
    almost[20:30] = (17, 34, 51)
    shot = shoot(server, png_bytes(almost))
    before = render(server, shot, width_in=0.2)["results"][0]["print_check"]
    assert {"near_white": "warn"}.items() <= _severities(before).items()
    record = render(server, shot, snap_white=True, width_in=0.2)
    left = (ALL, slice(0, WIDTH // 2))  # what the stand-in keeps
    after = cutout(server, record["request_id"])[left][..., :3]
    expected = almost[left].copy()
    expected[:10] = expected[30:] = 255
    assert np.array_equal(after, expected)
    assert _severities(record["results"][0]["print_check"])["near_white"] == "pass"


def _severities(check: dict[str, Any]) -> dict[str, str]:
    return {each["id"]: each["severity"] for each in check["checks"]}


def test_erase_clears_and_leaves_everything_else(server: Server) -> None:
    shot = shoot(server)
    record = render(server, shot, erase=mask(slice(5, 9), slice(3, 11)))
    before, after = cutout(server, shot), cutout(server, record["request_id"])
    assert not after[5:9, 3:11, 3].any()
    changed = (before != after).any(axis=2)
    assert not np.delete(changed, range(5, 9), axis=0).any()
    assert record["rendered_from"]["erased_px"] == 4 * 8


def test_one_mask_keeps_and_erases_and_json_carries_it(server: Server) -> None:
    shot = shoot(server)
    both = np.full((HEIGHT, WIDTH), 128, np.uint8)
    both[:10], both[-10:] = 255, 0
    encoded = "data:image/png;base64," + base64.b64encode(png_bytes(both)).decode()
    answer = server.client.post(f"/results/{shot}/render", json={"mask": encoded})
    after = cutout(server, answer.raise_for_status().json()["request_id"])
    assert (after[:10, :, 3] == 255).all()
    assert not after[-10:, :, 3].any()
    assert np.array_equal(after[10:-10], cutout(server, shot)[10:-10])


def test_a_smaller_mask_of_the_same_proportions_is_enlarged(server: Server) -> None:
    shot = shoot(server)
    small = mask(slice(6), ALL, size=(HEIGHT // 4, WIDTH // 4))
    after = cutout(server, render(server, shot, erase=small)["request_id"])
    assert not after[:20, :, 3].any()
    assert (after[28:, : WIDTH // 2, 3] == 255).all()


def test_a_rendering_is_a_result_of_its_own_for_nothing(server: Server) -> None:
    removers = stand_ins()
    with serving(server.temp_dir / "own", stand_ins=removers) as own:
        shot = shoot(own, models=f"{ISNET},{KIE}")
        for remover in removers.values():
            remover.asked.clear()
        record = render(own, shot, model=KIE, edge="print")
        assert not any(remover.asked.is_set() for remover in removers.values())
        assert own.client.get("/costs").json()["cost_usd"] == 0
        assert record["cost_usd"] == 0
        assert [each["model"] for each in record["results"]] == [KIE]
        assert record["recommended"] == KIE
        assert own.client.get(f"/results/{record['request_id']}").json() == record
        before = own.client.get(f"/results/{shot}").json()
        assert own.client.delete(f"/results/{record['request_id']}").status_code == 204
        assert own.client.get(f"/results/{shot}").json() == before


def test_a_pick_belongs_to_the_shot_not_to_its_rendering(server: Server) -> None:
    shot = shoot(server)
    rendered = render(server, render(server, shot)["request_id"])["request_id"]
    body = problem(
        server.client.post("/preferences", json={"request_id": rendered, "model": ISNET}),
        409,
        "not_pickable",
    )
    assert shot in str(body["hint"])
    picked = server.client.post("/preferences", json={"request_id": shot, "model": ISNET})
    assert picked.status_code == 201


def test_without_a_model_the_recommended_is_rendered(server: Server) -> None:
    shot = shoot(server, models=f"{BIREFNET},{ISNET}")
    record = render(server, shot)
    assert record["recommended"] == ISNET
    assert np.array_equal(cutout(server, record["request_id"]), cutout(server, shot))


def test_an_edge_without_a_size_is_the_cutouts_own(server: Server) -> None:
    shot = shoot(server)
    soft = np.tile(np.linspace(0, 255, WIDTH, dtype=np.uint8), (HEIGHT, 1))
    record = render(server, shot, erase=soft, edge="hard")
    alpha = cutout(server, record["request_id"])[..., 3]
    assert set(np.unique(alpha).tolist()) == {0, 255}
    entry = record["results"][0]
    assert entry["edge_report"]["edge"] == "hard"
    assert entry["edge_report"]["after"]["semi_transparent"] == 0
    assert "print_url" not in entry


def test_with_a_size_the_print_is_made_when_it_is_asked_for_and_checked_at_once(
    server: Server,
) -> None:
    shot = shoot(server)
    record = render(server, shot, width_in=0.4, edge="hard", trim=1, garment="navy")
    entry = record["results"][0]
    home = server.temp_dir / "results" / record["request_id"]
    assert sorted(each.name for each in home.iterdir()) == [f"{ISNET}.png", "original"]
    assert np.array_equal(cutout(server, record["request_id"]), cutout(server, shot))
    assert pixels(server, entry["print_url"]).shape == (entry["print_height"], 120, 4)
    checks = {each["id"]: each for each in entry["print_check"]["checks"]}
    assert entry["print_check"]["width_in"] == 0.4
    assert "navy" in checks["visible_on_garment"]["issue"]


def test_a_rendering_is_rendered_again_though_its_shot_is_gone(server: Server) -> None:
    shot = shoot(server)
    soft = np.tile(np.linspace(0, 255, WIDTH, dtype=np.uint8), (HEIGHT, 1))
    brushed = render(server, shot, erase=soft)
    hard = render(server, shot, erase=soft, edge="hard")
    assert server.client.delete(f"/results/{shot}").status_code == 204
    softened = render(server, hard["request_id"], edge="soft")
    assert softened["rendered_from"]["request_id"] == hard["request_id"]
    assert softened["rendered_from"]["first"] == shot
    assert np.array_equal(
        cutout(server, softened["request_id"]), cutout(server, brushed["request_id"])
    )
    restored = render(server, softened["request_id"], keep=mask(ALL, ALL))
    assert np.array_equal(cutout(server, restored["request_id"])[..., :3], original(artwork()))
    assert restored["rendered_from"]["first"] == shot


def test_renderings_survive_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path, stand_ins=stand_ins()) as server:
        record = render(server, shoot(server), edge="hard")
    with serving(tmp_path, stand_ins=stand_ins()) as server:
        again = render(server, record["request_id"], keep=mask(slice(9), ALL))
        assert (cutout(server, again["request_id"])[:9, :, 3] == 255).all()


def test_a_session_renders_its_own_results_and_nobody_elses(tmp_path: Path) -> None:
    keys = {name: f"a-key-of-the-{name}-shop" for name in ("one", "two")}
    with serving(
        tmp_path,
        stand_ins=stand_ins(),
        api_keys=",".join(f"{name}:{key}" for name, key in keys.items()),
    ) as server:
        session = server.client.post(
            "/sessions", json={"shots": 1}, headers={"X-API-Key": keys["one"]}
        ).json()["token"]
        mine, owner, other = ({"X-API-Key": key} for key in (session, keys["one"], keys["two"]))
        shot = server.client.post(
            "/remove-background",
            files={"image": artwork()},
            data={"models": ISNET},
            headers=mine,
        ).json()["request_id"]
        rendered = server.client.post(f"/results/{shot}/render", headers=mine)
        assert rendered.status_code == 201, "out of shots, and a rendering is none"
        address = f"/results/{rendered.json()['request_id']}"
        for headers, status in ((mine, 200), (owner, 200), (other, 404)):
            assert server.client.get(address, headers=headers).status_code == status
        assert server.client.get(rendered.json()["results"][0]["url"]).status_code == 200
        problem(server.client.post(f"{address}/render", headers=other), 404, "result_not_found")
        problem(server.client.post(f"{address}/render"), 401, "missing_key")
        token = rendered.json()["results"][0]["url"].partition("token=")[2]
        problem(server.client.post(f"{address}/render?token={token}"), 401, "missing_key")


def posted(server: Server, shot: str, **asked: Any) -> httpx.Response:  # noqa: ANN401  # httpx's own
    return server.client.post(f"/results/{shot}/render", **asked)


def test_what_is_not_there_cannot_be_rendered(server: Server) -> None:
    problem(posted(server, NOBODY), 404, "result_not_found")
    shot = shoot(server, models=f"{BIREFNET},{ISNET}")
    problem(posted(server, shot, data={"model": BIREFNET}), 409, "not_pickable")
    problem(posted(server, shot, data={"model": KIE}), 409, "not_pickable")
    (server.temp_dir / "results" / shot / "original").unlink()
    files = {"keep": png_bytes(mask(ALL, ALL))}
    problem(posted(server, shot, files=files), 409, "original_not_kept")
    assert posted(server, shot, files={"erase": files["keep"]}).status_code == 201


WHITE = mask(ALL, ALL)


@pytest.mark.parametrize(
    ("asked", "status", "code", "field"),
    [
        ({"files": {"keep": b"no picture"}}, 415, "unsupported_media_type", "keep"),
        ({"files": {"erase": b""}}, 400, "empty_file", "erase"),
        ({"files": {"mask": png_bytes(WHITE)[:-20]}}, 422, "image_truncated", "mask"),
        ({"files": {"keep": png_bytes(WHITE.T)}}, 400, "invalid_parameter", "keep"),
        (
            {"files": {"keep": png_bytes(np.zeros((HEIGHT * 2, WIDTH * 2), np.uint8))}},
            400,
            "invalid_parameter",
            "keep",
        ),
        (
            {"files": {"keep": png_bytes(WHITE), "mask": png_bytes(WHITE)}},
            400,
            "invalid_parameter",
            "mask",
        ),
        ({"files": {"image": png_bytes(WHITE)}}, 400, "invalid_parameter", "image"),
        ({"json": {"keep": 7}}, 400, "invalid_parameter", "keep"),
        ({"json": {"keep": "not base64!"}}, 400, "invalid_parameter", "keep"),
        ({"json": ["keep"]}, 400, "invalid_parameter", "body"),
        ({"data": {"scale": "9"}}, 422, "scale_out_of_range", None),
        ({"data": {"scale": "2", "width_in": "3"}}, 400, "invalid_parameter", "scale"),
        ({"data": {"sharp": "1"}}, 400, "invalid_parameter", "sharp"),
        ({"data": {"edge": "halftone", "lpi": "150"}}, 400, "invalid_parameter", "lpi"),
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, None, None),
    ],
    ids=str,
)
def test_bad_input_is_named_and_leaves_nothing_behind(
    server: Server, asked: dict[str, Any], status: int, code: str | None, field: str | None
) -> None:
    shot = shoot(server)
    before = sorted((server.temp_dir / "results").iterdir())
    body = problem(posted(server, shot, **asked), status, code or "unsupported_media_type")
    assert body.get("field") == field
    assert sorted((server.temp_dir / "results").iterdir()) == before
    assert not list((server.temp_dir / "uploads").iterdir())


def test_a_mask_of_too_many_bytes_is_refused(server: Server) -> None:
    shot = shoot(server)
    files = {"keep": bytes((8 << 20) + 1)}
    problem(posted(server, shot, files=files), 413, "file_too_large")


def test_no_mask_and_no_name_of_a_file_reaches_the_log(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    shot = shoot(server)
    posted(server, shot, files={"erase": ("my secret.png", png_bytes(WHITE))})
    posted(server, shot, json={"erase": "aGFsbG8gd2VsdA=="})
    said = json.dumps([str(record.__dict__) for record in caplog.records])
    assert "my secret" not in said
    assert "aGFsbG8" not in said
