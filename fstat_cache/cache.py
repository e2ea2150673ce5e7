"""FStatCache: what users import. Look-ups, the order of eviction, the lock and the thread."""

from __future__ import annotations

import errno
import functools
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from operator import attrgetter
from types import TracebackType
from typing import NamedTuple, TypeVar

from fstat_cache import directories, hot
from fstat_cache.changes import Change, Changes
from fstat_cache.errors import CacheClosedError
from fstat_cache.follower import REMOTE, Counts, Entry, Follower, Suspect
from fstat_cache.hanging import RemoteMounts
from fstat_cache.intact import Intact
from fstat_cache.lru import EvictionOrder
from fstat_cache.mounts import Mount
from fstat_cache.session import Session
from fstat_cache.stats import FileStats, StrPath, file_time_ns, read_stats

log = logging.getLogger(__name__)

T = TypeVar("T")

_ORDERLY = (OSError, KeyError, CacheClosedError)
"""What is raised with the lock held on purpose, leaving nothing half done."""

IN_FLIGHT_S = 0.005
"""How long an audit waits for the event of a write(2) that it may have found half done."""


class CacheInfo(NamedTuple):
    """Counts in the manner of :func:`functools.lru_cache`; the first three never go back."""

    hits: int
    """Look-ups answered from memory."""
    misses: int
    """Look-ups answered by an ``os.stat``."""
    evictions: int
    """Files that had to make room for others."""
    files: int
    """Files in the cache now."""
    max_files: int | None
    """Their bound; None: unbounded."""


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """How the files are followed just now, and what has gone wrong so far.

    Attributes:
        watches: inotify watches held, those of directories included.
        directories: how many of them are directories'.
        hot_directories: directories in which so much comes and goes that they are looked at now and then.
        hot: watches that are disarmed and whose files are sampled, because they are written all the time.
        guarded: files without a watch of their own, for want of watches, of which that of their directory tells.
        polled: reason, of :data:`POLL_REASONS` -> files that are looked at whenever asked instead of watched.
        late: files on remote filesystems that did not answer the latest :meth:`FStatCache.sync` in time.
        queue_overflows: how often the kernel's queue of events was full, since the start.
        watch_failures: reason, of :data:`WATCH_FAILURES` -> files that could not be watched, since the start.
        audit_checks: entries compared by :meth:`FStatCache.audit`, since the start.
        audit_mismatches: how many of them had changed without an event.
    """

    watches: int
    directories: int
    hot_directories: int
    hot: int
    guarded: int
    polled: Mapping[str, int]
    late: int
    queue_overflows: int
    watch_failures: Mapping[str, int]
    audit_checks: int
    audit_mismatches: int


class Surveyed:
    """What :meth:`FStatCache.survey` remembers for those who ask for the same paths over and over."""

    __slots__ = ("not_served", "stay")

    def __init__(self) -> None:
        self.stay: object | None = None  # the follower's at that time
        self.not_served: Set[str] = frozenset()  # no others are not as long as it is the same


