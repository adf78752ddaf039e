"""An enlargement made of the service's own parts, to compare with what it sends."""

from dataclasses import dataclass

import numpy as np

from models.images import Pixels
from models.schemas import EdgeReport
from services.edge_modes import EdgeFinish, Tally
from services.islands import WithoutIslands
from services.lanczos import Resizing, windows
from services.ringing import finish_alpha


@dataclass(slots=True)
class PixelRows:
    """Pixels, (height, width, channels), as a decoder gives them."""

    pixels: Pixels
    next_row: int = 0

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def channels(self) -> int:
        return int(self.pixels.shape[2])

    def read(self, rows: int) -> Pixels:
        taken = self.pixels[self.next_row : self.next_row + rows]
        self.next_row += len(taken)
        return taken


def enlarged(
    pixels: Pixels, edge: EdgeFinish, *, scale: float = 4, rows: int = 10_000
) -> tuple[Pixels, EdgeReport]:
    """In strips of about `rows` source rows; what a PNG's filter refers to is checked."""
    height, width, channels = pixels.shape
    resizing = Resizing(width, height, int(width * scale + 0.5), int(height * scale + 0.5))
    tally = Tally(edge.edge)
    source: PixelRows | WithoutIslands = PixelRows(pixels)
    if (below := edge.island_px(scale)) > 0 and channels in (2, 4):
        source = WithoutIslands(
            source, below_px=below, from_alpha=edge.shows_from, found=tally.note_islands
        )
    strips: list[Pixels] = []
    for strip, window in windows(source, resizing.strips(rows)):
        before = window.copy()
        done = finish_alpha(
            strip.resize(window), window=window, strip=strip, edge=edge, tally=tally
        )
        assert np.array_equal(window, before)  # the next strip needs it
        if strips:
            assert np.array_equal(done[0], strips[-1][-1])
            done = done[1:]
        strips.append(done)
    return np.concatenate(strips), tally.report()
