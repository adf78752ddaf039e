"""GET /costs: what was spent on whom, what may still be spent, and who is left alone."""

from typing import Annotated

from fastapi import APIRouter, Query

from models import errors
from models.money import CostReport
from routers.dependencies import ServicesDep
from routers.problems import responses
from services.cost_report import cost_report

router = APIRouter(tags=["operations"])


@router.get(
    "/costs",
    response_model_exclude_none=True,
    responses=responses(errors.InvalidParameter),
)
async def costs(
    services: ServicesDep,
    days: Annotated[int, Query(ge=1, le=3660, description="Today and the days before it.")] = 30,
) -> CostReport:
    """Spending by day (UTC), model and API key; unsettled tasks, budgets, circuit breakers."""
    return cost_report(services.ledger, services.budgets, services.breakers, days=days)
