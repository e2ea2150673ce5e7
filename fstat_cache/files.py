"""The tracked files: watches and stats them, and keeps each in the dictionary of its state."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import time
from collections import Counter
from collections.abc import Collection, Container, Iterator
from functools import partial

from fstat_cache import states
from fstat_cache.changes import Changes
from fstat_cache.directories import Directories
from fstat_cache.handles import Handles
from fstat_cache.hanging import Found
from fstat_cache.inotify import NO_WATCH
from fstat_cache.nameless import NamelessInodes
from fstat_cache.session import Session
from fstat_cache.states import (
    BELIEVED,
    EVENTS,
    GONE,
    POLLED,
    RECHECK,
    REFUSED,
    REMOTE,
    SAMPLED,
    TABLE,
    Action,
    Event,
    State,
)
from fstat_cache.stats import FileStats, read_again, read_stats, with_details
from fstat_cache.watches import ARMED_MASK, DISARMED_MASK, Entry, Watches, reason_of

log = logging.getLogger(__name__)

_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class Counts:
    """Counters that outlive the entries."""

    def __init__(self) -> None:
        self.queue_overflows = 0
        self.watch_failures: Counter[str] = Counter()
        self.audit_checks = 0
        self.audit_mismatches = 0


class Files:
    """Files by path. Performs the actions of the state table.

    Args:
        session: has the inotify instance, and the thread that processes its events.
        watches: shared with the directories.
        changes: results of stats are added to these.
        served: gets the entries whose stats may be served from memory.
        counts: increased here.
        detailed: the paths whose stats have details.
    """

    def __init__(
        self,
        session: Session,
        watches: Watches,
        changes: Changes,
        served: dict[str, Entry],
        counts: Counts,
        detailed: Container[str],
    ) -> None:
        self.served = served
        self.left = 0  # how often entries have left `served`
        self.doubtful: dict[str, Entry] = {}
        self.polled: dict[str, Entry] = {}
        self.remote: dict[str, Entry] = {}
        self.sampled = states.Sampled(states.FILES)
        self.directories = Directories(changes, watches, self._on_covered)
        self.silent_devices: frozenset[int] = frozenset()  # whose filesystems report no events
        self.polled_for: Counter[str] = Counter()  # reason -> entries polled for it now
        self.grown: dict[str, tuple[Entry, float]] = {}  # path -> entry, and when an audit found it grown; no event yet
        self.report = changes.add_stat
        self.read_again = session.root.beneath(read_again)
        self._homes = {EVENTS: served, SAMPLED: served, RECHECK: self.doubtful, REMOTE: self.remote}
        self._homes |= dict.fromkeys(POLLED.values(), self.polled)
        self._session = session
        self._detailed = detailed
        self._counts = counts
        self._watches = watches
        self._table = watches.files
        self.handles = Handles(session, changes)
        self.nameless = watches.nameless = NamelessInodes(session, watches, changes, self.sampled, self.handles)
        self.note_overlays(())

    def __len__(self) -> int:
        return len(self.served) + len(self.doubtful) + len(self.polled) + len(self.remote)

    def __iter__(self) -> Iterator[Entry]:
        dictionaries = (self.served, self.doubtful, self.polled, self.remote)
        return itertools.chain.from_iterable(entries.values() for entries in dictionaries)

    def find(self, path: str) -> Entry | None:
        """Return the entry of a path in any state; None when it has none."""
        entry = self.served.get(path)
        if entry is None and (self.doubtful or self.polled or self.remote):
            entry = self.doubtful.get(path) or self.polled.get(path) or self.remote.get(path)
        return entry

    def note_overlays(self, overlays: Collection[int]) -> None:
        """Set the IDs of the mounts of overlayfs."""
        self.handles.overlays = overlays
        read = self._session.root.beneath(partial(read_stats, overlays=overlays))
        self.read_stats = with_details(read, self._detailed)

    # -- tracking -----------------------------------------------------------------------------------------------------

    def track(self, path: str) -> Entry | None:
        """Watch a file that has no entry, then stat it: in this order a change in between is an event.

        Returns:
            Its entry; None when no regular file is there.

        Raises:
            OSError: what ``os.stat`` raises for anything but absence.
        """
        try:
            wd, reason = self._watch(path, has_watch=False)
        except _NO_FILE:
            return None
        stats = None
        try:
            stats = self.read_stats(path)
        finally:
            if stats is None:
                self._remove_unused(wd)
                self.directories.release(path)
        if stats is None:
            return None
        self.report(path, stats)  # before _bind() stats its other names: stats are reported in order
        entry = Entry(path, stats)
        reason = self._bind(entry, wd, reason)
        if reason is None and stats.identity[0] not in self.silent_devices:  # as in _settle(), inlined for speed
            entry.state, _ = TABLE[entry.state, states.IS_WATCHED]
            self.served[path] = entry
        else:
            self._settle(entry, reason)
        if stats.mtime_ns >= self.handles.active_ns:
            self.handles.learn(entry)
        return entry

    def track_remote(self, path: str, stats: FileStats) -> Entry:
        """Make an entry for a file that a worker has stat'ed."""
        entry = Entry(path, stats)
        self.on(entry, states.MOUNTED_REMOTE)
        self.report(path, stats)
        return entry

    def untrack(self, entry: Entry) -> None:
        """Unwatch a file and forget it."""
        self._enter(entry, GONE)
        self.grown.pop(entry.path, None)
        self._unwatch(entry)
        self.directories.release(entry.path)

    def remove(self, entry: Entry) -> None:
        """Untrack a file that nobody asks for at its path any more: a directory above it may have been renamed."""
        self._let_go(entry)
        self.untrack(entry)

    def forget(self) -> None:
        """Drop every entry but remove no watch, because the session is about to close and ends them all."""
        for entry in self:
            entry.state = GONE
        for entries in (self.served, self.doubtful, self.polled, self.remote):
            entries.clear()
        self.nameless.forget()

    # -- states -------------------------------------------------------------------------------------------------------

    def on(self, entry: Entry, event: Event) -> None:
        """Enter the state that the table gives for an event, and perform its actions."""
        state, actions = TABLE[entry.state, event]
        if Action.UNWATCH in actions:
            self._unwatch(entry)
        if state is not entry.state:
            self._enter(entry, state)
        if Action.STAT in actions:
            self.stat(entry, watch=Action.WATCH in actions)
        elif Action.DISARM in actions:
            self._disarm(entry)

    def _enter(self, entry: Entry, state: State) -> None:
        """Move an entry to its new state's dictionary; log the first and the last file polled for a reason."""
        was, entry.state = entry.state, state
        old, new = self._homes[was], self._homes.get(state)
        if old is not new:
            old.pop(entry.path, None)
            self.left += old is self.served
        if new is not None:
            new[entry.path] = entry
        if state.reason == was.reason:
            return
        if was.reason is not None:
            self.polled_for[was.reason] -= 1
            if not self.polled_for[was.reason] and was.reason in states.REMEDIES:
                log.info("no file is polled for %s any more", was.reason)
        if state.reason is not None:
            self.directories.release(entry.path)
            self.polled_for[state.reason] += 1
            if self.polled_for[state.reason] == 1 and (remedy := states.REMEDIES.get(state.reason)):
                log.warning("files are polled instead of watched; first file: %s: %s", entry.path, remedy)

    def distrust(self) -> None:
        """Mark all entries for a new watch and stat before they are served again: events may have been lost."""
        self.directories.recheck(self.directories.by_path.values())
        self.grown.clear()  # a missing event proves nothing now
        self.nameless.have_lost_events = True
        self.doubtful.update(self.served)
        for entry in self.served.values():
            entry.state = TABLE[entry.state, states.LOST][0]
        self.served.clear()
        self.left += 1

    def _on_covered(self, path: str, event: Event) -> None:
        self.grown.pop(path, None)
        if (entry := self.served.get(path)) is not None:
            self.on(entry, event)

    # -- stat'ing -----------------------------------------------------------------------------------------------------

    def stat(self, entry: Entry, *, watch: bool) -> None:
        """Stat an entry's file and update the entry; drop the entry if the file is gone.

        Args:
            entry: any but a remote one.
            watch: whether to watch its path again first, because the path may lead to another inode now. Only another
                watch descriptor shows that: device, inode number and size may be equal (ext4 reuses numbers at once).
        """
        was, reason = entry.stats, None
        try:
            if not watch:
                stats = self.read_stats(entry.path, was) if entry.wd == NO_WATCH else self._stat_watched(entry)
                watch = stats is not None and stats.identity != was.identity and entry.state in BELIEVED
            if watch:
                wd = entry.wd
                reason = self._bind(entry, *self._watch(entry.path, has_watch=wd != NO_WATCH))
                stats = self.read_stats(entry.path, was if entry.wd == wd else None)
        except _NO_FILE:
            stats = None
        except OSError as error:
            # The next look-up gets this error from os.stat; until then nothing is known of the file.
            log.debug("dropped from the cache: %s: %s", entry.path, error)
            stats = None
        self.take_over(entry, stats)
        if watch and stats is not None:
            self._settle(entry, reason)
            is_active = stats != was or stats.mtime_ns >= self.handles.active_ns
            if is_active and entry.wd not in self.handles:
                self.handles.learn(entry)

    def _stat_watched(self, entry: Entry) -> FileStats | None:
        stats = self.read_again(entry.path, entry.stats)
        # The kernel queues IN_DELETE_SELF before a watched inode's number can be reused.
        inotify = self._session.inotify
        if stats is not entry.stats and (stats is None or (inotify is not None and inotify.pending_bytes() > 0)):
            stats = self.read_stats(entry.path)
        return stats

    def take_over(self, entry: Entry, found: Found) -> None:
        """Update an entry by the result of a stat; an error changes nothing."""
        if isinstance(found, OSError) or found == entry.stats:
            return
        if found is None:
            self._leave(entry)
            self.untrack(entry)
        else:
            entry.stats = found
        self.report(entry.path, found)

    # -- watching -----------------------------------------------------------------------------------------------------

    def _watch(self, path: str, *, has_watch: bool) -> tuple[int, str | None]:
        """Arm a watch on what is at ``path`` now.

        Returns:
            Its descriptor and None; or :data:`NO_WATCH` and the reason, None when its directory's watch covers it.

        Raises:
            FileNotFoundError, NotADirectoryError: nothing is there.
            IsADirectoryError: a directory is there that is watched as a directory.
        """
        session, watches = self._session, self._watches
        is_open = session.inotify is not None and watches.limit is not None and not session.is_closed
        if (not is_open or session.has_failed) and (reason := watches.open()):
            return NO_WATCH, reason
        assert session.inotify is not None
        try:
            held = len(self._table) + len(watches.directories) + len(self.nameless)  # inlines len(watches)
            if not has_watch and held >= (watches.limit or 0) and not self.nameless.give_up_a_watch():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            wd = session.inotify.add_watch(path, ARMED_MASK)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            reason = reason_of(error)
            watches.were_refused |= reason == states.WATCH_LIMIT
            return NO_WATCH, None if reason == states.WATCH_LIMIT and self.directories.cover(path) else reason
        if wd in watches.directories:
            self.directories.arm_again(wd)
            raise IsADirectoryError(path)
        return wd, None

    def _bind(self, entry: Entry, wd: int, reason: str | None) -> str | None:
        """Bind an entry to a watch, or to none; return the reason why it is polled."""
        if wd != entry.wd:
            if entry.wd != NO_WATCH:
                if wd == NO_WATCH:
                    self._let_go(entry)  # perhaps it only may not be read any more
                else:
                    self._leave(entry)
            if wd != NO_WATCH:
                if self.directories.covered:
                    self.directories.release(entry.path)
                if wd in self._table:
                    self._table.bind(entry, wd)
                else:
                    entry.wd = wd
                    self._table[wd] = entry
                    if self.nameless and wd in self.nameless:
                        self.nameless.drop(wd)
                if self._session.needs_thread:
                    self._session.start_thread()
                if self._session.has_failed:
                    self._unwatch(entry)
                    return states.THREAD_FAILED
        if wd in self.sampled:
            # _watch() has armed it. Writes before that gave no events, so its other names are stat'ed as well.
            del self.sampled[wd]
            for sharer in self._table.entries(wd):
                if sharer is not entry:
                    self.on(sharer, states.QUIET)
        return reason

    def _settle(self, entry: Entry, reason: str | None) -> None:
        """Enter the state that follows from the kernel's answer, or poll if the filesystem reports no events."""
        if reason is None and entry.stats.device in self.silent_devices:
            reason = states.FILESYSTEM
        elif reason in states.WATCH_FAILURES and entry.state.reason != reason:
            self._counts.watch_failures[reason] += 1
        self.on(entry, states.IS_WATCHED if reason is None else REFUSED[reason])

    def _leave(self, entry: Entry) -> None:
        """Note that the entry's path leads to another inode than the watched one, or nowhere."""
        wd = entry.wd
        if wd != NO_WATCH and self._table.unbind(entry):
            self.nameless.adopt(wd, entry.stats, os.path.dirname(entry.path))

    def _let_go(self, entry: Entry) -> None:
        """Unwatch a file; follow its inode without a name if the path leads to it no more."""
        is_there = False
        with contextlib.suppress(OSError):
            is_there = entry.wd == NO_WATCH or self.read_again(entry.path, entry.stats) is not None
        if is_there:
            self._unwatch(entry)
        else:
            self._leave(entry)

    def _unwatch(self, entry: Entry) -> None:
        wd = entry.wd
        if wd != NO_WATCH and self._table.unbind(entry):
            self._remove_unused(wd)

    def _remove_unused(self, wd: int) -> None:
        if wd != NO_WATCH and wd not in self._table and wd not in self.nameless:
            self.handles.pop(wd, None)
            self.sampled.pop(wd, None)
            self._watches.remove(wd)

    def _disarm(self, entry: Entry) -> None:
        wd = entry.wd
        sharers = self._table.entries(wd)
        inotify = self._session.inotify
        try:
            disarmed = NO_WATCH if inotify is None else inotify.add_watch(entry.path, DISARMED_MASK)
        except OSError:
            disarmed = NO_WATCH
        if disarmed in self._table:
            self.sampled.add(disarmed, time.monotonic())
            for sharer in self._table.entries(disarmed):
                self.on(sharer, states.DISARMED)
            for sharer in sharers:
                self.grown.pop(sharer.path, None)
        if disarmed in self._watches.directories:
            self.directories.arm_again(disarmed)
        if disarmed != wd:  # the path leads to another inode by now
            self.on(entry, states.TOUCHED)
            if disarmed not in self._watches.directories:
                self._remove_unused(disarmed)

    def give_up_a_watch(self) -> bool:
        """Unwatch one file, so that a directory can have its watch; return whether there was one."""
        if self.nameless.give_up_a_watch():
            return True
        wd = self._table.latest()
        if wd is None:
            return False
        entry = self._table.entries(wd)[0]
        is_covered = self.directories.cover(entry.path)
        self._unwatch(entry)
        if is_covered:
            if entry.state is SAMPLED:
                self.on(entry, states.IS_WATCHED)
            self.stat(entry, watch=False)  # pending events of the removed watch are ignored
        else:
            self._settle(entry, states.WATCH_LIMIT)
        return True
