"""A kept secret is made once, whoever comes first, and only its owner may read it."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from utils.kept_secret import SECRET_BYTES, kept_secret


def test_a_secret_is_random_kept_and_private(tmp_path: Path) -> None:
    path = tmp_path / "data" / "signing.key"
    secret = kept_secret(path)
    assert len(secret) == SECRET_BYTES
    assert path.read_bytes() == secret
    assert path.stat().st_mode & 0o777 == 0o600
    assert kept_secret(path) == secret
    assert kept_secret(tmp_path / "another") != secret


def test_what_a_crash_left_half_written_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    path.write_bytes(b"half")
    secret = kept_secret(path)
    assert len(secret) == SECRET_BYTES
    assert not secret.startswith(b"half")
    assert path.read_bytes() == secret


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from utils.kept_secret import kept_secret\n"
        "sys.stdin.readline()\n"
        "print(kept_secret(Path(sys.argv[1])).hex())"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "signing.key")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for each in started:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    secrets = {each.communicate(timeout=30)[0].strip() for each in started}
    assert secrets == {(tmp_path / "signing.key").read_bytes().hex()}
