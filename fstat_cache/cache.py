"""FStatCache, the public class: answers look-ups from memory and delegates the rest."""

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
from fstat_cache.extents import Extents
from fstat_cache.inodes import Inodes
from fstat_cache.life import EXPECTED_ERRORS, Life, Settings
from fstat_cache.lru import Places
from fstat_cache.misses import Misses
from fstat_cache.mounts import Mount
from fstat_cache.paths import Root
from fstat_cache.states import ASKED, GONE
from fstat_cache.stats import DetailedStats, FileStats, StrPath, file_time_ns, read_stats


class CacheInfo(NamedTuple):
    """Counts like those of :func:`functools.lru_cache`; the first three never decrease."""

    hits: int
    """Look-ups answered from memory."""
    misses: int
    """Look-ups answered by an ``os.stat``."""
    evictions: int
    """Files dropped to make room for others."""
    files: int
    """Files in the cache now."""
    max_files: int | None
    """The most files that are kept; None: unbounded."""


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """How files are followed now, and which failures were counted since the start.

    Attributes:
        watches: inotify watches held, on files and directories; held deleted files have another one.
        max_watches: how many the cache may hold now; None: not known before the first watch.
        directories: watches held on directories.
        hot_directories: directories sampled instead of watched, because they had too many events.
        hot: watches that are disarmed and whose files are sampled, because they are written all the time.
        guarded: files covered by the watch of their directory, because no watch is left for them.
        polled: reason (:data:`POLL_REASONS`) -> files that are polled instead of watched.
        late: files on remote filesystems whose stat failed or timed out in the latest :meth:`FStatCache.sync`.
        reads_deleted_files: whether files without a name are read by their handles; that takes CAP_DAC_READ_SEARCH.
        queue_overflows: how often the kernel's event queue overflowed, since the start.
        watch_failures: reason (:data:`WATCH_FAILURES`) -> files that could not be watched, since the start.
        audit_checks: entries compared by :meth:`FStatCache.audit`, since the start.
        audit_mismatches: entries that :meth:`FStatCache.audit` found changed without an event, since the start.
    """

    watches: int
    max_watches: int | None
    directories: int
    hot_directories: int
    hot: int
    guarded: int
    polled: Mapping[str, int]
    late: int
    reads_deleted_files: bool
    queue_overflows: int
    watch_failures: Mapping[str, int]
    audit_checks: int
    audit_mismatches: int


