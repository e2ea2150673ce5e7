"""Whose growth it is: the home and the holder of an inode in each realm."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.ledger.books import Books
from exporter.ledger.inodes import Inode, Path


class Attribution:
    """Gives inodes their homes and holders. To be used with the facts' lock held.

    Args:
        paths: the declared paths by their names.
        books: gets what this moves.
    """

    def __init__(self, paths: Mapping[str, Path], books: Books) -> None:
        self._paths = paths
        self._books = books

    def meet(self, home: Path, inode: Inode, forgotten_ns: int) -> int:
        """Return how many bytes count of an inode that has just got its home in a realm: all, if it was born since.

        Args:
            home: where it counts.
            inode: it.
            forgotten_ns: what was born at that time or before may have counted already; nanoseconds since the epoch.
        """
        home.is_counting = True
        birth_ns = inode.identity[2]
        if birth_ns:
            is_born_since = birth_ns >= home.since_ns and birth_ns > forgotten_ns
        else:
            is_born_since = home.is_new or home.stats is not None
        return inode.size if is_born_since else 0

    def rehome(self, inode: Inode) -> None:
        """Move homes that have ended: to a later path of the same name, or to a name that the inode has now.

        Without one in its realm a home stays where it is: what grows there counts for the group.
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
        """Have the size of an inode count for a path, unless it counts for another one of that realm; return it."""
        for holder in inode.holders:
            if holder.realm == path.realm:
                return 0
        holders = (*inode.holders, path)
        # Nearly all inodes have one home, which also holds them: they need one tuple.
        inode.holders = inode.homes if inode.homes == holders else holders
        return inode.size

    def release(self, inode: Inode, path: Path) -> None:
        """Have the size of an inode not count for a path; instead for another name of that realm, if it has one."""
        if path in inode.holders:
            inode.holders = tuple([holder for holder in inode.holders if holder is not path])
            self._books.book(path, size_bytes=-inode.size)
            for other in self._declared(inode):
                if other is not path:
                    self._books.book(other, size_bytes=self.hold(inode, other))

    def settle(self, inode: Inode) -> None:
        """Give an inode one home and one holder in each realm in which it has a name, after realms have changed."""
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
