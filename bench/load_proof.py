"""What bench.load proves of a run, from the clients' diary and what the service has kept.

Nothing acknowledged is lost: every id that a client was given is there with its pictures whole,
every pick stands in the journal once, every Idempotency-Key led to one shot and was charged once,
and the ledger and the look-alikes' bill tell the same.
"""

import gzip
import hashlib
import io
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from bench.load_wire import LEFT

KIE = "kie-recraft"
KIE_BILLED_AS = "recraft/remove-background"
KIE_LIST_USD = Decimal("0.005")
REFUSALS = {429, 503}
MODEL_FAILURES = {502, 504}
TRULY_SO = {402, 507}
BLUNDERS = {"bad picture", "bad parameters", "wrong key", "unknown result"}
_LANDING_S = 320
_PATIENCE_S = 120


@dataclass(slots=True)
class Diary:
    """The clients' lines, by their kind."""

    lines: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, path: Path) -> "Diary":
        diary = cls()
        for raw in path.read_text("utf-8").splitlines():
            line = json.loads(raw)
            diary.lines[line["kind"]].append(line)
        return diary

    @property
    def requests(self) -> list[dict[str, Any]]:
        return self.lines["request"]


@dataclass(slots=True)
class Findings:
    """`wrong` is what must not be; `told` are counts for the report."""

    wrong: list[str] = field(default_factory=list)
    told: dict[str, int | str] = field(default_factory=dict)

    def add(self, other: "Findings") -> None:
        self.wrong += other.wrong
        self.told |= other.told


# --- answers


def judged_answers(requests: Iterable[Mapping[str, Any]]) -> Findings:
    """Whether every answer is one that may be: refusals with Retry-After, no other 5xx."""
    found, counts = Findings(), Counter[str]()
    for each in requests:
        verdict = _verdict(each)
        counts[verdict] += 1
        if verdict == "wrong":
            found.wrong.append(_described(each))
    names = ("answered", "refused", "left", "blundered", "client's matter", "model failures")
    found.told |= {name: counts[name] for name in names}
    return found


def _verdict(seen: Mapping[str, Any]) -> str:
    status = seen["status"]
    if status == LEFT:
        return "left"
    if seen["fault"] or not isinstance(status, int) or status == 0:
        return "wrong"
    if status in REFUSALS:
        return "refused" if _says_when(seen) else "wrong"
    if seen["route"] in BLUNDERS:
        return "blundered" if 400 <= status < 500 else "wrong"
    return "answered" if status < 400 else _failed(seen)


def _failed(seen: Mapping[str, Any]) -> str:
    if seen["status"] in TRULY_SO:
        return "refused"
    if seen["status"] in MODEL_FAILURES:
        return "model failures"
    return _clients_matter(seen) if seen["status"] < 500 else "wrong"


def _clients_matter(seen: Mapping[str, Any]) -> str:
    """Of 4xx those that the course of things explains: too early, gone, nothing to compare."""
    explained = {
        "idempotency_in_flight",
        "nothing_to_compare",
        "result_not_found",
        "original_not_kept",
        "not_pickable",
        "session_exhausted",
    }
    return "client's matter" if seen["code"] in explained else "wrong"


def _says_when(seen: Mapping[str, Any]) -> bool:
    told = seen["retry_after"]
    return told is not None and told.isdigit() and int(told) >= 1


def _described(seen: Mapping[str, Any]) -> str:
    detail = seen["more"].get("detail") or ""
    what = f"{seen['route']}: {seen['status']} {seen['code'] or ''} {seen['fault']} {detail}"
    return f"{what.strip()} ({seen['x_request_id']}, {seen['more'].get('picture', '')})"


# --- acknowledged work


