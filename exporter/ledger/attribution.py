"""The attribution of growth and size: the home and the holder of an inode in each realm."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from exporter.ledger.books import Books
from exporter.ledger.records import Inode, Path


class Attribution:
    """Gives inodes their homes and holders. The caller holds the facts' lock.

    Args:
        paths: the declared paths by their names.
        books: changes are booked there.
        moment_of: see :class:`exporter.ledger.facts.Facts`.
    """

    def __init__(self, paths: Mapping[str, Path], books: Books, moment_of: Callable[[int], int | None]) -> None:
        self._paths = paths
        self._books = books
        self._moment_of = moment_of

    def is_born_since(self, home: Path, birth_ns: int, forgotten_ns: int, is_created: bool | None) -> bool:
        """Return whether an inode counts from its first byte.

        Args:
            home: its new home in a realm.
            birth_ns: its birth, nanoseconds since the epoch; 0 where the filesystem has no births.
            forgotten_ns: an inode born at this moment or before may have counted already.
            is_created: see :meth:`exporter.ledger.facts.Facts.observe`.
        """
        if is_created:
            return True
        if birth_ns:
            born_ns = self._moment_of(birth_ns)
            return born_ns is not None and born_ns >= home.since_ns and born_ns > forgotten_ns
        return is_created is None and (home.is_new or home.stats is not None)

    def rehome(self, inode: Inode) -> None:
        """Replace homes that have ended by a later path of the same name, or by a present name of the inode.

        If its realm has neither, the ended home stays: further growth counts for the group.
        """
        for home in inode.homes:
            if not home.has_ended:
                continue
            for name in (home.name, *sorted(inode.names)):
                path = self._paths.get(name)
                if path is not None and path.realm == home.realm and path.is_shown:
                    inode.homes = tuple([path if each is home else each for each in inode.homes])
                    path.is_counting = True
                    self._books.book(path)
                    self._books.note_inode(inode)
                    break

    def hold(self, inode: Inode, path: Path) -> int:
        """Count an inode's size for a path and return it; return 0 if a path of that realm already holds the inode."""
        for holder in inode.holders:
            if holder.realm == path.realm:
                return 0
        holders = (*inode.holders, path)
        # Nearly all inodes have one home, which also holds them: they share one tuple.
        inode.holders = inode.homes if inode.homes == holders else holders
        return inode.size

    def release(self, inode: Inode, path: Path) -> None:
        """Stop counting an inode's size for a path; another name of the inode in that realm takes over, if any."""
        if path in inode.holders:
            inode.holders = tuple([holder for holder in inode.holders if holder is not path])
            self._books.book(path, size_bytes=-inode.size)
            for other in self._declared(inode):
                if other is not path:
                    self._books.book(other, size_bytes=self.hold(inode, other))

    def settle(self, inode: Inode) -> None:
        """Give an inode one home and one holder in each realm where it has a name, after realms have changed."""
        homes = {home.realm: home for home in reversed(inode.homes)}
        for holder in inode.holders:
            self._books.book(holder, size_bytes=-inode.size)
        inode.holders = ()
        declared = self._declared(inode)
        for path in declared:
            if path.realm not in homes:
                homes[path.realm] = path
                path.is_counting = True
                self._books.book(path)
        inode.homes = tuple(homes.values())
        for path in declared:
            self._books.book(path, size_bytes=self.hold(inode, path))
        self._books.note_inode(inode)

    def _declared(self, inode: Inode) -> list[Path]:
        return [self._paths[name] for name in sorted(inode.names) if name in self._paths]
