"""How each local network is run: a point on the line between time and memory, chosen by setting.

The figures are measured (docs/BENCHMARKS.md): one 1024x1024 picture, two threads, the whole process
of the network. `auto` takes the fastest point that fits beside the rest of the service.
"""

from dataclasses import dataclass, replace

from models.inference import Engine, Form, LocalProfile, Precision, RunPlan
from services.inference import resolve_engine, resolve_precision

_MB = 1_000_000
_LEAST_BESIDE_BYTES = 1 << 30  # the service, a few shots and enlargements


@dataclass(frozen=True, slots=True)
class Way:
    """How a network is run; `form` is its file's, where it has others than the released one."""

    plan: RunPlan
    form: Form
    peak_bytes: int
    expected_s: float


@dataclass(frozen=True, slots=True)
class _Cost:
    peak_mb: int
    seconds: float


# by whether the network has deformable convolutions: BiRefNet-General rewritten, and ISNet
_FAST = {True: _Cost(3_450, 14), False: _Cost(790, 1.6)}
_FAST_BF16 = {True: _Cost(3_450, 7.5), False: _Cost(550, 0.8)}
_HALVES = {True: _Cost(3_200, 13), False: _Cost(790, 1.6)}
_HALVES_BF16 = {True: _Cost(1_950, 7.2), False: _Cost(550, 0.8)}
_PLAIN = {True: _Cost(3_250, 20), False: _Cost(930, 2.2)}
_THRIFTY = {True: _Cost(1_800, 28), False: _Cost(600, 2.8)}


def room_for_networks(granted: int | None) -> int | None:
    """What is left of the memory granted beside the least that the service itself takes."""
    return None if granted is None else max(0, granted - _LEAST_BESIDE_BYTES)


def way_for(
    plan: RunPlan, profile: LocalProfile, *, deformable: bool, room_bytes: int | None
) -> Way:
    """The way for one network; with `auto`, the fastest that fits into `room_bytes` (None: any).

    Where nothing fits it is the smallest: whoever asks compares `peak_bytes`.
    """
    if profile is LocalProfile.AUTO:
        profiles = [LocalProfile.SPEED, LocalProfile.SMALL]
        if plan.precision is Precision.BF16:  # what `balanced` stands for is allowed
            profiles.insert(1, LocalProfile.BALANCED)
        found = [_way(plan, each, deformable=deformable) for each in profiles]
        fitting = [each for each in found if room_bytes is None or each.peak_bytes <= room_bytes]
        return min(fitting, key=lambda each: each.expected_s) if fitting else found[-1]
    return _way(plan, profile, deformable=deformable)


def _way(plan: RunPlan, profile: LocalProfile, *, deformable: bool) -> Way:
    """`balanced` is bf16 wherever the CPU has it; an engine that was asked for stays."""
    asked = resolve_engine(plan.engine).value
    if profile is LocalProfile.SMALL and plan.engine is not Engine.OPENVINO:
        asked = Engine.ONNXRUNTIME
    wanted = Precision.BF16 if profile is LocalProfile.BALANCED else plan.precision
    precision = resolve_precision(wanted, engine=asked).value
    thrifty = profile is LocalProfile.SMALL and asked is Engine.ONNXRUNTIME
    form = Form.ROWS if asked is Engine.ONNXRUNTIME else Form.NATIVE
    if profile is LocalProfile.BALANCED and asked is Engine.OPENVINO:
        form = Form.HALVES
    cost = _cost(asked, precision, form, thrifty=thrifty)[deformable]
    return Way(
        plan=replace(plan, engine=asked, precision=precision, low_memory=thrifty),
        form=form,
        peak_bytes=cost.peak_mb * _MB,
        expected_s=cost.seconds,
    )


def _cost(engine: Engine, precision: Precision, form: Form, *, thrifty: bool) -> dict[bool, _Cost]:
    if engine is Engine.ONNXRUNTIME:
        return _THRIFTY if thrifty else _PLAIN
    exact, quick = (_HALVES, _HALVES_BF16) if form is Form.HALVES else (_FAST, _FAST_BF16)
    return quick if precision is Precision.BF16 else exact