def kept_results(diary: Diary, service: httpx.Client, keys: Mapping[str, str]) -> Findings:
    """Every id is there and has ended; pictures that are kept are read and decoded, all of them."""
    found, counts = Findings(), Counter[str]()
    forgotten = {each["id"] for each in diary.lines["forgotten"]}
    promised = {each["id"]: each["shop"] for each in diary.lines["acknowledged"]}
    for request_id, shop in promised.items():
        headers = {"X-API-Key": keys[shop]}
        if request_id in forgotten:
            gone = _get(service, f"/results/{request_id}", headers).status_code == 404
            _count(found, counts, "forgotten as asked", gone, f"{request_id} came back")
            continue
        record = _ended(service, request_id, headers)
        if record is None:
            found.wrong.append(f"{request_id}, promised to {shop}, is not there")
        elif record["status"] == "expired":
            counts["evicted for the quota"] += 1
        else:
            counts["complete"] += 1
            _check_pictures(service, record, headers, found, counts)
    found.wrong += [each["what"] for each in diary.lines["wrong"]]
    found.told |= {"acknowledged": len(promised), **counts}
    return found


def _check_pictures(
    service: httpx.Client,
    record: Mapping[str, Any],
    headers: Mapping[str, str],
    found: Findings,
    counts: Counter[str],
) -> None:
    if record["status"] != "complete":
        found.wrong.append(f"{record['request_id']} is {record['status']}")
    for entry in record["results"]:
        if entry["status"] == "succeeded":
            content = _get(service, entry["url"], headers).content
            wrong = why_not_whole(content, entry)
            if wrong:
                wrong = f"{record['request_id']} {entry['model']}: {wrong}"
            _count(found, counts, "cut-outs decoded", not wrong, wrong)
        else:
            counts[f"entries {entry['status']}"] += 1


def why_not_whole(content: bytes, entry: Mapping[str, Any]) -> str:
    """What is wrong with a cut-out's file against its record's entry; "" where nothing is."""
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        return f"{len(content)} bytes that are not the record's"
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            size, mode = opened.size, opened.mode
    except (OSError, SyntaxError, ValueError) as error:
        return f"does not decode: {error}"
    if size != (entry["width"], entry["height"]) or mode != "RGBA":
        return f"{mode} of {size}"
    return ""


def _ended(
    service: httpx.Client, request_id: str, headers: Mapping[str, str]
) -> dict[str, Any] | None:
    begun = time.monotonic()
    while True:
        answer = _get(service, f"/results/{request_id}", headers)
        if not answer.is_success:
            return None
        record: dict[str, Any] = answer.json()
        if record["status"] != "running" or time.monotonic() - begun > _LANDING_S:
            return record
        time.sleep(1)


def _get(service: httpx.Client, path: str, headers: Mapping[str, str]) -> httpx.Response:
    """The answer, asked again where the service asks for patience."""
    begun = time.monotonic()
    while True:
        answer = service.get(path, headers=headers)
        if answer.status_code not in REFUSALS or time.monotonic() - begun > _PATIENCE_S:
            return answer
        time.sleep(float(answer.headers.get("Retry-After", "1")))


def _count(found: Findings, counts: Counter[str], name: str, good: bool, wrong: str) -> None:  # noqa: FBT001
    if good:
        counts[name] += 1
    else:
        found.wrong.append(wrong)


# --- picks


def kept_picks(diary: Diary, journal: Path) -> Findings:
    """Every acknowledged pick stands once, but those of shots that were forgotten since."""
    found = Findings()
    forgotten = {each["id"] for each in diary.lines["forgotten"]}
    acknowledged = {each["id"]: each["shot"] for each in diary.lines["picked"]}
    lines = Counter(line["preference_id"] for line in _journal_lines(journal))
    for pick, shot in acknowledged.items():
        wanted = 0 if shot in forgotten else 1
        if lines[pick] != wanted:
            found.wrong.append(f"pick {pick} of {shot} stands {lines[pick]} times, not {wanted}")
    found.wrong += [
        f"pick {pick} stands {times} times" for pick, times in lines.items() if times > 1
    ]
    found.told["picks acknowledged"] = len(acknowledged)
    found.told["lines in the journal"] = lines.total()
    return found


