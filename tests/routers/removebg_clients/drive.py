"""Drives PyPI's removebg 0.04 through its three ways to send a picture, its one constant changed.

Runs in a virtual environment of its own: `drive.py HOST KEY PICTURE PICTURE_URL FOLDER`. Prints a
line of JSON: what each call wrote, or which error it raised.
"""

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path

from removebg import RemoveBg, removebg
from requests import HTTPError


def main(host: str, key: str, picture: str, url: str, folder: str) -> None:
    removebg.API_ENDPOINT = f"{host}/v1.0/removebg"
    client = RemoveBg(key, str(Path(folder, "errors.log")))
    encoded = base64.b64encode(Path(picture).read_bytes()).decode()
    target = Path(folder, "written.png")
    calls: dict[str, Callable[[], None]] = {
        "file": lambda: client.remove_background_from_img_file(picture, size="regular"),
        "url": lambda: client.remove_background_from_img_url(
            url, size="4k", new_file_name=str(target), bg_color="81d4fa"
        ),
        "base64": lambda: client.remove_background_from_base64_img(
            encoded, size="hd", new_file_name=str(target)
        ),
    }
    written = {"file": Path(f"{picture}_no_bg.png")}
    said = {name: _said(call, written.get(name, target)) for name, call in calls.items()}
    sys.stdout.write(json.dumps(said) + "\n")


def _said(call: Callable[[], None], target: Path) -> str:
    try:
        call()
    except HTTPError as error:
        return f"HTTPError {error.response.status_code}"  # type: ignore[union-attr]  # it has one
    return base64.b64encode(target.read_bytes()).decode()


if __name__ == "__main__":
    main(*sys.argv[1:])
