"""Clients of the service: what they send while something goes wrong, and what they were told."""

import json
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import httpx
import numpy as np

from utils.png import encode_png

PAID = ("runware-rmbg-2.0", "runware-birefnet-portrait", "kie-recraft")
FREE = "local-knockout"
NEURAL = "local-isnet"
QUICK = ",".join((*PAID, FREE))
_TIMEOUT = httpx.Timeout(70, connect=5)
_PAUSE_S = 0.3
_HEALTH_EVERY_S = 0.25
_HEALTH_TIMEOUT_S = 5


@dataclass(frozen=True, slots=True)
class Keyed:
    """A shot that was sent with an Idempotency-Key, so that it can be sent again."""

    key: str
    picture: bytes
    request_id: str


@dataclass
class Seen:
    """What clients were told, by kind; touched under its lock. `models` are what shots ask."""

    models: str = QUICK
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    shots: set[str] = field(default_factory=set)
    keyed: dict[str, Keyed] = field(default_factory=dict)
    conflicting: set[str] = field(default_factory=set)
    picks: set[str] = field(default_factory=set)
    server_errors: list[str] = field(default_factory=list)
    longest_silence_s: float = 0.0
    ready: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, answer: httpx.Response) -> None:
        said = str(answer.status_code)
        if answer.status_code >= 400:
            with suppress(ValueError, KeyError, httpx.ResponseNotRead):
                said += f" {answer.json()['code']}"
        self.count(kind, said)
        if answer.status_code == 500:
            with self.lock:
                self.server_errors.append(f"{kind}: {answer.headers.get('x-request-id')}")

    def count(self, kind: str, said: str) -> None:
        with self.lock:
            self.answers[kind, said] += 1

    def take(self, record: dict[str, Any], keyed: tuple[str, bytes] | None = None) -> None:
        """An acknowledged shot: it must be there as long as its time lasts."""
        request_id = record["request_id"]
        with self.lock:
            self.shots.add(request_id)
            for each in record["results"]:
                code = each.get("error", {}).get("code") or each.get("reason") or each["status"]
                self.outcomes[each["model"], code] += 1
            if keyed is not None:
                key, picture = keyed
                known = self.keyed.setdefault(key, Keyed(key, picture, request_id))
                if known.request_id != request_id:
                    self.conflicting.add(key)


@dataclass(frozen=True)
class Shop:
    """Where the service is, and the key it asks for."""

    address: str
    key: str

    def client(self, timeout: httpx.Timeout | float = _TIMEOUT) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(
            base_url=self.address, headers=headers, timeout=timeout, trust_env=False
        )


