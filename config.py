"""The service's settings: read once from the environment (and .env), checked, then frozen.

Names are flat and upper case in the environment (`MAX_CONCURRENT_JOBS`) and live in small groups
here (`settings.work.max_concurrent_jobs`). docs/CONFIGURATION.md and .env.example are generated
from this file by `python -m scripts.configuration`.
"""

import hashlib
import re
from collections.abc import Mapping
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.inference import BirefnetSize, Device, Engine, LocalProfile, Precision
from models.schemas import Mode, ModelId

MIB = 1024 * 1024

_PLACEHOLDER = re.compile(
    r"^(your[-_ ].*|changeme|change[-_ ]me|xxx+|<.*>|todo|none|null)$", re.IGNORECASE
)


class SettingsError(ValueError):
    """The environment holds nonsense; the text has one line per problem and no secret."""


def _secret_or_none(value: object) -> object:
    """An empty or placeholder key means: not configured."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(text, str) and (not text.strip() or _PLACEHOLDER.match(text.strip())):
        return None
    return text.strip() if isinstance(text, str) else text


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


def _base_url(value: object) -> object:
    if not isinstance(value, str) or not value.strip():
        return ""
    parts = urlsplit(value.strip())
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
        raise ValueError("must be an http(s) address without query, as https://cutouts.example")
    return value.strip().rstrip("/")


def _comma_list(value: object) -> object:
    if isinstance(value, str):
        return frozenset(part.strip().lower() for part in value.split(",") if part.strip())
    return value


def _origin_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    origins = [part.strip().rstrip("/") for part in value.split(",") if part.strip()]
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin} is not an origin, as https://shop.example")
    return frozenset(origins)


_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?")  # goes into a header as it is
Origins = Annotated[frozenset[str], NoDecode, BeforeValidator(_origin_list)]
Key = Annotated[SecretStr | None, BeforeValidator(_secret_or_none)]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)
]
LongSecret = Annotated[
    Annotated[SecretStr, Field(min_length=32)] | None, BeforeValidator(_secret_or_none)
]
BaseUrl = Annotated[str, BeforeValidator(_base_url)]


def _none_if_empty(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


def _price_list(value: object) -> object:
    """`name=dollars` pairs separated by commas."""
    if not isinstance(value, str):
        return value
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    if any(not name or not dollars for name, _, dollars in pairs):
        raise ValueError("must be name=dollars pairs separated by commas")
    return {name.strip(): dollars.strip() for name, _, dollars in pairs}


def _checksums(value: object) -> object:
    """`name=sha256` pairs separated by commas."""
    if not isinstance(value, str):
        return value
    pairs = [pair.strip().partition("=") for pair in value.split(",") if pair.strip()]
    return {name: sha256 for name, _, sha256 in pairs}


def _key_digests(value: object) -> object:
    """`id:key` pairs separated by commas, as id to SHA-256 (hex): the keys are forgotten here."""
    if not isinstance(value, str):
        return value
    digests: dict[str, str] = {}
    for position, entry in enumerate(map(str.strip, value.split(",")), start=1):
        if not entry:
            continue
        key_id, _, key = entry.partition(":")
        if not _KEY_ID.fullmatch(key_id) or key_id in _RESERVED_IDS:
            raise ValueError(f"entry {position} does not begin with an id of a-z, 0-9, _ and -")
        if not _KEY.fullmatch(key):
            raise ValueError(f"the key of entry {position} is not 16 or more visible characters")
        digest = hashlib.sha256(key.encode()).hexdigest()
        if key_id in digests or digest in digests.values():
            raise ValueError(f"entry {position} repeats an id or a key")
        digests[key_id] = digest
    if value.strip() and not digests:  # somebody meant to close the door
        raise ValueError("there is no id:key in it")
    return digests


def _network_list(value: object) -> object:
    """Addresses and networks separated by commas, each as it is written there."""
    if not isinstance(value, str):
        return value
    found = [part.strip() for part in value.split(",") if part.strip()]
    for each in found:
        ip_network(each)  # its ValueError names what is wrong
    return frozenset(found)


def _host_list(value: object) -> object:
    hosts = _comma_list(value)
    if isinstance(value, str) and isinstance(hosts, frozenset):
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host} is not a host's name, as cutouts.example")
    return hosts


def _rate_list(value: object) -> object:
    """`id=number` pairs separated by commas."""
    if not isinstance(value, str):
        return value
    pairs = [pair.strip().partition("=") for pair in value.split(",") if pair.strip()]
    if any(not _KEY_ID.fullmatch(key_id) or not number for key_id, _, number in pairs):
        raise ValueError("must be id=number pairs separated by commas")
    return {key_id: number for key_id, _, number in pairs}


_HOST = re.compile(r"[a-z0-9.-]+|\[[0-9a-f:.]+\]")
_KEY_ID = re.compile("[a-z0-9_-]{1,64}")
_KEY = re.compile("[!-~]{16,}")
_RESERVED_IDS = frozenset({"open", "link", "unknown"})  # what the log calls those without a key
KeyDigests = Annotated[dict[str, str], NoDecode, BeforeValidator(_key_digests)]
Checksums = Annotated[
    dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]],
    NoDecode,
    BeforeValidator(_checksums),
]
PriceList = Annotated[
    dict[str, Annotated[Decimal, Field(ge=0)]], NoDecode, BeforeValidator(_price_list)
]
Dollars = Annotated[Decimal | None, BeforeValidator(_none_if_empty)]
OptionalPath = Annotated[Path | None, BeforeValidator(_none_if_empty)]
Checksum = Annotated[
    Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None, BeforeValidator(_none_if_empty)
]
CommaSet = Annotated[frozenset[str], NoDecode, BeforeValidator(_comma_list)]
Networks = Annotated[frozenset[str], NoDecode, BeforeValidator(_network_list)]
Hosts = Annotated[frozenset[str], NoDecode, BeforeValidator(_host_list)]
RateList = Annotated[dict[str, Annotated[int, Field(ge=0)]], NoDecode, BeforeValidator(_rate_list)]


class Group(BaseSettings):
    """A handful of settings that belong together."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True
    )


