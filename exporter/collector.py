"""The metrics of patterns, cache and agent, written by prometheus_client."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector

from exporter import __version__
from exporter.content.contents import Contents
from exporter.exposition.catalogue import AGENT, family
from exporter.ledger.uncertain import REASONS
from exporter.matching.labels import printable
from exporter.shippers.logs import STATES
from exporter.shippers.shippers import Shippers
from exporter.state.checkpoint import Checkpoint
from exporter.tracker import Tracker
from fstat_cache import POLL_REASONS, WATCH_FAILURES

_Sample = tuple[str, dict[str, str], float]  # name, labels, value


Part = Callable[[], Iterable[Metric]]
"""Returns some families of a scrape. It changes nothing, and is safe to call from several threads."""


def parts_of(
    tracker: Tracker, checkpoint: Checkpoint | None, shippers: Shippers, contents: Contents
) -> dict[str, Part]:
    """Return the parts of a scrape by name: groups and patterns, shippers, cache, agent, process.

    Args:
        tracker: follows the files.
        checkpoint: saves the counters; None: they are not saved.
        shippers: the shippers.
        contents: what was read of files.
    """
    process = ProcessCollector(registry=None), PlatformCollector(registry=None), GCCollector(CollectorRegistry())
    return {
        "groups": lambda: _families("fstat_group_", _of_groups(tracker, contents)),
        "shippers": lambda: _families("fstat_shipper_", _of_shippers(tracker, shippers)) if [*shippers] else (),
        "cache": lambda: _families("fstat_cache_", _of_cache(tracker)),
        "agent": lambda: _families("fstat_exporter_", _of_agent(tracker, checkpoint)),
        "process": lambda: [family for collector in process for family in collector.collect()],
    }


def _families(prefix: str, samples: Iterable[_Sample]) -> Iterable[Metric]:
    """Return the families whose names begin with a prefix, with their samples."""
    families = {name: family(name, text) for name, text in AGENT.items() if name.startswith(prefix)}
    for name, labels, value in samples:
        families[name].add_sample(name, labels, value)
    return families.values()


def _of_groups(tracker: Tracker, contents: Contents) -> Iterator[_Sample]:
    with tracker.facts.lock:  # a changeover exchanges publication and matcher under it
        publication = tracker.publication
        for position, text, files in pattern_matches(tracker):
            labels = {**publication.group_labels[position], "pattern": printable(text)}
            yield "fstat_group_pattern_matches", labels, files
        for totals, labels in zip(publication.groups, publication.group_labels, strict=True):
            yield "fstat_group_files_without_series", labels, publication.files_without_series(totals.group)
            yield "fstat_group_unlabelled_files", labels, totals.unlabelled
            realm = tracker.realms[publication.config[totals.group].group]
            deleted = tracker.facts.inodes.deleted_in(realm)
            yield "fstat_group_deleted_files", labels, len(deleted)
            yield "fstat_group_deleted_disk_bytes", labels, sum(deleted)
            for reason in REASONS:
                count = tracker.facts.inodes.uncertain[realm, reason]
                yield "fstat_group_uncertain_total", {**labels, "reason": reason}, count
            if (read := contents.groups.get(realm)) is not None:
                yield "fstat_group_lines_total", labels, read.lines
                yield "fstat_group_lines_skipped_bytes_total", labels, read.skipped_bytes
                yield "fstat_group_lines_backlog_bytes", labels, read.backlog_bytes


def _of_shippers(tracker: Tracker, shippers: Shippers) -> Iterator[_Sample]:
    for shipper in shippers:
        of_shipper = {"shipper": shipper.config.name}
        yield "fstat_shipper_state_readable", of_shipper, int(shipper.is_readable)
        yield "fstat_shipper_state_errors_total", of_shipper, shipper.errors
        if shipper.mtime_s is not None:
            yield "fstat_shipper_state_mtime_seconds", of_shipper, shipper.mtime_s
        with tracker.facts.lock:
            publication, account = tracker.publication, shipper.account
            oldest_ns = account.oldest_ns(tracker.clock.now_ns())
            for position in shipper.groups():
                realm = tracker.realms[publication.config[position].group]
                labels = {**of_shipper, **publication.group_labels[position]}
                sums = account.sums[realm, ()]
                yield "fstat_shipper_unread_bytes", labels, sums.unread
                yield "fstat_shipper_oldest_unread_seconds", labels, oldest_ns.get((realm, ()), 0) / 1e9
                yield "fstat_shipper_read_bytes_total", labels, sums.read
                yield "fstat_shipper_lost_bytes_total", labels, sums.lost
                yield "fstat_shipper_unaccounted_bytes_total", labels, sums.unaccounted
                yield "fstat_shipper_unclaimed_bytes", labels, sums.unclaimed
                for state in STATES:
                    yield "fstat_shipper_files", {**labels, "state": state}, sums.files[state]
            for key, names in shipper.aggregates():
                labels = {**of_shipper, **names}
                yield "fstat_shipper_aggregate_unread_bytes", labels, account.sums[key].unread
                yield "fstat_shipper_aggregate_oldest_unread_seconds", labels, oldest_ns.get(key, 0) / 1e9
                yield "fstat_shipper_aggregate_lost_bytes_total", labels, account.sums[key].lost


def pattern_matches(tracker: Tracker) -> Iterator[tuple[int, str, int]]:
    """Yield each pattern of the published configuration: its group's position, its text as written, how many files it
    matches.
    """
    publication = tracker.publication
    for number, (group, pattern) in tracker.matcher.patterns.items():
        position = publication.position_of((group,))
        if position is not None:
            yield position, pattern.written, tracker.discovery.matches[number]


def _of_cache(tracker: Tracker) -> Iterator[_Sample]:
    info, status = tracker.cache.cache_info(), tracker.cache.status()
    looked_up = info.hits + info.misses
    yield "fstat_cache_hits_total", {}, info.hits
    yield "fstat_cache_misses_total", {}, info.misses
    yield "fstat_cache_hit_ratio", {}, info.hits / looked_up if looked_up else 0
    yield "fstat_cache_evictions_total", {}, info.evictions
    yield "fstat_cache_files", {}, info.files
    yield "fstat_cache_max_files", {}, math.inf if info.max_files is None else info.max_files
    yield "fstat_cache_watches", {}, status.watches
    yield "fstat_cache_max_watches", {}, math.inf if status.max_watches is None else status.max_watches
    yield "fstat_cache_directory_watches", {}, status.directories
    yield "fstat_cache_hot_directories", {}, status.hot_directories
    yield "fstat_cache_hot_files", {}, status.hot
    yield "fstat_cache_guarded_files", {}, status.guarded
    yield "fstat_cache_late_files", {}, status.late
    yield "fstat_cache_reads_deleted_files", {}, int(status.reads_deleted_files)
    yield "fstat_cache_queue_overflows_total", {}, status.queue_overflows
    yield "fstat_cache_audit_checks_total", {}, status.audit_checks
    yield "fstat_cache_audit_mismatches_total", {}, status.audit_mismatches
    for reason in POLL_REASONS:
        yield "fstat_cache_polled_files", {"reason": reason}, status.polled.get(reason, 0)
    for reason in WATCH_FAILURES:
        yield "fstat_cache_watch_failures_total", {"reason": reason}, status.watch_failures.get(reason, 0)


def _of_agent(tracker: Tracker, checkpoint: Checkpoint | None) -> Iterator[_Sample]:
    discovery = tracker.discovery
    yield "fstat_exporter_ready", {}, int(tracker.is_ready)
    yield "fstat_exporter_files", {}, tracker.files
    yield "fstat_exporter_directories", {}, len(discovery)
    yield "fstat_exporter_unreadable_directories", {}, discovery.unreadable
    yield "fstat_exporter_unwatched_directories", {}, discovery.unwatchable
    yield "fstat_exporter_missed_changes_total", {}, discovery.missed
    yield "fstat_exporter_state_resets_total", {}, checkpoint.resets if checkpoint else 0
    yield "fstat_exporter_state_write_failures_total", {}, checkpoint.failures if checkpoint else 0
    versions = {"version": __version__, "python_version": platform.python_version()}
    yield "fstat_exporter_build_info", versions, 1


def audit_share(files: int) -> int:
    """Return how many of the cached files to audit in a scrape, so that 120 scrapes audit all."""
    return max(100, files // 120)
