"""Read model for the status page: which files, groups and aggregates grow, what is wrong, and what the agent costs."""

from __future__ import annotations

import heapq
import operator
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any

from prometheus_client import ProcessCollector

from exporter import __version__
from exporter.collector import pattern_matches
from exporter.ledger.uncertain import REASONS
from exporter.matching.labels import printable
from exporter.publication.history import STEP_S, STEPS, Recent, Steps
from exporter.publication.publication import Publication
from exporter.publication.rows import Row, Totals
from exporter.reload import Reloader
from exporter.scrape import Scraper
from exporter.shippers import summary
from exporter.shippers.shipper import Shipper
from exporter.tracker import Tracker
from fstat_cache import HOT, WATCHED, DetailedStats, FileStats

POLLED = "polled"
NOT_CACHED = "max_files"
"""Why a file outside the cache is polled: the cache has no room for it."""
FOLLOWED = (WATCHED, HOT, POLLED)

LOOK_SHARED_S = 1.0
"""For how long one refresh serves all calls, at most."""
LOOK_SHARED_TIMES = 20
"""A refresh serves calls for so many times its own duration: all together take a twentieth of a core at most."""
MAX_AGGREGATES = 50
"""How many aggregates an answer has at most: those that grow fastest."""
MAX_EXAMPLES = 20
"""How many examples of each problem an answer has at most."""
_ASKED_AT_ONCE = 1_000  # files; the cache is locked meanwhile

WINDOWS_S = range(STEP_S, STEP_S * STEPS + 1)
"""Over how many seconds growth can be measured."""
LEAST_WINDOW_S = 1.0
"""While the history of growth is younger, no rate is shown."""

