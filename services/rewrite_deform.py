"""A deformable convolution that an exporter spelled out as GatherND, recognised and written again.

The pattern, from the end: a Conv that steps by its own kernel, over a picture in which every
output pixel was unrolled to the kernel's samples; the samples are the sum over four corners of a
bilinear weight times a GatherND of the padded input; the corners come from a constant grid plus
the offsets. Everything that the native operator takes for granted is checked: the whole grid, each
clip, each shape. The channels of offsets and mask have the same order on both sides: group, kernel
row, kernel column, then y before x.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper

from services.rewrite_graph import Array, Graph, Mismatch, Walk, Writing, attributes, is_op, need

_Y, _X = 0, 1
_ROW_SPLIT_KERNEL = (7, 7)
_UNROLL = [0, 1, 4, 2, 5, 3]  # the samples of one output pixel become a tile of kernel size


@dataclass(frozen=True, slots=True)
class Deform:
    """One lowered deformable convolution, as its nodes say it.

    `nodes` are its own nodes, the Conv at place `conv` the last of them; `channel_axes` says for
    each Reshape that writes the number of channels out on which axis it does.
    """

    conv: int
    nodes: frozenset[int]
    channel_axes: Mapping[int, int]
    data: str
    offset: str
    mask: str
    weight: str
    bias: str
    output: str
    batch: int
    channels: int
    group: int
    offset_group: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    dilations: tuple[int, int]
    in_size: tuple[int, int]
    out_size: tuple[int, int]

    @property
    def samples(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def data_shape(self) -> list[int]:
        return [self.batch, self.channels, *self.in_size]

    @property
    def offset_shape(self) -> list[int]:
        return [self.batch, 2 * self.offset_group * self.samples, *self.out_size]

    @property
    def mask_shape(self) -> list[int]:
        return [self.batch, self.offset_group * self.samples, *self.out_size]


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The numbers that the exporter wrote into every shape."""

    batch: int
    group: int
    channels: int
    samples: int
    height: int
    width: int

    def each(self, *middle: int) -> list[int]:
        return [self.batch, self.group, *middle, self.height, self.width]


@dataclass(frozen=True, slots=True)
class _Corner:
    """One of the four products: which corner, of which padded input, at which positions."""

    down: bool
    right: bool
    padded: str
    padded_shape: tuple[int, ...]
    position: str


def find_deforms(graph: Graph) -> list[Deform]:
    """Every lowered convolution whose inner tensors nobody else takes."""
    found = []
    for index, node in enumerate(graph.nodes):
        if is_op(node, "Conv"):
            try:
                found.append(_read_deform(graph, index))
            except (Mismatch, ValueError, IndexError):  # a node with too few inputs, too
                continue
    while True:
        inside = frozenset[int]().union(*(deform.nodes for deform in found))
        closed = [deform for deform in found if _is_closed(graph, deform, inside)]
        if len(closed) == len(found):
            return found
        found = closed


def _is_closed(graph: Graph, deform: Deform, inside: frozenset[int]) -> bool:
    """Whether all that leaves is the result; convolutions of one input may share their nodes."""
    for index in deform.nodes - {deform.conv}:
        (name,) = graph.nodes[index].output
        if name in graph.outputs or not graph.takers[name] <= inside:
            return False
    return True


