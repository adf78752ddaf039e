"""OpenVINO's own form of a network: rearranged where that is known to help, the same answer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.inference import Engine, Precision, RunPlan
from services.inference import Tensor, open_runner, read_openvino_model
from services.openvino_form import FormManifest, arrange, is_made, make
from services.rewrite_prepare import Recipe, RewriteRefused, prepare, read_manifest
from tests.graphs import Deformable, Maker

SIDE = 12
WINDOWS, HEADS, TOKENS = 4, 2, 36
Build = Callable[[Maker, str], str]


def save(path: Path, build: Build) -> Path:
    maker = Maker()
    maker.output(build(maker, maker.input("picture", 1, 3, SIDE, SIDE)))
    onnx.save(maker.model, path)
    return path


def windows_of(maker: Maker, x: str) -> str:
    """Scores of (windows, heads, tokens, tokens) made of the picture."""
    deep = maker.conv(x, WINDOWS * HEADS * TOKENS, 1)
    small = maker.op(
        "MaxPool", deep, shape=(1, WINDOWS * HEADS * TOKENS, 6, 6), kernel_shape=[2, 2],
        strides=[2, 2],
    )  # fmt: skip
    return maker.reshape(small, WINDOWS, HEADS, TOKENS, TOKENS)


def masked(maker: Maker, scores: str, *, pictures: int = 1) -> str:
    """The mask of shifted windows by way of five dimensions, as Swin's code adds it."""
    shape = (pictures, WINDOWS // pictures, HEADS, TOKENS, TOKENS)
    regions = maker.rng.integers(0, 2, (WINDOWS // pictures, 1, TOKENS, TOKENS))
    mask = maker.constant(np.where(regions, -100.0, 0.0)[None], np.float32)
    raised = maker.op("Add", maker.reshape(scores, *shape), mask, shape=shape)
    return maker.reshape(raised, WINDOWS, HEADS, TOKENS, TOKENS)


def attention(maker: Maker, x: str) -> str:
    scores = windows_of(maker, x)
    bias = maker.weight(1, HEADS, TOKENS, TOKENS)
    biased = maker.op("Add", scores, bias, shape=maker.shapes[scores])
    raised = masked(maker, biased)
    return maker.op("Softmax", raised, shape=maker.shapes[raised], axis=-1)


def attention_of_two(maker: Maker, x: str) -> str:
    raised = masked(maker, windows_of(maker, x), pictures=2)
    return maker.op("Softmax", raised, shape=maker.shapes[raised], axis=-1)


def joined(maker: Maker, x: str, *, kernel: int = 1) -> str:
    parts = [maker.conv(x, depth, 3, pad=1) for depth in (4, 6, 5)]
    whole = maker.op("Concat", *parts, shape=(1, 15, SIDE, SIDE), axis=1)
    return maker.conv(whole, 7, kernel, pad=kernel // 2)


def joined_and_used_elsewhere(maker: Maker, x: str) -> str:
    parts = [maker.conv(x, 4, 3, pad=1) for _ in range(2)]
    whole = maker.op("Concat", *parts, shape=(1, 8, SIDE, SIDE), axis=1)
    return maker.op("Add", maker.conv(whole, 8, 1), whole, shape=(1, 8, SIDE, SIDE))


def beside(maker: Maker, x: str) -> str:
    """A branch from the picture itself, added to the network's answer at the end."""
    branch = maker.conv(maker.conv(x, 8, 3, pad=1), 1, 1)
    deep = maker.conv(maker.conv(maker.conv(x, 8, 3, pad=1), 8, 3, pad=1), 1, 1)
    wide = maker.op("Concat", deep, deep, shape=(1, 2, SIDE, SIDE), axis=1)
    return maker.op("Add", branch, maker.conv(wide, 1, 3, pad=1), shape=(1, 1, SIDE, SIDE))


def answer(path: Path, tensor: Tensor) -> Tensor:
    runner = open_runner(RunPlan(path, engine=Engine.OPENVINO, precision=Precision.F32))
    runner.load()
    return runner.run(tensor)


@pytest.mark.parametrize(
    ("build", "found"),
    [
        pytest.param(attention, (1, 0, 0), id="mask"),
        pytest.param(attention_of_two, (0, 0, 0), id="mask-of-two-pictures"),
        pytest.param(joined, (0, 1, 0), id="join"),
        pytest.param(lambda m, x: joined(m, x, kernel=3), (0, 0, 0), id="join-3x3"),
        pytest.param(joined_and_used_elsewhere, (0, 0, 0), id="join-used-twice"),
        pytest.param(beside, (0, 0, 1), id="branch"),
        pytest.param(lambda m, x: m.conv(x, 4, 3), (0, 0, 0), id="nothing"),
    ],
)
def test_what_is_known_is_rearranged_and_the_answer_stays(
    build: Build, found: tuple[int, int, int], tmp_path: Path
) -> None:
    source = save(tmp_path / "net.onnx", build)
    model = read_openvino_model(source)
    arranged = arrange(model)
    assert (arranged.masks, arranged.joins, arranged.delays) == found
    assert arranged.difference < 1e-6
    target = tmp_path / "net.xml"
    import openvino  # only after services.inference has silenced it

    openvino.save_model(model, str(target), compress_to_fp16=False)
    picture = np.random.default_rng(3).uniform(-1, 1, (1, 3, SIDE, SIDE)).astype(np.float32)
    before, after = answer(source, picture), answer(target, picture)
    assert np.abs(before - after).max() <= 1e-5 * max(1.0, float(np.abs(before).max()))


def test_a_mask_stays_apart_from_the_bias(tmp_path: Path) -> None:
    """Summed beforehand they would be one number per window, head and pair of tokens."""
    model = read_openvino_model(save(tmp_path / "net.onnx", attention))
    arrange(model)
    import openvino

    compiled = openvino.Core().compile_model(model, "CPU", {})
    constants = [
        np.prod(op.output(0).shape)
        for op in compiled.get_runtime_model().get_ops()
        if op.get_rt_info()["layerType"].astype(str) in {"Const", "Constant"}
    ]
    assert max(constants, default=0) < WINDOWS * HEADS * TOKENS * TOKENS


@pytest.fixture
def rewritten(tmp_path: Path) -> tuple[Path, Path]:
    source = save(tmp_path / "net.onnx", Deformable(kernel=3, pad=1).add)
    native = tmp_path / "net.native.onnx"
    prepare(source, native, licence="made in a test", recipe=Recipe())
    return source, native


@pytest.mark.parametrize("halves", [False, True])
def test_the_manifest_says_what_it_is_and_from_what(
    rewritten: tuple[Path, Path], halves: bool
) -> None:
    source, native = rewritten
    target = source.with_suffix(".own.xml")
    rewriting = prepare(source, native, licence="made in a test", recipe=Recipe())
    assert not is_made(source, target, halves=halves)
    manifest = make(native, target, rewriting=rewriting, halves=halves)
    assert manifest == read_manifest(target, FormManifest)
    assert manifest.deformable_convolutions == 1
    assert manifest.licence == "made in a test"
    assert is_made(source, target, halves=halves)
    assert not is_made(source, target, halves=not halves)


def test_a_box_too_small_is_told_what_to_do(rewritten: tuple[Path, Path]) -> None:
    source, native = rewritten
    target = source.with_suffix(".own.xml")
    rewriting = prepare(source, native, licence="", recipe=Recipe())
    with pytest.raises(RewriteRefused, match="larger machine"):
        make(native, target, rewriting=rewriting, halves=False, granted=1 << 30)
    assert not target.exists()


@pytest.mark.parametrize("lost", [".xml", ".bin", ".rewrite.json"])
def test_a_form_that_lost_a_part_is_not_made(rewritten: tuple[Path, Path], lost: str) -> None:
    source, native = rewritten
    target = source.with_suffix(".own.xml")
    rewriting = prepare(source, native, licence="", recipe=Recipe())
    make(native, target, rewriting=rewriting, halves=False)
    target.with_suffix(lost).unlink()
    assert not is_made(source, target, halves=False)
