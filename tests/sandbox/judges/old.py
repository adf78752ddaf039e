"""Drives runware 0.5.24 through one removal and prints what came of it as a line of JSON.

Runs in a virtual environment of its own; the arguments are one JSON object.
"""

import asyncio
import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

from runware import IImageBackgroundRemoval, Runware


async def main(wanted: dict[str, Any]) -> None:
    start = time.monotonic()
    try:
        items = await asyncio.wait_for(remove(wanted), wanted.get("patience_s", 60))
    except Exception as error:  # noqa: BLE001  # whatever it raises is the finding
        said = {"code": getattr(error, "code", None), "message": str(error)}
        outcome = {"outcome": type(error).__name__, **said}
    else:
        outcome = {"outcome": "ok", "result": [shortened(vars(item)) for item in items]}
    outcome["seconds"] = round(time.monotonic() - start, 2)
    sys.stdout.write(json.dumps(outcome) + "\n")


async def remove(wanted: dict[str, Any]) -> list[Any]:
    client = Runware(api_key=wanted["key"], url=wanted["ws_url"], timeout=15000)
    await client.connect()
    content = base64.b64encode(Path(wanted["picture"]).read_bytes()).decode()
    try:
        found = await client.imageBackgroundRemoval(
            IImageBackgroundRemoval(
                inputImage=f"data:image/png;base64,{content}",
                model="runware:112@10",
                outputFormat="PNG",
                includeCost=True,
                **wanted.get("fields", {}),
            )
        )
    finally:
        await client.disconnect()
    return list(found)


def shortened(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value[:100] if isinstance(value, str) else value for key, value in item.items()}


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
