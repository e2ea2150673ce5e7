"""What is known of each file, and how it is kept true: the books behind the cache.

An entry stands in one of four dictionaries, and which one says how far its stats may be believed. Nothing here takes a
lock: whoever owns the follower calls it by one thread at a time. Only ``served`` may be read by others meanwhile.
"""

from __future__ import annotations

import errno
import itertools
import logging
import select
import time
from collections import Counter
from collections.abc import Callable, Iterator

from fstat_cache.hot import HotWatches
from fstat_cache.kernel import (
    IN_ATTRIB,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_MODIFY,
    IN_MOVE_SELF,
    NO_WATCH,
    Inotify,
    greatest_number_of_watches,
)
from fstat_cache.mounts import MountMonitor, MountTable, is_below
from fstat_cache.remote import Found
from fstat_cache.stats import FileStats, read_stats
from fstat_cache.watches import WatchTable

log = logging.getLogger(__name__)

ARMED = IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF
"""What an armed watch reports. IN_ATTRIB also tells that a name was unlinked or replaced (the link count)."""
DISARMED = IN_MOVE_SELF | IN_DELETE_SELF

# Why a file is polled.
WATCH_LIMIT = "watch_limit"
INSTANCE_LIMIT = "instance_limit"
PERMISSION = "permission"
UNSUPPORTED = "unsupported"
THREAD_FAILED = "thread_failed"
FILESYSTEM = "filesystem"
REMOTE = "remote"
AUDIT = "audit"

_REASONS = {
    errno.ENOSPC: WATCH_LIMIT,
    errno.EMFILE: INSTANCE_LIMIT,
    errno.ENFILE: INSTANCE_LIMIT,
    errno.EACCES: PERMISSION,
    errno.EPERM: PERMISSION,
}
_REMEDIES = {
    WATCH_LIMIT: "no more inotify watches, of which a cache takes half: raise the sysctl fs.inotify.max_user_watches",
    INSTANCE_LIMIT: "no more inotify instances or descriptors: raise the sysctl fs.inotify.max_user_instances "
    "or the limit of open files",
    PERMISSION: "no permission to watch: inotify needs read permission on the file itself, or CAP_DAC_READ_SEARCH",
    UNSUPPORTED: "the kernel refuses to watch a file",
    THREAD_FAILED: "the thread that follows changes has failed: restart the process",
    AUDIT: "a file changed without an event (mmap, direct I/O, a directory renamed above it, a link pointed elsewhere)",
}
WATCH_FAILURES = (WATCH_LIMIT, INSTANCE_LIMIT, PERMISSION, UNSUPPORTED)
"""The reasons that are failures to watch."""
POLL_REASONS = (*WATCH_FAILURES, THREAD_FAILED, FILESYSTEM, REMOTE, AUDIT)
"""All reasons for which a file is polled."""
_NEVER_WATCHED = (FILESYSTEM, AUDIT)
_LIMITS = (WATCH_LIMIT, INSTANCE_LIMIT)

IN_FLIGHT_S = 0.005
"""How long a write may take between the growth of its file and its event, for all that an audit waits."""


class Entry:
    """One file that is followed."""

    __slots__ = ("dropped", "path", "reason", "stats", "used", "wd")

    def __init__(self, path: str, stats: FileStats) -> None:
        self.path = path
        self.stats = stats
        self.used = 0  # the owner's clock at its last use
        self.wd = NO_WATCH
        self.reason: str | None = None  # why it is polled; None when it is not
        self.dropped = False


class Counts:
    """What is counted for ever, whatever happens to the entries."""

    def __init__(self) -> None:
        self.queue_overflows = 0
        self.watch_failures: Counter[str] = Counter()
        self.audit_checks = 0
        self.audit_mismatches = 0


