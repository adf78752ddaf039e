"""Fuzzes target after target: `python -m fuzz --minutes 10 decoding bodies`; `--figures` adds up.

Each target begins with its seeds and with what earlier runs kept in the folder, and ends with its
time or its first finding, whose input lies in TARGET/found. Every run is a line in runs.jsonl.
"""

import argparse
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuzz.target import Target

TARGETS = ("decoding", "png_writing", "bodies", "sealing")

_FOLDER = Path("/tmp/fuzz")  # noqa: S108  # a default that --folder replaces
_LIMITS = ("-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1")


def main() -> int:
    asked = _arguments()
    if asked.figures:
        _print_figures(_runs(asked.folder))
        return 0
    found = 0
    for name in asked.targets or TARGETS:
        for run in _until(name, asked.folder, time.monotonic() + 60 * asked.minutes):
            with (asked.folder / "runs.jsonl").open("a") as file:
                file.write(json.dumps(run) + "\n")
            found += run["findings"]
            print(json.dumps(run), flush=True)
    return 1 if found else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=1.0, help="of each target")
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="corpora, findings, logs")
    parser.add_argument("--figures", action="store_true", help="add up the runs and do nothing")
    return parser.parse_args()


def _until(name: str, folder: Path, end: float) -> Iterator[dict[str, Any]]:
    """Runs of one target until a moment of the monotonic clock, or its first finding."""
    while (seconds := round(end - time.monotonic())) > 0:
        run = _fuzz(name, folder, seconds=seconds)
        yield run
        if run["findings"]:
            return


def _fuzz(name: str, folder: Path, *, seconds: int) -> dict[str, Any]:
    """One run of one target in a process of its own, at the lowest priority."""
    corpus, found = folder / name / "corpus", folder / name / "found"
    for each in (corpus, found):
        each.mkdir(parents=True, exist_ok=True)
    target: Target = importlib.import_module(f"fuzz.{name}").TARGET
    _sow(target, corpus)
    before = len(list(found.iterdir()))
    most = target.at_once or -1
    flags = (
        f"-runs={most}",
        f"-max_total_time={seconds}",
        f"-artifact_prefix={found}/",
        *_LIMITS,
        str(corpus),
    )
    log = folder / name / f"{time.strftime('%m%d-%H%M%S')}.log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "fuzz.engine", name, *flags],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.nice(19),  # noqa: PLW1509  # no thread has been started
        )
        _, _, used = os.wait4(child.pid, 0)
    return {
        "target": name,
        "cpu_s": round(used.ru_utime + used.ru_stime),
        **_read(log.read_text(errors="replace")),
        "findings": len(list(found.iterdir())) - before,
        "log": str(log),
    }


def _sow(target: "Target", corpus: Path) -> None:
    for seed in target.seeds():
        called = hashlib.sha1(seed, usedforsecurity=False).hexdigest()  # as libFuzzer names them
        (corpus / called).write_bytes(seed)


def _read(log: str) -> dict[str, int]:
    """What libFuzzer said: edges and features at the beginning and at the end, and how often."""
    said = re.findall(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+) corp: (\d+)", log, re.MULTILINE)
    if not said:
        return dict.fromkeys(("executions", "edges_before", "edges", "features", "corpus"), 0)
    first, last = said[0], said[-1]
    units = re.search(r"number_of_executed_units:\s*(\d+)", log)
    return {
        "executions": int(units[1] if units else last[0]),
        "edges_before": int(first[1]),
        "edges": int(last[1]),
        "features": int(last[2]),
        "corpus": int(last[3]),
    }


def _runs(folder: Path) -> Iterator[dict[str, Any]]:
    for line in (folder / "runs.jsonl").read_text().splitlines():
        yield json.loads(line)


def _print_figures(runs: Iterator[dict[str, Any]]) -> None:
    """A row for each target, as docs/FUZZING.md has them."""
    kept = list(runs)
    print("| target | runs | CPU hours | executions | edges, first to last | findings |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in TARGETS:
        own = [run for run in kept if run["target"] == name]
        if own:
            hours = sum(run["cpu_s"] for run in own) / 3600
            times = sum(run["executions"] for run in own)
            edges = f"{own[0]['edges_before']} to {max(run['edges'] for run in own)}"
            found = sum(run["findings"] for run in own)
            print(f"| {name} | {len(own)} | {hours:.2f} | {times:,} | {edges} | {found} |")


if __name__ == "__main__":
    sys.exit(main())
