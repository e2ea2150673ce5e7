"""Which watches are hot: so busy that asking now and then is cheaper than being told. Pure: no I/O, no clock.

An armed watch costs a busy writer a quarter to two fifths of its write rate, and us an event a write. So a file that
turns up in several batches in a row is disarmed and sampled instead, until it has been quiet for a while: what a
network card's driver does between interrupts and polling (NAPI).
"""

from __future__ import annotations

from collections.abc import Iterable

BATCHES_IN_A_ROW = 3
ROW_GAP_S = 0.75
"""Batches further apart than this are not in a row: a lone file written once a second is in every batch there is."""
QUIET_S = 0.4
"""Less than a tick: a file that has paused for a second is watched again, and what is cut off it then was seen."""
TICK_S = 0.5
"""How often the hot files are looked at."""
GREATEST_TICK_S = 5.0
"""How far a CPU budget may stretch that, where many files are hot: with 1 %, from some hundreds on."""
BUDGET_SHARE = 0.5
"""How much of a CPU budget the looks at hot files may take: who asks has them looked at once more."""


class HotWatches(dict[int, float]):
    """The hot watches, each with the time at which its file was last seen busy, and who may become one."""

    __slots__ = ("_latest_batch_at", "_streaks")

    def __init__(self) -> None:
        self._streaks: dict[int, int] = {}  # of the watches in the latest batch: how many batches in a row
        self._latest_batch_at = 0.0

    def after_batch(self, wds: Iterable[int], now: float) -> list[int]:
        """Note which watches had events in one batch.

        Args:
            wds: the watches.
            now: a monotonic clock, seconds.

        Returns:
            Those that have just become hot, to be disarmed and added.
        """
        if now - self._latest_batch_at > ROW_GAP_S:
            self._streaks.clear()
        self._latest_batch_at = now
        streaks, self._streaks = self._streaks, {}
        for wd in wds:
            if wd in self:
                self[wd] = now  # left over from before it was disarmed, and its file has been looked at for that
            else:
                self._streaks[wd] = streaks.get(wd, 0) + 1
        return [wd for wd, streak in self._streaks.items() if streak >= BATCHES_IN_A_ROW]

    def add(self, wd: int, now: float) -> None:
        """Note that ``wd`` is disarmed from now on."""
        self[wd] = now
        self._streaks.pop(wd, None)

    def after_samples(self, changed: Iterable[int], now: float) -> list[int]:
        """Note which of the hot watches' files had changed when all were looked at.

        Returns:
            Those that have been quiet for :data:`QUIET_S`: arm them, then look once more.
        """
        for wd in changed:
            self[wd] = now
        return [wd for wd, busy_at in self.items() if now - busy_at >= QUIET_S]

    def discard(self, wd: int) -> None:
        """Note that ``wd`` is armed or gone."""
        self.pop(wd, None)
