"""Whether the real exporter's graphs are what the rewriting and its tests take them for.

torch and the exporter are not the project's; the check runs in an environment of its own:

    python3.11 -m venv /tmp/torchenv
    /tmp/torchenv/bin/pip install torch==2.13.0 onnx onnxruntime onnxscript
    /tmp/torchenv/bin/pip install --no-deps deform_conv2d_onnx_exporter==1.2.0
    /tmp/torchenv/bin/python -m bench.rewrite_export_check

torchvision is not needed: an operator of its name and signature is all that the exporter asks for.
"""

import tempfile
import warnings
from pathlib import Path

import deform_conv2d_onnx_exporter as exporter  # type: ignore[import-not-found]
import onnx
import torch  # type: ignore[import-not-found]
from torch.onnx._internal.torchscript_exporter import (  # type: ignore[import-not-found]
    _type_utils,
)

from services.rewrite import rewrite
from services.rewrite_deform import Deform
from services.rewrite_graph import Graph
from services.rewrite_proof import difference, difference_by_pieces
from tests.graphs import Deformable, deformed

_SIGNATURE = (
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
    "int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, "
    "int groups, int offset_groups, bool use_mask) -> Tensor"
)
_CASES = (
    Deformable(kernel=1, pad=0),
    Deformable(kernel=3, pad=1),
    Deformable(kernel=7, pad=3),
    Deformable(kernel=3, pad=0, stride=2, masked=False),
    Deformable(kernel=3, pad=2, dilation=2, groups=3),
)


def _register() -> None:
    """Only the shape is computed: the exported graph is compared with its rewriting, not torch."""
    library = torch.library.Library("torchvision", "DEF")
    library.define(_SIGNATURE)
    library.impl(
        "deform_conv2d",
        lambda x, weight, offset, *_: x.new_zeros(x.shape[0], weight.shape[0], *offset.shape[2:]),
        "CPU",
    )
    globals()["_library"] = library  # it lives as long as its operator is wanted
    exporter.JitScalarType = _type_utils.JitScalarType  # where this torch keeps it
    exporter.register_deform_conv2d_onnx_op()


class _Net(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, how: Deformable, depth: int) -> None:
        super().__init__()
        place = (how.kernel, how.stride, how.pad, how.dilation)
        taps = how.groups * how.kernel**2
        self.how = how
        self.offset_conv = torch.nn.Conv2d(depth, 2 * taps, *place)
        self.modulator_conv = torch.nn.Conv2d(depth, taps, *place)
        self.regular_conv = torch.nn.Conv2d(depth, how.channels, how.kernel, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        how = self.how
        mask = x.new_zeros(1, 1)
        offset = self.offset_conv(x)
        if how.masked:
            mask = 2.0 * torch.sigmoid(self.modulator_conv(x))
        numbers = [number for number in (how.stride, how.pad, how.dilation) for _ in "yx"]
        weight, bias = self.regular_conv.weight, torch.zeros(how.channels)
        return torch.ops.torchvision.deform_conv2d(
            x, weight, offset, mask, bias, *numbers, 1, how.groups, how.masked
        )


def _export(how: Deformable, path: Path) -> onnx.ModelProto:
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    net, x = _Net(how, 3).eval(), torch.randn(1, 3, 12, 14)
    torch.onnx.export(net, (x,), path, opset_version=17, dynamo=False)
    return onnx.load(path)


def _wiring(model: onnx.ModelProto, deform: Deform) -> list[tuple[str, tuple[str, ...]]]:
    """What the convolution's nodes are and take, whatever their names and their order."""
    graph = Graph(model)
    return sorted(
        (graph.nodes[index].op_type, tuple(map(graph.op_above, graph.nodes[index].input)))
        for index in deform.nodes
    )


def main() -> None:
    _register()
    with tempfile.TemporaryDirectory() as folder:
        for how in _CASES:
            exported, ours = _export(how, Path(folder) / "net.onnx"), deformed(how).model
            rewriting, expected = rewrite(exported), rewrite(ours)
            (deform,), (same,) = rewriting.deforms, expected.deforms
            assert _wiring(exported, deform) == _wiring(ours, same), how
            for field in ("strides", "pads", "dilations", "offset_group", "in_size", "out_size"):
                assert getattr(deform, field) == getattr(same, field), field
            whole = difference(exported, rewriting.model)
            pieces = difference_by_pieces(exported, rewriting)
            print(f"{how}: {whole.absolute:.2g} whole, {pieces.absolute:.2g} by pieces")
            assert max(whole.relative, pieces.relative) <= 1e-5


if __name__ == "__main__":
    main()
