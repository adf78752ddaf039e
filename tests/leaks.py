"""What no log may hold, looked for in every log line of the whole test run.

tests/conftest.py makes the hook its own, so that a test whose service logged a key fails, whatever
it was about. Lines on standard output count when they are log lines, and so do those in files that
services of their own wrote into the test's folder.
"""

import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr

from config import Settings

KNOWN: dict[str, str] = {}
"""Secrets that this process's tests have given to a service, with what each is called."""

SHAPES: Mapping[str, re.Pattern[str]] = {
    "an Authorization header": re.compile(r"\b(?:Bearer|Basic) [\w.~+/=-]{8,}"),
    "a session's token": re.compile(r"\bsession\.[\w-]{20,}\.[\w-]{20,}"),
    "a link's token": re.compile(r"[?&]token=[\w%-]{20,}"),
    "base64": re.compile(r"[A-Za-z0-9+/]{200,}"),
    "a picture's bytes": re.compile(r"data:image/|\\x89PNG|JFIF"),
    "a customer's file name": re.compile(r"customer\.png"),
}

_LOG_LINE = re.compile(r'^\{"time": ')
_SHORTEST = 8  # "sandbox" is a key and no secret
_LONGEST_FILE = 16 << 20


def remember(settings: Settings, api_keys: object) -> None:
    """Note what these settings keep secret; `api_keys` as given, for settings keep only digests."""
    for group in vars(settings).values():
        for name, value in group:
            if isinstance(value, SecretStr):
                _note(name, value.get_secret_value())
    if isinstance(api_keys, str):
        for pair in api_keys.split(","):
            _note("an API key", pair.strip().partition(":")[2])


def found_in(lines: Iterable[str]) -> Iterator[str]:
    """For each secret in these log lines: what it is, and the line with it left out."""
    for line in lines:
        for secret, name in KNOWN.items():
            if secret in line:
                yield f"{name} in {line.replace(secret, '…')[:300]}"
        for name, shape in SHAPES.items():
            if shape.search(line):
                yield f"{name} in {shape.sub('…', line)[:300]}"


def log_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if _LOG_LINE.match(line)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test while which something was logged that must not be."""
    report = yield
    written = [text for name, text in report.sections if name.endswith(f" {call.when}")]
    if call.when == "teardown":
        written += _files_of(item)
    leaks = sorted({each for text in written for each in found_in(log_lines(text))})
    if leaks and report.passed:
        report.outcome = "failed"
        report.longrepr = "logged, and must not be:\n" + "\n".join(leaks)
    return report


def _files_of(item: pytest.Item) -> Iterator[str]:
    """The text files in the test's own folder that hold log lines."""
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    for path in sorted(folder.rglob("*")) if isinstance(folder, Path) else ():
        if path.is_file() and not path.is_symlink() and 0 < path.stat().st_size < _LONGEST_FILE:
            with path.open("rb") as file:
                begins_so = file.read(10) == b'{"time": "'
            if begins_so:
                yield path.read_text(errors="replace")


def _note(name: str, secret: str) -> None:
    if len(secret) >= _SHORTEST and not secret.startswith("sandbox"):
        KNOWN[secret] = name
