"""A graph of the released BiRefNet's shape and cost, with random weights, outside the repository.

The weights' licence and size keep the released file out of here; its architecture is public. This
writes what an exporter makes of it: a Swin backbone run at full and at half size, the squeeze
block and four decoder blocks with their deformable convolutions spelled out, the gradient heads,
and the 1x1 convolution behind the fourfold enlargement.

    python -m bench.birefnet_graph [folder] [--lite] [--side 1024]
"""

import argparse
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tests.graphs import Deformable, Maker, enlarged, tail

_FOLDER = Path.home() / ".cache" / "dtf-bench"
_HEAD = 32  # channels of one attention head
_INTER, _ASPP = 64, 256
_MLP = 4


@dataclass(frozen=True)
class Swin:
    name: str
    width: int
    depths: tuple[int, ...]
    window: int

    @property
    def channels(self) -> list[int]:
        return [self.width << stage for stage in range(len(self.depths))]


GENERAL = Swin("birefnet-general-shape", 192, (2, 2, 18, 2), 12)
LITE = Swin("birefnet-general-lite-shape", 96, (2, 2, 6, 2), 7)


@dataclass
class Net:
    """Layers on top of the maker's nodes; weights are made once under a key and then shared."""

    maker: Maker
    shared: dict[str, str] = field(default_factory=dict)

    def op(self, op: str, *inputs: str, like: str, **settings: int | str | list[int]) -> str:
        return self.maker.op(op, *inputs, shape=self.maker.shapes[like], **settings)

    def weight(self, key: str, *shape: int, scale: float | None = None) -> str:
        if key not in self.shared:
            self.shared[key] = self.maker.weight(*shape, name=key, scale=scale)
        return self.shared[key]

    def fixed(self, key: str, values: NDArray[np.generic]) -> str:
        if key not in self.shared:
            self.maker.model.graph.initializer.append(numpy_helper.from_array(values, key))
            self.maker.shapes[key] = values.shape
            self.shared[key] = key
        return self.shared[key]

    def linear(self, key: str, x: str, wide: int, *, bias: bool = True) -> str:
        *lead, deep = self.maker.shapes[x]
        weight = self.weight(f"{key}.weight", deep, wide, scale=deep**-0.5)
        y = self.maker.op("MatMul", x, weight, shape=(*lead, wide))
        if not bias:
            return y
        return self.op("Add", self.weight(f"{key}.bias", wide, scale=0.02), y, like=y)

    def norm(self, key: str, x: str) -> str:
        deep = self.maker.shapes[x][-1]
        ones = self.fixed(f"{key}.weight", np.ones(deep, np.float32))
        zeros = self.fixed(f"{key}.bias", np.zeros(deep, np.float32))
        return self.op("LayerNormalization", x, ones, zeros, like=x, axis=-1)

    def gelu(self, x: str) -> str:
        m = self.maker
        half = m.op("Div", x, m.constant(math.sqrt(2), np.float32))
        risen = m.op("Add", m.op("Erf", half), m.constant(1, np.float32))
        return self.op("Mul", m.op("Mul", x, risen), m.constant(0.5, np.float32), like=x)

    def turned(self, x: str, *perm: int) -> str:
        shape = self.maker.shapes[x]
        return self.maker.op("Transpose", x, shape=[shape[at] for at in perm], perm=list(perm))

    def cut(self, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
        shape = list(self.maker.shapes[x])
        shape[axis] = len(range(*slice(start, end, step).indices(shape[axis])))
        parts = [self.maker.constant([number]) for number in (start, end, axis, step)]
        return self.maker.op("Slice", x, *parts, shape=shape)

    def joined(self, *parts: str, axis: int = 1) -> str:
        shape = list(self.maker.shapes[parts[0]])
        shape[axis] = sum(self.maker.shapes[part][axis] for part in parts)
        return self.maker.op("Concat", *parts, shape=shape, axis=axis)

    def resized(self, x: str, like: str) -> str:
        return enlarged(self.maker, x, *self.maker.shapes[like][2:])

    def conv_relu(self, x: str, channels: int, kernel: int) -> str:
        y = self.maker.conv(x, channels, kernel, pad=kernel // 2)
        return self.op("Relu", y, like=y)

    def batch_norm_relu(self, x: str) -> str:
        deep = self.maker.shapes[x][1]
        ones, zeros = np.ones(deep, np.float32), np.zeros(deep, np.float32)
        parts = [
            self.fixed(f"norm_{what}_{x}", values)
            for what, values in zip("wbmv", (ones, zeros, zeros, ones), strict=True)
        ]
        y = self.op("BatchNormalization", x, *parts, like=x)
        return self.op("Relu", y, like=y)


# The backbone


def backbone(net: Net, swin: Swin, picture: str) -> list[str]:
    """Four pictures of features, at a quarter of the size and smaller."""
    m = net.maker
    batch, _, height, width = m.shapes[picture]
    weight = net.weight("patch.weight", swin.width, 3, 4, 4)
    bias = net.weight("patch.bias", swin.width, scale=0.02)
    size = (height // 4, width // 4)
    y = m.op(
        "Conv", picture, weight, bias, shape=(batch, swin.width, *size), kernel_shape=[4, 4],
        strides=[4, 4],
    )  # fmt: skip
    flat = m.reshape(y, batch, swin.width, size[0] * size[1])
    x = net.norm("patch.norm", net.turned(flat, 0, 2, 1))
    features = []
    for stage, depth in enumerate(swin.depths):
        for block in range(depth):
            shift = swin.window // 2 if block % 2 else 0
            x = swin_block(net, f"stage{stage}.{block}", x, size, swin.window, shift)
        deep = swin.channels[stage]
        y = net.norm(f"stage{stage}.norm", x)
        features.append(net.turned(m.reshape(y, batch, *size, deep), 0, 3, 1, 2))
        if stage + 1 < len(swin.depths):
            x, size = merged(net, f"stage{stage}.merge", x, size)
    return features


def swin_block(  # noqa: PLR0913, PLR0917  # one block's numbers
    net: Net, key: str, x: str, size: tuple[int, int], window: int, shift: int
) -> str:
    m = net.maker
    batch, places, deep = m.shapes[x]
    y = m.reshape(net.norm(f"{key}.norm1", x), batch, *size, deep)
    padded = [-(-side // window) * window for side in size]
    if list(size) != padded:
        margins = [0] * 5 + [padded[0] - size[0], padded[1] - size[1], 0]
        y = m.op("Pad", y, m.constant(margins), shape=(batch, *padded, deep))
    y = rolled(net, y, shift)
    rows, columns = (side // window for side in padded)
    y = net.turned(m.reshape(y, batch, rows, window, columns, window, deep), 0, 1, 3, 2, 4, 5)
    y = m.reshape(y, batch * rows * columns, window**2, deep)
    y = attention(net, key, y, masked_by=mask(net, padded, window, shift))
    y = m.reshape(y, batch, rows, columns, window, window, deep)
    y = m.reshape(net.turned(y, 0, 1, 3, 2, 4, 5), batch, *padded, deep)
    y = rolled(net, y, -shift)
    for axis, side in enumerate(size, start=1):
        if side != padded[axis - 1]:
            y = net.cut(y, axis, 0, side)
    x = net.op("Add", x, m.reshape(y, batch, places, deep), like=x)
    y = net.linear(f"{key}.fc1", net.norm(f"{key}.norm2", x), _MLP * deep)
    return net.op("Add", x, net.linear(f"{key}.fc2", net.gelu(y), deep), like=x)


def rolled(net: Net, x: str, shift: int) -> str:
    for axis in (1, 2) if shift else ():
        side = net.maker.shapes[x][axis]
        at = shift % side
        x = net.joined(net.cut(x, axis, at, side), net.cut(x, axis, 0, at), axis=axis)
    return x


def mask(net: Net, padded: list[int], window: int, shift: int) -> str:
    """What keeps places apart that only a roll brought together; empty without a roll.

    It is computed in the graph: with it as a constant the file would be larger than the released.
    """
    key = f"mask_{padded[0]}_{padded[1]}"
    if not shift:
        return ""
    if key in net.shared:
        return net.shared[key]
    m = net.maker
    zones = np.zeros(padded, np.float32)
    cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate((one, two) for one in cuts for two in cuts):
        zones[rows, columns] = number
    high, wide = (side // window for side in padded)
    split = m.reshape(net.fixed(f"zones_{key}", zones), 1, high, window, wide, window)
    flat = m.reshape(net.turned(split, 0, 1, 3, 2, 4), high * wide, window**2)
    row, column = (
        m.reshape(flat, *shape)
        for shape in ((high * wide, 1, window**2), (high * wide, window**2, 1))
    )
    same = m.op("Equal", m.op("Sub", row, column), m.constant(0, np.float32))
    apart = m.op("Where", same, m.constant(0, np.float32), m.constant(-100, np.float32))
    net.shared[key] = m.reshape(apart, 1, high * wide, 1, window**2, window**2)
    return net.shared[key]


def attention(net: Net, key: str, x: str, *, masked_by: str) -> str:
    m = net.maker
    windows, places, deep = m.shapes[x]
    heads = deep // _HEAD
    split = m.reshape(net.linear(f"{key}.qkv", x, 3 * deep), windows, places, 3, heads, _HEAD)
    split = net.turned(split, 2, 0, 3, 1, 4)
    shape = (windows, heads, places, _HEAD)
    q, k, v = (m.op("Gather", split, m.constant(part), shape=shape, axis=0) for part in range(3))
    q = net.op("Mul", q, m.constant(_HEAD**-0.5, np.float32), like=q)
    square = (windows, heads, places, places)
    scores = m.op("MatMul", q, net.turned(k, 0, 1, 3, 2), shape=square)
    bias = net.weight(f"{key}.position", 1, heads, places, places, scale=0.02)
    scores = net.op("Add", scores, bias, like=scores)
    if masked_by:
        apart = m.reshape(scores, 1, *square)
        apart = net.op("Add", apart, masked_by, like=apart)
        scores = m.reshape(apart, *square)
    found = m.op("MatMul", net.op("Softmax", scores, like=scores, axis=-1), v, shape=shape)
    flat = m.reshape(net.turned(found, 0, 2, 1, 3), windows, places, deep)
    return net.linear(f"{key}.proj", flat, deep)


def merged(net: Net, key: str, x: str, size: tuple[int, int]) -> tuple[str, tuple[int, int]]:
    """Half the size, twice the channels."""
    m = net.maker
    batch, _, deep = m.shapes[x]
    picture = m.reshape(x, batch, *size, deep)
    parts = [
        net.cut(net.cut(picture, 1, row, size[0], 2), 2, column, size[1], 2)
        for column in (0, 1)
        for row in (0, 1)
    ]
    half = (size[0] // 2, size[1] // 2)
    y = m.reshape(net.joined(*parts, axis=3), batch, half[0] * half[1], 4 * deep)
    return net.linear(key, net.norm(f"{key}.norm", y), 2 * deep, bias=False), half


# The decoder


def aspp(net: Net, x: str) -> str:
    """Five looks at one input: deformable 1x1, again 1x1, 3x3, 7x7, and its mean."""
    m = net.maker
    looks = []
    for kernel in (1, 1, 3, 7):
        deformable = Deformable(channels=_ASPP, kernel=kernel, pad=kernel // 2)
        looks.append(net.batch_norm_relu(deformable.add(m, x)))
    mean = m.op("GlobalAveragePool", x, shape=(*m.shapes[x][:2], 1, 1))
    looks.append(net.resized(net.conv_relu(mean, _ASPP, 1), looks[0]))
    return net.conv_relu(net.joined(*looks), _INTER, 1)


def decoder_block(net: Net, x: str, channels: int) -> str:
    y = aspp(net, net.conv_relu(x, _INTER, 3))
    return net.maker.conv(y, channels, 3, pad=1)


def patches(net: Net, picture: str, like: str) -> str:
    """The whole picture at the size of some features, its pixels piled up as channels."""
    m = net.maker
    batch, deep, height, width = m.shapes[picture]
    high, wide = m.shapes[like][2:]
    rows, columns = height // high, width // wide
    split = net.turned(m.reshape(picture, batch, deep, rows, high, columns, wide), 0, 1, 2, 4, 3, 5)
    return m.reshape(split, batch, deep * rows * columns, high, wide)


def beside_picture(net: Net, x: str, picture: str, channels: int) -> str:
    y = net.maker.conv(patches(net, picture, x), _INTER, 3, pad=1)
    return net.joined(x, net.maker.conv(y, channels, 3, pad=1))


def attended(net: Net, x: str) -> str:
    """The features weighed by their gradient head."""
    gate = net.maker.conv(net.conv_relu(x, 16, 3), 1, 1)
    return net.op("Mul", x, net.op("Sigmoid", gate, like=gate), like=x)


def birefnet(swin: Swin, side: int) -> Maker:
    net = Net(Maker())
    m = net.maker
    picture = m.input("input_image", 1, 3, side, side)
    half = enlarged(m, picture, side // 2, side // 2)
    whole, small = backbone(net, swin, picture), backbone(net, swin, half)
    features = [
        net.joined(one, net.resized(other, one)) for one, other in zip(whole, small, strict=True)
    ]
    channels = [m.shapes[one][1] for one in features]  # from fine to coarse
    deepest = net.joined(*(net.resized(one, features[3]) for one in features[:3]), features[3])
    p = decoder_block(net, deepest, channels[3])
    for level, beside in ((3, 3), (2, 3), (1, 2)):
        p = beside_picture(net, p, picture, channels[beside] // 8)
        p = attended(net, decoder_block(net, p, channels[level - 1]))
        lateral = m.conv(features[level - 1], channels[level - 1], 1)
        p = net.op("Add", net.resized(p, features[level - 1]), lateral, like=lateral)
    p = beside_picture(net, p, picture, channels[1] // 8)
    p = decoder_block(net, p, channels[0] // 2)
    last = tail(m, p, picture, channels[0] // 8, inter=_INTER)
    m.model.graph.node.append(helper.make_node("Identity", [last], ["output_image"]))
    m.shapes["output_image"] = m.shapes[last]
    m.output("output_image")
    return m


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=_FOLDER)
    parser.add_argument("--lite", action="store_true", help="Swin-T instead of Swin-L")
    parser.add_argument("--side", type=int, default=1024, help="pixels; a multiple of 64")
    arguments = parser.parse_args()
    swin = LITE if arguments.lite else GENERAL
    model = birefnet(swin, arguments.side).model
    side = "" if arguments.side == 1024 else f"-{arguments.side}"
    path = arguments.folder / f"{swin.name}{side}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(model.SerializeToString())
    part.replace(path)
    operators = Counter(node.op_type for node in model.graph.node)
    print(f"{path}: {path.stat().st_size:,} bytes, {len(model.graph.node)} nodes")
    print(f"GatherND {operators['GatherND']}, Softmax {operators['Softmax']}")


if __name__ == "__main__":
    main()