class ProviderSettings(Group):
    """Paid providers."""

    runware_api_key: Key = Field(
        None, description="Key of Runware (RMBG 2.0 and BiRefNet Portrait). Empty: not used."
    )
    kie_api_key: Key = Field(
        None,
        description="Key of Kie.ai (Recraft). Empty: not used. `sandbox` as either key starts a "
        "look-alike on this machine that costs nothing.",
    )
    runware_url: str = Field(
        "wss://ws-api.runware.ai/v1", pattern="^wss?://", description="Runware's WebSocket."
    )
    runware_rmbg_model: str = Field(
        "bria:2@1",
        min_length=1,
        description="AIR id asked as RMBG 2.0. `runware:110@1` was the open copy for 0.0006 USD; "
        "it is reported shut down, an account that still has it may name it here.",
    )
    runware_portrait_model: str = Field(
        "runware:112@10", min_length=1, description="AIR id asked as BiRefNet Portrait."
    )
    runware_timeout_s: float = Field(
        90, gt=0, le=3600, description="Seconds until a Runware model counts as too late."
    )
    kie_api_url: str = Field(
        "https://api.kie.ai", pattern="^https?://", description="Kie.ai's task routes."
    )
    kie_upload_url: str = Field(
        "https://kieai.redpandaai.co", pattern="^https?://", description="Kie.ai's upload routes."
    )
    kie_model: str = Field(
        "recraft/remove-background", min_length=1, description="Kie.ai's name of Recraft."
    )
    kie_timeout_s: float = Field(
        120, gt=0, le=3600, description="Seconds until Recraft counts as too late."
    )
    provider_user_agent: str = Field(
        "Mozilla/5.0 (compatible; dtf-image-service)",
        min_length=1,
        description="User-Agent sent to Kie.ai and for results; its edge refuses a library's own.",
    )
    provider_result_domains: CommaSet = Field(
        frozenset({"runware.ai", "aiquickdraw.com", "redpandaai.co", "kie.ai"}),
        description="Domains from which results are fetched, separated by commas.",
    )
    provider_pace: float = Field(
        1,
        gt=0,
        le=10,
        description="Factor on every wait between two questions to a provider: polls, retries, "
        "reconnects, pings.",
    )
    provider_probe_s: float = Field(
        60,
        ge=1,
        description="Seconds after which a provider that refused the key or the credit, or failed "
        "too often, is tried again with one request.",
    )
    provider_failures: int = Field(
        5,
        ge=1,
        description="Failures in a row (not reached, errors, time-outs, no answer) after which a "
        "provider is left alone for PROVIDER_PROBE_S.",
    )
    provider_prices: PriceList = Field(
        "bria:2@1=0.018,runware:112@10=0.0006,runware:110@1=0.0006,recraft/remove-background=0.005",
        validate_default=True,
        description="US dollars a picture by model, used where a reply does not say what it cost.",
    )
    daily_budget_usd: Dollars = Field(
        None,
        ge=0,
        description="US dollars that paid models may cost in a day (UTC). Empty: no limit.",
    )
    key_daily_budgets: PriceList = Field(
        {},
        description="The same for single API keys: id=dollars pairs separated by commas. A key "
        "not named has no limit of its own.",
    )


