"""The doctor's look outside: who may come in, who is paid, and what time it is there.

Providers are asked who we are and what is left; no task is sent, so nothing can be charged.
"""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from config import ProviderSettings, Settings
from models.errors import FailureCode
from scripts.findings import Finding, broken, skipped, warning, well
from services import runware_protocol as protocol
from services.runware_protocol import Authenticated, Refused

_WAIT_S = 15
_CLOCK_MAY_DIFFER_S = 30
_NO_MONEY = frozenset({402, 433})
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(slots=True)
class Clocks:
    """What others said the time was, against ours: seconds that we are ahead."""

    ahead_s: dict[str, float] = field(default_factory=dict)

    def note(self, whose: str, date: str | None) -> None:
        if date is not None:
            said = parsedate_to_datetime(date).timestamp()
            self.ahead_s[whose] = time.time() - said


def is_sandbox(key: SecretStr | None) -> bool:
    return key is not None and key.get_secret_value().startswith("sandbox")


def door(settings: Settings) -> Iterator[Finding]:
    """Whether keys are wanted, and where links lead."""
    providers, keys = settings.providers, settings.access.api_keys
    paid = [providers.runware_api_key, providers.kie_api_key]
    spends = any(key is not None and not is_sandbox(key) for key in paid)
    advice = "Set API_KEYS before others can reach the port."
    if keys:
        yield well("door", f"Closed: {len(keys)} API keys are known.")
    elif spends:
        yield broken("door", "Open, and whoever reaches the port spends your money.", advice)
    else:
        yield warning("door", "Open: whoever reaches the port is served.", advice)
    if spends and providers.daily_budget_usd is None:
        yield warning("budget", "A day may cost any amount.", "Set DAILY_BUDGET_USD.")
    yield _links(settings.storage.public_base_url)


def _links(base: str) -> Finding:
    if not base:
        return well("links", "Relative; PUBLIC_BASE_URL would make them whole.")
    parts = urlsplit(base)
    if parts.scheme == "http" and parts.hostname not in _LOCAL_HOSTS:
        return warning("links", f"They begin with {base}: read on the way.", "Use https.")
    return well("links", f"They begin with {base}.")


def service_beside() -> Iterator[Finding]:
    """What a service on this machine's own port says of itself, if there is one."""
    address = f"http://127.0.0.1:{os.environ.get('PORT') or 8000}"
    try:
        answer = httpx.get(f"{address}/ready", timeout=5, trust_env=False)
        told: dict[str, Any] = answer.json()
        problems = told["problems"]
    except httpx.TransportError:
        yield skipped("service", f"None answers at {address}.")
        return
    except (ValueError, KeyError, TypeError):
        yield skipped("service", f"What answers at {address}/ready is not this service.")
        return
    said = " ".join(f"{each['topic']}: {each['reason']}" for each in problems)
    if not told["ready"]:
        yield broken("service", f"It runs and is not ready. {said}", "docs/OPERATIONS.md")
    elif said:
        yield warning("service", f"It runs and is ready, but {said}", "docs/OPERATIONS.md")
    else:
        yield well("service", "It runs, is ready and has nothing to report.")


async def providers(settings: ProviderSettings, clocks: Clocks) -> list[Finding]:
    """Whether each provider whose key is set is there and takes the key."""
    from services.providers import find_places  # noqa: PLC0415  # a third of the service

    async with AsyncExitStack() as stack:
        places = await find_places(settings, stack)
        return [
            await _runware(places.runware, settings.runware_api_key, clocks),
            await _kie(places.kie_api, settings, clocks),
        ]


async def _runware(address: str, key: SecretStr | None, clocks: Clocks) -> Finding:
    if key is None:
        return skipped("Runware", "RUNWARE_API_KEY is not set: its two models are left out.")
    host = urlsplit(address).hostname
    try:
        async with connect(address, open_timeout=_WAIT_S, close_timeout=1, proxy=None) as socket:
            if socket.response is not None:
                clocks.note("Runware", socket.response.headers.get("Date"))
            refused = await _authenticate(socket, key.get_secret_value())
            if refused is not None:
                return _refusal("Runware", "RUNWARE_API_KEY", refused)
            balance = await _balance(socket)
    except (OSError, WebSocketException, TimeoutError) as error:
        return _unreachable("Runware", host, error)
    return _accepted("Runware", balance, sandbox=is_sandbox(key))


