"""What is known of each file, and how it is kept true: the books behind the cache.

An entry stands in one of four dictionaries, and which one says how far its stats may be believed. Nothing here takes a
lock: whoever owns the follower calls it by one thread at a time. Only ``served`` may be read by others meanwhile.
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

from fstat_cache.changes import Changes
from fstat_cache.directories import OF_FILES, Directories
from fstat_cache.hanging import Found
from fstat_cache.hot import HotWatches
from fstat_cache.inotify import (
    IN_ATTRIB,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_ISDIR,
    IN_MODIFY,
    IN_MOVE_SELF,
    NO_WATCH,
    Events,
    Inotify,
    max_user_watches,
)
from fstat_cache.mounts import Mount, MountTable
from fstat_cache.session import Session
from fstat_cache.stats import FileStats, read_again, read_stats
from fstat_cache.watches import WatchTable

log = logging.getLogger(__name__)

ARMED = IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF
"""What an armed watch reports. IN_ATTRIB also tells that a name was unlinked or replaced (the link count)."""
DISARMED = IN_MOVE_SELF | IN_DELETE_SELF

WATCHED = "watched"
HOT = "hot"

# Why a file is polled.
WATCH_LIMIT = "watch_limit"
INSTANCE_LIMIT = "instance_limit"
PERMISSION = "permission"
UNSUPPORTED = "unsupported"
THREAD_FAILED = "thread_failed"
FILESYSTEM = "filesystem"
REMOTE = "remote"
AUDIT = "audit"
AUTOFS = "autofs"

_REASONS = {
    errno.ENOSPC: WATCH_LIMIT,
    errno.EACCES: PERMISSION,
    errno.EPERM: PERMISSION,
}
_REMEDIES = {
    WATCH_LIMIT: "no more inotify watches for this user: raise the sysctl fs.inotify.max_user_watches",
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
_SPARED_WATCHES = 16_384
_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

OVERFLOW_SILENCE_S = 60.0
"""How long no queue may overflow before an overflow is worth a line in the log again."""
LONG_WRITE_S = 10.0
"""How long such a write may take before growth without an event is a mismatch: its event comes at its end."""


class Entry:
    """One file that is followed."""

    __slots__ = ("home", "path", "reason", "stats", "used", "wd")

    def __init__(self, path: str, stats: FileStats) -> None:
        self.path = path
        self.stats = stats
        self.used = 0  # the owner's clock at its last use
        self.wd = NO_WATCH
        self.reason: str | None = None  # why it is polled; None when it is not
        self.home: dict[str, Entry] | None = None  # the follower's dictionary that it is in

    @property
    def is_dropped(self) -> bool:
        """Whether it has left the follower."""
        return self.home is None


Suspect = tuple[Entry, FileStats]
"""An entry that a fresh stat contradicts, and what was known of it."""


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
        session: what is held of the system; opened here, closed by its owner.
        counts: continued.
        changes: what a new stat has found is added to these.
        max_watches: how many watches may be taken; None: as many as the kernel allows the user, but for half of them
            or 16,384, whichever is less, because other programs of the same user need some.
    """

    def __init__(
        self,
        session: Session,
        counts: Counts,
        changes: Changes,
        *,
        max_watches: int | None,
    ) -> None:
        self.served: dict[str, Entry] = {}  # watched, and true as far as events were taken in
        self.stay = object()  # another one whenever an entry has left `served`
        self.doubtful: dict[str, Entry] = {}  # an event may have been lost: to be watched again, then looked at
        self.polled: dict[str, Entry] = {}  # not watched: looked at whenever asked
        self.remote: dict[str, Entry] = {}  # not watched, and looked at only by a thread that may hang
        self.hot = HotWatches()
        self.directories = Directories(changes, self._add_directory_watch, self._remove_watch, self._doubt_unguarded)
        self.mounts = MountTable((), {})
        self.polled_for: Counter[str] = Counter()  # reason -> entries polled for it now
        self._session = session
        self._counts = counts
        self._max_watches = max_watches
        self.tell = changes.add_stat
        self._watches: WatchTable[Entry] = WatchTable()
        self._knows_mounts = False
        self._to_audit: list[str] = []
        self._grown: dict[str, tuple[Entry, float]] = {}  # found grown by an audit, when, and no event since
        self._overflowed_at = -math.inf
        self.has_failed = False  # nobody takes in events in time, so nothing is served from memory any more

    # -- the entries --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.served) + len(self.doubtful) + len(self.polled) + len(self.remote)

    def __iter__(self) -> Iterator[Entry]:
        dictionaries = (self.served, self.doubtful, self.polled, self.remote)
        return itertools.chain.from_iterable(entries.values() for entries in dictionaries)

    @property
    def watches(self) -> int:
        """How many inotify watches are held."""
        return len(self._watches) + len(self.directories)

    def find(self, path: str) -> Entry | None:
        """The entry of a path, whatever its state."""
        entry = self.served.get(path)
        if entry is None and (self.doubtful or self.polled or self.remote):
            entry = self.doubtful.get(path) or self.polled.get(path) or self.remote.get(path)
        return entry

    def how(self, path: str) -> str | None:
        """How a path is followed: WATCHED, HOT, the reason for which it is polled; None when it has no entry."""
        entry = self.find(path)
        if entry is None or entry.reason is not None:
            return None if entry is None else entry.reason
        return HOT if entry.wd in self.hot else WATCHED

    def open(self) -> None:
        """Learn which filesystems there are; to be called before the first look at a file. Free when that is done."""
        if self._knows_mounts or self._session.is_closed:
            return
        try:
            mounts = self._session.open_monitor().read()
        except FileNotFoundError:
            mounts = []  # no /proc: every filesystem is taken for a local one
        except OSError as error:
            log.debug("mounts not known yet: %s", error)  # no descriptor left, which the next watch tells aloud
            return
        self._knows_mounts = True
        self._take_in_mounts(mounts)

    def meet(self, path: str) -> Entry | None:
        """Watch a file that has no entry, then look at it: so a change in between is an event and not a loss.

        Returns:
            An entry that is still to be placed; None when no regular file is there.

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
        self.tell(path, stats)  # before its other names are looked at, because looks are told in their order
        entry = Entry(path, stats)
        self._bind(entry, wd, reason)
        self._mind_filesystem(entry)
        return entry

    def meet_remote(self, path: str, stats: FileStats) -> Entry:
        """Make an entry, still to be placed, for a file that its mount's thread has looked at."""
        entry = Entry(path, stats)
        self._set_reason(entry, REMOTE)
        self.tell(path, stats)
        return entry

    def place(self, entry: Entry) -> None:
        """Put an entry that has just been looked at where its state belongs."""
        if entry.reason is None:
            self._move(entry, self.served)
        elif entry.reason == REMOTE:
            self._move(entry, self.remote)
        else:
            self._move(entry, self.polled)

    def drop(self, entry: Entry) -> None:
        """Unwatch a file and forget it."""
        self._move(entry, None)
        self._grown.pop(entry.path, None)
        self._unwatch(entry)
        self.directories.release(entry.path)
        self._set_reason(entry, None)

    def _move(self, entry: Entry, home: dict[str, Entry] | None) -> None:
        if entry.home is not home:
            if entry.home is not None:
                del entry.home[entry.path]
                self.stay = object()
            if home is not None:
                home[entry.path] = entry
            entry.home = home

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
            if not rebind:
                stats = read_stats(entry.path, was) if entry.wd == NO_WATCH else self._look_at_watched(entry)
                rebind = entry.reason is None and stats is not None and stats.identity != was.identity
            if rebind:
                wd = entry.wd
                self._rebind(entry)
                stats = read_stats(entry.path, was if entry.wd == wd else None)
        except _NO_FILE:
            stats = None
        except OSError as error:
            # Whoever asks next gets this error from os.stat; until then there is nothing true to remember.
            log.debug("dropped from the cache: %s: %s", entry.path, error)
            stats = None
        if stats == was:
            stats = was
        else:
            self._take_over(entry, stats)
        if rebind and stats is not None:
            self._mind_filesystem(entry)
            self.place(entry)
        return stats

    def _look_at_watched(self, entry: Entry) -> FileStats | None:
        stats = read_again(entry.path, entry.stats)
        # The number of a watched inode is given to another one only after IN_DELETE_SELF was queued.
        inotify = self._session.inotify
        if stats is not entry.stats and (stats is None or (inotify is not None and inotify.pending_bytes() > 0)):
            stats = read_stats(entry.path)
        return stats

    def look_again(self, entry: Entry) -> FileStats | None:
        """Look at an entry that is not served from memory, and watch it again if that may help."""
        return self.refresh(entry, rebind=entry.reason not in _NEVER_WATCHED)

    def refresh_remote(self, entry: Entry, found: Found) -> None:
        """Take over what its mount's thread has found of a remote file."""
        if not isinstance(found, OSError) and found != entry.stats:
            self._take_over(entry, found)

    def doubt(self, entry: Entry) -> None:
        """Have an entry watched again and looked at before it is believed."""
        self._move(entry, self.doubtful)

    def _take_over(self, entry: Entry, stats: FileStats | None) -> None:
        if stats is None:
            self.drop(entry)
        else:
            entry.stats = stats
        self.tell(entry.path, stats)

    # -- the watches --------------------------------------------------------------------------------------------------

    def _watch(self, path: str, *, has_watch: bool) -> tuple[int, str | None]:
        """Arm a watch on what is at ``path`` now.

        Returns:
            Its descriptor and None, or :data:`NO_WATCH` and the reason for it.

        Raises:
            FileNotFoundError, NotADirectoryError: nothing is there.
            IsADirectoryError: a directory is there that is watched as such.
        """
        inotify, reason = self._open_inotify()
        if inotify is None:
            return NO_WATCH, reason
        try:
            if not has_watch and not self._may_watch_more():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            wd = inotify.add_watch(path, ARMED)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, UNSUPPORTED)
            return NO_WATCH, None if reason == WATCH_LIMIT and self.directories.guard(path) else reason
        if wd in self.directories:
            self.directories.arm_again(wd)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return wd, None

    def _open_inotify(self) -> tuple[Inotify | None, str | None]:
        """Give the inotify instance, or None and the reason for which nothing can be watched."""
        if self.has_failed or self._session.is_closed:
            return None, THREAD_FAILED
        try:
            inotify = self._session.inotify or self._session.open_inotify()
            if self._max_watches is None:
                allowed = max_user_watches()
                self._max_watches = allowed - min(allowed // 2, _SPARED_WATCHES)
        except OSError:  # whatever the number: without a descriptor, ctypes can not even look for the C library
            return None, INSTANCE_LIMIT
        return inotify, None

    def _may_watch_more(self) -> bool:
        return self._max_watches is None or len(self._watches) + len(self.directories) < self._max_watches

    def _bind(self, entry: Entry, wd: int, reason: str | None) -> None:
        if wd != entry.wd:
            self._unwatch(entry)
            if wd != NO_WATCH:
                self.directories.release(entry.path)
                self._watches.bind(entry, wd)
                if self._session.needs_thread:
                    self._start_thread()
                if self.has_failed:
                    self._unwatch(entry)
                    wd, reason = NO_WATCH, THREAD_FAILED
        self._set_reason(entry, reason)
        if wd in self.hot:
            # It is armed now. Of what was written before nobody was told, so look, at its other names as well.
            self.hot.discard(wd)
            for sharer in self._watches.entries(wd):
                if sharer is not entry:
                    self.refresh(sharer, rebind=False)

    def _start_thread(self) -> None:
        if not self.has_failed:
            try:
                self._session.start_thread()
            except RuntimeError as error:  # no more threads
                log.warning("%s", error)
                self.fail()

    def _mind_filesystem(self, entry: Entry) -> None:
        """Poll an entry that has just been looked at if its filesystem tells nothing."""
        if entry.reason is None and entry.stats.device in self.mounts.silent_devices:
            self._unwatch(entry)
            self._set_reason(entry, FILESYSTEM)

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
            self._remove_watch(wd)

    def _remove_watch(self, wd: int) -> None:
        if self._session.inotify is not None and not self._session.is_closed:
            self._session.inotify.rm_watch(wd)

    def _set_reason(self, entry: Entry, reason: str | None, *, is_failure: bool = True) -> None:
        """Note why an entry is polled, or None; the first and the last one of a kind are worth a line in the log."""
        was, entry.reason = entry.reason, reason
        if reason == was:
            return
        if was is not None:
            self.polled_for[was] -= 1
            if not self.polled_for[was] and was in _REMEDIES:
                log.info("no file is polled any more for %s", was)
        if reason is not None:
            self.directories.release(entry.path)
            self.polled_for[reason] += 1
            if is_failure and reason in WATCH_FAILURES:
                self._counts.watch_failures[reason] += 1
            if self.polled_for[reason] == 1 and reason in _REMEDIES:
                log.warning("files are polled instead of watched, the first is %s: %s", entry.path, _REMEDIES[reason])

    # -- the directories ----------------------------------------------------------------------------------------------

    def watch_directory(self, path: str) -> str | None:
        """Watch a directory, if need be in the place of a file: a file without a watch is polled, a new file in a
        directory without one is not found.

        Returns:
            None, or the reason for which it is not watched, :data:`AUTOFS` among them; mounts above it are told then.

        Raises:
            FileNotFoundError, NotADirectoryError: no directory is there.
        """
        mount = self.mounts.remote_of(path)
        if mount is not None:
            self.directories.add(path)
            return AUTOFS if mount.fs_type == "autofs" else REMOTE
        reason = self._watch_local_directory(path)
        if reason is not None:
            self.directories.add(path)
        return reason

    def _watch_local_directory(self, path: str) -> str | None:
        inotify, reason = self._open_inotify()
        if inotify is None:
            return reason
        while True:
            try:
                self.directories.watch(path)
            except (FileNotFoundError, NotADirectoryError):
                raise
            except OSError as error:
                if error.errno != errno.ENOSPC or not self._give_up_a_watch():
                    return _REASONS.get(error.errno or 0, UNSUPPORTED)
            else:
                break
        if self._session.needs_thread:
            self._start_thread()
        if self.has_failed:
            return THREAD_FAILED
        try:
            return FILESYSTEM if os.stat(path).st_dev in self.mounts.silent_devices else None
        except OSError:
            return None  # gone again, which is an event

    def _add_directory_watch(self, path: str, mask: int) -> int:
        inotify = self._session.inotify or self._session.open_inotify()
        wd = inotify.add_watch(path, mask)
        if not self._may_watch_more() and wd not in self.directories:
            inotify.rm_watch(wd)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return wd

    def _give_up_a_watch(self) -> bool:
        wd = self._watches.latest()
        if wd is None:
            return False
        entry = self._watches.entries(wd)[0]
        is_guarded = self.directories.guard(entry.path)
        self._unwatch(entry)
        if is_guarded:
            self.refresh(entry, rebind=False)  # what was told by the other watch is told to nobody now
        else:
            self._set_reason(entry, WATCH_LIMIT)
            self.place(entry)
        return True

    def _doubt_unguarded(self, path: str) -> None:
        entry = self.served.get(path)
        if entry is not None:
            self.doubt(entry)

    # -- what happened ------------------------------------------------------------------------------------------------

    def take_in(self, news: list[tuple[int, int]]) -> None:
        """Take in what the kernel has to tell.

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
        """Serve nothing from memory before it was watched again and looked at: events may have been lost."""
        self.directories.doubt(self.directories)
        self._grown.clear()  # that there was no event says nothing now
        self.doubtful.update(self.served)
        for entry in self.served.values():
            entry.home = self.doubtful
        self.served.clear()
        self.stay = object()

    def fail(self) -> None:
        """Serve nothing from memory any more: nobody will take in events in time."""
        self.has_failed = True
        self.distrust()

    def _take_in_events(self, events: Events, within: float = math.inf) -> None:
        """Take in one batch.

        Args:
            events: the batch.
            within: how many files were looked at when this was read ahead; infinite for what was not. A batch that is
                read ahead in turn must have half as many, so that this ends however much is written.
        """
        notes, names, total = events
        overflow = notes.pop(NO_WATCH, 0)
        if overflow:
            self._tell_overflow()
            self.distrust()
        now = time.monotonic()
        busy = []
        if names:
            for path, mask in self.directories.touched(names).items():
                self._grown.pop(path, None)
                entry = self.served.get(path)
                if entry is not None:
                    self.refresh(entry, rebind=mask != IN_MODIFY)
            busy += [event.wd for event in names if event.mask == IN_MODIFY and event.wd in self.directories]
            come_and_gone = [event for event in names if event.mask & ~(OF_FILES | IN_ISDIR)]
            self.directories.take_in_names(come_and_gone, now, overflow=bool(overflow), total=total)
        written = []
        for wd, mask in notes.items():
            sole = self._watches.get(wd)
            if mask == IN_MODIFY and isinstance(sole, Entry) and sole.home is self.served and not self._grown:
                written.append(sole)  # as nearly always
                busy.append(wd)
                continue
            if wd in self.directories:
                self.directories.take_in_note(wd, mask)
                continue
            entries = self._watches.entries(wd)
            if mask & IN_IGNORED:
                self._watches.discard(wd)
                self.hot.discard(wd)
            for entry in entries:
                if self._grown:
                    self._grown.pop(entry.path, None)
                if mask == IN_MODIFY and entry.home is self.served:
                    written.append(entry)
                else:
                    self.refresh(entry, rebind=True)
            if wd in self._watches:
                busy.append(wd)
        written = [entry for entry in written if entry.home is self.served and entry.wd != NO_WATCH]
        self._look_at_many(written, within)
        if overflow:
            heated = list(dict.fromkeys(busy))
        else:
            heated = self.hot.after_batch(busy, now) if within == math.inf else []
        for wd in heated:
            if wd in self.directories:
                self._poll_guarded(wd)
            else:
                self._disarm(wd, now)

    def _tell_overflow(self) -> None:
        self._counts.queue_overflows += 1
        now = time.monotonic()
        if now - self._overflowed_at > OVERFLOW_SILENCE_S:
            log.warning("the kernel's queue of events has overflowed: every file is looked at again")
        self._overflowed_at = now

    def _disarm(self, wd: int, now: float) -> None:
        inotify = self._session.inotify
        sharers = self._watches.entries(wd)
        if inotify is None or not sharers:
            return
        entry = sharers[0]
        try:
            disarmed = inotify.add_watch(entry.path, DISARMED)
        except OSError:
            disarmed = NO_WATCH
        if disarmed in self._watches:
            self.hot.add(disarmed, now)
            for sharer in sharers:
                self._grown.pop(sharer.path, None)
        if disarmed in self.directories:
            self.directories.arm_again(disarmed)
            self.refresh(entry, rebind=True)
        elif disarmed != wd:  # the path has led to another inode since
            self.refresh(entry, rebind=True)
            self._remove_unused(disarmed)

    def _poll_guarded(self, wd: int) -> None:
        """Look at the files in a directory whenever asked, for its watch stands in for theirs and slows a writer."""
        for path in self.directories.unguard(wd):
            entry = self.served.get(path)
            if entry is not None:
                self._set_reason(entry, WATCH_LIMIT, is_failure=False)
                self.place(entry)

    def _take_in_mounts(self, mounts: list[Mount]) -> None:
        before, self.mounts = self.mounts, self.mounts.successor(mounts)
        places = itertools.chain((os.path.dirname(entry.path) for entry in self), self.directories)
        moved = before.moved(self.mounts, places)
        self.directories.doubt(path for path in self.directories if path in moved)
        for entry in [entry for entry in self if os.path.dirname(entry.path) in moved]:
            if self.mounts.remote_of(entry.path) is not None:
                self._unwatch(entry)
                self._set_reason(entry, REMOTE)
                self.place(entry)
            else:
                self.doubt(entry)

    # -- looking ------------------------------------------------------------------------------------------------------

    def sample_hot(self) -> None:
        """Look at the hot files, and arm those again that have been quiet."""
        changed = self._look_at_many(self._watches.entries_of(self.hot))
        busy = [entry.wd for entry in changed if entry.wd in self.hot]
        for wd in self.hot.after_samples(busy, time.monotonic()):
            for entry in self._watches.entries(wd):
                self.refresh(entry, rebind=True)

    def _look_at_many(self, entries: Sequence[Entry], within: float = math.inf) -> list[Entry]:
        """Look at the files of watched entries, which are not armed by it; return those that were found changed.

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
        # As in refresh(), but asked once for all of them. Looks are told in their order, so these before any later one.
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
                if not entry.is_dropped:
                    self.refresh(entry, rebind=entry.home is not self.served)  # since an overflow that was read ahead
        for entry in replaced:
            if not entry.is_dropped:
                self.refresh(entry, rebind=True)
        return changed

    def recover(self, files: int | None = None) -> None:
        """Watch again and look at what is doubtful.

        Args:
            files: how many entries at most; None: all.
        """
        self.open()
        for entry in tuple(itertools.islice(self.doubtful.values(), files)):
            self.refresh(entry, rebind=True)

    def look_at_polled(self) -> None:
        """Look at everything that is not watched, but for remote files, and watch again what can be."""
        self.open()
        may_watch = True
        for entry in tuple(self.polled.values()):
            if entry.reason in _LIMITS:
                self.refresh(entry, rebind=may_watch)
                if may_watch and entry.reason in _LIMITS:  # one refusal speaks for all, and another one next time
                    may_watch = False
                    if entry.home is self.polled:
                        self.polled[entry.path] = self.polled.pop(entry.path)
            else:
                self.look_again(entry)

    def differing(self, files: int | None) -> list[Suspect]:
        """Compare served entries with a fresh stat, in rotation.

        Args:
            files: how many entries; None: all.

        Returns:
            Those that differ, with what was known. A file may have changed after the latest event was taken in, or be
            in the middle of a write(2): they are only suspects until :meth:`unexplained` still has them a moment later.
        """
        return [(entry, entry.stats) for entry in self._to_compare(files) if self._differs(entry)]

    def unexplained(self, suspects: list[Suspect]) -> list[Suspect]:
        """Return the suspects of which no event has told since."""
        return [(entry, was) for entry, was in suspects if entry.stats is was and entry.home is self.served]

    def poll_differing(self, suspects: list[Suspect]) -> int:
        """Make suspects true, and poll from now on those that have changed without an event.

        Returns:
            How many those are.
        """
        now = time.monotonic()
        mismatches = [entry for entry, since in self._grown.values() if now - since >= LONG_WRITE_S]
        for entry, was in suspects:
            stats = self.refresh(entry, rebind=True)
            if stats is not None and stats.inode == was.inode and stats.size > was.size:
                self._grown.setdefault(entry.path, (entry, now))
            else:
                mismatches.append(entry)
        for entry in mismatches:
            self._grown.pop(entry.path, None)
            self._counts.audit_mismatches += 1
            if entry.home is self.served:
                self._unwatch(entry)
                self._set_reason(entry, AUDIT)
                self.place(entry)
        return len(mismatches)

    def _to_compare(self, files: int | None) -> Iterator[Entry]:
        if files is None or not self._to_audit:
            self._to_audit = list(self.served)
        for _ in range(len(self._to_audit) if files is None else min(files, len(self._to_audit))):
            entry = self.served.get(self._to_audit.pop())
            if entry is not None and entry.wd not in self.hot:
                yield entry

    def _differs(self, entry: Entry) -> bool:
        self._counts.audit_checks += 1
        try:
            return read_stats(entry.path, entry.stats) is not entry.stats
        except OSError:
            return True

    def forget(self) -> None:
        """Drop every entry without a word to the kernel, for a session that is about to be closed."""
        for entry in self:
            entry.home = None
        for entries in (self.served, self.doubtful, self.polled, self.remote):
            entries.clear()
