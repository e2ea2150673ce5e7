"""What is watched, and which entries share a watch: inotify watches inodes, and an inode may have several names."""

from __future__ import annotations

import errno
import os
from typing import Generic, TypeVar

from fstat_cache.inotify import NO_WATCH, max_user_watches
from fstat_cache.session import Session
from fstat_cache.states import INSTANCE_LIMIT, PERMISSION, RECHECK, THREAD_FAILED, UNSUPPORTED, WATCH_LIMIT, State
from fstat_cache.stats import FileStats

_SPARED_WATCHES = 16_384

COVERLESS_S = 60.0
"""For how long a directory's watch covers no files, after too much was written there; each time twice as long as
before."""


class Entry:
    """One file that is followed."""

    __slots__ = ("path", "state", "stats", "used", "wd")

    def __init__(self, path: str, stats: FileStats) -> None:
        self.path = path
        self.stats = stats
        self.state: State = RECHECK
        self.wd = NO_WATCH
        self.used = 0  # the owner's clock at its last use


class Directory:
    """One directory that is followed, by one path."""

    __slots__ = ("changed_ns", "covered", "coverless_s", "covers_from", "path", "sampled_ns", "state", "wd")

    def __init__(self, path: str) -> None:
        self.path = path
        self.state: State = RECHECK
        self.wd = NO_WATCH
        self.covered: set[str] | None = None  # the files in it that have no watch but this one
        self.covers_from = 0.0  # when it may cover some, a monotonic clock
        self.coverless_s = COVERLESS_S  # for how long it may not the next time that too much is written
        self.sampled_ns = 0  # when it was sampled last
        self.changed_ns = 0  # its own time of modification then


E = TypeVar("E", Entry, Directory)


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


def reason_of(error: OSError) -> str:
    """Why the kernel refuses a watch."""
    if error.errno == errno.ENOSPC:
        return WATCH_LIMIT
    return PERMISSION if error.errno in (errno.EACCES, errno.EPERM) else UNSUPPORTED


class Watches:
    """All inotify watches, in one instance: so a rename and the writes around it come in their order.

    Args:
        session: opens the instance.
        max_watches: how many watches may be taken; None: as many as the kernel allows the user, but for half of them
            or 16,384, whichever is less, because other programs of the same user need some.
    """

    def __init__(self, session: Session, max_watches: int | None) -> None:
        self.files: WatchTable[Entry] = WatchTable()
        self.directories: WatchTable[Directory] = WatchTable()
        self.limit = max_watches
        self._session = session

    def __len__(self) -> int:
        return len(self.files) + len(self.directories)

    def open(self) -> str | None:
        """Open the inotify instance; give the reason for which nothing can be watched, or None."""
        if self._session.has_failed or self._session.is_closed:
            return THREAD_FAILED
        try:
            if self._session.inotify is None:
                self._session.open_inotify()
            if self.limit is None:
                allowed = max_user_watches()
                self.limit = allowed - min(allowed // 2, _SPARED_WATCHES)
        except OSError:  # whatever the number: without a descriptor, ctypes cannot even look for the C library
            return INSTANCE_LIMIT
        return None

    def add_directory(self, path: str, mask: int) -> int:
        """Watch what is at a path; there must be an instance.

        Raises:
            OSError: it cannot be watched.
        """
        assert self._session.inotify is not None
        wd = self._session.inotify.add_watch(path, mask)
        if self.limit is not None and len(self) >= self.limit and wd not in self.directories:
            self._session.inotify.rm_watch(wd)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return wd

    def remove(self, wd: int) -> None:
        """Have the kernel remove a watch."""
        if self._session.inotify is not None and not self._session.is_closed:
            self._session.inotify.rm_watch(wd)
