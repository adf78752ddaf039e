"""What the service holds while bench.load runs: memory by process, descriptors, threads, files."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from threading import Event, Thread

import httpx

from bench.memory_watch import ControlGroup, pss_bytes, tree

MB = 1_000_000
_SAMPLE_S = 1.0
_PROBE_S = 0.5
_FILES_EVERY_S = 10
_RESULTS, _DATA = "results", "data"


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment; `at_s` since the watch began. Files are those of TEMP_DIR."""

    at_s: float
    service_mb: float
    others_mb: float
    group_mb: float | None
    descriptors: int
    threads: int
    children: int
    result_files: int
    result_mb: float
    other_files: int

    @property
    def tree_mb(self) -> float:
        return self.service_mb + self.others_mb


@dataclass(slots=True)
class Watch:
    """Samples of the service's tree by the second, and how quickly /health answered."""

    pid: int
    temp_dir: Path
    group: ControlGroup | None
    began: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)
    health_s: list[tuple[float, float]] = field(default_factory=list)
    health_failed: int = 0
    _files: tuple[float, int, float, int] = (-_FILES_EVERY_S, 0, 0.0, 0)

    def now_s(self) -> float:
        return time.monotonic() - self.began

    def sample(self) -> Sample:
        pids = tree(self.pid)
        held = [pss_bytes(each) / MB for each in pids]
        count, megabytes, others = self._counted_files()
        return Sample(
            at_s=round(self.now_s(), 1),
            service_mb=round(held[0], 1),
            others_mb=round(sum(held[1:]), 1),
            group_mb=round(self.group.usage_bytes() / MB, 1) if self.group else None,
            descriptors=_entries(Path(f"/proc/{self.pid}/fd")),
            threads=_entries(Path(f"/proc/{self.pid}/task")),
            children=len(pids) - 1,
            result_files=count,
            result_mb=megabytes,
            other_files=others,
        )

    def _counted_files(self) -> tuple[int, float, int]:
        """As they were within the last seconds: to count thousands takes a while."""
        if self.now_s() - self._files[0] >= _FILES_EVERY_S:
            results, others = _files(self.temp_dir)
            self._files = (self.now_s(), len(results), round(sum(results) / MB, 1), others)
        return self._files[1:]

    def mean_of(self, seconds: float) -> Sample:
        """What the last seconds' samples say on average; counts as they are now."""
        late = [each for each in self.samples if each.at_s > self.now_s() - seconds]
        last = self.sample()
        late = late or [last]
        return Sample(
            at_s=last.at_s,
            service_mb=round(fmean(each.service_mb for each in late), 1),
            others_mb=round(fmean(each.others_mb for each in late), 1),
            group_mb=last.group_mb,
            descriptors=last.descriptors,
            threads=last.threads,
            children=last.children,
            result_files=last.result_files,
            result_mb=last.result_mb,
            other_files=last.other_files,
        )


@contextmanager
def watching(watch: Watch, address: str) -> Iterator[Watch]:
    """Sample and probe until the block ends."""
    done = Event()
    threads = [
        Thread(target=_every, args=(_SAMPLE_S, done, lambda: _add(watch)), daemon=True),
        Thread(target=_probe, args=(watch, address, done), daemon=True),
    ]
    for each in threads:
        each.start()
    try:
        yield watch
    finally:
        done.set()
        for each in threads:
            each.join()


def _add(watch: Watch) -> None:
    watch.samples.append(watch.sample())


def _every(seconds: float, done: Event, act: Callable[[], None]) -> None:
    while not done.wait(seconds):
        act()


def _probe(watch: Watch, address: str, done: Event) -> None:
    with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:

        def ask() -> None:
            begun = time.perf_counter()
            try:
                good = client.get("/health").is_success
            except httpx.HTTPError:
                good = False
            watch.health_failed += not good
            watch.health_s.append((watch.now_s(), time.perf_counter() - begun))

        _every(_PROBE_S, done, ask)


def _entries(folder: Path) -> int:
    with suppress(OSError):
        return sum(1 for _ in folder.iterdir())
    return 0


def _files(temp_dir: Path) -> tuple[list[int], int]:
    """Sizes of the results' files, and how many others there are; of DATA_DIR neither."""
    results: list[int] = []
    others = 0
    for folder, _, names in os.walk(temp_dir):  # what vanishes meanwhile is passed over
        place = Path(folder).relative_to(temp_dir).parts[:1]
        if place == (_RESULTS,):
            results += [_size(Path(folder) / name) for name in names]
        elif place != (_DATA,):
            others += len(names)
    return results, others


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