def _read_deform(graph: Graph, conv: int) -> Deform:
    node, walk = graph.nodes[conv], Walk(graph)
    group, kernel = _read_conv(node)
    tiles, (batch, channels, height, width), axes = _read_tiles(walk, node.input[0], kernel)
    summed, mask, offset_group = _read_mask(walk, tiles)
    corners = walk.up(summed, "Sum")
    offset_group = offset_group or _groups(walk, corners[0])
    need(channels % offset_group == 0, "the groups do not share the channels evenly")
    deep, samples = channels // offset_group, kernel[0] * kernel[1]
    sizes = _Sizes(batch, offset_group, deep, samples, height, width)
    if mask:
        mask, _ = walk.reshape(mask, sizes.each(1, sizes.samples))
    corner = _read_corners(walk, corners, sizes=sizes, axes=axes)
    data, padding = _read_padding(walk, corner)
    axes[graph.makers[corner.padded]] = 2
    in_size = (corner.padded_shape[3] - 2 * padding[0], corner.padded_shape[4] - 2 * padding[1])
    need(min(in_size) > 0, "there is nothing between the padding")
    offset, grid = _read_grid(walk, corner.position, sizes=sizes, kernel=kernel)
    down, across = (
        _read_axis(grid[axis], axis=axis, padding=padding[axis], size=in_size[axis])
        for axis in (_Y, _X)
    )
    deform = Deform(
        conv=conv,
        nodes=frozenset(walk.nodes | {conv}),
        channel_axes=axes,
        data=data,
        offset=offset,
        mask=mask,
        weight=node.input[1],
        bias=node.input[2] if len(node.input) > 2 else "",
        output=node.output[0],
        batch=batch,
        channels=channels,
        group=group,
        offset_group=offset_group,
        kernel=kernel,
        strides=(down.stride, across.stride),
        pads=(down.pad, across.pad),
        dilations=(down.dilation, across.dilation),
        in_size=in_size,
        out_size=(height, width),
    )
    _check_ends(graph, deform)
    return deform


def _read_tiles(
    walk: Walk, name: str, kernel: tuple[int, int]
) -> tuple[str, tuple[int, int, int, int], dict[int, int]]:
    """The samples before they were laid out as tiles, the result's sizes, the Reshapes so far."""
    makers = walk.graph.makers
    flat, _ = walk.reshape(name)
    unrolled = walk.up(flat, "Transpose", perm=_UNROLL)[0]
    tiles, six = walk.reshape(unrolled)
    need(len(six) == 6 and six[2:4] == list(kernel), "the tiles are not the kernel's")
    batch, channels, _, _, height, width = six
    walk.reshape(name, [batch, channels, height * kernel[0], width * kernel[1]])
    return tiles, (batch, channels, height, width), {makers[name]: 1, makers[unrolled]: 1}


def _read_conv(node: NodeProto) -> tuple[int, tuple[int, int]]:
    """Groups and kernel of a Conv that steps by its own kernel, unpadded and undilated."""
    found = attributes(node)
    kernel, group = found.get("kernel_shape"), found["group"]
    if not isinstance(kernel, list) or not isinstance(group, int) or len(kernel) != 2:
        raise Mismatch("not a convolution of pictures")
    tiled = {"auto_pad": "NOTSET", "pads": [0] * 4, "dilations": [1, 1], "strides": kernel}
    plain = {"pads": [0] * 4, "dilations": [1, 1], "strides": [1, 1]}
    rest = {key: value for key, value in found.items() if key not in ("kernel_shape", "group")}
    need({**plain, **rest} == tiled, "it does not step by its kernel")
    return group, (kernel[0], kernel[1])


def _read_mask(walk: Walk, tiles: str) -> tuple[str, str, int]:
    """The sum of the corners, and the mask with its number of groups where there is one."""
    if walk.graph.op_above(tiles) == "Sum":
        return tiles, "", 0
    first, second = walk.up(tiles, "Mul")
    if walk.graph.op_above(first) != "Sum":
        first, second = second, first
    _, dims = walk.reshape(second)
    return first, second, dims[1]


def _groups(walk: Walk, product: str) -> int:
    """The number of offset groups, which without a mask only the corners tell."""
    _, dims = walk.reshape(walk.up(product, "Mul")[0])
    return dims[1]


