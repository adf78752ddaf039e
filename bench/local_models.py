"""The local networks in all their forms: time and memory, beside what the hardware could do.

    python -m bench.local_models [--only full|lite|isnet]... [--threads 1 2] [--no-stock]

BiRefNet-General and its lite sibling are graphs of the released shape with random weights
(`python -m bench.birefnet_graph [--lite]` makes them), ISNet is the real one from weights/. Every
row is a process of its own, one after another, at 1024x1024 with the same noise; a whole run takes
a quarter of an hour and 14 GB. The cheap forms are made once, in ~/.cache/dtf-bench/forms. It ends
with a message where the cheap path is not taken. A whole run draws docs/plots/local_models.png.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.birefnet_graph import GENERAL, LITE
from bench.isnet import WEIGHTS
from bench.upscale_peers import CACHE, PeerMissing, second_python
from models.inference import Architecture, Engine, Form, LocalProfile, Precision, RunPlan
from services.inference import resolve_precision
from services.inference_child import plan_to_wire
from services.profiles import way_for

ROOT = Path(__file__).parent.parent
PLOTS = ROOT / "docs" / "plots"
FORMS = CACHE / "forms"
DEFORMABLE = 20
THREADS = (1, 2)
MB = 1_000_000
_CHILD_S = 900
_UNDISTURBED_SHARE = 0.8
_COLUMNS = (
    "network", "form", "engine", "threads", "load s", "s a picture", "peak MB", "idle MB",
    "x stock", "peak share of stock", "max diff",
)  # fmt: skip

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Subject:
    """A network: its file as released, and whether it has other forms and answers in logits."""

    name: str
    title: str
    released: Path
    architecture: Architecture
    has_forms: bool = True

    def path(self, form: Form) -> Path:
        if not self.has_forms:
            return self.released
        ending = "onnx" if form is Form.ROWS else "xml"
        return FORMS / self.released.with_suffix(f".{form}.{ending}").name


SUBJECTS = {
    each.name: each
    for each in (
        Subject("full", "General", CACHE / f"{GENERAL.name}.onnx", Architecture.BIREFNET),
        Subject("lite", "lite", CACHE / f"{LITE.name}.onnx", Architecture.BIREFNET_LITE),
        Subject("isnet", "ISNet", WEIGHTS, Architecture.ISNET, has_forms=False),
    )
}


@dataclass(frozen=True, slots=True)
class Point:
    """One way of ours to run a network."""

    engine_name: str
    form: Form
    engine: Engine
    precision: Precision = Precision.F32
    low_memory: bool = False

    def plan(self, subject: Subject, threads: int) -> RunPlan:
        return RunPlan(
            subject.path(self.form),
            engine=self.engine,
            precision=self.precision,
            threads=threads,
            low_memory=self.low_memory,
        )

    def profiles(self, subject: Subject) -> str:
        """The named profiles that choose this point on this machine."""
        return ", ".join(
            profile
            for profile in (LocalProfile.SPEED, LocalProfile.BALANCED, LocalProfile.SMALL)
            if self._is_chosen_by(profile, subject)
        )

    def _is_chosen_by(self, profile: LocalProfile, subject: Subject) -> bool:
        plan = RunPlan(subject.path(self.form))
        way = way_for(plan, profile, subject.architecture, room_bytes=None)
        chosen = (way.form, way.plan.engine, way.plan.precision, way.plan.low_memory)
        return chosen == (self.form, self.engine, self.precision, self.low_memory)


POINTS = (
    Point("OpenVINO f32", Form.SINGLES, Engine.OPENVINO),
    Point("OpenVINO bf16", Form.HALVES, Engine.OPENVINO, Precision.BF16),
    Point("onnxruntime", Form.ROWS, Engine.ONNXRUNTIME),
    Point("onnxruntime, low memory", Form.ROWS, Engine.ONNXRUNTIME, low_memory=True),
)


@dataclass(frozen=True, slots=True)
class Told:
    """What a child said of its run."""

    load_s: float
    first_s: float
    second_s: float
    cpu_s: float  # processor time of the second run
    peak_bytes: int
    idle_bytes: int
    layers: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """`point` is None for stock; `stock` is stock's run with as many threads."""

    subject: Subject
    point: Point | None
    threads: int
    told: Told
    stock: Told | None
    difference: str

    @property
    def engine_name(self) -> str:
        return self.point.engine_name if self.point else "stock"

    @property
    def name(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.subject.title}, {self.engine_name}, {threads}"

    @property
    def is_bf16(self) -> bool:
        return self.point is not None and self.point.precision is Precision.BF16

    @property
    def profiles(self) -> str:
        return self.point.profiles(self.subject) if self.point else ""


