"""Every fault of the sandbox, through POST /remove-background: what the faulty model reports, that
nobody else notices, and that the bill shows no second charge.

docs/PROVIDERS.md shows FAULTS as its table; a test holds the two together.
"""

import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from models.schemas import ModelId
from sandbox.faults import NAMES, OFFERED, Kind, Provider
from sandbox.opening import Sandbox
from sandbox.options import Options, Times
from tests.conftest import ROOT, Server, artwork, serving
from tests.fakes import FakeRemover
from tests.sandbox_thread import provider_settings, running_sandbox

PICTURE = artwork(width=300, height=280)
TIMEOUT_S = 5
RUNWARE = {"runware-rmbg-2.0": "bria:2@1", "runware-birefnet-portrait": "runware:112@10"}
KIE = {"kie-recraft": "recraft/remove-background"}
PRICES = {"bria:2@1": "0.018", "runware:112@10": "0.0006", "recraft/remove-background": "0.005"}


@dataclass(frozen=True)
class Report:
    """What a faulty model's entry says, and whether the provider charged for it."""

    code: str | None = None
    retryable: bool | None = None
    charged: bool = True


FINE = Report()
FREE_ERROR = Report("provider_error", retryable=True, charged=False)
BAD_RESULT = Report("provider_bad_result", retryable=False)
TOO_LATE = Report("provider_timeout", retryable=True)
NOT_CHARGED_TOO_LATE = Report("provider_timeout", retryable=True, charged=False)
UNREACHABLE = Report("provider_unreachable", retryable=True, charged=False)
QUOTA = Report("provider_quota", retryable=False, charged=False)
RATE_LIMITED = Report("provider_rate_limited", retryable=True, charged=False)

_RESULTS = {
    "url_404": BAD_RESULT,
    "url_503": FINE,
    "url_expired": BAD_RESULT,
    "url_html": BAD_RESULT,
    "url_redirect": BAD_RESULT,
    "url_foreign": BAD_RESULT,
    "url_truncated": BAD_RESULT,
    "url_endless": BAD_RESULT,
    "slow_body": BAD_RESULT,
    "wrong_size": FINE,
    "no_alpha": BAD_RESULT,
    "empty_alpha": BAD_RESULT,
    "webp": FINE,
}
_RUNWARE = {
    "handshake_503": UNREACHABLE,
    "auth_silent": UNREACHABLE,
    "auth_legacy": FINE,
    "no_pong": FINE,
    "drop_unaccepted": FINE,
    "drop_before_ack": FINE,
    "drop_after_ack": FINE,
    "drop_before_result": FINE,
    "silent": TOO_LATE,
    "slow": NOT_CHARGED_TOO_LATE,
    "late": NOT_CHARGED_TOO_LATE,
    "malformed_json": FINE,
    "binary_frame": FINE,
    "array_frame": FINE,
    "data_object": FINE,
    "data_and_errors": FINE,
    "legacy_task_type": FINE,
    "media_keys": FINE,
    "huge_frame": FINE,
    "duplicate_result": FINE,
    "error_without_uuid": Report("provider_outcome_unknown", retryable=False, charged=False),
    "error_singular": FREE_ERROR,
    "error_in_item": FREE_ERROR,
    "timeout_provider": NOT_CHARGED_TOO_LATE,
    "provider_error": FREE_ERROR,
    "content_rejected": Report("content_rejected", retryable=False, charged=False),
    "insufficient_credits": QUOTA,
    "rate_limited": RATE_LIMITED,
    **_RESULTS,
}
_KIE = {
    "upload_500": FREE_ERROR,
    "quickstart_upload": FINE,
    "edge_1010": Report("provider_error", retryable=False, charged=False),
    "no_credits": QUOTA,
    "unauthorized": Report("provider_refused", retryable=False, charged=False),
    "rate_limited": RATE_LIMITED,
    "quota_433": QUOTA,
    "maintenance": FREE_ERROR,
    "feature_disabled": Report("provider_error", retryable=False, charged=False),
    "create_500": FREE_ERROR,
    "html_502": Report("provider_outcome_unknown", retryable=False, charged=False),
    "lost_reply": Report("provider_outcome_unknown", retryable=False),
    "no_content_type": FINE,
    "real_status": FINE,
    "message_key": FINE,
    "null_record": FINE,
    "poll_500": FINE,
    "stuck": NOT_CHARGED_TOO_LATE,
    "unknown_state": FINE,
    "slow": TOO_LATE,
    "late": TOO_LATE,
    "fail_500": FREE_ERROR,
    "fail_501": FREE_ERROR,
    "timeout_408": NOT_CHARGED_TOO_LATE,
    "result_object": FINE,
    "result_empty": BAD_RESULT,
    "result_without_urls": BAD_RESULT,
    **_RESULTS,
}
FAULTS = {
    **{f"runware.{name}": report for name, report in _RUNWARE.items()},
    **{f"kie.{name}": report for name, report in _KIE.items()},
}


