"""How much each file and each group has grown by in the last quarter of an hour, in memory. Pure but for its clocks.

Only what grows is written down: a step of a file in which nothing was appended costs nothing, and neither does a file
that does not grow. What grew between two looks is spread evenly over the time between them.
"""

from __future__ import annotations

import heapq
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from exporter.ledger.growth import Ledger, Series

STEP_S = 15
STEPS = 60
"""A quarter of an hour; the last step is the one that is under way."""
MAX_FILES = 5_000
"""How many files have a history, 600 bytes each. The one that grew least recently makes room."""

Steps = list[float | None]
"""Bytes appended in each of the :data:`STEPS`, the earliest first; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Recent:
    """What was appended of late.

    Attributes:
        as_of_s: when everything was looked at last, unix time.
        known_s: for how many seconds before that growth has been written down at all.
        running_s: how many seconds of the last step have passed.
        window_s: what the sums below are of, seconds up to `as_of_s`; less than asked for when the history is young.
        files: path -> bytes; of files that have not grown there is none.
        groups: bytes, by the group's number.
    """

    as_of_s: float
    known_s: float
    running_s: float
    window_s: float
    files: Mapping[str, float]
    groups: Sequence[float]


class History:
    """What has grown in the last :data:`STEPS`. Safe to call from several threads.

    Args:
        ledger: tells what has changed.
        max_files: how many files have a history.
        clock: monotonic, seconds.
    """

    def __init__(
        self, ledger: Ledger, *, max_files: int = MAX_FILES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._max_files = max_files
        self._clock = clock
        self._lock = threading.Lock()  # protects what is below; nobody waits under it but for the ledger's journal
        self._journal = ledger.journal()
        self._began_s: float | None = None
        self._looked_s = 0.0
        self._as_of_s = 0.0
        # The counters as of the latest look, of those that are not 0. While a file is silent its number is the ledger's
        # own object.
        self._counters: dict[str, int] = {}
        self._group_counters = [0] * len(ledger.groups)
        self._files: OrderedDict[str, _Ring] = OrderedDict()  # the one that grew least recently first
        self._groups: list[_Ring] = []
        self._known_from = 0  # since this step a file without a ring has not grown

    def update(self) -> None:
        """Write down what has grown since the latest call, or begin with the first one.

        To be called after each look: until it is, the ledger remembers what has changed.
        """
        with self._lock:
            now_s, self._as_of_s = self._clock(), time.time()
            # Without the ledger's lock: what a counter is ahead of this moment it will not be next time.
            grown = self._growth(self._ledger.take(self._journal).series)
            totals = [group.appended_bytes for group in self._ledger.groups]
            groups = [now - before for now, before in zip(totals, self._group_counters, strict=True)]
            self._group_counters = totals
            if self._began_s is None:
                self._began_s = self._looked_s = now_s
                self._known_from = _step(now_s)
                self._groups = [_Ring(self._known_from) for _ in groups]
                return
            shares = _shares(self._looked_s, now_s)
            self._looked_s = now_s
            for ring, size in zip(self._groups, groups, strict=True):
                if size:
                    ring.add(shares, size)
            if len(grown) > self._max_files:
                grown = dict(heapq.nlargest(self._max_files, grown.items(), key=itemgetter(1)))
                self._known_from = _step(now_s) + 1
            for path, size in grown.items():
                known = self._files.pop(path, None)
                ring = self._new_ring() if known is None else known
                ring.add(shares, size)
                self._files[path] = ring  # now the one that grew most recently

    def go_on_from(self, other: History, groups: Iterable[int | None]) -> None:
        """Go on where the history of another ledger is, whose counters this one has: a reload loses no plot.

        To be called once, after the first :meth:`update`.

        Args:
            other: it goes on too, for itself.
            groups: of each group the number that it has there; None where there is none.
        """
        with other._lock, self._lock:
            if other._began_s is None:
                return
            self._began_s, self._looked_s, self._as_of_s = other._began_s, other._looked_s, other._as_of_s
            self._known_from = other._known_from
            known = self._ledger
            self._files = OrderedDict((path, ring.copy()) for path, ring in other._files.items() if path in known)
            # A counter that is less than it was there is that of another series.
            self._counters |= {
                path: size for path, size in other._counters.items() if size <= self._counters.get(path, 0)
            }
            for number, before in enumerate(groups):
                if before is not None:
                    self._groups[number] = other._groups[before].copy()
                    self._group_counters[number] = min(self._group_counters[number], other._group_counters[before])

    def _growth(self, changed: Iterable[Series]) -> dict[str, int]:
        counters = self._counters
        for series in changed:
            if series.has_ended:  # another one of the same path may follow
                counters.pop(series.path, None)
                self._files.pop(series.path, None)
        grown = {}
        for series in changed:
            size = series.appended_bytes
            if size and not series.has_ended:
                path = series.path
                before = counters.get(path, 0)
                if size > before:
                    grown[path] = size - before
                    counters[path] = size
        return grown

    def _new_ring(self) -> _Ring:
        if len(self._files) >= self._max_files:
            _, forgotten = self._files.popitem(last=False)
            self._known_from = max(self._known_from, forgotten.latest + 1)
        return _Ring(self._known_from)

    def recent(self, window_s: float) -> Recent:
        """Tell what was appended in about the last `window_s` seconds: since the beginning of a step."""
        with self._lock:
            began_s = self._looked_s if self._began_s is None else self._began_s
            last = _step(self._looked_s)
            first = max(_step(self._looked_s - window_s), last - STEPS + 1)
            return Recent(
                as_of_s=self._as_of_s,
                known_s=self._looked_s - began_s,
                running_s=self._looked_s - last * STEP_S,
                window_s=self._looked_s - max(first * STEP_S, began_s),
                files={path: ring.sum(first) for path, ring in self._files.items() if ring.latest >= first},
                groups=[ring.sum(first) for ring in self._groups],
            )

    def of_files(self, paths: Iterable[str]) -> list[Steps]:
        """The steps of some files."""
        with self._lock:
            last = _step(self._looked_s)
            silent = _Ring(self._known_from)
            return [self._files.get(path, silent).steps(last) for path in paths]

    def of_groups(self) -> list[Steps]:
        """The steps of all groups, by the group's number."""
        with self._lock:
            last = _step(self._looked_s)
            return [ring.steps(last) for ring in self._groups]


