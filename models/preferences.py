"""What goes over the wire about picks: which cut-out was taken, and what that adds up to."""

from datetime import date, datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from models.schemas import ModelId

Text = Annotated[str, StringConstraints(max_length=256)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Metadata: TypeAlias = dict[Name, bool | Whole | Number | Text | None]


def _no_number(value: object) -> object:
    """A date is written as one: Pydantic would take any number for seconds since 1970."""
    try:
        float(str(value))
    except ValueError:
        return value
    raise ValueError("must be written as 2026-11-24 or 2026-11-24T18:30:00Z")


Day = Annotated[date | None, BeforeValidator(_no_number)]
Moment = Annotated[datetime | None, BeforeValidator(_no_number)]
GroupBy: TypeAlias = Literal["kind", "day", "week", "month"]


class PreferenceParameters(BaseModel):
    """The customer's pick out of a shot."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    request_id: str = Field(
        pattern="^[0-9a-f]{32}$",
        description="The shot's id, as its record gives it.",
        examples=["9f2c4be1a1d84f0c8a3d5e6f70819203"],
    )
    model: ModelId = Field(description="Whose cut-out was taken; it must have succeeded.")
    shown: list[ModelId] | None = Field(
        None,
        max_length=len(ModelId),
        description="The candidates in the order in which the customer saw them. Left out: all "
        "that succeeded, by rank where they have one, else in the fixed order.",
    )
    reason: str | None = Field(None, max_length=500, description="Why, in the customer's words.")
    metadata: Metadata | None = Field(
        None, max_length=16, description="Up to 16 plain values of the caller's own."
    )


class Preference(BaseModel):
    """A pick that was taken down."""

    preference_id: str
    request_id: str
    model: ModelId
    time: datetime
    supersedes: str | None = Field(
        None, description="The preference_id of the earlier pick that this one takes the place of."
    )
    kept_in: Literal["journal", "log"] = Field(
        description="`journal`: it is on disk. `log`: the disk would not have it, and the whole "
        "line went to the log instead (PICKS_ON_FAILURE=log)."
    )


class StatsQuery(BaseModel):
    """Which picks to count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str | None = Field(
        None, pattern="^[a-z_-]{1,32}$", description="Only pictures of this kind."
    )
    since: Day = Field(None, description="First day (UTC).")
    until: Day = Field(None, description="Last day (UTC), included.")
    by: GroupBy | None = Field(None, description="The same again for every kind, day, week, month.")


class ExportQuery(BaseModel):
    """Which picks to hand out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    since: Moment = Field(None, description="From this moment on; without zone: UTC.")
    until: Moment = Field(None, description="Before this moment; without zone: UTC.")


class ModelWins(BaseModel):
    """How one model fared."""

    model: ModelId
    shown: int = Field(description="Picks in which its cut-out was among the candidates.")
    wins: int
    win_rate: float | None = Field(None, description="wins / shown")
    win_rate_low: float = Field(description="Wilson's 95 % interval.")
    win_rate_high: float
    strength: float = Field(
        description="Bradley-Terry strength with the place taken out; the geometric mean is 1."
    )
    strength_uncorrected: float = Field(description="The same as if every place were looked at.")
    cost_usd: float = Field(description="What asking it cost in the shots that were picked from.")
    cost_per_win_usd: float | None = None


class PlaceWins(BaseModel):
    """What the place in the list does."""

    place: int = Field(description="1 is the first.")
    shown: int
    wins: int
    weight: float = Field(
        description="How much a place is looked at, the first is 1; 1 everywhere where each model "
        "was always shown at one place, since then nobody can tell."
    )


class WinTable(BaseModel):
    """One count: of all picks asked for, or of one kind or period."""

    picks: int
    models: list[ModelWins]


class GroupWins(WinTable):
    name: str = Field(examples=["photo", "2026-11-24", "2026-W48", "2026-11"])


class PreferenceStats(WinTable):
    """What the picks add up to."""

    kind: str | None = None
    since: date | None = None
    until: date | None = None
    places: list[PlaceWins]
    places_known: bool
    groups: list[GroupWins] | None = None
