"""What a browser makes of the headers: the documentation runs, shops' pages see what they may."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from models.schemas import ModelId
from tests.conftest import Server, artwork, serving
from tests.test_browser import hosting
from tests.web.conftest import CHROMIUM, Opener

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium (Debian) is not installed")

KNOCKOUT = ModelId.LOCAL_KNOCKOUT
CDN = """window.SwaggerUIBundle = ({url}) => fetch(url).then((answer) => answer.json()).then(
  (told) => { document.querySelector("#swagger-ui").textContent = told.info.title; });
SwaggerUIBundle.presets = {};"""
SHOPS_PAGE = """<!doctype html><meta charset="utf-8"><title>A shop</title>
<link rel="icon" href="data:,"><img src="{picture}">
<p id="shown">not yet</p><p id="called">not yet</p><script>
const say = (id, words) => {{ document.getElementById(id).textContent = words; }};
const image = document.querySelector("img");
const tell = () => say("shown", image.naturalWidth ? "shown" : "blocked");
if (image.complete) tell(); else image.onload = image.onerror = tell;
fetch("{service}/v1.0/account", {{ headers: {{ "X-API-Key": "none-is-wanted-here" }} }})
  .then((answer) => say("called", answer.headers.get("X-RateLimit-Limit")))
  .catch(() => say("called", "refused"));
</script>"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("shop")
    with hosting(folder) as address:
        yield folder, address


def test_the_documentation_runs_what_comes_from_its_cdn(browser: Browser, tmp_path: Path) -> None:
    complaints: list[str] = []

    def cdn(route: Route) -> None:
        kind = "javascript" if route.request.url.endswith(".js") else "css"
        route.fulfill(body=CDN if kind == "javascript" else "", content_type=f"text/{kind}")

    with serving(tmp_path) as server, browser.new_context() as context:
        page: Page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.route("https://cdn.jsdelivr.net/**", cdn)
        page.route("https://fastapi.tiangolo.com/**", lambda route: route.fulfill(status=204))
        page.goto(f"{server.url}/docs")
        expect(page.locator("#swagger-ui")).to_have_text("DTF image service")
    assert complaints == []


@pytest.mark.parametrize("allowed", [False, True])
def test_a_shops_page_shows_results_and_calls_only_where_it_is_allowed(
    open_page: Opener, shop: tuple[Path, str], tmp_path: Path, *, allowed: bool
) -> None:
    folder, address = shop
    with serving(tmp_path, cors_origins=address if allowed else "") as server:
        (folder / "index.html").write_text(
            SHOPS_PAGE.format(service=server.url, picture=server.url + picture_link(server))
        )
        here = server.url.removeprefix("http://")
        told = ("CORS", "ERR_FAILED")
        page = open_page(f"{address}/index.html", hosts=(here,), expected=told)
        expect(page.locator("#shown")).to_have_text("shown")
        expect(page.locator("#called")).to_have_text("6000" if allowed else "refused")


def picture_link(server: Server) -> str:
    shot = server.shoot(artwork(), models=KNOCKOUT).raise_for_status().json()
    link: str = shot["results"][0]["url"]
    return link
