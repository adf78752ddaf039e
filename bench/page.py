"""How long after its event a tile is painted, in a headless Chromium beside the service.

For each picture: the milliseconds from the moment the page has read a model's event to the frames
in which its tile first tells of it, and in which its cut-out is painted (Element Timing). Their
peer is the fetching of the same preview by an HTTP client in the same run: what the service itself
takes when it has nothing else to do.
"""

import io
import statistics
import tempfile
import time
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect, sync_playwright

from routers.pages import FILES
from sandbox.options import Options, Times
from tests.conftest import DATA, Server, serving
from tests.sandbox_thread import provider_settings, running_sandbox

PREVIEW = 320  # what the page asks for on an ordinary screen
RUNS = 4
SIDES = (640, 2048)
_WATCH = """
  window.painted = [];
  new PerformanceObserver((list) => {
    for (const each of list.getEntries()) window.painted.push([each.identifier, each.renderTime]);
  }).observe({ type: "element", buffered: true });
"""
_READ = """() => window.painted.map(([model, at]) => [
  model, at - performance.getEntriesByName(`landed ${model.split(" ")[0]}`)[0].startTime, at])"""


def picture(side: int) -> FilePayload:
    """A piece of artwork on white of that many pixels a side."""
    with Image.open(DATA / "art" / "8_ball_jarno_vasamaa.png") as art:
        large = art.convert("RGBA").resize((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    Image.alpha_composite(Image.new("RGBA", large.size, "white"), large).convert("RGB").save(
        out, "PNG", compress_level=1
    )
    return FilePayload(name="a.png", mimeType="image/png", buffer=out.getvalue())


def painted_ms(page: Page, server: Server, sent: FilePayload) -> tuple[list[float], list[float]]:
    """From event to paint, in the order of painting: of the tiles' words, and of their pictures."""
    page.goto(f"{server.url}/")
    page.locator("#file").set_input_files(sent)
    expect(page.locator("#pick")).to_be_visible()
    expect(page.locator(".tile[data-status=pending]")).to_have_count(0, timeout=60_000)
    for image in page.locator(".tile img").all():
        image.evaluate("image => image.decode()")
    page.wait_for_timeout(300)
    first = {row[0]: row for row in sorted(page.evaluate(_READ), key=lambda row: -row[2])}
    rows = sorted(first.values(), key=lambda row: row[2])
    words = [row[1] for row in rows if row[0].endswith(" facts")]
    return words, [row[1] for row in rows if not row[0].endswith(" facts")]


def preview_ms(server: Server, request_id: str) -> float:
    """What the service takes for the same preview, not kept anywhere in between."""
    record = server.client.get(f"/results/{request_id}").json()
    links = [each["url"] for each in record["results"] if each["status"] == "succeeded"]
    began = time.perf_counter()
    for link in links:
        server.client.get(link, params={"preview": PREVIEW}).raise_for_status()
    return 1000 * (time.perf_counter() - began) / len(links)


def main() -> None:
    weight = sum(len(file.content) for name, file in FILES.items() if "ops" not in name)
    print(f"all files of the pick page: {weight / 1000:.0f} kB")
    options = Options(times=Times(runware_task_s=0.2))
    with (
        running_sandbox(options) as sandbox,
        tempfile.TemporaryDirectory() as folder,
        serving(
            Path(folder),
            knockout_enabled=True,
            weights_dir=Path(folder) / "none",
            **provider_settings(sandbox),
        ) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.add_init_script(_WATCH)
        print("| picture | first tile | every tile | first picture | every picture | the preview |")
        print("| --- | --- | --- | --- | --- | --- |")
        for side in SIDES:
            print(_row(page, server, side))
        browser.close()


def _row(page: Page, server: Server, side: int) -> str:
    sent = picture(side)
    columns: list[list[float]] = [[] for _ in range(5)]
    for _ in range(RUNS):
        words, pictures = painted_ms(page, server, sent)
        taken = preview_ms(server, page.url.partition("shot=")[2][:32])
        for column, more in zip(
            columns, (words[:1], words, pictures[:1], pictures, [taken]), strict=True
        ):
            column.extend(more)
    shown = (f"{statistics.median(each):.0f} (at most {max(each):.0f})" for each in columns)
    return f"| {side} x {side} | {' | '.join(shown)} |"


if __name__ == "__main__":
    try:
        main()
    except httpx.HTTPError as error:
        raise SystemExit(f"the service did not answer: {error}") from None
