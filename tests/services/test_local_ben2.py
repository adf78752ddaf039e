"""BEN2's network by itself: what is proven, what is refused, and that a run can be killed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from models.errors import FailureCode, RemoverError, RemoverUnavailable
from models.images import Cutout, Flag, SourceImage
from models.inference import Device, Engine, RunPlan
from models.schemas import ModelStatus
from services.cuda import Cards, Seat
from services.inference import GraphRefused, open_runner
from services.inference_process import InferenceProcess
from services.local_ben2 import Ben2File, LocalBen2, prediction_of
from services.remover import RemovalOptions
from services.workers import Workers
from tests import ben2
from tests.services import graphs
from utils.clock import Deadline

ON_CPU = Seat(Device.CPU, "It was asked for.")
PATIENCE_S = 60


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(pixel_threads=1)
    yield workers
    workers.close()


@pytest.fixture
async def inference() -> AsyncIterator[InferenceProcess]:
    process = InferenceProcess(idle_ttl_s=3600, budget_bytes=None)
    yield process
    await process.close()


def remover(
    path: Path,
    inference: InferenceProcess,
    workers: Workers,
    *,
    sha256: str | None = None,
    seat: Seat = ON_CPU,
    room_bytes: int | None = None,
) -> LocalBen2:
    return LocalBen2(
        Ben2File(path, sha256 or ben2.sha256(path)),
        asked=Device.AUTO,
        seat=seat,
        cards=Cards(),
        workers=workers,
        inference=inference,
        threads=1,
        room_bytes=room_bytes,
    )


def picture(light: int, *, dark: int = 0) -> SourceImage:
    """A dark square in the middle of something lighter."""
    rgb = np.full((ben2.SIDE, ben2.SIDE, 3), light, np.uint8)
    rgb[256:768, 256:768] = dark
    return SourceImage(rgb=rgb, alpha=None, format="PNG", bytes=0, sha256="")


async def cut(model: LocalBen2, image: SourceImage) -> Cutout:
    return await model.remove(image, options=RemovalOptions(), deadline=Deadline.after(PATIENCE_S))


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not happened():  # noqa: ASYNC110  # nothing tells us
            await asyncio.sleep(0.005)


def load(path: Path) -> None:
    open_runner(RunPlan(path, engine=Engine.ONNXRUNTIME, side=ben2.SIDE)).load()


@pytest.mark.anyio
async def test_the_picture_goes_in_between_0_and_1_and_its_mask_comes_out(
    tmp_path: Path, inference: InferenceProcess, workers: Workers
) -> None:
    """Light ground 0.25 dark, square 1: were 0.5 subtracted, the answer would leave 0 to 1."""
    model = remover(ben2.made(tmp_path / "ben2.onnx"), inference, workers)
    found = await cut(model, picture(191))
    assert found.alpha[300:700, 300:700].min() == 255
    assert found.alpha[:200].max() == 0
    state = model.availability()
    assert state.status is ModelStatus.READY
    assert state.first_answer_s


@pytest.mark.anyio
async def test_what_holds_no_subject_is_empty_and_not_stretched(
    tmp_path: Path, inference: InferenceProcess, workers: Workers
) -> None:
    model = remover(ben2.made(tmp_path / "ben2.onnx"), inference, workers)
    found = await cut(model, picture(255, dark=225))
    assert found.alpha.max() == 0
    assert found.flags == (Flag.EMPTY,)


@pytest.mark.parametrize("takes", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("answers", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_precisions_are_those_of_the_file(tmp_path: Path, takes: int, answers: int) -> None:
    path = ben2.made(tmp_path / "ben2.onnx", takes=takes, answers=answers)
    runner = open_runner(RunPlan(path, engine=Engine.ONNXRUNTIME, side=ben2.SIDE))
    runner.load()
    output = runner.run(np.full((1, 3, ben2.SIDE, ben2.SIDE), 0.75, np.float32))
    assert output.dtype == np.float32
    assert prediction_of(output) == pytest.approx(0.25)


def test_a_file_of_another_shape_or_kind_is_refused_by_what_it_takes(tmp_path: Path) -> None:
    with pytest.raises(GraphRefused, match=r"takes \[1, 3, 512, 512\] where \[1, 3, 1024, 1024\]"):
        load(ben2.made(tmp_path / "small.onnx", side=512))
    with pytest.raises(GraphRefused, match=r"takes \[1, 4, 1024, 1024\]"):
        load(ben2.made(tmp_path / "alpha.onnx", channels=4))
    with pytest.raises(GraphRefused, match=r"takes tensor\(uint8\)"):
        load(ben2.made(tmp_path / "bytes.onnx", takes=TensorProto.UINT8))


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (np.zeros((1, 1, 512, 512), np.float32), r"\(1, 1, 512, 512\)"),
        (np.full((1, 1, 1024, 1024), np.nan, np.float32), "nan to nan"),
        (np.full((1, 1, 1024, 1024), -4, np.float32), "from -4 to -4"),
    ],
    ids=["shape", "nan", "logits"],
)
def test_an_answer_that_is_no_probability_is_refused(output: np.ndarray, words: str) -> None:
    with pytest.raises(GraphRefused, match=words):
        prediction_of(output)


@pytest.mark.anyio
async def test_a_network_of_another_contract_is_found_out_before_any_picture(
    tmp_path: Path, inference: InferenceProcess, workers: Workers
) -> None:
    model = remover(ben2.made(tmp_path / "logits.onnx", factor=10), inference, workers)
    await model.prepare()
    state = model.availability()
    assert state.status is ModelStatus.UNAVAILABLE
    assert "numbers from 5 to 5 where 0 to 1 is expected" in (state.reason or "")
    assert inference.status().pid is None
    with pytest.raises(RemoverUnavailable, match="0 to 1"):
        await cut(model, picture(191))


@pytest.mark.anyio
async def test_an_unproven_file_is_never_run(
    tmp_path: Path, inference: InferenceProcess, workers: Workers
) -> None:
    path = ben2.made(tmp_path / "ben2.onnx")
    model = remover(path, inference, workers, sha256="0" * 64)
    await model.prepare()
    reason = model.availability().reason or ""
    assert f"its sha256 is {ben2.sha256(path)}, BEN2_SHA256 says 000" in reason
    assert inference.status().pid is None


@pytest.mark.anyio
async def test_a_file_that_comes_later_is_found(
    tmp_path: Path, inference: InferenceProcess, workers: Workers
) -> None:
    sha256 = ben2.sha256(ben2.made(tmp_path / "ben2.onnx"))
    later = tmp_path / "later.onnx"
    model = remover(later, inference, workers, sha256=sha256)
    await model.prepare()
    assert "cannot be read: No such file" in (model.availability().reason or "")
    (tmp_path / "ben2.onnx").rename(later)
    await model.prepare()
    assert model.availability().status is ModelStatus.READY


@pytest.mark.anyio
async def test_a_box_without_the_memory_never_starts_it(
    tmp_path: Path, inference: InferenceProcess, workers: Workers
) -> None:
    path = ben2.made(tmp_path / "ben2.onnx")
    model = remover(path, inference, workers, room_bytes=3 << 30)
    await model.prepare()
    assert "needs 3.8 GiB of memory and 3.0 GiB are left" in (model.availability().reason or "")
    assert inference.status().pid is None


@pytest.mark.anyio
async def test_cuda_that_is_not_there_is_unavailable_with_the_reason(
    tmp_path: Path, inference: InferenceProcess, workers: Workers
) -> None:
    path = ben2.made(tmp_path / "ben2.onnx")
    model = remover(path, inference, workers, seat=Seat(Device.CUDA, "It was asked for."))
    await model.prepare()
    state = model.availability()
    if state.status is ModelStatus.READY:
        pytest.skip("there is a card here")
    assert "onnxruntime cannot run ben2.onnx:" in (state.reason or "")
    assert (await model.info()).device is None


@pytest.mark.anyio
async def test_it_does_not_wait_behind_the_networks_on_the_processor(
    tmp_path: Path, inference: InferenceProcess, workers: Workers
) -> None:
    model = remover(ben2.made(tmp_path / "ben2.onnx"), inference, workers)
    others = InferenceProcess(idle_ttl_s=3600, budget_bytes=None)
    endless = RunPlan(graphs.endless(tmp_path / "endless.onnx"), engine=Engine.ONNXRUNTIME)
    job = asyncio.create_task(
        others.run(endless, graphs.picture(), timeout_s=PATIENCE_S, expected_s=1)
    )
    await until(lambda: others.status().running)
    assert (await cut(model, picture(191))).alpha.max() == 255
    assert not job.done()
    job.cancel()
    await asyncio.wait({job})
    await others.close()


@pytest.mark.anyio
async def test_a_run_that_is_killed_fails_alone_and_one_that_is_cancelled_is_killed(
    tmp_path: Path, inference: InferenceProcess, workers: Workers
) -> None:
    model = remover(ben2.made(tmp_path / "ben2.onnx", dawdles=True), inference, workers)
    await model.prepare()
    pid = inference.status().pid
    assert pid is not None
    job = asyncio.create_task(cut(model, picture(255)))
    await until(lambda: inference.status().running)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RemoverError) as caught:
        await job
    assert caught.value.code is FailureCode.INSUFFICIENT_MEMORY
    assert caught.value.retryable
    job = asyncio.create_task(cut(model, picture(255)))
    await until(lambda: inference.status().running)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert inference.status().pid is None
    assert (await cut(model, picture(191))).alpha.max() == 255
