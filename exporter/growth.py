"""The ledger: what has been seen of each file over time. Pure: no I/O, no clock."""

from __future__ import annotations

import threading

from fstat_cache import FileStats


class _Record:
    __slots__ = ("changes", "mark", "stats")

    def __init__(self, stats: FileStats, changes: int) -> None:
        self.stats = stats
        self.changes = changes
        self.mark = 0


class Ledger:
    """Counts the changes of files.

    Two kinds of callers report, each from threads of its own: whoever looks at a file (`observe`), and the cache, which
    tells that it replaced what it knew (`replaced`). A look takes time, so what it saw may be old when it is reported.
    """

    def __init__(self) -> None:
        # For writers only. They set a record's stats last, so whoever has seen its stats reads the count that belongs
        # to them, or a later one.
        self._lock = threading.Lock()
        self._records: dict[str, _Record] = {}
        self._mark = 0

    def mark(self) -> int:
        """Return the present point in the ledger's order of events, to be taken before a look at files."""
        return self._mark

    def observe(self, path: str, stats: FileStats, since: int) -> int:
        """Report what a look saw.

        Args:
            path: the file.
            stats: what was seen.
            since: `mark` from before the look. When a change was recorded after it, `stats` may be older than that
                change and is not recorded.

        Returns:
            How many changes of (size, mtime, inode) have been seen: 0 at first sight.
        """
        record = self._records.get(path)
        if record is not None and (record.stats is stats or _same(record.stats, stats)):
            return record.changes
        with self._lock:
            record = self._records.get(path)
            if record is None:
                record = self._records[path] = _Record(stats, 0)
                self._note(record, stats)
            elif record.mark <= since and not _same(record.stats, stats):
                record.changes += 1
                self._note(record, stats)
            return record.changes

    def replaced(self, path: str, stats: FileStats | None) -> None:
        """Report that `stats` replaced what the cache knew of the file: a change, even of a file not observed yet.

        None, for a file that has gone, changes nothing: a rotation brings it back at once, and a scan that misses it
        too forgets it.
        """
        if stats is None:
            return
        with self._lock:
            record = self._records.get(path)
            if record is None:
                record = self._records[path] = _Record(stats, 1)
                self._note(record, stats)
            elif not _same(record.stats, stats):
                record.changes += 1
                self._note(record, stats)

    def forget(self, path: str) -> None:
        """Drop a file; an unknown one is no error. Seen again it starts anew."""
        with self._lock:
            self._records.pop(path, None)

    def paths(self) -> set[str]:
        """Return the files the ledger knows."""
        with self._lock:
            return set(self._records)

    def _note(self, record: _Record, stats: FileStats) -> None:
        self._mark += 1
        record.mark = self._mark
        record.stats = stats


def _same(one: FileStats, other: FileStats) -> bool:
    return one.size == other.size and one.mtime_ns == other.mtime_ns and one.inode == other.inode
