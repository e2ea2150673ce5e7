"""Inspects the shippers of a configuration once, for ``fstat-exporter shippers``. It needs no running agent."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter

from exporter.config.model import Config
from exporter.config.shippers import PROCESS
from exporter.shippers.formats import FORMATS
from exporter.shippers.logs import BEHIND, HELD, HELD_NS, READ, SHORT_BYTES, UNCLAIMED, Entry, Log
from exporter.shippers.report import (
    RECENT,
    LogLine,
    PathMap,
    ShipperReport,
    StateLine,
    duration,
    find_path_map,
    why_unclaimed,
)
from exporter.shippers.shipper import Shipper
from exporter.shippers.shippers import Shippers
from exporter.tracker import Tracker
from fstat_cache.hanging import Worker

TIMEOUT_S = 10.0
"""How long to wait for the states of the shippers, and again for paths that only they know."""


def inspect(config: Config, rootfs: str) -> tuple[list[ShipperReport], list[str]]:
    """Find the logs and read the states of the shippers.

    Nothing is written but copies of databases, which are removed again.

    Args:
        config: the configuration.
        rootfs: the directory where all paths begin.

    Returns:
        A report of each shipper, and hints that are of no shipper.
    """
    # A running agent may need the user's watches, so this one has few.
    tracker = Tracker(replace(config, cache=replace(config.cache, max_files=1)), rootfs=rootfs)
    directory = os.path.dirname(config.state.path or "")
    try:
        tracker.scan()
        shippers = Shippers(tracker, config.shippers, directory if os.access(directory, os.W_OK) else "")
        try:
            for _ in range(2):  # for the second time the fingerprints of the logs are known
                with shippers.following(TIMEOUT_S):
                    tracker.refresh(0)
            reports = [_Inspection(tracker, shipper).report() for shipper in shippers]
        finally:
            shippers.close()
        hints = []
        if faults := sorted(tracker.discovery.faults, key=itemgetter(0)):
            path, error = faults[0]
            hints.append(f"directories of logs that cannot be listed: {len(faults)}, such as {path}: {error.strerror}")
        return reports, hints
    finally:
        tracker.close()


class _Inspection:
    """Inspects one shipper, after its state and the logs were read."""

    def __init__(self, tracker: Tracker, shipper: Shipper) -> None:
        self._tracker = tracker
        self._shipper = shipper
        self._format = FORMATS.get(shipper.config.type)
        self._now_ns = time.time_ns()
        self._late_s = (shipper.flush_ns + HELD_NS) / 1e9
        self._entries_by_name: defaultdict[str | None, list[Entry]] = defaultdict(list)
        self._path_map: PathMap | None = None
        self._theirs: dict[str, str] = {}  # unclaimed log -> its path in the state, which `path_map` would map

    def report(self) -> ShipperReport:
        """Return what was found."""
        shipper, publication = self._shipper, self._tracker.publication
        with self._tracker.facts.lock:
            names = {number: name for name, number in self._tracker.realms.items()}
            logs = [log for log in shipper.account.logs.values() if log.inode.names]
            self._find_path_map([log.inode.names[0] for log in logs if not log.entries])
            for entry in shipper.account.matching.entries.values():
                self._entries_by_name[entry.name].append(entry)
            lines = [self._line(log, names) for log in logs]
            hints = [*self._hints(lines)]
        now_s = self._now_ns / 1e9
        states = [StateLine(each.path, each.mtime_s and now_s - each.mtime_s, each.error) for each in shipper.files]
        config = shipper.config
        place = config.path or config.match or ""
        return ShipperReport(
            config.name,
            config.type,
            [publication.config[position].group for position in shipper.groups()],
            states or [StateLine(place, None, shipper.fault)],
            lines,
            hints,
        )

    def _line(self, log: Log, names: dict[int, str]) -> LogLine:
        age_s = (self._now_ns - log.inode.mtime_ns) / 1e9
        state, reason = self._state(log, age_s), ""
        if state == UNCLAIMED:
            if not self._shipper.account.matching.entries and self._shipper.fault:
                reason = f"its state cannot be read: {self._shipper.fault}"
            elif (theirs := self._theirs.get(log.inode.names[0])) is not None:
                reason = f"its state has {theirs}: set {self._path_map}"
            elif self._shipper.config.type == PROCESS:
                reason = "no process of this name has it open"
            else:
                reason = why_unclaimed(log, self._candidates(log))
        groups = [name for realm, name in names.items() if (realm, ()) in log.keys]
        size_bytes = log.size if state == UNCLAIMED else log.unread
        return LogLine(log.inode.names[0], groups, state, size_bytes, age_s, reason)

    def _candidates(self, log: Log) -> set[Entry]:
        """Return the entries that have the inode number or a name of a log, whether or not they fit it."""
        entries = set(self._shipper.account.matching.candidates(log))
        return entries.union(*(self._entries_by_name.get(name, ()) for name in log.inode.names))

    def _state(self, log: Log, age_s: float) -> str:
        if not log.entries:  # with ``complete`` its offset is 0
            return UNCLAIMED
        if not log.unread:
            return READ
        if age_s <= HELD_NS / 1e9:
            return RECENT
        may_be_held = not log.is_due or (self._format is not None and self._format.quiet_s > 0)
        if log.unread <= SHORT_BYTES and may_be_held:
            return HELD
        return BEHIND if age_s > self._late_s else RECENT

    def _find_path_map(self, unclaimed: list[str]) -> None:
        """Find the paths in the state that may be of unclaimed logs: those that do not exist here."""
        bases = {os.path.basename(name) for name in unclaimed}
        strange = {
            entry.name: entry.position.path
            for entry in self._shipper.account.matching.entries.values()
            if entry.log is None and entry.position.path is not None and os.path.basename(entry.name or "") in bases
        }
        missing: list[str] = []
        worker = Worker("paths")  # because a filesystem may hang
        checked = worker.begin(lambda: [path for name, path in strange.items() if not self._exists(name)], TIMEOUT_S)
        if checked is not None:
            with contextlib.suppress(TimeoutError):
                missing = checked.result(TIMEOUT_S)
        worker.close()
        self._path_map, self._theirs = find_path_map(unclaimed, missing) or (None, {})

    def _exists(self, name: str | None) -> bool:
        try:
            return os.path.lexists(self._tracker.cache.root.real(name or ""))
        except OSError:
            return False

    def _hints(self, lines: list[LogLine]) -> Iterator[str]:
        """Yield what may be wrong with the shipper's configuration. The facts' lock is held."""
        shipper, account = self._shipper, self._shipper.account
        if self._path_map is not None:
            these = f"{len(self._theirs)} of {sum(line.state == UNCLAIMED for line in lines)} unclaimed logs"
            yield f"paths in its state do not exist here: set {self._path_map} for {these}"
        strangers = [entry for entry in account.matching.entries.values() if entry.log is None]
        others = {
            inode.identity[1]: inode for inode in self._tracker.facts.inodes.values() if inode not in account.logs
        }
        outside = [
            inode.names[0]
            for entry in strangers
            if (inode := self._tracker.facts.at(entry.name or "") or others.get(entry.position.inode or 0)) is not None
            and inode not in account.logs
            and inode.names
        ]
        if outside:
            yield (
                f"positions of logs that its groups, paths and exclude leave out: {len(outside)}, "
                f"such as of {min(outside)}: correct these keys if the logs are to count"
            )
        if not account.matching.entries and shipper.is_readable and shipper.config.type != PROCESS:
            yield "its state has no position: it has read no file yet, or this is another state"
        is_elsewhere = not any(self._tracker.facts.at(entry.name or "") for entry in strangers)
        if len(strangers) == len(account.matching.entries) > 0 and is_elsewhere and not self._theirs and not outside:
            path = next((entry.position.path for entry in strangers if entry.position.path), None)
            such = "" if path is None else f", such as the one of {path}"
            yield f"of its positions ({len(strangers)}) none is of a log here{such}: check groups, path and path_map"
        yield from self._stale(lines)

    def _stale(self, lines: list[LogLine]) -> Iterator[str]:
        mtime_s = self._shipper.mtime_s
        late = [line for line in lines if line.state != READ]
        if mtime_s is None or not late or (self._format is not None and self._format.written_by_mmap):
            return
        newest, state_age_s = min(late, key=lambda line: line.age_s), self._now_ns / 1e9 - mtime_s
        if state_age_s - newest.age_s <= self._late_s:
            return
        remedy = "check that it runs, and that this is its state"
        if self._shipper.config.type == "rsyslog":
            remedy = 'set PersistStateInterval="1" in its inputs, or use type: process; else check that it runs'
        yield (
            f"its state was last written {duration(state_age_s)} ago, before {newest.path} "
            f"({duration(newest.age_s)} ago): {remedy}"
        )
