"""The watched directories: which names have come and gone in them, to be asked for by whoever looks for files.

What is told is only where to look again, never what is there: that may have changed since. Nothing here takes a lock.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from fstat_cache.changes import Changes, DirectoryEvent
from fstat_cache.inotify import (
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_ISDIR,
    IN_MASK_ADD,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_ONLYDIR,
    NO_WATCH,
    NameEvent,
)
from fstat_cache.stats import file_time_ns, is_settled
from fstat_cache.watches import WatchTable

ARMED = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_MOVE_SELF | IN_DELETE_SELF | IN_ONLYDIR
DISARMED = IN_MOVE_SELF | IN_DELETE_SELF | IN_ONLYDIR
OF_FILES = IN_MODIFY | IN_ATTRIB
"""What a directory's watch reports besides where it stands in for those of files in it."""

FLOOD_EVENTS = 1_000
FLOOD_S = 1.0
"""More than so many events in so much time make a directory hot."""
TICK_S = 1.0
"""How often the hot directories are looked at while nobody asks."""
GREATEST_TICK_S = 10.0
"""How far a CPU budget may stretch that, where listing them takes long."""
QUIET_S = 2.0
GUARDLESS_S = 60.0
"""For how long a directory's watch stands in for none of a file, after too much was written there; each time twice as
long as before."""
GREATEST_GUARDLESS_S = 3600.0


class Directory:
    """One directory that is followed, by one path."""

    __slots__ = ("changed_ns", "guarded", "guardless_s", "guards_from", "path", "sampled_ns", "wd")

    def __init__(self, path: str) -> None:
        self.path = path
        self.wd = NO_WATCH
        self.guarded: set[str] | None = None  # the files in it that have no watch but this one
        self.guards_from = 0.0  # when it may have some, a monotonic clock
        self.guardless_s = GUARDLESS_S  # for how long it may have none the next time that too much is written
        self.sampled_ns = 0  # of a hot one: when it was looked at last
        self.changed_ns = 0  # of a hot one: its own time of modification then


