"""What every background remover promises, whoever does the work behind it."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from models.errors import RemoverUnavailable
from models.images import Cutout, Holes, Pixels, SourceImage
from models.schemas import ModelId, ModelStatus
from utils.clock import Deadline


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a remover can be asked now, and why not."""

    status: ModelStatus
    reason: str | None = None


READY = Availability(ModelStatus.READY)


@dataclass(frozen=True, slots=True)
class RemovalOptions:
    """What a caller chose for this picture."""

    holes: Holes = Holes.KEEP


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


def multiply_alpha(first: Pixels, second: Pixels) -> Pixels:
    """The product of two alphas in 0..255, rounded; both (height, width) uint8."""
    product = first.astype(np.uint16) * second + 127
    product //= 255
    return product.astype(np.uint8)
