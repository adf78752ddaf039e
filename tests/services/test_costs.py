"""The ledger's sums are exact, each task counts once, by day and key, and survives any end."""

import json
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from models.schemas import ModelId
from services.costs import CostLedger
from services.ledger_file import Entry, Spend
from utils import logs

RMBG, PORTRAIT, KIE = ModelId.RUNWARE_RMBG, ModelId.RUNWARE_BIREFNET, ModelId.KIE_RECRAFT
PRICES = {RMBG: Decimal("0.018"), PORTRAIT: Decimal("0.0006"), KIE: Decimal("0.005")}


TODAY = date(2026, 11, 24)


@dataclass
class Calendar:
    """A day that tests can move on."""

    day: date = TODAY

    def today(self) -> date:
        return self.day


@contextmanager
def opened(folder: Path, calendar: Calendar | None = None) -> Iterator[CostLedger]:
    today = (calendar or Calendar()).today
    ledger = CostLedger(folder / "data" / "costs.jsonl", prices=PRICES, today=today)
    ledger.open()
    try:
        yield ledger
    finally:
        ledger.close()


def file_of(folder: Path) -> Path:
    return folder / "data" / "costs.jsonl"


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file_of(folder).read_text().splitlines()]


@contextmanager
def for_key(name: str) -> Iterator[None]:
    token = logs.key_id.set(name)
    try:
        yield
    finally:
        logs.key_id.reset(token)


def pay(ledger: CostLedger, task_id: str, model: ModelId, cost: str) -> None:
    ledger.sent(task_id, model)
    ledger.settled(task_id, Decimal(cost))


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
        assert ledger.unsettled() == [Entry("open", RMBG, None, TODAY)]
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
    assert (line["key"], line["day"]) == ("open", TODAY.isoformat())
    assert set(line) == {"time", "task_id", "model", "key", "day", "cost_usd", "request_id"}


def test_a_restart_remembers_everything(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.sent("paid", PORTRAIT)
        ledger.settled("paid", Decimal("0.0006"))
        ledger.sent("open", RMBG)
    with opened(tmp_path) as ledger:
        assert ledger.cost("paid") == Decimal("0.0006")
        assert ledger.unsettled() == [Entry("open", RMBG, None, TODAY)]
        ledger.settled("paid", Decimal(9))
        ledger.settled("open", Decimal("0.018"))
    with opened(tmp_path) as ledger:
        assert ledger.totals() == {PORTRAIT: Decimal("0.0006"), RMBG: Decimal("0.018")}
    assert len(lines(tmp_path)) == 4


def test_a_line_torn_by_a_crash_is_passed_over_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.sent("whole", KIE)
        ledger.sent("torn", RMBG)
    file = file_of(tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    with opened(tmp_path) as ledger:
        assert ledger.unsettled() == [Entry("whole", KIE, None, TODAY)]
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
        b'{"task_id":"t","model":"kie-recraft","cost_usd":"NaN","day":"2026-11-24"}',
        b'{"task_id":"t","model":"kie-recraft","cost_usd":"1","day":"the day before"}',
        b'{"model":"kie-recraft","cost_usd":"1","day":"2026-11-24"}',
        b"[" * 100_000,
    ],
    ids=["zeros", "no text", "empty", "null", "list", "object", "no cost", "unknown model",
         "no number", "a list for a cost", "not a number", "no day", "no task", "an abyss"],
)  # fmt: skip
def test_an_unreadable_line_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    with opened(tmp_path) as ledger:
        ledger.sent("paid", KIE)
        ledger.settled("paid", None)
    file = file_of(tmp_path)
    file.write_bytes(line + b"\n" + file.read_bytes())
    with caplog.at_level(logging.WARNING), opened(tmp_path) as ledger:
        assert ledger.totals() == {KIE: Decimal("0.005")}
    assert [record.message for record in caplog.records] == ["ledger_line_unreadable"]


# --- by day, model and key


def test_spending_is_kept_by_day_model_and_key_also_over_a_restart(tmp_path: Path) -> None:
    calendar = Calendar()
    with opened(tmp_path, calendar) as ledger:
        with for_key("shop-a"):
            pay(ledger, "a1", KIE, "0.005")
            pay(ledger, "a2", KIE, "0.005")
            pay(ledger, "a3", RMBG, "0.018")
        with for_key("shop-b"):
            pay(ledger, "b1", KIE, "0.0051")
        calendar.day += timedelta(days=1)
        pay(ledger, "nobody", KIE, "0")
        told = ledger.spend()
    assert told == [
        Spend(calendar.day, KIE, "open", 1, Decimal(0)),
        Spend(TODAY, KIE, "shop-a", 2, Decimal("0.010")),
        Spend(TODAY, KIE, "shop-b", 1, Decimal("0.0051")),
        Spend(TODAY, RMBG, "shop-a", 1, Decimal("0.018")),
    ]
    with opened(tmp_path, calendar) as ledger:
        assert ledger.spend() == told
        assert ledger.spend(since=calendar.day) == told[:1]
        assert ledger.observed(RMBG) == Decimal("0.018")


def test_a_task_counts_for_the_day_and_key_it_was_sent_for(tmp_path: Path) -> None:
    calendar = Calendar()
    with opened(tmp_path, calendar) as ledger:
        with for_key("shop-a"):
            ledger.sent("late", KIE)
        calendar.day += timedelta(days=1)
        ledger.settled("late", Decimal("0.005"))
        assert ledger.spend() == [Spend(TODAY, KIE, "shop-a", 1, Decimal("0.005"))]
        assert ledger.settled_today() == 0
    with opened(tmp_path, calendar) as ledger:
        assert ledger.spend() == [Spend(TODAY, KIE, "shop-a", 1, Decimal("0.005"))]


