"""A shop's server on loopback, for webhooks: it keeps what is posted and answers as told."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WAIT_S = 20


@dataclass(frozen=True, slots=True)
class Delivery:
    """One POST as it came in; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Receiver:
    """Answers with `statuses` in turn, then 204; with `held`, only when it is set."""

    statuses: list[int]
    port: int = 0
    arrived: queue.Queue[Delivery] = field(default_factory=queue.Queue)
    held: threading.Event | None = None
    endless: bool = False

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.place}/done?shop=7"

    def next(self) -> Delivery:
        return self.arrived.get(timeout=WAIT_S)


@contextmanager
def receiving(*statuses: int, endless: bool = False, held: bool = False) -> Iterator[Receiver]:
    receiver = Receiver(list(statuses), endless=endless, held=threading.Event() if held else None)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.arrived.put(Delivery(self.path, headers, body))
            if receiver.held is not None:
                receiver.held.wait(WAIT_S)
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
            self.send_header("Location", f"http://{receiver.place}/elsewhere")
            self.end_headers()
            self._pour()

        def _pour(self) -> None:
            """A body that ends only when nobody listens any more."""
            try:
                while receiver.endless:
                    self.wfile.write(bytes(65536))
            except OSError:
                return

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        if receiver.held is not None:
            receiver.held.set()
        server.shutdown()
        thread.join()
        server.server_close()
