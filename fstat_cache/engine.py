"""Tracks files and directories with inotify: watches, takes in what the kernel reports, stats where it does not report.

An entry stands in the dictionary of its state. Nothing here takes a lock: whoever owns the engine calls it by one
thread at a time. Only ``served`` may be read by others meanwhile.
"""

from __future__ import annotations

import errno
import itertools
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from fstat_cache import states
from fstat_cache.changes import Changes
from fstat_cache.directories import OF_FILES, Directories
from fstat_cache.hanging import Found, RemoteMounts
from fstat_cache.inotify import (
    IN_ATTRIB,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_ISDIR,
    IN_MODIFY,
    IN_MOVE_SELF,
    NO_WATCH,
    Events,
)
from fstat_cache.mounts import Mount, MountTable
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
from fstat_cache.watches import Entry, Watches

log = logging.getLogger(__name__)

ARMED_MASK = IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF
"""What an armed watch reports. IN_ATTRIB also reports that a name was unlinked or replaced (the link count)."""
DISARMED_MASK = IN_MOVE_SELF | IN_DELETE_SELF

AUTOFS = "autofs"
"""Why a directory is not watched that a mere listing would have mounted."""

_REASONS = {
    errno.ENOSPC: states.WATCH_LIMIT,
    errno.EACCES: states.PERMISSION,
    errno.EPERM: states.PERMISSION,
}
_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

OVERFLOW_SILENCE_S = 60.0
"""How long no queue may overflow before an overflow is worth a line in the log again."""


class Counts:
    """What is counted for ever, whatever happens to the entries."""

    def __init__(self) -> None:
        self.queue_overflows = 0
        self.watch_failures: Counter[str] = Counter()
        self.audit_checks = 0
        self.audit_mismatches = 0


