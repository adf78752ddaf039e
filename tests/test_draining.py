"""SIGTERM to a real process: who waits is told, what runs ends whole, and the end comes."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.answering import ISNET, KIE, KNOCKOUT, RMBG, ndjson, outcomes
from tests.conftest import ROOT, artwork, png_bytes, problem
from tests.ports import unused_port

ALL = f"{KNOCKOUT},{ISNET},{RMBG}"
UNKNOWN, CANCELLED = "provider_outcome_unknown", "cancelled"


@contextmanager
def service(temp_dir: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    port = unused_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.draining_service", str(temp_dir), str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    with (
        process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client,
    ):
        try:
            _await_start(process, client)
            yield process, client
        finally:
            process.kill()


def _await_start(process: subprocess.Popen[bytes], client: httpx.Client) -> None:
    while process.poll() is None:
        with suppress(httpx.ConnectError):
            client.get("/health").raise_for_status()
            return
        time.sleep(0.02)
    raise AssertionError("the service did not start")


def await_queue(client: httpx.Client, **wanted: int) -> None:
    for _ in range(3000):
        queue = client.get("/ready").json()["queue"]
        if {name: queue[name] for name in wanted} == wanted:
            return
        time.sleep(0.01)
    raise AssertionError(f"the queue never came to {wanted}")


def shoot(client: httpx.Client, models: str, **headers: str) -> httpx.Response:
    return client.post(
        "/remove-background", files={"image": artwork()}, data={"models": models}, headers=headers
    )


def open_connection(client: httpx.Client, request: str) -> socket.socket:
    connection = socket.create_connection((client.base_url.host, client.base_url.port or 0))
    connection.sendall(request.encode())
    return connection


def begin_upload(client: httpx.Client) -> socket.socket:
    """An upload that never goes on."""
    head = "POST /upscale HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    return open_connection(client, head + "Content-Length: 100000\r\n\r\n--b\r\n")


def begin_download(client: httpx.Client) -> socket.socket:
    """An enlargement of which nobody takes more than the socket's buffers hold."""
    noise = np.random.default_rng(1).integers(0, 256, (900, 900, 3), np.uint8)
    request = client.build_request("POST", "/upscale", files={"image": png_bytes(noise)})
    body = request.read()
    lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    connection = open_connection(client, f"POST /upscale HTTP/1.1\r\n{lines}\r\n")
    connection.sendall(body)
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


def read_all(connection: socket.socket) -> bytes:
    with connection:
        pieces = []
        with suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                pieces.append(piece)
    return b"".join(pieces)


def test_sigterm_ends_everything_in_time_and_everybody_is_told(tmp_path: Path) -> None:
    """One shot told as it goes, one in the line, one upload and one download that stall."""
    with service(tmp_path) as (process, client), ThreadPoolExecutor(2) as others:
        told = others.submit(_follow, client)
        await_queue(client, running=1)
        waits = others.submit(shoot, client, KNOCKOUT)
        await_queue(client, running=1, waiting=1)
        uploading, downloading = begin_upload(client), begin_download(client)

        process.send_signal(signal.SIGTERM)
        refused = waits.result()
        assert int(refused.headers["retry-after"]) > 0
        assert problem(refused, 503, "draining")["retryable"] is True
        _check_notice(client, running=told)

        events = told.result()
        upload, download = read_all(uploading), read_all(downloading)
        log = process.communicate()[0].decode()
    assert process.returncode == -signal.SIGTERM
    assert upload.startswith(b"HTTP/1.1 503")
    assert b'"code":"draining"' in upload
    assert not download.endswith(b"0\r\n\r\n")
    _check_events(events, tmp_path)
    order = ["draining", "drained", "Application shutdown complete."]
    logged = [json.loads(line)["event"] for line in log.splitlines()]
    assert [event for event in logged if event in order] == order
    assert "drain_overrun" not in logged
    assert list((tmp_path / "uploads").iterdir()) == []


def _follow(client: httpx.Client) -> list[tuple[str, dict[str, Any]]]:
    with client.stream(
        "POST",
        "/remove-background",
        files={"image": artwork()},
        data={"models": ALL, "stream": "ndjson"},
    ) as response:
        return list(ndjson(response.iter_lines()))


def _check_notice(client: httpx.Client, *, running: Future[Any]) -> None:
    """While the socket is open: not ready, nothing new is begun, what is there can be had."""
    ready = client.get("/ready")
    assert (ready.status_code, ready.json()["draining"]) == (503, True)
    assert ready.headers["connection"] == "close"
    problem(shoot(client, KIE), 503, "draining")
    assert client.get("/health").status_code == 200
    assert not running.done()


def _check_events(events: list[tuple[str, dict[str, Any]]], temp_dir: Path) -> None:
    names = [name for name, _ in events]
    assert names == ["accepted", "result", "result", "result", "done"]
    record = events[-1][1]
    expected = {KNOCKOUT: "succeeded", ISNET: CANCELLED, RMBG: UNKNOWN}
    assert record["status"] == "complete"
    assert outcomes(record) == expected
    assert {entry["model"] for entry in record["results"] if entry.get("rank")} <= {KNOCKOUT}
    (kept,) = (temp_dir / "data" / "records").glob("*/*.json")
    stored = json.loads(kept.read_text())
    assert stored["status"] == "complete"
    assert {each["model"]: (each["error"] or {}).get("code") for each in stored["results"]} == {
        KNOCKOUT: None,
        ISNET: CANCELLED,
        RMBG: UNKNOWN,
    }
