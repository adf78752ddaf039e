"""A customer's image_url reaches public web servers only, and leaves a whole file or none."""

import asyncio
import contextlib
import gzip
import logging
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest

from models.errors import FileTooLarge, ImageDownloadFailed, ImageUrlRefused, ServiceError
from services import fetcher
from services.fetcher import Fetcher, is_public

pytestmark = pytest.mark.anyio

PUBLIC = "93.184.215.14"
PICTURE = bytes(range(256)) * 999


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Names:
    """A resolver that knows what it is told, one answer a call, and counts its calls."""

    answers: list[list[str]]
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        if not self.answers:
            raise OSError("no such host")
        return self.answers.pop(0)


Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Origin:
    """A web server on loopback; `heads` are the requests it got."""

    port: int
    heads: list[bytes]

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str = "/picture") -> str:
        return f"http://{self.place}{path}"

    def fetcher(self, **changes: object) -> Fetcher:
        usual = Fetcher(max_bytes=1 << 20, timeout_s=5, allowed_hosts=frozenset({self.place}))
        return replace(usual, **changes)  # type: ignore[arg-type]  # any field of Fetcher


@contextlib.asynccontextmanager
async def origin(
    *replies: bytes | Reply, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Origin]:
    """A server that gives each request the next reply (the last one again and again)."""
    heads: list[bytes] = []
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                await give(replies[min(len(heads), len(replies)) - 1], writer)
            finally:
                writer.close()
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield Origin(server.sockets[0].getsockname()[1], heads)
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def give(answer: bytes | Reply, writer: asyncio.StreamWriter) -> None:
    if isinstance(answer, bytes):
        writer.write(answer)
        await writer.drain()
    else:
        await answer(writer)