def test_what_is_at_stake_is_todays_unsettled_tasks_at_the_higher_price(tmp_path: Path) -> None:
    calendar = Calendar()
    with opened(tmp_path, calendar) as ledger:
        ledger.sent("yesterdays", RMBG)
        calendar.day += timedelta(days=1)
        with for_key("shop-a"):
            ledger.sent("a", KIE)
        ledger.sent("b", PORTRAIT)
        assert ledger.at_stake_today() == Decimal("0.0056")
        assert ledger.at_stake_today(key="shop-a") == Decimal("0.005")
        pay(ledger, "dear", PORTRAIT, "0.002")
        assert ledger.at_stake_today() == Decimal("0.007")
        pay(ledger, "cheap", KIE, "0.001")
        assert ledger.at_stake_today(key="shop-a") == Decimal("0.005")
        assert ledger.settled_today() == Decimal("0.003")
        assert ledger.settled_today(key="shop-a") == 0


def test_lines_of_the_first_versions_are_read_as_nobodys_on_the_day_they_were_sent(
    tmp_path: Path,
) -> None:
    old = [
        {"time": "2026-11-22T23:59:59+00:00", "task_id": "t", "model": KIE, "cost_usd": None},
        {"time": "2026-11-23T00:00:09+00:00", "task_id": "t", "model": KIE, "cost_usd": "0.005"},
        {"time": "2026-11-23T00:00:10+00:00", "task_id": "u", "model": RMBG, "cost_usd": None},
    ]
    file_of(tmp_path).parent.mkdir()
    file_of(tmp_path).write_text("".join(json.dumps(each) + "\n" for each in old))
    with opened(tmp_path) as ledger:
        assert ledger.spend() == [Spend(date(2026, 11, 22), KIE, "open", 1, Decimal("0.005"))]
        assert ledger.unsettled() == [Entry("u", RMBG, None, date(2026, 11, 23))]


# --- what the disk does


def test_days_long_gone_become_one_line_each_and_not_a_cent_is_lost(tmp_path: Path) -> None:
    calendar = Calendar()
    with opened(tmp_path, calendar) as ledger:
        for number in range(10):
            pay(ledger, f"k{number}", KIE, "0.0050001")
            with for_key("shop-a"):
                pay(ledger, f"p{number}", PORTRAIT, "0.0006")
        ledger.sent("never settled", RMBG)
        calendar.day += timedelta(days=1)
        pay(ledger, "next day", KIE, "0.005")
        spend, unsettled = ledger.spend(), ledger.unsettled()
    calendar.day = TODAY + timedelta(days=400)
    with opened(tmp_path, calendar) as ledger:
        assert len(lines(tmp_path)) == 43, "400 days are not long gone"
    calendar.day += timedelta(days=1)
    for _ in range(2):
        with opened(tmp_path, calendar) as ledger:
            assert ledger.spend() == spend
            assert ledger.unsettled() == unsettled
        assert [(line["model"], line.get("tasks")) for line in lines(tmp_path)] == [
            (KIE, 10),
            (PORTRAIT, 10),
            (RMBG, None),
            (KIE, None),
            (KIE, None),
        ]
    assert lines(tmp_path)[0]["cost_usd"] == "0.0500010"
    with opened(tmp_path, calendar) as ledger:
        ledger.settled("never settled", Decimal("0.018"))
    with opened(tmp_path, calendar) as ledger:
        assert ledger.totals()[RMBG] == Decimal("0.018")
    assert not list(file_of(tmp_path).parent.glob("*.part"))


def test_a_process_killed_while_it_sums_up_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    calendar = Calendar()
    with opened(tmp_path, calendar) as ledger:
        pay(ledger, "t", KIE, "0.005")
    calendar.day += timedelta(days=500)
    part = file_of(tmp_path).with_name("costs.jsonl.part")
    part.write_text('{"day": "2026-11-24", "model": "kie-recraft", "cost_usd": "0.005", "ta')
    with opened(tmp_path, calendar) as ledger:
        assert ledger.spend() == [Spend(TODAY, KIE, "open", 1, Decimal("0.005"))]
    assert not part.exists()


def test_a_disk_that_takes_half_a_line_has_it_taken_back(tmp_path: Path) -> None:
    """A task that cannot be written down must not leave; what is settled is written later."""
    with opened(tmp_path) as ledger:
        ledger.sent("t", KIE)
        whole = file_of(tmp_path).read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limits[1]))
        try:
            with pytest.raises(OSError, match=r"too large|No space"):
                ledger.sent("refused", RMBG)
            ledger.settled("t", Decimal("0.005"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert file_of(tmp_path).read_bytes() == whole
        assert ledger.unsettled() == []
        assert ledger.totals() == {KIE: Decimal("0.005")}
        ledger.sent("next", RMBG)
    with opened(tmp_path) as ledger:
        assert [entry.task_id for entry in ledger.unsettled()] == ["next"]
        assert ledger.totals() == {KIE: Decimal("0.005"), RMBG: Decimal(0)}


def test_the_day_is_that_of_utc(tmp_path: Path) -> None:
    ledger = CostLedger(file_of(tmp_path), prices=PRICES)
    ledger.open()
    before = datetime.now(UTC).date()
    ledger.sent("t", KIE)
    assert ledger.unsettled()[0].day in {before, datetime.now(UTC).date()}
    ledger.close()
