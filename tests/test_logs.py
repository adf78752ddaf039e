"""The log: one JSON object a line, with the request's id, and nothing that is the customer's."""

import base64
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.answering import ISNET, KIE, KNOCKOUT, PORTRAIT, RMBG
from tests.conftest import ROOT, artwork
from tests.ports import unused_port
from tests.receiver import receiving
from utils import logs

SECRETS = ("s3cret-runware", "s3cret-kie", "grandma-birthday", "token=s3cret-url")


def test_a_log_has_the_facts_and_none_of_the_secrets(tmp_path: Path) -> None:
    port = unused_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)],
        cwd=ROOT,
        env={
            **os.environ,
            "TEMP_DIR": str(tmp_path),
            "RUNWARE_API_KEY": SECRETS[0],
            "KIE_API_KEY": SECRETS[1],
            "WEIGHTS_DOWNLOAD": "false",
            "LOG_LEVEL": "DEBUG",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    picture = artwork()
    encoded = base64.b64encode(picture).decode()
    transport = httpx.HTTPTransport(retries=40)
    with httpx.Client(
        transport=transport, base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60
    ) as client:
        client.post(
            "/remove-background",
            files={"image": (f"{SECRETS[2]}.png", picture)},
            data={"models": "local-knockout"},
            headers={"X-Request-ID": "order-4711", "Authorization": "Bearer s3cret-kie"},
        ).raise_for_status()
        client.post("/remove-background", json={"image_base64": encoded, "models": "kie-recraft"})
        client.post("/remove-background", json={"image_url": f"http://127.0.0.1/?{SECRETS[3]}"})
        client.post(f"/remove-background?image_url=http://10.0.0.1/?{SECRETS[3]}")
    server.send_signal(signal.SIGTERM)
    output = server.communicate(timeout=30)[0].decode()
    for secret in (*SECRETS, encoded[:40]):
        assert secret not in output
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    shot = [each for each in events if each.get("request_id") == "order-4711"]
    outcome = next(each for each in shot if each["event"] == "outcome")
    request = next(each for each in shot if each["event"] == "request")
    assert outcome["model"] == "local-knockout"
    assert outcome["outcome"] == "succeeded"
    assert outcome["ms"] >= 0
    assert request["status"] == 200
    assert request["route"] == "/remove-background"


KEYS = {"shop": "k3y-of-the-shop-0123", "other": "k3y-of-the-other-0123"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OF_THE_PROCESS = {
    "Started server process",
    "Waiting for application startup.",
    "Application startup complete.",
    "Uvicorn running",
    "Shutting down",
    "Waiting for application shutdown.",
    "Application shutdown complete.",
    "Finished server process",
    "Invalid HTTP request received.",
    "weights_unavailable",
    "drain",
    "orphans_removed",
}
"""How events begin that are no request's."""


@contextmanager
def logging_service(folder: Path, lines: list[str], **settings: str) -> Iterator[httpx.Client]:
    """`uvicorn main:app` as it is run; all that it prints is in `lines` afterwards."""
    port = unused_port()
    paths = {"TEMP_DIR": str(folder), "WEIGHTS_DIR": str(folder)}
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, **paths, "WEIGHTS_DOWNLOAD": "false", "LOG_LEVEL": "DEBUG", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    url, transport = f"http://127.0.0.1:{port}", httpx.HTTPTransport(retries=40)
    try:
        with httpx.Client(transport=transport, base_url=url, trust_env=False, timeout=60) as client:
            client.get("/health")
            yield client
    finally:
        server.send_signal(signal.SIGTERM)
        lines += server.communicate(timeout=30)[0].decode().splitlines()


def test_every_line_of_a_busy_run_is_json_and_belongs_to_its_request(tmp_path: Path) -> None:
    lines: list[str] = []
    picture = artwork()
    encoded = base64.b64encode(picture).decode()
    with receiving(503) as shop:
        settings = {
            "API_KEYS": ",".join(f"{name}:{key}" for name, key in KEYS.items()),
            "METRICS_TOKEN": "t0ken-of-the-scraper",
            "RUNWARE_API_KEY": "sandbox",
            "KIE_API_KEY": "sandbox",
            "PROVIDER_PACE": "0.05",
            "WEBHOOK_SECRET": "s3cret-webhook",
            "WEBHOOK_ALLOWED_HOSTS": shop.place,
            "WEBHOOK_PACE": "0.001",
        }
        with logging_service(tmp_path, lines, **settings) as client:

            def shoot(number: int) -> str:
                headers = {
                    "X-Request-ID": f"shot-{number}",
                    "X-API-Key": [*KEYS.values()][number % 2],
                    "Idempotency-Key": f"order-{number}",
                    "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
                }
                answer = client.post(
                    "/remove-background",
                    files={"image": ('grandma-birthday"\n{"level": 1}.png', picture)},
                    data={
                        "models": f"{RMBG},{PORTRAIT},{KIE},{ISNET},{KNOCKOUT}",
                        "min_results": "1",
                        "callback_url": f"{shop.url}&sig=s3cret-callback",
                    },
                    headers=headers,
                )
                return str(answer.raise_for_status().json()["request_id"])

            with ThreadPoolExecutor(3) as pool:
                shots = list(pool.map(shoot, range(3)))
            key = {"X-API-Key": KEYS["shop"]}
            client.post(
                "/preferences", json={"request_id": shots[0], "model": KNOCKOUT}, headers=key
            )
            record = client.get(f"/results/{shots[0]}", headers=key).json()
            linked = next(each["url"] for each in record["results"] if "url" in each)
            client.get(linked).raise_for_status()
            client.get("/models", headers={"X-API-Key": "wr0ng-key-0123456789"})
            client.post("/upscale", json={"image_base64": encoded, "scale": 2}, headers=key)
            client.post(
                "/remove-background",
                json={"image_url": "http://127.0.0.1/?sig=s3cret"},
                headers=key,
            )
            client.get("/%0a%7b%22level%22%3a%22FORGED%22%7d%0a/%1b%5b31m", headers=key)
            client.get("/metrics", headers={"Authorization": "Bearer t0ken-of-the-scraper"})
            forge(client, b'GET /health HTTP/1.1\r\nHost: a\r\nX-Request-ID: a\x0b{"b":1}\r\n\r\n')
            forge(client, b"{nonsense}\n\n")
            for _ in range(4):
                shop.next()  # three shots' posts, of which the first is sent again
    events = [json.loads(line) for line in lines]
    assert all(isinstance(each, dict) for each in events)
    said = "\n".join(lines)
    token = linked.partition("token=")[2]
    assert token
    for secret in (*KEYS.values(), token, encoded[:40], "grandma", "s3cret", "t0ken", "wr0ng"):
        assert secret not in said
    for each in events:
        if "request_id" not in each:
            assert str(each["event"]).startswith(tuple(OF_THE_PROCESS)), each
            assert not {"shot", "webhook", "task_id", "code"} & each.keys(), each
    by_request: dict[str, Counter[str]] = {}
    for each in events:
        by_request.setdefault(each.get("request_id", ""), Counter())[each["event"]] += 1
    for number, shot in enumerate(shots):
        mine = [each for each in events if each.get("request_id") == f"shot-{number}"]
        assert {each["key_id"] for each in mine if each["event"] != "request"} == {
            [*KEYS][number % 2]
        }
        assert {each["trace_id"] for each in mine} == {TRACE}
        assert {each["shot"] for each in mine if "shot" in each} == {shot}
        counts = by_request[f"shot-{number}"]
        assert counts["outcome"] == 5  # also those that landed after the answer
        assert counts["paid_task"] == 3
        assert counts["webhook_delivered"] == counts["request"] == 1
    assert sum(each["event"] == "webhook_not_taken" for each in events) == 1


def forge(client: httpx.Client, raw: bytes) -> None:
    """Send bytes that no HTTP client would."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as connection:
        connection.sendall(raw)
        connection.settimeout(5)
        connection.recv(1024)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the log prints, by a configuration that ends with the test."""
    before = (logging.root.handlers, logging.root.level)
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    logs.configure("INFO")
    yield out
    logging.root.handlers, logging.root.level = before


def test_a_stack_is_one_line_and_control_characters_stay_inside(printed: io.StringIO) -> None:
    forged = 'x\n{"event": "forged"}\r\x1b[31m\x00\x7f\u2028\u0085'
    try:
        dict[str, int]()[forged]
    except KeyError:
        logging.getLogger("any").exception(forged, extra={"said": forged})
    (line,) = printed.getvalue().splitlines()
    told: dict[str, Any] = json.loads(line)
    assert told["event"] == told["said"] == forged
    assert "Traceback" in told["exc_info"]
    assert line.isascii()
    assert line.replace("\x7f", "").isprintable()
