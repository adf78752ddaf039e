"""A client of the DTF image service for a shop's back end: one file to copy, needs only httpx.

    with DtfImages("https://images.example", api_key) as images:
        record = images.remove_background(Path("customer.jpg"))

Whatever goes wrong on the way or at the service is a `DtfImagesError`. What may be sent again
without a second charge is sent again by itself: see `DtfImages`.
"""

import hashlib
import hmac
import json
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeAlias, TypeVar
from urllib.parse import quote

import httpx

T = TypeVar("T")
Picture: TypeAlias = Path | bytes | BinaryIO | str
"""A file, its bytes, a file opened for reading bytes, or a public http(s) address."""
Option: TypeAlias = str | float | bool | Sequence[str] | None
"""A parameter of docs/API.md, as models=["local-isnet"] or width_in=11; None is left out."""

UNREACHABLE, GATEWAY, INCOMPLETE = "unreachable", "gateway_error", "incomplete"
UNEXPECTED, NO_CUTOUT, BAD_WEBHOOK = "unexpected_answer", "no_cutout", "bad_webhook"
_IN_FLIGHT = "idempotency_in_flight"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_POLL_S, _LONGEST_WAIT_S = 2.0, 15.0


@dataclass(eq=False)
class DtfImagesError(Exception):
    """What went wrong: the service's problem, or one of the codes at the top of this file.

    `status` is None where there was no answer. With `idempotency_key` the same call can be made
    again within 24 hours, also by another process, and is not charged twice.
    """

    detail: str
    code: str
    status: int | None = None
    retryable: bool = False
    request_id: str | None = None
    hint: str | None = None
    retry_after_s: float | None = None
    idempotency_key: str | None = None

    def __str__(self) -> str:
        return f"{self.status or 'no answer'} {self.code}: {self.detail}"


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What the service said; `raw` also has what this copy does not know yet."""

    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any], **made: object) -> Self:
        known: dict[str, Any] = {
            each.name: raw[each.name] for each in fields(cls) if each.name in raw
        }
        return cls(**{**known, **made, "raw": raw})


@dataclass(frozen=True, kw_only=True)
class EntryError(_Answer):
    code: str
    message: str = ""
    retryable: bool = False


@dataclass(frozen=True, kw_only=True)
class Entry(_Answer):
    """One model's outcome. `status`: succeeded, failed, pending, skipped, or what comes later."""

    model: str
    status: str
    url: str | None = None
    preview_url: str | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    bbox: tuple[int, ...] | None = None
    edge_report: Mapping[str, Any] | None = field(default=None, hash=False)
    print_check: Mapping[str, Any] | None = field(default=None, hash=False)
    latency_ms: int | None = None
    cost_usd: float = 0.0
    score: float | None = None
    rank: int | None = None
    flags: tuple[str, ...] = ()
    print_url: str | None = None
    print_width: int | None = None
    print_height: int | None = None
    print_problem: str | None = None
    variant: str | None = None
    sandbox: bool = False
    error: EntryError | None = None
    reason: str | None = None
    detail: str | None = None

    @classmethod
    def of(cls, raw: Mapping[str, Any], **made: object) -> Self:
        made["flags"] = tuple(raw.get("flags") or ())
        made["bbox"] = tuple(raw["bbox"]) if raw.get("bbox") else None
        made["error"] = EntryError.of(raw["error"]) if raw.get("error") else None
        return super().of(raw, **made)


@dataclass(frozen=True, kw_only=True)
class ImageInfo(_Answer):
    width: int
    height: int
    format: str
    bytes: int
    sha256: str
    kind: str | None = None
    note: str | None = None
    had_alpha: bool = False


