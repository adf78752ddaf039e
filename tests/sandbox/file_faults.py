"""What each fault of a result file looks like to who fetches it, at either provider."""

import time
from collections.abc import Awaitable, Callable

import httpx
import pytest

from sandbox.faults import Kind
from sandbox.shelf import FOREIGN_URL
from tests.sandbox.conftest import alpha_of, decoded

Check = Callable[[httpx.AsyncClient, str], Awaitable[None]]
SIZE = (320, 256)


async def missing(http: httpx.AsyncClient, url: str) -> None:
    assert (await http.get(url)).status_code == 404


async def busy_once(http: httpx.AsyncClient, url: str) -> None:
    assert [(await http.get(url)).status_code for _ in range(2)] == [503, 200]


async def expired(http: httpx.AsyncClient, url: str) -> None:
    assert (await http.get(url)).status_code in (403, 404)


async def web_page(http: httpx.AsyncClient, url: str) -> None:
    reply = await http.get(url)
    assert reply.status_code == 200
    assert reply.headers["Content-Type"].startswith("text/html")


async def redirected(http: httpx.AsyncClient, url: str) -> None:
    reply = await http.get(url)
    assert (reply.status_code, reply.headers["Location"]) == (302, FOREIGN_URL)


async def foreign(http: httpx.AsyncClient, url: str) -> None:  # noqa: ARG001  # never fetched
    assert url == FOREIGN_URL


async def truncated(http: httpx.AsyncClient, url: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await http.get(url)


async def endless(http: httpx.AsyncClient, url: str) -> None:
    arrived = 0
    async with http.stream("GET", url) as reply:
        assert "Content-Length" not in reply.headers
        async for piece in reply.aiter_raw():
            arrived += len(piece)
            if arrived > 4 << 20:
                return
    pytest.fail(f"it ended after {arrived} bytes")


async def slow(http: httpx.AsyncClient, url: str) -> None:
    start = time.monotonic()
    reply = await http.get(url)
    assert time.monotonic() - start >= 0.04
    assert decoded(reply.content).size == SIZE


async def halved(http: httpx.AsyncClient, url: str) -> None:
    assert decoded((await http.get(url)).content).size == (SIZE[0] // 2, SIZE[1] // 2)


async def opaque(http: httpx.AsyncClient, url: str) -> None:
    image = decoded((await http.get(url)).content)
    assert (image.format, image.mode) == ("PNG", "RGB")


async def empty(http: httpx.AsyncClient, url: str) -> None:
    assert not alpha_of((await http.get(url)).content).any()


async def webp(http: httpx.AsyncClient, url: str) -> None:
    image = decoded((await http.get(url)).content)
    assert (image.format, image.mode) == ("WEBP", "RGBA")


CHECKS: dict[Kind, Check] = {
    Kind.URL_404: missing,
    Kind.URL_503: busy_once,
    Kind.URL_EXPIRED: expired,
    Kind.URL_HTML: web_page,
    Kind.URL_REDIRECT: redirected,
    Kind.URL_FOREIGN: foreign,
    Kind.URL_TRUNCATED: truncated,
    Kind.URL_ENDLESS: endless,
    Kind.SLOW_BODY: slow,
    Kind.WRONG_SIZE: halved,
    Kind.NO_ALPHA: opaque,
    Kind.EMPTY_ALPHA: empty,
    Kind.WEBP: webp,
}
