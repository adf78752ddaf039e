"""GET /costs, budgets and breakers over real HTTP, with the sandbox's bill as the judge."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.schemas import ModelId
from sandbox.opening import Sandbox
from sandbox.options import Options, Times
from tests.conftest import Server, artwork, problem, serving
from tests.fakes import FakeRemover
from tests.sandbox_thread import provider_settings, running_sandbox

PICTURE = artwork(width=300, height=280)
PAID = "runware-rmbg-2.0,runware-birefnet-portrait,kie-recraft"
RMBG, PORTRAIT, KIE = PAID.split(",")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(Options(times=Times(kie_step_s=0.02, late_s=900))) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def no_faults(sandbox: Sandbox) -> None:
    sandbox.faults.clear()


@contextmanager
def service(
    sandbox: Sandbox, folder: Path, *, key: str = "sandbox-test", **overrides: object
) -> Iterator[Server]:
    stand_ins = {ModelId.LOCAL_ISNET: FakeRemover(ModelId.LOCAL_ISNET)}
    chosen = {**provider_settings(sandbox, key=key), "provider_pace": 0.02, **overrides}
    with serving(folder, stand_ins=stand_ins, **chosen) as server:
        yield server


def shoot(server: Server, models: str, **asked: str) -> httpx.Response:
    return server.shoot(PICTURE, models=models, **asked)


def statuses(response: httpx.Response) -> dict[str, str]:
    results = response.raise_for_status().json()["results"]
    return {each["model"]: each.get("reason", each["status"]) for each in results}


def costs(server: Server, **asked: int) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get("/costs", params=asked).raise_for_status().json()
    return found


@pytest.fixture(scope="module")
def server(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Without any budget, and with a spending of long ago."""
    folder = tmp_path_factory.mktemp("costs")
    (folder / "data").mkdir()
    (folder / "data" / "costs.jsonl").write_text(
        '{"day":"2020-01-01","model":"kie-recraft","key":"shop","tasks":3,"cost_usd":"0.015"}\n'
    )
    with service(sandbox, folder) as server:
        yield server


