"""All five models of the default shot succeed together, with a small graph in BiRefNet's place.

The graph has the released file's contract (1x3x1024x1024 in, 1x1x1024x1024 logits out); the real
ISNet runs beside it where its weights are.
"""

import hashlib
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from models.schemas import ModelId
from services.local_rembg import BIREFNET_LITE, NETWORKS
from services.weights import WeightsStore
from tests.conftest import ROOT, artwork, serving
from tests.graphs import Deformable, Maker, enlarged

BIREFNET = NETWORKS[ModelId.LOCAL_BIREFNET]


def contract_graph() -> bytes:
    """Logits that rise with the distance from white: enough to cut a dark disc out."""
    picture = helper.make_tensor_value_info("input_image", TensorProto.FLOAT, [1, 3, 1024, 1024])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, 1024, 1024])
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [1, 3, 1, 1], [-4.0] * 3)
    bias = helper.make_tensor("bias", TensorProto.FLOAT, [1], [16.0])
    node = helper.make_node("Conv", ["input_image", "weights", "bias"], ["logits"])
    graph = helper.make_graph([node], "contract", [picture], [logits], [weights, bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def deformable_graph() -> bytes:
    """The released file's contract and its twenty deformable convolutions, on very little."""
    maker = Maker()
    picture = maker.input("input_image", 1, 3, 1024, 1024)
    x = maker.op(
        "MaxPool", picture, shape=(1, 3, 16, 16), kernel_shape=[64, 64], strides=[64, 64]
    )  # fmt: skip
    for _ in range(BIREFNET.convolutions):
        x = Deformable(channels=3, kernel=1, pad=0).add(maker, x)
    maker.output(enlarged(maker, maker.conv(x, 1, 1), 1024, 1024))
    content: bytes = maker.model.SerializeToString()
    return content


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, str]:
    """A weights folder with the real ISNet and the contract graph, and the graph's checksum."""
    real = WeightsStore(ROOT / "weights").present("isnet-general-use")
    if real is None:
        pytest.skip("NO REAL ISNET WEIGHTS: no source answered; run `make weights`")
    folder = tmp_path / "weights"
    shutil.copytree(real.parent, folder / "models" / real.parent.name)
    place = folder / "models" / BIREFNET.session / f"{BIREFNET.session}.onnx"
    place.parent.mkdir(parents=True)
    place.write_bytes(contract_graph())
    return folder, hashlib.sha256(contract_graph()).hexdigest()


@pytest.mark.weights
def test_the_default_five_all_succeed(weights: tuple[Path, str], tmp_path: Path) -> None:
    folder, sha256 = weights
    with serving(
        tmp_path / "temp",
        weights_dir=folder,
        unverified_weights=f"{BIREFNET.session}={sha256}",
        memory_limit_mb=16 * 1024,
        runware_api_key="sandbox",
        kie_api_key="sandbox",
    ) as server:
        record = server.shoot(artwork(width=300, height=260)).json()
        sizes = [(entry["width"], entry["height"], entry["bytes"]) for entry in record["results"]]
        fetched = [len(server.client.get(each["url"]).content) for each in record["results"]]
        inference = server.client.get("/ready").json()["inference"]
    assert [each["status"] for each in record["results"]] == ["succeeded"] * 5
    assert [each.get("variant") for each in record["results"]][3:] == ["unverified", None]
    assert {size[:2] for size in sizes} == {(300, 260)}
    assert fetched == [size[2] for size in sizes]
    assert record["cost_usd"] == pytest.approx(0.0236)
    assert inference["load_s"]["isnet-general-use"] > 0


@pytest.mark.weights
@pytest.mark.parametrize(("memory_limit_mb", "variant"), [(2000, "lite, unverified"), (3100, None)])
def test_the_lite_network_stands_in_where_the_full_one_does_not_fit(
    weights: tuple[Path, str], memory_limit_mb: int, variant: str | None, tmp_path: Path
) -> None:
    folder, _ = weights
    place = folder / "models" / BIREFNET_LITE.session / f"{BIREFNET_LITE.session}.onnx"
    place.parent.mkdir(parents=True)
    lite = deformable_graph()
    place.write_bytes(lite)
    with serving(
        tmp_path / "temp",
        weights_dir=folder,
        unverified_weights=f"{BIREFNET_LITE.session}={hashlib.sha256(lite).hexdigest()}",
        memory_limit_mb=memory_limit_mb,
        birefnet_size="auto",
    ) as server:
        record = server.shoot(artwork(), models="local-birefnet-general,local-knockout").json()
    entry = record["results"][0]
    assert entry.get("variant") == variant
    assert (entry["status"] == "succeeded") == (variant is not None)


@pytest.mark.weights
def test_a_checksum_that_nobody_named_is_refused(weights: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = weights
    with serving(tmp_path / "temp", weights_dir=folder, memory_limit_mb=16 * 1024) as server:
        states = server.client.get("/ready").json()["models"]
        assert states["local-birefnet-general"]["status"] in {"loading", "unavailable"}
        record = server.shoot(artwork(), models="local-birefnet-general,local-knockout").json()
    assert record["results"][0]["status"] == "skipped"


@pytest.mark.weights
def test_a_network_that_cannot_be_rewritten_stays_away_from_a_small_box(
    weights: tuple[Path, str], tmp_path: Path
) -> None:
    """The contract graph has no deformable convolutions, so the released form is all there is."""
    folder, sha256 = weights
    with serving(
        tmp_path / "temp",
        weights_dir=folder,
        unverified_weights=f"{BIREFNET.session}={sha256}",
        memory_limit_mb=4096,
    ) as server:
        record = server.shoot(artwork(), models="local-birefnet-general,local-knockout").json()
        state = server.client.get("/ready").json()["models"]["local-birefnet-general"]
    assert [each["status"] for each in record["results"]] == ["skipped", "succeeded"]
    assert state["status"] == "unavailable"
    assert "small enough" in state["reason"]
