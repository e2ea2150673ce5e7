"""The counters that are shown as 0 at first, so that their growth lies between two samples."""

from __future__ import annotations

from collections import deque

from exporter.publication.rows import Row, Totals

LATENESS = 1.1
"""How much longer than asked for a zero lasts, as a factor: a scrape may be late by a tenth of its interval."""


class Zeros:
    """Decides how long the counters of new rows and aggregates are shown as 0. Pure. Its cost is that of new items.

    Args:
        zero_for_s: how long from the first scrape of a counter on; at least the interval of each scraper, seconds.

    Attributes:
        duration_s: how long with :data:`LATENESS`.
    """

    def __init__(self, zero_for_s: float) -> None:
        self.duration_s = zero_for_s * LATENESS
        self._born: set[Row | Totals] = set()  # those that no scrape has shown yet
        self._shown: deque[tuple[float, set[Row | Totals]]] = deque()  # when a scrape showed them first

    def begin(self, item: Row | Totals) -> None:
        """Show the counters of an item as 0 from now on."""
        item.is_zero = True
        self._born.add(item)

    def forget(self, item: Row | Totals) -> None:
        """Forget an item that has ended."""
        self._born.discard(item)

    def end(self, now_s: float, *, is_scrape: bool) -> list[Row | Totals]:
        """Show counters as they are if their time is over; return the items that look different now.

        Args:
            now_s: a monotonic clock, seconds.
            is_scrape: whether a scrape shows the items now.
        """
        changed: list[Row | Totals] = []
        while self._shown and now_s - self._shown[0][0] >= self.duration_s:
            for item in self._shown.popleft()[1]:
                of = item if isinstance(item, Totals) else item.path
                if item.is_zero and not item.has_ended and (of.changes or of.appended_bytes or of.rotations):
                    changed.append(item)
                item.is_zero = False
        if is_scrape and self._born:
            self._shown.append((now_s, self._born))
            self._born = set()
        return changed