@dataclass(frozen=True, kw_only=True)
class Record(_Answer):
    """One shot. `status`: running, complete, expired, or what comes later."""

    request_id: str
    status: str
    created_at: datetime
    expires_at: datetime
    image: ImageInfo
    results: tuple[Entry, ...]
    recommended: str | None = None
    agreement: float | None = None
    cost_usd: float = 0.0
    latency_ms: int | None = None

    @classmethod
    def of(cls, raw: Mapping[str, Any], **made: object) -> Self:
        made["created_at"] = datetime.fromisoformat(raw["created_at"])
        made["expires_at"] = datetime.fromisoformat(raw["expires_at"])
        made["image"] = ImageInfo.of(raw["image"])
        made["results"] = tuple(Entry.of(each) for each in raw["results"])
        return super().of(raw, **made)

    @property
    def candidates(self) -> list[Entry]:
        """What the customer may choose from, the best first."""
        succeeded = [each for each in self.results if each.status == "succeeded"]
        return sorted(succeeded, key=lambda each: (each.rank is None, each.rank or 0))

    @property
    def best(self) -> Entry | None:
        return next(iter(self.candidates), None)


@dataclass(frozen=True)
class Accepted:
    """The first event: the models are being asked."""

    request_id: str
    models: tuple[str, ...]


@dataclass(frozen=True)
class Landed:
    """A model has answered (or was skipped); its links work from now on. Not ranked yet."""

    entry: Entry


@dataclass(frozen=True)
class Done:
    """The last event: the record, ranked."""

    record: Record


Event: TypeAlias = Accepted | Landed | Done


@dataclass(frozen=True, kw_only=True)
class Pick(_Answer):
    preference_id: str
    request_id: str
    model: str
    supersedes: str | None = None


@dataclass(frozen=True, kw_only=True)
class WebhookEvent(_Answer):
    """Remember `event_id`: the same event may come twice."""

    event_id: str
    type: str
    request_id: str
    record: Record


@dataclass(frozen=True)
class Saved:
    """A whole picture on disk; `headers` has what docs/API.md lists, as X-Source-DPI."""

    path: Path
    bytes: int
    sha256: str
    headers: Mapping[str, str]


