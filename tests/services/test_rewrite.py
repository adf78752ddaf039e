"""A rewritten network answers as the original does; what is not the pattern is left alone."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from services.rewrite import rewrite
from services.rewrite_proof import difference, difference_by_pieces
from tests.graphs import Deformable, Maker, deformed, enlarged, small_network, tail

CASES = {
    "1x1": Deformable(kernel=1, pad=0),
    "1x1 padded": Deformable(kernel=1, pad=2),
    "1x1 strided": Deformable(kernel=1, pad=0, stride=2),
    "3x3": Deformable(),
    "3x3 without mask": Deformable(masked=False),
    "3x3 strided": Deformable(stride=2),
    "3x3 unpadded": Deformable(pad=0),
    "3x3 strided unpadded without mask": Deformable(stride=2, pad=0, masked=False),
    "3x3 dilated": Deformable(pad=2, dilation=2),
    "3x3 in three groups of offsets": Deformable(groups=3),
    "3x3 far out": Deformable(spread=50),
    "3x3 beyond every integer": Deformable(spread=1e8),
    "7x7": Deformable(kernel=7, pad=3),
    "7x7 without mask": Deformable(kernel=7, pad=3, masked=False),
    "7x7 strided": Deformable(kernel=7, pad=3, stride=2),
    "7x7 wide margin": Deformable(kernel=7, pad=5),
    "7x7 unpadded": Deformable(kernel=7, pad=0),
    "7x7 far out": Deformable(kernel=7, pad=3, spread=20),
}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def model(request: pytest.FixtureRequest) -> ModelProto:
    return deformed(request.param).model


def operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def picture(model: ModelProto) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return {"picture": np.random.default_rng(5).normal(size=shape).astype(np.float32)}


@pytest.mark.parametrize("split_rows", [False, True])
def test_one_native_node_answers_as_the_lowered_ones(model: ModelProto, split_rows: bool) -> None:
    rewriting = rewrite(model, split_rows=split_rows)
    assert len(rewriting.deforms) == 1
    found = operators(rewriting.model)
    assert found["DeformConv"] in ((1, 7) if split_rows else (1,))
    assert not found["GatherND"]
    onnx.checker.check_model(rewriting.model, full_check=True)
    assert difference(model, rewriting.model).relative <= 1e-5
    assert difference_by_pieces(model, rewriting).relative <= 1e-5


@pytest.mark.parametrize("split_rows", [False, True])
def test_openvino_answers_as_the_original(
    model: ModelProto, tmp_path: Path, split_rows: bool
) -> None:
    openvino = pytest.importorskip("openvino")
    from services.inference import read_openvino_model

    path = tmp_path / "rewritten.onnx"
    onnx.save(rewrite(model, split_rows=split_rows).model, path)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(read_openvino_model(path), "CPU", settings)
    feed = picture(model)
    (expected,) = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, feed)
    found = compiled([feed["picture"]])[0]
    assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def test_a_seven_by_seven_kernel_is_split_into_rows_where_asked_for() -> None:
    model = deformed(CASES["7x7"]).model
    found = operators(rewrite(model, split_rows=True).model)
    assert found["DeformConv"] == 7
    kernels = {
        tuple(entry.ints)
        for node in rewrite(model, split_rows=True).model.graph.node
        if node.op_type == "DeformConv"
        for entry in node.attribute
        if entry.name == "kernel_shape"
    }
    assert kernels == {(1, 7)}


def test_a_whole_network_is_rewritten_with_its_tail() -> None:
    model = small_network().model
    rewriting = rewrite(model)
    assert (len(rewriting.deforms), len(rewriting.tails)) == (3, 1)
    assert operators(rewriting.model)["DeformConv"] == 3
    assert operators(rewriting.model)["Concat"] == 1  # the tail's is gone, and its sizes'
    assert difference(model, rewriting.model).relative <= 1e-5
    assert difference_by_pieces(model, rewriting).relative <= 1e-5


def test_the_given_model_is_not_changed() -> None:
    model = small_network().model
    before = model.SerializeToString()
    rewrite(model, first_output_only=True, split_rows=True)
    assert model.SerializeToString() == before


def test_side_branches_die_with_their_outputs() -> None:
    maker = Maker()
    x = maker.input("picture", 1, 3, 8, 8)
    first, side = maker.conv(x, 2, 3), maker.conv(x, 2, 3)
    maker.output(first)
    maker.output(maker.op("Relu", side, shape=maker.shapes[side]))
    rewriting = rewrite(maker.model, first_output_only=True)
    assert operators(rewriting.model) == {"Conv": 1}
    assert [entry.name for entry in rewriting.model.graph.output] == [first]
    assert len(rewriting.model.graph.initializer) == 2
    assert rewriting.model.opset_import == maker.model.opset_import
    assert difference(maker.model, rewriting.model).absolute == 0
    assert rewrite(maker.model).model is maker.model


def test_convolutions_that_share_their_inner_nodes_are_both_rewritten() -> None:
    """An exporter may write what two convolutions of one input have in common only once."""
    maker = Maker()
    x = maker.input("picture", 1, 3, 9, 9)
    for kernel, pad in ((1, 0), (3, 1)):  # both are padded by one pixel
        maker.output(Deformable(kernel=kernel, pad=pad).add(maker, x))
    pads = [node for node in maker.model.graph.node if node.op_type == "Pad"]
    rename(maker.model, pads[1].output[0], pads[0].output[0])
    maker.model.graph.node.remove(pads[1])
    rewriting = rewrite(maker.model)
    assert len(rewriting.deforms) == 2
    assert difference(maker.model, rewriting.model).relative <= 1e-5


def rename(model: ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new


# What is not the pattern in every particular


def node_of(model: ModelProto, op: str, place: int = 0) -> NodeProto:
    nodes: list[NodeProto] = [node for node in model.graph.node if node.op_type == op]
    return nodes[place]


def attribute(node: NodeProto, name: str) -> onnx.AttributeProto:
    entries: list[onnx.AttributeProto] = [entry for entry in node.attribute if entry.name == name]
    return entries[0]


def change_constant(
    model: ModelProto,
    name: str,
    change: Callable[[np.ndarray[tuple[int, ...], np.dtype[np.generic]]], None],
) -> None:
    node = next(node for node in model.graph.node if name in node.output)
    values = numpy_helper.to_array(node.attribute[0].t).copy()
    change(values)
    node.attribute[0].t.CopyFrom(numpy_helper.from_array(values))


def grid_of(model: ModelProto) -> str:
    return str(node_of(model, "Add").input[0])


def wrong_unrolling(model: ModelProto) -> None:
    attribute(node_of(model, "Transpose", -1), "perm").ints[:] = [0, 1, 5, 3, 4, 2]


def wrong_transpose(model: ModelProto) -> None:
    attribute(node_of(model, "Transpose", 0), "perm").ints[:] = [0, 1, 4, 3, 2]


def wrong_kernel(model: ModelProto) -> None:
    attribute(node_of(model, "Conv", -1), "strides").ints[:] = [3, 1]


def padded_last_convolution(model: ModelProto) -> None:
    node_of(model, "Conv", -1).attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))


def another_batch_dimension(model: ModelProto) -> None:
    attribute(node_of(model, "GatherND"), "batch_dims").i = 1


def onlooker(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", [node_of(model, "Sum").output[0]], ["seen"]))
    model.graph.output.append(helper.make_tensor_value_info("seen", 1, None))


def inner_output(model: ModelProto) -> None:
    name = node_of(model, "Floor").output[0]
    model.graph.output.append(helper.make_tensor_value_info(name, 1, None))


def missing_grid(model: ModelProto) -> None:
    """The grid comes from outside instead of being constant."""
    name = grid_of(model)
    node = next(node for node in model.graph.node if name in node.output)
    shape = list(node.attribute[0].t.dims)
    model.graph.node.remove(node)
    model.graph.input.append(helper.make_tensor_value_info(name, 1, shape))


def bent_grid(model: ModelProto) -> None:
    change_constant(model, grid_of(model), lambda values: values.put(-1, 0.5))


def turned_grid(model: ModelProto) -> None:
    """x before y."""

    def turn(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
        values[:] = values[:, :, :, ::-1].copy()

    change_constant(model, grid_of(model), turn)


def other_bounds(model: ModelProto) -> None:
    change_constant(model, node_of(model, "Clip").input[2], lambda values: values.fill(9))


def other_margin(model: ModelProto) -> None:
    """A margin of ones is no longer nothing."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
    node_of(model, "Pad").input.append("one")


