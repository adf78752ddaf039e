"""The networks' process: real children, killed, cancelled, starved; the service lives on."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from models.errors import FailureCode
from models.inference import Engine, RunPlan
from services.inference import GraphRefused
from services.inference_process import InferenceCrashed, InferenceProcess, InferenceTimedOut
from tests.conftest import ROOT
from tests.services import graphs
from utils import logs

pytestmark = pytest.mark.anyio

PATIENCE_S = 60
FOR_EVER_S = 3600.0
HEAVY_MB = 60


@pytest.fixture
async def process() -> AsyncIterator[InferenceProcess]:
    process = InferenceProcess(idle_ttl_s=FOR_EVER_S, budget_bytes=None, rest_s=0)
    yield process
    await process.close()


@pytest.fixture
def quick(tmp_path: Path) -> RunPlan:
    return plan(graphs.identity(tmp_path / "quick.onnx"))


@pytest.fixture
def endless(tmp_path: Path) -> RunPlan:
    return plan(graphs.endless(tmp_path / "endless.onnx"))


def plan(path: Path) -> RunPlan:
    return RunPlan(path, engine=Engine.ONNXRUNTIME, threads=1)


async def run(
    process: InferenceProcess,
    network: RunPlan,
    *,
    seed: int = 0,
    expected_s: float = 1,
    timeout_s: float = PATIENCE_S,
) -> graphs.Array:
    return await process.run(
        network, graphs.picture(seed), timeout_s=timeout_s, expected_s=expected_s
    )


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not happened():  # noqa: ASYNC110  # nothing tells us
            await asyncio.sleep(0.005)


async def started(process: InferenceProcess, network: RunPlan) -> asyncio.Task[graphs.Array]:
    """A job that is being run, not merely loaded."""
    task = asyncio.create_task(run(process, network))
    await until(lambda: process.status().running)
    return task


def living_pid(process: InferenceProcess) -> int:
    pid = process.status().pid
    assert pid is not None
    return pid


def exists(pid: int) -> bool:
    """Whether it runs; who waits to be buried by somebody else does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def children() -> set[int]:
    """Our children's pids, buried or not."""
    found = Path("/proc/self/task").glob("*/children")
    return {int(pid) for each in found for pid in each.read_text().split()}


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_results_come_back_to_who_asked(process: InferenceProcess, tmp_path: Path) -> None:
    networks = [plan(graphs.shifted(tmp_path / f"{by}.onnx", by)) for by in (0, 1, 2)]
    results = await asyncio.gather(
        *(run(process, network, seed=seed) for seed, network in enumerate(networks))
    )
    for number, result in enumerate(results):
        assert result == pytest.approx(graphs.picture(number) + number)
        assert result.shape == (1, 3, graphs.SIDE, graphs.SIDE)


async def test_the_process_starts_with_the_first_job_and_serves_the_next(
    process: InferenceProcess, quick: RunPlan
) -> None:
    assert process.status().pid is None
    await run(process, quick)
    pid = living_pid(process)
    await run(process, quick)
    status = process.status()
    assert status.pid == pid
    assert status.loaded == (quick.path,)
    assert (status.running, status.waiting) == (False, 0)
    assert status.load_s


async def test_both_engines_run_in_it(process: InferenceProcess, tmp_path: Path) -> None:
    path = graphs.deformed(tmp_path / "deformed.onnx", kernel=3, mask=True, bias=True)
    ours = await run(process, RunPlan(path, engine=Engine.OPENVINO))
    theirs = await run(process, RunPlan(path, engine=Engine.ONNXRUNTIME))
    assert ours == pytest.approx(theirs, abs=1e-4)


