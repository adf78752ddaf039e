"""Memory as a budget: what is granted, who has a standing share of it, and what shots may reserve.

The one place where the box's memory is divided. Each part has its own guard: the networks' process
unloads (services/inference_process.py), enlargements cut smaller strips (services/upscaler.py), and
shots wait until what they will take is free (services/admission.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.inference import RESTING_SHARE

_MIB = 1 << 20

FLOOR_BYTES = 256 * _MIB
"""The service at rest, and what its heap and its threads' tiles hold beside every picture."""

USUAL_ENLARGING_BYTES = 512 * _MIB  # UPSCALE_MEMORY_MB's default

_LEAST_FOR_SHOTS = 256 * _MIB  # below that a network is not worth its place
_ENOUGH_FOR_SHOTS = 768 * _MIB  # below that no second network stays loaded


@dataclass(frozen=True, slots=True)
class Split:
    """What is granted, divided; in bytes. None: that is not known, and nothing is bounded.

    `set_aside` is another process's standing share.
    """

    granted: int | None
    enlarging: int
    networks: int | None
    shots: int | None
    set_aside: int = 0


def room_for_networks(
    granted: int | None, *, enlarging_bytes: int = USUAL_ENLARGING_BYTES
) -> int | None:
    """The most that one network may take at its peak: what the least of everything else leaves."""
    if granted is None:
        return None
    return max(0, granted - FLOOR_BYTES - enlarging_bytes - _LEAST_FOR_SHOTS)


def split(
    granted: int | None,
    *,
    enlarging_bytes: int,
    network_peaks: Sequence[int],
    set_aside_bytes: int = 0,
) -> Split:
    """Divide what is granted between the service, its enlargements, the networks and the shots.

    `network_peaks` are those of the networks that fit. The largest is always kept free for; that
    all of them stay loaded beside it, only where enough is left for shots.
    """
    if granted is None:
        return Split(None, enlarging_bytes, None, None, set_aside_bytes)
    free = max(0, granted - set_aside_bytes - FLOOR_BYTES - enlarging_bytes)
    largest = max(network_peaks, default=0)
    resting = round(RESTING_SHARE * (sum(network_peaks) - largest))
    networks = min(free, max(largest, min(largest + resting, free - _ENOUGH_FOR_SHOTS)))
    return Split(granted, enlarging_bytes, networks, free - networks, set_aside_bytes)


class Budget:
    """Bytes that may be reserved; whoever waits for some is told when any come back.

    Belongs to one event loop. `limit_bytes` None: as much as anybody likes.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.reserved_bytes = 0
        self._told: list[Callable[[], None]] = []

    def tell(self, when_freed: Callable[[], None]) -> None:
        self._told.append(when_freed)

    @property
    def free_bytes(self) -> int | None:
        """What could be reserved now; None: as much as anybody likes."""
        return None if self.limit_bytes is None else self.limit_bytes - self.reserved_bytes

    def could_ever_hold(self, size: int) -> bool:
        return self.limit_bytes is None or size <= self.limit_bytes

    def holds(self, size: int) -> bool:
        """Whether so much could be reserved now."""
        return self.could_ever_hold(self.reserved_bytes + size)

    def reserve(self, size: int) -> None:
        self.reserved_bytes += size

    def give_back(self, size: int) -> None:
        self.reserved_bytes -= size
        for told in self._told:
            told()
