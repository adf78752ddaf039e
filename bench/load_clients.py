"""What the clients of bench.load do: a visit each, between pauses that locust makes.

A visit is what a storefront, its customers' browsers or its operator would do, with the mistakes
and accidents of real ones. Imports bench.load_wire alone: it also runs in the load's environment.
"""

import base64
import json
import os
import random
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from bench.load_wire import Answer, Diary, Reading, Wire, multipart

PLAN = "DTF_LOAD_PLAN"
"""The environment's variable that names the plan's file."""

SIX = (
    "runware-rmbg-2.0,runware-birefnet-portrait,kie-recraft,"
    "local-birefnet-general,local-isnet,local-knockout"
)
LIGHT = "runware-rmbg-2.0,kie-recraft,local-isnet,local-knockout"
FREE = "local-isnet,local-knockout"
KNOCKOUT = "local-knockout"

# name: how often a customer sends such a one
SHOT_PICTURES = {
    "small.jpg": 8,  # 0.2 megapixels
    "photo.jpg": 12,  # 1.1
    "portrait.jpg": 12,  # 0.5
    "art.png": 12,  # on white
    "logo.png": 8,  # with alpha
    "four.webp": 4,  # 4
    "sticker.webp": 3,  # lossless, with alpha, 2
    "progressive.jpg": 4,  # 6
    "large.jpg": 3,  # 12
    "huge.jpg": 2,  # 24
}
PRINT_PICTURES = {"logo.png": 8, "photo.jpg": 8, "four.webp": 3, "large.jpg": 3, "giant.jpg": 1}
MODELS = {SIX: 2, LIGHT: 5, FREE: 6, KNOCKOUT: 3}
_SMALL_PICTURES = ("small.jpg", "photo.jpg", "portrait.jpg", "art.png", "logo.png")
_TRIES = 4
_LONGEST_PAUSE_S = 30
_LANDING_S = 320  # a model may go on for MODEL_TIMEOUT_S
_SLOW_BYTES_S = (2_000_000, 6_000_000)
_CUSTOMERS_LINE_BYTES_S = 12_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the service is, who the shops are, where pictures and the diary lie.

    `pace` is a factor on every pause within a visit.
    """

    host: str
    port: int
    keys: Mapping[str, str]
    pictures: Path
    diary: Path
    operators_paths: Sequence[str]
    pace: float = 1

    @classmethod
    def read(cls) -> "Plan":
        told = json.loads(Path(os.environ[PLAN]).read_text())
        return cls(**{**told, "pictures": Path(told["pictures"]), "diary": Path(told["diary"])})


class Client:
    """One of the fifty: a key of its own, a pseudo-random course of its own."""

    def __init__(self, plan: Plan, diary: Diary, number: int, kind: str) -> None:
        self.dice = random.Random(f"{kind} {number}")  # noqa: S311  # not a secret
        self.shop = sorted(plan.keys)[number % len(plan.keys)]
        self.pictures = plan.pictures
        self.diary = diary
        self.wire = Wire(
            plan.host, plan.port, plan.keys[self.shop], f"{kind}-{number} of {self.shop}", diary
        )
        self.pace = plan.pace
        self.operators_paths = plan.operators_paths
        self.records: list[dict[str, Any]] = []

    def chosen(self, weights: Mapping[str, int]) -> str:
        return self.dice.choices(list(weights), list(weights.values()))[0]

    def chance(self, share: float) -> bool:
        return self.dice.random() < share

    def pause(self, seconds: float) -> None:
        time.sleep(seconds * self.pace)

    # --- shots

    def shoot(self, headers: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        """A shot in one of the three ways, looked after until all of it has landed."""
        fields = {"models": self.chosen(MODELS)}
        if self.chance(0.35):
            fields["mode"] = self.dice.choice(("fast", "cascade"))
        if self.chance(0.15):
            fields |= {"print_check": "true", "preset": "left_chest"}
        picture = self.chosen(SHOT_PICTURES)
        way = self.dice.choice(("sync", "stream", "async"))
        answer = self.insist(way, picture, fields, headers or {})
        if answer is None or not answer.seen.ok:
            return None
        return self.acknowledged(answer.json, way)

    def insist(
        self, way: str, picture: str, fields: Mapping[str, str], headers: Mapping[str, str]
    ) -> Answer | None:
        """Ask until it is answered by something that asking again would not change."""
        answer = None
        for _ in range(_TRIES):
            answer = self.post_shot(way, picture, fields, headers)
            if answer.seen.status not in {409, 429, 503}:
                break
            self.pause(_pause_s(answer))
        return answer

    def post_shot(
        self,
        way: str,
        picture: str,
        fields: Mapping[str, str],
        headers: Mapping[str, str],
        **how: Any,  # noqa: ANN401  # what Wire.ask takes
    ) -> Answer:
        asked = {**fields, "stream": "ndjson"} if way == "stream" else fields
        body, kind = multipart(self.picture(picture), asked)
        told = {**kind, **headers, **({"Prefer": "respond-async"} if way == "async" else {})}
        route = f"POST /remove-background ({way})"
        key = headers.get("Idempotency-Key")
        return self.wire.ask(
            "POST",
            "/remove-background",
            route=route,
            body=body,
            headers=told,
            picture=picture,
            idempotency_key=key,
            **how,
        )

    def acknowledged(self, record: dict[str, Any], how: str) -> dict[str, Any] | None:
        """Write down what was promised, and wait until nothing of it runs any more."""
        self.diary.write("acknowledged", id=record["request_id"], shop=self.shop, how=how)
        landed = self.landed(record)
        if landed is not None:
            self.records.append(landed)
        return landed

    def landed(self, record: dict[str, Any]) -> dict[str, Any] | None:
        begun = time.monotonic()
        while _runs(record) and time.monotonic() - begun < _LANDING_S:
            answer = self.wire.ask(
                "GET", f"/results/{record['request_id']}", route="GET /results/{id}"
            )
            if not answer.seen.ok:
                return None
            record = answer.json
            if _runs(record):
                self.pause(_pause_s(answer))
        return record

    # --- what one does with a result

    def look(self, record: dict[str, Any]) -> None:
        """Previews of all, the picture itself, the best at full resolution; as a page does."""
        for entry in _succeeded(record):
            self.get(entry["preview_url"], "GET /results/{id}/{model}.png?preview")
        best = self.best(record)
        if best is None:
            return
        answer = self.get(
            best["url"],
            "GET /results/{id}/{model}.png",
            reading=Reading(bytes_s=_CUSTOMERS_LINE_BYTES_S),
        )
        if answer.seen.ok and answer.seen.sha256 != best["sha256"]:
            self.diary.write("wrong", what=f"{best['url']} has not the bytes of its record")
        extra = self.dice.choice(
            ("disagreement.png", "contact-sheet.webp", "original.webp", f"{best['model']}/garment")
        )
        suffix = ".webp" if extra.endswith("garment") else ""
        route = extra.replace(best["model"], "{model}")
        self.get(f"/results/{record['request_id']}/{extra}{suffix}", f"GET /results/{{id}}/{route}")

    def pick(self, record: dict[str, Any]) -> None:
        """Take one; sometimes say it twice, sometimes take another instead."""
        models = [entry["model"] for entry in _succeeded(record)]
        if not models:
            return
        first = self.dice.choice(models)
        self._pick(record, first)
        if self.chance(0.2):
            self._pick(record, first)
        if self.chance(0.1):
            self._pick(record, self.dice.choice(models))

    def _pick(self, record: dict[str, Any], model: str) -> None:
        body = json.dumps({"request_id": record["request_id"], "model": model}).encode()
        answer = self.wire.ask(
            "POST",
            "/preferences",
            route="POST /preferences",
            body=body,
            headers={"Content-Type": "application/json"},
        )
        if answer.seen.ok:
            told = answer.json
            self.diary.write("picked", id=told["preference_id"], shot=record["request_id"])

    def render(self, record: dict[str, Any]) -> None:
        body, kind = multipart(
            None, {"edge": self.dice.choice(("print", "hard")), "preset": "left_chest"}
        )
        answer = self.wire.ask(
            "POST",
            f"/results/{record['request_id']}/render",
            route="POST /results/{id}/render",
            body=body,
            headers=kind,
        )
        if answer.seen.ok:
            rendered = self.acknowledged(answer.json, "render")
            if rendered is not None:
                self.print_of(rendered)

    def print_of(self, record: dict[str, Any]) -> None:
        best = self.best(record)
        if best is not None:
            url = best.get("print_url") or f"{best['url']}{_joint(best['url'])}width_in=6"
            self.get(url, "GET /results/{id}/{model}.png?print", reading=self.line())

    def bundle(self, record: dict[str, Any]) -> None:
        path = f"/results/{record['request_id']}/bundle.zip?preset=left_chest&edge=print"
        self.get(path, "GET /results/{id}/bundle.zip", reading=self.line())

    def forget(self, record: dict[str, Any]) -> None:
        answer = self.wire.ask(
            "DELETE", f"/results/{record['request_id']}", route="DELETE /results/{id}"
        )
        if answer.seen.status == 204:
            self.diary.write("forgotten", id=record["request_id"])
            self.records = [each for each in self.records if each is not record]

    def get(self, path: str, route: str, *, reading: Reading | None = None) -> Answer:
        return self.wire.ask("GET", path, route=route, reading=reading)

    def best(self, record: dict[str, Any]) -> dict[str, Any] | None:
        entries = _succeeded(record)
        wanted = [each for each in entries if each["model"] == record.get("recommended")]
        return next(iter(wanted or entries), None)

    def line(self) -> Reading:
        """How fast this customer reads."""
        return Reading(bytes_s=self.dice.choice((None, _CUSTOMERS_LINE_BYTES_S, *_SLOW_BYTES_S)))

    def picture(self, name: str) -> bytes:
        return _content(self.pictures / name)


def order(client: Client) -> None:
    """A storefront's customer: a shot, a look, a pick, and a print in one of its forms."""
    record = client.shoot()
    if record is None or not _succeeded(record):
        return
    client.look(record)
    if client.chance(0.7):
        client.pick(record)
    client.dice.choice((client.render, client.print_of, client.bundle, _nothing))(record)
    if client.chance(0.05):
        client.forget(record)


