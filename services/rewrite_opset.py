"""A graph's nodes as a newer operator set says them, without a general converter.

Between two versions of the operator set most operators stay what they were. Which ones changed is
asked of onnx itself; a changed one passes only when it is listed here as having gained nothing but
types or optional parts whose default is the old behaviour, or when we say it anew ourselves.
Anything else is a reason to leave the whole graph alone.
"""

from collections.abc import Iterable

import numpy as np
from onnx import ModelProto, NodeProto, defs, helper

from services.rewrite_graph import Mismatch, Writing, attributes, inner_graphs, need

TARGET = 19
_OLDEST = 13
_UNCHANGED = """
    Abs Add BatchNormalization Cast Constant CumSum Div Equal Greater Identity LeakyRelu Less Mul
    PRelu Pad Pow Relu Reshape Resize ScatterElements ScatterND Shape Size Sub Where
"""
_REDUCING = """
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSumSquare
"""
_SAME_BY_DEFAULT = frozenset(_UNCHANGED.split())
_AXES_AS_INPUT = frozenset(_REDUCING.split())


def opset_of(model: ModelProto) -> int:
    """The version of the standard operators; 0 where the model names none."""
    return max(
        (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        default=0,
    )


def raise_opset(nodes: Iterable[NodeProto], *, opset: int, into: Writing) -> None:
    """Writes the nodes as TARGET says them; those that need no change as they are.

    Raises Mismatch where one cannot be said. DeformConv is new in TARGET, so it is one of ours.
    """
    need(opset >= _OLDEST, f"operator set {opset} is too old to be raised")
    for node in nodes:
        standard = node.domain in ("", "ai.onnx")
        need(not any(True for _ in inner_graphs(node)), f"{node.op_type} has a graph inside")
        if standard and node.op_type != "DeformConv" and _changed(node.op_type, opset):
            into.nodes.append(_raised(node, into=into))
        else:
            into.nodes.append(node)


def _raised(node: NodeProto, *, into: Writing) -> NodeProto:
    if node.op_type in _SAME_BY_DEFAULT:
        return node
    if node.op_type == "AveragePool":
        need(not attributes(node).get("ceil_mode", 0), "AveragePool rounds up otherwise now")
        return node
    if node.op_type == "Split":
        return _split(node)
    if node.op_type in _AXES_AS_INPUT:
        return _axes_as_input(node, into=into)
    raise Mismatch(f"{node.op_type} is another one in operator set {TARGET}")


def _changed(op: str, opset: int) -> bool:
    try:
        now, then = (defs.get_schema(op, version, "") for version in (TARGET, opset))
    except defs.SchemaError as error:
        raise Mismatch(f"{op} is not known") from error
    return bool(now.since_version != then.since_version)


def _split(node: NodeProto) -> NodeProto:
    """Equal parts must be counted out loud now; they were equal before, too."""
    if (len(node.input) > 1 and node.input[1]) or "num_outputs" in attributes(node):
        return node
    split = NodeProto()
    split.CopyFrom(node)
    split.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
    return split


def _axes_as_input(node: NodeProto, *, into: Writing) -> NodeProto:
    axes = attributes(node).get("axes")
    if axes is None:
        return node
    reduced = NodeProto()
    reduced.CopyFrom(node)
    del reduced.attribute[:]
    reduced.attribute.extend(entry for entry in node.attribute if entry.name != "axes")
    reduced.input.append(into.constant(f"{node.output[0]}/axes", np.array(axes, np.int64)))
    return reduced
