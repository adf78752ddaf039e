"""The cheap form of a network is made once, in a process of its own, or refused with a reason."""

import asyncio
from pathlib import Path

import onnx
import pytest

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


async def make(source: Path, *, split_rows: bool = False, convolutions: int = 1) -> Path:
    return await prepared(
        source, convolutions=convolutions, split_rows=split_rows, licence="made in a test"
    )


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(("split_rows", "count"), [(False, 1), (True, 7)])
async def test_the_rewritten_form_stands_beside_the_released_one(
    source: Path, split_rows: bool, count: int
) -> None:
    target = await make(source, split_rows=split_rows)
    assert target.parent == source.parent
    assert operators(target).count("DeformConv") == count
    assert "GatherND" not in operators(target)
    assert "GatherND" in operators(source)


async def test_it_is_made_once(source: Path) -> None:
    first, second = await asyncio.gather(make(source), make(source))
    made_at = first.stat().st_mtime_ns
    assert await make(source) == first == second
    assert first.stat().st_mtime_ns == made_at


async def test_a_network_with_other_convolutions_is_refused_with_the_reason(source: Path) -> None:
    with pytest.raises(NotPrepared) as refusal:
        await make(source, convolutions=2)
    assert "1" in refusal.value.reason
    assert list(source.parent.glob("*.native.onnx")) == []


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
    assert list(tmp_path.glob("*.native.onnx")) == []
