"""GET /costs as the ledger, the budgets and the breakers tell it; sums are exact until the end."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal

from models.money import (
    BreakerInfo,
    BudgetInfo,
    CostReport,
    SpendRow,
    UnsettledTask,
    UnsettledTasks,
)
from services.breakers import Breaker, Breakers
from services.budgets import Budgets, Standing
from services.costs import CostLedger
from services.ledger_file import Spend
from utils.clock import utc_today

_TASKS_LISTED = 100


def cost_report(
    ledger: CostLedger, budgets: Budgets, breakers: Breakers, *, days: int
) -> CostReport:
    """The last `days` days (UTC) up to today; what is unsettled, of all days."""
    today = utc_today()
    since = today - timedelta(days=days - 1)
    spend = ledger.spend(since=since)
    return CostReport(
        since=since,
        until=today,
        cost_usd=float(_sum(each.cost_usd for each in spend)),
        by_day=_sums(spend, [each.day.isoformat() for each in spend]),
        by_model=_sums(spend, [each.model for each in spend]),
        by_key=_sums(spend, [each.key for each in spend]),
        spend=[SpendRow(**asdict(each)) for each in spend],
        unsettled=_unsettled(ledger),
        budgets=[_budget(each) for each in budgets.standings()],
        breakers=[_breaker(name, each) for name, each in breakers.by_provider.items()],
    )


def _sums(spend: Iterable[Spend], names: Iterable[str]) -> dict[str, float]:
    sums: dict[str, Decimal] = {}
    for each, name in zip(spend, names, strict=True):
        sums[name] = sums.get(name, Decimal(0)) + each.cost_usd
    return {name: float(amount) for name, amount in sums.items()}


def _unsettled(ledger: CostLedger) -> UnsettledTasks:
    entries = ledger.unsettled()
    return UnsettledTasks(
        count=len(entries),
        may_cost_usd=float(_sum(ledger.expected(each.model) for each in entries)),
        tasks=[
            UnsettledTask(
                task_id=each.task_id,
                model=each.model,
                key=each.key,
                day=each.day,
                may_cost_usd=float(ledger.expected(each.model)),
            )
            for each in entries[-_TASKS_LISTED:]
        ],
    )


def _budget(standing: Standing) -> BudgetInfo:
    return BudgetInfo(
        name=standing.budget.name,
        key=standing.budget.key,
        limit_usd=float(standing.budget.limit_usd),
        settled_usd=float(standing.settled_usd),
        in_flight_usd=float(standing.in_flight_usd),
        left_usd=float(standing.left_usd),
    )


def _breaker(provider: str, breaker: Breaker) -> BreakerInfo:
    return BreakerInfo(
        provider=provider,
        state=breaker.state,
        reason=breaker.reason,
        probe_in_s=round(breaker.probe_in_s(), 1),
        failures_in_a_row=breaker.failures_in_a_row,
        **asdict(breaker.transitions),
    )


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    return sum(amounts, Decimal(0))
