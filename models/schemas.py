"""What goes over the wire: requests, records and problems, as the OpenAPI document shows them."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from models.errors import FailureCode
from models.images import Edge, Flag, Holes, PictureKind
from models.inference import Device, Engine, Precision
from models.outcomes import SkipReason
from models.print_check import GARMENT_FIELD, Garment, PrintCheck, PrintedSize
from utils.png import Compression


class ModelId(StrEnum):
    """The public names of the models, in their fixed order."""

    RUNWARE_RMBG = "runware-rmbg-2.0"
    RUNWARE_BIREFNET = "runware-birefnet-portrait"
    KIE_RECRAFT = "kie-recraft"
    LOCAL_BIREFNET = "local-birefnet-general"
    LOCAL_ISNET = "local-isnet"
    LOCAL_KNOCKOUT = "local-knockout"
    LOCAL_BEN2 = "local-ben2"


class Output(StrEnum):
    """How pixels come back: as links, or inside the JSON."""

    URL = "url"
    BASE64 = "base64"


class Mode(StrEnum):
    """How many models a shot needs: every one, the first acceptable, or as few paid as will do."""

    ALL = "all"
    FAST = "fast"
    CASCADE = "cascade"


class StreamFormat(StrEnum):
    """How a shot is told while it runs: JSON by lines, or server-sent events."""

    NDJSON = "ndjson"
    SSE = "sse"


class TriageMode(StrEnum):
    """Whether a picture is looked at before money is spent on it."""

    AUTO = "auto"
    OFF = "off"


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


class EdgeParameters(BaseModel):
    """What becomes of partial alpha."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    edge: Edge = Field(
        Edge.SOFT,
        description="`print` clears traces of alpha (up to 25) and fills what is nearly opaque "
        "(from 230); `hard` leaves no alpha in between; `halftone` turns it into dots. All three "
        "drop islands of less than 0.5 mm.",
    )
    dpi: float = Field(
        300,
        ge=1,
        le=10_000,
        description="Dots an inch of the result, also written into the file of a print.",
    )
    lpi: float = Field(
        45,
        ge=10,
        le=200,
        description="`edge=halftone`: lines of dots an inch, at most a quarter of `dpi`.",
    )
    angle: float = Field(
        45, ge=0, le=90, description="`edge=halftone`: what the lines are turned by, in degrees."
    )


class RemovalParameters(EdgeParameters, PrintedSize):
    """What a caller may say about a shot; in the query, the form or the JSON body."""

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
    max_cost_usd: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="What the paid models of this call may cost together, in US dollars; those "
        "that do not fit are `skipped`, the dearest first. 0: free models only.",
        examples=[0.02],
    )
    mode: Mode = Field(
        Mode.ALL,
        description="`all` asks every model; `fast` answers with the first acceptable cut-out and "
        "stops the rest; `cascade` asks paid models only where the free ones disagree or fail.",
    )
    min_results: int | None = Field(
        None,
        ge=1,
        le=len(ModelId),
        description="Answer as soon as so many models have succeeded; the others go on.",
    )
    stream: StreamFormat | None = Field(
        None, description="Tell each result as it lands, as `ndjson` or `sse`."
    )
    triage: TriageMode = Field(
        TriageMode.AUTO,
        description="`auto` looks first what kind of picture it is: paid models are `skipped` as "
        "`not_needed` where it is already cut out or blank. `off` asks them whatever it is.",
    )
    callback_url: str | None = Field(
        None,
        max_length=2048,
        description="A public https address to which the record is posted, signed, when every "
        "model has landed. Needs WEBHOOK_SECRET.",
        examples=["https://shop.example/cutouts"],
    )
    print_check: bool = Field(
        default=False,
        description="Say of every cut-out how it prints at the size given by `preset`, `width_in` "
        "or `height_in`.",
    )
    garment: Annotated[Garment | None, GARMENT_FIELD] = None


