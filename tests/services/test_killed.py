"""After kill -9 a paid task that may have been charged is `provider_outcome_unknown`, for ever.

The storefront's retry finds it by its Idempotency-Key, and nothing is sent again.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from sandbox.opening import Sandbox
from tests.conftest import ROOT, artwork, problem
from tests.sandbox_thread import running_sandbox

PAID = "runware-rmbg-2.0,runware-birefnet-portrait,kie-recraft"
MODELS = {"paid": PAID, "mixed": f"{PAID},local-knockout"}
SENT = {"removeBackground": 4, "createTask": 2}


@contextmanager
def process(sandbox: Sandbox, temp_dir: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`uvicorn main:app` in a process of its own, with that sandbox as its providers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    hosts = [each.partition("://")[2] for each in (sandbox.runware_files, sandbox.kie_files)]
    environment = {
        **os.environ,
        "TEMP_DIR": str(temp_dir),
        "WEIGHTS_DOWNLOAD": "false",
        "RUNWARE_API_KEY": "sandbox-killed",
        "KIE_API_KEY": "sandbox-killed",
        "RUNWARE_URL": sandbox.runware_ws,
        "KIE_API_URL": sandbox.kie_api,
        "KIE_UPLOAD_URL": sandbox.kie_upload,
        "PROVIDER_RESULT_DOMAINS": ",".join(hosts),
        "PROVIDER_PACE": "0.1",
    }
    service = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        transport = httpx.HTTPTransport(retries=40)
        with httpx.Client(transport=transport, trust_env=False) as client:
            client.get(f"{url}/health").raise_for_status()
        yield service, url
    finally:
        service.kill()
        service.wait()


def paid_calls(sandbox: Sandbox) -> dict[str, int]:
    return {
        operation: len(list(sandbox.journal.calls(operation)))
        for operation in ("removeBackground", "createTask")
    }


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
    while paid_calls(sandbox) != SENT or states(temp_dir) != [pending, [*pending, "succeeded"]]:
        assert time.monotonic() < give_up, (paid_calls(sandbox), states(temp_dir))
        time.sleep(0.02)


def states(temp_dir: Path) -> list[list[str]]:
    records = [json.loads(each.read_text()) for each in temp_dir.glob("results/*/record.json")]
    return sorted([entry["status"] for entry in each["results"]] for each in records)


def test_a_killed_shot_is_never_sent_again(tmp_path: Path) -> None:
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
        assert paid_calls(sandbox) == SENT
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
    lines = (tmp_path / "data" / "costs.jsonl").read_text().splitlines()
    assert [json.loads(line)["cost_usd"] for line in lines] == [None] * 6
