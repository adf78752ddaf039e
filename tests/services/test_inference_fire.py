"""The networks' process under fire: garbage on its pipe, hangs, crash after crash; none leaks."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from models.errors import FailureCode
from models.inference import RunPlan
from services import inference_process
from services.inference_process import InferenceCrashed, InferenceProcess, InferenceTimedOut
from tests.services import graphs
from tests.services.test_inference_process import (
    FOR_EVER_S,
    children,
    exists,
    living_pid,
    plan,
    run,
    started,
    until,
)

pytestmark = pytest.mark.anyio

IMPOSTOR = """
import os, socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
channel.recv(1)
channel.sendall(SAYS)
channel.recv(1 << 20)
channel.recv(1)
"""
GARBAGE = {
    "no json": b"\xff\xfe not a message\n",
    "no object": b"[1, 2]\n",
    "unknown": b'{"event": "surprise"}\n',
    "incomplete": b'{"event": "done"}\n',
    "wrong type": b'{"event": "done", "shape": "large"}\n',
    "endless line": b"x" * 200_000,
    "no tensor": b'{"event": "done", "shape": [1, 3, 999, 999]}\n',
}


@pytest.fixture
async def process() -> AsyncIterator[InferenceProcess]:
    process = InferenceProcess(idle_ttl_s=FOR_EVER_S, budget_bytes=None, rest_s=100)
    yield process
    await process.close()


@pytest.fixture
def quick(tmp_path: Path) -> RunPlan:
    return plan(graphs.identity(tmp_path / "quick.onnx"))


@pytest.fixture
def endless(tmp_path: Path) -> RunPlan:
    return plan(graphs.endless(tmp_path / "endless.onnx"))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def replaced_by(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start `code` in the place of the child's own."""
    (folder / "services").mkdir()
    (folder / "services" / "inference_child.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(inference_process, "_ROOT", folder)


async def test_garbage_on_the_pipe_ends_the_job_and_the_process(
    quick: RunPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = InferenceProcess(idle_ttl_s=FOR_EVER_S, budget_bytes=None, rest_s=0)
    for number, (kind, garbage) in enumerate(GARBAGE.items()):
        with monkeypatch.context() as patch:
            folder = tmp_path / str(number)
            folder.mkdir()
            replaced_by(IMPOSTOR.replace("SAYS", repr(garbage)), folder, patch)
            job = asyncio.create_task(run(process, quick))
            await until(lambda: process.status().pid is not None)
            pid = living_pid(process)
            with pytest.raises(InferenceCrashed, match=r"no (message|tensor)") as caught:
                await job
        assert caught.value.code is FailureCode.MODEL_CRASHED, kind
        await until(lambda pid=pid: not exists(pid))  # type: ignore[misc]
    assert (await run(process, quick)).shape == graphs.picture().shape
    await process.close()


async def test_a_child_that_dies_before_it_can_answer_fails_its_job_alone(
    process: InferenceProcess, quick: RunPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        replaced_by("raise SystemExit(3)", tmp_path, patch)
        with pytest.raises(InferenceCrashed, match="status 3"):
            await run(process, quick)
    await run(process, quick)


async def test_a_process_that_hangs_is_ended_and_the_next_job_has_another(
    process: InferenceProcess, quick: RunPlan
) -> None:
    await run(process, quick)
    pid = living_pid(process)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(InferenceTimedOut):
        await run(process, quick, timeout_s=0.2)
    await run(process, quick)
    assert living_pid(process) != pid
    assert not exists(pid)


async def test_crash_after_crash_leaks_nothing(
    process: InferenceProcess, quick: RunPlan, endless: RunPlan
) -> None:
    """bench/inference_fire.py does this a hundred times."""
    await run(process, quick)
    files, others = descriptors(), children() - {living_pid(process)}
    for sent in (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL):
        job = await started(process, endless)
        os.kill(living_pid(process), sent)
        with pytest.raises(InferenceCrashed):
            await job
        await run(process, quick)
    assert descriptors() == files
    assert children() - others == {living_pid(process)}


async def test_a_network_that_always_ends_its_process_is_left_alone(
    process: InferenceProcess,
    quick: RunPlan,
    endless: RunPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tenth request fails as the sixth: at once, without a process; others are served."""
    starts = 0
    start = inference_process._spawn

    def counted(channel_fd: int, memory_fd: int, *, kill_first: bool) -> object:
        nonlocal starts
        starts += 1
        return start(channel_fd, memory_fd, kill_first=kill_first)

    monkeypatch.setattr(inference_process, "_spawn", counted)
    with monkeypatch.context() as patch:
        replaced_by("import os; os.abort()", tmp_path, patch)
        outcomes = await asyncio.gather(
            *(run(process, endless) for _ in range(10)), return_exceptions=True
        )
    said = [str(each) for each in outcomes]
    assert starts == 5
    assert all("status -6" in each for each in said[:5])
    assert all("5 times in a row; it is tried again in 100 s" in each for each in said[5:])
    assert all(isinstance(each, InferenceCrashed) for each in outcomes)
    await run(process, quick)


async def test_a_network_that_rested_is_tried_again_and_forgiven_when_it_answers(
    quick: RunPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = InferenceProcess(idle_ttl_s=FOR_EVER_S, budget_bytes=None, rest_s=0.05)
    with monkeypatch.context() as patch:
        replaced_by("raise SystemExit(3)", tmp_path, patch)
        for _ in range(5):
            with pytest.raises(InferenceCrashed, match="status 3"):
                await run(process, quick)
    with pytest.raises(InferenceCrashed, match="tried again"):
        await run(process, quick)
    await asyncio.sleep(0.06)
    for _ in range(2):
        await run(process, quick)
    await process.close()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's own")
async def test_a_crash_leaves_no_core_on_the_disk(
    process: InferenceProcess, quick: RunPlan
) -> None:
    await run(process, quick)
    limits = Path(f"/proc/{living_pid(process)}/limits").read_text().splitlines()
    (core,) = (line for line in limits if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