def _journal_lines(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("picks*.jsonl*")):
        raw = path.read_bytes()
        yield from map(
            json.loads, (gzip.decompress(raw) if path.suffix == ".gz" else raw).splitlines()
        )


# --- money and keys


def paid_once(diary: Diary, ledger: Path, bill: Mapping[str, Any]) -> Findings:
    """Ledger and bill agree, and no Idempotency-Key led to two shots or two charges."""
    found = Findings()
    lines = [json.loads(each) for each in ledger.read_text().splitlines()]
    found.add(_keys_led_to_one_shot(diary))
    found.add(_keys_paid_once(diary, lines))
    found.add(_books_agree(lines, bill))
    return found


def _keys_led_to_one_shot(diary: Diary) -> Findings:
    found, ids = Findings(), defaultdict[str, set[str]](set)
    for each in diary.lines["answered_once"]:
        ids[each["key"]].add(each["id"])
    found.wrong += [f"key {key} led to {shots}" for key, shots in ids.items() if len(shots) > 1]
    found.told["keys answered"] = len(ids)
    found.told["answers to them"] = len(diary.lines["answered_once"])
    return found


def _keys_paid_once(diary: Diary, lines: Iterable[Mapping[str, Any]]) -> Findings:
    """A ledger's line names the HTTP request that its task was sent for."""
    found = Findings()
    key_of = {
        each["x_request_id"]: each["more"]["idempotency_key"]
        for each in diary.requests
        if each["more"].get("idempotency_key")
    }
    sent = Counter(
        (key_of[line["request_id"]], line["model"])
        for line in lines
        if line["cost_usd"] is None and line["request_id"] in key_of
    )
    found.wrong += [
        f"key {key} sent {count} tasks to {model}"
        for (key, model), count in sent.items()
        if count > 1
    ]
    found.told["paid tasks for keys"] = sent.total()
    return found


def _books_agree(lines: Iterable[Mapping[str, Any]], bill: Mapping[str, Any]) -> Findings:
    """Runware's tasks have our own ids. Kie.ai names its own, so there the sums are compared."""
    found = Findings()
    sent = {line["task_id"]: line["model"] for line in lines}
    settled = {
        line["task_id"]: Decimal(line["cost_usd"]) for line in lines if line["cost_usd"] is not None
    }
    charged = defaultdict[str, Decimal](Decimal)
    times = Counter[str]()
    for entry in bill["entries"]:
        if entry["outcome"] == "charged":
            charged[entry["task_id"]] += Decimal(entry["usd"])
            times[entry["task_id"]] += 1
    found.wrong += [f"task {task} was charged {n} times" for task, n in times.items() if n > 1]
    for task, cost in settled.items():
        if sent[task] != KIE and charged[task] != cost:
            found.wrong.append(f"task {task} cost {charged[task]}, the ledger says {cost}")
    unsettled = Counter(model for task, model in sent.items() if task not in settled)
    kie_settled = sum((cost for task, cost in settled.items() if sent[task] == KIE), Decimal(0))
    kie_billed = Decimal(bill["models"].get(KIE_BILLED_AS, {"usd": "0"})["usd"])
    price = max([KIE_LIST_USD, *(cost for task, cost in settled.items() if sent[task] == KIE)])
    if not kie_settled <= kie_billed <= kie_settled + unsettled[KIE] * price:
        found.wrong.append(
            f"Kie.ai charged {kie_billed}; settled {kie_settled}, unsure {unsettled[KIE]} tasks"
        )
    foreign = {
        entry["task_id"]
        for entry in bill["entries"]
        if entry["provider"] == "runware" and entry["outcome"] == "charged"
    } - sent.keys()
    found.wrong += [f"task {task} was charged and is not in the ledger" for task in foreign]
    found.told |= {
        "paid tasks": len(sent),
        "settled, USD": str(sum(settled.values(), Decimal(0))),
        "on the bill, USD": str(bill["total_usd"]),
        "tasks whose end nobody learned": unsettled.total(),
    }
    return found
