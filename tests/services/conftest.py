"""The weights tests' shared ground: a loopback server of releases, and stores that ask it."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from models.errors import RemoverUnavailable
from services.weight_sources import ReleaseFile, Source
from services.weights import WeightFile, WeightsStore

CONTENT = bytes(range(256)) * 4096  # 1 MiB
CUT_AT = 300_000
WAIT_S = 20
NOBODY = "http://127.0.0.1:9/nobody.onnx"  # the discard port: nothing listens there


@dataclass(slots=True)
class Shelf:
    """What the loopback server does: one of `script` per request, then plain "serve".

    serve, whole (ignores Range), cut (ends the connection at CUT_AT), hold (sends CUT_AT bytes and
    waits for `release`), or a status such as 404.
    """

    content: bytes = CONTENT
    script: list[str] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    sent: int = 0
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    shelf: Shelf

    def do_GET(self) -> None:
        shelf = self.shelf
        behaviour = shelf.script.pop(0) if shelf.script else "serve"
        shelf.ranges.append(self.headers.get("Range"))
        if behaviour.isdecimal():
            self._head(int(behaviour), length=0)
        else:
            self._serve(behaviour, offset=0 if behaviour == "whole" else self._offset())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name upstream
        """Says nothing."""

    def _offset(self) -> int:
        asked = self.headers.get("Range")
        if asked is None:
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def _serve(self, behaviour: str, *, offset: int) -> None:
        whole = len(self.shelf.content)
        if offset >= whole:
            self._head(416, length=0, span=f"*/{whole}")
            return
        span = f"{offset}-{whole - 1}/{whole}" if offset else None
        self._head(206 if offset else 200, length=whole - offset, span=span)
        if behaviour in ("cut", "hold"):
            self._send(self.shelf.content[offset:CUT_AT])
            offset = CUT_AT
        if behaviour == "hold":
            self.shelf.release.wait(WAIT_S)
        if behaviour != "cut":
            self._send(self.shelf.content[offset:])

    def _send(self, piece: bytes) -> None:
        try:
            self.wfile.write(piece)
            self.wfile.flush()
        except OSError:
            return
        self.shelf.sent += len(piece)

    def _head(self, status: int, *, length: int, span: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if span is not None:
            self.send_header("Content-Range", f"bytes {span}")
        self.end_headers()


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    handler = type("ShelfHandler", (Handler,), {"shelf": shelf})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        shelf.url = f"http://127.0.0.1:{server.server_port}/net.onnx"
        yield shelf
        shelf.release.set()
        server.shutdown()
        thread.join(WAIT_S)


def release(url: str, *, content: bytes = CONTENT, size_bytes: int | None = None) -> ReleaseFile:
    digest = hashlib.sha256(content).hexdigest()
    return ReleaseFile(url=url, sha256=digest, licence="of the release", size_bytes=size_bytes)


def store_of(directory: Path, *sources: Source, fetch_timeout_s: float = 60) -> WeightsStore:
    return WeightsStore(
        directory, files=[WeightFile("net", sources)], fetch_timeout_s=fetch_timeout_s
    )


def leftovers(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*") if path.is_file()} - {"net.lock"}


async def failure_of(store: WeightsStore) -> str:
    with pytest.raises(RemoverUnavailable) as caught:
        await store.ensure("net")
    return caught.value.reason
