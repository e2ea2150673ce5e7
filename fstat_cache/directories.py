"""The watched directories: which names have come and gone in them, and which files their watches cover.

What is reported is only where to look again, never what is there: that may have changed since. Nothing here takes a
lock.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable

from fstat_cache import inotify, states
from fstat_cache.changes import Changes, DirectoryEvent
from fstat_cache.inotify import (
    IN_ATTRIB,
    IN_IGNORED,
    IN_ISDIR,
    IN_MODIFY,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    NO_WATCH,
    NameEvent,
)
from fstat_cache.states import TABLE, Action, Event
from fstat_cache.stats import file_time_ns, is_settled
from fstat_cache.watches import Directory, Watches

DISARMED_MASK = inotify.IN_MOVE_SELF | inotify.IN_DELETE_SELF | inotify.IN_ONLYDIR
ARMED_MASK = DISARMED_MASK | inotify.IN_CREATE | inotify.IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO
OF_FILES = IN_MODIFY | IN_ATTRIB
"""What a directory's watch reports besides where it covers files."""
GREATEST_COVERLESS_S = 3600.0


class Directories:
    """Watches directories and adds what is reported of them to the changes.

    Args:
        changes: to which.
        watches: shared with the files.
        on_covered: called with the path of a file that has no other watch, and with what has happened to it.
    """

    def __init__(self, changes: Changes, watches: Watches, on_covered: Callable[[str, Event], None]) -> None:
        self.sampled = states.Sampled(states.DIRECTORIES)
        self.covered: dict[str, Directory] = {}  # files that have no watch but that of their directory
        self._changes = changes
        self._watches = watches
        self._table = watches.directories
        self._on_covered = on_covered
        self.by_path: dict[str, Directory] = {}

    def _on(self, directory: Directory, event: Event) -> None:
        directory.state, actions = TABLE[directory.state, event]
        for action in actions:
            if action is Action.WATCH:
                with contextlib.suppress(OSError):
                    self.watch(directory.path, is_exact=True)
            elif action is Action.STAT:
                self._report((directory,))
            elif action is Action.UNWATCH:
                self._unbind(directory)
            else:
                self._disarm(directory.wd)

    def add(self, path: str, event: Event) -> None:
        """Follow a directory without a watch, as far as that goes: mounts above it are reported.

        Args:
            path: the path.
            event: why there is no watch.
        """
        self._on(self.by_path.setdefault(path, Directory(path)), event)

    def watch(self, path: str, *, is_exact: bool = False) -> None:
        """Watch what is at a path now, which may be another directory than the one that is watched by that path. A
        sampled one stays so.

        Args:
            path: the path.
            is_exact: whether to report nothing beyond need; else what the directory's other paths need is reported on,
                whether they are known to lead here or not.

        Raises:
            FileNotFoundError, NotADirectoryError: no directory is there.
            OSError: it cannot be watched.
        """
        directory = self.by_path.get(path)
        is_sampled = directory is not None and directory.wd in self.sampled
        kept = 0 if is_exact else inotify.IN_MASK_ADD
        sharers = () if directory is None else self._table.entries(directory.wd)
        armed = ARMED_MASK | OF_FILES if any(sharer.covered for sharer in sharers) else ARMED_MASK
        mask = DISARMED_MASK if is_sampled else armed
        try:
            wd = self._watches.add_directory(path, mask | kept)
            is_same = directory is not None and wd == directory.wd
            if is_sampled and not is_same:
                wd = self._watches.add_directory(path, ARMED_MASK | kept)
        except OSError:
            if directory is not None:
                self._unbind(directory)
                self._on(directory, states.LOST)
            raise
        if directory is None:
            directory = self.by_path[path] = Directory(path)
        self._on(directory, states.IS_WATCHED)
        if is_sampled and is_same:
            self._on(directory, states.DISARMED)
            return
        if not is_same:
            self._unbind(directory)
            self._table.bind(directory, wd)
        if self.sampled.pop(wd, None) is not None or is_sampled:  # what came and went by other paths was not reported
            self.recheck([sharer for sharer in self._table.entries(wd) if sharer is not directory])

    def unwatch(self, path: str) -> None:
        """Forget a directory; an unknown one is no error."""
        directory = self.by_path.pop(path, None)
        if directory is not None:
            self._unbind(directory)

    def _unbind(self, directory: Directory) -> None:
        self._uncover(directory)
        wd = directory.wd
        if wd != NO_WATCH and self._table.unbind(directory):
            self.sampled.pop(wd, None)
            self._watches.remove(wd)

    # -- files without a watch of their own ---------------------------------------------------------------------------

    def cover(self, path: str) -> bool:
        """Have the watch of its directory report writes to a file too, from now on.

        Not of one that has other names, or is a symbolic link: writes by another name are reported to the watch of the
        directory with that name. A name that it gets later, or had when it was opened, is a case for the audit.

        Returns:
            Whether it does: the directory is watched, and not busy.
        """
        self.release(path)
        directory = self.by_path.get(os.path.dirname(path))
        if directory is None or directory.wd == NO_WATCH or directory.wd in self.sampled:
            return False
        is_same_name = os.path.join(directory.path, os.path.basename(path)) == path  # which an event would make of it
        if directory.covers_from > time.monotonic() or not is_same_name:
            return False
        try:
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                return False
            if self._watches.add_directory(directory.path, ARMED_MASK | OF_FILES) != directory.wd:
                self._arm(directory)
                return False
        except OSError:
            return False
        if directory.covered is None:
            directory.covered = set()
        directory.covered.add(path)
        self.covered[path] = directory
        return True

    def release(self, path: str) -> None:
        """Cover a file no longer; one that is not covered is no error."""
        directory = self.covered.pop(path, None)
        if directory is not None and directory.covered is not None:
            directory.covered.discard(path)

    def release_busy(self, wd: int) -> None:
        """Cover no files by a watch for a while, because too much is written to them, which it slows."""
        for directory in self._table.entries(wd):
            self._uncover(directory, states.REFUSED[states.WATCH_LIMIT])
            directory.covers_from = time.monotonic() + directory.coverless_s
            directory.coverless_s = min(2 * directory.coverless_s, GREATEST_COVERLESS_S)
            self._arm(directory)

    def take_in_covered(self, names: Iterable[NameEvent]) -> None:
        """Take in what has happened to covered files."""
        touched: dict[str, int] = {}
        for wd, mask, raw in dict.fromkeys((event.wd, event.mask, event.name) for event in names):
            for directory in self._table.entries(wd):
                if directory.covered:
                    path = os.path.join(directory.path, os.fsdecode(raw))
                    if path in self.covered:
                        touched[path] = touched.get(path, 0) | mask
        for path, mask in touched.items():
            self._on_covered(path, states.WRITTEN if mask == IN_MODIFY else states.TOUCHED)

    def _uncover(self, directory: Directory, event: Event = states.LOST) -> None:
        paths, directory.covered = directory.covered or set(), None
        for path in paths:
            del self.covered[path]
            self._on_covered(path, event)

    def _arm(self, directory: Directory) -> None:
        """Put right the mask of a watch; if another directory is there now, it is to be listed."""
        wd = directory.wd
        with contextlib.suppress(OSError):
            self.watch(directory.path, is_exact=True)
        if directory.wd != wd:
            self.recheck([directory])

    # -- what happened ------------------------------------------------------------------------------------------------

    def recheck(self, directories: Collection[Directory], event: Event = states.LOST) -> None:
        """Report directories, to be watched and listed again by their owner: events may have been lost."""
        for directory in directories:
            self._on(directory, event)
        self._report(directories)

    def _report(self, directories: Iterable[Directory]) -> None:
        self._changes.add_events([DirectoryEvent(each.path, None) for each in directories], self.by_path)

    def arm_again(self, wd: int, event: Event = states.TOUCHED) -> None:
        """Put right the mask of a watch, and miss nothing for it."""
        self.sampled.pop(wd, None)
        for directory in self._table.entries(wd):
            self._uncover(directory)
            self._on(directory, event)

    def take_in_note(self, wd: int, mask: int) -> None:
        """Take in that something happened to a watched directory itself."""
        directories = self._table.entries(wd)
        self.recheck(directories)
        if mask & IN_IGNORED:
            for directory in directories:
                self._uncover(directory)
            self._table.discard(wd)
            self.sampled.pop(wd, None)

    def take_in_names(self, names: list[NameEvent], now: float, *, overflow: bool, total: int) -> None:
        """Take in what has come and gone in directories, in order.

        Args:
            names: the events.
            now: a monotonic clock, seconds.
            overflow: whether there were more than the queue could hold.
            total: how many events were in the queue, those of files included.
        """
        floods = self.sampled.after_batch([event.wd for event in names], now)
        # Directories that filled the queue would fill it again: each that had as many events as the others, and more.
        # Where writes to files filled it no directory did, however few had events: one that is disarmed reports no
        # renames, and a rotated file whose new name matches nothing is not found without.
        if overflow and 2 * len(names) >= total:
            most = len(names) // (len({event.wd for event in names}) + 1)
            floods |= {wd: count for wd, count in self.sampled.counts.items() if count > most}
        for wd in floods:
            if directories := self._table.entries(wd):
                self._on(directories[0], states.BUSY)
        events = []
        for wd, mask, cookie, raw in names:
            sharers = None if wd in floods else self._table.get(wd)
            if sharers is not None:
                name = os.fsdecode(raw)
                is_directory = bool(mask & IN_ISDIR)
                moved_from, moved_to = cookie if mask & IN_MOVED_FROM else 0, cookie if mask & IN_MOVED_TO else 0
                each_one = sharers if isinstance(sharers, list) else (sharers,)
                events += [DirectoryEvent(each.path, name, is_directory, moved_from, moved_to) for each in each_one]
        self._changes.add_events(events, self.by_path)

    # -- sampled directories ------------------------------------------------------------------------------------------

    def _disarm(self, wd: int) -> None:
        self.sampled.counts.pop(wd, None)
        sharers = self._table.entries(wd)
        for directory in sharers:
            self._uncover(directory)
        try:
            disarmed = self._watches.add_directory(sharers[0].path, DISARMED_MASK)
        except OSError:
            disarmed = NO_WATCH
        if disarmed == wd:
            self.sampled.add(wd, time.monotonic())
            for directory in sharers:
                directory.changed_ns = 0
                self._on(directory, states.DISARMED)
        elif disarmed in self._table:  # the path leads to another directory since
            self.arm_again(disarmed)
        elif disarmed != NO_WATCH:
            self._watches.remove(disarmed)
        self._report(sharers)

    def sample(self, now: float) -> None:
        """Stat the sampled directories: those that have changed are to be listed, those that are quiet are armed."""
        changed = [each for wd in self.sampled for each in self._table.entries(wd) if self._has_changed(each)]
        self._report(changed)
        for wd in self.sampled.after_samples([each.wd for each in changed], now):
            self.arm_again(wd, states.QUIET)

    @staticmethod
    def _has_changed(directory: Directory) -> bool:
        sampled_ns, directory.sampled_ns = directory.sampled_ns, file_time_ns()
        try:
            changed_ns = os.stat(directory.path).st_mtime_ns
        except OSError:
            return True
        was_ns, directory.changed_ns = directory.changed_ns, changed_ns
        return changed_ns != was_ns or not is_settled(changed_ns, sampled_ns)
