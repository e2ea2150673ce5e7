"""Files that no known path leads to: finds them by their handles, or counts what may have gone uncounted with them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Iterable, Iterator

from exporter.ledger.facts import Facts
from exporter.ledger.inodes import ABSENT
from exporter.ledger.records import Inode
from exporter.ledger.uncertain import ABSENCE
from fstat_cache import FileStats, FStatCache

SEARCH_S = 10.0
"""How often at most all processes are searched for a file that was created and deleted between two stats."""

INODES_AT_ONCE = 100
"""After how many inodes a rescan releases the lock."""


class NamelessFiles:
    """Finds the inodes that have no known name. The caller holds the tracker's lock.

    Args:
        facts: have the inodes.
        cache: reads them, which gives changes to book.
    """

    def __init__(self, facts: Facts, cache: FStatCache) -> None:
        self._facts = facts
        self._cache = cache
        self._searched_at = -math.inf
        self._restored: set[Inode] = set()  # the latest inodes of paths when the agent stopped

    def begin(self) -> None:
        """Note what is restored, before the first scan finds other inodes at the same paths."""
        if self._facts.inodes.lost.is_restoring:
            with self._facts.lock:
                self._restored = {path.inode for path in self._facts.paths.values() if path.inode is not None}

    def lost(self) -> Iterator[list[Inode]]:
        """Yield all in batches for :meth:`find`, after those that are followed were read. Needs no lock."""
        self._cache.inodes.check()
        lost = self._facts.lost()
        yield from (lost[first : first + INODES_AT_ONCE] for first in range(0, len(lost), INODES_AT_ONCE))
        self._restored.clear()

    def find(self, lost: list[Inode]) -> None:
        """Read some by their handles. After a start, count those that are gone: the agent did not see them go."""
        inodes = self._facts.inodes
        with self._facts.lock:  # some may be known as others by now, or forgotten
            lost = [inode for inode in lost if inode in inodes.lost and inodes.get(inode.identity) is inode]
            handles = {inode: handle for inode in lost if (handle := inodes.handles.get(inode.identity))}
        found = self._cache.inodes.find(
            (_stats_of(inode), handle, os.path.dirname(inode.last_name)) for inode, handle in handles.items()
        )
        if inodes.lost.is_restoring:
            are_there = {inode for inode, is_there in zip(handles, found, strict=False) if is_there}
            with self._facts.lock:
                for inode in set(lost) - are_there:
                    handle = inodes.handles.get(inode.identity)
                    is_known = inode.last_name and (handle is not None or inode in self._restored)
                    if is_known and handle != ABSENT:
                        inodes.uncertain.note(inode.realms, ABSENCE)
                        inodes.learn(inode, ABSENT)

    def search(self, names: Collection[str]) -> dict[str, list[FileStats]]:
        """Find files that had these paths and were deleted before their first stat, but are still open.

        Returns:
            Path -> the stats of each that is not known yet.
        """
        found: dict[str, list[FileStats]] = {}
        for name, stats in self._find_deleted(names) if names else ():
            unknown = found.setdefault(name, [])
            if stats.identity not in self._facts.inodes:
                unknown.append(stats)
        return found

    def book(self, name: str, stats: FileStats) -> None:
        """Book a file that :meth:`search` has found, for the declared path that it had.

        It is booked as an empty one. Its size comes with the cache's changes, which are in order.
        """
        gone = f"{name} (deleted)"  # no path, so its only known name is gone again
        self._facts.set_origin(gone, name)
        self._facts.observe(gone, stats.later(0, stats.mtime_ns), is_created=True)
        self._facts.observe(gone, None)

    def search_unread(self, unread: list[Inode]) -> None:
        """Search for deleted inodes whose handles are unknown, and empty the list; not too often."""
        if unread and time.monotonic() - self._searched_at >= SEARCH_S:
            self._find_deleted([inode.last_name for inode in unread])
            unread.clear()

    def _find_deleted(self, names: Iterable[str]) -> list[tuple[str, FileStats]]:
        now = time.monotonic()
        if now - self._searched_at < SEARCH_S:
            return []
        self._searched_at = now
        return self._cache.inodes.find_deleted(names)


def _stats_of(inode: Inode) -> FileStats:
    device, number, birth_ns = inode.identity
    return FileStats(inode.size, inode.mtime_ns, number, device, birth_ns)
