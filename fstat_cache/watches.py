"""The inotify watches and the entries that share one: a watch is on an inode, which may have several names."""

from __future__ import annotations

import errno
import os
from collections.abc import Sized
from typing import Generic, TypeVar

from fstat_cache.inotify import IN_ATTRIB, IN_DELETE_SELF, IN_MODIFY, IN_MOVE_SELF, NO_WATCH, max_user_watches
from fstat_cache.session import Session
from fstat_cache.states import INSTANCE_LIMIT, PERMISSION, RECHECK, THREAD_FAILED, UNSUPPORTED, WATCH_LIMIT, State
from fstat_cache.stats import FileStats

ARMED_MASK = IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF
"""What an armed watch of a file reports. IN_ATTRIB includes changes of the link count: a name was unlinked or replaced.
"""
DISARMED_MASK = IN_MOVE_SELF | IN_DELETE_SELF

_SPARED_WATCHES = 16_384

COVERLESS_S = 60.0
"""How long a directory's watch covers no files after too many writes; doubled each time."""


class Entry:
    """A file that is followed."""

    __slots__ = ("path", "state", "stats", "used", "wd")

    def __init__(self, path: str, stats: FileStats) -> None:
        self.path = path
        self.stats = stats
        self.state: State = RECHECK
        self.wd = NO_WATCH
        self.used = 0  # the stamp of its last use, see FStatCache._clock


class Directory:
    """A directory that is followed, by one of its paths."""

    __slots__ = (
        "changed_ns",
        "covered",
        "coverless_s",
        "covers_from",
        "listed_ns",
        "path",
        "sampled_ns",
        "state",
        "wd",
    )

    def __init__(self, path: str) -> None:
        self.path = path
        self.state: State = RECHECK
        self.wd = NO_WATCH
        self.covered: set[str] | None = None  # files in it without a watch of their own
        self.covers_from = 0.0  # from when on it may cover files, by the monotonic clock
        self.coverless_s = COVERLESS_S  # how long it may not, the next time that it is too busy
        self.listed_ns = 0  # while it is sampled: when it was reported for listing last
        self.sampled_ns = 0  # when it was sampled last
        self.changed_ns = 0  # its modification time at that sample


E = TypeVar("E", Entry, Directory)


class WatchTable(dict[int, E | list[E]], Generic[E]):
    """Watch descriptor <-> the entries whose paths lead to the watched inode (hard links, symbolic links).

    Nearly every inode has one name. To save memory its entry is stored bare; only several entries make a list.
    """

    __slots__ = ()

    def bind(self, entry: E, wd: int) -> None:
        """Add an entry without a watch to watch ``wd``."""
        entry.wd = wd
        sharers = self.get(wd)
        if sharers is None:
            self[wd] = entry
        elif isinstance(sharers, list):
            sharers.append(entry)
        else:
            self[wd] = [sharers, entry]

    def unbind(self, entry: E) -> bool:
        """Remove an entry from its watch.

        Returns:
            Whether it was the watch's last entry, so that the caller has to remove the watch.
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
        """Forget a watch that the kernel has removed by itself."""
        for entry in self.entries(wd):
            entry.wd = NO_WATCH
        self.pop(wd, None)

    def latest(self) -> int | None:
        """Return the watch that was bound last; None when there is none."""
        if not self:
            return None
        # popitem() drops the slots of unbound watches at the end; reversed() would skip them again each time.
        wd, sharers = self.popitem()
        self[wd] = sharers
        return wd

    def entries(self, wd: int) -> tuple[E, ...]:
        """Return the entries that share ``wd``; none for a removed watch, whose last events may still arrive."""
        sharers = self.get(wd)
        if sharers is None:
            return ()
        return tuple(sharers) if isinstance(sharers, list) else (sharers,)


def reason_of(error: OSError) -> str:
    """Return the reason (:data:`POLL_REASONS`) for an error of inotify_add_watch(2)."""
    if error.errno == errno.ENOSPC:
        return WATCH_LIMIT
    return PERMISSION if error.errno in (errno.EACCES, errno.EPERM) else UNSUPPORTED


class Watches:
    """All inotify watches, in one instance, so that a rename and the writes around it are reported in order.

    Args:
        session: opens the instance.
        max_watches: how many watches may be used; None: the kernel's limit for the user, less 16,384 or half of it,
            whichever is less, because other programs of the same user need some.

    Attributes:
        limit: how many watches may be used; None: not known before the first watch.
        were_refused: whether the limit has refused a watch since it was read last.
    """

    def __init__(self, session: Session, max_watches: int | None) -> None:
        self.files: WatchTable[Entry] = WatchTable()
        self.directories: WatchTable[Directory] = WatchTable()
        self.nameless: Sized = ()
        self.limit = max_watches
        self.were_refused = False
        self.root = session.root
        self._is_limit_given = max_watches is not None
        self._session = session

    def __len__(self) -> int:
        return len(self.files) + len(self.directories) + len(self.nameless)

    @property
    def has_room(self) -> bool:
        """Whether one more watch is likely to be granted."""
        return not self.were_refused and len(self) < (self.limit or 0)

    def open(self) -> str | None:
        """Open the inotify instance; return the reason why nothing can be watched, or None."""
        if self._session.has_failed or self._session.is_closed:
            return THREAD_FAILED
        try:
            if self._session.inotify is None:
                self._session.open_inotify()
            if self.limit is None:
                self.read_limit()
        except OSError:  # whatever the number: without a descriptor, ctypes cannot even look for the C library
            return INSTANCE_LIMIT
        return None

    def read_limit(self) -> None:
        """Read the limit, which a user may have changed; watches beyond a lower one are kept.

        Raises:
            OSError: it cannot be read, for example because no descriptor is left.
        """
        if not self._is_limit_given:
            allowed = max_user_watches()
            self.limit = allowed - min(allowed // 2, _SPARED_WATCHES)
        self.were_refused = False

    def add_directory(self, path: str, mask: int) -> int:
        """Watch the directory at a path; the instance must be open.

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
        """Remove a watch from the kernel."""
        if self._session.inotify is not None and not self._session.is_closed:
            self._session.inotify.rm_watch(wd)
