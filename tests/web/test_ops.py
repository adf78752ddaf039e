"""The operator view in a real Chromium, against the service with the sandbox's providers."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, ViewportSize, expect

from models.schemas import ModelId
from sandbox.opening import Sandbox
from sandbox.options import Options, Times
from tests.conftest import Server, artwork, serving
from tests.fakes import FakeRemover
from tests.sandbox_thread import provider_settings, running_sandbox

KEY = "a-key-of-the-shop-01"
PICTURE = artwork(width=300, height=280)
PAID = "runware-rmbg-2.0,runware-birefnet-portrait,kie-recraft"
RMBG, PORTRAIT, KIE = PAID.split(",")
ISNET = ModelId.LOCAL_ISNET.value
FAILED_SHOT, BAD_REQUEST = "order-4712", "order-4711"
NOTHING = "\N{EN DASH}"
PHONE: ViewportSize = {"width": 360, "height": 740}
DESK: ViewportSize = {"width": 1200, "height": 800}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(Options(times=Times(kie_step_s=0.02))) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def server(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A day at a shop: shots, picks, a provider that failed once, a request that was wrong."""
    with serving(
        tmp_path_factory.mktemp("ops"),
        stand_ins={ModelId.LOCAL_ISNET: FakeRemover(ModelId.LOCAL_ISNET)},
        api_keys=f"shop:{KEY}",
        daily_budget_usd=5,
        key_daily_budgets="shop=0.2",
        memory_limit_mb=4096,
        **{**provider_settings(sandbox), "provider_pace": 0.02},
    ) as server:
        server.client.headers["Authorization"] = f"Bearer {KEY}"
        for taken in (RMBG, RMBG, ISNET):
            shot = server.shoot(PICTURE, models=f"{PAID},{ISNET}").raise_for_status().json()
            pick = {"request_id": shot["request_id"], "model": taken}
            server.client.post("/preferences", json=pick).raise_for_status()
        sandbox.faults.set("kie.create_500")
        ask(server, PICTURE, FAILED_SHOT, models=f"{KIE},{ISNET}")
        sandbox.faults.clear()
        ask(server, b"", BAD_REQUEST)
        yield server


def ask(server: Server, picture: bytes, request_id: str, **asked: str) -> None:
    server.client.post(
        "/remove-background",
        files={"image": ("a.png", picture)},
        data=asked,
        headers={"X-Request-ID": request_id},
    )


