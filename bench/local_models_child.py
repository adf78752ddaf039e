"""One process of bench.local_models: `python -m bench.local_models_child JOB JSON` answers in JSON.

A job: run a network (`stock`, `ours`), make a `form`, count `multiply_adds`, time a `gemm`, `draw`.
Importing this loads neither engine; `draw` runs in the bench's second environment, where matplotlib
is. Memory is the kernel's own account of this process (/proc/self/status).
"""

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.upscale_plots import finish, new_plot
from models.inference import Form
from services.inference import OpenVinoRunner, Runner, Tensor, open_runner, read_openvino_model
from services.inference_child import plan_from_wire
from utils import heap

SIDE = 1024
_SEED = 20261124
_PATCHES = 4
_GEMM_SIDE, _GEMM_RUNS = 4096, 5
_FILTERS = {  # which input the weights are, and where their depth begins in that input's shape
    "Convolution": (1, 1),
    "GroupConvolution": (1, 2),
    "DeformableConvolution": (2, 1),
}
_COLOURS = {"full": "#1f5fa8", "lite": "#d9822b", "isnet": "#3f8f4f"}
_MARKERS = {"stock": "X", "OpenVINO f32": "o", "OpenVINO bf16": "s", "onnxruntime": "^"}
_THRIFTY_MARKER = "v"
_SECONDS = (0.5, 1, 2, 5, 10, 20, 50, 100)
_MEGABYTES = (500, 1_000, 2_000, 5_000, 10_000, 20_000)

Asked = dict[str, Any]
Told = dict[str, Any]


def main() -> None:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    jobs: dict[str, Callable[[Asked], Told]] = {
        job.__name__: job for job in (stock, ours, form, multiply_adds, gemm, draw)
    }
    print(json.dumps(jobs[sys.argv[1]](json.loads(sys.argv[2]))))


def stock(asked: Asked) -> Told:
    """As rembg runs a file: default options, both thread counts set as by its OMP_NUM_THREADS."""
    begun = time.perf_counter()
    import onnxruntime  # noqa: PLC0415  # its import is part of its cost

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = asked["threads"]
    session = onnxruntime.InferenceSession(
        asked["path"], options, providers=["CPUExecutionProvider"]
    )
    load_s = time.perf_counter() - begun
    name = session.get_inputs()[0].name
    return {"load_s": load_s, **_run_twice(lambda x: session.run(None, {name: x})[0], asked)}


def ours(asked: Asked) -> Told:
    """As the service's inference child runs a plan (services/inference_child.py)."""
    heap.tame()
    begun = time.perf_counter()
    runner = open_runner(plan_from_wire(asked["plan"]))
    runner.load()
    heap.trim()
    load_s = time.perf_counter() - begun
    told = {"load_s": load_s, **_run_twice(runner.run, asked)}
    return {**told, "layers": _compiled_layers(runner)}


def form(asked: Asked) -> Told:
    """What `python -m services.prepared` does, with its time and peak, and what it led to."""
    from services.prepared import main as prepare  # noqa: PLC0415  # only here

    target = Path(asked["target"])
    before = _modified_ns(target)
    begun = time.perf_counter()
    status = prepare(asked["words"])
    if status:
        sys.exit(status)
    cost = {"seconds": time.perf_counter() - begun, "peak_bytes": _memory("VmHWM")}
    made = _modified_ns(target) != before
    return {**cost, "made": made, "counts": _counts(target, Form(asked["form"]))}


def multiply_adds(asked: Asked) -> Told:
    model = read_openvino_model(Path(asked["path"]))
    return {"count": sum(map(_multiply_adds_of, model.get_ops()))}


def gemm(_: Asked) -> Told:
    """The best rate of numpy's own matrix product; its threads are set by the environment."""
    random = np.random.default_rng(_SEED)
    one, other = (random.standard_normal((_GEMM_SIDE, _GEMM_SIDE), np.float32) for _ in range(2))
    result = np.empty_like(one)
    times = []
    for _run in range(_GEMM_RUNS):
        begun = time.perf_counter()
        np.matmul(one, other, out=result)
        times.append(time.perf_counter() - begun)
    return {"flop_s": 2 * _GEMM_SIDE**3 / min(times)}


