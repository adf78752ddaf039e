"""Where the time of one enlargement goes, stage by stage, against what nobody could spare.

The stages are called one by one on one thread and timed in processor time, so that a busy machine
blurs them less.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from zlib_ng import zlib_ng

from bench.upscale_peers import Ours
from models.images import Pixels
from services.edge_modes import EdgeFinish
from services.intake import inspect
from services.lanczos import Strip
from services.ringing import finish_alpha
from services.upscaler import Enlargement
from utils import png
from utils.rows import each_strip, open_picture

T = TypeVar("T")

RUNS = 3


@dataclass(slots=True)
class Stages:
    """Processor time in ms, all on one thread; `limit_ms` is what no implementation can spare.

    The limit is one resize of the whole picture, and the filters and deflate with the engines that
    the encoder chose.
    """

    open_ms: float = 0
    decode_ms: float = 0
    resize_ms: float = 0
    alpha_ms: float = 0
    choose_ms: float = 0
    filter_ms: float = 0
    deflate_ms: float = 0
    checksum_ms: float = 0
    limit_ms: float = 0

    @property
    def total_ms(self) -> float:
        return (
            self.open_ms
            + self.decode_ms
            + self.resize_ms
            + self.alpha_ms
            + self.choose_ms
            + self.filter_ms
            + self.deflate_ms
            + self.checksum_ms
        )


def split(ours: Ours, path: Path) -> Stages:
    """The best of a few runs by total."""
    return min((_split_once(ours, path) for _ in range(RUNS)), key=lambda one: one.total_ms)


def _split_once(ours: Ours, path: Path) -> Stages:
    stages, scratch = Stages(), path.parent
    work = ours.opened(path)

    def timed(stage: str, call: Callable[[], T]) -> T:
        begun = time.process_time()
        found = call()
        ms = (time.process_time() - begun) * 1e3
        setattr(stages, stage, getattr(stages, stage) + ms)
        return found

    header = timed("open_ms", lambda: inspect(path))
    timed("open_ms", lambda: open_picture(path, header=header, scratch=scratch))
    body, windows = png.PngBody(), work.windows()
    while (item := timed("decode_ms", lambda: next(windows, None))) is not None:
        whole, blocks = _blocks(*item, timed)
        recipe = timed("choose_ms", lambda: _recipe(whole))  # noqa: B023  # called at once
        for block in blocks:
            encoded = _encoded(block, recipe, timed)
            timed("checksum_ms", lambda: body.chunk(encoded))  # noqa: B023
    stages.limit_ms = stages.filter_ms + stages.deflate_ms + _whole_resize_ms(work)
    return stages


def _blocks(
    strip: Strip, window: Pixels, timed: Callable[[str, Callable[[], Any]], Any]
) -> tuple[png.Block, list[png.Block]]:
    """A strip as one block, and in the blocks that png.encode_rows cuts it into."""
    resized: Pixels = timed("resize_ms", lambda: strip.resize(window))
    pixels: Pixels = timed(
        "alpha_ms", lambda: finish_alpha(resized, window=window, strip=strip, edge=EdgeFinish())
    )
    above, pixels = (pixels[0], pixels[1:]) if strip.rows.start else (None, pixels)
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    above = np.zeros_like(rows[0]) if above is None else above.reshape(-1)
    channels = pixels.shape[2]
    whole = png.Block(rows, above, channels)
    return whole, list(png.cut_blocks([rows], channels=channels, above=above))


def _recipe(block: png.Block) -> png.Recipe:
    return png.choose_recipe(block, compression=png.Compression.FAST)


def _encoded(
    block: png.Block, recipe: png.Recipe, timed: Callable[[str, Callable[[], Any]], Any]
) -> png.EncodedBlock:
    filtered = timed("filter_ms", lambda: png.apply_filter(block, kind=recipe.filter))
    deflated = timed("deflate_ms", lambda: png.deflate([filtered], engine=recipe.engine))
    adler = timed("checksum_ms", lambda: zlib_ng.adler32(filtered))
    return png.EncodedBlock(deflated, adler, filtered.size)


def _whole_resize_ms(work: Enlargement) -> float:
    rows = work.picture.rows()
    image = Image.fromarray(np.concatenate([strip for _, strip in each_strip(rows)]))
    begun = time.process_time()
    image.resize((work.size.width, work.size.height), Image.Resampling.LANCZOS)
    return (time.process_time() - begun) * 1e3
