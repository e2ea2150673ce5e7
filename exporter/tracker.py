"""Keeps discovery, cache and facts consistent: each change of a declared file is processed here."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import threading
import time
from collections.abc import Iterator

from exporter.config.model import Config
from exporter.discovery.arrivals import Arrivals
from exporter.discovery.discovery import Discovery
from exporter.discovery.findings import Appeared, Finding, Findings, Gone, Missed, Moved, Rematched
from exporter.discovery.remote_scan import RemoteScanner
from exporter.ledger.facts import Facts
from exporter.ledger.records import Inode
from exporter.ledger.uncertain import ABSENCE, DELETED, FLOOD, OVERFLOW
from exporter.matching.automaton import Match, PathMatcher, number_groups
from exporter.ops.fair_lock import FairLock
from exporter.ops.file_clock import FileClock
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions
from exporter.publication.publication import Publication
from fstat_cache import (
    CacheClosedError,
    DirectoryEvent,
    EventsLost,
    FileChange,
    FileStats,
    FStatCache,
    InodeChange,
    Surveyed,
)

_log = logging.getLogger(__name__)

ROTATED_QUIET_S = 600.0
"""How long a rotated file that no pattern matches is followed after its last growth."""
DIRECTORIES_AT_ONCE = 100
"""After how many directories a scan releases the lock."""
STOP_TIMEOUT_S = 0.2
"""How long close() waits for the thread, and for the lock; either may be stuck on a filesystem that hangs."""
LOCK_TIMEOUT_S = 0.05
"""How long the thread waits for the lock before it drains the kernel's queue again."""
MOST_ROUNDS = 10
"""How often in a row a scrape processes events that come meanwhile."""
SEARCH_S = 10.0
"""How often at most all processes are searched for a file that was created and deleted between two stats."""


