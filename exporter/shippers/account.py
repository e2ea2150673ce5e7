"""What one shipper has read, not read yet, and lost, by group. Pure: no I/O, no clock.

The facts say what was written, by inode; the shipper's state says how far it has read. A state is read before the facts
are brought up to date, so an offset that is beyond a log's size is of another log.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

from exporter.ledger.books import InodeBooking
from exporter.ledger.facts import Facts
from exporter.ledger.records import Inode, Path
from exporter.shippers.logs import HELD, NEVER_NS, UNCLAIMED, Entry, Key, Log, Shown
from exporter.shippers.matching import Matching, StateRead, fits
from exporter.shippers.positions import Fingerprint

LEAVES_NS = 600 * 10**9
"""How long a log is still expected to be read after its path's position has passed to another log, or without a name.
"""
_ALWAYS_NS = -(1 << 63)


@dataclass(slots=True, eq=False)
class Sums:
    """The numbers of a group or an aggregate.

    Attributes:
        read, lost, unaccounted: counters, bytes.
        unread, unclaimed: bytes now.
        files: how many logs are in each state.
    """

    read: int = 0
    lost: int = 0
    unaccounted: int = 0
    unread: int = 0
    unclaimed: int = 0
    files: Counter[str] = field(default_factory=Counter)


class Account:
    """Keeps the logs of one shipper. The caller holds the facts' lock.

    Args:
        facts: what is known of files.
        homes_of: returns the homes of an inode that the shipper is meant to read.
        keys_of: returns in which sums the bytes of a home count; None: as before, because it is not published any more.
        moment_of: see :class:`exporter.ledger.facts.Facts`.
        flush_ns: how late the shipper's positions are.
        quiet_ns: see :meth:`Log.grow`.
        is_complete: whether every log must have a position.
        is_saved: whether something saves what has changed, and takes it.

    Attributes:
        logs: the logs that it may read.
        sums: the numbers by group, aggregate and file.
        matching: finds the logs of the state's entries.
        known: the names of logs that have or had a position.
        unsaved: the logs that have changed since they were saved.
        changed: the files whose sums have changed since a reader cleared this.
    """

    def __init__(
        self,
        facts: Facts,
        homes_of: Callable[[Inode], list[Path]],
        keys_of: Callable[[Path], tuple[Key, ...] | None],
        *,
        moment_of: Callable[[int], int | None] = lambda time_ns: time_ns,
        flush_ns: int,
        quiet_ns: int = 0,
        is_complete: bool = False,
        is_saved: bool = True,
    ) -> None:
        self.logs: dict[Inode, Log] = {}
        self.sums: defaultdict[Key, Sums] = defaultdict(Sums)
        self.matching = Matching(self._pass_on)
        self.known: set[str] = set()
        self.unsaved: set[Log] = set()
        self.changed: set[Path] = set()
        self._facts = facts
        self._homes_of = homes_of
        self._keys_of = keys_of
        self._moment_of = moment_of
        self._flush_ns = flush_ns
        self._quiet_ns = quiet_ns
        self._is_complete = is_complete
        self._is_saved = is_saved
        # Those that change with time, because they have unread bytes, are about to leave, or have ended -> the moment
        # from which on an update must bring them up to date.
        self._waiting: dict[Log, int] = {}
        self._rested_ns = 0
        self._updated_ns = 0

    def update(self, now_ns: int, bookings: Mapping[Inode, InodeBooking], state: StateRead | None) -> None:
        """Bring everything up to date.

        Args:
            now_ns: a moment before the facts were brought up to date.
            bookings: what happened to inodes since the last call.
            state: the state as it was read before that; None: it could not be read.
        """
        is_steady = state is not None and state.is_current and state.is_whole
        for log in self._touch(now_ns, bookings, state, is_steady=is_steady):
            before = log.offset, log.counted, log.size, log.has_left, log.points[-1:]
            self._advance(log, bookings.get(log.inode), now_ns, state)
            if before != (log.offset, log.counted, log.size, log.has_left, log.points[-1:]):
                self.unsaved.add(log)
        self.matching.changed.clear()
        if state is not None and is_steady:
            self._rested_ns = state.read_ns
        self._updated_ns = now_ns
        if not self._is_saved:
            self.unsaved.clear()
        if len(self.known) > 2 * len(self._facts.paths):
            self.known.intersection_update(self._facts.paths)

    def _touch(
        self, now_ns: int, bookings: Mapping[Inode, InodeBooking], state: StateRead | None, *, is_steady: bool
    ) -> dict[Log, None]:
        """Return the logs to advance: those with bookings, those that the state shows otherwise, and those awake."""
        touched: dict[Log, None] = {}
        for inode, booking in bookings.items():
            log = self._find(inode, booking)
            if log is not None:
                touched[log] = None
                if booking.cuts:
                    self._wake(log)
                    log.grow(max(log.size, booking.cuts[0]), now_ns)
        if state is not None:
            touched |= dict.fromkeys(self.matching.take(state))
        for log, from_ns in self._waiting.items():
            if from_ns <= now_ns or not is_steady or log in touched or log in self.matching.changed:
                self._wake(log)
        if state is not None:
            for log in [log for log, from_ns in self._waiting.items() if not from_ns]:
                if not log.is_shown and log.offset is not None and not log.has_left:
                    self.matching.confirm(log, state)
        return touched | dict.fromkeys([log for log, from_ns in self._waiting.items() if not from_ns])

    def continue_from(self, before: Account) -> None:
        """Continue the counters of an account that this one replaces."""
        for key, sums in before.sums.items():
            if not isinstance(key, Path):
                mine = self.sums[key]
                mine.read, mine.lost, mine.unaccounted = sums.read, sums.lost, sums.unaccounted

    def oldest_ns(self, now_ns: int) -> dict[Key, int]:
        """Return how old the oldest unread byte of each sum is at least, without those that are held."""
        oldest: dict[Key, int] = {}
        for log in self._waiting:
            shown = log.shown
            if shown is not None and shown.since_ns is not None and shown.state not in ("", HELD):
                for key in shown.keys:
                    oldest[key] = max(oldest.get(key, 0), now_ns - shown.since_ns)
        return oldest

    def to_examine(self) -> list[Log]:
        """Return the logs that must be searched for the end of a line, see :meth:`examine`."""
        waiting = [log for log, from_ns in self._waiting.items() if not from_ns]
        return [log for log in waiting if log.needs_look and log.ended_ns is None]

    def examine(self, log: Log, data: bytes) -> None:
        """Search bytes of a log for the end of a line; `data` are those from its `begin` to its `size`."""
        log.search(data, is_quiet=bool(self._quiet_ns))
        self._show(log, self._updated_ns)

    def identify(self, log: Log, fingerprints: Iterable[Fingerprint]) -> None:
        """Set what a log may be called in the state."""
        self.matching.identify(log, fingerprints)

    # -- logs ---------------------------------------------------------------------------------------------------------

    def _find(self, inode: Inode, booking: InodeBooking) -> Log | None:
        """Return the log of an inode; make it if the shipper is meant to read it."""
        if booking.replaces is not None and (log := self.logs.pop(booking.replaces, None)) is not None:
            self.matching.discard(log)
            log.inode = inode
            self.add(log)
        log = self.logs.get(inode)
        if log is not None:
            self.matching.add(log, self._updated_ns + 1)
            return log
        homes = self._homes_of(inode)
        inodes = self._facts.inodes
        is_there = inodes.get(inode.identity) is inode and (inode.names or inode.identity in inodes.deleted)
        if not homes or not (is_there or booking.is_new):  # it has ended before, perhaps while no agent ran
            return None
        is_new, size = booking.is_new, max([self._size_of(inode), *booking.cuts[:1]])
        born_ns = self._moment_of(inode.identity[2]) if inode.identity[2] else None
        if born_ns is None:
            born_ns = self._updated_ns if is_new else _ALWAYS_NS
        log = Log(inode, born_ns, 0 if is_new else size, counted=0 if is_new else None)
        if not is_new and (moment_ns := self._moment_of(inode.mtime_ns)) is not None:
            log.points = [(max(moment_ns, born_ns), size)]  # the last byte was written then, or was here before
        if self._is_complete:
            log.offset = 0
        elif any(home.name in self.known for home in homes):
            log.offset = log.counted = log.begin = log.size
        self.add(log)
        return log

    def add(self, log: Log) -> None:
        """Add a log."""
        self.logs[log.inode] = log
        if log.offset is not None:
            self.known.update(home.name for home in self._homes_of(log.inode))
            self._wake(log)
        self.unsaved.add(log)
        self.matching.add(log, self._updated_ns + 1)

    def _drop(self, log: Log) -> None:
        self._hide(log)
        del self.logs[log.inode]
        self.matching.discard(log)
        self._waiting.pop(log, None)
        self.unsaved.add(log)

    def _size_of(self, inode: Inode) -> int:
        return min(inode.size, self._facts.inodes.offsets.get(inode.identity, inode.size))

    def _advance(self, log: Log, booking: InodeBooking | None, now_ns: int, state: StateRead | None) -> None:
        """Bring a log up to date: first its position, then what happened to it since the state was read."""
        inode = log.inode
        homes = self._homes_of(inode)
        if not homes:
            self._drop(log)
            return
        keys = [found for home in homes if (found := self._keys_of(home)) is not None]
        if len(keys) == len(homes):
            log.keys = tuple(chain.from_iterable(keys))
        elif not log.keys:
            log.keys = tuple([(home.realm, ()) for home in homes])
        if any(home.name in inode.names for home in homes):
            log.away_ns = None
        elif log.away_ns is None:
            log.away_ns = max(self._updated_ns + 1, log.born_ns)
        if state is not None:
            self._read(log, state, is_cut=booking is not None and bool(booking.cuts))
        else:
            log.rests_since_ns, log.rested_ns = None, 0
        for size in booking.cuts if booking is not None else ():
            log.grow(max(log.size, size), now_ns)
            self._settle(log)
            log.restart(0, 0)
            log.born_ns, log.moved_ns = self._updated_ns + 1, now_ns
        self._grow(log, now_ns)
        if self._facts.inodes.get(inode.identity) is not inode:
            log.ended_ns = now_ns if log.ended_ns is None else log.ended_ns
            if self._is_decided(log, now_ns, state):
                self._settle(log)
                self._drop(log)
                return
        elif inode.names or inode.identity in self._facts.inodes.deleted:
            log.nameless_ns = None
        else:
            log.nameless_ns = now_ns if log.nameless_ns is None else log.nameless_ns
            if now_ns - log.nameless_ns > LEAVES_NS and not log.has_left:
                self._leave(log, is_lost=False)  # it may exist, where nothing can tell what happens to it
        self._show(log, now_ns)

    def _read(self, log: Log, state: StateRead, *, is_cut: bool) -> None:
        """Apply the positions that the state shows of a log; `is_cut`: it was truncated since the last update."""
        offsets = {entry.offset: entry.changed_ns for entry in log.entries if fits(entry, log)}
        if state.changed_ns >= log.until_ns:  # what is not beyond the offset may be of the next log with its number
            offsets = {offset: changed_ns for offset, changed_ns in offsets.items() if offset > (log.offset or 0)}
        if offsets:
            offset = min(offsets)
            read = log.show(offset, state.read_ns, offsets[offset], self._quiet_ns)
            for key in log.keys:
                self.sums[key].read += read
        else:
            log.lower = None
        was_claimed, log.is_shown = log.is_claimed, bool(offsets)
        log.is_claimed = bool(log.entries) or (was_claimed and not state.is_whole)
        log.is_missed = not log.is_claimed and (was_claimed or log.is_missed)
        is_forgotten = not log.is_claimed and not self._is_at_known_path(log)
        # It may have been read to its end, and nothing shows it.
        is_unseen = log.away_ns is not None and state.is_whole and state.changed_ns >= log.away_ns
        is_over = log.passed_ns is not None or (is_unseen and not self._has_rested(log))
        if offsets:
            is_resting = min(offsets) == log.offset
        elif log.entries:  # an entry from before a truncation rests until the shipper notices that
            is_resting = log.ended_ns is None and all(entry.changed_ns < log.born_ns for entry in log.entries)
        else:
            is_resting = not log.is_claimed and not log.is_missed and not is_over
        if is_resting and state.is_current:
            if not is_cut or state.changed_ns <= self._updated_ns:  # else it may have returned to the same offset
                log.note_rest(state.read_ns)
        elif log.is_claimed or not state.is_current or (log.is_missed and not is_forgotten):
            log.rests_since_ns, log.rested_ns = None, 0
        if log.has_left or log.ended_ns is not None:
            return
        if log.is_claimed:
            is_over = log.passed_ns is not None and state.read_ns - max(log.passed_ns, log.moved_ns) > LEAVES_NS
        if (is_over and (log.is_claimed or is_forgotten)) or (was_claimed and is_forgotten):
            self._leave(log)

    def _grow(self, log: Log, now_ns: int) -> None:
        """Note what was written. The last write is not before the first; a time that cannot be shows nothing."""
        size = self._size_of(log.inode)
        moment_ns = self._moment_of(log.inode.mtime_ns)
        if moment_ns is None or not self._updated_ns <= moment_ns < now_ns:
            moment_ns = now_ns
        log.grow(size, moment_ns, self._quiet_ns)
        if log.has_left:
            self._settle(log)

    def _leave(self, log: Log, *, is_lost: bool = True) -> None:
        """Settle what the shipper has not read of a log. While its path is known, what comes is expected to be read."""
        self._settle(log, is_lost=is_lost)
        log.passed_ns = None
        if self._is_at_known_path(log):
            log.restart(log.size, log.size)
        else:
            log.has_left = True

    def _settle(self, log: Log, *, is_lost: bool = True) -> None:
        settled = log.settle(is_lost=is_lost and self._has_rested(log))
        for key in log.keys:
            self.sums[key].lost += settled.lost
            self.sums[key].unaccounted += settled.unaccounted

    def _has_rested(self, log: Log) -> bool:
        return 0 < log.rested_ns >= self._flush_ns

    def _is_decided(self, log: Log, now_ns: int, state: StateRead | None) -> bool:
        """Return whether nothing more can become known of a log that does not exist any more."""
        assert log.ended_ns is not None
        if not log.rest or not log.is_due or self._has_rested(log):
            return True
        if now_ns - log.ended_ns > LEAVES_NS + self._flush_ns:
            return True
        if log.entries:  # while its entry stays, it may still show that more was read
            return not log.is_shown
        if state is None or not state.is_whole or log.is_claimed:
            return False
        return state.changed_ns >= log.born_ns

    def _is_at_known_path(self, log: Log) -> bool:
        """Return whether a path leads to a log whose logs the shipper reads, whatever its state shows just now."""
        return any(home.name in self.known and home.name in log.inode.names for home in log.inode.homes)

    def _pass_on(self, log: Log, entry: Entry) -> None:
        """Note that a log has a position now, and that older ones which had its path are not read by that path."""
        self._wake(log)
        for home in self._homes_of(log.inode):
            if entry.name in (None, home.name) or entry.name not in self._facts.paths:
                self.known.add(home.name)
            for other in self.matching.logs.get(home.name, ()):
                is_older = other is not log and other.born_ns <= log.born_ns
                if is_older and other.passed_ns is None and home.name not in other.inode.names:
                    other.passed_ns = self._updated_ns
                    self._wake(other)

    # -- sums ---------------------------------------------------------------------------------------------------------

    def _show(self, log: Log, now_ns: int) -> None:
        """Have the sums contain a log as it is at a moment."""
        is_there = any([name in self._facts.paths for name in log.inode.names])  # noqa: C419 - one call less
        state = log.state(now_ns, self._flush_ns)
        unread, unclaimed = log.unread, log.size if state == UNCLAIMED and is_there else 0
        if log.ended_ns is not None or log.has_left or not (is_there or unread):
            state = ""
        shown = Shown(log.keys, state, unread, unclaimed, log.since_ns)
        if shown != log.shown:
            self._hide(log)
            log.shown = shown
            self._count(shown, 1)
        if unread and log.is_resting:
            turns_ns = log.turns_ns(self._flush_ns)
            self._waiting[log] = turns_ns + 1 if turns_ns >= now_ns else NEVER_NS
        elif (
            unread
            or log.lower is not None
            or log.is_presumed
            or (log.passed_ns, log.ended_ns, log.nameless_ns) != (None, None, None)
        ):
            self._waiting[log] = 0
        else:
            self._waiting.pop(log, None)

    def _wake(self, log: Log) -> None:
        """Have a log be brought up to date at the next update, or at this one."""
        if self._waiting.get(log):
            log.note_rest(self._rested_ns)
        self._waiting[log] = 0

    def _hide(self, log: Log) -> None:
        """Take a log out of the sums."""
        if log.shown is not None:
            self._count(log.shown, -1)
            log.shown = None

    def _count(self, shown: Shown, sign: int) -> None:
        for key in shown.keys:
            if isinstance(key, Path):
                self.changed.add(key)
            sums = self.sums[key]
            sums.unread += sign * shown.unread
            sums.unclaimed += sign * shown.unclaimed
            if shown.state:
                sums.files[shown.state] += sign
