"""What a person on call wants to know: which files and groups grow, are big or silent, and how they are followed."""

from __future__ import annotations

import heapq
import itertools
import operator
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from exporter import __version__
from exporter.config.groups import LogGroup
from exporter.ledger.growth import Series, Totals
from exporter.publication.history import STEP_S, STEPS, Recent, Steps
from exporter.scrape import Scraper
from exporter.tracker import Tracker
from fstat_cache import HOT, WATCHED

POLLED = "polled"
NOT_CACHED = "max_files"
"""Why a file is polled that is not in the cache: there is no room for it."""
FOLLOWED = (WATCHED, HOT, POLLED)

LOOK_SHARED_S = 1.0
"""How long a look is good for at most."""
LOOK_SHARED_TIMES = 20
"""It is good for so many times as long as it took: all looks together take a twentieth of a core at most."""
_ASKED_AT_ONCE = 1_000  # files; the cache does nothing else meanwhile

LEAST_WINDOW_S = 1.0
"""When growth has been written down for less than that, nobody can say how fast it is."""

Json = dict[str, Any]
Key = Callable[[Series], Any]


@dataclass(frozen=True, slots=True)
class FilesQuery:
    """Which files to show.

    Attributes:
        sort: one of :data:`SORTS`.
        descending: whether to begin with the greatest; None: as one wants it of `sort`.
        limit: how many at most.
        window_s: over about how many seconds growth is measured.
        groups: only files of these; none for all.
        search: only files that have each of these words in their path or a label, in whatever case.
        followed: only files that are followed so, of :data:`FOLLOWED`; None: all.
    """

    sort: str = "growth"
    descending: bool | None = None
    limit: int = 50
    window_s: int = 60
    groups: frozenset[str] = frozenset()
    search: tuple[str, ...] = ()
    followed: str | None = None


SORTS = ("growth", "size", "silent", "changes", "path")
"""What files can be sorted by. Equals are in the order of their latest changes, then of their paths."""


class Overview:
    """Shows what is known of files, groups and the agent, as it is to become JSON. Safe to call from several threads.

    Every answer is of numbers that were true a second ago at most: it looks, unless another one has just looked.

    Args:
        tracker: follows the files.
        groups: the groups of its configuration.
        scraper: looks, and knows what has grown.
    """

    def __init__(self, tracker: Tracker, groups: Sequence[LogGroup], scraper: Scraper) -> None:
        self._tracker = tracker
        self._rules = groups
        self._scraper = scraper
        names = tracker.labeller.names
        # Of each group: what a file's labels are called, beside group and path, and where they are among its values.
        self._labels = [
            [
                (name, names.index(name))
                for name in dict.fromkeys((*rules.aggregate_by, *names[2:]))
                if name in names[2:]
            ]
            for rules in groups
        ]
        self._looking = threading.Lock()  # held while one looks for all who wait for it; protects the next
        self._look_is_good_until_s = 0.0
        self.groups = scraper.groups
        """The names of the groups."""

    def files(self, query: FilesQuery) -> Json:
        """Show files, those without series of their own included. Those that can not be looked at are left out."""
        recent = self._recent(query.window_s)
        candidates = self._candidates(query)
        keys = _keys(query, recent)
        chosen = _first(candidates, query.limit, keys)
        with self._tracker.ledger.lock:
            for key, is_descending in reversed(keys):  # as they are now: meanwhile they may have changed
                chosen.sort(key=key, reverse=is_descending)
            rows = [self._file(series, recent) for series in chosen]
        for row, (how, reason), steps in zip(
            rows,
            self._how_followed(chosen),
            self._scraper.history.of_files([series.path for series in chosen]),
            strict=True,
        ):
            row["followed"], row["polled_reason"], row["history"] = how, reason, _rounded(steps)
        return {**_times(recent), "matched": len(candidates), "files": rows}

    def group_totals(self, window_s: int) -> Json:
        """Show all groups, in the order of the configuration; their sums include files that have gone."""
        recent = self._recent(window_s)
        ledger = self._tracker.ledger
        ledger.find_newest()
        with ledger.lock:
            rows = [self._group(totals, recent) for totals in ledger.groups]
        for row, steps in zip(rows, self._scraper.history.of_groups(), strict=True):
            row["history"] = _rounded(steps)
        return {**_times(recent), "groups": rows}

    def status(self) -> Json:
        """Show the sums over all groups, how files are followed, and how the cache does."""
        recent = self._recent(STEP_S)
        tracker = self._tracker
        info, status, discovery = tracker.cache.cache_info(), tracker.cache.status(), tracker.discovery
        with tracker.ledger.lock:
            files = sum(totals.files for totals in tracker.ledger.groups)
            size_bytes = sum(totals.size_bytes for totals in tracker.ledger.groups)
        polled = dict(status.polled)
        if files > info.files:
            polled[NOT_CACHED] = files - info.files
        looked_up = info.hits + info.misses
        return {
            **_times(recent),
            "version": __version__,
            "groups": len(self._rules),
            "files": files,
            "size_bytes": size_bytes,
            "followed": {
                WATCHED: max(0, info.files - status.hot - sum(status.polled.values())),
                HOT: status.hot,
                POLLED: polled,
            },
            "late_files": status.late,
            "cache": {
                "files": info.files,
                "max_files": info.max_files,
                "hits_total": info.hits,
                "misses_total": info.misses,
                "hit_ratio": info.hits / looked_up if looked_up else 0,
                "evictions_total": info.evictions,
                "watches": status.watches,
                "directory_watches": status.directories,
                "hot_directories": status.hot_directories,
                "queue_overflows_total": status.queue_overflows,
                "watch_failures_total": status.watch_failures,
                "audit_checks_total": status.audit_checks,
                "audit_mismatches_total": status.audit_mismatches,
            },
            "directories": {
                "known": len(discovery),
                "unreadable": discovery.unreadable,
                "unwatched": discovery.unwatchable,
            },
        }

    def _recent(self, window_s: int) -> Recent:
        with self._looking:
            began_s = time.monotonic()
            if began_s >= self._look_is_good_until_s:
                self._scraper.look(is_scrape=False)
                took_s = time.monotonic() - began_s
                self._look_is_good_until_s = began_s + min(LOOK_SHARED_S, LOOK_SHARED_TIMES * took_s)
        return self._scraper.history.recent(window_s)

    def _candidates(self, query: FilesQuery) -> list[Series]:
        ledger = self._tracker.ledger
        with ledger.lock:
            everything = list(ledger.series())
        numbers = {number for number, rules in enumerate(self._rules) if rules.group in query.groups}
        found = [
            series
            for series in everything
            if series.is_present and series.stats is not None and not series.is_hidden
            if not numbers or series.labels.group in numbers
        ]
        for word in query.search:
            found = [series for series in found if word in "\n".join(series.labels.values).casefold()]
        if query.followed is not None:
            followed = self._how_followed(found)
            found = [series for series, (how, _) in zip(found, followed, strict=True) if how == query.followed]
        return found

    def _how_followed(self, series: Iterable[Series]) -> Iterator[tuple[str, str | None]]:
        """How each is followed, of :data:`FOLLOWED`, and the reason if it is polled."""
        for some in _batches(series, _ASKED_AT_ONCE):
            for how in self._tracker.cache.how_followed([each.path for each in some]):
                if how in (WATCHED, HOT):
                    yield how, None
                else:
                    yield POLLED, NOT_CACHED if how is None else how

    def _file(self, series: Series, recent: Recent) -> Json:
        assert series.stats is not None
        values = series.labels.values
        counts = series.is_counting
        return {
            "path": values[1],
            "group": values[0],
            "labels": {name: values[at] for name, at in self._labels[series.labels.group] if values[at]},
            "size_bytes": series.stats.size,
            "mtime_seconds": series.stats.mtime,
            "changes_total": series.changes if counts else None,
            "appended_bytes_total": series.appended_bytes if counts else None,
            "growth_bytes_per_second": _rate(recent.files.get(series.path, 0.0), recent) if counts else None,
            "has_series": series.is_published,
        }

    def _group(self, totals: Totals, recent: Recent) -> Json:
        rules = self._rules[totals.group]
        newest = None if totals.newest is None else totals.newest.stats
        without = totals.files_without_series if rules.per_file else totals.files
        return {
            "group": rules.group,
            "files": totals.files,
            "files_without_series": without,
            "size_bytes": totals.size_bytes,
            "newest_mtime_seconds": None if newest is None else newest.mtime,
            "changes_total": totals.changes,
            "appended_bytes_total": totals.appended_bytes,
            "truncations_total": totals.truncations,
            "rotations_total": totals.rotations,
            "growth_bytes_per_second": _rate(recent.groups[totals.group], recent),
        }