class AccessSettings(Group):
    """Who may ask."""

    api_keys: KeyDigests = Field(
        {},
        description="id:key pairs separated by commas; callers must then send one of the keys. "
        "Ids of a-z, 0-9, _ and -; keys of at least 16 characters, as "
        "`python -c 'import secrets; print(secrets.token_urlsafe(32))'` makes them. "
        "Empty: open to anybody who reaches the port.",
    )
    signing_secret: LongSecret = Field(
        None,
        description="What links and session tokens are signed with, at least 32 characters. "
        "Empty: made once and kept in DATA_DIR.",
    )
    result_token_ttl_h: float = Field(
        0,
        ge=0,
        le=24 * 365,
        description="Hours in which the links in answers change once; they work for one to two of "
        "them. 0: they work, unchanged, as long as the result lives.",
    )
    session_ttl_s: int = Field(
        1800, ge=1, le=24 * 3600, description="Seconds that a browser session lives at most."
    )
    session_shots: int = Field(
        20, ge=1, description="Removals and enlargements a browser session may ask for at most."
    )
    session_max_cost_usd: Decimal = Field(
        Decimal(1), gt=0, description="US dollars a browser session may spend at most."
    )
    page_embedded_by: Origins = Field(
        frozenset(),
        description="Origins of shops that may show the pick page in a frame and hand it a "
        "session, as https://shop.example, separated by commas. Empty: nobody's.",
    )


class NetworkSettings(Group):
    """The way in: whom to believe, who may come, and how often."""

    trusted_proxies: Networks = Field(
        frozenset(),
        description="Addresses and networks of the proxies in front, as 10.0.0.0/8, separated by "
        "commas: their X-Forwarded-For says who asks, their X-Forwarded-Proto whether by https. "
        "Empty: what anybody says there changes nothing.",
    )
    allowed_hosts: Hosts = Field(
        frozenset(),
        description="Names by which the service may be asked for (Host), separated by commas; "
        "that of PUBLIC_BASE_URL and localhost always are. Empty: by any.",
    )
    cors_origins: Origins = Field(
        frozenset(),
        description="Origins whose pages may call the API from a browser, as "
        "https://shop.example, separated by commas. Empty: none but our own.",
    )
    docs_enabled: bool = Field(
        default=True, description="Whether /docs, /redoc and /openapi.json are there."
    )
    rate_limit_per_minute: int = Field(
        600,
        ge=0,
        description="Requests that make pictures (every POST but picks and sessions) that one API "
        "key, or without keys one address, may send in a minute; ten times as many others. 0: no "
        "limit.",
    )
    key_rate_limits: RateList = Field(
        {},
        description="The same for single API keys: id=number pairs separated by commas.",
    )
    session_rate_limit_per_minute: int = Field(
        120,
        ge=0,
        description="The same for one browser session, which also counts for its key.",
    )
    refusal_limit_per_minute: int = Field(
        300,
        ge=0,
        description="Requests without a right key that one address may send in a minute; then "
        "keys that it has not shown before are not looked at. 0: no limit.",
    )


