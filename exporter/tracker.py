"""Keeps discovery, cache and ledger in step: whatever happens to the declared files comes together here."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Iterator

from exporter.config.model import Config
from exporter.discovery.discovery import Discovery
from exporter.discovery.findings import Finding, Findings, Gone, Moved
from exporter.discovery.remote_scan import RemoteScanner
from exporter.ledger.growth import GroupRules, Labels, Ledger
from exporter.matching.automaton import Match, PathMatcher, number_groups
from exporter.matching.labels import Labeller, LabelRule
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions
from fstat_cache import CacheClosedError, Change, DirectoryEvent, FStatCache, file_time_ns

_log = logging.getLogger(__name__)

ROTATED_QUIET_S = 600.0
"""How long a rotated file that matches no pattern may be quiet before it is followed no longer."""
DIRECTORIES_AT_ONCE = 100
"""After how many directories a scan lets others go on; a successor's after each, for scrapes wait meanwhile."""
STOP_TIMEOUT_S = 0.2
"""How long the end waits for the thread, and for the lock; either may be stuck on a filesystem that hangs."""
LOCK_TIMEOUT_S = 0.05
"""How long the thread waits for the lock before it goes on to drain the kernel's queue and to stat."""
MOST_ROUNDS = 10
"""How often in a row a scrape catches up with what happens meanwhile."""
LARGEST_BLOCK_BYTES = 1 << 16


