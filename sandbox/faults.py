"""What can be made to go wrong, and for which task: switches for a run, marks for one request.

A switch is written `provider.kind[=number][@model]`, several are joined by commas. The number is
seconds or how often, as the kind's description says.
"""

import re
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum


class Provider(StrEnum):
    RUNWARE = "runware"
    KIE = "kie"


class Stage(StrEnum):
    """Where a fault strikes; a switch that counts is used up there and nowhere else."""

    HANDSHAKE = "handshake"
    AUTHENTICATION = "authentication"
    PING = "ping"
    UPLOAD = "upload"
    TASK = "task"


class Kind(StrEnum):
    HANDSHAKE_503 = "handshake_503"
    AUTH_SILENT = "auth_silent"
    AUTH_LEGACY = "auth_legacy"
    NO_PONG = "no_pong"
    DROP_UNACCEPTED = "drop_unaccepted"
    DROP_BEFORE_ACK = "drop_before_ack"
    DROP_AFTER_ACK = "drop_after_ack"
    DROP_BEFORE_RESULT = "drop_before_result"
    SILENT = "silent"
    SLOW = "slow"
    LATE = "late"
    MALFORMED_JSON = "malformed_json"
    BINARY_FRAME = "binary_frame"
    ARRAY_FRAME = "array_frame"
    DATA_OBJECT = "data_object"
    DATA_AND_ERRORS = "data_and_errors"
    LEGACY_TASK_TYPE = "legacy_task_type"
    MEDIA_KEYS = "media_keys"
    HUGE_FRAME = "huge_frame"
    DUPLICATE_RESULT = "duplicate_result"
    ERROR_WITHOUT_UUID = "error_without_uuid"
    ERROR_SINGULAR = "error_singular"
    ERROR_IN_ITEM = "error_in_item"
    TIMEOUT_PROVIDER = "timeout_provider"
    PROVIDER_ERROR = "provider_error"
    CONTENT_REJECTED = "content_rejected"
    INSUFFICIENT_CREDITS = "insufficient_credits"
    RATE_LIMITED = "rate_limited"
    UPLOAD_500 = "upload_500"
    QUICKSTART_UPLOAD = "quickstart_upload"
    NO_CREDITS = "no_credits"
    UNAUTHORIZED = "unauthorized"
    QUOTA_433 = "quota_433"
    MAINTENANCE = "maintenance"
    FEATURE_DISABLED = "feature_disabled"
    CREATE_500 = "create_500"
    HTML_502 = "html_502"
    LOST_REPLY = "lost_reply"
    EDGE_1010 = "edge_1010"
    NO_CONTENT_TYPE = "no_content_type"
    REAL_STATUS = "real_status"
    MESSAGE_KEY = "message_key"
    NULL_RECORD = "null_record"
    POLL_500 = "poll_500"
    STUCK = "stuck"
    UNKNOWN_STATE = "unknown_state"
    FAIL_500 = "fail_500"
    FAIL_501 = "fail_501"
    TIMEOUT_408 = "timeout_408"
    RESULT_OBJECT = "result_object"
    RESULT_EMPTY = "result_empty"
    RESULT_WITHOUT_URLS = "result_without_urls"
    URL_404 = "url_404"
    URL_503 = "url_503"
    URL_EXPIRED = "url_expired"
    URL_HTML = "url_html"
    URL_REDIRECT = "url_redirect"
    URL_FOREIGN = "url_foreign"
    URL_TRUNCATED = "url_truncated"
    URL_ENDLESS = "url_endless"
    SLOW_BODY = "slow_body"
    WRONG_SIZE = "wrong_size"
    NO_ALPHA = "no_alpha"
    EMPTY_ALPHA = "empty_alpha"
    WEBP = "webp"


_RESULT_FILES = {
    Kind.URL_404: "the result's address answers 404",
    Kind.URL_503: "the result's address answers 503 the first N times (1)",
    Kind.URL_EXPIRED: "the result's address has already expired",
    Kind.URL_HTML: "the result's address answers 200 with a web page",
    Kind.URL_REDIRECT: "the result's address redirects to a private address",
    Kind.URL_FOREIGN: "the reply names a result on a private foreign host",
    Kind.URL_TRUNCATED: "the result's body breaks off half way",
    Kind.URL_ENDLESS: "the result's body is followed by zeros, up to 256 MiB",
    Kind.SLOW_BODY: "the result's body takes N seconds (slow_s)",
    Kind.WRONG_SIZE: "the result has half the sides, or N times them",
    Kind.NO_ALPHA: "the result is an opaque PNG",
    Kind.EMPTY_ALPHA: "the result is transparent everywhere",
    Kind.WEBP: "the result is WebP, whatever was asked for",
}

