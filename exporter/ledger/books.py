"""What the facts give to their readers: counters, what they moved by, and which paths and inodes have changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from exporter.ledger.inodes import Inode, Path


class Counting(Protocol):
    """What has the four counters."""

    changes: int
    appended_bytes: int
    truncations: int
    rotations: int


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of a path or of totals, to be set again after a restart."""

    changes: int
    appended_bytes: int
    truncations: int
    rotations: int

    @classmethod
    def of(cls, counting: Counting) -> Counters:
        """Copy them."""
        return cls(counting.changes, counting.appended_bytes, counting.truncations, counting.rotations)

    def add_to(self, counting: Counting) -> None:
        """Add them to others."""
        counting.changes += self.changes
        counting.appended_bytes += self.appended_bytes
        counting.truncations += self.truncations
        counting.rotations += self.rotations


@dataclass(slots=True, eq=False)
class Booking:
    """What the counters of a path moved by since a reader took its bookings last.

    Attributes:
        changes, appended_bytes, truncations, rotations: of the counters.
        size_bytes: of the size that counts for the path; an inode counts for one path of each realm.
    """

    size_bytes: int = 0
    changes: int = 0
    appended_bytes: int = 0
    truncations: int = 0
    rotations: int = 0


Bookings = dict[Path, Booking]
"""In the order in which the paths changed first; a path without any movement changed otherwise."""


@dataclass(slots=True, eq=False)
class Journal:
    """The paths and inodes that have changed since the state was saved last."""

    paths: set[Path] = field(default_factory=set)
    inodes: set[Inode] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.paths or self.inodes)

    def merge(self, other: Journal) -> None:
        """Add what another journal has."""
        self.paths |= other.paths
        self.inodes |= other.inodes


class Books:
    """Writes down what moves, for each reader by itself. To be used with the facts' lock held.

    Attributes:
        readers: the bookings of each reader, until it takes them.
        journal: what is to be saved; None while nothing is saved.
    """

    def __init__(self) -> None:
        self.readers: list[Bookings] = []
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
        """Add to the counters of a path, and to the size that counts for it; note that it has changed in any case."""
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

    def note_inode(self, inode: Inode) -> None:
        """Note that an inode has changed, or was forgotten."""
        if self.journal is not None:
            self.journal.inodes.add(inode)
