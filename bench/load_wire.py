"""One request of bench.load as a client makes it, and the line that is written of it.

Plain http.client over sockets, so that locust's gevent carries fifty of them, uploads can break off
in the middle, and answers can be read as slowly as a customer's line is. Imports nothing of ours:
it also runs in the load's own environment.
"""

import hashlib
import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PIECE_BYTES = 1 << 18
LEFT = "left"
"""The status of a request whose client went away on purpose."""

_TIMEOUT_S = 120
_JSON_KEPT_BYTES = 1 << 20
_ENDS = {
    b"\x89PNG": b"IEND\xaeB`\x82",
    b"PK\x03\x04": b"PK\x05\x06",  # within the last 22 bytes
}
_TAIL_BYTES = 64


@dataclass(frozen=True, slots=True)
class Reading:
    """How an answer is read: `bytes_s` at most, and left after `leave_after_bytes` or seconds."""

    bytes_s: float | None = None
    leave_after_bytes: int | None = None
    leave_after_s: float | None = None
    leave_at_event: str | None = None


@dataclass(slots=True)
class Seen:
    """A request as its client saw it; times in seconds, `at` since the epoch.

    `fault` is "" where an answer came and was whole. `sha256` is of the answer's bytes.
    """

    route: str
    client: str
    at: float
    x_request_id: str
    status: int | str = 0
    seconds: float = 0.0
    first_byte_s: float = 0.0
    bytes: int = 0
    fault: str = ""
    code: str | None = None
    retry_after: str | None = None
    sha256: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return isinstance(self.status, int) and self.status < 400 and not self.fault


@dataclass(frozen=True, slots=True)
class Answer:
    """What was seen, with the answer's headers and its JSON where it was any."""

    seen: Seen
    headers: Mapping[str, str]
    json: Any = None


class Diary:
    """Every request in a file, one line of JSON each, written when it is over."""

    def __init__(self, path: Path, *, told: Callable[[Seen], None] | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._told = told

    def write(self, kind: str, **what: Any) -> None:  # noqa: ANN401  # JSON
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **what}) + "\n")

    def saw(self, seen: Seen) -> None:
        self.write("request", **asdict(seen))
        if self._told is not None:
            self._told(seen)


@dataclass(frozen=True, slots=True)
class Wire:
    """Asks one service as one client."""

    host: str
    port: int
    key: str
    client: str
    diary: Diary

    def ask(  # noqa: PLR0913  # a request has that many sides
        self,
        method: str,
        path: str,
        *,
        route: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        reading: Reading | None = None,
        send_share: float = 1.0,
        **more: Any,  # noqa: ANN401  # JSON
    ) -> Answer:
        """Send it, read the answer, write it down. `send_share` below 1 breaks the upload off."""
        seen = Seen(route, self.client, time.time(), uuid.uuid4().hex, more=more)
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_TIMEOUT_S)
        begun = time.perf_counter()
        answer = Answer(seen, {})
        try:
            sent = {"X-Request-ID": seen.x_request_id, **(headers or {})}
            if self.key:
                sent.setdefault("X-API-Key", self.key)
            if send_share < 1:
                _break_off(connection, method, path, body or b"", sent, share=send_share)
                seen.status = LEFT
            else:
                connection.request(method, path, body=body, headers=sent)
                answer = _read(connection, seen, reading or Reading(), begun)
        except TimeoutError as error:
            _timed_out(seen, reading, error)
        except (OSError, http.client.HTTPException) as error:
            seen.fault = f"{type(error).__name__}: {error}"
        finally:
            connection.close()
        seen.seconds = time.perf_counter() - begun
        self.diary.saw(seen)
        return answer


def multipart(
    picture: bytes | None, fields: Mapping[str, str], *, name: str = "image"
) -> tuple[bytes, dict[str, str]]:
    """A form's body, and the header that goes with it."""
    edge = uuid.uuid4().hex
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    if picture is not None:
        head = f'--{edge}\r\nContent-Disposition: form-data; name="{name}"; filename="p"\r\n'
        parts += [head.encode(), b"Content-Type: application/octet-stream\r\n\r\n", picture]
        parts += [b"\r\n"]
    parts.append(f"--{edge}--\r\n".encode())
    return b"".join(parts), {"Content-Type": f"multipart/form-data; boundary={edge}"}


def _break_off(  # noqa: PLR0913  # a request has that many sides
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    share: float,
) -> None:
    connection.putrequest(method, path)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(body[: int(len(body) * share)])


def _read(
    connection: http.client.HTTPConnection, seen: Seen, reading: Reading, begun: float
) -> Answer:
    if reading.leave_after_s is not None:
        connection.sock.settimeout(reading.leave_after_s)
    answer = connection.getresponse()
    seen.status, seen.first_byte_s = answer.status, time.perf_counter() - begun
    headers = {name.lower(): value for name, value in answer.getheaders()}
    seen.retry_after = headers.get("retry-after")
    if "json" in headers.get("content-type", ""):
        return _read_json(answer, seen, headers, reading)
    _read_bytes(answer, seen, headers, reading)
    return Answer(seen, headers)


def _read_json(
    answer: http.client.HTTPResponse, seen: Seen, headers: dict[str, str], reading: Reading
) -> Answer:
    """A document, or of a stream of events the last one."""
    if "ndjson" in headers["content-type"]:
        return _read_events(answer, seen, headers, reading)
    content = answer.read()
    seen.bytes = len(content)
    told = json.loads(content)
    if seen.status >= 400:  # type: ignore[operator]  # an answer's is a number
        seen.code = told.get("code") or (told.get("errors") or [{}])[0].get("code")
        seen.more["detail"] = told.get("detail")
    return Answer(seen, headers, told)


def _read_events(
    answer: http.client.HTTPResponse, seen: Seen, headers: dict[str, str], reading: Reading
) -> Answer:
    told: dict[str, Any] = {}
    for line in answer:
        seen.bytes += len(line)
        if line.strip():
            told = json.loads(line)
        if told.get("event") == reading.leave_at_event:
            seen.status = LEFT
            return Answer(seen, headers, told)
    if told.get("event") == "failed":
        seen.status, seen.code = told["status"], told["code"]
    elif told.get("event") != "done" and "export" not in seen.route:
        seen.fault = f"the stream ended with {told.get('event')}"
    return Answer(seen, headers, told)


def _read_bytes(
    answer: http.client.HTTPResponse, seen: Seen, headers: Mapping[str, str], reading: Reading
) -> None:
    digest, head, tail = hashlib.sha256(), b"", b""
    begun = time.perf_counter()
    while piece := answer.read1(PIECE_BYTES):
        head = head or piece[:4]
        tail = (tail + piece)[-_TAIL_BYTES:]
        seen.bytes += len(piece)
        digest.update(piece)
        if reading.leave_after_bytes is not None and seen.bytes >= reading.leave_after_bytes:
            seen.status = LEFT
            return
        if reading.bytes_s:
            time.sleep(max(0.0, seen.bytes / reading.bytes_s - (time.perf_counter() - begun)))
    seen.sha256 = digest.hexdigest()
    if _ENDS.get(head, b"") not in tail:
        seen.fault = "not whole"
    told = headers.get("content-length")
    if told is not None and seen.status != 304 and int(told) != seen.bytes:
        seen.fault = f"{seen.bytes} of {told} bytes"


def _timed_out(seen: Seen, reading: Reading | None, error: TimeoutError) -> None:
    if reading is not None and reading.leave_after_s is not None:
        seen.status = LEFT
    else:
        seen.fault = f"{type(error).__name__}: nothing for {_TIMEOUT_S} s"
