"""The watch over the logs of the whole test run sees what it is there to see."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import leaks
from tests.conftest import ROOT, make_settings

KEY = "a-key-that-only-this-test-has"
LINE = '{"time": "2026-11-24", "event": "%s"}'

SECRETS = {
    "an API key": KEY,
    "kie_api_key": "another-key-of-this-test",
    "an Authorization header": "Authorization: Bearer 0123456789abcdef",
    "a session's token": "session.eyJrIjoic2hvcCIsImUiOjF9abc.0123456789abcdefghijk",
    "a link's token": "/results/0/original.webp?token=AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "base64": "iVBORw0KGgo" * 20,
    "a picture's bytes": r"b'\x89PNG\r\n'",
    "a customer's file name": "customer.png",
}


@pytest.fixture(autouse=True)
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "KNOWN", {})
    make_settings(tmp_path, api_keys=f"shop:{KEY}", kie_api_key=SECRETS["kie_api_key"])


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_secret_in_a_log_line_is_found_and_not_repeated(name: str) -> None:
    found = list(leaks.found_in([LINE % SECRETS[name]]))
    assert [each for each in found if each.startswith(f"{name} in ")]
    assert KEY not in "".join(found)


def test_harmless_lines_pass() -> None:
    harmless = [LINE % words for words in ("request", "token", "session", "results/0123")]
    assert not list(leaks.found_in(harmless))


def test_the_sandbox_key_is_no_secret(tmp_path: Path) -> None:
    make_settings(tmp_path, kie_api_key="sandbox:fault=kie.no_credits")
    assert "sandbox" not in "".join(leaks.KNOWN)


def test_a_test_fails_whose_output_or_files_have_a_secret_in_a_log_line(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.leaks import pytest_runtest_makereport\n")
    (tmp_path / "test_three.py").write_text(
        f"LINE = {LINE % 'customer.png'!r}\n"
        "def test_prints(): print(LINE)\n"
        "def test_writes(tmp_path): (tmp_path / 'service.log').write_text(LINE)\n"
        "def test_says_it_elsewhere(): print('customer.png')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 failed, 2 passed, 1 error in" in done.stdout, done.stdout
    assert "FAILED test_three.py::test_prints - logged, and must not be" in done.stdout
    assert "ERROR test_three.py::test_writes - logged, and must not be" in done.stdout
