"""The colour knock-out as a remover: free, fast, and right where a network eats white lettering."""

from models.images import Cutout, SourceImage
from models.schemas import ModelId
from services.knockout import knock_out
from services.remover import READY, Availability, RemovalOptions, multiply_alpha
from services.workers import Workers
from utils.clock import Deadline
from utils.spans import spanned


class LocalKnockout:
    """Needs no weights and no key, so it is always ready."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    @property
    def name(self) -> ModelId:
        return ModelId.LOCAL_KNOCKOUT

    def availability(self) -> Availability:
        return READY

    async def remove(
        self,
        image: SourceImage,
        *,
        options: RemovalOptions,
        deadline: Deadline,  # noqa: ARG002  # the shotgun's time-out covers it
    ) -> Cutout:
        await options.place.take()
        return await self._workers.pixels(_cut, image, options)


@spanned("knockout")
def _cut(image: SourceImage, options: RemovalOptions) -> Cutout:
    found = knock_out(image.rgb, holes=options.holes)
    if image.alpha is None:
        return found
    alpha = multiply_alpha(found.alpha, image.alpha)
    return Cutout(rgb=found.rgb, alpha=alpha, flags=found.flags)