class _Ring:
    """Bytes appended in each of the latest steps; the steps are numbered by the clock."""

    __slots__ = ("_bytes", "_known_from", "latest")

    def __init__(self, known_from: int) -> None:
        self._bytes = array("d", bytes(8 * STEPS))
        self._known_from = known_from
        self.latest = known_from - 1  # the last step that was written

    def copy(self) -> _Ring:
        ring = _Ring(self._known_from)
        ring._bytes[:] = self._bytes
        ring.latest = self.latest
        return ring

    def add(self, shares: Iterable[tuple[int, float]], size: int) -> None:
        for step, share in shares:
            if step > self.latest:
                for skipped in range(max(self.latest, step - STEPS) + 1, step + 1):
                    self._bytes[skipped % STEPS] = 0.0
                self.latest = step
            self._bytes[step % STEPS] += size * share

    def sum(self, first: int) -> float:
        return sum(self._bytes[step % STEPS] for step in range(max(first, self.latest - STEPS + 1), self.latest + 1))

    def steps(self, last: int) -> Steps:
        return [
            None
            if step < self._known_from
            else self._bytes[step % STEPS]
            if self.latest - STEPS < step <= self.latest
            else 0.0
            for step in range(last - STEPS + 1, last + 1)
        ]


def _step(at_s: float) -> int:
    return int(at_s // STEP_S)


def _shares(begin_s: float, end_s: float) -> list[tuple[int, float]]:
    """How much of a time lies in each step: step -> share, for the latest :data:`STEPS`."""
    first, last = _step(begin_s), _step(end_s)
    if first == last:
        return [(last, 1.0)]
    return [
        (step, (min(end_s, (step + 1) * STEP_S) - max(begin_s, step * STEP_S)) / (end_s - begin_s))
        for step in range(max(first, last - STEPS + 1), last + 1)
    ]
