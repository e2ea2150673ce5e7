"""Keeps discovery, cache and facts in step: whatever happens to the declared files comes together here."""

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
from exporter.discovery.findings import Appeared, Finding, Findings, Gone, Moved, Rematched
from exporter.discovery.remote_scan import RemoteScanner
from exporter.ledger.facts import Facts
from exporter.matching.automaton import Match, PathMatcher, number_groups
from exporter.ops.fair_lock import FairLock
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions
from exporter.publication.publication import Publication
from fstat_cache import CacheClosedError, DirectoryEvent, FStatCache, Surveyed, file_time_ns

_log = logging.getLogger(__name__)

ROTATED_QUIET_S = 600.0
"""How long a rotated file that matches no pattern may be quiet before it is followed no longer."""
DIRECTORIES_AT_ONCE = 100
"""After how many directories a scan lets others go on."""
STOP_TIMEOUT_S = 0.2
"""How long the end waits for the thread, and for the lock; either may be stuck on a filesystem that hangs."""
LOCK_TIMEOUT_S = 0.05
"""How long the thread waits for the lock before it goes on to drain the kernel's queue and to stat."""
MOST_ROUNDS = 10
"""How often in a row a scrape catches up with what happens meanwhile."""
LARGEST_BLOCK_BYTES = 1 << 16


