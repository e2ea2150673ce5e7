"""What a scrape shows of the declared files and of the cache."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from exporter import __version__
from exporter.growth import Ledger
from exporter.transitions import Transitions
from fstat_cache import POLL_REASONS, WATCH_FAILURES, CacheInfo, CacheStatus, FileStats, Survey

_log = logging.getLogger(__name__)


class Cache(Protocol):
    """What is needed of :class:`fstat_cache.FStatCache`."""

    def survey(self, paths: Iterable[str]) -> Survey:
        """Look up every file as of now."""

    def audit(self, files: int) -> int:
        """Compare some of the entries with the truth."""

    def cache_info(self) -> CacheInfo:
        """Return hits, misses, evictions, files and max_files."""

    def status(self) -> CacheStatus:
        """Return how the files are followed."""


@dataclass(frozen=True, slots=True)
class DeclaredFile:
    """A file that the configuration means, and its label values in the order of the snapshot's names."""

    path: str
    label_values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeclaredFiles:
    """All files that the configuration means, as of the last scan."""

    label_names: tuple[str, ...]
    files: Sequence[DeclaredFile]


class FileCollector(Collector):
    """Looks at every declared file at each scrape, through the cache.

    Args:
        cache: answers for the files.
        ledger: counts their changes.
        declared: gives the declared files, or None before the first scan.
    """

    def __init__(self, cache: Cache, ledger: Ledger, declared: Callable[[], DeclaredFiles | None]) -> None:
        self._cache = cache
        self._ledger = ledger
        self._declared = declared
        self._faults = Transitions()

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples; asks no file."""
        return (*_file_families(), *self._cache_families(), _build_info())

    def collect(self) -> Iterable[Metric]:
        """Return the families as of now: a part of the audit, then one survey. Safe to call from several threads."""
        self._cache.audit(audit_share(self._cache.cache_info().files))
        size, mtime, changes = _file_families()
        declared = self._declared()
        if declared is not None:
            names = declared.label_names
            for file, stats, count in self._look(declared.files):
                labels = dict(zip(names, file.label_values, strict=True))
                size.samples.append(Sample(size.name, labels, stats.size))
                mtime.samples.append(Sample(mtime.name, labels, stats.mtime))
                changes.samples.append(Sample(changes.name + "_total", labels, count))
        return (size, mtime, changes, *self._cache_families(), _build_info())

    def _cache_families(self) -> tuple[Metric, ...]:
        return _cache_families(self._cache.cache_info(), self._cache.status())

    def _look(self, files: Sequence[DeclaredFile]) -> Iterator[tuple[DeclaredFile, FileStats, int]]:
        since = self._ledger.mark()
        survey = self._cache.survey(file.path for file in files)
        self._faults.tell_faults(
            _log,
            survey.errors,
            "files can not be looked at and are left out of the scrape",
            "files can be looked at again, or are gone",
        )
        observe = self._ledger.observe
        for file in files:
            stats = survey.stats.get(file.path)
            if stats is not None:
                yield file, stats, observe(file.path, stats, since)


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


def _file_families() -> tuple[Metric, Metric, Metric]:
    return (
        Metric("fstat_file_size_bytes", "Size of the file at the time of the scrape.", "gauge", "bytes"),
        Metric(
            "fstat_file_mtime_seconds",
            "Last modification of the file, seconds since the epoch, with the fraction.",
            "gauge",
            "seconds",
        ),
        Metric(
            "fstat_file_changes",
            "Distinct combinations of size, modification time and inode seen after the first one. Changes closer "
            "together than one look count once: this is not the number of writes.",
            "counter",
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