def test_the_operator_sees_what_a_shot_cost_and_the_bill_says_the_same(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    before = sandbox.bill.total_usd
    with service(sandbox, tmp_path) as server:
        shot = shoot(server, f"{PAID},local-isnet")
        told = costs(server)
    assert set(statuses(shot).values()) == {"succeeded"}
    assert sandbox.bill.total_usd - before == Decimal("0.0236")
    assert shot.headers["x-cost-usd"] == "0.023600"
    today = told["until"]
    assert told["cost_usd"] == 0.0236
    assert told["by_day"] == {today: 0.0236}
    assert told["by_model"] == {RMBG: 0.018, PORTRAIT: 0.0006, KIE: 0.005}
    assert told["by_key"] == {"open": 0.0236}
    assert {(row["day"], row["key"], row["tasks"]) for row in told["spend"]} == {(today, "open", 1)}
    assert told["unsettled"] == {"count": 0, "may_cost_usd": 0.0, "tasks": []}
    assert told["budgets"] == []
    assert [(each["provider"], each["state"]) for each in told["breakers"]] == [
        ("runware", "closed"),
        ("kie", "closed"),
    ]


def test_days_counts_today_and_the_days_before(server: Server) -> None:
    earliest = datetime.now(UTC).date()
    told = costs(server, days=1)
    assert earliest.isoformat() <= told["since"] == told["until"]
    assert "shop" not in costs(server)["by_key"]
    assert costs(server, days=3660)["by_key"]["shop"] == 0.015


@pytest.mark.parametrize("days", ["0", "3661", "many"])
def test_days_of_nonsense_are_refused(server: Server, days: str) -> None:
    refused = server.client.get("/costs", params={"days": days})
    assert problem(refused, 400, "invalid_parameter")["field"] == "days"


@pytest.mark.parametrize("asked", [{"scale": "1"}, {"scale": "1", "format": "tiff"}])
def test_an_enlargement_costs_nothing_and_says_so(server: Server, asked: dict[str, str]) -> None:
    answer = server.client.post("/upscale", files={"image": ("a.png", PICTURE)}, data=asked)
    assert answer.raise_for_status().headers["x-cost-usd"] == "0.000000"


@pytest.mark.parametrize("pick", [{}, {"pick": PORTRAIT}])
def test_a_process_says_what_its_shot_cost(server: Server, pick: dict[str, str]) -> None:
    asked = {"models": PORTRAIT, "scale": "1", **pick}
    answer = server.client.post("/process", files={"image": ("a.png", PICTURE)}, data=asked)
    assert answer.raise_for_status().headers["x-cost-usd"] == "0.000600"


# --- what one call may cost


@pytest.mark.parametrize(
    ("route", "most", "asked"),
    [
        ("/remove-background", "1", {RMBG, PORTRAIT, KIE}),
        ("/remove-background", "0.0056", {PORTRAIT, KIE}),
        ("/remove-background", "0", set()),
        ("/process", "0.0055", {PORTRAIT}),
    ],
)
def test_a_calls_own_limit_takes_the_cheapest_and_the_free_models_go_on(
    sandbox: Sandbox, server: Server, route: str, most: str, asked: set[str]
) -> None:
    before = sandbox.bill.total_usd
    shot = server.client.post(
        route,
        files={"image": ("customer.png", PICTURE)},
        data={"models": f"{PAID},local-isnet", "max_cost_usd": most},
    )
    found = statuses(shot)
    succeeded = {model for model, status in found.items() if status == "succeeded"}
    assert succeeded == {*asked, "local-isnet"}
    assert {found[model] for model in found.keys() - succeeded} <= {"budget"}
    assert sandbox.bill.total_usd - before == Decimal(str(shot.json()["cost_usd"]))
    assert shot.json()["cost_usd"] <= float(most)


@pytest.mark.parametrize(
    ("models", "most", "cheapest"), [(PAID, "0", 0.0006), (RMBG, "0.017", 0.018)]
)
def test_a_call_of_which_nothing_fits_is_refused(
    server: Server, models: str, most: str, cheapest: float
) -> None:
    kept = len(list((server.temp_dir / "results").iterdir()))
    refused = problem(shoot(server, models, max_cost_usd=most), 402, "budget_exhausted")
    assert (refused["limit"], refused["actual"]) == (float(most), cheapest)
    assert "max_cost_usd" in str(refused["detail"])
    assert len(list((server.temp_dir / "results").iterdir())) == kept
    assert not list((server.temp_dir / "uploads").iterdir())


@pytest.mark.parametrize("value", ["-0.001", "nan", "inf", "cheap"])
def test_a_limit_of_nonsense_is_refused(server: Server, value: str) -> None:
    refused = shoot(server, PAID, max_cost_usd=value)
    assert problem(refused, 400, "invalid_parameter")["field"] == "max_cost_usd"


# --- what a day may cost


def test_shots_that_come_together_cannot_overshoot_the_day(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    before = sandbox.bill.total_usd
    with (
        service(sandbox, tmp_path, daily_budget_usd="0.003", max_concurrent_jobs=12) as server,
        ThreadPoolExecutor(12) as clients,
    ):
        shots = list(clients.map(lambda _: shoot(server, f"{PORTRAIT},local-isnet"), range(12)))
        refused = shoot(server, PAID)
        told = costs(server)
        free = shoot(server, "local-isnet")
    found = [statuses(shot)[PORTRAIT] for shot in shots]
    assert sorted(found) == ["budget"] * 7 + ["succeeded"] * 5
    assert {statuses(shot)["local-isnet"] for shot in shots} == {"succeeded"}
    details = [shot.json()["results"][0].get("detail", "DAILY_BUDGET_USD") for shot in shots]
    assert all("DAILY_BUDGET_USD" in detail for detail in details)
    assert sandbox.bill.total_usd - before == Decimal("0.003")
    assert problem(refused, 402, "budget_exhausted")["limit"] == 0.003
    assert told["budgets"] == [
        {
            "name": "DAILY_BUDGET_USD",
            "limit_usd": 0.003,
            "settled_usd": 0.003,
            "in_flight_usd": 0.0,
            "left_usd": 0.0,
        }
    ]
    assert statuses(free) == {"local-isnet": "succeeded"}


def test_a_key_has_a_day_of_its_own(sandbox: Sandbox, tmp_path: Path) -> None:
    with service(sandbox, tmp_path, key_daily_budgets="open=0.01,shop=1") as server:
        assert statuses(shoot(server, PAID)) == {
            RMBG: "budget",
            PORTRAIT: "succeeded",
            KIE: "succeeded",
        }
        assert problem(shoot(server, KIE), 402, "budget_exhausted")["limit"] == 0.01
        told = costs(server)
    assert {each["key"]: each["left_usd"] for each in told["budgets"]} == {
        "open": 0.0044,
        "shop": 1.0,
    }


def test_what_is_not_settled_counts_once_against_the_day(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.set("runware.late")
    with service(sandbox, tmp_path, daily_budget_usd="0.02") as server:
        shot = shoot(server, f"{RMBG},local-isnet", deadline_s="1")
        told = costs(server)
        refused = shoot(server, KIE)
    assert statuses(shot)[RMBG] == "pending"
    assert (told["unsettled"]["count"], told["unsettled"]["may_cost_usd"]) == (1, 0.018)
    (task,) = told["unsettled"]["tasks"]
    assert (task["model"], task["key"], task["may_cost_usd"]) == (RMBG, "open", 0.018)
    assert told["budgets"][0]["in_flight_usd"] == 0.018
    assert problem(refused, 402, "budget_exhausted")["actual"] == 0.023


# --- providers left alone


def sent_to(sandbox: Sandbox) -> Counter[str]:
    operations = ("connect", "removeBackground", "upload", "createTask")
    return Counter(
        call.operation for call in sandbox.journal.calls() if call.operation in operations
    )


def test_a_restart_does_not_send_to_a_provider_that_refused_the_key(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with service(sandbox, tmp_path, key="wrong") as server:
        shoot(server, f"{PAID},local-isnet")
    asked = sent_to(sandbox)
    with service(sandbox, tmp_path, key="wrong") as server:
        found = statuses(shoot(server, f"{PAID},local-isnet"))
        told = costs(server)["breakers"]
    assert [found[model] for model in (RMBG, PORTRAIT, KIE)] == ["circuit_open"] * 3
    assert sent_to(sandbox) == asked
    assert [(each["state"], each["opened"], each["probed"]) for each in told] == [
        ("open", 1, 0)
    ] * 2
    assert all(0 < each["probe_in_s"] <= 60 for each in told)


def test_a_provider_that_fails_again_and_again_is_left_alone_and_tried_by_one(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Not so one that only rejects the pictures, however often."""
    sandbox.faults.set("kie.create_500,runware.content_rejected")
    models = f"{PORTRAIT},{KIE},local-isnet"
    with service(sandbox, tmp_path, provider_failures=2, provider_probe_s=1) as server:
        found = [statuses(shoot(server, models)) for _ in range(3)]
        reasons = [each.get("reason") for each in costs(server)["breakers"]]
        sandbox.faults.clear()
        for _ in range(200):
            if statuses(shoot(server, f"{KIE},local-isnet"))[KIE] == "succeeded":
                break
        runware, kie = costs(server)["breakers"]
    assert [each[KIE] for each in found] == ["failed", "failed", "circuit_open"]
    assert [each[PORTRAIT] for each in found] == ["failed"] * 3
    assert reasons[0] is None
    assert reasons[1].startswith("2 requests in a row failed.")
    assert (runware["state"], runware["opened"]) == ("closed", 0)
    assert (kie["state"], kie["opened"], kie["probed"], kie["closed"]) == ("closed", 1, 1, 1)
