"""Memory that was freed goes back to the system."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

# Many blocks below glibc's mmap threshold, a survivor at the top that pins the heap.
FREEING = """
from utils import heap, memory
blocks = [bytearray(100_000) for _ in range(1000)]
pin = bytearray(100_000)
full = memory.resident_bytes()
del blocks
heap.trim()
print(full - memory.resident_bytes())
"""

TAMING = """
from utils import heap
print(heap.tame())
"""


def printed(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_trimming_gives_freed_blocks_back() -> None:
    assert int(printed(FREEING)) > 80_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_taming_takes() -> None:
    assert printed(TAMING) == "True"


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    from utils import heap

    monkeypatch.setattr(sys, "platform", "plan9")
    assert not heap.tame()
    assert not heap.trim()
