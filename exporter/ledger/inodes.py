"""The known inodes: what grew, which are deleted but open, which can be read by a handle, which have no name."""

from __future__ import annotations

import threading
from dataclasses import replace

from exporter.ledger.attribution import Attribution
from exporter.ledger.books import Books
from exporter.ledger.lost import LostInodes
from exporter.ledger.offsets import Offsets
from exporter.ledger.records import Identity, Inode, Path
from exporter.ledger.uncertain import ABSENCE, DELETED, TRUNCATED, UNWATCHED, Uncertain
from fstat_cache import Data, InodeChange

JUST_WRITTEN_NS = 1_000_000_000
"""A truncation so soon after growth may have taken bytes away that no stat has seen."""

ABSENT = b""
"""Instead of the handle of an inode that was not found after a restart, so that the next one does not count it again.
"""


class Inodes(dict[Identity, Inode]):
    """Identity -> inode. The caller holds the facts' lock.

    Args:
        attribution: gives inodes their homes.
        books: changes are booked there.
        lost: the inodes that have no known name.
        urgent: see :class:`exporter.ledger.facts.Facts`.

    Attributes:
        lost: as given.
        handles: inode -> its file handle, as far as known; or :data:`ABSENT`.
        deleted: deleted inode that is still open -> how many bytes of the disk it takes.
        uncertain: how often bytes may have gone uncounted.
        offsets: inode -> the offset where its writer may go on, if that is not its size.
    """

    def __init__(self, attribution: Attribution, books: Books, lost: LostInodes, urgent: threading.Event) -> None:
        self.lost = lost
        self.handles: dict[Identity, bytes] = {}
        self.deleted: dict[Identity, int] = {}
        self.uncertain = Uncertain()
        self.offsets = Offsets()
        self._attribution = attribution
        self._books = books
        self._urgent = urgent

    def deleted_in(self, realm: int) -> list[int]:
        """Return of each deleted inode with a home in the realm how many bytes of the disk it takes."""
        return [size for identity, size in self.deleted.items() if realm in self[identity].realms]

    def observe(self, change: InodeChange) -> Inode | None:
        """Book what is known of an inode by itself; return it, None if it is unknown."""
        stats = change.stats
        inode = self.get(stats.identity) or self._find_by_handle(stats.identity, change.handle)
        if inode is None:
            return None
        if change.handle is not None and self.handles.get(inode.identity) != change.handle:
            self.learn(inode, change.handle)
        if not change.is_exact:
            reason = DELETED if change.is_gone else UNWATCHED
            self.uncertain.note(inode.realms, reason)
        is_read = change.links is not None and change.is_read
        has_changed = is_read and (stats.size, stats.mtime_ns) != (inode.size, inode.mtime_ns)
        # What was written into a file that is allocated ahead is known only by a name, which it probably still has.
        offset = self.offsets.get(inode.identity, inode.size)
        if has_changed and not (offset < inode.size and change.links):
            # After a truncation the writer may have left a hole; but not if the file takes its size of the disk.
            is_whole = offset > inode.size and change.disk_bytes >= stats.size > inode.size
            data = Data(stats.size - inode.size, stats.size) if is_whole else None
            self.change(inode, stats.size, stats.mtime_ns, data)
        if change.links == 0:
            self.deleted[inode.identity] = change.disk_bytes
        elif change.links is not None or change.is_gone:
            self.deleted.pop(inode.identity, None)
        if change.is_gone and inode in self.lost:
            self.lost.discard(inode)
            self.forget(inode)
        return inode

    def learn(self, inode: Inode, handle: bytes) -> None:
        """Set an inode's handle."""
        self.handles[inode.identity] = handle
        if self._books.journal is not None:
            self._books.journal.handles.add(inode)

    def note_content(self, inode: Inode, path: Path) -> None:
        """Note that more is known of the content of an inode, and of a path that shows it."""
        self._books.book(path)
        if self._books.journal is not None:
            self._books.journal.inodes.add(inode)

    def forget(self, inode: Inode) -> None:
        """Forget an inode, and everything that was known of it."""
        del self[inode.identity]
        for known in (self.offsets, self.handles, self.deleted):
            known.pop(inode.identity, None)
        self._books.note_departure(inode)

    def change(self, inode: Inode, size: int, mtime_ns: int, data: Data | None) -> None:
        """Book that an inode has another size or modification time."""
        grown = appended_bytes = size - inode.size
        if grown < 0:
            end = min(inode.size, self.offsets.get(inode.identity, inode.size))
            if size < end:  # else no data was cut off
                self._books.note_departure(inode, cut=end)
                if self.lost.is_restoring or 0 <= mtime_ns - inode.mtime_ns < JUST_WRITTEN_NS:
                    self.uncertain.note(inode.realms, ABSENCE if self.lost.is_restoring else TRUNCATED)
            self._urgent.set()
        if grown < 0 or data is not None or self.offsets:
            appended_bytes = self.offsets.append(inode, size, data)
        inode.size, inode.mtime_ns = size, mtime_ns
        for home in inode.homes:
            if home.has_ended:
                self._attribution.rehome(inode)
                break
        # For nearly all inodes homes and holders are the same tuple.
        is_held_at_home = inode.holders is inode.homes
        for home in inode.homes:
            self._books.book(
                home,
                changes=1,
                appended_bytes=appended_bytes,
                truncations=grown < 0,
                size_bytes=grown if is_held_at_home else 0,
            )
        if grown and not is_held_at_home:
            for holder in inode.holders:
                self._books.book(holder, size_bytes=grown)
        self._books.note_inode(inode)

    def _find_by_handle(self, identity: Identity, handle: bytes | None) -> Inode | None:
        """Return the restored inode with this handle, number and birth, whose device has another number now."""
        if handle is None or not self.lost.is_restoring:
            return None
        old = self.lost.find_by_handle(identity, handle, self.handles)
        return None if old is None else self.renumber(old, identity)

    def renumber(self, old: Inode, identity: Identity) -> Inode:
        """Give a restored inode another identity. An inode that has this one gets the old: devices may swap numbers."""
        pairs = (old, identity), (self.get(identity), old.identity)
        renumbered = [
            (inode, now, self.offsets.get(inode.identity), self.handles.get(inode.identity))
            for inode, now in pairs
            if inode is not None
        ]
        for before, *_ in renumbered:
            self.lost.discard(before)
            self.forget(before)
        for before, now, offset, handle in renumbered:
            inode = self[now] = replace(before, identity=now)
            for home in inode.homes:
                if home.inode is before:
                    home.inode = inode
            if offset is not None:
                self.offsets[now] = offset
            if handle is not None:
                self.learn(inode, handle)
            self.lost.restore(inode)
            self._books.note_inode(inode, replaces=before)
        return self[identity]
