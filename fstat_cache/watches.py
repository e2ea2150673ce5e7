"""Which entries share a watch: inotify watches inodes, and an inode may have several names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from fstat_cache.inotify import NO_WATCH


class Watched(Protocol):
    """What the table needs of an entry."""

    wd: int
    """Its watch descriptor, :data:`NO_WATCH` when it has none; set by the table alone."""


E = TypeVar("E", bound=Watched)


class WatchTable(dict[int, E | list[E]], Generic[E]):
    """Watch descriptor <-> the entries whose paths lead to the watched inode (hard links, symbolic links).

    Nearly every inode has one name: its entry stands bare, a list is made for the others only.
    """

    __slots__ = ()

    def bind(self, entry: E, wd: int) -> None:
        """Note that ``entry``, which has no watch, is followed by ``wd``."""
        entry.wd = wd
        sharers = self.get(wd)
        if sharers is None:
            self[wd] = entry
        elif isinstance(sharers, list):
            sharers.append(entry)
        else:
            self[wd] = [sharers, entry]

    def unbind(self, entry: E) -> bool:
        """Take ``entry`` off its watch.

        Returns:
            True when it was the last one, so that the watch is to be removed from the kernel too.
        """
        wd, entry.wd = entry.wd, NO_WATCH
        sharers = self[wd]
        if not isinstance(sharers, list):
            del self[wd]
            return True
        sharers.remove(entry)
        if len(sharers) == 1:
            self[wd] = sharers[0]
        return False

    def discard(self, wd: int) -> None:
        """Forget a watch that the kernel has removed by itself; its entries have none now."""
        for entry in self.entries(wd):
            entry.wd = NO_WATCH
        self.pop(wd, None)

    def latest(self) -> int | None:
        """The watch that was bound last; None when there is none."""
        if not self:
            return None
        # reversed() passes over all that were unbound before, each time; popitem() drops them.
        wd, sharers = self.popitem()
        self[wd] = sharers
        return wd

    def entries(self, wd: int) -> tuple[E, ...]:
        """The entries that share ``wd``; none for a watch that was removed, whose last events still arrive."""
        sharers = self.get(wd)
        if sharers is None:
            return ()
        return tuple(sharers) if isinstance(sharers, list) else (sharers,)

    def entries_of(self, wds: Iterable[int]) -> list[E]:
        """The entries of many watches."""
        entries: list[E] = []
        for wd in wds:
            sharers = self.get(wd)
            if isinstance(sharers, list):
                entries += sharers
            elif sharers is not None:
                entries.append(sharers)
        return entries