class Directories:
    """Watches directories and adds what is told of them to the changes.

    Args:
        changes: to which.
        add_watch: ``add_watch(path, mask) -> wd`` of the inotify instance that the files are watched by.
        rm_watch: ``rm_watch(wd)``.
        on_unguarded: called with the path of a file of whose changes the watch of its directory tells no longer.
    """

    def __init__(
        self,
        changes: Changes,
        add_watch: Callable[[str, int], int],
        rm_watch: Callable[[int], None],
        on_unguarded: Callable[[str], None] = lambda path: None,
    ) -> None:
        self.hot: dict[int, float] = {}  # watch -> when it was last seen busy
        self._changes = changes
        self._add_watch = add_watch
        self._rm_watch = rm_watch
        self._on_unguarded = on_unguarded
        self._guarded: dict[str, Directory] = {}  # files that have no watch but that of their directory
        self._by_path: dict[str, Directory] = {}
        self._watches: WatchTable[Directory] = WatchTable()
        self._flood: Counter[int] = Counter()
        self._flood_began_at = 0.0

    def __len__(self) -> int:
        """How many watches are held."""
        return len(self._watches)

    def __contains__(self, wd: int) -> bool:
        return wd in self._watches

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_path)

    def __bool__(self) -> bool:
        return bool(self._by_path)

    def add(self, path: str) -> None:
        """Follow a directory without a watch, as far as that goes: mounts above it are told."""
        self._unbind(self._by_path.setdefault(path, Directory(path)))

    def watch(self, path: str, *, is_exact: bool = False) -> None:
        """Watch what is at a path now, which may be another directory than the one that is watched by that path. A hot
        one stays so.

        Args:
            path: the path.
            is_exact: whether to report nothing beyond need; else what the directory's other paths need is reported on,
                whether they are known to lead here or not.

        Raises:
            FileNotFoundError, NotADirectoryError: no directory is there.
            OSError: it can not be watched.
        """
        directory = self._by_path.get(path)
        is_hot = directory is not None and directory.wd in self.hot
        kept = 0 if is_exact else IN_MASK_ADD
        mask = ARMED if directory is None else DISARMED if is_hot else self._armed(directory)
        try:
            wd = self._add_watch(path, mask | kept)
            if is_hot and directory is not None:
                if wd == directory.wd:
                    return
                wd = self._add_watch(path, ARMED | kept)
        except OSError:
            if directory is not None:
                self._unbind(directory)
            raise
        if directory is None:
            directory = self._by_path[path] = Directory(path)
        if directory.wd != wd:
            if directory.wd != NO_WATCH:
                self._unbind(directory)
            self._watches.bind(directory, wd)
        if self.hot.pop(wd, None) is not None or is_hot:  # of what came and went unheard they are to be told as well
            self.doubt([sharer.path for sharer in self._watches.entries(wd) if sharer is not directory])

    def unwatch(self, path: str) -> None:
        """Forget a directory; an unknown one is no error."""
        directory = self._by_path.pop(path, None)
        if directory is not None:
            self._unbind(directory)

    def _armed(self, directory: Directory) -> int:
        sharers = self._watches.entries(directory.wd)
        return ARMED | OF_FILES if any(sharer.guarded for sharer in sharers) else ARMED

    def _unbind(self, directory: Directory) -> None:
        self._tell_unguarded(directory)
        wd = directory.wd
        if wd != NO_WATCH and self._watches.unbind(directory):
            self.hot.pop(wd, None)
            self._rm_watch(wd)

    # -- files without a watch of their own ---------------------------------------------------------------------------

    @property
    def guarded(self) -> int:
        """How many files have no watch but that of their directory."""
        return len(self._guarded)

    def guard(self, path: str) -> bool:
        """Have the watch of its directory tell what is written to a file too, from now on.

        Not of one that has other names, or is a symbolic link: what is written by another name is told to the watch of
        the directory with that name. A name that it gets later, or had when it was opened, is a case for the audit.

        Returns:
            Whether it does: the directory is watched, and not busy.
        """
        self.release(path)
        directory = self._by_path.get(os.path.dirname(path))
        if directory is None or directory.wd == NO_WATCH or directory.wd in self.hot:
            return False
        if directory.guards_from > time.monotonic():
            return False
        if os.path.join(directory.path, os.path.basename(path)) != path:  # an event would make another name of it
            return False
        try:
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                return False
            if self._add_watch(directory.path, ARMED | OF_FILES) != directory.wd:
                self._arm(directory)
                return False
        except OSError:
            return False
        if directory.guarded is None:
            directory.guarded = set()
        directory.guarded.add(path)
        self._guarded[path] = directory
        return True

    def release(self, path: str) -> None:
        """Mind no longer what is written to a file; one of which it is not told is no error."""
        directory = self._guarded.pop(path, None)
        if directory is not None and directory.guarded is not None:
            directory.guarded.discard(path)

    def unguard(self, wd: int) -> list[str]:
        """Have it no longer told what is written in a directory, because so much is.

        Returns:
            The files that were guarded.
        """
        directories = self._watches.entries(wd)
        paths = [path for directory in directories for path in self._released(directory)]
        for directory in directories:
            directory.guards_from = time.monotonic() + directory.guardless_s
            directory.guardless_s = min(2 * directory.guardless_s, GREATEST_GUARDLESS_S)
            self._arm(directory)
        return paths

    def _released(self, directory: Directory) -> set[str]:
        paths, directory.guarded = directory.guarded or set(), None
        for path in paths:
            del self._guarded[path]
        return paths

    def _tell_unguarded(self, directory: Directory) -> None:
        for path in self._released(directory):
            self._on_unguarded(path)

    def _arm(self, directory: Directory) -> None:
        """Put right the mask of a watch; if another directory is there now, it is to be listed."""
        wd = directory.wd
        with contextlib.suppress(OSError):
            self.watch(directory.path, is_exact=True)
        if directory.wd != wd:
            self.doubt([directory.path])

    # -- what happened ------------------------------------------------------------------------------------------------

    def doubt(self, paths: Iterable[str]) -> None:
        """Have directories listed again: events may have been lost."""
        listed = [DirectoryEvent(path, None) for path in paths if path in self._by_path]
        self._changes.add_events(listed, self._by_path)

    def arm_again(self, wd: int) -> None:
        """Put right the mask of a watch, and miss nothing for it."""
        self.hot.pop(wd, None)
        for directory in self._watches.entries(wd):
            self._tell_unguarded(directory)
            with contextlib.suppress(OSError):
                self.watch(directory.path, is_exact=True)
            self.doubt([directory.path])

    def take_in_note(self, wd: int, mask: int) -> None:
        """Take in that something happened to a watched directory itself."""
        self.doubt([directory.path for directory in self._watches.entries(wd)])
        if mask & IN_IGNORED:
            for directory in self._watches.entries(wd):
                self._tell_unguarded(directory)
            self._watches.discard(wd)
            self.hot.pop(wd, None)

    def take_in_names(self, names: list[NameEvent], now: float, *, overflow: bool, total: int) -> None:
        """Take in what has come and gone in directories, in order.

        Args:
            names: the events.
            now: a monotonic clock, seconds.
            overflow: whether there were more than the queue could hold.
            total: how many events were in the queue, those of files included.
        """
        floods = self._floods(names, now, overflow=overflow, total=total)
        for wd in floods:
            self._disarm(wd, now)
        events = []
        for wd, mask, cookie, raw in names:
            if wd in floods:
                continue
            name = os.fsdecode(raw)
            is_directory = bool(mask & IN_ISDIR)
            moved_from, moved_to = cookie if mask & IN_MOVED_FROM else 0, cookie if mask & IN_MOVED_TO else 0
            paths = [directory.path for directory in self._watches.entries(wd)]
            events += [DirectoryEvent(path, name, is_directory, moved_from, moved_to) for path in paths]
        self._changes.add_events(events, self._by_path)

    def touched(self, names: Iterable[NameEvent]) -> dict[str, int]:
        """Tell which guarded files to look at: path -> the masks of its events, or-ed together."""
        touched: dict[str, int] = {}
        if self._guarded:
            for wd, mask, raw in dict.fromkeys((event.wd, event.mask, event.name) for event in names):
                for directory in self._watches.entries(wd):
                    if directory.guarded:
                        path = os.path.join(directory.path, os.fsdecode(raw))
                        if path in self._guarded:
                            touched[path] = touched.get(path, 0) | mask
        return touched

    def _floods(self, names: list[NameEvent], now: float, *, overflow: bool, total: int) -> list[int]:
        if now - self._flood_began_at > FLOOD_S:
            self._flood.clear()
            self._flood_began_at = now
        self._flood.update(event.wd for event in names)
        most = FLOOD_EVENTS
        # Directories that filled the queue would fill it again: each that had as many events as the others, and more.
        # Where writes to files filled it no directory did, however few had events: one that is disarmed reports no
        # renames, and a rotated file whose new name matches nothing is not found without.
        if overflow and 2 * len(names) >= total:
            most = min(most, len(names) // (len({event.wd for event in names}) + 1))
        return [wd for wd, count in self._flood.items() if count > most and wd in self._watches]

    # -- hot directories ----------------------------------------------------------------------------------------------

    def _disarm(self, wd: int, now: float) -> None:
        del self._flood[wd]
        sharers = self._watches.entries(wd)
        for directory in sharers:
            self._tell_unguarded(directory)
        try:
            disarmed = self._add_watch(sharers[0].path, DISARMED)
        except OSError:
            disarmed = NO_WATCH
        if disarmed == wd:
            self.hot[wd] = now
            for directory in sharers:
                directory.changed_ns = 0
        elif disarmed in self._watches:  # the path leads to another directory since
            self.arm_again(disarmed)
        elif disarmed != NO_WATCH:
            self._rm_watch(disarmed)
        self.doubt([directory.path for directory in sharers])

    def sample_hot(self, now: float) -> None:
        """Look at the hot directories: those that have changed are to be listed, those that are quiet are armed."""
        for wd, busy_at in tuple(self.hot.items()):
            directories = self._watches.entries(wd)
            changed = [directory.path for directory in directories if self._has_changed(directory)]
            if changed:
                self.hot[wd] = now
                self.doubt(changed)
            elif now - busy_at >= QUIET_S:
                self.arm_again(wd)

    @staticmethod
    def _has_changed(directory: Directory) -> bool:
        sampled_ns, directory.sampled_ns = directory.sampled_ns, file_time_ns()
        try:
            changed_ns = os.stat(directory.path).st_mtime_ns
        except OSError:
            return True
        was_ns, directory.changed_ns = directory.changed_ns, changed_ns
        return changed_ns != was_ns or not is_settled(changed_ns, sampled_ns)
