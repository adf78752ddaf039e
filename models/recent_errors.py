"""What GET /errors shows: what went wrong lately, without anything of a customer's."""

from datetime import datetime

from pydantic import BaseModel, Field

from models.schemas import ModelId


class RecentError(BaseModel):
    """One problem that was answered, or one model that failed inside a shot."""

    time: datetime
    code: str = Field(examples=["too_many_pixels"])
    request_id: str = Field(description="X-Request-ID of the request; the log has it under this.")
    key: str = Field(description="Id of the API key; `open` without API_KEYS, `unknown` unproven.")
    status: int | None = Field(None, description="HTTP status of a problem.")
    method: str | None = None
    route: str | None = Field(
        None, description="The route's template; left out where none was reached."
    )
    model: ModelId | None = Field(None, description="The model that failed; its shot went on.")


class RecentErrors(BaseModel):
    """The latest first, as far back as memory goes."""

    since: datetime = Field(description="When the service began to keep them: its start.")
    seen: int = Field(description="All since then, also those that are no longer kept.")
    errors: list[RecentError]