def _keys(query: FilesQuery, recent: Recent) -> list[tuple[Key, bool]]:
    """What to sort by, and whether the greatest comes first: then, where that is equal, the next one."""
    keys: dict[str, Key] = {
        "growth": lambda series: recent.files.get(series.path, 0.0),
        "size": attrgetter("stats.size"),
        "silent": attrgetter("stats.mtime_ns"),
        "changes": attrgetter("changes"),
        "path": attrgetter("path"),
    }
    is_descending = query.sort != "path" if query.descending is None else query.descending
    if query.sort == "silent":  # since a long time ago
        is_descending = not is_descending
    return [(keys[query.sort], is_descending), (attrgetter("stats.mtime_ns"), True), (keys["path"], False)]


def _first(candidates: list[Series], limit: int, keys: Iterable[tuple[Key, bool]]) -> list[Series]:
    """Those that would be the first `limit` if all were sorted, in any order.

    A key is asked only of those that are equal by the keys before it: to sort 100,000 files by tuples of all keys would
    take several times as long.
    """
    chosen: list[Series] = []
    for key, is_descending in keys:
        missing = limit - len(chosen)
        if len(candidates) <= missing:
            break
        values = list(map(key, candidates))
        last = (heapq.nlargest if is_descending else heapq.nsmallest)(missing, values)[-1]
        is_before = operator.gt if is_descending else operator.lt
        chosen += [series for series, value in zip(candidates, values, strict=True) if is_before(value, last)]
        candidates = [series for series, value in zip(candidates, values, strict=True) if value == last]
    return chosen + candidates[: limit - len(chosen)]


def _batches(series: Iterable[Series], size: int) -> Iterator[list[Series]]:
    iterator = iter(series)
    while some := list(itertools.islice(iterator, size)):
        yield some


def _times(recent: Recent) -> Json:
    return {
        "as_of_seconds": round(recent.as_of_s, 3),
        "window_seconds": round(recent.window_s, 3),
        "history": {
            "begins_seconds": round(recent.as_of_s - recent.known_s, 3),
            "first_step_seconds": round(recent.as_of_s - recent.running_s - (STEPS - 1) * STEP_S, 3),
            "step_seconds": STEP_S,
            "steps": STEPS,
        },
    }


def _rate(appended: float, recent: Recent) -> float | None:
    return round(appended / recent.window_s, 3) if recent.window_s >= LEAST_WINDOW_S else None


def _rounded(steps: Steps) -> Steps:
    return [step and round(step, 1) for step in steps]
