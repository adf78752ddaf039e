"""The load's clients against a real service, and what proves that nothing of theirs was lost.

`python -m bench.load` is the long one; docs/BENCHMARKS.md has its figures.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import load_clients
from bench.load_clients import Client, Plan
from bench.load_proof import (
    Diary,
    judged_answers,
    kept_picks,
    kept_results,
    paid_once,
    why_not_whole,
)
from bench.load_report import Trend, percentile, routes_table, trend
from bench.load_watch import Watch
from bench.load_wire import LEFT
from bench.load_wire import Diary as Writer
from models.schemas import ModelId
from tests.answering import Cutter
from tests.conftest import Server, artwork, png_bytes, serving
from tests.sandbox_thread import provider_settings, running_sandbox

KEYS = {"shop": "key-of-the-shop-in-the-load"}
NAMES = sorted({*load_clients.SHOT_PICTURES, *load_clients.PRINT_PICTURES})


def seen(**differs: Any) -> dict[str, Any]:  # noqa: ANN401  # JSON
    usual = {"kind": "request", "route": "POST /upscale", "status": 200, "fault": "", "code": None}
    usual |= {"retry_after": None, "x_request_id": "r", "more": {}, "seconds": 1.0}
    return {**usual, "first_byte_s": 0.5, **differs}


@pytest.mark.parametrize(
    "answer",
    [
        seen(status=503, code="overloaded"),
        seen(status=503, code="overloaded", retry_after="soon"),
        seen(status=503, code="overloaded", retry_after="0"),
        seen(status=500, code="internal_error"),
        seen(status=200, fault="not whole"),
        seen(status=0, fault="ConnectionResetError"),
        seen(status=422, code="unreadable_image"),
        seen(status=500, route="bad picture"),
        seen(status=200, route="bad parameters"),
    ],
)
def test_an_answer_that_must_not_be_is_wrong(answer: dict[str, Any]) -> None:
    assert len(judged_answers([seen(), answer]).wrong) == 1


def test_every_other_answer_is_counted_by_what_it_means() -> None:
    answers = [
        seen(),
        seen(status=503, retry_after="7", code="overloaded"),
        seen(status=429, retry_after="1", code="rate_limited"),
        seen(status=507, code="insufficient_storage"),
        seen(status=502, code="all_models_failed"),
        seen(status=415, route="bad picture"),
        seen(status=404, code="result_not_found"),
        seen(status=LEFT),
    ]
    found = judged_answers(answers)
    assert found.wrong == []
    assert found.told == {
        "answered": 1,
        "refused": 3,
        "left": 1,
        "blundered": 1,
        "client's matter": 1,
        "model failures": 1,
    }


def test_a_cut_out_is_whole_when_bytes_size_and_pixels_are_the_records() -> None:
    whole = cut_out(64, 48)
    entry = {"sha256": hashlib.sha256(whole).hexdigest(), "width": 64, "height": 48}
    assert why_not_whole(whole, entry) == ""
    assert "not the record's" in why_not_whole(whole[:-20], entry)
    torn = whole[: len(whole) // 2]
    assert "decode" in why_not_whole(torn, {**entry, "sha256": hashlib.sha256(torn).hexdigest()})
    assert "64, 48" in why_not_whole(whole, {**entry, "width": 65})
    opaque = artwork()
    assert "RGB of" in why_not_whole(
        opaque, {**entry, "sha256": hashlib.sha256(opaque).hexdigest()}
    )


def cut_out(width: int, height: int) -> bytes:
    return png_bytes(np.random.default_rng(1).integers(0, 255, (height, width, 4), np.uint8))


def diary(**lines: list[dict[str, Any]]) -> Diary:
    made = Diary()
    made.lines.update(lines)
    return made


def test_a_pick_stands_once_unless_its_shot_was_forgotten(tmp_path: Path) -> None:
    journal = tmp_path / "picks.jsonl"
    lines = [{"preference_id": each} for each in ("kept", "twice", "twice", "back")]
    journal.write_text("".join(json.dumps(each) + "\n" for each in lines))
    picked = [{"id": each, "shot": f"shot-{each}"} for each in ("kept", "twice", "lost", "back")]
    forgotten = [{"id": "shot-back"}]
    wrong = kept_picks(diary(picked=picked, forgotten=forgotten), tmp_path).wrong
    assert sorted({each.split()[1] for each in wrong}) == ["back", "lost", "twice"]


def ledger_line(task: str, cost: str | None, **differs: str) -> dict[str, Any]:
    usual = {"task_id": task, "cost_usd": cost, "model": "runware-rmbg-2.0", "request_id": "r1"}
    return {**usual, **differs}


def bill(*charged: tuple[str, str]) -> dict[str, Any]:
    usual = {"provider": "runware", "outcome": "charged"}
    entries = [{**usual, "task_id": task, "usd": usd} for task, usd in charged]
    return {"entries": entries, "models": {}, "total_usd": str(len(entries))}


@pytest.mark.parametrize(
    ("lines", "charged", "wrong"),
    [
        ([("t1", None), ("t1", "0.018")], [("t1", "0.018")], ""),
        ([("t1", None)], [("t1", "0.018")], ""),
        ([("t1", None), ("t1", "0.018")], [("t1", "0.018"), ("t1", "0.018")], "charged 2 times"),
        ([("t1", None), ("t1", "0.018")], [], "the ledger says 0.018"),
        ([], [("t1", "0.018")], "not in the ledger"),
        ([("t1", None), ("t2", None)], [], "key k sent 2 tasks"),
    ],
)
def test_books_that_do_not_agree_are_found(
    tmp_path: Path,
    lines: list[tuple[str, str | None]],
    charged: list[tuple[str, str]],
    wrong: str,
) -> None:
    ledger = tmp_path / "costs.jsonl"
    ledger.write_text("".join(json.dumps(ledger_line(*each)) + "\n" for each in lines))
    requests = [seen(x_request_id="r1", more={"idempotency_key": "k"})]
    found = paid_once(diary(request=requests), ledger, bill(*charged)).wrong
    assert [each for each in found if wrong and wrong in each] or not (found or wrong)


@pytest.mark.parametrize(("billed", "wrong"), [("0.005", False), ("0.015", True)])
def test_of_kie_the_sums_agree_within_what_nobody_learned(
    tmp_path: Path, billed: str, wrong: bool
) -> None:
    """One task that failed for nothing, two whose end is not known: at most their list price."""
    lines = [("t1", None), ("t1", "0"), ("t2", None), ("t3", None)]
    told = [ledger_line(*each, model="kie-recraft") for each in lines]
    (tmp_path / "costs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in told))
    on_the_bill = {**bill(), "models": {"recraft/remove-background": {"usd": billed}}}
    found = paid_once(diary(), tmp_path / "costs.jsonl", on_the_bill).wrong
    assert bool(found) == wrong


def test_a_key_that_led_to_two_shots_is_found(tmp_path: Path) -> None:
    (tmp_path / "costs.jsonl").touch()
    told = [{"key": "k", "id": "one"}, {"key": "k", "id": "two"}, {"key": "j", "id": "one"}]
    (wrong,) = paid_once(diary(answered_once=told), tmp_path / "costs.jsonl", bill()).wrong
    assert wrong.startswith("key k led to")


def test_a_trend_is_the_slope_by_the_hour_with_its_error() -> None:
    assert trend([(0, 1), (3600, 2)]) is None
    line = trend([(1800.0 * n, 5 + 2.0 * n) for n in range(6)])
    assert line is not None
    assert line.per_hour == pytest.approx(4)
    assert line.error == pytest.approx(0, abs=1e-9)
    assert line.grows
    assert not Trend(3, 2).grows
    flat = trend([(0, 10), (1200, 12), (2400, 9), (3600, 11)])
    assert flat is not None
    assert not flat.grows


def test_percentiles_are_by_nearest_rank_and_count_what_was_answered() -> None:
    assert [percentile(range(1, 101), share) for share in (0.5, 0.95, 0.99, 1)] == [50, 95, 99, 100]
    answers = [seen(seconds=n) for n in range(1, 5)]
    answers += [seen(status=503, seconds=99), seen(status=LEFT, seconds=99)]
    row = routes_table(answers)[-1]
    assert row == "| POST /upscale | 6 | 4 | 1 | 1 x left | 2.00 | 4.00 | 4.00 | 0.50 |"


def test_a_sample_counts_files_by_what_they_are_and_survives_those_that_vanish(
    tmp_path: Path,
) -> None:
    for name in (
        "results/one/cutout.png",
        "uploads/9/image",
        "uploads/8/image",
        "data/costs.jsonl",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x" * 500_000)
    (tmp_path / "results" / "one" / "gone.png").symlink_to(tmp_path / "nothing")
    sample = Watch(os.getpid(), tmp_path, None).sample()
    assert (sample.result_files, sample.result_mb, sample.other_files) == (2, 0.5, 2)
    assert sample.service_mb > 10
    assert sample.threads >= 1
    assert sample.descriptors >= 3


# --- the clients themselves


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Plan, Any]]:
    """A service with keys, look-alikes for its paid models, and a plan with small pictures."""
    folder = tmp_path_factory.mktemp("load")
    pictures = folder / "pictures"
    pictures.mkdir()
    for name in NAMES:
        (pictures / name).write_bytes(artwork(width=320, height=256))
    stand_ins = {each: Cutter(each) for each in (ModelId.LOCAL_BIREFNET, ModelId.LOCAL_ISNET)}
    with (
        running_sandbox() as sandbox,
        serving(
            folder / "temp",
            stand_ins=stand_ins,
            api_keys=f"shop:{KEYS['shop']}",
            **provider_settings(sandbox),
        ) as server,
    ):
        host, port = server.client.base_url.host, server.client.base_url.port
        assert port is not None
        diary_path = folder / "diary.jsonl"
        plan = Plan(host, port, KEYS, pictures, diary_path, ["/ready"], pace=0.05)
        yield server, plan, sandbox


@pytest.mark.parametrize(
    "visit",
    ["order", "paid_once", "process", "enlarge", "analyze", "removebg", "operate", "browse"],
)
def test_a_visit_leaves_nothing_that_is_wrong(
    town: tuple[Server, Plan, Any], visit: str, tmp_path: Path
) -> None:
    server, plan, sandbox = town
    path = tmp_path / "diary.jsonl"
    client = Client(plan, Writer(path), 1, visit)
    getattr(load_clients, visit)(client)
    told = Diary.read(path)
    found = judged_answers(told.requests)
    found.add(kept_results(told, server.client, KEYS))
    found.add(kept_picks(told, server.temp_dir / "data" / "picks"))
    found.add(paid_once(told, server.temp_dir / "data" / "costs.jsonl", sandbox.bill.as_json()))
    assert found.wrong == []
    assert found.told["answered"]
    if visit in {"order", "paid_once", "browse"}:
        assert found.told["cut-outs decoded"]
    assert Decimal(str(found.told["on the bill, USD"])) >= 0


def test_a_blunder_is_refused_or_left_and_breaks_nothing(
    town: tuple[Server, Plan, Any], tmp_path: Path
) -> None:
    server, plan, _ = town
    path = tmp_path / "diary.jsonl"
    client = Client(plan, Writer(path), 1, "blunderer")
    for _ in range(12):
        load_clients.blunder(client)
    told = Diary.read(path)
    found = judged_answers(told.requests)
    assert found.wrong == []
    assert found.told["blundered"]
    assert found.told["left"]
    assert server.client.get("/health").is_success
