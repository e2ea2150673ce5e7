"""What a scrape shows of the declared files and of the cache."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from exporter import __version__
from exporter.growth import Ledger
from exporter.log import fields
from exporter.transitions import Transitions
from fstat_cache import CacheInfo, FileStats

_log = logging.getLogger(__name__)


class Cache(Protocol):
    """What is needed of :class:`fstat_cache.FStatCache`."""

    def sync(self) -> None:
        """Bring the cache up to every write that has returned."""

    def peek_file_stats(self, path: str) -> FileStats | None:
        """Look up a file without changing which files are cached."""

    def cache_info(self) -> CacheInfo:
        """Return hits, misses, evictions, files and max_files."""


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
        return (*_file_families(), *_cache_families(None), _build_info())

    def collect(self) -> Iterable[Metric]:
        """Return the families as of now: one `sync`, then one look at each file. Safe to call from several threads."""
        self._cache.sync()
        size, mtime, changes = _file_families()
        declared = self._declared()
        if declared is not None:
            names = declared.label_names
            for file, stats, count in self._look(declared.files):
                labels = dict(zip(names, file.label_values, strict=True))
                size.samples.append(Sample(size.name, labels, stats.size))
                mtime.samples.append(Sample(mtime.name, labels, stats.mtime_ns / 1e9))
                changes.samples.append(Sample(changes.name + "_total", labels, count))
        return (size, mtime, changes, *_cache_families(self._cache.cache_info()), _build_info())

    def _look(self, files: Sequence[DeclaredFile]) -> Iterator[tuple[DeclaredFile, FileStats, int]]:
        peek, observe = self._cache.peek_file_stats, self._ledger.observe
        since = self._ledger.mark()
        faults: dict[str, OSError] = {}
        for file in files:
            try:
                stats = peek(file.path)
            except OSError as error:
                faults[file.path] = error
            else:
                if stats is not None:
                    yield file, stats, observe(file.path, stats, since)
        self._tell_faults(faults)

    def _tell_faults(self, faults: dict[str, OSError]) -> None:
        changed = self._faults.update(faults)
        if changed.begun:
            example = min(changed.begun)
            _log.warning(
                "files can not be looked at and are left out of the scrape",
                extra=fields(count=len(changed.begun), example=example, error=faults[example].strerror),
            )
        if changed.ended:
            _log.info(
                "files can be looked at again, or are gone",
                extra=fields(count=len(changed.ended), example=min(changed.ended)),
            )


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


def _cache_families(info: CacheInfo | None) -> Iterator[Metric]:
    looked_up = 0 if info is None else info.hits + info.misses
    for name, kind, value, text in (
        (
            "fstat_cache_hits",
            "counter",
            info and info.hits,
            "Look-ups of files answered without os.stat. Each published file is one look-up a scrape.",
        ),
        (
            "fstat_cache_misses",
            "counter",
            info and info.misses,
            "Look-ups of files that took an os.stat. Each published file is one look-up a scrape.",
        ),
        (
            "fstat_cache_hit_ratio",
            "gauge",
            info and (info.hits / looked_up if looked_up else 0),
            "Hits divided by hits and misses since the start, from 0 to 1; 0 before the first look-up.",
        ),
        (
            "fstat_cache_evictions",
            "counter",
            info and info.evictions,
            "Files dropped from the cache to make room for others.",
        ),
        ("fstat_cache_files", "gauge", info and info.files, "Files in the cache, each of them watched or polled."),
        (
            "fstat_cache_max_files",
            "gauge",
            info and info.max_files,
            "Upper bound of the files in the cache. Declared files beyond it are published too, each look-up a miss.",
        ),
    ):
        family = Metric(name, text, kind)
        if value is not None:
            family.add_sample(f"{name}_total" if kind == "counter" else name, {}, value)
        yield family


def _build_info() -> Metric:
    family = Metric("fstat_exporter_build", "Version of the exporter and of the Python that runs it.", "info")
    labels = {"version": __version__, "python_version": platform.python_version()}
    family.add_sample("fstat_exporter_build_info", labels, 1)
    return family
