"""What a fuzz target is, and the parameters that one takes out of its bytes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

Mutate: TypeAlias = Callable[[bytes, int], bytes]
"""libFuzzer's own mutation of some bytes, at most so many long."""


class Finding(AssertionError):
    """Something came out that no document promises."""


@dataclass(frozen=True, slots=True)
class Target:
    """`run` is handed any bytes and raises on a finding alone; `seeds` are where to begin.

    `mutate` replaces the engine's mutations: bytes, the longest allowed, a seed, and the engine's
    own mutation to apply to a part. `at_once` is after how many executions its process begins anew,
    0 for never: what instrumentation keeps of many numpy calls adds up to gigabytes.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    longest: int
    mutate: Callable[[bytes, int, int, Mutate], bytes] | None = None
    at_once: int = 0


class Choices:
    """Numbers and bytes out of a finite supply; when it is used up, the least of each."""

    def __init__(self, supply: bytes) -> None:
        self._supply = supply
        self._at = 0

    def number(self, least: int, most: int) -> int:
        """Of one byte where the range allows, else of as many as it takes."""
        span = most - least + 1
        held = self.take(((span - 1).bit_length() + 7) // 8)
        return least + int.from_bytes(held, "big") % span

    def flag(self) -> bool:
        return self.number(0, 1) == 1

    def take(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        held = self._supply[self._at : self._at + count]
        self._at += count
        return held

    def rest(self) -> bytes:
        return self.take(len(self._supply))
