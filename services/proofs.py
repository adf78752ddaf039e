"""Proofs of stored cut-outs: on shirts, side by side, and the white plate under a print.

They are made of strips, as enlargements are: no cut-out is ever whole in memory.
"""

import io
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

import numpy as np
from PIL import Image

from models.images import Pixels
from models.schemas import UpscaleParameters
from services.contact_sheet import Candidate, contact_sheet
from services.garment import cloth, laid_on
from services.underbase import Plating, Underbase
from services.upscaler import Enlargement, Upscaler
from services.workers import Workers
from utils.png import Compression, EncodedBlock, PngBody, encode_rows, png_head

SHEET_SIDE = 360
"""Longest side of each picture on a contact sheet."""
_QUALITY = 90


class Proofs:
    """Makes them in the enlargements' pool; `scratch` is a folder of the request."""

    def __init__(self, upscaler: Upscaler, workers: Workers) -> None:
        self._upscaler = upscaler
        self._workers = workers

    async def worn(self, cutout: Path, garment: str, *, side: int, scratch: Path) -> bytes:
        """A WebP of the cut-out on a shirt, at most `side` pixels."""
        art = await self.small(cutout, side=side, scratch=scratch)
        return await self._workers.strips(_worn, art, garment)

    async def sheet(
        self, cutouts: Sequence[tuple[str, Path]], garments: Sequence[str], *, scratch: Path
    ) -> bytes:
        """A WebP of all cut-outs, each under its label, on a checkerboard and on shirts."""
        candidates = [
            Candidate(label, await self.small(path, side=SHEET_SIDE, scratch=scratch))
            for label, path in cutouts
        ]
        return await self._workers.strips(_sheet, candidates, garments)

    async def small(self, cutout: Path, *, side: int, scratch: Path) -> Pixels:
        """The cut-out reduced so that it has at most `side` pixels, (height, width, 4)."""
        width, height = await self._workers.strips(_size_of, cutout)
        scale = min(1.0, side / max(width, height))
        folder = scratch / secrets.token_hex(4)
        folder.mkdir()
        work = await self._upscaler.open(cutout, UpscaleParameters(scale=scale), scratch=folder)
        async with aclosing(self._upscaler.rows(work)) as strips:
            parts = [part async for part, _ in strips]
        return _with_alpha(np.concatenate(parts))

    async def plate(self, work: Enlargement, how: Underbase) -> AsyncGenerator[bytes, None]:
        """The white plate of a print as a grey PNG in pieces; the first holds its first rows."""
        size, body, plating = work.size, PngBody(), _PlateRows(how)
        head = png_head(width=size.width, height=size.height, channels=1, dpi=size.dpi)
        async with aclosing(self._upscaler.rows(work)) as strips:
            async for art, _ in strips:
                blocks = await self._workers.strips(plating.add, art)
                if blocks:
                    yield head + b"".join(body.chunk(each) for each in blocks)
                    head = b""
        blocks = await self._workers.strips(plating.end)
        yield head + b"".join(body.chunk(each) for each in blocks) + body.end()


class _PlateRows:
    """A plate's rows as they become certain, encoded, with the row above that PNG refers to."""

    def __init__(self, how: Underbase) -> None:
        self._plating = Plating(how)
        self._above: Pixels | None = None

    def add(self, art: Pixels) -> list[EncodedBlock]:
        return self._encoded(self._plating.add(art))

    def end(self) -> list[EncodedBlock]:
        return self._encoded(self._plating.end())

    def _encoded(self, rows: Pixels) -> list[EncodedBlock]:
        if not len(rows):
            return []
        blocks = encode_rows(rows, channels=1, above=self._above, compression=Compression.FAST)
        self._above = rows[-1].copy()
        return blocks


def _worn(art: Pixels, garment: str) -> bytes:
    height, width = art.shape[:2]
    return _webp(Image.fromarray(laid_on(art, cloth(garment, height=height, width=width))))


def _sheet(candidates: Sequence[Candidate], garments: Sequence[str]) -> bytes:
    return _webp(contact_sheet(candidates, garments))


def _webp(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=_QUALITY)
    return out.getvalue()


def _size_of(path: Path) -> tuple[int, int]:
    with Image.open(path, formats=("PNG",)) as picture:
        return picture.size


def _with_alpha(pixels: Pixels) -> Pixels:
    if pixels.shape[2] == 4:
        return pixels
    opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    return np.concatenate((pixels, opaque), axis=2)
