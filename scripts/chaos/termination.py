"""SIGTERM while one of each is under way, and what is found after the next start."""

import json
import socket
import threading
import time
from collections.abc import Callable

import httpx

from scripts.chaos.stage import Stage
from scripts.chaos.traffic import Seen, picture

_SLOW_S = 5
_PIECE = 20_000


def terminate_in_the_middle(stage: Stage, seen: Seen) -> None:
    """Providers take seconds, so that everything is under way when the signal comes."""
    stage.faults(f"runware.slow={_SLOW_S}", f"kie.slow={_SLOW_S}")
    works: tuple[Callable[[Stage, Seen], None], ...] = (_stream, _promised, _enlarge, _half_upload)
    threads = [threading.Thread(target=_told, args=(work, stage, seen)) for work in works]
    for thread in threads:
        thread.start()
    time.sleep(2)
    status, seconds = stage.stop()
    seen.count("the service", f"ended with status {status} {seconds:.0f} s after SIGTERM")
    for thread in threads:
        thread.join(60)
    stage.faults()
    stage.start()
    with seen.lock:
        seen.longest_silence_s = 0


def _told(work: Callable[[Stage, Seen], None], stage: Stage, seen: Seen) -> None:
    try:
        work(stage, seen)
    except (httpx.HTTPError, OSError) as error:
        seen.count(f"at SIGTERM,{work.__name__.replace('_', ' ')}", type(error).__name__)


def _stream(stage: Stage, seen: Seen) -> None:
    last = {}
    with (
        stage.shop.client() as client,
        client.stream(
            "POST",
            "/remove-background",
            files={"image": picture()},
            data={"models": seen.models, "stream": "ndjson"},
        ) as answer,
    ):
        for line in answer.iter_lines():
            last = json.loads(line)
    seen.count("at SIGTERM, stream", str(last.get("event")))
    if last.get("event") == "done":
        seen.take(last)


def _promised(stage: Stage, seen: Seen) -> None:
    """202: acknowledged, so its record must be there after the next start."""
    with stage.shop.client() as client:
        answer = client.post(
            "/remove-background",
            files={"image": picture()},
            data={"models": seen.models},
            headers={"Prefer": "respond-async"},
        )
    seen.note("at SIGTERM, promised", answer)
    if answer.status_code == 202:
        seen.take(answer.json())


def _enlarge(stage: Stage, seen: Seen) -> None:
    """Taken slowly, so that it is being sent when the signal comes."""
    tail = b""
    with (
        stage.shop.client() as client,
        client.stream("POST", "/upscale", files={"image": picture(900, 900)}) as answer,
    ):
        for piece in answer.iter_bytes(_PIECE):
            tail = (tail + piece)[-12:]
            time.sleep(0.1)
    whole = tail.endswith(b"IEND\xaeB`\x82")
    seen.count("at SIGTERM, enlargement", "whole" if whole else "cut short")


def _half_upload(stage: Stage, seen: Seen) -> None:
    head = (
        "POST /remove-background HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {stage.shop.key}\r\n"
        'Content-Type: multipart/form-data; boundary="b"\r\nContent-Length: 100000\r\n\r\n'
        '--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", stage.port), timeout=60) as link:
        link.sendall(head.encode() + picture()[:1000])
        said = link.recv(4096).decode(errors="replace").splitlines()
    seen.count("at SIGTERM, half upload", said[0] if said else "connection closed")
