"""Two engines, one answer: what is asked for is computed, what cannot be run is said clearly.

The test marked `weights` runs the real ISNet; without its file it is skipped, loudly.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.inference import Engine, Precision, RunPlan
from services.inference import (
    GraphRefused,
    Runner,
    cpu_flags,
    estimated_bytes,
    is_out_of_memory,
    open_runner,
    read_openvino_model,
    resolve,
    resolve_engine,
    resolve_precision,
)
from services.weights import WeightsStore
from tests.conftest import ROOT
from tests.services import graphs

ENGINES = (Engine.OPENVINO, Engine.ONNXRUNTIME)
WITH_BF16 = "processor : 0\nflags\t\t: fpu avx512_bf16 sse\n"
WITHOUT_BF16 = "processor : 0\nflags\t\t: fpu avx2 sse\n"


def loaded(path: Path, engine: Engine, **options: object) -> Runner:
    runner = open_runner(RunPlan(path, engine=engine, **options))  # type: ignore[arg-type]
    runner.load()
    return runner


def answer(path: Path, engine: Engine, **options: object) -> graphs.Array:
    return loaded(path, engine, **options).run(graphs.picture())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "graph.onnx"


@pytest.mark.parametrize("engine", ENGINES)
def test_the_picture_goes_in_and_the_output_comes_out(path: Path, engine: Engine) -> None:
    runner = loaded(graphs.identity(path), engine)
    for seed in (1, 2):
        result = runner.run(graphs.picture(seed))
        assert result.dtype == np.float32
        assert np.array_equal(result, graphs.picture(seed))


def test_engines_agree_on_a_convolution(path: Path) -> None:
    graphs.convolved(path)
    ours, theirs = (answer(path, engine) for engine in ENGINES)
    assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("opset", [19, 22])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_engines_agree_on_deformable_convolutions(
    path: Path, kernel: int, bias: bool, mask: bool, opset: int
) -> None:
    graphs.deformed(path, kernel=kernel, bias=bias, mask=mask, opset=opset)
    ours, theirs = (answer(path, engine) for engine in ENGINES)
    assert ours.shape == (1, 4, graphs.SIDE, graphs.SIDE)
    assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2]},
        {"pads": [0, 0, 0, 0]},
        {"pads": [1, 0, 2, 3], "strides": [1, 2]},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
    ],
    ids=str,
)
def test_engines_agree_on_strides_padding_and_dilation(
    path: Path, attributes: dict[str, list[int]]
) -> None:
    graphs.deformed(path, kernel=3, bias=True, mask=True, attributes=attributes)
    ours, theirs = (answer(path, engine) for engine in ENGINES)
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_a_deformable_convolution_becomes_openvinos_own(path: Path) -> None:
    model = read_openvino_model(graphs.deformed(path, kernel=3, mask=True))
    types = [each.get_type_name() for each in model.get_ops()]
    assert types.count("DeformableConvolution") == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_output_is_the_answer(path: Path, engine: Engine) -> None:
    result = answer(graphs.with_side_output(path), engine)
    assert np.array_equal(result, graphs.picture().clip(0))


def test_openvino_computes_the_first_output_alone(path: Path) -> None:
    result = answer(graphs.with_endless_side_output(path), Engine.OPENVINO)
    assert np.array_equal(result, graphs.picture().clip(0))


def test_openvino_keeps_nothing_of_the_other_outputs(path: Path) -> None:
    model = read_openvino_model(graphs.with_endless_side_output(path))
    assert [each.any_name for each in model.outputs] == ["y"]
    assert "Loop" not in {each.get_type_name() for each in model.get_ops()}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_output_can_be_chosen_by_name(path: Path, engine: Engine) -> None:
    graphs.with_side_output(path)
    assert np.array_equal(answer(path, engine, output="side"), -graphs.picture())
    with pytest.raises(GraphRefused, match="no output called 'z'"):
        loaded(path, engine, output="z")


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_engine_does_not_know_is_refused_by_name(path: Path, engine: Engine) -> None:
    graphs.unknown_operator(path)
    with pytest.raises(GraphRefused, match=rf"{engine} cannot run graph.onnx: .*Mystery"):
        loaded(path, engine)


def test_an_opset_from_the_future_is_refused(path: Path) -> None:
    graphs.identity(path, opset=999)
    with pytest.raises(GraphRefused, match=r"cannot run graph.onnx: .*opset"):
        loaded(path, Engine.ONNXRUNTIME)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_that_is_no_graph_is_refused(path: Path, engine: Engine) -> None:
    path.write_bytes(b"not a graph")
    with pytest.raises(GraphRefused, match=r"cannot run graph.onnx"):
        loaded(path, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_missing_file_is_refused(path: Path, engine: Engine) -> None:
    with pytest.raises(GraphRefused, match=r"cannot run graph.onnx"):
        loaded(path, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_of_other_inputs_is_refused(path: Path, engine: Engine) -> None:
    graphs.two_inputs(path)
    with pytest.raises(GraphRefused, match="where one float32 picture is given"):
        loaded(path, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("low_memory", [False, True])
def test_an_unloaded_network_can_be_loaded_again(
    path: Path, engine: Engine, low_memory: bool
) -> None:
    runner = loaded(graphs.convolved(path), engine, low_memory=low_memory)
    before = runner.run(graphs.picture())
    runner.unload()
    runner.load()
    assert np.array_equal(runner.run(graphs.picture()), before)


def test_openvino_keeps_what_it_compiled(path: Path, tmp_path: Path) -> None:
    cache_dir = tmp_path / "cache"
    plan = {"cache_dir": cache_dir}
    first = answer(graphs.convolved(path), Engine.OPENVINO, **plan)
    assert list(cache_dir.iterdir())
    assert np.array_equal(answer(path, Engine.OPENVINO, **plan), first)


def test_openvino_reads_its_own_format(path: Path, tmp_path: Path) -> None:
    import openvino

    own = tmp_path / "graph.xml"
    openvino.save_model(read_openvino_model(graphs.convolved(path)), own, compress_to_fp16=False)
    assert answer(own, Engine.OPENVINO) == pytest.approx(answer(path, Engine.OPENVINO))
    assert estimated_bytes(RunPlan(own, engine=Engine.OPENVINO)) > 0


def test_more_memory_than_there_is_is_told_from_a_fault(path: Path) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        answer(graphs.greedy(path), Engine.ONNXRUNTIME)
    assert is_out_of_memory(caught.value), caught.value
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("Exception from core.cpp:117: std::bad_alloc"))
    assert not is_out_of_memory(RuntimeError("the shapes do not match"))


def test_auto_is_openvino_and_f32_with_a_reason() -> None:
    engine = resolve_engine(Engine.AUTO)
    assert (engine.value, engine.why) == (
        Engine.OPENVINO,
        "OpenVINO is installed and the fastest",
    )
    assert resolve_engine(Engine.ONNXRUNTIME).value is Engine.ONNXRUNTIME
    assert resolve_precision(Precision.AUTO, engine=Engine.OPENVINO).value is Precision.F32
    resolved = resolve(RunPlan(Path("x.onnx")))
    assert (resolved.engine, resolved.precision) == (Engine.OPENVINO, Precision.F32)


@pytest.mark.parametrize(
    ("engine", "info", "precision", "why"),
    [
        (Engine.OPENVINO, WITH_BF16, Precision.BF16, "this CPU has it"),
        (Engine.OPENVINO, WITHOUT_BF16, Precision.F32, "no bf16"),
        (Engine.OPENVINO, None, Precision.F32, "no bf16"),
        (Engine.ONNXRUNTIME, WITH_BF16, Precision.F32, "f32 only"),
    ],
)
def test_bf16_needs_the_engine_and_the_cpu(
    tmp_path: Path, engine: Engine, info: str | None, precision: Precision, why: str
) -> None:
    cpu_info = tmp_path / "cpuinfo"
    if info is not None:
        cpu_info.write_text(info)
    found = resolve_precision(Precision.BF16, engine=engine, cpu_info=cpu_info)
    assert found.value is precision
    assert why in found.why


def test_bf16_is_bf16_where_the_cpu_has_it(path: Path) -> None:
    if not {"avx512_bf16", "amx_bf16"} & cpu_flags():
        pytest.skip("this CPU has no bf16")
    exact = answer(graphs.convolved(path), Engine.OPENVINO)
    rough = answer(path, Engine.OPENVINO, precision=Precision.BF16)
    assert 0 < np.abs(rough - exact).max() < 0.2


def test_larger_files_and_faster_ways_take_more_memory(path: Path, tmp_path: Path) -> None:
    small, large = graphs.identity(path), graphs.heavy(tmp_path / "large.onnx", weights_mb=20)
    for engine in ENGINES:
        plans = [RunPlan(each, engine=engine) for each in (small, large)]
        assert estimated_bytes(plans[0]) < estimated_bytes(plans[1])
        assert open_runner(plans[0]).estimated_bytes() == estimated_bytes(plans[0])
    thrifty = RunPlan(large, engine=Engine.ONNXRUNTIME, low_memory=True)
    assert estimated_bytes(thrifty) < estimated_bytes(RunPlan(large, engine=Engine.ONNXRUNTIME))


OPENING = """
import sys
from pathlib import Path
from models.inference import Engine, RunPlan
from services.inference import GraphRefused, open_runner
print(type(open_runner(RunPlan(Path(sys.argv[1])))).__name__)
try:
    open_runner(RunPlan(Path(sys.argv[1]), engine=Engine.OPENVINO)).load()
