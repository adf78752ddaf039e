"""The pictures of docs/PAGE.md: the page driven in Chromium and photographed.

`python -m bench.page_pictures [FOLDER]`; without ISNet's weights the local networks are missing
in them. In the providers' place stand the sandbox's look-alikes.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect, sync_playwright

from bench.upscale_service import ROOT
from sandbox.options import Options, Times
from tests.conftest import DATA, Server, serving
from tests.sandbox_thread import provider_settings, running_sandbox

ART = DATA / "art" / "daffodil_susan_park_01.png"
GROUND = (191, 221, 238)  # sRGB
ISNET = "local-isnet"
_WIDE, _PHONE = 760, 390


def picture() -> FilePayload:
    """The artwork as a customer may have it: on a ground."""
    with Image.open(ART) as opened:
        art = opened.convert("RGBA")
    whole = Image.new("RGBA", (art.width + 200, art.height + 120), (*GROUND, 255))
    whole.alpha_composite(art, (100, 60))
    packed = io.BytesIO()
    whole.convert("RGB").save(packed, "PNG")
    return {"name": "daffodil.png", "mimeType": "image/png", "buffer": packed.getvalue()}


def opened(browser: Browser, server: Server, *, phone: bool = False) -> Page:
    page = browser.new_page(
        viewport={"width": 390, "height": 780} if phone else {"width": 1180, "height": 900},
        color_scheme="dark" if phone else "light",
        reduced_motion="reduce",
    )
    page.goto(f"{server.url}/")
    page.locator("#file").set_input_files(picture())
    expect(page.locator("#pick")).to_be_visible(timeout=20_000)
    expect(page.locator(".tile[data-status=pending]")).to_have_count(0, timeout=90_000)
    return page


def photograph(page: Page, target: Path, *, width: int, height: int) -> None:
    """What is seen from the top, as a WebP of that width."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(500)
    whole = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    shot = whole.convert("RGB").crop((0, 0, whole.width, min(height, whole.height)))
    small = shot.resize((width, round(width * shot.height / shot.width)), Image.Resampling.LANCZOS)
    small.save(target, "WEBP", quality=82, method=6)
    print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB")


def photograph_all(browser: Browser, server: Server, folder: Path) -> None:
    page = opened(browser, server)
    photograph(page, folder / "page-pick.webp", width=_WIDE, height=1100)
    page.locator(f".tile[data-model={ISNET}]").get_by_role("button", name="Compare").click()
    page.locator("#wipe").fill("42")
    page.locator("#compare").evaluate("node => document.querySelector('#tiles').replaceWith(node)")
    photograph(page, folder / "page-compare.webp", width=_WIDE, height=1100)
    page.close()
    page = opened(browser, server)
    page.locator(f".tile[data-model={ISNET}]").get_by_role("button", name="Pick").click()
    page.locator("#preset").select_option("left_chest")
    page.locator("#update").click()
    expect(page.locator("#verdict")).to_be_visible(timeout=30_000)
    photograph(page, folder / "page-print.webp", width=_WIDE, height=1300)
    page.close()
    page = opened(browser, server, phone=True)
    photograph(page, folder / "page-phone.webp", width=_PHONE, height=900)
    page.close()


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    with (
        running_sandbox(Options(times=Times(runware_task_s=0.2))) as sandbox,
        tempfile.TemporaryDirectory() as temp,
        serving(
            Path(temp),
            knockout_enabled=True,
            weights_dir=ROOT / "weights",
            **provider_settings(sandbox),
        ) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        sandbox.faults.set("kie.fail_500")
        photograph_all(browser, server, folder)
        browser.close()


if __name__ == "__main__":
    main()