Json = dict[str, Any]
Key = Callable[[Row], Any]


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
        is_unread: only files with unread bytes.
    """

    sort: str = "growth"
    descending: bool | None = None
    limit: int = 50
    window_s: int = 60
    groups: frozenset[str] = frozenset()
    search: tuple[str, ...] = ()
    followed: str | None = None
    is_unread: bool = False


SORTS = ("growth", "size", "silent", "changes", "unread", "path")
"""What files can be sorted by. Equals are in the order of their latest changes, then of their paths."""


class Overview:
    """Shows files, groups and the agent as values for JSON. Safe to call from several threads.

    The numbers of an answer were true a second ago at most: each call refreshes them, unless another one just did.

    Args:
        tracker: follows the files.
        scraper: refreshes, and has the publication, the history of growth and the shippers.
        reloader: has the outcome of the latest reload.
    """

    def __init__(self, tracker: Tracker, scraper: Scraper, reloader: Reloader) -> None:
        self._tracker = tracker
        self._scraper = scraper
        self._reloader = reloader
        self._process = ProcessCollector(registry=None)
        self._looking = threading.Lock()  # held by the thread that refreshes for all that wait; protects the next
        self._look_is_good_until_s = 0.0

    @property
    def groups(self) -> frozenset[str]:
        """The names of the groups."""
        return self._scraper.groups

    def files(self, query: FilesQuery) -> Json:
        """Show files, those without series of their own included. Files that fail to stat are left out."""
        recent = self._recent(query.window_s)
        publication = self._scraper.publication
        shippers = [*self._scraper.shippers]
        candidates = self._candidates(query, publication, shippers)
        keys = _keys(query, recent, shippers)
        chosen = _first(candidates, query.limit, keys)
        with publication.facts.lock:
            for key, is_descending in reversed(keys):  # again: the numbers may have changed meanwhile
                chosen.sort(key=key, reverse=is_descending)
            names = [_label_names(publication, position) for position in range(len(publication.config))]
            rows = [_file(row, names[row.group], recent, shippers) for row in chosen]
        history = self._scraper.history.of_files([row.path.name for row in chosen])
        for shown, (how, reason), steps in zip(rows, self._how_followed(chosen), history, strict=True):
            shown["followed"], shown["polled_reason"], shown["history"] = how, reason, _rounded(steps)
        return {**_times(recent), "matched": len(candidates), "files": rows}

    def group_totals(self, window_s: int) -> Json:
        """Show all groups, in the order of the configuration, and the aggregates that grow fastest.

        The sums of a group include files that have gone; the growth of an aggregate does not.
        """
        recent = self._recent(window_s)
        publication = self._scraper.publication
        publication.find_newest()
        steps = self._scraper.history.of_groups()
        with publication.facts.lock:
            counts = Counter(totals.group for totals in publication.aggregates.values())
            rows = [_group(publication, totals, recent, counts[totals.group]) for totals in publication.groups]
            for row in rows:
                realm = self._tracker.realms[row["group"]]
                deleted = publication.facts.inodes.deleted_in(realm)
                row["deleted_files"], row["deleted_disk_bytes"] = len(deleted), sum(deleted)
                row["uncertain_total"] = {
                    reason: publication.facts.inodes.uncertain[realm, reason] for reason in REASONS
                }
            aggregates = _aggregates(publication, recent)
            of_groups = summary.of_groups(self._tracker, self._scraper.shippers)
        for row in rows:
            row["shippers"] = of_groups.get(row["group"], {})
            row["history"] = _rounded(steps.get(row["group"], []))
        return {**_times(recent), "groups": rows, "aggregates": aggregates}

    def status(self) -> Json:
        """Show the sums over all groups, how files are followed, what is wrong, and what the agent costs."""
        recent = self._recent(STEP_S)
        tracker = self._tracker
        info, status, discovery = tracker.cache.cache_info(), tracker.cache.status(), tracker.discovery
        groups = self._scraper.publication.groups
        with self._scraper.publication.facts.lock:
            files = sum(totals.files for totals in groups)
            size_bytes = sum(totals.size_bytes for totals in groups)
            config = tracker.publication.config
            patterns = [(config[at].group, text, matches) for at, text, matches in pattern_matches(tracker)]
        with tracker.lock:
            faults = sorted(discovery.faults, key=itemgetter(0))
        unreadable = [{"path": printable(path), "reason": error.strerror or str(error)} for path, error in faults]
        hidden = sorted(map(printable, tracker.facts.hidden))
        unmatched = [{"group": group, "pattern": printable(text)} for group, text, matches in patterns if not matches]
        outcome = self._reloader.outcome
        process = {sample.name: sample.value for family in self._process.collect() for sample in family.samples}
        polled = dict(status.polled)
        if (uncached := tracker.files - info.files - len(hidden)) > 0:
            polled[NOT_CACHED] = uncached
        looked_up = info.hits + info.misses
        return {
            **_times(recent),
            "version": __version__,
            "groups": len(groups),
            "files": files,
            "size_bytes": size_bytes,
            "followed": {
                WATCHED: max(0, info.files - status.hot - sum(status.polled.values())),
                HOT: status.hot,
                POLLED: polled,
            },
            "rotated_files": len(tracker.rotated),
            "late_files": status.late,
            "hidden_files": len(hidden),
            "hidden_examples": hidden[:MAX_EXAMPLES],
            "configuration": {
                "loaded_seconds": round(outcome.loaded_at_s, 3),
                "failed_seconds": None if outcome.failed_at_s is None else round(outcome.failed_at_s, 3),
                "error": outcome.error.partition("\n")[0] or None,
            },
            "patterns": {
                "configured": len(patterns),
                "unmatched": len(unmatched),
                "unmatched_examples": unmatched[:MAX_EXAMPLES],
            },
            "cache": {
                "files": info.files,
                "max_files": info.max_files,
                "hits_total": info.hits,
                "misses_total": info.misses,
                "hit_ratio": info.hits / looked_up if looked_up else 0,
                "evictions_total": info.evictions,
                "watches": status.watches,
                "max_watches": status.max_watches,
                "directory_watches": status.directories,
                "hot_directories": status.hot_directories,
                "reads_deleted_files": status.reads_deleted_files,
                "queue_overflows_total": status.queue_overflows,
                "watch_failures_total": status.watch_failures,
                "audit_checks_total": status.audit_checks,
                "audit_mismatches_total": status.audit_mismatches,
            },
            "directories": {
                "known": len(discovery),
                "unreadable": len(unreadable),
                "unreadable_examples": unreadable[:MAX_EXAMPLES],
                "unwatched": discovery.unwatchable,
            },
            "shippers": summary.of_states(self._scraper.shippers),
            "process": {
                name: process.get(f"process_{name}")
                for name in ("cpu_seconds_total", "resident_memory_bytes", "start_time_seconds")
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

    def _candidates(self, query: FilesQuery, publication: Publication, shippers: Iterable[Shipper]) -> list[Row]:
        with publication.facts.lock:
            everything = list(publication.rows.values())
        positions = {position for position, group in enumerate(publication.config) if group.group in query.groups}
        found = [
            row
            for row in everything
            if row.is_present and row.path.stats is not None and not row.path.is_hidden
            if not positions or row.group in positions
        ]
        for word in query.search:
            found = [row for row in found if word in "\n".join(row.values).casefold()]
        if query.is_unread:
            found = [row for row in found if _unread(row, shippers)]
        if query.followed is not None:
            followed = self._how_followed(found)
            found = [row for row, (how, _) in zip(found, followed, strict=True) if how == query.followed]
        return found

    def _how_followed(self, rows: Sequence[Row]) -> Iterator[tuple[str, str | None]]:
        """How each is followed, of :data:`FOLLOWED`, and the reason if it is polled."""
        for first in range(0, len(rows), _ASKED_AT_ONCE):
            paths = [row.path.name for row in rows[first : first + _ASKED_AT_ONCE]]
            for how in self._tracker.cache.how_followed(paths):
                if how in (WATCHED, HOT):
                    yield how, None
                else:
                    yield POLLED, NOT_CACHED if how is None else how


def _label_names(publication: Publication, position: int) -> list[tuple[str, int]]:
    """The names of a group's labels beside group and path, and their positions among the values of a file."""
    names = publication.labeller.names
    own = dict.fromkeys((*publication.config[position].aggregate_by, *names[2:]))
    return [(name, names.index(name)) for name in own if name in names[2:]]


