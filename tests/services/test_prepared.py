"""The cheap form of a network is made once, in a process of its own, or refused with a reason."""

import asyncio
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.inference import Engine, Form, Precision, RunPlan
from services.inference import open_runner
from services.prepared import NotPrepared, prepared
from tests.graphs import Deformable, Maker, small_network

pytestmark = pytest.mark.anyio


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    maker = Maker()
    x = maker.input("picture", 1, 3, 12, 12)
    maker.output(Deformable(kernel=7, pad=3).add(maker, x))
    onnx.save(maker.model, path)
    return path


async def make(source: Path, form: Form = Form.ROWS, *, convolutions: int = 1) -> Path:
    return await prepared(source, convolutions=convolutions, form=form, licence="made in a test")


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(("form", "count"), [(Form.ROWS, 7)])
async def test_the_rewritten_form_stands_beside_the_released_one(
    source: Path, form: Form, count: int
) -> None:
    target = await make(source, form)
    assert target.parent == source.parent
    assert operators(target).count("DeformConv") == count
    assert "GatherND" not in operators(target)
    assert "GatherND" in operators(source)


async def test_the_form_in_halves_gives_what_the_released_file_gives(source: Path) -> None:
    halves = await make(source, Form.HALVES)
    made_at = halves.stat().st_mtime_ns
    assert await make(source, Form.HALVES) == halves
    assert halves.stat().st_mtime_ns == made_at
    picture = np.random.default_rng(1).uniform(-1, 1, (1, 3, 12, 12)).astype(np.float32)
    results = []
    for path, engine in ((source, Engine.ONNXRUNTIME), (halves, Engine.OPENVINO)):
        runner = open_runner(RunPlan(path, engine=engine, precision=Precision.F32))
        runner.load()
        results.append(runner.run(picture))
    scale = np.abs(results[0]).max()
    assert np.abs(results[0] - results[1]).max() / scale < 2e-3  # 11 bits of mantissa


async def test_it_is_made_once(source: Path) -> None:
    first, second = await asyncio.gather(make(source), make(source))
    made_at = first.stat().st_mtime_ns
    assert await make(source) == first == second
    assert first.stat().st_mtime_ns == made_at


async def test_a_network_with_other_convolutions_is_refused_with_the_reason(source: Path) -> None:
    with pytest.raises(NotPrepared) as refusal:
        await make(source, convolutions=2)
    assert "1" in refusal.value.reason
    assert list(source.parent.glob("*.rows.onnx")) == []


async def test_a_foreign_file_is_refused_with_the_reason(source: Path) -> None:
    source.write_bytes(b"no graph at all")
    with pytest.raises(NotPrepared) as refusal:
        await make(source)
    assert source.name in refusal.value.reason


async def test_whoever_stops_waiting_leaves_nothing_half_made(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(small_network().model, path)
    work = asyncio.create_task(make(path, convolutions=1))
    await asyncio.sleep(0.05)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert list(tmp_path.glob("*.rows.onnx")) == []