def paid_once(client: Client) -> None:
    """An order with an Idempotency-Key: asked again after a lost answer, and once more later."""
    headers = {"Idempotency-Key": uuid.UUID(int=client.dice.getrandbits(128)).hex}
    headers["Idempotency-Key"] += uuid.uuid4().hex[:8]  # each run's own
    picture = client.dice.choice(_SMALL_PICTURES)
    fields = {"models": client.chosen({LIGHT: 3, FREE: 1})}
    if client.chance(0.5):
        leaving = Reading(leave_after_s=client.dice.uniform(0.3, 3) * client.pace)
        client.post_shot("sync", picture, fields, headers, reading=leaving)
    way = client.dice.choice(("sync", "async"))
    for turn in range(2):
        answer = client.insist(way, picture, fields, headers)
        if answer is None or not answer.seen.ok:
            return
        told = {"key": headers["Idempotency-Key"], "id": answer.json["request_id"]}
        client.diary.write("answered_once", turn=turn, **told)
        if client.acknowledged(answer.json, "idempotent") is None:
            return
        client.pause(client.dice.uniform(0, 3))


def browse(client: Client) -> None:
    """A browser: its shop asks for a session, the session shoots, looks and picks."""
    asked = json.dumps({"ttl_s": 900, "shots": 6}).encode()
    answer = client.wire.ask(
        "POST",
        "/sessions",
        route="POST /sessions",
        body=asked,
        headers={"Content-Type": "application/json"},
    )
    if not answer.seen.ok:
        return
    shop = client.wire
    client.wire = replace(shop, key=answer.json["token"])
    try:
        record = client.shoot()
        if record is not None:
            client.look(record)
            client.pick(record)
    finally:
        client.wire = shop


