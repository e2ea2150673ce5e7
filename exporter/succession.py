"""How the tracker of a new configuration takes the place of another one, so that no byte is lost or counted twice.

The successor shares the cache, so whatever is looked at is booked by both, in the same order. Its ledger is made from
the predecessor's, piece by piece; the last piece, and from when on it books what the other one books, is one moment.
So both have counted the same at all times, what was truncated or deleted meanwhile included. The successor then looks
for its files, while the predecessor is published. In the end whoever publishes one publishes the other instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from exporter.config import Config, LogGroup
from exporter.growth import Counters, Inode, Journal, Labels, Series, Totals
from exporter.tracker import Tracker
from fstat_cache import FileStats

T = TypeVar("T")

AT_ONCE = 1_000
"""How many books are copied before others go on."""
MOST_ROUNDS = 10
"""How often what has changed during the copy is copied again while others go on."""


def make_successor(
    old: Tracker, old_config: Config, new_config: Config, on_change: Callable[[], object] | None = None
) -> Tracker:
    """Make a tracker that knows all that another one knows, and hears from now on all that it hears.

    Args:
        old: the other one; it is ready. Nobody else scans with it, or makes another successor.
        old_config, new_config: what each is to follow.
        on_change: as of :class:`Tracker`.

    Returns:
        The successor, which hears what the other one hears. What it is to do next is to scan, to settle and to succeed;
        or to abandon it.
    """
    new = Tracker(new_config, on_change, predecessor=old)
    old.refresh(0)
    new.since_ns = _inherited_since(old, old_config.logs, new, new_config.logs)
    try:
        _Copy(old, new, old_config.logs, new_config.logs).make()
        _restore_looks(old, new)
    except BaseException:
        new.abandon()
        raise
    return new


def _inherited_since(
    old: Tracker, old_groups: Sequence[LogGroup], new: Tracker, groups: Sequence[LogGroup]
) -> list[int]:
    """Since when unknown files are new: where their pattern was followed already, the same as before, else now."""
    since = []
    for group, text in new.matcher.patterns:
        exclude = set(groups[group].exclude)
        before = [
            since_ns
            for since_ns, (old_group, old_text) in zip(old.since_ns, old.matcher.patterns, strict=True)
            if old_text == text and exclude.issuperset(old_groups[old_group].exclude)
        ]
        since.append(min(before, default=old.as_of_ns))
    return since


class _Copy:
    """Has a new ledger go on where an old one is."""

    def __init__(
        self, old: Tracker, new: Tracker, old_groups: Sequence[LogGroup], new_groups: Sequence[LogGroup]
    ) -> None:
        self._old, self._new = old, new
        self._old_groups, self._new_groups = old_groups, new_groups
        numbers = {group.group: number for number, group in enumerate(new_groups)}
        self._numbers = [numbers.get(group.group) for group in old_groups]  # None: that group is no more
        self._labels: dict[str, Labels | None] = {}
        self._journal = old.ledger.journal()

    def make(self) -> None:
        """Copy while others go on, and again what has changed meanwhile, until little is left; then that, at once."""
        old, new = self._old, self._new
        try:
            for _ in range(MOST_ROUNDS):
                taken = old.ledger.take(self._journal)
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
                taken.merge(old.ledger.take(self._journal))
                self._label(taken.series)
                self._copy_series(taken.series)
                self._copy_inodes(_inodes_of(taken))
                self._copy_totals()
                new.begin_succession()
        finally:
            old.ledger.discard(self._journal)

    def _label(self, series: Iterable[Series]) -> None:
        for each in series:
            if each.path not in self._labels:
                match = self._new.matcher.match(each.path)
                self._labels[each.path] = None if match is None else self._new.labels(each.path, match)

    # -- with the old ledger's lock held ------------------------------------------------------------------------------

    def _copy_series(self, series: Iterable[Series]) -> None:
        for each in series:
            labels = self._labels[each.path]
            if labels is not None and not each.has_ended:
                self._new.ledger.restore_series(
                    each.path, labels, Counters.of(each), is_counting=each.is_counting, since_ns=each.since_ns
                )

    def _copy_inodes(self, inodes: Iterable[Inode]) -> None:
        ledger = self._old.ledger
        for inode in inodes:
            home = self._home(inode)
            if home is None or ledger.inode(inode.identity) is not inode:
                continue
            path, group = home
            self._new.ledger.restore_inode(
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

    def _copy_totals(self) -> None:
        old, new = self._old.ledger, self._new.ledger
        for totals, number in zip(old.groups, self._numbers, strict=True):
            if number is not None:
                new.restore_totals(number, (), Counters.of(totals))
        before = {self._label_set(totals, self._old_groups): totals for totals in old.aggregates.values()}
        for key, totals in new.aggregates.items():
            same = before.get(self._label_set(totals, self._new_groups))
            if same is not None:
                new.restore_totals(*key, Counters.of(same))

    @staticmethod
    def _label_set(totals: Totals, groups: Sequence[LogGroup]) -> tuple[str, frozenset[tuple[str, str]]]:
        """What tells the series of an aggregate from others, to Prometheus: an empty label is none."""
        group = groups[totals.group]
        labels = zip(group.aggregate_by, totals.values, strict=True)
        return group.group, frozenset((name, value) for name, value in labels if value)


def _restore_looks(old: Tracker, new: Tracker) -> None:
    """Have what is there be there for the new ledger too, without another look, and what has gone shown for its grace.

    Those first that have a place among max_series, as above.
    """
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


def _has_no_place(series: Series) -> tuple[bool, bool]:
    return not all(totals.is_published for totals in series.totals), not series.is_published


def _inodes_of(taken: Journal) -> set[Inode]:
    return taken.inodes | {series.inode for series in taken.series if series.inode is not None}


def _batches(books: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(books)
    while batch := list(islice(remaining, AT_ONCE)):
        yield batch
        time.sleep(0.001)  # a lock alone would be taken again before another thread wakes up
