"""The pick page in a real Chromium, against the real service with the sandbox's providers."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from routers.pages import FILES, PAGES
from sandbox.opening import Sandbox
from sandbox.options import Options, Times
from tests.conftest import DATA, Server, serving
from tests.sandbox_thread import provider_settings, running_sandbox
from tests.web.conftest import CHROMIUM, PHONE, Opener
from tests.web.driving import (
    PICTURE,
    await_all,
    await_check,
    check_print,
    pick,
    send,
    serious,
    shot_id,
    statuses,
    tile,
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium (Debian) is not installed")

RMBG, PORTRAIT, KIE = "runware-rmbg-2.0", "runware-birefnet-portrait", "kie-recraft"
BIREFNET, ISNET, KNOCKOUT = "local-birefnet-general", "local-isnet", "local-knockout"
MOST_BYTES = 150_000


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(Options(times=Times(runware_task_s=0.05))) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def server(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Providers by the sandbox, here the knock-out; no networks, whose weights tests may lack."""
    folder = tmp_path_factory.mktemp("page")
    nowhere = folder / "no-weights"
    with serving(
        folder, knockout_enabled=True, weights_dir=nowhere, **provider_settings(sandbox)
    ) as server:
        yield server


@pytest.fixture(autouse=True)
def no_faults(sandbox: Sandbox) -> Iterator[None]:
    yield
    sandbox.faults.clear()


def test_the_whole_way_from_a_dropped_picture_to_the_bundle(
    server: Server, open_page: Opener
) -> None:
    page = open_page(f"{server.url}/")
    drop(page)
    await_all(page)
    assert list(statuses(page)) == [RMBG, PORTRAIT, KIE, BIREFNET, ISNET, KNOCKOUT]
    assert statuses(page)[KIE] == "succeeded"
    expect(page.locator(".tile .badge", has_text="Recommended")).to_have_count(1)
    expect(tile(page, RMBG).locator(".facts")).to_have_text(re.compile(r"^\d.* s · \$0\.018$"))
    expect(tile(page, KNOCKOUT).locator(".facts")).to_have_text(re.compile(" · free$"))
    pick(page, KNOCKOUT)
    picks = server.client.get("/preferences/export").text.splitlines()
    line = next(json.loads(each) for each in picks if shot_id(page) in each)
    assert line["model"] == KNOCKOUT
    assert [each["model"] for each in line["shown"]] == [RMBG, PORTRAIT, KIE, KNOCKOUT]

    page.locator("#preset").select_option("left_chest")
    expect(page.locator("#gauge-told")).to_have_text(re.compile(r"^1\d\d dpi$"))
    check_print(page)
    findings = page.locator(".finding").count()
    assert findings > 0
    page.get_by_role("button", name=re.compile("^Make it .* in wide$")).first.click()
    await_check(page)
    expect(page.locator("#gauge")).to_have_attribute("data-level", "good")
    assert page.locator(".finding").count() < findings

    with page.expect_download() as printing:
        page.locator("#download-print").click()
    inches = float(page.locator("#width").input_value())
    with Image.open(printing.value.path()) as print_file:
        assert print_file.mode == "RGBA"
        assert print_file.width == pytest.approx(300 * inches, abs=2)
    with page.expect_download() as bundling:
        page.locator("#download-bundle").click()
    assert bundling.value.suggested_filename.endswith(".zip")
    with zipfile.ZipFile(bundling.value.path()) as bundle:
        assert bundle.testzip() is None
        named = {Path(each).name for each in bundle.namelist()}
        assert {"manifest.json", "white.png", "print.png", "cutout.png"} <= named, named


def drop(page: Page) -> None:
    """Let go of a file over the page, as a mouse does."""
    files = page.evaluate_handle(
        """content => {
          const held = new DataTransfer();
          held.items.add(new File([new Uint8Array(content)], "8 ball.png", { type: "image/png" }));
          return held;
        }""",
        list(PICTURE["buffer"]),
    )
    page.locator("#drop").dispatch_event("dragenter", {"dataTransfer": files})
    expect(page.locator("#drop")).to_have_class(re.compile("over"))
    page.locator("#drop").dispatch_event("drop", {"dataTransfer": files})
    expect(page.locator("#pick")).to_be_visible()


