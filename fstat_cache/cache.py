"""FStatCache: what users import. Look-ups from memory, and the way to all else."""

from __future__ import annotations

import errno
import heapq
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import NamedTuple

from fstat_cache.audit import Audit
from fstat_cache.changes import Change
from fstat_cache.errors import CacheClosedError
from fstat_cache.life import ORDERLY, Life, Settings
from fstat_cache.lru import Places
from fstat_cache.misses import Misses
from fstat_cache.mounts import Mount
from fstat_cache.states import ASKED, GONE
from fstat_cache.stats import FileStats, StrPath, file_time_ns, read_stats


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

    def __init__(self) -> None:
        self.seen: tuple[object, int] | None = None  # the files then, and how many had left memory
        self.not_served: Set[str] = frozenset()  # no others are not as long as that is the same


class FStatCache(AbstractContextManager["FStatCache"]):
    """A cache in front of ``os.stat`` for regular files whose stats are read far more often than they change.

    ::

        with FStatCache() as cache:
            stats = cache.get_file_stats("/var/log/syslog")  # the first time by os.stat, then from memory
            cache.sync()  # whatever was written until now is in the next look-ups
            stats = cache.get_file_stats("/var/log/syslog")
            print("no file" if stats is None else stats.size)

    Call :meth:`sync` before look-ups that must include every change made so far: once for a batch of look-ups, or once
    for a request. Without it a look-up may be ``gather_s`` late, or half a second for a file that is written all the
    time.

    **What a look-up after sync() includes.** Every change that was complete before: writes by write(2) and its kin,
    truncations, times, renames, replacements and deletions of the file, mounts and unmounts above it. inotify(7)
    watches a file from its first look-up on; a file that is written all the time is sampled, because an event for each
    write would slow its writer down. With a ``cpu_budget``, look-ups without :meth:`sync` may be a second late where
    many files change, and five seconds for hundreds of files that are written all the time.

    **What the kernel does not report.** Writes through mmap(2); Linux AIO; writes to the layers below an overlay; a
    directory above the file that was renamed or may no longer be searched; a symbolic link that was removed or pointed
    elsewhere. A file without a watch of its own (:attr:`CacheStatus.guarded`) also misses writes by another name, or
    through a descriptor whose name is gone. :meth:`audit` finds all of these. Files that cannot be watched (no read
    permission, no watches left, filesystems like /proc) are stat'ed at each look-up. So are files on filesystems that
    other machines write to (NFS, CIFS, FUSE and others), by a separate thread. Where such a filesystem does not answer
    within ``remote_timeout_s``, a look-up raises :class:`TimeoutError`.

    Safe under threads, given the GIL: a hit by an absolute path as a string takes no lock. After fork(2) the child's
    cache is empty, of directories as well, and watches anew. Nothing runs before the first watch, and an interpreter
    that exits with a live cache just exits.

    Args:
        max_files: how many files are kept; the least recently used one is unwatched and dropped. None: unbounded.
        max_watches: how many inotify watches are taken; files beyond are stat'ed each time. None: what the
            sysctl fs.inotify.max_user_watches allows but for 16,384, or half of it if that is less, because other
            programs of the same user need some.
        gather_s: seconds for which events gather before they are processed.
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
        self._life = Life(Settings(max_watches, gather_s, cpu_budget, remote_timeout_s, keep_changes))
        self._served = self._life.served
        # The clock stamps each use, so that the least recent one can be told, and counts hits by the way: here, where a
        # hit has the fewest steps to it. Its increment, like a dictionary's look-up, cannot be interrupted by another
        # thread under the GIL.
        self._clock = 0
        self._places = Places(max_files)
        self._misses = Misses(self._life, self._places)
        self._audit = Audit(self._life)
        self._surveyed_at_ns = 0
        weakref.finalize(self, self._life.end)  # a cache that is dropped unclosed ends its thread

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
        path = absolute(path)
        self._clock = stamp = self._clock + 1
        return self._misses.look_up(path, stamp)

    @staticmethod
    def get_file_stats_using_stat(path: StrPath) -> FileStats | None:
        """Give the stats of a file by ``os.stat``, past every cache; results and errors as :meth:`get_file_stats`."""
        return read_stats(path)

    def survey(self, paths: Set[str], surveyed: Surveyed | None = None) -> dict[str, OSError]:
        """Look up many files at once, each as of the latest :meth:`sync`: no system call for what is in memory. What is
        found is a change to :meth:`take`, unless it is in memory already.

        For those who ask for the same files over and over, in turn, and perhaps for more than ``max_files``: there the
        least recently used file would always be the one asked for next. So a survey uses no file; what does not fit is
        stat'ed (and reported) each time, and takes the place of the file unchanged longest once it changes.

        Args:
            paths: absolute paths; each counts as one look-up.
            surveyed: given again with the same paths, or fewer, it spares going through those that stay in memory.

        Returns:
            path -> what ``os.stat`` raised, for the files that could not be stat'ed.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        errors: dict[str, OSError] = {}
        remote: dict[Mount, list[str]] = {}
        active: list[str] = []
        with self._life.lock, self._life as engine:
            engine.open()
            places = self._places
            seen = (engine.files, engine.files.left)
            if surveyed is not None and surveyed.seen == seen:
                missing = {path for path in surveyed.not_served if path in paths and path not in self._served}
            else:  # whether any is missing takes a third of the time of finding which
                missing = set() if paths <= self._served.keys() else set(paths - self._served.keys())
            if surveyed is not None:
                surveyed.seen, surveyed.not_served = seen, missing
            asked = len(paths)
            self._clock = stamp = self._clock + asked
            places.stamps_without_hit += len(missing)
            places.misses += len(missing)
            since_ns, self._surveyed_at_ns = self._surveyed_at_ns, file_time_ns()
            for path in missing:
                if engine.files.find(path) is not None:  # polled, so sync() has just stat'ed it
                    if path in engine.late:
                        errors[path] = engine.late[path]
                    continue
                mount = engine.mounts.remote_of(path)
                if mount is not None:
                    remote.setdefault(mount, []).append(path)
                    continue
                try:
                    is_full = places.are_full(engine.files)
                    stats = read_stats(path) if is_full else places.admit(engine.files, path, stamp)
                except OSError as error:
                    errors[path] = error
                    continue
                if is_full or stats is None:
                    engine.files.tell(path, stats)
                if is_full and stats is not None and stats.mtime_ns >= since_ns:
                    active.append(path)
            longest_idle = heapq.nsmallest(len(active), engine.files, key=lambda entry: entry.stats.mtime_ns)
            for path, idle in zip(active, longest_idle, strict=False):
                if idle.stats.mtime_ns >= since_ns:
                    break
                places.evict(engine.files, idle)
                try:
                    places.admit(engine.files, path, stamp)
                except OSError as error:
                    errors[path] = error
        if remote:
            found = self._misses.stat(remote, stamp, makes_room=False)
            errors |= {path: answer for path, answer in found.items() if isinstance(answer, OSError)}
        return errors

    def look(self, path: str) -> bool:
        """Stat a path as of now, whatever is in memory; what is there is a change to :meth:`take`, changed or not.

        A new file enters the cache if there is room. For those who follow directories and know of a new name.

        Args:
            path: absolute.

        Returns:
            Whether a regular file is there.

        Raises:
            OSError: what ``os.stat`` raises for anything but absence; :class:`TimeoutError` where a remote filesystem
                does not answer.
            CacheClosedError: after :meth:`close`.
        """
        with self._life.lock, self._life as engine:
            engine.open()
            files, places = engine.files, self._places
            self._clock = stamp = self._clock + 1
            places.stamps_without_hit += 1
            mount = engine.mounts.remote_of(path) if engine.mounts.remote else None
            if mount is None:
                entry = files.find(path)
                if entry is not None:
                    was = entry.stats
                    files.on(entry, ASKED)
                    if entry.state is not GONE:
                        if entry.stats is was:
                            files.tell(path, was)
                        return True
                # It has gone, and that is reported; what is in the way raises here.
                is_full = places.max_files is not None and places.are_full(files)
                stats = read_stats(path) if is_full else places.admit(files, path, stamp)
                if is_full or stats is None:
                    files.tell(path, stats)
                return stats is not None
        return self._misses.ask(mount, path, stamp, makes_room=False) is not None

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
        life = self._life
        with life.lock, life as engine:
            engine.open()
            if news := life.session.news():
                life.schedule.take_in(news)  # a filesystem that may hang may have been mounted there
            return engine.watch_directory(path)

    def unwatch_directory(self, path: str) -> None:
        """Watch a directory no longer; an unknown one is no error.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        with self._life.lock, self._life as engine:
            engine.directories.unwatch(path)

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
        return self._life.wait()

    def advance(self) -> None:
        """Take in what the kernel has to tell, stat the sampled files if that is due, and some of those that an
        overflow has made doubtful.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        self._life.advance()

    def take(self) -> list[Change]:
        """Give, once, what every stat has found and what has happened in the watched directories, in order. See
        ``keep_changes``; :meth:`advance` and :meth:`sync` take in what the kernel has to tell first.

        A directory in which very much comes and goes is not reported name by name but to be listed, at each
        :meth:`sync` at which it has changed and else once a second, or less often where a CPU budget asks for it.
        """
        with self._life.lock:
            return self._life.changes.take()

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
                self.add_file_to_watch(path)
            except (OSError, ValueError):  # ValueError: a NUL in the path
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
        with self._life.lock, self._life as engine:
            engine.open()
            self._clock = stamp = self._clock + 1
            self._places.stamps_without_hit += 1
            entry = engine.files.find(path)
            if entry is not None:
                entry.used = stamp
                return
            mount = engine.mounts.remote_of(path)
            stats = self._places.admit(engine.files, path, stamp) if mount is None else None
        if mount is not None:
            stats = self._misses.ask(mount, path, stamp)
        if stats is None:
            raise FileNotFoundError(errno.ENOENT, "No such regular file", path)

    def remove_from_watch(self, path: StrPath) -> None:
        """Drop a file from the cache and unwatch it.

        Raises:
            KeyError: it is not in the cache.
            CacheClosedError: after :meth:`close`.
        """
        path = absolute(path)
        with self._life.lock, self._life as engine:
            entry = engine.files.find(path)
            if entry is None:
                raise KeyError(path)
            engine.files.untrack(entry)

    def list_files_in_cache(self) -> list[str]:
        """The absolute paths of all files in the cache, in no particular order."""
        with self._life.lock:
            return [entry.path for entry in self._life.engine.files]

    def how_followed(self, paths: Iterable[str]) -> list[str | None]:
        """How files are followed just now.

        Args:
            paths: absolute.

        Returns:
            For each path ``watched``; ``hot``: written all the time, so sampled instead; or for which of
            :data:`POLL_REASONS` it is looked at whenever asked. None for one that is not in the cache.
        """
        with self._life.lock:
            entries = map(self._life.engine.files.find, paths)
            return [None if entry is None else entry.state.shown for entry in entries]

    def cache_info(self) -> CacheInfo:
        """Hits, misses, evictions, files and their bound, in the manner of :func:`functools.lru_cache`."""
        places = self._places
        hits = self._clock - places.stamps_without_hit
        return CacheInfo(hits, places.misses, places.evictions, len(self._life.engine.files), places.max_files)

    def status(self) -> CacheStatus:
        """How the files are followed just now, and what has gone wrong so far."""
        with self._life.lock:
            engine, counts = self._life.engine, self._life.counts
            return CacheStatus(
                watches=len(engine.watches),
                directories=len(engine.watches.directories),
                hot_directories=len(engine.directories.sampled),
                hot=len(engine.files.sampled),
                guarded=len(engine.directories.covered),
                polled={reason: files for reason, files in engine.files.polled_for.items() if files},
                late=len(engine.late),
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
        with self._life.lock, self._life as engine:
            self._places.max_files = max_files
            if max_files is not None:
                self._places.make_room(engine.files, max_files, self._clock)
            self._life.limit(cpu_budget)

    # -- being true ---------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Take in every change that was complete when this was called: the barrier after which look-ups are exact.

        The kernel queues an event before the write that caused it returns, so one drained queue is enough for all
        files; only those that are polled or sampled are looked at each. Callable from any thread. It waits for remote
        filesystems ``remote_timeout_s`` at most, and not at all for one that is late already.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        life = self._life
        if life.engine.files.remote:
            self._misses.sync()
        with life.lock:
            engine = life.engine
            files = engine.files
            try:  # what `with life` does, at no cost: this may be called before every look-up
                if life.is_closed:
                    raise CacheClosedError("the cache is closed")
                if news := life.session.news():
                    life.schedule.take_in(news)
                if files.sampled:
                    life.schedule.sample()
                if engine.directories.sampled:
                    engine.directories.sample(time.monotonic())
                if files.doubtful:
                    engine.recover()
                if files.polled:
                    engine.stat_polled()
                if engine.late and not files.remote:
                    engine.late = {}
            except BaseException as error:
                if not isinstance(error, ORDERLY):
                    life.throw_away()
                raise

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
        return self._audit.run(files)

    @property
    def alive(self) -> bool:
        """False when changes are followed no longer: after :meth:`close`, or because following them has failed."""
        return not self._life.has_ended

    def responds(self, timeout_s: float) -> bool:
        """Wake the thread that follows changes and wait for it: whether it still works, which :attr:`alive` cannot say.

        Takes no lock, so it returns whatever the thread or anybody else is stuck in.

        Args:
            timeout_s: how long to wait, seconds.

        Returns:
            Whether changes are followed; True before the first watch, when there is no thread yet.
        """
        sleeper = self._life.session.sleeper
        return self.alive and (sleeper is None or sleeper.responds(timeout_s))

    # -- ending -------------------------------------------------------------------------------------------------------

    def invalidate(self) -> None:
        """Unwatch and forget every file and directory; the counts go on, and the cache may be used again.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        with self._life.lock, self._life:
            end = self._life.start_over()
        end()

    def close(self) -> None:
        """Unwatch and forget everything for good, stop the thread, release the descriptors; may be called twice."""
        life = self._life
        end: Callable[[], object] = life.session.close
        with life.lock, suppress(CacheClosedError), life:
            life.is_closed = True
            end = life.start_over()
        end()
        life.workers.keep(())

    def __exit__(self, *_: object) -> None:
        self.close()


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
