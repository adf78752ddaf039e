"""Credits, as remove.bg counts them, out of the day's budgets in dollars.

One credit is one call at full size, a quarter is one of a preview: that is what a call is charged
for in credits, whatever the models cost. How many are left is a different question, answered with
caution: what is left in dollars by what a call costs when every paid model of the route is asked.
"""

from collections.abc import Callable, Sequence
from decimal import ROUND_DOWN, Decimal

from models.removebg import (
    Account,
    AccountApi,
    AccountAttributes,
    AccountData,
    Credits,
    RemovebgParameters,
)
from models.schemas import ModelId, ModelStatus
from services.budgets import Standing
from services.catalogue import PAID

_PREVIEWS = {"preview", "small", "regular"}
_CENT = Decimal("0.01")


def credits_of(asked: RemovebgParameters) -> float:
    """What a call is charged in credits."""
    return 0.25 if asked.size in _PREVIEWS else 1


def account(
    models: Sequence[ModelId],
    *,
    budgets: Sequence[Standing],
    expected: Callable[[ModelId], Decimal],
    key: str,
    askable: Callable[[ModelId], ModelStatus],
) -> Account:
    """What the key may still ask today."""
    paid = [
        model
        for model in models
        if model in PAID and askable(model) is not ModelStatus.UNCONFIGURED
    ]
    left = credits_left(
        [each.left_usd for each in budgets if each.budget.key in (None, key)],
        price=sum((expected(model) for model in paid), Decimal(0)),
    )
    return Account(
        data=AccountData(
            attributes=AccountAttributes(
                credits=Credits(total=left, subscription=left), api=AccountApi()
            )
        )
    )


def credits_left(lefts_usd: Sequence[Decimal], *, price: Decimal) -> float | None:
    """Full-size calls, to the hundredth below; None where no budget or no price limits them."""
    if not lefts_usd or not price:
        return None
    left = max(Decimal(0), min(lefts_usd))
    return float((left / price).quantize(_CENT, ROUND_DOWN))
