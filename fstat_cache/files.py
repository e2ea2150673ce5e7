"""The tracked files: watched, stat'ed, and kept in the dictionary of their state."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator

from fstat_cache import states
from fstat_cache.changes import Changes
from fstat_cache.directories import Directories
from fstat_cache.hanging import Found
from fstat_cache.inotify import IN_ATTRIB, IN_DELETE_SELF, IN_MODIFY, IN_MOVE_SELF, NO_WATCH
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
from fstat_cache.stats import FileStats, read_again, read_stats
from fstat_cache.watches import Entry, Watches, reason_of

log = logging.getLogger(__name__)

ARMED_MASK = IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF
"""What an armed watch reports. IN_ATTRIB also reports that a name was unlinked or replaced (the link count)."""
DISARMED_MASK = IN_MOVE_SELF | IN_DELETE_SELF

_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class Counts:
    """What is counted for ever, whatever happens to the entries."""

    def __init__(self) -> None:
        self.queue_overflows = 0
        self.watch_failures: Counter[str] = Counter()
        self.audit_checks = 0
        self.audit_mismatches = 0


class Files:
    """Files by path. Does what the table of states says.

    Args:
        session: has the thread that takes in events in time.
        watches: shared with the directories.
        changes: what a stat has found is added to these.
        served: where entries stand that may be believed.
        counts: continued.
    """

    def __init__(
        self, session: Session, watches: Watches, changes: Changes, served: dict[str, Entry], counts: Counts
    ) -> None:
        self.served = served
        self.left = 0  # how often entries have left `served`
        self.doubtful: dict[str, Entry] = {}
        self.polled: dict[str, Entry] = {}
        self.remote: dict[str, Entry] = {}
        self.sampled = states.Sampled(states.FILES)
        self.directories = Directories(changes, watches, self._on_covered)
        self.silent_devices: frozenset[int] = frozenset()  # whose filesystems report nothing
        self.polled_for: Counter[str] = Counter()  # reason -> entries polled for it now
        self.grown: dict[str, tuple[Entry, float]] = {}  # found grown by an audit, when, and no event since
        self.tell = changes.add_stat
        self._homes = {EVENTS: served, SAMPLED: served, RECHECK: self.doubtful, REMOTE: self.remote}
        self._homes |= dict.fromkeys(POLLED.values(), self.polled)
        self._session = session
        self._counts = counts
        self._watches = watches
        self._table = watches.files

    def __len__(self) -> int:
        return len(self.served) + len(self.doubtful) + len(self.polled) + len(self.remote)

    def __iter__(self) -> Iterator[Entry]:
        dictionaries = (self.served, self.doubtful, self.polled, self.remote)
        return itertools.chain.from_iterable(entries.values() for entries in dictionaries)

    def find(self, path: str) -> Entry | None:
        """The entry of a path, whatever its state."""
        entry = self.served.get(path)
        if entry is None and (self.doubtful or self.polled or self.remote):
            entry = self.doubtful.get(path) or self.polled.get(path) or self.remote.get(path)
        return entry

    # -- tracking -----------------------------------------------------------------------------------------------------

    def track(self, path: str) -> Entry | None:
        """Watch a file that has no entry, then stat it: so a change in between is an event and not a loss.

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
            stats = read_stats(path)
        finally:
            if stats is None:
                self._remove_unused(wd)
                self.directories.release(path)
        if stats is None:
            return None
        self.tell(path, stats)  # before its other names are stat'ed, because stats are reported in their order
        entry = Entry(path, stats)
        reason = self._bind(entry, wd, reason)
        if reason is None and stats.identity[0] not in self.silent_devices:  # as in _settle(), for nearly all
            entry.state, _ = TABLE[entry.state, states.IS_WATCHED]
            self.served[path] = entry
        else:
            self._settle(entry, reason)
        return entry

    def track_remote(self, path: str, stats: FileStats) -> Entry:
        """Make an entry for a file that a worker has stat'ed."""
        entry = Entry(path, stats)
        self.on(entry, states.MOUNTED_REMOTE)
        self.tell(path, stats)
        return entry

    def untrack(self, entry: Entry) -> None:
        """Unwatch a file and forget it."""
        self._enter(entry, GONE)
        self.grown.pop(entry.path, None)
        self._unwatch(entry)
        self.directories.release(entry.path)

    def forget(self) -> None:
        """Drop every entry without a word to the kernel, for a session that is about to be closed."""
        for entry in self:
            entry.state = GONE
        for entries in (self.served, self.doubtful, self.polled, self.remote):
            entries.clear()

    # -- states -------------------------------------------------------------------------------------------------------

    def on(self, entry: Entry, event: Event) -> None:
        """Do what the table says about an event, and enter the state."""
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
        """Move an entry where its state belongs; the first and the last polled one of a kind are worth a log line."""
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
                log.info("no file is polled any more for %s", was.reason)
        if state.reason is not None:
            self.directories.release(entry.path)
            self.polled_for[state.reason] += 1
            if self.polled_for[state.reason] == 1 and (remedy := states.REMEDIES.get(state.reason)):
                log.warning("files are polled instead of watched, the first is %s: %s", entry.path, remedy)

    def distrust(self) -> None:
        """Serve nothing from memory before it was watched again and stat'ed: events may have been lost."""
        self.directories.recheck(self.directories.by_path.values())
        self.grown.clear()  # that there was no event says nothing now
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
        """Stat an entry's file and take over what is found. When the file has gone the entry is, too.

        Args:
            entry: any but a remote one.
            watch: watch its path again first, because the path may lead to another inode now. The returned watch
                tells: device, inode number and size may all be the same (ext4 gives a number again at once).
        """
        was, reason = entry.stats, None
        try:
            if not watch:
                stats = read_stats(entry.path, was) if entry.wd == NO_WATCH else self._stat_watched(entry)
                watch = stats is not None and stats.identity != was.identity and entry.state in BELIEVED
            if watch:
                wd = entry.wd
                reason = self._bind(entry, *self._watch(entry.path, has_watch=wd != NO_WATCH))
                stats = read_stats(entry.path, was if entry.wd == wd else None)
        except _NO_FILE:
            stats = None
        except OSError as error:
            # Whoever asks next gets this error from os.stat; until then there is nothing true to remember.
            log.debug("dropped from the cache: %s: %s", entry.path, error)
            stats = None
        self.take_over(entry, stats)
        if watch and stats is not None:
            self._settle(entry, reason)

    def _stat_watched(self, entry: Entry) -> FileStats | None:
        stats = read_again(entry.path, entry.stats)
        # The number of a watched inode is given to another one only after IN_DELETE_SELF was queued.
        inotify = self._session.inotify
        if stats is not entry.stats and (stats is None or (inotify is not None and inotify.pending_bytes() > 0)):
            stats = read_stats(entry.path)
        return stats

    def take_over(self, entry: Entry, found: Found) -> None:
        """Take over what a stat has found; an error says nothing."""
        if isinstance(found, OSError) or found == entry.stats:
            return
        if found is None:
            self.untrack(entry)
        else:
            entry.stats = found
        self.tell(entry.path, found)

    # -- watching -----------------------------------------------------------------------------------------------------

    def _watch(self, path: str, *, has_watch: bool) -> tuple[int, str | None]:
        """Arm a watch on what is at ``path`` now.

        Returns:
            Its descriptor and None, or :data:`NO_WATCH` and the reason for it; neither where it is covered.

        Raises:
            FileNotFoundError, NotADirectoryError: nothing is there.
            IsADirectoryError: a directory is there that is watched as such.
        """
        session, watches = self._session, self._watches
        is_open = session.inotify is not None and watches.limit is not None and not session.is_closed
        if (not is_open or session.has_failed) and (reason := watches.open()):
            return NO_WATCH, reason
        assert session.inotify is not None
        try:
            if not has_watch and len(self._table) + len(watches.directories) >= (watches.limit or 0):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            wd = session.inotify.add_watch(path, ARMED_MASK)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            reason = reason_of(error)
            return NO_WATCH, None if reason == states.WATCH_LIMIT and self.directories.cover(path) else reason
        if wd in watches.directories:
            self.directories.arm_again(wd)
            raise IsADirectoryError(path)
        return wd, None

    def _bind(self, entry: Entry, wd: int, reason: str | None) -> str | None:
        """Follow an entry by a watch, or by none; give the reason for which it is polled."""
        if wd != entry.wd:
            if entry.wd != NO_WATCH:
                self._unwatch(entry)
            if wd != NO_WATCH:
                if self.directories.covered:
                    self.directories.release(entry.path)
                if wd in self._table:
                    self._table.bind(entry, wd)
                else:
                    entry.wd = wd
                    self._table[wd] = entry
                if self._session.needs_thread:
                    self._session.start_thread()
                if self._session.has_failed:
                    self._unwatch(entry)
                    return states.THREAD_FAILED
        if wd in self.sampled:
            # It is armed now. Of what was written before nobody was notified, so its other names are stat'ed as well.
            del self.sampled[wd]
            for sharer in self._table.entries(wd):
                if sharer is not entry:
                    self.on(sharer, states.QUIET)
        return reason

    def _settle(self, entry: Entry, reason: str | None) -> None:
        """Have an entry followed as the kernel has answered, or polled if its filesystem reports nothing."""
        if reason is None and entry.stats.device in self.silent_devices:
            reason = states.FILESYSTEM
        elif reason in states.WATCH_FAILURES and entry.state.reason != reason:
            self._counts.watch_failures[reason] += 1
        self.on(entry, states.IS_WATCHED if reason is None else REFUSED[reason])

    def _unwatch(self, entry: Entry) -> None:
        wd = entry.wd
        if wd != NO_WATCH and self._table.unbind(entry):
            self._remove_unused(wd)

    def _remove_unused(self, wd: int) -> None:
        if wd != NO_WATCH and wd not in self._table:
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
        if disarmed != wd:  # the path has led to something else since
            self.on(entry, states.TOUCHED)
            if disarmed not in self._watches.directories:
                self._remove_unused(disarmed)

    def give_up_a_watch(self) -> bool:
        """Unwatch one file for the sake of a directory; whether there was one."""
        wd = self._table.latest()
        if wd is None:
            return False
        entry = self._table.entries(wd)[0]
        is_covered = self.directories.cover(entry.path)
        self._unwatch(entry)
        if is_covered:
            if entry.state is SAMPLED:
                self.on(entry, states.IS_WATCHED)
            self.stat(entry, watch=False)  # what was reported by the other watch is reported to nobody now
        else:
            self._settle(entry, states.WATCH_LIMIT)
        return True
