"""Native code tried in a process of its own, which a CPU without its instructions would end.

`python -m scripts.doctor_probe NAME FOLDER` prints one JSON object; the doctor reads it.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SIDE = 1024
_UNTRUSTED = ("svgload_buffer", "pdfload_buffer", "magickload_buffer", "openslideload", "matload")
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>'


def pillow(_: Path) -> dict[str, Any]:
    """Which Pillow runs, and its time for 1024 x 1024 pixels with alpha four times larger."""
    import numpy as np  # noqa: PLC0415  # each probe loads its own and nothing else
    import PIL  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 4), np.uint8)
    )
    taken = []
    for _try in range(3):
        begun = time.perf_counter()
        picture.resize((4 * _SIDE, 4 * _SIDE), Image.Resampling.LANCZOS)
        taken.append(time.perf_counter() - begun)
    return {"version": PIL.__version__, "ms": round(1000 * min(taken))}


def libvips(_: Path) -> dict[str, Any]:
    """Its version, and which loaders that are not for untrusted files it has and lets run."""
    import pyvips  # noqa: PLC0415

    from services import intake  # noqa: F401, PLC0415  # what the service does to libvips is done there
    from utils import rows  # noqa: F401, PLC0415

    there = [name for name in _UNTRUSTED if pyvips.type_find("VipsOperation", name)]
    open_ones = [name for name in there if not _is_blocked(name)]
    version = ".".join(str(pyvips.version(part)) for part in range(3))
    return {"version": version, "there": there, "open": open_ones}


def _is_blocked(loader: str) -> bool:
    import pyvips  # noqa: PLC0415

    try:
        pyvips.Operation.call(loader, _SVG)
    except pyvips.Error as error:
        return "blocked" in str(error)
    return False


def onnxruntime(folder: Path) -> dict[str, Any]:
    return _run("onnxruntime", folder)


def openvino(folder: Path) -> dict[str, Any]:
    return _run("openvino", folder)


def _run(name: str, folder: Path) -> dict[str, Any]:
    """A network of one operator, x + x, through the service's own runner; and who ran it."""
    import numpy as np  # noqa: PLC0415
    import onnx  # noqa: PLC0415
    from onnx import helper  # noqa: PLC0415

    from models.inference import Engine, RunPlan  # noqa: PLC0415
    from services.inference import open_runner  # noqa: PLC0415

    shape = [1, 3, 8, 8]
    ends = [helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, shape) for each in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])], "probe", ends[:1], ends[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / f"{name}.onnx"
    onnx.save_model(model, str(path))
    runner = open_runner(RunPlan(path, engine=Engine(name), threads=1))
    runner.load()
    picture = np.full(shape, 0.25, np.float32)
    right = bool(np.allclose(runner.run(picture), 0.5))
    version: str = sys.modules[name].__version__  # imported by the runner, telemetry off
    return {"version": version.partition("-")[0], "right": right}


PROBES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "pillow": pillow,
    "libvips": libvips,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}


if __name__ == "__main__":
    print(json.dumps(PROBES[sys.argv[1]](Path(sys.argv[2]))))