@dataclass
class Visit:
    """One page in a context of its own, with all that it said and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    hosts: set[str] = field(default_factory=set)

    def open(self, key: str = KEY) -> Page:
        self.page.fill("#key", key)
        self.page.click("#open")
        return self.page

    def ready(self) -> Page:
        """Opened, and every route has answered."""
        self.open()
        for each in ("#models td", "#latency svg", "#memory svg", "#spending svg", "#errors td"):
            self.page.wait_for_selector(each, state="attached")
        self.page.wait_for_selector("#wins svg")
        return self.page


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Callable[..., Visit]]:
    """Opens the page; what it says on the console is in `said`."""
    contexts = []

    def go(address: str = "", *, size: ViewportSize = DESK, dark: bool = False) -> Visit:
        scheme: Any = "dark" if dark else "light"
        context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
        contexts.append(context)
        context.set_default_timeout(15_000)
        visit = Visit(context.new_page())
        visit.page.on("console", lambda each: visit.said.append(f"{each.type}: {each.text}"))
        visit.page.on("pageerror", lambda error: visit.said.append(str(error)))
        visit.page.on("request", lambda each: _note(visit, each.url))
        visit.page.goto(f"{address or server.url}/ops")
        return visit

    yield go
    for context in contexts:
        context.close()


def _note(visit: Visit, url: str) -> None:
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    visit.hosts.add(f"{scheme}://{host}")
    visit.asked[path.partition("?")[0]] += 1


def told(server: Server, path: str) -> Any:  # noqa: ANN401  # JSON
    return server.client.get(path).raise_for_status().json()


def row(page: Page, panel: str, name: str) -> dict[str, str | float]:
    """A row of a table by the names of its columns: exact numbers where it has them, else text."""
    found: dict[str, str | float] = page.evaluate(
        """([panel, name]) => {
          const tables = [...document.querySelectorAll(`#${panel} table`)];
          const value = (cell) => {
            const data = cell.querySelector("data");
            return data ? Number(data.value) : cell.textContent;
          };
          for (const table of tables)
            for (const row of table.querySelectorAll("tbody tr"))
              if (row.cells[0].textContent === name) {
                const titles = [...table.querySelectorAll("thead th")].map((th) => th.textContent);
                return Object.fromEntries(titles.map((title, i) => [title, value(row.cells[i])]));
              }
          throw new Error(`no row ${name} in ${panel}`);
        }""",
        [panel, name],
    )
    return found


def test_the_numbers_are_those_of_the_routes(server: Server, visit: Callable[..., Visit]) -> None:
    visited = visit()
    page = visited.ready()
    models = {each["id"]: each for each in told(server, "/models")["models"]}
    costs = told(server, "/costs?days=30")
    ready = told(server, "/ready")
    spend = {each["model"]: each for each in costs["spend"]}
    assert spend.keys() == {RMBG, PORTRAIT, KIE}
    for name, model in models.items():
        shown = row(page, "models", name)
        today = model["latency_ms"]["today"]
        assert shown["Answers today"] == today["count"]
        assert shown["Median"] == (today["p50"] if today["count"] else NOTHING)
        assert shown["95 %"] == (today["p95"] if today["count"] > 1 else NOTHING)
        assert shown["Cost today"] == spend.get(name, {"cost_usd": 0})["cost_usd"]
        assert str(shown["State"]).startswith(model["status"])
        assert (model["reason"] or "") in str(shown["State"])
    for name, spent in spend.items():
        assert row(page, "models", name)["Paid tasks today"] == spent["tasks"]
        assert row(page, "spent", name)["Cost"] == spent["cost_usd"]
    assert row(page, "spending", costs["until"])["Cost"] == costs["cost_usd"]
    for budget, name in zip(costs["budgets"], ("All keys together", "Key shop"), strict=True):
        shown = row(page, "budgets", name)
        assert [shown["Limit"], shown["Settled"], shown["Left"]] == [
            budget["limit_usd"],
            budget["settled_usd"],
            budget["left_usd"],
        ]
    for wins in told(server, "/preferences/stats")["models"]:
        shown = row(page, "wins", wins["model"])
        assert (shown["Shown"], shown["Wins"]) == (wins["shown"], wins["wins"])
        assert (shown["Win rate"], shown["From"]) == (wins["win_rate"], wins["win_rate_low"])
        assert shown["Strength"] == wins["strength"]
    memory = ready["memory"]
    assert row(page, "memory", "Local networks")["MiB"] == memory["networks_mb"]
    assert row(page, "memory", "Shots, free")["MiB"] == memory["shots_mb"]
    assert row(page, "queue", "Shots running")["At most"] == ready["queue"]["running_limit"]
    assert row(page, "queue", "Enlargements waiting")["At most"] == 32
    assert page.inner_text("#updated").startswith("Updated ")
    assert visited.said == []
    assert visited.hosts == {server.url}


def test_every_chart_is_named_described_and_has_its_numbers_as_a_table(
    visit: Callable[..., Visit],
) -> None:
    page = visit().ready()
    charts = page.locator("figure.chart")
    assert charts.count() == 8
    for chart in charts.all():
        named = chart.locator("svg[role=img]").get_attribute("aria-labelledby") or ""
        title, desc = (page.locator(f"#{each}").text_content() for each in named.split())
        assert title
        assert desc
        numbers = chart.locator("table data").evaluate_all("all => all.map((each) => each.value)")
        assert numbers
    assert "picked 2 times of 3, 67 %" in (page.locator("#wins desc").text_content() or "")


def test_a_model_that_failed_is_found_by_its_request_id(visit: Callable[..., Visit]) -> None:
    page = visit().ready()
    lines = page.locator("#errors tbody tr")
    page.fill("#find", FAILED_SHOT)
    expect(lines).to_have_count(1)
    expect(lines).to_contain_text("model kie-recraft")
    expect(lines).to_contain_text("provider_error")
    assert row(page, "breakers", "kie")["Failures"] > 0  # type: ignore[operator]
    page.fill("#find", BAD_REQUEST)
    expect(lines).to_contain_text("POST /remove-background")
    expect(lines).to_contain_text("empty_file")
    page.fill("#find", "nothing-like-it")
    expect(lines).to_have_count(0)


def test_a_wrong_key_is_said_plainly_and_the_right_one_is_kept_nowhere(
    server: Server, visit: Callable[..., Visit]
) -> None:
    visited = visit()
    page = visited.open("no-such-key")
    expect(page.locator("#wrong")).to_have_text("This key is not known here.")
    expect(page.locator("#panels")).to_be_hidden()
    visited.open("ключ")
    expect(page.locator("#wrong")).to_have_text("This key is not known here.")
    token = server.client.post("/sessions").raise_for_status().json()["token"]
    visited.open(token)
    expect(page.locator("#wrong")).to_contain_text("browser session")
    visited.ready()
    kept = page.evaluate(
        """async () => JSON.stringify([
          {...localStorage}, {...sessionStorage}, document.cookie, location.href, history.state,
          document.documentElement.outerHTML, document.querySelector("#key").value,
          await caches.keys(), (await indexedDB.databases()).length])"""
    )
    assert KEY not in kept
    assert json.loads(kept)[:3] == [{}, {}, ""]
    page.click("#forget")
    expect(page.locator("#door")).to_be_visible()
    assert page.locator("#panels").is_hidden()
    visited.ready()
    page.reload()
    expect(page.locator("#door")).to_be_visible()


def test_without_keys_the_page_opens_at_once(
    visit: Callable[..., Visit], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with serving(tmp_path_factory.mktemp("open")) as open_service:
        visited = visit(open_service.url)
        expect(visited.page.locator("#models")).to_contain_text("local-knockout")
        expect(visited.page.locator("#wins")).to_contain_text("Nobody has picked")
        expect(visited.page.locator("#errors-words")).to_contain_text("None since")
        assert visited.page.locator("#door").is_hidden()
        assert visited.page.locator("#forget").is_hidden()
        assert visited.said == []
        visited.page.context.close()


def test_a_route_that_fails_is_named_in_its_panels_and_the_others_go_on(
    visit: Callable[..., Visit],
) -> None:
    visited = visit()
    page = visited.ready()
    spent = row(page, "spent", RMBG)

    def broken(route: Route) -> None:
        route.fulfill(status=500, json={"code": "internal_error", "detail": "The ledger is gone."})

    page.route(re.compile("/costs"), broken)
    page.click("#refresh")
    trouble = page.locator('[data-panel="money"] [data-trouble]')
    expect(trouble).to_contain_text("/costs: The ledger is gone. Asked again in 20 s.")
    expect(page.locator('[data-panel="errors"] [data-trouble]')).to_be_empty()
    assert row(page, "spent", RMBG) == spent
    page.unroute(re.compile("/costs"))
    page.click("#refresh")
    expect(trouble).to_be_empty()
    expect(page.locator("#live")).to_have_text("/costs answers again.")


def test_a_service_that_is_gone_and_a_key_that_was_taken_away_are_said(
    visit: Callable[..., Visit],
) -> None:
    page = visit().ready()
    page.route(re.compile("/ready"), lambda route: route.abort())
    page.click("#refresh")
    expect(page.locator("#state")).to_have_text("not known")
    expect(page.locator('[data-panel="queue"]')).to_contain_text("/ready: It does not answer.")
    refusal = {"code": "invalid_key", "detail": "The key is not known here."}
    page.route(re.compile("/errors"), lambda route: route.fulfill(status=401, json=refusal))
    page.click("#refresh")
    expect(page.locator("#wrong")).to_have_text("The key is not known any more.")
    expect(page.locator("#panels")).to_be_hidden()


def test_a_route_is_asked_more_slowly_the_longer_it_fails(visit: Callable[..., Visit]) -> None:
    page = visit().page
    page.clock.install()
    page.evaluate(
        """async () => {
          const { Trouble, feed } = await import("/web/js/ops-feed.js");
          const tries = (window.tries = { good: [], bad: [], late: [] });
          const began = Date.now();
          const watch = (name, fails) => feed({
            everyMs: 10_000,
            load: async () => {
              tries[name].push((Date.now() - began) / 1000);
              if (fails) throw fails;
              return {};
            },
            heard: () => {},
            failed: () => {},
          }).now();
          watch("good", null);
          watch("bad", new Trouble("gone"));
          watch("late", new Trouble("busy", { status: 503, retryAfterS: 200 }));
        }"""
    )
    page.clock.run_for(400_000)
    tries = page.evaluate("window.tries")
    assert [round(each) for each in tries["good"]] == list(range(0, 401, 10))
    assert [round(each) for each in tries["bad"]] == [0, 20, 60, 140, 260, 380]
    assert [round(each) for each in tries["late"]] == [0, 200, 400]


def test_it_asks_nothing_while_paused_or_hidden(visit: Callable[..., Visit]) -> None:
    visited = visit()
    page = visited.page
    page.clock.install()
    page.reload()
    visited.ready()
    with page.expect_request(re.compile("/models")):
        page.clock.run_for(11_000)
    page.click("#pause")
    before = visited.asked.copy()
    page.clock.run_for(300_000)
    assert visited.asked == before
    with page.expect_request(re.compile("/models")):
        page.click("#pause")
    _hide(page, hidden=True)
    before = visited.asked.copy()
    page.clock.run_for(300_000)
    assert visited.asked == before
    with page.expect_request(re.compile("/models")):
        _hide(page, hidden=False)


def _hide(page: Page, *, hidden: bool) -> None:
    page.evaluate(
        """(hidden) => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_by_keyboard_alone(server: Server, visit: Callable[..., Visit]) -> None:
    page = visit().page
    page.wait_for_selector("#door:not([hidden])")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#wins svg")
    expect(page.locator("#main")).to_be_focused()
    page.locator("#wins summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#wins table")).to_be_visible()
    page.locator("#models .scroll").focus()
    server.shoot(PICTURE, models="local-knockout").raise_for_status()
    page.evaluate("document.querySelector('#refresh').click()")
    expect(page.locator("#models tr", has_text="local-knockout")).to_contain_text("1")
    expect(page.locator("#models .scroll")).to_be_focused()  # what is new takes no focus
    expect(page.locator("#wins table")).to_be_visible()  # and folds nothing
    page.locator("#pause").focus()
    page.keyboard.press("Space")
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")