def _read_corners(
    walk: Walk, products: list[str], *, sizes: _Sizes, axes: dict[int, int]
) -> _Corner:
    """All four corners, each once, of one input at one set of positions."""
    corners = [_read_corner(walk, product, sizes=sizes, axes=axes) for product in products]
    kinds = sorted((corner.down, corner.right) for corner in corners)
    need(kinds == [(False, False), (False, True), (True, False), (True, True)], "not four corners")
    sources = {(corner.padded, corner.padded_shape, corner.position) for corner in corners}
    need(len(sources) == 1, "the corners are not of one picture")
    return corners[0]


def _read_corner(walk: Walk, product: str, *, sizes: _Sizes, axes: dict[int, int]) -> _Corner:
    graph = walk.graph
    weight, value = walk.up(product, "Mul")
    weight_source, _ = walk.reshape(weight)
    if graph.op_above(weight_source) != "Mul":
        weight, value = value, weight
    share, _ = walk.reshape(weight, sizes.each(1, sizes.samples))
    fetched, _ = walk.reshape(value, sizes.each(sizes.channels, sizes.samples))
    axes[graph.makers[value]] = 2
    gathered = walk.up(fetched, "Transpose", perm=[0, 1, 3, 2])[0]
    if graph.op_above(gathered) == "Reshape":  # the exporter's patch for an old OpenVINO
        axes[graph.makers[gathered]] = 3
        places = sizes.samples * sizes.height * sizes.width
        gathered, _ = walk.reshape(gathered, [sizes.batch, sizes.group, places, sizes.channels])
    picture, index = walk.up(gathered, "GatherND", batch_dims=2)
    padded = walk.up(picture, "Transpose", perm=[0, 1, 3, 4, 2])[0]
    _, shape = walk.reshape(padded)
    need(shape[:3] == [sizes.batch, sizes.group, sizes.channels], "the input has other channels")
    need(len(shape) == 5, "the input is not a picture")
    rows, columns = walk.up(index, "Concat", axis=3)
    down, position = _read_index(walk, rows, axis=_Y, limit=shape[3], sizes=sizes)
    right, same = _read_index(walk, columns, axis=_X, limit=shape[4], sizes=sizes)
    need(same == position, "rows and columns come from different positions")
    need(_read_share(walk, share, position) == (down, right), "a corner has another's weight")
    return _Corner(down, right, padded, tuple(shape), position)


def _read_index(walk: Walk, name: str, *, axis: int, limit: int, sizes: _Sizes) -> tuple[bool, str]:
    """Whether the index is the neighbour behind the floor, and the positions it comes from."""
    places = sizes.samples * sizes.height * sizes.width
    clipped, _ = walk.reshape(name, [sizes.batch, sizes.group, places, 1])
    whole, lowest, highest = walk.up(clipped, "Clip")
    bounds = [*walk.graph.ints(lowest), *walk.graph.ints(highest)]
    need(bounds == [0, limit - 1], f"rows or columns are clipped to {bounds}")
    behind = walk.graph.op_above(whole) == "Add"
    if behind:
        whole, one = walk.with_constant(whole, "Add")
        need(one.dtype == np.int64 and one.size == 1 and int(one.reshape(-1)[0]) == 1, "not + 1")
    both = _read_half(walk, whole, axis)
    floor = walk.up(both, "Cast", to=TensorProto.INT64)[0]
    return behind, walk.up(floor, "Floor")[0]


def _read_share(walk: Walk, name: str, position: str) -> tuple[bool, bool]:
    """Which corner a bilinear weight belongs to: the fraction itself weighs the one behind."""
    found = {}
    for factor in walk.up(name, "Mul"):
        behind, part = walk.graph.op_above(factor) == "Slice", factor
        if not behind:
            one, part = walk.up(factor, "Sub")
            value = walk.graph.constant(one)
            need(value.size == 1 and float(value.reshape(-1)[0]) == 1.0, "not 1 - fraction")
        axis = _Y if _starts(walk, part) == [0] else _X
        fraction = _read_half(walk, part, axis)
        whole, floor = walk.up(fraction, "Sub")
        need(whole == position, "the fraction is of other positions")
        need(walk.up(floor, "Floor") == [position], "the fraction is not above the floor")
        found[axis] = behind
    need(len(found) == 2, "a weight of one direction only")
    return found[_Y], found[_X]


