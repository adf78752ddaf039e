"""An ONNX graph as the rewriting reads it: who makes a tensor, who takes it, what is constant.

Patterns are matched by walking up from a node. A step that finds anything else than it expects
raises `Mismatch`, so a match is a function that reads like the pattern; `Walk` remembers the nodes
it came through.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
    shape_inference,
)

Array: TypeAlias = NDArray[np.generic]
ReadTensor: TypeAlias = Callable[[TensorProto], Array]
Attribute: TypeAlias = int | float | str | list[int]
Setting: TypeAlias = int | Iterable[int]
Shape: TypeAlias = tuple[int | None, ...]

_STRIPPED_ABOVE_BYTES = 4096  # shapes are computed from small constants; weights only need a shape
_DEFAULTS: Mapping[str, Mapping[str, Attribute]] = {
    "Cast": {"saturate": 1},
    "Conv": {"auto_pad": "NOTSET", "group": 1},
    "GatherND": {"batch_dims": 0},
    "Pad": {"mode": "constant"},
    "Reshape": {"allowzero": 0},
}


class Mismatch(Exception):
    """The graph differs from the pattern; caught where matching began."""


def need(fits: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not fits:
        raise Mismatch(what)


class Graph:
    """A model's graph, indexed. Nodes are known by their place in the list."""

    def __init__(self, model: ModelProto, *, read: ReadTensor = numpy_helper.to_array) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.inputs = {entry.name for entry in model.graph.input}
        self.outputs = {entry.name for entry in model.graph.output}
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.makers = {
            name: index for index, node in enumerate(self.nodes) for name in node.output if name
        }
        self.takers: dict[str, set[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in taken_by(node):
                self.takers.setdefault(name, set()).add(index)
        self._read = read
        self._shapes: dict[str, Shape] | None = None

    def maker(self, name: str, op: str) -> int:
        """The node that makes a tensor, which must be of one kind."""
        index = self.makers.get(name)
        if index is None or not is_op(self.nodes[index], op):
            raise Mismatch(f"{name} is not made by {op}")
        return index

    def op_above(self, name: str) -> str:
        index = self.makers.get(name)
        return "" if index is None else self.nodes[index].op_type

    def tensor(self, name: str) -> TensorProto | None:
        """The constant of that name: fixed initializer, Constant node, either behind Identity."""
        if name in self.initializers:
            return None if name in self.inputs else self.initializers[name]
        index = self.makers.get(name)
        if index is None:
            return None
        node = self.nodes[index]
        if is_op(node, "Identity"):
            return self.tensor(node.input[0])
        if is_op(node, "Constant") and node.attribute[0].type == AttributeProto.TENSOR:
            value: TensorProto = node.attribute[0].t
            return value
        return None

    def constant(self, name: str) -> Array:
        tensor = self.tensor(name)
        if tensor is None:
            raise Mismatch(f"{name} is not constant")
        return self._read(tensor)

    def ints(self, name: str) -> list[int]:
        values = self.constant(name)
        need(values.dtype == np.int64, f"{name} is not int64")
        return [int(value) for value in values.reshape(-1)]

    def shape(self, name: str) -> Shape | None:
        """What is known of a tensor's shape; None where even the number of dimensions is not."""
        tensor = self.tensor(name)
        if tensor is not None:
            return tuple(tensor.dims)
        if self._shapes is None:
            self._shapes = dict(_inferred_shapes(self.model))
        return self._shapes.get(name)

    def may_have_shape(self, name: str, shape: Iterable[int]) -> bool:
        """False where something else is known; what the graph leaves open, the proof sees."""
        known, wanted = self.shape(name), tuple(shape)
        if known is None:
            return True
        pairs = zip(known, wanted, strict=False)
        return len(known) == len(wanted) and all(here in (None, there) for here, there in pairs)

    def fresh_names(self) -> Callable[[str], str]:
        """A giver of names that nothing in the graph has yet."""
        taken = self.inputs | self.outputs | set(self.initializers) | set(self.makers)

        def give(wanted: str) -> str:
            name, count = wanted, 1
            while name in taken:
                name, count = f"{wanted}_{count}", count + 1
            taken.add(name)
            return name

        return give


class Writing:
    """New nodes in order, and the constants they need, under names that are still free."""

    def __init__(self, fresh: Callable[[str], str]) -> None:
        self.fresh = fresh
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []

    def constant(self, wanted: str, values: Array) -> str:
        name = self.fresh(wanted)
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **settings: Setting) -> str:
        """Adds a node; its result is `output`, to the letter."""
        node = helper.make_node(op, inputs, [output], name=f"{output}/{op}")
        node.attribute.extend(helper.make_attribute(*setting) for setting in settings.items())
        self.nodes.append(node)
        return output

    def changed(self, node: NodeProto, inputs: list[str], wanted: str) -> str:
        """Adds a node like another one, with other inputs and another result."""
        copy = NodeProto()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend(inputs)
        output = copy.name = copy.output[0] = self.fresh(wanted)
        self.nodes.append(copy)
        return output


class Walk:
    """One attempt at a match: each step goes from a tensor up to its maker."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: set[int] = set()

    def up(self, name: str, op: str, **expected: Attribute) -> list[str]:
        """The inputs of the node that makes `name`; its attributes must be just the expected."""
        index = self.graph.maker(name, op)
        node = self.graph.nodes[index]
        found = attributes(node)
        need(found == {**_DEFAULTS.get(op, {}), **expected}, f"{op} of {name} has {found}")
        need(len(node.output) == 1, f"{op} of {name} has more outputs")
        self.nodes.add(index)
        return list(node.input)

    def reshape(self, name: str, shape: list[int] | None = None) -> tuple[str, list[int]]:
        """The source of a Reshape to a constant shape, and that shape, every number written out."""
        source, target = self.up(name, "Reshape")
        dims = self.graph.ints(target)
        need(all(dim > 0 for dim in dims), f"{name} is reshaped to {dims}")
        need(shape is None or dims == shape, f"{name} is reshaped to {dims}, not {shape}")
        return source, dims

    def with_constant(self, name: str, op: str) -> tuple[str, Array]:
        """The variable and the constant side of a commutative operation."""
        first, second = self.up(name, op)
        if self.graph.tensor(second) is not None:
            return first, self.graph.constant(second)
        return second, self.graph.constant(first)


def is_op(node: NodeProto, op: str) -> bool:
    return node.op_type == op and node.domain in ("", "ai.onnx")


def attributes(node: NodeProto) -> dict[str, Attribute]:
    """A node's attributes with the defaults filled in, text as text."""
    found: dict[str, Attribute] = dict(_DEFAULTS.get(node.op_type, {}))
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        found[attribute.name] = list(value) if isinstance(value, (list, tuple)) else value
    return found


def taken_by(node: NodeProto) -> Iterator[str]:
    """The names a node takes, those that its inner graphs reach out for included."""
    yield from filter(None, node.input)
    for graph in inner_graphs(node):
        for inner in graph.node:
            yield from taken_by(inner)
        yield from (entry.name for entry in graph.output)


def inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def living(nodes: list[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """The nodes that the outputs need, in their order."""
    wanted = set(outputs)
    alive = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(taken_by(node))
            alive.append(node)
    return alive[::-1]


def _inferred_shapes(model: ModelProto) -> Iterator[tuple[str, Shape]]:
    """Shapes as onnx infers them from a copy without weights: a few megabytes, not a gigabyte."""
    try:
        inferred = shape_inference.infer_shapes(_without_weights(model), data_prop=True)
    except (
        shape_inference.InferenceError,
        ValueError,
        RuntimeError,
    ):  # malformed: what it says of itself stands
        inferred = model
    for entry in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        if entry.type.tensor_type.HasField("shape"):
            yield entry.name, _dims(entry)


def _without_weights(model: ModelProto) -> ModelProto:
    bare = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph, source = bare.graph, model.graph
    graph.name = source.name or "graph"
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.value_info.extend(source.value_info)
    given = {entry.name for entry in source.input}
    for tensor in source.initializer:
        if _is_small(tensor):
            graph.initializer.append(tensor)
        elif tensor.name not in given:
            shape = list(tensor.dims)
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, shape))
    return bare


def _is_small(tensor: TensorProto) -> bool:
    inline = tensor.data_location != TensorProto.EXTERNAL
    return inline and tensor.ByteSize() <= _STRIPPED_ABOVE_BYTES


def _dims(entry: ValueInfoProto) -> Shape:
    dims = entry.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
