"""What readers get from the facts: counters, their increments, and the paths and inodes that have changed."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from exporter.ledger.records import Inode, Path


class Counting(Protocol):
    """An object with the four counters."""

    changes: int
    appended_bytes: int
    truncations: int
    rotations: int


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of a path or of totals, to be restored after a restart."""

    changes: int
    appended_bytes: int
    truncations: int
    rotations: int

    @classmethod
    def of(cls, counting: Counting) -> Counters:
        """Copy the counters of an object."""
        return cls(counting.changes, counting.appended_bytes, counting.truncations, counting.rotations)

    def add_to(self, counting: Counting) -> None:
        """Add these counters to those of an object."""
        counting.changes += self.changes
        counting.appended_bytes += self.appended_bytes
        counting.truncations += self.truncations
        counting.rotations += self.rotations


@dataclass(slots=True, eq=False)
class Booking:
    """How much the numbers of a path have changed since a reader last took its bookings.

    Attributes:
        changes, appended_bytes, truncations, rotations: increments of the counters.
        size_bytes: change of the size that counts for the path; an inode counts for one path of each realm.
    """

    size_bytes: int = 0
    changes: int = 0
    appended_bytes: int = 0
    truncations: int = 0
    rotations: int = 0


Bookings = dict[Path, Booking]
"""Path -> booking, ordered by first change; a booking of zeros means that something else of the path has changed."""


@dataclass(slots=True, eq=False)
class InodeBooking:
    """What happened to an inode since a reader last took its bookings.

    Attributes:
        size: its size when the booking began, bytes.
        is_new: whether it began to count from its first byte.
        later_homes: those that count it from its first byte too, but came later than another one.
        cuts: of each truncation up to where there was data before.
        replaces: the record of the same inode before, which had another identity.
    """

    size: int
    is_new: bool = False
    later_homes: list[Path] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    replaces: Inode | None = None


class InodeBookings(dict[Inode, InodeBooking]):
    """Inode -> booking, ordered by first change. Any change of an inode adds one: also another name, or its end.

    Attributes:
        changed: set when a booking is added.
    """

    def __init__(self) -> None:
        self.changed = threading.Event()

    def of(self, inode: Inode) -> InodeBooking:
        """Return the booking of an inode; add it if there is none."""
        booking = self.get(inode)
        if booking is None:
            booking = self[inode] = InodeBooking(inode.size)
            self.changed.set()
        return booking


@dataclass(slots=True, eq=False)
class Journal:
    """The paths and inodes that have changed since the state was saved last, and those with a new handle."""

    paths: set[Path] = field(default_factory=set)
    inodes: set[Inode] = field(default_factory=set)
    handles: set[Inode] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.paths or self.inodes or self.handles)

    def merge(self, other: Journal) -> None:
        """Add the entries of another journal."""
        self.paths |= other.paths
        self.inodes |= other.inodes
        self.handles |= other.handles


class Books:
    """Books changes, separately for each reader. The caller holds the facts' lock.

    Attributes:
        readers: the bookings of each reader, until it takes them.
        inode_readers: the bookings of inodes for each of their readers, until it takes them.
        departed: set when a name leaves an inode, when an inode is truncated, and when it has ended.
        journal: changes that the state must save; None while no state is saved.
    """

    def __init__(self) -> None:
        self.readers: list[Bookings] = []
        self.inode_readers: list[InodeBookings] = []
        self.departed = threading.Event()
        self.journal: Journal | None = None

    def book(
        self,
        path: Path,
        *,
        changes: int = 0,
        appended_bytes: int = 0,
        truncations: int = 0,
        rotations: int = 0,
        size_bytes: int = 0,
    ) -> None:
        """Add to the counters and the counted size of a path, and note that the path has changed."""
        path.changes += changes
        path.appended_bytes += appended_bytes
        path.truncations += truncations
        path.rotations += rotations
        for bookings in self.readers:
            booking = bookings.get(path)
            if booking is None:
                booking = bookings[path] = Booking()
            booking.changes += changes
            booking.appended_bytes += appended_bytes
            booking.truncations += truncations
            booking.rotations += rotations
            booking.size_bytes += size_bytes
        if self.journal is not None:
            self.journal.paths.add(path)

    def note_inode(self, inode: Inode, *, is_new: bool = False, replaces: Inode | None = None) -> None:
        """Note that an inode has changed, or was forgotten.

        Args:
            inode: the inode.
            is_new: whether its latest home counts it from its first byte.
            replaces: see :class:`InodeBooking`.
        """
        if self.journal is not None:
            self.journal.inodes.add(inode)
        for bookings in self.inode_readers:
            booking = bookings.of(inode)
            if is_new and len(inode.homes) > 1:
                booking.later_homes.append(inode.homes[-1])
            booking.is_new |= is_new and len(inode.homes) == 1
            booking.replaces = replaces or booking.replaces

    def note_departure(self, inode: Inode, *, cut: int | None = None) -> None:
        """Note that a name has left an inode, or that it was truncated or has ended.

        Args:
            inode: the inode.
            cut: up to where there was data before the truncation; None: it was not truncated.
        """
        self.note_inode(inode)
        if cut is not None:
            for bookings in self.inode_readers:
                bookings.of(inode).cuts.append(cut)
        self.departed.set()

    def read_inodes(self, bookings: InodeBookings, inodes: Iterable[Inode]) -> None:
        """Register a reader of inodes, unless it is one, and add these inodes to its bookings."""
        self.discard(bookings)
        self.inode_readers.append(bookings)
        for inode in inodes:
            bookings.of(inode)

    def discard(self, bookings: Bookings | InodeBookings) -> None:
        """Unregister a reader."""
        self.readers = [each for each in self.readers if each is not bookings]
        self.inode_readers = [each for each in self.inode_readers if each is not bookings]
