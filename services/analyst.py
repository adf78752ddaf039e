"""A picture looked at without a model: let in like a shot, decoded, and what it is in print."""

from contextlib import AsyncExitStack
from pathlib import Path

from models.analysis import Analysis
from models.images import SourceImage
from models.print_check import AnalyzeParameters, PrintCheck, PrintLimits
from models.schemas import SizeParameters
from services.access import caller
from services.admission import Gate
from services.appetite import appetite
from services.intake import inspect, read, refusals
from services.print_check import Art, Wish, check_print
from services.print_colours import StoredColour
from services.print_size import wanted_width_in
from services.records import image_info
from services.triage import look_at
from services.workers import Workers
from utils.clock import Deadline
from utils.image_utils import stored_colour
from utils.pictures import Header


class Analyst:
    """Looks at pictures of at most `max_pixels`, in the shots' own memory and pool."""

    def __init__(
        self, *, workers: Workers, gate: Gate, max_pixels: int, limits: PrintLimits
    ) -> None:
        self._workers = workers
        self._gate = gate
        self._max_pixels = max_pixels
        self._limits = limits

    async def look(self, source: Path, asked: AnalyzeParameters, deadline: Deadline) -> Analysis:
        """The picture's facts and its print check.

        Raises:
            BadPicture: the file is not a picture we can work on.
            InvalidParameter: a width together with a preset.
            Overloaded, InsufficientMemory: the house is full.
            SessionExhausted: a browser session has no shot left.
        """
        wish = wish_of(asked)
        header = await self._workers.pixels(inspect, source, max_pixels=self._max_pixels)
        takes = appetite(header, (), at_most=1, budget_bytes=None, checked=True)
        async with AsyncExitStack() as stack:
            slot = self._gate.slot(deadline, needs_bytes=takes.bytes)
            await stack.enter_async_context(slot)
            stack.push_async_callback(self._workers.settle)
            caller.get().take_shot()
            image = await self._workers.pixels(read, source, header)
            seen = await self._workers.pixels(look_at, image)
            report = await self._workers.pixels(self._check, source, header, image, wish)
        return Analysis(**report.model_dump(), image=image_info(image, seen))

    def _check(self, source: Path, header: Header, image: SourceImage, wish: Wish) -> PrintCheck:
        art = Art(image.rgb, image.alpha, _colour_of(source, header))
        return check_print(art, wish, self._limits)


def wish_of(asked: AnalyzeParameters) -> Wish:
    """How it is to be printed; where no size is given, each of its pixels is one of the print's."""
    wanted_width_in(asked)
    said = asked.model_dump(exclude={"garment"})
    size = SizeParameters(**said, scale=None if asked.in_inches else 1)
    return Wish(size, sized=asked.in_inches, garment=asked.garment)


def _colour_of(source: Path, header: Header) -> StoredColour:
    with refusals():
        mode, name, srgb = stored_colour(source, header=header)
    is_cmyk = mode == "CMYK"
    return StoredColour(is_cmyk, is_tagged=name is not None, name=None if srgb else name)
