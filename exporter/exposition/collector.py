"""What a scrape shows of the patterns, the cache, and the agent, through prometheus_client."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from exporter import __version__
from exporter.matching.labels import printable
from exporter.state.checkpoint import Checkpoint
from exporter.tracker import Tracker
from fstat_cache import POLL_REASONS, WATCH_FAILURES, CacheInfo, CacheStatus


class AgentCollector(Collector):
    """Shows what is not kept as text: how the groups' patterns do, and the agent itself. Changes nothing.

    Args:
        tracker: follows the files.
        checkpoint: where the counters are kept, if at all.
    """

    def __init__(self, tracker: Tracker, checkpoint: Checkpoint | None = None) -> None:
        self._tracker = tracker
        self._checkpoint = checkpoint

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples."""
        return (*_group_families(), *self._agent_families())

    def collect(self) -> Iterable[Metric]:
        """Return the families. Safe to call from several threads."""
        tracker = self._tracker
        matches, without_series, unlabelled = families = _group_families()
        publication = tracker.publication
        for number, (group_number, text) in tracker.matcher.patterns.items():
            position = publication.position_of((group_number,))
            if position is not None:
                labels = {"group": publication.config[position].group, "pattern": printable(text)}
                matches.add_sample(matches.name, labels, tracker.discovery.matches[number])
        with publication.facts.lock:
            for totals, group in zip(publication.groups, publication.config, strict=True):
                labels = {"group": group.group}
                without = publication.files_without_series(totals.group)
                without_series.add_sample(without_series.name, labels, without)
                unlabelled.add_sample(unlabelled.name, labels, totals.unlabelled)
        return (*families, *self._agent_families())

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


def make_registry(*collectors: Collector) -> CollectorRegistry:
    """Return a registry of its own with `collectors` and the process, platform and garbage collector metrics."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def _group_families() -> tuple[Metric, Metric, Metric]:
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
        GaugeMetricFamily(
            "fstat_exporter_ready", "Whether the first scan for files is done: 1 or 0.", int(tracker.is_ready)
        ),
        GaugeMetricFamily("fstat_exporter_files", "Files that are looked at, found so far.", tracker.files),
        GaugeMetricFamily(
            "fstat_exporter_directories", "Directories in which files are looked for, found so far.", len(discovery)
        ),
        GaugeMetricFamily(
            "fstat_exporter_unreadable_directories", "Those that can not be listed.", discovery.unreadable
        ),
        GaugeMetricFamily(
            "fstat_exporter_unwatched_directories",
            "Those that can not be watched, and are looked at each scrape.",
            discovery.unwatchable,
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
        _gauge(
            "guarded_files",
            "Files that have no watch of their own, for want of watches: that of their directory tells of them.",
            status.guarded,
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
