"""Keeps discovery, cache and facts consistent: each change of a declared file is processed here."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Iterable

from exporter.bookkeeper import Bookkeeper
from exporter.config.model import Config
from exporter.discovery.discovery import Discovery
from exporter.discovery.findings import Appeared, Finding, Findings, Gone, Moved, Rematched
from exporter.discovery.remote_scan import RemoteScanner
from exporter.ledger.facts import Facts
from exporter.ledger.uncertain import DELETED, FLOOD, OVERFLOW
from exporter.matching.automaton import Match, PathMatcher, number_groups
from exporter.nameless import NamelessFiles
from exporter.ops.fair_lock import FairLock
from exporter.ops.file_clock import FileClock
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions
from exporter.publication.publication import Publication
from exporter.rotated import RotatedFiles
from fstat_cache import (
    CacheClosedError,
    DetailedStats,
    FStatCache,
    Surveyed,
)

_log = logging.getLogger(__name__)

DIRECTORIES_AT_ONCE = 100
"""After how many directories a scan releases the lock."""
STOP_TIMEOUT_S = 0.2
"""How long close() waits for the thread, and for the lock; either may be stuck on a filesystem that hangs."""
LOCK_TIMEOUT_S = 0.05
"""How long the thread waits for the lock before it drains the kernel's queue again."""
MOST_ROUNDS = 10
"""How often in a row a scrape processes events that come meanwhile."""


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
        rotated: the files that were renamed, and that no pattern matches any more.
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
        self.urgent = threading.Event()
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
        self.rotated = RotatedFiles()
        self._keeper = Bookkeeper(self.facts, self.cache)
        self.booked = self._keeper.booked
        self._nameless = NamelessFiles(self.facts, self.cache)
        self._faults = Transitions()
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
            self.facts,
            config.logs,
            self.realms,
            first=first,
            grace_s=config.stale_grace_s,
            zeros=config.zeros,
            before=before,
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
                self._keeper.book()
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
        self._keeper.book()
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
            self.discovery.begin_scan(self.facts.lost_by_directory())
            self._nameless.begin()
        more = True
        while more:
            with self.lock:
                self.perform(self.discovery.scan(DIRECTORIES_AT_ONCE))
                self.catch_up()
                self.perform(self.discovery.settle())
                more = self.discovery.is_scanning
        found = self._remote_scanner.scan(self.discovery.remote)
        with self.lock:
            self.perform(self.discovery.take_remote(found.files, found.left_out))
        self.as_of_ns = max(self.as_of_ns, as_of_ns)
        self.is_ready = True
        for inodes in self._nameless.lost():
            with self.lock:
                self._nameless.find(inodes)
                self._keeper.book()
        with self.lock:
            self.catch_up()
        self.facts.end_restoring()
        _log.log(
            logging.INFO if first else logging.DEBUG,
            "scan done",
            extra=fields(
                files=self.files,
                directories=len(self.discovery),
                unreadable=self.discovery.unreadable + found.unreadable,
                seconds=round(time.monotonic() - started, 3),
            ),
        )

    def match(self, matcher: PathMatcher) -> None:
        """Switch to another matcher: keep the files that it matches, forget the others. A scan finds its new files."""
        with self.lock:
            self.matcher = matcher
            self._keeper.arrivals.forget()  # files that only the new matcher matches may have been created long ago
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
        self.publication.expire(time.monotonic(), is_scrape=is_scrape)
        if not self.rotated:
            return
        with self.lock:
            for name in self.rotated.quiet(self.facts):
                self.discovery.unfollow(name)
                self._forget(name)

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
            self._keeper.book()
            self._nameless.search_unread(self._keeper.unread)
            while self._keeper.lost:
                self._note_lost(self._keeper.lost.pop().directory)
            events, self._keeper.events = self._keeper.events, []
            if events:
                lost = self.facts.lost_by_directory() if any(event.name is None for event in events) else {}
                self.perform(self.discovery.catch_up(events, lost))
            while self._keeper.vanished:
                vanished, self._keeper.vanished = self._keeper.vanished, set()
                for name in sorted(vanished):
                    self.perform(self.discovery.check(name))
            if not events:
                missed = self._keeper.arrivals.take_missed()
                if not missed:
                    return
                self._miss(missed)

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

    def _note_lost(self, directory: str | None) -> None:
        """Count lost events for the groups that can match there; an overflow for all that have files."""
        with self.facts.lock:
            if directory is None:
                self.facts.inodes.uncertain.note((path.realm for path in self.facts.paths.values()), OVERFLOW)
            else:
                groups = self.matcher.rules.keys() & self.discovery.groups_in(directory)
                self.facts.inodes.uncertain.note((self.realms[self.matcher.rules[each].name] for each in groups), FLOOD)

    # -- findings of discovery ----------------------------------------------------------------------------------------

    def _answer(self, finding: Finding) -> bool:
        match finding:
            case Moved(name, origin, birth_ns):
                return self._follow(name, origin, birth_ns)
            case Gone(name):
                self._forget(name)
                return False
            case Rematched(name, match) if self.facts.at(name) is not None:
                self._declare(name, match)
                has_details = isinstance(self.facts.paths[name].stats, DetailedStats)
                if self.facts.at(name) is not None and has_details == self.matcher.is_detailed(match):
                    return True  # else the path began anew in another group, or other details are shown: stat it below
        path, match = finding.path, finding.match
        origin = finding.origin if isinstance(finding, Appeared) else ""
        if match.groups[0] not in self.matcher.rules:  # its directory still has the old matcher
            now = self.matcher.match(path)
            if now is None:
                return self._follow(path, origin)
            match = now
        return self._appear(path, match, origin)

    def _miss(self, files: Iterable[tuple[str, bool]]) -> None:
        missed = [(name, match, is_deleted) for name, is_deleted in files if (match := self.matcher.match(name))]
        found = self._nameless.search({name for name, _, is_deleted in missed if is_deleted})
        for name, match, _ in missed:
            if name in found:
                if found[name]:
                    self._declare(name, match)
                for stats in found.pop(name):
                    self._nameless.book(name, stats)
            else:
                with self.facts.lock:
                    self.facts.inodes.uncertain.note([self._realm_of(match)], DELETED)

    def _appear(self, name: str, match: Match, origin: str) -> bool:
        self.rotated.pop(name, None)
        self._declare(name, match)
        if origin and self.publication.position_of(match.groups) is None:
            self._set_origin(name, origin)  # only groups of the next configuration match its new name
        try:
            is_there = self._stat(name, is_detailed=self.matcher.is_detailed(match))
        except OSError as error:
            # Unknown, so treat it as there: each scrape tries again, and logs the error. A loop of links leads nowhere.
            is_there = error.errno != errno.ELOOP
        if is_there:
            self._add(name)
        else:
            self._names.discard(name)
        return is_there

    def _follow(self, name: str, origin: str, birth_ns: int = 0) -> bool:
        if birth_ns:  # it was rotated unseen; does it count?
            match, born_ns = self.matcher.match(origin), self.clock.moment_of(birth_ns)
            if match is None or born_ns is None or born_ns < min([self.since_ns[each] for each in match.patterns]):
                return False
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
        self.rotated.begin(name, inode.size)
        return True

    def _set_origin(self, name: str, origin: str) -> None:
        """Book that a file was renamed from a declared path, perhaps before its first stat."""
        match = self.matcher.match(origin)
        if match is not None and origin not in self.facts.paths:
            self._declare(origin, match)
        self.facts.set_origin(name, origin)

    def _stat(self, name: str, *, is_detailed: bool = False) -> bool:
        try:
            return self.cache.look(name, is_detailed=is_detailed)
        finally:
            self._keeper.book()

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
            self._realm_of(match) if position is None else self.realms[self.publication.config[position].group],
            match.groups,
            since_ns=min([self.since_ns[pattern] for pattern in match.patterns]),
            is_new=is_new,
            is_shown=is_shown,
        )

    def _realm_of(self, match: Match) -> int:
        position = self.publication.position_of(match.groups)
        if position is None:  # only the next configuration matches it
            return self.realms[self.matcher.rules[match.groups[0]].name]
        return self.realms[self.publication.config[position].group]

    def _forget(self, name: str) -> None:
        self.rotated.pop(name, None)
        self._names.discard(name)
        self.facts.observe(name, None)
        with contextlib.suppress(KeyError):
            self.cache.remove_from_watch(name)
