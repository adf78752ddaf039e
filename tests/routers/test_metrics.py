"""GET /metrics: what Prometheus' own parser reads, who may ask, and that no label can grow."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from models.errors import FailureCode, RemoverError
from models.schemas import ModelId
from tests.answering import ISNET, KNOCKOUT, RMBG, Cutter, await_status, names, table
from tests.conftest import ROOT, Server, artwork, problem, serving
from tests.receiver import receiving
from utils.spans import SPAN_NAMES

KEY, TOKEN = "shop-key-0123456789", "scraper-0123456789"
PAGE = (ROOT / "docs" / "METRICS.md").read_text(encoding="utf-8")

Sample = dict[tuple[str, ...], float]


class Scrape:
    """A scrape, read with Prometheus' parser: values by name, then by the labels' values."""

    def __init__(self, server: Server, **headers: str) -> None:
        answer = server.client.get("/metrics", headers=headers).raise_for_status()
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        self.text = answer.text
        self.values: dict[str, Sample] = {}
        self.families = {}
        for family in text_string_to_metric_families(answer.text):
            self.families[family.name] = family
            for sample in family.samples:
                series = self.values.setdefault(sample.name, {})
                labels = tuple(sample.labels[name] for name in sorted(sample.labels))
                assert labels not in series, f"{sample.name}{labels} is there twice"
                series[labels] = sample.value

    def one(self, name: str, *labels: str) -> float:
        """The value for the labels' values, in the order of the labels' names."""
        return self.values[f"dtf_{name}"][labels]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    refusal = RemoverError(FailureCode.CONTENT_REJECTED, "no")
    stand_ins = table(Cutter(ISNET), Cutter(RMBG, error=refusal), Cutter(KNOCKOUT, held=True))
    with (
        receiving() as shop,
        serving(
            tmp_path_factory.mktemp("metrics"),
            stand_ins=stand_ins,
            webhook_secret="w" * 16,
            webhook_allowed_hosts=shop.place,
            daily_budget_usd=5,
        ) as running,
    ):
        running.shoot(
            artwork(), models=names(*stand_ins.values()), min_results="1", callback_url=shop.url
        ).raise_for_status()
        stand_ins[KNOCKOUT].release()
        shop.next()
        yield running


def test_a_shot_is_told_from_its_arrival_to_its_webhook(server: Server) -> None:
    seen = Scrape(server)
    assert seen.one("model_outcomes_total", "content_rejected", str(RMBG), "failed") == 1
    assert seen.one("model_outcomes_total", "", str(KNOCKOUT), "succeeded") == 1
    assert seen.one("model_latency_seconds_count", str(KNOCKOUT)) == 1
    assert seen.one("request_duration_seconds_count", "POST", "/remove-background") >= 1
    assert seen.one("status_codes_total", "200") >= 1
    assert seen.one("images_in_progress") == 0
    assert seen.one("requests_in_progress") == 1  # this one
    of_the_request = {span for model, span in spans(seen) if not model}
    of_isnet = {span for model, span in spans(seen) if model == ISNET}
    whole = {"receive", "queue", "pool_wait", "inspect", "decode", "triage", "rank", "record"}
    assert of_the_request >= whole | {"webhook"}
    assert of_isnet >= {"model", "store", "encode", "pool_wait"}
    assert (str(KNOCKOUT), "encode") in spans(seen)  # it landed after the answer


def test_states_are_read_when_they_are_asked_for(server: Server) -> None:
    before = Scrape(server)
    assert before.one("budget_limit_usd", "") == 5
    assert before.one("model_status", str(ISNET), "ready") == 1
    assert before.one("queue_running_limit", "shots") == 4
    assert before.one("results_bytes") > 0
    assert before.one("memory_resident_bytes", "service") > 30 << 20
    assert 0 < before.one("disk_free_bytes", "temp") <= before.one("disk_size_bytes", "temp")


def test_what_is_under_way_is_counted_while_it_is(tmp_path: Path) -> None:
    held = Cutter(ISNET, held=True)
    with serving(tmp_path, stand_ins=table(held)) as server:
        shot = server.client.post(
            "/remove-background",
            files={"image": artwork()},
            data={"models": ISNET},
            headers={"Prefer": "respond-async"},
        ).json()
        during = Scrape(server)
        held.release()
        await_status(server, shot["request_id"])
        after = Scrape(server)
    assert during.one("images_in_progress") == during.one("queue_running", "shots") == 1
    assert after.one("images_in_progress") == 0


def test_every_name_is_in_the_table_and_the_table_has_no_other(server: Server) -> None:
    told = {
        name
        for line in PAGE.partition("## The names")[2].partition("\n## ")[0].splitlines()
        if line.startswith("| `dtf_")
        for name in re.findall(r"`(dtf_\w+)`", line.split("|")[1])
    }
    families = Scrape(server).families.values()
    named = {f"{each.name}_total" if each.type == "counter" else each.name for each in families}
    assert {name for name in named if name.startswith("dtf_")} == told
    steps = PAGE.partition("## Steps")[2].partition("\n## ")[0]
    spans_told = re.findall(r"^\| `(\w+)` \| [^F]", steps, re.MULTILINE)
    assert sorted(spans_told) == sorted(SPAN_NAMES)


def test_names_follow_prometheus_conventions(server: Server) -> None:
    for family in Scrape(server).families.values():
        assert family.documentation
        assert not re.search(r"_(ms|mb|mib|kb|percent|count)$", family.name)
        if family.type == "counter":
            assert all(each.name.endswith(("_total", "_created")) for each in family.samples), (
                family.name
            )
        else:
            assert not family.name.endswith("_total")
        assert len({tuple(sorted(each.labels)) for each in family.samples}) <= 2  # `le`


def test_nothing_that_a_client_sends_becomes_a_label(server: Server) -> None:
    before = Scrape(server)
    ids = ["f" * 32, "0" * 32]
    for each in ids:
        server.client.get(f"/results/{each}")
        server.client.get(f"/nothing/{each}")
        server.client.request(f"X{each}", f"/results/{each}")
        server.client.get("/health", headers={"X-Request-ID": each, "X-API-Key": each})
        server.client.post("/remove-background", data={"models": each})
    after = Scrape(server)
    assert not any(each in after.text for each in ids)
    new = {
        (name, labels)
        for name, series in after.values.items()
        for labels in series
        if labels not in before.values.get(name, {})
    }
    routes = {labels for name, labels in new if name == "dtf_request_duration_seconds_count"}
    assert routes <= {
        ("GET", "/results/{request_id}"),
        ("GET", "none"),
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("other", "none"),
    }


def test_two_applications_count_apart(tmp_path: Path) -> None:
    with serving(tmp_path / "a") as one, serving(tmp_path / "b") as other:
        for _ in range(5):
            one.client.get("/models")
        assert Scrape(one).one("request_duration_seconds_count", "GET", "/models") == 5
        assert "/models" not in Scrape(other).text


def test_the_metrics_want_a_key_or_the_scrapers_token_and_no_session_reads_them(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, api_keys=f"shop:{KEY}", metrics_token=TOKEN) as server:
        problem(server.client.get("/metrics"), 401, "missing_key")
        problem(server.client.get("/metrics", headers=bearer("x" * 20)), 401, "invalid_key")
        for credential in (KEY, TOKEN):
            server.client.get("/metrics", headers=bearer(credential)).raise_for_status()
        session = server.client.post("/sessions", headers=bearer(KEY), json={}).json()["token"]
        problem(server.client.get("/metrics", headers=bearer(session)), 403, "not_allowed")
        for path in ("/costs", "/models", "/errors", "/results/" + "0" * 32):
            problem(server.client.get(path, headers=bearer(TOKEN)), 401, "invalid_key")


def test_the_scrapers_token_closes_the_metrics_of_an_open_service(tmp_path: Path) -> None:
    with serving(tmp_path, metrics_token=TOKEN) as server:
        problem(server.client.get("/metrics"), 401, "missing_key")
        problem(server.client.get("/metrics", headers=bearer("x" * 20)), 401, "invalid_key")
        server.client.get("/metrics", headers=bearer(TOKEN)).raise_for_status()
        server.client.get("/models").raise_for_status()


def test_picks_replays_and_problems_are_counted_once(server: Server) -> None:
    key = {"Idempotency-Key": "order-7"}
    form = {"files": {"image": artwork()}, "data": {"models": str(ISNET)}, "headers": key}
    shot = server.client.post("/remove-background", **form).json()  # type: ignore[arg-type]
    again = server.client.post("/remove-background", **form)  # type: ignore[arg-type]
    assert again.headers["idempotent-replayed"] == "true"
    before = Scrape(server).values["dtf_errors_total"].get(("result_not_found",), 0)
    pick = {"request_id": shot["request_id"], "model": str(ISNET)}
    assert server.client.post("/preferences", json=pick).status_code == 201
    assert server.client.post("/preferences", json=pick).status_code == 200
    problem(server.client.get("/results/" + "0" * 32), 404, "result_not_found")
    seen = Scrape(server)
    assert seen.one("picks_total", str(ISNET)) == 1
    assert seen.one("idempotent_replays_total", "replayed") == 1
    assert seen.one("errors_total", "result_not_found") == before + 1
    assert seen.one("webhooks_total", "delivered") == 1


def test_server_timing_names_steps_and_models(server: Server) -> None:
    timing = server.shoot(artwork(), models=str(ISNET)).headers["server-timing"]
    parts = dict(part.split(";dur=") for part in timing.split(", "))
    assert {"receive", "queue", "inspect", "decode", "triage", str(ISNET), "total"} <= set(parts)
    assert all(each.isdecimal() for each in parts.values())
    assert timing.endswith(f"total;dur={parts['total']}")


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


def spans(seen: Scrape) -> set[tuple[str, ...]]:
    """(model, span) of every step that was measured."""
    return set(seen.values["dtf_request_span_duration_seconds_count"])


def test_paid_models_show_their_steps_money_and_breakers(tmp_path: Path) -> None:
    with serving(
        tmp_path, runware_api_key="sandbox", kie_api_key="sandbox", provider_pace=0.05
    ) as server:
        models = f"{ModelId.RUNWARE_RMBG},{ModelId.KIE_RECRAFT}"
        cost = server.shoot(artwork(), models=models).json()["cost_usd"]
        seen = Scrape(server)
    assert sum(seen.values["dtf_cost_usd_total"].values()) == pytest.approx(cost)
    assert seen.one("cost_today_usd") == pytest.approx(cost)
    assert seen.one("breaker_state", "kie", "closed") == 1
    of_kie = {span for model, span in spans(seen) if model == ModelId.KIE_RECRAFT}
    assert of_kie >= {"model", "fit", "remote", "fetch_result", "project", "store", "encode"}
