"""Graphs as exporters write them: deformable convolutions spelled out as GatherND, BiRefNet's tail.

The pattern was compared with what deform_conv2d_onnx_exporter 1.2.0 makes of a small network.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, OperatorSetIdProto, TensorProto, helper, numpy_helper

Array = NDArray[np.generic]
_FLOAT, _INT64 = TensorProto.FLOAT, TensorProto.INT64


@dataclass
class Maker:
    """Writes a graph node by node; every tensor's name leads to its shape."""

    opset: int = 17
    seed: int = 0
    model: ModelProto = field(default_factory=ModelProto)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.model.ir_version = 8
        self.model.opset_import.append(OperatorSetIdProto(domain="", version=self.opset))
        self.model.graph.name = "made"

    def input(self, name: str, *shape: int) -> str:
        self.model.graph.input.append(helper.make_tensor_value_info(name, _FLOAT, shape))
        return self._know(name, shape)

    def output(self, name: str) -> None:
        shape = self.shapes[name]
        self.model.graph.output.append(helper.make_tensor_value_info(name, _FLOAT, shape))

    def weight(self, *shape: int, name: str = "weight", scale: float | None = None) -> str:
        """Random numbers as an initializer; by default of a size that keeps activations alike."""
        spread = np.float32(math.prod(shape[1:]) ** -0.5 if scale is None else scale)
        values = self.rng.standard_normal(shape, np.float32) * spread
        label = f"{name}_{len(self.model.graph.initializer)}"
        self.model.graph.initializer.append(numpy_helper.from_array(values, label))
        return self._know(label, shape)

    def constant(self, values: object, kind: type[np.generic] = np.int64) -> str:
        """A Constant node, as the exporter writes all numbers of its own."""
        array = np.array(values, kind)
        label = f"Constant_{len(self.model.graph.node)}"
        tensor = numpy_helper.from_array(array)
        self.model.graph.node.append(helper.make_node("Constant", [], [label], value=tensor))
        return self._know(label, array.shape)

    def op(
        self, op: str, *inputs: str, shape: Sequence[int] = (), **settings: int | str | list[int]
    ) -> str:
        label = f"{op}_{len(self.model.graph.node)}"
        node = helper.make_node(op, inputs, [label])
        node.attribute.extend(helper.make_attribute(*setting) for setting in settings.items())
        self.model.graph.node.append(node)
        return self._know(label, shape)

    def reshape(self, source: str, *shape: int) -> str:
        return self.op("Reshape", source, self.constant(shape), shape=shape)

    def conv(  # noqa: PLR0917
        self, x: str, channels: int, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1
    ) -> str:
        batch, depth, height, width = self.shapes[x]
        weight = self.weight(channels, depth, kernel, kernel)
        size = [
            (side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for side in (height, width)
        ]
        return self.op(
            "Conv",
            x,
            weight,
            self.weight(channels, name="bias", scale=0.1),
            shape=(batch, channels, *size),
            dilations=[dilation] * 2,
            group=1,
            kernel_shape=[kernel] * 2,
            pads=[pad] * 4,
            strides=[stride] * 2,
        )

    def _know(self, name: str, shape: Sequence[int]) -> str:
        self.shapes[name] = tuple(shape)
        return name


@dataclass(frozen=True)
class Deformable:
    """What torch calls deform_conv2d.

    Offsets and mask come from the input, as BiRefNet has it; with `spread` they are fixed numbers
    of that spread, which no engine's rounding can move.
    """

    channels: int = 4
    kernel: int = 3
    stride: int = 1
    pad: int = 1
    dilation: int = 1
    masked: bool = True
    groups: int = 1
    spread: float | None = None

    def add(self, maker: Maker, x: str) -> str:
        taps = self.groups * self.kernel**2
        place = (self.kernel, self.stride, self.pad, self.dilation)
        offset = maker.conv(x, 2 * taps, *place)
        if self.spread is not None:
            offset = maker.weight(*maker.shapes[offset], scale=self.spread)
        mask = ""
        if self.masked:
            mask = maker.op("Sigmoid", maker.conv(x, taps, *place))
            two = maker.constant(2, np.float32)
            mask = maker.op("Mul", two, mask)
        return self.lower(maker, x, offset, mask)

    def lower(self, maker: Maker, x: str, offset: str, mask: str) -> str:
        return _Lowering(maker, self, x, maker.shapes[offset][2:]).write(offset, mask)


class _Lowering:
    """The exporter's steps, in its order."""

    def __init__(self, maker: Maker, deformable: Deformable, x: str, size: tuple[int, ...]) -> None:
        self.maker, self.how, self.x = maker, deformable, x
        self.batch, self.depth, height, width = maker.shapes[x]
        self.extra = 1 if deformable.pad == 0 else 0
        margin = deformable.pad + self.extra
        self.margin = margin
        self.height, self.width = height + 2 * margin, width + 2 * margin
        self.size = size
        self.taps = deformable.kernel**2
        self.places = self.taps * size[0] * size[1]

    def write(self, offset: str, mask: str) -> str:
        m, g, taps = self.maker, self.how.groups, self.taps
        moved = m.reshape(offset, self.batch, g, taps, 2, *self.size)
        p = m.op("Add", m.constant(self._grid(), np.float32), moved)
        floor = m.op("Floor", p)
        indices = self._indices(m.op("Cast", floor, to=_INT64))
        weights = self._weights(m.op("Sub", p, floor))
        margins = [0, 0, self.margin, self.margin] * 2
        padded = m.op("Pad", self.x, m.constant(margins), mode="constant")
        deep = self.depth // g
        padded = m.reshape(padded, self.batch, g, deep, self.height, self.width)
        values = {corner: self._fetch(padded, *indices[corner]) for corner in weights}
        products = [m.op("Mul", weights[corner], values[corner]) for corner in values]
        total = m.op("Sum", *products)
        if mask:
            shaped = m.reshape(mask, self.batch, g, 1, taps, *self.size)
            total = m.op("Mul", total, shaped)
        return self._convolve(total)

    def _grid(self) -> Array:
        """Where each tap of each output pixel looks without offsets, in the padded picture."""
        how, lines = self.how, []
        for axis in (0, 1):
            taps = np.arange(how.kernel) * how.dilation
            places = np.arange(self.size[axis]) * how.stride + self.extra
            tap_shape, place_shape = [1, 1, 1, 1], [1, 1, 1, 1]
            tap_shape[axis], place_shape[2 + axis] = how.kernel, self.size[axis]
            line = taps.reshape(tap_shape) + places.reshape(place_shape)
            whole = np.broadcast_to(line, (how.kernel, how.kernel, *self.size))
            lines.append(whole.reshape(1, 1, self.taps, 1, *self.size))
        return np.concatenate(lines, axis=3)

    def _half(self, source: str, axis: int) -> str:
        m = self.maker
        third, start, end = m.constant([3]), m.constant([axis]), m.constant([axis + 1])
        return m.op("Slice", source, start, end, third)

    def _indices(self, whole: str) -> dict[str, tuple[str, str]]:
        m = self.maker
        top, left = (self._half(whole, axis) for axis in (0, 1))
        bottom, right = (m.op("Add", part, m.constant(1)) for part in (top, left))
        top, left, bottom, right = (
            m.op("Clip", part, m.constant(0), m.constant(limit - 1))
            for part, limit in (
                (top, self.height),
                (left, self.width),
                (bottom, self.height),
                (right, self.width),
            )
        )
        return {
            "tl": (top, left),
            "br": (bottom, right),
            "bl": (bottom, left),
            "tr": (top, right),
        }

    def _weights(self, fraction: str) -> dict[str, str]:
        m = self.maker
        down, right = (self._half(fraction, axis) for axis in (0, 1))
        up, left = (m.op("Sub", m.constant(1, np.float32), part) for part in (down, right))
        pairs = {"tl": (left, up), "br": (right, down), "bl": (left, down), "tr": (right, up)}
        products = {corner: m.op("Mul", *pair) for corner, pair in pairs.items()}
        shape = (self.batch, self.how.groups, 1, self.taps, *self.size)
        return {corner: m.reshape(product, *shape) for corner, product in products.items()}

    def _fetch(self, padded: str, rows: str, columns: str) -> str:
        m, g = self.maker, self.how.groups
        flat = [m.reshape(part, self.batch, g, self.places, 1) for part in (rows, columns)]
        index = m.op("Concat", *flat, axis=3)
        last = m.op("Transpose", padded, perm=[0, 1, 3, 4, 2])
        found = m.op("GatherND", last, index, batch_dims=2)
        turned = m.op("Transpose", found, perm=[0, 1, 3, 2])
        return m.reshape(turned, self.batch, g, self.depth // g, self.taps, *self.size)

    def _convolve(self, samples: str) -> str:
        m, k = self.maker, self.how.kernel
        height, width = self.size
        tiles = m.reshape(samples, self.batch, self.depth, k, k, height, width)
        turned = m.op("Transpose", tiles, perm=[0, 1, 4, 2, 5, 3])
        flat = m.reshape(turned, self.batch, self.depth, height * k, width * k)
        weight = m.weight(self.how.channels, self.depth, k, k, name="regular_conv")
        shape = (self.batch, self.how.channels, height, width)
        conv = m.op("Conv", flat, weight, shape=shape, group=1, kernel_shape=[k, k], strides=[k, k])
        bias = m.constant(np.zeros((1, self.how.channels, 1, 1)), np.float32)
        return m.op("Add", conv, bias, shape=shape)


def enlarged(maker: Maker, x: str, height: int, width: int) -> str:
    """F.interpolate(size=..., mode="bilinear", align_corners=True), as torch exports it."""
    sizes = maker.op("Shape", x)
    parts = [maker.constant([start]) for start in (0, 2, 0)]
    ahead = maker.op("Slice", sizes, *parts)
    sizes = maker.op("Concat", ahead, maker.constant([height, width]), axis=0)
    shape = (*maker.shapes[x][:2], height, width)
    return maker.op(
        "Resize",
        x,
        "",
        "",
        sizes,
        shape=shape,
        coordinate_transformation_mode="align_corners",
        mode="linear",
        nearest_mode="floor",
    )


def tail(maker: Maker, small: str, picture: str, channels: int = 3, *, inter: int = 3) -> str:
    """BiRefNet's end: enlarged features beside convolutions of the picture, one 1x1 over both."""
    height, width = maker.shapes[picture][2:]
    wide = enlarged(maker, small, height, width)
    inner = maker.conv(picture, inter, 3, pad=1)
    side = maker.conv(inner, channels, 3, pad=1)
    both = maker.shapes[small][1] + channels
    joined = maker.op(
        "Concat", wide, side, shape=(maker.shapes[small][0], both, height, width), axis=1
    )
    return maker.conv(joined, 1, 1)


def deformed(deformable: Deformable, *, size: int = 12, depth: int = 3, opset: int = 17) -> Maker:
    """One deformable convolution between a picture and an output."""
    maker = Maker(opset=opset)
    maker.output(deformable.add(maker, maker.input("picture", 1, depth, size, size + 2)))
    return maker


def small_network() -> Maker:
    """A little of everything, wired as BiRefNet is: three kernels side by side, then the tail."""
    maker = Maker()
    picture = maker.input("picture", 1, 3, 32, 32)
    features = maker.conv(picture, 4, 3, stride=2, pad=1)
    parts = [
        Deformable(kernel=kernel, pad=kernel // 2).add(maker, features) for kernel in (1, 3, 7)
    ]
    joined = maker.op("Concat", *parts, shape=(1, 12, 16, 16), axis=1)
    small = maker.conv(joined, 6, 3, pad=1)
    maker.output(tail(maker, small, picture))
    maker.output(small)
    return maker