class WorkSettings(Group):
    """How much at once, and for how long."""

    max_concurrent_jobs: int = Field(
        4,
        ge=1,
        le=64,
        description="Shots being worked on at once; as many enlargements go on beside them.",
    )
    queue_limit: int = Field(
        32, ge=0, le=10_000, description="Requests that may wait; the next one is told 503."
    )
    deadline_s: float = Field(
        50, ge=1, le=55, description="Seconds until a shot is answered with what has landed."
    )
    model_timeout_s: float = Field(
        300, ge=1, le=3600, description="Seconds a model may go on, also after the answer."
    )
    pixel_threads: int = Field(
        2, ge=1, le=64, description="Threads that decode, encode and cut (the box has 2 vCPU)."
    )
    upscale_memory_mb: int = Field(
        512,
        ge=32,
        description="MiB that the strips of enlargements, or one picture that can only be decoded "
        "or encoded whole, may take.",
    )
    client_stall_s: float = Field(
        60,
        gt=0,
        description="Seconds in which a client takes nothing of a streamed picture until it is "
        "given up.",
    )
    log_level: LogLevel = Field("INFO", description="DEBUG, INFO, WARNING, ERROR or CRITICAL.")


class ProcessSettings(Group):
    """How the process ends, and when it is given up."""

    drain_s: float = Field(
        20,
        gt=0,
        le=25,
        description="Seconds from SIGTERM to the end: no new work is taken, what runs ends.",
    )
    drain_notice_s: float = Field(
        2,
        ge=0,
        le=10,
        description="Of these, seconds in which the socket stays open and answers 503 "
        "`draining`, so that whoever sends requests here notices; at most half of DRAIN_S.",
    )
    watchdog_s: float = Field(
        30,
        ge=0,
        le=3600,
        description="Seconds for which the event loop may stand still until the process ends "
        "itself with status 70, to be started again. 0: for ever.",
    )


class InputSettings(Group):
    """What is accepted."""

    max_upload_mb: int = Field(
        100, ge=1, le=10_000, description="Largest upload or download, in MiB."
    )
    max_megapixels: float = Field(
        64, gt=0, le=1000, description="Largest picture for background removal, in million pixels."
    )
    upload_stall_s: float = Field(
        20,
        gt=0,
        le=300,
        description="Seconds in which nothing of a request's body comes until it is told 408.",
    )
    upload_timeout_s: float = Field(
        300,
        gt=0,
        le=3600,
        description="Seconds in which all of a request's body must come, however steadily.",
    )
    image_url_timeout_s: float = Field(
        20, gt=0, le=55, description="Seconds in which a picture named by image_url must arrive."
    )
    image_url_allowed_hosts: CommaSet = Field(
        frozenset(),
        description="host:port entries that image_url may name though they are not public "
        "(a shop's own storage), separated by commas.",
    )


