"""All five models of the default shot succeed together, with a small graph in BiRefNet's place.

The graph has the released file's contract (1x3x1024x1024 in, 1x1x1024x1024 logits out); the real
ISNet runs beside it where its weights are.
"""

import hashlib
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from models.schemas import ModelId
from services.local_rembg import NETWORKS, LocalRembg
from services.weight_sources import ReleaseFile
from services.weights import WeightFile, WeightsStore
from services.workers import Workers
from tests.conftest import ROOT, artwork, serving

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


@pytest.fixture
def birefnet(tmp_path: Path) -> LocalRembg:
    content = contract_graph()
    place = tmp_path / "models" / BIREFNET.session / f"{BIREFNET.session}.onnx"
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    source = ReleaseFile(
        url="http://127.0.0.1:9/none", sha256=hashlib.sha256(content).hexdigest(), licence="test"
    )
    store = WeightsStore(tmp_path, files=(WeightFile(BIREFNET.session, (source,)),))
    return LocalRembg(
        BIREFNET,
        weights=store,
        workers=Workers(pixel_threads=1),
        threads=1,
        download=False,
        granted_bytes=None,
    )


@pytest.mark.weights
def test_the_default_five_all_succeed(birefnet: LocalRembg, tmp_path: Path) -> None:
    if WeightsStore(ROOT / "weights").present("isnet-general-use") is None:
        pytest.skip("NO REAL ISNET WEIGHTS: no source answered; run `make weights`")
    with serving(
        tmp_path / "temp",
        stand_ins={ModelId.LOCAL_BIREFNET: birefnet},
        weights_dir=ROOT / "weights",
        runware_api_key="sandbox",
        kie_api_key="sandbox",
    ) as server:
        record = server.shoot(artwork(width=300, height=260)).json()
        sizes = [(entry["width"], entry["height"], entry["bytes"]) for entry in record["results"]]
        fetched = [len(server.client.get(each["url"]).content) for each in record["results"]]
    assert [each["status"] for each in record["results"]] == ["succeeded"] * 5
    assert {size[:2] for size in sizes} == {(300, 260)}
    assert fetched == [size[2] for size in sizes]
    assert record["cost_usd"] == pytest.approx(0.0236)
