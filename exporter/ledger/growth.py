"""The ledger: what has been seen of each file, and whose growth it is. Pure: no I/O, no clock.

Three kinds of books. An :class:`Inode` is a file by its identity, whatever its names: what it has grown by is known
here. A :class:`Series` is a declared path, and what is published of it. A growing inode pays into the series of the
name under which it was first seen, also when it has another name by now. :class:`Totals` sum up the series of a group,
or of those with the same values of some labels.

A look does not tell how a file came to be smaller. It is taken to have been emptied and written again, so one that was
cut down to something else than nothing is booked as if what was left of it had been appended.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from fstat_cache import FileStats

Identity = tuple[int, int, int]
"""Device, inode number, birth: see :attr:`fstat_cache.FileStats.identity`."""

LOST_INODES = 10_000
"""How many inodes without a known name are remembered, in case they turn up under another one."""
SCRAPES_OF_A_GONE_FILE = 2
NOBODY_SCRAPES_S = 300.0
"""Prometheus takes a series for stale after five minutes, so nobody scrapes more seldom."""
_LONG_AGO = -(1 << 64)  # nanoseconds; before every time that a file can have


class Totals:
    """Sums over the series of a group or an aggregate. The counters never decrease, whatever becomes of the files.

    Attributes:
        group: the group's number.
        values: of the aggregate's labels; empty for a group's own totals.
        payees: the group's totals, and these if they are an aggregate's: what a series of theirs pays into.
        files: files that are there.
        size_bytes: sum of their sizes, each inode once.
        changes, appended_bytes, truncations, rotations: sums over the series, those that have ended included.
        newest: the file that was modified last, None when there is none; ``newest_is_known`` says whether it is up to
            date.
        newest_mtime_ns: its time; no file has a later one, be it up to date or not.
        series: how many series pay in.
        is_published: whether these are shown; ``max_series`` bounds the aggregates of a group too.
        files_without_series: files for which ``max_series`` leaves no series.
        unlabelled: files whose path the group's expression does not match.
        has_ended: whether these are of an aggregate whose last series has ended; another with the same labels may
            follow.
    """

    __slots__ = (
        "appended_bytes",
        "changes",
        "files",
        "files_without_series",
        "group",
        "has_ended",
        "is_published",
        "newest",
        "newest_is_known",
        "newest_mtime_ns",
        "payees",
        "rotations",
        "series",
        "size_bytes",
        "truncations",
        "unlabelled",
        "values",
    )

    def __init__(self, group: int, values: tuple[str, ...] = (), payees: tuple[Totals, ...] = ()) -> None:
        self.group = group
        self.values = values
        self.payees = (*payees, self)
        self.files = 0
        self.size_bytes = 0
        self.changes = 0
        self.appended_bytes = 0
        self.truncations = 0
        self.rotations = 0
        self.newest: Series | None = None
        self.newest_is_known = True
        self.newest_mtime_ns = _LONG_AGO
        self.series = 0
        self.is_published = True
        self.files_without_series = 0
        self.unlabelled = 0
        self.has_ended = False


class Series:
    """A declared path and what is published of it.

    Attributes:
        path: the file.
        labels: what it is published under.
        totals: what it pays into.
        stats: what was seen there last, None before the first look; kept when the file has gone.
        inode: likewise.
        is_present: whether the file is there.
        is_published: whether it has samples of its own.
        is_hidden: whether its file can not be looked at just now, so that nothing true is known of it.
        is_counting: whether inodes pay in; the counters of others say nothing.
        has_ended: whether it was dropped for good; another one of the same path may follow.
        since_ns, is_new: see :meth:`Ledger.declare`.
    """

    __slots__ = (
        "appended_bytes",
        "changes",
        "has_ended",
        "inode",
        "is_counting",
        "is_hidden",
        "is_new",
        "is_present",
        "is_published",
        "labels",
        "path",
        "rotations",
        "since_ns",
        "stats",
        "totals",
        "truncations",
    )

    def __init__(self, path: str, labels: Labels, totals: tuple[Totals, ...], *, since_ns: int, is_new: bool) -> None:
        self.path = path
        self.labels = labels
        self.totals = totals
        self.since_ns = since_ns
        self.is_new = is_new
        self.stats: FileStats | None = None
        self.inode: Inode | None = None
        self.is_present = False
        self.is_published = False
        self.is_hidden = False
        self.is_counting = False
        self.has_ended = False
        self.changes = 0
        self.appended_bytes = 0
        self.truncations = 0
        self.rotations = 0


class Inode:
    """A file by its identity.

    Attributes:
        identity: what tells it from every other one.
        size: when it was looked at last, bytes.
        mtime_ns: likewise.
        series: what its growth is paid into.
        names: the paths that lead to it now, as far as known.
        last_name: where it was seen last.
        held_by: the series by which its size is in the totals.
    """

    __slots__ = ("held_by", "identity", "last_name", "mtime_ns", "names", "series", "size")

    def __init__(self, identity: Identity, size: int, mtime_ns: int, series: Series, last_name: str) -> None:
        self.identity = identity
        self.size = size
        self.mtime_ns = mtime_ns
        self.series = series
        self.names: tuple[str, ...] = ()
        self.last_name = last_name
        self.held_by: Series | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """What a file is published under.

    Attributes:
        group: the number of its group.
        values: its label values.
        aggregate: the values of the labels that its group aggregates by; empty when it does not.
        is_unlabelled: whether its group's expression does not match its path.
    """

    group: int
    values: tuple[str, ...]
    aggregate: tuple[str, ...] = ()
    is_unlabelled: bool = False


@dataclass(frozen=True, slots=True)
class GroupRules:
    """What a group publishes.

    Attributes:
        per_file: whether its files have series of their own.
        max_series: how many of them at most, and how many aggregates; None: no bound.
    """

    per_file: bool = True
    max_series: int | None = None


class Journal:
    """What has changed since one reader of the ledger looked last; read and emptied by :meth:`Ledger.take`."""

    __slots__ = ("inodes", "is_urgent", "series", "totals")

    def __init__(self) -> None:
        self.series: set[Series] = set()
        self.totals: set[Totals] = set()
        self.inodes: set[Inode] = set()
        self.is_urgent = False
        """Whether something happened of which no trace is left on the disk: a truncation, a name that has gone."""

    def __bool__(self) -> bool:
        return bool(self.series or self.totals or self.inodes)

    def merge(self, other: Journal) -> None:
        """Put in what another one has."""
        self.series |= other.series
        self.totals |= other.totals
        self.inodes |= other.inodes
        self.is_urgent |= other.is_urgent


class Ledger:
    """Books every look at a file. Looks at one inode are to be reported in the order in which they were made.

    Args:
        groups: what each group publishes, by the group's number.
        grace_s: how long the series of a file that has gone stay, seconds, and two scrapes at least.
        urgent: set when something happened of which no trace is left on the disk.

    Attributes:
        lock: protects all of it; to be held while what the ledger has given is read.
        groups: each group's totals, by its number.
        aggregates: those of the aggregates, by group and label values.
        emptied: the inodes that were cut -> their sizes before that, until they are greater again. Whoever observes may
            read without the lock whether there are any.
    """

    def __init__(
        self, groups: Sequence[GroupRules], *, grace_s: float = 60.0, urgent: threading.Event | None = None
    ) -> None:
        self.lock = threading.RLock()
        self.groups = tuple(Totals(number) for number in range(len(groups)))
        self.aggregates: dict[tuple[int, tuple[str, ...]], Totals] = {}
        self._rules = tuple(groups)
        self._grace_s = grace_s
        self._series: dict[str, Series] = {}
        self._inodes: dict[Identity, Inode] = {}
        self._followed: dict[str, Inode] = {}  # what names lead to that are not declared
        self._origins: dict[str, str] = {}  # such names until they are looked at -> those that the files had before
        self._lost: dict[Identity, Inode] = {}  # those without a name, the longest lost first
        self.emptied: dict[Identity, int] = {}
        self._forgotten_ns = _LONG_AGO  # the latest birth among those forgotten
        self._restored: dict[tuple[int, int, str], Inode] = {}  # by number, birth and last name; until the end of it
        self._is_restoring = False
        self._gone: dict[Series, _Gone] = {}
        self._published = [0] * len(groups)
        self._published_aggregates = [0] * len(groups)
        self._waiting: list[dict[Series, None]] = [{} for _ in groups]  # files there, for a place among max_series
        self._hidden: set[str] = set()
        self._journals: list[Journal] = []
        self._urgent = urgent or threading.Event()

    # -- reporting ----------------------------------------------------------------------------------------------------

    def declare(self, path: str, labels: Labels, *, since_ns: int, is_new: bool) -> None:
        """Have a path published from its next look on; of one that is, nothing changes.

        Args:
            path: the file.
            labels: what it is published under. Others than before end its series and begin another one.
            since_ns: an inode that was born since then counts from its first byte, an older one from the size that is
                seen first; nanoseconds since the epoch.
            is_new: whether to take the first inode seen for born since then where the filesystem does not tell. (Those
                that take its place are.)
        """
        with self.lock:
            series = self._series.get(path)
            if series is None:
                if (inode := self._followed.get(path)) is not None:
                    self._leave(path, None, inode)
            elif series.labels == labels:
                return
            else:
                if series.is_present:
                    self._vanish(series)
                self._end(series)
            self._origins.pop(path, None)
            self._begin(path, labels, since_ns=since_ns, is_new=is_new)

    def outgrows_cut(self, stats: FileStats) -> int | None:
        """Say whether these stats show that an inode that was cut is greater than before that.

        Returns:
            If so the size that is known of it, else None. Behind that size may be a hole: a writer may have gone on at
            its old offset.
        """
        with self.lock:
            if stats.size > self.emptied.get(stats.identity, stats.size):
                return self._inodes[stats.identity].size
            return None

    def observe(self, path: str, stats: FileStats | None, data_begins: int = 0) -> None:
        """Book a look.

        Args:
            path: the file. Of one that is not declared only growth of inodes that are known, or expected there, is
                booked.
            stats: what was seen; None when nothing is there.
            data_begins: where :meth:`outgrows_cut` gives a size: the first byte from there on that is not zero.
        """
        with self.lock:
            # A busy file comes by here a thousand times a second, so what it needs is spelled out and read once.
            series = self._series.get(path)
            inode = self._followed.get(path) if series is None else series.inode if series.is_present else None
            origin = self._origins.pop(path, path) if self._origins else path
            if stats is None:
                if series is not None:
                    self._vanish(series)
                elif inode is not None:
                    self._leave(path, None, inode)
                return
            size, mtime_ns = stats.size, stats.mtime_ns
            if inode is None or inode.identity != stats.identity:
                inode = self._move(path, series, inode, stats, origin)
                if inode is None:
                    return
            is_change = size != inode.size or mtime_ns != inode.mtime_ns
            if is_change:
                self._change(inode, size, mtime_ns, data_begins)
            if series is not None and series.stats is not stats:
                before, series.stats = series.stats, stats
                for totals in series.totals:
                    if mtime_ns >= totals.newest_mtime_ns:
                        totals.newest, totals.newest_mtime_ns, totals.newest_is_known = series, mtime_ns, True
                    elif totals.newest is series:
                        totals.newest_is_known = False
                if inode.series is not series if is_change else before != stats:
                    self._note(series)

    def expect(self, path: str, origin: str) -> None:
        """Tell where a file was before it got a name that is not declared, for the next look at that name.

        A file that was never looked at under its first name pays into the series of that all the same.

        Args:
            path: the name that it has now.
            origin: the name that it had, which is declared.
        """
        with self.lock:
            if path not in self._followed and path not in self._series:
                self._origins[path] = origin

    def hide(self, paths: Collection[str]) -> None:
        """Tell which files can not be looked at just now, all of them: those are not shown."""
        with self.lock:
            for path in self._hidden.symmetric_difference(paths):
                series = self._series.get(path)
                if series is not None:
                    series.is_hidden = path in paths
                    self._note(series)
            self._hidden = set(paths)

    def expire(self, now_s: float, *, is_scrape: bool) -> None:
        """End the series of files that have been gone for long enough.

        Args:
            now_s: a monotonic clock, seconds.
            is_scrape: whether they are shown just now.
        """
        with self.lock:
            for series, gone in tuple(self._gone.items()):
                if gone.since_s is None:
                    gone.since_s = now_s
                elapsed_s = now_s - gone.since_s
                is_shown = gone.scrapes >= SCRAPES_OF_A_GONE_FILE or elapsed_s >= NOBODY_SCRAPES_S
                if is_shown and elapsed_s >= self._grace_s:
                    self._end(series)
                elif is_scrape:
                    gone.scrapes += 1

    # -- reading ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many paths are declared, those in their grace included."""
        return len(self._series)

    def __contains__(self, path: str) -> bool:
        return path in self._series

    def series(self) -> Iterable[Series]:
        """All series, those that are not published included."""
        return self._series.values()

    def inodes(self) -> Iterable[Inode]:
        """All inodes that are known."""
        return self._inodes.values()

    def inode(self, identity: Identity) -> Inode | None:
        """The inode of this identity, if it is known."""
        return self._inodes.get(identity)

    def at(self, path: str) -> Inode | None:
        """What a path leads to, as far as known."""
        series = self._series.get(path)
        if series is not None:
            return series.inode if series.is_present else None
        return self._followed.get(path)

    def emptied_from(self, inode: Inode) -> int | None:
        """The size of an inode before it was found cut; None once it has grown beyond that."""
        return self.emptied.get(inode.identity)

    @property
    def has_gone(self) -> bool:
        """Whether there are series for :meth:`expire` to end."""
        return bool(self._gone)

    def lost(self) -> list[Inode]:
        """The inodes that have no name at present."""
        with self.lock:
            return list(self._lost.values())

    def followed(self) -> list[str]:
        """The names that are not declared and lead to inodes that are known."""
        with self.lock:
            return list(self._followed)

    def find_newest(self) -> None:
        """Bring the ``newest`` of all totals up to date."""
        with self.lock:
            unknown = {totals for totals in self._all_totals() if not totals.newest_is_known}
            if not unknown:
                return
            for totals in unknown:
                totals.newest, totals.newest_mtime_ns, totals.newest_is_known = None, _LONG_AGO, True
            for series in self._series.values():
                if series.is_present and series.stats is not None:
                    mtime_ns = series.stats.mtime_ns
                    for totals in series.totals:
                        if totals in unknown and mtime_ns >= totals.newest_mtime_ns:
                            totals.newest, totals.newest_mtime_ns = series, mtime_ns

    def journal(self) -> Journal:
        """Begin a journal for a reader; everything that is known already is in it."""
        with self.lock:
            journal = Journal()
            self.fill(journal)
            self._journals.append(journal)
            return journal

    def discard(self, journal: Journal) -> None:
        """Write nothing into a journal any more."""
        with self.lock:
            self._journals = [each for each in self._journals if each is not journal]

    def fill(self, journal: Journal) -> None:
        """Put everything that is known into a journal."""
        with self.lock:
            journal.series.update(self._series.values())
            journal.inodes.update(self._inodes.values())
            journal.totals.update(self._all_totals())

    def take(self, journal: Journal) -> Journal:
        """Give what is in a journal, and empty it. What has ended or was forgotten is in it too."""
        with self.lock:
            taken = Journal()
            taken.series, journal.series = journal.series, taken.series
            taken.totals, journal.totals = journal.totals, taken.totals
            taken.inodes, journal.inodes = journal.inodes, taken.inodes
            taken.is_urgent, journal.is_urgent = journal.is_urgent, False
            for inode in taken.inodes:
                taken.series.add(inode.series)
                taken.totals.update(inode.series.totals)
            return taken

    # -- going on where another ledger was: the series first, then the rest, then looks, then the end of it ------------
    # What is restored twice is as it was told last.

    def restore_series(
        self, path: str, labels: Labels, counters: Counters, *, is_counting: bool, since_ns: int
    ) -> None:
        """Declare a path and set its counters; it is published once its file is seen."""
        with self.lock:
            series = self._series.get(path) or self._begin(path, labels, since_ns=since_ns, is_new=False)
            counters.set(series)
            series.is_counting = is_counting
            series.inode = None
            self._gone[series] = _Gone()

    def restore_last_look(self, path: str, stats: FileStats) -> None:
        """Show a series whose file has gone as it was seen last, for its grace."""
        with self.lock:
            series = self._series.get(path)
            if series is not None and series.stats is None:
                series.stats = stats
                self._admit(series)
                self._withdraw(series)
                self._note(series)

    def restore_grace(self, other: Ledger, paths: Container[str]) -> None:
        """Have the series of files that have gone end when they would have ended in another ledger, if they have not.

        Args:
            other: it knows the files that were restored; its lock is held.
            paths: those.
        """
        with self.lock:
            for series, gone in tuple(self._gone.items()):
                twin = other._series.get(series.path)
                if twin is None and series.path in paths:
                    self._end(series)
                elif twin in other._gone:
                    gone.since_s, gone.scrapes = other._gone[twin].since_s, other._gone[twin].scrapes

    def restore_totals(self, group: int, values: tuple[str, ...], counters: Counters) -> None:
        """Set the counters of a group or an aggregate; of an aggregate without series nothing is kept."""
        with self.lock:
            totals = self.aggregates.get((group, values)) if values else self.groups[group]
            if totals is not None:
                counters.set(totals)
                self._note_totals(totals)

    def restore_inode(
        self,
        identity: Identity,
        size: int,
        mtime_ns: int,
        last_name: str,
        emptied_from: int | None,
        *,
        home: str,
        group: int,
        is_latest: bool,
    ) -> None:
        """Remember an inode.

        Args:
            identity, size, mtime_ns, last_name: as of :class:`Inode`.
            emptied_from: see :meth:`emptied_from`.
            home: the path of the series that it pays into.
            group: of that series, should it not be there: its growth is worth something to the totals all the same.
            is_latest: whether it is what was seen last at its home.
        """
        with self.lock:
            self._is_restoring = True
            series = self._series.get(home) or self._ended(home, group)
            series.is_counting = True
            inode = self._inodes.get(identity)
            if inode is None:
                inode = self._inodes[identity] = self._lost[identity] = Inode(
                    identity, size, mtime_ns, series, last_name
                )
            else:
                inode.size, inode.mtime_ns, inode.series, inode.last_name = size, mtime_ns, series, last_name
            if is_latest:
                series.inode = inode
            if identity[2]:
                self._restored[identity[1], identity[2], last_name] = inode
            self.emptied.pop(identity, None)
            if emptied_from is not None:
                self.emptied[identity] = emptied_from
            self._note_inode(inode)

    def end_restoring(self) -> None:
        """Tell that every file was looked at once. Until then all that was restored is remembered."""
        with self.lock:
            self._is_restoring = False
            self._restored.clear()
            self._forget_the_longest_lost()

    # -- below here, every method is called with the lock held --------------------------------------------------------

    def _begin(self, path: str, labels: Labels, *, since_ns: int, is_new: bool) -> Series:
        totals = self.groups[labels.group]
        if labels.aggregate:
            totals = self._aggregate(totals, labels.aggregate)
        for each in totals.payees:
            each.series += 1
        series = self._series[path] = Series(path, labels, totals.payees, since_ns=since_ns, is_new=is_new)
        self._note(series)
        return series

    def _aggregate(self, group: Totals, values: tuple[str, ...]) -> Totals:
        key = group.group, values
        totals = self.aggregates.get(key)
        if totals is None:
            totals = self.aggregates[key] = Totals(group.group, values, group.payees)
            most = self._rules[group.group].max_series
            totals.is_published = most is None or self._published_aggregates[group.group] < most
            self._published_aggregates[group.group] += totals.is_published
        return totals

    def _end_aggregate(self, totals: Totals) -> None:
        totals.has_ended = True
        del self.aggregates[totals.group, totals.values]
        if totals.is_published:
            heir = next((each for each in self.aggregates.values() if _is_waiting(each, totals.group)), None)
            if heir is None:
                self._published_aggregates[totals.group] -= 1
            else:
                heir.is_published = True
                self._note_totals(heir)

    def _move(
        self, path: str, series: Series | None, before: Inode | None, stats: FileStats, origin: str
    ) -> Inode | None:
        """A path leads to another inode than before; return it. None: one that nobody wants to know of."""
        inode = self._inodes.get(stats.identity)
        if inode is None and self._restored:
            # Devices may have other numbers after a reboot. A snapshot or a backup, which may have the same files with
            # the same births, has them under other names.
            old = self._restored.get((stats.inode, stats.birth_ns, path))
            if old is not None and old.identity in self._lost:
                inode = self._renumber(old, stats.identity)
        if before is not None:
            self._leave(path, series, before)
        if inode is None:
            home = self._series.get(origin)
            if home is None:
                return None
            inode = self._meet(home, stats)
            if home is not series:  # and when it lost the name of its home, another one took its place
                home.rotations += 1
                for totals in home.totals:
                    totals.rotations += 1
        self._arrive(path, series, inode, stats)
        return inode

    def _renumber(self, old: Inode, identity: Identity) -> Inode:
        inode = Inode(identity, old.size, old.mtime_ns, old.series, old.last_name)
        if old.series.inode is old:
            old.series.inode = inode
        if old.identity in self.emptied:
            self.emptied[identity] = self.emptied[old.identity]
        self._forget(old)
        self._inodes[identity] = self._lost[identity] = inode
        return inode

    def _meet(self, series: Series, stats: FileStats) -> Inode:
        """An inode is seen for the first time."""
        birth_ns = stats.birth_ns
        if birth_ns:
            is_born_since = birth_ns >= series.since_ns and birth_ns > self._forgotten_ns
        else:
            is_born_since = series.is_new or series.stats is not None
        inode = Inode(stats.identity, stats.size, stats.mtime_ns, series, series.path)
        self._inodes[inode.identity] = inode
        series.is_counting = True
        if is_born_since:
            series.appended_bytes += stats.size
            for totals in series.totals:
                totals.appended_bytes += stats.size
        return inode

    def _arrive(self, path: str, series: Series | None, inode: Inode, stats: FileStats) -> None:
        """A path leads to an inode that it did not lead to before."""
        self._lost.pop(inode.identity, None)
        inode.names = (*inode.names, path)
        inode.last_name = path
        self._note_inode(inode)
        if series is None:
            self._followed[path] = inode
            return
        before, series.inode = series.inode, inode
        if inode.series.has_ended:
            self._home(inode)
        if before is not None and before is not inode and before.series is series:
            # One look is one change: the other one is booked when the inode is found to have changed.
            is_booked = inode.series is series and (stats.size, stats.mtime_ns) != (inode.size, inode.mtime_ns)
            series.rotations += 1
            series.changes += not is_booked
            for totals in series.totals:
                totals.rotations += 1
                totals.changes += not is_booked
            self._note_inode(before)
        if not series.is_present:
            series.is_present = True
            self._gone.pop(series, None)
            for totals in series.totals:
                totals.files += 1
                totals.unlabelled += series.labels.is_unlabelled
            self._admit(series)
        if inode.held_by is None:
            self._hold(inode, series)
        self._note(series)

    def _leave(self, path: str, series: Series | None, inode: Inode) -> None:
        """A path does not lead to its inode any more."""
        inode.names = tuple(name for name in inode.names if name != path)
        if series is None:
            del self._followed[path]
        elif inode.held_by is series:
            declared = [name for name in inode.names if name in self._series]
            self._hold(inode, self._series[min(declared)] if declared else None)
        if not inode.names:
            inode.last_name = path
            self._lost[inode.identity] = inode
            self._forget_the_longest_lost()
            self._note_urgent()
        self._note_inode(inode)

    def _vanish(self, series: Series) -> None:
        """Nothing is there any more."""
        if series.is_present:
            assert series.inode is not None
            self._leave(series.path, series, series.inode)
            series.is_present = False
            self._gone[series] = _Gone()
            self._withdraw(series)
            for totals in series.totals:
                totals.files -= 1
                totals.unlabelled -= series.labels.is_unlabelled
                totals.newest_is_known &= totals.newest is not series
            self._note(series)
        elif series not in self._gone:  # declared, and never seen
            if series.is_counting:  # but what was there had got another name
                self._gone[series] = _Gone()
            else:
                self._end(series)

    def _forget_the_longest_lost(self) -> None:
        while len(self._lost) > LOST_INODES and not self._is_restoring:
            inode = next(iter(self._lost.values()))
            # Should it come back it must not count from its first byte again.
            self._forgotten_ns = max(self._forgotten_ns, inode.identity[2])
            self._forget(inode)

    def _forget(self, inode: Inode) -> None:
        del self._lost[inode.identity], self._inodes[inode.identity]
        self.emptied.pop(inode.identity, None)
        self._note_inode(inode)

    def _end(self, series: Series) -> None:
        self._gone.pop(series, None)
        del self._series[series.path]
        series.has_ended = True
        if series.is_published:
            series.is_published = False
            group = series.labels.group
            self._published[group] -= 1
            if self._waiting[group]:
                first = next(iter(self._waiting[group]))
                self._withdraw(first)
                self._admit(first)
                self._note(first)
        for totals in series.totals:
            totals.series -= 1
            if totals.values and not totals.series:
                self._end_aggregate(totals)
        if series.inode is not None and series.inode.series is series:
            self._home(series.inode)
            self._note_inode(series.inode)
        self._note(series)

    def _admit(self, series: Series) -> None:
        """Give a series a place, or have it wait for one."""
        group = series.labels.group
        rules = self._rules[group]
        if series.is_published or not rules.per_file:
            return
        if rules.max_series is None or self._published[group] < rules.max_series:
            series.is_published = True
            self._published[group] += 1
        else:
            self._waiting[group][series] = None
            for totals in series.totals:
                totals.files_without_series += 1

    def _withdraw(self, series: Series) -> None:
        """Have a series wait no longer, if it does."""
        waiting = self._waiting[series.labels.group]
        if series in waiting:
            del waiting[series]
            for totals in series.totals:
                totals.files_without_series -= 1

    def _change(self, inode: Inode, size: int, mtime_ns: int, data_begins: int) -> None:
        """Book that an inode has another size or modification time."""
        grown = appended = size - inode.size
        series = self._home(inode) if inode.series.has_ended else inode.series
        if self.emptied and size > self.emptied.get(inode.identity, size):
            del self.emptied[inode.identity]
            appended = min(appended, max(0, size - data_begins))
        if grown < 0:
            appended = size
            self.emptied[inode.identity] = max(inode.size, self.emptied.get(inode.identity, 0))
            series.truncations += 1
            for totals in series.totals:
                totals.truncations += 1
            self._note_urgent()
        inode.size, inode.mtime_ns = size, mtime_ns
        series.changes += 1
        series.appended_bytes += appended
        for totals in series.totals:
            totals.changes += 1
            totals.appended_bytes += appended
        holder = inode.held_by
        if holder is not None:
            for totals in holder.totals:
                totals.size_bytes += grown
            if holder is not series:
                self._note(holder)
        for journal in self._journals:
            journal.inodes.add(inode)  # its series and their totals: see take()

    def _home(self, inode: Inode) -> Series:
        """What an inode pays into, once that has ended: a later series of its path, or that of a name it has now.

        Without any its growth is worth something to the group.
        """
        for name in (inode.series.path, *sorted(inode.names)):
            series = self._series.get(name)
            if series is not None:
                self._note(inode.series)
                self._note_inode(inode)
                inode.series = series
                series.is_counting = True
                return series
        if inode.series.labels.aggregate:  # which may have ended too; the group never does
            inode.series = self._ended(inode.series.path, inode.series.labels.group)
        return inode.series

    def _ended(self, path: str, group: int) -> Series:
        """What an inode pays into whose series has ended and has no successor."""
        series = Series(path, Labels(group, ()), self.groups[group].payees, since_ns=0, is_new=False)
        series.has_ended = True
        return series

    def _hold(self, inode: Inode, series: Series | None) -> None:
        for holder, size in ((inode.held_by, -inode.size), (series, inode.size)):
            if holder is not None:
                for totals in holder.totals:
                    totals.size_bytes += size
                    self._note_totals(totals)
        inode.held_by = series

    def _all_totals(self) -> Iterator[Totals]:
        yield from self.groups
        yield from self.aggregates.values()

    def _note(self, series: Series) -> None:
        for journal in self._journals:
            journal.series.add(series)
            journal.totals.update(series.totals)

    def _note_totals(self, totals: Totals) -> None:
        for journal in self._journals:
            journal.totals.add(totals)

    def _note_urgent(self) -> None:
        for journal in self._journals:
            journal.is_urgent = True
        self._urgent.set()

    def _note_inode(self, inode: Inode) -> None:
        for journal in self._journals:
            journal.inodes.add(inode)


def _is_waiting(aggregate: Totals, group: int) -> bool:
    return aggregate.group == group and not aggregate.is_published


class _Gone:
    """Since when the file of a series is gone (None: since the latest :meth:`Ledger.expire`), and scrapes since."""

    __slots__ = ("scrapes", "since_s")

    def __init__(self) -> None:
        self.since_s: float | None = None
        self.scrapes = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of a series or of totals, to be set again after a restart."""

    changes: int
    appended_bytes: int
    truncations: int
    rotations: int

    @classmethod
    def of(cls, book: Series | Totals) -> Counters:
        """Copy them."""
        return cls(book.changes, book.appended_bytes, book.truncations, book.rotations)

    def set(self, book: Series | Totals) -> None:
        """Write them back."""
        book.changes = self.changes
        book.appended_bytes = self.appended_bytes
        book.truncations = self.truncations
        book.rotations = self.rotations