class Follower:
    """Watches files, takes in what the kernel tells of them, and looks again where it does not tell.

    Args:
        counts: continued.
        max_watches: how many watches may be taken; None: half of what the kernel allows the user.
        on_change: called with a path and its new stats, or with None after its file has gone.
    """

    def __init__(
        self,
        counts: Counts,
        *,
        max_watches: int | None,
        on_change: Callable[[str, FileStats | None], None] | None,
    ) -> None:
        self.served: dict[str, Entry] = {}  # watched, and true as far as events were taken in
        self.doubtful: dict[str, Entry] = {}  # an event may have been lost: to be watched again, then looked at
        self.polled: dict[str, Entry] = {}  # not watched: looked at whenever asked
        self.remote: dict[str, Entry] = {}  # not watched, and looked at only by a thread that may hang
        self.is_open = False
        self.hot = HotWatches()
        self.mounts = MountTable(())
        self.polled_for: Counter[str] = Counter()
        self._counts = counts
        self._max_watches = max_watches
        self._on_change = on_change
        self._watches: WatchTable[Entry] = WatchTable()
        self.inotify: Inotify | None = None  # from the first watch on: what is to be waited for
        self._monitor: MountMonitor | None = None
        self._news = select.poll()
        self._audit_ahead: list[str] = []
        self._failed = False

    # -- the entries --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.served) + len(self.doubtful) + len(self.polled) + len(self.remote)

    def __iter__(self) -> Iterator[Entry]:
        dictionaries = (self.served, self.doubtful, self.polled, self.remote)
        return itertools.chain.from_iterable(entries.values() for entries in dictionaries)

    @property
    def watches(self) -> int:
        """How many inotify watches are held."""
        return len(self._watches)

    def find(self, path: str) -> Entry | None:
        """The entry of a path, whatever its state."""
        return self.served.get(path) or self.doubtful.get(path) or self.polled.get(path) or self.remote.get(path)

    def open(self) -> None:
        """Learn which filesystems there are; to be called once, before the first look at any file."""
        self.is_open = True
        self._monitor = MountMonitor.open()
        if self._monitor is not None:
            self._news.register(self._monitor.fd, select.POLLPRI)
            self.mounts = MountTable.read()

    def meet(self, path: str) -> Entry | None:
        """Watch a file that has no entry, then look at it: so a change in between is an event and not a loss.

        Returns:
            An entry that is still to be placed; None when no regular file is there.

        Raises:
            OSError: what ``os.stat`` raises for anything but absence.
        """
        try:
            wd, reason = self._watch(path, has_watch=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        stats = None
        try:
            stats = read_stats(path)
        finally:
            if stats is None:
                self._remove_unused(wd)
        if stats is None:
            return None
        entry = Entry(path, stats)
        self._bind(entry, wd, reason)
        return entry

    def meet_remote(self, path: str, stats: FileStats) -> Entry:
        """Make an entry, still to be placed, for a file that its mount's thread has looked at."""
        entry = Entry(path, stats)
        self._set_reason(entry, REMOTE)
        return entry

    def place(self, entry: Entry) -> None:
        """Put an entry that has just been looked at where its state belongs."""
        for entries in (self.served, self.doubtful, self.polled, self.remote):
            entries.pop(entry.path, None)
        if entry.reason is None:
            self.served[entry.path] = entry
        elif entry.reason == REMOTE:
            self.remote[entry.path] = entry
        else:
            self.polled[entry.path] = entry

    def drop(self, entry: Entry) -> None:
        """Unwatch a file and forget it."""
        entry.dropped = True
        for entries in (self.served, self.doubtful, self.polled, self.remote):
            entries.pop(entry.path, None)
        self._unwatch(entry)
        self._set_reason(entry, None)

    def refresh(self, entry: Entry, *, rebind: bool) -> FileStats | None:
        """Look at an entry's file and take over what is found.

        Args:
            entry: any but a remote one.
            rebind: watch its path again first, because the path may lead to another inode now. The returned watch
                tells: device, inode number and size may all be the same (ext4 gives a number again at once).

        Returns:
            The entry's stats, the same object if nothing changed; None when the file has gone and the entry with it.
        """
        was = entry.stats
        try:
            if rebind:
                self._rebind(entry)
            stats = read_stats(entry.path, was)
            if (
                not rebind
                and stats is not None
                and entry.wd != NO_WATCH
                and (stats.inode != was.inode or stats.device != was.device)
            ):
                rebind = True
                self._rebind(entry)
                stats = read_stats(entry.path, was)
        except (FileNotFoundError, NotADirectoryError):
            stats = None
        except OSError as error:
            # Whoever asks next gets this error from os.stat; until then there is nothing true to remember.
            log.debug("dropped from the cache: %s: %s", entry.path, error)
            stats = None
        if rebind and stats is not None:
            self.place(entry)
        if stats is not was:
            self._take_over(entry, stats)
        return stats

    def look_again(self, entry: Entry) -> FileStats | None:
        """Look at an entry that is not served from memory, and watch it again if that may help."""
        return self.refresh(entry, rebind=entry.reason not in _NEVER_WATCHED)

    def refresh_remote(self, entry: Entry, found: Found) -> None:
        """Take over what its mount's thread has found of a remote file."""
        if not isinstance(found, OSError) and found != entry.stats:
            self._take_over(entry, found)

    def _take_over(self, entry: Entry, stats: FileStats | None) -> None:
        if stats is None:
            self.drop(entry)
        else:
            entry.stats = stats
        if self._on_change is not None:
            try:
                self._on_change(entry.path, stats)
            except Exception:
                log.exception("on_change has failed for %s", entry.path)

    # -- the watches --------------------------------------------------------------------------------------------------

    def _watch(self, path: str, *, has_watch: bool) -> tuple[int, str | None]:
        """Arm a watch on what is at ``path`` now.

        Returns:
            Its descriptor and None, or :data:`NO_WATCH` and the reason for it.

        Raises:
            FileNotFoundError, NotADirectoryError: nothing is there.
        """
        if self._failed:
            return NO_WATCH, THREAD_FAILED
        try:
            inotify = self.inotify or self._start()
            if not has_watch and self._max_watches is not None and len(self._watches) >= self._max_watches:
                return NO_WATCH, WATCH_LIMIT
            wd = inotify.add_watch(path, ARMED)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            return NO_WATCH, _REASONS.get(error.errno or 0, UNSUPPORTED)
        self.hot.discard(wd)
        return wd, None

    def _start(self) -> Inotify:
        inotify = Inotify()
        if self._max_watches is None:
            self._max_watches = greatest_number_of_watches() // 2
        self.inotify = inotify
        self._news.register(inotify.fd, select.POLLIN)
        return inotify

    def _bind(self, entry: Entry, wd: int, reason: str | None) -> None:
        if wd != NO_WATCH and entry.stats.device in self.mounts.silent_devices:
            self._remove_unused(wd)
            wd, reason = NO_WATCH, FILESYSTEM
        if wd != entry.wd:
            self._unwatch(entry)
            if wd != NO_WATCH:
                self._watches.bind(entry, wd)
        self._set_reason(entry, reason)

    def _rebind(self, entry: Entry) -> None:
        wd, reason = self._watch(entry.path, has_watch=entry.wd != NO_WATCH)
        self._bind(entry, wd, reason)

    def _unwatch(self, entry: Entry) -> None:
        wd = entry.wd
        if wd != NO_WATCH and self._watches.unbind(entry):
            self._remove_unused(wd)

    def _remove_unused(self, wd: int) -> None:
        if wd != NO_WATCH and wd not in self._watches:
            self.hot.discard(wd)
            if self.inotify is not None:
                self.inotify.rm_watch(wd)

    def _set_reason(self, entry: Entry, reason: str | None) -> None:
        """Note why an entry is polled, or None; the first and the last one of a kind are worth a line in the log."""
        was, entry.reason = entry.reason, reason
        if reason == was:
            return
        if was is not None:
            self.polled_for[was] -= 1
            if not self.polled_for[was] and was in _REMEDIES:
                log.info("no file is polled any more for %s", was)
        if reason is not None:
            self.polled_for[reason] += 1
            if reason in WATCH_FAILURES:
                self._counts.watch_failures[reason] += 1
            if self.polled_for[reason] == 1 and reason in _REMEDIES:
                log.warning("files are polled instead of watched, the first is %s: %s", entry.path, _REMEDIES[reason])

    # -- what happened ------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take in all that the kernel has to tell."""
        # One poll for both descriptors costs less than to ask either of them anything.
        ready = self._news.poll(0)
        if not ready:
            return
        try:
            for fd, _ in ready:
                if self._monitor is not None and fd == self._monitor.fd:
                    self._take_in_mounts()
                elif self.inotify is not None:
                    self._take_in_events(self.inotify.read())
        except BaseException:  # KeyboardInterrupt as well: the rest of the batch is lost
            self.distrust()
            raise

    def distrust(self) -> None:
        """Serve nothing from memory before it was watched again and looked at: events may have been lost."""
        self.doubtful.update(self.served)
        self.served.clear()

    def fail(self) -> None:
        """Serve nothing from memory any more: nobody will take in events in time."""
        self._failed = True
        self.distrust()

    def _take_in_events(self, notes: dict[int, int]) -> None:
        overflow = notes.pop(NO_WATCH, 0)
        if overflow:
            self._counts.queue_overflows += 1
            self.distrust()
            log.warning("the kernel's queue of events has overflowed: every file is looked at again")
        busy = []
        for wd, mask in notes.items():
            entries = self._watches.entries(wd)
            if mask & IN_IGNORED:
                self._watches.discard(wd)
                self.hot.discard(wd)
            for entry in entries:
                self.refresh(entry, rebind=mask != IN_MODIFY or entry.path in self.doubtful)
            if wd in self._watches:
                busy.append(wd)
        now = time.monotonic()
        # Who wrote so much that the queue overflowed would make it overflow again.
        for wd in busy if overflow else self.hot.after_batch(busy, now):
            self._disarm(wd, now)

    def _disarm(self, wd: int, now: float) -> None:
        entry = self._watches.entries(wd)[0]
        assert self.inotify is not None
        try:
            is_same_inode = self.inotify.add_watch(entry.path, DISARMED) == wd
        except OSError:
            is_same_inode = False
        if is_same_inode:
            self.hot.add(wd, now)
        else:
            self.refresh(entry, rebind=True)

    def _take_in_mounts(self) -> None:
        before, self.mounts = self.mounts, MountTable.read()
        points = self.mounts.points_that_differ(before)
        for entry in [entry for entry in self if any(is_below(entry.path, point) for point in points)]:
            if self.mounts.remote_of(entry.path) is not None:
                self._unwatch(entry)
                self._set_reason(entry, REMOTE)
                self.place(entry)
            else:
                for entries in (self.served, self.polled, self.remote):
                    entries.pop(entry.path, None)
                self.doubtful[entry.path] = entry

    # -- looking ------------------------------------------------------------------------------------------------------

    def sample_hot(self) -> None:
        """Look at the hot files, and arm those again that have been quiet."""
        changed = []
        for wd in self.hot:
            for entry in self._watches.entries(wd):
                was = entry.stats
                if self.refresh(entry, rebind=False) is not was and entry.wd == wd:
                    changed.append(wd)
        for wd in self.hot.after_samples(changed, time.monotonic()):
            for entry in self._watches.entries(wd):
                self.refresh(entry, rebind=True)

    def recover(self) -> None:
        """Look at everything that is not served from memory, but for remote files, and watch again what can be."""
        for entry in tuple(self.doubtful.values()):
            self.refresh(entry, rebind=True)
        may_watch = True
        for entry in tuple(self.polled.values()):
            if entry.reason in _LIMITS:
                self.refresh(entry, rebind=may_watch)
                may_watch = may_watch and entry.reason not in _LIMITS  # one refusal speaks for all
            else:
                self.look_again(entry)

    def audit(self, files: int | None, drain: Callable[[], object]) -> int:
        """Compare served entries with a fresh look, in rotation; what differs without an event is polled from then on.

        Args:
            files: how many entries; None: all.
            drain: takes in the events that have come meanwhile.

        Returns:
            How many differed. They are true again.
        """
        if files is None or not self._audit_ahead:
            self._audit_ahead = list(self.served)
        suspects: list[tuple[Entry, FileStats]] = []
        for _ in range(len(self._audit_ahead) if files is None else min(files, len(self._audit_ahead))):
            entry = self.served.get(self._audit_ahead.pop())
            if entry is None or entry.wd in self.hot:
                continue
            self._counts.audit_checks += 1
            try:
                seen = read_stats(entry.path, entry.stats)
            except OSError:
                seen = None
            if seen is not entry.stats:
                suspects.append((entry, entry.stats))
        # A file may have changed after the latest event was taken in, or be in the middle of a write(2) just now.
        for wait_s in (0.0, IN_FLIGHT_S, IN_FLIGHT_S):
            if not suspects:
                return 0
            time.sleep(wait_s)
            drain()
            suspects = [(entry, was) for entry, was in suspects if entry.stats is was and not entry.dropped]
        for entry, _ in suspects:
            if entry.path not in self.served:
                continue  # the queue has overflowed meanwhile: that it is wrong is no news
            self._counts.audit_mismatches += 1
            if self.refresh(entry, rebind=True) is not None and entry.reason is None:
                self._unwatch(entry)
                self._set_reason(entry, AUDIT)
                self.place(entry)
        return len(suspects)

    def forget(self) -> None:
        """Drop every entry; what is held of the kernel is released by :meth:`close`."""
        for entry in self:
            entry.dropped = True
        for entries in (self.served, self.doubtful, self.polled, self.remote):
            entries.clear()

    def close(self) -> None:
        """Release the descriptors, and with them every watch; may be called twice."""
        if self.inotify is not None:
            self.inotify.close()
        if self._monitor is not None:
            self._monitor.close()