class StorageSettings(Group):
    """What is kept, where and how long."""

    temp_dir: Path = Field(
        Path("/tmp/img-proc"),  # noqa: S108  # nosec B108  # the user's own default
        description="Folder for uploads on their way and for results.",
    )
    result_ttl_h: float = Field(
        24, gt=0, le=24 * 365, description="Hours after which a shot's pictures are forgotten."
    )
    record_ttl_days: float = Field(
        30, ge=0, le=3650, description="Days for which its record outlives them."
    )
    result_quota_mb: int = Field(
        2048,
        ge=1,
        description="MiB that pictures may take; beyond it the least recently used go.",
    )
    min_free_disk_mb: int = Field(
        256, ge=0, description="MiB of disk that must stay free; below it a shot is told 507."
    )
    data_dir: OptionalPath = Field(
        None,
        description="Folder of the cost ledger, of records, picks and idempotency keys; put it "
        "on a persistent volume. Empty: data inside TEMP_DIR.",
    )
    dedupe: bool = Field(
        default=False,
        description="`on`: the same picture with the same parameters and API key is answered from "
        "the shot it had, as long as that is kept, though no Idempotency-Key says so.",
    )
    public_base_url: BaseUrl = Field(
        "",
        description="Start of the links in answers, as https://cutouts.example. "
        "Empty: links are relative.",
    )


class WebhookSettings(Group):
    """Telling a shop that its shot is complete."""

    webhook_secret: Key = Field(
        None,
        description="Secret that `callback_url` posts are signed with. Empty: callback_url is "
        "refused.",
    )
    webhook_allowed_hosts: CommaSet = Field(
        frozenset(),
        description="host:port entries that callback_url may name though they are not public or "
        "not https (a shop's own network), separated by commas.",
    )
    webhook_pace: float = Field(
        1,
        gt=0,
        le=10,
        description="Factor on the waits between five tries (15, 45, 135 and 405 s).",
    )


class RemovebgSettings(Group):
    """The route for clients of remove.bg (docs/REMOVEBG.md)."""

    removebg_models: Annotated[frozenset[ModelId], NoDecode, BeforeValidator(_comma_list)] = Field(
        frozenset(),
        description="Models that POST /v1.0/removebg asks, separated by commas. Empty: the default "
        "five.",
    )
    removebg_mode: Mode = Field(
        Mode.CASCADE,
        description="How it asks them: `cascade` (paid ones only where the free ones disagree or "
        "fail), `fast` (the first acceptable cut-out) or `all`.",
    )


class ObservabilitySettings(Group):
    """What can be seen of it from outside (docs/METRICS.md)."""

    metrics_token: Annotated[
        Annotated[SecretStr, Field(min_length=16)] | None, BeforeValidator(_secret_or_none)
    ] = Field(
        None,
        description="Opens GET /metrics to a scraper that shows it as a bearer token, and nothing "
        "else; at least 16 characters. Empty: an API key does, or, without API_KEYS, nobody is "
        "asked.",
    )
    otel_exporter_otlp_endpoint: BaseUrl = Field(
        "",
        description="Base address of an OpenTelemetry collector (OTLP over HTTP), as "
        "http://collector:4318, that traces are sent to. Empty: none are made.",
    )
    otel_exporter_otlp_headers: Key = Field(
        None, description="Headers for the collector, as name=value pairs separated by commas."
    )
    otel_service_name: str = Field(
        "dtf-image-service", min_length=1, description="What traces call the service."
    )
    otel_traces_sampler_arg: float = Field(
        1,
        ge=0,
        le=1,
        description="Share of requests that are traced; one whose caller has decided (traceparent) "
        "follows that.",
    )


