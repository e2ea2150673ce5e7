"""What a scrape shows of the files, the groups, and the cache."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from exporter import __version__
from exporter.checkpoint import Checkpoint
from exporter.config import FILE_METRICS, LogGroup
from exporter.growth import Series, Totals
from exporter.patterns import printable
from exporter.tracker import Tracker
from fstat_cache import POLL_REASONS, WATCH_FAILURES, CacheInfo, CacheStatus


class FileCollector(Collector):
    """Shows what the tracker knows, made true before each scrape.

    Args:
        tracker: follows the files.
        groups: the groups of its configuration.
        save: called before anything is shown, so that no counter that was shown ever goes back.
        checkpoint: where to, if at all.
    """

    def __init__(
        self,
        tracker: Tracker,
        groups: Sequence[LogGroup],
        save: Callable[[], object] = lambda: None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._tracker = tracker
        self._groups = groups
        self._save = save
        self._checkpoint = checkpoint
        self._aggregate_names = tuple(dict.fromkeys(name for group in groups for name in group.aggregate_by))

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples; asks no file."""
        return (
            *_file_families().values(),
            *_totals_families("group", "the group").values(),
            *_totals_families("aggregate", "the files with these labels").values(),
            *_group_families(),
            *self._agent_families(),
        )

    def collect(self) -> Iterable[Metric]:
        """Return the families as of now. Safe to call from several threads."""
        tracker = self._tracker
        tracker.refresh(audit_share(tracker.cache.cache_info().files))
        tracker.expire(is_scrape=True)
        files = _file_families()
        groups = _totals_families("group", "the group")
        aggregates = _totals_families("aggregate", "the files with these labels")
        group_families = _group_families()
        ledger = tracker.ledger
        with ledger.lock:
            ledger.find_newest()
            names = tracker.labeller.names
            for series in ledger.series():
                if series.is_published:
                    labels = dict(zip(names, series.labels.values, strict=True))
                    _add_file(files, labels, series, self._groups[series.labels.group].metrics)
            for totals, group in zip(ledger.groups, self._groups, strict=True):
                _add_totals(groups, {"group": group.group}, totals)
                self._add_group(group_families, group, totals)
            for totals in ledger.aggregates.values():
                if totals.is_published:
                    _add_totals(aggregates, self._aggregate_labels(totals), totals)
        for (number, text), count in zip(tracker.matcher.patterns, self._matches(), strict=True):
            group_families[0].add_sample(
                "fstat_group_pattern_matches", {"group": self._groups[number].group, "pattern": printable(text)}, count
            )
        self._save()
        return (
            *files.values(),
            *groups.values(),
            *aggregates.values(),
            *group_families,
            *self._agent_families(),
        )

    def _matches(self) -> Iterator[int]:
        matches = self._tracker.discovery.matches
        return (matches[number] for number in range(len(self._tracker.matcher.patterns)))

    def _aggregate_labels(self, totals: Totals) -> dict[str, str]:
        group = self._groups[totals.group]
        own = dict(zip(group.aggregate_by, totals.values, strict=True))
        return {"group": group.group, **{name: own.get(name, "") for name in self._aggregate_names}}

    @staticmethod
    def _add_group(families: Sequence[Metric], group: LogGroup, totals: Totals) -> None:
        labels = {"group": group.group}
        for family, value in zip(families[1:], (totals.files_without_series, totals.unlabelled), strict=True):
            family.samples.append(Sample(family.name, labels, value))

    def _agent_families(self) -> tuple[Metric, ...]:
        tracker = self._tracker
        return (
            *_cache_families(tracker.cache.cache_info(), tracker.cache.status()),
            *_discovery_families(tracker),
            *_state_families(self._checkpoint),
            _build_info(),
        )


