"""A body that trickles is told so, and leaves nothing behind."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Server, artwork, problem, serving

HEAD = "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: 9000\r\n\r\n"
FORM = "multipart/form-data; boundary=b"
PART = '--b\r\nContent-Disposition: form-data; name="image"; filename="secret.png"\r\n\r\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("pacing")
    with serving(folder, upload_stall_s=0.3, upload_timeout_s=1.2) as running:
        yield running


@contextmanager
def sending(server: Server, head: str) -> Iterator[socket.socket]:
    port = server.client.base_url.port
    assert port is not None
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(head.encode())
        yield client


def until_closed(client: socket.socket) -> str:
    got = b""
    while piece := client.recv(1 << 16):
        got += piece
    return got.decode()


@pytest.mark.parametrize(
    ("path", "kind", "begun"),
    [
        ("/remove-background", FORM, ""),
        ("/remove-background", FORM, PART + "half a picture"),
        ("/remove-background", "application/json", '{"image_base64": "AAAA'),
        ("/remove-background", "application/x-www-form-urlencoded", "image_url="),
        ("/upscale", FORM, PART),
        ("/analyze", FORM, PART),
        ("/process", FORM, PART),
        ("/preferences", "application/json", "{"),
    ],
)
def test_a_silent_body_is_told_408_and_closed(
    server: Server, path: str, kind: str, begun: str
) -> None:
    with sending(server, HEAD.format(path=path, kind=kind) + begun) as client:
        said = until_closed(client)
    assert said.startswith("HTTP/1.1 408 ")
    assert "connection: close" in said.lower()
    assert '"code":"body_too_slow"' in said
    assert '"limit":0.3' in said
    assert "secret" not in said
    assert list((server.temp_dir / "uploads").iterdir()) == []


def test_remove_bgs_clients_are_told_so_in_its_shape(server: Server) -> None:
    with sending(server, HEAD.format(path="/v1.0/removebg", kind=FORM) + PART) as client:
        said = until_closed(client)
    assert said.startswith("HTTP/1.1 408 ")
    assert '"errors":[{"title":"Body too slow","code":"body_too_slow"' in said


def test_a_trickle_that_never_falls_silent_has_an_end(server: Server) -> None:
    client: socket.socket
    with sending(server, HEAD.format(path="/upscale", kind=FORM) + PART) as client:
        client.settimeout(0.1)
        said = b""
        for _ in range(100):
            try:
                client.sendall(b"x")
                said += client.recv(1 << 16)
            except TimeoutError:
                continue
            break
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"limit":1.2' in said


def test_it_is_counted_once_and_logged_without_a_name(server: Server) -> None:
    before = server.client.get("/errors").json()["seen"]
    with sending(server, HEAD.format(path="/upscale", kind=FORM) + PART) as client:
        until_closed(client)
    assert server.client.get("/errors").json()["seen"] == before + 1


def test_the_place_is_free_again(tmp_path: Path) -> None:
    with serving(tmp_path, upload_stall_s=0.2, max_concurrent_jobs=1, queue_limit=0) as small:
        for _ in range(3):
            with sending(small, HEAD.format(path="/analyze", kind=FORM) + PART) as client:
                assert "408" in until_closed(client).splitlines()[0]
        answer = small.client.post("/analyze", files={"image": artwork()}, data={"width_in": "3"})
    assert answer.status_code == 200


def test_an_announced_body_that_a_get_never_sends_holds_nobody(server: Server) -> None:
    with sending(server, "GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n") as client:
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_a_whole_body_is_not_hurried(server: Server) -> None:
    """Nothing is timed once the body is there: an answer may take as long as it takes."""
    answer = server.shoot(b"no picture", models="local-knockout")
    problem(answer, 415, "unsupported_media_type")
