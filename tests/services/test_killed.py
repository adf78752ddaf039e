"""After kill -9 a paid task that may have been charged is `provider_outcome_unknown`, for ever."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep

import httpx

from sandbox.opening import Sandbox
from tests.conftest import ROOT, artwork
from tests.sandbox_thread import running_sandbox


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
        sleep(0.05)
    raise AssertionError("the service did not start")


def paid_calls(sandbox: Sandbox) -> dict[str, int]:
    return {
        operation: len(list(sandbox.journal.calls(operation)))
        for operation in ("removeBackground", "createTask")
    }


def test_a_killed_shot_is_never_sent_again(tmp_path: Path) -> None:
    with running_sandbox() as sandbox:
        sandbox.faults.set("runware.late,kie.stuck")
        with process(sandbox, tmp_path) as (service, url):
            shot = httpx.post(
                f"{url}/remove-background",
                files={"image": artwork(width=300, height=260)},
                data={"deadline_s": "3"},
                timeout=30,
                trust_env=False,
            ).json()
            assert [each["status"] for each in shot["results"][:3]] == ["pending"] * 3
            service.send_signal(signal.SIGKILL)
            service.wait()
        asked = paid_calls(sandbox)
        with process(sandbox, tmp_path) as (_, url):
            record = httpx.get(f"{url}/results/{shot['request_id']}", trust_env=False).json()
        assert record["status"] == "complete"
        for entry in record["results"][:3]:
            assert entry["error"]["code"] == "provider_outcome_unknown"
            assert entry["error"]["retryable"] is False
        assert paid_calls(sandbox) == asked == {"removeBackground": 2, "createTask": 1}
    lines = (tmp_path / "data" / "costs.jsonl").read_text().splitlines()
    assert [json.loads(line)["cost_usd"] for line in lines] == [None, None, None]
