"""Which files stay in a bounded cache: exactly the one with the oldest stamp goes first.

Moving an entry to the end of a list on every hit is the dear part of an LRU. Here a hit only stamps the entry with a
clock that counts the uses; who has to go is worked out when somebody has to go. No lock.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from operator import attrgetter

from fstat_cache.engine import Engine
from fstat_cache.states import ASKED
from fstat_cache.stats import FileStats
from fstat_cache.watches import Entry


class EvictionOrder:
    """Names the entry with the oldest stamp, in O(log n) amortised.

    All entries are sorted by their stamps once, and then taken from that list as long as it tells the truth: an entry
    stamped since the sorting has a later stamp than every entry in the list, and so has one admitted since.
    """

    __slots__ = ("_latest_first", "_sorted_at")

    def __init__(self) -> None:
        self._latest_first: list[Entry] = []
        self._sorted_at = 0

    def pop(self, entries: Iterable[Entry], clock: int) -> Entry | None:
        """Take the entry with the oldest stamp out of the order; the caller drops it.

        Args:
            entries: all that the cache holds; read only when the order has to be made anew.
            clock: the present stamp.

        Returns:
            The entry; None when all stamps are later than ``clock``.
        """
        while True:
            while self._latest_first:
                entry = self._latest_first.pop()
                if not entry.is_dropped and entry.used <= self._sorted_at:
                    return entry
            past = [entry for entry in entries if entry.used <= clock]
            if not past:
                return None
            past.sort(key=attrgetter("used"), reverse=True)
            self._latest_first = past
            self._sorted_at = clock


class Places:
    """The places for files in a cache, and the counts of look-ups.

    Args:
        max_files: how many there are; None: as many as needed.
    """

    __slots__ = ("_order", "clock", "evictions", "max_files", "misses", "stamps_without_hit")

    def __init__(self, max_files: int | None) -> None:
        self.max_files = max_files
        # The clock stamps each use, so that the least recent one can be told, and counts hits by the way.
        # Its increment, like a dictionary's look-up, cannot be interrupted by another thread under the GIL.
        self.clock = 0
        self.stamps_without_hit = 0
        self.misses = 0
        self.evictions = 0
        self._order = EvictionOrder()

    def are_full(self, engine: Engine) -> bool:
        """Whether one more file takes the place of another."""
        return self.max_files is not None and len(engine) >= self.max_files

    def use(self, entry: Entry) -> None:
        """Note a use that is no hit."""
        self.stamps_without_hit += 1
        entry.used = self.clock = self.clock + 1

    def stat(self, engine: Engine, path: str) -> FileStats | None:
        """Stat a file that is not served from memory; it takes a place.

        Raises:
            OSError: what ``os.stat`` raises for anything but absence.
        """
        entry = engine.find(path)
        if entry is not None:
            self.use(entry)
            engine.on(entry, ASKED)
            if not entry.is_dropped:
                return entry.stats
        return self.admit(engine, path)

    def admit(self, engine: Engine, path: str) -> FileStats | None:
        """Track a file that has no entry; it takes a place.

        Raises:
            OSError: what ``os.stat`` raises for anything but absence.
        """
        entry = engine.track(path)
        if entry is None:
            return None
        self.stamps_without_hit += 1
        entry.used = self.clock = self.clock + 1
        if self.max_files is not None:
            self.make_room(engine, self.max_files)
        return entry.stats

    def make_room(self, engine: Engine, files: int) -> None:
        """Evict the least recently used files beyond so many."""
        while len(engine) > files:
            # Hits take no lock: other threads may stamp all entries between one line and the next.
            oldest = self._order.pop(engine, self.clock)
            self.evict(engine, oldest or min(engine, key=attrgetter("used")))

    def evict(self, engine: Engine, entry: Entry) -> None:
        """Have a file leave its place."""
        engine.untrack(entry)
        self.evictions += 1

    @staticmethod
    def idle(engine: Engine, files: int, since_ns: int) -> list[Entry]:
        """Give at most so many files that are unchanged since some time, those unchanged longest first."""
        longest = heapq.nsmallest(files, engine, key=lambda entry: entry.stats.mtime_ns) if files else []
        return [entry for entry in longest if entry.stats.mtime_ns < since_ns]
