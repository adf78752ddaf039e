"""Running a network: one Protocol, two engines behind it, and the memory a run will take.

OpenVINO runs our networks several times faster than onnxruntime, which is always there. Both are
imported inside functions only: that belongs into the process that runs the network.
"""

import importlib.util
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.errors import FailureCode, RemoverError
from models.inference import Device, Engine, Precision, RunPlan
from services.cuda import open_on_card
from utils import heap

Tensor = NDArray[np.float32]
T = TypeVar("T", Engine, Precision)

_MB = 1_000_000
_CPU_INFO = Path("/proc/cpuinfo")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_MESSAGE_CHARACTERS = 600
_FLOATS: Mapping[str, type[np.floating[Any]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}
_ONLY_FATAL = 4


class Runner(Protocol):
    """One network, loaded or not."""

    def load(self) -> None:
        """Read and compile it; blocks for seconds.

        Raises:
            GraphRefused: the file cannot be run by this engine.
        """

    def run(self, tensor: Tensor) -> Tensor:
        """The chosen output for a picture of (1, 3, height, width)."""

    def unload(self) -> None:
        """Drop the network and give its memory back to the system."""

    def estimated_bytes(self) -> int:
        """What the process is likely to hold at the peak of a run."""


class GraphRefused(RemoverError):
    """The engine cannot run this file, now or ever."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureCode.MODEL_CRASHED, message)


@dataclass(frozen=True, slots=True)
class Resolved(Generic[T]):
    """What a setting means on this machine, and a clause that says why."""

    value: T
    why: str


def resolve_engine(engine: Engine) -> Resolved[Engine]:
    """The engine that is used where `engine` is asked for; nothing is imported."""
    if engine is not Engine.AUTO:
        return Resolved(engine, "it was asked for")
    if importlib.util.find_spec("openvino") is None:
        return Resolved(Engine.ONNXRUNTIME, "OpenVINO is not installed")
    return Resolved(Engine.OPENVINO, "OpenVINO is installed and the fastest")


def resolve_precision(
    precision: Precision, *, engine: Engine, cpu_info: Path = _CPU_INFO
) -> Resolved[Precision]:
    """The precision that a resolved `engine` computes in where `precision` is asked for."""
    if precision is Precision.AUTO:
        return Resolved(Precision.F32, "f32 is what the network was trained in")
    if precision is Precision.F32:
        return Resolved(precision, "it was asked for")
    if engine is not Engine.OPENVINO:
        return Resolved(Precision.F32, f"{engine} computes in f32 only")
    if not _BF16_FLAGS & cpu_flags(cpu_info):
        return Resolved(Precision.F32, "this CPU has no bf16")
    return Resolved(Precision.BF16, "it was asked for and this CPU has it")


def resolve(plan: RunPlan) -> RunPlan:
    """The plan without any `auto`."""
    engine = resolve_engine(plan.engine).value
    precision = resolve_precision(plan.precision, engine=engine).value
    return replace(plan, engine=engine, precision=precision)


def cpu_flags(cpu_info: Path = _CPU_INFO) -> frozenset[str]:
    """The first processor's flags; none where /proc does not tell."""
    try:
        lines = cpu_info.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


@dataclass(frozen=True, slots=True)
class _Peak:
    """The peak of one run: what any network takes, and so much per byte of its weights."""

    base_bytes: int
    per_weight_byte: float


# Lines above the peaks measured at 1024x1024 (November 2026). Of .onnx files (ISNet, 88 MB, and
# BiRefNet-General, 927 MB): under OpenVINO 792 and 3371 MB in f32, 552 and 3421 in bf16; under
# onnxruntime 930 and 3263, thriftily 588 and 1780. Of OpenVINO's own (BiRefNet-lite and -General),
# whose weights are mapped: 956 and 1962 MB in f32 (196 and 980 MB of weights), 775 and 1266 in bf16
# (98 and 490 MB, in halves).
_OPENVINO_PEAKS = {
    Precision.F32: _Peak(540 * _MB, 3.2),
    Precision.BF16: _Peak(270 * _MB, 3.5),
}
_OPENVINO_OWN_PEAKS = {
    Precision.F32: _Peak(720 * _MB, 1.3),
    Precision.BF16: _Peak(680 * _MB, 1.3),
}
_ONNXRUNTIME_PEAKS = {False: _Peak(720 * _MB, 2.9), True: _Peak(480 * _MB, 1.5)}
RESTING_SHARE = 0.8  # of its peak a loaded network holds between runs; 0.4 to 0.78 measured


def resting_bytes(plan: RunPlan) -> int:
    """What a loaded network is likely to hold while another one runs; raises as the other does."""
    return round(RESTING_SHARE * estimated_bytes(plan))


def estimated_bytes(plan: RunPlan) -> int:
    """What a process is likely to hold at the peak of a run of `plan`, from its file's size.

    Good for deciding what may stay loaded; where a peak was measured, that is the better number.
    Raises OSError where the file is missing.
    """
    plan = resolve(plan)
    weights = plan.path
    if plan.engine is Engine.ONNXRUNTIME:
        peak = _ONNXRUNTIME_PEAKS[plan.low_memory]
    elif plan.path.suffix == ".xml":
        peak, weights = _OPENVINO_OWN_PEAKS[plan.precision], plan.path.with_suffix(".bin")
    else:
        peak = _OPENVINO_PEAKS[plan.precision]
    return peak.base_bytes + round(peak.per_weight_byte * weights.stat().st_size)


def open_runner(plan: RunPlan) -> Runner:
    """The runner for `plan`, not loaded yet.

    Where `auto` finds an OpenVINO that is installed but does not import, it is onnxruntime.
    """
    resolved = resolve(plan)
    if resolved.engine is Engine.OPENVINO:
        if plan.engine is Engine.AUTO and not _openvino_imports():
            return OnnxRuntimeRunner(replace(resolved, engine=Engine.ONNXRUNTIME))
        return OpenVinoRunner(resolved)
    return OnnxRuntimeRunner(resolved)


class OpenVinoRunner:
    """A network under OpenVINO: one stream, the plan's threads, only one output computed."""

    def __init__(self, plan: RunPlan) -> None:
        self._plan = resolve(plan)
        self._compiled: Any = None

    def load(self) -> None:
        """Weights in OpenVINO's own format are mapped: read while compiling and let go of."""
        model = read_openvino_model(self._plan.path, output=self._plan.output)
        ov = _openvino()
        try:
            with heap.dropping_pages(self._plan.path.with_suffix(".bin")):
                self._compiled = ov.Core().compile_model(model, "CPU", self._properties())
        except RuntimeError as error:
            raise _refused(self._plan, error) from error

    def run(self, tensor: Tensor) -> Tensor:
        """Nothing but the network stays after a run: that costs no time that could be measured."""
        request = self._compiled.create_infer_request()
        output = np.array(request.infer([tensor], share_inputs=True)[0], dtype=np.float32)
        del request
        self._compiled.release_memory()
        heap.trim()
        return output

    def unload(self) -> None:
        self._compiled = None
        heap.trim()

    def estimated_bytes(self) -> int:
        return estimated_bytes(self._plan)

    def _properties(self) -> dict[str, str]:
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(self._plan.threads),
            "INFERENCE_PRECISION_HINT": str(self._plan.precision),
        }
        if self._plan.cache_dir is not None:
            properties["CACHE_DIR"] = str(self._plan.cache_dir)
        return properties


