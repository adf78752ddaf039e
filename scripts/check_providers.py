"""Asks the real providers, with real keys, what only they can tell.

Run `python -m scripts.check_providers`.
It spends about three cents: one tiny picture through each paid model. It prints the balance, the
measured cost and latency, and what was found on the open questions of docs/PROVIDERS.md. Keys and
addresses come from the service's settings. Tests never run it against a real provider.
"""

import argparse
import asyncio
import base64
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect

from config import ProviderSettings, SettingsError, load_settings
from models.errors import ServiceError
from utils.containers import read_header
from utils.image_utils import read_pixels
from utils.pictures import PictureError
from utils.png import encode_png

_SIDE = 320
_WAIT_S = 90
_POLL_S = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    question: str
    answer: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--yes", action="store_true", help="spend the money without asking")
    try:
        settings = load_settings().providers
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    if not parser.parse_args().yes and input("This spends about $0.03. Go on? [y/N] ") != "y":
        return 2
    findings = asyncio.run(check(settings))
    for each in findings:
        print(f"{each.question}: {each.answer}")
    return int(any(each.answer.startswith("FAILED") for each in findings) or not findings)


async def check(settings: ProviderSettings) -> list[Finding]:
    """What each provider whose key is set says; a failure is a finding too."""
    findings: list[Finding] = []
    if settings.runware_api_key is None:
        findings.append(Finding("Runware", "skipped, RUNWARE_API_KEY is not set"))
    else:
        findings += await _guarded("Runware", lambda: _runware(settings))
    if settings.kie_api_key is None:
        findings.append(Finding("Kie.ai", "skipped, KIE_API_KEY is not set"))
    else:
        findings += await _guarded("Kie.ai", lambda: _kie(settings))
    return findings