def _file(row: Row, names: Iterable[tuple[str, int]], recent: Recent, shippers: Iterable[Shipper]) -> Json:
    path, values = row.path, row.values
    assert path.stats is not None
    counts = path.is_counting
    return {
        "path": values[1],
        "group": values[0],
        "labels": {name: values[at] for name, at in names if values[at]},
        "size_bytes": path.stats.size,
        "mtime_seconds": path.stats.mtime,
        "device": path.stats.device,
        "inode": path.stats.inode,
        "changes_total": path.changes if counts else None,
        "appended_bytes_total": path.appended_bytes if counts else None,
        "truncations_total": path.truncations if counts else None,
        "growth_bytes_per_second": _rate(recent.files.get(path.name, 0.0), recent) if counts else None,
        "has_series": row.is_published,
        "unread_bytes": summary.unread_bytes(shippers, path),
        **_details(path.stats),
    }


def _details(stats: FileStats) -> Json:
    if not isinstance(stats, DetailedStats):
        return dict.fromkeys(("disk_bytes", "mode", "uid", "gid"))
    mode, uid, gid = stats.access
    return {"disk_bytes": stats.disk_bytes, "mode": f"{mode:04o}", "uid": uid, "gid": gid}


def _group(publication: Publication, totals: Totals, recent: Recent, aggregates: int) -> Json:
    group = publication.config[totals.group]
    newest = None if totals.newest is None else totals.newest.path.stats
    return {
        "group": group.group,
        "labels": {name: value for name, value in publication.group_labels[totals.group].items() if name != "group"},
        "files": totals.files,
        "per_file": group.per_file,
        "files_without_series": publication.files_without_series(totals.group),
        "aggregates": aggregates,
        "size_bytes": totals.size_bytes,
        "newest_mtime_seconds": None if newest is None else newest.mtime,
        "changes_total": totals.changes,
        "appended_bytes_total": totals.appended_bytes,
        "truncations_total": totals.truncations,
        "rotations_total": totals.rotations,
        "growth_bytes_per_second": _rate(recent.groups.get(group.group, 0.0), recent),
    }


def _aggregates(publication: Publication, recent: Recent) -> list[Json]:
    """The aggregates that grow fastest, then the biggest; called with the facts' lock held."""
    appended: defaultdict[Totals, float] = defaultdict(float)
    for name, size in recent.files.items():
        path = publication.facts.paths.get(name)
        row = None if path is None else publication.rows.get(path)
        if row is not None and row.totals[1:]:
            appended[row.totals[1]] += size
    chosen = heapq.nlargest(
        MAX_AGGREGATES, publication.aggregates.values(), key=lambda totals: (appended[totals], totals.size_bytes)
    )
    return [
        {
            "group": publication.config[totals.group].group,
            "labels": {
                name: value
                for name, value in zip(publication.config[totals.group].aggregate_by, totals.values, strict=True)
                if value
            },
            "files": totals.files,
            "size_bytes": totals.size_bytes,
            "appended_bytes_total": totals.appended_bytes,
            "growth_bytes_per_second": _rate(appended[totals], recent),
            "has_series": totals.is_published,
        }
        for totals in chosen
    ]


def _unread(row: Row, shippers: Iterable[Shipper]) -> int:
    return max((unread or 0 for unread in summary.unread_bytes(shippers, row.path).values()), default=0)


def _keys(query: FilesQuery, recent: Recent, shippers: Iterable[Shipper]) -> list[tuple[Key, bool]]:
    """What to sort by, and whether the greatest comes first: then, where that is equal, the next one."""
    keys: dict[str, Key] = {
        "growth": lambda row: recent.files.get(row.path.name, 0.0),
        "size": attrgetter("path.stats.size"),
        "silent": attrgetter("path.stats.mtime_ns"),
        "changes": attrgetter("path.changes"),
        "unread": lambda row: _unread(row, shippers),
        "path": attrgetter("path.name"),
    }
    is_descending = query.sort != "path" if query.descending is None else query.descending
    if query.sort == "silent":  # since a long time ago
        is_descending = not is_descending
    return [(keys[query.sort], is_descending), (attrgetter("path.stats.mtime_ns"), True), (keys["path"], False)]


def _first(candidates: list[Row], limit: int, keys: Iterable[tuple[Key, bool]]) -> list[Row]:
    """Those that would be the first `limit` if all were sorted, in any order.

    A key is asked only of those that are equal by the keys before it: to sort 100,000 files by tuples of all keys would
    take several times as long.
    """
    chosen: list[Row] = []
    for key, is_descending in keys:
        missing = limit - len(chosen)
        if len(candidates) <= missing:
            break
        values = list(map(key, candidates))
        last = (heapq.nlargest if is_descending else heapq.nsmallest)(missing, values)[-1]
        is_before = operator.gt if is_descending else operator.lt
        chosen += [row for row, value in zip(candidates, values, strict=True) if is_before(value, last)]
        candidates = [row for row, value in zip(candidates, values, strict=True) if value == last]
    return chosen + candidates[: limit - len(chosen)]


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
