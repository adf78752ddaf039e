"""After kill -9 a paid task that may have been charged is `provider_outcome_unknown`, for ever; the
ledger lists it once, and the day's budget counts it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from sandbox.opening import Sandbox
from tests.conftest import ROOT, artwork
from tests.ports import unused_port
from tests.sandbox_thread import running_sandbox

PAID = ("runware-rmbg-2.0", "runware-birefnet-portrait", "kie-recraft")
SHOTS = 3
DAY = Decimal("0.08")  # three shots, and of a fourth the two cheaper models


@contextmanager
def process(sandbox: Sandbox, temp_dir: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`uvicorn main:app` in a process of its own, with that sandbox as its providers."""
    port = unused_port()
    hosts = [each.partition("://")[2] for each in (sandbox.runware_files, sandbox.kie_files)]
    environment = {
        **os.environ,
        "TEMP_DIR": str(temp_dir),
        "WEIGHTS_DOWNLOAD": "false",
        "WEIGHTS_DIR": str(temp_dir / "weights"),
        "RUNWARE_API_KEY": "sandbox-killed",
        "KIE_API_KEY": "sandbox-killed",
        "RUNWARE_URL": sandbox.runware_ws,
        "KIE_API_URL": sandbox.kie_api,
        "KIE_UPLOAD_URL": sandbox.kie_upload,
        "PROVIDER_RESULT_DOMAINS": ",".join(hosts),
        "PROVIDER_PACE": "0.1",
        "DAILY_BUDGET_USD": str(DAY),
    }
    service = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_alive(url, service)
        yield service, url
    finally:
        service.kill()
        service.wait()


def _wait_until_alive(url: str, service: subprocess.Popen[bytes]) -> None:
    """httpx's own retries would double their pauses and sleep through the start."""
    while service.poll() is None:
        with suppress(httpx.ConnectError):
            httpx.get(f"{url}/health", trust_env=False).raise_for_status()
            return
        time.sleep(0.05)
    raise AssertionError("the service did not start")


def paid_calls(sandbox: Sandbox) -> dict[str, int]:
    return {
        operation: len(list(sandbox.journal.calls(operation)))
        for operation in ("removeBackground", "createTask")
    }


def shoot(url: str, *, deadline_s: int) -> dict[str, Any]:
    shot: dict[str, Any] = httpx.post(
        f"{url}/remove-background",
        files={"image": artwork(width=300, height=260)},
        data={"models": f"{','.join(PAID)},local-knockout", "deadline_s": str(deadline_s)},
        timeout=30,
        trust_env=False,
    ).json()
    return shot


def wait_until_sent(sandbox: Sandbox, expected: dict[str, int]) -> None:
    for _ in range(1000):
        with suppress(RuntimeError):  # the journal grows in its own thread
            if paid_calls(sandbox) == expected:
                return
        time.sleep(0.02)
    raise AssertionError(f"sent so far: {paid_calls(sandbox)}")


def test_killed_shots_are_never_sent_again_and_count_against_the_day(tmp_path: Path) -> None:
    sent = {"removeBackground": 2 * SHOTS, "createTask": SHOTS}
    with running_sandbox() as sandbox:
        sandbox.faults.set("runware.late,kie.stuck")
        with (
            process(sandbox, tmp_path) as (service, url),
            ThreadPoolExecutor(SHOTS) as clients,
        ):
            shots = list(clients.map(lambda _: shoot(url, deadline_s=1), range(SHOTS)))
            for shot in shots:
                assert [each["status"] for each in shot["results"][:3]] == ["pending"] * 3
            wait_until_sent(sandbox, sent)
            service.send_signal(signal.SIGKILL)
            service.wait()
        sandbox.faults.clear()
        with process(sandbox, tmp_path) as (_, url):
            for shot in shots:
                check_unknown(httpx.get(f"{url}/results/{shot['request_id']}", trust_env=False))
            assert paid_calls(sandbox) == sent
            check_costs(httpx.get(f"{url}/costs", trust_env=False).json(), sandbox)
            after = shoot(url, deadline_s=20)
    assert [each.get("reason", each["status"]) for each in after["results"]] == [
        "budget",
        *["succeeded"] * 3,
    ]
    lines = [json.loads(line) for line in file_lines(tmp_path)]
    assert len({line["task_id"] for line in lines[: 3 * SHOTS]}) == 3 * SHOTS
    assert [line["cost_usd"] for line in lines[: 3 * SHOTS]] == [None] * 3 * SHOTS


def file_lines(temp_dir: Path) -> list[str]:
    return (temp_dir / "data" / "costs.jsonl").read_text().splitlines()


def check_unknown(response: httpx.Response) -> None:
    record = response.raise_for_status().json()
    assert record["status"] == "complete"
    for entry in record["results"][:3]:
        assert entry["error"]["code"] == "provider_outcome_unknown"
        assert entry["error"]["retryable"] is False


def check_costs(told: dict[str, Any], sandbox: Sandbox) -> None:
    """Every task that left is listed once, and holds its price of the day's budget."""
    unsettled = told["unsettled"]
    assert unsettled["count"] == len(unsettled["tasks"]) == 3 * SHOTS
    by_model = Counter(task["model"] for task in unsettled["tasks"])
    assert by_model == dict.fromkeys(PAID, SHOTS)
    runware = {each["task_id"] for each in unsettled["tasks"] if each["model"] != PAID[2]}
    assert runware == {call.task_id for call in sandbox.journal.calls("removeBackground")}
    assert told["cost_usd"] == 0
    (budget,) = told["budgets"]
    assert budget["in_flight_usd"] == unsettled["may_cost_usd"] == float(SHOTS * Decimal("0.0236"))
    assert budget["left_usd"] == float(DAY - SHOTS * Decimal("0.0236"))
