"""Books the cache's changes in order, and keeps those for discovery until the tracker takes them."""

from __future__ import annotations

import logging
import threading

from exporter.discovery.arrivals import Arrivals
from exporter.ledger.facts import Facts
from exporter.ledger.records import Inode
from exporter.ops.log import fields
from fstat_cache import DirectoryEvent, EventsLost, FileChange, FStatCache, InodeChange

_log = logging.getLogger(__name__)


class Bookkeeper:
    """Takes the changes of a cache. The caller holds the tracker's lock.

    Args:
        facts: the changes are booked there.
        cache: gives the changes.

    Attributes:
        booked: set after each booking.
        events: of directories, not processed yet.
        vanished: paths that a stat has found gone, perhaps without a directory event.
        lost: events that were lost, not processed yet.
        unread: deleted files that cannot be read because their handles are unknown.
        arrivals: how names came.
    """

    def __init__(self, facts: Facts, cache: FStatCache) -> None:
        self.booked = threading.Event()
        self.events: list[DirectoryEvent] = []
        self.vanished: set[str] = set()
        self.lost: list[EventsLost] = []
        self.unread: list[Inode] = []
        self.arrivals = Arrivals(cache.root.real_name)
        self._facts = facts
        self._cache = cache

    def book(self) -> None:
        """Take the cache's changes and book them in order."""
        changes = self._cache.take()
        for change in changes:
            if isinstance(change, DirectoryEvent):
                self.events.append(change)
                self.arrivals.note(change)
                continue
            try:
                if isinstance(change, FileChange):
                    self._observe(change)
                elif isinstance(change, InodeChange):
                    with self._facts.lock:
                        inode = self._facts.inodes.observe(change)
                    if inode is not None and change.links == 0 and change.handle is None:
                        self.unread.append(inode)
                else:
                    self.lost.append(change)
            except Exception:  # noqa: BLE001 - the other changes must still be booked
                _log.exception("a change could not be booked", extra=fields(change=change))
        if changes and not self.booked.is_set():
            self.booked.set()

    def _observe(self, change: FileChange) -> None:
        name, stats = change
        if stats is None:
            self.vanished.add(name)
        is_created = self.arrivals.take(name, stats) if name in self.arrivals.names else None
        question = self._facts.observe(name, stats, is_created=is_created)
        if question is not None and stats is not None:
            data = self._cache.extents.find(name, stats, question.begin, is_resumed=question.is_resumed)
            self._facts.observe(name, stats, data, is_created=is_created, may_ask=False)
