"""The watched directories: which names have come and gone in them, and which files their watches cover.

A report only names the place to list or stat again, because its content may have changed since. Nothing here takes a
lock.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable

from fstat_cache import inotify, states
from fstat_cache.changes import Changes, DirectoryEvent, EventsLost
from fstat_cache.inotify import (
    IN_ATTRIB,
    IN_CREATE,
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
ARMED_MASK = DISARMED_MASK | IN_CREATE | inotify.IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO
OF_FILES = IN_MODIFY | IN_ATTRIB
"""What the watch of a directory that covers files reports in addition."""
GREATEST_COVERLESS_S = 3600.0


class Directories:
    """Watches directories and adds their events to the changes.

    Args:
        changes: the events are added to these.
        watches: shared with the files.
        on_covered: called with the path of a covered file and its event.
    """

    def __init__(self, changes: Changes, watches: Watches, on_covered: Callable[[str, Event], None]) -> None:
        self.sampled = states.Sampled(states.DIRECTORIES)
        self.covered: dict[str, Directory] = {}  # path of a file without its own watch -> the directory that covers it
        self._changes = changes
        self._watches = watches
        self._table = watches.directories
        self._root = watches.root
        self._on_covered = on_covered
        self.by_path: dict[str, Directory] = {}
        self.as_of_ns = file_time_ns()  # every event until then was processed

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
        """Follow a directory without a watch: only mounts above it are reported.

        Args:
            path: the path.
            event: why there is no watch.
        """
        self._on(self.by_path.setdefault(path, Directory(path)), event)

    def watch(self, path: str, *, is_exact: bool = False) -> None:
        """Watch the directory at a path now, which may differ from the one watched by that path. A sampled directory
        stays sampled.

        Args:
            path: the path.
            is_exact: whether to replace the watch's mask; else it is extended, because other paths may lead to the same
                directory and need more events.

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
        if self.sampled.pop(wd, None) is not None or is_sampled:  # while sampled, no events came for its other paths
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
        """Cover a file by the watch of its directory, which then reports writes to it.

        A file with several names or a symbolic link is not covered: the kernel reports a write to the directory of the
        name that was opened. The audit finds writes by a name that the file gets later, or that is gone.

        Returns:
            Whether it is covered now; False when its directory is not watched, or busy.
        """
        self.release(path)
        directory = self.by_path.get(os.path.dirname(path))
        if directory is None or directory.wd == NO_WATCH or directory.wd in self.sampled:
            return False
        is_same_name = os.path.join(directory.path, os.path.basename(path)) == path  # an event's path is made like this
        if directory.covers_from > time.monotonic() or not is_same_name:
            return False
        try:
            status = os.lstat(self._root.real_name(path))
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                return False
            if self._watches.add_directory(directory.path, ARMED_MASK | OF_FILES) != directory.wd:
                self.arm(directory)
                return False
        except OSError:
            return False
        if directory.covered is None:
            directory.covered = set()
        directory.covered.add(path)
        self.covered[path] = directory
        return True

    def release(self, path: str) -> None:
        """Stop covering a file; one that is not covered is no error."""
        directory = self.covered.pop(path, None)
        if directory is not None and directory.covered is not None:
            directory.covered.discard(path)

    def release_busy(self, wd: int) -> None:
        """Stop covering files by a busy watch for a while, because an armed watch slows their writers."""
        for directory in self._table.entries(wd):
            self._uncover(directory, states.REFUSED[states.WATCH_LIMIT])
            directory.covers_from = time.monotonic() + directory.coverless_s
            directory.coverless_s = min(2 * directory.coverless_s, GREATEST_COVERLESS_S)
            self.arm(directory)

    def take_in_covered(self, names: Iterable[NameEvent]) -> None:
        """Pass events of covered files on."""
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

    def arm(self, directory: Directory) -> None:
        """Correct a watch's mask; if another directory is at the path now, report it for listing."""
        wd = directory.wd
        with contextlib.suppress(OSError):
            self.watch(directory.path, is_exact=True)
        if directory.wd != wd:
            self.recheck([directory])

    # -- what happened ------------------------------------------------------------------------------------------------

    def recheck(self, directories: Collection[Directory], event: Event = states.LOST) -> None:
        """Report directories, so that their owner watches and lists them again: events may have been lost."""
        for directory in directories:
            self._on(directory, event)
        self._report(directories)

    def _report(self, directories: Iterable[Directory]) -> None:
        events = []
        for each in directories:
            events.append(DirectoryEvent(each.path, None, since_ns=each.listed_ns or self.as_of_ns))
            each.listed_ns = file_time_ns() if each.wd in self.sampled else 0
        self._changes.add_events(events, self.by_path, self.as_of_ns)

    def arm_again(self, wd: int, event: Event = states.TOUCHED) -> None:
        """Arm a watch again, and report its directories for listing."""
        self.sampled.pop(wd, None)
        for directory in self._table.entries(wd):
            self._uncover(directory)
            self._on(directory, event)

    def take_in_note(self, wd: int, mask: int) -> None:
        """Process the events of a watched directory itself."""
        directories = self._table.entries(wd)
        self.recheck(directories)
        if mask & IN_IGNORED:
            for directory in directories:
                self._uncover(directory)
            self._table.discard(wd)
            self.sampled.pop(wd, None)

    def take_in_names(self, names: list[NameEvent], now: float, *, overflow: bool, total: int) -> None:
        """Process events of names in directories, in order.

        Args:
            names: the events.
            now: a monotonic clock, seconds.
            overflow: whether the queue overflowed.
            total: how many events were in the queue, those of files included.
        """
        floods = self.sampled.after_batch([event.wd for event in names], now)
        # Directories that filled the queue would fill it again, so those with more than their share of events are
        # disarmed. None is disarmed if writes to files filled the queue: a disarmed watch reports no renames, without
        # which a rotated file whose new name matches no pattern is not found.
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
                of_name = name, is_directory, moved_from, moved_to, 0, bool(mask & IN_CREATE)
                each_one = sharers if isinstance(sharers, list) else (sharers,)
                events += [DirectoryEvent(each.path, *of_name) for each in each_one]
        self._changes.add_events(events, self.by_path, self.as_of_ns)

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
        elif disarmed in self._table:  # the path leads to another directory by now
            self.arm_again(disarmed)
        elif disarmed != NO_WATCH:
            self._watches.remove(disarmed)
        for directory in sharers:
            self._changes.add(EventsLost(directory.path))
        self._report(sharers)

    def sample(self, now: float) -> None:
        """Stat the sampled directories: report the changed ones for listing, and arm the quiet ones."""
        changed = [each for wd in self.sampled for each in self._table.entries(wd) if self._has_changed(each)]
        self._report(changed)
        for wd in self.sampled.after_samples([each.wd for each in changed], now):
            self.arm_again(wd, states.QUIET)

    def _has_changed(self, directory: Directory) -> bool:
        sampled_ns, directory.sampled_ns = directory.sampled_ns, file_time_ns()
        try:
            changed_ns = os.stat(self._root.real(directory.path)).st_mtime_ns
        except OSError:
            return True
        was_ns, directory.changed_ns = directory.changed_ns, changed_ns
        return changed_ns != was_ns or not is_settled(changed_ns, sampled_ns)
