"""The pick page where keys are set: how it gets its session, and that it keeps nothing."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.answering import ISNET, KNOCKOUT, Cutter, table
from tests.conftest import Server, serving
from tests.test_browser import hosting
from tests.web.conftest import CHROMIUM, Opener
from tests.web.driving import PICTURE, await_all, check_print, pick, send, tile

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium (Debian) is not installed")

KEY = "a-key-of-the-shop-01"
SHOP_PAGE = """<!doctype html><meta charset="utf-8"><title>A shop</title>
<iframe src="{page}" width="1200" height="860"></iframe><ol></ol><script>
addEventListener("message", (event) => {{
  const frame = document.querySelector("iframe").contentWindow;
  if (event.source !== frame) return;
  const said = document.createElement("li");
  said.textContent = JSON.stringify(event.data);
  document.querySelector("ol").append(said);
  if (event.data.type === "dtf:ready") {{
    frame.postMessage({{ type: "dtf:session", token: "{token}" }}, "{origin}");
  }}
}});
</script>"""


@dataclass(frozen=True)
class Shop:
    """A service with keys, and a web server of the shop's beside it."""

    server: Server
    folder: Path
    address: str

    def session(self, **limits: float) -> str:
        answer = self.server.client.post("/sessions", headers={"X-API-Key": KEY}, json=limits)
        return str(answer.raise_for_status().json()["token"])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    with ExitStack() as stack:
        address = stack.enter_context(hosting(folder))
        server = stack.enter_context(
            serving(
                tmp_path_factory.mktemp("guarded"),
                stand_ins=table(Cutter(ISNET), Cutter(KNOCKOUT, share=0.25)),
                knockout_enabled=True,
                api_keys=f"shop:{KEY}",
                page_embedded_by=address,
            )
        )
        yield Shop(server, folder, address)


def kept(page: Page) -> str:
    """All that a page could keep: cookies, both storages, its address, its document."""
    stored = page.evaluate(
        "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    return f"{stored} {page.url} {page.content()} {page.context.cookies()}"


def test_a_session_in_the_address_is_taken_out_of_it_and_does_the_whole_way(
    shop: Shop, open_page: Opener
) -> None:
    token = shop.session()
    page = open_page(f"{shop.server.url}/#session={token}")
    page.wait_for_url(f"{shop.server.url}/")
    send(page)
    await_all(page)
    expect(tile(page, ISNET)).to_have_attribute("data-status", "succeeded")
    pick(page, ISNET)
    page.locator("#width").fill("2")
    check_print(page)
    with page.expect_download() as download:
        page.locator("#download-bundle").click()
    assert download.value.suggested_filename.endswith(".zip")
    assert token not in kept(page)
    page.locator("#undo-pick").click()
    expect(page.locator("#live")).to_have_text("The pick is taken back.")
    expect(page.locator("#trouble")).to_be_hidden()


def test_after_a_reload_links_open_what_was_made_and_nothing_more(
    shop: Shop, open_page: Opener
) -> None:
    token = shop.session()
    page = open_page(f"{shop.server.url}/#session={token}", expected=("401",))
    send(page)
    await_all(page)
    assert re.search(r"#shot=[0-9a-f]{32}\.[\w-]{20,}$", page.url), page.url
    page.reload()  # the session is gone with the page's memory
    await_all(page)
    expect(tile(page, ISNET).locator("img")).to_have_js_property("complete", value=True)
    expect(page.locator("#door")).to_be_hidden()
    tile(page, ISNET).get_by_role("button", name="Pick").click()
    expect(page.locator("#door")).to_be_visible()  # a pick wants a session again
    page.evaluate(f"() => {{ location.hash += '&session={token}'; }}")  # the shop's page knows it
    expect(page.locator("#print")).to_be_visible()
    expect(page.locator("#trouble")).to_be_hidden()
    exported = shop.server.client.get("/preferences/export", headers={"X-API-Key": KEY})
    assert re.findall("shot=([0-9a-f]{32})", page.url)[0] in exported.text
    expect(page.locator("#door")).to_be_hidden()


def test_a_key_is_exchanged_once_and_kept_nowhere(shop: Shop, open_page: Opener) -> None:
    page = open_page(f"{shop.server.url}/", expected=("401",))
    page.locator("#file").set_input_files(PICTURE)
    expect(page.locator("#door")).to_be_visible()
    page.locator("#door-key").fill("not-the-key-of-the-shop")
    page.get_by_role("button", name="Start a session").click()
    expect(page.locator("#door-why")).to_contain_text("not known here")
    page.locator("#door-key").fill(KEY)
    page.get_by_role("button", name="Start a session").click()
    expect(page.locator("#pick")).to_be_visible()  # what was begun goes on
    expect(page.locator("#door-key")).to_have_value("")
    await_all(page)
    assert KEY not in kept(page)
    assert "session." not in kept(page)


def test_a_used_up_session_says_so(shop: Shop, open_page: Opener) -> None:
    page = open_page(f"{shop.server.url}/#session={shop.session(shots=1)}", expected=("403",))
    send(page)
    await_all(page)
    page.locator("#again").click()
    page.locator("#file").set_input_files(PICTURE)
    expect(page.locator("#door-why")).to_contain_text("used up what it may do")


def test_a_shop_embeds_the_page_hands_it_a_session_and_hears_the_pick(
    shop: Shop, open_page: Opener
) -> None:
    (shop.folder / "shop.html").write_text(
        SHOP_PAGE.format(page=f"{shop.server.url}/", token=shop.session(), origin=shop.server.url),
        encoding="utf-8",
    )
    page = open_page(
        f"{shop.address}/shop.html", hosts=(urlsplit(shop.server.url).netloc,), expected=("404",)
    )
    expect(page.locator("li").first).to_have_text('{"type":"dtf:ready"}')
    frame = page.frame_locator("iframe")
    frame.locator("#file").set_input_files(PICTURE)
    frame.locator(".tile[data-model=local-isnet]").get_by_role("button", name="Pick").click()
    expect(page.locator("li").last).to_contain_text("dtf:picked")
    said = json.loads(page.locator("li").last.inner_text())
    assert (said["type"], said["model"]) == ("dtf:picked", "local-isnet")
    assert re.fullmatch("[0-9a-f]{32}", said["request_id"])


def test_nobody_else_may_embed_it(shop: Shop, open_page: Opener, tmp_path: Path) -> None:
    (tmp_path / "thief.html").write_text(
        SHOP_PAGE.format(page=f"{shop.server.url}/", token="", origin="*"), encoding="utf-8"
    )
    with hosting(tmp_path) as address:
        page = open_page(
            f"{address}/thief.html",
            hosts=(urlsplit(shop.server.url).netloc,),
            expected=("frame-ancestors", "404"),
        )
        expect(page.frame_locator("iframe").locator("#start")).to_have_count(0)
        assert page.locator("li").count() == 0