class DtfImages:
    """The service at `base_url`. Threads may share one; close it, or use it in a `with`.

    Sent again are calls that were not answered, and those answered with 429, 503, 409
    idempotency_in_flight or a proxy's own 502 or 504: `attempts` times in all, and none is begun
    later than `total_s` after the first. Removals carry one Idempotency-Key through all tries, so
    that they are charged once. `timeout_s` is the longest silence that is still waited for; the
    service answers a removal within 55 s.
    """

    def __init__(  # noqa: PLR0913  # where, who, and how patient
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        attempts: int = 5,
        total_s: float = 180,
        timeout_s: float = 70,
        first_wait_s: float = 0.5,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=base_url, headers=headers)
        self._attempts, self._first_wait_s = attempts, first_wait_s
        self._total_s, self._timeout_s = total_s, timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def remove_background(self, picture: Picture, **options: Option) -> Record:
        """The record when the answer is due; with `wait=False` as it begins, see `wait`.

        `idempotency_key` names the order; left out, one is made for this call.
        """
        return self._shoot("/remove-background", picture, dict(options))

    def process(self, picture: Picture, **options: Option) -> Record:
        """As remove_background; every cut-out also has a print, see `download_print`."""
        return self._shoot("/process", picture, dict(options))

    def stream_removal(self, picture: Picture, **options: Option) -> Iterator[Event]:
        """Accepted, a Landed for each model as it lands, Done.

        A stream that breaks goes on by asking for the record: local models that still ran have
        then been `cancelled`, paid ones not. A repeated key has no Accepted event.
        """
        key = str(options.pop("idempotency_key", None) or uuid.uuid4().hex)
        content = _content(picture)
        request_id, told = "", set()

        def begun(silence_s: float) -> tuple[ExitStack, Mapping[str, Any], Iterator[Any]]:
            with ExitStack() as stack:
                form = {**options, "stream": "ndjson"}
                post = self._post("/remove-background", content, form, key, silence_s)
                lines = _lines(stack.enter_context(post))
                first = next(lines)
                return stack.pop_all(), first, lines

        stack, members, lines = self._repeated(begun, key)
        try:
            with stack:
                while True:
                    match members.get("event"):
                        case "accepted":
                            request_id = members["request_id"]
                            yield Accepted(request_id, tuple(members["models"]))
                        case "result":
                            told.add(members["model"])
                            yield Landed(_read(Entry, members))
                        case "done":
                            yield Done(_read(Record, members))
                            return
                        case "failed":
                            raise _problem(members, key=key)
                        case "replayed":
                            request_id = members["request_id"]
                            break
                    members = next(lines)
        except DtfImagesError as error:
            if not request_id or error.status is not None:
                raise
        record = self.wait(request_id)
        yield from (
            Landed(each)
            for each in record.results
            if each.model not in told and each.status != "pending"
        )
        yield Done(record)

    def upscale(self, picture: Picture, to: Path, **options: Option) -> Saved:
        """The picture enlarged, 4 times unless a size is given; saved whole or not at all."""
        content = _content(picture)

        def once(silence_s: float) -> Saved:
            with self._post("/upscale", content, options, None, silence_s) as response:
                return _save(response, to)

        return self._repeated(once)

    def download(self, entry: Entry, to: Path) -> Saved:
        """The cut-out at full resolution, its SHA-256 compared with the record's."""
        return self._fetch(_link(entry.url, entry), to, sha256=entry.sha256)

    def download_print(self, entry: Entry, to: Path, **size: Option) -> Saved:
        """The cut-out enlarged: as `process` was asked, or to another size."""
        if entry.print_url and not size:
            return self._fetch(_link(entry.print_url, entry), to)
        link = httpx.URL(_link(entry.url, entry))
        return self._fetch(str(link.copy_merge_params({"print": "true", **_form(size)})), to)

    def result(self, request_id: str) -> Record:
        """The record as it stands now."""
        return self._look(request_id)[0]

    def wait(self, request_id: str, *, timeout_s: float = 180) -> Record:
        """The record when nothing is pending any more, or as it stands after `timeout_s`."""
        end = time.monotonic() + timeout_s
        while True:
            record, pause_s = self._look(request_id)
            left_s = end - time.monotonic()
            if record.status != "running" or left_s <= 0:
                return record
            time.sleep(min(pause_s, left_s))

    def pick(
        self,
        request_id: str,
        model: str,
        *,
        shown: Sequence[str] | None = None,
        reason: str | None = None,
        metadata: Mapping[str, str | int | float | bool] | None = None,
    ) -> Pick:
        """Tell which cut-out the customer took; `shown` is the order in which they were seen."""
        told = {"shown": shown, "reason": reason, "metadata": metadata}
        said = {name: value for name, value in told.items() if value is not None}
        body = {"request_id": request_id, "model": model, **said}
        return self._call("POST", "/preferences", lambda it: _read(Pick, _json(it)), json=body)

    def delete(self, request_id: str) -> None:
        """Forget the shot, its pictures and its picks; what is not there is no error."""
        try:
            self._call("DELETE", _path(request_id), httpx.Response.read)
        except DtfImagesError as error:
            if error.code != "result_not_found":
                raise

    def _shoot(self, route: str, picture: Picture, options: dict[str, Option]) -> Record:
        key = str(options.pop("idempotency_key", None) or uuid.uuid4().hex)
        later = options.pop("wait", True) is False
        content = _content(picture)

        def once(silence_s: float) -> Record:
            with self._post(route, content, options, key, silence_s, later=later) as response:
                return _read(Record, _json(response))

        return self._repeated(once, key)

    def _look(self, request_id: str) -> tuple[Record, float]:
        """The record, and the seconds after which to look again."""

        def seen(response: httpx.Response) -> tuple[Record, float]:
            return _read(Record, _json(response)), _retry_after_s(response) or _POLL_S

        return self._call("GET", _path(request_id), seen)

    def _fetch(self, link: str, to: Path, *, sha256: str | None = None) -> Saved:
        return self._call("GET", link, lambda it: _save(it, to, sha256=sha256))

    def _call(
        self,
        method: str,
        path: str,
        read: Callable[[httpx.Response], T],
        **sent: Any,  # noqa: ANN401  # httpx's
    ) -> T:
        """What `read` makes of the answer, however many tries it takes."""

        def once(silence_s: float) -> T:
            with self._open(method, path, silence_s, **sent) as response:
                return read(response)

        return self._repeated(once)

    def _repeated(self, once: Callable[[float], T], key: str | None = None) -> T:
        """What `once` gives; it is handed the silence it may wait through, in seconds."""
        end, tries = time.monotonic() + self._total_s, 0
        while True:
            try:
                return once(min(self._timeout_s, max(1.0, end - time.monotonic())))
            except DtfImagesError as error:
                error.idempotency_key = key
                tries += error.code != _IN_FLIGHT  # the first try still runs: waited for, not lost
                wait_s = self._wait_s(error, tries)
                late = time.monotonic() + wait_s > end
                if late or tries >= self._attempts or not _is_repeatable(error):
                    raise
            time.sleep(wait_s)

    def _wait_s(self, error: DtfImagesError, tries: int) -> float:
        """As long as asked, else ever longer; and up to half more, so that not all come at once."""
        longer = min(self._first_wait_s * 2 ** max(tries - 1, 0), _LONGEST_WAIT_S)
        asked = longer if error.retry_after_s is None else error.retry_after_s
        return asked * random.uniform(1, 1.5)  # noqa: S311  # nosec B311  # not a secret

    @contextmanager
    def _post(  # noqa: PLR0913  # the parts of one request
        self,
        route: str,
        content: bytes | str,
        options: Mapping[str, Option],
        key: str | None,
        silence_s: float,
        *,
        later: bool = False,
    ) -> Iterator[httpx.Response]:
        headers = {"Idempotency-Key": key} if key else {}
        if later:
            headers["Prefer"] = "respond-async"
        if isinstance(content, str):
            files: dict[str, Any] = {"image_url": (None, content)}
        else:  # a customer's file name is nobody's business
            files = {"image": ("picture", content)}
        data = _form(options)
        with self._open(
            "POST", route, silence_s, data=data, files=files, headers=headers
        ) as response:
            yield response

    @contextmanager
    def _open(
        self,
        method: str,
        path: str,
        silence_s: float,
        **sent: Any,  # noqa: ANN401  # httpx's
    ) -> Iterator[httpx.Response]:
        """An answer of success, its body still to come; what breaks it is a DtfImagesError."""
        try:
            with self._http.stream(method, path, timeout=silence_s, **sent) as response:
                if not response.is_success:
                    response.read()
                    raise _refusal(response)
                yield response
        except httpx.RequestError as error:
            why = f"{type(error).__name__} {error}".strip()
            raise DtfImagesError(why, UNREACHABLE, retryable=True) from error


