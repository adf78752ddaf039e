"""What a customer does on the pick page, for the tests that play one."""

import io
import re

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.conftest import DATA


def _on_white() -> bytes:
    """A piece of artwork as customers have it: on a white ground, for all models to cut out."""
    with Image.open(DATA / "art" / "8_ball_jarno_vasamaa.png") as art:
        small = art.convert("RGBA").resize((640, 640))
    ground = Image.new("RGBA", small.size, "white")
    out = io.BytesIO()
    Image.alpha_composite(ground, small).convert("RGB").save(out, "PNG")
    return out.getvalue()


PICTURE = FilePayload(name="8 ball.png", mimeType="image/png", buffer=_on_white())


def send(page: Page, picture: FilePayload = PICTURE) -> None:
    """Choose a picture as with the file dialogue; returns when the tiles are there."""
    page.locator("#file").set_input_files(picture)
    expect(page.locator("#pick")).to_be_visible()


def tile(page: Page, model: str) -> Locator:
    return page.locator(f".tile[data-model='{model}']")


def await_all(page: Page) -> None:
    """Until no model is at work any more and every cut-out is painted."""
    expect(page.locator(".tile[data-status=pending]")).to_have_count(0)
    for image in page.locator(".tile img").all():
        expect(image).to_have_js_property("complete", value=True)


def statuses(page: Page) -> dict[str, str]:
    return {
        each.get_attribute("data-model") or "": each.get_attribute("data-status") or ""
        for each in page.locator(".tile").all()
    }


def pick(page: Page, model: str) -> None:
    tile(page, model).get_by_role("button", name="Pick").click()
    expect(page.locator("#print")).to_be_visible()


def check_print(page: Page) -> None:
    page.locator("#update").click()
    await_check(page)


def await_check(page: Page) -> None:
    expect(page.locator("#checks")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#checks-words")).to_have_text(
        re.compile("to know before it is printed|will print well")
    )


def shot_id(page: Page) -> str:
    found = re.search("shot=([0-9a-f]{32})", page.url)
    assert found is not None, page.url
    return found[1]


def serious(page: Page) -> list[str]:
    """What axe-core finds in the page as it stands, of what keeps people out."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['target']} {node.get('failureSummary', '')}"
        for each in found
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]