class Engine:
    """Keeps entries true. Its changes are values, for the owner to take.

    Args:
        session: what is held of the system; opened here, closed by its owner.
        counts: continued.
        changes: what a new stat has found is added to these.
        workers: those that stat remote files; threads of mounts that have gone are ended.
        served: where entries stand that may be believed.
        max_watches: as of :class:`Watches`.
    """

    def __init__(
        self,
        session: Session,
        counts: Counts,
        changes: Changes,
        workers: RemoteMounts,
        served: dict[str, Entry],
        *,
        max_watches: int | None,
    ) -> None:
        self.served = served  # true as far as events were taken in
        self.doubtful: dict[str, Entry] = {}
        self.polled: dict[str, Entry] = {}
        self.remote: dict[str, Entry] = {}
        self.late: dict[str, OSError] = {}  # remote files that the latest sync() got no answer for
        self.sampled = states.Sampled(states.FILES)
        self.watches = Watches(session, max_watches)
        self.directories = Directories(changes, self.watches, self._recheck_uncovered)
        self.mounts = MountTable((), {})
        self.polled_for: Counter[str] = Counter()  # reason -> entries polled for it now
        self.grown: dict[str, tuple[Entry, float]] = {}  # found grown by an audit, when, and no event since
        self.tell = changes.add_stat
        self._homes = {EVENTS: served, SAMPLED: served, RECHECK: self.doubtful, REMOTE: self.remote}
        self._homes |= dict.fromkeys(POLLED.values(), self.polled)
        self._session = session
        self._counts = counts
        self._workers = workers
        self._knows_mounts = False
        self._overflowed_at = -math.inf

    # -- the entries --------------------------------------------------------------------------------------------------

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

    def open(self) -> None:
        """Learn which filesystems there are; to be called before the first stat of a file. Free when that is done."""
        if self._knows_mounts or self._session.is_closed:
            return
        try:
            mounts = self._session.open_monitor().read()
        except FileNotFoundError:
            mounts = []  # no /proc: every filesystem is taken for a local one
        except OSError as error:
            log.debug("mounts not known yet: %s", error)  # no descriptor left, which the next watch reports aloud
            return
        self._knows_mounts = True
        self._take_in_mounts(mounts)

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
        self._settle(entry, self._bind(entry, wd, reason))
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
        if new is not None:
            new[entry.path] = entry
        reason = state.reason
        if reason == was.reason:
            return
        if was.reason is not None:
            self.polled_for[was.reason] -= 1
            if not self.polled_for[was.reason] and was.reason in states.REMEDIES:
                log.info("no file is polled any more for %s", was.reason)
        if reason is not None:
            self.directories.release(entry.path)
            self.polled_for[reason] += 1
            if self.polled_for[reason] == 1 and reason in states.REMEDIES:
                remedy = states.REMEDIES[reason]
                log.warning("files are polled instead of watched, the first is %s: %s", entry.path, remedy)

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
        if stats != was:
            self._take_over(entry, stats)
        if watch and stats is not None:
            self._settle(entry, reason)

    def _stat_watched(self, entry: Entry) -> FileStats | None:
        stats = read_again(entry.path, entry.stats)
        # The number of a watched inode is given to another one only after IN_DELETE_SELF was queued.
        inotify = self._session.inotify
        if stats is not entry.stats and (stats is None or (inotify is not None and inotify.pending_bytes() > 0)):
            stats = read_stats(entry.path)
        return stats

    def stat_remote(self, entry: Entry, found: Found) -> None:
        """Take over what a worker has found of a remote file."""
        if not isinstance(found, OSError) and found != entry.stats:
            self._take_over(entry, found)

    def _take_over(self, entry: Entry, stats: FileStats | None) -> None:
        if stats is None:
            self.untrack(entry)
        else:
            entry.stats = stats
        self.tell(entry.path, stats)

    # -- the watches --------------------------------------------------------------------------------------------------

    def _watch(self, path: str, *, has_watch: bool) -> tuple[int, str | None]:
        """Arm a watch on what is at ``path`` now.

        Returns:
            Its descriptor and None, or :data:`NO_WATCH` and the reason for it; neither where it is covered.

        Raises:
            FileNotFoundError, NotADirectoryError: nothing is there.
            IsADirectoryError: a directory is there that is watched as such.
        """
        if self._session.has_failed or self._session.is_closed:
            return NO_WATCH, states.THREAD_FAILED
        watches = self.watches
        inotify = self._session.inotify
        if inotify is None or watches.limit is None:
            try:
                inotify = watches.open()
            except OSError:  # whatever the number: without a descriptor, ctypes cannot even look for the C library
                return NO_WATCH, states.INSTANCE_LIMIT
        limit = watches.limit or 0
        try:
            if not has_watch and len(watches.files) + len(watches.directories) >= limit:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            wd = inotify.add_watch(path, ARMED_MASK)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, states.UNSUPPORTED)
            return NO_WATCH, None if reason == states.WATCH_LIMIT and self.directories.cover(path) else reason
        if wd in watches.directories:
            self.directories.arm_again(wd)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return wd, None

    def _bind(self, entry: Entry, wd: int, reason: str | None) -> str | None:
        """Follow an entry by a watch, or by none; give the reason for which it is polled."""
        if wd != entry.wd:
            if entry.wd != NO_WATCH:
                self._unwatch(entry)
            if wd != NO_WATCH:
                if self.directories.covered:
                    self.directories.release(entry.path)
                self.watches.files.bind(entry, wd)
                if self._session.needs_thread and not self._start_thread():
                    self._unwatch(entry)
                    return states.THREAD_FAILED
        if wd in self.sampled:
            # It is armed now. Of what was written before nobody was notified, so its other names are stat'ed as well.
            del self.sampled[wd]
            for sharer in self.watches.files.entries(wd):
                if sharer is not entry:
                    self.on(sharer, states.QUIET)
        return reason

    def _settle(self, entry: Entry, reason: str | None) -> None:
        """Have an entry followed as the kernel has answered, or polled if its filesystem reports nothing."""
        if reason is None and entry.stats.identity[0] in self.mounts.silent_devices:
            reason = states.FILESYSTEM
        if reason is None:
            self.on(entry, states.IS_WATCHED)
        else:
            if reason in states.WATCH_FAILURES and entry.state.reason != reason:
                self._counts.watch_failures[reason] += 1
            self.on(entry, REFUSED[reason])

    def _start_thread(self) -> bool:
        try:
            self._session.start_thread()
        except RuntimeError as error:  # no more threads
            log.warning("%s", error)
            self.fail()
        return not self._session.has_failed

    def _unwatch(self, entry: Entry) -> None:
        wd = entry.wd
        if wd != NO_WATCH and self.watches.files.unbind(entry):
            self._remove_unused(wd)

    def _remove_unused(self, wd: int) -> None:
        if wd != NO_WATCH and wd not in self.watches.files:
            self.sampled.pop(wd, None)
            self.watches.remove(wd)

    # -- the directories ----------------------------------------------------------------------------------------------

    def watch_directory(self, path: str) -> str | None:
        """Watch a directory, if need be in the place of a file: a file without a watch is polled, a new file in a
        directory without one is not found.

        Returns:
            None, or the reason for which it is not watched, :data:`AUTOFS` among them; mounts above it are reported.

        Raises:
            FileNotFoundError, NotADirectoryError: no directory is there.
        """
        mount = self.mounts.remote_of(path)
        if mount is not None:
            self.directories.add(path, states.MOUNTED_REMOTE)
            return AUTOFS if mount.fs_type == "autofs" else states.REMOTE_FILESYSTEM
        reason = self._watch_local_directory(path)
        if reason is not None:
            self.directories.add(path, REFUSED[reason])
        return reason

    def _watch_local_directory(self, path: str) -> str | None:
        if self._session.has_failed or self._session.is_closed:
            return states.THREAD_FAILED
        try:
            self.watches.open()
        except OSError:
            return states.INSTANCE_LIMIT
        while True:
            try:
                self.directories.watch(path)
            except (FileNotFoundError, NotADirectoryError):
                raise
            except OSError as error:
                if error.errno != errno.ENOSPC or not self._give_up_a_watch():
                    return _REASONS.get(error.errno or 0, states.UNSUPPORTED)
            else:
                break
        if self._session.needs_thread and not self._start_thread():
            return states.THREAD_FAILED
        try:
            return states.FILESYSTEM if os.stat(path).st_dev in self.mounts.silent_devices else None
        except OSError:
            return None  # gone again, which is an event

    def _give_up_a_watch(self) -> bool:
        wd = self.watches.files.latest()
        if wd is None:
            return False
        entry = self.watches.files.entries(wd)[0]
        is_covered = self.directories.cover(entry.path)
        self._unwatch(entry)
        if is_covered:
            if entry.state is SAMPLED:
                self.on(entry, states.IS_WATCHED)
            self.stat(entry, watch=False)  # what was reported by the other watch is reported to nobody now
        else:
            self._settle(entry, states.WATCH_LIMIT)
        return True

    def _recheck_uncovered(self, path: str) -> None:
        entry = self.served.get(path)
        if entry is not None:
            self.on(entry, states.LOST)

    # -- what happened ------------------------------------------------------------------------------------------------

    def take_in(self, news: list[tuple[int, int]]) -> None:
        """Take in what the kernel has to report.

        Args:
            news: what :attr:`Session.news` has given.
        """
        session = self._session
        try:
            for fd, _ in news:
                if session.monitor is not None and fd == session.monitor.fd:
                    self._take_in_mounts(session.monitor.read())
                elif session.inotify is not None:
                    self._take_in_events(session.inotify.read())
        except BaseException:
            self.distrust()  # the rest is lost
            raise

    def distrust(self) -> None:
        """Serve nothing from memory before it was watched again and stat'ed: events may have been lost."""
        self.directories.recheck(self.directories)
        self.grown.clear()  # that there was no event says nothing now
        self.doubtful.update(self.served)
        for entry in self.served.values():
            entry.state = TABLE[entry.state, states.LOST][0]
        self.served.clear()

    def fail(self) -> None:
        """Serve nothing from memory any more: nobody will take in events in time."""
        self._session.has_failed = True
        self.distrust()

    def _take_in_events(self, events: Events, within: float = math.inf) -> None:
        """Take in one batch.

        Args:
            events: the batch.
            within: how many files were stat'ed when this was read ahead; infinite for what was not. A batch that is
                read ahead in turn must have half as many, so that this ends however much is written.
        """
        notes, names, total = events
        overflow = notes.pop(NO_WATCH, 0)
        if overflow:
            self._counts.queue_overflows += 1
            now, overflowed_at = time.monotonic(), self._overflowed_at
            self._overflowed_at = now
            if now - overflowed_at > OVERFLOW_SILENCE_S:
                log.warning("the kernel's queue of events has overflowed: every file is stat'ed again")
            self.distrust()
        now = time.monotonic()
        files, directories = self.watches.files, self.watches.directories
        busy = []
        if names:
            if self.directories.covered:
                for path, mask in self.directories.touched(names).items():
                    self.grown.pop(path, None)
                    entry = self.served.get(path)
                    if entry is not None:
                        self.on(entry, states.WRITTEN if mask == IN_MODIFY else states.TOUCHED)
            busy += [event.wd for event in names if event.mask == IN_MODIFY and event.wd in directories]
            come_and_gone = [event for event in names if event.mask & ~(OF_FILES | IN_ISDIR)]
            self.directories.take_in_names(come_and_gone, now, overflow=bool(overflow), total=total)
        written = []
        for wd, mask in notes.items():
            sole = files.get(wd)
            if mask == IN_MODIFY and isinstance(sole, Entry) and sole.state is EVENTS and not self.grown:
                written.append(sole)  # as nearly always
                busy.append(wd)
                continue
            if wd in directories:
                self.directories.take_in_note(wd, mask)
                continue
            entries = files.entries(wd)
            if mask & IN_IGNORED:
                files.discard(wd)
                self.sampled.pop(wd, None)
            for entry in entries:
                self.grown.pop(entry.path, None)
                if mask == IN_MODIFY and entry.state in BELIEVED:
                    written.append(entry)
                else:
                    self.on(entry, states.TOUCHED)
            if wd in files:
                busy.append(wd)
        if written:
            written = [entry for entry in written if entry.state in BELIEVED and entry.wd != NO_WATCH]
            self._stat_written(written, within)
        if overflow:
            busy = list(dict.fromkeys(busy))
        elif within != math.inf:
            busy = []
        elif busy:
            busy = list(self.sampled.after_batch(busy, now))
        else:
            self.sampled.counts.clear()
        for wd in busy:
            if wd in directories:
                self._poll_covered(wd)
            elif entries := files.entries(wd):
                self.on(entries[0], states.BUSY)

    def _disarm(self, entry: Entry) -> None:
        inotify = self._session.inotify
        if inotify is None:
            return
        wd = entry.wd
        sharers = self.watches.files.entries(wd)
        try:
            disarmed = inotify.add_watch(entry.path, DISARMED_MASK)
        except OSError:
            disarmed = NO_WATCH
        if disarmed in self.watches.files:
            self.sampled.add(disarmed, time.monotonic())
            for sharer in self.watches.files.entries(disarmed):
                self.on(sharer, states.DISARMED)
            for sharer in sharers:
                self.grown.pop(sharer.path, None)
        if disarmed in self.watches.directories:
            self.directories.arm_again(disarmed)
            self.on(entry, states.TOUCHED)
        elif disarmed != wd:  # the path has led to another inode since
            self.on(entry, states.TOUCHED)
            self._remove_unused(disarmed)

    def _poll_covered(self, wd: int) -> None:
        """Stat the files that a directory's watch covers whenever asked, for it slows their writers."""
        for path in self.directories.release_busy(wd):
            entry = self.served.get(path)
            if entry is not None:
                self.on(entry, REFUSED[states.WATCH_LIMIT])

    def _take_in_mounts(self, mounts: list[Mount]) -> None:
        before, self.mounts = self.mounts, self.mounts.successor(mounts)
        self._workers.keep(self.mounts.remote)
        places = itertools.chain((os.path.dirname(entry.path) for entry in self), self.directories)
        moved = before.moved(self.mounts, places)
        self.directories.recheck([path for path in self.directories if path in moved], states.MOUNTED)
        for entry in [entry for entry in self if os.path.dirname(entry.path) in moved]:
            is_remote = self.mounts.remote_of(entry.path) is not None
            self.on(entry, states.MOUNTED_REMOTE if is_remote else states.MOUNTED)

    # -- asking -------------------------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Stat the sampled files, and arm those again that have been quiet."""
        changed = self._stat_written(self.watches.files.entries_of(self.sampled))
        busy = [entry.wd for entry in changed if entry.wd in self.sampled]
        for wd in self.sampled.after_samples(busy, time.monotonic()):
            for entry in self.watches.files.entries(wd):
                self.on(entry, states.QUIET)

    def _stat_written(self, entries: Sequence[Entry], within: float = math.inf) -> list[Entry]:
        """Stat the files of watched entries, which are not armed by it; return those that were found changed.

        Args:
            entries: those.
            within: as of :meth:`_take_in_events`.
        """
        changed: list[Entry] = []
        found: list[FileStats] = []
        replaced: list[Entry] = []
        for entry in entries:
            known = entry.stats
            try:
                stats = read_again(entry.path, known)
            except OSError:
                stats = None
            if stats is None:
                replaced.append(entry)
            elif stats is not known:
                changed.append(entry)
                found.append(stats)
        # As in stat(), but asked once for all. Stats are reported in their order, so these before any later one.
        is_certain = True
        later = None
        try:
            inotify = self._session.inotify
            if changed and inotify is not None:
                if 2 * len(entries) <= within:
                    later = inotify.read()
                    is_certain = not later.total or later.are_writes  # to others, or to these once more: nearly always
                else:
                    is_certain = not inotify.pending_bytes()
            if is_certain:
                for entry, stats in zip(changed, found, strict=True):
                    entry.stats = stats
                    self.tell(entry.path, stats)
            if later is not None and later.total:
                self._take_in_events(later, within=len(entries))
        except BaseException:
            self.distrust()  # the rest of what was read is lost
            raise
        if not is_certain:
            for entry in changed:
                self.on(entry, states.WRITTEN)
        for entry in replaced:
            self.on(entry, states.TOUCHED)
        return changed

    def recover(self, files: int | None = None) -> None:
        """Watch again and stat what is doubtful.

        Args:
            files: how many entries at most; None: all.
        """
        self.open()
        for entry in tuple(itertools.islice(self.doubtful.values(), files)):
            self.on(entry, states.ASKED)

    def stat_polled(self) -> None:
        """Stat everything that is not watched, but for remote files, and watch again what can be."""
        self.open()
        may_watch = True
        for entry in tuple(self.polled.values()):
            if entry.state.reason in states.LIMITS:
                self.stat(entry, watch=may_watch)
                if may_watch and entry.state.reason in states.LIMITS:  # one refusal speaks for all; next time another
                    may_watch = False
                    self.polled[entry.path] = self.polled.pop(entry.path)
            else:
                self.on(entry, states.ASKED)

    def forget(self) -> None:
        """Drop every entry without a word to the kernel, for a session that is about to be closed."""
        for entry in self:
            entry.state = GONE
        for entries in (self.served, self.doubtful, self.polled, self.remote):
            entries.clear()
