"""The order in which a bounded cache lets its entries go: exactly the one with the oldest stamp first.

Moving an entry to the end of a list on every hit is the dear part of an LRU. Here a hit only stamps the entry with a
clock that counts the uses; who has to go is worked out when somebody has to go. No lock, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar


class Droppable(Protocol):
    """What the order needs of an entry, besides its stamp."""

    @property
    def is_dropped(self) -> bool:
        """True once it has left the cache."""


E = TypeVar("E", bound=Droppable)


class EvictionOrder(Generic[E]):
    """Names the entry with the oldest stamp, in O(log n) amortised.

    All entries are sorted by their stamps once, and then taken from that list as long as it tells the truth: an entry
    stamped since the sorting has a later stamp than every entry in the list, and so has one admitted since.

    Args:
        stamp: gives an entry's stamp, from a clock that never goes back.
    """

    __slots__ = ("_latest_first", "_sorted_at", "_stamp")

    def __init__(self, stamp: Callable[[E], int]) -> None:
        self._stamp = stamp
        self._latest_first: list[E] = []
        self._sorted_at = 0

    def pop(self, entries: Iterable[E], clock: int) -> E | None:
        """Take the entry with the oldest stamp out of the order; the caller drops it.

        Args:
            entries: all that the cache holds; looked at only when the order has to be made anew.
            clock: the present stamp.

        Returns:
            The entry; None when all stamps are later than ``clock``.
        """
        while True:
            while self._latest_first:
                entry = self._latest_first.pop()
                if not entry.is_dropped and self._stamp(entry) <= self._sorted_at:
                    return entry
            past = [entry for entry in entries if self._stamp(entry) <= clock]
            if not past:
                return None
            past.sort(key=self._stamp, reverse=True)
            self._latest_first = past
            self._sorted_at = clock