def reply(body: bytes = PICTURE, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def redirect(to: str, status: str = "302 Found") -> bytes:
    return reply(b"", f"Location: {to}", status=status)


async def refused(fetch: Fetcher, url: str, into: Path, kind: type[ServiceError]) -> ServiceError:
    with pytest.raises(kind) as caught:
        await fetch.fetch(url, into=into)
    assert list_of(into.parent) == []
    return caught.value


def list_of(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def public_only(*addresses: str) -> Fetcher:
    return Fetcher(max_bytes=100, timeout_s=5, resolver=Names([list(addresses)]))


async def test_the_body_is_written(tmp_path: Path) -> None:
    async with origin(reply()) as server:
        await server.fetcher().fetch(server.url("/a?size=9#part"), into=tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == PICTURE
    head = server.heads[0].lower()
    assert head.startswith(b"get /a?size=9 http/1.1\r\n")
    assert f"\r\nhost: {server.place}\r\n".encode() in head
    assert b"\r\naccept: image/*\r\n" in head
    assert b"\r\naccept-encoding: identity\r\n" in head
    assert b"cookie" not in head
    assert b"authorization" not in head


@pytest.mark.parametrize(
    "url",
    [
        "ftp://pictures.test/x.png",
        "file:///etc/passwd",
        "gopher://pictures.test/",
        "data:image/png;base64,AAAA",
        "//pictures.test/x.png",
        "pictures.test/x.png",
        "http://user:word@pictures.test/x.png",
        "http://user@pictures.test/x.png",
        "http://:word@pictures.test/x.png",
        "http:///x.png",
        "http://",
        "",
        "http://pictures.test:8080/x.png",
        "http://pictures.test:22/",
        "http://pictures.test:0/",
        "http://pictures.test:99999/",
        "http://pictures.test:x/",
        "http://[::1/x.png",
        "http://pictures.test/\x00",
        "http://pictures.test/" + "x" * 5000,
    ],
)
async def test_a_url_is_judged_by_its_spelling(tmp_path: Path, url: str) -> None:
    names = Names([[PUBLIC]])
    fetch = Fetcher(max_bytes=100, timeout_s=5, resolver=names)
    await refused(fetch, url, tmp_path / "x", ImageUrlRefused)
    assert names.asked == []


CLOSED = {
    "loopback": "127.0.0.1",
    "loopback elsewhere": "127.9.9.9",
    "private 10": "10.1.2.3",
    "private 172": "172.16.0.1",
    "private 192": "192.168.1.1",
    "link local": "169.254.169.254",
    "carrier-grade nat": "100.64.0.1",
    "carrier-grade nat, last": "100.127.255.255",
    "multicast": "224.0.0.1",
    "multicast, global": "233.252.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "unspecified": "0.0.0.0",  # noqa: S104 - judged, not bound
    "this network": "0.1.2.3",
    "protocol assignments": "192.0.0.9",
    "6to4 relay": "192.88.99.1",
    "benchmarking": "198.18.0.1",
    "documentation": "203.0.113.5",
    "v6 loopback": "::1",
    "v6 unspecified": "::",
    "v6 link local": "fe80::1",
    "v6 link local, scoped": "fe80::1%eth0",
    "v6 global, scoped": "2606:4700::1%eth0",
    "v6 unique local": "fd00::1",
    "v6 site local": "fec0::1",
    "v6 multicast": "ff0e::1",
    "v6 documentation": "2001:db8::1",
    "v6 documentation, new": "3fff::1",
    "v4 mapped": "::ffff:127.0.0.1",
    "v4 mapped, public": "::ffff:8.8.8.8",
    "v4 compatible": "::127.0.0.1",
    "v4 translated": "::ffff:0:127.0.0.1",
    "6to4": "2002:7f00:1::",
    "nat64": "64:ff9b::7f00:1",
    "nat64, local": "64:ff9b:1::7f00:1",
    "teredo": "2001:0:7f00:1::",
    "discard": "100::1",
    "segment routing": "5f00::1",
    "no address": "nonsense",
}


@pytest.mark.parametrize("address", CLOSED.values(), ids=CLOSED)
async def test_a_host_with_a_closed_address_is_refused(tmp_path: Path, address: str) -> None:
    assert not is_public(address)
    await refused(public_only(address), "http://a.test/x", tmp_path / "x", ImageUrlRefused)


@pytest.mark.parametrize("address", CLOSED.values(), ids=CLOSED)
async def test_one_closed_address_among_public_ones_is_enough(tmp_path: Path, address: str) -> None:
    fetch = public_only(PUBLIC, address)
    await refused(fetch, "https://a.test/x", tmp_path / "x", ImageUrlRefused)


@pytest.mark.parametrize("address", ["8.8.8.8", PUBLIC, "2606:4700::1111", "2a00:1450:4001::200e"])
async def test_ordinary_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "0", "localhost",
     "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "LOCALHOST", "127.0.0.1."],
)  # fmt: skip
async def test_odd_spellings_of_loopback_are_refused(tmp_path: Path, host: str) -> None:
    """The system's resolver tells what they mean (or that they mean nothing)."""
    fetch = Fetcher(max_bytes=100, timeout_s=5)
    with pytest.raises((ImageUrlRefused, ImageDownloadFailed)):
        await fetch.fetch(f"http://{host}/x", into=tmp_path / "x")
    assert not (tmp_path / "x").exists()


async def test_decimal_spelling_is_judged_by_its_address(tmp_path: Path) -> None:
    fetch = Fetcher(max_bytes=100, timeout_s=5)
    await refused(fetch, "http://2130706433/x", tmp_path / "x", ImageUrlRefused)


async def test_a_port_that_is_not_the_webs_is_refused_even_on_a_public_address(
    tmp_path: Path,
) -> None:
    await refused(public_only(PUBLIC), "https://a.test:8443/x", tmp_path / "x", ImageUrlRefused)


async def test_allowed_host_is_one_literal_host_and_port(tmp_path: Path) -> None:
    async with origin(reply()) as server:
        other_port = frozenset({"127.0.0.1:1"})
        await refused(
            server.fetcher(allowed_hosts=other_port),
            server.url(),
            tmp_path / "x",
            ImageUrlRefused,
        )
        other_name = frozenset({f"localhost:{server.port}"})
        await refused(
            server.fetcher(allowed_hosts=other_name),
            server.url(),
            tmp_path / "x",
            ImageUrlRefused,
        )
    assert server.heads == []


async def test_the_connection_goes_to_the_address_that_was_judged(tmp_path: Path) -> None:
    """A name that rebinds is asked once a hop; what it would say later does not matter."""
    names = Names([["127.0.0.1"], ["127.0.0.2"], ["10.0.0.1"]])
    async with origin(reply()) as server:
        place = f"shop.test:{server.port}"
        fetch = server.fetcher(resolver=names, allowed_hosts=frozenset({place}))
        await fetch.fetch(f"http://{place}/x", into=tmp_path / "x")
    assert names.asked == [("shop.test", server.port)]
    assert f"host: {place}\r\n".encode() in server.heads[0].lower()


async def test_a_name_that_turns_private_on_a_redirect_is_refused(tmp_path: Path) -> None:
    """Each hop is resolved and judged anew, with the rule of its own host and port."""
    async with origin(redirect("http://rebinds.test/x")) as server:
        names = Names([["127.0.0.1"], ["127.0.0.1"]])
        fetch = server.fetcher(resolver=names)
        await refused(fetch, server.url(), tmp_path / "x", ImageUrlRefused)
    assert names.asked == [("127.0.0.1", server.port), ("rebinds.test", 80)]
    assert len(server.heads) == 1


@pytest.mark.parametrize("address", [PUBLIC, "2606:4700::1111"])
async def test_the_request_names_the_address_and_keeps_the_hosts_name(address: str) -> None:
    url = httpx.URL("https://bücher.test/x?y=1#z")
    request = fetcher._request(url, address=address, timeout_s=1)
    assert request.url.host == address
    assert request.url.raw_path == b"/x?y=1"
    assert request.headers["host"] == "xn--bcher-kva.test"
    assert request.extensions["sni_hostname"] == "xn--bcher-kva.test"


async def test_only_the_ascii_name_is_resolved(tmp_path: Path) -> None:
    names = Names([["10.0.0.1"]])
    fetch = Fetcher(max_bytes=100, timeout_s=5, resolver=names)
    await refused(fetch, "http://BÜCHER.test/x", tmp_path / "x", ImageUrlRefused)
    assert names.asked == [("xn--bcher-kva.test", 80)]


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
)
async def test_redirects_are_followed(tmp_path: Path, status: str) -> None:
    async with origin(redirect("/there?a=b", status), reply()) as server:
        await server.fetcher().fetch(server.url(), into=tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == PICTURE
    assert server.heads[1].startswith(b"GET /there?a=b ")


async def test_three_redirects_are_followed_and_four_are_not(tmp_path: Path) -> None:
    async with origin(*[redirect("/on")] * 3, reply()) as server:
        await server.fetcher().fetch(server.url(), into=tmp_path / "x")
    async with origin(redirect("/on")) as server:
        (tmp_path / "x").unlink()
        await refused(server.fetcher(), server.url(), tmp_path / "y", ImageDownloadFailed)
    assert len(server.heads) == 4


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1/x",
        "http://localhost/x",
        "http://[::1]/x",
        "http://169.254.169.254/latest/meta-data/",
        "//127.0.0.1/x",
        "file:///etc/passwd",
        "ftp://pictures.test/x",
        "http://user:word@8.8.8.8/x",
        "http://8.8.8.8:22/x",
    ],
)
async def test_a_redirect_is_judged_like_the_first_url(tmp_path: Path, target: str) -> None:
    async with origin(redirect(target)) as server:
        await refused(server.fetcher(), server.url(), tmp_path / "x", ImageUrlRefused)
    assert len(server.heads) == 1


