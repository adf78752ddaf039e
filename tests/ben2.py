"""A tiny graph with BEN2's inputs and outputs: what is dark is the subject.

Its answer is 1 minus the mean of the channels, as float16.
"""

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 1024
_SINGLE, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def made(  # each is one way to break the contract
    path: Path,
    *,
    takes: int = _SINGLE,
    answers: int = _HALF,
    side: int = SIDE,
    channels: int = 3,
    factor: float = 1,
    dawdles: bool = False,
) -> Path:
    """Writes it; `factor` is multiplied in, so that 10 leaves 0 to 1.

    With `dawdles` it never answers pictures that have a pixel of full white.
    """
    nodes = [
        helper.make_node("Cast", ["picture"], ["single"], to=_SINGLE),
        helper.make_node("ReduceMean", ["single"], ["light"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["one", "light"], ["dark"]),
        *(_loop_for_white() if dawdles else [helper.make_node("Identity", ["dark"], ["found"])]),
        helper.make_node("Mul", ["found", "factor"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["mask"], to=answers),
    ]
    numbers = {"one": 1, "factor": factor, "nearly_white": 0.99}
    constants = [
        numpy_helper.from_array(np.array(n, np.float32), name) for name, n in numbers.items()
    ]
    constants.append(numpy_helper.from_array(np.array(2**40, np.int64), "turns"))
    picture = helper.make_tensor_value_info("picture", takes, (1, channels, side, side))
    mask = helper.make_tensor_value_info("mask", answers, (1, 1, side, side))
    graph = helper.make_graph(nodes, "ben2", [picture], [mask], constants)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _loop_for_white() -> list[onnx.NodeProto]:
    """A loop of 2**40 turns where the picture has white in it, else of none."""
    scalar: list[int] = []
    mask = ["batch", "channel", "row", "column"]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still_going"]),
            helper.make_node("Abs", ["state"], ["next_state"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, scalar),
            helper.make_tensor_value_info("going", TensorProto.BOOL, scalar),
            helper.make_tensor_value_info("state", _SINGLE, mask),
        ],
        [
            helper.make_tensor_value_info("still_going", TensorProto.BOOL, scalar),
            helper.make_tensor_value_info("next_state", _SINGLE, mask),
        ],
    )
    return [
        helper.make_node("ReduceMax", ["single"], ["brightest"], keepdims=0),
        helper.make_node("Greater", ["brightest", "nearly_white"], ["white"]),
        helper.make_node("Cast", ["white"], ["white_number"], to=TensorProto.INT64),
        helper.make_node("Mul", ["white_number", "turns"], ["asked_turns"]),
        helper.make_node("Loop", ["asked_turns", "", "dark"], ["found"], body=body),
    ]
