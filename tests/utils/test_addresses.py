"""Who is behind proxies: only what trusted ones wrote is believed, from the end of the chain."""

from ipaddress import ip_address

import pytest

from utils.addresses import NOBODY, client_behind, counted_as, read_address, read_network

TRUSTED = [read_network("10.0.0.0/8"), read_network("fd00::/8"), read_network("192.0.2.7")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("203.0.113.9", ["10.0.0.1"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1, 10.9.9.9, 192.0.2.7"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 10.0.0.9, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["1.1.1.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1,"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("fd00::1", ["[2001:db8::5]:4711"], "2001:db8::5"),
        ("fd00::1", ["2001:db8::5"], "2001:db8::5"),
        ("10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["9.9.9.9, ::ffff:10.0.0.2"], "9.9.9.9"),
    ],
)
def test_the_last_address_that_no_trusted_proxy_is(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert str(client_behind(ip_address(peer), forwarded, TRUSTED)) == client


def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    assert str(client_behind(ip_address("127.0.0.1"), ["1.1.1.1"], [])) == "127.0.0.1"


@pytest.mark.parametrize(
    "text", ["", "unknown", "_hidden", "1.2.3", "1.2.3.4.5", "a:b", "[::1", "[x]:1", "999.1.1.1"]
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert read_address(text) is None or text == "[::1"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("2001:db8:1:3::9", "2001:db8:1:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("", NOBODY),
        (None, NOBODY),
        ("/run/service.sock", NOBODY),
    ],
)
def test_a_household_counts_as_one(host: str | None, name: str) -> None:
    assert counted_as(host) == name


@pytest.mark.parametrize("text", ["10.0.0.1/8", "*", "proxy.example", "10.0.0.0/33", ""])
def test_a_network_is_one_or_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_network(text)