async def _guarded(name: str, ask: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    try:
        async with asyncio.timeout(4 * _WAIT_S):
            return await ask()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what we came to learn
        return [Finding(name, f"FAILED {type(error).__name__}: {error}")]


async def _runware(settings: ProviderSettings) -> list[Finding]:
    async with connect(settings.runware_url, max_size=1 << 25, proxy=None) as socket:
        key = _plain(settings.runware_api_key)
        early = await _ask(socket, {"taskType": "accountManagement", **_task("getDetails")})
        await _ask(socket, {"taskType": "authentication", "apiKey": key})
        account = await _ask(socket, {"taskType": "accountManagement", **_task("getDetails")})
        findings = [
            Finding("Runware, a task before authentication", _said(early)),
            Finding("Runware, account", _said(account)),
        ]
        for air in (settings.runware_rmbg_model, settings.runware_portrait_model):
            findings += await _runware_model(socket, air, output={"outputFormat": "PNG"})
        findings += await _runware_model(socket, settings.runware_portrait_model, output={})
        unknown = await _ask(socket, _removal("runware:0@0", {}))
        return [*findings, Finding("Runware, an unknown model", _said(unknown))]


async def _runware_model(
    socket: ClientConnection, air: str, *, output: dict[str, str]
) -> list[Finding]:
    begun = time.monotonic()
    reply = await _ask(socket, _removal(air, output))
    seconds = time.monotonic() - begun
    item = (reply.get("data") or [{}])[0]
    url = item.get("imageURL") or item.get("mediaURL")
    name = f"Runware {air}, {output.get('outputFormat', 'no outputFormat given')}"
    if url is None:
        return [Finding(name, f"FAILED {_said(reply)}")]
    found = await _result(url)
    cost = item.get("cost")
    return [Finding(name, f"{seconds:.1f} s, cost {cost}, taskType {item['taskType']}, {found}")]


async def _ask(socket: ClientConnection, task: dict[str, Any]) -> dict[str, Any]:
    """The first reply that is more than an acknowledgement."""
    await socket.send(json.dumps([task]))
    async with asyncio.timeout(_WAIT_S):
        while True:
            frame: dict[str, Any] = json.loads(await socket.recv())
            if frame.get("errors") or frame.get("error") or frame.get("data"):
                return frame


async def _kie(settings: ProviderSettings) -> list[Finding]:
    headers = {
        "Authorization": f"Bearer {_plain(settings.kie_api_key)}",
        "User-Agent": settings.provider_user_agent,
    }
    async with httpx.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        credit = f"{settings.kie_api_url}/api/v1/chat/credit"
        plain = await http.get(credit, headers={"User-Agent": "python-httpx"})
        before = (await http.get(credit)).json()
        begun = time.monotonic()
        record = await _kie_task(http, settings)
        seconds = time.monotonic() - begun
        after = (await http.get(credit)).json()
        shown = {name: record.get(name) for name in ("state", "failCode", "creditsConsumed")}
        findings = [
            Finding("Kie.ai, httpx's own User-Agent", f"HTTP {plain.status_code}"),
            Finding("Kie.ai, credits", f"{before.get('data')} before, {after.get('data')} after"),
            Finding("Kie.ai, task", f"{seconds:.1f} s, {json.dumps(shown)}"),
        ]
        addresses = json.loads(record.get("resultJson") or "{}").get("resultUrls") or []
        for url in addresses[:1]:
            found = await _result(url, user_agent=settings.provider_user_agent)
            findings.append(Finding("Kie.ai, result", found))
        return findings


async def _kie_task(http: httpx.AsyncClient, settings: ProviderSettings) -> dict[str, Any]:
    """Upload, createTask once, poll to the end."""
    name = f"{uuid.uuid4()}.png"
    upload = await http.post(
        f"{settings.kie_upload_url}/api/file-stream-upload",
        files={"file": (name, _picture(), "image/png")},
        data={"uploadPath": "images/user-uploads", "fileName": name},
    )
    address = upload.json()["data"]["downloadUrl"]
    created = await http.post(
        f"{settings.kie_api_url}/api/v1/jobs/createTask",
        json={"model": settings.kie_model, "input": {"image": address}},
    )
    task_id = created.json()["data"]["taskId"]
    for _ in range(_WAIT_S // _POLL_S):
        await asyncio.sleep(_POLL_S)
        answer = await http.get(
            f"{settings.kie_api_url}/api/v1/jobs/recordInfo", params={"taskId": task_id}
        )
        record: dict[str, Any] = answer.json().get("data") or {}
        if record.get("state") in {"success", "fail"}:
            return record
    raise TimeoutError(f"task {task_id} did not finish")


async def _result(url: str, *, user_agent: str = "Mozilla/5.0") -> str:
    """Host, format, size and alpha of a result."""
    async with httpx.AsyncClient(
        headers={"User-Agent": user_agent}, timeout=60, trust_env=False
    ) as http:
        answer = await http.get(url)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result"
        path.write_bytes(answer.content)
        try:
            header = read_header(path)
            _, alpha = read_pixels(path, header=header)
        except (PictureError, ServiceError) as error:
            return f"FAILED from {httpx.URL(url).host}: {error}"
    transparency = "with transparency" if alpha is not None else "WITHOUT transparency"
    return (
        f"{header.format} {header.width}x{header.height} {transparency} from {httpx.URL(url).host}"
    )


def _removal(air: str, output: dict[str, str]) -> dict[str, Any]:
    encoded = base64.b64encode(_picture()).decode("ascii")
    return {
        "taskType": "removeBackground",
        "taskUUID": str(uuid.uuid4()),
        "model": air,
        "inputs": {"image": f"data:image/png;base64,{encoded}"},
        "outputType": "URL",
        "includeCost": True,
        "deliveryMethod": "sync",
        **output,
    }


def _task(operation: str) -> dict[str, str]:
    return {"taskUUID": str(uuid.uuid4()), "operation": operation}


def _said(frame: dict[str, Any]) -> str:
    """Errors by code, data by keys and numbers; never a key or a name."""
    errors = frame.get("errors") or frame.get("error") or []
    if errors:
        listed = errors if isinstance(errors, list) else [errors]
        return ", ".join(str(each.get("code")) for each in listed)
    item = (frame.get("data") or [{}])[0]
    return json.dumps({name: value for name, value in item.items() if name in _SHOWN})


_SHOWN = {"taskType", "balance", "credits", "status"}


def _plain(key: SecretStr | None) -> str:
    return key.get_secret_value() if key else ""


def _picture() -> bytes:
    """A red disc on a soft grey ramp: something to cut out, made here."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    ramp = (160 + rows * 60 // _SIDE).astype(np.uint8)
    pixels = np.repeat(ramp[..., None], 3, axis=2)
    pixels[(rows - _SIDE / 2) ** 2 + (columns - _SIDE / 2) ** 2 < (_SIDE / 3) ** 2] = (200, 30, 40)
    return encode_png(pixels)


if __name__ == "__main__":
    sys.exit(main())
