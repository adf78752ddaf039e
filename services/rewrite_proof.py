"""The proof that a rewritten network answers as the original does, by running both.

A small network is run whole. A large original may need ten times the memory that its rewriting is
for, so it is proven piece by piece: each lowered convolution, at its real size and with its real
weights, against what stands in its place; its channels only meet in the last sum, so a few of
them are run at a time. The tail is run whole, on a smaller picture where memory asks for it.
All other nodes are compared, not run: they must be the original's, byte for byte, but for what
the newer operator set says otherwise.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import (
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from services.rewrite import Rewriting
from services.rewrite_deform import Deform
from services.rewrite_graph import Array, Graph, Mismatch, ReadTensor, attributes
from services.rewrite_opset import opset_of
from services.rewrite_tail import Tail, told_scales

_SEED = 20261124
_PIECE_BYTES = 32 << 20  # of one tensor of unrolled samples
_TAIL_BYTES = 64 << 20  # of the enlarged tensor
_PIECE_SIZES = "piece/sizes"
_FAR_OUT = 0.02  # this share of the offsets points far outside

Feed = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Gap:
    """The largest difference found: as it is, and for outputs above 1 as a share of the largest."""

    absolute: float = 0.0
    relative: float = 0.0

    def or_wider(self, other: "Gap") -> "Gap":
        return Gap(max(self.absolute, other.absolute), max(self.relative, other.relative))


_UNPROVEN = Gap(math.inf, math.inf)


def difference(original: ModelProto, rewritten: ModelProto) -> Gap:
    """Both run whole on one random input, which both must fit into memory for."""
    return _difference_of(original.SerializeToString(), rewritten.SerializeToString())


def difference_of_files(original: Path, rewritten: Path) -> Gap:
    """The same for files; one network is in memory at a time."""
    return _difference_of(str(original), str(rewritten))


def _difference_of(original: bytes | str, rewritten: bytes | str) -> Gap:
    names = [entry.name for entry in _session(rewritten).get_outputs()]
    first = _session(original)
    feed = _random_feed(first.get_inputs())
    expected = list(first.run(names, dict(feed)))
    del first
    return _gap(expected, list(_session(rewritten).run(names, dict(feed))))


def difference_by_pieces(
    original: ModelProto, rewriting: Rewriting, *, read: ReadTensor = numpy_helper.to_array
) -> Gap:
    """The widest gap of any rewritten piece from the original's; inf where more has changed."""
    before, after = Graph(original, read=read), Graph(rewriting.model, read=read)
    rng = np.random.default_rng(_SEED)
    if not _rest_is_the_same(before, after, rewriting):
        return _UNPROVEN
    widest = Gap()
    try:
        for deform in rewriting.deforms:
            widest = widest.or_wider(_deform_gap(before, after, deform, rng))
        for tail in rewriting.tails:
            widest = widest.or_wider(_tail_gap(before, after, tail, rng))
    except Mismatch:  # a piece takes what it should not
        return _UNPROVEN
    return widest


def _rest_is_the_same(before: Graph, after: Graph, rewriting: Rewriting) -> bool:
    """Whether every node outside the pieces is the original's, taking the same tensors."""
    pieces = [deform.nodes for deform in rewriting.deforms]
    pieces += [tail.nodes for tail in rewriting.tails]
    inside = frozenset[int]().union(*pieces)
    new = {
        name
        for results, sources in _boundaries(before, rewriting)
        for node in _between(after, results, sources)
        for name in node.output
    }
    for node in after.nodes:
        if new.intersection(node.output):
            continue
        index = before.makers.get(next(iter(node.output)))
        if index is None or index in inside or not _same(before.nodes[index], node):
            return False
    names = [entry.name for entry in after.model.graph.output]
    return names == [entry.name for entry in before.model.graph.output][: len(names)] and all(
        tensor.name not in before.initializers or tensor == before.initializers[tensor.name]
        for tensor in after.model.graph.initializer
    )


def _same(original: NodeProto, node: NodeProto) -> bool:
    """The same node; what the newer operator set moves may differ (services/rewrite_opset.py)."""
    if original == node:
        return True
    moved = original.op_type.startswith("Reduce") or original.op_type == "Split"
    inputs = list(node.input[: len(original.input)])
    alike = inputs == list(original.input) and list(node.output) == list(original.output)
    return moved and alike and original.op_type == node.op_type