def picture(width: int = 280, height: int = 260) -> bytes:
    """A disc on white whose colour nobody else's has."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.full((height, width, 3), 255, np.uint8)
    inside = (rows - height // 2) ** 2 + (columns - width // 2) ** 2 < (height // 3) ** 2
    pixels[inside] = np.frombuffer(secrets.token_bytes(3), np.uint8) // 2
    return encode_png(pixels)


def shoot(client: httpx.Client, seen: Seen) -> None:
    """A shot with an Idempotency-Key, sent again under it when the answer does not arrive."""
    key, content = secrets.token_hex(8), picture()
    for _ in range(3):
        try:
            answer = client.post(
                "/remove-background",
                files={"image": content},
                data={"models": seen.models, "deadline_s": "20"},
                headers={"Idempotency-Key": key},
            )
        except httpx.HTTPError as error:
            seen.count("shot", type(error).__name__)
            time.sleep(1)
            continue
        seen.note("shot", answer)
        if answer.status_code == 200:
            seen.take(answer.json(), (key, content))
            _pick(client, seen, answer.json())
            return
        if answer.status_code == 409:
            time.sleep(1)
            continue
        return


def stream(client: httpx.Client, seen: Seen) -> None:
    """A shot answered line by line."""
    with client.stream(
        "POST",
        "/remove-background",
        files={"image": picture()},
        data={"models": seen.models, "stream": "ndjson", "deadline_s": "20"},
    ) as answer:
        if answer.status_code != 200:
            answer.read()
            seen.note("stream", answer)
            return
        last: dict[str, Any] = {}
        for line in answer.iter_lines():
            last = json.loads(line)
    seen.count("stream", f"200 {last.get('event')} {last.get('code', '')}".strip())
    if last.get("event") == "done":
        seen.take(last)


def upscale(client: httpx.Client, seen: Seen) -> None:
    with client.stream("POST", "/upscale", files={"image": picture(600, 400)}) as answer:
        body = answer.read()
    if answer.status_code == 200 and not body.endswith(b"IEND\xaeB`\x82"):
        seen.count("upscale", "200 cut short")
    else:
        seen.note("upscale", answer)


def read(client: httpx.Client, seen: Seen) -> None:
    """Records and pictures of shots that were acknowledged, what was spent, what was picked."""
    with seen.lock:
        known = random.choice(sorted(seen.shots)) if seen.shots else None  # noqa: S311  # nosec B311
    seen.note("read", client.get("/costs"))
    if known is None:
        return
    answer = client.get(f"/results/{known}")
    seen.note("read", answer)
    if answer.status_code == 200:
        for each in answer.json()["results"]:
            if each.get("url"):
                seen.note("read", client.get(each["url"]))
                return


def _pick(client: httpx.Client, seen: Seen, record: dict[str, Any]) -> None:
    """The customer takes the first cut-out that there is."""
    model = next((each["model"] for each in record["results"] if each.get("url")), None)
    if model is None:
        return
    asked = {"request_id": record["request_id"], "model": model}
    try:
        answer = client.post("/preferences", json=asked)
    except httpx.HTTPError as error:
        seen.count("pick", type(error).__name__)
        return
    seen.note("pick", answer)
    if answer.status_code in {200, 201}:
        with seen.lock:
            seen.picks.add(answer.json()["preference_id"])


Clients: TypeAlias = tuple[Callable[[httpx.Client, Seen], None], ...]
CLIENTS: Clients = (shoot, stream, upscale, read)


@contextmanager
def traffic(shop: Shop, seen: Seen, clients: Clients = CLIENTS) -> Iterator[None]:
    """Every client in a thread of its own, one request after another, as long as the block lasts.

    Beside them /health and /ready are asked all the time.
    """
    over = threading.Event()
    threads = [
        threading.Thread(target=_again_and_again, args=(each, shop, seen, over), daemon=True)
        for each in clients
    ]
    threads.append(threading.Thread(target=_watch, args=(shop, seen, over), daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(timeout=90)


def _again_and_again(
    work: Callable[[httpx.Client, Seen], None], shop: Shop, seen: Seen, over: threading.Event
) -> None:
    name = {"shoot": "shot"}.get(work.__name__, work.__name__)
    with shop.client() as client:
        while not over.wait(_PAUSE_S):
            try:
                work(client, seen)
            except httpx.HTTPError as error:
                seen.count(name, type(error).__name__)
                over.wait(0.5)


def _watch(shop: Shop, seen: Seen, over: threading.Event) -> None:
    """How long /health was silent at the longest, and what /ready said."""
    answered_at = time.monotonic()
    with shop.client(_HEALTH_TIMEOUT_S) as client:
        while not over.wait(_HEALTH_EVERY_S):
            with suppress(httpx.HTTPError):
                if client.get("/health").status_code == 200:
                    answered_at = time.monotonic()
                _note_ready(client, seen)
            silence = time.monotonic() - answered_at
            seen.longest_silence_s = max(seen.longest_silence_s, silence)


def _note_ready(client: httpx.Client, seen: Seen) -> None:
    answer = client.get("/ready")
    if answer.status_code not in {200, 503}:
        seen.note("ready", answer)
        return
    told = answer.json()
    if "models" not in told:
        seen.note("ready", answer)
        return
    said = [
        f"{model} {state['status']}"
        for model, state in told["models"].items()
        if model in seen.models and state["status"] != "ready"
    ]
    said += [f"problem: {each['topic']}" for each in told["problems"]]
    said += ["503"] * (answer.status_code == 503)
    with seen.lock:
        seen.ready.update(set(said) or ["all well"])
