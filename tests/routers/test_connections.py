"""A connection that asks for nothing, or for too much, is let go; others do not notice."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from routers import connections
from routers.connections import GuardedConnection

ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
GONE = b""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the number of body bytes, or without reading, as the path says."""
    if scope["type"] != "http":
        return
    size, more = 0, scope["path"] != "/unread"
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    text = b"%d" % size if scope["path"] != "/long" else bytes(64 << 20)
    headers = [(b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


@contextmanager
def guarded() -> Iterator[int]:
    """The port of a server whose connections are guarded."""
    config = uvicorn.Config(
        app, http=GuardedConnection, lifespan="off", log_config=None, timeout_keep_alive=1
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(timeout=30)
    assert not thread.is_alive()


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as each:
        yield each


def until_closed(client: socket.socket) -> bytes:
    """All that comes; returns only when the server has closed the connection."""
    got = b""
    try:
        while piece := client.recv(1 << 16):
            got += piece
    except ConnectionResetError:
        pass
    return got


def answer(client: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        piece = client.recv(1 << 16)
        assert piece, "closed without an answer"
        got += piece
    return got


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    "sent", [b"", b"G", b"\r\n", ASK[:-2], b"GET / HTTP/1.1\r\nX: " + b"y" * 999]
)
def test_a_head_that_never_ends_is_not_waited_for(sent: bytes) -> None:
    with guarded() as port, connected(port) as client:
        client.sendall(sent)
        assert until_closed(client) == GONE


def test_what_is_asked_again_in_time_is_answered_on_the_same_connection() -> None:
    with guarded() as port, connected(port) as client:
        for _ in range(3):
            client.sendall(ASK[:9])
            client.sendall(ASK[9:])
            assert answer(client).startswith(b"HTTP/1.1 200")


@pytest.mark.usefixtures("hurried")
def test_after_an_answer_the_next_head_must_come_too() -> None:
    """One byte of a next request ends uvicorn's own waiting, for ever."""
    with guarded() as port, connected(port) as client:
        client.sendall(ASK)
        assert answer(client).startswith(b"HTTP/1.1 200")
        client.sendall(b"G")
        until_closed(client)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /?" + b"q" * 400_000,
        b"GET / HTTP/1.1\r\nX: " + b"y" * 400_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 70_000,
    ],
    ids=["address", "header", "headers"],
)
def test_a_head_without_end_is_refused(head: bytes) -> None:
    with guarded() as port, connected(port) as client:
        sender = threading.Thread(target=_send_what_is_taken, args=(client, head))
        sender.start()
        got = until_closed(client)
        sender.join()
    assert got == GONE or got.startswith(b"HTTP/1.1 431")


def test_trailers_without_end_are_refused() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
    with guarded() as port, connected(port) as client:
        sender = threading.Thread(
            target=_send_what_is_taken, args=(client, head + b"X: y\r\n" * 200_000)
        )
        sender.start()
        assert b"200 OK" not in until_closed(client)
        sender.join()


def test_a_long_head_within_the_limit_is_read() -> None:
    with guarded() as port, connected(port) as client:
        client.sendall(b"GET /?" + b"q" * 60_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer(client).startswith(b"HTTP/1.1 200")


def test_a_pipeline_without_end_is_cut() -> None:
    with guarded() as port, connected(port) as client:
        sender = threading.Thread(target=_send_what_is_taken, args=(client, ASK * 5_000))
        sender.start()
        got = until_closed(client)
        sender.join()
    assert got.count(b"HTTP/1.1 200") <= connections.MOST_PIPELINED + 1


def test_a_few_pipelined_requests_are_answered_in_order() -> None:
    with guarded() as port, connected(port) as client:
        bodies = (b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % n + bytes(n) for n in (3, 1))
        client.sendall(b"".join(bodies) + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        lines = until_closed(client).split(b"\r\n\r\n")
    assert [line[:1] for line in lines[1:]] == [b"3", b"1", b"0"]


@pytest.mark.usefixtures("hurried")
def test_a_body_that_goes_on_after_its_answer_is_cut() -> None:
    head = b"POST /unread HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with guarded() as port, connected(port) as client:
        client.sendall(head)
        assert answer(client).startswith(b"HTTP/1.1 200")
        client.settimeout(60)
        with pytest.raises(OSError, match=r"reset|Broken"):  # noqa: PT012  # until it is cut
            while True:
                client.sendall(b"1\r\nx\r\n")


def test_the_connection_that_waits_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    with guarded() as port, connected(port) as first, connected(port), connected(port):
        assert first.send(b"G") == 1
        with connected(port) as asking:
            asking.sendall(ASK)
            assert answer(asking).startswith(b"HTTP/1.1 200")
        assert until_closed(first) == GONE


def test_a_client_that_takes_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALL_S", 0.3)
    with guarded() as port, connected(port) as client:
        client.sendall(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.6)
        assert len(until_closed(client)) < 64 << 20


def _send_what_is_taken(client: socket.socket, data: bytes) -> None:
    try:
        client.sendall(data)
    except OSError:
        return
