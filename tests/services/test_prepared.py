"""The cheap form of a network is made once, in a process of its own, or refused with a reason."""

import asyncio
import errno
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.inference import Engine, Form, Precision, RunPlan
from models.schemas import ModelId
from services.inference import open_runner
from services.prepared import NotPrepared, prepared
from services.weight_sources import sha256_of
from services.weights import process_lock
from tests.conftest import serving
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


@pytest.mark.parametrize(
    ("form", "known", "there"),
    [(Form.SINGLES, True, True), (Form.SINGLES, False, False), (Form.ROWS, True, True)],
)
async def test_a_form_stands_without_the_file_it_was_made_of(
    source: Path, form: Form, *, known: bool, there: bool
) -> None:
    target = await make(source, form)
    released = [sha256_of(source) if known else "0" * 64]
    source.unlink()
    work = prepared(source, convolutions=1, form=form, licence="", released=released)
    if there:
        assert await work == target
    else:
        with pytest.raises(NotPrepared, match=r"net\.onnx is not there"):
            await work


async def test_a_form_that_was_changed_does_not_stand_alone(source: Path) -> None:
    released = [sha256_of(source)]
    weights = (await make(source, Form.SINGLES)).with_suffix(".bin")
    source.unlink()
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(NotPrepared, match="cannot replace"):
        await prepared(source, convolutions=1, form=Form.SINGLES, licence="", released=released)


async def test_the_service_is_ready_with_the_form_alone(tmp_path: Path, source: Path) -> None:
    """As in an image; a folder that cannot be written has no lock to be held."""
    home = tmp_path / "weights" / "models" / "birefnet-general"
    home.mkdir(parents=True)
    released = source.rename(home / "birefnet-general.onnx")
    named = f"birefnet-general={sha256_of(released)}"
    await make(released, Form.SINGLES)
    released.unlink()
    (home / "birefnet-general.singles.lock").unlink()
    with serving(
        tmp_path / "temp",
        weights_dir=tmp_path / "weights",
        unverified_weights=named,
        local_profile="speed",
        inference_engine="openvino",
        memory_limit_mb=4096,
    ) as server:
        for _ in range(200):
            model = server.client.get("/ready").json()["models"][ModelId.LOCAL_BIREFNET]
            if model["status"] != "loading":
                break
            await asyncio.sleep(0.1)
    assert model["status"] == "ready", model
    assert not released.exists()


async def test_where_nothing_can_be_written_nothing_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "read-only")

    monkeypatch.setattr(Path, "open", refused)
    async with process_lock(tmp_path / "lock"):
        pass
    assert not (tmp_path / "lock").exists()
