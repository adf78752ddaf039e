"""What is neither solid nor clear in a print: edges, ghosts, half-transparent areas. Pure."""

from dataclasses import dataclass

import numpy as np

from models.images import Pixels
from services.edge_modes import GHOST, HALF, SOLID
from services.print_masks import Mask, outline_of, spread
from services.print_plane import Block, Plane

RIM_PX = 2
"""Alpha so near to the outline is its anti-aliasing: a RIP's choke takes it away."""
SOFT_REACH_PX = 3
"""Partial alpha further than this from the outline is no edge but an area."""
EDGE_REACH_PX = 8
"""An edge has solid and clear pixels no further than this from its partial ones."""

MOST_BLOCKS = 40
"""Blocks whose edges are measured one by one: of more, an even sample."""


@dataclass(slots=True)
class Edges:
    """Counts on a plane, in its pixels; those of a sample are scaled up to all of it.

    `loose` are ghosts that no visible pixel is beside, or further from the outline than the reach
    asked for; `far` those that are both. What is `near_opaque` lies behind the outline's rim.
    `soft` is partial alpha away from the outline, `band` partial alpha in edges of `length`: those
    that fade at all.
    """

    canvas: float = 0
    subject: float = 0
    ghosts: float = 0
    loose: float = 0
    far: float = 0
    near_opaque: float = 0
    soft: float = 0
    band: float = 0
    length: float = 0

    @property
    def width(self) -> float:
        """How far an edge takes from solid to clear on average, in pixels of the plane."""
        return self.band / self.length if self.length else 0.0

    def add(self, other: "Edges", times: float) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + times * getattr(other, name))


class EdgeMeter:
    """Adds up the partial alpha of a plane's blocks, of many changing ones an even sample.

    `px` is pixels at 300 dpi for one of the plane's.
    """

    def __init__(self, plane: Plane, *, px: float, ghost_reach_px: float) -> None:
        self._px = px
        self._ghost_reach_px = ghost_reach_px
        self._varying = int(np.count_nonzero(plane.varying))
        self._flat, self._sampled = Edges(), Edges()
        self._seen = 0

    def see(self, block: Block) -> None:
        """The next block; all of them, or those of the sample alone."""
        if block.alpha is None:
            self._flat.add(_edges_of_flat(block), 1)
            return
        self._sampled.add(_edges_of(block, self._px, self._ghost_reach_px), 1)
        self._seen += 1

    def edges(self) -> Edges:
        total = Edges()
        total.add(self._flat, 1)
        total.add(self._sampled, self._varying / max(self._seen, 1))
        return total


def _edges_of_flat(block: Block) -> Edges:
    """One alpha everywhere: what is partial is an area, and a trace has nothing to belong to."""
    value, pixels = block.value, block.pixels
    trace, middle = 0 < value <= GHOST, GHOST < value < SOLID
    return Edges(
        canvas=pixels,
        subject=pixels * (value > GHOST),
        ghosts=pixels * trace,
        loose=pixels * trace,
        far=pixels * trace,
        near_opaque=pixels * (SOLID <= value < 255),
        soft=pixels * middle,
    )


def _edges_of(block: Block, px: float, ghost_reach_px: float) -> Edges:
    alpha, inner = _drawn(block), block.inner
    clear, dense, shape = alpha <= GHOST, alpha >= SOLID, alpha >= HALF
    traces = clear & (alpha > 0)
    middle = ~(clear | dense)
    found = Edges(
        canvas=block.pixels,
        subject=_count(~clear, inner),
        ghosts=_count(traces, inner),
    )
    nearly = dense & (alpha < 255)
    if nearly[inner].any():
        found.near_opaque = _count(nearly & ~spread(~shape, RIM_PX / px), inner)
    if found.ghosts:
        apart = ~spread(~clear, RIM_PX / px)
        distant = ~spread(shape, ghost_reach_px / px)
        found.loose = _count(traces & (apart | distant), inner)
        found.far = _count(traces & apart & distant, inner)
    if not middle[inner].any():
        return found
    outline = spread(shape, SOFT_REACH_PX / px) & spread(~shape, SOFT_REACH_PX / px)
    found.soft = _count(middle & ~outline, inner)
    edge = spread(clear, EDGE_REACH_PX / px) & spread(dense, EDGE_REACH_PX / px)
    found.band = _count(middle & edge, inner)
    fading = shape & edge & spread(middle, RIM_PX / px)
    found.length = float(outline_of(shape)[inner][fading[inner]].sum())
    return found


def _drawn(block: Block) -> Pixels:
    assert block.alpha is not None  # noqa: S101  # flat blocks are counted elsewhere
    return block.alpha


def _count(mask: Mask, inner: tuple[slice, slice]) -> int:
    return int(np.count_nonzero(mask[inner]))
