"""`python -m fuzz` runs a target under atheris and adds up what its runs came to.

`make fuzz` is this for every target.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fuzz", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_run_keeps_its_corpus_and_is_added_up(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    done = fuzz("sealing", "--minutes", "0.02", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "sealing" / "corpus").iterdir())) >= 4
    assert not list((tmp_path / "sealing" / "found").iterdir())
    row = fuzz("--figures", "--folder", str(tmp_path)).stdout.splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "sealing"
    assert int(cells[3].replace(",", "")) > 0
    assert cells[5] == "0"
