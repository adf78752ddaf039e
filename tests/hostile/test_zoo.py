"""Whatever is sent, the service says what is wrong with it, keeps nothing, and stays as it was."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from routers.problems import TABLE
from routers.removebg_problems import status_and_code
from tests.hostile.asking import (
    END,
    FILE_NAME,
    IMAGE,
    MULTIPART,
    Ask,
    bad_requests,
    part,
)
from tests.hostile.pictures import UNTRIED, bad_pictures, odd_but_fine
from tests.hostile.served import Served, served

STATUSES = {kind.code: kind.status for kind in TABLE.values()} | {
    "not_found": 404,
    "method_not_allowed": 405,
}
KNOCKOUT = part(b'name="models"', b"local-knockout")
"""So that what is taken for a picture by mistake costs no model's time."""
SENDERS = 4
_MOST_READ = 8 << 20
GROWTH_MB = 50
PEAK_MB = 400
"""Far above what four odd pictures at once may take, far below one bomb that unpacks (1 GiB)."""


@dataclass(frozen=True, slots=True)
class Said:
    """An answer: `code` is the problem's, in remove.bg's words below its address."""

    status: int
    code: str
    body: bytes


class Sender:
    """One kept-alive connection, made anew where the service closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def close(self) -> None:
        self._connection.close()

    def send(self, ask: Ask) -> Said:
        headers = {**ask.headers, **({"Content-Type": ask.kind} if ask.kind else {})}
        try:
            return self._said(ask, headers)
        except TimeoutError:
            self._connection.close()
            return Said(0, "no answer in 30 s", b"")
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self._connection.close()
            return self._said(ask, headers)

    def _said(self, ask: Ask, headers: dict[str, str]) -> Said:
        self._connection.request(ask.method, ask.path, ask.body or None, headers)
        answer = self._connection.getresponse()
        body = answer.read(_MOST_READ)
        if len(body) == _MOST_READ:  # a picture, and no end of it
            self._connection.close()
        return Said(answer.status, _code(body), body)


def _code(body: bytes) -> str:
    try:
        said: dict[str, Any] = json.loads(body)
    except ValueError:
        return ""
    return str(said["errors"][0]["code"] if "errors" in said else said.get("code", ""))


def sent(service: Served, asks: list[Ask]) -> list[tuple[Ask, Said]]:
    """Each with its answer, several at a time."""

    def share(number: int) -> list[tuple[Ask, Said]]:
        with closing(Sender(service.port)) as sender:
            return [(ask, sender.send(ask)) for ask in asks[number::SENDERS]]

    with ThreadPoolExecutor(SENDERS) as pool:
        return [pair for pairs in pool.map(share, range(SENDERS)) for pair in pairs]


def of_pictures() -> list[Ask]:
    """Every bad picture to the removal and the enlargement, every fourth to the other routes."""
    asks = []
    for number, bad in enumerate(bad_pictures()):
        form = part(IMAGE, bad.content) + END
        quick = part(IMAGE, bad.content) + KNOCKOUT + END
        enlarged = bad.enlarged or bad.code
        asks.append(Ask(bad.name, bad.code, body=quick))
        if enlarged != UNTRIED:
            asks.append(Ask(bad.name, enlarged, "/upscale", body=form))
        if number % 4 == 0:
            asks.append(Ask(bad.name, bad.code, "/analyze?width_in=3", body=form))
            either = f"{bad.code}|{enlarged}"  # it looks at both sides of the work
            asks.append(Ask(bad.name, either, "/process", body=quick))
            theirs = part(b'name="image_file"; filename="x"', bad.content) + END
            asks.append(Ask(bad.name, bad.code, "/v1.0/removebg", body=theirs))
    return asks


def is_right(ask: Ask, said: Said) -> bool:
    if ask.code == "*404":
        return said.status == 404
    if ask.code == "*4xx":
        return 400 <= said.status < 500 and said.code != ""
    if "|" in ask.code:
        return said.code in ask.code.split("|") and said.status == STATUSES[said.code]
    wanted = STATUSES[ask.code], ask.code
    if ask.path.startswith("/v1.0/"):
        wanted = status_and_code({"status": wanted[0], "code": wanted[1], "field": _field(ask)})
    return (said.status, said.code) == wanted


def _field(ask: Ask) -> str:
    return "image_file_b64" if ask.body.startswith(b"image_file_b64=%") else ""


def wrong(answers: list[tuple[Ask, Said]]) -> list[str]:
    return [
        f"{ask.path[:30]} {ask.name}: {ask.code} wanted, {said.status} {said.code}"
        for ask, said in answers
        if not is_right(ask, said)
    ]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("hostile")) as running:
        yield running


def left_of_uploads(service: Served) -> list[Path]:
    """What is there still when a client that has left has been noticed."""
    for _ in range(100):
        if not (left := service.files("uploads")):
            break
        time.sleep(0.1)
    return left


def good(path: str) -> Ask:
    models = b"" if path == "/upscale" else KNOCKOUT
    return Ask("good", "", path, MULTIPART, part(IMAGE) + models + END)


def test_the_zoo_is_large_and_its_names_differ() -> None:
    pictures, requests = bad_pictures(), bad_requests()
    assert len(pictures) >= 250
    assert len(requests) >= 150
    assert len({each.name for each in pictures}) == len(pictures)
    assert len({each.name for each in requests}) == len(requests)


def test_whatever_is_sent_is_refused_with_its_code_and_leaves_nothing(service: Served) -> None:
    asks = [*of_pictures(), *bad_requests()]
    sent(service, [good("/remove-background"), good("/upscale")] * 3)
    sent(service, asks[:: len(asks) // 40])  # what is imported and allocated once
    kept = service.files("results")
    before = service.resident_mb()
    service.forget_peak()
    start = service.peak_mb()

    answers = sent(service, asks)

    assert wrong(answers) == []
    assert service.resident_mb() - before < GROWTH_MB
    assert service.peak_mb() - start < PEAK_MB
    assert left_of_uploads(service) == []
    assert service.files("results") == kept
    log = service.log.read_text(encoding="utf-8", errors="replace")
    assert log.count('"event": "request"') >= len(asks)
    assert FILE_NAME not in log
    assert "passwd" not in log
    assert '"event": "crashed"' not in log
    assert "Traceback" not in log


def test_what_only_looks_wrong_is_a_picture(service: Served) -> None:
    fine = odd_but_fine()
    asks = [
        Ask(name, "", path, MULTIPART, part(IMAGE, content) + more + END)
        for name, content in fine.items()
        for path, more in (
            ("/remove-background", KNOCKOUT),
            ("/upscale?scale=1", b""),
        )
    ]
    assert len(fine) >= 20
    service.forget_peak()
    start = service.peak_mb()
    answers = sent(service, asks)
    assert [
        (ask.name, ask.path, said.body[:200]) for ask, said in answers if said.status != 200
    ] == []
    assert service.peak_mb() - start < PEAK_MB
    assert left_of_uploads(service) == []
    for ask, said in answers:
        assert b"<script>" not in said.body, ask.name
        assert b"PK\x05\x06" not in said.body, ask.name


def test_the_service_is_as_good_as_before(service: Served) -> None:
    answers = sent(service, [good("/remove-background"), good("/upscale")])
    assert [said.status for _, said in answers] == [200, 200]


def test_a_plainly_started_service_guards_its_connections(service: Served) -> None:
    """No flag and no variable asks for it: `uvicorn main:app` is enough."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
        got = b""
        try:
            client.sendall(b"GET / HTTP/1.1\r\nX: " + b"y" * 400_000)
            got = client.recv(1 << 16)
        except OSError:
            pass
    assert got == b"" or got.startswith(b"HTTP/1.1 431 ")
    assert "connections_not_guarded" not in service.log.read_text(encoding="utf-8")
    assert '"event": "connection_refused"' in service.log.read_text(encoding="utf-8")