class Tracker:
    """The declared files of one configuration, followed. Safe to call from several threads.

    Args:
        config: what to follow.
        remote_timeout_s: how long a directory on a remote filesystem is waited for, seconds.
        predecessor: the tracker of another configuration that this one is to succeed, see succession.py. They share
            the cache, and with it the order of all looks.

    Attributes:
        lock: one at a time looks for files, or makes everything true for a scrape. Taken before the cache's lock and
            the ledger's, never after. A predecessor and its successor have the same.
        booked: set whenever something was booked; for whoever wants to wait for that. The same.
        urgent: set when something was booked of which no trace is left on the disk. The same.
        successor: hears all that this one hears, and books all that this one books, until it takes its place.
    """

    def __init__(
        self,
        config: Config,
        *,
        remote_timeout_s: float = RemoteScanner.TIMEOUT_S,
        predecessor: Tracker | None = None,
    ) -> None:
        self.labeller = Labeller([LabelRule(group.group, group.labels, group.path_regex) for group in config.logs])
        self.matcher = PathMatcher(number_groups(config.logs))
        self.successor: Tracker | None = None
        self._line: _Line = _Line(self) if predecessor is None else predecessor._line
        self.ledger = Ledger(
            [GroupRules(group.per_file, group.max_series) for group in config.logs],
            grace_s=config.stale_grace_s,
            urgent=self._line.urgent,
        )
        self.lock = self._line.lock
        self.booked, self.urgent = self._line.booked, self._line.urgent
        if predecessor is None:
            self.cache = FStatCache(
                max_files=config.cache.max_files,
                cpu_budget=config.cache.cpu_budget,
                keep_changes=True,
            )
        else:
            self.cache = predecessor.cache
        self._watches = _Watches(self)
        self.discovery = Discovery(self.matcher, self._watches)  # type: ignore[arg-type]
        self.is_ready = False
        """Whether every directory was looked at once."""
        self.since_ns = [time.time_ns()] * len(self.matcher.patterns)
        """By pattern, since when a file that is unknown must have been born to count from its first byte."""
        self.as_of_ns = 0
        """Every file that was born before is known, by the clock of births; 0 before the first scan."""
        self._max_files = config.cache.max_files
        self._aggregate_by = [self.labeller.positions(group.aggregate_by) for group in config.logs]
        self._remote_scanner: RemoteScanner = (
            RemoteScanner(remote_timeout_s) if predecessor is None else predecessor._remote_scanner
        )
        self._predecessor = predecessor
        self.mirrored: set[str] = set()
        """What the predecessor has declared since it is heard."""
        self._is_over = False  # a successor has taken its place
        self._paths: dict[str, Match | None] = {}  # all that are looked at; None: those that are followed
        self._followed: dict[str, tuple[int, float]] = {}  # rotated files: size, and since when it has been so
        self._vanished: set[str] = set()  # by a look, and perhaps without an event in the directory
        self._lost: dict[str, set[int]] = {}  # directory -> inode numbers without a name
        self._told_faults: Transitions = Transitions() if predecessor is None else predecessor._told_faults
        self._is_full: bool = predecessor is not None and predecessor._is_full

    @property
    def files(self) -> int:
        """How many files are looked at."""
        return len(self._paths)

    def start(self) -> None:
        """Begin to follow changes, in a thread that ends with :meth:`close`."""
        self._line.thread.start()

    def close(self) -> None:
        """Follow nothing any more; may be called twice."""
        self.cache.close()
        if self._line.thread.ident is not None:
            self._line.thread.join(STOP_TIMEOUT_S)
        if self.lock.acquire(timeout=STOP_TIMEOUT_S):
            try:
                self._book()  # what the thread has not come to
            finally:
                self.lock.release()

    def refresh(self, audited: int) -> None:
        """Make everything true as of now.

        Args:
            audited: how many files to compare with the truth on this occasion.
        """
        as_of_ns = file_time_ns()
        self.cache.sync()  # waits for remote filesystems, and no one has to wait for that
        with self._next_in_line():
            if self._is_over:
                return
            self.refresh_locked(as_of_ns)
        self.cache.audit(audited)  # after that: what is known is no mismatch
        with self._next_in_line():
            self._catch_up()

    def refresh_locked(self, as_of_ns: int) -> None:
        """Make everything true as of the latest sync() of the cache, with the lock held.

        Args:
            as_of_ns: a time before that, by the clock of files.
        """
        errors = self.cache.survey(self._paths.keys())
        self._book()
        self._perform(self.discovery.look_at_unwatchable())
        self._catch_up()
        self._told_faults.tell_faults(
            _log,
            errors,
            "files can not be looked at and are left out of the scrape",
            "files can be looked at again, or are gone",
        )
        self.ledger.hide(errors.keys())
        self.as_of_ns = as_of_ns

    def scan(self) -> None:
        """Look everywhere: the first time to find the files, later for what has come or gone unheard."""
        started = time.monotonic()
        first = not self.is_ready
        with self.lock:
            as_of_ns = file_time_ns()
            self._catch_up()
            self._list_lost()
            self.discovery.begin_scan(self._lost)
        more = True
        while more:
            with self._line.turnstile:
                pass  # whoever waits goes first: a lock alone would be taken again before another thread wakes up
            with self.lock:
                self._perform(self.discovery.scan(DIRECTORIES_AT_ONCE if self._predecessor is None else 1))
                self._catch_up()
                self._perform(self.discovery.settle())
                more = self.discovery.is_scanning
        unreadable = self.discovery.unreadable + self._scan_remote()
        self.as_of_ns = max(self.as_of_ns, as_of_ns)
        self.is_ready = True
        self.ledger.end_restoring()
        self._tell_full()
        _log.log(
            logging.INFO if first else logging.DEBUG,
            "scan done",
            extra=fields(
                files=len(self._paths),
                directories=len(self.discovery),
                unreadable=unreadable,
                seconds=round(time.monotonic() - started, 3),
            ),
        )

    def expire(self, *, is_scrape: bool) -> None:
        """Let go of what has been gone, or quiet, for long enough."""
        now = time.monotonic()
        self.ledger.expire(now, is_scrape=is_scrape)
        if not self._followed:
            return
        with self.lock:
            for path, (size, since) in tuple(self._followed.items()):
                inode = self.ledger.at(path)
                if inode is not None and inode.size != size:
                    self._followed[path] = inode.size, now
                elif now - since >= ROTATED_QUIET_S:
                    self.discovery.unfollow(path)
                    self._drop(path)

    def _scan_remote(self) -> int:
        directories = dict(self.discovery.remote)
        found = self._remote_scanner.scan(directories)
        with self.lock:
            self._perform(self.discovery.take_remote(found.files, found.left_out))
        return found.unreadable

    # -- succession, see succession.py --------------------------------------------------------------------------------

    def begin_succession(self) -> None:
        """As a successor: hear from now on what the predecessor hears.

        With the lock held and the predecessor's ledger's; this one's ledger is where that one's is.
        """
        assert self._predecessor is not None
        self._predecessor.successor = self
        self._paths.update(self.discovery.succeed(self._predecessor.discovery))

    def settle(self) -> None:
        """As a successor that has scanned everything: take over what only the predecessor has come to know."""
        predecessor = self._predecessor
        assert predecessor is not None
        with self.lock:
            self._catch_up()
            rotated = {*predecessor._followed, *self.ledger.followed()}
            for inode in self.ledger.lost():  # which may have had a name that was declared then
                known = predecessor.ledger.inode(inode.identity)
                rotated.update(() if known is None else known.names)
            for path in sorted(rotated - self._paths.keys()):
                self._perform(self.discovery.follow(path, predecessor.discovery.origin_of(path)))
            for path in self._followed.keys() & predecessor._followed.keys():
                self._followed[path] = predecessor._followed[path]
            for path in [series.path for series in self.ledger.series() if series.is_present]:
                if path not in self._paths:  # a pattern means it, but no way that a scan goes leads there
                    self.ledger.observe(path, None)

    def succeed(self) -> None:
        """As a successor: take the place of the predecessor, which lets go of all that this one does not need."""
        predecessor = self._predecessor
        assert predecessor is not None
        with self.lock:
            self._line.current = self
            self.mirrored.clear()
            predecessor._let_go(self)
            self._predecessor = None

    def abandon(self) -> None:
        """As a successor: give up, and let go of all that the predecessor does not need."""
        predecessor = self._predecessor
        assert predecessor is not None
        with self.lock:
            predecessor.successor = None
            self._let_go(predecessor)

    def _let_go(self, other: Tracker) -> None:
        """Have nothing looked at any more but what another tracker looks at."""
        for path in self._paths.keys() - other._paths.keys():
            with contextlib.suppress(KeyError):
                self.cache.remove_from_watch(path)
        self._paths.clear()
        self._followed.clear()
        self._watches.let_go()
        self._is_over = True

    def mirror(self, path: str, *, since_ns: int, is_new: bool) -> None:
        """Declare what the predecessor declares, if it is meant."""
        self.mirrored.add(path)
        match = self.matcher.match(path)
        if match is not None and path not in self.ledger:
            self.ledger.declare(path, self.labels(path, match), since_ns=since_ns, is_new=is_new)

    def _lose(self, path: str) -> None:
        """Book that nothing is known of a path any more."""
        self.ledger.observe(path, None)
        if self.successor is not None and path not in self.successor._paths:  # else it knows by itself
            self.successor.ledger.observe(path, None)

    # -- being told ---------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Take in what has happened since the last call; what the thread does again and again.

        The kernel's queue is drained and files are stat'ed whoever has the lock; where that takes long, what was found
        stays in the cache until the next call.
        """
        self.cache.advance()
        if not self._line.turnstile.acquire(timeout=LOCK_TIMEOUT_S):
            return
        try:
            is_locked = self.lock.acquire(timeout=LOCK_TIMEOUT_S)
        finally:
            self._line.turnstile.release()
        if is_locked:
            try:
                self._catch_up()
            finally:
                self.lock.release()

    def _catch_up(self) -> None:
        """Take in what has happened, book what the cache has found, and look for the files of directories in which
        something came or went, until nothing more is found.
        """
        for _ in range(MOST_ROUNDS):
            self.cache.advance()
            self._book()
            events, self._line.events = self._line.events, []
            for tracker in self._line:
                tracker._take_in(events)
            if not events:
                return

    def _book(self) -> None:
        """Take what the cache has found and book it, in one step: changes are to be booked in their order."""
        line = tuple(self._line)
        changes = self.cache.take()
        for change in changes:
            for tracker in line:
                try:
                    tracker._book_one(change)
                except Exception:  # noqa: BLE001 - whatever it was, the other changes are to be booked
                    _log.exception("a change could not be booked", extra=fields(change=change))
        if changes:
            self.booked.set()

    def _book_one(self, change: Change) -> None:
        if isinstance(change, DirectoryEvent):
            if self is self._line.current:
                self._line.events.append(change)
            return
        path, stats = change
        data_begin = 0
        if stats is None:
            self._vanished.add(path)
        elif self.ledger.emptied and (size := self.ledger.outgrows_cut(stats)) is not None:
            data_begin = data_begins(path, size)
        self.ledger.observe(path, stats, data_begin)

    def _look(self, path: str) -> bool:
        try:
            return self.cache.look(path)
        finally:
            self._book()

    @contextlib.contextmanager
    def _next_in_line(self) -> Iterator[None]:
        """Hold the lock before a scan that is under way takes it again."""
        with self._line.turnstile:
            self.lock.acquire()
        try:
            yield
        finally:
            self.lock.release()

    def _take_in(self, events: list[DirectoryEvent]) -> None:
        if events:
            if any(event.name is None for event in events):
                self._list_lost()
            self._perform(self.discovery.catch_up(events, self._lost))
        while self._vanished:
            vanished, self._vanished = self._vanished, set()
            for path in sorted(vanished):
                self._perform(self.discovery.check(path))

    def _list_lost(self) -> None:
        self._lost = {}
        for inode in self.ledger.lost():
            self._lost.setdefault(os.path.dirname(inode.last_name), set()).add(inode.identity[1])

    def _tell_full(self) -> None:
        is_full = len(self._paths) > self._max_files
        if is_full and not self._is_full:
            _log.warning(
                "more files than cache.max_files, the others cost an os.stat each scrape",
                extra=fields(files=len(self._paths), max_files=self._max_files),
            )
        self._is_full = is_full

    # -- what discovery finds, with the lock held ---------------------------------------------------------------------

    def _perform(self, findings: Findings) -> None:
        """Perform and answer what discovery finds, in order."""
        with contextlib.suppress(StopIteration):
            finding = next(findings)
            while True:
                try:
                    answer = self._take(finding)
                except Exception as error:  # noqa: BLE001 - discovery logs it and goes on
                    finding = findings.throw(error)
                else:
                    finding = findings.send(answer)

    def _take(self, finding: Finding) -> bool:
        if isinstance(finding, Moved):
            return self._follow(finding.path, finding.origin)
        if isinstance(finding, Gone):
            self._drop(finding.path)
            return False
        return self._stat(finding.path, finding.match)  # where others match it, its series is another one

    def _stat(self, path: str, match: Match) -> bool:
        if self._predecessor is not None and path in self._predecessor._paths and self.ledger.at(path) is not None:
            self._add(path, match)  # it is declared and there, and whatever becomes of it is heard
            return True
        if self._paths.get(path) != match or path not in self.ledger:
            self._followed.pop(path, None)
            self._declare(path, match)
        try:
            is_there = self._look(path)
        except OSError as error:
            # As far as one can know; each scrape tries again, and tells. But links that loop lead nowhere.
            is_there = error.errno != errno.ELOOP
        if is_there:
            self._add(path, match)
        else:
            self._paths.pop(path, None)
        return is_there

    def _follow(self, path: str, origin: str) -> bool:
        if path in self.ledger:
            return False  # it was declared until now, as the name of a file in another directory
        if origin and self.ledger.at(path) is None:
            self._expect(path, origin)
        is_known = False
        with contextlib.suppress(OSError):
            is_known = self._look(path) and self.ledger.at(path) is not None
        if origin and origin not in self._paths:
            self._lose(origin)
        inode = self.ledger.at(path)
        if not is_known or inode is None:
            self._drop(path)
            return False
        self._add(path, None)
        self._followed.setdefault(path, (inode.size, time.monotonic()))
        return True

    def _add(self, path: str, match: Match | None) -> None:
        self._paths[path] = match

    def _expect(self, path: str, origin: str) -> None:
        """A file has lost its declared name, perhaps before it was ever looked at."""
        match = self.matcher.match(origin)
        if match is not None and origin not in self.ledger:
            self._declare(origin, match)
        self.ledger.expect(path, origin)
        if self.successor is not None:
            self.successor.ledger.expect(path, origin)

    def _declare(self, path: str, match: Match) -> None:
        since_ns = min([self.since_ns[pattern] for pattern in match.patterns])
        self.ledger.declare(path, self.labels(path, match), since_ns=since_ns, is_new=self.is_ready)
        if self.successor is not None:
            self.successor.mirror(path, since_ns=since_ns, is_new=self.is_ready)

    def _drop(self, path: str) -> None:
        self._followed.pop(path, None)
        self._paths.pop(path, None)
        self._lose(path)
        with contextlib.suppress(KeyError):
            self.cache.remove_from_watch(path)

    def labels(self, path: str, match: Match) -> Labels:
        """What a file is published under."""
        group = match.groups[0]
        labels = self.labeller.label(group, path)
        aggregate = tuple([labels.values[position] for position in self._aggregate_by[group]])
        return Labels(group, labels.values, aggregate, labels.is_unlabelled)


class _Line:
    """What a tracker shares with its successor: their lock, the thread, and what the cache has found for both."""

    def __init__(self, current: Tracker) -> None:
        self.current = current
        self.lock = threading.RLock()
        self.booked, self.urgent = threading.Event(), threading.Event()
        self.turnstile = threading.Lock()  # held while the other one is waited for; taken before it
        self.events: list[DirectoryEvent] = []  # taken from the cache, and still to be looked after
        self.thread = threading.Thread(target=self._run, name="tracker", daemon=True)

    def __iter__(self) -> Iterator[Tracker]:
        """The current tracker, and its successor if there is one."""
        yield self.current
        if self.current.successor is not None:
            yield self.current.successor

    def _run(self) -> None:
        cache = self.current.cache
        try:
            while cache.wait():
                try:
                    self.current.advance()
                except CacheClosedError:
                    return
                except Exception:
                    if not cache.alive:
                        raise
                    _log.exception("what has changed could not be followed; the next rescan finds it")
        except Exception:  # noqa: BLE001 - which the health check finds; scrapes go on, by os.stat
            _log.exception("the thread that follows the files has failed; restart the agent")


class _Watches:
    """The directories that one tracker watches. They are watched as long as its successor or predecessor does."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self.watch_directory = tracker.cache.watch_directory

    def unwatch_directory(self, path: str) -> None:
        tracker = self._tracker
        for other in (tracker.successor, tracker._predecessor):
            if other is not None and other.discovery.watches(path):
                return
        tracker.cache.unwatch_directory(path)

    def let_go(self) -> None:
        for path in self._tracker.discovery.watched:
            self.unwatch_directory(path)


def data_begins(path: str, offset: int) -> int:
    """Where the first byte of a file is, from an offset on, that is not zero; the offset if it can not be told.

    A hole ends at the end of a block (lseek(2), SEEK_DATA); what is left of it there reads as zeros.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return offset
    try:
        begin = os.lseek(fd, offset, os.SEEK_DATA)
        data = os.pread(fd, LARGEST_BLOCK_BYTES, begin)
    except OSError:
        return offset
    finally:
        os.close(fd)
    return begin + len(data) - len(data.lstrip(b"\0"))
