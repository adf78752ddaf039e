"""The audit finds what is planted: an advisory, an unsafe call, a committed key."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts import audit

ADVISORY = {
    "id": "PYSEC-0000-1",
    "summary": "made up",
    "affected": [
        {
            "package": {"name": "httpx", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
        }
    ],
}


class _Database(BaseHTTPRequestHandler):
    """An OSV database that knows one advisory, against httpx."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        about_httpx = asked["package"]["name"] == "httpx"
        body = json.dumps({"vulns": [ADVISORY]} if about_httpx else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def database() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Database) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def test_an_advisory_against_a_pinned_package_is_found(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pinned = tmp_path / "requirements.txt"
    pinned.write_text("httpx==0.28.1 --hash=sha256:" + "0" * 64 + "\n")
    monkeypatch.setattr(audit, "PINNED", (str(pinned),))
    assert audit.main(["--only", "packages", "--osv-url", database]) == 1
    said = capsys.readouterr().out
    assert "httpx 0.28.1: PYSEC-0000-1, mended in 99.1" in said
    assert "NOT AUDITED" not in said


def test_an_unsafe_call_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "unsafe.py").write_text("import yaml\n\nyaml.load(open('a'))\n")
    monkeypatch.setattr(audit, "OURS", (str(tmp_path),))
    assert audit.main(["--only", "code"]) == 1
    assert "yaml_load" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "status"), [("nothing = 1", 0), ("AKIA" + "Q" * 16, 1)])
def test_a_committed_key_is_found(
    text: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.txt").write_text(f'key = "{text}"\n')
    monkeypatch.setattr(audit, "_committed", lambda: iter([str(tmp_path / "settings.txt")]))
    assert audit.main(["--only", "secrets"]) == status
