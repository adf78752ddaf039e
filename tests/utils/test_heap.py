"""Memory that was freed goes back to the system."""

import subprocess
import sys
from pathlib import Path

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


def printed(script: str, *arguments: Path | int) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_trimming_gives_freed_blocks_back() -> None:
    assert int(printed(FREEING)) > 80_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_after_large_work_it_is_given_back_and_after_small_work_kept() -> None:
    after = "import sys\n" + FREEING.replace("trim()", "trim_after(int(sys.argv[1]))")
    assert int(printed(after, 256 << 20)) > 80_000_000
    assert int(printed(after, 1 << 20)) < 20_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_taming_takes() -> None:
    assert printed(TAMING) == "True"


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    from utils import heap

    monkeypatch.setattr(sys, "platform", "plan9")
    assert not heap.tame()
    assert not heap.trim()


BURST = """
import sys, threading
import numpy as np
from utils import heap, memory
if int(sys.argv[1]):
    heap.share_arenas(int(sys.argv[1]))
heap.keep(32 << 20, idle_bytes=64 << 20)
together = threading.Barrier(16)

def work():
    together.wait()
    for _ in range(3):
        blocks = [np.ones(12 << 20, np.uint8) for _ in range(3)]
        del blocks
    together.wait()

threads = [threading.Thread(target=work) for _ in range(16)]
idle = memory.resident_bytes()
[each.start() for each in threads]
[each.join() for each in threads]
heap.trim()
print(memory.resident_bytes() - idle)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_after_a_burst_of_threads_shared_heaps_keep_little_and_heaps_of_their_own_much() -> None:
    assert int(printed(BURST, 2)) < 100_000_000
    assert int(printed(BURST, 0)) > 200_000_000


DROPPING = """
import mmap, re, sys
from pathlib import Path
from utils import heap

def mapped_kb():
    return int(re.search(r"RssFile:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

path = Path(sys.argv[1])
with path.open("rb") as file:
    view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
before = hash(view[:])
full = mapped_kb()
with heap.dropping_pages(path):
    pass
print(full - mapped_kb(), hash(view[:]) == before, heap.drop_pages(path.with_name("other")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc only")
def test_pages_of_a_mapped_file_are_let_go_of_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"w" * 20_000_000)
    dropped_kb, same, elsewhere = printed(DROPPING, path).split()
    assert int(dropped_kb) > 15_000
    assert same == "True"
    assert elsewhere == "0"
