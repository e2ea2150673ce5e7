"""The growth of each file and group in the last 15 minutes, in memory. Pure but for its clocks.

Only growth is recorded: a file that does not grow costs nothing, and neither does a step without growth. The growth
between two updates is spread evenly over the time between them.
"""

from __future__ import annotations

import heapq
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter

from exporter.publication.publication import Publication
from exporter.publication.rows import Row

STEP_S = 15
STEPS = 60
"""How many steps are kept: 15 minutes, including the current step."""
MAX_FILES = 5_000
"""How many files have a history, 600 bytes each. A new one replaces the one that grew least recently."""

Steps = list[float | None]
"""Bytes appended in each of the :data:`STEPS`, the earliest first; None where unknown."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The bytes appended in a recent window.

    Attributes:
        as_of_s: time of the latest update, unix time.
        known_s: for how many seconds before that growth has been recorded.
        running_s: how many seconds of the last step have passed.
        window_s: length of the window up to `as_of_s`, seconds; less than asked for when the history is younger.
        files: path -> bytes; only files that have grown.
        groups: name of the group -> bytes.
    """

    as_of_s: float
    known_s: float
    running_s: float
    window_s: float
    files: Mapping[str, float]
    groups: Mapping[str, float]


class History:
    """Records the growth in the last :data:`STEPS`. Safe to call from several threads.

    Args:
        publication: has the rows and totals.
        max_files: how many files have a history.
        clock: monotonic, seconds.
    """

    def __init__(
        self, publication: Publication, *, max_files: int = MAX_FILES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._publication = publication
        self._max_files = max_files
        self._clock = clock
        self._lock = threading.Lock()  # protects everything below; never held while waiting
        self._began_s: float | None = None
        self._updated_s = 0.0
        self._as_of_s = 0.0
        # The counters at the latest update, without zeros. While a file does not grow, its number here is the same
        # object as in its path, so it needs no memory.
        self._counters: dict[str, int] = {}
        self._group_counters: dict[str, int] = {}
        self._unwritten: list[Row] = []  # rows with growth before a change of the publication that is not recorded yet
        self._files: OrderedDict[str, _Ring] = OrderedDict()  # the one that grew least recently first
        self._groups: dict[str, _Ring] = {}
        self._known_from = 0  # a file without a ring has not grown since this step

    def update(self, changed: Collection[Row]) -> None:
        """Record the growth since the latest call; the first call only begins. To be called after each sync.

        Args:
            changed: the rows that have changed since then.
        """
        if self._began_s is None:
            self.switch_to(self._publication)
        with self._lock:
            now_s, self._as_of_s = self._clock(), time.time()
            # Without the facts' lock: growth that a counter gets during this loop is recorded now or next time.
            grown = self._growth([*changed, *self._unwritten])
            self._unwritten = []
            groups = self._appended()
            before, self._group_counters = self._group_counters, groups
            if self._began_s is None:
                self._began_s = self._updated_s = now_s
                self._known_from = _step(now_s)
                return
            shares = _shares(self._updated_s, now_s)
            self._updated_s = now_s
            for name, appended in groups.items():
                if appended > before[name]:
                    self._groups[name].add(shares, appended - before[name])
            if len(grown) > self._max_files:
                grown = dict(heapq.nlargest(self._max_files, grown.items(), key=itemgetter(1)))
                self._known_from = _step(now_s) + 1
            for path, size in grown.items():
                ring = self._files.pop(path, None) or self._new_ring()
                ring.add(shares, size)
                self._files[path] = ring  # now the one that grew most recently

    def switch_to(self, publication: Publication) -> None:
        """Record another publication from now on; rows that were in the one before keep their history."""
        with publication.facts.lock, self._lock:
            before, counters = self._publication.rows, self._counters
            self._publication = publication
            self._counters = {}
            self._unwritten = []
            for path, row in publication.rows.items():
                if path.appended_bytes:
                    known = path.appended_bytes
                    if path in before and (known := min(known, counters.get(path.name, 0))) < path.appended_bytes:
                        self._unwritten.append(row)
                    self._counters[path.name] = known
            self._files = OrderedDict((name, ring) for name, ring in self._files.items() if name in self._counters)
            appended = self._appended()
            self._group_counters = {name: self._group_counters.get(name, now) for name, now in appended.items()}
            known_from = _step(self._clock())
            self._groups = {name: self._groups.get(name) or _Ring(known_from) for name in appended}

    def _appended(self) -> dict[str, int]:
        groups = self._publication.config
        return {groups[totals.group].group: totals.appended_bytes for totals in self._publication.groups}

    def _growth(self, changed: Iterable[Row]) -> dict[str, int]:
        counters = self._counters
        for row in changed:
            if row.has_ended:  # another row of the same path may follow
                counters.pop(row.path.name, None)
                self._files.pop(row.path.name, None)
        grown = {}
        for row in changed:
            name, size = row.path.name, row.path.appended_bytes
            if not row.has_ended and size > (before := counters.get(name, 0)):
                grown[name] = size - before
                counters[name] = size
        return grown

    def _new_ring(self) -> _Ring:
        if len(self._files) >= self._max_files:
            _, forgotten = self._files.popitem(last=False)
            self._known_from = max(self._known_from, forgotten.latest + 1)
        return _Ring(self._known_from)

    def recent(self, window_s: float) -> Recent:
        """Return the growth of about the last `window_s` seconds, from the beginning of a step."""
        with self._lock:
            began_s = self._updated_s if self._began_s is None else self._began_s
            last = _step(self._updated_s)
            first = max(_step(self._updated_s - window_s), last - STEPS + 1)
            return Recent(
                as_of_s=self._as_of_s,
                known_s=self._updated_s - began_s,
                running_s=self._updated_s - last * STEP_S,
                window_s=self._updated_s - max(first * STEP_S, began_s),
                files={path: ring.sum(first) for path, ring in self._files.items() if ring.latest >= first},
                groups={name: ring.sum(first) for name, ring in self._groups.items()},
            )

    def of_files(self, paths: Iterable[str]) -> list[Steps]:
        """Return the steps of some files."""
        with self._lock:
            last = _step(self._updated_s)
            silent = _Ring(self._known_from)
            return [self._files.get(path, silent).steps(last) for path in paths]

    def of_groups(self) -> dict[str, Steps]:
        """Return the steps of all groups: name of the group -> steps."""
        with self._lock:
            last = _step(self._updated_s)
            return {name: ring.steps(last) for name, ring in self._groups.items()}


class _Ring:
    """The bytes appended in each of the latest steps, which are numbered by the clock."""

    __slots__ = ("_bytes", "_known_from", "latest")

    def __init__(self, known_from: int) -> None:
        self._bytes = array("d", bytes(8 * STEPS))
        self._known_from = known_from
        self.latest = known_from - 1  # the last step that was recorded

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
    """Return (step, share) for each step that an interval touches: the share of the interval in that step."""
    first, last = _step(begin_s), _step(end_s)
    if first == last:
        return [(last, 1.0)]
    return [
        (step, (min(end_s, (step + 1) * STEP_S) - max(begin_s, step * STEP_S)) / (end_s - begin_s))
        for step in range(max(first, last - STEPS + 1), last + 1)
    ]
