"""Takes a customer's file in: bytes on disk become a SourceImage, or an error that says why not."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import (
    EmptyFile,
    ImageTruncated,
    TooManyPixels,
    UnreadableImage,
    UnsupportedMediaType,
)
from models.images import SourceImage
from utils import heap
from utils.containers import read_header
from utils.image_utils import read_pixels
from utils.pictures import CutShort, Header, PictureError, UnknownFormat
from utils.spans import spanned

_PILLOW_PIXEL_BYTES = 4
_FORMATS_HINT = "Send a PNG, JPEG, WebP, TIFF, BMP or GIF."


@spanned("inspect")
def inspect(path: Path, *, max_pixels: int | None = None) -> Header:
    """The header of a whole picture; the refusals come in the order of their cost.

    Empty, unknown format, too many pixels (from the header), cut short (from the container's
    structure).
    """
    if path.stat().st_size == 0:
        raise EmptyFile("The image file is empty.")
    with refusals():
        header = read_header(path)
    if max_pixels is not None:
        _check_pixels(header, max_pixels=max_pixels)
    _check_complete(header)
    return header


def decode(path: Path, *, max_pixels: int) -> SourceImage:
    """The picture in a file, upright and in sRGB.

    CPU work: seconds for a large picture, so it belongs in the worker pool.
    """
    return read(path, inspect(path, max_pixels=max_pixels))


@spanned("decode")
def read(path: Path, header: Header) -> SourceImage:
    """The picture of a file that was inspected; CPU work as well."""
    with refusals():
        rgb, alpha = read_pixels(path, header=header)
    heap.trim_after(_PILLOW_PIXEL_BYTES * header.pixels)
    return SourceImage(rgb, alpha, header.format, path.stat().st_size, _sha256(path))


def _check_pixels(header: Header, *, max_pixels: int) -> None:
    if header.pixels > max_pixels:
        raise TooManyPixels(
            f"The image is {header.width} x {header.height} pixels, more than can be worked on.",
            limit=max_pixels,
            actual=header.pixels,
            hint="Send a smaller version of the image.",
        )


def _check_complete(header: Header) -> None:
    if not header.complete:
        raise _truncated(header.format)


def _truncated(name: str | None) -> ImageTruncated:
    return ImageTruncated(
        f"The {name or 'image'} file ends before its picture does.",
        hint="It was probably cut off in transfer; send it again.",
    )


@contextmanager
def refusals() -> Iterator[None]:
    """The imaging's exceptions as the service's."""
    try:
        yield
    except UnknownFormat as error:
        raise _unsupported(error.format) from error
    except CutShort as error:
        raise _truncated(error.format) from error
    except PictureError as error:
        raise UnreadableImage(
            f"The file is a damaged {error.format or 'image'}: {error}.",
            hint="Open it in an image editor and save it again.",
        ) from error


def _unsupported(name: str | None) -> UnsupportedMediaType:
    if name is None:
        return UnsupportedMediaType("The file is not a supported image.", hint=_FORMATS_HINT)
    return UnsupportedMediaType(f"{name} files cannot be read here.", hint=_FORMATS_HINT)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
