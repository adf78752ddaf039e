"""What every background remover promises, whoever does the work behind it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image

from models.errors import RemoverUnavailable
from models.images import Cutout, Flag, Holes, Pixels, SourceImage
from models.outcomes import Skipped
from models.schemas import ModelId, ModelStatus
from services.edges import decontaminate, project_alpha
from services.places import Place
from utils.clock import Deadline


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a remover can be asked now, and why not."""

    status: ModelStatus
    reason: str | None = None
    sandbox: bool = False
    first_answer_s: float | None = None


_NEUTRAL_GREY = 128
_STRIP_ROWS = 256

READY = Availability(ModelStatus.READY)


class Allowance:
    """What one shot may spend; this one knows no limit."""

    def refusal(self, model: ModelId) -> Skipped | None:  # noqa: ARG002  # for those with limits
        """None where the model may be asked: what it may cost is then held for it."""
        return None

    def release(self, model: ModelId) -> None:
        """Let go of what was held for the model: it is in the ledger now, or was not sent."""


@dataclass(frozen=True, slots=True)
class RemovalOptions:
    """What a caller chose for this picture, what the shot may spend, and what it must hear of.

    A paid model calls `on_sent` when its task leaves: from then on it must not be stopped. `place`
    is taken around all work on pixels; a cut-out's is left by whoever has stored it.
    """

    holes: Holes = Holes.KEEP
    allowance: Allowance = field(default_factory=Allowance, compare=False)
    on_sent: Callable[[], None] = field(default=lambda: None, compare=False)
    place: Place = field(default_factory=Place, compare=False)


class BackgroundRemover(Protocol):
    """One model. A further one is one file and one line in the container."""

    @property
    def name(self) -> ModelId: ...

    def availability(self) -> Availability:
        """Costs nothing: no I/O, no waiting."""
        ...

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        """Cut the subject out, pixel-aligned with `image`.

        Raises:
            RemoverError: this attempt failed.
            RemoverUnavailable: the model turned out not to be there.
        """
        ...


@dataclass(frozen=True, slots=True)
class AbsentRemover:
    """Stands in the table for a model that cannot be asked on this installation."""

    name: ModelId
    reason: str
    status: ModelStatus = field(default=ModelStatus.UNAVAILABLE)

    def availability(self) -> Availability:
        return Availability(self.status, self.reason)

    async def remove(
        self,
        image: SourceImage,  # noqa: ARG002  # the Protocol's
        *,
        options: RemovalOptions,  # noqa: ARG002
        deadline: Deadline,  # noqa: ARG002
    ) -> Cutout:
        raise RemoverUnavailable(self.reason)


def cut_with(image: SourceImage, mask: Pixels, *, flags: tuple[Flag, ...] = ()) -> Cutout:
    """The customer's own pixels under a mask of any size, brought to the picture's own edges.

    Soft pixels get the subject's colour without the background's share. Existing alpha is
    multiplied in; what it makes soft is no mixture, so the colour there stays the source's.
    """
    seen = opaque(image)
    alpha = project_alpha(seen, alpha=mask)
    rgb = decontaminate(seen, alpha=alpha)
    if image.alpha is not None:
        np.copyto(rgb, image.rgb, where=(image.alpha < 255)[..., None])
        alpha = multiply_alpha(alpha, image.alpha)
    return Cutout(rgb=rgb, alpha=alpha, flags=flags)


def multiply_alpha(first: Pixels, second: Pixels) -> Pixels:
    """The product of two alphas in 0..255, rounded; both (height, width) uint8."""
    multiplied = np.empty_like(first)
    for top in range(0, len(first), _STRIP_ROWS):
        rows = slice(top, top + _STRIP_ROWS)
        product = first[rows].astype(np.uint16) * second[rows] + 127
        multiplied[rows] = product // 255
    return multiplied


def opaque(image: SourceImage) -> Pixels:
    """What a network is shown, (height, width, 3): colour under transparency becomes grey."""
    if image.alpha is None:
        return image.rgb
    seen = np.empty_like(image.rgb)
    for top in range(0, image.height, _STRIP_ROWS):  # Pillow's copies take 9 bytes a pixel
        rows = slice(top, top + _STRIP_ROWS)
        colours = Image.fromarray(image.rgb[rows])
        ground = Image.new("RGB", colours.size, (_NEUTRAL_GREY,) * 3)
        ground.paste(colours, mask=Image.fromarray(image.alpha[rows]))
        seen[rows] = np.asarray(ground)
    return seen
