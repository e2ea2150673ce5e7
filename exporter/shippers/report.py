"""The report of ``fstat-exporter shippers``: what it says of each log, and its text. Pure: no I/O, no clock."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from exporter.config.errors import one_line
from exporter.shippers.logs import BEHIND, HELD, READ, UNCLAIMED, Entry, Log

RECENT = "recent"
"""The state of a log with unread bytes that was written so lately that a healthy shipper may not have read them."""
STATES = (READ, RECENT, BEHIND, HELD, UNCLAIMED)
MOST_LINES = 20
"""How many logs, and state files of one shipper, are listed at most."""


class StateLine(NamedTuple):
    """A state file of a shipper; with its age in seconds, None: unknown, and why it cannot be read, None: it can."""

    path: str
    age_s: float | None
    error: str | None


class LogLine(NamedTuple):
    """A log that a shipper reads.

    Attributes:
        path: of the log.
        groups: the names of its groups.
        state: one of :data:`STATES`.
        size_bytes: its unread bytes; of an unclaimed log all bytes.
        age_s: how long ago it was written last, so how old its oldest unread byte is at least.
        reason: why it is unclaimed, else "".
    """

    path: str
    groups: Sequence[str]
    state: str
    size_bytes: int
    age_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class ShipperReport:
    """What one shipper has read.

    Attributes:
        name, kind: the shipper and its type.
        groups: the names of the groups that it reads.
        states: its state files, and what is configured if it has an error.
        logs: the logs that it reads.
        hints: what may be wrong with its configuration, and the remedy.
    """

    name: str
    kind: str
    groups: Sequence[str]
    states: Sequence[StateLine]
    logs: Sequence[LogLine]
    hints: Sequence[str]

    @property
    def is_readable(self) -> bool:
        """Whether all of its state was read."""
        return all(state.error is None for state in self.states)


class PathMap(NamedTuple):
    """A pair for ``path_map``: a directory as the shipper sees it, and here."""

    theirs: str
    ours: str

    def __str__(self) -> str:
        return f"path_map: {{{self.theirs}: {self.ours}}}"


def why_unclaimed(log: Log, candidates: Iterable[Entry]) -> str:
    """Say why a log has no position.

    Args:
        log: the log.
        candidates: the entries that have its inode number or one of its names.
    """
    reasons = {}
    number = log.inode.identity[1]
    for entry in candidates:
        if entry.position.inode in (None, number) and entry.offset > log.size:
            reasons[0] = f"its entry is beyond the end of the file: {entry.offset:,} of {log.size:,} bytes"
        elif entry.name in log.inode.names:
            reasons[1] = "its entry is of an older file of this name"
        else:
            reasons[2] = "an entry has its inode number, but is of another device or an older file"
    return reasons[min(reasons)] if reasons else "no entry in its state"


def find_path_map(ours: Iterable[str], theirs: Iterable[str]) -> tuple[PathMap, dict[str, str]] | None:
    """Find how paths differ for a shipper in another mount namespace.

    Args:
        ours: the paths of unclaimed logs.
        theirs: paths in the shipper's state that do not exist here.

    Returns:
        The pair that most logs need, and of each of these logs the path that the shipper has. None: no paths have the
        same end, or only paths in the same first directory, of which one is probably of a log that has gone.
    """
    absolute = [path for path in theirs if path.startswith("/")]
    ends = {path[each.start() :]: path for path in absolute for each in re.finditer("/", path)}
    found: defaultdict[PathMap, dict[str, str]] = defaultdict(dict)
    for path in ours:
        at = next((each.start() for each in re.finditer("/", path) if path[each.start() :] in ends), None)
        if at is not None:
            other = ends[path[at:]]
            pair = PathMap(other.removesuffix(path[at:]) or "/", path[:at] or "/")
            if pair.theirs.split("/")[1] != pair.ours.split("/")[1]:
                found[pair][path] = other
    return max(found.items(), key=lambda item: len(item[1]), default=None)


def write(reports: Sequence[ShipperReport], hints: Sequence[str] = ()) -> str:
    """Return the text of a report; `hints` are of no shipper."""
    return "\n".join(_lines(reports, hints)) + "\n"


def _lines(reports: Sequence[ShipperReport], hints: Sequence[str]) -> Iterator[str]:
    yield from _table(
        ("SHIPPER", "TYPE", "STATE FILE", "AGE", "READABLE"),
        [(each.name, each.kind, *cells) for each in reports for cells in _state_cells(each)],
    )
    yield ""
    headings = ("SHIPPER", "GROUP", *map(str.upper, STATES), "UNREAD BYTES", "OLDEST")
    rows = [(each.name, *_group_cells(each, group)) for each in reports for group in each.groups]
    yield from _table(headings, rows, numbers=range(2, 3 + len(STATES)))
    logs = [(each.name, log) for each in reports for log in each.logs if log.state != READ]
    logs.sort(key=lambda item: -item[1].size_bytes)
    if unread := [(name, log) for name, log in logs if log.state != UNCLAIMED]:
        yield from _title("unread bytes", unread)
        rows = [(name, f"{log.size_bytes:,}", _oldest(log.age_s), log.state, log.path) for name, log in unread]
        yield from _table(("SHIPPER", "UNREAD BYTES", "OLDEST", "STATE", "LOG"), rows[:MOST_LINES], numbers=(1,))
    if unclaimed := [(name, log) for name, log in logs if log.state == UNCLAIMED]:
        yield from _title("no position (unclaimed)", unclaimed)
        rows = [(name, f"{log.size_bytes:,}", log.path, log.reason) for name, log in unclaimed]
        yield from _table(("SHIPPER", "BYTES", "LOG", "REASON"), rows[:MOST_LINES], numbers=(1,))
    every = [f"{each.name}: {hint}" for each in reports for hint in each.hints] + [*hints]
    if every:
        yield ""
    for hint in every:
        yield one_line(f"hint: {hint}")


def _state_cells(report: ShipperReport) -> Iterator[tuple[str, str, str]]:
    states = sorted(report.states, key=lambda state: (state.error is None, state.path))
    for path, age_s, error in states[:MOST_LINES]:
        yield path, "-" if age_s is None else duration(age_s), "yes" if error is None else f"no: {error}"
    if len(states) > MOST_LINES:
        yield f"and {len(states) - MOST_LINES} more", "", ""


def _group_cells(report: ShipperReport, group: str) -> tuple[str, ...]:
    logs = [log for log in report.logs if group in log.groups]
    counts = Counter(log.state for log in logs)
    unread = [log for log in logs if log.state not in (READ, UNCLAIMED)]
    oldest_s = max((log.age_s for log in unread if log.state != HELD), default=None)
    total = sum(log.size_bytes for log in unread)
    return group, *(str(counts[state]) for state in STATES), f"{total:,}", _oldest(oldest_s)


def _title(what: str, logs: Sequence[object]) -> Iterator[str]:
    shown = f"the largest {MOST_LINES} of {len(logs):,}" if len(logs) > MOST_LINES else f"{len(logs)}"
    yield ""
    yield f"Logs with {what}: {shown}"


def _oldest(age_s: float | None) -> str:
    return "-" if age_s is None else f">= {duration(age_s)}"


def duration(seconds: float) -> str:
    """Return a duration in its largest unit, rounded down."""
    for unit, length_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{int(seconds / length_s)} {unit}"
    return f"{max(0, int(seconds))} s"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int] = ()) -> Iterator[str]:
    table = [headings, *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = zip(row, widths, range(len(row)), strict=True)
        padded = [cell.rjust(width) if at in numbers else cell.ljust(width) for cell, width, at in cells]
        yield "  ".join(padded).rstrip()