async def test_a_redirect_to_nowhere_fails(tmp_path: Path) -> None:
    async with origin(reply(b"", status="302 Found")) as server:
        await refused(server.fetcher(), server.url(), tmp_path / "x", ImageDownloadFailed)


async def test_cookies_of_a_redirect_are_not_sent_back(tmp_path: Path) -> None:
    first = reply(b"", "Location: /on", "Set-Cookie: a=b; Path=/", status="302 Found")
    async with origin(first, reply()) as server:
        await server.fetcher().fetch(server.url(), into=tmp_path / "x")
    assert b"cookie" not in server.heads[1].lower()


@pytest.mark.parametrize(
    "status", ["204 No Content", "206 Partial", "304 Not Modified", "401 No", "404 No", "500 Ouch"]
)
async def test_any_answer_but_200_fails(tmp_path: Path, status: str) -> None:
    async with origin(reply(b"", status=status)) as server:
        await refused(server.fetcher(), server.url(), tmp_path / "x", ImageDownloadFailed)


async def test_a_name_without_address_fails(tmp_path: Path) -> None:
    fetch = Fetcher(max_bytes=100, timeout_s=5, resolver=Names([]))
    await refused(fetch, "http://nowhere.test/x", tmp_path / "x", ImageDownloadFailed)
    await refused(public_only(), "http://nowhere.test/x", tmp_path / "x", ImageDownloadFailed)