def _boundaries(graph: Graph, rewriting: Rewriting) -> Iterator[tuple[str, frozenset[str]]]:
    """Each piece's result and the tensors it is made from."""
    for deform in rewriting.deforms:
        yield deform.output, frozenset((deform.data, deform.offset, deform.mask))
    for tail in rewriting.tails:
        side = graph.nodes[tail.side].input[0]
        yield graph.nodes[tail.last].output[0], frozenset((tail.small, side))


def _between(graph: Graph, result: str, sources: frozenset[str]) -> list[NodeProto]:
    """The nodes that make a result from its sources, in their order."""
    waiting, found = [result], set[int]()
    while waiting:
        name = waiting.pop()
        index = graph.makers.get(name)
        if name in sources or index is None or index in found:
            continue
        found.add(index)
        waiting.extend(graph.nodes[index].input)
    return [graph.nodes[index] for index in sorted(found)]


def _deform_gap(before: Graph, after: Graph, deform: Deform, rng: np.random.Generator) -> Gap:
    """Over all channels, a few at a time where the convolution is one group."""
    widest = Gap()
    for channels in _shares(deform):
        count = channels.stop - channels.start
        feed = _deform_feed(deform, count, rng)
        given = _Given(deform=deform, channels=channels)
        old = [_narrowed(before, deform, index, count) for index in sorted(deform.nodes)]
        new = _between(after, deform.output, frozenset(feed))
        expected = _run_piece(before, old, feed, deform.output, given=given)
        widest = widest.or_wider(
            _gap(expected, _run_piece(after, new, feed, deform.output, given=given))
        )
    return widest


