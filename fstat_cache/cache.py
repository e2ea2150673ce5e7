"""FStatCache: what users import. It keeps one entry a file, and every entry as true as the kernel allows."""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import NamedTuple

from fstat_cache import hot
from fstat_cache.errors import CacheClosedError
from fstat_cache.kernel import (
    IN_ATTRIB,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_MODIFY,
    IN_MOVE_SELF,
    NO_WATCH,
    Inotify,
)
from fstat_cache.lru import DROPPED, EvictionOrder
from fstat_cache.pump import Pump
from fstat_cache.stats import FileStats, StrPath, read_stats
from fstat_cache.watches import WatchTable

log = logging.getLogger(__name__)

OnChange = Callable[[str, FileStats | None], None]

ARMED = IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF
"""What an armed watch reports. IN_ATTRIB also tells that a name was unlinked or replaced (the link count)."""
DISARMED = IN_MOVE_SELF | IN_DELETE_SELF

REMEDIES = {
    "watch_limit": "the kernel gives no more inotify watches: raise the sysctl fs.inotify.max_user_watches",
    "instance_limit": "the kernel gives no more inotify instances: raise the sysctl fs.inotify.max_user_instances",
    "permission": "inotify needs read permission on a file: run as a user who may read it, or with CAP_DAC_READ_SEARCH",
    "unsupported": "its filesystem takes no inotify watches",
    "thread_failed": "the thread that follows changes has failed, see the log: restart the process",
}
_REASONS = {
    errno.ENOSPC: "watch_limit",
    errno.EMFILE: "instance_limit",
    errno.ENFILE: "instance_limit",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
}
_LIMITS = ("watch_limit", "instance_limit")


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


class _Entry:
    """One file. Which of the cache's three dictionaries holds it says how far its stats may be believed."""

    __slots__ = ("path", "reason", "stats", "used", "wd")

    def __init__(self, path: str, stats: FileStats) -> None:
        self.path = path
        self.stats = stats
        self.used = 0
        self.wd = NO_WATCH
        self.reason: str | None = None  # why it is polled; None when it is not


