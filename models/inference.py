"""What running a network is asked with: engines, precisions, and the plan of one network."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Engine(StrEnum):
    """What runs the network; `auto` is OpenVINO where it is installed."""

    AUTO = "auto"
    OPENVINO = "openvino"
    ONNXRUNTIME = "onnxruntime"


class Precision(StrEnum):
    """What the engine computes in; `auto` is f32, the network's own."""

    AUTO = "auto"
    F32 = "f32"
    BF16 = "bf16"


class Device(StrEnum):
    """Where a network runs; `auto` is a graphics card or nowhere."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


class Architecture(StrEnum):
    """What a network is, as far as it decides what running it takes."""

    ISNET = "isnet"
    BIREFNET = "birefnet"
    BIREFNET_LITE = "birefnet-lite"


class BirefnetSize(StrEnum):
    """Which of its two sizes BiRefNet-General is run in."""

    FULL = "full"
    LITE = "lite"
    AUTO = "auto"


class Form(StrEnum):
    """What a network's file becomes before it is run, where it has a cheaper form.

    `rows` has real deformable convolutions split into single rows, which takes onnxruntime the
    least memory; `singles` and `halves` are OpenVINO's own, their weights kept in 32 and 16 bits.
    """

    ROWS = "rows"
    SINGLES = "singles"
    HALVES = "halves"


@dataclass(frozen=True, slots=True)
class RunPlan:
    """How one network is run; two equal plans share one loaded network.

    `path` is an .onnx file, or an OpenVINO .xml with its .bin beside it. `output` names the output
    to compute, None for the first. `cache_dir` is where OpenVINO keeps what it compiled.
    `low_memory` trades seconds for a lower peak. `device` is `cuda` or `cpu`, the former under
    onnxruntime alone. `side`: the file must take and answer squares of so many pixels; None: it is
    not looked at.
    """

    path: Path
    engine: Engine = Engine.AUTO
    precision: Precision = Precision.AUTO
    threads: int = 2
    output: str | None = None
    cache_dir: Path | None = None
    low_memory: bool = False
    device: Device = Device.CPU
    side: int | None = None


class LocalProfile(StrEnum):
    """Where between time and memory the networks run; `auto` goes by what is granted."""

    AUTO = "auto"
    SPEED = "speed"
    BALANCED = "balanced"
    SMALL = "small"