def test_a_pasted_picture_is_taken_as_well(server: Server, open_page: Opener) -> None:
    page = open_page(f"{server.url}/")
    page.evaluate(
        """content => {
          const clipboardData = new DataTransfer();
          const file = new File([new Uint8Array(content)], "a.png", { type: "image/png" });
          clipboardData.items.add(file);
          dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
        }""",
        list(PICTURE["buffer"]),
    )
    expect(page.locator("#pick")).to_be_visible()
    await_all(page)


def test_what_is_no_picture_is_said_and_can_be_mended(server: Server, open_page: Opener) -> None:
    page = open_page(f"{server.url}/", expected=("415",))
    page.locator("#file").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": b"nothing of the kind"}
    )
    expect(page.locator("#trouble")).to_contain_text("not a supported image")
    expect(page.locator("#drop")).to_be_visible()
    send(page)
    expect(page.locator("#trouble")).to_be_hidden()
    await_all(page)  # a shot that went on would take the next test's fault


def test_a_provider_that_fails_says_why_and_is_tried_again_alone(
    server: Server, sandbox: Sandbox, open_page: Opener
) -> None:
    sandbox.faults.set("kie.fail_500", times=1)
    page = open_page(f"{server.url}/")
    send(page)
    await_all(page)
    failed = tile(page, KIE)
    expect(failed).to_contain_text("No cut-out")
    expect(failed).to_contain_text("It broke down at this picture.")
    expect(tile(page, ISNET)).to_contain_text("It is not there at the moment.")
    expect(tile(page, RMBG)).to_have_attribute("data-status", "succeeded")
    billed = len(list(sandbox.bill.entries()))
    failed.get_by_role("button", name="Try it again").click()
    expect(failed).to_have_attribute("data-status", "succeeded")
    assert len(list(sandbox.bill.entries())) == billed + 1
    pick(page, KIE)  # out of the second shot
    page.reload()
    expect(page.locator("#print-words")).to_have_text("Cut out by Recraft.")


def test_tiles_fill_in_as_their_models_land(
    server: Server, sandbox: Sandbox, open_page: Opener
) -> None:
    sandbox.faults.set("kie.slow=2", times=1)
    page = open_page(f"{server.url}/")
    send(page)
    expect(tile(page, KNOCKOUT)).to_have_attribute("data-status", "succeeded")
    expect(tile(page, KNOCKOUT).get_by_role("button", name="Pick")).to_be_enabled()
    expect(tile(page, KIE)).to_have_attribute("data-status", "pending")
    expect(tile(page, KIE)).to_contain_text("Working on it")
    expect(page.locator("#pick-words")).to_contain_text("still at work")
    expect(page.locator("#live")).to_contain_text("is ready")
    expect(tile(page, KIE)).to_have_attribute("data-status", "succeeded")
    expect(page.locator("#pick-words")).to_have_text("4 of 6 gave a cut-out.")


def test_a_reload_in_the_middle_finds_everything_again(
    server: Server, sandbox: Sandbox, open_page: Opener
) -> None:
    sandbox.faults.set("kie.slow=2", times=1)
    page = open_page(f"{server.url}/")
    send(page)
    expect(tile(page, KNOCKOUT)).to_have_attribute("data-status", "succeeded")
    page.reload()
    expect(tile(page, KNOCKOUT)).to_have_attribute("data-status", "succeeded")
    expect(tile(page, KIE)).to_have_attribute("data-status", "pending")
    await_all(page)
    assert statuses(page)[KIE] == "succeeded"  # the shot went on without its listener
    tile(page, KIE).get_by_role("button", name="Compare").click()
    expect(page.locator("#compare-left")).to_have_value("original")  # kept by the service
    pick(page, KNOCKOUT)
    page.locator("#preset").select_option("sleeve")
    check_print(page)
    page.reload()
    expect(page.locator("#print")).to_be_visible()
    expect(page.locator("#width")).to_have_value("3.25")
    await_check(page)
    assert server.client.get(f"/results/{shot_id(page)}").json()["status"] == "complete"


def test_a_pick_is_taken_back(server: Server, open_page: Opener) -> None:
    page = open_page(f"{server.url}/")
    send(page)
    await_all(page)
    pick(page, RMBG)
    with page.expect_response(lambda answer: "/preferences/" in answer.url) as undone:
        page.locator("#undo-pick").click()
    assert undone.value.status == 204
    expect(page.locator("#pick")).to_be_visible()
    expect(page.locator("#live")).to_have_text("The pick is taken back.")
    assert shot_id(page) not in server.client.get("/preferences/export").text
    assert "pick=" not in page.url