def verify_webhook(
    headers: Mapping[str, str], body: bytes, secret: str, *, tolerance_s: float = 300
) -> WebhookEvent:
    """The event, if WEBHOOK_SECRET signed these very bytes within `tolerance_s`; else an error.

    `body` as it came in, before parsing. Header names may be written in any case.
    """
    given = {name.lower(): value for name, value in headers.items()}
    event_id = given.get("x-webhook-id", "")
    timestamp = given.get("x-webhook-timestamp", "")
    signed = f"{event_id}.{timestamp}.".encode() + body
    expected = "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(
        expected.encode(), given.get("x-webhook-signature", "").encode(errors="replace")
    ):
        raise DtfImagesError("The signature is wrong.", BAD_WEBHOOK)
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > tolerance_s:
        raise DtfImagesError("It is too old, or the clocks differ.", BAD_WEBHOOK)
    event = json.loads(body)
    return _read(WebhookEvent, event, record=_read(Record, event["record"]))


def _content(picture: Picture) -> bytes | str:
    """An address, or the bytes, so that every try sends the same."""
    if isinstance(picture, str) and not picture.startswith(("http://", "https://")):
        raise ValueError("A str is an http(s) address; a file's name goes into a Path.")
    if isinstance(picture, Path):
        return picture.read_bytes()
    return picture if isinstance(picture, bytes | str) else picture.read()


def _form(options: Mapping[str, object]) -> dict[str, str]:
    return {name: _text(value) for name, value in options.items() if value is not None}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value)


def _path(request_id: str) -> str:
    return f"/results/{quote(request_id, safe='')}"


