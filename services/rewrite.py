"""An exported network made cheap, exactly: the same answer from a graph that fits a small machine.

Three things are done, each only where the graph has exactly the shape it is for, and nothing where
it has not: a deformable convolution that the exporter spelled out as GatherND becomes one native
DeformConv (services/rewrite_deform.py), the last 1x1 convolution moves in front of the enlargement
that feeds it (services/rewrite_tail.py), and side branches die with the outputs nobody asks for.
Every other node stays as it is, under its name. A model in which nothing is found comes back
itself. Proofs and files are services/rewrite_proof.py's and services/rewrite_file.py's.
"""

from dataclasses import dataclass

from onnx import ModelProto, NodeProto, OperatorSetIdProto, TensorProto, numpy_helper

from services.rewrite_deform import Deform, find_deforms, write_native
from services.rewrite_graph import Graph, Mismatch, ReadTensor, Writing, living, taken_by
from services.rewrite_opset import TARGET, opset_of, raise_opset
from services.rewrite_tail import Tail, find_tails, write_tail

_IR_VERSION = 9  # the first that belongs to operator set 19


@dataclass(frozen=True, slots=True)
class Rewriting:
    """The rewritten model and what was done; `model` is the given one where nothing was.

    `left_alone` says why a graph with lowered convolutions was not touched, else it is empty.
    """

    model: ModelProto
    deforms: tuple[Deform, ...] = ()
    tails: tuple[Tail, ...] = ()
    changed: bool = False
    left_alone: str = ""


def rewrite(
    model: ModelProto,
    *,
    first_output_only: bool = False,
    split_rows: bool = False,
    read: ReadTensor = numpy_helper.to_array,
) -> Rewriting:
    """The same network, cheaper; the given model is not changed.

    Args:
        model: the network. Weights may lie outside when `read` knows where.
        first_output_only: drop all outputs but the first, and what only they need.
        split_rows: write a 7x7 DeformConv as seven 1x7 ones that are summed: onnxruntime's kernel
            unrolls the whole kernel at once, a seventh of it takes a seventh of the memory.
        read: the values of a constant of this model.
    """
    graph = Graph(model, read=read)
    deforms, tails = find_deforms(graph), find_tails(graph)
    cut = first_output_only and len(model.graph.output) > 1
    if not deforms and not tails and not cut:
        return Rewriting(model)
    try:
        rewritten = _assemble(graph, deforms, tails, cut=cut, split_rows=split_rows)
    except Mismatch as mismatch:
        if not tails and not cut:
            return Rewriting(model, left_alone=str(mismatch))
        rewritten = _assemble(graph, [], tails, cut=cut, split_rows=False)
        return Rewriting(rewritten, (), tuple(tails), changed=True, left_alone=str(mismatch))
    return Rewriting(rewritten, tuple(deforms), tuple(tails), changed=True)


def _assemble(
    graph: Graph, deforms: list[Deform], tails: list[Tail], *, cut: bool, split_rows: bool
) -> ModelProto:
    """The model with new nodes in the places of the old ones' last, and all that is dead gone."""
    fresh = graph.fresh_names()
    written: dict[int, Writing] = {}
    for deform in deforms:
        into = written[deform.conv] = Writing(fresh)
        write_native(graph, deform, into=into, split_rows=split_rows)
    for tail in tails:
        into = written[tail.last] = Writing(fresh)
        write_tail(graph, tail, into=into)
    outputs = 1 if cut else len(graph.model.graph.output)
    nodes = [
        new
        for index, node in enumerate(graph.nodes)
        for new in (written[index].nodes if index in written else [node])
    ]
    nodes = living(nodes, [entry.name for entry in graph.model.graph.output[:outputs]])
    tensors = [tensor for part in written.values() for tensor in part.tensors]
    opset = opset_of(graph.model)
    if deforms and opset < TARGET:
        raising = Writing(fresh)
        raise_opset(nodes, opset=opset, into=raising)
        nodes, tensors, opset = raising.nodes, tensors + raising.tensors, TARGET
    return _model(graph, nodes, tensors, outputs=outputs, opset=opset)


def _model(
    graph: Graph, nodes: list[NodeProto], tensors: list[TensorProto], *, outputs: int, opset: int
) -> ModelProto:
    """A model like the given one around other nodes, with the constants that these take."""
    source = graph.model
    model = ModelProto()
    for entry in source.opset_import:
        standard = entry.domain in ("", "ai.onnx")
        version = opset if standard else entry.version
        model.opset_import.append(OperatorSetIdProto(domain=entry.domain, version=version))
    model.ir_version = source.ir_version
    if opset != opset_of(source):
        model.ir_version = max(source.ir_version, _IR_VERSION)
    model.producer_name, model.producer_version = source.producer_name, source.producer_version
    model.domain, model.model_version = source.domain, source.model_version
    model.doc_string = source.doc_string
    model.metadata_props.extend(source.metadata_props)
    model.functions.extend(source.functions)
    body = model.graph
    body.name, body.doc_string = source.graph.name, source.graph.doc_string
    body.node.extend(nodes)
    needed = {name for node in nodes for name in taken_by(node)}
    needed |= {entry.name for entry in source.graph.output[:outputs]}
    body.input.extend(entry for entry in source.graph.input if _stays(graph, entry.name, needed))
    body.output.extend(source.graph.output[:outputs])
    kept = (tensor for tensor in source.graph.initializer if tensor.name in needed)
    body.initializer.extend([*kept, *tensors])
    body.sparse_initializer.extend(source.graph.sparse_initializer)
    body.value_info.extend(entry for entry in source.graph.value_info if entry.name in needed)
    body.quantization_annotation.extend(source.graph.quantization_annotation)
    return model


def _stays(graph: Graph, name: str, needed: set[str]) -> bool:
    """Inputs stay even where nothing takes them any more; weights that are also inputs may go."""
    return name in needed or name not in graph.initializers
