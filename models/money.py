"""What GET /costs shows: spending, budgets, breakers."""

from datetime import date
from typing import Literal

from pydantic import BaseModel, Field

from models.schemas import ModelId


class SpendRow(BaseModel):
    """The settled tasks of one day (UTC), model and API key."""

    day: date
    model: ModelId
    key: str = Field(description="Id of the API key; `open` where the service asked for none.")
    tasks: int
    cost_usd: float


class UnsettledTask(BaseModel):
    """A task on its way, or one whose end nobody learned: it may have been charged."""

    task_id: str
    model: ModelId
    key: str
    day: date
    may_cost_usd: float


class UnsettledTasks(BaseModel):
    count: int
    may_cost_usd: float = Field(description="What they cost if each was charged.")
    tasks: list[UnsettledTask] = Field(description="The latest, at most 100.")


class BudgetInfo(BaseModel):
    """One limit of the day."""

    name: Literal["DAILY_BUDGET_USD", "KEY_DAILY_BUDGETS"]
    key: str | None = Field(None, description="Whose, with KEY_DAILY_BUDGETS.")
    limit_usd: float
    settled_usd: float
    in_flight_usd: float = Field(description="What unsettled tasks of today may cost.")
    left_usd: float = Field(description="Below zero where a picture was dearer than expected.")


class BreakerInfo(BaseModel):
    """A provider's circuit, and how often it opened, was probed and closed."""

    provider: str
    state: Literal["closed", "open", "half_open"]
    reason: str | None = None
    probe_in_s: float = Field(description="Seconds until one request may try again.")
    failures_in_a_row: int
    opened: int
    probed: int
    closed: int


class CostReport(BaseModel):
    """What was spent from `since` to `until`, and how money stands now."""

    since: date
    until: date
    cost_usd: float
    by_day: dict[str, float] = Field(description="The latest first; days without spending left out")
    by_model: dict[str, float]
    by_key: dict[str, float]
    spend: list[SpendRow]
    unsettled: UnsettledTasks = Field(description="Of all days.")
    budgets: list[BudgetInfo]
    breakers: list[BreakerInfo]