async def test_a_name_too_long_for_the_resolver_fails(tmp_path: Path) -> None:
    fetch = Fetcher(max_bytes=100, timeout_s=5)
    with pytest.raises((ImageDownloadFailed, ImageUrlRefused)):
        await fetch.fetch("http://" + "a" * 70 + ".test/x", into=tmp_path / "x")


async def test_a_server_that_is_not_there_fails(tmp_path: Path) -> None:
    async with origin(reply()) as server:
        pass
    await refused(server.fetcher(), server.url(), tmp_path / "x", ImageDownloadFailed)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nonly this",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nonly\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    ],
    ids=["nothing", "no http", "short", "short chunk", "negative"],
)
async def test_an_answer_that_breaks_off_fails(tmp_path: Path, answer: bytes) -> None:
    async with origin(answer) as server:
        await refused(server.fetcher(), server.url(), tmp_path / "x", ImageDownloadFailed)


@pytest.mark.parametrize(
    "answer",
    [
        PICTURE,
        b"<html>as HTTP/0.9 had it</html>",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
    ids=["bytes", "0.9", "header", "headers", "continue", "ssh"],
)
async def test_what_is_no_web_servers_answer_fails(tmp_path: Path, answer: bytes) -> None:
    async with origin(answer) as server:
        await refused(server.fetcher(), server.url(), tmp_path / "x", ImageDownloadFailed)


async def test_a_head_that_trickles_meets_the_time_limit(tmp_path: Path) -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"y")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with origin(trickle) as server:
        fetch = server.fetcher(timeout_s=0.3)
        await refused(fetch, server.url(), tmp_path / "x", ImageDownloadFailed)


async def test_a_redirect_that_goes_in_circles_ends(tmp_path: Path) -> None:
    async with origin(redirect("/picture")) as server:
        await refused(server.fetcher(), server.url(), tmp_path / "x", ImageDownloadFailed)
        assert len(server.heads) == 4


@pytest.mark.parametrize(
    "host",
    [
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020\u30020\u30021",
        "\u24dbocalhost",
        "127.0.0.1%00",
        "[fe80::1%25eth0]",
        "[::ffff:169.254.169.254]",
        "0251.0376.0251.0376",
        "0xa9fea9fe",
        "2852039166",
        "[::ffff:0:127.0.0.1]",
        "localhost.",
    ],
)
async def test_spellings_that_only_look_like_names_lead_nowhere(tmp_path: Path, host: str) -> None:
    fetch = Fetcher(max_bytes=100, timeout_s=5)
    with pytest.raises((ImageUrlRefused, ImageDownloadFailed)):
        await fetch.fetch(f"http://{host}/x", into=tmp_path / "x")
    assert list_of(tmp_path) == []