def process(client: Client) -> None:
    """Cut-out and print in one request; now and then only the print's bytes."""
    fields = {"models": client.chosen({LIGHT: 1, FREE: 2}), "preset": "left_chest"}
    only_print = client.chance(0.4)
    if only_print:
        fields["pick"] = "recommended"
    body, kind = multipart(client.picture(client.dice.choice(_SMALL_PICTURES)), fields)
    answer = client.wire.ask(
        "POST",
        "/process",
        route="POST /process (pick)" if only_print else "POST /process",
        body=body,
        headers=kind,
        reading=client.line() if only_print else None,
    )
    if answer.seen.ok and not only_print:
        record = client.acknowledged(answer.json, "process")
        if record is not None:
            client.print_of(record)


def enlarge(client: Client) -> None:
    name = client.chosen(PRINT_PICTURES)
    fields = {"edge": client.dice.choice(("soft", "print")), "scale": "4"}
    body, kind = multipart(client.picture(name), fields)
    reading = client.line()
    route = "POST /upscale" + ("" if reading.bytes_s is None else ", read slowly")
    client.wire.ask(
        "POST", "/upscale", route=route, body=body, headers=kind, reading=reading, picture=name
    )


def analyze(client: Client) -> None:
    body, kind = multipart(
        client.picture(client.dice.choice(_SMALL_PICTURES)), {"preset": "front", "garment": "black"}
    )
    client.wire.ask("POST", "/analyze", route="POST /analyze", body=body, headers=kind)


def removebg(client: Client) -> None:
    fields = {"size": client.dice.choice(("preview", "full")), "format": "png"}
    body, kind = multipart(
        client.picture(client.dice.choice(_SMALL_PICTURES)), fields, name="image_file"
    )
    client.wire.ask("POST", "/v1.0/removebg", route="POST /v1.0/removebg", body=body, headers=kind)