async def test_relative_paths_are_the_services(
    process: InferenceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs.convolved(tmp_path / "near.onnx")
    monkeypatch.chdir(tmp_path)
    await run(process, RunPlan(Path("near.onnx"), Engine.OPENVINO, cache_dir=Path("cache")))
    assert list((tmp_path / "cache").iterdir())


async def test_jobs_at_the_same_time_load_a_network_once(
    process: InferenceProcess, quick: RunPlan, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "services.inference_process")
    await asyncio.gather(*(run(process, quick, seed=seed) for seed in range(5)))
    assert [each.message for each in caplog.records] == ["model_loaded"]


async def test_what_the_process_prints_is_a_line_of_the_log_with_the_jobs_request(
    process: InferenceProcess,
    quick: RunPlan,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interpreter itself prints each import when told to: as a library in it might."""
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    seen: list[tuple[str | None, str]] = []

    def note(record: logging.LogRecord) -> bool:
        if record.msg == "inference_process_said":
            seen.append((logs.request_id.get(), record.__dict__["said"]))
        return True

    async def job(name: str) -> None:
        logs.request_id.set(name)
        await run(process, quick)

    log = logging.getLogger("services.inference_process")
    caplog.set_level("INFO", log.name)
    log.addFilter(note)
    try:
        await asyncio.create_task(job("first"))
        await process.close()
    finally:
        log.removeFilter(note)
    assert 0 < len(seen) <= 100
    assert {name for name, _ in seen} == {"first"}
    assert all(len(words) <= 4096 for _, words in seen)
    assert any("import" in words for _, words in seen)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (signal.SIGKILL, FailureCode.INSUFFICIENT_MEMORY),
        (signal.SIGSEGV, FailureCode.MODEL_CRASHED),
    ],
)
async def test_a_killed_process_fails_its_job_and_the_next_one_works(
    process: InferenceProcess,
    quick: RunPlan,
    endless: RunPlan,
    sent: signal.Signals,
    code: FailureCode,
) -> None:
    job = await started(process, endless)
    behind = asyncio.create_task(run(process, quick))
    pid = living_pid(process)
    os.kill(pid, sent)
    with pytest.raises(InferenceCrashed) as caught:
        await job
    assert caught.value.code is code
    assert (await behind).shape == graphs.picture().shape
    assert living_pid(process) != pid
    assert not exists(pid)


async def test_a_process_killed_between_jobs_is_replaced(
    process: InferenceProcess, quick: RunPlan
) -> None:
    await run(process, quick)
    pid = living_pid(process)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: process.status().pid is None)
    assert process.status().loaded == ()
    await run(process, quick)
    assert living_pid(process) != pid


async def test_cancelling_a_job_kills_the_process(
    process: InferenceProcess, quick: RunPlan, endless: RunPlan
) -> None:
    before = children()
    job = await started(process, endless)
    pid = living_pid(process)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert process.status().pid is None
    await until(lambda: not exists(pid))
    await run(process, quick)
    assert children() - before == {living_pid(process)}


async def test_cancelling_a_job_that_waits_disturbs_nobody(
    process: InferenceProcess, quick: RunPlan, endless: RunPlan
) -> None:
    job = await started(process, endless)
    pid = living_pid(process)
    waits = asyncio.create_task(run(process, quick))
    await until(lambda: process.status().waiting == 1)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert (living_pid(process), process.status().running) == (pid, True)
    job.cancel()


async def test_a_job_that_takes_too_long_is_ended(
    process: InferenceProcess, quick: RunPlan, endless: RunPlan
) -> None:
    with pytest.raises(InferenceTimedOut, match=r"longer than 0\.5 s"):
        await run(process, endless, timeout_s=0.5)
    await run(process, quick)


async def test_failures_in_a_row_are_counted_until_an_answer(
    process: InferenceProcess, quick: RunPlan, endless: RunPlan
) -> None:
    job = await started(process, endless)
    os.kill(living_pid(process), signal.SIGKILL)
    with pytest.raises(InferenceCrashed):
        await job
    with pytest.raises(InferenceTimedOut):
        await run(process, quick, timeout_s=0.01)
    left = await started(process, endless)
    left.cancel()  # nobody's failure: the client has gone
    with pytest.raises(asyncio.CancelledError):
        await left
    assert process.status().failures_in_a_row == 2
    await run(process, quick)
    assert process.status().failures_in_a_row == 0


async def test_a_refused_graph_is_the_files_fault_not_the_processs(
    process: InferenceProcess, quick: RunPlan, tmp_path: Path
) -> None:
    await run(process, quick)
    pid = living_pid(process)
    with pytest.raises(GraphRefused, match="Mystery"):
        await run(process, plan(graphs.unknown_operator(tmp_path / "foreign.onnx")))
    with pytest.raises(GraphRefused, match="gone"):
        await run(process, plan(tmp_path / "gone.onnx"))
    await run(process, quick)
    assert living_pid(process) == pid


async def test_more_memory_than_there_is_fails_with_its_own_code(
    process: InferenceProcess, quick: RunPlan, tmp_path: Path
) -> None:
    with pytest.raises(InferenceCrashed) as caught:
        await run(process, plan(graphs.greedy(tmp_path / "greedy.onnx")))
    assert caught.value.code is FailureCode.INSUFFICIENT_MEMORY
    await run(process, quick)


async def test_a_network_that_fails_fails_alone(process: InferenceProcess, quick: RunPlan) -> None:
    with pytest.raises(InferenceCrashed) as caught:
        await process.run(quick, graphs.picture(side=7), timeout_s=PATIENCE_S, expected_s=1)
    assert caught.value.code is FailureCode.MODEL_CRASHED
    assert "invalid dimensions" in caught.value.message
    await run(process, quick)


async def test_the_shortest_goes_first_but_overtakes_four_times_at_most(
    process: InferenceProcess, quick: RunPlan, endless: RunPlan
) -> None:
    served: list[str] = []

    async def serve(name: str, expected_s: float) -> None:
        await run(process, quick, expected_s=expected_s)
        served.append(name)

    job = await started(process, endless)
    tasks = []
    names = {"long": 100.0, "short 0": 2.0, "shortest": 1.0}
    names |= {f"short {number}": 2.0 for number in range(1, 5)}
    for name, expected_s in names.items():
        tasks.append(asyncio.create_task(serve(name, expected_s)))
        await asyncio.sleep(0)
    assert process.status().waiting == len(tasks)
    job.cancel()
    await asyncio.gather(*tasks)
    assert served == ["shortest", "short 0", "short 1", "short 2", "long", "short 3", "short 4"]


async def test_an_idle_process_goes_and_gives_its_memory_back(tmp_path: Path) -> None:
    process = InferenceProcess(idle_ttl_s=0.05, budget_bytes=None)
    heavy = plan(graphs.heavy(tmp_path / "heavy.onnx", weights_mb=HEAVY_MB))
    before = resident_bytes(os.getpid())
    job = asyncio.create_task(run(process, heavy))
    await until(lambda: process.status().running)
    pid = living_pid(process)
    assert resident_bytes(pid) > HEAVY_MB * 1_000_000
    await job
    await until(lambda: not exists(pid))
    await until(lambda: pid not in children())
    assert process.status().loaded == ()
    assert resident_bytes(os.getpid()) - before < HEAVY_MB * 500_000
    await run(process, heavy)
    await process.close()


async def test_use_comes_before_the_end_of_the_idle_time(quick: RunPlan) -> None:
    process = InferenceProcess(idle_ttl_s=0, budget_bytes=None)
    pids = set()
    for _ in range(5):
        await run(process, quick)
        pids.add(living_pid(process))
    assert len(pids) == 1
    await process.close()


async def test_of_two_networks_the_unused_one_goes(tmp_path: Path, quick: RunPlan) -> None:
    process = InferenceProcess(idle_ttl_s=0.2, budget_bytes=10**15)
    heavy = plan(graphs.heavy(tmp_path / "heavy.onnx", weights_mb=HEAVY_MB))
    await run(process, heavy)
    pid, full = living_pid(process), resident_bytes(living_pid(process))
    while process.status().loaded != (quick.path,):
        await run(process, quick)
    assert living_pid(process) == pid
    assert full - resident_bytes(pid) > HEAVY_MB * 800_000
    await process.close()


async def test_without_room_for_both_one_network_makes_way(
    process: InferenceProcess, quick: RunPlan, tmp_path: Path
) -> None:
    heavy = plan(graphs.heavy(tmp_path / "heavy.onnx", weights_mb=HEAVY_MB))
    await run(process, heavy)
    pid, full = living_pid(process), resident_bytes(living_pid(process))
    await run(process, quick)
    assert process.status().loaded == (quick.path,)
    assert living_pid(process) == pid
    assert full - resident_bytes(pid) > HEAVY_MB * 800_000


@pytest.mark.parametrize(("budget_bytes", "kept"), [(10**15, 3), (1_500_000_000, 2), (1, 1)])
async def test_as_many_networks_stay_as_the_budget_holds(
    tmp_path: Path, budget_bytes: int, kept: int
) -> None:
    process = InferenceProcess(idle_ttl_s=FOR_EVER_S, budget_bytes=budget_bytes)
    networks = [plan(graphs.shifted(tmp_path / f"{by}.onnx", by)) for by in (1, 2, 3)]
    for network in networks:
        await run(process, network)
    assert process.status().loaded == tuple(each.path for each in networks[-kept:])
    await process.close()


async def test_killed_at_random_during_thirty_jobs_nothing_hangs_and_memory_returns(
    process: InferenceProcess, tmp_path: Path
) -> None:
    """Each job has its own answer or one clean failure that may be tried again."""
    random = np.random.default_rng(20261124)
    networks = [
        plan(graphs.heavy(tmp_path / "heavy.onnx", weights_mb=HEAVY_MB)),
        *(plan(graphs.shifted(tmp_path / f"{by}.onnx", by)) for by in (1, 2)),
    ]
    killed: set[int] = set()

    async def kill_now_and_then() -> None:
        while True:
            await asyncio.sleep(random.uniform(0.05, 0.6))
            if (pid := process.status().pid) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)

    killer = asyncio.create_task(kill_now_and_then())
    async with asyncio.timeout(PATIENCE_S):
        outcomes = await asyncio.gather(
            *(run(process, networks[number % 3], seed=number) for number in range(30)),
            return_exceptions=True,
        )
    killer.cancel()
    failures = [each for each in outcomes if isinstance(each, BaseException)]
    assert killed
    assert all(isinstance(each, InferenceCrashed) and each.retryable for each in failures)
    for number, outcome in enumerate(outcomes):
        if not isinstance(outcome, BaseException) and number % 3:
            assert outcome == pytest.approx(graphs.picture(number) + number % 3)
    assert process.status().waiting == 0
    assert not any(map(exists, killed))
    assert (await run(process, networks[1])) == pytest.approx(graphs.picture(0) + 1)


async def test_closing_leaves_nothing_behind(quick: RunPlan, endless: RunPlan) -> None:
    files = set(Path("/proc/self/fd").iterdir())
    process = InferenceProcess(idle_ttl_s=FOR_EVER_S, budget_bytes=None)
    jobs = [await started(process, endless)]
    jobs += [asyncio.create_task(run(process, quick)) for _ in range(3)]
    await until(lambda: process.status().waiting == 3)
    pid = living_pid(process)
    await process.close()
    for outcome in await asyncio.gather(*jobs, return_exceptions=True):
        assert isinstance(outcome, InferenceCrashed)
        assert outcome.code is FailureCode.CANCELLED
    assert pid not in children()
    assert set(Path("/proc/self/fd").iterdir()) <= files
    await process.close()


async def test_closing_meets_a_process_that_is_just_starting(quick: RunPlan) -> None:
    before = children()
    process = InferenceProcess(idle_ttl_s=FOR_EVER_S, budget_bytes=None)
    job = asyncio.create_task(run(process, quick))
    await asyncio.sleep(0)
    await process.close()
    with pytest.raises(InferenceCrashed):
        await job
    assert children() <= before


async def test_ctrl_c_is_the_services_to_handle(process: InferenceProcess, quick: RunPlan) -> None:
    await run(process, quick)
    pid = living_pid(process)
    os.kill(pid, signal.SIGINT)
    await run(process, quick)
    assert living_pid(process) == pid
    assert os.getpgid(pid) != os.getpgid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's own")
async def test_the_kernel_is_offered_the_process_first(
    process: InferenceProcess, quick: RunPlan
) -> None:
    await run(process, quick)
    offered = Path(f"/proc/{living_pid(process)}/oom_score_adj").read_text()
    assert offered.strip() == "1000"


ORPHANING = """
import asyncio, sys
from pathlib import Path
import numpy as np
from models.inference import Engine, RunPlan
from services.inference_process import InferenceProcess

async def main():
    process = InferenceProcess(idle_ttl_s=3600, budget_bytes=None)
    plan = RunPlan(Path(sys.argv[1]), engine=Engine.ONNXRUNTIME)
    picture = np.zeros((1, 3, 12, 12), np.float32)
    job = asyncio.create_task(process.run(plan, picture, timeout_s=3600, expected_s=1))
    while not process.status().running:
        await asyncio.sleep(0.01)
    print(process.status().pid, flush=True)
    await job

asyncio.run(main())
"""


async def test_the_process_dies_with_the_service(endless: RunPlan) -> None:
    service = subprocess.Popen(  # noqa: ASYNC220  # nothing else runs
        [sys.executable, "-c", ORPHANING, endless.path], cwd=ROOT, stdout=subprocess.PIPE
    )
    with service:
        assert service.stdout is not None
        pid = int(service.stdout.readline())
        assert exists(pid)
        service.kill()
    try:
        await until(lambda: not exists(pid))
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