class FStatCache:
    """A cache in front of ``os.stat`` for regular files that are asked about far more often than they change.

    A file is watched by inotify(7) from its first look-up on, and its stats are answered from memory until the kernel
    reports a change. What a look-up without :meth:`sync` may still miss: writes, truncations, renames, replacements
    and deletions of the last :data:`GATHER_S`, and of the last half second for a file that is written all the time
    (such a file is sampled, because being told of every write would slow its writer down). A look-up after
    :meth:`sync` misses nothing that the kernel reports. The kernel reports nothing of writes through mmap(2), of
    writers on other machines (NFS, CIFS, FUSE), of a renamed directory above the file, and of a symbolic link
    that was pointed elsewhere.

    Safe under threads: a hit takes no lock. After fork(2) the child's cache is empty and watches anew. Nothing runs
    before the first watch, and an interpreter that exits with a live cache just exits.

    Args:
        max_files: how many files are kept; the least recently used one is unwatched and dropped. None: unbounded.
        gather_s: seconds for which events gather before they are worked off.
        cpu_budget: share of one core that following changes may take between calls, 0.01 for 1 %; changes are then
            noticed up to half a second later, or at :meth:`sync`. None: no bound.
        on_change: called with the path and the new stats after an entry was replaced, or with None after its file had
            gone, in the order of the changes; from the cache's own thread or from one that is in a method of the
            cache. It must be quick and must not call the cache. What it raises is logged.

    Raises:
        ValueError: ``max_files`` is below 1.
    """

    GATHER_S = 0.005

    def __init__(
        self,
        max_files: int | None = None,
        *,
        gather_s: float = GATHER_S,
        cpu_budget: float | None = None,
        on_change: OnChange | None = None,
    ) -> None:
        if max_files is not None and max_files < 1:
            raise ValueError(f"max_files must be at least 1, or None for no bound: {max_files}")
        self._max_files = max_files
        self._gather_s = gather_s
        self._cpu_budget = cpu_budget
        self._on_change = on_change
        # The clock stamps each use, so that the least recent one can be told (lru.py), and counts hits by the way.
        # Its increment, like a dictionary's look-up, can not be interrupted by another thread under the GIL.
        self._clock = 0
        self._stamps_without_hit = 0
        self._misses = 0
        self._evictions = 0
        self._overflows = 0
        self._closed = False
        # Protects all that _reset() makes, and keeps the kernel's reports in order. Hits do without it.
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._served: dict[str, _Entry] = {}  # watched, and true as far as events were read
        self._doubtful: dict[str, _Entry] = {}  # an event may have been lost: to be watched again, then looked at
        self._polled: dict[str, _Entry] = {}  # can not be watched: looked at whenever asked
        self._eviction_order: EvictionOrder[_Entry] = EvictionOrder()
        self._watches: WatchTable[_Entry] = WatchTable()
        self._hot = hot.HotWatches()
        self._next_tick = 0.0
        self._inotify: Inotify | None = None
        self._pump: Pump | None = None
        self._finalizer: weakref.finalize | None = None  # type: ignore[type-arg]
        self._failed = False
        self._warned: set[str] = set()

    # -- looking up ---------------------------------------------------------------------------------------------------

    def get_file_stats(self, path: StrPath) -> FileStats | None:
        """Give the stats of a file, from memory if they are known, else by one ``os.stat``; it is watched from then on.

        Args:
            path: the file; a relative path is taken from the current directory.

        Returns:
            Its stats; None when nothing is there or it is not a regular file, which is not remembered.

        Raises:
            OSError: what ``os.stat`` raises for anything but absence.
            CacheClosedError: after :meth:`close`.
        """
        try:
            entry = self._served[path]  # type: ignore[index]  # what is not a str is just not found
        except KeyError:
            pass
        else:
            entry.used = self._clock = self._clock + 1
            return entry.stats
        return self._look_up(absolute(path), admit=True)

    def peek_file_stats(self, path: StrPath) -> FileStats | None:
        """Give the stats of a file without using it: the order of eviction stays, and a full cache admits nothing new.

        For those who ask for more files in turn than the cache may hold, to whom recency tells nothing.
        Arguments, result, counts and errors are those of :meth:`get_file_stats`.
        """
        entry = self._served.get(path)  # type: ignore[arg-type]
        if entry is None:
            return self._look_up(absolute(path), admit=False)
        self._clock += 1
        return entry.stats

    @staticmethod
    def get_file_stats_using_stat(path: StrPath) -> FileStats | None:
        """Give the stats of a file by ``os.stat``, past every cache; results and errors as :meth:`get_file_stats`."""
        return read_stats(path)

    def _look_up(self, path: str, *, admit: bool) -> FileStats | None:
        with self._lock:
            self._check_open()
            entry = self._served.get(path)  # under a relative name, or admitted by another thread meanwhile
            if entry is not None:
                self._clock += 1
                if admit:
                    entry.used = self._clock
                return entry.stats
            self._misses += 1
            entry = self._doubtful.get(path) or self._polled.get(path)
            if entry is not None:
                if admit:
                    entry.used = self._stamp()
                return self._refresh(entry, rebind=True)
            if not admit and self._is_full():
                return read_stats(path)
            return self._admit(path)

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
                known = self._add(absolute(path))
            except (OSError, ValueError) as error:  # ValueError: a NUL in the path
                log.debug("not cached: %s: %s", path, error)
                known = False
            if not known:
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
        with self._lock:
            self._check_open()
            entry = self._find(path)
            if entry is None:
                return self._admit(path) is not None
            entry.used = self._stamp()
            return True

    def remove_from_watch(self, path: StrPath) -> None:
        """Drop a file from the cache and unwatch it.

        Raises:
            KeyError: it is not in the cache.
            CacheClosedError: after :meth:`close`.
        """
        path = absolute(path)
        with self._lock:
            self._check_open()
            entry = self._find(path)
            if entry is None:
                raise KeyError(path)
            self._drop(entry)

    def list_files_in_cache(self) -> list[str]:
        """The absolute paths of all files in the cache, in no particular order."""
        with self._lock:
            return [*self._served, *self._doubtful, *self._polled]

    def cache_info(self) -> CacheInfo:
        """Hits, misses, evictions, files and their bound, in the manner of :func:`functools.lru_cache`."""
        hits = self._clock - self._stamps_without_hit
        return CacheInfo(hits, self._misses, self._evictions, self._files(), self._max_files)

    # -- being true ---------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Take in every change that was complete when this was called: the barrier after which look-ups are exact.

        The kernel queues an event before the write that caused it returns, so one drained queue is enough for all
        files; only those that are polled or sampled are looked at each. Callable from any thread.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        with self._lock:
            self._check_open()
            inotify = self._inotify
            if inotify is not None:
                news = self._drain(inotify)
                if self._hot:
                    self._sample()
                    if news and self._pump is not None:
                        self._pump.wake()  # it may sleep without end, and has to look at the hot files by and by
            if self._doubtful or self._polled:
                self._recover()

    @property
    def alive(self) -> bool:
        """False when changes are followed no longer: after :meth:`close`, or because the cache's thread has failed."""
        pump = self._pump
        return not self._closed and (pump is None or pump.alive)

    # -- ending -------------------------------------------------------------------------------------------------------

    def invalidate(self) -> None:
        """Unwatch and forget every file; the counts go on, and the cache may be used again.

        Raises:
            CacheClosedError: after :meth:`close`.
        """
        with self._lock:
            self._check_open()
            shut_down = self._forget_everything()
        shut_down()

    def close(self) -> None:
        """Unwatch and forget every file for good, stop the thread, release the descriptors; may be called twice."""
        with self._lock:
            self._closed = True
            shut_down = self._forget_everything()
        shut_down()

    def _forget_everything(self) -> Callable[[], object]:
        """Empty the cache and give what shuts the thread down: to be called without the lock, which it may want."""
        shut_down = self._finalizer or (lambda: None)
        for entry in self._all_entries():
            entry.used = DROPPED
        self._reset()
        return shut_down

    def _reset_in_child(self) -> None:
        """Start empty after fork(2): the thread is not here, and the inotify instance belongs to the parent."""
        self._lock = threading.Lock()  # the old one may be held by a thread of the parent, for ever
        if self._finalizer is not None and self._pump is not None and self._inotify is not None:
            self._finalizer.detach()
            self._pump.abandon()
            self._inotify.close()
        self._reset()

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

    def _find(self, path: str) -> _Entry | None:
        return self._served.get(path) or self._doubtful.get(path) or self._polled.get(path)

    def _files(self) -> int:
        return len(self._served) + len(self._doubtful) + len(self._polled)

    def _all_entries(self) -> Iterable[_Entry]:
        return itertools.chain(self._served.values(), self._doubtful.values(), self._polled.values())

    def _is_full(self) -> bool:
        return self._max_files is not None and self._files() >= self._max_files

    def _stamp(self) -> int:
        self._stamps_without_hit += 1
        self._clock += 1
        return self._clock

    def _admit(self, path: str) -> FileStats | None:
        """Watch a file that is not in the cache, then look at it: a change in between is an event, not a loss."""
        try:
            wd, reason = self._watch(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        stats = None
        try:
            stats = read_stats(path)
        finally:
            if stats is None and wd != NO_WATCH and wd not in self._watches:
                self._remove_watch(wd)
        if stats is None:
            return None
        entry = _Entry(path, stats)
        entry.reason = reason
        if wd != NO_WATCH:
            self._watches.bind(entry, wd)  # before the eviction, which must not remove a watch that is shared
        if self._is_full():
            self._drop(self._eviction_order.pop(self._all_entries(), self._clock))
            self._evictions += 1
        entry.used = self._stamp()
        self._place(entry)
        return stats

    def _place(self, entry: _Entry) -> None:
        """Put an entry that has just been watched and looked at where its state belongs."""
        self._doubtful.pop(entry.path, None)
        if entry.reason is None:
            self._polled.pop(entry.path, None)
            self._served[entry.path] = entry
            return
        self._served.pop(entry.path, None)
        self._polled[entry.path] = entry
        if entry.reason not in self._warned:
            self._warned.add(entry.reason)
            log.warning("%s; answered by os.stat until then, as others like it: %s", REMEDIES[entry.reason], entry.path)

    def _drop(self, entry: _Entry) -> None:
        entry.used = DROPPED
        for entries in (self._served, self._doubtful, self._polled):
            entries.pop(entry.path, None)
        self._unwatch(entry)

    def _watch(self, path: str) -> tuple[int, str | None]:
        """Arm a watch on what is at ``path`` now.

        Returns:
            Its descriptor and None, or :data:`NO_WATCH` and the reason for it.

        Raises:
            FileNotFoundError, NotADirectoryError: nothing is there.
        """
        if self._failed:
            return NO_WATCH, "thread_failed"
        try:
            inotify = self._inotify or self._start()
            wd = inotify.add_watch(path, ARMED)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            return NO_WATCH, _REASONS.get(error.errno or 0, "unsupported")
        self._hot.discard(wd)
        return wd, None

    def _start(self) -> Inotify:
        inotify = Inotify()
        pump = Pump(inotify.fd, _weakly(self), gather_s=self._gather_s, cpu_budget=self._cpu_budget)
        pump.start()
        self._inotify, self._pump = inotify, pump
        self._finalizer = weakref.finalize(self, _shut_down, pump, inotify)
        _caches_to_reset_in_a_child().add(self)
        return inotify

    def _unwatch(self, entry: _Entry) -> None:
        wd = entry.wd
        if wd != NO_WATCH and self._watches.unbind(entry):
            self._remove_watch(wd)

    def _remove_watch(self, wd: int) -> None:
        self._hot.discard(wd)
        if self._inotify is not None:
            self._inotify.rm_watch(wd)

    def _refresh(self, entry: _Entry, *, rebind: bool) -> FileStats | None:
        """Look at an entry's file and take over what is found.

        Args:
            entry: in the cache.
            rebind: watch its path again first, because the path may lead to another inode now. The returned watch
                tells: device, inode number and size may all be the same (ext4 gives a number again at once).

        Returns:
            The entry's stats, the same object if nothing changed; None when the file has gone and the entry with it.
        """
        was = entry.stats
        try:
            if rebind:
                self._rebind(entry)
            stats = read_stats(entry.path)
            if stats is not None and not rebind and (stats.inode != was.inode or stats.device != was.device):
                rebind = True
                self._rebind(entry)
                stats = read_stats(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            stats = None
        except OSError as error:
            # Whoever asks next gets this error from os.stat; until then there is nothing true to remember.
            log.debug("dropped from the cache: %s: %s", entry.path, error)
            stats = None
        if stats is None:
            self._drop(entry)
        elif stats == was:
            stats = was
        else:
            entry.stats = stats
        if rebind and stats is not None:
            self._place(entry)
        if stats is not was and self._on_change is not None:
            try:
                self._on_change(entry.path, stats)
            except Exception:
                log.exception("on_change has failed for %s", entry.path)
        return stats

    def _rebind(self, entry: _Entry) -> None:
        wd, entry.reason = self._watch(entry.path)
        if wd != entry.wd:
            self._unwatch(entry)
            if wd != NO_WATCH:
                self._watches.bind(entry, wd)

    def _recover(self) -> None:
        """Look at everything that is not served from memory, and watch again what can be."""
        for entry in tuple(self._doubtful.values()):
            self._refresh(entry, rebind=True)
        out_of_watches = False
        for entry in tuple(self._polled.values()):
            limited = entry.reason in _LIMITS
            self._refresh(entry, rebind=not (limited and out_of_watches))
            out_of_watches = out_of_watches or entry.reason in _LIMITS

    def _drain(self, inotify: Inotify) -> bool:
        """Take in what the kernel has to tell; False when that was nothing."""
        try:
            notes = inotify.read()
            if notes:
                self._apply(notes)
        except BaseException:  # KeyboardInterrupt as well: the rest of the batch is lost
            self._distrust()
            raise
        return bool(notes)

    def _distrust(self) -> None:
        """Serve nothing from memory before it was watched again and looked at: events may have been lost."""
        self._doubtful.update(self._served)
        self._served = {}

    def _apply(self, notes: dict[int, int]) -> None:
        """Take in one batch of events."""
        overflow = notes.pop(NO_WATCH, 0)
        if overflow:
            self._overflows += 1
            self._distrust()
        busy = []
        for wd, mask in notes.items():
            entries = self._watches.entries(wd)
            if mask & IN_IGNORED:
                self._watches.discard(wd)
                self._hot.discard(wd)
            for entry in entries:
                self._refresh(entry, rebind=mask != IN_MODIFY or entry.path in self._doubtful)
            if wd in self._watches:
                busy.append(wd)
        now = time.monotonic()
        # Who wrote so much that the queue overflowed would make it overflow again.
        for wd in busy if overflow else self._hot.after_batch(busy, now):
            self._disarm(wd, now)

    def _disarm(self, wd: int, now: float) -> None:
        assert self._inotify is not None
        entry = self._watches.entries(wd)[0]
        try:
            same = self._inotify.add_watch(entry.path, DISARMED) == wd
        except OSError:
            same = False
        if same:
            self._hot.add(wd, now)
        else:
            self._refresh(entry, rebind=True)

    def _sample(self) -> None:
        """Look at the hot files, and arm those again that have been quiet."""
        began = time.thread_time()
        now = time.monotonic()
        for wd in self._hot:
            changed = False
            for entry in self._watches.entries(wd):
                was = entry.stats
                changed |= self._refresh(entry, rebind=False) is not was
            if wd in self._hot and self._hot.sampled(wd, changed, now):
                for entry in self._watches.entries(wd):
                    self._refresh(entry, rebind=True)
        tick_s = hot.TICK_S
        if self._cpu_budget:
            tick_s = max(tick_s, min((time.thread_time() - began) * 2 / self._cpu_budget, hot.GREATEST_TICK_S))
        self._next_tick = now + tick_s

    def _work(self) -> float | None:
        """What the pump calls. It takes the lock itself."""
        with self._lock:
            if self._inotify is None:
                return None
            try:
                self._drain(self._inotify)
                if self._doubtful and not self._cpu_budget:
                    self._recover()
                if not self._hot:
                    return None
                if time.monotonic() >= self._next_tick:
                    self._sample()
                return self._next_tick
            except Exception:
                # Without the thread nothing keeps the entries true: from here on every look-up is an os.stat.
                self._failed = True
                self._distrust()
                raise


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


def _weakly(cache: FStatCache) -> Callable[[], float | None]:
    """The cache's work, callable without keeping the cache alive: a cache that is dropped unclosed ends its thread."""
    reference = weakref.ref(cache)

    def work() -> float | None:
        cache = reference()
        return None if cache is None else cache._work()

    return work


def _shut_down(pump: Pump, inotify: Inotify) -> None:
    pump.close()
    inotify.close()


@functools.cache
def _caches_to_reset_in_a_child() -> weakref.WeakSet[FStatCache]:
    """The caches that have started; the first call registers the fork handler, which can not be unregistered."""
    caches: weakref.WeakSet[FStatCache] = weakref.WeakSet()

    def reset_all() -> None:
        for cache in tuple(caches):
            cache._reset_in_child()

    os.register_at_fork(after_in_child=reset_all)
    return caches
