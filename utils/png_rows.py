"""Whether a PNG's compressed data holds all of its rows: Pillow makes black of what is missing."""

import struct
import zlib
from collections.abc import Iterator
from typing import IO

from utils.pictures import CutShort

_PIECE_BYTES = 1 << 16
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Adam7: first column and row of each pass, and the steps (PNG third edition, 8.2)
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


def check_rows(file: IO[bytes]) -> None:
    """Unpacks everything once and keeps nothing. Raises CutShort, or zlib.error."""
    file.seek(16)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", file.read(13))
    left = _packed_bytes(width, height, depth * _CHANNELS[colour], interlaced=bool(interlaced))
    unpacker = zlib.decompressobj()
    for piece in _idat(file):
        while piece and left > 0:
            left -= len(unpacker.decompress(piece, 1 << 20))
            piece = unpacker.unconsumed_tail  # noqa: PLW2901  # what it left of the same piece
    if left > 0:
        raise CutShort("the PNG ends before its last row", format="PNG")


def _packed_bytes(width: int, height: int, bits: int, *, interlaced: bool) -> int:
    """Of all rows with their filter's byte, before deflate; `bits` is of a pixel."""
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [
        (-((left - width) // right), -((top - height) // down)) for left, top, right, down in passes
    ]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0)


def _idat(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(8)
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        if kind != b"IDAT":
            file.seek(size + 4, 1)
            continue
        for at in range(0, size, _PIECE_BYTES):
            yield file.read(min(_PIECE_BYTES, size - at))
        file.seek(4, 1)