MAX_SCALE = 8


class PictureFormat(StrEnum):
    """What an enlarged picture is written as."""

    PNG = "png"
    WEBP = "webp"
    TIFF = "tiff"


class SizeParameters(EdgeParameters, PrintedSize):
    """How large a print becomes, what its rim looks like, and how hard it is packed."""

    scale: float | None = Field(
        None,
        ge=0.001,
        le=1000,
        description="Times as large, whole or fractional, at most 8. Left out: 4, or what the "
        "inches ask for.",
        examples=[4],
    )
    trim: bool = Field(
        default=False, description="Cut away the margin around what is visible (alpha above 10)."
    )
    compression: Compression = Field(
        Compression.FAST, description="`small` takes longer for a smaller file."
    )

    @property
    def is_sized(self) -> bool:
        """Whether a print is asked for, rather than the cut-out at its own size."""
        return self.in_inches or self.scale is not None or self.trim


class UpscaleParameters(SizeParameters):
    """What a caller may say about an enlargement; in the query, the form or the JSON body."""

    format: PictureFormat = Field(
        PictureFormat.PNG,
        description="`webp` is lossless and at most 16383 pixels a side; `tiff` becomes BigTIFF "
        "where it must.",
    )
    overlay: bool = Field(
        default=False, description="Paint every semi-transparent pixel red, to look at."
    )


class ProcessParameters(RemovalParameters, SizeParameters):
    """What a caller may say about a removal whose cut-outs are to be printed."""

    pick: Literal["recommended"] | ModelId | None = Field(
        None, description="Answer with this one cut-out, enlarged, instead of the record."
    )


class RenderParameters(SizeParameters):
    """What a caller may say about a new rendering of a cut-out; brush masks come as files."""

    model: Literal["recommended"] | ModelId = Field(
        "recommended", description="Whose cut-out of the shot is rendered."
    )
    garment: Annotated[Garment | None, GARMENT_FIELD] = None
    snap_white: bool = Field(
        default=False,
        description="Make almost white (from 250 in every channel) pure white, on which no "
        "coloured ink is laid.",
    )


class RenderedFrom(BaseModel):
    """Which result a rendering was made of, and how."""

    request_id: str = Field(description="The result it was made of.")
    first: str = Field(description="The shot that the picture was sent with.")
    parameters: RenderParameters
    restored_px: int = Field(description="Pixels that a brush made more opaque.")
    erased_px: int = Field(description="Pixels that a brush made less opaque.")


class PrintQuery(SizeParameters):
    """How a stored cut-out is wanted: as it is, small, or enlarged."""

    preview: int | None = Field(
        None,
        ge=16,
        le=2048,
        description="Longest side of a WebP preview, instead of the full PNG.",
    )
    print: bool = Field(
        default=False,
        description="Enlarge it, four times unless a size says otherwise; any of the size "
        "parameters asks for it as well.",
    )
    overlay: bool = Field(
        default=False, description="Paint every semi-transparent pixel red, to look at."
    )


class PrintReport(BaseModel):
    """What an enlargement means in print."""

    width: int
    height: int
    scale: float
    width_in: float
    height_in: float
    output_dpi: float
    source_dpi: float = Field(description="The picture's own pixels an inch at this size.")
    note: str = Field(description="The same in words.")


class EdgeCounts(BaseModel):
    """Pixels of partial alpha."""

    ghost: int = Field(description="Alpha 1 to 25: nobody sees them, and white ink goes under.")
    semi_transparent: int = Field(description="Alpha 1 to 254, all of them.")
    near_opaque: int = Field(description="Alpha 230 to 254: meant to be solid.")


class EdgeReport(BaseModel):
    """What an edge mode did to a picture's alpha."""

    edge: Edge
    before: EdgeCounts = Field(
        description="Of the cut-out, or of the plain Lanczos enlargement, islands apart."
    )
    after: EdgeCounts
    islands_dropped: int = Field(description="Parts of less than 0.5 mm that are gone.")