OFFERED: Mapping[Provider, Mapping[Stage, Mapping[Kind, str]]] = {
    Provider.RUNWARE: {
        Stage.HANDSHAKE: {Kind.HANDSHAKE_503: "the WebSocket handshake is answered 503"},
        Stage.AUTHENTICATION: {
            Kind.AUTH_SILENT: "authentication is never answered",
            Kind.AUTH_LEGACY: "a refused key is reported in the shape of the old documents",
        },
        Stage.PING: {Kind.NO_PONG: "pings are never answered"},
        Stage.TASK: {
            Kind.DROP_UNACCEPTED: "the socket breaks before the task was taken, once per task",
            Kind.DROP_BEFORE_ACK: "the task is taken, the socket breaks before the ack",
            Kind.DROP_AFTER_ACK: "the socket breaks right after the ack",
            Kind.DROP_BEFORE_RESULT: "the socket breaks when the result is due; it is buffered",
            Kind.SILENT: "the task is done and charged, no frame about it is ever sent",
            Kind.SLOW: "the work takes N seconds longer (slow_s)",
            Kind.LATE: "the result comes after N seconds (late_s), beyond a client's patience",
            Kind.MALFORMED_JSON: "the first N result frames (1) are cut in half",
            Kind.BINARY_FRAME: "the result is sent in a binary frame",
            Kind.ARRAY_FRAME: "the result's frame is wrapped in an array",
            Kind.DATA_OBJECT: "`data` is an object instead of a list",
            Kind.DATA_AND_ERRORS: "the result shares its frame with another task's error",
            Kind.LEGACY_TASK_TYPE: "replies name the task imageBackgroundRemoval",
            Kind.MEDIA_KEYS: "the result has mediaUUID and mediaURL for imageUUID and imageURL",
            Kind.HUGE_FRAME: "the result's frame is larger than 1 MiB, or than N bytes",
            Kind.DUPLICATE_RESULT: "the result's frame is sent twice",
            Kind.ERROR_WITHOUT_UUID: "the task fails and the error names no task",
            Kind.ERROR_SINGULAR: "the task fails, under `error` instead of `errors`",
            Kind.ERROR_IN_ITEM: "the task fails, as an item of `data` with its own `error`",
            Kind.TIMEOUT_PROVIDER: "the task fails with timeoutProvider",
            Kind.PROVIDER_ERROR: "the task fails with inferenceError",
            Kind.CONTENT_REJECTED: "the task fails with contentPolicyViolation",
            Kind.INSUFFICIENT_CREDITS: "the task is refused with insufficientCredits",
            Kind.RATE_LIMITED: "the first N sends (all) are refused with rateLimitExceeded",
            **_RESULT_FILES,
        },
    },
    Provider.KIE: {
        Stage.UPLOAD: {
            Kind.UPLOAD_500: "the first N uploads (all) of a file fail with 500",
            Kind.QUICKSTART_UPLOAD: "the upload answers in the quickstart page's shape",
            Kind.EDGE_1010: "the edge turns uploads away: 403, `error code: 1010`",
        },
        Stage.TASK: {
            Kind.NO_CREDITS: "createTask answers 402",
            Kind.UNAUTHORIZED: "createTask answers 401",
            Kind.RATE_LIMITED: "the first N createTasks (all) answer 429",
            Kind.QUOTA_433: "createTask answers 433",
            Kind.MAINTENANCE: "createTask answers 455",
            Kind.FEATURE_DISABLED: "createTask answers 505",
            Kind.CREATE_500: "createTask answers 500; nothing was created",
            Kind.HTML_502: "createTask answers 502 with a web page; nothing was created",
            Kind.LOST_REPLY: "the task is created, the connection breaks before the reply",
            Kind.NO_CONTENT_TYPE: "JSON replies carry no Content-Type",
            Kind.REAL_STATUS: "errors carry their code as HTTP status too",
            Kind.MESSAGE_KEY: "replies say `message` for `msg`",
            Kind.NULL_RECORD: "the first N polls (2) answer 422 `recordInfo is null`",
            Kind.POLL_500: "the first N polls (1) answer 500",
            Kind.STUCK: "the task stays in `generating`",
            Kind.UNKNOWN_STATE: "a running task's state is a word nobody knows",
            Kind.SLOW: "the task takes N seconds longer (slow_s)",
            Kind.LATE: "the task takes N seconds (late_s), beyond a client's patience",
            Kind.FAIL_500: "the task fails with failCode 500",
            Kind.FAIL_501: "the task fails with failCode 501",
            Kind.TIMEOUT_408: "polls answer 408: nothing came from upstream",
            Kind.RESULT_OBJECT: "resultJson is an object instead of a string",
            Kind.RESULT_EMPTY: "resultJson is empty though the task succeeded",
            Kind.RESULT_WITHOUT_URLS: "resultJson has no resultUrls",
            **_RESULT_FILES,
        },
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One fault. `model` limits it to an AIR or Kie model, `times` to so many tasks."""

    provider: Provider
    kind: Kind
    amount: float | None = None
    model: str | None = None
    times: int | None = None

    @property
    def name(self) -> str:
        return f"{self.provider}.{self.kind}"

    def __str__(self) -> str:
        amount = "" if self.amount is None else f"={self.amount:g}"
        return f"{self.name}{amount}" + (f"@{self.model}" if self.model else "")


NAMES: tuple[str, ...] = tuple(
    dict.fromkeys(
        f"{provider}.{kind}"
        for provider, stages in OFFERED.items()
        for kinds in stages.values()
        for kind in kinds
    )
)

_SWITCH = re.compile(
    r"(?P<provider>[a-z]+)\.(?P<kind>[a-z0-9_]+)(=(?P<amount>[0-9.]+))?(@(?P<model>[\w:@/.-]+))?"
)


def parse_switches(text: str) -> tuple[Switch, ...]:
    """The switches a text names; raises ValueError for one that is not offered."""
    return tuple(_parse(part.strip()) for part in text.split(",") if part.strip())


def _parse(text: str) -> Switch:
    match = _SWITCH.fullmatch(text)
    if match is None or f"{match['provider']}.{match['kind']}" not in NAMES:
        raise ValueError(f"{text!r} is not a fault that is offered")
    return Switch(
        provider=Provider(match["provider"]),
        kind=Kind(match["kind"]),
        amount=float(match["amount"]) if match["amount"] else None,
        model=match["model"],
    )


class TaskFaults:
    """What goes wrong with one task, from its acceptance to its last byte."""

    def __init__(self, amounts: Mapping[Kind, float | None] | None = None) -> None:
        self._amounts = dict(amounts or {})
        self._taken: dict[Kind, int] = {}

    def __contains__(self, kind: Kind) -> bool:
        return kind in self._amounts

    def add(self, switches: Iterable[Switch]) -> None:
        self._amounts.update({each.kind: each.amount for each in switches})

    def amount(self, kind: Kind, default: float) -> float:
        """The number given with the switch, `default` without one, 0 where it is off."""
        if kind not in self._amounts:
            return 0.0
        given = self._amounts[kind]
        return default if given is None else given

    def take(self, kind: Kind, default: float = 1) -> bool:
        """Whether it strikes now; it does so as often as its amount says."""
        taken = self._taken.get(kind, 0)
        if taken >= self.amount(kind, default):
            return False
        self._taken[kind] = taken + 1
        return True

    def first(self, kinds: Iterable[Kind]) -> Kind | None:
        return next((kind for kind in kinds if kind in self._amounts), None)


def offered(
    switches: Iterable[Switch], provider: Provider, stage: Stage, *, model: str | None
) -> list[Switch]:
    """Those of the switches that can strike there."""
    kinds = OFFERED[provider].get(stage, {})
    return [
        each
        for each in switches
        if each.provider is provider and each.kind in kinds and each.model in (None, model)
    ]


class FaultBoard:
    """The switches that hold for the run, and what was drawn for each task so far.

    A task that is sent again is the same task: it keeps the faults of its first sight, so that a
    fault which strikes once does not strike the repetition.
    """

    _REMEMBERED = 4096

    def __init__(self) -> None:
        self._switches: list[Switch] = []
        self._drawn: OrderedDict[Hashable, TaskFaults] = OrderedDict()

    @property
    def active(self) -> tuple[Switch, ...]:
        return tuple(self._switches)

    def set(self, text: str, *, times: int | None = None) -> None:
        """Switch on what `text` names, for the next `times` tasks or until `clear`."""
        self._switches += [replace(each, times=times) for each in parse_switches(text)]

    def clear(self) -> None:
        self._switches.clear()
        self._drawn.clear()

    def draw(  # every one is named
        self,
        key: Hashable | None,
        *,
        provider: Provider,
        stage: Stage,
        model: str | None = None,
        marks: Iterable[Switch] = (),
    ) -> TaskFaults:
        """The faults of the task `key`: from the run's switches and the request's own marks.

        Without a key nothing is remembered.
        """
        if key is not None and (known := self._drawn.get((stage, key))) is not None:
            return known
        matching = offered((*self._switches, *marks), provider, stage, model=model)
        for each in matching:
            self._use_up(each)
        drawn = TaskFaults({each.kind: each.amount for each in matching})
        if key is not None:
            self._remember((stage, key), drawn)
        return drawn

    def _remember(self, key: Hashable, drawn: TaskFaults) -> None:
        self._drawn[key] = drawn
        if len(self._drawn) > self._REMEMBERED:
            self._drawn.popitem(last=False)

    def _use_up(self, switch: Switch) -> None:
        if switch.times is None or switch not in self._switches:
            return
        self._switches.remove(switch)
        if switch.times > 1:
            self._switches.append(replace(switch, times=switch.times - 1))