def test_all_pictures_move_together_and_lie_on_what_is_chosen(
    server: Server, open_page: Opener
) -> None:
    page = open_page(f"{server.url}/")
    send(page)
    await_all(page)
    page.locator("#zoom").fill("3")
    page.get_by_role("button", name="Look further right").click()
    moved = page.locator(".tile .art").evaluate_all(
        "each => each.map((art) => getComputedStyle(art).transform)"
    )
    assert len(moved) == 4
    assert all(each.startswith("matrix(3, 0, 0, 3, ") for each in moved)
    assert all(not each.endswith(", 0, 0)") for each in moved)
    expect(tile(page, RMBG).locator("img")).to_have_attribute("src", re.compile("preview=2048"))
    page.locator("#fit").click()
    page.locator("#swatches .swatch-red").click()
    stage = tile(page, RMBG).locator(".stage")
    expect(stage).to_have_css("background-color", "rgb(190, 24, 45)")
    page.locator("#swatches .cloth").click()
    expect(stage.locator(".shirt-cloth")).to_have_css("fill", "rgb(190, 24, 45)")
    page.get_by_role("button", name="Soft edges").click()
    expect(tile(page, RMBG).locator("img")).to_have_attribute("src", re.compile("overlay=1"))
    page.get_by_role("button", name="Differences").click()
    expect(page.locator("#differences-picture")).to_have_js_property("complete", value=True)
    assert page.locator("#differences-picture").evaluate("image => image.naturalWidth") > 100


def test_the_line_between_two_pictures_can_be_dragged_and_slid(
    server: Server, open_page: Opener
) -> None:
    page = open_page(f"{server.url}/")
    send(page)
    await_all(page)
    tile(page, RMBG).get_by_role("button", name="Compare").click()
    expect(page.locator("#compare-left")).to_have_value("original")
    expect(page.locator("#compare-right")).to_have_value(RMBG)
    box = page.locator(".wiped").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 60, steps=3)
    page.mouse.up()
    expect(page.locator("#wipe")).to_have_value("25")
    page.locator("#wipe").press("ArrowRight")
    expect(page.locator(".cover-right")).to_have_css("clip-path", "inset(0px 0px 0px 26%)")


def test_the_brush_brings_back_and_rubs_out_and_takes_it_back(
    server: Server, open_page: Opener
) -> None:
    page = open_page(f"{server.url}/")
    send(page)
    await_all(page)
    pick(page, KNOCKOUT)
    page.locator("#trim").uncheck()
    page.locator("#edge").select_option("soft")
    page.locator("#brush-toggle").click()
    stroke(page, [(0.04, 0.04), (0.2, 0.04)])  # the ground, cut away: comes back
    page.get_by_role("button", name="Rub out").click()
    stroke(page, [(0.5, 0.5)])
    stroke(page, [(0.3, 0.5)])
    page.locator("#brush-undo").click()  # the last one does not count
    before = alpha(server, page, KNOCKOUT)
    page.locator("#brush-apply").click()
    await_check(page)
    after = alpha(server, page, KNOCKOUT)
    height, width = after.shape

    def at(x: float, y: float) -> tuple[int, int]:
        return int(y * height), int(x * width)

    assert (before[at(0.1, 0.04)], after[at(0.1, 0.04)]) == (0, 255)
    assert (before[at(0.5, 0.5)], after[at(0.5, 0.5)]) == (255, 0)
    assert before[at(0.3, 0.5)] == after[at(0.3, 0.5)] == 255
    assert after[at(0.9, 0.9)] == before[at(0.9, 0.9)]


def stroke(page: Page, points: list[tuple[float, float]]) -> None:
    """Draw through these points of the picture, in parts of its sides."""
    page.locator(".paint").scroll_into_view_if_needed()
    box = page.locator(".paint").bounding_box()
    assert box is not None
    for index, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
        if index == 0:
            page.mouse.down()
    page.mouse.up()


def alpha(server: Server, page: Page, model: str) -> Any:  # noqa: ANN401  # an array
    """Of the rendering that the page is at, or of the shot's cut-out."""
    found = re.search("print=([0-9a-f]{32})", page.url)
    name = found[1] if found else shot_id(page)
    answer = server.client.get(f"/results/{name}/{model}.png").raise_for_status()
    return np.asarray(Image.open(io.BytesIO(answer.content)))[..., 3]


