"""A rewritten network in OpenVINO's own format, its tensors arranged so that few live at a time.

The file is mapped, not read: what a compiled network no longer needs of it costs no memory. Three
rearrangements, none of which changes what is computed:

- the mask of a shifted attention window is added where the scores are, without the detour over five
  dimensions, and stays apart from the position bias: OpenVINO then runs the attention in one piece.
  (As constants the two would be summed beforehand, into a tensor per window and head.)
- a 1x1 convolution of joined channels becomes the sum of one per part: the parts never lie side by
  side. The order of a sum changes, and that difference is measured.
- a branch that needs nothing but the picture and is joined at the end waits for the rest, instead
  of being computed first and kept for the whole run.

Two of them need a number that is 0 at run time and not before: 0 times a value of the network.
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from services.inference import GraphRefused, read_openvino_model
from services.rewrite_prepare import (
    Place,
    RewriteManifest,
    publish,
    read_manifest,
    require_memory,
)
from utils.memory import granted_bytes

NEEDED_BYTES = 9 << 28
"""What making BiRefNet-General's form takes at most: 2.2 GB measured."""

_RECIPE = 1
_SEED = 20261124
_PROOF_SIDE = 8
_TOLERANCE = 1e-4
_CLOSING = frozenset({"Result", "Identity", "Sigmoid"})
_DEFORMABLE = "DeformableConvolution"

Node = Any  # openvino's types are not packaged
Values = NDArray[np.float32]


@dataclass(slots=True)
class Arranged:
    """How often each rearrangement was found, and the largest relative difference of the sums."""

    masks: int = 0
    joins: int = 0
    delays: int = 0
    difference: float = 0.0


class FormManifest(BaseModel):
    """What a form is and what speaks for it; `rewriting` is the proof of the file it came from."""

    model_config = ConfigDict(frozen=True)

    recipe_version: int
    halves: bool
    source: Place
    network: Place
    weights: Place
    rewriting: RewriteManifest
    masks: int
    joins: int
    delays: int
    max_relative_difference: float
    deformable_convolutions: int
    tools: dict[str, str]
    licence: str
    made_at: datetime

    def fits(self, source: Path, target: Path, *, halves: bool) -> bool:
        return self.source.fits(source) and self.is_whole(target, halves=halves)

    def is_whole(self, target: Path, *, halves: bool) -> bool:
        """Whether both of its files are in place as they were made."""
        ours = (self.recipe_version, self.halves) == (_RECIPE, halves)
        files = (self.network, target), (self.weights, target.with_suffix(".bin"))
        return ours and all(place.fits(path) for place, path in files)


def is_made(source: Path, target: Path, *, halves: bool) -> bool:
    """Whether `target` (.xml, with its .bin) is what `make` would make of `source`."""
    known = read_manifest(target, FormManifest)
    return known is not None and known.fits(source, target, halves=halves)


def stands_alone(target: Path, *, halves: bool, released: Collection[str]) -> bool:
    """Whether `target` is in place, made of one of the files of these SHA-256 (hex)."""
    known = read_manifest(target, FormManifest)
    made_of_it = known is not None and known.source.sha256 in released
    return known is not None and made_of_it and known.is_whole(target, halves=halves)


