"""The file of a group that was modified longest ago, at the cost of the files that change."""

from __future__ import annotations

import heapq

from exporter.publication.rows import Row
from fstat_cache import FileStats


class Oldest:
    """Finds the earliest modification time among rows. A row that is written costs nothing until it is the oldest.

    A heap has each row by a time that is never later than its modification time. Written rows are moved back only when
    they are at the top. So neither a write nor a scrape visits the other rows.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Row]] = []
        self._keys: dict[Row, int] = {}  # the time in the heap that counts; other entries of a row are outdated

    def note(self, row: Row, mtime_ns: int | None) -> None:
        """Note that a row has changed.

        Args:
            row: the row.
            mtime_ns: when its file was modified; None: it has no file.
        """
        if mtime_ns is None:
            self._keys.pop(row, None)
        elif mtime_ns < self._keys.get(row, mtime_ns + 1):
            self._keys[row] = mtime_ns
            heapq.heappush(self._heap, (mtime_ns, id(row), row))
        if len(self._heap) > 2 * len(self._keys) + 100:  # files that have gone, or whose times went back
            self._heap = [(key, id(each), each) for each, key in self._keys.items()]
            heapq.heapify(self._heap)

    def find(self) -> FileStats | None:
        """Return the stats of the file that was modified longest ago; None when there is none."""
        while self._heap:
            key, number, row = self._heap[0]
            stats = row.path.stats
            if stats is None or self._keys.get(row) != key:
                heapq.heappop(self._heap)
            elif stats.mtime_ns == key:
                return stats
            else:
                self._keys[row] = stats.mtime_ns
                heapq.heapreplace(self._heap, (stats.mtime_ns, number, row))
        return None
