"""The networks' process under fire, longer than a test may take: `python -m bench.inference_fire`.

Three trials with real children and real graphs: a hundred crashes with others' jobs in the line
(descriptors and children counted before and after); a graph that takes two gigabytes inside a
control group of one (whom the kernel ends); and how many processes ten requests for a file start
that ends its process every time.
"""

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from bench.memory_watch import new_control_group
from models.inference import Engine, RunPlan
from services.inference_process import InferenceCrashed, InferenceProcess
from tests.services import graphs

_CRASHES = 100
_SIGNALS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL)
_GROUP_MIB = 1024
_SPIKE_FLOATS = 2**29  # 2 GiB


async def crashes(folder: Path) -> None:
    """Each round: an endless job is killed in the middle while three others wait."""
    process = InferenceProcess(idle_ttl_s=3600, budget_bytes=None, rest_s=0)
    quick = _plan(graphs.identity(folder / "quick.onnx"))
    endless = _plan(graphs.endless(folder / "endless.onnx"))
    await _run(process, quick)
    before, begun = _held(), time.monotonic()
    outcomes: Counter[str] = Counter()
    for number in range(_CRASHES):
        job = asyncio.create_task(_run(process, endless))
        while not process.status().running:  # noqa: ASYNC110  # nothing tells us
            await asyncio.sleep(0.005)
        others = [asyncio.create_task(_run(process, quick)) for _ in range(3)]
        await asyncio.sleep(0)
        pid = process.status().pid
        assert pid is not None  # it runs
        os.kill(pid, _SIGNALS[number % len(_SIGNALS)])
        for each in await asyncio.gather(job, *others, return_exceptions=True):
            outcomes[type(each).__name__] += 1
    after = _held()
    await process.close()
    print(
        f"{_CRASHES} crashes in {time.monotonic() - begun:.0f} s: {dict(outcomes)}; descriptors, "
        f"children, zombies: {before} before, {after} after, {_held()} closed"
    )


async def spike(folder: Path) -> None:
    """In a group of 1 GiB: the child is ended, and the next job of another network works."""
    process = InferenceProcess(idle_ttl_s=3600, budget_bytes=None)
    try:
        await _run(process, _plan(_spike(folder / "spike.onnx")))
        print("spike: it fitted; is this a group?")
    except InferenceCrashed as error:
        print(f"spike: {error.code}, retryable {error.retryable}: {error.message}")
    result = await _run(process, _plan(graphs.identity(folder / "quick.onnx")))
    print(f"spike: the service lives, and the next job answers {result.shape}")
    await process.close()


async def repeated(folder: Path) -> None:
    """Ten requests for a network that ends its process whenever it runs."""
    process = InferenceProcess(idle_ttl_s=3600, budget_bytes=None)
    endless = _plan(graphs.endless(folder / "endless.onnx"))
    pids: set[int] = set()

    async def kill() -> None:
        while True:
            await asyncio.sleep(0.005)
            pid = process.status().pid
            if process.status().running and pid is not None:
                pids.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSEGV)

    killer, begun = asyncio.create_task(kill()), time.monotonic()
    took: list[float] = []
    for _ in range(10):
        start = time.monotonic()
        with suppress(InferenceCrashed):
            await _run(process, endless)
        took.append(time.monotonic() - start)
    killer.cancel()
    await process.close()
    print(
        f"ten requests for a file that crashes: {len(pids)} processes, "
        f"{time.monotonic() - begun:.1f} s; the tenth took {took[-1] * 1e3:.1f} ms"
    )


def _plan(path: Path) -> RunPlan:
    return RunPlan(path, engine=Engine.ONNXRUNTIME, threads=1)


async def _run(process: InferenceProcess, plan: RunPlan) -> graphs.Array:
    return await process.run(plan, graphs.picture(), timeout_s=120, expected_s=1)


def _held() -> tuple[int, int, int]:
    """Our open descriptors, our children, and those of them that nobody has buried."""
    found = [each.read_text().split() for each in Path("/proc/self/task").glob("*/children")]
    states = []
    for pid in (pid for pids in found for pid in pids):
        with suppress(OSError):
            states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
    return len(list(Path("/proc/self/fd").iterdir())), len(states), states.count("Z")


def _spike(path: Path) -> Path:
    """Fills two gigabytes, and means them."""
    shape = np.array([_SPIKE_FLOATS, 1, 1, 1], np.int64)
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["one"], keepdims=1),
        helper.make_node("Expand", ["one", "shape"], ["large"]),
        helper.make_node("ReduceMean", ["large"], ["y"], keepdims=1),
    ]
    return graphs.save(path, nodes, constants={"shape": shape})


async def _in_group(trial: str) -> None:
    with new_control_group(limit_bytes=_GROUP_MIB << 20) as group:
        if group is None:
            print("spike: no control group may be made here")
            return
        entering = f'echo $$ > "{group.folder / "cgroup.procs"}" && exec "$@"'
        command = (sys.executable, "-m", "bench.inference_fire", trial)
        child = await asyncio.create_subprocess_exec("sh", "-c", entering, "sh", *command)
        status = await child.wait()
        killed = group.oom_kills()
        print(f"spike: the service ended with {status}; the kernel ended {killed} process(es)")


async def main(trials: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if trials == ["spike"]:
            await spike(folder)
            return
        await repeated(folder)
        await _in_group("spike")
        await crashes(folder)


if __name__ == "__main__":
    print(f"onnx {onnx.__version__}, {os.cpu_count()} cores")
    asyncio.run(main(sys.argv[1:]))