def read_again(client: Client) -> None:
    """An earlier result, long after; it may have gone by then."""
    if client.records:
        record = client.dice.choice(client.records)
        answer = client.get(f"/results/{record['request_id']}", "GET /results/{id}")
        if answer.seen.ok and (best := client.best(answer.json)) is not None:
            client.get(f"{best['preview_url']}", "GET /results/{id}/{model}.png?preview")


def operate(client: Client) -> None:
    """The operator's page and monitoring."""
    path = client.dice.choice(client.operators_paths)
    client.wire.ask("GET", path, route=f"GET {path}")
    client.wire.ask("GET", "/health", route="GET /health")


def blunder(client: Client) -> None:
    """A request that is wrong, or a client that leaves at a bad moment."""
    client.dice.choice((_bad_picture, _bad_parameters, _stranger, _leaves_upload, _leaves))(client)


def _bad_picture(client: Client) -> None:
    whole = client.picture("photo.jpg")
    content = client.dice.choice((b"not a picture", b"", whole[: len(whole) // 2], whole[100:]))
    body, kind = multipart(content, {"models": FREE})
    client.wire.ask(
        "POST",
        client.dice.choice(("/remove-background", "/upscale", "/analyze")),
        route="bad picture",
        body=body,
        headers=kind,
    )


def _bad_parameters(client: Client) -> None:
    fields = client.dice.choice(
        ({"models": "no-such-model"}, {"deadline_s": "900"}, {"colour": "red"}, {"mode": "slow"})
    )
    body, kind = multipart(client.picture("small.jpg"), fields)
    client.wire.ask("POST", "/remove-background", route="bad parameters", body=body, headers=kind)
    broken = b'{"image_base64": "' + base64.b64encode(b"x" * 100)
    client.wire.ask(
        "POST",
        "/remove-background",
        route="bad parameters",
        body=broken,
        headers={"Content-Type": "application/json"},
    )


def _stranger(client: Client) -> None:
    body, kind = multipart(client.picture("small.jpg"), {})
    replace(client.wire, key="no-key-that-is-known-here").ask(
        "POST", "/remove-background", route="wrong key", body=body, headers=kind
    )
    client.get(f"/results/{uuid.uuid4().hex}", "unknown result")


def _leaves_upload(client: Client) -> None:
    body, kind = multipart(client.picture("large.jpg"), {"models": LIGHT})
    client.wire.ask(
        "POST",
        client.dice.choice(("/remove-background", "/upscale")),
        route="leaves: upload",
        body=body,
        headers=kind,
        send_share=client.dice.uniform(0.05, 0.95),
    )


def _leaves(client: Client) -> None:
    """While waiting for a shot, in the middle of its stream, or of a print."""
    case = client.dice.randrange(3)
    if case == 0:
        leaving = Reading(leave_after_s=client.dice.uniform(0.1, 4))
        fields = {"models": client.chosen(MODELS)}
        client.post_shot("sync", client.chosen(SHOT_PICTURES), fields, {}, reading=leaving)
    elif case == 1:
        leaving = Reading(leave_at_event=client.dice.choice(("accepted", "result")))
        client.post_shot("stream", "photo.jpg", {"models": LIGHT}, {}, reading=leaving)
    else:
        body, kind = multipart(client.picture("large.jpg"), {})
        leaving = Reading(leave_after_bytes=client.dice.randrange(1 << 20, 1 << 25))
        client.wire.ask(
            "POST", "/upscale", route="leaves: print", body=body, headers=kind, reading=leaving
        )


def _nothing(_: dict[str, Any]) -> None:
    pass


def _runs(record: Mapping[str, Any]) -> bool:
    return record.get("status") == "running"


def _succeeded(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries: Sequence[dict[str, Any]] = record.get("results", ())
    return [each for each in entries if each["status"] == "succeeded" and "url" in each]


def _pause_s(answer: Answer) -> float:
    """What the service asked for, within a customer's patience."""
    told = answer.seen.retry_after or ""
    return min(max(int(told) if told.isdigit() else 1, 1), _LONGEST_PAUSE_S)


def _joint(url: str) -> str:
    return "&" if "?" in url else "?"


@cache
def _content(path: Path) -> bytes:
    return path.read_bytes()


_numbers = threading.Lock()
_next_number: dict[str, int] = {}


def next_number(kind: str) -> int:
    """0, 1, 2 … for the clients of a kind as they come."""
    with _numbers:
        _next_number[kind] = _next_number.get(kind, -1) + 1
        return _next_number[kind]