def main() -> None:
    asked = _arguments()
    subjects = [SUBJECTS[name] for name in asked.only or SUBJECTS]
    print(f"{os.cpu_count()} cores; load before {os.getloadavg()[0]:.2f} (others blur wall clocks)")
    for line in _made_forms(subjects):
        print(line)
    rates: dict[int, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-local-models-") as folder:
        rows = []
        for subject in subjects:
            rates = {
                count: max(_gemm_flop_s(count), rates.get(count, 0)) for count in asked.threads
            }
            for row in _measured(subject, Path(folder), asked.threads, stock=not asked.no_stock):
                print(*_cells(row), sep=" | ", file=sys.stderr, flush=True)
                rows.append(row)
    _print_table(rows)
    for line in (*_disturbed(rows), *_compiled(rows), *_limits(subjects, rows, rates)):
        print(line)
    is_whole = not (asked.only or asked.no_stock) and set(asked.threads) == set(THREADS)
    if asked.plots or is_whole:
        _draw(rows, (asked.plots or PLOTS) / "local_models.png")


# The forms


def _made_forms(subjects: list[Subject]) -> Iterator[str]:
    for subject in subjects:
        if not subject.released.exists():
            raise SystemExit(f"{subject.released} is missing: the docstring says what makes it.")
        for form in Form if subject.has_forms else ():
            yield _made_form(subject, form)


def _made_form(subject: Subject, form: Form) -> str:
    source, target = _linked(subject.released), subject.path(form)
    words = [str(source), form, "--convolutions", str(DEFORMABLE), "--licence", "random weights"]
    told = _child("form", {"words": words, "form": form, "target": str(target)})
    counts = told["counts"]
    found = counts["rewritten"], counts["GatherND"], counts.get("DeformableConvolution", DEFORMABLE)
    _require(found == (DEFORMABLE, 0, DEFORMABLE), f"{target.name} has {counts}")
    cost = f"made in {told['seconds']:.0f} s, peak {_megabytes(told['peak_bytes'])} MB"
    counted = ", ".join(f"{count} {what}" for what, count in counts.items())
    return f"{subject.title}, {form}: {cost if told['made'] else 'it was there'}; {counted}"


def _linked(released: Path) -> Path:
    """The same file in the folder of the forms, which are made beside it."""
    FORMS.mkdir(parents=True, exist_ok=True)
    link = FORMS / released.name
    if link.exists() and link.samefile(released):
        return link
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(released)
    except OSError:  # another file system
        shutil.copy2(released, link)
    return link


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001  # like assert
    if not holds:
        raise SystemExit(f"The cheap path is not taken: {otherwise}.")


# The rows


def _measured(subject: Subject, folder: Path, threads: list[int], *, stock: bool) -> Iterator[Row]:
    """Stock first: its times are compared with, and its answer with the most threads."""
    most_first = sorted(threads, reverse=True)
    expected = folder / f"{subject.name}.npy"
    stocks: dict[int, Told] = {}
    for count in most_first if stock else ():
        output = folder / "output.npy" if expected.exists() else expected
        asked = {"path": str(subject.released), "threads": count}
        stocks[count] = _run("stock", subject, asked, output)
        difference = _difference(subject, expected, output)
        yield Row(subject, None, count, stocks[count], stocks[count], difference)
    for point in POINTS:
        if resolve_precision(point.precision, engine=point.engine).value is not point.precision:
            print(f"{subject.title}, {point.engine_name}: left out, this CPU cannot")
            continue
        for count in most_first:
            output = folder / "output.npy"
            told = _run("ours", subject, {"plan": plan_to_wire(point.plan(subject, count))}, output)
            difference = _difference(subject, expected, output)
            row = Row(subject, point, count, told, stocks.get(count), difference)
            _require_cheap(row)
            yield row


def _run(job: str, subject: Subject, asked: dict[str, Any], output: Path) -> Told:
    return Told(**_child(job, {**asked, "output": str(output), "logits": subject.has_forms}))


def _require_cheap(row: Row) -> None:
    """Of what the engine compiled: every deformable convolution there, every attention fused."""
    layers = row.told.layers
    if row.subject.has_forms and layers:
        found = layers.get("DeformableConvolution", 0), layers.get("Softmax", 0)
        _require(found == (DEFORMABLE, 0), f"{row.name}: {layers}")


def _difference(subject: Subject, expected_path: Path, output: Path) -> str:
    """The largest, of logits also after the sigmoid; "-" beside itself or nothing."""
    if output == expected_path or not expected_path.exists():
        return "-"
    expected, found = (np.load(path).astype(np.float64) for path in (expected_path, output))
    widest = f"{np.abs(expected - found).max():.1e}"
    if not subject.has_forms:
        return widest
    return f"{widest} ({np.abs(_sigmoid(expected) - _sigmoid(found)).max():.1e} after the sigmoid)"


def _sigmoid(logits: Values) -> Values:
    return 1 / (1 + np.exp(-logits))


def _gemm_flop_s(threads: int) -> float:
    count = str(threads)
    told = _child("gemm", {}, {"OPENBLAS_NUM_THREADS": count, "OMP_NUM_THREADS": count})
    return float(told["flop_s"])


def _child(
    job: str,
    asked: dict[str, Any],
    env: dict[str, str] | None = None,
    python: Path = Path(sys.executable),
) -> dict[str, Any]:
    done = subprocess.run(
        [str(python), "-m", "bench.local_models_child", job, json.dumps(asked)],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_CHILD_S,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-3:]
        raise SystemExit(f"{job} {asked} ended with {done.returncode}: {' '.join(last)}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


# What is printed


def _print_table(rows: list[Row]) -> None:
    print("", f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|", sep="\n")
    for row in rows:
        print(f"| {' | '.join(_cells(row))} |")
    print()


def _cells(row: Row) -> list[str]:
    told, stock = row.told, row.stock
    profiles = f" (`{row.profiles.replace(', ', '`, `')}`)" if row.profiles else ""
    engine = row.engine_name if row.point else "onnxruntime, rembg's settings"
    return [
        row.subject.title,
        _form_name(row),
        engine + profiles,
        str(row.threads),
        f"{told.load_s:.1f}",
        f"{told.second_s:.2f} (first {told.first_s:.2f})",
        _megabytes(told.peak_bytes),
        _megabytes(told.idle_bytes),
        f"{stock.second_s / told.second_s:.2f}x" if stock else "-",
        f"1/{stock.peak_bytes / told.peak_bytes:.1f}" if stock else "-",
        row.difference,
    ]


def _form_name(row: Row) -> str:
    has_form = row.point is not None and row.subject.has_forms
    return str(row.point.form) if has_form and row.point else "as released"


def _megabytes(size: int) -> str:
    return f"{size / MB:,.0f}".replace(",", " ")


def _disturbed(rows: list[Row]) -> Iterator[str]:
    """Which times are long since others held the processors, or since a part has no threads."""
    for row in rows:
        share = row.told.cpu_s / (row.told.second_s * row.threads)
        if share < _UNDISTURBED_SHARE:
            yield f"{row.name}: its threads ran {share:.0%} of the time"


def _compiled(rows: list[Row]) -> Iterator[str]:
    """How many layers of the kinds that tell there are in what OpenVINO compiled."""
    for row in rows:
        layers = row.told.layers
        if layers and row.subject.has_forms:
            kinds = ("DeformableConvolution", "Softmax", "GatherND")
            counted = ", ".join(f"{layers.get(kind, 0)} {kind}" for kind in kinds)
            yield f"{row.name}: runs {counted}"


def _limits(subjects: list[Subject], rows: list[Row], rates: dict[int, float]) -> Iterator[str]:
    """How often the time of the bare multiply-adds, at numpy's rate, each row in f32 took."""
    for subject in subjects:
        path = subject.path(Form.SINGLES)
        count = _child("multiply_adds", {"path": str(path)})["count"]
        for threads, rate in rates.items():
            least_s = 2 * count / rate
            taken = ", ".join(
                f"{row.engine_name} {row.told.second_s / least_s:.2f}x"
                for row in rows
                if (row.subject, row.threads) == (subject, threads) and not row.is_bf16
            )
            yield (
                f"{subject.title}, threads {threads}: {count / 1e9:.0f} G multiply-adds at "
                f"{rate / 1e9:.0f} GFLOP/s: roofline {least_s:.2f} s; {taken}"
            )


def _draw(rows: list[Row], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    drawn = [
        {
            "network": row.subject.name,
            "engine": row.engine_name,
            "threads": row.threads,
            "seconds": row.told.second_s,
            "peak_mb": row.told.peak_bytes / MB,
            "label": row.profiles if row.threads == max(THREADS) else "",
        }
        for row in rows
    ]
    try:
        _child("draw", {"rows": drawn, "target": str(target)}, python=second_python())
    except PeerMissing as error:
        print(f"!! NO PLOT: {error}", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=SUBJECTS, help="may be repeated")
    parser.add_argument("--threads", type=int, nargs="+", choices=THREADS, default=list(THREADS))
    parser.add_argument("--no-stock", action="store_true", help="nothing is compared then")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw what was measured there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
