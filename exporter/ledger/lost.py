"""The lost inodes: known ones without a known name, remembered because they may appear under another name."""

from __future__ import annotations

from exporter.ledger.inodes import Identity, Inode

LOST_INODES = 10_000
"""How many lost inodes are remembered."""
_LONG_AGO = -(1 << 64)  # nanoseconds; before every time that a file can have


class LostInodes:
    """Remembers inodes without a name, and all restored inodes until the end of restoring.

    Attributes:
        forgotten_ns: the latest birth of a forgotten inode. If such an inode comes back, it must not count from its
            first byte again.
        is_restoring: whether the limit is off, until :meth:`end_restoring`.
    """

    def __init__(self) -> None:
        self.forgotten_ns = _LONG_AGO
        self._inodes: dict[Identity, Inode] = {}  # the longest lost first
        self._restored: dict[tuple[int, int, str], Inode] = {}  # by number, birth and last name
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
        _, number, birth_ns = inode.identity
        if birth_ns:
            self._restored[number, birth_ns, inode.last_name] = inode

    def find_restored(self, identity: Identity, name: str) -> Inode | None:
        """Return the restored inode with this number, birth and last name, whatever its device number.

        A device may have another number after a reboot. The name must match too, because a snapshot or backup may have
        inodes with equal numbers and births, but under other names.
        """
        inode = self._restored.get((*identity[1:], name)) if self._restored else None
        return inode if inode is not None and inode in self else None

    def end_restoring(self) -> None:
        """Apply the limit :data:`LOST_INODES` from now on; :meth:`pop_surplus` returns the inodes beyond it."""
        self.is_restoring = False
        self._restored.clear()

    def discard(self, inode: Inode) -> None:
        """Stop remembering an inode, because it has a name again or was replaced by another record."""
        self._inodes.pop(inode.identity, None)

    def pop_surplus(self) -> Inode | None:
        """Forget the longest lost inode if there are too many, and return it."""
        if self.is_restoring or len(self._inodes) <= LOST_INODES:
            return None
        inode = self._inodes.pop(next(iter(self._inodes)))
        self.forgotten_ns = max(self.forgotten_ns, inode.identity[2])
        return inode
