"""kill -9 in the middle of shots: the storefront's retry finds them, and nothing is sent again."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from sandbox.opening import Sandbox
from tests.conftest import artwork, problem
from tests.sandbox_thread import running_sandbox
from tests.services.test_killed import process

PAID = "runware-rmbg-2.0,runware-birefnet-portrait,kie-recraft"
MODELS = {"paid": PAID, "mixed": f"{PAID},local-knockout"}
SENT = {"removeBackground": 4, "createTask": 2}


def tasks_sent(sandbox: Sandbox) -> dict[str, int]:
    """Runware's socket may repeat a task under its own id where an acknowledgement is late."""
    return {name: len({each.task_id for each in sandbox.journal.calls(name)}) for name in SENT}


def shoot(url: str, key: str, *, width: int = 300) -> httpx.Response:
    return httpx.post(
        f"{url}/remove-background",
        files={"image": artwork(width=width, height=260)},
        data={"models": MODELS[key]},
        headers={"Idempotency-Key": key},
        timeout=30,
        trust_env=False,
    )


def is_cut_off(url: str, key: str) -> bool:
    try:
        shoot(url, key)
    except httpx.TransportError:
        return True
    return False


def wait_for_the_middle(sandbox: Sandbox, temp_dir: Path) -> None:
    """Until every paid task has been sent, none has landed, and the local model has."""
    give_up = time.monotonic() + 30
    pending = ["pending"] * 3
    while tasks_sent(sandbox) != SENT or states(temp_dir) != [pending, [*pending, "succeeded"]]:
        assert time.monotonic() < give_up, (tasks_sent(sandbox), states(temp_dir))
        time.sleep(0.02)


def states(temp_dir: Path) -> list[list[str]]:
    records = [json.loads(each.read_text()) for each in temp_dir.glob("data/records/*/*.json")]
    return sorted([entry["status"] for entry in each["results"]] for each in records)


def test_the_retry_after_kill_9_is_never_a_second_task(tmp_path: Path) -> None:
    with running_sandbox() as sandbox, ThreadPoolExecutor(2) as pool:
        sandbox.faults.set("runware.late,kie.stuck")
        with process(sandbox, tmp_path) as (service, url):
            clients = [pool.submit(is_cut_off, url, key) for key in MODELS]
            wait_for_the_middle(sandbox, tmp_path)
            service.kill()
            service.wait()
            assert all(each.result() for each in clients)
        with process(sandbox, tmp_path) as (_, url):
            retries = [shoot(url, "mixed") for _ in range(2)]
            failed = shoot(url, "paid")
            other = shoot(url, "mixed", width=301)
            shot = retries[0].json()["request_id"]
            record = httpx.get(f"{url}/results/{shot}", trust_env=False).json()
        assert tasks_sent(sandbox) == SENT
        tasks = [each.task_id for each in sandbox.bill.entries()]
        assert len(tasks) == len(set(tasks)) <= sum(SENT.values())
    for retry in retries:
        assert retry.headers["idempotent-replayed"] == "true"
        assert (retry.status_code, retry.json()) == (200, record)
    *paid, local = record["results"]
    assert record["status"] == "complete"
    assert [each["error"]["code"] for each in paid] == ["provider_outcome_unknown"] * 3
    assert [each["error"]["retryable"] for each in paid] == [False] * 3
    assert local["status"] == "succeeded"
    detail = str(problem(failed, 502, "all_models_failed")["detail"])
    assert detail.count("provider_outcome_unknown") == 3
    assert failed.headers["idempotent-replayed"] == "true"
    problem(other, 422, "idempotency_mismatch")