class LocalSettings(Group):
    """Models on this machine."""

    weights_dir: Path = Field(
        Path("weights"), description="Folder of the neural weights, laid out as rembg's home."
    )
    weights_download: bool = Field(
        default=True, description="Whether missing weights are fetched at start."
    )
    local_profile: LocalProfile = Field(
        LocalProfile.AUTO,
        description="`speed` (BiRefNet-General: 2.0 GB), `balanced` (bf16 where the CPU has it, "
        "weights kept in 16 bits: 1.3 GB and twice as fast, masks within a level) or `small` (1.8 "
        "GB, twice as slow); `auto` is the fastest exact one that fits into what is granted.",
    )
    birefnet_size: BirefnetSize = Field(
        BirefnetSize.FULL,
        description="`full`, `lite` (half the memory, a quarter of the time, coarser masks; "
        "results say `lite`) or `auto`: lite only where the full one does not fit into memory.",
    )
    inference_engine: Engine = Field(
        Engine.AUTO,
        description="`openvino` or `onnxruntime`; `auto` is OpenVINO where it is installed.",
    )
    inference_precision: Precision = Field(
        Precision.AUTO,
        description="`f32` or `bf16` (OpenVINO, on a CPU that has it: twice as fast, masks within "
        "a level or so); `auto` is f32.",
    )
    inference_threads: int = Field(2, ge=1, le=64, description="Threads of one inference.")
    inference_idle_s: float = Field(
        300,
        gt=0,
        description="Seconds after its last picture in which a network stays in memory.",
    )
    unverified_weights: Checksums = Field(
        {},
        description="For measurements only: name=sha256 pairs of files in WEIGHTS_DIR that are run "
        "though they are not the released ones; results say `unverified`.",
    )
    memory_limit_mb: int = Field(
        0,
        ge=0,
        description="MiB this service may use. 0: what the control group or machine grants.",
    )
    knockout_enabled: bool = Field(
        default=False, description="Whether local-knockout joins the default five."
    )


class Ben2Settings(Group):
    """BEN2 on a graphics card."""

    ben2_weights: OptionalPath = Field(
        None,
        description="The file BEN2_Base.onnx of PramaLLC/BEN2. Empty: there is no local-ben2. "
        "Set: it joins the default models. See docs/GPU.md.",
    )
    ben2_sha256: Checksum = Field(
        None,
        description="SHA-256 of that file, 64 hexadecimal digits in lower case. A file that it "
        "does not prove is never run.",
    )
    ben2_device: Device = Field(
        Device.AUTO,
        description="`auto`: CUDA where nvidia-smi names a card, else local-ben2 is unavailable; "
        "`cuda`: CUDA without looking for a card first; `cpu`: the processor (reported elsewhere: "
        "18 s a picture and 4 GB).",
    )


class PickSettings(Group):
    """What customers picked, and what is made of it."""

    picks_fsync: Literal["always", "interval", "never"] = Field(
        "always",
        description="When a pick is forced to the disk: `always` before it is answered, `interval` "
        "once a second, `never` when the system likes.",
    )
    picks_on_failure: Literal["refuse", "log"] = Field(
        "refuse",
        description="What becomes of a pick that the disk does not take: `refuse` answers 503, "
        "`log` answers 202 and writes the whole line, with reason and metadata, to the log.",
    )
    picks_rotate_mb: int = Field(
        64, ge=1, le=4096, description="MiB at which the journal's file is put away, compressed."
    )
    picks_retention_days: float = Field(
        730, ge=1, le=36500, description="Days for which picks are kept."
    )
    picks_half_life_days: float = Field(
        14, gt=0, le=36500, description="Days after which a pick counts half in what is learned."
    )
    picks_worth_usd: float = Field(
        0.05,
        ge=0,
        description="What it is worth, in US dollars, that the customer finds a better cut-out: a "
        "paid model is worth asking when its chance of being picked times this exceeds its price.",
    )


