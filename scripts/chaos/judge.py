"""What must hold whatever happened; a sentence for each thing that does not."""

import json
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx

from scripts.chaos.stage import Stage
from scripts.chaos.traffic import FREE, Keyed, Seen, picture

_QUIET_S = 60
_SWEPT_WITHIN_S = 75
INVARIANTS = (
    "No answer is a 500, and no model crashed.",
    "Every shot that was acknowledged is there, every pick is in the journal.",
    "An Idempotency-Key that is sent again gives the first shot and charges nothing.",
    "The sandbox's bill is what the ledger has settled, and what it knows to be uncertain.",
    "No model was charged for more pictures than there were shots.",
    "/health answers throughout, within the seconds that the circumstance allows.",
    "It is well again by itself: a shot of all models, a pick, an enlargement.",
    "When it is quiet no upload and no partial file is left.",
)


@dataclass(frozen=True)
class Money:
    """Dollars: settled in the ledger, on the sandbox's bill; tasks that stayed uncertain."""

    settled: Decimal
    billed: Decimal
    uncertain: int


def seconds_until_well(stage: Stage, *, at_most_s: float) -> float | None:
    """Until a shot of all models, a pick and an enlargement have succeeded; None: they did not."""
    began = time.monotonic()
    while (after := time.monotonic() - began) < at_most_s:
        with suppress(httpx.HTTPError, ValueError, KeyError):
            if _is_well(stage):
                return time.monotonic() - began
        time.sleep(min(1.0, at_most_s - after))
    return None


def _is_well(stage: Stage) -> bool:
    with stage.shop.client() as client:
        shot = client.post(
            "/remove-background", files={"image": picture()}, data={"models": stage.models}
        )
        if shot.status_code != 200:
            return False
        record = shot.json()
        if any(each["status"] != "succeeded" for each in record["results"]):
            return False
        asked = {"request_id": record["request_id"], "model": FREE}
        if client.post("/preferences", json=asked).status_code not in {201, 202}:
            return False
        return client.post("/upscale", files={"image": picture()}).status_code == 200


def wait_until_quiet(stage: Stage) -> None:
    """Until nothing runs or waits any more; not for longer than a minute."""
    until = time.monotonic() + _QUIET_S
    with stage.shop.client() as client:
        while time.monotonic() < until:
            with suppress(httpx.HTTPError):
                told = client.get("/ready").json()
                if not any(
                    told[each]["running"] + told[each]["waiting"] for each in ("queue", "printing")
                ):
                    time.sleep(0.5)
                    return
            time.sleep(0.5)


def broken(stage: Stage, seen: Seen, *, silence_s: float, may_crash: bool) -> list[str]:
    """Every invariant that does not hold, now that it is quiet."""
    found = [f"500 for {each}" for each in seen.server_errors[:5]]
    crashed = sum(n for (_, code), n in seen.outcomes.items() if code == "model_crashed")
    if crashed and not may_crash:
        found.append(f"model_crashed in {crashed} entries")
    if seen.conflicting:
        found.append(f"{len(seen.conflicting)} keys answered with two shots")
    if seen.longest_silence_s > silence_s:
        found.append(f"/health silent for {seen.longest_silence_s:.1f} s")
    with stage.shop.client() as client:
        before = stage.bill()["total_usd"]
        found += _lost_shots(client, seen)
        found += _still_running(client, seen)
        found += _lost_picks(client, seen)
        found += _not_replayed(client, seen)
        if stage.bill()["total_usd"] != before:
            found.append("replayed keys were charged again")
    found += _money_broken(stage)
    return found + _left_over(stage)


def _still_running(client: httpx.Client, seen: Seen) -> list[str]:
    """Shots whose record says that they run, though nothing does any more."""
    running = [
        each
        for each in sorted(seen.shots)
        if client.get(f"/results/{each}").json().get("status") == "running"
    ]
    return [f"{len(running)} shots seem to run for ever, as {running[0]}"] if running else []


def _lost_shots(client: httpx.Client, seen: Seen) -> list[str]:
    lost = [
        each for each in sorted(seen.shots) if client.get(f"/results/{each}").status_code != 200
    ]
    return (
        [f"{len(lost)} of {len(seen.shots)} acknowledged shots lost, as {lost[0]}"] if lost else []
    )


def _lost_picks(client: httpx.Client, seen: Seen) -> list[str]:
    answer = client.get("/preferences/export")
    if answer.status_code != 200:
        return [f"/preferences/export answers {answer.status_code}"]
    there = Counter(json.loads(line)["preference_id"] for line in answer.text.splitlines() if line)
    lost = [each for each in seen.picks if not there[each]]
    doubled = [each for each in there if there[each] > 1]
    said = [f"{len(lost)} of {len(seen.picks)} acknowledged picks lost"] if lost else []
    return said + ([f"{len(doubled)} picks there twice"] if doubled else [])