async def test_an_announced_size_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    async def announce(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n")
        await asyncio.Event().wait()

    async with origin(announce) as server:
        error = await refused(
            server.fetcher(max_bytes=100), server.url(), tmp_path / "x", FileTooLarge
        )
    assert (error.limit, error.actual) == (100, 101)


async def test_a_body_of_exactly_the_limit_is_taken(tmp_path: Path) -> None:
    async with origin(reply(b"x" * 100)) as server:
        await server.fetcher(max_bytes=100).fetch(server.url(), into=tmp_path / "x")
    assert (tmp_path / "x").stat().st_size == 100


async def test_an_endless_body_stops_at_the_limit(tmp_path: Path) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 50_000)
            await writer.drain()

    async with origin(endless) as server:
        fetch = server.fetcher(max_bytes=300_000)
        error = await refused(fetch, server.url(), tmp_path / "x", FileTooLarge)
    assert error.limit == 300_000
    assert error.actual is not None
    assert 300_000 < error.actual <= 300_000 + (1 << 16)


async def test_a_slow_body_meets_the_time_limit(tmp_path: Path) -> None:
    """Bytes that keep trickling in reset every read timeout, but not the overall one."""

    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with origin(trickle) as server:
        loop = asyncio.get_running_loop()
        fetch = server.fetcher(timeout_s=0.3)
        started = loop.time()
        await refused(fetch, server.url(), tmp_path / "x", ImageDownloadFailed)
        assert 0.25 < loop.time() - started < 2


