"""Two public clients of remove.bg, as their registries have them, complete against our route.

Both have the host in one constant; that is changed, as a shop would, and nothing else. They live in
environments of their own (tests/homes.py); without a registry they are skipped.
"""

import base64
import io
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import Server, serving
from tests.homes import node_home, python_home
from tests.routers.test_removebg import ISNET, SCENE, SHOP, Reds, host

__all__ = ["host"]

HERE = Path(__file__).parent / "removebg_clients"


@pytest.fixture
def shop(tmp_path: Path, host: str) -> Iterator[Server]:  # pytest's way
    with serving(
        tmp_path / "temp",
        stand_ins={ISNET: Reds(ISNET)},
        removebg_models="local-isnet",
        image_url_allowed_hosts=host,
        api_keys=f"shop:{SHOP}",
    ) as server:
        yield server


def said_by(command: Sequence[str]) -> dict[str, Any]:
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def picture_in(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def test_the_python_client_completes(shop: Server, host: str, tmp_path: Path) -> None:
    python = python_home("removebg", HERE / "python.txt", from_source=["removebg"])
    picture = tmp_path / "scene.png"
    picture.write_bytes(SCENE)
    command = [str(python), str(HERE / "drive.py"), shop.url]
    sent = [str(picture), f"http://{host}/scene.png", str(tmp_path)]
    said = said_by([*command, SHOP, *sent])
    assert {name: picture_in(each).format for name, each in said.items()} == {
        "file": "PNG",
        "url": "JPEG",  # with a colour behind, nothing is transparent
        "base64": "PNG",
    }
    assert {picture_in(each).size for each in said.values()} == {(200, 100)}
    assert set(said_by([*command, "another-key-of-nobody", *sent]).values()) == {"HTTPError 403"}


def test_the_node_client_completes(shop: Server, host: str, tmp_path: Path) -> None:
    home = node_home("removebg-node", HERE / "package-lock.json")
    picture = tmp_path / "scene.png"
    picture.write_bytes(SCENE)
    command = ["node", str(HERE / "drive.js"), str(home), shop.url]
    said = said_by([*command, SHOP, str(picture), f"http://{host}/scene.png"])
    refused = said.pop("refused")["errors"]
    assert [each["code"] for each in refused] == ["invalid_size"]
    charged = {name: each["creditsCharged"] for name, each in said.items()}
    assert charged == {"file": "0.25", "options": "1", "url": "1", "base64": "0.25"}
    for name, each in said.items():
        size = (int(each["resultWidth"]), int(each["resultHeight"]))
        assert picture_in(each["base64img"]).size == size
        assert size == ((50, 60) if name == "options" else (200, 100))
        assert each["detectedType"] == "other"
        assert each["rateLimit"] == "600"
    wrong = said_by([*command, "another-key-of-nobody", str(picture), "http://a.example"])
    assert {each["errors"][0]["code"] for each in wrong.values()} == {"auth_failed"}
