"""The facts: what has been seen of each path and inode, and what it counts for. Pure: no I/O, no clock.

An inode is a file by its identity, whatever its names: its size is known here. A path is a declared name and what is
counted for it. Of groups the facts know a number only, the realm. In each realm an inode has a home: the path under
which that realm saw it first. There its growth counts, also when it has another name by now.

A stat does not show how a file became smaller. It is taken to have been emptied and written again, so one that was cut
down to something else than nothing is booked as if what was left of it had been appended.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Set

from exporter.ledger.attribution import Attribution
from exporter.ledger.books import Booking, Bookings, Books, Counters, Journal
from exporter.ledger.inodes import Identity, Inode, Path
from exporter.ledger.lost import LostInodes
from fstat_cache import FileStats


class Facts:
    """Books what stats have found. Those of one inode are to be booked in the order in which they were made.

    Args:
        urgent: set when something happened of which no trace is left on the disk: a truncation, a name that has gone.

    Attributes:
        lock: protects all of it; to be held while what the facts have given is read.
        paths: the declared paths by their names, those that have gone included until :meth:`end`.
        inodes: the known inodes.
        followed: names that are not declared and lead to known inodes -> these.
        hidden: the paths whose files currently fail to stat; may be read without the lock.
        cut: the inodes that were cut -> their sizes before that, until they are greater again. May be read without the
            lock to see whether there are any.
    """

    def __init__(self, *, urgent: threading.Event | None = None) -> None:
        self.lock = threading.RLock()
        self.paths: dict[str, Path] = {}
        self.inodes: dict[Identity, Inode] = {}
        self.followed: dict[str, Inode] = {}
        self.cut: dict[Identity, int] = {}
        self._lost = LostInodes()
        self._origins: dict[str, str] = {}  # of names not declared, until their next stat: the name of before
        self.hidden: frozenset[str] = frozenset()
        self._books = Books()
        self._attribution = Attribution(self.paths, self._books)
        self._urgent = urgent or threading.Event()

    # -- booking ------------------------------------------------------------------------------------------------------

    def declare(
        self,
        name: str,
        realm: int,
        groups: tuple[int, ...] = (),
        *,
        since_ns: int,
        is_new: bool,
        is_shown: bool = True,
    ) -> None:
        """Have a path counted from its next stat on; one that is declared already only gets other groups.

        Args:
            name: the path.
            realm: the number of its group's name. Another one than before ends the path and begins it anew.
            groups: the numbers of the groups that match it.
            since_ns: an inode that was born since then counts from its first byte, an older one from the size that is
                seen first; nanoseconds since the epoch.
            is_new: whether to take the first inode seen for born since then where the filesystem has no births. (Those
                that take its place are.)
            is_shown: whether it is shown already. What only a configuration to come matches gets no growth of an inode
                that has a home: where that is shown then is not known before :meth:`set_realms`.
        """
        with self.lock:
            path = self.paths.get(name)
            if path is None:
                if (inode := self.followed.get(name)) is not None:
                    self._leave(name, None, inode)
            elif path.realm == realm:
                path.groups, path.is_shown = groups, is_shown
                return
            else:
                self.end(path)
            self._origins.pop(name, None)
            self.paths[name] = Path(name, realm, groups, since_ns, is_new, is_shown)

    def outgrows_cut(self, stats: FileStats) -> int | None:
        """Say whether a stat shows that an inode that was cut is greater than before that.

        Returns:
            If so the size that is known of it, else None. Behind that size may be a hole: a writer may have gone on at
            its old offset.
        """
        with self.lock:
            if stats.size > self.cut.get(stats.identity, stats.size):
                return self.inodes[stats.identity].size
            return None

    def observe(self, name: str, stats: FileStats | None, data_begins: int = 0) -> None:
        """Book what a stat found.

        Args:
            name: the path. Of one that is not declared only the growth of inodes that are known, or expected there, is
                booked.
            stats: None when nothing is there.
            data_begins: where :meth:`outgrows_cut` gives a size: the first byte from there on that is not zero.
        """
        with self.lock:
            # A busy file comes by here a thousand times a second, so what it needs is spelled out and read once.
            path = self.paths.get(name)
            inode = self.followed.get(name) if path is None else path.inode if path.is_present else None
            if stats is None:
                self._origins.pop(name, None)
                if path is not None:
                    self._vanish(path)
                elif inode is not None:
                    self._leave(name, None, inode)
                return
            is_booked = False
            if inode is None or inode.identity != stats.identity:
                inode = self._move(name, path, inode, stats, data_begins)
                if inode is None:
                    return
                is_booked = path is not None
            size, mtime_ns = stats.size, stats.mtime_ns
            if size != inode.size or mtime_ns != inode.mtime_ns:
                self._change(inode, size, mtime_ns, data_begins)
                is_booked = path in inode.homes
            if path is not None and path.stats is not stats:
                before, path.stats = path.stats, stats
                if not is_booked and before != stats:
                    self._books.book(path)

    def expect(self, name: str, origin: str) -> None:
        """Set where a file was before it got a name that is not declared, for the next stat of that name.

        A file that had no stat under its first name counts for that all the same.

        Args:
            name: the path that it has now.
            origin: the path that it had, which is declared.
        """
        with self.lock:
            path = self.paths.get(name)
            if name not in self.followed and (path is None or not path.is_shown):
                self._origins[name] = origin

    def hide(self, names: Collection[str]) -> None:
        """Set the files that currently fail to stat, all of them; their series are hidden."""
        with self.lock:
            for name in self.hidden.symmetric_difference(names):
                path = self.paths.get(name)
                if path is not None:
                    path.is_hidden = name in names
                    self._books.book(path)
            self.hidden = frozenset(names)

    def end(self, path: Path) -> None:
        """Drop a path for good. What still grows and has its home there goes on in another path of the realm."""
        with self.lock:
            if path.is_present:
                self._vanish(path)
            if path.has_ended:
                return
            del self.paths[path.name]
            path.has_ended = True
            if path.inode is not None and path in path.inode.homes:
                self._attribution.rehome(path.inode)
                self._books.note_inode(path.inode)
            self._books.book(path)

    def drop(self, paths: Set[Path]) -> None:
        """End paths that no group matches any more: what has its home there counts no longer, under whatever name."""
        with self.lock:
            for path in paths:
                if path.is_present:  # it goes on as a name that is not declared
                    assert path.inode is not None
                    self._attribution.release(path.inode, path)
                    path.is_present, self.followed[path.name] = False, path.inode
                self.end(path)
            for inode in tuple(self.inodes.values()) if paths else ():
                if any([home in paths for home in inode.homes]):  # noqa: C419 - a generator would be one call more
                    self._attribution.rehome(inode)
                    inode.homes = tuple([home for home in inode.homes if home not in paths])
                    self._books.note_inode(inode)
                    if not inode.homes:
                        for name in inode.names:
                            self.followed.pop(name, None)
                        self._lost.discard(inode)
                        self._forget(inode)

    def set_realms(self, realms: Mapping[Path, int]) -> None:
        """Show paths in these realms from now on; their counters stay, and so does what was counted in other realms."""
        with self.lock:
            for inode in self.inodes.values():
                for home in inode.homes:
                    if home.has_ended:
                        self._attribution.rehome(inode)  # while the names that it has are of the same realm
                        break
            for path, realm in realms.items():
                path.is_shown = True
                if path.realm != realm:
                    path.realm = realm
                    self._books.book(path)
            for inode in self.inodes.values():
                # Of most inodes the only name is the only home.
                if len(inode.homes) > 1 or [self.paths.get(name) for name in inode.names] != [*inode.homes]:
                    self._attribution.settle(inode)

    # -- reading ------------------------------------------------------------------------------------------------------

    def at(self, name: str) -> Inode | None:
        """Return the inode to which a path leads, as far as known."""
        path = self.paths.get(name)
        if path is not None:
            return path.inode if path.is_present else None
        return self.followed.get(name)

    def lost(self) -> list[Inode]:
        """Return the inodes that have no name at present."""
        with self.lock:
            return self._lost.all()

    def reader(self) -> Bookings:
        """Begin the bookings of a reader, which clears them as it reads; all paths are in it.

        Returns:
            path -> what its counters moved by since now, with the size that counts for it.
        """
        with self.lock:
            bookings: Bookings = {
                path: Booking(path.inode.size if path.inode is not None and path in path.inode.holders else 0)
                for path in self.paths.values()
            }
            self._books.readers.append(bookings)
            return bookings

    def discard(self, bookings: Bookings) -> None:
        """Have a reader get nothing any more."""
        with self.lock:
            self._books.readers = [each for each in self._books.readers if each is not bookings]

    def journal(self) -> Journal:
        """Begin the journal of what is to be saved; nothing that is known already is in it."""
        with self.lock:
            self._books.journal = Journal()
            return self._books.journal

    def fill(self, journal: Journal) -> None:
        """Put all that is known into the journal."""
        with self.lock:
            journal.paths.update(self.paths.values())
            journal.inodes.update(self.inodes.values())

    # -- going on where other facts were: the paths first, then the inodes, then stats, then the end of it ------------

    def restore_path(
        self, name: str, realm: int, groups: tuple[int, ...], counters: Counters, *, is_counting: bool, since_ns: int
    ) -> None:
        """Declare a path with these counters; its file is not there until its first stat."""
        with self.lock:
            self._lost.is_restoring = True
            path = self.paths[name] = Path(name, realm, groups, since_ns=since_ns)
            counters.add_to(path)
            path.is_counting = is_counting
            self._books.book(path)

    def restore_inode(
        self,
        identity: Identity,
        size: int,
        mtime_ns: int,
        last_name: str,
        cut_from: int | None,
        *,
        home: str,
        realm: int,
        is_latest: bool,
    ) -> None:
        """Remember an inode, or one more home of it.

        Args:
            identity, size, mtime_ns, last_name: as of :class:`Inode`.
            cut_from: its size before it was cut, if it has not outgrown that.
            home: the name of its home.
            realm: of that; should it not be declared, the growth counts for the group all the same.
            is_latest: whether it is what was seen last at its home.
        """
        with self.lock:
            path = self.paths.get(home)
            if path is None or path.realm != realm:
                path = Path(home, realm)
                path.has_ended = True
            if not path.is_counting:
                path.is_counting = True
                self._books.book(path)
            inode = self.inodes.get(identity)
            if inode is None:
                inode = self.inodes[identity] = Inode(identity, size, mtime_ns, (path,), last_name)
            elif realm not in [each.realm for each in inode.homes]:
                inode.homes = (*inode.homes, path)
            self._lost.restore(inode)
            if is_latest:
                path.inode = inode
            if cut_from is not None:
                self.cut[identity] = cut_from
            self._books.note_inode(inode)

    def end_restoring(self) -> None:
        """End it, after every file had a stat. Until then all that was restored is remembered."""
        with self.lock:
            if self._lost.is_restoring:
                for path in tuple(self.paths.values()):
                    if path.stats is None and not path.is_counting:
                        self.end(path)  # which was another name of a file, and is no more
            self._lost.end_restoring()
            while (inode := self._lost.pop_surplus()) is not None:
                self._forget(inode)

    # -- below here, every method is called with the lock held --------------------------------------------------------

    def _move(
        self, name: str, path: Path | None, before: Inode | None, stats: FileStats, data_begins: int
    ) -> Inode | None:
        """A path leads to another inode than before; return it. None: one that nobody wants to know of."""
        origin = self._origins.pop(name, name)
        inode = self.inodes.get(stats.identity)
        if inode is None and (old := self._lost.find_restored(stats.identity, name)) is not None:
            inode = self._renumber(old, stats.identity)
        if inode is not None:
            self._lost.discard(inode)  # before another one is lost: that may be one too many
        if before is not None:
            self._leave(name, path, before)
        if inode is None:
            home = self.paths.get(origin)
            if home is None:
                return None
            inode = self.inodes[stats.identity] = Inode(stats.identity, stats.size, stats.mtime_ns, (), origin)
            if home is not path:  # and when it lost the name of its home, another one took its place
                inode.homes = (home,)
                appended_bytes = self._attribution.meet(home, inode, self._lost.forgotten_ns)
                self._books.book(home, appended_bytes=appended_bytes, rotations=1)
        inode.names = (*inode.names, name)
        inode.last_name = name
        if path is None:
            self.followed[name] = inode
        else:
            self._arrive(path, inode, stats, data_begins)
        self._books.note_inode(inode)
        return inode

    def _renumber(self, old: Inode, identity: Identity) -> Inode:
        inode = Inode(identity, old.size, old.mtime_ns, old.homes, old.last_name)
        for home in old.homes:
            if home.inode is old:
                home.inode = inode
        if old.identity in self.cut:
            self.cut[identity] = self.cut[old.identity]
        self._lost.discard(old)
        self._forget(old)
        self.inodes[identity] = inode
        return inode

    def _arrive(self, path: Path, inode: Inode, stats: FileStats, data_begins: int) -> None:
        """A declared path leads to an inode that it did not lead to before."""
        before, path.inode = path.inode, inode
        self._attribution.rehome(inode)
        is_changed = stats.size != inode.size or stats.mtime_ns != inode.mtime_ns
        changes = rotations = appended_bytes = 0
        if before is not None and before is not inode and path in before.homes:
            rotations = 1
            changes = not (is_changed and path in inode.homes)  # one stat is one change
            self._books.note_inode(before)
        if is_changed:
            self._change(inode, stats.size, stats.mtime_ns, data_begins)
        if path.realm not in [home.realm for home in inode.homes] and (path.is_shown or not inode.homes):
            inode.homes = (*inode.homes, path)
            appended_bytes = self._attribution.meet(path, inode, self._lost.forgotten_ns)
        path.is_present = True
        size_bytes = self._attribution.hold(inode, path)
        self._books.book(
            path, changes=changes, appended_bytes=appended_bytes, rotations=rotations, size_bytes=size_bytes
        )

    def _leave(self, name: str, path: Path | None, inode: Inode) -> None:
        """A path does not lead to its inode any more."""
        inode.names = tuple([each for each in inode.names if each != name])
        if path is None:
            del self.followed[name]
        else:
            self._attribution.release(inode, path)
        if not inode.names:
            inode.last_name = name
            if (forgotten := self._lost.add(inode)) is not None:
                self._forget(forgotten)
            self._urgent.set()
        self._books.note_inode(inode)

    def _vanish(self, path: Path) -> None:
        """Nothing is there any more."""
        if path.is_present:
            assert path.inode is not None
            self._leave(path.name, path, path.inode)
            path.is_present = False
            self._books.book(path)
        elif path.stats is None and not path.is_counting:  # declared, and never seen
            self.end(path)

    def _forget(self, inode: Inode) -> None:
        del self.inodes[inode.identity]
        self.cut.pop(inode.identity, None)
        self._books.note_inode(inode)

    def _change(self, inode: Inode, size: int, mtime_ns: int, data_begins: int) -> None:
        """Book that an inode has another size or modification time."""
        grown = appended_bytes = size - inode.size
        if self.cut and size > self.cut.get(inode.identity, size):
            del self.cut[inode.identity]
            appended_bytes = min(appended_bytes, max(0, size - data_begins))
        if grown < 0:
            appended_bytes = size
            self.cut[inode.identity] = max(inode.size, self.cut.get(inode.identity, 0))
            self._urgent.set()
        inode.size, inode.mtime_ns = size, mtime_ns
        for home in inode.homes:
            if home.has_ended:
                self._attribution.rehome(inode)
                break
        # Nearly all inodes are held by their home, in the same tuple.
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
        if self._books.journal is not None:
            self._books.journal.inodes.add(inode)