def _link(link: str | None, entry: Entry) -> str:
    """The part of a link behind the host: the key goes to no other host than `base_url`."""
    if link is None:
        raise DtfImagesError(f"{entry.model} has no cut-out ({entry.status}).", NO_CUTOUT)
    return link[link.find("/results/") :]


def _json(response: httpx.Response) -> Any:  # noqa: ANN401  # whatever came
    response.read()
    try:
        return response.json()
    except ValueError:
        raise _unexpected(response.text[:200], response.status_code) from None


def _lines(response: httpx.Response) -> Iterator[Any]:
    """A stream's events; where a repeated key is answered with a record, that alone."""
    if "ndjson" not in response.headers.get("content-type", ""):
        yield {"event": "replayed", **_json(response)}
    for line in response.iter_lines():
        try:
            yield json.loads(line)
        except ValueError:
            break
    raise DtfImagesError("The stream broke off.", UNREACHABLE, retryable=True)


A = TypeVar("A", bound=_Answer)


def _read(kind: type[A], raw: Any, **made: object) -> A:  # noqa: ANN401  # whatever came
    try:
        return kind.of(raw, **made)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unexpected(f"{kind.__name__}: {error!r}") from error


def _unexpected(what: str, status: int | None = None) -> DtfImagesError:
    return DtfImagesError(f"Not an answer of the service: {what}", UNEXPECTED, status or 200)


def _refusal(response: httpx.Response) -> DtfImagesError:
    """The service's problem; or that something before the service answered in its place."""
    retry_after_s = _retry_after_s(response)
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        return _problem(_json(response), retry_after_s=retry_after_s)
    status = response.status_code
    return DtfImagesError(
        f"A proxy, not the service, answered: {response.reason_phrase}",
        GATEWAY if status in {429, 502, 503, 504} else UNEXPECTED,
        status,
        retryable=status in {429, 502, 503, 504},
        request_id=response.headers.get("x-request-id"),
        retry_after_s=retry_after_s,
    )


def _problem(
    problem: Mapping[str, Any], *, key: str | None = None, retry_after_s: float | None = None
) -> DtfImagesError:
    return DtfImagesError(
        str(problem.get("detail") or problem.get("title")),
        str(problem.get("code")),
        problem.get("status"),
        retryable=problem.get("retryable") is True,
        request_id=problem.get("request_id"),
        hint=problem.get("hint"),
        retry_after_s=retry_after_s,
        idempotency_key=key,
    )


def _is_repeatable(error: DtfImagesError) -> bool:
    """Whether the same request may be sent again; `retryable` also says when a new one may."""
    passing = error.status in {None, 429, 503} or error.code in {_IN_FLIGHT, GATEWAY}
    return error.retryable and passing


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds; a date, which proxies may send, counts as not said."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None


def _save(response: httpx.Response, to: Path, *, sha256: str | None = None) -> Saved:
    """Write beside `to`, check that it is whole, then put it in its place."""
    partial = to.with_name(f".{to.name}.{uuid.uuid4().hex}.part")
    try:
        digest = _write(response, partial)
        _check_whole(response, partial)
        if sha256 not in {None, digest}:
            raise DtfImagesError("The SHA-256 differs.", INCOMPLETE, retryable=True)
        size = partial.stat().st_size
        partial.replace(to)
    finally:
        partial.unlink(missing_ok=True)
    return Saved(to, size, digest, response.headers)


def _write(response: httpx.Response, partial: Path) -> str:
    digest = hashlib.sha256()
    with partial.open("xb") as file:
        for chunk in response.iter_bytes(1 << 16):
            file.write(chunk)
            digest.update(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _check_whole(response: httpx.Response, partial: Path) -> None:
    kind = response.headers.get("content-type", "")
    said = response.headers.get("content-length")
    if not kind.startswith("image/"):
        raise _unexpected(f"{kind} instead of a picture", response.status_code)
    with partial.open("rb") as file:
        start = file.read(len(_PNG_START))
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - len(_PNG_END)))
        whole = kind != "image/png" or (start, file.read()) == (_PNG_START, _PNG_END)
    if not whole or (said is not None and int(said) != response.num_bytes_downloaded):
        raise DtfImagesError("The picture was cut short.", INCOMPLETE, retryable=True)
