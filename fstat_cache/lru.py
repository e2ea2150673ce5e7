"""The order in which a bounded cache lets its entries go: exactly the least recently used first.

Moving an entry to the end of a list on every hit is the dear part of an LRU. Here a hit only stamps the entry with a
clock that counts the uses; who has to go is worked out when somebody has to go. No lock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Generic, Protocol, TypeVar


class Used(Protocol):
    """What the order needs of an entry."""

    used: int
    """The clock at its last use, no two entries at the same; :data:`DROPPED` once it has left the cache."""


DROPPED = 1 << 62

E = TypeVar("E", bound=Used)

_used = attrgetter("used")


class EvictionOrder(Generic[E]):
    """Names the least recently used entry, in O(log n) amortised.

    All entries are sorted by their last use once, and then taken from that list as long as it tells the truth: an
    entry used since the sorting has a later stamp than every entry in the list, and so has one admitted since.
    """

    __slots__ = ("_latest_first", "_sorted_at")

    def __init__(self) -> None:
        self._latest_first: list[E] = []
        self._sorted_at = 0

    def pop(self, entries: Iterable[E], clock: int) -> E:
        """Take the least recently used entry out of the order; the caller drops it.

        Args:
            entries: all that the cache holds; looked at only when the order has to be made anew.
            clock: the present stamp.

        Raises:
            IndexError: there are no entries.
        """
        while True:
            while self._latest_first:
                entry = self._latest_first.pop()
                if entry.used <= self._sorted_at:
                    return entry
            self._latest_first = sorted(entries, key=_used, reverse=True)
            self._sorted_at = clock
            if not self._latest_first:
                raise IndexError("no entry to evict")

    def clear(self) -> None:
        """Forget the order, and with it the last references to the entries."""
        self._latest_first = []
