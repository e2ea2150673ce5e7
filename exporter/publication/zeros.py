"""The counters that are shown as 0 at first, so that their growth lies between two samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from exporter.publication.rows import Row, Totals

LATENESS = 1.1
"""How much longer than asked for a zero lasts, as a factor: a scrape may be late by a tenth of its interval."""


class Zeros:
    """Decides how long the counters of new rows and aggregates are shown as 0. Pure. Its cost is that of new items.

    Args:
        zero_for_s: position of a group that shows zeros -> for how long, from the first scrape of a counter on; at
            least the interval of each scraper, seconds.
    """

    def __init__(self, zero_for_s: Mapping[int, float]) -> None:
        self._durations_s = {position: each * LATENESS for position, each in zero_for_s.items()}
        # By group: those that no scrape has shown yet.
        self._born: dict[int, set[Row | Totals]] = {position: set() for position in zero_for_s}
        # By group: when a scrape showed them first, and them.
        self._shown: dict[int, deque[tuple[float, set[Row | Totals]]]] = {position: deque() for position in zero_for_s}

    def __bool__(self) -> bool:
        """Whether any group shows zeros."""
        return bool(self._durations_s)

    def duration_s(self, item: Row | Totals) -> float:
        """Return for how long an item shows 0, with :data:`LATENESS`."""
        return self._durations_s.get(item.group, 0)

    def begin(self, item: Row | Totals) -> None:
        """Show the counters of a new item as 0 from now on, if its group shows zeros."""
        item.is_zero = item.group in self._durations_s
        if item.is_zero:
            self._born[item.group].add(item)

    def forget(self, item: Row | Totals) -> None:
        """Forget an item that has ended."""
        if item.group in self._born:
            self._born[item.group].discard(item)

    def end(self, now_s: float, *, is_scrape: bool) -> list[Row | Totals]:
        """Show counters as they are if their time is over; return the items that look different now.

        Args:
            now_s: a monotonic clock, seconds.
            is_scrape: whether a scrape shows the items now.
        """
        changed: list[Row | Totals] = []
        for position, shown in self._shown.items():
            while shown and now_s - shown[0][0] >= self._durations_s[position]:
                for item in shown.popleft()[1]:
                    of = item if isinstance(item, Totals) else item.path
                    if item.is_zero and not item.has_ended and (of.changes or of.appended_bytes or of.rotations):
                        changed.append(item)
                    item.is_zero = False
            if is_scrape and self._born[position]:
                shown.append((now_s, self._born[position]))
                self._born[position] = set()
        return changed