def test_on_a_phone_nothing_sticks_out_and_fingers_find_their_targets(
    visit: Callable[..., Visit],
) -> None:
    page = visit(size=PHONE).ready()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    cards = page.locator(".card:visible").evaluate_all(
        "all => all.map((each) => [each.scrollWidth, each.clientWidth])"
    )
    assert [pair for pair in cards if pair[0] > pair[1]] == []
    small = page.locator("button:visible, select:visible, input:visible").evaluate_all(
        "all => all.filter((each) => each.clientHeight < 42).map((each) => each.id)"
    )
    assert small == []


@pytest.mark.parametrize(("size", "dark"), [(PHONE, False), (DESK, True)], ids=["light", "dark"])
def test_axe_finds_nothing_serious(
    visit: Callable[..., Visit], size: ViewportSize, dark: bool
) -> None:
    visited = visit(size=size, dark=dark)
    page = visited.open("no-such-key")
    expect(page.locator("#wrong")).to_be_visible()
    assert _serious(page) == []
    visited.ready()
    page.locator("summary").evaluate_all("all => all.forEach((each) => each.click())")
    page.route(re.compile("/costs"), lambda route: route.abort())
    page.click("#refresh")
    expect(page.locator('[data-panel="money"] .notice')).to_be_visible()
    assert _serious(page) == []


def _serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['html'][:120]}"
        for each in found
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]
