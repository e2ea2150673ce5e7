"""Tracks files and directories: processes the kernel's events, and stats what the kernel does not report.

Nothing here takes a lock: the owner calls the engine by one thread at a time. Other threads may only read the
dictionary of served files meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import math
import os
import time
from collections.abc import Sequence

from fstat_cache import states
from fstat_cache.changes import Changes, EventsLost, InodeChange
from fstat_cache.directories import OF_FILES
from fstat_cache.files import Counts, Files
from fstat_cache.hanging import RemoteMounts
from fstat_cache.inotify import IN_IGNORED, IN_ISDIR, IN_MODIFY, IN_UNMOUNT, NO_WATCH, Events
from fstat_cache.mounts import Mount, MountTable
from fstat_cache.session import Session
from fstat_cache.states import BELIEVED, EVENTS, REFUSED
from fstat_cache.stats import FileStats, file_time_ns
from fstat_cache.watches import Entry, Watches, reason_of

log = logging.getLogger(__name__)

AUTOFS = "autofs"
"""The reason why a directory is not watched: a listing would mount it."""

OVERFLOW_SILENCE_S = 60.0
"""An overflow is logged only if there was none for this long."""


class Engine:
    """Keeps the known stats of files and directories up to date.

    Args:
        session: opened here, closed by its owner.
        watches: on files and directories.
        files: the tracked files.
        changes: lost events are added to these.
        workers: for stats of remote files; the engine ends those of mounts that are gone.
        counts: increased here; they outlive the engine.
    """

    def __init__(
        self,
        session: Session,
        watches: Watches,
        files: Files,
        changes: Changes,
        workers: RemoteMounts,
        counts: Counts,
    ) -> None:
        self.watches = watches
        self.files = files
        self.directories = files.directories
        self.late: dict[str, OSError] = {}  # remote files that the latest sync() got no answer for
        self.mounts = MountTable((), {}, session.root.path)
        self._session = session
        self._changes = changes
        self._counts = counts
        self._workers = workers
        self._knows_mounts = False
        self._overflowed_at = -math.inf

    def open(self) -> None:
        """Read the mounts before the first stat of a file; later calls do nothing."""
        if self._knows_mounts or self._session.is_closed:
            return
        try:
            mounts = self._session.open_monitor().read()
        except FileNotFoundError:
            mounts = []  # no /proc: every filesystem counts as local
        except OSError as error:
            log.debug("cannot read the mounts yet: %s", error)  # no descriptor left; the next watch logs a warning
            return
        self._knows_mounts = True
        self.files.handles.probe()
        self._take_in_mounts(mounts)

    def watch_directory(self, path: str) -> str | None:
        """Watch a directory. If no watch is left, one of a file is given up: a file without a watch can be polled, but
        new files in a directory without one are not found.

        Returns:
            None, or the reason why it is not watched, such as :data:`AUTOFS`; mounts above it are reported in any case.

        Raises:
            FileNotFoundError, NotADirectoryError: no directory is there.
        """
        mount = self.mounts.remote_of(path)
        if mount is not None:
            self.directories.add(path, states.MOUNTED_REMOTE)
            return AUTOFS if mount.fs_type == "autofs" else states.REMOTE_FILESYSTEM
        reason = self.watches.open()
        is_watched = False
        while reason is None and not is_watched:
            try:
                self.directories.watch(path)
                is_watched = True
            except (FileNotFoundError, NotADirectoryError):
                raise
            except OSError as error:
                self.watches.were_refused |= error.errno == errno.ENOSPC
                if not (error.errno == errno.ENOSPC and self.files.give_up_a_watch()):
                    reason = reason_of(error)
        if is_watched and self._session.needs_thread:
            self._session.start_thread()
        if is_watched and self._session.has_failed:
            reason = states.THREAD_FAILED
        with contextlib.suppress(OSError):  # it is gone again, and an event reports that
            if reason is None and os.stat(self._session.root.real(path)).st_dev in self.mounts.silent_devices:
                reason = states.FILESYSTEM
        if reason is not None:
            self.directories.add(path, REFUSED[reason])
        return reason

    # -- what happened ------------------------------------------------------------------------------------------------

    def take_in(self, news: list[tuple[int, int]]) -> None:
        """Process pending events and changes of mounts.

        Args:
            news: what :attr:`Session.news` has returned.
        """
        session = self._session
        now_ns = file_time_ns()
        closes = session.closes
        try:
            if closes is not None and any(fd == closes.fd for fd, _ in news):
                self.files.nameless.take_in_closes(closes)  # first, because somebody may wait to unmount
            for fd, _ in news:
                if session.monitor is not None and fd == session.monitor.fd:
                    self._take_in_mounts(session.monitor.read())
                elif session.inotify is not None and fd == session.inotify.fd:
                    self._take_in_events(session.inotify.read())
        except BaseException:
            self.files.distrust()  # the remaining events are lost
            raise
        self.directories.as_of_ns = now_ns

    def fail(self) -> None:
        """Serve nothing from memory any more: events are no longer processed in time."""
        self._session.has_failed = True
        self.files.distrust()

    def _take_in_events(self, events: Events, within: float = math.inf) -> None:
        """Process one batch.

        Args:
            events: the batch.
            within: how many files were stat'ed before this batch was read ahead; infinite if it was not read ahead. It
                reads one ahead itself only after half as many stats, so that the recursion ends.
        """
        notes, names, total = events
        files, directories, watches = self.files, self.directories, self.watches
        now = time.monotonic()
        overflow = bool(notes.pop(NO_WATCH, 0))
        if overflow:
            self._counts.queue_overflows += 1
            if now - self._overflowed_at > OVERFLOW_SILENCE_S:
                log.warning("the kernel's event queue overflowed: every file is stat'ed again")
            self._overflowed_at = now
            self._changes.add(EventsLost(None))
            files.distrust()
        written: list[Entry] = []
        busy = []
        if names:
            if directories.covered:
                directories.take_in_covered(names)
            busy += [event.wd for event in names if event.mask == IN_MODIFY and event.wd in watches.directories]
            come_and_gone = [event for event in names if event.mask & ~(OF_FILES | IN_ISDIR)]
            directories.take_in_names(come_and_gone, now, overflow=overflow, total=total)
        for wd, mask in notes.items():
            sole = watches.files.get(wd)
            if mask == IN_MODIFY and isinstance(sole, Entry) and sole.state is EVENTS and not files.grown:
                written.append(sole)  # the most frequent case
                busy.append(wd)
                continue
            if wd in watches.directories:
                directories.take_in_note(wd, mask)
                continue
            if wd in files.nameless:
                files.nameless.take_in(wd, mask)
                busy.append(wd)
                continue
            entries = watches.files.entries(wd)
            if mask & IN_IGNORED and entries:
                watches.files.discard(wd)
                handle = files.handles.pop(wd, None)
                is_written = files.sampled.pop(wd, None) is not None or mask & IN_MODIFY
                gone = InodeChange(entries[0].stats, is_gone=not mask & IN_UNMOUNT, is_exact=not is_written)
            for entry in entries:
                files.grown.pop(entry.path, None)
                if mask == IN_MODIFY and entry.state in BELIEVED:
                    written.append(entry)
                else:
                    files.on(entry, states.TOUCHED)
            if mask & IN_IGNORED and entries:
                directory = os.path.dirname(entries[0].path)
                if mask & IN_UNMOUNT or not files.nameless.is_open(gone.stats, handle, directory):
                    self._changes.add(gone)
            if wd in watches.files:
                busy.append(wd)
            elif wd in files.nameless:
                files.nameless.take_in(wd, mask)
        if written:
            self._stat_written([each for each in written if each.state in BELIEVED and each.wd != NO_WATCH], within)
        if overflow:
            busy = list(dict.fromkeys(busy))
            if not files.doubtful:
                self.recover()
        elif within != math.inf:
            return
        elif busy:
            busy = list(files.sampled.after_batch(busy, now))
        else:
            files.sampled.counts.clear()
        for wd in busy:
            if wd in watches.directories:
                directories.release_busy(wd)
            elif entries := watches.files.entries(wd):
                files.on(entries[0], states.BUSY)
            elif wd in files.nameless:
                files.nameless.disarm(wd)

    def _take_in_mounts(self, mounts: list[Mount]) -> None:
        before, self.mounts = self.mounts, self.mounts.successor(mounts)
        self.files.silent_devices = self.mounts.silent_devices
        if before.overlays != self.mounts.overlays:
            self.files.note_overlays(self.mounts.overlays)
        self._workers.keep(self.mounts.remote)
        places = itertools.chain((os.path.dirname(entry.path) for entry in self.files), self.directories.by_path)
        moved = before.moved(self.mounts, places)
        directories = [directory for path, directory in self.directories.by_path.items() if path in moved]
        self.directories.recheck(directories, states.MOUNTED)
        for entry in [entry for entry in self.files if os.path.dirname(entry.path) in moved]:
            is_remote = self.mounts.remote_of(entry.path) is not None
            self.files.on(entry, states.MOUNTED_REMOTE if is_remote else states.MOUNTED)

    # -- stat'ing -----------------------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Stat the sampled files, and arm the quiet ones again."""
        files, table = self.files, self.watches.files
        changed = self._stat_written([entry for wd in files.sampled for entry in table.entries(wd)])
        busy = [entry.wd for entry in changed if entry.wd in files.sampled]
        if files.nameless:
            busy += files.nameless.sample()
        for wd in files.sampled.after_samples(busy, time.monotonic()):
            if wd in files.nameless:
                files.nameless.arm(wd)
            for entry in table.entries(wd):
                files.on(entry, states.QUIET)

    def _stat_written(self, entries: Sequence[Entry], within: float = math.inf) -> list[Entry]:
        """Stat the files of watched entries without arming their watches; return the changed entries.

        Args:
            entries: watched ones.
            within: see :meth:`_take_in_events`.
        """
        files = self.files
        found: list[tuple[Entry, FileStats]] = []
        replaced: list[Entry] = []
        for entry in entries:
            known = entry.stats
            try:
                stats = files.read_again(entry.path, known)
            except OSError:
                stats = None
            if stats is None:
                replaced.append(entry)
            elif stats is not known:
                found.append((entry, stats))
        # As in Files.stat(), but the queue is checked once. Stats are reported in order, so these before later ones.
        is_certain = True
        later = None
        try:
            inotify = self._session.inotify
            if found and inotify is not None:
                if 2 * len(entries) <= within:
                    later = inotify.read()
                    is_certain = not later.total or later.are_writes  # the most frequent case
                else:
                    is_certain = not inotify.pending_bytes()
            if is_certain:
                for entry, stats in found:
                    entry.stats = stats
                    self.files.report(entry.path, stats)
            if later is not None and later.total:
                self._take_in_events(later, within=len(entries))
        except BaseException:
            self.files.distrust()  # the rest of what was read is lost
            raise
        changed = [entry for entry, _ in found]
        for entry in changed:
            if entry.wd not in files.handles:
                files.handles.learn(entry)
        for entry in () if is_certain else changed:
            self.files.on(entry, states.WRITTEN)
        for entry in replaced:
            wd = entry.wd
            files.on(entry, states.TOUCHED)
            if wd in files.nameless:
                files.nameless[wd].is_dirty = True
        return changed

    def recover(self, files: int | None = None) -> None:
        """Watch and stat doubtful entries again.

        Args:
            files: how many entries at most; None: all.
        """
        self.open()
        for entry in tuple(itertools.islice(self.files.doubtful.values(), files)):
            self.files.on(entry, states.ASKED)
        if self.files.nameless.have_lost_events and not self.files.doubtful:  # else more may lose their names
            self.files.nameless.recover()

    def stat_polled(self) -> None:
        """Stat the polled files, and try again to watch those that a watch would help.

        If the limit of watches has refused any, it is read again first: it may have been raised.
        """
        self.open()
        files, polled, watches = self.files, self.files.polled, self.watches
        if watches.were_refused or self.directories.covered:
            with contextlib.suppress(OSError):  # no descriptor is left: the next sync tries again
                watches.read_limit()
        may_watch = True
        for entry in tuple(polled.values()):
            if entry.state.reason not in states.LIMITS:
                files.on(entry, states.ASKED)
                continue
            files.stat(entry, watch=may_watch)
            if may_watch and entry.state.reason in states.LIMITS:  # one refusal is enough; next time ask for another
                may_watch = False
                polled[entry.path] = polled.pop(entry.path)
        if self.directories.covered and watches.has_room:
            self._watch_covered()

    def _watch_covered(self) -> None:
        """Watch covered files by themselves while there is room."""
        directories = set(self.directories.covered.values())
        for path in tuple(self.directories.covered):
            if not self.watches.has_room:
                break
            if (entry := self.files.served.get(path)) is not None:
                self.files.on(entry, states.TOUCHED)
        for directory in directories:
            if not directory.covered:
                self.directories.arm(directory)  # else it reports all writes that the files' own watches report
