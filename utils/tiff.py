"""Walks TIFF 6.0 and BigTIFF directories: a file's header, and an EXIF block, which is a TIFF too.

Offsets are taken from hostile files: whatever lies beyond the end raises IndexError, and a field
that holds no whole numbers KeyError, which a caller tells apart as cut short and corrupt.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from utils.pictures import CorruptPicture, FileBytes, Header


def walk_tiff(file: FileBytes) -> Header:
    """The first page's fields; every page must lie within the file."""
    tiff = _Tiff.of(file)
    page = tiff.first_page()
    page.check_counts()
    return Header(
        format="TIFF",
        orientation=_known_orientation(page.number(0x112, default=1)),
        width=page.number(0x100, default=0),
        height=page.number(0x101, default=0),
        complete=page.is_whole() and _are_whole(tiff, at=page.next_at),
        depth=page.number(0x102, default=1),
        inverted=page.number(0x106, default=1) == 0,
        largest_buffer=page.number(0x142, default=0) * page.number(0x143, default=0),
        by_rows=_is_plain(page),
        held_bytes=_held_bytes(page),
    )


def _is_plain(page: "_Page") -> bool:
    """Grey or RGB in 8 or 16 bits, one plane, alpha straight if any: read alike by everybody."""
    bits, extra = page.numbers(0x102), page.numbers(0x152)
    channels = {1: 1, 2: 3}.get(page.number(0x106, default=0), 0)
    return (
        page.number(0x103, default=1) in _PLAIN_COMPRESSIONS
        and page.number(0x11C, default=1) == 1
        and page.number(0x153, default=1) == 1
        and set(bits.tolist()) in ({8}, {16})
        and channels > 0
        and page.number(0x115, default=1) == channels + len(extra)
        and extra.tolist() in ([], [2])
    )


def _held_bytes(page: "_Page") -> int:
    """A compressed strip or a row of tiles, unpacked; libtiff reads bare strips piecemeal."""
    tile_rows, height = page.number(0x143, default=0), page.number(0x101, default=0)
    if tile_rows == 0 and page.number(0x103, default=1) == 1:
        return 0
    rows = tile_rows or min(page.number(0x116, default=height), height)
    width = max(page.number(0x100, default=0), page.number(0x142, default=0))
    pixel_bytes = page.number(0x115, default=1) * page.number(0x102, default=1) // 8
    return rows * width * pixel_bytes


def exif_orientation(exif: bytes) -> int:
    """EXIF tag 0x0112 of an EXIF block (with or without its `Exif` prefix), 1 where unreadable."""
    try:
        page = _Tiff.of(exif.removeprefix(b"Exif\0\0")).first_page()
        return _known_orientation(page.number(0x112, default=1))
    except (LookupError, CorruptPicture):
        return 1


def _known_orientation(value: int) -> int:
    return value if 1 <= value <= 8 else 1


def _are_whole(tiff: "_Tiff", *, at: int) -> bool:
    """Whether the pages from an offset on lie within the file; a chain that loops ends there.

    Raises CorruptPicture where all pages together have more fields or values than real ones: pages
    may lie over one another, so that a small file can hold work for hours.
    """
    seen: set[int] = set()
    fields = values = 0
    while at and at not in seen:
        seen.add(at)
        try:
            page = tiff.page(at)
        except IndexError:
            return False
        fields += page.entries
        values += page.count_of_ranges()
        if len(seen) >= _MOST_PAGES or fields > _MOST_FIELDS_IN_ALL or values > _MOST_VALUES:
            raise CorruptPicture("the TIFF has too many pages")
        if not page.is_whole():
            return False
        at = page.next_at
    return True


