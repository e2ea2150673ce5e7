"""The facts: the known state of each path and inode, and their counters. Pure: no I/O, no clock.

An inode is a file by its identity, whatever its names; it has a size. A path is a declared name; it has counters. The
facts know a group only by a number, the realm. In each realm an inode has a home: the path under which the realm saw it
first. Its growth counts there, even after a rename.

A stat does not show which of a file's bytes were written. Where that matters, :meth:`Facts.observe` asks for the data.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping, Set

from exporter.ledger.attribution import Attribution
from exporter.ledger.books import Booking, Bookings, Books, Counters, InodeBookings, Journal
from exporter.ledger.inodes import Inodes
from exporter.ledger.lost import LostInodes
from exporter.ledger.offsets import LARGE_BYTES, PAGE_BYTES, Question
from exporter.ledger.records import Identity, Inode, Path
from fstat_cache import Data, FileStats


class Facts:
    """Books the results of stats. Stats of one inode must be booked in the order in which they were made.

    Args:
        urgent: set after a change that leaves no trace on the disk: a truncation, or a name that is gone.
        moment_of: returns when a birth was, on the clock of `since_ns`; None for a birth later than now, which shows
            nothing. By default both are on the same clock.

    Attributes:
        lock: protects everything here; hold it while you read objects that the facts have returned.
        paths: the declared paths by their names; those of gone files stay until :meth:`end`.
        inodes: the known inodes.
        followed: undeclared name -> the known inode to which it leads.
        departed: see :class:`Books`.
        hidden: the paths of the files that currently fail to stat; may be read without the lock.
    """

    def __init__(
        self,
        *,
        urgent: threading.Event | None = None,
        moment_of: Callable[[int], int | None] = lambda birth_ns: birth_ns,
    ) -> None:
        self.lock = threading.RLock()
        self.paths: dict[str, Path] = {}
        self.followed: dict[str, Inode] = {}
        self._origins: dict[str, str] = {}  # undeclared name -> the file's name before, until the next stat
        self.hidden: frozenset[str] = frozenset()
        self._books = Books()
        self.departed = self._books.departed
        self._attribution = Attribution(self.paths, self._books, moment_of)
        self._urgent = urgent or threading.Event()
        self._lost = LostInodes(moment_of)
        self.inodes = Inodes(self._attribution, self._books, self._lost, self._urgent)

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
        """Count a path from its next stat on; if it is already declared, only replace its groups.

        Args:
            name: the path.
            realm: the number of its group's name. If it differs from before, the path ends and a new one begins.
            groups: the numbers of the groups that match it.
            since_ns: a moment; an inode born since then counts from its first byte, an older one from its first known
                size.
            is_new: whether the first inode counts as born since then if neither a birth nor an event shows it. Later
                inodes at this path always do.
            is_shown: False for a path that only the next configuration matches. It gets no growth of an inode that has
                a home, because :meth:`set_realms` decides later where that is shown.
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

    def observe(
        self,
        name: str,
        stats: FileStats | None,
        data: Data | None = None,
        *,
        is_created: bool | None = None,
        may_ask: bool = True,
    ) -> Question | None:
        """Book the result of a stat, or ask for the file's data first.

        Args:
            name: the path. At an undeclared one only inodes count that are known or have an origin, :meth:`set_origin`.
            stats: None when there is no regular file.
            data: the answer to the question; None if it is unknown.
            is_created: True if an event shows that its file is new, whatever its birth; False if the file was renamed
                from an unknown place, so that it is old unless its birth shows otherwise.
            may_ask: False for the call with the answer.

        Returns:
            None if the stat is booked; else a question, and nothing has changed. Call again with its answer.
        """
        with self.lock:
            # A busy file is booked a thousand times a second, so its case is inlined here and reads everything once.
            path = self.paths.get(name)
            inode = self.followed.get(name) if path is None else path.inode if path.is_present else None
            if stats is None:
                self._origins.pop(name, None)
                if path is not None:
                    self._vanish(path)
                elif inode is not None:
                    self._leave(name, None, inode)
                return None
            size, mtime_ns = stats.size, stats.mtime_ns
            is_booked = False
            if inode is None or inode.identity != stats.identity or (is_created and _is_recreated(path, stats)):
                if may_ask and (size > LARGE_BYTES or self.inodes.offsets):
                    question = self._ask(name, stats, is_created)
                    if question is not None:
                        return question
                inode = self._move(name, path, inode, stats, data, is_created)
                if inode is None:
                    return None
                is_booked = path is not None
            if size != inode.size or mtime_ns != inode.mtime_ns:
                if may_ask and (size - inode.size > LARGE_BYTES or self.inodes.offsets):
                    question = self.inodes.offsets.ask(inode, size)
                    if question is not None:
                        return question
                self.inodes.change(inode, size, mtime_ns, data)
                is_booked = path in inode.homes
            if path is not None and path.stats is not stats:
                before, path.stats = path.stats, stats
                if not is_booked and before != stats:
                    self._books.book(path)
            return None

    def set_origin(self, name: str, origin: str) -> None:
        """Set the declared path that a file had before it was renamed to an undeclared one.

        The next stat of the undeclared path counts for the declared one, even if the file was never stat'ed there.

        Args:
            name: its present path.
            origin: its path before, which is declared.
        """
        with self.lock:
            path = self.paths.get(name)
            if name not in self.followed and (path is None or not path.is_shown):
                self._origins[name] = origin

    def hide(self, names: Collection[str]) -> None:
        """Set all files that currently fail to stat; their series are hidden."""
        with self.lock:
            for name in self.hidden.symmetric_difference(names):
                path = self.paths.get(name)
                if path is not None:
                    path.is_hidden = name in names
                    self._books.book(path)
            self.hidden = frozenset(names)

    def end(self, path: Path) -> None:
        """Drop a path for good. If it is its inode's home, another path of the realm takes its place if possible."""
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

    def drop(self, paths: Set[Path], *, keeps_homes: bool = False) -> None:
        """End paths that no group matches any more, and follow their files as undeclared names.

        Args:
            paths: the paths.
            keeps_homes: whether growth of their inodes still counts; else these lose their homes there.
        """
        with self.lock:
            for path in paths:
                if path.is_present:  # follow it as an undeclared name
                    assert path.inode is not None
                    self._attribution.release(path.inode, path)
                    path.is_present, self.followed[path.name] = False, path.inode
                self.end(path)
            for inode in tuple(self.inodes.values()) if paths and not keeps_homes else ():
                if any([home in paths for home in inode.homes]):  # noqa: C419 - a generator would be one call more
                    self._attribution.rehome(inode)
                    inode.homes = tuple([home for home in inode.homes if home not in paths])
                    self._books.note_inode(inode)
                    if not inode.homes:
                        for name in inode.names:
                            self.followed.pop(name, None)
                        self._lost.discard(inode)
                        self.inodes.forget(inode)

    def set_realms(self, realms: Mapping[Path, int]) -> None:
        """Move paths to other realms, and keep their counters and those of the other realms."""
        with self.lock:
            for inode in self.inodes.values():
                for home in inode.homes:
                    if home.has_ended:
                        self._attribution.rehome(inode)  # before the realms of its names change
                        break
            for path, realm in realms.items():
                path.is_shown = True
                if path.realm != realm:
                    path.realm = realm
                    self._books.book(path)
            for inode in self.inodes.values():
                # Most inodes have one name, which is their only home.
                if len(inode.homes) > 1 or [self.paths.get(name) for name in inode.names] != [*inode.homes]:
                    self._attribution.settle(inode)

    # -- reading ------------------------------------------------------------------------------------------------------

    def at(self, name: str) -> Inode | None:
        """Return the known inode at a path; None when none is known."""
        path = self.paths.get(name)
        if path is not None:
            return path.inode if path.is_present else None
        return self.followed.get(name)

    def lost(self) -> list[Inode]:
        """Return the known inodes that have no known name now."""
        with self.lock:
            return self._lost.all()

    def lost_by_directory(self) -> dict[str, set[int]]:
        """Return directory -> inode numbers of the files that were last seen in it and have no known name now."""
        lost: dict[str, set[int]] = {}
        for inode in self.lost():
            lost.setdefault(os.path.dirname(inode.last_name), set()).add(inode.identity[1])
        return lost

    def reader(self) -> Bookings:
        """Register a reader and return its bookings, which the reader clears as it reads.

        Returns:
            Path -> its booking. At first all paths are in it, with the sizes that count for them.
        """
        with self.lock:
            bookings: Bookings = {
                path: Booking(path.inode.size if path.inode is not None and path in path.inode.holders else 0)
                for path in self.paths.values()
            }
            self._books.readers.append(bookings)
            return bookings

    def read_inodes(self, bookings: InodeBookings) -> None:
        """Register a reader of inodes, unless it is one; add all inodes to its bookings, which it clears."""
        with self.lock:
            self._books.read_inodes(bookings, self.inodes.values())

    def discard(self, bookings: Bookings | InodeBookings) -> None:
        """Unregister a reader."""
        with self.lock:
            self._books.discard(bookings)

    def journal(self) -> Journal:
        """Start the journal of changes that the state must save; it is empty, see :meth:`fill`."""
        with self.lock:
            self._books.journal = Journal()
            return self._books.journal

    def fill(self, journal: Journal) -> None:
        """Add all known paths and inodes to a journal."""
        with self.lock:
            journal.paths.update(self.paths.values())
            journal.inodes.update(self.inodes.values())
            journal.handles.update(self.inodes[identity] for identity in self.inodes.handles)

    # -- restoring: first the paths, then the inodes, then the stats, then end_restoring() ----------------------------

    def restore_path(
        self, name: str, realm: int, groups: tuple[int, ...], counters: Counters, *, is_counting: bool, since_ns: int
    ) -> None:
        """Declare a path with these counters; its file counts as absent until its first stat."""
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
        offset: int | None,
        *,
        home: str,
        realm: int,
        is_latest: bool,
    ) -> None:
        """Restore an inode, or one more home of it.

        Args:
            identity, size, mtime_ns, last_name: see :class:`Inode`.
            offset: where its writer may go on, if that is not its size; see :class:`Offsets`.
            home: the name of its home.
            realm: the home's realm; its group gets the growth even if the home is undeclared.
            is_latest: whether it was the last inode seen at its home.
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
            elif realm not in inode.realms:
                inode.homes = (*inode.homes, path)
            self._lost.restore(inode)
            if is_latest:
                path.inode = inode
            if offset is not None:
                self.inodes.offsets[identity] = offset
            self._books.note_inode(inode)

    def end_restoring(self) -> None:
        """End restoring, after every file was stat'ed. Until then no restored inode is forgotten."""
        with self.lock:
            if self._lost.is_restoring:
                for path in tuple(self.paths.values()):
                    if path.stats is None and not path.is_counting:
                        self.end(path)  # it was another name of a file, and is gone
            self._lost.end_restoring()
            while (inode := self._lost.pop_surplus()) is not None:
                self.inodes.forget(inode)

    # -- below here, every method is called with the lock held --------------------------------------------------------

    def _ask(self, name: str, stats: FileStats, is_created: bool | None) -> Question | None:
        """Return the question about an inode to which a path did not lead before."""
        size, identity = stats.size, stats.identity
        inode = self.inodes.get(identity) or self._lost.find_restored(identity, name)
        if inode is not None:
            return self.inodes.offsets.ask(inode, size)
        home = self.paths.get(self._origins.get(name, name))
        if home is None or size <= LARGE_BYTES:
            return None
        # Not for other files that exist at the start: opening them would slow down the first scan.
        is_new = self._attribution.is_born_since(home, stats.birth_ns, self._lost.forgotten_ns, is_created=is_created)
        return Question(0) if is_new or size % PAGE_BYTES == 0 else None

    def _move(
        self,
        name: str,
        path: Path | None,
        before: Inode | None,
        stats: FileStats,
        data: Data | None,
        is_created: bool | None,
    ) -> Inode | None:
        """Book that a path leads to another inode than before; return the inode, or None if it is not followed."""
        origin = self._origins.pop(name, name)
        inode = self.inodes.get(stats.identity)
        if is_created and inode is not None and not stats.identity[2] and (inode is before or inode in self._lost):
            if inode is before:
                self._leave(name, path, inode)
                before = None
            self._lost.discard(inode)
            self.inodes.forget(inode)
            inode = None  # the filesystem has reused the number
        # Without births, another device may have had the same identity before the start.
        if inode is None or (inode in self._lost and not stats.identity[2]):
            old = self._lost.find_restored(stats.identity, name)
            if old is not None and old is not inode:
                inode = self.inodes.renumber(old, stats.identity)
        if inode is not None:
            self.inodes.deleted.pop(inode.identity, None)
            self._lost.discard(inode)  # before _leave() adds another one, which may exceed the limit
        if before is not None:
            self._leave(name, path, before)
        size = None
        if inode is None:
            home = self.paths.get(origin)
            if home is None:
                return None
            inode = self.inodes[stats.identity] = Inode(stats.identity, 0, stats.mtime_ns, (), origin)
            size = stats.size if data is None else self.inodes.offsets.append(inode, stats.size, data)
            inode.size = stats.size
            if home is not path:  # it was renamed away from its home, which counts as a rotation
                inode.homes = (home,)
                home.is_counting = True
                is_new = self._attribution.is_born_since(home, stats.birth_ns, self._lost.forgotten_ns, is_created)
                self._books.book(home, appended_bytes=size if is_new else 0, rotations=1)
                self._books.note_inode(inode, is_new=is_new)
        inode.names = (*inode.names, name)
        inode.last_name = name
        if path is None:
            self.followed[name] = inode
        else:
            self._arrive(path, inode, stats, data, size, is_created)
        self._books.note_inode(inode)
        return inode

    def _arrive(
        self,
        path: Path,
        inode: Inode,
        stats: FileStats,
        data: Data | None,
        size: int | None,
        is_created: bool | None,
    ) -> None:
        """Book that a declared path leads to an inode to which it did not lead before.

        Args:
            path, inode, stats: the path, the inode, and its stats.
            data, is_created: see :meth:`observe`.
            size: how much data a new inode has; None: the inode was known.
        """
        before, path.inode = path.inode, inode
        self._attribution.rehome(inode)
        is_changed = stats.size != inode.size or stats.mtime_ns != inode.mtime_ns
        changes = rotations = appended_bytes = 0
        if before is not None and before is not inode and path in before.homes:
            rotations = 1
            changes = not (is_changed and path in inode.homes)  # one stat is one change
            self._books.note_inode(before)
        if is_changed:
            self.inodes.change(inode, stats.size, stats.mtime_ns, data)
        if path.realm not in [home.realm for home in inode.homes] and (path.is_shown or not inode.homes):
            inode.homes = (*inode.homes, path)
            if size is None:
                size = min(inode.size, self.inodes.offsets.get(inode.identity, inode.size))
            path.is_counting = True
            if self._attribution.is_born_since(path, stats.birth_ns, self._lost.forgotten_ns, is_created):
                appended_bytes = size
                self._books.note_inode(inode, is_new=True)
        path.is_present = True
        size_bytes = self._attribution.hold(inode, path)
        self._books.book(
            path, changes=changes, appended_bytes=appended_bytes, rotations=rotations, size_bytes=size_bytes
        )

    def _leave(self, name: str, path: Path | None, inode: Inode) -> None:
        """Note that a path does not lead to its inode any more."""
        inode.names = tuple([each for each in inode.names if each != name])
        if path is None:
            del self.followed[name]
        else:
            self._attribution.release(inode, path)
        if not inode.names:
            inode.last_name = name
            if (forgotten := self._lost.add(inode)) is not None:
                self.inodes.forget(forgotten)
            self._urgent.set()
        self._books.note_departure(inode)

    def _vanish(self, path: Path) -> None:
        """Book that no file is at a declared path any more."""
        if path.is_present:
            assert path.inode is not None
            self._leave(path.name, path, path.inode)
            path.is_present = False
            self._books.book(path)
        elif path.stats is None and not path.is_counting:  # declared, and never seen
            self.end(path)


def _is_recreated(path: Path | None, stats: FileStats) -> bool:
    """Return whether a created file differs from the known one by its birth alone, which its identity leaves out."""
    return path is not None and path.stats is not None and path.stats.birth_ns != stats.birth_ns
