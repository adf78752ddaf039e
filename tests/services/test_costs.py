"""The ledger's sums are exact, each task counts once and survives any end; breakers and probes."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from models.errors import HOPELESS, FailureCode
from models.schemas import ModelId, ModelStatus
from services.costs import Breaker, CostLedger, Entry
from services.remover import READY, Availability
from utils import logs

RMBG, PORTRAIT, KIE = ModelId.RUNWARE_RMBG, ModelId.RUNWARE_BIREFNET, ModelId.KIE_RECRAFT
PRICES = {RMBG: Decimal("0.018"), PORTRAIT: Decimal("0.0006"), KIE: Decimal("0.005")}


@contextmanager
def opened(folder: Path) -> Iterator[CostLedger]:
    ledger = CostLedger(folder / "data" / "costs.jsonl", prices=PRICES)
    ledger.open()
    try:
        yield ledger
    finally:
        ledger.close()


def lines(folder: Path) -> list[dict[str, object]]:
    text = (folder / "data" / "costs.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


# --- the ledger


def test_sums_are_exact_decimals(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        for number in range(1000):
            ledger.sent(f"t{number}", PORTRAIT)
            ledger.settled(f"t{number}", Decimal("0.0006"))
        ledger.sent("other", RMBG)
        ledger.settled("other", Decimal("0.1"))
        assert ledger.totals() == {PORTRAIT: Decimal("0.6"), RMBG: Decimal("0.1")}
        assert str(ledger.cost("t7")) == "0.0006"


def test_a_task_is_charged_once_and_the_first_word_counts(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.sent("t", KIE)
        for cost in (Decimal("0.005"), Decimal("0.005"), Decimal(0), None, Decimal(7)):
            ledger.settled("t", cost)
        assert ledger.cost("t") == Decimal("0.005")
        assert ledger.totals() == {KIE: Decimal("0.005")}
    assert [line["cost_usd"] for line in lines(tmp_path)] == [None, "0.005"]


def test_a_task_that_failed_for_nothing_stays_free(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.sent("t", KIE)
        ledger.settled("t", Decimal(0))
        ledger.settled("t", Decimal("0.005"))
        assert ledger.cost("t") == 0
        assert ledger.unsettled() == []


def test_the_list_price_counts_where_nobody_said(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        for model in PRICES:
            ledger.sent(model, model)
            ledger.settled(model, None)
        assert ledger.totals() == PRICES
        ledger.sent("unlisted", ModelId.LOCAL_ISNET)
        ledger.settled("unlisted", None)
        assert ledger.cost("unlisted") == 0


def test_a_cost_for_a_task_nobody_sent_is_ignored(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.settled("stranger", Decimal(9))
        assert ledger.totals() == {}
        assert ledger.cost("stranger") == 0
    assert lines(tmp_path) == []


def test_what_was_sent_and_never_settled_is_told(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.sent("known", KIE)
        ledger.sent("open", RMBG)
        ledger.settled("known", None)
        assert ledger.unsettled() == [Entry("open", RMBG, None)]
        assert ledger.cost("open") == 0
        assert ledger.totals()[RMBG] == 0


def test_the_observed_price_is_that_of_the_last_picture_that_cost_something(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        assert ledger.observed(KIE) is None
        for number, cost in enumerate(("0.005", "0.01", "0")):
            ledger.sent(str(number), KIE)
            ledger.settled(str(number), Decimal(cost))
        assert ledger.observed(KIE) == Decimal("0.01")
        assert ledger.observed(RMBG) is None
        assert ledger.price(KIE) == Decimal("0.005")


def test_a_task_is_written_before_it_leaves_with_its_request(tmp_path: Path) -> None:
    token = logs.request_id.set("order-4711")
    try:
        with opened(tmp_path) as ledger:
            ledger.sent("t", KIE)
            (line,) = lines(tmp_path)
    finally:
        logs.request_id.reset(token)
    assert (line["task_id"], line["model"], line["cost_usd"]) == ("t", "kie-recraft", None)
    assert line["request_id"] == "order-4711"
    assert set(line) == {"time", "task_id", "model", "cost_usd", "request_id"}


def test_a_restart_remembers_everything(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.sent("paid", PORTRAIT)
        ledger.settled("paid", Decimal("0.0006"))
        ledger.sent("open", RMBG)
    with opened(tmp_path) as ledger:
        assert ledger.cost("paid") == Decimal("0.0006")
        assert ledger.unsettled() == [Entry("open", RMBG, None)]
        ledger.settled("paid", Decimal(9))
        ledger.settled("open", Decimal("0.018"))
    with opened(tmp_path) as ledger:
        assert ledger.totals() == {PORTRAIT: Decimal("0.0006"), RMBG: Decimal("0.018")}
    assert len(lines(tmp_path)) == 4


def test_a_line_torn_by_a_crash_is_passed_over_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.sent("whole", KIE)
        ledger.sent("torn", RMBG)
    file = tmp_path / "data" / "costs.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    with opened(tmp_path) as ledger:
        assert ledger.unsettled() == [Entry("whole", KIE, None)]
        ledger.settled("whole", Decimal("0.005"))
    with opened(tmp_path) as ledger:
        assert ledger.totals() == {KIE: Decimal("0.005")}
        assert ledger.unsettled() == []


@pytest.mark.parametrize(
    "line",
    [
        b"\x00\x00\x00\x00",
        b"\xff\xfe broken \xff",
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"task_id":"t","model":"kie-recraft"}',
        b'{"task_id":"t","model":"of-another-time","cost_usd":"1"}',
        b'{"task_id":"t","model":"kie-recraft","cost_usd":"dear"}',
        b'{"task_id":"t","model":"kie-recraft","cost_usd":[1]}',
    ],
    ids=["zeros", "no text", "empty", "null", "list", "object", "no cost", "unknown model",
         "no number", "a list for a cost"],
)  # fmt: skip
def test_an_unreadable_line_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    with opened(tmp_path) as ledger:
        ledger.sent("paid", KIE)
        ledger.settled("paid", None)
    file = tmp_path / "data" / "costs.jsonl"
    file.write_bytes(line + b"\n" + file.read_bytes())
    with caplog.at_level(logging.WARNING), opened(tmp_path) as ledger:
        assert ledger.totals() == {KIE: Decimal("0.005")}
    assert [record.message for record in caplog.records] == ["ledger_line_unreadable"]


# --- circuit breakers

OPEN = Availability(ModelStatus.OPEN, "No credit.")


def failed(breaker: Breaker, code: FailureCode = FailureCode.PROVIDER_QUOTA) -> None:
    breaker.failed(code, "No credit.")


@pytest.mark.parametrize("code", FailureCode)
def test_only_what_the_next_request_would_meet_as_well_opens_the_circuit(code: FailureCode) -> None:
    breaker = Breaker(probe_after_s=60)
    assert breaker.availability() == READY
    breaker.began()
    failed(breaker, code)
    assert breaker.availability() == (OPEN if code in HOPELESS else READY)


def test_after_a_while_one_request_may_try() -> None:
    breaker = Breaker(probe_after_s=0)
    failed(breaker)
    assert breaker.availability() == READY


def test_while_one_request_tries_no_other_may() -> None:
    breaker = Breaker(probe_after_s=60)
    failed(breaker)
    breaker.began()
    assert breaker.availability() == OPEN


def test_a_probe_that_succeeds_closes_the_circuit() -> None:
    breaker = Breaker(probe_after_s=60)
    failed(breaker)
    breaker.began()
    breaker.succeeded()
    assert breaker.availability() == READY


def test_a_probe_that_fails_otherwise_proves_nothing() -> None:
    breaker = Breaker(probe_after_s=60)
    failed(breaker)
    breaker.began()
    breaker.failed(FailureCode.PROVIDER_TIMEOUT, "Late.")
    assert breaker.availability() == OPEN


def test_the_reason_is_the_last_refusals() -> None:
    breaker = Breaker(probe_after_s=60)
    failed(breaker)
    breaker.failed(FailureCode.PROVIDER_REFUSED, "A bad key.")
    assert breaker.availability() == Availability(ModelStatus.OPEN, "A bad key.")


def test_requests_through_a_closed_circuit_do_not_hinder_each_other() -> None:
    breaker = Breaker(probe_after_s=60)
    breaker.began()
    breaker.began()
    assert breaker.availability() == READY