class OnnxRuntimeRunner:
    """A network under onnxruntime, without the pools that keep memory between runs.

    A picture is handed over in the precision that the file takes, 32 or 16 bits.
    """

    def __init__(self, plan: RunPlan) -> None:
        self._plan = resolve(plan)
        self._session: Any = None
        self._names = ("", "")
        self._takes: type[np.floating[Any]] = np.float32

    def load(self) -> None:
        ort = _onnxruntime()
        try:
            session = self._open(ort)
        except Exception as error:  # its errors share no narrower class
            raise _refused(self._plan, error) from error
        inputs = session.get_inputs()
        outputs = {each.name: each for each in session.get_outputs()}
        _check_inputs(self._plan, [each.type for each in inputs], floats=_FLOATS)
        target = _chosen(self._plan, list(outputs))
        _check_side(self._plan, takes=inputs[0].shape, answers=outputs[target].shape)
        self._names, self._takes = (inputs[0].name, target), _FLOATS[inputs[0].type]
        self._session = session

    def run(self, tensor: Tensor) -> Tensor:
        """Other outputs are not fetched, but computed: onnxruntime runs every node of the file."""
        source, target = self._names
        (output,) = self._session.run([target], {source: tensor.astype(self._takes, copy=False)})
        return np.asarray(output, dtype=np.float32)

    def unload(self) -> None:
        self._session = None
        heap.trim()

    def estimated_bytes(self) -> int:
        return estimated_bytes(self._plan)

    def _open(self, ort: Any) -> Any:  # noqa: ANN401  # onnxruntime ships no types
        options = self._options(ort)
        if self._plan.device is Device.CUDA:
            return open_on_card(ort, self._plan.path, options)
        return ort.InferenceSession(
            str(self._plan.path), options, providers=["CPUExecutionProvider"]
        )

    def _options(self, ort: Any) -> Any:  # noqa: ANN401  # onnxruntime ships no types
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._plan.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ONLY_FATAL  # its errors are raised as well
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self._plan.low_memory:
            options.enable_mem_reuse = False
            options.add_session_config_entry("session.disable_prepacking", "1")
        return options