except GraphRefused as error:
    print(error.message)
"""


def test_where_openvino_does_not_import_auto_is_onnxruntime(path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "openvino"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libtbb.so.12 is missing')\n")
    done = subprocess.run(
        [sys.executable, "-c", OPENING, graphs.identity(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "OnnxRuntimeRunner",
        "OpenVINO cannot be used here: libtbb.so.12 is missing",
    ]


IMPORTING = """
import sys
import services.inference, services.inference_process
print({"openvino", "onnxruntime", "rembg", "numba"} & set(sys.modules))
"""


def test_importing_it_imports_no_engine() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


MEASURING = """
import json, re, sys, time
from pathlib import Path
import numpy as np
from models.inference import Engine, RunPlan
from services.inference import open_runner
from utils import heap
heap.tame()
runner = open_runner(RunPlan(Path(sys.argv[1]), engine=Engine(sys.argv[2]), threads=2))
runner.load()
picture = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 3, 1024, 1024)).astype(np.float32)
runner.run(picture)
start = time.monotonic()
result = runner.run(picture)
seconds = time.monotonic() - start
np.save(sys.argv[3], result)
status = Path("/proc/self/status").read_text()  # ru_maxrss would begin with the parent's
peak_mb = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024 / 1e6
print(json.dumps({"s": round(seconds, 2), "peak_mb": round(peak_mb),
                  "estimated_mb": round(runner.estimated_bytes() / 1e6)}))
"""


@pytest.mark.weights
def test_engines_agree_on_the_real_isnet(tmp_path: Path) -> None:
    weights = WeightsStore(ROOT / "weights").present("isnet-general-use")
    if weights is None:
        pytest.skip("NO REAL ISNET WEIGHTS: no source answered; run `make weights`")
    results = []
    for engine in ENGINES:
        out = tmp_path / f"{engine}.npy"
        command: list[str | Path] = [sys.executable, "-c", MEASURING, weights, engine, out]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        figures = json.loads(done.stdout)
        print(f"ISNet, {engine}, 2 threads: {figures}")  # noqa: T201  # a measurement
        assert figures["peak_mb"] < figures["estimated_mb"]
        results.append(np.load(out))
    assert results[0] == pytest.approx(results[1], abs=1e-3)
