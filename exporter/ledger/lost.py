"""The lost inodes: known ones without a known name, remembered because they may appear under another name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

from exporter.ledger.records import Identity, Inode

LOST_INODES = 10_000
"""How many lost inodes are remembered."""
_LONG_AGO = -(1 << 64)  # nanoseconds; before every time that a file can have


class LostInodes:
    """Remembers inodes without a name, and all restored inodes until the end of restoring.

    Args:
        moment_of: see :class:`exporter.ledger.facts.Facts`.

    Attributes:
        forgotten_ns: the moment of the latest birth of a forgotten inode. If such an inode comes back, it must not
            count from its first byte again.
        is_restoring: whether the limit is off, until :meth:`end_restoring`.
    """

    def __init__(self, moment_of: Callable[[int], int | None]) -> None:
        self._moment_of = moment_of
        self.forgotten_ns = _LONG_AGO
        self._inodes: dict[Identity, Inode] = {}  # the longest lost first
        self._restored: dict[tuple[int, int, str], Inode] = {}  # by number, birth and place, see _place
        self._by_handle: dict[tuple[int, int, bytes], Inode] | None = None  # the restored ones by number, birth, handle
        self.is_restoring = False

    def __contains__(self, inode: Inode) -> bool:
        return inode.identity in self._inodes

    def all(self) -> list[Inode]:
        """Return the lost inodes, the longest lost first."""
        return list(self._inodes.values())

    def add(self, inode: Inode) -> Inode | None:
        """Remember an inode; return the one that is forgotten for it, if any."""
        self._inodes[inode.identity] = inode
        return self.pop_surplus()

    def restore(self, inode: Inode) -> None:
        """Remember an inode from the saved state."""
        self.is_restoring = True
        self._inodes[inode.identity] = inode
        self._restored[_place(inode.identity, inode.last_name)] = inode

    def find_restored(self, identity: Identity, name: str) -> Inode | None:
        """Return the restored inode with this number and birth, last seen in the same directory, on any device.

        A device may have another number after a reboot, and the file may have been renamed before. The directory must
        match, because a snapshot or backup may have inodes with equal numbers and births. Without births the name must
        match too, because small numbers are the same on many devices.
        """
        inode = self._restored.get(_place(identity, name)) if self._restored else None
        return inode if inode is not None and inode in self else None

    def find_by_handle(self, identity: Identity, handle: bytes, handles: Mapping[Identity, bytes]) -> Inode | None:
        """Find a restored inode by its number, birth and handle, on any device; `handles` are those of all inodes."""
        if self._by_handle is None:  # the first one after a reboot
            by_identity = self._inodes.items()
            self._by_handle = {(*old[1:], handles[old]): inode for old, inode in by_identity if old in handles}
        inode = self._by_handle.get((*identity[1:], handle))
        return inode if inode is not None and self._inodes.get(inode.identity) is inode else None

    def end_restoring(self) -> None:
        """Apply the limit :data:`LOST_INODES` from now on; :meth:`pop_surplus` returns the inodes beyond it."""
        self.is_restoring = False
        self._restored.clear()
        self._by_handle = None

    def discard(self, inode: Inode) -> None:
        """Stop remembering an inode, because it has a name again or was replaced by another record."""
        self._inodes.pop(inode.identity, None)

    def pop_surplus(self) -> Inode | None:
        """Forget the longest lost inode if there are too many, and return it."""
        if self.is_restoring or len(self._inodes) <= LOST_INODES:
            return None
        inode = self._inodes.pop(next(iter(self._inodes)))
        if (born_ns := self._moment_of(inode.identity[2])) is not None:
            self.forgotten_ns = max(self.forgotten_ns, born_ns)
        return inode


def _place(identity: Identity, name: str) -> tuple[int, int, str]:
    _, number, birth_ns = identity
    return number, birth_ns, sys.intern(os.path.dirname(name)) if birth_ns else name