class PrintSettings(Group):
    """What a print check passes, warns of and fails (docs/PRINT.md); px are pixels at 300 dpi."""

    print_target_dpi: float = Field(
        300, gt=0, description="Pixels an inch that a sharp print wants, and prints are made at."
    )
    print_poor_dpi: float = Field(
        200, gt=0, description="Below it the check says blurry, not only soft."
    )
    print_least_dpi: float = Field(150, gt=0, description="Below it the check fails.")
    print_least_clear_percent: float = Field(
        1, ge=0, le=100, description="Of the canvas: less that is transparent is warned of."
    )
    print_most_ghost_percent: float = Field(
        0.05,
        ge=0,
        description="Of the canvas: more that is nearly invisible (alpha 1 to 25), and not an "
        "edge's own, fails; any at all is warned of.",
    )
    print_most_ghost_reach_px: float = Field(
        4, gt=0, le=16, description="Nearly invisible pixels further than this from an edge fail."
    )
    print_most_near_opaque_percent: float = Field(
        1, ge=0, description="Of the artwork: so much that is nearly solid is warned of."
    )
    print_warn_soft_percent: float = Field(
        0.5, ge=0, description="Of the artwork: so much that is half-transparent is warned of."
    )
    print_most_soft_percent: float = Field(
        5, ge=0, description="Of the artwork: more that is half-transparent fails."
    )
    print_warn_edge_px: float = Field(
        2, ge=0, description="Edges that fade over more are warned of."
    )
    print_most_edge_px: float = Field(4, ge=0, description="Edges that fade over more fail.")
    print_least_island_px: float = Field(
        6, gt=0, le=16, description="Separate specks smaller than this are warned of."
    )
    print_most_islands: int = Field(20, ge=0, description="More specks than these fail.")
    print_warn_line_px: float = Field(6, gt=0, le=30, description="Thinner lines are warned of.")
    print_least_line_px: float = Field(4, gt=0, le=30, description="Thinner lines fail.")
    print_warn_gap_px: float = Field(8, gt=0, le=30, description="Narrower gaps are warned of.")
    print_least_gap_px: float = Field(6, gt=0, le=30, description="Narrower gaps fail.")
    print_most_near_white_percent: float = Field(
        0.1, ge=0, description="Of the artwork: more that is almost white is warned of."
    )
    print_most_margin_percent: float = Field(
        2, ge=0, description="Of the canvas's width or height: more empty space is warned of."
    )
    print_web_in: float = Field(22, gt=0, description="Width of the film; a wider print fails.")
    print_least_contrast: float = Field(
        1.5, ge=1, description="Contrast (WCAG) of artwork and shirt below which is warned."
    )


class Settings(BaseModel):
    """Everything the service can be told, by group."""

    model_config = ConfigDict(frozen=True)

    providers: ProviderSettings
    access: AccessSettings
    network: NetworkSettings
    work: WorkSettings
    process: ProcessSettings
    inputs: InputSettings
    storage: StorageSettings
    webhooks: WebhookSettings
    removebg: RemovebgSettings
    observability: ObservabilitySettings
    local: LocalSettings
    ben2: Ben2Settings
    picks: PickSettings
    prints: PrintSettings


GROUPS: Mapping[str, type[Group]] = {
    "providers": ProviderSettings,
    "access": AccessSettings,
    "network": NetworkSettings,
    "work": WorkSettings,
    "process": ProcessSettings,
    "inputs": InputSettings,
    "storage": StorageSettings,
    "webhooks": WebhookSettings,
    "removebg": RemovebgSettings,
    "observability": ObservabilitySettings,
    "local": LocalSettings,
    "ben2": Ben2Settings,
    "picks": PickSettings,
    "prints": PrintSettings,
}

G = TypeVar("G", bound=Group)


def load_settings(*, env_file: Path | None = Path(".env")) -> Settings:
    """Read the environment, then `env_file` for what it does not name.

    Raises SettingsError with one line per problem.
    """
    problems: list[str] = []
    groups = {name: _load(group, env_file, problems) for name, group in GROUPS.items()}
    if problems:
        raise SettingsError("\n".join(problems))
    return Settings.model_validate(groups)


def _load(group: type[G], env_file: Path | None, problems: list[str]) -> G | None:
    try:
        return group(_env_file=env_file)
    except ValidationError as error:
        problems += [_line(each) for each in error.errors()]
        return None


def _line(error: ErrorDetails) -> str:
    name = str(error["loc"][0])
    secret = "key" in name or "secret" in name or name.endswith(("_token", "_headers"))
    shown = "" if secret else f" (it is {error['input']!r})"
    return f"{name.upper()}: {error['msg']}{shown}"
