"""Budgets: what paid models may cost today, and how concurrent shots share what is left.

What counts against a day (UTC) is what its tasks are known to have cost, what those on their way
may cost, and what is held for those about to leave. Deciding and holding is one step of the event
loop, so shots that come together cannot overshoot.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from models.errors import BudgetExhausted
from models.outcomes import Skipped, SkipReason
from models.schemas import ModelId
from services.catalogue import PAID
from services.costs import CostLedger
from services.remover import Allowance
from utils import logs

_NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Budget:
    """Dollars that may be spent, by one API key or (None) by all; `name` says who set it."""

    name: str
    limit_usd: Decimal
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands now; `in_flight_usd` is what unsettled and held tasks may cost."""

    budget: Budget
    settled_usd: Decimal
    in_flight_usd: Decimal

    @property
    def left_usd(self) -> Decimal:
        """Below zero where a picture turned out dearer than it was expected to be."""
        return self.budget.limit_usd - self.settled_usd - self.in_flight_usd

    def refusal_of(self, model: ModelId, price: Decimal) -> str:
        """The sentence that says why this model is not asked."""
        whose = f" for the key {self.budget.key}" if self.budget.key else ""
        left = max(self.left_usd, _NOTHING)
        return (
            f"{model} may cost {_usd(price)} USD; of {self.budget.name}{whose} "
            f"({_usd(self.budget.limit_usd)} USD) {_usd(left)} USD are left."
        )


class Budgets:
    """The day's limits, for the service and for single keys, and what is held within them."""

    def __init__(
        self, ledger: CostLedger, *, daily_usd: Decimal | None, by_key: Mapping[str, Decimal]
    ) -> None:
        self._ledger = ledger
        self._service = [] if daily_usd is None else [Budget("DAILY_BUDGET_USD", daily_usd)]
        self._by_key = {
            key: Budget("KEY_DAILY_BUDGETS", limit, key) for key, limit in by_key.items()
        }
        # dollars for tasks of each key that have not left yet
        self._held: dict[str, Decimal] = {}

    def allowance(self, models: Iterable[ModelId], *, most_usd: Decimal | None) -> "Purse":
        """What a shot of the current key may spend: the price of `models` is held at once.

        Where only some fit, the cheapest do. `most_usd` is the caller's own limit.
        """
        purse = Purse(self, self._ledger, key=logs.key_id.get(), most_usd=most_usd)
        for model in sorted(models, key=self._ledger.expected):
            purse.refusal(model)
        return purse

    def standings(self) -> list[Standing]:
        """Every budget as it stands now."""
        return [self._standing(each) for each in (*self._service, *self._by_key.values())]

    def too_tight_for(self, price: Decimal, *, key: str) -> Standing | None:
        """A budget into which `price` does not fit; the key's own is asked first."""
        own = [self._by_key[key]] if key in self._by_key else []
        for budget in (*own, *self._service):
            if not fits(price, (standing := self._standing(budget)).left_usd):
                return standing
        return None

    def hold(self, price: Decimal, *, key: str) -> None:
        self._held[key] = self._held.get(key, _NOTHING) + price

    def let_go(self, price: Decimal, *, key: str) -> None:
        self._held[key] -= price

    def _standing(self, budget: Budget) -> Standing:
        held = (
            sum(self._held.values(), _NOTHING)
            if budget.key is None
            else self._held.get(budget.key, _NOTHING)
        )
        return Standing(
            budget,
            settled_usd=self._ledger.settled_today(key=budget.key),
            in_flight_usd=self._ledger.at_stake_today(key=budget.key) + held,
        )


class Purse(Allowance):
    """One shot's share: what was granted to its models, and what of that is still held."""

    def __init__(
        self, budgets: Budgets, ledger: CostLedger, *, key: str, most_usd: Decimal | None
    ) -> None:
        self._budgets = budgets
        self._ledger = ledger
        self._key = key
        self._most_usd = most_usd
        self._granted: dict[ModelId, Decimal] = {}
        self._held: set[ModelId] = set()

    def refusal(self, model: ModelId) -> Skipped | None:
        if model not in PAID or model in self._granted:
            return None
        price = self._ledger.expected(model)
        if (limit := self._limit_for(price)) is not None:
            return Skipped(SkipReason.BUDGET, limit.refusal_of(model, price))
        self._budgets.hold(price, key=self._key)
        self._granted[model] = price
        self._held.add(model)
        return None

    def release(self, model: ModelId) -> None:
        if model in self._held:
            self._held.remove(model)
            self._budgets.let_go(self._granted[model], key=self._key)

    def close(self) -> None:
        """The shot is over: what was not sent is let go."""
        for model in tuple(self._held):
            self.release(model)

    def require_one_of(self, models: Iterable[ModelId]) -> None:
        """Raises BudgetExhausted where none of the models may be asked."""
        models = list(models)
        if not models or not all(self.refusal(model) for model in models):
            return
        cheapest = min(models, key=self._ledger.expected)
        price = self._ledger.expected(cheapest)
        limit = self._limit_for(price)
        assert limit is not None  # noqa: S101  # it was refused
        raise BudgetExhausted(
            limit.refusal_of(cheapest, price),
            limit=float(limit.budget.limit_usd),
            actual=float(limit.budget.limit_usd - limit.left_usd + price),
            hint="Models on this machine cost nothing; the day's budgets begin anew at 00:00 UTC.",
        )

    def _limit_for(self, price: Decimal) -> Standing | None:
        """What `price` does not fit into: the caller's own limit, or a budget."""
        if self._most_usd is not None:
            granted = sum(self._granted.values(), _NOTHING)
            own = Standing(Budget("max_cost_usd", self._most_usd), granted, _NOTHING)
            if not fits(price, own.left_usd):
                return own
        return self._budgets.too_tight_for(price, key=self._key)


def fits(price: Decimal, left: Decimal) -> bool:
    """A model whose price nobody knows counts as free, but not where nothing is left."""
    return left > 0 and price <= left


def _usd(amount: Decimal) -> str:
    return f"{amount.normalize():f}"
