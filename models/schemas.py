"""What goes over the wire: requests, records and problems, as the OpenAPI document shows them."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from models.errors import FailureCode
from models.images import Flag, Holes
from models.outcomes import SkipReason


class ModelId(StrEnum):
    """The public names of the models, in their fixed order."""

    RUNWARE_RMBG = "runware-rmbg-2.0"
    RUNWARE_BIREFNET = "runware-birefnet-portrait"
    KIE_RECRAFT = "kie-recraft"
    LOCAL_BIREFNET = "local-birefnet-general"
    LOCAL_ISNET = "local-isnet"
    LOCAL_KNOCKOUT = "local-knockout"


class Output(StrEnum):
    """How pixels come back: as links, or inside the JSON."""

    URL = "url"
    BASE64 = "base64"


class ModelStatus(StrEnum):
    """Whether a model can be asked."""

    READY = "ready"
    LOADING = "loading"
    UNCONFIGURED = "unconfigured"
    UNAVAILABLE = "unavailable"
    OPEN = "open"


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()] or None
    return value


ModelList = Annotated[list[ModelId] | None, BeforeValidator(_split_commas)]


class RemovalParameters(BaseModel):
    """What a caller may say about a shot; in the query, the form or the JSON body."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: ModelList = Field(
        None,
        description="The models to ask, as a list or separated by commas. "
        "Left out: the default five.",
        examples=["local-isnet,local-knockout"],
    )
    output: Output = Field(Output.URL, description="`url` for links, `base64` for PNG bytes.")
    deadline_s: float | None = Field(
        None,
        ge=1,
        le=55,
        description="Seconds until the answer; what is late is `pending` and lands in the record.",
        examples=[20],
    )
    holes: Holes = Field(
        Holes.KEEP,
        description="What local-knockout does with background-coloured islands in the artwork.",
    )


class ImageInfo(BaseModel):
    """The customer's picture, upright."""

    width: int
    height: int
    format: str = Field(examples=["JPEG"])
    bytes: int
    sha256: str
    kind: str | None = Field(None, description="Null until pictures are triaged.")
    had_alpha: bool


class ResultError(BaseModel):
    code: FailureCode
    message: str
    retryable: bool


class ResultEntry(BaseModel):
    """One model's outcome; fields that do not apply are left out."""

    model: ModelId
    status: Literal["succeeded", "failed", "pending", "skipped"]
    url: str | None = None
    preview_url: str | None = None
    image_base64: str | None = Field(None, description="The PNG, with output=base64.")
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    sha256: str | None = Field(None, description="Of the PNG; also its ETag.")
    bbox: tuple[int, int, int, int] | None = Field(
        None, description="Left, top, right, bottom of alpha > 10, in pixels."
    )
    latency_ms: int | None = None
    cost_usd: float | None = None
    score: float | None = Field(None, description="Null until ranking exists.")
    rank: int | None = Field(None, description="Null until ranking exists.")
    flags: list[Flag] | None = None
    variant: str | None = None
    sandbox: bool | None = None
    error: ResultError | None = None
    reason: SkipReason | None = None
    detail: str | None = Field(None, description="Why the model was skipped, for people.")


class ShotRecord(BaseModel):
    """A shot: one picture, one entry for each requested model in the fixed order."""

    request_id: str = Field(examples=["9f2c4be1a1d84f0c8a3d5e6f70819203"])
    status: Literal["running", "complete"]
    created_at: datetime
    image: ImageInfo
    results: list[ResultEntry]
    recommended: ModelId | None = Field(None, description="Null until ranking exists.")
    agreement: float | None = Field(None, description="Null until ranking exists.")
    cost_usd: float
    latency_ms: int
    expires_at: datetime


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    version: str
    uptime_s: float


class Readiness(BaseModel):
    """Whether a shot with default parameters would find a model, and how full the house is."""

    ready: bool
    models: dict[ModelId, "ModelReadiness"]
    memory: "MemoryInfo"
    queue: "QueueInfo"
    pillow: str = Field(description="The Pillow that is active; Pillow-SIMD ends in .post0.")


class ModelReadiness(BaseModel):
    status: ModelStatus
    reason: str | None = None
    sandbox: bool | None = Field(None, description="True where a look-alike answers, for free.")


class MemoryInfo(BaseModel):
    granted_mb: int | None = Field(description="What the box grants; null where unknown.")
    resident_mb: int | None


class QueueInfo(BaseModel):
    running: int
    running_limit: int
    waiting: int
    waiting_limit: int


class LatencyInfo(BaseModel):
    """Milliseconds over the last answers (at most 200)."""

    count: int
    p50: int | None = None
    p95: int | None = None


class ModelInfo(BaseModel):
    id: ModelId
    runs_on: str
    default: bool = Field(description="Whether a shot without models= asks it.")
    licence: str
    price_usd: float = Field(description="List price of one picture.")
    observed_price_usd: float | None = Field(None, description="What the last replies charged.")
    status: ModelStatus
    reason: str | None = None
    latency_ms: LatencyInfo


class ModelTable(BaseModel):
    models: list[ModelInfo]


class Problem(BaseModel):
    """RFC 9457 problem details with our members."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    retryable: bool
    limit: float | None = None
    actual: float | None = None
    hint: str | None = None
    field: str | None = None