def _not_replayed(client: httpx.Client, seen: Seen) -> list[str]:
    wrong = [
        each.request_id for each in seen.keyed.values() if not _replays(client, each, seen.models)
    ]
    return [f"{len(wrong)} of {len(seen.keyed)} keys not replayed, as {wrong[0]}"] if wrong else []


def _replays(client: httpx.Client, keyed: Keyed, models: str) -> bool:
    answer = client.post(
        "/remove-background",
        files={"image": keyed.picture},
        data={"models": models},
        headers={"Idempotency-Key": keyed.key},
    )
    return answer.status_code == 200 and answer.json()["request_id"] == keyed.request_id


def money(stage: Stage) -> Money:
    """By the ledger's file and the sandbox's bill."""
    settled, sent = _ledger(stage)
    costs = [cost for costs in settled.values() for cost in costs[:1]]
    billed = Decimal(stage.bill()["total_usd"])
    return Money(sum(costs, Decimal(0)), billed, len(sent.keys() - settled.keys()))


def _money_broken(stage: Stage) -> list[str]:
    settled, sent = _ledger(stage)
    bill = stage.bill()
    found = [f"task {task} settled twice" for task, costs in settled.items() if len(costs) > 1]
    charged: defaultdict[str, Decimal] = defaultdict(Decimal)
    for entry in bill["entries"]:
        if entry["outcome"] == "charged":
            charged[entry["task_id"]] += Decimal(entry["usd"])
    for entry in bill["entries"]:
        task = entry["task_id"]
        if entry["provider"] != "runware" or entry["outcome"] != "charged":
            continue
        if task not in sent:
            found.append(f"task {task} charged, not in the ledger")
        elif task in settled and settled[task][0] != charged[task]:
            found.append(f"task {task}: charged {charged[task]}, settled {settled[task][0]}")
    return found + _kie_broken(settled, sent, bill) + _charged_too_often(stage, bill)


def _kie_broken(
    settled: dict[str, list[Decimal]], sent: dict[str, str], bill: dict[str, Any]
) -> list[str]:
    """Kie.ai names its tasks itself, so the sums are compared."""
    line = bill["models"].get("recraft/remove-background", {"charged": 0, "usd": "0"})
    ours = [task for task, model in sent.items() if model == "kie-recraft"]
    known = sum((settled[task][0] for task in ours if task in settled), Decimal(0))
    unsure = sum(1 for task in ours if task not in settled)
    surplus = Decimal(line["usd"]) - known
    if 0 <= surplus <= unsure * Decimal("0.005"):
        return []
    return [f"Kie.ai charged {line['usd']}, settled {known}, {unsure} uncertain"]


def _charged_too_often(stage: Stage, bill: dict[str, Any]) -> list[str]:
    shots = len(list((stage.data_dir / "records").glob("*/*.json")))
    shots += len(list((stage.temp_dir / "data" / "records").glob("*/*.json")))
    return [
        f"{name} was charged for {line['charged']} pictures of {shots} shots"
        for name, line in bill["models"].items()
        if line["charged"] > shots
    ]


def _ledger(stage: Stage) -> tuple[dict[str, list[Decimal]], dict[str, str]]:
    """What each task was settled at, every time; and the model of each that was sent."""
    settled: defaultdict[str, list[Decimal]] = defaultdict(list)
    sent: dict[str, str] = {}
    for folder in (stage.data_dir, stage.temp_dir / "data"):
        with suppress(FileNotFoundError):
            for line in (folder / "costs.jsonl").read_text().splitlines():
                with suppress(ValueError):
                    told = json.loads(line)
                    sent[told["task_id"]] = told["model"]
                    if told["cost_usd"] is not None:
                        settled[told["task_id"]].append(Decimal(told["cost_usd"]))
    return dict(settled), sent


def _left_over(stage: Stage) -> list[str]:
    """What is left when the service has swept, as it does once a minute."""
    until = time.monotonic() + _SWEPT_WITHIN_S
    while (found := _left_over_now(stage)) and time.monotonic() < until:
        time.sleep(1)
    return found


def _left_over_now(stage: Stage) -> list[str]:
    uploads = list((stage.temp_dir / "uploads").iterdir())
    partial = [*stage.temp_dir.rglob("*.part"), *(stage.data_dir / "records").rglob("*.part")]
    found = [f"{len(uploads)} uploads left"] if uploads else []
    return found + ([f"partial files left, as {partial[0].name}"] if partial else [])