def audit_share(files: int) -> int:
    """How many of the cached files to compare each time, so that every one has its turn in 120 times."""
    return max(100, files // 120)


def make_registry(collector: Collector) -> CollectorRegistry:
    """Return a registry of its own with `collector` and the process, platform and garbage collector metrics."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def _file_families() -> dict[str, Metric]:
    return {
        "size": Metric("fstat_file_size_bytes", "Size of the file at the time of the scrape.", "gauge", "bytes"),
        "mtime": Metric(
            "fstat_file_mtime_seconds",
            "Last modification of the file, seconds since the epoch, with the fraction.",
            "gauge",
            "seconds",
        ),
        "changes": Metric(
            "fstat_file_changes",
            "Distinct combinations of size, modification time and inode seen after the first one. Changes closer "
            "together than one look count once: this is not the number of writes.",
            "counter",
        ),
        "appended_bytes": Metric(
            "fstat_file_appended_bytes",
            "Bytes appended since the file was first seen, across truncation and rotation: what arrives in a rotated "
            "file counts for the name that it had first.",
            "counter",
            "bytes",
        ),
        "truncations": Metric("fstat_file_truncations", "How often the file was found smaller than before.", "counter"),
        "rotations": Metric(
            "fstat_file_rotations", "How often another file took the place of the one of this name.", "counter"
        ),
    }


def _add_file(families: Mapping[str, Metric], labels: dict[str, str], series: Series, metrics: frozenset[str]) -> None:
    stats = series.stats
    if stats is None:
        return
    values = {"size": stats.size, "mtime": stats.mtime}
    if series.is_counting:
        values.update((name, getattr(series, name)) for name in FILE_METRICS if name not in values)
    for name, value in values.items():
        if name in metrics:
            _add(families[name], labels, value)


def _totals_families(kind: str, whose: str) -> dict[str, Metric]:
    def family(name: str, text: str, kind_of_metric: str, unit: str = "") -> Metric:
        return Metric(f"fstat_{kind}_{name}", text, kind_of_metric, unit)

    return {
        "files": family("files", f"Files of {whose}.", "gauge"),
        "size_bytes": family("size_bytes", f"Sum of the sizes of {whose}, each inode once.", "gauge", "bytes"),
        "newest_mtime_seconds": family(
            "newest_mtime_seconds",
            f"Last modification of any file of {whose}, seconds since the epoch.",
            "gauge",
            "seconds",
        ),
        "changes": family("changes", f"Changes of {whose}, files that have gone included.", "counter"),
        "appended_bytes": family(
            "appended_bytes", f"Bytes appended to {whose}, files that have gone included.", "counter", "bytes"
        ),
        "truncations": family("truncations", f"Truncations of {whose}, files that have gone included.", "counter"),
        "rotations": family("rotations", f"Rotations of {whose}, files that have gone included.", "counter"),
    }


def _add_totals(families: Mapping[str, Metric], labels: dict[str, str], totals: Totals) -> None:
    newest = totals.newest.stats if totals.newest is not None else None
    for name, family in families.items():
        if name != "newest_mtime_seconds":
            _add(family, labels, getattr(totals, name))
        elif newest is not None:
            _add(family, labels, newest.mtime)


def _add(family: Metric, labels: dict[str, str], value: float) -> None:
    name = family.name + "_total" if family.type == "counter" else family.name
    family.samples.append(Sample(name, labels, value))


def _group_families() -> tuple[Metric, ...]:
    return (
        Metric("fstat_group_pattern_matches", "Files that the pattern matches now.", "gauge"),
        Metric(
            "fstat_group_files_without_series",
            "Files of the group for which max_series leaves no series; they are in the sums.",
            "gauge",
        ),
        Metric(
            "fstat_group_unlabelled_files",
            "Files of the group whose path its path_regex does not match; their labels are empty.",
            "gauge",
        ),
    )


def _discovery_families(tracker: Tracker) -> tuple[Metric, ...]:
    discovery = tracker.discovery
    return (
        GaugeMetricFamily("fstat_exporter_directories", "Directories in which files are looked for.", len(discovery)),
        GaugeMetricFamily(
            "fstat_exporter_unreadable_directories", "Those that can not be listed.", discovery.unreadable
        ),
        GaugeMetricFamily(
            "fstat_exporter_unwatched_directories",
            "Those that can not be watched, and are looked at each scrape.",
            discovery.unheard,
        ),
        CounterMetricFamily(
            "fstat_exporter_missed_changes",
            "Files and directories that had come or gone without an event and were found by a rescan.",
            discovery.missed,
        ),
    )


def _state_families(checkpoint: Checkpoint | None) -> tuple[Metric, ...]:
    resets, failures = (checkpoint.resets, checkpoint.failures) if checkpoint is not None else (0, 0)
    return (
        CounterMetricFamily(
            "fstat_exporter_state_resets",
            "How often a state file was damaged or not ours, was set aside, and the counters began anew.",
            resets,
        ),
        CounterMetricFamily(
            "fstat_exporter_state_write_failures", "How often the state file could not be written.", failures
        ),
    )


def _cache_families(info: CacheInfo, status: CacheStatus) -> tuple[Metric, ...]:
    looked_up = info.hits + info.misses
    return (
        _counter(
            "hits",
            "Look-ups of files answered without os.stat. Each published file is one look-up a scrape.",
            info.hits,
        ),
        _counter(
            "misses",
            "Look-ups of files that took an os.stat. Each published file is one look-up a scrape.",
            info.misses,
        ),
        _gauge(
            "hit_ratio",
            "Hits divided by hits and misses since the start, from 0 to 1; 0 before the first look-up.",
            info.hits / looked_up if looked_up else 0,
        ),
        _counter("evictions", "Files dropped from the cache to make room for others.", info.evictions),
        _gauge("files", "Files in the cache, each of them watched or polled.", info.files),
        _gauge(
            "max_files",
            "Upper bound of the files in the cache. Declared files beyond it are published too, each look-up a miss.",
            info.max_files,
        ),
        _gauge("watches", "Inotify watches held. Names of one file share a watch.", status.watches),
        _gauge("directory_watches", "Those of them that are on directories.", status.directories),
        _gauge(
            "hot_directories",
            "Directories in which files come and go all the time: listed now and then instead of watched.",
            status.hot_directories,
        ),
        _gauge(
            "hot_files",
            "Files written all the time: sampled instead of watched, so that their writers are not slowed down.",
            status.hot,
        ),
        _by_reason(
            GaugeMetricFamily(
                "fstat_cache_polled_files",
                "Files in the cache that can not be watched and are looked at each scrape, by the reason.",
                labels=["reason"],
            ),
            POLL_REASONS,
            status.polled,
        ),
        _gauge("late_files", "Files in the cache whose remote filesystem did not answer the latest look.", status.late),
        _counter(
            "queue_overflows",
            "How often the kernel's queue of events was full. Every file is looked at again then, nothing is lost.",
            status.queue_overflows,
        ),
        _by_reason(
            CounterMetricFamily(
                "fstat_cache_watch_failures",
                "Files that could not be watched when that was tried, by the reason.",
                labels=["reason"],
            ),
            WATCH_FAILURES,
            status.watch_failures,
        ),
        _counter("audit_checks", "Cached files compared with a fresh os.stat, in rotation.", status.audit_checks),
        _counter(
            "audit_mismatches",
            "Cached files that had changed without an event. They are right again, and polled from then on.",
            status.audit_mismatches,
        ),
    )


def _counter(name: str, text: str, value: int) -> Metric:
    return CounterMetricFamily(f"fstat_cache_{name}", text, value)


def _gauge(name: str, text: str, value: float | None) -> Metric:
    return GaugeMetricFamily(f"fstat_cache_{name}", text, value)


def _by_reason(
    family: CounterMetricFamily | GaugeMetricFamily, reasons: Iterable[str], files: Mapping[str, int]
) -> Metric:
    for reason in reasons:
        family.add_metric([reason], files.get(reason, 0))
    return family


def _build_info() -> Metric:
    family = Metric("fstat_exporter_build", "Version of the exporter and of the Python that runs it.", "info")
    labels = {"version": __version__, "python_version": platform.python_version()}
    family.add_sample("fstat_exporter_build_info", labels, 1)
    return family
