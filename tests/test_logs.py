"""The log: one JSON object a line, with the request's id, and nothing that is the customer's."""

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.conftest import ROOT, artwork
from tests.ports import unused_port

SECRETS = ("s3cret-runware", "s3cret-kie", "grandma-birthday", "token=s3cret-url")


def test_a_log_has_the_facts_and_none_of_the_secrets(tmp_path: Path) -> None:
    port = unused_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)],
        cwd=ROOT,
        env={
            **os.environ,
            "TEMP_DIR": str(tmp_path),
            "RUNWARE_API_KEY": SECRETS[0],
            "KIE_API_KEY": SECRETS[1],
            "WEIGHTS_DOWNLOAD": "false",
            "LOG_LEVEL": "DEBUG",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    picture = artwork()
    encoded = base64.b64encode(picture).decode()
    transport = httpx.HTTPTransport(retries=40)
    with httpx.Client(
        transport=transport, base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60
    ) as client:
        client.post(
            "/remove-background",
            files={"image": (f"{SECRETS[2]}.png", picture)},
            data={"models": "local-knockout"},
            headers={"X-Request-ID": "order-4711", "Authorization": "Bearer s3cret-kie"},
        ).raise_for_status()
        client.post("/remove-background", json={"image_base64": encoded, "models": "kie-recraft"})
        client.post("/remove-background", json={"image_url": f"http://127.0.0.1/?{SECRETS[3]}"})
        client.post(f"/remove-background?image_url=http://10.0.0.1/?{SECRETS[3]}")
    server.send_signal(signal.SIGTERM)
    output = server.communicate(timeout=30)[0].decode()
    for secret in (*SECRETS, encoded[:40]):
        assert secret not in output
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    shot = [each for each in events if each.get("request_id") == "order-4711"]
    outcome = next(each for each in shot if each["event"] == "outcome")
    request = next(each for each in shot if each["event"] == "request")
    assert outcome["model"] == "local-knockout"
    assert outcome["outcome"] == "succeeded"
    assert outcome["ms"] >= 0
    assert request["status"] == 200
    assert request["route"] == "/remove-background"