class Tracker:
    """Tracks the declared files. Safe to call from several threads.

    Args:
        config: the configuration to follow.
        rootfs: the directory where all paths begin.
        remote_timeout_s: how long to wait for a directory on a remote filesystem, seconds.

    Attributes:
        facts: the state of paths and inodes, and their counters.
        realms: name of a group -> its number, which is never reused.
        publication: the rows and totals that scrapes show.
        matcher: the matcher of the present configuration.
        discovery: finds the matching files.
        cache: stats the files.
        clock: gives the moments of births.
        lock: held for discovery and for a refresh. Taken before the cache's lock and the facts' lock, never after.
        booked: set after each booking, for threads that wait for one.
        urgent: set after a booking that leaves no trace on the disk.
        is_ready: whether the first scan is done.
        since_ns: pattern number -> moment; unknown files born since then count from their first byte.
        as_of_ns: all matching files born before this moment are known; 0 before the first scan.
        max_files: how many files the cache holds.
    """

    def __init__(self, config: Config, *, rootfs: str = "/", remote_timeout_s: float = RemoteScanner.TIMEOUT_S) -> None:
        self.lock = FairLock()
        self.booked, self.urgent = threading.Event(), threading.Event()
        self.clock = FileClock()
        self.facts = Facts(urgent=self.urgent, moment_of=self.clock.moment_of)
        self.realms: dict[str, int] = {}
        self.publication = self.publish(config)
        self.cache = FStatCache(
            max_files=config.cache.max_files, cpu_budget=config.cache.cpu_budget, keep_changes=True, root=rootfs
        )
        self.matcher = PathMatcher(number_groups(config.logs))
        self.discovery = Discovery(self.matcher, self.cache)
        self.is_ready = False
        self.since_ns = dict.fromkeys(self.matcher.patterns, self.clock.now_ns())
        self.as_of_ns = 0
        self.max_files = config.cache.max_files
        self._remote_scanner = RemoteScanner(remote_timeout_s, self.cache.root.real)
        self._names: set[str] = set()  # the paths that are stat'ed
        self._surveyed = Surveyed()  # replaced when names are added
        self.rotated: dict[str, tuple[int, float]] = {}
        """Tracked file that was renamed and matches no pattern -> its size, and since when it has this size."""
        self._vanished: set[str] = set()  # paths that a stat has found gone, perhaps without a directory event
        self._events: list[DirectoryEvent] = []  # taken from the cache, not processed yet
        self._searched_at = -math.inf
        self._arrivals = Arrivals(self.cache.root.real_name)
        self._faults = Transitions()
        self._is_full = False
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)

    @property
    def files(self) -> int:
        """How many files are tracked."""
        return len(self._names)

    def publish(self, config: Config, *, first: int = 0, before: Publication | None = None) -> Publication:
        """Make a publication of the facts; see :class:`Publication`."""
        with self.facts.lock:
            for group in config.logs:
                self.realms.setdefault(group.group, len(self.realms))
        return Publication(
            self.facts, config.logs, self.realms, first=first, grace_s=config.stale_grace_s, before=before
        )

    def start(self) -> None:
        """Start the thread that follows changes; :meth:`close` ends it."""
        self._thread.start()

    def close(self) -> None:
        """Stop following changes, and book the pending ones; may be called twice."""
        self.cache.close()
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT_S)
        if self.lock.acquire(STOP_TIMEOUT_S):
            try:
                self._book()
            finally:
                self.lock.release()

    # -- bringing everything up to date -------------------------------------------------------------------------------

    def advance(self) -> None:
        """Process the events since the last call; the thread calls this in a loop.

        Draining the kernel's queue and stats need no lock here. While another thread has the lock for long, the changes
        stay in the cache until the next call.
        """
        self.cache.advance()
        if self.lock.acquire(LOCK_TIMEOUT_S):
            try:
                self.catch_up()
            finally:
                self.lock.release()

    def refresh(self, audited: int) -> None:
        """Bring everything up to date.

        Args:
            audited: how many files to audit (:meth:`FStatCache.audit`) this time.
        """
        as_of_ns = self.clock.file_now_ns()
        self.cache.sync()  # without the lock, because it waits for remote filesystems
        with self.lock:
            self.refresh_locked(as_of_ns)
        self.cache.audit(audited)  # last, because a change that is known by now is no mismatch
        with self.lock:
            self.catch_up()
        self.publication.update()

    def refresh_locked(self, as_of_ns: int) -> None:
        """Bring everything up to date after a sync() of the cache, with the lock held.

        Args:
            as_of_ns: a moment before that sync(), by :meth:`FileClock.file_now_ns`.
        """
        errors = self.cache.survey(self._names, self._surveyed)
        self._book()
        self.perform(self.discovery.check_unwatchable())
        self.catch_up()
        self._faults.log_faults(
            _log,
            errors,
            "files cannot be stat'ed and are left out of the scrape",
            "files can be stat'ed again, or are gone",
        )
        self.facts.hide(errors.keys())
        self.as_of_ns = as_of_ns

    def scan(self) -> None:
        """List every directory: first to find the files, later to find files created or deleted without an event."""
        started = time.monotonic()
        first = not self.is_ready
        with self.lock:
            as_of_ns = self.clock.file_now_ns()
            self.catch_up()
            self.discovery.begin_scan(lost_in(self.facts))
        more = True
        while more:
            with self.lock:
                self.perform(self.discovery.scan(DIRECTORIES_AT_ONCE))
                self.catch_up()
                self.perform(self.discovery.settle())
                more = self.discovery.is_scanning
        unreadable = self.discovery.unreadable + self._scan_remote()
        self.as_of_ns = max(self.as_of_ns, as_of_ns)
        self.is_ready = True
        self._find_inodes()
        self.facts.end_restoring()
        self._log_full()
        _log.log(
            logging.INFO if first else logging.DEBUG,
            "scan done",
            extra=fields(
                files=self.files,
                directories=len(self.discovery),
                unreadable=unreadable,
                seconds=round(time.monotonic() - started, 3),
            ),
        )

    def match(self, matcher: PathMatcher) -> None:
        """Switch to another matcher: keep the files that it matches, forget the others. A scan finds its new files."""
        with self.lock:
            self.matcher = matcher
            self._arrivals.forget()  # files that only the new matcher matches may have been created long ago
            self.perform(self.discovery.restate(matcher))
        while self.discovery.is_restating:
            with self.lock:
                self.perform(self.discovery.restate_some(DIRECTORIES_AT_ONCE))
                self.catch_up()
        with self.lock:
            dropped = set()
            with self.facts.lock:  # a scrape may end paths meanwhile
                for path in [path for path in self.facts.paths.values() if path.name not in self._names]:
                    match = matcher.match(path.name)
                    if match is None:
                        dropped.add(path)
                    else:
                        self._declare(path.name, match)
                self.facts.drop(dropped)
            for name in [name for name in self.rotated if name not in self.facts.followed]:
                self.discovery.unfollow(name)
                self._forget(name)

    def expire(self, *, is_scrape: bool) -> None:
        """Forget files that have been gone for long enough, and renamed files that have been quiet for long enough."""
        now = time.monotonic()
        self.publication.expire(now, is_scrape=is_scrape)
        if not self.rotated:
            return
        with self.lock:
            for name, (size, since) in tuple(self.rotated.items()):
                inode = self.facts.at(name)
                if inode is not None and inode.size != size:
                    self.rotated[name] = inode.size, now
                elif now - since >= ROTATED_QUIET_S:
                    self.discovery.unfollow(name)
                    self._forget(name)

    def _find_inodes(self) -> None:
        """Read the inodes without a known name by their handles; count those that went while the agent did not run."""
        with self.lock:
            handles = self.facts.inodes.handles
            lost = self.facts.lost()
            known = [inode for inode in lost if inode.identity in handles]
            found = self.cache.inodes.find(
                (stats_of(inode), handles[inode.identity], os.path.dirname(inode.last_name)) for inode in known
            )
            if self.facts.inodes.lost.is_restoring:
                are_there = {inode for inode, is_there in zip(known, found, strict=False) if is_there}
                with self.facts.lock:
                    for inode in lost:
                        if inode not in are_there and (inode in known or any(e.inode is inode for e in inode.homes)):
                            self.facts.inodes.uncertain.note(inode.realms, ABSENCE)
            self._book()

    def _scan_remote(self) -> int:
        found = self._remote_scanner.scan(self.discovery.remote)
        with self.lock:
            self.perform(self.discovery.take_remote(found.files, found.left_out))
        return found.unreadable

    def _log_full(self) -> None:
        is_full = self.files > self.max_files
        if is_full and not self._is_full:
            _log.warning(
                "more files than cache.max_files: raise it, each file beyond costs an os.stat a scrape",
                extra=fields(files=self.files, max_files=self.max_files),
            )
        self._is_full = is_full

    def _run(self) -> None:
        try:
            while self.cache.wait():
                try:
                    self.advance()
                except CacheClosedError:
                    return
                except Exception:
                    if not self.cache.alive:
                        raise
                    _log.exception("cannot process a change; the next rescan finds it")
        except Exception:  # noqa: BLE001 - the health check reports it; scrapes go on by os.stat
            _log.exception("the thread that follows the files has failed: restart the agent")

    # -- booking, with the lock held ----------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Process events, book the cache's changes, and find files in directories with events, until no event comes."""
        self.clock.check()
        for _ in range(MOST_ROUNDS):
            self.cache.advance()
            self._book()
            events, self._events = self._events, []
            if events:
                lost = lost_in(self.facts) if any(event.name is None for event in events) else {}
                self.perform(self.discovery.catch_up(events, lost))
            while self._vanished:
                vanished, self._vanished = self._vanished, set()
                for name in sorted(vanished):
                    self.perform(self.discovery.check(name))
            if not events:
                return

    def perform(self, findings: Findings) -> None:
        """Perform discovery's findings in order and answer each; an error is thrown into the generator."""
        with contextlib.suppress(StopIteration):
            finding = next(findings)
            while True:
                try:
                    answer = self._answer(finding)
                except Exception as error:  # noqa: BLE001 - discovery decides how to continue
                    finding = findings.throw(error)
                else:
                    finding = findings.send(answer)

    def _book(self) -> None:
        """Take the cache's changes and book them in order."""
        changes = self.cache.take()
        for change in changes:
            if isinstance(change, DirectoryEvent):
                self._events.append(change)
                self._arrivals.note(change)
                continue
            try:
                if not isinstance(change, FileChange):
                    self._book_other(change)
                    continue
                name, stats = change
                if stats is None:
                    self._vanished.add(name)
                is_created = self._arrivals.take(name, stats) if name in self._arrivals.names else None
                question = self.facts.observe(name, stats, is_created=is_created)
                if question is not None and stats is not None:
                    data = self.cache.extents.find(name, stats, question.begin, is_resumed=question.is_resumed)
                    self.facts.observe(name, stats, data, is_created=is_created, may_ask=False)
            except Exception:  # noqa: BLE001 - the other changes must still be booked
                _log.exception("a change could not be booked", extra=fields(change=change))
        if changes and not self.booked.is_set():
            self.booked.set()

    def _book_other(self, change: InodeChange | EventsLost) -> None:
        if isinstance(change, InodeChange):
            with self.facts.lock:
                self.facts.inodes.observe(change)
        else:
            self._note_lost(change.directory)

    def _note_lost(self, directory: str | None) -> None:
        """Count lost events for the groups with files there."""
        with self.facts.lock:
            files = self.discovery.files_in(directory) if directory is not None else ()
            realms = {self._realm_of(match) for match in files} or {
                row.path.realm for row in self.publication.rows.values()
            }
            self.facts.inodes.uncertain.note(realms, OVERFLOW if directory is None else FLOOD)

    # -- findings of discovery ----------------------------------------------------------------------------------------

    def _answer(self, finding: Finding) -> bool:
        match finding:
            case Moved(name, origin, birth_ns):
                return (not birth_ns or self._is_new(origin, birth_ns)) and self._follow(name, origin)
            case Missed(name):
                self._search(name)
                return False
            case Gone(name):
                self._forget(name)
                return False
            case Rematched(name, match) if self.facts.at(name) is not None:
                self._declare(name, match)
                if self.facts.at(name) is not None:  # else the path began anew in another group: stat it below
                    return True
        path, match = finding.path, finding.match
        origin = finding.origin if isinstance(finding, Appeared) else ""
        if match.groups[0] not in self.matcher.rules:  # its directory still has the old matcher
            now = self.matcher.match(path)
            if now is None:
                return self._follow(path, origin)
            match = now
        return self._appear(path, match, origin)

    def _search(self, name: str) -> None:
        """Search for a file that had this name and was deleted before its first stat: it may still be open."""
        match = self.matcher.match(name)
        if match is None:
            return
        found = []
        now = time.monotonic()
        if now - self._searched_at >= SEARCH_S:
            self._searched_at = now
            with contextlib.suppress(OSError):
                found = self.cache.inodes.find_deleted(name)
        for stats in found:
            self._declare(name, match)
            gone = f"{name} (deleted)"  # no path, so that its only known name is gone again
            self.facts.set_origin(gone, name)
            self.facts.observe(gone, stats, is_created=True)
            self.facts.observe(gone, None)
        if not found:
            with self.facts.lock:
                self.facts.inodes.uncertain.note([self._realm_of(match)], DELETED)

    def _is_new(self, name: str, birth_ns: int) -> bool:
        """Return whether a file that had this name was born since unknown files of its patterns are new."""
        match = self.matcher.match(name)
        born_ns = self.clock.moment_of(birth_ns)
        if match is None or born_ns is None:
            return False
        return born_ns >= min([self.since_ns[pattern] for pattern in match.patterns])

    def _appear(self, name: str, match: Match, origin: str) -> bool:
        self.rotated.pop(name, None)
        self._declare(name, match)
        if origin and self.publication.position_of(match.groups) is None:
            self._set_origin(name, origin)  # only groups of the next configuration match its new name
        try:
            is_there = self._stat(name)
        except OSError as error:
            # Unknown, so treat it as there: each scrape tries again, and logs the error. A loop of links leads nowhere.
            is_there = error.errno != errno.ELOOP
        if is_there:
            self._add(name)
        else:
            self._names.discard(name)
        return is_there

    def _follow(self, name: str, origin: str) -> bool:
        if name in self.facts.paths:
            self._forget(name)  # a declared path that no pattern matches any more
            return False
        if origin and self.facts.at(name) is None:
            self._set_origin(name, origin)
        is_known = False
        with contextlib.suppress(OSError):
            is_known = self._stat(name) and self.facts.at(name) is not None
        if origin and origin not in self._names:
            self.facts.observe(origin, None)
        inode = self.facts.at(name)
        if not is_known or inode is None:
            self._forget(name)
            return False
        self._add(name)
        self.rotated.setdefault(name, (inode.size, time.monotonic()))
        return True

    def _set_origin(self, name: str, origin: str) -> None:
        """Book that a file was renamed from a declared path, perhaps before its first stat."""
        match = self.matcher.match(origin)
        if match is not None and origin not in self.facts.paths:
            self._declare(origin, match)
        self.facts.set_origin(name, origin)

    def _stat(self, name: str) -> bool:
        try:
            return self.cache.look(name)
        finally:
            self._book()

    def _add(self, name: str) -> None:
        if name not in self._names:
            self._surveyed = Surveyed()
            self._names.add(name)

    def _declare(self, name: str, match: Match) -> None:
        position = self.publication.position_of(match.groups)
        is_shown = position is not None
        is_new = self.is_ready and is_shown  # a file that only the next configuration matches may be old
        self.facts.declare(
            name,
            self._realm_at(position, match),
            match.groups,
            since_ns=min([self.since_ns[pattern] for pattern in match.patterns]),
            is_new=is_new,
            is_shown=is_shown,
        )

    def _realm_of(self, match: Match) -> int:
        return self._realm_at(self.publication.position_of(match.groups), match)

    def _realm_at(self, position: int | None, match: Match) -> int:
        if position is None:  # only the next configuration matches it
            return self.realms[self.matcher.rules[match.groups[0]].name]
        return self.realms[self.publication.config[position].group]

    def _forget(self, name: str) -> None:
        self.rotated.pop(name, None)
        self._names.discard(name)
        self.facts.observe(name, None)
        with contextlib.suppress(KeyError):
            self.cache.remove_from_watch(name)


def pattern_matches(tracker: Tracker) -> Iterator[tuple[int, str, int]]:
    """Yield each pattern of the published configuration: its group's position, its text, how many files it matches."""
    publication = tracker.publication
    for number, (group, text) in tracker.matcher.patterns.items():
        position = publication.position_of((group,))
        if position is not None:
            yield position, text, tracker.discovery.matches[number]


def stats_of(inode: Inode) -> FileStats:
    """Return the known stats of an inode."""
    device, number, birth_ns = inode.identity
    return FileStats(inode.size, inode.mtime_ns, number, device, birth_ns)


def lost_in(facts: Facts) -> dict[str, set[int]]:
    """Return directory -> inode numbers of the files that were last seen in it and have no known name now."""
    lost: dict[str, set[int]] = {}
    for inode in facts.lost():
        lost.setdefault(os.path.dirname(inode.last_name), set()).add(inode.identity[1])
    return lost
