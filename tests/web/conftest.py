"""One Chromium for all tests of the pages, which must make no error and ask no other host."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Request, sync_playwright

CHROMIUM = shutil.which("chromium")
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}

Opener = Callable[..., Page]


@dataclass
class Complaints:
    """What a page should never have: errors in its console, requests to other hosts."""

    heard: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()

    def hear(self, what: str) -> None:
        if not any(each in what for each in self.expected):
            self.heard.append(what)


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    """Its event loop runs until it is closed; no longer than the package, others have their own."""
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="package")
def browser(playwright: Playwright) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium (Debian) is not installed")
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield browser
    browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Opener]:
    """Opens pages in contexts of their own, and complains at the end about what they did wrong.

    `expected` are parts of complaints that belong to the test, `hosts` further ones it may ask.
    """
    with _opening(browser) as opener:
        yield opener


@contextmanager
def _opening(browser: Browser) -> Iterator[Opener]:
    contexts = []
    complaints: list[Complaints] = []

    def opener(
        address: str,
        *,
        expected: tuple[str, ...] = (),
        hosts: tuple[str, ...] = (),
        **wishes: Any,  # noqa: ANN401  # Playwright's own
    ) -> Page:
        context = browser.new_context(**{"viewport": DESK, "accept_downloads": True, **wishes})
        context.set_default_timeout(8_000)
        contexts.append(context)
        told = Complaints(expected=expected)
        complaints.append(told)
        page = context.new_page()
        _listen(page, told, hosts={urlsplit(address).netloc, *hosts})
        page.goto(address)
        return page

    try:
        yield opener
        assert [each for told in complaints for each in told.heard] == []
    finally:
        for context in contexts:
            context.close()


def _listen(page: Page, told: Complaints, *, hosts: set[str]) -> None:
    def on_console(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            told.hear(f"{message.type}: {message.text} ({message.location.get('url')})")

    def on_request(request: Request) -> None:
        here = request.url.startswith(("blob:", "data:"))
        if not here and urlsplit(request.url).netloc not in hosts:
            told.hear(f"another host: {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: told.hear(f"error: {error}"))
    page.on("request", on_request)