def read_openvino_model(path: Path, *, output: str | None = None) -> Any:  # noqa: ANN401  # openvino's types are not packaged
    """The file as an `openvino.Model` with `output` alone, or its first where None is given.

    ONNX's DeformConv, which OpenVINO does not read by itself, becomes its DeformableConvolution.

    Raises:
        GraphRefused: OpenVINO cannot read it, or it does not take one float32 picture.
    """
    ov = _openvino()
    core = ov.Core()
    core.add_extension(_deform_conv_extension())
    plan = RunPlan(path, engine=Engine.OPENVINO, output=output)
    try:
        whole = core.read_model(path)
    except RuntimeError as error:
        raise _refused(plan, error) from error
    types = [each.element_type.get_type_name() for each in whole.inputs]
    _check_inputs(plan, types, floats={"f32"})
    name = _chosen(plan, [each.any_name for each in whole.outputs])
    kept = next(each for each in whole.outputs if name in each.names)
    return ov.Model([kept.node], whole.get_parameters(), whole.friendly_name)


def _deform_conv_extension() -> Any:  # noqa: ANN401  # openvino's types are not packaged
    from openvino.frontend.onnx import ConversionExtension  # noqa: PLC0415  # heavy

    return ConversionExtension("DeformConv", "", _deformable_convolution)


def _deformable_convolution(node: Any) -> list[Any]:  # noqa: ANN401  # openvino's types are not packaged
    """ONNX's DeformConv (opset 19 and 22) as OpenVINO's, the bias added after it."""
    from openvino import opset8  # noqa: PLC0415  # heavy

    data, filters, offsets = (node.get_input(index) for index in range(3))
    pads = node.get_attribute("pads", [0, 0, 0, 0])
    convolve = partial(
        opset8.deformable_convolution,
        strides=node.get_attribute("strides", [1, 1]),
        pads_begin=pads[:2],
        pads_end=pads[2:],
        dilations=node.get_attribute("dilations", [1, 1]),
        group=node.get_attribute("group", 1),
        deformable_group=node.get_attribute("offset_group", 1),
        bilinear_interpolation_pad=True,
    )
    result = convolve(data, offsets, filters, mask=_optional_input(node, 4))
    bias = _optional_input(node, 3)
    if bias is not None:
        column = opset8.reshape(bias, np.array([1, -1, 1, 1]), special_zero=False)
        result = opset8.add(result, column)
    return list(result.outputs())


def _optional_input(node: Any, index: int) -> Any | None:  # noqa: ANN401  # openvino's types are not packaged
    """An optional input, None where it is left out at the end or named "" in the middle."""
    if index >= node.get_input_size():
        return None
    found = node.get_input(index)
    return None if found.get_node().get_type_name() == "NullNode" else found


def _check_inputs(plan: RunPlan, types: list[str], *, floats: Collection[str]) -> None:
    if len(types) != 1 or types[0] not in floats:
        raise GraphRefused(
            f"{plan.path.name} takes {', '.join(types) or 'nothing'} where one float32 picture "
            "is given."
        )


def _check_side(plan: RunPlan, *, takes: Sequence[Any], answers: Sequence[Any]) -> None:
    """Shapes as onnxruntime tells them: a size that is left open is a name or None."""
    if plan.side is None:
        return
    for verb, shape, channels in (("takes", takes, 3), ("answers", answers, 1)):
        wanted = (1, channels, plan.side, plan.side)
        fits = len(shape) == len(wanted) and all(
            size == expected
            for size, expected in zip(shape, wanted, strict=True)
            if isinstance(size, int)
        )
        if not fits:
            raise GraphRefused(
                f"{plan.path.name} {verb} {list(shape)} where {list(wanted)} is due."
            )


def _chosen(plan: RunPlan, names: list[str]) -> str:
    if plan.output is None:
        return names[0]
    if plan.output not in names:
        raise GraphRefused(f"{plan.path.name} has no output called {plan.output!r}.")
    return plan.output


def _refused(plan: RunPlan, error: Exception) -> GraphRefused | MemoryError:
    """The engine's own words, cut short; its running out of memory is no fault of the file."""
    words = " ".join(str(error).split())[:_MESSAGE_CHARACTERS]
    if is_out_of_memory(error):
        return MemoryError(words)
    return GraphRefused(f"{plan.engine} cannot run {plan.path.name}: {words}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an engine's error is about memory; they say so in words only."""
    words = str(error).casefold()
    signs = (
        "bad_alloc",
        "bad allocation",
        "failed to allocate memory",
        "could not allocate",
        "out of memory",  # CUDA's own
        "status_alloc_failed",  # cuBLAS and cuDNN
    )
    return isinstance(error, MemoryError) or any(sign in words for sign in signs)


def _onnxruntime() -> Any:  # noqa: ANN401  # onnxruntime ships no types
    """The module; unless told before its import, it writes a device id and sends telemetry."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # noqa: PLC0415  # heavy

    return onnxruntime


def _openvino() -> Any:  # noqa: ANN401  # openvino's types are not packaged
    """The module; its import tries to send telemetry unless that package cannot be imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino  # noqa: PLC0415  # heavy
    except (ImportError, OSError) as error:
        raise GraphRefused(f"OpenVINO cannot be used here: {error}") from error
    return openvino


def _openvino_imports() -> bool:
    try:
        _openvino()
    except GraphRefused:
        return False
    return True
