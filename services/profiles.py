"""How each local network is run: a point on the line between time and memory, chosen by setting.

The figures are measured (docs/BENCHMARKS.md): one 1024x1024 picture, two threads, the whole process
of the network. `auto` takes the fastest point that fits beside the rest of the service.
"""

from dataclasses import dataclass, replace

from models.inference import Architecture, Engine, Form, LocalProfile, Precision, RunPlan
from services.inference import resolve_engine, resolve_precision

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Way:
    """How a network is run; `form` is its file's, where it has others than the released one.

    `load_s` is what a first picture waits for on top of `expected_s`: the process starts, the
    network is loaded.
    """

    plan: RunPlan
    form: Form
    peak_bytes: int
    expected_s: float
    load_s: float


@dataclass(frozen=True, slots=True)
class _Cost:
    peak_mb: int
    seconds: float


_LOAD_S = {
    Architecture.BIREFNET: 4.0,
    Architecture.BIREFNET_LITE: 3.0,
    Architecture.ISNET: 2.5,
}
_FAST = {
    Architecture.BIREFNET: _Cost(2_050, 13),
    Architecture.BIREFNET_LITE: _Cost(1_000, 3.6),
    Architecture.ISNET: _Cost(790, 1.6),
}
_FAST_BF16 = {
    Architecture.BIREFNET: _Cost(1_320, 7),
    Architecture.BIREFNET_LITE: _Cost(810, 2.5),
    Architecture.ISNET: _Cost(570, 0.8),
}
_PLAIN = {
    Architecture.BIREFNET: _Cost(3_350, 20),
    Architecture.BIREFNET_LITE: _Cost(1_270, 6.5),
    Architecture.ISNET: _Cost(930, 2.2),
}
_THRIFTY = {
    Architecture.BIREFNET: _Cost(1_830, 27),
    Architecture.BIREFNET_LITE: _Cost(1_050, 9),
    Architecture.ISNET: _Cost(600, 2.8),
}


def way_for(
    plan: RunPlan, profile: LocalProfile, architecture: Architecture, *, room_bytes: int | None
) -> Way:
    """The way for one network; with `auto`, the fastest that fits into `room_bytes` (None: any).

    Where nothing fits it is the smallest: whoever asks compares `peak_bytes`.
    """
    if profile is not LocalProfile.AUTO:
        return _way(plan, profile, architecture)
    found = [_way(plan, each, architecture) for each in (LocalProfile.SPEED, LocalProfile.SMALL)]
    fitting = [each for each in found if room_bytes is None or each.peak_bytes <= room_bytes]
    if fitting:
        return min(fitting, key=lambda each: each.expected_s)
    return min(found, key=lambda each: each.peak_bytes)


def _way(plan: RunPlan, profile: LocalProfile, architecture: Architecture) -> Way:
    """`balanced` is bf16 wherever the CPU has it; an engine that was asked for stays."""
    asked = resolve_engine(plan.engine).value
    if profile is LocalProfile.SMALL and plan.engine is not Engine.OPENVINO:
        asked = Engine.ONNXRUNTIME
    wanted = Precision.BF16 if profile is LocalProfile.BALANCED else plan.precision
    precision = resolve_precision(wanted, engine=asked).value
    thrifty = profile is LocalProfile.SMALL and asked is Engine.ONNXRUNTIME
    if asked is Engine.ONNXRUNTIME:
        form, costs = Form.ROWS, _THRIFTY if thrifty else _PLAIN
    elif precision is Precision.BF16:
        form, costs = Form.HALVES, _FAST_BF16
    else:
        form, costs = Form.SINGLES, _FAST
    cost = costs[architecture]
    return Way(
        plan=replace(plan, engine=asked, precision=precision, low_memory=thrifty),
        form=form,
        peak_bytes=cost.peak_mb * _MB,
        expected_s=cost.seconds,
        load_s=_LOAD_S[architecture],
    )
