"""A whole cut-out with an edge mode applied: pixels and a mode in, pixels and a report out.

The same code as for a file that is enlarged: at its own size this is the enlargement by 1, so a
cut-out made so and a print of the soft cut-out with `scale=1` are equal to the bit. `soft` at its
own size leaves a cut-out as it is, with the colours that services/edges.py continues a little under
alpha 0 for whoever resizes it; everything else is for the printer and has no colour where nothing
shows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from models.images import Cutout, Edge, Pixels
from models.schemas import EdgeReport
from services.edge_modes import EdgeFinish, Tally
from services.islands import WithoutIslands
from services.lanczos import Resizing, windows
from services.ringing import finish_alpha
from utils.png import rgba_strips
from utils.rows import Rows

_ROWS = 64


def edged(
    cutout: Cutout, edge: EdgeFinish, *, size: tuple[int, int] | None = None
) -> tuple[Cutout, EdgeReport]:
    """The cut-out as the mode leaves it, and what was found and done. Blocks.

    `size` is (width, height) in pixels of the result, its own where left out; `edge.dpi` is what
    the result will be printed at.
    """
    passing = PassingCutout(cutout, edge, size=size)
    rgba = np.concatenate(list(passing.strips()))
    changed = replace(cutout, rgb=rgba[..., :3], alpha=passing.alpha)
    return changed, passing.tally.report()


class PassingCutout:
    """The same strip by strip: once all have passed, `alpha` and `tally` are what they became."""

    def __init__(
        self, cutout: Cutout, edge: EdgeFinish, *, size: tuple[int, int] | None = None
    ) -> None:
        height, width = cutout.alpha.shape
        self._resizing = Resizing(width, height, *(size or (width, height)))
        self._cutout = cutout
        self._edge = edge
        self._stays = edge.edge is Edge.SOFT and self._resizing.is_identity
        self.tally = Tally(edge.edge)
        shape = (self._resizing.height, self._resizing.width)
        self.alpha = cutout.alpha if self._stays else np.empty(shape, np.uint8)

    def strips(self) -> Iterator[Pixels]:
        """RGBA rows, (rows, width, 4), from top to bottom."""
        return self._as_they_are() if self._stays else self._treated()

    def _as_they_are(self) -> Iterator[Pixels]:
        for strip in rgba_strips(self._cutout.rgb, self._cutout.alpha, rows=_ROWS):
            alpha = np.ascontiguousarray(strip[..., 3])
            self.tally.note(alpha, alpha)
            yield strip

    def _treated(self) -> Iterator[Pixels]:
        for strip, window in windows(self._rows(), self._resizing.strips(_ROWS)):
            pixels = finish_alpha(
                strip.resize(window), window=window, strip=strip, edge=self._edge, tally=self.tally
            )
            own = pixels[-len(strip.rows) :]
            self.alpha[strip.rows.start : strip.rows.stop] = own[..., 3]
            yield own

    def _rows(self) -> Rows:
        rows, below_px = _CutoutRows(self._cutout), self._edge.island_px(self._scale)
        if below_px == 0:
            return rows
        return WithoutIslands(
            rows,
            below_px=below_px,
            from_alpha=self._edge.shows_from,
            found=self.tally.note_islands,
        )

    @property
    def _scale(self) -> float:
        return self._resizing.width / self._resizing.source_width


@dataclass(slots=True)
class _CutoutRows:
    """A cut-out's rows, RGBA, as a reader of a file gives them."""

    cutout: Cutout
    next_row: int = 0
    channels: int = 4

    @property
    def width(self) -> int:
        return int(self.cutout.alpha.shape[1])

    @property
    def height(self) -> int:
        return int(self.cutout.alpha.shape[0])

    def read(self, rows: int) -> Pixels:
        taken = slice(self.next_row, min(self.next_row + rows, self.height))
        self.next_row = taken.stop
        rgb, alpha = self.cutout.rgb[taken], self.cutout.alpha[taken]
        if not len(alpha):
            return np.empty((0, self.width, 4), np.uint8)
        return next(iter(rgba_strips(rgb, alpha, rows=len(alpha))))
