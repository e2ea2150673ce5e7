"""The eviction order of a bounded cache: an exact LRU.

Moving an entry to the end of a list on every hit is the expensive part of an LRU. Here a hit only stamps the entry with
a clock that counts uses; the oldest stamp is searched for when a file has to be evicted. No lock.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from fstat_cache.files import Files
from fstat_cache.states import GONE
from fstat_cache.stats import FileStats
from fstat_cache.watches import Entry


class EvictionOrder:
    """Finds the entry with the oldest stamp, in O(log n) amortised.

    It sorts all entries by their stamps once, then takes them from that list and skips those stamped since. That is
    exact, because entries stamped or admitted since then have later stamps than all others in the list.
    """

    def __init__(self) -> None:
        self._latest_first: list[Entry] = []
        self._sorted_at = 0

    def pop(self, entries: Iterable[Entry], clock: int) -> Entry | None:
        """Take the entry with the oldest stamp out of the order; the caller drops it.

        Args:
            entries: all entries of the cache; read only to sort them again.
            clock: the present stamp.

        Returns:
            The entry; None when all stamps are later than ``clock``.
        """
        while True:
            while self._latest_first:
                entry = self._latest_first.pop()
                if entry.state is not GONE and entry.used <= self._sorted_at:
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
        max_files: how many places there are; None: unbounded.
    """

    def __init__(self, max_files: int | None) -> None:
        self.max_files = max_files
        self.stamps_without_hit = 0
        self.misses = 0
        self.evictions = 0
        self._order = EvictionOrder()
        self._ordered: Files | None = None

    def are_full(self, files: Files) -> bool:
        """Whether one more file would evict another."""
        return self.max_files is not None and len(files) >= self.max_files

    def admit(self, files: Files, path: str, stamp: int, remote: FileStats | None = None) -> FileStats | None:
        """Track a file that has no entry; it takes a place.

        Args:
            files: tracks it.
            path: the path.
            stamp: the clock at this use.
            remote: the stats that a worker has read; None: the file is local.

        Raises:
            OSError: what ``os.stat`` raises for anything but absence.
        """
        entry = files.track(path) if remote is None else files.track_remote(path, remote)
        if entry is None:
            return None
        entry.used = stamp
        if self.max_files is not None:
            self.make_room(files, self.max_files, stamp)
        return entry.stats

    def make_room(self, files: Files, most: int, stamp: int) -> None:
        """Evict the least recently used files beyond so many."""
        if files is not self._ordered:  # the cache has started over
            self._ordered, self._order = files, EvictionOrder()
        while len(files) > most:
            # Hits take no lock: other threads may stamp all entries meanwhile, so that the order finds none.
            oldest = self._order.pop(files, stamp)
            self.evict(files, oldest or min(files, key=attrgetter("used")))

    def evict(self, files: Files, entry: Entry) -> None:
        """Untrack a file, and count that as an eviction."""
        files.untrack(entry)
        self.evictions += 1
