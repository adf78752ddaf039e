"""The pages are served as they lie in web/, under a strict policy, and nothing else is."""

import re
import socket
from collections.abc import Iterator

import pytest

from config import AccessSettings
from models.errors import FailureCode
from models.images import Edge, Flag
from models.outcomes import SkipReason
from models.print_check import CheckId, Preset
from models.schemas import MAX_SCALE, ModelId
from routers.pages import FILES, WEB, policy
from services.print_colours import GARMENTS
from services.print_size import preset_width_in
from tests.conftest import Server, serving

KEYS = {"shop": "a-key-of-the-shop-01"}
SHOP = "https://shop.example"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = ",".join(f"{name}:{key}" for name, key in KEYS.items())
    folder = tmp_path_factory.mktemp("pages")
    with serving(folder, api_keys=keys, page_embedded_by=SHOP) as server:
        yield server


@pytest.mark.parametrize("address", sorted(FILES))
def test_every_file_is_open_typed_and_under_the_policy(server: Server, address: str) -> None:
    answer = server.client.get(address)
    assert answer.status_code == 200
    assert answer.content == FILES[address].content
    assert answer.headers["content-type"] == FILES[address].media_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == policy([SHOP])


def test_the_policy_leaves_this_origin_alone_and_no_inline_code() -> None:
    rules = dict(rule.split(" ", 1) for rule in policy().split("; "))
    assert rules["default-src"] == "'self'"
    assert rules["object-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy()
    assert "script-src" not in rules


def test_pages_hold_no_inline_code_style_or_foreign_host() -> None:
    for path in sorted(WEB.glob("*.html")):
        text = path.read_text()
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", text), path
    for path in sorted(each for each in WEB.rglob("*") if each.is_file()):
        text = path.read_text().replace("http://www.w3.org/", "")
        assert "://" not in text, path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(", text), path


def test_a_copy_that_is_still_right_costs_no_bytes(server: Server) -> None:
    first = server.client.get("/")
    again = server.client.get("/", headers={"If-None-Match": f'"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    stale = server.client.get("/", headers={"If-None-Match": '"other"'})
    assert stale.status_code == 200


def test_head_tells_the_same_without_the_content(server: Server) -> None:
    answer = server.client.head("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["etag"] == server.client.get("/").headers["etag"]


@pytest.mark.parametrize(
    "target",
    [
        "/web/../config.py",
        "/web/..%2fconfig.py",
        "/web/%2e%2e/%2e%2e/etc/passwd",
        "/web//etc/passwd",
        "/web/js/../../main.py",
        "/web/",
        "/web/js",
        "/web/index.html%00.js",
        "/web/..\\config.py",
    ],
)
def test_no_path_leads_out_of_the_folder(server: Server, target: str) -> None:
    host, port = server.client.base_url.host, server.client.base_url.port
    with socket.create_connection((host, port or 80), timeout=20) as wire:  # httpx would tidy it
        wire.sendall(
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {KEYS['shop']}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:200]


def test_what_is_not_a_page_still_wants_a_key(server: Server) -> None:
    for address in ("/web/secret.txt", "/web/", "/models", "/ops/"):
        assert server.client.get(address).status_code == 401, address
    assert server.client.post("/").status_code == 405


@pytest.mark.parametrize(
    "wrong", ["shop.example", "https://shop.example/path", "https://a b", "*", "https://x;y"]
)
def test_only_origins_may_be_named_as_frames(wrong: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        AccessSettings(_env_file=None, page_embedded_by=wrong)


def test_what_the_page_knows_by_heart_is_what_the_service_says() -> None:
    words = (WEB / "js" / "words.js").read_text()
    inches = re.findall(r'^  (\w+): \["[^"]+", ([\d.]+)\],$', words, re.MULTILINE)
    assert {name: float(value) for name, value in inches} == {
        preset.value: preset_width_in(preset) for preset in Preset
    }
    shirts = re.findall(
        r'^  (\w+): "#(\w{6})",$', (WEB / "js" / "shirt.js").read_text(), re.MULTILINE
    )
    assert len(shirts) > 5
    for name, colour in shirts:
        assert tuple(bytes.fromhex(colour)) == GARMENTS[name], name
    assert f"MOST_TIMES = {MAX_SCALE};" in (WEB / "js" / "print.js").read_text()
    for known in (*ModelId, *FailureCode, *SkipReason, *Flag, *CheckId):
        assert re.search(rf'^  "?{re.escape(known.value)}"?: ', words, re.MULTILINE), known
    for edge in Edge:
        assert re.search(rf"^  {edge.value}: \[", words, re.MULTILINE)
