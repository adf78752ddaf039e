"""Cards and CUDA: what nvidia-smi says, and that the processor is never taken for a card."""

import ctypes
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.inference import Device, Engine, RunPlan
from services.cuda import (
    Card,
    Cards,
    CudaMissing,
    cuda_failure,
    open_on_card,
    read_answer,
    require_active,
    seat,
)
from services.inference import GraphRefused, is_out_of_memory, open_runner
from tests.services import graphs

RTX = "NVIDIA GeForce RTX 4090, 550.54.15, 24564, 1310\n"


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first in PATH, and nothing of NVIDIA behind it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    if any(Path(each, "nvidia-smi").exists() for each in ("/usr/bin", "/bin")):
        pytest.skip("there is a real nvidia-smi here")
    return folder


def smi(folder: Path, script: str) -> Path:
    """An nvidia-smi that is this shell script."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_the_first_card_is_read_with_its_memory() -> None:
    seen = read_answer(RTX + "NVIDIA T4, 550.54.15, 15360, 0\n", status=0)
    assert seen.card == Card("NVIDIA GeForce RTX 4090", "550.54.15", 24564, 1310)


def test_memory_that_a_card_does_not_tell_is_unknown() -> None:
    seen = read_answer("NVIDIA Thor, 580.1, [N/A], [N/A]", status=0)
    assert seen.card == Card("NVIDIA Thor", "580.1", None, None)


@pytest.mark.parametrize(
    ("text", "status", "why"),
    [
        ("NVIDIA-SMI has failed because it couldn't reach the driver.\nRun it.", 9, "couldn't"),
        ("No devices were found\n", 0, "No devices were found"),
        ("", 0, "no words"),
        (RTX, 1, "RTX"),
    ],
)
def test_an_answer_without_a_card_is_told_in_its_own_words(
    text: str, status: int, why: str
) -> None:
    seen = read_answer(text, status=status)
    assert seen.card is None
    assert seen.why.startswith("nvidia-smi says: ")
    assert why in seen.why
    assert "\n" not in seen.why


@pytest.mark.anyio
async def test_nvidia_smi_is_asked_for_name_and_memory_and_not_at_every_look(
    path_folder: Path,
) -> None:
    smi(path_folder, f'echo "$@" >> {path_folder}/asked; printf "{RTX.strip()}\\n"')
    cards = Cards()
    first, second = await cards.look(), await cards.look()
    assert first == second
    assert first.card is not None
    assert first.card.memory_total_mb == 24564
    (asked,) = (path_folder / "asked").read_text().splitlines()
    assert "name,driver_version,memory.total,memory.used" in asked


@pytest.mark.anyio
async def test_an_nvidia_smi_that_hangs_is_ended(path_folder: Path) -> None:
    smi(path_folder, f"echo $$ > {path_folder}/pid; exec sleep 600")
    seen = await Cards(timeout_s=0.5).look()
    assert seen.card is None
    assert "did not answer within 0.5 s" in seen.why
    with pytest.raises(ProcessLookupError):
        os.kill(int((path_folder / "pid").read_text()), 0)


@pytest.mark.anyio
async def test_auto_takes_a_card_or_nothing(path_folder: Path) -> None:
    nowhere = await seat(Device.AUTO, Cards())
    assert nowhere.device is None
    assert nowhere.why.startswith("There is no graphics card: nvidia-smi cannot be started")
    assert "BEN2_DEVICE=cpu" in nowhere.why
    smi(path_folder, f'printf "{RTX.strip()}\\n"')
    there = await seat(Device.AUTO, Cards())
    assert (there.device, there.why) == (Device.CUDA, "nvidia-smi names NVIDIA GeForce RTX 4090.")


@pytest.mark.anyio
@pytest.mark.parametrize("asked", [Device.CPU, Device.CUDA])
async def test_a_device_that_was_asked_for_is_taken_without_looking(
    path_folder: Path, asked: Device
) -> None:
    smi(path_folder, f"touch {path_folder}/asked")
    assert (await seat(asked, Cards())).device is asked
    assert not (path_folder / "asked").exists()


def test_a_session_that_fell_back_to_the_processor_is_no_session() -> None:
    require_active(["CUDAExecutionProvider", "CPUExecutionProvider"])
    for providers in (["CPUExecutionProvider"], []):
        with pytest.raises(CudaMissing, match="instead of CUDA"):
            require_active(providers)


def test_without_cuda_in_onnxruntime_a_card_is_refused_and_the_reason_told(tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    plan = RunPlan(
        graphs.identity(tmp_path / "graph.onnx"), engine=Engine.ONNXRUNTIME, device=Device.CUDA
    )
    with pytest.raises(GraphRefused, match=r"built without CUDA; requirements-gpu.txt"):
        open_runner(plan).load()


def test_without_a_driver_the_reason_is_the_driver(tmp_path: Path) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with_cuda = SimpleNamespace(get_available_providers=lambda: ["CUDAExecutionProvider"])
        with pytest.raises(CudaMissing, match=r"no NVIDIA driver here \(libcuda.so.1"):
            open_on_card(with_cuda, tmp_path / "graph.onnx", None)
    else:
        pytest.skip("there is a driver here")


def test_cudas_own_sentence_is_told_without_what_buries_it() -> None:
    """The words of onnxruntime-gpu 1.26.0 where its libraries are and a driver is not."""
    words = (
        "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:122 std::conditional_t<T, "
        "void, common::Status> onnxruntime::CudaCall(ERRTYPE, const char*) [with ERRTYPE = "
        "cudaError; bool THRW = true] CUDA failure 35: CUDA driver version is insufficient for "
        "CUDA runtime version ; GPU=-1 ; hostname=vm ; line=336 ; expr=cudaSetDevice(0);"
    )
    assert cuda_failure(words) == (
        "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"
    )
    assert cuda_failure("Protobuf parsing failed.") is None


@pytest.mark.parametrize(
    "words",
    [
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=box ; expr=cudaMalloc((void**)&p, size);",
        "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 8",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
    ],
)
def test_a_cards_memory_running_out_is_memory(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words))