class ImageInfo(BaseModel):
    """The customer's picture, upright."""

    width: int
    height: int
    format: str = Field(examples=["JPEG"])
    bytes: int
    sha256: str
    kind: PictureKind | None = Field(
        None,
        description="`transparent` (already cut out), `checkerboard` (its transparency is "
        "painted), `blank`, `artwork` (on a plain ground) or `photo` (anything else); null with "
        "`triage=off`.",
    )
    note: str | None = Field(None, description="What the customer should be told about it.")
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
    edge_report: EdgeReport | None = None
    latency_ms: int | None = None
    print_url: str | None = Field(None, description="The cut-out enlarged, with /process.")
    print_width: int | None = None
    print_height: int | None = None
    print: PrintReport | None = None
    print_problem: str | None = Field(
        None, description="Why this cut-out cannot be enlarged as asked."
    )
    print_check: PrintCheck | None = Field(
        None, description="How it will print, with print_check=true."
    )
    cost_usd: float | None = None
    score: float | None = Field(None, description="0..1; says how it compares within this shot.")
    rank: int | None = Field(None, description="1 is best, among those that succeeded.")
    flags: list[Flag] | None = None
    variant: str | None = None
    sandbox: bool | None = None
    error: ResultError | None = None
    reason: SkipReason | None = None
    detail: str | None = Field(None, description="Why the model was skipped, for people.")


class ShotRecord(BaseModel):
    """A shot: one picture, one entry for each requested model in the fixed order."""

    request_id: str = Field(examples=["9f2c4be1a1d84f0c8a3d5e6f70819203"])
    status: Literal["running", "complete", "expired"] = Field(
        description="`expired`: the pictures are gone, the record is kept."
    )
    created_at: datetime
    image: ImageInfo
    results: list[ResultEntry]
    recommended: ModelId | None = Field(None, description="The one of rank 1.")
    agreement: float | None = Field(
        None, description="Mean IoU of every two cut-outs, 0..1; left out below two."
    )
    cost_usd: float
    latency_ms: int
    expires_at: datetime
    prints: SizeParameters | None = Field(
        None, description="With /process: how the cut-outs are to be enlarged."
    )
    rendered_from: RenderedFrom | None = Field(
        None, description="With POST /results/{id}/render: what it was made of."
    )
    owner: str | None = Field(None, exclude=True, description="Kept, never shown: who made it.")


