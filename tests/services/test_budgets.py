"""Budgets: what counts, whose it is, the cheapest first, and nothing is spent twice."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

import pytest

from models.errors import BudgetExhausted, CircuitOpen, Overloaded
from models.outcomes import SkipReason
from models.schemas import ModelId
from services.admission import Gate
from services.budgets import Budgets, Purse
from services.costs import CostLedger
from services.remover import RemovalOptions
from services.shotgun import Plan, Shotgun
from services.workers import Workers
from tests.conftest import artwork
from tests.fakes import FakeRemover
from tests.services.test_results import opened
from utils import logs
from utils.clock import Deadline

RMBG, PORTRAIT, KIE = ModelId.RUNWARE_RMBG, ModelId.RUNWARE_BIREFNET, ModelId.KIE_RECRAFT
ISNET = ModelId.LOCAL_ISNET
PRICES = {RMBG: Decimal("0.018"), PORTRAIT: Decimal("0.0006"), KIE: Decimal("0.005")}


class Wallet:
    """A ledger with budgets over it, on a day that can move on."""

    def __init__(self, folder: Path, daily: str | None, **by_key: str) -> None:
        self.day = date(2026, 11, 24)
        self.ledger = CostLedger(folder / "costs.jsonl", prices=PRICES, today=lambda: self.day)
        self.ledger.open()
        self.budgets = Budgets(
            self.ledger,
            daily_usd=None if daily is None else Decimal(daily),
            by_key={key: Decimal(limit) for key, limit in by_key.items()},
        )

    def purse(self, *models: ModelId, most: str | None = None) -> Purse:
        limit = None if most is None else Decimal(most)
        return self.budgets.allowance(models or PRICES, most_usd=limit)

    def left(self) -> list[str]:
        return [str(each.left_usd) for each in self.budgets.standings()]


NewWallet: TypeAlias = Callable[..., Wallet]


@pytest.fixture
def new_wallet(tmp_path: Path) -> Iterator[NewWallet]:
    """Makes wallets over one file, each as a restart would find it."""
    with ExitStack() as stack:

        def make(daily: str | None, **by_key: str) -> Wallet:
            wallet = Wallet(tmp_path, daily, **by_key)
            stack.callback(wallet.ledger.close)
            return wallet

        yield make


@contextmanager
def for_key(name: str) -> Iterator[None]:
    token = logs.key_id.set(name)
    try:
        yield
    finally:
        logs.key_id.reset(token)


def granted(purse: Purse, *models: ModelId) -> list[ModelId]:
    return [model for model in models or PRICES if purse.refusal(model) is None]


@pytest.mark.parametrize(
    ("daily", "expected"),
    [
        ("0.0236", [RMBG, PORTRAIT, KIE]),
        ("0.0235", [PORTRAIT, KIE]),
        ("0.0056", [PORTRAIT, KIE]),
        ("0.0055", [PORTRAIT]),
        ("0.0006", [PORTRAIT]),
        ("0.0005", []),
        ("0", []),
        (None, [RMBG, PORTRAIT, KIE]),
    ],
)
@pytest.mark.parametrize("whose", ["day", "call", "key"])
def test_where_only_some_fit_the_cheapest_do(
    new_wallet: NewWallet, whose: str, daily: str | None, expected: list[ModelId]
) -> None:
    by_key = {"open": daily} if whose == "key" and daily is not None else {}
    wallet = new_wallet(daily if whose == "day" else None, **by_key)
    purse = wallet.purse(most=daily if whose == "call" else None)
    assert granted(purse) == expected


def test_what_does_not_fit_is_told_with_the_budget_and_what_is_left(new_wallet: NewWallet) -> None:
    refusal = new_wallet("0.02").purse(RMBG, KIE).refusal(RMBG)
    assert refusal is not None
    assert refusal.reason is SkipReason.BUDGET
    assert refusal.detail == (
        "runware-rmbg-2.0 may cost 0.018 USD; of DAILY_BUDGET_USD (0.02 USD) 0.015 USD are left."
    )


def test_the_refusal_names_the_limit_that_does_not_hold(new_wallet: NewWallet) -> None:
    wallet = new_wallet("0.02", shop="0.01")
    with for_key("shop"):
        refusal = wallet.purse(RMBG, most="1").refusal(RMBG)
        own = wallet.purse(RMBG, most="0.01").refusal(RMBG)
    assert refusal is not None
    assert "of KEY_DAILY_BUDGETS for the key shop (0.01 USD) 0.01 USD are left" in refusal.detail
    assert own is not None
    assert "of max_cost_usd (0.01 USD)" in own.detail


def test_models_on_this_machine_are_never_refused(new_wallet: NewWallet) -> None:
    purse = new_wallet("0").purse(ISNET, KIE, most="0")
    assert purse.refusal(ISNET) is None
    assert purse.refusal(KIE) is not None


def test_a_model_whose_price_nobody_knows_needs_something_left(new_wallet: NewWallet) -> None:
    wallet = new_wallet(None)
    wallet.ledger._prices = {}
    assert granted(wallet.purse(KIE, most="0"), KIE) == []
    assert granted(wallet.purse(KIE, most="0.1"), KIE) == [KIE]


def test_what_was_seen_to_cost_more_is_expected_to(new_wallet: NewWallet) -> None:
    wallet = new_wallet(None)
    wallet.ledger.sent("t", PORTRAIT)
    wallet.ledger.settled("t", Decimal("0.02"))
    assert granted(wallet.purse(most="0.023")) == [RMBG, KIE]


# --- what counts


def test_held_sent_and_settled_each_count_once(new_wallet: NewWallet) -> None:
    wallet = new_wallet("1")
    purse = wallet.purse(KIE)
    assert wallet.left() == ["0.995"]
    wallet.ledger.sent("t", KIE)
    purse.release(KIE)
    assert wallet.left() == ["0.995"]
    wallet.ledger.settled("t", Decimal("0.004"))
    assert wallet.left() == ["0.996"]
    purse.release(KIE)
    purse.close()
    assert wallet.left() == ["0.996"]


def test_what_was_not_sent_is_let_go_with_the_shot(new_wallet: NewWallet) -> None:
    wallet = new_wallet("0.0236")
    purse = wallet.purse()
    assert granted(wallet.purse()) == []
    purse.close()
    assert wallet.left() == ["0.0236"]
    assert granted(wallet.purse()) == [RMBG, PORTRAIT, KIE]


def test_a_shot_asks_for_what_it_has_been_granted_as_often_as_it_likes(
    new_wallet: NewWallet,
) -> None:
    wallet = new_wallet("0.0236")
    purse = wallet.purse()
    assert granted(purse) == granted(purse) == [RMBG, PORTRAIT, KIE]
    assert wallet.left() == ["0.0000"]


def test_a_model_that_could_not_be_asked_at_first_is_decided_on_when_it_can(
    new_wallet: NewWallet,
) -> None:
    wallet = new_wallet("0.006")
    purse = wallet.purse(KIE)
    assert granted(purse, PORTRAIT) == [PORTRAIT]
    assert granted(purse, RMBG) == []


def test_a_call_cannot_spend_its_limit_twice(new_wallet: NewWallet) -> None:
    wallet = new_wallet(None)
    purse = wallet.purse(KIE, most="0.018")
    wallet.ledger.sent("t", KIE)
    purse.release(KIE)
    assert granted(purse, RMBG) == []


def test_a_new_day_begins_with_a_full_budget(new_wallet: NewWallet) -> None:
    wallet = new_wallet("0.02")
    wallet.ledger.sent("t", RMBG)
    assert granted(wallet.purse(RMBG), RMBG) == []
    wallet.day += timedelta(days=1)
    assert granted(wallet.purse(RMBG), RMBG) == [RMBG]


def test_each_key_has_its_own_budget_within_the_services(new_wallet: NewWallet) -> None:
    wallet = new_wallet("0.03", a="0.005", b="1")
    with for_key("a"):
        assert granted(wallet.purse(KIE), KIE) == [KIE]
        assert granted(wallet.purse(KIE), KIE) == []
    with for_key("b"):
        assert granted(wallet.purse(RMBG, KIE), RMBG, KIE) == [RMBG, KIE]
        assert granted(wallet.purse(KIE), KIE) == []
    assert wallet.left() == ["0.002", "0.000", "0.977"]


def test_a_restart_counts_what_may_have_been_charged(new_wallet: NewWallet) -> None:
    before = new_wallet("0.02")
    before.purse()
    before.ledger.sent("t", RMBG)
    before.ledger.close()
    assert new_wallet("0.02").left() == ["0.002"]


# --- nothing fits


def test_a_shot_of_which_nothing_fits_is_refused_with_the_numbers(new_wallet: NewWallet) -> None:
    wallet = new_wallet("0.02")
    wallet.ledger.sent("t", RMBG)
    purse = wallet.purse(RMBG, KIE)
    with pytest.raises(BudgetExhausted) as refusal:
        purse.require_one_of([RMBG, KIE])
    assert (refusal.value.limit, refusal.value.actual) == (0.02, 0.023)
    assert "DAILY_BUDGET_USD" in refusal.value.detail
    purse.require_one_of([RMBG, PORTRAIT])
    purse.require_one_of([RMBG, ISNET])
    purse.require_one_of([])


# --- through the shotgun


def shotgun(folder: Path, wallet: Wallet, *removers: FakeRemover) -> Shotgun:
    """One shot at a time, and nobody may wait."""
    results = opened(folder)
    return Shotgun(
        removers={each.name: each for each in removers},
        results=results,
        workers=Workers(pixel_threads=1),
        gate=Gate(running_limit=1, queue_limit=0),
        max_pixels=10**6,
        model_timeout_s=30,
        budgets=wallet.budgets,
    )


def plan(*models: ModelId, deadline_s: float = 20) -> Plan:
    return Plan(models, RemovalOptions(), Deadline.after(deadline_s))


def picture(folder: Path) -> Path:
    path = folder / "picture"
    path.write_bytes(artwork())
    return path


@pytest.mark.anyio
async def test_a_shot_holds_its_money_until_its_last_model_lands(
    tmp_path: Path, new_wallet: NewWallet
) -> None:
    wallet, late = new_wallet("1"), FakeRemover(KIE, held=True)
    gun = shotgun(tmp_path, wallet, late)
    record = await gun.fire(picture(tmp_path), plan(KIE, deadline_s=0.2))
    assert record.results[0].status == "pending"
    assert wallet.left() == ["0.995"]
    late.release()
    await asyncio.gather(*gun._running)
    assert wallet.left() == ["1.000"]


@pytest.mark.anyio
async def test_a_shot_that_is_turned_away_holds_nothing(
    tmp_path: Path, new_wallet: NewWallet
) -> None:
    wallet, first = new_wallet("1"), FakeRemover(KIE, held=True)
    gun = shotgun(tmp_path, wallet, first)
    await gun.fire(picture(tmp_path), plan(KIE, deadline_s=0.2))
    with pytest.raises(Overloaded):
        await gun.fire(picture(tmp_path), plan(KIE))
    assert wallet.left() == ["0.995"]
    await gun.close()
    assert wallet.left() == ["1.000"]


@pytest.mark.anyio
async def test_a_shot_of_which_nothing_fits_is_refused_before_any_work(
    tmp_path: Path, new_wallet: NewWallet
) -> None:
    wallet, asked = new_wallet("0.001"), FakeRemover(KIE)
    gun = shotgun(tmp_path, wallet, asked)
    with pytest.raises(BudgetExhausted):
        await gun.fire(picture(tmp_path), plan(KIE))
    assert not asked.asked.is_set()
    assert not list((tmp_path / "results").iterdir())


@pytest.mark.anyio
async def test_a_request_that_came_too_late_to_probe_is_skipped(
    tmp_path: Path, new_wallet: NewWallet
) -> None:
    probed = FakeRemover(KIE, error=CircuitOpen("No credit."))
    gun = shotgun(tmp_path, new_wallet(None), probed, FakeRemover(ISNET))
    record = await gun.fire(picture(tmp_path), plan(KIE, ISNET))
    assert record.results[0].reason is SkipReason.CIRCUIT_OPEN
    assert record.results[0].detail == "No credit."
