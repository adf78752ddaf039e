"""What every test shares: the real application behind a real uvicorn, and the test pictures."""

import io
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from config import GROUPS, Settings
from main import create_app
from models.schemas import ModelId
from services.remover import BackgroundRemover
from tests import leaks
from tests.leaks import pytest_runtest_makereport  # noqa: F401  # a hook of every test

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own keys and settings must not reach the tests."""
    for group in GROUPS.values():
        for name in group.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def make_settings(temp_dir: Path, **overrides: object) -> Settings:
    """Settings for a test: given by field name, nothing read from any file."""
    chosen: dict[str, Any] = {"temp_dir": temp_dir, "weights_download": False, **overrides}
    groups = {
        name: group(
            _env_file=None, **{key: chosen.pop(key) for key in group.model_fields if key in chosen}
        )
        for name, group in GROUPS.items()
    }
    assert not chosen, f"no such settings: {sorted(chosen)}"
    settings = Settings.model_validate(groups)
    leaks.remember(settings, overrides.get("api_keys"))
    return settings


@dataclass(frozen=True)
class Server:
    """A running service; `client` talks to it over a real socket."""

    client: httpx.Client
    temp_dir: Path

    @property
    def url(self) -> str:
        return str(self.client.base_url).rstrip("/")

    def shoot(self, picture: bytes, **parameters: str) -> httpx.Response:
        return self.client.post(
            "/remove-background", files={"image": ("customer.png", picture)}, data=parameters
        )


@contextmanager
def serving(
    temp_dir: Path,
    *,
    stand_ins: Mapping[ModelId, BackgroundRemover] | None = None,
    **overrides: object,
) -> Iterator[Server]:
    """The application behind uvicorn on a free loopback port."""
    app = create_app(make_settings(temp_dir, **overrides), stand_ins=stand_ins)
    with (
        _running(app) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client,
    ):
        yield Server(client, temp_dir)


@contextmanager
def _running(app: FastAPI) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        port: int = listener.getsockname()[1]
        _wait_until_alive(port)
        yield port
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"


def _wait_until_alive(port: int) -> None:
    transport = httpx.HTTPTransport(retries=20)
    with httpx.Client(transport=transport, trust_env=False, timeout=30) as client:
        client.get(f"http://127.0.0.1:{port}/health").raise_for_status()


def problem(response: httpx.Response, status: int, code: str) -> dict[str, object]:
    """The problem in `response`, checked for the shape every error has."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = response.json()
    assert body["code"] == code
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    assert isinstance(body["retryable"], bool)
    assert body["detail"]
    return body


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def artwork(*, width: int = 64, height: int = 48) -> bytes:
    """A red disc on white, as PNG."""
    rows, columns = np.mgrid[:height, :width]
    inside = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (height / 3) ** 2
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[inside] = (200, 20, 30)
    return png_bytes(pixels)
