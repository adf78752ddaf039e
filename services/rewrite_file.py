"""A network's file opened without its weights, and written again around them.

A released file is one protobuf message of up to a gigabyte. Parsed and serialised by onnx it takes
four times its size; its graph alone takes a few megabytes. So the message's own framing is followed
here: big tensors stay in the file and are known by their place in it (onnx's external data, with
the file itself as the place), and writing copies them from there. Tensors in other places than the
file itself are refused.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from services.rewrite_graph import Array

_STAYS_FROM_BYTES = 1 << 16
_LARGEST_BYTES = (1 << 31) - 1  # protobuf's own limit
_COPY_BYTES = 1 << 22

# Field numbers of onnx.proto and the two kinds of framing met on the way
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
_BYTES = 2
_VARINT_BYTES = 10
_FIXED_SIZES = {1: 8, 5: 4}


class BadModelFile(Exception):
    """Not an ONNX file that can be rewritten; the message says why."""


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message: its number, framing and places in the file."""

    number: int
    wire: int
    start: int
    payload: int
    end: int


class ModelFile:
    """An ONNX file as a model whose big weights stay where they are. A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.ExitStack() as opened:
            self._file = opened.enter_context(path.open("rb"))
            try:
                self.model = self._read_model()
            except DecodeError as error:
                raise BadModelFile(f"{path} is not an ONNX file") from error
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def values(self, tensor: TensorProto) -> Array:
        """A tensor's values, from the file where they stayed there."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(tensor)
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        data = self._read(*_place(tensor))
        return np.frombuffer(data, kind).reshape(tuple(tensor.dims))

    def write(self, model: ModelProto, file: IO[bytes]) -> None:
        """Writes a model, made from this one, as one file with its weights inside."""
        graph = GraphProto()
        graph.CopyFrom(model.graph)
        del graph.initializer[:]
        rest = graph.SerializeToString()
        heads = [(_framed_head(tensor), tensor) for tensor in model.graph.initializer]
        sizes = [len(head) + _stayed_bytes(tensor) for head, tensor in heads]
        framed = sum(len(_tag(_GRAPH_INITIALIZER, size)) + size for size in sizes)
        around = ModelProto()
        around.CopyFrom(model)
        around.ClearField("graph")
        opening = around.SerializeToString() + _tag(_MODEL_GRAPH, len(rest) + framed) + rest
        if len(opening) + framed > _LARGEST_BYTES:
            raise BadModelFile("the rewritten network is larger than an ONNX file can be")
        file.write(opening)
        for (head, tensor), size in zip(heads, sizes, strict=True):
            file.write(_tag(_GRAPH_INITIALIZER, size) + head)
            self._copy(tensor, file)

    def _copy(self, tensor: TensorProto, file: IO[bytes]) -> None:
        if tensor.data_location == TensorProto.EXTERNAL:
            start, length = _place(tensor)
            for here in range(start, start + length, _COPY_BYTES):
                file.write(self._read(here, min(_COPY_BYTES, start + length - here)))

    def _read_model(self) -> ModelProto:
        model, graph = ModelProto(), GraphProto()
        for outer in self._fields(0, os.fstat(self._file.fileno()).st_size):
            if outer.number != _MODEL_GRAPH:
                model.MergeFromString(self._bytes(outer))
                continue
            for inner in self._fields(outer.payload, outer.end):
                if inner.number == _GRAPH_INITIALIZER:
                    graph.initializer.append(self._read_tensor(inner))
                else:
                    graph.MergeFromString(self._bytes(inner))
        model.graph.CopyFrom(graph)
        return model

    def _read_tensor(self, place: _Field) -> TensorProto:
        tensor, stays = TensorProto(), None
        for part in self._fields(place.payload, place.end):
            if part.number == _TENSOR_RAW_DATA and part.end - part.payload >= _STAYS_FROM_BYTES:
                stays = part
            else:
                tensor.MergeFromString(self._bytes(part))
        if tensor.data_location == TensorProto.EXTERNAL:
            raise BadModelFile(f"the weights of {self.path} lie in another file")
        if stays is not None:
            tensor.data_location = TensorProto.EXTERNAL
            length = stays.end - stays.payload
            for key, value in (
                ("location", self.path.name),
                ("offset", str(stays.payload)),
                ("length", str(length)),
            ):
                tensor.external_data.add(key=key, value=value)
        return tensor

    def _fields(self, start: int, end: int) -> Iterator[_Field]:
        here = start
        while here < end:
            key, payload = self._varint(here)
            number, wire = key >> 3, key & 7
            if wire == _BYTES:
                length, payload = self._varint(payload)
                stop = payload + length
            elif wire == 0:
                _, stop = self._varint(payload)
            elif wire in _FIXED_SIZES:
                stop = payload + _FIXED_SIZES[wire]
            else:
                raise BadModelFile(f"{self.path} is not an ONNX file")
            if number == 0 or stop > end:
                raise BadModelFile(f"{self.path} is not a whole ONNX file")
            yield _Field(number, wire, here, payload, stop)
            here = stop

    def _varint(self, here: int) -> tuple[int, int]:
        """A number in groups of seven bits, the lowest first, and the place behind it."""
        value = 0
        for count, byte in enumerate(self._read(here, _VARINT_BYTES)):
            value |= (byte & 0x7F) << 7 * count
            if byte < 0x80:
                return value, here + count + 1
        raise BadModelFile(f"{self.path} is not a whole ONNX file")

    def _bytes(self, place: _Field) -> bytes:
        return self._read(place.start, place.end - place.start)

    def _read(self, start: int, length: int) -> bytes:
        """Bytes by reading: pages of a mapping would count as ours for as long as it stands."""
        self._file.seek(start)
        return self._file.read(length)


def _place(tensor: TensorProto) -> tuple[int, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return int(entries["offset"]), int(entries["length"])


def _stayed_bytes(tensor: TensorProto) -> int:
    return _place(tensor)[1] if tensor.data_location == TensorProto.EXTERNAL else 0


def _framed_head(tensor: TensorProto) -> bytes:
    """A tensor's message up to its weights, where these stay; else all of it."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return bytes(tensor.SerializeToString())
    head = TensorProto()
    head.CopyFrom(tensor)
    head.ClearField("external_data")
    head.ClearField("data_location")
    return bytes(head.SerializeToString()) + _tag(_TENSOR_RAW_DATA, _place(tensor)[1])


def _tag(number: int, length: int) -> bytes:
    return _varint_bytes(number << 3 | _BYTES) + _varint_bytes(length)


def _varint_bytes(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
