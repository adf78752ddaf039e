"""Writes 8-bit TIFF, or BigTIFF where 4 GiB may not do, from strips deflated one by one.

The directory comes last and the header is written over at the end, so this needs a file that can
seek; the strips may have been made on any thread.

Format: TIFF 6.0, Adobe's technical notes (Deflate, extra samples), the BigTIFF design of libtiff.
"""

import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import BinaryIO

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import ImageCms
from zlib_ng import zlib_ng

from utils.png import Compression

CLASSIC_BYTES = (1 << 32) - (1 << 24)
"""What the offsets of a classic TIFF reach, less room for its directory."""
_SHORT, _LONG, _RATIONAL, _UNDEFINED, _LONG8 = 3, 4, 5, 7, 16
_SIZES = {_SHORT: "H", _LONG: "I", _RATIONAL: "II", _UNDEFINED: "B", _LONG8: "Q"}


def deflate_strip(rows: NDArray[np.uint8], *, compression: Compression) -> bytes:
    """Rows (n, width, channels) as one strip: horizontal differences, then Deflate."""
    differences = rows.copy()
    differences[:, 1:] -= rows[:, :-1]
    if compression is Compression.SMALL:
        return zlib_ng.compress(differences, 6)
    return isal_zlib.compress(differences, 1)


class TiffWriter:
    """A one-page TIFF on `file`: add every strip in order, then `finish`.

    `channels` is 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA (alpha straight, colours sRGB). A picture
    of more than `classic_bytes` becomes a BigTIFF.
    """

    def __init__(  # noqa: PLR0913 - the fields of the directory, all but one keywords
        self,
        file: BinaryIO,
        *,
        width: int,
        height: int,
        channels: int,
        rows_per_strip: int,
        dpi: float,
        classic_bytes: int = CLASSIC_BYTES,
    ) -> None:
        self._file = file
        self._big = width * height * channels > classic_bytes
        self._offsets: list[int] = []
        self._lengths: list[int] = []
        density = Fraction(dpi).limit_denominator(1000)
        ratio = (density.numerator, density.denominator)
        grey, alpha = channels < 3, channels in (2, 4)
        self._fields: list[tuple[int, int, Sequence[int]]] = [
            (256, _LONG, [width]),
            (257, _LONG, [height]),
            (258, _SHORT, [8] * channels),
            (259, _SHORT, [8]),  # Deflate, as Adobe numbers it
            (262, _SHORT, [1 if grey else 2]),
            (277, _SHORT, [channels]),
            (278, _LONG, [rows_per_strip]),
            (282, _RATIONAL, ratio),
            (283, _RATIONAL, ratio),
            (284, _SHORT, [1]),
            (296, _SHORT, [2]),  # per inch
            (317, _SHORT, [2]),  # horizontal differences
            *([(338, _SHORT, [2])] if alpha else []),  # straight alpha
            *([] if grey else [(34675, _UNDEFINED, _srgb_profile())]),
        ]
        file.write(self._header(directory=0))

    def add(self, strip: bytes) -> None:
        self._offsets.append(self._file.tell())
        self._lengths.append(len(strip))
        self._file.write(strip + b"\0" * (len(strip) % 2))

    def finish(self) -> None:
        """Write the directory and where it is."""
        kind = _LONG8 if self._big else _LONG
        fields = [*self._fields, (273, kind, self._offsets), (279, kind, self._lengths)]
        entries = [self._entry(*field) for field in sorted(fields, key=lambda each: each[0])]
        directory = self._file.tell()
        self._file.write(self._pack("QH"[not self._big], len(entries)))
        self._file.write(b"".join(entries) + self._pack("QI"[not self._big], 0))
        self._file.seek(0)
        self._file.write(self._header(directory=directory))

    def _header(self, *, directory: int) -> bytes:
        if self._big:
            return b"II" + struct.pack("<HHHQ", 43, 8, 0, directory)
        return b"II" + struct.pack("<HI", 42, directory)

    def _entry(self, tag: int, kind: int, values: Sequence[int]) -> bytes:
        """A directory entry; what does not fit into it is written where the file ends now."""
        packed = struct.pack(f"<{len(values)}{_SIZES[kind][0]}", *values)
        room = 8 if self._big else 4
        if len(packed) > room:
            at = self._file.tell()
            self._file.write(packed + b"\0" * (len(packed) % 2))
            packed = self._pack("QI"[not self._big], at)
        count = len(values) // len(_SIZES[kind])
        return self._pack("HHQ" if self._big else "HHI", tag, kind, count) + packed.ljust(
            room, b"\0"
        )

    def _pack(self, layout: str, *values: int) -> bytes:
        return struct.pack("<" + layout, *values)


def _srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
