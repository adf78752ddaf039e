"""A rewritten file appears whole, proven and described, or not at all."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from services import rewrite_prepare
from services.rewrite import rewrite
from services.rewrite_file import ModelFile
from services.rewrite_prepare import Recipe, RewriteRefused, manifest_of, prepare
from services.rewrite_proof import Gap
from services.weight_sources import sha256_of
from tests.graphs import Deformable, Maker, small_network

_ENOUGH = 8 << 30
_LICENCE = "MIT, made in a test"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A network whose weights are big enough to stay in the file."""
    maker = Maker()
    x = maker.input("picture", 1, 3, 8, 8)
    wide = maker.conv(x, 100, 3, pad=1)
    maker.output(Deformable(kernel=7, pad=3, channels=60).add(maker, wide))
    maker.output(wide)
    path = tmp_path / "source.onnx"
    onnx.save(maker.model, path)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "made" / "target.onnx"


def made(source: Path, target: Path, **settings: object) -> rewrite_prepare.RewriteManifest:
    recipe = Recipe.model_validate(settings)
    return prepare(source, target, licence=_LICENCE, recipe=recipe, granted=_ENOUGH)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("split_rows", [False, True])
def test_a_file_is_rewritten_as_a_model_in_memory_is(
    source: Path, target: Path, split_rows: bool
) -> None:
    made(source, target, split_rows=split_rows)
    expected = rewrite(onnx.load(source), first_output_only=True, split_rows=split_rows)
    assert onnx.load(target) == expected.model


def test_the_manifest_says_what_speaks_for_the_file(source: Path, target: Path) -> None:
    manifest = made(source, target, deformable_convolutions=1, proof="whole")
    assert manifest_of(target) == manifest
    assert manifest.source.sha256 == sha256_of(source)
    assert manifest.result.sha256 == sha256_of(target)
    assert manifest.nodes == {"DeformConv": 1, "GatherND": 0}
    assert 0 < manifest.max_relative_difference <= 1e-5
    assert manifest.tools["onnx"] == onnx.__version__
    assert manifest.licence == _LICENCE
    assert left_in(target.parent) == ["target.onnx", "target.rewrite.json"]
    assert json.loads((target.parent / "target.rewrite.json").read_text())["rewritten"] == 1


def test_what_is_there_already_is_not_made_again(source: Path, target: Path) -> None:
    first = made(source, target)
    inode = target.stat().st_ino
    assert prepare(source, target, licence=_LICENCE, granted=0) == first  # no memory is needed
    assert target.stat().st_ino == inode


def test_another_recipe_another_source_or_another_result_is_made_again(
    source: Path, target: Path
) -> None:
    first = made(source, target)
    assert made(source, target, split_rows=True).result.sha256 != first.result.sha256
    target.write_bytes(b"something else")
    assert made(source, target, split_rows=True).nodes["DeformConv"] == 7
    assert made(source, target).result.sha256 == first.result.sha256
    model = onnx.load(source)
    model.doc_string = "newer"
    onnx.save(model, source)
    assert made(source, target).source.sha256 != first.source.sha256


def test_too_little_memory_is_said_before_anything_is_done(source: Path, target: Path) -> None:
    with pytest.raises(RewriteRefused, match=r"1536 MiB of memory and 512 MiB are granted"):
        prepare(source, target, licence=_LICENCE, granted=512 << 20)
    assert left_in(target.parent) == []


def test_a_failed_proof_leaves_what_was_there(source: Path, target: Path) -> None:
    first = made(source, target)
    with pytest.raises(RewriteRefused, match="differs from the original by"):
        made(source, target, tolerance=0)
    assert manifest_of(target) == first
    assert first.result.fits(target)
    assert left_in(target.parent) == ["target.onnx", "target.rewrite.json"]


def test_another_number_of_convolutions_is_refused(source: Path, target: Path) -> None:
    with pytest.raises(RewriteRefused, match=r"1 deformable convolutions .* where 20 must be"):
        made(source, target, deformable_convolutions=20)
    assert left_in(target.parent) == []


def test_a_network_with_nothing_to_rewrite_is_refused(tmp_path: Path, target: Path) -> None:
    maker = Maker()
    maker.output(maker.conv(maker.input("picture", 1, 3, 8, 8), 4, 3))
    onnx.save(maker.model, tmp_path / "plain.onnx")
    with pytest.raises(RewriteRefused, match="nothing in this network"):
        made(tmp_path / "plain.onnx", target)


@pytest.mark.parametrize("bytes_kept", [0, 1, 100, 10_000, -1])
def test_a_cut_file_is_refused(source: Path, target: Path, bytes_kept: int) -> None:
    source.write_bytes(source.read_bytes()[:bytes_kept])
    with pytest.raises(RewriteRefused, match=r"cannot be rewritten|nothing in this network"):
        made(source, target)
    assert left_in(target.parent) == []


def test_another_kind_of_file_is_refused(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40)
    with pytest.raises(RewriteRefused, match="not a"):
        made(path, target)


def test_a_missing_file_is_refused(tmp_path: Path, target: Path) -> None:
    with pytest.raises(RewriteRefused, match="cannot be rewritten"):
        made(tmp_path / "nowhere.onnx", target)


def test_weights_in_another_file_are_refused(source: Path, target: Path) -> None:
    onnx.save(onnx.load(source), source, save_as_external_data=True, location="weights.bin")
    with pytest.raises(RewriteRefused, match="in another file"):
        made(source, target)


def test_a_file_written_unchanged_is_the_same_model(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.onnx"
    with ModelFile(source) as file, copy.open("wb") as written:
        stayed = [tensor for tensor in file.model.graph.initializer if tensor.external_data]
        assert len(stayed) >= 3
        for tensor in stayed:
            assert not tensor.raw_data
        file.write(file.model, written)
    assert onnx.load(copy) == onnx.load(source)
    assert copy.stat().st_size == source.stat().st_size


def test_values_come_from_the_file(source: Path) -> None:
    whole = {tensor.name: tensor for tensor in onnx.load(source).graph.initializer}
    with ModelFile(source) as file:
        for tensor in file.model.graph.initializer:
            expected = numpy_helper.to_array(whole[tensor.name])
            assert np.array_equal(file.values(tensor), expected)


def test_a_small_network_survives_the_file(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(small_network().model, path)
    manifest = made(path, target)
    assert (manifest.rewritten, manifest.tails) == (3, 1)
    onnx.checker.check_model(onnx.load(target), full_check=True)


def test_a_proof_that_is_not_a_number_proves_nothing() -> None:
    with pytest.raises(RewriteRefused):
        rewrite_prepare._require_small(Gap(float("nan"), float("nan")), Recipe())
