"""A proxy on loopback that misbehaves as told: one fault a connection, then it is honest."""

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import urlsplit

_HTML = b"<html><h1>504 Gateway Time-out</h1></html>"
_GATEWAY = (
    b"HTTP/1.1 504 Gateway Time-out\r\nContent-Type: text/html\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_HTML), _HTML)
)
_BUSY = (
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


class Fault(Enum):
    """What becomes of one connection."""

    LOSE_ANSWER = auto()  # the request goes through, its answer is read and thrown away
    STALL = auto()  # the same, and the client hears nothing until it gives up
    GATEWAY = auto()  # the same, and the client is given a page of HTML with 504
    BUSY = auto()  # 429 in place of the service
    REFUSE = auto()  # closed before anything is read
    CUT = auto()  # the answer is cut behind `mark`, or where there is none before its last byte


@dataclass(slots=True)
class Proxy:
    """`faults` are used up one a connection; `seen` holds each request's head."""

    upstream: tuple[str, int]
    url: str
    faults: queue.SimpleQueue[Fault] = field(default_factory=queue.SimpleQueue)
    seen: list[bytes] = field(default_factory=list)
    mark: bytes = b""
    closing: threading.Event = field(default_factory=threading.Event)

    def keys(self) -> list[bytes]:
        """The Idempotency-Key of each request that had one."""
        lines = (line for head in self.seen for line in head.split(b"\r\n"))
        return [
            line.split(b": ")[1] for line in lines if line.lower().startswith(b"idempotency-key")
        ]

    def serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            fault = None if self.faults.empty() else self.faults.get()
            if fault is Fault.REFUSE:
                return
            request = _whole_request(client)
            self.seen.append(request.partition(b"\r\n\r\n")[0])
            if fault is Fault.BUSY:
                client.sendall(_BUSY)
                return
            with socket.create_connection(self.upstream) as upstream:
                upstream.sendall(request)
                self._answer(client, upstream, fault)

    def _answer(self, client: socket.socket, upstream: socket.socket, fault: Fault | None) -> None:
        if fault is None:
            while chunk := upstream.recv(65536):
                client.sendall(chunk)
        elif fault is Fault.CUT:
            self._cut(client, upstream)
        else:
            while upstream.recv(65536):
                pass
            if fault is Fault.GATEWAY:
                client.sendall(_GATEWAY)
            elif fault is Fault.STALL:
                client.settimeout(0.05)
                while not self.closing.is_set():
                    with suppress(TimeoutError):
                        if not client.recv(1):
                            return

    def _cut(self, client: socket.socket, upstream: socket.socket) -> None:
        """Passes on up to the mark; without one, all but the last byte."""
        kept, sent = b"", 0
        while chunk := upstream.recv(65536):
            kept += chunk
            if self.mark and self.mark in kept:
                client.sendall(kept[sent : kept.index(self.mark) + len(self.mark)])
                return
            end = len(kept) if self.mark else len(kept) - 1
            client.sendall(kept[sent:end])
            sent = end


def _whole_request(client: socket.socket) -> bytes:
    """One request, told to be the connection's last."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(client)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    lengths = [int(x.split(b":")[1]) for x in lines if x.lower().startswith(b"content-length")]
    while len(body) < sum(lengths):
        body += _received(client)
    kept = [line for line in lines if not line.lower().startswith(b"connection")]
    return b"\r\n".join([*kept, b"Connection: close"]) + b"\r\n\r\n" + body


def _received(client: socket.socket) -> bytes:
    chunk = client.recv(65536)
    if not chunk:
        raise OSError("the client left")
    return chunk


@contextmanager
def proxying(service_url: str) -> Iterator[Proxy]:
    """The proxy before the service at that address."""
    place = urlsplit(service_url)
    assert place.hostname
    assert place.port
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy((place.hostname, place.port), f"http://127.0.0.1:{listener.getsockname()[1]}")
    threads: list[threading.Thread] = []

    def accept() -> None:
        with suppress(OSError):
            while not proxy.closing.is_set():
                client, _ = listener.accept()
                threads.append(threading.Thread(target=proxy.serve, args=(client,)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (acceptor, *threads):
            thread.join(10)
