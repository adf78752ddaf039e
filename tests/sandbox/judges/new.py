"""Drives runware-sdk 1.8.0 through one removal and prints what came of it as a line of JSON.

Runs in a virtual environment of its own; the arguments are one JSON object.
"""

import asyncio
import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

from runware import Runware, RunwareError


async def main(wanted: dict[str, Any]) -> None:
    start = time.monotonic()
    try:
        result = await remove(wanted)
    except RunwareError as error:
        said = {"code": str(error.code), "retryable": error.retryable, "message": str(error)}
        outcome = {"outcome": "RunwareError", **said}
    except Exception as error:  # noqa: BLE001  # whatever it raises is the finding
        outcome = {"outcome": type(error).__name__, "message": str(error)}
    else:
        outcome = {"outcome": "ok", "result": shortened(result)}
    outcome["seconds"] = round(time.monotonic() - start, 2)
    sys.stdout.write(json.dumps(outcome) + "\n")


async def remove(wanted: dict[str, Any]) -> list[Any]:
    async with Runware(
        api_key=wanted["key"],
        ws_base_url=wanted["ws_url"],
        http_base_url=wanted["rest_url"],
        transport=wanted.get("transport", "websocket"),
        timeout=15000,
        poll_timeout=15000,
        auth_timeout=3000,
        max_reconnect_attempts=3,
    ) as client:
        result = await client.run(task(wanted))
    return list(result) if isinstance(result, list) else [result]


def task(wanted: dict[str, Any]) -> dict[str, Any]:
    image = base64.b64encode(Path(wanted["picture"]).read_bytes()).decode()
    return {
        "taskType": "removeBackground",
        "model": "bria:2@1",
        "inputs": {"image": image},
        "outputFormat": "PNG",
        "includeCost": True,
        **wanted.get("fields", {}),
    }


def shortened(items: list[Any]) -> list[dict[str, Any]]:
    return [
        {key: value[:100] if isinstance(value, str) else value for key, value in dict(item).items()}
        for item in items
    ]


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