class SessionParameters(BaseModel):
    """What a browser session shall be; never more than the settings allow."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttl_s: int | None = Field(None, ge=1, description="Seconds it lives.", examples=[600])
    shots: int | None = Field(
        None, ge=1, description="Removals and enlargements it may ask for.", examples=[5]
    )
    max_cost_usd: Decimal | None = Field(
        None, gt=0, description="Money after which it may ask for no more.", examples=[0.2]
    )


class SessionToken(BaseModel):
    """A browser session: the token, and what it may."""

    token: str = Field(examples=["session.mZ3yQ1p0…"])
    expires_at: datetime
    shots: int
    max_cost_usd: float


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    version: str
    uptime_s: float


class Readiness(BaseModel):
    """Whether a shot with default parameters would be taken now, and how full the house is."""

    ready: bool
    draining: bool = Field(
        default=False, description="Whether the service is being stopped and takes no new work."
    )
    keys_required: bool = Field(description="Whether other addresses want an API key.")
    models: dict[ModelId, "ModelReadiness"]
    memory: "MemoryInfo"
    queue: "QueueInfo" = Field(description="Shots being worked on and waiting.")
    printing: "QueueInfo" = Field(description="Enlargements: their clients may be slow.")
    inference: "InferenceInfo"
    ben2: "Ben2Info | None" = Field(None, description="local-ben2; null where it is not set up.")
    idempotency: "IdempotencyInfo"
    data: "DataInfo"
    problems: list["ReadinessProblem"] = Field(
        description="What is wrong now, what makes it not ready first; empty when all is well."
    )
    pillow: str = Field(description="The Pillow that is active; Pillow-SIMD ends in .post0.")


class ReadinessTopic(StrEnum):
    """What a problem of the house is about."""

    DRAINING = "draining"
    MODELS = "models"
    DISK = "disk"
    MEMORY = "memory"
    QUEUE = "queue"
    NETWORKS = "networks"
    BUDGET = "budget"
    PROVIDER = "provider"
    DATA = "data"
    PICKS = "picks"
    IDEMPOTENCY = "idempotency"


class ReadinessProblem(BaseModel):
    """One thing that is wrong; those that block make /ready a 503."""

    topic: ReadinessTopic
    blocks: bool = Field(description="Whether a shot with default parameters is refused by it.")
    reason: str


class ModelReadiness(BaseModel):
    status: ModelStatus
    reason: str | None = None
    sandbox: bool | None = Field(None, description="True where a look-alike answers, for free.")
    first_answer_s: float | None = Field(
        None,
        description="Local networks: what a picture takes that finds nothing loaded, as measured "
        "on two 2026 server cores.",
    )


class MemoryInfo(BaseModel):
    """MiB: what is granted, and how it is divided; null where nobody knows what is granted."""

    granted_mb: int | None = Field(description="What the box grants; null where unknown.")
    resident_mb: int | None
    floor_mb: int = Field(description="Kept for the service itself.")
    enlarging_mb: int = Field(description="Kept for enlargements: UPSCALE_MEMORY_MB.")
    networks_mb: int | None = Field(description="Kept for the local networks' process.")
    shots_mb: int | None = Field(description="What shots may reserve: all the rest.")
    ben2_mb: int = Field(description="Kept for local-ben2's process; 0 where it is not even tried.")
    reserved_mb: int = Field(description="Reserved by the shots being worked on.")


class InferenceInfo(BaseModel):
    """The process that runs the local networks."""

    engine: Engine
    precision: Precision
    threads: int
    loaded: list[str] = Field(description="The networks in memory.")
    running: bool
    waiting: int
    failures_in_a_row: int = Field(
        description="How often in a row its process crashed, ran out of time or of memory."
    )
    load_s: dict[str, float] = Field(
        description="How long each network took to load when it last did."
    )


class CardInfo(BaseModel):
    """The graphics card as nvidia-smi names it; MiB, of everything that runs on it."""

    name: str = Field(examples=["NVIDIA GeForce RTX 4090"])
    driver: str
    memory_total_mb: int | None
    memory_used_mb: int | None


class Ben2Info(BaseModel):
    """Where local-ben2 runs, and the process of its own that runs it."""

    asked: Device = Field(description="BEN2_DEVICE.")
    device: Device | None = Field(description="`cuda` or `cpu`; null: nowhere.")
    why: str = Field(description="What decided that.")
    card: CardInfo | None = Field(description="null: nvidia-smi names none.")
    resident_mb: int | None = Field(
        description="Memory of its process, the card's apart; null while there is none."
    )
    loaded: bool
    running: bool
    waiting: int


class IdempotencyInfo(BaseModel):
    """Whether requests with an Idempotency-Key can be answered."""

    available: bool
    reason: str | None = None


class DataInfo(BaseModel):
    """Whether ledger, records, keys and picks are kept where DATA_DIR says."""

    available: bool
    reason: str | None = None


class QueueInfo(BaseModel):
    running: int
    running_limit: int
    waiting: int
    waiting_limit: int


class Percentiles(BaseModel):
    """Milliseconds that answers took."""

    count: int
    p50: int | None = None
    p95: int | None = None


class LatencyInfo(Percentiles):
    """Of the last answers since the start, at most 200, and of today's among them."""

    today: Percentiles = Field(description="Of today (UTC).")


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