class Surveyed:
    """What :meth:`FStatCache.survey` remembers for a caller that asks for the same paths over and over."""

    def __init__(self) -> None:
        self.seen: tuple[object, int] | None = None  # the cache's files, and how many had left memory by then
        self.not_served: Set[str] = frozenset()  # the paths not in memory; a superset while `seen` stays the same


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
            programs of the same user need some. :meth:`sync` reads the sysctl again while a watch is refused for it.
        gather_s: seconds for which events gather before they are processed.
        cpu_budget: share of one core that following changes may take between calls, 0.01 for 1 %. None: no bound.
        remote_timeout_s: seconds for which a remote filesystem is waited for.
        keep_changes: whether :meth:`take` gives what every stat has found. The cache has no thread of its own then: its
            owner runs ``while cache.wait(): cache.advance()`` in one, and takes the changes.
        root: the directory in which all paths begin, and the absolute targets of symbolic links, as after chroot(2):
            where a container has the root of its host. What is given and returned are the host's paths; each stat of a
            file takes a readlink(2) for each component of its path. :meth:`get_file_stats_using_stat` knows no root.

    Attributes:
        root: what was given, resolved.
        inodes: finds inodes that no path leads to, see :class:`Inodes`; for the owner of a cache with ``keep_changes``.
        extents: finds the data of files without their holes, see :class:`Extents`.

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
        root: StrPath = "/",
    ) -> None:
        _check_limits(max_files, cpu_budget)
        self.root = Root(os.path.realpath(os.fsdecode(root)))
        self._life = Life(Settings(max_watches, gather_s, cpu_budget, remote_timeout_s, keep_changes, self.root))
        self._served = self._life.served
        # The clock stamps each use, for the LRU order, and also counts hits. It is here because a hit reaches it in the
        # fewest steps. Under the GIL no other thread interrupts its increment, nor a dictionary's look-up.
        self._clock = 0
        self._places = Places(max_files)
        self._misses = Misses(self._life, self._places)
        self._audit = Audit(self._life)
        self.inodes = Inodes(self._life)
        self.extents = Extents(self._life)
        self._surveyed_at_ns = 0
        weakref.finalize(self, self._life.end)  # a cache that is dropped unclosed ends its thread

    # -- looking up ---------------------------------------------------------------------------------------------------

    def get_file_stats(self, path: StrPath) -> FileStats | None:
        """Return a file's stats from memory, or else stat the file and watch it from then on.

        Args:
            path: the file; a relative path starts at the current directory.

        Returns:
            The stats; None when there is no regular file, which is not remembered.

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
        """Return a file's stats by ``os.stat``, without any cache; results and errors as :meth:`get_file_stats`."""
        return read_stats(path)

    def survey(self, paths: Set[str], surveyed: Surveyed | None = None) -> dict[str, OSError]:
        """Look up many files, without a system call for those in memory, whose stats are those of the latest
        :meth:`sync`. The stats of the others become changes for :meth:`take`.

        It is for a caller that asks for the same files in turn, perhaps more than ``max_files``. An LRU would always
        drop the file that is asked for next. So a survey counts as no use of a file. A file that does not fit is
        stat'ed and reported each time; once it changes, it replaces the file that has been unchanged longest.

        Args:
            paths: absolute paths; each counts as one look-up.
            surveyed: pass the same object with the same paths, or fewer, to skip those that stay in memory.

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
            else:  # the subset test takes a third of the time of the difference
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
                    stats = engine.files.read_stats(path) if is_full else places.admit(engine.files, path, stamp)
                except OSError as error:
                    errors[path] = error
                    continue
                if is_full or stats is None:
                    engine.files.report(path, stats)
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

    def look(self, path: str, *, is_detailed: bool = False) -> bool:
        """Stat a path now, even if it is in memory; the result becomes a change for :meth:`take`, changed or not.

        A new file enters the cache if there is room. It is for a caller that follows directories and learns of a name.

        Args:
            path: absolute.
            is_detailed: whether the stats of this path are :class:`DetailedStats` from now on.

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
            if is_detailed:
                self._life.detailed.add(path)
            else:
                self._life.detailed.discard(path)
            self._clock = stamp = self._clock + 1
            places.stamps_without_hit += 1
            mount = engine.mounts.remote_of(path) if engine.mounts.remote else None
            if mount is None:
                entry = files.find(path)
                if entry is not None:
                    was = entry.stats
                    files.on(entry, ASKED)
                    if is_detailed and not isinstance(entry.stats, DetailedStats) and entry.state is not GONE:
                        files.take_over(entry, files.read_stats(path))
                    if entry.state is not GONE:
                        if entry.stats is was:
                            files.report(path, was)
                        return True
                # The entry is gone, and that is reported; any other error raises here.
                is_full = places.max_files is not None and places.are_full(files)
                stats = files.read_stats(path) if is_full else places.admit(files, path, stamp)
                if is_full or stats is None:
                    files.report(path, stats)
                return stats is not None
        return self._misses.ask(mount, path, stamp, makes_room=False) is not None

    # -- directories --------------------------------------------------------------------------------------------------

    def watch_directory(self, path: str) -> str | None:
        """Watch a directory for names that come and go; call it again if another directory may be there now.

        Watch first, then list: a name that comes in between is then reported twice instead of not at all.

        Args:
            path: absolute.

        Returns:
            None, or the reason why it cannot be watched: one of :data:`POLL_REASONS`, or ``autofs`` for a directory
            that a listing would mount. Mounts above it are reported in any case.

        Raises:
            FileNotFoundError, NotADirectoryError: no directory is there.
            CacheClosedError: after :meth:`close`.
        """
        life = self._life
        with life.lock, life as engine:
            engine.open()
            if news := life.session.news():
                life.schedule.take_in(news)  # a remote filesystem may have been mounted there
            return engine.watch_directory(path)

    def unwatch_directory(self, path: str) -> None:
        """Stop watching a directory; an unknown one is no error.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        with self._life.lock, self._life as engine:
            engine.directories.unwatch(path)

    # -- driving it ---------------------------------------------------------------------------------------------------

    def wait(self) -> bool:
        """Sleep until :meth:`advance` has something to do; for one thread of the owner of a cache with
        ``keep_changes``.

        It rests first as ``cpu_budget`` requires. All CPU time of the calling thread since the last call counts.

        Returns:
            Whether to continue; False after :meth:`close`, or when changes are no longer followed.

        Raises:
            OSError: no descriptor is left to sleep with, so changes cannot be followed.
        """
        return self._life.wait()

    def advance(self) -> None:
        """Process pending events, and stat what is due: sampled files, and some of those doubtful after an overflow.

        It does nothing after :meth:`close`, which another thread may call at any moment of the owner's loop,
        ``while cache.wait(): cache.advance()``.
        """
        self._life.advance()

    def take(self) -> list[Change]:
        """Return and forget the pending changes, in order: what every stat found, and the events of watched
        directories. They come from :meth:`advance`, :meth:`sync` and look-ups, and only with ``keep_changes``.

        A directory with too many events is not reported name by name, but as one to list. That is at each :meth:`sync`
        at which it has changed, and else once a second, or less often under a CPU budget.
        """
        with self._life.lock:
            return self._life.changes.take()

    # -- its files ----------------------------------------------------------------------------------------------------

    def build(self, paths: Iterable[StrPath]) -> list[str]:
        """Fill the cache ahead of the first look-ups; may be called again to add files.

        Args:
            paths: the files; those that are in the cache already count as used.

        Returns:
            The paths that were skipped: no regular file is there, or it cannot be stat'ed.

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
        """Drop a file from the cache and unwatch it. A file that is no longer at its path is then one without a name.

        Raises:
            KeyError: it is not in the cache.
            CacheClosedError: after :meth:`close`.
        """
        path = absolute(path)
        with self._life.lock, self._life as engine:
            self._life.detailed.discard(path)
            entry = engine.files.find(path)
            if entry is None:
                raise KeyError(path)
            engine.files.remove(entry)

    def list_files_in_cache(self) -> list[str]:
        """The absolute paths of all files in the cache, in no particular order."""
        with self._life.lock:
            return [entry.path for entry in self._life.engine.files]

    def how_followed(self, paths: Iterable[str]) -> list[str | None]:
        """Return how files are followed now.

        Args:
            paths: absolute.

        Returns:
            For each path: ``watched``; ``hot`` when it is written all the time and therefore sampled; the reason
            (:data:`POLL_REASONS`) when it is polled; None when it is not in the cache.
        """
        with self._life.lock:
            entries = map(self._life.engine.files.find, paths)
            return [None if entry is None else entry.state.shown for entry in entries]

    def cache_info(self) -> CacheInfo:
        """Hits, misses, evictions, files and their bound, like :func:`functools.lru_cache`."""
        places = self._places
        hits = self._clock - places.stamps_without_hit
        return CacheInfo(hits, places.misses, places.evictions, len(self._life.engine.files), places.max_files)

    def status(self) -> CacheStatus:
        """How files are followed now, and which failures were counted since the start."""
        with self._life.lock:
            engine, counts = self._life.engine, self._life.counts
            return CacheStatus(
                watches=len(engine.watches),
                max_watches=engine.watches.limit,
                directories=len(engine.watches.directories),
                hot_directories=len(engine.directories.sampled),
                hot=len(engine.files.sampled),
                guarded=len(engine.directories.covered),
                polled={reason: files for reason, files in engine.files.polled_for.items() if files},
                late=len(engine.late),
                reads_deleted_files=not (engine.files.handles.are_refused or engine.files.handles.are_missing),
                queue_overflows=counts.queue_overflows,
                watch_failures=dict(counts.watch_failures),
                audit_checks=counts.audit_checks,
                audit_mismatches=counts.audit_mismatches,
            )

    def limit(self, *, max_files: int | None, cpu_budget: float | None) -> None:
        """Change the bounds; files beyond the new one are evicted, the least recently used first.

        Args:
            max_files, cpu_budget: see the class.

        Raises:
            ValueError: see the class.
            CacheClosedError: after :meth:`close`.
        """
        _check_limits(max_files, cpu_budget)
        with self._life.lock, self._life as engine:
            self._places.max_files = max_files
            if max_files is not None:
                self._places.make_room(engine.files, max_files, self._clock)
            self._life.limit(cpu_budget)

    # -- consistency --------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Process every change that was complete before the call: the barrier after which look-ups are exact.

        The kernel queues an event before the write that caused it returns, so draining the queue once covers all
        watched files. Polled and sampled files are stat'ed one by one. Callable from any thread. It waits for remote
        filesystems ``remote_timeout_s`` at most, and not at all for one that is already late.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        life = self._life
        if life.engine.files.remote:
            self._misses.sync()
        with life.lock:
            engine = life.engine
            files = engine.files
            try:  # inlines `with life`, because this may be called before every look-up
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
                if files.polled or engine.watches.were_refused or engine.directories.covered:
                    engine.stat_polled()
                if engine.late and not files.remote:
                    engine.late = {}
            except BaseException as error:
                if not isinstance(error, EXPECTED_ERRORS):
                    life.throw_away()
                raise

    def audit(self, files: int | None = None) -> int:
        """Compare entries with a fresh ``os.stat``, in rotation: finds changes that the kernel does not report.

        The stats of a file that differs are corrected, and the file is polled from then on.

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
        """Whether changes are followed; False after :meth:`close`, or after following them has failed."""
        return not self._life.has_ended

    def responds(self, timeout_s: float) -> bool:
        """Wake the thread that follows changes and wait for its answer: unlike :attr:`alive` this notices a stuck one.

        It takes no lock, so a stuck thread cannot block it.

        Args:
            timeout_s: how long to wait, seconds.

        Returns:
            Whether the thread has answered; True before the first watch, when there is no thread yet.
        """
        sleeper = self._life.session.sleeper
        return self.alive and (sleeper is None or sleeper.responds(timeout_s))

    # -- ending -------------------------------------------------------------------------------------------------------

    def invalidate(self) -> None:
        """Unwatch and forget every file and directory; the counts continue, and the cache stays usable.

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
    """Make a path absolute, without resolving symbolic links or ``..`` (which may follow a link)."""
    name = os.fsdecode(path)
    if "\0" in name:
        raise ValueError(f"embedded null character in path: {name!r}")  # C would end the name there
    if name.startswith("/"):
        return name
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return os.path.join(os.getcwd(), name)