def _starts(walk: Walk, name: str) -> list[int]:
    return walk.graph.ints(walk.up(name, "Slice")[1])


def _read_half(walk: Walk, name: str, axis: int) -> str:
    """The source of a Slice that takes only y or only x."""
    source, *parts = walk.up(name, "Slice")
    found = [walk.graph.ints(part) for part in parts]
    need(found in ([[axis], [axis + 1], [3]], [[axis], [axis + 1], [3], [1]]), "another slice")
    return source


def _read_padding(walk: Walk, corner: _Corner) -> tuple[str, tuple[int, int]]:
    """The input before padding. A margin of zeros is what clipped positions rely on."""
    source, _ = walk.reshape(corner.padded)
    data, *rest = walk.up(source, "Pad")
    pads = walk.graph.ints(rest[0])
    need(len(pads) == 8, "padding of something else than pictures")
    padding = (pads[2], pads[3])
    need(pads == [0, 0, *padding] * 2 and min(padding) >= 1, f"padding of {pads}")
    if len(rest) > 1 and rest[1]:
        need(not walk.graph.constant(rest[1]).any(), "padding with something else than zero")
    need(not any(rest[2:]), "padding of chosen axes")
    return data, padding


def _read_grid(
    walk: Walk, position: str, *, sizes: _Sizes, kernel: tuple[int, int]
) -> tuple[str, Array]:
    """The offsets, and the rows and columns that each tap looks at without them."""
    offset, grid = walk.with_constant(position, "Add")
    offset, _ = walk.reshape(offset, sizes.each(sizes.samples, 2))
    need(grid.dtype == np.float32, "the grid is not float32")
    shape = (1, 1, sizes.samples, 2, sizes.height, sizes.width)
    need(grid.shape == shape, "the grid has another shape")
    apart = grid[0, 0].swapaxes(0, 1)
    return offset, apart.reshape(2, *kernel, sizes.height, sizes.width)


@dataclass(frozen=True, slots=True)
class _Way:
    stride: int
    dilation: int
    pad: int