async def test_redirects_share_the_time_limit(tmp_path: Path) -> None:
    async def late(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(redirect("/on"))

    async with origin(late) as server:
        fetch = server.fetcher(timeout_s=0.5)
        error = await refused(fetch, server.url(), tmp_path / "x", ImageDownloadFailed)
    assert "0.5 s" in error.detail


async def test_a_slow_resolver_meets_the_time_limit(tmp_path: Path) -> None:
    async def never(_host: str, _port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    fetch = Fetcher(max_bytes=100, timeout_s=0.1, resolver=never)
    await refused(fetch, "http://a.test/x", tmp_path / "x", ImageDownloadFailed)


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip", "x-unknown"])
async def test_a_compressed_body_is_not_unpacked(tmp_path: Path, coding: str) -> None:
    bomb = gzip.compress(bytes(5_000_000))
    async with origin(reply(bomb, f"Content-Encoding: {coding}")) as server:
        await refused(server.fetcher(), server.url(), tmp_path / "x", ImageDownloadFailed)


async def test_gzip_bytes_without_the_header_are_kept_as_they_are(tmp_path: Path) -> None:
    packed = gzip.compress(PICTURE)
    async with origin(reply(packed, "Content-Encoding: identity")) as server:
        await server.fetcher().fetch(server.url(), into=tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == packed


async def test_cancellation_removes_the_partial_file_and_goes_on(tmp_path: Path) -> None:
    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 100_000)
        await writer.drain()
        await asyncio.Event().wait()

    into = tmp_path / "x"
    async with origin(half) as server:
        download = asyncio.create_task(server.fetcher().fetch(server.url(), into=into))
        while not into.exists() and not download.done():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.001)
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download
    assert not into.exists()


async def test_proxies_of_the_environment_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with origin(reply()) as server:
        await server.fetcher().fetch(server.url(), into=tmp_path / "x")


async def test_neither_errors_nor_logs_repeat_the_url(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    async with origin(reply(b"", status="403 No"), reply()) as server:
        url = server.url("/path-secret?signature=query-secret")
        error = await refused(server.fetcher(), url, tmp_path / "x", ImageDownloadFailed)
        shown.append(f"{error.detail} {error.hint}")
        await server.fetcher().fetch(url, into=tmp_path / "x")
    (tmp_path / "x").unlink()
    for url in ("http://u-secret:p-secret@a.test/", "ftp://a-secret", "http://10.0.0.1/?secret"):
        error = await refused(server.fetcher(), url, tmp_path / "y", ImageUrlRefused)
        shown.append(f"{error.detail} {error.hint}")
    assert "secret" not in " ".join(shown) + caplog.text
    assert "image fetched: 255744 bytes" in caplog.text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-made certificate for shop.test, its key in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=shop.test", "-addext",
         "subjectAltName=DNS:shop.test", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    both = (folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes()
    (folder / "both.pem").write_bytes(both)
    return folder / "both.pem"


@pytest.mark.parametrize(
    ("host", "trusted"),
    [("shop.test", True), ("other.test", True), ("127.0.0.1", True), ("shop.test", False)],
    ids=["its name", "other name", "its address", "unknown authority"],
)
async def test_tls_verifies_the_name_in_the_url_not_the_address(
    tmp_path: Path, certificate: Path, host: str, trusted: bool
) -> None:
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(certificate)
    trust = ssl.create_default_context(cafile=certificate if trusted else None)
    async with origin(reply(), tls=server_side) as server:
        fetch = server.fetcher(
            resolver=Names([["127.0.0.1"]]),
            ssl_context=trust,
            allowed_hosts=frozenset({f"{host}:{server.port}"}),
        )
        url = f"https://{host}:{server.port}/x"
        if host == "shop.test" and trusted:
            await fetch.fetch(url, into=tmp_path / "x")
            assert list_of(tmp_path) == [tmp_path / "x"]
        else:
            await refused(fetch, url, tmp_path / "x", ImageDownloadFailed)


PROVIDERS = frozenset({"runware.ai", "kie.ai"})


def provider_fetcher(address: str = PUBLIC) -> Fetcher:
    return Fetcher(max_bytes=100, timeout_s=5, only_domains=PROVIDERS, resolver=Names([[address]]))


@pytest.mark.parametrize(
    "host",
    ["pictures.test", "evilrunware.ai", "runware.ai.evil.com", "runware.ai.", "runware.a\u0131",
     "ai", "xrunware.ai", "-runware.ai", "runware.com", "im.runware.ai.evil.com", "127.0.0.1",
     "93.184.215.14", "kie.ai@evil.com"],
)  # fmt: skip
async def test_only_domains_closes_every_other_host_before_it_is_looked_up(
    tmp_path: Path, host: str
) -> None:
    fetch = provider_fetcher()
    await refused(fetch, f"https://{host}/x", tmp_path / "x", ImageUrlRefused)
    assert isinstance(fetch.resolver, Names)
    assert fetch.resolver.asked == []


@pytest.mark.parametrize("host", ["runware.ai", "im.runware.ai", "a.b.kie.ai", "IM.Runware.AI"])
async def test_only_domains_opens_those_and_what_lies_below_them(tmp_path: Path, host: str) -> None:
    """They are looked up like any other, and a closed address stays closed."""
    fetch = provider_fetcher("10.0.0.1")
    await refused(fetch, f"https://{host}/x", tmp_path / "x", ImageUrlRefused)
    assert isinstance(fetch.resolver, Names)
    assert fetch.resolver.asked == [(host.lower(), 443)]


async def test_a_redirect_out_of_the_only_domains_is_refused(tmp_path: Path) -> None:
    async with origin(redirect("https://evilrunware.ai/x"), reply()) as server:
        fetch = server.fetcher(only_domains=PROVIDERS)
        await refused(fetch, server.url(), tmp_path / "x", ImageUrlRefused)
    assert len(server.heads) == 1


async def test_an_allowed_host_needs_no_domain(tmp_path: Path) -> None:
    async with origin(reply()) as server:
        fetch = server.fetcher(only_domains=PROVIDERS)
        await fetch.fetch(server.url(), into=tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == PICTURE


async def test_the_user_agent_is_sent_on_every_hop(tmp_path: Path) -> None:
    async with origin(redirect("/elsewhere"), reply()) as server:
        fetch = server.fetcher(user_agent="Mozilla/5.0 (compatible; print-shop)")
        await fetch.fetch(server.url(), into=tmp_path / "x")
    for head in server.heads:
        agents = [line for line in head.split(b"\r\n") if line.lower().startswith(b"user-agent:")]
        assert [line.split(b": ", 1)[1] for line in agents] == [
            b"Mozilla/5.0 (compatible; print-shop)"
        ]
    assert len(server.heads) == 2
