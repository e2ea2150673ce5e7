"""How the tracker of a new configuration takes the place of another one, so that no byte is lost or counted twice.

The successor shares the cache, so whatever is looked at is booked by both, in the same order. Its ledger is made from
the predecessor's, piece by piece; the last piece, and from when on it books what the other one books, is one moment.
So both have counted the same at all times, what was truncated or deleted meanwhile included. The successor then looks
for its files, while the predecessor is published. In the end whoever publishes one publishes the other instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from itertools import islice
from operator import add
from typing import TypeVar

from exporter.config.groups import LogGroup
from exporter.config.model import Config
from exporter.ledger.growth import Counters, Inode, Journal, Labels, Series, Totals
from exporter.tracker import Tracker
from fstat_cache import FileStats, file_time_ns

T = TypeVar("T")

AT_ONCE = 1_000
"""How many books are copied before others go on."""
MOST_ROUNDS = 10
"""How often what has changed during the copy is copied again while others go on."""


class Succession:
    """Makes a tracker that takes the place of another one, which is ready. Its methods are to be called in their order.

    Args:
        old: the other one. Until the end nobody else scans with it.
        old_config, new_config: what each is to follow.

    Attributes:
        new: the successor.
    """

    def __init__(self, old: Tracker, old_config: Config, new_config: Config) -> None:
        self.new = Tracker(new_config, predecessor=old)
        self._old = old
        self._old_groups, self._new_groups = old_config.logs, new_config.logs
        self._labels: dict[str, Labels | None] = {}  # of all that was copied

    def begin(self) -> None:
        """Have the successor know all that the other one knows, and hear from now on all that it hears."""
        self._old.refresh(0)
        self.new.since_ns = self._inherited_since()
        self._copy()
        self._restore_looks()

    def scan(self) -> None:
        """Have the successor look for its files."""
        self.new.scan()
        self.new.settle()

    def end(self, publish: Callable[[], object]) -> None:
        """Have the successor take the place of the other one.

        Args:
            publish: called in the moment from which on the successor's figures are those to be shown.
        """
        old, new = self._old, self.new
        as_of_ns = file_time_ns()
        old.cache.sync()
        with new.lock:
            old.refresh_locked(as_of_ns)  # who has begun to scrape it gets what is true now
            with old.ledger.lock, new.ledger.lock:
                self._carry_totals()
                new.ledger.restore_grace(old.ledger, self._labels)
                publish()
            new.succeed()

    def abandon(self) -> None:
        """Leave everything to the other one, whatever was done so far."""
        self.new.abandon()

    def _inherited_since(self) -> list[int]:
        """Since when unknown files are new: where their pattern was followed just so, the same as before, else now."""
        since = []
        for group, text in self.new.matcher.patterns.values():
            exclude = set(self._new_groups[group].exclude)
            before = [
                since_ns
                for since_ns, (old_group, old_text) in zip(
                    self._old.since_ns, self._old.matcher.patterns.values(), strict=True
                )
                if old_text == text and exclude.issuperset(self._old_groups[old_group].exclude)
            ]
            since.append(min(before, default=self._old.as_of_ns))
        return since

    def _copy(self) -> None:
        """Copy while others go on, and again what has changed meanwhile, until little is left; then that, at once."""
        old, new = self._old, self.new
        journal = old.ledger.journal()
        try:
            for _ in range(MOST_ROUNDS):
                taken = old.ledger.take(journal)
                if len(taken.series) + len(taken.inodes) < AT_ONCE:
                    break
                # Those first that have a place among max_series, so that they keep it.
                for series in _batches(sorted(taken.series, key=_has_no_place)):
                    self._label(series)
                    with old.ledger.lock:
                        self._copy_series(series)
                for inodes in _batches(_inodes_of(taken)):
                    with old.ledger.lock:
                        self._copy_inodes(inodes)
            self._label(taken.series)
            with old.lock, old.ledger.lock, new.ledger.lock:
                taken.merge(old.ledger.take(journal))
                self._label(taken.series)
                self._copy_series(taken.series)
                self._copy_inodes(_inodes_of(taken))
                new.begin_succession()
        finally:
            old.ledger.discard(journal)

    def _label(self, series: Iterable[Series]) -> None:
        for each in series:
            if each.path not in self._labels:
                match = self.new.matcher.match(each.path)
                self._labels[each.path] = None if match is None else self.new.labels(each.path, match)

    def _restore_looks(self) -> None:
        """Have what is there be there for the successor too, without another look, and what has gone be shown for its
        grace; those first that have a place among max_series, as above.
        """
        old, new = self._old, self.new
        with old.ledger.lock:
            known = list(old.ledger.series())
        for batch in _batches(sorted(known, key=_has_no_place)):
            with old.lock, old.ledger.lock, new.ledger.lock:
                for series in batch:
                    path = series.path
                    inode = old.ledger.at(path)
                    if path not in new.ledger or new.ledger.at(path) is not None or series.has_ended:
                        continue
                    if inode is not None:
                        device, number, birth_ns = inode.identity
                        new.ledger.observe(path, FileStats(inode.size, inode.mtime_ns, number, device, birth_ns))
                    elif series.stats is not None and series.is_published:
                        new.ledger.restore_last_look(path, series.stats)

    # -- with the old ledger's lock held ------------------------------------------------------------------------------

    def _copy_series(self, series: Iterable[Series]) -> None:
        for each in series:
            labels = self._labels[each.path]
            if labels is not None and not each.has_ended:
                self.new.ledger.restore_series(
                    each.path, labels, Counters.of(each), is_counting=each.is_counting, since_ns=each.since_ns
                )

    def _copy_inodes(self, inodes: Iterable[Inode]) -> None:
        ledger = self._old.ledger
        for inode in inodes:
            home = self._home(inode)
            if home is None or ledger.inode(inode.identity) is not inode:
                continue
            path, group = home
            self.new.ledger.restore_inode(
                inode.identity,
                inode.size,
                inode.mtime_ns,
                inode.last_name,
                ledger.emptied_from(inode),
                home=path,
                group=group,
                is_latest=inode.series.inode is inode and path == inode.series.path,
            )

    def _home(self, inode: Inode) -> tuple[str, int] | None:
        """The path whose series an inode pays into, and its group: as before if that is still meant, else of a name."""
        self._label([inode.series])
        for path in (inode.series.path, *sorted(inode.names)):
            labels = self._labels.get(path)
            if labels is not None:
                return path, labels.group
        return None

    # -- with the locks of both ledgers held --------------------------------------------------------------------------

    def _carry_totals(self) -> None:
        """Set the successor's totals: each byte counts in those in which it was published, if it was.

        In its own totals it has counted by other groups and labels until now.
        """
        old, new = self._old.ledger, self.new.ledger
        own: dict[Totals, list[int]] = {}  # what files have grown by that only the successor knows
        for series in new.series():
            if series.path not in self._labels and series.path not in self.new.mirrored:
                for totals in series.totals:
                    counted = own.setdefault(totals, [0, 0, 0, 0])
                    for place, value in enumerate(astuple(Counters.of(series))):
                        counted[place] += value
        before = {_label_set(totals, self._old_groups): totals for totals in (*old.groups, *old.aggregates.values())}
        for totals in (*new.groups, *new.aggregates.values()):
            counted = own.get(totals, [0, 0, 0, 0])
            same = before.get(_label_set(totals, self._new_groups))
            carried = (0, 0, 0, 0) if same is None else astuple(Counters.of(same))
            new.restore_totals(totals.group, totals.values, Counters(*map(add, carried, counted)))


def _label_set(totals: Totals, groups: Sequence[LogGroup]) -> tuple[str, bool, frozenset[tuple[str, str]]]:
    """What tells totals from others of the same metric, to Prometheus: an empty label is none."""
    group = groups[totals.group]
    labels = zip(group.aggregate_by, totals.values, strict=True) if totals.values else ()
    return group.group, bool(totals.values), frozenset((name, value) for name, value in labels if value)


def _has_no_place(series: Series) -> tuple[bool, bool]:
    return not all(totals.is_published for totals in series.totals), not series.is_published


def _inodes_of(taken: Journal) -> set[Inode]:
    return taken.inodes | {series.inode for series in taken.series if series.inode is not None}


def _batches(books: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(books)
    while batch := list(islice(remaining, AT_ONCE)):
        yield batch
        time.sleep(0.001)  # a lock alone would be taken again before another thread wakes up
