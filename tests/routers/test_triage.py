"""Triage over real HTTP: said in the record, and no money for what needs no model."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.triage_set import cutouts, on_board
from models.images import Pixels
from models.schemas import ModelId
from sandbox.opening import Sandbox
from sandbox.options import Options, Times
from tests.conftest import DATA, Server, artwork, png_bytes, problem, serving
from tests.fakes import FakeRemover
from tests.sandbox_thread import running_sandbox
from tests.services.test_providers import service

PAID = ("runware-rmbg-2.0", "runware-birefnet-portrait", "kie-recraft")
ALL_PAID = ",".join(PAID)
CUT_OUT = (DATA / "art" / "shamrock_symbol_jonadab__01.png").read_bytes()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(Options(times=Times(kie_step_s=0.05))) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def server(sandbox: Sandbox) -> Iterator[Server]:
    with service(sandbox) as server:
        yield server


@pytest.fixture(scope="module")
def board() -> bytes:
    return png_bytes(on_board(art(), 8, (204, 255)))


def art() -> Pixels:
    image = next(iter(cutouts())).image
    assert image.alpha is not None
    return np.dstack((image.rgb, image.alpha))[::2, ::2]


def statuses(record: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(each["status"], each.get("reason")) for each in record["results"]]


NOT_NEEDED = ("skipped", "not_needed")
SUCCEEDED = ("succeeded", None)


@pytest.mark.parametrize("route", ["/remove-background", "/process"])
def test_no_money_is_spent_on_a_picture_that_is_cut_out_already(
    server: Server, sandbox: Sandbox, route: str
) -> None:
    before = sandbox.bill.total_usd
    record = server.client.post(
        route, files={"image": CUT_OUT}, data={"models": f"{ALL_PAID},local-isnet,local-knockout"}
    ).json()
    assert record["image"]["kind"] == "transparent"
    assert record["image"]["note"] == "The picture is already cut out."
    assert statuses(record) == [NOT_NEEDED] * 3 + [SUCCEEDED] * 2
    assert "already cut out" in record["results"][0]["detail"]
    assert sandbox.bill.total_usd == before
    assert server.client.get(f"/results/{record['request_id']}").json()["image"] == record["image"]


def test_no_money_is_spent_on_a_blank_picture(server: Server, sandbox: Sandbox) -> None:
    before = sandbox.bill.total_usd
    blank = png_bytes(np.full((300, 400, 3), 255, np.uint8))
    record = server.shoot(blank, models=f"{ALL_PAID},local-knockout").json()
    assert record["image"]["kind"] == "blank"
    assert statuses(record) == [NOT_NEEDED] * 3 + [SUCCEEDED]
    assert sandbox.bill.total_usd == before


def test_only_paid_models_and_none_is_needed_is_an_answer_and_no_error(server: Server) -> None:
    response = server.shoot(CUT_OUT, models=ALL_PAID)
    assert response.status_code == 200
    assert response.json()["status"] == "complete"
    assert statuses(response.json()) == [NOT_NEEDED] * 3


def test_triage_off_asks_them_all_the_same(server: Server, sandbox: Sandbox) -> None:
    before = sandbox.bill.total_usd
    record = server.shoot(CUT_OUT, models="kie-recraft", triage="off").json()
    assert statuses(record) == [SUCCEEDED]
    assert "kind" not in record["image"]
    assert sandbox.bill.total_usd - before == Decimal("0.005")


def test_a_painted_checkerboard_is_said_and_nothing_is_withheld(
    server: Server, board: bytes
) -> None:
    record = server.shoot(board, models="runware-birefnet-portrait,local-knockout").json()
    assert record["image"]["kind"] == "checkerboard"
    assert "painted" in record["image"]["note"]
    assert statuses(record) == [SUCCEEDED] * 2


def test_artwork_and_photos_are_said(server: Server) -> None:
    large = server.shoot(artwork(width=300, height=260), models="local-knockout").json()
    assert large["image"]["kind"] == "artwork"
    assert "note" not in large["image"]
    photo = (DATA / "car-1.jpg").read_bytes()
    assert server.shoot(photo, models="local-isnet").json()["image"]["kind"] == "photo"


def test_a_png_cannot_be_answered_where_no_model_was_asked(server: Server) -> None:
    response = server.client.post(
        "/remove-background",
        files={"image": CUT_OUT},
        data={"models": ALL_PAID},
        headers={"Accept": "image/png"},
    )
    body = problem(response, 503, "no_model_available")
    assert "already cut out" in str(body["detail"])
    assert "triage=off" in str(body["detail"])


def test_a_model_without_a_key_says_so_whatever_the_picture_is(tmp_path: Path) -> None:
    stand_ins = {ModelId.KIE_RECRAFT: FakeRemover(ModelId.KIE_RECRAFT)}
    with serving(tmp_path, stand_ins=stand_ins) as server:
        record = server.shoot(CUT_OUT, models=ALL_PAID).json()
    assert statuses(record) == [("skipped", "unconfigured")] * 2 + [NOT_NEEDED]
    assert not stand_ins[ModelId.KIE_RECRAFT].asked.is_set()


def test_a_local_model_that_fails_on_a_cutout_is_still_an_error(tmp_path: Path) -> None:
    broken = FakeRemover(ModelId.LOCAL_ISNET, error=RuntimeError("boom"))
    paid = FakeRemover(ModelId.KIE_RECRAFT)
    stand_ins = {broken.name: broken, paid.name: paid}
    with serving(tmp_path, stand_ins=stand_ins) as server:
        problem(server.shoot(CUT_OUT, models="kie-recraft,local-isnet"), 502, "all_models_failed")
    assert not paid.asked.is_set()
