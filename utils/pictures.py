"""The words for a picture file: what its header says, and why it cannot become pixels."""

import mmap
from dataclasses import dataclass
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
FileBytes: TypeAlias = mmap.mmap | bytes


class PictureError(Exception):
    """A file that cannot become pixels; `format` is its format where that is known."""

    def __init__(self, reason: str, *, format: str | None = None) -> None:  # noqa: A002 - Pillow's word
        super().__init__(reason)
        self.format = format


class UnknownFormat(PictureError):
    """The signature is none of ours, or the format's decoder is not installed."""


class CorruptPicture(PictureError):
    """The format is known, the content breaks its rules."""


class CutShort(PictureError):
    """The file ends before the picture does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of itself before a pixel is decoded.

    `width` and `height` are as stored (before `orientation`, EXIF's 1 to 8; 0 where only the
    reader knows it). `complete` tells whether the container reaches its end marker. `spans` are the
    (start, stop) byte ranges that make pixels, None for the whole file. `depth` is bits a sample
    where it is known, `inverted` says that 16-bit and float samples count from white.
    `largest_buffer` is the pixels a reader will hold at once (a TIFF's tile may exceed its image).

    `by_rows` says that a row reader (`utils/rows.py`) understands the file; `held_bytes` is what
    the decoder then keeps in memory all the same, 0 where rows come out as they are read.
    `may_have_alpha` is False where the file says that it has none.
    """

    format: str
    width: int
    height: int
    complete: bool
    orientation: int = 1
    depth: int = 8
    inverted: bool = False
    spans: tuple[Span, ...] | None = None
    icc: bytes | None = None
    largest_buffer: int = 0
    by_rows: bool = False
    held_bytes: int = 0
    may_have_alpha: bool = True

    @property
    def pixels(self) -> int:
        """The number that a pixel limit judges."""
        return max(self.width * self.height, self.largest_buffer)