def make(
    network: Path,
    target: Path,
    *,
    rewriting: RewriteManifest,
    halves: bool,
    granted: int | None = None,
) -> FormManifest:
    """Write `network`, rewritten as told by `rewriting`, as `target`; its weights may be halves.

    The .xml takes its place last, then the manifest: without both the form counts as not made.

    `granted` is the memory to work in; None asks the system.

    Raises:
        GraphRefused: OpenVINO cannot read it, or a rearranged sum differs by more than 1e-4.
        RewriteRefused: there is too little memory to make it in.
    """
    require_memory(NEEDED_BYTES, granted_bytes() if granted is None else granted)
    model = read_openvino_model(network)
    found = sum(op.get_type_name() == _DEFORMABLE for op in model.get_ops())
    arranged = arrange(model)
    if not arranged.difference <= _TOLERANCE:
        raise GraphRefused(
            f"{network.name}: a convolution taken apart differs by {arranged.difference:.3g}"
        )
    import openvino  # noqa: PLC0415  # heavy; its telemetry is off by now

    part = target.with_suffix(".part.xml")
    openvino.save_model(model, str(part), compress_to_fp16=halves)
    for suffix in (".bin", ".xml"):
        _put_in_place(part.with_suffix(suffix), target.with_suffix(suffix))
    manifest = FormManifest(
        recipe_version=_RECIPE,
        halves=halves,
        source=rewriting.source,
        network=Place.of(target),
        weights=Place.of(target.with_suffix(".bin")),
        rewriting=rewriting,
        masks=arranged.masks,
        joins=arranged.joins,
        delays=arranged.delays,
        max_relative_difference=arranged.difference,
        deformable_convolutions=found,
        tools={tool: version(tool) for tool in ("numpy", "onnx", "openvino")},
        licence=rewriting.licence,
        made_at=datetime.now(tz=UTC),
    )
    publish(manifest, target)
    return manifest


def arrange(model: Node) -> Arranged:
    """Rearrange an `openvino.Model` of one picture in place; what does not fit is left alone."""
    _fold_constants(model)
    result = Arranged()
    result.masks = _add_masks_in_place(model)
    result.joins, result.difference = _take_joined_convolutions_apart(model)
    result.delays = _delay_side_branch(model)
    return result


# The masks of shifted windows


def _add_masks_in_place(model: Node) -> int:
    ops = _ops()
    zero = _zero(model.get_parameters()[0].output(0))
    kept: dict[bytes, Node] = {}
    count = 0
    for back in _of_type(model, "Reshape"):
        found = _shifted_window(back)
        if found is None:
            continue
        scores, mask = found
        digest = mask.tobytes() + repr(mask.shape).encode()
        if digest not in kept:
            kept[digest] = ops.add(ops.constant(mask), zero)
        back.output(0).replace(ops.add(scores, kept[digest]).output(0))
        count += 1
    return count


def _shifted_window(back: Node) -> tuple[Node, Values] | None:
    """The scores (windows, heads, n, n) and the mask (windows, 1, n, n) that `back` ends adding.

    What is matched: Reshape(Add(Reshape(scores, (1, windows, heads, n, n)), mask), as it was).
    """
    add = _producer(back, 0)
    if add.get_type_name() != "Add":
        return None
    for side in (0, 1):
        there, mask = _producer(add, side), _producer(add, 1 - side)
        if there.get_type_name() != "Reshape" or mask.get_type_name() != "Constant":
            continue
        scores, values = there.input_value(0), np.asarray(mask.data)
        shape = tuple(scores.shape)
        raised = tuple(there.output(0).shape)
        one_picture = len(shape) == 4 and raised == (1, *shape) and tuple(back.shape) == shape
        if one_picture and values.shape == (1, shape[0], 1, *shape[2:]):
            return scores, values[0].astype(np.float32, copy=False)
    return None


# 1x1 convolutions of joined channels


def _take_joined_convolutions_apart(model: Node) -> tuple[int, float]:
    count, widest = 0, 0.0
    for whole in _of_type(model, "Convolution"):
        join = _producer(whole, 0)
        if not _is_joined(whole, join):
            continue
        weights = np.asarray(_producer(whole, 1).data)
        parts = [join.input_value(index) for index in range(join.get_input_size())]
        widest = max(widest, _difference_apart(weights, [part.shape[1] for part in parts]))
        whole.output(0).replace(_sum_of_convolutions(parts, weights).output(0))
        count += 1
    return count, widest


def _is_joined(convolution: Node, join: Node) -> bool:
    weights = _producer(convolution, 1)
    if join.get_type_name() != "Concat" or weights.get_type_name() != "Constant":
        return False
    settings = convolution.get_attributes()
    plain = {"strides": [1, 1], "pads_begin": [0, 0], "pads_end": [0, 0], "dilations": [1, 1]}
    return (
        tuple(weights.shape[2:]) == (1, 1)
        and join.get_attributes()["axis"] in {1, -3}
        and len(join.output(0).get_target_inputs()) == 1
        and all(list(settings[name]) == value for name, value in plain.items())
    )