def _read_axis(grid: Array, *, axis: int, padding: int, size: int) -> _Way:
    """Stride, dilation and padding along one axis, such that they make exactly this grid."""
    line = np.moveaxis(grid, (axis, 2 + axis), (0, 1))[:, :, 0, 0].astype(np.float64)
    taps, places = line.shape
    origin = float(line[0, 0])
    dilation = float(line[1, 0] - origin) if taps > 1 else 1.0
    pad = padding - origin
    free = size + 2 * pad - dilation * (taps - 1) - 1
    stride = float(line[0, 1] - origin) if places > 1 else max(free + 1, 1.0)
    whole = all(number.is_integer() for number in (origin, dilation, stride))
    need(whole and dilation >= 1 and stride >= 1 and pad >= 0, "the grid is not regular")
    expected = origin + dilation * np.arange(taps)[:, None] + stride * np.arange(places)
    ahead = np.moveaxis(grid, (axis, 2 + axis), (0, 1))
    need(bool((ahead == expected[:, :, None, None]).all()), "the grid is not regular")
    need(free >= 0 and free // stride + 1 == places, "the native operator gives another size")
    return _Way(int(stride), int(dilation), int(pad))


def _check_ends(graph: Graph, deform: Deform) -> None:
    """What enters and weighs must be of the sizes that the inner shapes speak of."""
    need(graph.may_have_shape(deform.data, deform.data_shape), "the input has another shape")
    weight = graph.shape(deform.weight)
    if weight is None or len(weight) != 4 or None in weight:
        raise Mismatch("the weight's shape is not known")
    need(weight[2:] == deform.kernel, "the weight has another kernel")
    need(deform.channels % deform.group == 0, "the groups do not share the channels evenly")
    need(weight[1] == deform.channels // deform.group, "the weight has other channels")


def write_native(graph: Graph, deform: Deform, *, into: Writing, split_rows: bool) -> None:
    """The same convolution as one node, or one for each kernel row, summed."""
    offset = _in_shape(graph, deform.offset, deform.offset_shape, into=into)
    mask = deform.mask and _in_shape(graph, deform.mask, deform.mask_shape, into=into)
    spare = _spare_rows(deform) if split_rows else None
    if spare is None or graph.tensor(deform.weight) is None:
        names = [deform.data, deform.weight, offset, deform.bias, mask]
        pads = deform.pads * 2
        _add(deform, names, deform.output, kernel=deform.kernel, pads=pads, into=into)
    else:
        _write_rows(graph, deform, (offset, mask), spare=spare, into=into)


def _in_shape(graph: Graph, source: str, shape: list[int], *, into: Writing) -> str:
    """The tensor itself where it is known to have the native shape, else reshaped to it."""
    if graph.shape(source) == tuple(shape):
        return source
    target = into.constant(f"{source}/native_shape", np.array(shape, np.int64))
    return into.node("Reshape", [source, target], into.fresh(f"{source}/native"))


def _add(  # noqa: PLR0913  # all of one node
    deform: Deform,
    names: list[str],
    output: str,
    *,
    kernel: tuple[int, int],
    pads: tuple[int, ...],
    into: Writing,
) -> str:
    while not names[-1]:
        names = names[:-1]
    return into.node(
        "DeformConv",
        names,
        output,
        kernel_shape=kernel,
        strides=deform.strides,
        pads=pads,
        dilations=deform.dilations,
        group=deform.group,
        offset_group=deform.offset_group,
    )


def _spare_rows(deform: Deform) -> int | None:
    """The padding rows that a kernel of one row needs for as many output rows; None: no split."""
    if deform.kernel != _ROW_SPLIT_KERNEL or deform.offset_group != 1:
        return None
    spare = 2 * deform.pads[0] - deform.dilations[0] * (deform.kernel[0] - 1)
    return spare if spare >= 0 else None


def _write_rows(
    graph: Graph, deform: Deform, moves: tuple[str, str], *, spare: int, into: Writing
) -> None:
    """One DeformConv for each kernel row; the row's place in the kernel goes into its offsets."""
    (rows, columns), stem, top = deform.kernel, deform.output, spare // 2
    pads = (top, deform.pads[1], spare - top, deform.pads[1])
    offsets, masks = (_split(source, rows, stem=stem, into=into) for source in moves)
    weight = graph.constant(deform.weight)
    total = ""
    for row in range(rows):
        down = np.zeros((1, 2 * columns, 1, 1), np.float32)
        down[:, 0::2] = top - deform.pads[0] + row * deform.dilations[0]
        shift = into.constant(f"{stem}/shift_{row}", down)
        moved = into.node("Add", [offsets[row], shift], into.fresh(f"{stem}/moved_{row}"))
        part = into.constant(f"{stem}/weight_{row}", weight[:, :, row : row + 1])
        names = [deform.data, part, moved, "" if row else deform.bias, masks[row]]
        piece = into.fresh(f"{stem}/row_{row}")
        _add(deform, names, piece, kernel=(1, columns), pads=pads, into=into)
        if row:
            target = stem if row == rows - 1 else into.fresh(f"{stem}/sum_{row}")
            total = into.node("Add", [total, piece], target)
        else:
            total = piece


def _split(source: str, parts: int, *, stem: str, into: Writing) -> list[str]:
    """The tensor in equal parts of its channels; as many empty names where there is no tensor."""
    if not source:
        return [""] * parts
    outputs = [into.fresh(f"{source}/row_{part}") for part in range(parts)]
    label = into.fresh(f"{stem}/Split")
    into.nodes.append(
        helper.make_node("Split", [source], outputs, name=label, axis=1, num_outputs=parts)
    )
    return outputs
