"""One log as one shipper reads it: how much was read, is unread, and was lost. Pure: no I/O, no clock.

Moments are nanoseconds of one monotonic clock.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.ledger.records import Inode, Path
from exporter.shippers.positions import Fingerprint, Position

MOST_POINTS = 8
"""Of how many moments a log remembers up to where it had grown."""
SHORT_BYTES = 16_384
"""Up to how many unread bytes may be an unfinished line, which shippers do not read."""
HELD_NS = 60 * 10**9
"""How old an unfinished line is before it counts as held, and how late positions may be beyond `flush_interval`."""

NEVER_NS = 1 << 63
"""A moment that never comes."""

READ, BEHIND, HELD, UNCLAIMED = STATES = ("read", "behind", "held", "unclaimed")
"""The states of a log: read up to the end or nearly; behind; unread bytes that the shipper does not read or report; no
position."""


Identifier = int | Fingerprint | str
"""What entries call a log: its inode number, else the fingerprint of its first bytes, else its path."""
Key = tuple[int, tuple[str, ...]] | Path
"""Of sums: a file; or a realm and the label values of an aggregate, without values the whole group."""


class Settled(NamedTuple):
    """What became of bytes that the shipper cannot read any more."""

    lost: int = 0
    unaccounted: int = 0


@dataclass(slots=True, eq=False)
class Entry:
    """An entry of a shipper's state.

    Attributes:
        file: the name of the state file that contains it.
        position: what identifies the log, with offset 0.
        name: the path of the log as the facts know it; None: it has none.
        identifier: what it calls the log.
        offsets: of all positions that say the same of the log, and how many say so.
        changed_ns: a moment at or after which none of its offsets has changed.
        log: the log that it is of, as far as known.
    """

    file: str
    position: Position
    name: str | None
    identifier: Identifier
    offsets: Counter[int] = field(default_factory=Counter)
    changed_ns: int = 0
    log: Log | None = None

    @property
    def offset(self) -> int:
        """The least of its offsets."""
        return min(self.offsets)


@dataclass(slots=True, eq=False)
class Log:
    """One log as one shipper reads it.

    Attributes:
        inode: the log, whatever its names are.
        born_ns: a moment that is not after its birth, or its latest truncation; what is older is of another log.
        until_ns: a moment that is not after the birth of another log with the same inode number.
        size: up to where bytes are known, bytes.
        offset: up to where the shipper has read; None: it has no position.
        counted: up to where bytes count as read, lost or unaccounted; None: up to the first position, which follows.
        begin: before it, no unread byte is one that the shipper should read or report: an unfinished line, for one.
        has_line: whether a line is known to end between `begin` and `size`.
        names: each path that leads or led to it, and a moment that is not after it began to.
        fingerprints: what it may be called in the state.
        entries: the entries of the state that are of it.
        points: moments and the sizes that it had reached by then, for the bytes beyond `offset`.
        rests_since_ns: when the state first showed the present offset while more should have been read; None: it did
            not yet.
        rested_ns: for how long it has shown that.
        moved_ns: a moment that is not before the offset's last move, as far as known.
        passed_ns: since when another log has had a position by its path; None: none has.
        away_ns: a moment that is not after it was renamed away from its home, or deleted; None: it was not.
        nameless_ns: since when no path has led to it; None: one does.
        ended_ns: since when it does not exist any more; None: it does.
        has_left: whether the shipper is not expected to read it any more.
        is_claimed: whether it had an entry when it was brought up to date last.
        is_missed: whether it had an entry before: what has been read since then is unknown.
        is_shown: whether an entry told its offset then.
        lower: an offset below the present one that the state has shown once; None: the last state did not.
        keys: the sums that it counts in.
        shown: what these sums contain of it.
    """

    inode: Inode
    born_ns: int
    size: int
    offset: int | None = None
    counted: int | None = None
    begin: int = 0
    has_line: bool = False
    until_ns: int = NEVER_NS
    names: dict[str, int] = field(default_factory=dict)
    fingerprints: set[Fingerprint] = field(default_factory=set)
    entries: set[Entry] = field(default_factory=set)
    points: list[tuple[int, int]] = field(default_factory=list)
    rests_since_ns: int | None = None
    rested_ns: int = 0
    moved_ns: int = 0
    passed_ns: int | None = None
    away_ns: int | None = None
    nameless_ns: int | None = None
    ended_ns: int | None = None
    has_left: bool = False
    is_claimed: bool = False
    is_missed: bool = False
    is_shown: bool = False
    lower: int | None = None
    keys: tuple[Key, ...] = ()
    shown: Shown | None = None

    @property
    def unread(self) -> int:
        """How many bytes are expected to be read; 0 without a position."""
        return 0 if self.offset is None or self.has_left else max(0, self.size - self.offset)

    @property
    def rest(self) -> int:
        """How many bytes are neither read nor counted otherwise; 0 without a position."""
        return 0 if self.offset is None else max(0, self.size - max(self.offset, self.counted or 0))

    @property
    def is_presumed(self) -> bool:
        """Whether its offset is not one that a state has shown, but where reading is expected to begin."""
        return self.offset is not None and not self.entries and not self.moved_ns and not self.has_left

    @property
    def is_resting(self) -> bool:
        """Whether nothing changes it but time, a change of its own or of its entries, or a state that was not read."""
        return (
            bool(self.entries)
            and self.is_shown
            and self.lower is None
            and self.until_ns == NEVER_NS
            and not (self.has_left or self.needs_look)
            and (self.passed_ns, self.away_ns, self.nameless_ns, self.ended_ns) == (None, None, None, None)
            and (self.rests_since_ns is not None or not self.is_due)
        )

    @property
    def is_due(self) -> bool:
        """Whether unread bytes should be read, because a line ends in them. It does in more than SHORT_BYTES."""
        return self.unread > 0 and (self.has_line or self.size - self.begin > SHORT_BYTES)

    @property
    def needs_look(self) -> bool:
        """Whether the bytes from `begin` to `size` must be searched for the end of a line."""
        return self.unread > 0 and not self.has_line and 0 < self.size - self.begin <= SHORT_BYTES

    def grow(self, size: int, moment_ns: int, quiet_ns: int = 0) -> None:
        """Note a size.

        Args:
            size: bytes.
            moment_ns: a moment that is not before that of the first new byte.
            quiet_ns: how long after a move of the offset what comes is not reported, until the next line.
        """
        if size > max(self.size, self.offset or 0):  # the offset may be of a state that was read just before
            self.points.append((moment_ns, size))
            if len(self.points) > MOST_POINTS:
                self._forget_point()
            if quiet_ns and moment_ns <= self.moved_ns + quiet_ns:
                self.begin = size
        self.size = size

    def _forget_point(self) -> None:
        """Forget a point, whose bytes then count as younger: the one for which that matters least at their age.

        The first stays, else a log that grows for long would never seem old.
        """
        moments = [moment_ns for moment_ns, _ in self.points]
        errors = [
            (later_ns - before_ns) / (moments[-1] - before_ns + 1)
            for before_ns, later_ns in zip(moments, moments[2:], strict=False)
        ]
        del self.points[1 + errors.index(min(errors))]

    def search(self, data: bytes, *, is_quiet: bool) -> None:
        """Search the bytes from `begin` to `size` for the end of a line.

        Args:
            data: these bytes.
            is_quiet: whether the shipper reports some lines only with the next one. Then only the moment of the last
                byte is known to be that of a line.
        """
        self.has_line = data.endswith(b"\n") if is_quiet else b"\n" in data
        if not self.has_line:
            self.begin = self.size

    def show(self, offset: int, read_ns: int, moved_ns: int, quiet_ns: int = 0) -> int:
        """Note the offset that a state shows; return how many bytes were read anew.

        An offset below the present one is believed when two states in a row show it.

        Args:
            offset: bytes.
            read_ns: when the state was read.
            moved_ns: a moment that is not before it last changed.
            quiet_ns: see :meth:`grow`.
        """
        known = self.offset
        if offset == known and (self.moved_ns or self.has_left):
            self.moved_ns = self.moved_ns or moved_ns
            self.lower = None
            return 0
        if known is not None and offset < known and self.lower is None:
            self.lower = offset
            return 0
        self.lower = None
        self.offset, self.moved_ns, self.has_left = offset, moved_ns, False
        self.rests_since_ns, self.rested_ns, self.has_line = None, 0, False
        self.begin = offset if known is not None and offset < known else max(self.begin, offset)
        self.points = [point for point in self.points if point[1] > offset]
        if not self.points and offset < self.size:
            self.points = [(read_ns, self.size)]
        for moment_ns, size in self.points:
            if quiet_ns and moment_ns <= moved_ns + quiet_ns:
                self.begin = size
        counted = offset if self.counted is None else self.counted
        self.counted = max(counted, offset)
        return self.counted - counted

    def note_rest(self, read_ns: int) -> None:
        """Note that a state was read, after :meth:`show`, and before :meth:`grow` notes what was written meanwhile."""
        if self.is_due:
            if self.rests_since_ns is None:
                self.rests_since_ns = read_ns
            self.rested_ns = read_ns - self.rests_since_ns

    def settle(self, *, is_lost: bool) -> Settled:
        """Count the rest as lost or unaccounted. An unfinished line is never lost."""
        rest, is_lost = self.rest, is_lost and self.is_due
        if self.offset is not None:
            self.counted = self.size
        self.points, self.rests_since_ns, self.rested_ns = [], None, 0
        return Settled(rest, 0) if is_lost else Settled(0, rest)

    def restart(self, offset: int, size: int) -> None:
        """Expect what comes to be read; call :meth:`settle` first.

        Args:
            offset: from where, bytes.
            size: the present one, bytes.
        """
        self.offset = None if self.offset is None else offset
        self.size = self.counted = self.begin = size
        self.has_line, self.has_left, self.lower = False, False, None

    @property
    def since_ns(self) -> int | None:
        """A moment not before the write of the oldest unread byte, after `begin` if it is due; None: all is read."""
        begin = self.begin if self.is_due else 0
        return next((moment_ns for moment_ns, size in self.points if size > begin), None) if self.unread else None

    def turns_ns(self, flush_ns: int) -> int:
        """Return until when it counts as read if only time passes: see :meth:`state`."""
        since_ns = self.since_ns
        return NEVER_NS if since_ns is None else since_ns + HELD_NS + (flush_ns if self.is_due else 0)

    def state(self, now_ns: int, flush_ns: int) -> str:
        """Return its state.

        Args:
            now_ns: the present moment.
            flush_ns: how late positions are.
        """
        if self.offset is None:
            return UNCLAIMED
        if now_ns <= self.turns_ns(flush_ns):
            return READ
        return BEHIND if self.is_due else HELD


class Shown(NamedTuple):
    """What the sums contain of a log; no state: it does not count as a log. `since_ns`: see :class:`Log`."""

    keys: tuple[Key, ...]
    state: str
    unread: int
    unclaimed: int
    since_ns: int | None