async def _authenticate(socket: ClientConnection, key: str) -> FailureCode | None:
    """None when the key is taken. Raises TimeoutError where nothing is said."""
    await socket.send(protocol.authentication(key, None))
    deadline = time.monotonic() + _WAIT_S
    while True:
        for reply in protocol.read_frame(await _frame(socket, deadline)):
            if isinstance(reply, Authenticated):
                return None
            if isinstance(reply, Refused):
                return protocol.failure_of(reply.code)[0]


async def _balance(socket: ClientConnection) -> str | None:
    """What the account has left, where it is told."""
    asked = {
        "taskType": "accountManagement",
        "taskUUID": "00000000-0000-4000-8000-000000000000",
        "operation": "getDetails",
    }
    await socket.send(json.dumps([asked]))
    try:
        frame = json.loads(await _frame(socket, time.monotonic() + _WAIT_S))
        return str(frame["data"][0]["balance"])
    except (KeyError, IndexError, TypeError, ValueError, TimeoutError):
        return None


async def _frame(socket: ClientConnection, deadline: float) -> str | bytes:
    async with asyncio.timeout(max(0, deadline - time.monotonic())):
        return await socket.recv()


async def _kie(address: str, settings: ProviderSettings, clocks: Clocks) -> Finding:
    key = settings.kie_api_key
    if key is None:
        return skipped("Kie.ai", "KIE_API_KEY is not set: its model is left out.")
    headers = {
        "Authorization": f"Bearer {key.get_secret_value()}",
        "User-Agent": settings.provider_user_agent,
    }
    try:
        async with httpx.AsyncClient(headers=headers, timeout=_WAIT_S, trust_env=False) as http:
            answer = await http.get(f"{address.rstrip('/')}/api/v1/chat/credit")
    except httpx.HTTPError as error:
        return _unreachable("Kie.ai", urlsplit(address).hostname, error)
    clocks.note("Kie.ai", answer.headers.get("Date"))
    return _of_kie(answer, sandbox=is_sandbox(key))


def _of_kie(answer: httpx.Response, *, sandbox: bool) -> Finding:
    """The HTTP status and the `code` in the body: either may hold the truth."""
    try:
        body = answer.json()
        code = int(body["code"])
    except (ValueError, KeyError, TypeError):
        body, code = {}, answer.status_code
    code = answer.status_code if answer.is_error else code
    if code in {401, 403}:
        return _refusal("Kie.ai", "KIE_API_KEY", FailureCode.PROVIDER_REFUSED)
    if code in _NO_MONEY:
        return _refusal("Kie.ai", "KIE_API_KEY", FailureCode.PROVIDER_QUOTA)
    if code != httpx.codes.OK:
        advice = "Wait, or look at Kie.ai's status page; the service tries again by itself."
        return warning("Kie.ai", f"It answers {code} when asked for the credit.", advice)
    return _accepted("Kie.ai", f"{body.get('data')} credits", sandbox=sandbox)


def _accepted(name: str, balance: str | None, *, sandbox: bool) -> Finding:
    who = "A look-alike on this machine takes" if sandbox else "It takes"
    left = f"; left: {balance}" if balance else ""
    return well(name, f"{who} the key{left}. Nothing was spent.")


def _refusal(name: str, setting: str, code: FailureCode) -> Finding:
    if code is FailureCode.PROVIDER_QUOTA:
        return broken(name, "It knows the key, and there is no credit left.", f"Top {name} up.")
    return broken(name, f"It refuses the key ({code}).", f"Correct {setting}, or leave it empty.")


def _unreachable(name: str, host: str | None, error: Exception) -> Finding:
    return broken(
        name,
        f"{host} cannot be reached ({type(error).__name__}).",
        "Is there a way out of this network, and is the address in the settings right?",
    )


def clock(clocks: Clocks) -> Iterator[Finding]:
    """Ours against the providers'; sessions, links, webhooks and the day's budget go by it."""
    built = (Path(__file__).parent.parent / "config.py").stat().st_mtime
    if time.time() < built:
        yield broken("clock", f"It is {_now()}, before this code was made.", "Set the clock.")
        return
    if not clocks.ahead_s:
        yield skipped("clock", f"It is {_now()}; no provider was asked to compare with.")
        return
    whose, ahead = max(clocks.ahead_s.items(), key=lambda each: abs(each[1]))
    if abs(ahead) > _CLOCK_MAY_DIFFER_S:
        yield broken(
            "clock",
            f"It is {_now()}, {ahead:+.0f} s from what {whose} says.",
            "Set it by NTP (on Akash: the provider's node; take another one).",
        )
    else:
        yield well("clock", f"It is {_now()}, within {abs(ahead):.0f} s of what {whose} says.")


def _now() -> str:
    return f"{datetime.now(tz=UTC):%Y-%m-%d %H:%M:%S} UTC"