def _shares(deform: Deform) -> Iterator[slice]:
    grouped = deform.group != 1 or deform.offset_group != 1
    if grouped or deform.data in (deform.offset, deform.mask):
        yield slice(0, deform.channels)
        return
    places = deform.samples * math.prod(deform.out_size)
    step = max(1, _PIECE_BYTES // (4 * places))
    for start in range(0, deform.channels, step):
        yield slice(start, min(start + step, deform.channels))


def _deform_feed(deform: Deform, channels: int, rng: np.random.Generator) -> Feed:
    """A picture, offsets of some pixels with a few far outside, and a mask between 0 and 2."""
    batch, _, height, width = deform.data_shape
    offsets = rng.normal(0, 3, deform.offset_shape)
    far = rng.random(deform.offset_shape) < _FAR_OUT
    offsets[far] *= 2 * max(height, width)
    feed = {
        deform.data: rng.normal(0, 1, (batch, channels, height, width)).astype(np.float32),
        deform.offset: offsets.astype(np.float32),
    }
    if deform.mask:
        feed[deform.mask] = rng.uniform(0, 2, deform.mask_shape).astype(np.float32)
    return feed


def _narrowed(graph: Graph, deform: Deform, index: int, channels: int) -> NodeProto:
    """The original's node; a Reshape that writes out the channels' number gets the fewer's."""
    node = graph.nodes[index]
    if index not in deform.channel_axes or channels == deform.channels:
        return node
    narrow = NodeProto()
    narrow.CopyFrom(node)
    narrow.input[1] = _narrow_shape(node.output[0])
    return narrow


def _narrow_shape(name: str) -> str:
    return f"{name}/narrow_shape"


@dataclass(frozen=True, slots=True)
class _Given:
    """The constants of a piece that are not the graph's own: fewer channels, other sizes."""

    deform: Deform | None = None
    channels: slice = field(default_factory=lambda: slice(None))
    sizes: Mapping[str, list[int]] = field(default_factory=dict)

    def constant(self, graph: Graph, node: NodeProto, name: str) -> Array:
        if name in self.sizes:
            return np.array(self.sizes[name], np.int64)
        if self.deform is None:
            return graph.constant(name)
        if name == _narrow_shape(node.output[0]):
            index = graph.makers[node.output[0]]
            shape = graph.constant(graph.nodes[index].input[1]).copy()
            shape[self.deform.channel_axes[index]] = self.channels.stop - self.channels.start
            return shape
        values = graph.constant(name)
        weighs = node.op_type in ("Conv", "DeformConv") and name == node.input[1]
        if weighs and self.deform.group == 1:
            return np.ascontiguousarray(values[:, self.channels])
        return values


def _run_piece(
    graph: Graph, nodes: list[NodeProto], feed: Feed, result: str, *, given: _Given
) -> list[Array]:
    """Runs some of a graph's nodes; what they take besides the feed must be constant."""
    made = {name for node in nodes for name in node.output}
    constants: dict[str, Array] = {}
    for node in nodes:
        for name in filter(None, node.input):
            if name not in made and name not in feed and name not in constants:
                constants[name] = given.constant(graph, node, name)
    body = helper.make_graph(
        nodes,
        "piece",
        [_float_tensor(name, values.shape) for name, values in feed.items()],
        [_float_tensor(result, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    opset = OperatorSetIdProto(domain="", version=opset_of(graph.model))
    model = helper.make_model(body, opset_imports=[opset], ir_version=graph.model.ir_version)
    return list(_session(model.SerializeToString()).run([result], dict(feed)))


def _float_tensor(name: str, shape: tuple[int, ...] | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _tail_gap(before: Graph, after: Graph, tail: Tail, rng: np.random.Generator) -> Gap:
    """Run whole, on a picture as large as memory should have it."""
    side, last = before.nodes[tail.side], before.nodes[tail.last]
    small, resized, beside = _tail_sizes(before, tail)
    feed = {
        name: rng.normal(0, 1, shape).astype(np.float32)
        for name, shape in ((tail.small, small), (side.input[0], beside))
    }
    result = last.output[0]
    old = [before.nodes[index] for index in sorted(tail.nodes)]
    new = _between(after, result, frozenset(feed))
    outputs = []
    for graph, nodes, channels in (
        (before, old, small[1]),
        (after, new, int(before.constant(last.input[1]).shape[0])),
    ):
        given = _Given(sizes={_PIECE_SIZES: [resized[0], channels, *resized[2:]]})
        sized = [_resized(node) for node in nodes]
        outputs.append(_run_piece(graph, sized, feed, result, given=given))
    return _gap(*outputs)


def _tail_sizes(graph: Graph, tail: Tail) -> tuple[list[int], list[int], list[int]]:
    """The sizes of the small picture, the enlarged one and the other branch's input."""
    factor = max(1, math.isqrt(4 * math.prod(tail.resized_shape) // _TAIL_BYTES) + 1)
    if 4 * math.prod(tail.resized_shape) <= _TAIL_BYTES:
        factor = 1
    small = [*tail.small_shape[:2], *(max(1, size // factor) for size in tail.small_shape[2:])]
    resized = [
        *tail.resized_shape[:2],
        *(max(1, size // factor) for size in tail.resized_shape[2:]),
    ]
    resize = graph.nodes[tail.resize]
    if told_scales(resize):
        scales = graph.constant(resize.input[2])
        resized[2:] = [int(size * scale) for size, scale in zip(small[2:], scales[2:], strict=True)]
    strides = attributes(graph.nodes[tail.side]).get("strides", [1, 1])
    if not isinstance(strides, list):
        raise Mismatch("strides of another kind")
    beside = list(tail.side_shape)
    for axis in (2, 3):
        beside[axis] -= strides[axis - 2] * (tail.resized_shape[axis] - resized[axis])
    return small, resized, beside


def _resized(node: NodeProto) -> NodeProto:
    if node.op_type != "Resize" or told_scales(node):
        return node
    resize = NodeProto()
    resize.CopyFrom(node)
    resize.input[3] = _PIECE_SIZES
    return resize


def _session(model: bytes | str) -> onnxruntime.InferenceSession:
    """A session that runs the nodes as they stand and gives its memory back."""
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _random_feed(inputs: Iterable[onnxruntime.NodeArg]) -> Feed:
    """Normal numbers; a size that the network leaves open is 1."""
    rng = np.random.default_rng(_SEED)
    return {
        entry.name: rng.normal(
            0, 1, [dim if isinstance(dim, int) else 1 for dim in entry.shape]
        ).astype(np.float32)
        for entry in inputs
    }


def _gap(expected: list[Array], found: list[Array]) -> Gap:
    widest = Gap()
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape:
            return _UNPROVEN
        between = np.abs(one.astype(np.float64) - other.astype(np.float64))
        if not np.isfinite(between).all():
            return _UNPROVEN
        absolute = float(between.max(initial=0))
        largest = float(np.abs(one).max(initial=1))
        widest = widest.or_wider(Gap(absolute, absolute / largest))
    return widest
