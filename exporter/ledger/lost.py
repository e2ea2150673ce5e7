"""The inodes to which no known name leads, in case they turn up under another one."""

from __future__ import annotations

from exporter.ledger.inodes import Identity, Inode

LOST_INODES = 10_000
"""How many of them are remembered."""
_LONG_AGO = -(1 << 64)  # nanoseconds; before every time that a file can have


class LostInodes:
    """Remembers inodes that have no name, and while facts are restored all that were known before.

    Attributes:
        forgotten_ns: the latest birth among those that were forgotten. Should one of them come back, it must not count
            from its first byte again.
        is_restoring: whether there is room for all, until :meth:`end_restoring`.
    """

    def __init__(self) -> None:
        self.forgotten_ns = _LONG_AGO
        self._inodes: dict[Identity, Inode] = {}  # the longest lost first
        self._restored: dict[tuple[int, int, str], Inode] = {}  # by number, birth and last name
        self.is_restoring = False

    def __contains__(self, inode: Inode) -> bool:
        return inode.identity in self._inodes

    def all(self) -> list[Inode]:
        """Return them, the longest lost first."""
        return list(self._inodes.values())

    def add(self, inode: Inode) -> Inode | None:
        """Remember one more; return one that there is no room for any more."""
        self._inodes[inode.identity] = inode
        return self.pop_surplus()

    def restore(self, inode: Inode) -> None:
        """Remember an inode of before."""
        self.is_restoring = True
        self._inodes[inode.identity] = inode
        _, number, birth_ns = inode.identity
        if birth_ns:
            self._restored[number, birth_ns, inode.last_name] = inode

    def find_restored(self, identity: Identity, name: str) -> Inode | None:
        """Return the inode that had this number, birth and last name on a device with another number.

        Devices may have other numbers after a reboot. A snapshot or a backup, which may have the same files with the
        same births, has them under other names.
        """
        inode = self._restored.get((*identity[1:], name)) if self._restored else None
        return inode if inode is not None and inode in self else None

    def end_restoring(self) -> None:
        """Have room for :data:`LOST_INODES` from now on; :meth:`pop_surplus` gives the others."""
        self.is_restoring = False
        self._restored.clear()

    def discard(self, inode: Inode) -> None:
        """Remember an inode no longer, for it has a name or is known as another one."""
        self._inodes.pop(inode.identity, None)

    def pop_surplus(self) -> Inode | None:
        """Forget the longest lost inode if there are too many, and return it."""
        if self.is_restoring or len(self._inodes) <= LOST_INODES:
            return None
        inode = self._inodes.pop(next(iter(self._inodes)))
        self.forgotten_ns = max(self.forgotten_ns, inode.identity[2])
        return inode
