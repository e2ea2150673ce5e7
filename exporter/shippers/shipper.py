"""One configured shipper: reads its state in a thread of its own, and keeps its account."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import lru_cache

from exporter.config.groups import UNREAD, LogGroup
from exporter.config.shippers import PROCESS, ShipperConfig
from exporter.ledger.records import Inode, Path
from exporter.matching.automaton import PathMatcher, number_groups
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions
from exporter.shippers.account import Account
from exporter.shippers.formats import FLUSH_INTERVALS_S, FORMATS
from exporter.shippers.logs import UNCLAIMED, Key, Log
from exporter.shippers.matching import StateRead, differences
from exporter.shippers.positions import Position
from exporter.shippers.state_reader import ProcessReader, Reading, StateFile, StateReader
from exporter.tracker import Tracker
from fstat_cache.hanging import Worker

_log = logging.getLogger(__name__)

_NS = 10**9
_SCRAPES_OF_A_GONE_AGGREGATE = 2
DELAY = 1.1
"""How many flush intervals late a shipper's positions may be: its timer is late, or the write takes time."""
SPARE_NAMES = 1_000
"""How many names more than twice the present positions are kept."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a worker has read, and when it began."""

    reading: Reading
    read_ns: int


class Shipper:
    """One shipper.

    Args:
        config: of the shipper.
        tracker: follows the files.
        copies: an existing directory for copies of databases.
        is_saved: see :class:`Account`.

    Attributes:
        config: as given.
        account: what it has read, not read yet, and lost.
        errors: how many reads of its state have failed.
        is_readable: whether its state could be read.
        mtime_s: when its state was last written, seconds since the epoch; None: unknown.
        fault: why its state cannot be read; "" if it can.
        files: its state files, as they were read last.
        flush_ns: how late its positions are.
    """

    def __init__(self, config: ShipperConfig, tracker: Tracker, copies: str, *, is_saved: bool = False) -> None:
        self.config = config
        self._tracker = tracker
        self._format = FORMATS.get(config.type)
        root = tracker.cache.root
        self._reader: StateReader | ProcessReader
        if config.type == PROCESS:
            assert config.match is not None
            self._reader = ProcessReader(config.match)
        else:
            assert config.path is not None
            self._reader = StateReader(FORMATS[config.type], config.path, copies=copies, root=root)
        directories = [(theirs.rstrip("/") + "/", ours.rstrip("/") + "/") for theirs, ours in config.path_map.items()]
        self._path_map = sorted(directories, key=lambda each: -len(each[0]))
        self._names: dict[str, str] = {}
        self._positions: Sequence[Position] = ()
        self._worker = Worker(f"shipper-{config.name}")
        self._pending: Future[Outcome] | None = None
        self._faults = Transitions()
        self._matches: Callable[[str], bool] = lambda name: True
        self._aggregates: dict[
            tuple[int, tuple[str, ...]], int
        ] = {}  # those that are shown -> for how many scrapes after their end
        self._identified: dict[Log, tuple[int, frozenset[int]]] = {}
        self.errors = 0
        self.is_readable = False
        self.mtime_s: float | None = None
        self.fault = ""
        self.files: Sequence[StateFile] = ()
        self._changed_ns: int | None = None  # None before the first read
        flush_s = config.flush_interval_s
        self.flush_ns = int((FLUSH_INTERVALS_S[config.type] if flush_s is None else flush_s) * DELAY * _NS)
        self.account = Account(
            tracker.facts,
            self._homes_of,
            self._keys_of,
            moment_of=tracker.clock.moment_of,
            flush_ns=self.flush_ns,
            quiet_ns=int(self._format.quiet_s * _NS) if self._format else 0,
            is_complete=config.complete,
            is_saved=is_saved,
        )

    # -- reading its state: in the worker -----------------------------------------------------------------------------

    def begin(self, timeout_s: float) -> None:
        """Begin to read the state, unless an earlier read still runs."""
        if self._pending is None:
            self._pending = self._worker.begin(self._read, timeout_s)

    def state(self, timeout_s: float) -> StateRead | None:
        """Return the state that was read; None if it could not be read, or not in time."""
        if self._pending is None or not wait((self._pending,), timeout_s).done:
            self._note("was not read in time")
            return None
        pending, self._pending = self._pending, None
        try:
            outcome = pending.result()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next read may succeed
            self.fail(error)
            return None
        reading = outcome.reading
        self.errors += reading.failures
        self.mtime_s, self.files = reading.mtime_s, reading.files
        faults = [f"{file.path}: {file.error}" for file in reading.files if file.error is not None]
        self._note(faults[0] if faults else "")
        written_ns = outcome.read_ns
        if reading.mtime_ns is not None and not (self._format and self._format.written_by_mmap):
            written_ns = self._tracker.clock.moment_of(reading.mtime_ns) or outcome.read_ns
        if reading.changed:
            self._changed_ns = written_ns if self._changed_ns is None else outcome.read_ns
        return StateRead(
            outcome.read_ns,
            {"": (reading.positions, written_ns)},
            self._names,
            written_ns if self._changed_ns is None else self._changed_ns,
            is_current=reading.is_current,
            is_whole=reading.is_readable,
        )

    def fail(self, error: Exception) -> None:
        """Note an error that nothing foresees, and go on with the last positions."""
        self.errors += 1
        self._note(f"cannot be processed: {type(error).__name__}", error)

    def close(self) -> None:
        """Let the worker end; waits for no read that hangs."""
        self._worker.close()

    def _read(self) -> Outcome:
        read_ns = self._tracker.clock.now_ns()
        before, reading = self._positions, self._reader.read()
        if reading.positions is not before:
            self._resolve(differences(before, reading.positions)[1])
            self._positions = reading.positions
            if len(self._names) > 2 * len(self._positions) + SPARE_NAMES:
                present = {position.path for position in self._positions}
                self._names = {path: name for path, name in self._names.items() if path in present}
        return Outcome(reading, read_ns)

    def _resolve(self, positions: Iterable[Position]) -> None:
        """Find the names of the logs of positions that are new, or have moved: a rotation may lead a link elsewhere."""
        paths = self._tracker.facts.paths
        for position in positions:
            if (path := position.path) is not None:
                name = self._ours(path)
                self._names[path] = name if position.inode is not None or name in paths else self._real(name)

    def _ours(self, path: str) -> str:
        """Return a path of the shipper's view in ours: the longest directory of ``path_map`` counts."""
        for theirs, ours in self._path_map:
            if path.startswith(theirs):
                return ours + path[len(theirs) :]
        return path

    def _real(self, name: str) -> str:
        root = self._tracker.cache.root
        try:
            return os.path.realpath(name) if not root.path else root.real(name).removeprefix(root.path)
        except OSError:
            return name

    def _note(self, fault: str, error: Exception | None = None) -> None:
        self.is_readable, self.fault = not fault, fault
        changed = self._faults.update(["it"] if fault else [])
        if changed.begun:
            text = "the state of a shipper cannot be read: its last positions stay"
            _log.warning(text, extra=fields(shipper=self.config.name, error=fault), exc_info=error)
        if changed.ended:
            _log.info("the state of a shipper can be read again", extra=fields(shipper=self.config.name))

    # -- which logs it reads ------------------------------------------------------------------------------------------

    def match_again(self) -> None:
        """Follow the groups of the published configuration."""
        config, groups = self.config, self._tracker.publication.config
        if config.paths or config.exclude:
            patterns = config.paths or tuple([pattern for group in groups for pattern in group.paths])
            group = LogGroup(config.name, patterns, config.exclude, follow_symlinks=True)
            matcher = PathMatcher(number_groups([group]))
            self._matches = lru_cache(100_000)(lambda name: matcher.match(name) is not None)

    def groups(self) -> list[int]:
        """Return the positions of the groups that it is meant to read."""
        wanted, groups = self.config.groups, self._tracker.publication.config
        return [position for position, group in enumerate(groups) if not wanted or group.group in wanted]

    def aggregates(self) -> Iterator[tuple[Key, dict[str, str]]]:
        """Yield the aggregates to show, with their labels: published ones, and others for two more scrapes."""
        publication, realms = self._tracker.publication, self._tracker.realms
        shown = {}
        for (position, values), totals in publication.aggregates.items():
            key = realms[publication.config[position].group], values
            if totals.is_published and key in self.account.sums:
                shown[key] = _SCRAPES_OF_A_GONE_AGGREGATE
        gone = self._aggregates.keys() - shown.keys()
        in_care = {key for log in self.account.logs.values() for key in log.keys} if gone else set()
        for key in gone:
            shown[key] = _SCRAPES_OF_A_GONE_AGGREGATE if key in in_care else self._aggregates[key] - 1
        self._aggregates = {key: left for key, left in shown.items() if left >= 0}
        for key in gone - self._aggregates.keys():
            self.account.sums.pop(key, None)
        for realm, values in self._aggregates:
            position_now = publication.positions.get(realm)
            if position_now is not None:
                names = publication.config[position_now].aggregate_by
                labels = {name: value for name, value in zip(names, values, strict=False) if value}
                yield (realm, values), {**publication.group_labels[position_now], **labels}

    def _homes_of(self, inode: Inode) -> list[Path]:
        wanted, names = self.config.groups, self._tracker.publication
        return [
            home
            for home in inode.homes
            if (position := names.positions.get(home.realm)) is not None
            and (not wanted or names.config[position].group in wanted)
            and self._matches(home.name)
        ]

    def _keys_of(self, home: Path) -> tuple[Key, ...] | None:
        row = self._tracker.publication.rows.get(home)
        if row is None:
            return None
        whole, aggregate = (home.realm, ()), (home.realm, row.totals[-1].values)
        keys: tuple[Key, ...] = (whole,) if aggregate == whole else (whole, aggregate)
        return (*keys, home) if UNREAD in self._tracker.publication.config[row.group].metrics else keys

    def unread(self, *, is_all: bool) -> dict[Path, int | None]:
        """Return file -> how many bytes are unread; see :meth:`Shippers.unread`."""
        sums = self.account.sums
        files = [key for key in sums if isinstance(key, Path)] if is_all else self.account.changed
        found = {}
        for path in files:
            states = sums[path].files
            found[path] = sums[path].unread if sums[path].unread or states.total() > states[UNCLAIMED] else None
            if not states.total():
                del sums[path]
        self.account.changed = set()
        return found

    def identify(self, tracker: Tracker) -> None:
        """Compute the fingerprints of logs without a position, if the format names logs by their content.

        A log has another one if the shipper names it by more first bytes now.
        """
        if self._format is None or self._format.fingerprints is None:
            return
        present = {None, *[each.fingerprint for each in self._positions]}  # None: that of an entry with an inode
        sizes = frozenset(each.size for each in present if each is not None)
        if not sizes:
            return
        head_bytes = max(self._format.head_bytes, *sizes)
        with tracker.facts.lock:
            heads = {
                log: (min(log.inode.size, head_bytes), sizes)
                for log in self.account.logs.values()
                if log.inode.names and present.isdisjoint([entry.position.fingerprint for entry in log.entries])
            }
            unknown = [
                (log, log.inode.names[0], log.inode.identity, size)
                for log, (size, _) in heads.items()
                if self._identified.get(log) != heads[log]
            ]
        self._identified = heads
        for log, name, identity, size in unknown:
            head = tracker.cache.extents.read(name, identity, 0, size)
            found = () if head is None else self._format.fingerprints(head, sizes)
            with tracker.facts.lock:
                self.account.identify(log, found)
