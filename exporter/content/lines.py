"""How many newlines were appended, and how far each inode was read. Pure: no I/O, no clock.

The facts say how far an inode has data, and where it was truncated. So lines count where its bytes count: in each group
for the inode's home, from the first byte of a new file, from the size of one that is first seen.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from exporter.ledger.books import InodeBooking
from exporter.ledger.facts import Facts
from exporter.ledger.records import Content, Inode, Path

MOST_FAILURES = 10
"""How often in a row a file may fail to open before what it has is skipped. A name may be on its way to another place.
"""


@dataclass(slots=True, eq=False)
class Tail:
    """An inode, and how far it was read.

    Attributes:
        inode: the inode.
        offset: what is before it was read, or does not count.
        size: up to where there is data, as far as known.
        is_trusted: whether it was opened by a name; only then it is read without one.
        lines: how many newlines are before the offset; None: unknown.
        restarts: how often it was truncated; what was read before a truncation does not count after it.
        failures: how often in a row it could not be opened.
    """

    inode: Inode
    offset: int
    size: int
    is_trusted: bool = False
    lines: int | None = None
    restarts: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """What is to be read of a tail, unless it restarts: `most_bytes` from `begin` on, not beyond `size`."""

    tail: Tail
    restarts: int
    begin: int
    size: int
    most_bytes: int


class Lines:
    """Counts the lines of the inodes in some groups. The caller holds the facts' lock.

    Args:
        facts: have the inodes.

    Attributes:
        realms: of the groups whose lines count.
        tails: inode -> its tail.
        counted: realm -> newlines.
        skipped: realm -> bytes that were gone before they were read, or could not be read.
    """

    def __init__(self, facts: Facts) -> None:
        self.realms: Set[int] = frozenset()
        self.tails: dict[Inode, Tail] = {}
        self.counted: Counter[int] = Counter()
        self.skipped: Counter[int] = Counter()
        self._facts = facts
        self._waiting: OrderedDict[Tail, None] = OrderedDict()  # for their turn: those with unread bytes, or not opened

    def __bool__(self) -> bool:
        """Whether there is something to read."""
        return bool(self._waiting)

    def update(self, bookings: Mapping[Inode, InodeBooking]) -> None:
        """Take over what happened to inodes since the last call."""
        for inode, booking in bookings.items():
            if booking.replaces is not None and (tail := self.tails.pop(booking.replaces, None)) is not None:
                tail.inode = inode
                self.tails[inode] = tail
        for inode, booking in bookings.items():
            tail = self._find(inode, booking)
            if tail is None:
                continue
            for end in booking.cuts:
                self._skip(tail, end)
                tail.offset = tail.lines = 0
                tail.restarts += 1
            for home in booking.later_homes:
                self._catch_up(tail, home)
            tail.size = max(tail.offset, self._size_of(inode))
            if not self._is_known(inode):
                self._skip(tail, tail.size)
                self._drop(tail)
            elif not self._homes_of(inode):
                self._drop(tail)
            else:
                self._queue(tail)

    def add(self, tail: Tail) -> None:
        """Add a restored tail."""
        self.tails[tail.inode] = tail
        self._queue(tail)

    def clear(self) -> None:
        """Forget all tails."""
        self.tails.clear()
        self._waiting.clear()

    def backlog(self) -> Counter[int]:
        """Return realm -> how many bytes are still to be read."""
        backlog: Counter[int] = Counter()
        for tail in self._waiting:
            for home in self._homes_of(tail.inode) if tail.offset < tail.size else ():
                backlog[home.realm] += tail.size - tail.offset
        return backlog

    def pieces(self, most_files: int, most_bytes: int) -> Iterator[Piece]:
        """Yield what is to be read next: first of inodes without a name, which may soon be gone.

        Args:
            most_files, most_bytes: how much at most.
        """
        for tail in [tail for _, tail in zip(range(most_files), self._waiting, strict=False)]:
            yield Piece(tail, tail.restarts, tail.offset, tail.size, most_bytes)
            most_bytes -= tail.size - tail.offset
            if most_bytes <= 0:
                return

    def book(self, piece: Piece, end: int, lines: int) -> None:
        """Book that a piece was read.

        Args:
            piece: as :meth:`pieces` gave it.
            end: up to where.
            lines: how many newlines there are.
        """
        tail = piece.tail
        if not self._is_current(piece):
            return
        tail.offset, tail.is_trusted, tail.failures = end, True, 0
        tail.lines = None if tail.lines is None else tail.lines + lines
        for home in self._homes_of(tail.inode):
            self.counted[home.realm] += lines
            content = home.content = home.content or Content()
            content.lines += lines
            content.has_lines |= home.inode is tail.inode
            self._facts.inodes.note_content(tail.inode, home)
        self._requeue(tail)

    def fail(self, piece: Piece, *, is_final: bool) -> None:
        """Book that a piece could not be read.

        Args:
            piece: as :meth:`pieces` gave it.
            is_final: whether its file cannot be read at all; else it may be readable in a moment.
        """
        tail = piece.tail
        if not self._is_current(piece):
            return
        tail.failures += 1
        if is_final or tail.failures > MOST_FAILURES:
            self._skip(tail, tail.size)
            tail.offset, tail.lines = tail.size, None
            for home in self._homes_of(tail.inode):
                if home.content is not None and home.inode is tail.inode and tail.inode.names:
                    home.content.has_lines = False
                self._facts.inodes.note_content(tail.inode, home)
            self._waiting.pop(tail, None)  # until it grows
        else:
            self._requeue(tail)

    # -- tails --------------------------------------------------------------------------------------------------------

    def _find(self, inode: Inode, booking: InodeBooking) -> Tail | None:
        """Return the tail of an inode; make it if its lines count."""
        tail = self.tails.get(inode)
        if tail is None and self._homes_of(inode) and (booking.is_new or self._is_known(inode)):
            is_new = booking.is_new or any(home.realm in self.realms for home in booking.later_homes)
            begin = 0 if is_new else min([booking.size, *(booking.cuts[:1] or [self._size_of(inode)])])
            tail = self.tails[inode] = Tail(inode, begin, begin, lines=0 if begin == 0 else None)
        return tail

    def _catch_up(self, tail: Tail, home: Path) -> None:
        """Count for a later home what was read before."""
        if home.realm not in self.realms:
            return
        if tail.lines is None:
            self.skipped[home.realm] += tail.offset
            return
        self.counted[home.realm] += tail.lines
        content = home.content = home.content or Content()
        content.lines += tail.lines

    def _homes_of(self, inode: Inode) -> list[Path]:
        return [home for home in inode.homes if home.realm in self.realms]

    def _size_of(self, inode: Inode) -> int:
        return min(inode.size, self._facts.inodes.offsets.get(inode.identity, inode.size))

    def _is_known(self, inode: Inode) -> bool:
        return self._facts.inodes.get(inode.identity) is inode

    def _is_current(self, piece: Piece) -> bool:
        tail = piece.tail
        return self.tails.get(tail.inode) is tail and tail.restarts == piece.restarts

    def _skip(self, tail: Tail, end: int) -> None:
        for home in self._homes_of(tail.inode):
            self.skipped[home.realm] += max(0, end - tail.offset)

    def _drop(self, tail: Tail) -> None:
        del self.tails[tail.inode]
        self._waiting.pop(tail, None)

    def _queue(self, tail: Tail) -> None:
        if tail.offset < tail.size or self._is_unopened(tail):
            self._waiting[tail] = None
            if not tail.inode.names:
                self._waiting.move_to_end(tail, last=False)
        else:
            self._waiting.pop(tail, None)

    def _is_unopened(self, tail: Tail) -> bool:
        """Return whether nothing is unread, but it is still to be found out for a home whether the file can be read."""
        if tail.failures or not tail.is_trusted:
            return not tail.failures
        homes = [home for home in self._homes_of(tail.inode) if home.inode is tail.inode]
        return not all(home.content is not None and home.content.has_lines for home in homes)

    def _requeue(self, tail: Tail) -> None:
        self._queue(tail)
        if tail in self._waiting:
            self._waiting.move_to_end(tail)
