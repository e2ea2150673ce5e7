"""The facts as one configuration publishes them: labels, groups, aggregates, `max_series`, zeros and the grace."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

from exporter.config.groups import DIRECTORIES, DISK, OLDEST_MTIME, LogGroup
from exporter.ledger.books import Booking, Counters
from exporter.ledger.facts import Facts
from exporter.ledger.records import Path
from exporter.matching.labels import Labeller, LabelRule
from exporter.publication.oldest import Oldest
from exporter.publication.places import Places
from exporter.publication.rows import LONG_AGO_NS, Row, Totals
from exporter.publication.zeros import Zeros
from fstat_cache import DetailedStats

SCRAPES_OF_A_GONE_FILE = 2
"""How many scrapes show a gone file before its path ends; scrapes that show its counters as 0 do not count."""
NOBODY_SCRAPES_S = 300.0
"""How long to wait for these scrapes: Prometheus needs one every five minutes, or a series becomes stale."""
AT_ONCE = 1_000
"""How many paths :meth:`Publication.catch_up` processes before it lets other threads run."""


class Changed(NamedTuple):
    """The rows and totals that have changed, ended ones included."""

    rows: set[Row]
    totals: set[Totals]


class Publication:
    """Keeps rows and totals up to date with the facts. Safe to call from several threads: the facts' lock protects all.

    Args:
        facts: what to publish.
        groups: the groups of the configuration.
        realms: name of a group -> its number.
        first: the number of the first group in ``Path.groups``; the others follow.
        grace_s: how long the rows of a gone file stay, seconds, and at least for two scrapes.
        zeros: position of a group whose files and aggregates show their counters as 0 when they are born -> for how
            long, see :class:`Zeros`.
        before: the publication of the present configuration, which this one replaces by :meth:`take_over`.

    Attributes:
        facts: as given.
        config: the groups.
        labeller: gives the labels of files.
        group_labels: each group's labels, by its position in the configuration; all of its series have them, and so
            have those of its aggregates.
        positions: realm -> the group's position in the configuration.
        rows: all rows, including unpublished ones.
        groups: each group's totals, by its position in the configuration.
        aggregates: the totals of the aggregates, by position and label values.
        oldest: position -> finds the file that was modified longest ago, of groups that show it.
        directories: position -> directory -> number of its present files, of groups that show how many there are.
        unsaved: totals whose counters must be saved; None while no state is saved.
    """

    def __init__(
        self,
        facts: Facts,
        groups: Sequence[LogGroup],
        realms: Mapping[str, int],
        *,
        first: int = 0,
        grace_s: float = 60.0,
        zeros: Mapping[int, float] = MappingProxyType({}),
        before: Publication | None = None,
    ) -> None:
        self.facts = facts
        self.config = tuple(groups)
        rules = [LabelRule(group.group, group.labels, group.path_regex) for group in groups]
        self.labeller = Labeller(rules)
        self.group_labels = tuple(rule.group_labels for rule in rules)
        self.rows: dict[Path, Row] = {}
        self.groups = tuple(Totals(position) for position in range(len(groups)))
        for totals in self.groups:
            totals.lineage = (totals,)
        self.aggregates: dict[tuple[int, tuple[str, ...]], Totals] = {}
        self.oldest = {at: Oldest() for at, group in enumerate(groups) if OLDEST_MTIME in group.metrics}
        self.directories = {at: Counter[str]() for at, group in enumerate(groups) if DIRECTORIES in group.metrics}
        self.unsaved: set[Totals] | None = None
        self._first = first
        self._realms = [realms[group.group] for group in groups]
        self.positions = {realm: position for position, realm in enumerate(self._realms)}
        self._aggregate_by = [self.labeller.positions(group.aggregate_by) for group in groups]
        self._grace_s = grace_s
        self._places = [Places[Row](group.max_series) for group in groups]
        self._aggregate_places = [Places[Totals](group.max_series) for group in groups]
        self._gone: dict[Path, _Gone] = {}
        self._zeros = Zeros(zeros)
        self._kept: set[Path] = set()  # see keep_gone()
        self._disk_bytes: dict[Row, int] = {}  # what each row adds to its totals, of groups that ask for it
        self._changed = Changed(set(), set(self.groups))
        self._before = before
        self._bookings = facts.reader()

    # -- processing bookings ------------------------------------------------------------------------------------------

    def update(self) -> None:
        """Process the bookings since the latest call."""
        with self.facts.lock:
            for path, booking in self._take_bookings():
                self._apply(path, booking)

    def catch_up(self) -> None:
        """Process bookings until few are left, in batches between which other threads run."""
        while True:
            with self.facts.lock:
                taken = self._take_bookings()
            for batch in _batches(taken):
                with self.facts.lock:
                    for path, booking in batch:
                        self._apply(path, booking)
                time.sleep(0.001)  # else this thread takes the lock again before another one wakes up
            if len(taken) <= AT_ONCE:
                return

    def take(self) -> Changed:
        """Return what has changed since the latest call; the first call returns everything."""
        with self.facts.lock:
            changed, self._changed = self._changed, Changed(set(), set())
            return changed

    def put_back(self, changed: Changed) -> None:
        """Have the next :meth:`take` return these changes too."""
        with self.facts.lock:
            self._changed.rows.update(changed.rows)
            self._changed.totals.update(changed.totals)

    def position_of(self, groups: Iterable[int]) -> int | None:
        """Return the position of the group that publishes a file, given the groups that match it: the first one of this
        configuration, if any.
        """
        for number in groups:
            if 0 <= number - self._first < len(self.config):
                return number - self._first
        return None

    def expire(self, now_s: float, *, is_scrape: bool) -> None:
        """End the zeros that were shown for long enough, and the paths of files that have been gone for long enough.

        Args:
            now_s: a monotonic clock, seconds.
            is_scrape: whether a scrape shows them now.
        """
        with self.facts.lock:
            self.update()
            self._end_zeros(now_s, is_scrape=is_scrape)
            for path, gone in tuple(self._gone.items()):
                row = self.rows.get(path)
                zero_for_s = self._zeros.duration_s(row) if row is not None and row.is_zero else 0
                if gone.since_s is None:
                    gone.since_s = now_s
                elapsed_s = now_s - gone.since_s
                is_shown = gone.scrapes >= SCRAPES_OF_A_GONE_FILE or elapsed_s >= NOBODY_SCRAPES_S + zero_for_s
                if is_shown and elapsed_s >= self._grace_s:
                    self.facts.end(path)
                    if path in self._kept:  # it had ended before
                        self._kept.discard(path)
                        self._apply(path, Booking())
                elif is_scrape and not zero_for_s:
                    gone.scrapes += 1
            self.update()

    def find_newest(self) -> None:
        """Bring the ``newest`` of all totals up to date."""
        with self.facts.lock:
            unknown = {totals for totals in self.totals() if not totals.newest_is_known}
            for totals in unknown:
                totals.newest, totals.newest_mtime_ns, totals.newest_is_known = None, LONG_AGO_NS, True
            for row in self.rows.values() if unknown else ():
                stats = row.path.stats
                if row.is_present and stats is not None:
                    for totals in row.totals:
                        if totals in unknown and stats.mtime_ns >= totals.newest_mtime_ns:
                            totals.newest, totals.newest_mtime_ns = row, stats.mtime_ns

    def totals(self) -> Iterator[Totals]:
        """Yield all totals: of the groups, then of the aggregates."""
        yield from self.groups
        yield from self.aggregates.values()

    def files_without_series(self, position: int) -> int:
        """Return how many files of a group have no series because of ``max_series``."""
        if self.config[position].per_file:
            return len(self._places[position].waiting)
        return sum(totals.files for totals in self._aggregate_places[position].waiting)

    # -- restoring, and replacing another publication -----------------------------------------------------------------

    def restore_totals(self, position: int, values: tuple[str, ...], counters: Counters) -> None:
        """Add to the counters of a group or an aggregate; an aggregate without rows is ignored."""
        with self.facts.lock:
            totals = self.aggregates.get((position, values)) if values else self.groups[position]
            if totals is not None:
                counters.add_to(totals)
                totals.is_zero = False  # it was not born: its series goes on
                self._changed.totals.add(totals)

    def take_over(self, groups_of: Callable[[str], Iterable[int]]) -> None:
        """Replace the publication before: copy its totals, places and graces, and close it.

        A byte counts in the totals that published it. So far this publication has counted only paths that the other
        one does not publish. Paths that only the other one publishes are dropped.

        Args:
            groups_of: gives the numbers of the groups that match a path. An ended home moves to the group that matches
                it now. So its inode still has a home there when it gets a name again.
        """
        with self.facts.lock:
            before = self._before
            assert before is not None
            self.update()
            known = {before.label_set(totals): (Counters.of(totals), totals.is_zero) for totals in before.totals()}
            self.facts.drop({path for path in before.rows.keys() - self.rows.keys() if not path.has_ended})
            shown = {row.path: row.group for row in self.rows.values()}
            for home in {home for inode in self.facts.inodes.values() for home in inode.homes if home.has_ended}:
                position = self.position_of(groups_of(home.name))
                if position is not None:
                    shown[home] = position
            self.facts.set_realms({path: self._realms[position] for path, position in shown.items()})
            self.update()
            for totals in self.totals():
                counters, is_zero = known.get(self.label_set(totals), (None, totals.is_zero))
                if counters is not None:
                    counters.add_to(totals)
                    self._set_zero(totals, is_zero=is_zero)
            for path, row in self.rows.items() if self._zeros else ():
                known_row = before.rows.get(path)
                if known_row is not None and (known_row.is_zero or row.is_zero):
                    self._set_zero(row, is_zero=known_row.is_zero)
                    self._changed.rows.add(row)
            self._copy_places(before)
            self._changed.totals.update(self.totals())
            self._gone |= before._gone
            self._before = None
            before.close()

    def keep_gone(self, paths: Set[Path]) -> None:
        """Drop paths from the facts, but keep their rows for the grace, as if their files had gone."""
        with self.facts.lock:
            self._kept |= paths
            self.facts.drop(paths, keeps_homes=True)

    def close(self) -> None:
        """End the publication: it gets no bookings any more.

        If it has not replaced another one yet, paths that only this one publishes are dropped.
        """
        with self.facts.lock:
            if self._before is not None:
                self.update()
                self.facts.drop(self.rows.keys() - self._before.rows.keys())
            self.facts.discard(self._bookings)

    def label_set(self, totals: Totals) -> tuple[str, bool, frozenset[tuple[str, str]]]:
        """Return what identifies totals, also after a reload. As in Prometheus, an empty label is no label.

        Static labels do not count: they are the same for the whole group, so its counters continue when they change.
        """
        group = self.config[totals.group]
        labels = dict(zip(group.aggregate_by, totals.values, strict=True)) if totals.values else {}
        own = frozenset((name, value) for name, value in labels.items() if value and name not in group.labels)
        return group.group, bool(totals.values), own

    # -- below here, every method is called with the lock held --------------------------------------------------------

    def _take_bookings(self) -> list[tuple[Path, Booking]]:
        """Return the bookings since the latest call."""
        before = self._before
        if before is not None:
            before.update()
        taken = list(self._bookings.items())
        self._bookings.clear()
        if before is not None:
            # First the paths that have a place under max_series, so that take_over() moves few places.
            published = {path for path, _ in taken if path in before.rows and before.rows[path].is_published}
            taken.sort(key=lambda item: item[0] not in published)
        return taken

    def _apply(self, path: Path, booking: Booking) -> None:
        row = self.rows.get(path)
        if row is not None:
            position: int | None = row.group
        elif (position := self._position(path)) is not None and not path.has_ended:
            row = self._begin(path, position)
        if row is None or not (path.is_present and row.is_present):
            self._note_presence(path, row)
        if row is not None and not row.has_counters and path.is_counting and path.stats is not None:
            row.has_counters = True
            self._zeros.begin(row)
        if position is None:
            return
        totals_of_path = self.groups[position].lineage if row is None else row.totals
        is_counted = self._before is None or self._before._position(path) is None
        mtime_ns = path.stats.mtime_ns if path.is_present and path.stats is not None else None
        for totals in totals_of_path:
            if is_counted:
                totals.changes += booking.changes
                totals.appended_bytes += booking.appended_bytes
                totals.truncations += booking.truncations
                totals.rotations += booking.rotations
            if row is not None:  # else the file is gone, and never was in the sum
                totals.size_bytes += booking.size_bytes
                if mtime_ns is not None and mtime_ns >= totals.newest_mtime_ns:
                    totals.newest, totals.newest_mtime_ns, totals.newest_is_known = row, mtime_ns, True
                elif totals.newest is row:
                    totals.newest_is_known = False
        self._changed.totals.update(totals_of_path)
        if self.unsaved is not None:
            self.unsaved.update(totals_of_path)
        if row is not None:
            self._changed.rows.add(row)
            if row.group in self.oldest:
                self.oldest[row.group].note(row, mtime_ns)
            if DISK in self.config[row.group].metrics:
                self._count_disk(row)
            if path.has_ended and path not in self._kept:
                self._end(row)

    def _position(self, path: Path) -> int | None:
        """Return the position of the group for which a path counts. An ended path counts for the group with its group's
        name, unless only the next configuration has matched it.
        """
        position = self.position_of(path.groups)
        if not path.has_ended:
            return position
        if position is None and any(number >= self._first + len(self.config) for number in path.groups):
            return None
        return self.positions.get(path.realm)

    def _begin(self, path: Path, position: int) -> Row:
        labels = self.labeller.label(position, path.name)
        totals = self.groups[position].lineage
        if self.config[position].aggregate_by:
            values = tuple([labels.values[at] for at in self._aggregate_by[position]])
            aggregate = self.aggregates.get((position, values))
            if aggregate is None:
                aggregate = self.aggregates[position, values] = Totals(position, values, is_published=False)
                aggregate.lineage = (*totals, aggregate)
                self._zeros.begin(aggregate)
                self._aggregate_places[position].ask(aggregate)
            totals = aggregate.lineage
        for each in totals:
            each.rows += 1
        row = self.rows[path] = Row(path, position, labels.values, totals, labels.is_unlabelled)
        known = None if self._before is None else self._before.rows.get(path)
        row.has_counters = known is not None and known.has_counters
        # A file that was created and deleted since the latest update is still published for its grace.
        if path.stats is not None if known is None else known.is_published:
            self._show(row)
        return row

    def _note_presence(self, path: Path, row: Row | None) -> None:
        """Note whether a file is present. A gone one gets its grace, published or not, after which expire() ends it."""
        if path.is_present or (path.has_ended and path not in self._kept):
            self._gone.pop(path, None)
        elif path.is_counting or path.stats is not None:  # else it waits for its first stat
            self._gone.setdefault(path, _Gone())
        if row is None:
            return
        if path.is_present != row.is_present:
            row.is_present = path.is_present
            for totals in row.totals:
                totals.files += 1 if row.is_present else -1
                totals.unlabelled += (1 if row.is_present else -1) if row.is_unlabelled else 0
            if (directories := self.directories.get(row.group)) is not None:
                directory = os.path.dirname(path.name)
                directories[directory] += 1 if row.is_present else -1
                if not directories[directory]:
                    del directories[directory]
        if row.is_present:
            self._show(row)
        else:
            self._places[row.group].waiting.pop(row, None)

    def _set_zero(self, item: Row | Totals, *, is_zero: bool) -> None:
        """Go on as the publication before; a zero may last longer, so its time begins anew."""
        item.is_zero = False
        if is_zero:
            self._zeros.begin(item)

    def _end_zeros(self, now_s: float, *, is_scrape: bool) -> None:
        for item in self._zeros.end(now_s, is_scrape=is_scrape):
            if isinstance(item, Totals):
                self._changed.totals.add(item)
                continue
            self._changed.rows.add(item)
            if item.path in self._gone:
                self._gone[item.path].since_s = None  # its grace begins now

    def _count_disk(self, row: Row) -> None:
        """Count the disk space of a row's file as its size is counted: at the path that holds its inode."""
        path, disk_bytes = row.path, 0
        is_held = path.is_present and path.inode is not None and path in path.inode.holders
        if is_held and isinstance(path.stats, DetailedStats):
            disk_bytes = path.stats.disk_bytes
        before = self._disk_bytes.pop(row, 0)
        if disk_bytes:
            self._disk_bytes[row] = disk_bytes
        for totals in row.totals:
            totals.disk_bytes += disk_bytes - before

    def _show(self, row: Row) -> None:
        if self.config[row.group].per_file:
            self._places[row.group].ask(row)

    def _end(self, row: Row) -> None:
        del self.rows[row.path]
        row.has_ended = True
        self._zeros.forget(row)
        heir = self._places[row.group].leave(row)
        if heir is not None:
            self._changed.rows.add(heir)
        for totals in row.totals:
            totals.rows -= 1
            if totals.values and not totals.rows:
                totals.has_ended = True
                self._zeros.forget(totals)
                del self.aggregates[totals.group, totals.values]
                next_one = self._aggregate_places[totals.group].leave(totals)
                if next_one is not None:
                    self._changed.totals.add(next_one)

    def _copy_places(self, before: Publication) -> None:
        """Give the places under max_series anew: first to the items that had one before, then to those that waited."""
        if all(places.bound is None for places in self._places):
            return
        waiting = [row.path for places in before._places for row in places.waiting]
        turns = {path: turn for turn, path in enumerate(waiting)}
        turns.update((path, -1) for path, row in before.rows.items() if row.is_published)
        waiting_totals = [totals for places in before._aggregate_places for totals in places.waiting]
        turns_of_totals = {before.label_set(totals): turn for turn, totals in enumerate(waiting_totals)}
        turns_of_totals.update((before.label_set(totals), -1) for totals in before.totals() if totals.is_published)
        for position, (places, aggregate_places) in enumerate(zip(self._places, self._aggregate_places, strict=True)):
            if places.bound is not None:
                rows = [row for row in self.rows.values() if row.group == position and self.config[position].per_file]
                asking = [row for row in rows if row.is_present or turns.get(row.path) == -1]
                asking.sort(key=lambda row: (turns.get(row.path, len(waiting)), not row.is_present))
                self._changed.rows.update(places.give(rows, asking))
                for row in asking:
                    if not row.is_present:
                        places.waiting.pop(row, None)
                aggregates = [totals for totals in self.aggregates.values() if totals.group == position]
                aggregates.sort(key=lambda totals: turns_of_totals.get(self.label_set(totals), len(waiting_totals)))
                aggregate_places.give(aggregates, aggregates)


@dataclass(slots=True, eq=False)
class _Gone:
    """Since when a path's file is gone (None: since the latest :meth:`Publication.expire`), and scrapes since then."""

    since_s: float | None = None
    scrapes: int = 0


def _batches(items: Iterable[tuple[Path, Booking]]) -> Iterator[list[tuple[Path, Booking]]]:
    remaining = iter(items)
    while batch := list(islice(remaining, AT_ONCE)):
        yield batch
