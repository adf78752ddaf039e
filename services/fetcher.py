"""Downloads a customer's `image_url` to a file without becoming a way into our own network.

A URL is judged as written (scheme, port, credentials), its name is resolved once, every address it
has must be a public one, and the connection goes to the address that was judged: what a second
look-up would say does not matter. Redirects are followed by hand, each judged from the start.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeAlias

import httpx

from models.errors import FileTooLarge, ImageDownloadFailed, ImageUrlRefused

logger = logging.getLogger(__name__)

Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]

_MAX_REDIRECTS = 3
_DEFAULT_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 1 << 16
ONE_CONNECTION = httpx.Limits(max_connections=1, max_keepalive_connections=0)
_MAX_URL_LENGTH = 4096
# identity: a compressed body could unpack to anything, and pictures are compressed already
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity"}


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name as the system sees them, spellings such as 0x7f.1 included."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@cache
def public_trust() -> ssl.SSLContext:
    """The usual authorities, whatever the environment says; made once, for loading them is slow."""
    return httpx.create_ssl_context(trust_env=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetcher:
    """Fetches pictures from public web servers.

    `timeout_s` bounds the whole download, redirects included. `allowed_hosts` holds literal
    `host:port` entries (lower case) that may have any address and port: a shop's own storage.
    `only_domains`, where given, closes every other host: those domains and what lies below them.
    """

    max_bytes: int
    timeout_s: float
    allowed_hosts: frozenset[str] = frozenset()
    only_domains: frozenset[str] | None = None
    user_agent: str = "image-intake"
    resolver: Resolver = resolve
    ssl_context: ssl.SSLContext = field(default_factory=public_trust)

    async def fetch(self, url: str, *, into: Path) -> None:
        """Write the picture at `url` to the file `into`, which is gone again after any failure.

        Raises ImageUrlRefused, ImageDownloadFailed or FileTooLarge.
        """
        started = time.monotonic()
        with _removed_on_failure(into):
            try:
                async with asyncio.timeout(self.timeout_s):
                    written = await self._follow(url, into=into)
            except TimeoutError as error:
                raise ImageDownloadFailed(
                    f"The image did not arrive within {self.timeout_s:g} s."
                ) from error
        milliseconds = round((time.monotonic() - started) * 1000)
        logger.info("image fetched: %d bytes, %d ms", written, milliseconds)

    async def _follow(self, url: str, *, into: Path) -> int:
        """The number of bytes written, after at most three redirects."""
        here = _parsed(url)
        for _ in range(_MAX_REDIRECTS + 1):
            address = await self._judged_address(here)
            async with self._answer(here, address=address) as response:
                if response.status_code not in _REDIRECTS:
                    return await self._save(response, into=into)
                here = _next_place(here, response=response)
        raise ImageDownloadFailed("The image URL redirects too often.")

    @contextlib.asynccontextmanager
    async def _answer(self, url: httpx.URL, *, address: str) -> AsyncIterator[httpx.Response]:
        """The response of the very address that was judged, asked for under the URL's own name.

        A bare transport, not a client: it has no proxies, cookies, redirects or decompression, and
        it does not log the URL as httpx's client does.
        """
        try:
            async with httpx.AsyncHTTPTransport(
                verify=self.ssl_context, limits=ONE_CONNECTION
            ) as transport:
                request = _request(url, address=address, timeout_s=self.timeout_s)
                request.headers["User-Agent"] = self.user_agent
                response = await transport.handle_async_request(request)
                try:
                    yield response
                finally:
                    await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            logger.info("image download failed: %s", type(error).__name__)
            raise ImageDownloadFailed("The server of the image URL did not deliver it.") from error

    async def _judged_address(self, url: httpx.URL) -> str:
        """The address to connect to: the first of a name whose addresses are all public."""
        host = host_of(url)
        exempt = f"{host}:{port_of(url)}" in self.allowed_hosts
        if not exempt:
            _check_port(url)
            self._check_domain(host)
        try:
            addresses = await self.resolver(host, port_of(url))
        except (OSError, UnicodeError) as error:
            raise ImageDownloadFailed("The host of the image URL has no address.") from error
        if not addresses:
            raise ImageDownloadFailed("The host of the image URL has no address.")
        if not exempt and not all(is_public(address) for address in addresses):
            raise ImageUrlRefused(
                "The image URL does not point to a public address.", field="image_url"
            )
        return addresses[0]

    def _check_domain(self, host: str) -> None:
        domains = self.only_domains
        if domains is not None and not any(
            host == domain or host.endswith(f".{domain}") for domain in domains
        ):
            raise ImageUrlRefused("The image URL names a host that is not expected there.")

    async def _save(self, response: httpx.Response, *, into: Path) -> int:
        """The body to the file, stopped at the byte that is one too many."""
        _check_answer(response)
        announced = response.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit():
            self._check_size(int(announced))
        written = 0
        with into.open("wb") as file:
            async for chunk in response.aiter_raw(_CHUNK_BYTES):
                written += len(chunk)
                self._check_size(written)
                file.write(chunk)
        return written

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise FileTooLarge(
                "The image behind the URL is too large.", limit=self.max_bytes, actual=size
            )


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    """A half-written file does not outlive any failure, cancellation included."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def is_public(address: str) -> bool:
    """Whether an address is globally routable unicast, by the IANA special-purpose registries.

    IPv6 is open only in 2000::/3, which leaves out every way of writing an IPv4 address in IPv6 but
    6to4 and Teredo; those two, and the blocks kept for protocols and documentation, are listed.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        closed = any(parsed in network for network in _CLOSED_V4)
        return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved or closed)
    opened = parsed.scope_id is None and parsed in _OPEN_V6
    return opened and not any(parsed in network for network in _CLOSED_V6)


def _parsed(url: str) -> httpx.URL:
    """The URL, judged by its spelling; the messages never repeat it, for it may hold a secret."""
    if len(url) > _MAX_URL_LENGTH:
        raise ImageUrlRefused("The image URL is too long.", field="image_url")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise ImageUrlRefused("The image URL is not a URL.", field="image_url") from None
    return _judged(parsed)


def _judged(url: httpx.URL) -> httpx.URL:
    if url.scheme not in _DEFAULT_PORTS:
        raise ImageUrlRefused("The image URL must be http or https.", field="image_url")
    if url.userinfo:
        raise ImageUrlRefused("The image URL must not hold credentials.", field="image_url")
    if not url.host:
        raise ImageUrlRefused("The image URL names no host.", field="image_url")
    return url


def _check_port(url: httpx.URL) -> None:
    if port_of(url) not in _DEFAULT_PORTS.values():
        raise ImageUrlRefused("The image URL must use port 80 or 443.", field="image_url")


def port_of(url: httpx.URL) -> int:
    return _DEFAULT_PORTS[url.scheme] if url.port is None else url.port


def host_of(url: httpx.URL) -> str:
    """The host in ASCII: lower case, international names as punycode, IPv6 without brackets."""
    return url.raw_host.decode("ascii")


def _request(url: httpx.URL, *, address: str, timeout_s: float) -> httpx.Request:
    return pinned_request("GET", url, address=address, timeout_s=timeout_s, headers=_HEADERS)


def pinned_request(  # noqa: PLR0913  # a request's parts, all named
    method: str,
    url: httpx.URL,
    *,
    address: str,
    timeout_s: float,
    headers: Mapping[str, str],
    content: bytes | None = None,
) -> httpx.Request:
    """A request to the address; `Host` and the name that TLS verifies stay the URL's."""
    return httpx.Request(
        method,
        url.copy_with(host=address, fragment=None),
        headers={"Host": url.netloc.decode("ascii"), **headers},
        content=content,
        extensions={
            "sni_hostname": host_of(url),
            "timeout": httpx.Timeout(timeout_s).as_dict(),
        },
    )


def _next_place(url: httpx.URL, *, response: httpx.Response) -> httpx.URL:
    """Where a redirect points, judged by its spelling like the first URL."""
    location = response.headers.get("location", "")
    if not location or len(location) > _MAX_URL_LENGTH:
        raise ImageDownloadFailed("The image URL redirects to nowhere.")
    try:
        return _judged(url.join(location))
    except (httpx.InvalidURL, ValueError):
        raise ImageDownloadFailed("The image URL redirects to nowhere.") from None


def _check_answer(response: httpx.Response) -> None:
    if response.status_code != 200:
        raise ImageDownloadFailed(
            f"The server of the image URL answered {response.status_code}, not 200."
        )
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ImageDownloadFailed("The server of the image URL sent a compressed body unasked.")


_OPEN_V6 = ipaddress.ip_network("2000::/3")
_CLOSED_V6 = tuple(
    ipaddress.ip_network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
# protocol assignments and the retired 6to4 relays, which Python's `is_global` leaves open
_CLOSED_V4 = tuple(ipaddress.ip_network(network) for network in ("192.0.0.0/24", "192.88.99.0/24"))