def _sum_of_convolutions(parts: list[Node], weights: Values) -> Node:
    ops, total, first = _ops(), None, 0
    for part in parts:
        last = first + part.shape[1]
        kernel = np.ascontiguousarray(weights[:, first:last])
        one = ops.convolution(part, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
        total, first = one if total is None else ops.add(total, one), last
    return total


def _difference_apart(weights: Values, depths: list[int]) -> float:
    """The convolution whole and taken apart, both run by OpenVINO on a small random picture."""
    ops = _ops()
    random = np.random.default_rng(_SEED)
    shapes = [(1, depth, _PROOF_SIDE, _PROOF_SIDE) for depth in depths]
    inputs = [ops.parameter(shape, dtype=np.float32) for shape in shapes]
    whole = ops.convolution(ops.concat(inputs, 1), weights, [1, 1], [0, 0], [0, 0], [1, 1])
    apart = _sum_of_convolutions([each.output(0) for each in inputs], weights)
    feed = [random.standard_normal(shape, np.float32) for shape in shapes]
    expected, found = _run([whole, apart], inputs, feed)
    return float(np.abs(expected - found).max() / max(1.0, np.abs(expected).max()))


# The branch beside the network


def _delay_side_branch(model: Node) -> int:
    """Where the result is a sum whose one side is a chain from the picture: the chain waits."""
    last = model.get_results()[0]
    while last.get_type_name() in _CLOSING:
        last = _producer(last, 0)
    if last.get_type_name() != "Add":
        return 0
    for side in (0, 1):
        start = _start_of_chain(last.input_value(side))
        if start is not None and not _is_constant(_producer(last, 1 - side)):
            node, index = start
            late = _ops().add(node.input_value(index), _zero(last.input_value(1 - side)))
            node.input(index).replace_source_output(late.output(0))
            return 1
    return 0


def _start_of_chain(end: Node) -> tuple[Node, int] | None:
    """The first node of a chain to `end`, and its input that takes the picture.

    A chain: every value is used once, and beside it there are only constants.
    """
    while len(end.get_target_inputs()) == 1:
        node = end.get_node()
        moving = [
            index
            for index in range(node.get_input_size())
            if not _is_constant(node.input_value(index).get_node())
        ]
        if len(moving) != 1:
            return None
        source = node.input_value(moving[0])
        if source.get_node().get_type_name() == "Parameter":
            return node, moving[0]
        end = source
    return None


# OpenVINO's graphs


def _zero(value: Node) -> Node:
    """0 as (1, 1, 1, 1): the first element of `value`, of four axes, times 0 at run time."""
    ops = _ops()
    first = ops.slice(value, [0] * 4, [1] * 4, [1] * 4, [0, 1, 2, 3])
    return ops.multiply(first, np.float32(0))


def _is_constant(node: Node) -> bool:
    sources = [node.input_value(index).get_node() for index in range(node.get_input_size())]
    return node.get_type_name() == "Constant" or (bool(sources) and all(map(_is_constant, sources)))


def _of_type(model: Node, name: str) -> Iterator[Node]:
    return iter([op for op in model.get_ordered_ops() if op.get_type_name() == name])


def _producer(node: Node, index: int) -> Node:
    return node.input_value(index).get_node()


def _fold_constants(model: Node) -> None:
    from openvino.passes import ConstantFolding, Manager  # noqa: PLC0415  # heavy

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)


def _run(outputs: list[Node], inputs: list[Node], feed: list[Values]) -> list[Values]:
    import openvino  # noqa: PLC0415  # heavy

    model = openvino.Model([_ops().result(each) for each in outputs], inputs, "piece")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    answer = openvino.Core().compile_model(model, "CPU", settings)(feed)
    return [np.array(answer[index]) for index in range(len(outputs))]


def _ops() -> Any:  # noqa: ANN401  # openvino's types are not packaged
    from openvino import opset8  # noqa: PLC0415  # heavy

    return opset8


def _put_in_place(part: Path, target: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
