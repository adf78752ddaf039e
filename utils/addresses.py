"""Internet addresses: who is behind a chain of proxies, and as whom an address counts."""

from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NOBODY = "nowhere"
"""As whom a peer counts that has no address: one at a Unix socket."""

_HOUSEHOLD_BITS = 64
"""Of an IPv6 address: what a provider gives to one customer at least (RFC 6177)."""


def read_network(text: str) -> Network:
    """`10.0.0.0/8` or a single address; raises ValueError."""
    return ip_network(text.strip())


def read_address(text: str) -> Address | None:
    """An address as proxies write it, with or without a port; None where it is something else."""
    bare = text.strip()
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        found = ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_in(address: Address, networks: Iterable[Network]) -> bool:
    """Whether one of them holds it."""
    return any(address in network for network in networks)


def client_behind(peer: Address, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address:
    """Who asked, by `forwarded` (X-Forwarded-For, every value) as far as it can be believed.

    Each proxy writes at the end whom it was asked by. So the list is walked from its end for as
    long as those who wrote are trusted; whatever stands before an entry that is nobody's address,
    or before the first address that is not trusted, may be made up.
    """
    found = peer
    for entry in reversed(",".join(forwarded).split(",")):
        if not is_in(found, trusted):
            return found
        before = read_address(entry)
        if before is None:
            return found
        found = before
    return found


def counted_as(host: str | None) -> str:
    """One name for everything that one customer of a provider can send from: IPv6 by its /64."""
    address = read_address(host or "")
    if address is None:
        return NOBODY
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((address, _HOUSEHOLD_BITS), strict=False).network_address)