@dataclass(frozen=True, slots=True)
class _Tiff:
    """A file and how it counts: its byte order, and offsets of 4 bytes or BigTIFF's 8."""

    content: FileBytes
    order: Literal["little", "big"]
    offset_bytes: int

    @classmethod
    def of(cls, content: FileBytes) -> "_Tiff":
        offset_bytes = 8 if b"+" in content[2:4] else 4
        if content[:2] == b"II":
            return cls(content, "little", offset_bytes)
        if content[:2] == b"MM":
            return cls(content, "big", offset_bytes)
        raise CorruptPicture("no TIFF byte order")

    def first_page(self) -> "_Page":
        return self.page(self.offset(self.offset_bytes))

    def page(self, at: int) -> "_Page":
        """The directory at an offset."""
        count_bytes = 8 if self.offset_bytes == 8 else 2
        count = self.whole(at, size=count_bytes)
        if count > _MOST_FIELDS:
            raise CorruptPicture("the TIFF directory is too long")
        entry_bytes = 4 + 2 * self.offset_bytes
        first = at + count_bytes
        after = first + count * entry_bytes
        entries = range(first, after, entry_bytes)
        fields = {self.whole(entry, size=2): self.field(entry) for entry in entries}
        return _Page(self, fields, self.offset(after), count)

    def field(self, at: int) -> "_Field":
        """The field whose entry is there: short values lie in the entry, others elsewhere."""
        kind = self.whole(at + 2, size=2)
        count = self.offset(at + 4)
        value_at = at + 4 + self.offset_bytes
        value_bytes = count * _VALUE_BYTES.get(kind, 1)
        if value_bytes > self.offset_bytes:
            value_at = self.offset(value_at)
        return _Field(kind, count, value_at, value_at + value_bytes)

    def offset(self, at: int) -> int:
        return self.whole(at, size=self.offset_bytes)

    def whole(self, at: int, *, size: int) -> int:
        """The unsigned number of `size` bytes."""
        if at + size > len(self.content):
            raise IndexError("the TIFF directory lies beyond the file")
        return int.from_bytes(self.content[at : at + size], self.order)


@dataclass(frozen=True, slots=True)
class _Field:
    """Where a field's values lie, their TIFF type and number."""

    kind: int
    count: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Page:
    """A directory: its fields by tag, where the next one lies (0: nowhere), entries it has."""

    tiff: _Tiff
    fields: dict[int, _Field]
    next_at: int
    entries: int

    def check_counts(self) -> None:
        """Raises CorruptPicture for more values than a reader should make numbers of."""
        for tag, field in self.fields.items():
            if field.count > _MOST_VALUES and (tag <= _LAST_TAG_READ or field.kind in _NUMBERS):
                raise CorruptPicture("a TIFF field has too many values")

    def count_of_ranges(self) -> int:
        """How many strips and tiles there are, and whatever else tells where bytes lie."""
        tags = (tag for pair in _PIXEL_RANGES for tag in pair)
        return sum(self.fields[tag].count for tag in tags if tag in self.fields)

    def is_whole(self) -> bool:
        """Whether every field's value and every strip or tile lies within the file."""
        size = len(self.tiff.content)
        if any(field.stop > size for field in self.fields.values()):
            return False
        return all(self._ends(*tags) <= size for tags in _PIXEL_RANGES)

    def _ends(self, offsets: int, counts: int) -> int:
        """Where the last of the ranges ends that two tags describe."""
        ends = self.numbers(offsets)
        if ends.size and counts in self.fields:
            lengths = self.numbers(counts)
            ends = ends[: len(lengths)] + lengths[: len(ends)]
        return int(ends.max(initial=0))

    def number(self, tag: int, *, default: int) -> int:
        held = self.numbers(tag)
        return int(held[0]) if held.size else default

    def numbers(self, tag: int) -> NDArray[np.uint64]:
        """A field's whole numbers, none where there is no such field."""
        if tag not in self.fields:
            return np.empty(0, np.uint64)
        field = self.fields[tag]
        if field.stop > len(self.tiff.content):
            raise IndexError("the TIFF field lies beyond the file")
        stored = np.dtype(_WHOLE_NUMBERS[field.kind]).newbyteorder(self.tiff.order)
        held = self.tiff.content[field.start : field.stop]
        return np.frombuffer(held, dtype=stored).astype(np.uint64)


# bounds on what a hostile 100 MiB file can make the walk loop over; real files stay far below
_MOST_FIELDS = 4096
_MOST_PAGES = 4096
_MOST_FIELDS_IN_ALL = 1 << 16
# strips of a print of 120 inches, one row each, in four planes: 144 000; a million values that a
# reader turns into Python's numbers take about 70 MiB
_MOST_VALUES = 1 << 18
_LAST_TAG_READ = 0x21C  # of TIFF 6.0 itself; beyond it lie profiles, EXIF and private data
_NUMBERS = {3, 4, 5, 8, 9, 10, 11, 12, 13, 16, 17, 18}

# none, LZW, Deflate (two numbers), PackBits
_PLAIN_COMPRESSIONS = (1, 5, 8, 32946, 32773)
# offsets and byte counts of strips, of tiles, of a JPEG thumbnail
_PIXEL_RANGES = ((0x111, 0x117), (0x144, 0x145), (0x201, 0x202))
# bytes a value of each type takes (1 where not named), and the types that are whole numbers
_VALUE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE_NUMBERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
