"""The published records: a row is a path with its labels, totals are sums over the rows of a group or an aggregate."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.ledger.records import Path

LONG_AGO_NS = -(1 << 64)
"""Before every time that a file can have."""


@dataclass(slots=True, eq=False)
class Totals:
    """Sums over the rows of a group or an aggregate. The counters never decrease, even when files are deleted.

    Attributes:
        group: the position of the group in its configuration.
        values: of the aggregate's labels; empty for a group's own totals.
        files: number of files that are present.
        unlabelled: number of present files whose path the group's ``path_regex`` does not match.
        size_bytes: sum of the sizes of present files, each inode once.
        changes, appended_bytes, truncations, rotations: sums over the paths, including ended ones.
        newest: the row of the file modified last, None when there is none; see ``newest_is_known``.
        newest_is_known: whether ``newest`` is up to date.
        newest_mtime_ns: the modification time of ``newest``; no file has a later one, even if it is out of date.
        disk_bytes: sum of the disk space of present files, each inode once; 0 where the group does not ask for it.
        lineage: all totals to which a row of these adds: the group's, and the aggregate's if these are an aggregate's.
        rows: how many rows add to these.
        is_published: whether these are published; ``max_series`` also bounds a group's aggregates.
        is_zero: whether their counters are shown as 0, because the aggregate was born.
        has_ended: whether the last row of this aggregate has ended; another aggregate with the same labels may follow.
    """

    group: int
    values: tuple[str, ...] = ()
    is_published: bool = True
    is_zero: bool = False
    files: int = 0
    unlabelled: int = 0
    size_bytes: int = 0
    changes: int = 0
    appended_bytes: int = 0
    truncations: int = 0
    rotations: int = 0
    newest: Row | None = None
    newest_is_known: bool = True
    newest_mtime_ns: int = LONG_AGO_NS
    disk_bytes: int = 0
    rows: int = 0
    has_ended: bool = False
    lineage: tuple[Totals, ...] = ()


@dataclass(slots=True, eq=False)
class Row:
    """A path as one configuration publishes it.

    Attributes:
        path: the path's record in the facts.
        group: the position of its group in the configuration.
        values: its label values.
        is_unlabelled: whether its group's ``path_regex`` does not match its path.
        totals: those of its group, then of its aggregate if it has one.
        is_present: whether its totals count it as a present file.
        is_published: whether it has samples of its own.
        has_counters: whether its counters have begun; a row is born when they begin.
        is_zero: whether its counters are shown as 0, because it was born.
        has_ended: whether the row was removed for good.
    """

    path: Path
    group: int
    values: tuple[str, ...]
    totals: tuple[Totals, ...]
    is_unlabelled: bool
    is_present: bool = False
    is_published: bool = False
    has_counters: bool = False
    is_zero: bool = False
    has_ended: bool = False