def draw(asked: Asked) -> Told:
    """Every row by its time and its peak."""
    figure, axes = new_plot()
    for row in asked["rows"]:
        colour = _COLOURS[row["network"]]
        face = colour if row["threads"] > 1 else "none"
        at = (row["seconds"], row["peak_mb"])
        marker = _MARKERS.get(row["engine"], _THRIFTY_MARKER)
        axes.plot(*at, marker, color=colour, markerfacecolor=face, markersize=7)
        if row["label"]:
            axes.annotate(
                row["label"], at, xytext=(0, -13), textcoords="offset points", fontsize=7,
                ha="center", color=colour,
            )  # fmt: skip
    for name, colour in _COLOURS.items():
        axes.plot([], [], "-", color=colour, linewidth=4, label=name)
    for name, marker in {**_MARKERS, "onnxruntime, low memory": _THRIFTY_MARKER}.items():
        axes.plot([], [], marker, color="#555555", label=name)
    axes.plot([], [], "o", color="#555555", markerfacecolor="none", label="hollow: one thread")
    for scale, ticks in (("x", _SECONDS), ("y", _MEGABYTES)):
        _make_logarithmic(axes, scale, ticks)
    axes.set_ylim(bottom=400)
    axes.set_xlabel("seconds a picture (1024x1024, second run)")
    axes.set_ylabel("peak of the process, MB")
    figure.set_size_inches(8, 5)
    finish(figure, axes, "Local networks: time and peak memory", Path(asked["target"]))
    return {}


def _make_logarithmic(axes: Any, name: str, ticks: tuple[float, ...]) -> None:  # noqa: ANN401  # no types
    getattr(axes, f"set_{name}scale")("log")
    getattr(axes, f"set_{name}ticks")(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _run_twice(run: Callable[[Tensor], Tensor], asked: Asked) -> Told:
    picture = _picture(logits=asked["logits"])
    times = []
    for _ in range(2):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        output = run(picture)
        times.append(time.perf_counter() - begun)
    cpu_s = time.process_time() - cpu_begun
    held = {"peak_bytes": _memory("VmHWM"), "idle_bytes": _memory("VmRSS")}
    np.save(asked["output"], output)
    return {"first_s": times[0], "second_s": times[1], "cpu_s": cpu_s, **held}


def _picture(*, logits: bool) -> Tensor:
    """Noise in the range of what the network takes: normalised by ImageNet, or -0.5 to 0.5.

    For the real ISNet it is coarse: of fine noise it says 0 nearly everywhere.
    """
    random = np.random.default_rng(_SEED)
    if logits:
        return random.standard_normal((1, 3, SIDE, SIDE), np.float32)
    coarse = random.random((1, 3, _PATCHES, _PATCHES), np.float32) - np.float32(0.5)
    patch = (SIDE // _PATCHES, SIDE // _PATCHES)
    return np.kron(coarse, np.ones((1, 1, *patch), np.float32))


def _memory(what: str) -> int:
    """A line of this process's status in bytes; ru_maxrss would count the parent's as well."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) * 1024
    raise LookupError(what)


def _compiled_layers(runner: Runner) -> dict[str, int]:
    """How many layers of each type the engine really runs; only OpenVINO tells."""
    if not isinstance(runner, OpenVinoRunner):
        return {}
    compiled = runner._compiled  # noqa: SLF001  # what was measured, not the same compiled again
    ops = compiled.get_runtime_model().get_ops()
    return dict(Counter(str(op.get_rt_info()["layerType"].value) for op in ops))


def _counts(target: Path, kind: Form) -> dict[str, int]:
    """How many deformable convolutions were rewritten, and the nodes that tell it."""
    from services.openvino_form import FormManifest  # noqa: PLC0415  # onnx
    from services.rewrite_prepare import RewriteManifest, read_manifest  # noqa: PLC0415  # onnx

    if kind is Form.ROWS:
        rewriting, in_text = read_manifest(target, RewriteManifest), {}
    else:
        made = read_manifest(target, FormManifest)
        rewriting = made.rewriting if made else None
        count = target.read_text("utf-8").count('type="DeformableConvolution"')
        in_text = {"DeformableConvolution": count}
    if rewriting is None:
        sys.exit(f"{target} has no manifest")
    return {"rewritten": rewriting.rewritten, **rewriting.nodes, **in_text}


def _modified_ns(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _multiply_adds_of(op: Any) -> int:  # noqa: ANN401  # openvino's types are not packaged
    kind = op.get_type_name()
    if kind == "MatMul":
        deep = op.input_value(0).shape[-2 if op.get_attributes()["transpose_a"] else -1]
    elif kind in _FILTERS:
        index, start = _FILTERS[kind]
        deep = math.prod(list(op.input_value(index).shape)[start:])
    else:
        return 0
    return int(math.prod(op.output(0).shape) * deep)


if __name__ == "__main__":
    main()
