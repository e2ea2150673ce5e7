"""Which log each entry of a shipper's state is of. Pure: no I/O, no clock."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, TypeVar

from exporter.shippers.logs import Entry, Identifier, Log
from exporter.shippers.positions import Fingerprint, Position

T = TypeVar("T")


class StateRead(NamedTuple):
    """A shipper's state as it was read.

    Attributes:
        read_ns: a moment before it was read.
        files: of each state file, by name: its positions, the same object while they are the same; and a moment at or
            after which it was not written.
        names: path in a position -> the path that the facts know; only where they differ.
        changed_ns: when any of its files last changed.
        is_current: whether its offsets are those of now.
        is_whole: whether all of its files were read: what has no entry then has none in the state.
    """

    read_ns: int
    files: Mapping[str, tuple[Collection[Position], int]]
    names: Mapping[str, str]
    changed_ns: int
    is_current: bool = True
    is_whole: bool = True


def differences(before: Collection[Position], now: Collection[Position]) -> tuple[Counter[Position], Counter[Position]]:
    """Return which positions have gone and which have come. Most stay, and in their order."""
    if before is now:
        return Counter(), Counter()
    if len(before) == len(now):
        pairs = [
            (old, position)
            for old, position in zip(before, now, strict=True)
            if old is not position and old != position
        ]
        before, now = [old for old, _ in pairs], [position for _, position in pairs]
    gone, new = Counter(before), Counter(now)
    return gone - new, new - gone


class Matching:
    """Finds the log of each entry. An inode is better than a fingerprint, and that is better than a path.

    Args:
        on_match: called with each log that gets an entry, and the entry.

    Attributes:
        entries: the entries of the state, by file and position with offset 0.
        logs: the logs by what entries may call them: inode numbers, fingerprints, and paths that lead or led to them.
        changed: logs that entries left, or whose number another log has, since the caller cleared this.
    """

    def __init__(self, on_match: Callable[[Log, Entry], None]) -> None:
        self.entries: dict[tuple[str, Position], Entry] = {}
        self.logs: defaultdict[Identifier, set[Log]] = defaultdict(set)
        self.changed: set[Log] = set()
        self._on_match = on_match
        self._files: Mapping[str, tuple[Collection[Position], int]] = {}
        self._entries: defaultdict[Identifier, set[Entry]] = defaultdict(set)

    # -- logs ---------------------------------------------------------------------------------------------------------

    def add(self, log: Log, updated_ns: int) -> None:
        """Add a log, or its new names.

        Args:
            log: the log.
            updated_ns: a moment that is not after a new name began to lead to it.
        """
        number = log.inode.identity[1]
        is_new = log not in self.logs.get(number, ())
        for other in self.logs.get(number, ()) if is_new else ():
            if other.inode.identity[0] == log.inode.identity[0] and other.born_ns < log.born_ns:
                other.until_ns = log.born_ns
                self.changed.add(other)
        self.logs[number].add(log)
        names = [name for name in {*log.inode.names, *[home.name for home in log.inode.homes]} if name not in log.names]
        for name in names:
            log.names[name] = log.born_ns if is_new else updated_ns
        for name in log.names if is_new else names:
            self.logs[name].add(log)
        if is_new:
            for entry in self.candidates(log):
                self._match(entry, (log,))

    def discard(self, log: Log) -> None:
        """Remove a log; its entries are of none then."""
        keys: list[Identifier] = [log.inode.identity[1], *log.fingerprints, *log.names]
        for key in keys:
            _take_out(self.logs, key, log)
        for entry in log.entries:
            entry.log = None

    def identify(self, log: Log, fingerprints: Iterable[Fingerprint]) -> None:
        """Set what a log may be called in the state, instead of what was set before."""
        before, log.fingerprints = log.fingerprints, set(fingerprints)
        for fingerprint in before - log.fingerprints:
            _take_out(self.logs, fingerprint, log)
        for fingerprint in log.fingerprints:
            self.logs[fingerprint].add(log)
            for entry in tuple(self._entries.get(fingerprint, ())):
                self._match(entry, (log,))

    def candidates(self, log: Log) -> list[Entry]:
        """Return the entries that call a log by its inode number or a name, whether or not they fit it."""
        keys: list[Identifier] = [log.inode.identity[1], *log.names]
        return [entry for key in keys for entry in self._entries.get(key, ())]

    def confirm(self, log: Log, state: StateRead) -> None:
        """Find the entry of a log that has not changed, because it has the offset of the log's predecessor.

        The predecessor may also be the log before a truncation. The entry may be the log's if its file was written
        since the log was born, and the offset is the one that is presumed anyway; or since the log had that size.
        """
        for entry in self.candidates(log):
            since_ns, owner = _since_ns(entry, log), entry.log
            written_ns = state.files[entry.file][1]
            sizes = {size for moment_ns, size in log.points if moment_ns <= written_ns} | {log.offset}
            is_newer = owner in (None, log) or _since_ns(entry, owner) < since_ns
            if is_newer and entry.offset in sizes and written_ns >= since_ns:
                entry.changed_ns = written_ns
                self._assign(entry, log)

    # -- the state ----------------------------------------------------------------------------------------------------

    def take(self, state: StateRead) -> set[Log]:
        """Take the positions of a state; return the logs of those that have changed."""
        changed: dict[Entry, None] = {}
        left: set[Log | None] = set()
        nothing: tuple[Collection[Position], int] = (), 0
        for name in self._files.keys() | state.files.keys():
            before, (positions, written_ns) = self._files.get(name, nothing)[0], state.files.get(name, nothing)
            gone, new = differences(before, positions)
            for position, count in gone.items():
                entry = self.entries[name, position._replace(offset=0)]
                entry.offsets -= Counter({position.offset: count})
                changed[entry] = None
            for position, count in new.items():
                key = position._replace(offset=0)
                known = self.entries.get((name, key))
                if known is not None and known.name != _name_of(key, state.names):  # a link leads to another log now
                    entry = self._begin(name, key, state.names)
                    entry.offsets = known.offsets
                    left.add(known.log)
                    self._end(known)
                    self.entries[name, key] = entry
                    changed.pop(known, None)
                else:
                    entry = known or self._begin(name, key, state.names)
                entry.offsets[position.offset] += count
                entry.changed_ns = min(state.read_ns, written_ns)
                changed[entry] = None
        self._files = state.files
        touched = {entry.log for entry in changed} | left
        for entry in changed:
            if entry.offsets:
                self._match(entry, self.logs.get(entry.identifier, ()), has_moved=True)
                touched.add(entry.log)
            else:
                self._end(entry)
        return {log for log in touched if log is not None}

    def _begin(self, file: str, key: Position, names: Mapping[str, str]) -> Entry:
        name = _name_of(key, names)
        identifier = key.fingerprint or name or "" if key.inode is None else key.inode
        entry = self.entries[file, key] = Entry(file, key, name, identifier)
        self._entries[entry.identifier].add(entry)
        return entry

    def _end(self, entry: Entry) -> None:
        del self.entries[entry.file, entry.position]
        _take_out(self._entries, entry.identifier, entry)
        if entry.log is not None:
            entry.log.entries.discard(entry)

    def _match(self, entry: Entry, logs: Iterable[Log], *, has_moved: bool = False) -> None:
        """Find the log that an entry is of. If it fits none now, it stays with the one that it was of.

        The times of files are coarse: one that was born in the tick of the entry's change gets it only as it moves.
        """
        position, name = entry.position, entry.name
        if position.device is not None:  # which may have another number since a reboot
            logs = [log for log in logs if log.inode.identity[0] == position.device or name in log.inode.names]
        before = entry.log
        fitting = [log for log in logs if fits(entry, log)]
        if before is not None:  # it does not return to an older log
            latest_ns = entry.changed_ns - (not has_moved)
            fitting = [
                log
                for log in fitting
                if log is before or latest_ns >= _since_ns(entry, log) >= _since_ns(entry, before)
            ]
        if not fitting:
            return
        log = max(fitting, key=lambda log: (_since_ns(entry, log), name in log.inode.names, log.offset == entry.offset))
        self._assign(entry, log)

    def _assign(self, entry: Entry, log: Log) -> None:
        if log is not entry.log:
            if entry.log is not None:
                entry.log.entries.discard(entry)
                self.changed.add(entry.log)
            entry.log = log
            log.entries.add(entry)
            self._on_match(log, entry)


def _name_of(position: Position, names: Mapping[str, str]) -> str | None:
    return None if position.path is None else names.get(position.path, position.path)


def _take_out(index: dict[Identifier, set[T]], key: Identifier, item: T) -> None:
    items = index.get(key, set())
    items.discard(item)
    if not items:
        index.pop(key, None)


def fits(entry: Entry, log: Log) -> bool:
    """Return whether an entry may be of a log: not if it has not changed since before, or is beyond the log's size.

    Nor if the log is gone and the entry shows less than before, or if the entry changed in the tick of the log's birth
    and has another name: then it is of another log with the same number.
    """
    if log.ended_ns is not None and entry.offset < (log.offset or 0):
        return False
    later_ns = entry.changed_ns - _since_ns(entry, log)
    if later_ns < 0 or (later_ns == 0 and entry.name is not None and entry.name not in log.names):
        return False
    return entry.offset <= max(log.size, log.inode.size)


def _since_ns(entry: Entry, log: Log) -> int:
    """Return since when an entry can be of a log."""
    return max(log.born_ns, log.names[entry.identifier]) if isinstance(entry.identifier, str) else log.born_ns