class FStatCache:
    """A cache in front of ``os.stat`` for regular files that are asked about far more often than they change.

    A file is watched by inotify(7) from its first look-up on, and its stats are answered from memory until the kernel
    reports a change.

    **What is immediate.** A look-up after :meth:`sync` has every change that was complete before: writes by write(2)
    and its kin, truncations, times, renames, replacements and deletions of the file, mounts and unmounts above it.
    A look-up without :meth:`sync` may miss what happened in the last ``gather_s``, or in the last half second for a
    file that is written all the time (it is sampled, because being told of every write would slow its writer down).
    With a ``cpu_budget`` it may be a second, where so many files change that it needs it, and five for files that are
    written all the time, where those are hundreds.

    **What is not.** The kernel reports nothing of writes through mmap(2), of Linux AIO, of writes to the layers
    below an overlay, of a directory above the file that was renamed or may no longer be searched, and of a symbolic
    link that was removed or pointed elsewhere; nor, of a file that has no watch of its own for want of watches
    (:attr:`CacheStatus.guarded`), of writes by another name or through a descriptor that was opened by a name that is
    gone: :meth:`audit` finds those. Files that can not be watched (no read
    permission, no watches left, filesystems like /proc) are looked at each time, and those on filesystems written
    by other machines (NFS, CIFS, FUSE and others) too, by a thread of their own; where such a filesystem does not
    answer within ``remote_timeout_s`` a look-up raises :class:`TimeoutError`.

    Safe under threads, given the GIL: a hit by an absolute path as a string takes no lock. After fork(2) the
    child's cache is empty, of directories as well, and watches anew. Nothing runs before the first watch, and an
    interpreter that exits with a live cache just exits.

    Args:
        max_files: how many files are kept; the least recently used one is unwatched and dropped. None: unbounded.
        max_watches: how many inotify watches are taken; files beyond are looked at each time. None: what the
            sysctl fs.inotify.max_user_watches allows but for 16,384, or half of it if that is less, because other
            programs of the same user need some.
        gather_s: seconds for which events gather before they are worked off.
        cpu_budget: share of one core that following changes may take between calls, 0.01 for 1 %. None: no bound.
        remote_timeout_s: seconds for which a remote filesystem is waited for.
        keep_changes: whether :meth:`take` gives what every stat has found. The cache has no thread of its own then: its
            owner runs ``while cache.wait(): cache.advance()`` in one, and takes the changes.

    Raises:
        ValueError: ``max_files`` is below 1, or ``cpu_budget`` not above 0 and at most 1.
    """

    GATHER_S = 0.005
    REMOTE_TIMEOUT_S = 0.5

    def __init__(
        self,
        max_files: int | None = None,
        *,
        max_watches: int | None = None,
        gather_s: float = GATHER_S,
        cpu_budget: float | None = None,
        remote_timeout_s: float = REMOTE_TIMEOUT_S,
        keep_changes: bool = False,
    ) -> None:
        _check_limits(max_files, cpu_budget)
        self._max_files = max_files
        self._max_watches = max_watches
        self._gather_s = gather_s
        self._cpu_budget = cpu_budget
        self._remote_timeout_s = remote_timeout_s
        self._keep_changes = keep_changes
        # The clock stamps each use, so that the least recent one can be told (lru.py), and counts hits by the way.
        # Its increment, like a dictionary's look-up, can not be interrupted by another thread under the GIL.
        self._clock = 0
        self._stamps_without_hit = 0
        self._misses = 0
        self._evictions = 0
        self._counts = Counts()
        self._closed = False
        self._make_shared()
        self._begin_life()
        _caches_to_reset_in_a_child().add(self)

    def _make_shared(self) -> None:
        """Make what outlasts invalidate(), but not a fork(2)."""
        # Protects all that _begin_life() makes. Hits do without it, and nobody waits under it for a filesystem that
        # may hang.
        self._lock = threading.Lock()
        # Held while a remote filesystem is asked and until what it answers is told: so the looks are told in their
        # order. Taken before the other.
        self._asking = threading.Lock()
        self._intact = Intact(_ORDERLY, _weakly(self, FStatCache._throw_away, None))
        self._changes = Changes(is_kept=self._keep_changes)
        self._remote = RemoteMounts(read_stats, self._remote_timeout_s)

    def _begin_life(self) -> None:
        """Make what invalidate() throws away: entries, watches, descriptors, the thread; none of them is there yet."""
        work = None if self._keep_changes else _weakly(self, FStatCache._work, None)
        self._session = Session(gather_s=self._gather_s, cpu_budget=self._cpu_budget, work=work)
        self._follower = Follower(self._session, self._counts, self._changes, max_watches=self._max_watches)
        self._served = self._follower.served
        self._least_recently_used = EvictionOrder[Entry](attrgetter("used"))
        self._longest_unchanged = EvictionOrder[Entry](lambda entry: entry.stats.mtime_ns)
        self._surveyed_at_ns = 0
        self._late: dict[str, OSError] = {}  # remote files that the latest sync() got no answer for
        self._dues = _Dues()
        self._known_mounts = self._follower.mounts
        self._end_life = weakref.finalize(self, _end, self._session, self._served)

    def _start_over(self) -> Callable[[], object]:
        """Begin a new life; give what ends the old one, to be called without the lock, which its thread may want."""
        end_life = self._end_life
        self._follower.forget()
        self._begin_life()
        return end_life

    # -- looking up ---------------------------------------------------------------------------------------------------

    def get_file_stats(self, path: StrPath) -> FileStats | None:
        """Give the stats of a file, from memory if they are known, else by one ``os.stat``; it is watched from then on.

        Args:
            path: the file; a relative path is taken from the current directory.

        Returns:
            Its stats; None when nothing is there or it is not a regular file, which is not remembered.

        Raises:
            OSError: what ``os.stat`` raises for anything but absence; :class:`TimeoutError` where a remote filesystem
                does not answer.
            CacheClosedError: after :meth:`close`.
        """
        try:
            entry = self._served[path]  # type: ignore[index]  # what is not a str is just not found
        except KeyError:
            pass
        else:
            entry.used = self._clock = self._clock + 1
            return entry.stats
        return self._look_up(absolute(path))

    @staticmethod
    def get_file_stats_using_stat(path: StrPath) -> FileStats | None:
        """Give the stats of a file by ``os.stat``, past every cache; results and errors as :meth:`get_file_stats`."""
        return read_stats(path)

    def survey(self, paths: Set[str], surveyed: Surveyed | None = None) -> dict[str, OSError]:
        """Look up many files at once, each as of the latest :meth:`sync`: no system call for what is in memory. What is
        found is a change to :meth:`take`, unless it is in memory already.

        For those who ask for the same files over and over, in turn, and perhaps for more than ``max_files``: there the
        least recently used file would always be the one asked for next. So a survey uses no file; what does not fit is
        looked at (and told) each time, and takes the place of the file unchanged longest once it changes.

        Args:
            paths: absolute paths; each counts as one look-up.
            surveyed: given again with the same paths, or fewer, it spares going through those that stay in memory.

        Returns:
            path -> what ``os.stat`` raised, for the files that could not be looked at.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        errors: dict[str, OSError] = {}
        remote: dict[Mount, list[str]] = {}
        with self._lock, self._intact:
            self._begin()
            follower = self._follower
            if surveyed is not None and surveyed.stay is follower.stay:
                not_served = {path for path in surveyed.not_served if path in paths and path not in self._served}
            elif paths <= self._served.keys():  # which takes a third of the time of finding what is missing
                not_served = set()
            else:
                not_served = set(paths - self._served.keys())
            if surveyed is not None:
                surveyed.stay, surveyed.not_served = follower.stay, not_served
            self._clock += len(paths) - len(not_served)
            self._misses += len(not_served)
            newcomers = _Newcomers(self._surveyed_at_ns, file_time_ns())
            for path in not_served:
                if follower.find(path) is not None:  # polled, so sync() has just looked at it
                    if path in self._late:
                        errors[path] = self._late[path]
                    continue
                mount = follower.mounts.remote_of(path)
                if mount is not None:
                    remote.setdefault(mount, []).append(path)
                    continue
                try:
                    if not self._is_full():
                        found = self._admit(path)
                    elif (found := self._look_at_newcomer(path, newcomers)) is not None:
                        follower.tell(path, found)
                except OSError as error:
                    errors[path] = error
                else:
                    if found is None:
                        follower.tell(path, None)
            self._surveyed_at_ns = newcomers.this_survey_ns
        if remote:
            with self._asking:
                for path, answer in self._remote.look(remote).items():
                    if isinstance(answer, OSError):
                        errors[path] = answer
                    else:
                        with self._lock, self._intact:
                            self._check_open()
                            self._tell_remote(path, answer)
        return errors

    def look(self, path: str) -> bool:
        """Look at a path as of now, whatever is in memory; what is there is a change to :meth:`take`, changed or not.

        A new file enters the cache if there is room. For those who follow directories and have heard of a name.

        Args:
            path: absolute.

        Returns:
            Whether a regular file is there.

        Raises:
            OSError: what ``os.stat`` raises for anything but absence; :class:`TimeoutError` where a remote filesystem
                does not answer.
            CacheClosedError: after :meth:`close`.
        """
        with self._lock, self._intact:
            self._begin()
            follower = self._follower
            mount = follower.mounts.remote_of(path)
            if mount is None:
                entry = follower.find(path)
                was = None if entry is None else entry.stats
                stats = None if entry is None else follower.look_again(entry)
                is_told = stats is not was
                if stats is None:  # or what stands in the way, of which the other look keeps silent
                    is_told = not self._is_full()
                    stats = self._admit(path) if is_told else read_stats(path)
                if not is_told or stats is None:
                    follower.tell(path, stats)
                return stats is not None
        return self._ask(mount, path, self._tell_remote) is not None

    def _look_up(self, path: str) -> FileStats | None:
        with self._lock, self._intact:
            self._begin()
            entry = self._served.get(path)  # under a relative name, or admitted by another thread meanwhile
            if entry is not None:
                entry.used = self._clock = self._clock + 1
                return entry.stats
            self._misses += 1
            mount = self._follower.mounts.remote_of(path)
            if mount is None:
                return self._look(path)
        return self._ask(mount, path, self._take_in_remote)

    def _look(self, path: str) -> FileStats | None:
        """Look at a file that is not served from memory, with the lock held."""
        entry = self._follower.find(path)
        if entry is None:
            return self._admit(path)
        entry.used = self._stamp()
        stats = self._follower.look_again(entry)
        return self._admit(path) if stats is None else stats

    def _ask(self, mount: Mount, path: str, take_in: Callable[[str, FileStats | None], object]) -> FileStats | None:
        """Look at a file on a remote filesystem, without the lock, and take in with the lock what was found."""
        with self._asking:
            found = self._remote.look({mount: [path]})[path]
            if isinstance(found, OSError):
                raise found
            with self._lock, self._intact:
                self._check_open()
                take_in(path, found)
        return found

    # -- directories --------------------------------------------------------------------------------------------------

    def watch_directory(self, path: str) -> str | None:
        """Watch a directory for names that come and go in it; again, if another directory may be there now.

        Watch first, then list: what comes in between is told twice instead of not at all.

        Args:
            path: absolute.

        Returns:
            None, or the reason for which it can not be watched: one of :data:`POLL_REASONS`, or ``autofs`` for a
            directory that a mere listing would have mounted. What is mounted above it is told all the same.

        Raises:
            FileNotFoundError, NotADirectoryError: no directory is there.
            CacheClosedError: after :meth:`close`.
        """
        with self._lock, self._intact:
            self._begin()
            if news := self._session.news():
                self._take_in(news)  # a filesystem that may hang may have been mounted there
            return self._follower.watch_directory(path)

    def unwatch_directory(self, path: str) -> None:
        """Watch a directory no longer; an unknown one is no error.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        with self._lock, self._intact:
            self._check_open()
            self._follower.directories.unwatch(path)

    # -- driving it ---------------------------------------------------------------------------------------------------

    def wait(self) -> bool:
        """Sleep until there is something to :meth:`advance`, and rest before that as ``cpu_budget`` asks: what the
        calling thread has worked since the last call counts. For the owner of a cache that keeps changes, in one
        thread.

        Returns:
            Whether to go on; False after :meth:`close`, or when changes can be followed no longer.

        Raises:
            OSError: there is no descriptor to sleep with, so changes cannot be followed.
        """
        with self._lock, self._intact:
            if not self.alive or self._session.is_closed:  # closed without close(): the interpreter exits
                return False
            try:
                sleeper = self._session.open_sleeper()
            except OSError:
                self._follower.fail()
                raise
            due = self._before_sleep(sleeper.worked_s)
        sleeper.sleep(due)  # False too when the cache begins another life, see invalidate()
        return self.alive and not self._session.is_closed

    def advance(self) -> None:
        """Take in what the kernel has to tell, stat the sampled files if that is due, and some of those that an
        overflow has made doubtful.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        with self._lock:
            self._check_open()
            try:
                self._follow()
            except Exception:
                # Nothing keeps the entries true any more: from here on every look-up is an os.stat.
                self._follower.fail()
                raise
            except BaseException:
                self._throw_away()
                raise

    def take(self) -> list[Change]:
        """Give, once, what every stat has found and what has happened in the watched directories, in order. See
        ``keep_changes``; :meth:`advance` and :meth:`sync` take in what the kernel has to tell first.

        A directory in which very much comes and goes is not reported name by name but to be listed, at each
        :meth:`sync` at which it has changed and else once a second, or less often where a CPU budget asks for it.
        """
        with self._lock:
            return self._changes.take()

    # -- what is in it ------------------------------------------------------------------------------------------------

    def build(self, paths: Iterable[StrPath]) -> list[str]:
        """Fill the cache ahead of the first look-ups; may be called again to add files.

        Args:
            paths: the files; those that are in the cache already count as used.

        Returns:
            The paths that were skipped: nothing there, not a regular file, or not to be reached.

        Raises:
            TypeError: ``paths`` is one path.
            CacheClosedError: after :meth:`close`.
        """
        if isinstance(paths, str | bytes | os.PathLike):
            raise TypeError(f"build() takes an iterable of paths, not one path: {paths!r}")
        skipped = []
        for path in paths:
            try:
                is_there = self._add(absolute(path))
            except (OSError, ValueError) as error:  # ValueError: a NUL in the path
                log.debug("not cached: %s: %s", path, error)
                is_there = False
            if not is_there:
                skipped.append(os.fsdecode(path))
        return skipped

    def add_file_to_watch(self, path: StrPath) -> None:
        """Watch a file and remember its stats, as the first look-up would.

        Raises:
            FileNotFoundError: there is no regular file.
            OSError: what ``os.stat`` raises for anything but absence.
            CacheClosedError: after :meth:`close`.
        """
        path = absolute(path)
        if not self._add(path):
            raise FileNotFoundError(errno.ENOENT, "No such regular file", path)

    def _add(self, path: str) -> bool:
        with self._lock, self._intact:
            self._begin()
            entry = self._follower.find(path)
            if entry is not None:
                entry.used = self._stamp()
                return True
            mount = self._follower.mounts.remote_of(path)
            if mount is None:
                return self._admit(path) is not None
        return self._ask(mount, path, self._take_in_remote) is not None

    def remove_from_watch(self, path: StrPath) -> None:
        """Drop a file from the cache and unwatch it.

        Raises:
            KeyError: it is not in the cache.
            CacheClosedError: after :meth:`close`.
        """
        path = absolute(path)
        with self._lock, self._intact:
            self._check_open()
            entry = self._follower.find(path)
            if entry is None:
                raise KeyError(path)
            self._follower.drop(entry)

    def list_files_in_cache(self) -> list[str]:
        """The absolute paths of all files in the cache, in no particular order."""
        with self._lock, self._intact:
            return [entry.path for entry in self._follower]

    def how_followed(self, paths: Iterable[str]) -> list[str | None]:
        """How files are followed just now.

        Args:
            paths: absolute.

        Returns:
            For each path ``watched``; ``hot``: written all the time, so sampled instead; or for which of
            :data:`POLL_REASONS` it is looked at whenever asked. None for one that is not in the cache.
        """
        with self._lock, self._intact:
            return [self._follower.how(path) for path in paths]

    def cache_info(self) -> CacheInfo:
        """Hits, misses, evictions, files and their bound, in the manner of :func:`functools.lru_cache`."""
        hits = self._clock - self._stamps_without_hit
        return CacheInfo(hits, self._misses, self._evictions, len(self._follower), self._max_files)

    def status(self) -> CacheStatus:
        """How the files are followed just now, and what has gone wrong so far."""
        with self._lock, self._intact:
            follower, counts = self._follower, self._counts
            return CacheStatus(
                watches=follower.watches,
                directories=len(follower.directories),
                hot_directories=len(follower.directories.hot),
                hot=len(follower.hot),
                guarded=follower.directories.guarded,
                polled={reason: files for reason, files in follower.polled_for.items() if files},
                late=len(self._late),
                queue_overflows=counts.queue_overflows,
                watch_failures=dict(counts.watch_failures),
                audit_checks=counts.audit_checks,
                audit_mismatches=counts.audit_mismatches,
            )

    def limit(self, *, max_files: int | None, cpu_budget: float | None) -> None:
        """Change the bounds; files beyond the new one are evicted, the least recently used first.

        Args:
            max_files, cpu_budget: as of the class.

        Raises:
            ValueError: as of the class.
            CacheClosedError: after :meth:`close`.
        """
        _check_limits(max_files, cpu_budget)
        with self._lock, self._intact:
            self._check_open()
            self._max_files, self._cpu_budget = max_files, cpu_budget
            while max_files is not None and len(self._follower) > max_files:
                self._make_room()
            self._session.limit(cpu_budget)

    # -- being true ---------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Take in every change that was complete when this was called: the barrier after which look-ups are exact.

        The kernel queues an event before the write that caused it returns, so one drained queue is enough for all
        files; only those that are polled or sampled are looked at each. Callable from any thread. It waits for remote
        filesystems ``remote_timeout_s`` at most, and not at all for one that is late already.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        if self._follower.remote:
            self._look_at_remote()
        with self._lock:
            follower = self._follower
            try:  # what _intact does, at no cost: this may be called before every look-up
                if self._closed:  # asked here, to spare the call
                    self._check_open()
                if news := self._session.news():
                    self._take_in(news)
                if follower.hot:
                    self._sample_hot()
                if follower.directories.hot:
                    follower.directories.sample_hot(time.monotonic())
                if follower.doubtful:
                    follower.recover()
                if follower.polled:
                    follower.look_at_polled()
                if self._late and not follower.remote:
                    self._late = {}
            except _ORDERLY:
                raise
            except BaseException:
                self._throw_away()
                raise

    def _look_at_remote(self) -> None:
        with self._asking:
            answers = self._remote.look(self._remote_paths())
            with self._lock, self._intact:
                self._check_open()
                self._late = {path: answer for path, answer in answers.items() if isinstance(answer, OSError)}
                for path, answer in answers.items():
                    entry = self._follower.remote.get(path)
                    if entry is not None:
                        self._follower.refresh_remote(entry, answer)

    def _remote_paths(self) -> dict[Mount, list[str]]:
        paths: dict[Mount, list[str]] = {}
        with self._lock, self._intact:
            self._check_open()
            self._take_in(self._session.news())  # the mount may have gone
            for entry in tuple(self._follower.remote.values()):
                mount = self._follower.mounts.remote_of(entry.path)
                if mount is not None:
                    paths.setdefault(mount, []).append(entry.path)
                else:  # its link was pointed elsewhere
                    self._follower.doubt(entry)
        return paths

    def audit(self, files: int | None = None) -> int:
        """Compare entries with a fresh ``os.stat``, in rotation: finds what the kernel does not report.

        A file that differs is made true again, and polled from then on.

        Args:
            files: how many entries to compare; None: all.

        Returns:
            How many differed.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        with self._lock, self._intact:
            self._check_open()
            self._take_in(self._session.news())
            follower = self._follower
            suspects = self._unexplained(follower, follower.differing(files))
        # The event of a write(2) that is half done comes soon; only who audits waits for it.
        for _ in range(2):
            if suspects:
                time.sleep(IN_FLIGHT_S)
                with self._lock, self._intact:
                    suspects = self._unexplained(follower, suspects)
        with self._lock, self._intact:
            suspects = self._unexplained(follower, suspects)
            return follower.poll_differing(suspects) if follower is self._follower else 0

    @property
    def alive(self) -> bool:
        """False when changes are followed no longer: after :meth:`close`, or because following them has failed."""
        return not (self._closed or self._follower.has_failed or self._session.has_failed)

    def responds(self, timeout_s: float) -> bool:
        """Wake the thread that follows changes and wait for it: whether it still works, which :attr:`alive` cannot say.

        Takes no lock, so it returns whatever the thread or anybody else is stuck in.

        Args:
            timeout_s: how long to wait, seconds.

        Returns:
            Whether changes are followed; True before the first watch, when there is no thread yet.
        """
        sleeper = self._session.sleeper
        return self.alive and (sleeper is None or sleeper.responds(timeout_s))

    # -- ending -------------------------------------------------------------------------------------------------------

    def invalidate(self) -> None:
        """Unwatch and forget every file and directory; the counts go on, and the cache may be used again.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        with self._lock, self._intact:
            self._check_open()
            end_life = self._start_over()
        end_life()

    def close(self) -> None:
        """Unwatch and forget everything for good, stop the thread, release the descriptors; may be called twice."""
        with self._lock, self._intact:
            self._closed = True
            end_life = self._start_over()
        end_life()
        self._remote.keep(())

    def _throw_away(self) -> None:
        """Start over after an interruption."""
        directories = tuple(self._follower.directories)
        end_life = self._start_over()
        for path in directories:
            self._follower.directories.add(path)
        self._follower.directories.doubt(directories)  # to be watched anew by who asked for it, and listed
        # The lock is held, for which the old thread may be waiting: so it is waited for elsewhere.
        threading.Thread(target=end_life, name="fstat-cache-end", daemon=True).start()

    def _start_over_in_child(self) -> None:
        """Start empty after fork(2): the threads are not here, and the inotify instance belongs to the parent."""
        self._end_life.detach()
        self._session.abandon()
        self._make_shared()  # the old lock may be held by a thread of the parent, for ever
        self._begin_life()

    def __enter__(self) -> FStatCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- below here, every method is called with the lock held --------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise CacheClosedError("the cache is closed")

    def _begin(self) -> None:
        """Make sure that files may be looked at."""
        self._check_open()
        self._follower.open()

    def _take_in(self, news: list[tuple[int, int]]) -> None:
        """Take in what the kernel has to tell."""
        follower = self._follower
        was_cool = not follower.hot
        follower.take_in(news)
        if was_cool and follower.hot:  # which has just been stat'ed
            self._dues.sample = time.monotonic() + hot.TICK_S
        self._wake_if_due()
        if follower.mounts is not self._known_mounts:
            self._known_mounts = follower.mounts
            self._remote.keep(follower.mounts.remote)

    def _wake_if_due(self) -> None:
        """Wake the thread that sleeps where it has something to do earlier than it knows: it may sleep without end."""
        sleeper, dues = self._session.sleeper, self._dues
        if sleeper is not None and threading.get_ident() != dues.thread_id and self._due() < dues.known:
            dues.known = -math.inf  # once is enough
            sleeper.wake()

    def _unexplained(self, follower: Follower, suspects: list[Suspect]) -> list[Suspect]:
        """Take in what the kernel has to tell, and return the suspects of which it tells nothing."""
        if follower is not self._follower:
            return []  # the cache has begun another life
        self._take_in(self._session.news())
        return follower.unexplained(suspects)

    def _is_full(self) -> bool:
        return self._max_files is not None and len(self._follower) >= self._max_files

    def _stamp(self) -> int:
        self._stamps_without_hit += 1
        self._clock += 1
        return self._clock

    def _admit(self, path: str) -> FileStats | None:
        entry = self._follower.meet(path)
        if entry is None:
            return None
        self._make_room()
        entry.used = self._stamp()
        self._follower.place(entry)
        return entry.stats

    def _make_room(self) -> None:
        if self._is_full():
            # Hits take no lock: other threads may stamp all entries between one line and the next.
            oldest = self._least_recently_used.pop(self._follower, self._clock)
            self._evict(oldest or min(self._follower, key=attrgetter("used")))

    def _evict(self, entry: Entry) -> None:
        self._follower.drop(entry)
        self._evictions += 1

    def _take_in_remote(self, path: str, stats: FileStats | None) -> None:
        """Remember what was found of a remote file."""
        entry = self._follower.find(path)
        if entry is not None and entry.reason != REMOTE:  # its path has led to a local file so far
            self._follower.drop(entry)
            entry = None
        if entry is not None:
            entry.used = self._stamp()
            self._follower.refresh_remote(entry, stats)
        elif stats is not None:
            self._make_room()
            entry = self._follower.meet_remote(path, stats)
            entry.used = self._stamp()
            self._follower.place(entry)

    def _tell_remote(self, path: str, stats: FileStats | None) -> None:
        if self._follower.find(path) is not None or (stats is not None and not self._is_full()):
            self._take_in_remote(path, stats)
        self._follower.tell(path, stats)

    def _look_at_newcomer(self, path: str, newcomers: _Newcomers) -> FileStats | None:
        """Look at a file for which there is no room; if it is active, make room at the cost of one that is not."""
        stats = read_stats(path)
        if stats is None or not newcomers.are_welcome or stats.mtime_ns < newcomers.previous_survey_ns:
            return stats
        idle = self._longest_unchanged.pop(self._follower, newcomers.this_survey_ns)
        if idle is None or idle.stats.mtime_ns >= newcomers.previous_survey_ns:
            newcomers.are_welcome = False
            return stats
        self._evict(idle)
        return self._admit(path)

    def _sample_hot(self) -> None:
        began_at, began_s = time.monotonic(), time.thread_time()
        self._follower.sample_hot()
        tick_s = hot.TICK_S
        if self._cpu_budget is not None:
            spent_s = time.thread_time() - began_s
            tick_s = max(tick_s, min(spent_s / (self._cpu_budget * hot.BUDGET_SHARE), hot.GREATEST_TICK_S))
        self._dues.sample = began_at + tick_s

    def _work(self) -> float | None:
        """What the cache's own thread calls. It takes the lock itself."""
        try:
            self.advance()
        except CacheClosedError:
            return None
        with self._lock:
            return self._before_sleep(0.0)

    def _follow(self) -> None:
        began_s = time.thread_time()
        follower = self._follower
        self._take_in(self._session.news())
        now = time.monotonic()
        if follower.doubtful:
            follower.recover(None if self._cpu_budget is None else _RECOVERED_AT_ONCE)
            spent_s = time.thread_time() - began_s
            self._dues.recovery = now + (0 if self._cpu_budget is None else spent_s / self._cpu_budget)
        if follower.hot and now >= self._dues.sample:
            self._sample_hot()
        if follower.directories.hot and now >= self._dues.directories:
            follower.directories.sample_hot(now)
            self._dues.directories = now + directories.TICK_S
            self._dues.has_sampled_directories = True
        self._wake_if_due()

    def _due(self) -> float:
        """When to advance even without events, by the monotonic clock, seconds; infinite: never."""
        follower, dues = self._follower, self._dues
        due = math.inf
        if follower.doubtful:
            due = dues.recovery
        if follower.hot:
            due = min(due, dues.sample)
        if follower.directories.hot:
            due = min(due, dues.directories)
        return due

    def _before_sleep(self, worked_s: float) -> float | None:
        """Note that the calling thread is the one that sleeps, and until when; None: without end.

        Args:
            worked_s: CPU time of its turn. Who has taken that hot directories have changed lists them, which may take
                long.
        """
        dues = self._dues
        if dues.has_sampled_directories and self._cpu_budget is not None:
            rest_s = min(worked_s / self._cpu_budget, directories.GREATEST_TICK_S)
            dues.directories = max(dues.directories, time.monotonic() + rest_s)
        dues.has_sampled_directories = False
        dues.thread_id = threading.get_ident()
        dues.known = self._due()
        if self._changes:  # its owner could not book them yet
            dues.known = min(dues.known, time.monotonic() + _UNTAKEN_S)
        return None if dues.known == math.inf else dues.known