class Tracker:
    """The declared files, tracked. Safe to call from several threads.

    Args:
        config: what to track.
        remote_timeout_s: how long a directory on a remote filesystem is waited for, seconds.

    Attributes:
        facts: what is known of the files.
        realms: the numbers of the groups' names, never given again.
        publication: what is shown of the facts.
        matcher: what matches.
        discovery: what is known of the directories.
        cache: stats the files.
        lock: one at a time looks for files, or makes everything true for a scrape. Taken before the cache's lock and
            the facts', never after.
        booked: set whenever something was booked; for whoever wants to wait for that.
        urgent: set when something was booked of which no trace is left on the disk.
        is_ready: whether every directory was listed once.
        since_ns: by the number of a pattern, since when an unknown file must have been born to count from its first
            byte.
        as_of_ns: every file that was born before is known, by the clock of births; 0 before the first scan.
        max_files: how many files the cache holds.
    """

    def __init__(self, config: Config, *, remote_timeout_s: float = RemoteScanner.TIMEOUT_S) -> None:
        self.lock = FairLock()
        self.booked, self.urgent = threading.Event(), threading.Event()
        self.facts = Facts(urgent=self.urgent)
        self.realms: dict[str, int] = {}
        self.publication = self.publish(config)
        self.cache = FStatCache(max_files=config.cache.max_files, cpu_budget=config.cache.cpu_budget, keep_changes=True)
        self.matcher = PathMatcher(number_groups(config.logs))
        self.discovery = Discovery(self.matcher, self.cache)
        self.is_ready = False
        self.since_ns = dict.fromkeys(self.matcher.patterns, time.time_ns())
        self.as_of_ns = 0
        self.max_files = config.cache.max_files
        self._remote_scanner = RemoteScanner(remote_timeout_s)
        self._names: set[str] = set()  # all that are stat'ed
        self._surveyed = Surveyed()  # another one when there are more names
        self.rotated: dict[str, tuple[int, float]] = {}
        """Tracked files that were renamed and match no pattern -> size, and since when: they are let go when quiet."""
        self._vanished: set[str] = set()  # by a stat, and perhaps without an event in the directory
        self._events: list[DirectoryEvent] = []  # taken from the cache, and still to be handled
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
        """Begin to follow changes, in a thread that ends with :meth:`close`."""
        self._thread.start()

    def close(self) -> None:
        """Follow nothing any more; may be called twice."""
        self.cache.close()
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT_S)
        if self.lock.acquire(STOP_TIMEOUT_S):
            try:
                self._book()  # what the thread has not come to
            finally:
                self.lock.release()

    # -- making everything true ---------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Take in what has happened since the last call; what the thread does again and again.

        The kernel's queue is drained and files are stat'ed whoever has the lock; where that takes long, what was found
        stays in the cache until the next call.
        """
        self.cache.advance()
        if self.lock.acquire(LOCK_TIMEOUT_S):
            try:
                self.catch_up()
            finally:
                self.lock.release()

    def refresh(self, audited: int) -> None:
        """Make everything true as of now.

        Args:
            audited: how many files to compare with the truth on this occasion.
        """
        as_of_ns = file_time_ns()
        self.cache.sync()  # waits for remote filesystems, and no one has to wait for that
        with self.lock:
            self.refresh_locked(as_of_ns)
        self.cache.audit(audited)  # after that: what is known is no mismatch
        with self.lock:
            self.catch_up()
        self.publication.update()

    def refresh_locked(self, as_of_ns: int) -> None:
        """Make everything true as of the latest sync() of the cache, with the lock held.

        Args:
            as_of_ns: a time before that, by the clock of files.
        """
        errors = self.cache.survey(self._names, self._surveyed)
        self._book()
        self.perform(self.discovery.check_unwatchable())
        self.catch_up()
        self._faults.log_faults(
            _log,
            errors,
            "files can not be looked at and are left out of the scrape",
            "files can be looked at again, or are gone",
        )
        self.facts.hide(errors.keys())
        self.as_of_ns = as_of_ns

    def scan(self) -> None:
        """List every directory: the first time to find the files, later for what has come or gone unnoticed."""
        started = time.monotonic()
        first = not self.is_ready
        with self.lock:
            as_of_ns = file_time_ns()
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
        self.facts.end_restoring()
        self._tell_full()
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
        """Have other patterns match: what still matches is kept, the rest is forgotten. A scan finds the new files."""
        with self.lock:
            self.matcher = matcher
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
        """Let go of what has been gone, or quiet, for long enough."""
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

    def _scan_remote(self) -> int:
        directories = dict(self.discovery.remote)
        found = self._remote_scanner.scan(directories)
        with self.lock:
            self.perform(self.discovery.take_remote(found.files, found.left_out))
        return found.unreadable

    def _tell_full(self) -> None:
        is_full = self.files > self.max_files
        if is_full and not self._is_full:
            _log.warning(
                "more files than cache.max_files, the others cost an os.stat each scrape",
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
                    _log.exception("what has changed could not be followed; the next rescan finds it")
        except Exception:  # noqa: BLE001 - which the health check finds; scrapes go on, by os.stat
            _log.exception("the thread that follows the files has failed; restart the agent")

    # -- booking, with the lock held ----------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Take in what has happened, book what the cache has found, and look for the files of directories in which
        something came or went, until nothing more is found.
        """
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
        """Stat what discovery has found, in order, and answer; what fails is thrown into it."""
        with contextlib.suppress(StopIteration):
            finding = next(findings)
            while True:
                try:
                    answer = self._answer(finding)
                except Exception as error:  # noqa: BLE001 - discovery decides what becomes of the others
                    finding = findings.throw(error)
                else:
                    finding = findings.send(answer)

    def _book(self) -> None:
        """Take what the cache has found and book it, in one step: changes are to be booked in their order."""
        changes = self.cache.take()
        for change in changes:
            if isinstance(change, DirectoryEvent):
                self._events.append(change)
                continue
            name, stats = change
            try:
                data_begin = 0
                if stats is None:
                    self._vanished.add(name)
                elif self.facts.cut and (size := self.facts.outgrows_cut(stats)) is not None:
                    data_begin = data_begins(name, size)
                self.facts.observe(name, stats, data_begin)
            except Exception:  # noqa: BLE001 - whatever it was, the other changes are to be booked
                _log.exception("a change could not be booked", extra=fields(change=change))
        if changes and not self.booked.is_set():
            self.booked.set()

    # -- what discovery finds -----------------------------------------------------------------------------------------

    def _answer(self, finding: Finding) -> bool:
        match finding:
            case Moved(name, origin):
                return self._follow(name, origin)
            case Gone(name):
                self._forget(name)
                return False
            case Rematched(name, match) if self.facts.at(name) is not None:
                self._declare(name, match)
                if self.facts.at(name) is not None:  # else its group is another one
                    return True
        path, match = finding.path, finding.match
        origin = finding.origin if isinstance(finding, Appeared) else ""
        if match.groups[0] not in self.matcher.rules:  # its directory has not gone over to the latest matcher
            now = self.matcher.match(path)
            if now is None:
                return self._follow(path, origin)
            match = now
        return self._appear(path, match, origin)

    def _appear(self, name: str, match: Match, origin: str) -> bool:
        self.rotated.pop(name, None)
        self._declare(name, match)
        if origin and self.publication.position_of(match.groups) is None:
            self._expect(name, origin)  # only the groups to come match its new name
        try:
            is_there = self._look(name)
        except OSError as error:
            # As far as one can know; each scrape tries again, and logs it. But links that loop lead nowhere.
            is_there = error.errno != errno.ELOOP
        if is_there:
            self._add(name)
        else:
            self._names.discard(name)
        return is_there

    def _follow(self, name: str, origin: str) -> bool:
        if name in self.facts.paths:
            self._forget(name)  # it was declared until now
            return False
        if origin and self.facts.at(name) is None:
            self._expect(name, origin)
        is_known = False
        with contextlib.suppress(OSError):
            is_known = self._look(name) and self.facts.at(name) is not None
        if origin and origin not in self._names:
            self.facts.observe(origin, None)
        inode = self.facts.at(name)
        if not is_known or inode is None:
            self._forget(name)
            return False
        self._add(name)
        self.rotated.setdefault(name, (inode.size, time.monotonic()))
        return True

    def _expect(self, name: str, origin: str) -> None:
        """A file has lost its declared name, perhaps before its first stat."""
        match = self.matcher.match(origin)
        if match is not None and origin not in self.facts.paths:
            self._declare(origin, match)
        self.facts.set_origin(name, origin)

    def _look(self, name: str) -> bool:
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
        is_new = self.is_ready and is_shown  # one that only the groups to come match may be old
        group = self.matcher.rules[match.groups[0]].name
        if position is not None:
            group = self.publication.config[position].group
        since_ns = min([self.since_ns[pattern] for pattern in match.patterns])
        self.facts.declare(name, self.realms[group], match.groups, since_ns=since_ns, is_new=is_new, is_shown=is_shown)

    def _forget(self, name: str) -> None:
        self.rotated.pop(name, None)
        self._names.discard(name)
        self.facts.observe(name, None)
        with contextlib.suppress(KeyError):
            self.cache.remove_from_watch(name)


def pattern_matches(tracker: Tracker) -> Iterator[tuple[str, str, int]]:
    """Yield each pattern of the published configuration: its group's name, its text, how many files it matches."""
    publication = tracker.publication
    for number, (group, text) in tracker.matcher.patterns.items():
        position = publication.position_of((group,))
        if position is not None:
            yield publication.config[position].group, text, tracker.discovery.matches[number]


def lost_in(facts: Facts) -> dict[str, set[int]]:
    """Return by directory the inode numbers of the files that were seen in it last and have no known name now."""
    lost: dict[str, set[int]] = {}
    for inode in facts.lost():
        lost.setdefault(os.path.dirname(inode.last_name), set()).add(inode.identity[1])
    return lost


def data_begins(path: str, offset: int) -> int:
    """Return where the first byte of a file is, from an offset on, that is not zero; the offset if that is unknown.

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
