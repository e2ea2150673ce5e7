"""What is shown: a row is a path under its labels, totals are the sums over the rows of a group or an aggregate."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.ledger.inodes import Path

LONG_AGO_NS = -(1 << 64)
"""Before every time that a file can have."""


@dataclass(slots=True, eq=False)
class Totals:
    """Sums over the rows of a group or an aggregate. The counters never decrease, whatever becomes of the files.

    Attributes:
        group: the position of the group in its configuration.
        values: of the aggregate's labels; empty for a group's own totals.
        files: files that are there.
        unlabelled: those of them whose path the group's expression does not match.
        size_bytes: sum of their sizes, each inode once.
        changes, appended_bytes, truncations, rotations: sums over the paths, those that have ended included.
        newest: the row of the file that was modified last, None when there is none; ``newest_is_known`` says whether it
            is up to date.
        newest_mtime_ns: its time; no file has a later one, be it up to date or not.
        lineage: what a row of theirs adds to: these, after their group's if they are an aggregate's.
        rows: how many rows add to these.
        is_published: whether these are shown; ``max_series`` bounds the aggregates of a group too.
        has_ended: whether these are of an aggregate whose last row has ended; another one with the same labels may
            follow.
    """

    group: int
    values: tuple[str, ...] = ()
    is_published: bool = True
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
    rows: int = 0
    has_ended: bool = False
    lineage: tuple[Totals, ...] = ()


@dataclass(slots=True, eq=False)
class Row:
    """A path as one configuration shows it.

    Attributes:
        path: what is known of it.
        group: the position of its group in the configuration.
        values: its label values.
        is_unlabelled: whether its group's expression does not match its path.
        totals: those of its group, then of its aggregate if it has one.
        is_present: whether it is in them as a file that is there.
        is_published: whether it has samples of its own.
        has_ended: whether it is shown no more, for good.
    """

    path: Path
    group: int
    values: tuple[str, ...]
    totals: tuple[Totals, ...]
    is_unlabelled: bool
    is_present: bool = False
    is_published: bool = False
    has_ended: bool = False