_UNTAKEN_S = 0.05
"""After how long an owner that has left changes where they are is called again."""
_RECOVERED_AT_ONCE = 500
"""After how many files that an overflow has made doubtful the thread rests: half a second with a budget of 1 %."""


@dataclass(slots=True)
class _Dues:
    """When what needs no event is to be done next, by the monotonic clock, seconds."""

    sample: float = 0.0  # the hot files
    directories: float = 0.0  # the hot directories
    recovery: float = 0.0  # some of the files that an overflow has made doubtful
    has_sampled_directories: bool = False  # since the thread slept last
    known: float = math.inf  # until when the thread sleeps that follows changes
    thread_id: int | None = None  # which one that is


@dataclass(slots=True)
class _Newcomers:
    """Which files without a place in the cache may take one, during one survey."""

    previous_survey_ns: int  # those that have changed since then
    this_survey_ns: int
    are_welcome: bool = True


def _check_limits(max_files: int | None, cpu_budget: float | None) -> None:
    if max_files is not None and max_files < 1:
        raise ValueError(f"max_files must be at least 1, or None for no bound: {max_files}")
    if cpu_budget is not None and not 0 < cpu_budget <= 1:
        raise ValueError(f"cpu_budget must be above 0 and at most 1, or None for no bound: {cpu_budget}")


