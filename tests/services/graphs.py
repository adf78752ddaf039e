"""Small networks made by onnx.helper: what each of them does is in its name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 12
_FLOAT = TensorProto.FLOAT
_PICTURE = (1, 3, SIDE, SIDE)

Array = NDArray[np.float32]
Constant = NDArray[np.float32] | NDArray[np.int64]


def picture(seed: int = 0, side: int = SIDE) -> Array:
    return np.random.default_rng(seed).normal(size=(1, 3, side, side)).astype(np.float32)


def identity(path: Path, *, opset: int = 19) -> Path:
    return save(path, [helper.make_node("Identity", ["x"], ["y"])], opset=opset)


def shifted(path: Path, by: float) -> Path:
    """Adds `by` to every number."""
    node = helper.make_node("Add", ["x", "by"], ["y"])
    return save(path, [node], constants={"by": np.array(by, np.float32)})


def convolved(path: Path) -> Path:
    weights = np.random.default_rng(1).normal(size=(3, 3, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    return save(path, [node], constants={"w": weights})


def heavy(path: Path, *, weights_mb: int) -> Path:
    """Holds that many megabytes of weights and answers one number for each."""
    weights = np.full((weights_mb * 250_000 // 3, 3, 1, 1), 1e-3, np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Conv", ["mean", "w"], ["wide"]),
        helper.make_node("GlobalAveragePool", ["wide"], ["y"]),
    ]
    return save(path, nodes, constants={"w": weights})


def endless(path: Path) -> Path:
    """Never answers."""
    return save(path, _endless_loop("y"), constants=_LOOP_CONSTANTS)


def with_side_output(path: Path) -> Path:
    """Answers what is above zero, and on the side the negative of the picture."""
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["side"])]
    return save(path, nodes, outputs=("y", "side"))


def with_endless_side_output(path: Path) -> Path:
    """Answers its first output at once and its second one never."""
    nodes = [helper.make_node("Relu", ["x"], ["y"]), *_endless_loop("side")]
    return save(path, nodes, constants=_LOOP_CONSTANTS, outputs=("y", "side"))


def greedy(path: Path) -> Path:
    """Asks for 256 TiB: more than an address space has, however freely memory is promised."""
    shape = np.array([2**23, 2**23, 1, 1], np.int64)
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["one"], keepdims=1),
        helper.make_node("Expand", ["one", "shape"], ["y"]),
    ]
    return save(path, nodes, constants={"shape": shape})


def unknown_operator(path: Path) -> Path:
    node = helper.make_node("Mystery", ["x"], ["y"], domain="foreign")
    return save(path, [node], domains=[helper.make_opsetid("foreign", 1)])


def two_inputs(path: Path) -> Path:
    return save(path, [helper.make_node("Add", ["x", "z"], ["y"])], inputs=("x", "z"))


def deformed(
    path: Path,
    *,
    kernel: int,
    bias: bool = False,
    mask: bool = False,
    opset: int = 19,
    attributes: Mapping[str, list[int]] = MappingProxyType({}),
) -> Path:
    """A DeformConv whose offsets and mask come from convolutions, reaching beyond the picture."""
    draw = np.random.default_rng(kernel)
    taps = kernel * kernel
    constants = {
        "w": draw.normal(size=(4, 3, kernel, kernel)),
        "b": 3 * draw.normal(size=4),
        "offset_w": 2 * draw.normal(size=(2 * taps, 3, kernel, kernel)),
        "mask_w": draw.normal(size=(taps, 3, kernel, kernel)),
    }
    placed: dict[str, Any] = {"pads": [kernel // 2] * 4, **attributes}
    inputs = ["x", "w", "offset", "b" if bias else "", "mask" if mask else ""]
    while not inputs[-1]:
        inputs.pop()
    nodes = [
        helper.make_node("Conv", ["x", "offset_w"], ["offset"], **placed),
        helper.make_node("Conv", ["x", "mask_w"], ["mask_logits"], **placed),
        helper.make_node("Sigmoid", ["mask_logits"], ["mask"]),
        helper.make_node("DeformConv", inputs, ["y"], **placed),
    ]
    singles = {name: value.astype(np.float32) for name, value in constants.items()}
    return save(path, nodes, constants=singles, opset=opset)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    constants: Mapping[str, Constant] | None = None,
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("y",),
    opset: int = 19,
    domains: Sequence[onnx.OperatorSetIdProto] = (),
) -> Path:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, _FLOAT, _PICTURE) for name in inputs],
        [helper.make_tensor_value_info(name, _FLOAT, [None] * 4) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *domains]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


_LOOP_CONSTANTS: dict[str, Constant] = {
    "turns": np.array(2**62, np.int64),
    "half": np.array(0.5, np.float32),
}


def _endless_loop(output: str) -> list[onnx.NodeProto]:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still_going"]),
            helper.make_node("Mul", ["state", "half"], ["next_state"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", _FLOAT, _PICTURE),
        ],
        [
            helper.make_tensor_value_info("still_going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next_state", _FLOAT, _PICTURE),
        ],
    )
    return [helper.make_node("Loop", ["turns", "", "x"], [output], body=body)]
