"""The last 1x1 convolution moved in front of the enlargement that feeds it.

A linear Resize works on each channel by itself, so a 1x1 convolution may come before it: then one
channel is enlarged instead of hundreds. The other branch of the concat ends in a convolution; the
1x1 one's share of it is folded into that one's weights. Both are exact, up to rounding.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from services.rewrite_graph import Graph, Mismatch, Writing, attributes, is_op, need

_LINEAR_PLACES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
_RESIZE = {
    "antialias": 0,
    "exclude_outside": 0,
    "keep_aspect_ratio_policy": "stretch",
    "mode": "linear",
}

Weights = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tail:
    """A 1x1 Conv over the concat of an enlarged picture and the result of another Conv."""

    last: int
    concat: int
    resize: int
    side: int
    resized_first: bool
    small: str
    small_shape: tuple[int, ...]
    resized_shape: tuple[int, ...]
    side_shape: tuple[int, ...]

    @property
    def nodes(self) -> frozenset[int]:
        return frozenset((self.last, self.concat, self.resize, self.side))


def find_tails(graph: Graph) -> list[Tail]:
    found = []
    for index, node in enumerate(graph.nodes):
        if is_op(node, "Conv"):
            try:
                found.append(_read_tail(graph, index))
            except (Mismatch, ValueError, IndexError):
                continue
    return found


def _read_tail(graph: Graph, last: int) -> Tail:
    node = graph.nodes[last]
    found = attributes(node)
    plain = {"pads": [0] * 4, "dilations": [1, 1], "strides": [1, 1], "kernel_shape": [1, 1]}
    wanted = {**plain, "auto_pad": "NOTSET", "group": 1}
    need({**plain, **found} == wanted and "kernel_shape" in found, "not a plain 1x1 convolution")
    concat = graph.maker(node.input[0], "Concat")
    branches = list(graph.nodes[concat].input)
    need(len(branches) == 2 and attributes(graph.nodes[concat]) == {"axis": 1}, "another concat")
    resized_first = graph.op_above(branches[0]) == "Resize"
    enlarged, other = branches if resized_first else branches[::-1]
    resize, side = graph.maker(enlarged, "Resize"), graph.maker(other, "Conv")
    for name, taker in ((node.input[0], last), (enlarged, concat), (other, concat)):
        need(graph.takers[name] == {taker} and name not in graph.outputs, "somebody else looks on")
    small = graph.nodes[resize].input[0]
    need(small != graph.nodes[side].input[0], "both branches are of one tensor")
    before, after = _check_resize(graph, graph.nodes[resize])
    _check_weights(graph, node, graph.nodes[side], enlarged=before[1])
    return Tail(
        last=last,
        concat=concat,
        resize=resize,
        side=side,
        resized_first=resized_first,
        small=small,
        small_shape=before,
        resized_shape=after,
        side_shape=_whole(graph, graph.nodes[side].input[0]),
    )


def _check_resize(graph: Graph, node: NodeProto) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sizes before and after a Resize that is linear and works on each channel alone."""
    found = attributes(node)
    place = found.get("coordinate_transformation_mode", "half_pixel")
    need(place in _LINEAR_PLACES, f"the places of {place}")
    settings = {key: value for key, value in found.items() if key in _RESIZE}
    need({**_RESIZE, "mode": "nearest", **settings} == _RESIZE, "not a plain linear enlargement")
    need("axes" not in found, "an enlargement of chosen axes")
    before, after = (_whole(graph, name) for name in (node.input[0], node.output[0]))
    need(len(before) == 4 and before[:2] == after[:2], "channels are resized, too")
    if told_scales(node):
        scales = graph.constant(node.input[2]).astype(np.float64)
        need([float(scale) for scale in scales[:2]] == [1.0, 1.0], "channels are resized, too")
    return before, after


def told_scales(node: NodeProto) -> bool:
    """Whether the Resize is told scales; else it is told sizes."""
    return len(node.input) > 2 and bool(node.input[2])


def _whole(graph: Graph, name: str) -> tuple[int, ...]:
    shape = graph.shape(name)
    if shape is None:
        raise Mismatch(f"the shape of {name} is not known")
    dims = [dim for dim in shape if dim is not None]
    need(len(dims) == len(shape), f"the shape of {name} is not known")
    return tuple(dims)


def _check_weights(graph: Graph, last: NodeProto, side: NodeProto, *, enlarged: int) -> None:
    found = attributes(side)
    need(found["group"] == 1 and found["auto_pad"] == "NOTSET", "the other branch is in groups")
    weight, inner = _float(graph, last.input[1]), _float(graph, side.input[1])
    need(weight.ndim == 4 and inner.ndim == 4, "not convolutions of pictures")
    need(weight.shape[1] == enlarged + inner.shape[0], "the channels do not add up")
    need(weight.shape[0] < enlarged, "nothing is saved")
    for node in (last, side):
        if len(node.input) > 2 and node.input[2]:
            _float(graph, node.input[2])


def _float(graph: Graph, name: str) -> Weights:
    values = graph.constant(name)
    need(values.dtype == np.float32, f"{name} is not float32")
    return values.astype(np.float32, copy=False)


def write_tail(graph: Graph, tail: Tail, *, into: Writing) -> None:
    """Conv, Resize and the folded Conv in place of the side's Conv, Resize, Concat and Conv."""
    last, resize = graph.nodes[tail.last], graph.nodes[tail.resize]
    stem = last.output[0]
    ahead, behind = _shares(_float(graph, last.input[1]), tail)
    before = into.constant(f"{stem}/before", ahead)
    few = into.node("Conv", [tail.small, before], into.fresh(f"{stem}/few"), kernel_shape=[1, 1])
    inputs = [few, *resize.input[1:]]
    if not told_scales(resize):
        sizes = [tail.resized_shape[0], ahead.shape[0], *tail.resized_shape[2:]]
        inputs[3] = into.constant(f"{stem}/sizes", np.array(sizes, np.int64))
    resized = into.changed(resize, inputs, f"{stem}/resized")
    folded = _fold(graph, tail, behind=behind, into=into)
    into.node("Add", [resized, folded], stem)


def _shares(weight: Weights, tail: Tail) -> tuple[Weights, Weights]:
    """The 1x1 weights of the enlarged branch and of the other one."""
    if tail.resized_first:
        ahead, behind = np.split(weight, [tail.small_shape[1]], axis=1)
    else:
        behind, ahead = np.split(weight, [weight.shape[1] - tail.small_shape[1]], axis=1)
    return ahead, behind


def _fold(graph: Graph, tail: Tail, *, behind: Weights, into: Writing) -> str:
    """The other branch's last convolution with the 1x1 one behind it, as one."""
    last, side = graph.nodes[tail.last], graph.nodes[tail.side]
    stem = last.output[0]
    outer = behind[:, :, 0, 0].astype(np.float64)
    inner = _float(graph, side.input[1]).astype(np.float64)
    weight = np.einsum("oc,cijk->oijk", outer, inner)
    bias = outer @ _bias(graph, side, len(inner)) + _bias(graph, last, len(outer))
    names = [
        into.constant(f"{stem}/folded_weight", weight.astype(np.float32)),
        into.constant(f"{stem}/folded_bias", bias.astype(np.float32)),
    ]
    return into.changed(side, [side.input[0], *names], f"{stem}/folded")


def _bias(graph: Graph, conv: NodeProto, channels: int) -> NDArray[np.float64]:
    if len(conv.input) > 2 and conv.input[2]:
        return _float(graph, conv.input[2]).astype(np.float64)
    return np.zeros(channels)
