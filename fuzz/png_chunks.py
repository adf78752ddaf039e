"""Mutates a PNG between its chunks' frames: lengths and checksums are right again afterwards.

Plain mutations break a checksum before anything else, and the pixels behind it are never reached.
"""

import random
import struct
import zlib
from collections.abc import Callable
from typing import TypeAlias

from fuzz.target import Mutate

SIGNATURE = b"\x89PNG\r\n\x1a\n"
Chunk: TypeAlias = tuple[bytes, bytes]
"""Type and content."""

_MOST_UNPACKED = 1 << 20
_KINDS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"tEXt")


def mutate_png(data: bytes, longest: int, seed: int, mutate: Mutate) -> bytes:
    """One step from a PNG to another; what is none, and one time in eight, as the engine does."""
    chance = random.Random(seed)  # noqa: S311  # the engine's seed makes a run repeatable
    chunks = split(data)
    if not chunks or chance.randrange(8) == 0:
        return mutate(data, longest)
    chance.choice(_STEPS)(chunks, chance, mutate)
    return join(chunks)[:longest]


def split(data: bytes) -> list[Chunk]:
    """The chunks of a PNG, the last one as long as the file lets it; none of anything else."""
    if not data.startswith(SIGNATURE):
        return []
    chunks, at = [], len(SIGNATURE)
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def join(chunks: list[Chunk]) -> bytes:
    return SIGNATURE + b"".join(framed(kind, content) for kind, content in chunks)


def framed(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def _change_content(chunks: list[Chunk], chance: random.Random, mutate: Mutate) -> None:
    at = chance.randrange(len(chunks))
    kind, content = chunks[at]
    chunks[at] = kind, mutate(content or b"\0", len(content) + 64)


def _change_pixels(chunks: list[Chunk], chance: random.Random, mutate: Mutate) -> None:
    """The filtered rows inside the deflate stream, deflated anew into one chunk."""
    held = [content for kind, content in chunks if kind == b"IDAT"]
    try:
        rows = zlib.decompressobj().decompress(b"".join(held), _MOST_UNPACKED)
    except zlib.error:
        rows = b""
    if not rows:
        _change_content(chunks, chance, mutate)
        return
    first = next(at for at, (kind, _) in enumerate(chunks) if kind == b"IDAT")
    packed = zlib.compress(mutate(rows, len(rows) + 64), chance.randrange(10))
    chunks[:] = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    chunks.insert(first, (b"IDAT", packed))


def _change_header(chunks: list[Chunk], chance: random.Random, _: Mutate) -> None:
    """A small size, and any depth, colour type and interlacing."""
    width, height = chance.randrange(70), chance.randrange(70)
    depth, colour = chance.choice((1, 2, 4, 8, 16, 3)), chance.choice((0, 2, 3, 4, 6, 1))
    laced = chance.randrange(2)
    chunks[0] = b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, laced)


def _rename(chunks: list[Chunk], chance: random.Random, _: Mutate) -> None:
    at = chance.randrange(len(chunks))
    chunks[at] = chance.choice(_KINDS), chunks[at][1]


def _repeat(chunks: list[Chunk], chance: random.Random, _: Mutate) -> None:
    chunks.insert(chance.randrange(len(chunks) + 1), chance.choice(chunks))


def _leave_out(chunks: list[Chunk], chance: random.Random, _: Mutate) -> None:
    if len(chunks) > 1:
        del chunks[chance.randrange(len(chunks))]


def _cut_in_two(chunks: list[Chunk], chance: random.Random, _: Mutate) -> None:
    at = chance.randrange(len(chunks))
    kind, content = chunks[at]
    middle = chance.randrange(len(content) + 1)
    chunks[at : at + 1] = [(kind, content[:middle]), (kind, content[middle:])]


_STEPS: tuple[Callable[[list[Chunk], random.Random, Mutate], None], ...] = (
    *(_change_content, _change_content, _change_pixels, _change_pixels),
    *(_change_header, _rename, _repeat, _leave_out, _cut_in_two),
)
