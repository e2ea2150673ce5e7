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
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter

from exporter.publication.publication import Publication
from exporter.publication.rows import Row

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
        groups: bytes, by the group's name.
    """

    as_of_s: float
    known_s: float
    running_s: float
    window_s: float
    files: Mapping[str, float]
    groups: Mapping[str, float]


class History:
    """What has grown in the last :data:`STEPS`. Safe to call from several threads.

    Args:
        publication: what is shown.
        max_files: how many files have a history.
        clock: monotonic, seconds.
    """

    def __init__(
        self, publication: Publication, *, max_files: int = MAX_FILES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._publication = publication
        self._max_files = max_files
        self._clock = clock
        self._lock = threading.Lock()  # protects what is below; nobody waits under it
        self._began_s: float | None = None
        self._looked_s = 0.0
        self._as_of_s = 0.0
        # The counters as of the latest update, of those that are not 0. While a file is silent its number is the own
        # object of its path.
        self._counters: dict[str, int] = {}
        self._group_counters: dict[str, int] = {}
        self._unwritten: list[Row] = []  # that have grown before another publication took the place of theirs
        self._files: OrderedDict[str, _Ring] = OrderedDict()  # the one that grew least recently first
        self._groups: dict[str, _Ring] = {}
        self._known_from = 0  # since this step a file without a ring has not grown

    def update(self, changed: Collection[Row]) -> None:
        """Write down what has grown since the latest call, or begin with the first one. To be called after each sync.

        Args:
            changed: the rows that have changed since then.
        """
        if self._began_s is None:
            self.go_on_with(self._publication)
        with self._lock:
            now_s, self._as_of_s = self._clock(), time.time()
            # Without the facts' lock: what a counter is ahead of this moment it will not be next time.
            grown = self._growth([*changed, *self._unwritten])
            self._unwritten = []
            groups = self._appended()
            before, self._group_counters = self._group_counters, groups
            if self._began_s is None:
                self._began_s = self._looked_s = now_s
                self._known_from = _step(now_s)
                return
            shares = _shares(self._looked_s, now_s)
            self._looked_s = now_s
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

    def go_on_with(self, publication: Publication) -> None:
        """Show another publication from now on; what was shown before keeps its history."""
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
            if row.has_ended:  # another one of the same path may follow
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
                groups={name: ring.sum(first) for name, ring in self._groups.items()},
            )

    def of_files(self, paths: Iterable[str]) -> list[Steps]:
        """The steps of some files."""
        with self._lock:
            last = _step(self._looked_s)
            silent = _Ring(self._known_from)
            return [self._files.get(path, silent).steps(last) for path in paths]

    def of_groups(self) -> dict[str, Steps]:
        """The steps of all groups, by the group's name."""
        with self._lock:
            last = _step(self._looked_s)
            return {name: ring.steps(last) for name, ring in self._groups.items()}


class _Ring:
    """Bytes appended in each of the latest steps; the steps are numbered by the clock."""

    __slots__ = ("_bytes", "_known_from", "latest")

    def __init__(self, known_from: int) -> None:
        self._bytes = array("d", bytes(8 * STEPS))
        self._known_from = known_from
        self.latest = known_from - 1  # the last step that was written

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