def mirrored_margin(model: ModelProto) -> None:
    attribute(node_of(model, "Pad"), "mode").s = b"reflect"


def swapped_weights(model: ModelProto) -> None:
    """Two corners have each other's weight."""
    first, second = (node_of(model, "Mul", -5 + place) for place in (0, 1))
    first.input[0], second.input[0] = second.input[0], first.input[0]


def one_corner_twice(model: ModelProto) -> None:
    total = node_of(model, "Sum")
    total.input[1] = total.input[0]


def three_corners(model: ModelProto) -> None:
    del node_of(model, "Sum").input[3]


def rounded_up(model: ModelProto) -> None:
    node_of(model, "Floor").op_type = "Ceil"


def narrow_cast(model: ModelProto) -> None:
    attribute(node_of(model, "Cast"), "to").i = onnx.TensorProto.INT32


def weight_without_a_shape(model: ModelProto) -> None:
    conv = node_of(model, "Conv", -1)
    tensor = next(entry for entry in model.graph.initializer if entry.name == conv.input[1])
    model.graph.initializer.remove(tensor)


def old_operators(model: ModelProto) -> None:
    model.opset_import[0].version = 12


def inner_graph(model: ModelProto) -> None:
    """What is inside of an If is not raised, so the rest is not, either."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["picture"], ["inner"])],
        "body",
        [],
        [helper.make_tensor_value_info("inner", 1, None)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.bool_), "yes"))
    node = helper.make_node("If", ["yes"], ["side"], then_branch=body, else_branch=body)
    model.graph.node.append(node)
    model.graph.output.append(helper.make_tensor_value_info("side", 1, None))


SPOILERS = [
    wrong_unrolling,
    wrong_transpose,
    wrong_kernel,
    padded_last_convolution,
    another_batch_dimension,
    onlooker,
    inner_output,
    missing_grid,
    bent_grid,
    turned_grid,
    other_bounds,
    other_margin,
    mirrored_margin,
    swapped_weights,
    one_corner_twice,
    three_corners,
    rounded_up,
    narrow_cast,
    weight_without_a_shape,
    old_operators,
    inner_graph,
]


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_what_is_not_the_pattern_is_left_alone(spoil: Callable[[ModelProto], None]) -> None:
    model = deformed(CASES["3x3"]).model
    spoil(model)
    before = model.SerializeToString()
    rewriting = rewrite(model)
    assert not rewriting.changed
    assert rewriting.model is model
    assert model.SerializeToString() == before


def test_one_spoilt_convolution_does_not_keep_the_others_from_being_rewritten() -> None:
    model = small_network().model
    attribute(node_of(model, "GatherND"), "batch_dims").i = 1
    found = operators(rewrite(model).model)
    assert (found["DeformConv"], found["GatherND"]) == (2, 4)


def test_a_foreign_network_is_left_alone() -> None:
    maker = Maker()
    x = maker.input("picture", 1, 3, 8, 8)
    tiles = maker.conv(x, 4, 2, stride=2)  # steps by its kernel, as patch embeddings do
    maker.output(maker.op("GatherND", tiles, maker.constant([[0]]), shape=(1, 4, 4, 4)))
    assert rewrite(maker.model).model is maker.model


@pytest.mark.parametrize(
    "broken", [ModelProto(), helper.make_model(helper.make_graph([], "g", [], []))]
)
def test_an_empty_model_is_left_alone(broken: ModelProto) -> None:
    assert rewrite(broken).model is broken


def test_operators_that_changed_on_the_way_are_said_anew() -> None:
    maker = Maker(opset=13)
    x = maker.input("picture", 1, 4, 8, 8)
    mean = maker.op("ReduceMean", x, axes=[1], keepdims=1)
    rest = maker.op("Sub", x, mean, shape=(1, 4, 8, 8))
    low, high = "low", "high"
    maker.model.graph.node.append(helper.make_node("Split", [rest], [low, high], axis=1))
    both = maker.op("Add", low, high, shape=(1, 2, 8, 8))
    maker.output(Deformable().add(maker, both))
    rewriting = rewrite(maker.model)
    assert rewriting.model.opset_import[0].version == 19
    onnx.checker.check_model(rewriting.model, full_check=True)
    assert difference(maker.model, rewriting.model).relative <= 1e-5
    assert difference_by_pieces(maker.model, rewriting).relative <= 1e-5


def test_an_operator_that_cannot_be_said_anew_leaves_the_network_alone() -> None:
    maker = Maker()
    x = maker.input("picture", 1, 3, 8, 8)
    pooled = maker.op(
        "AveragePool", x, shape=(1, 3, 4, 4), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1
    )
    maker.output(Deformable().add(maker, pooled))
    rewriting = rewrite(maker.model)
    assert rewriting.model is maker.model
    assert "AveragePool" in rewriting.left_alone


# The tail


def tailed() -> Maker:
    maker = Maker()
    small, wide = maker.input("small", 1, 6, 5, 7), maker.input("picture", 1, 3, 17, 23)
    maker.output(tail(maker, small, wide))
    return maker


def test_the_last_convolution_comes_before_the_enlargement() -> None:
    model = tailed().model
    rewriting = rewrite(model)
    assert len(rewriting.tails) == 1
    assert rewriting.model.opset_import == model.opset_import
    resize = node_of(rewriting.model, "Resize")
    enlarged_channels = next(
        numpy_helper.to_array(entry)[1]
        for entry in rewriting.model.graph.initializer
        if entry.name == resize.input[3]
    )
    assert enlarged_channels == 1
    assert difference(model, rewriting.model).relative <= 1e-5
    assert difference_by_pieces(model, rewriting).relative <= 1e-5


def test_the_tail_may_have_its_branches_the_other_way_round_and_scales() -> None:
    maker = Maker()
    small, wide = maker.input("small", 1, 6, 5, 7), maker.input("picture", 1, 3, 20, 28)
    scales = maker.constant([1, 1, 4, 4], np.float32)
    big = maker.op("Resize", small, "", scales, shape=(1, 6, 20, 28), mode="linear")
    side = maker.conv(wide, 3, 3, pad=1)
    joined = maker.op("Concat", side, big, shape=(1, 9, 20, 28), axis=1)
    maker.output(maker.conv(joined, 2, 1))
    rewriting = rewrite(maker.model)
    assert len(rewriting.tails) == 1
    assert difference(maker.model, rewriting.model).relative <= 1e-5
    assert difference_by_pieces(maker.model, rewriting).relative <= 1e-5


def cubic(model: ModelProto) -> None:
    attribute(node_of(model, "Resize"), "mode").s = b"cubic"


def wide_last_convolution(model: ModelProto) -> None:
    attribute(node_of(model, "Conv", -1), "strides").ints[:] = [2, 2]


def concat_along_rows(model: ModelProto) -> None:
    attribute(node_of(model, "Concat", -1), "axis").i = 2


def tail_onlooker(model: ModelProto) -> None:
    name = node_of(model, "Concat", -1).output[0]
    model.graph.output.append(helper.make_tensor_value_info(name, 1, None))


def activated_side(model: ModelProto) -> None:
    concat = node_of(model, "Concat", -1)
    place = list(model.graph.node).index(concat)
    model.graph.node.insert(place, helper.make_node("Relu", [concat.input[1]], ["active"]))
    node_of(model, "Concat", -1).input[1] = "active"


@pytest.mark.parametrize(
    "spoil",
    [cubic, wide_last_convolution, concat_along_rows, tail_onlooker, activated_side],
    ids=lambda spoil: spoil.__name__,
)
def test_another_tail_is_left_alone(spoil: Callable[[ModelProto], None]) -> None:
    model = tailed().model
    spoil(model)
    assert rewrite(model).model is model


def test_an_enlargement_that_saves_nothing_is_left_alone() -> None:
    maker = Maker()
    small, wide = maker.input("small", 1, 1, 5, 7), maker.input("picture", 1, 3, 17, 23)
    big, side = enlarged(maker, small, 17, 23), maker.conv(wide, 3, 3, pad=1)
    maker.output(maker.conv(maker.op("Concat", big, side, shape=(1, 4, 17, 23), axis=1), 1, 1))
    assert rewrite(maker.model).model is maker.model


# The proof itself


def test_the_proof_sees_a_wrong_weight() -> None:
    model = small_network().model
    rewriting = rewrite(model)
    for tensor in rewriting.model.graph.initializer:
        if tensor.name.endswith("folded_bias"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    assert difference(model, rewriting.model).absolute > 0.5
    assert difference_by_pieces(model, rewriting).absolute > 0.5


def test_the_proof_sees_a_shifted_convolution() -> None:
    model = small_network().model
    rewriting = rewrite(model)
    nodes = [node for node in rewriting.model.graph.node if node.op_type == "DeformConv"]
    attribute(nodes[1], "pads").ints[:] = [0, 1, 2, 1]
    assert difference_by_pieces(model, rewriting).relative > 1e-3


def test_the_proof_sees_that_another_node_was_changed() -> None:
    model = small_network().model
    rewriting = rewrite(model)
    node_of(rewriting.model, "Sigmoid").op_type = "Tanh"
    assert difference_by_pieces(model, rewriting).absolute == float("inf")


def test_the_proof_sees_that_another_weight_was_changed() -> None:
    model = small_network().model
    rewriting = rewrite(model)
    tensor = rewriting.model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    assert difference_by_pieces(model, rewriting).absolute == float("inf")


# Whatever one changes in a graph


def nudge(model: ModelProto, random: Random) -> None:
    """One small change at one place: inputs swapped or rewired, a number, an operator."""
    node = random.choice(model.graph.node)
    if node.op_type == "Constant":
        values = numpy_helper.to_array(node.attribute[0].t).copy()
        values.reshape(-1)[random.randrange(values.size)] += random.choice([-1, 1, 2])
        node.attribute[0].t.CopyFrom(numpy_helper.from_array(values))
        return
    place = random.randrange(len(node.input))
    match random.randrange(4):
        case 0:
            node.input[place], node.input[0] = node.input[0], node.input[place]
        case 1:
            node.input[place] = random.choice(model.graph.node).output[0]
        case 2:
            node.op_type = random.choice(["Add", "Ceil", "Floor", "Max", "Mul", "Sub", "Sum"])
        case _:
            for entry in node.attribute:
                entry.ints[:] = random.sample(list(entry.ints), len(entry.ints))


@pytest.mark.parametrize("seed", range(8))
def test_a_changed_graph_is_left_alone_or_still_answers_the_same(seed: int) -> None:
    random = Random(seed)  # noqa: S311  # no secret
    for _ in range(25):
        model = deformed(random.choice(list(CASES.values())), size=7).model
        nudge(model, random)
        rewriting = rewrite(model)
        if rewriting.changed and runs(model):
            assert difference(model, rewriting.model).relative <= 1e-5


def runs(model: ModelProto) -> bool:
    onnxruntime.set_default_logger_severity(4)
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        session.run(None, picture(model))
    except Exception:  # noqa: BLE001  # onnxruntime has many, and only says so in words
        return False
    return True