def absolute(path: StrPath) -> str:
    """Make a path absolute by the current directory, without resolving links or ``..`` (which may lead over a link)."""
    name = os.fsdecode(path)
    if "\0" in name:
        raise ValueError(f"embedded null character in path: {name!r}")  # C would end the name there
    if name.startswith("/"):
        return name
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return os.path.join(os.getcwd(), name)


def _weakly(cache: FStatCache, method: Callable[[FStatCache], T], otherwise: T) -> Callable[[], T]:
    """A method that does not keep its cache alive: a cache that is dropped unclosed ends its thread."""
    reference = weakref.ref(cache)

    def call() -> T:
        cache = reference()
        return otherwise if cache is None else method(cache)

    return call


def _end(session: Session, served: dict[str, Entry]) -> None:
    served.clear()  # who still asks, while the interpreter ends, gets nothing from memory that nobody keeps true
    session.close()


@functools.cache
def _caches_to_reset_in_a_child() -> weakref.WeakSet[FStatCache]:
    """The caches that have started; the first call registers the fork handler, which can not be unregistered."""
    caches: weakref.WeakSet[FStatCache] = weakref.WeakSet()

    def reset_all() -> None:
        for cache in tuple(caches):
            cache._start_over_in_child()

    os.register_at_fork(after_in_child=reset_all)
    return caches