def test_the_keyboard_alone_goes_the_whole_way(server: Server, open_page: Opener) -> None:
    page = open_page(f"{server.url}/")
    tab_to(page, "file")
    with page.expect_file_chooser() as choosing:
        page.keyboard.press("Space")
    choosing.value.set_files(PICTURE)
    expect(page.locator("#pick-title")).to_be_focused()
    await_all(page)
    tab_to(page, "zoom")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#zoom-told")).to_contain_text("1.25")
    tab_to(page, "Pick RMBG 2.0")
    page.keyboard.press("Enter")
    expect(page.locator("#print-title")).to_be_focused()
    tab_to(page, "brush-toggle")
    page.keyboard.press("Enter")
    page.locator(".paint").focus()
    for key in ("ArrowLeft", "Shift+ArrowDown", "Space", "]"):
        page.keyboard.press(key)
    expect(page.locator("#brush-size")).to_have_value("9")
    expect(page.locator("#brush-apply")).to_be_enabled()
    page.keyboard.press("Control+z")
    expect(page.locator("#brush-apply")).to_be_disabled()
    tab_to(page, "width")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    await_check(page)
    tab_to(page, "download-print")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.path().stat().st_size > 1000


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the element of that id or spoken name has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if name in (focused.get_attribute("id"), focused.get_attribute("aria-label")):
            return
    raise AssertionError(f"{name} cannot be reached")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_axe_finds_nothing_serious_in_any_state(
    server: Server, sandbox: Sandbox, open_page: Opener, scheme: str
) -> None:
    sandbox.faults.set("kie.fail_500", times=1)
    page = open_page(f"{server.url}/", color_scheme=scheme, reduced_motion="reduce")
    found = {"start": serious(page)}
    send(page)
    await_all(page)
    page.get_by_role("button", name="Differences").click()
    tile(page, RMBG).get_by_role("button", name="Compare").click()
    found["pick"] = serious(page)
    pick(page, RMBG)
    check_print(page)
    page.locator("#passed").evaluate("details => { details.open = true; }")
    page.locator("#brush-toggle").click()
    found["print"] = serious(page)
    assert found == {"start": [], "pick": [], "print": []}


def test_a_phone_shows_all_of_it_without_scrolling_sideways(
    server: Server, open_page: Opener
) -> None:
    page = open_page(
        f"{server.url}/", viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2
    )
    widths = [page_width(page)]
    send(page)
    await_all(page)
    widths.append(page_width(page))
    targets = page.locator(".tile .button, #views .button").evaluate_all(
        "each => Math.min(...each.map((button) => button.getBoundingClientRect().height))"
    )
    assert targets >= 44
    tile(page, RMBG).get_by_role("button", name="Compare").tap()
    expect(page.locator("#compare")).to_be_visible()
    widths.append(page_width(page))
    tile(page, RMBG).get_by_role("button", name="Pick").tap()
    check_print(page)
    widths.append(page_width(page))
    assert widths == [PHONE["width"]] * 4


def page_width(page: Page) -> int:
    return int(page.evaluate("() => document.documentElement.scrollWidth"))


def test_a_heavy_page_it_is_not(server: Server, open_page: Opener) -> None:
    page = open_page(f"{server.url}/")
    fetched: list[int] = []
    page.on("response", lambda answer: fetched.append(len(answer.body())))
    page.route("**/*", lambda route: route.continue_())  # which switches the cache off
    page.reload()
    page.wait_for_load_state("networkidle")
    assert len(fetched) > 10  # the page, its styles, its modules
    assert sum(fetched) < MOST_BYTES
    assert sum(len(file.content) for file in FILES.values()) < 2 * MOST_BYTES
    assert set(PAGES) <= set(FILES)


def test_a_photograph_in_another_form_is_shown_from_the_service(
    server: Server, open_page: Opener
) -> None:
    """Chromium shows no TIFF: the picture to compare with is the service's own small one."""
    out = io.BytesIO()
    Image.open(DATA / "car-1.jpg").convert("RGB").resize((300, 200)).save(out, "TIFF")
    page = open_page(f"{server.url}/")
    send(page, FilePayload(name="photo.tif", mimeType="image/tiff", buffer=out.getvalue()))
    await_all(page)
    tile(page, KNOCKOUT).get_by_role("button", name="Compare").click()
    expect(page.locator(".cover-left img")).to_have_attribute("src", re.compile("original.webp"))
    page.locator(".cover-left img").evaluate("image => image.decode()")
