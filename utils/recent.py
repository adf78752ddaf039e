"""A set that remembers only what was added last."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class RecentSet(Generic[T]):
    """The `most` values that were added last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[T, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, value: object) -> bool:
        return value in self._values

    def add(self, value: T) -> None:
        self._values[value] = None
        self._values.move_to_end(value)
        while len(self._values) > self._most:
            self._values.popitem(last=False)