def row(fault: str) -> str:
    """The fault's line in docs/PROVIDERS.md."""
    report, provider = FAULTS[fault], Provider(fault.partition(".")[0])
    kind = Kind(fault.partition(".")[2])
    meaning = next(kinds[kind] for kinds in OFFERED[provider].values() if kind in kinds)
    status = "succeeded" if report.code is None else f"`{report.code}`"
    again = {None: "", True: "yes", False: "no"}[report.retryable]
    charged = "yes" if report.charged else "no"
    return f"| `{fault}` | {meaning} | {status} | {again} | {charged} |"


def test_the_providers_page_shows_this_table() -> None:
    page = (ROOT / "docs" / "PROVIDERS.md").read_text()
    assert [line for line in page.splitlines() if re.match(r"\| `(runware|kie)\.", line)] == [
        row(fault) for fault in FAULTS
    ]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    times = Times(kie_step_s=0.05, slow_s=900, late_s=900)
    with running_sandbox(Options(times=times)) as sandbox:
        yield sandbox


@contextmanager
def service(
    sandbox: Sandbox, *, key: str = "sandbox-test", **overrides: object
) -> Iterator[Server]:
    """A service whose providers are that sandbox; ISNet is a stand-in, to keep the table quick."""
    chosen = {
        **provider_settings(sandbox, key=key),
        "runware_timeout_s": TIMEOUT_S,
        "kie_timeout_s": TIMEOUT_S,
        **overrides,
    }
    with tempfile.TemporaryDirectory() as folder:
        stand_ins = {ModelId.LOCAL_ISNET: FakeRemover(ModelId.LOCAL_ISNET)}
        with serving(Path(folder), stand_ins=stand_ins, **chosen) as server:
            yield server


def charges(sandbox: Sandbox, since: int) -> dict[str, list[Decimal]]:
    """What was charged by model, after the first `since` lines of the bill."""
    found: dict[str, list[Decimal]] = {}
    for entry in list(sandbox.bill.entries())[since:]:
        if entry.usd:
            found.setdefault(entry.model, []).append(entry.usd)
    return found


@pytest.fixture(scope="module")
def digests(sandbox: Sandbox) -> dict[str, str]:
    """Each model's cut-out without any fault, by its SHA-256."""
    with service(sandbox) as server:
        record = server.shoot(PICTURE).json()
    return {each["model"]: each.get("sha256", each["status"]) for each in record["results"]}


def test_the_table_covers_every_fault_the_sandbox_offers() -> None:
    assert set(FAULTS) == set(NAMES)


def test_without_faults_all_three_paid_models_succeed_and_cost_what_the_bill_says(
    sandbox: Sandbox,
) -> None:
    since = len(list(sandbox.bill.entries()))
    with service(sandbox) as server:
        response = server.shoot(PICTURE)
        table = server.client.get("/models").json()["models"]
    record = response.json()
    paid = {
        each["model"]: each for each in record["results"] if each["model"] in {**RUNWARE, **KIE}
    }
    assert {each["status"] for each in paid.values()} == {"succeeded"}
    assert {each["variant"]: each["cost_usd"] for each in paid.values()} == {
        model: float(price) for model, price in PRICES.items()
    }
    assert all(each["sandbox"] for each in paid.values())
    assert charges(sandbox, since) == {model: [Decimal(price)] for model, price in PRICES.items()}
    assert response.headers["x-cost-usd"] == "0.023600"
    assert [row["observed_price_usd"] for row in table[:3]] == [0.018, 0.0006, 0.005]


def test_the_two_runware_models_answer_differently(digests: dict[str, str]) -> None:
    assert digests["runware-rmbg-2.0"] != digests["runware-birefnet-portrait"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_stays_with_its_model(
    sandbox: Sandbox, digests: dict[str, str], fault: str
) -> None:
    sandbox.faults.clear()
    sandbox.faults.set(fault)
    since = len(list(sandbox.bill.entries()))
    with service(sandbox) as server:
        record = server.shoot(PICTURE).json()
        charged = charges(sandbox, since)
    sandbox.faults.clear()
    faulty = RUNWARE if fault.startswith("runware.") else KIE
    for entry in record["results"]:
        if entry["model"] in faulty:
            check(entry, FAULTS[fault], charged.get(faulty[entry["model"]], []))
        else:
            assert entry.get("sha256", entry["status"]) == digests[entry["model"]]
    assert record["latency_ms"] < (TIMEOUT_S + 4) * 1000


def check(entry: dict[str, object], report: Report, charged: list[Decimal]) -> None:
    """One entry against what the table says of it."""
    error = entry.get("error")
    if report.code is None:
        assert entry["status"] == "succeeded", entry
    else:
        assert isinstance(error, dict)
        assert (error["code"], error["retryable"]) == (report.code, report.retryable)
    assert len(charged) == int(report.charged)


def test_a_refused_key_opens_the_circuit_and_nobody_asks_again(sandbox: Sandbox) -> None:
    with service(sandbox, key="wrong") as server:
        first = server.shoot(PICTURE).json()["results"]
        second = server.shoot(PICTURE).json()["results"]
        ready = server.client.get("/ready").json()["models"]
    assert {each["error"]["code"] for each in first[:3]} == {"provider_refused"}
    assert {each["reason"] for each in second[:3]} == {"circuit_open"}
    assert ready["kie-recraft"]["status"] == "open"
    assert ready["runware-rmbg-2.0"]["status"] == "open"


def test_an_open_circuit_is_probed_by_one_request(sandbox: Sandbox) -> None:
    sandbox.faults.set("kie.no_credits", times=1)
    with service(sandbox, provider_probe_s=1) as server:
        assert server.shoot(PICTURE).json()["results"][2]["error"]["code"] == "provider_quota"
        assert server.shoot(PICTURE).json()["results"][2]["reason"] == "circuit_open"
        for _ in range(100):
            entry = server.shoot(PICTURE, models="kie-recraft,local-knockout").json()["results"][0]
            if entry["status"] == "succeeded":
                break
        assert entry["status"] == "succeeded"


def test_a_result_that_comes_too_late_is_still_written_down(sandbox: Sandbox) -> None:
    sandbox.faults.set("runware.slow=2,kie.slow=2")
    with service(sandbox, runware_timeout_s=1, kie_timeout_s=1) as server:
        record = server.shoot(PICTURE).json()
        assert {each["error"]["code"] for each in record["results"][:3]} == {"provider_timeout"}
        sandbox.faults.clear()
        ledger = server.temp_dir / "data" / "costs.jsonl"
        for _ in range(400):
            settled = [line for line in ledger.read_text().splitlines() if '"0.0' in line]
            if len(settled) == 3:
                break
            threading.Event().wait(0.05)
    assert len(settled) == 3


def test_the_key_sandbox_starts_the_look_alikes_by_itself(tmp_path: Path) -> None:
    stand_ins = {ModelId.LOCAL_ISNET: FakeRemover(ModelId.LOCAL_ISNET)}
    with serving(
        tmp_path, stand_ins=stand_ins, runware_api_key="sandbox", kie_api_key="sandbox"
    ) as server:
        record = server.shoot(PICTURE).json()
        ready = server.client.get("/ready").json()["models"]
    assert (ready["kie-recraft"]["status"], ready["kie-recraft"]["sandbox"]) == ("ready", True)
    assert ready["local-knockout"]["sandbox"] is None
    assert [each["status"] for each in record["results"][:3]] == ["succeeded"] * 3
    assert all(each["sandbox"] for each in record["results"][:3])


def test_faults_can_be_asked_for_in_the_key(tmp_path: Path) -> None:
    with serving(tmp_path, kie_api_key="sandbox:fault=kie.no_credits") as server:
        record = server.shoot(PICTURE, models="kie-recraft,local-knockout").json()
    assert record["results"][0]["error"]["code"] == "provider_quota"
