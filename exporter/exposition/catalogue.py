"""All families: the names of their samples and their HELP texts. The end of a name gives its type and unit."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Metric

from exporter.config.groups import CONTENT_METRICS, FILE_METRICS

_ENDINGS: Mapping[str, str] = {"counter": "_total", "info": "_info"}
_UNITS = ("bytes", "seconds")
_PARTS = (
    "files (files, groups, aggregates), groups (patterns, files without series or labels, deleted files, uncertain "
    "counts), shippers, cache, agent, process, config, web_config"
)

AGENT: Mapping[str, str] = {
    "fstat_group_pattern_matches": "Files that the pattern matches now, also those that belong to an earlier group.",
    "fstat_group_files_without_series": "Files of the group without series, because max_series is reached; "
    "the group's sums include them.",
    "fstat_group_unlabelled_files": "Files of the group whose path its path_regex does not match; "
    "they lack its labels.",
    "fstat_group_deleted_files": "Deleted files of the group that a process still has open, of deletions that the "
    "agent saw: lsof +L1 names the process.",
    "fstat_group_deleted_disk_bytes": "Disk space of the deleted files that a process still has open, of deletions "
    "that the agent saw. Without file handles: their size when last seen.",
    "fstat_group_uncertain_total": "How often bytes of the group's files may have gone uncounted, "
    "or been counted twice, by reason.",
    "fstat_group_lines_total": "Newlines appended to the group's files, deleted files included. Exact for what was "
    "read: it lags by fstat_group_lines_backlog_bytes.",
    "fstat_group_lines_skipped_bytes_total": "Bytes appended to the group's files whose newlines are not counted: "
    "the files were gone before they were read, or cannot be read.",
    "fstat_group_lines_backlog_bytes": "Bytes appended to the group's files whose newlines are still to be counted: "
    "if it grows, raise content_budget or cache.cpu_budget.",
    "fstat_shipper_unread_bytes": "Bytes of the group's files that the shipper has not read yet, rotated files and "
    "deleted files that are still open included.",
    "fstat_shipper_oldest_unread_seconds": "How long the oldest of these bytes has been unread at least; 0 when "
    "nothing is unread. Unfinished lines do not count.",
    "fstat_shipper_read_bytes_total": "Bytes that the shipper has read, across rotation.",
    "fstat_shipper_lost_bytes_total": "Bytes that were deleted, truncated or rotated away before the shipper "
    "read them.",
    "fstat_shipper_unaccounted_bytes_total": "Bytes that were deleted, truncated or rotated away, of which the "
    "shipper's positions do not show whether it has read them.",
    "fstat_shipper_unclaimed_bytes": "Size of the group's files for which the shipper has no position: "
    "fstat-exporter shippers says why.",
    "fstat_shipper_files": "Files of the group by state: read, behind (bytes unread for a minute longer than "
    "flush_interval), held (an unfinished line, or not reported yet), unclaimed (no position).",
    "fstat_shipper_aggregate_unread_bytes": "Bytes of the aggregate's files that the shipper has not read yet.",
    "fstat_shipper_aggregate_oldest_unread_seconds": "How long the oldest of these bytes has been unread at least; "
    "0 when nothing is unread.",
    "fstat_shipper_aggregate_lost_bytes_total": "Bytes of the aggregate's files that were deleted, truncated or "
    "rotated away before the shipper read them.",
    "fstat_shipper_state_readable": "Whether the shipper's positions can be read, 1 or 0: see the log of the agent.",
    "fstat_shipper_state_mtime_seconds": "When the shipper last wrote its positions, seconds since the epoch.",
    "fstat_shipper_state_errors_total": "How often the shipper's positions could not be read.",
    "fstat_cache_hits_total": "Look-ups of files answered from memory. A scrape looks each published file up once.",
    "fstat_cache_misses_total": "Look-ups of files answered by an os.stat. A scrape looks each published file up once.",
    "fstat_cache_hit_ratio": "Hits divided by all look-ups since the start, from 0 to 1; 0 before the first look-up.",
    "fstat_cache_evictions_total": "Files dropped from the cache to make room for others.",
    "fstat_cache_files": "Files in the cache, watched or polled.",
    "fstat_cache_max_files": "Maximum number of files in the cache. "
    "Files beyond it are published too, but each of their look-ups is a miss.",
    "fstat_cache_watches": "Inotify watches held, on files and directories. Names of one file share a watch.",
    "fstat_cache_max_watches": "Maximum number of inotify watches held: "
    "fs.inotify.max_user_watches less 16,384 for other programs, or half of it.",
    "fstat_cache_directory_watches": "Inotify watches held on directories.",
    "fstat_cache_hot_directories": "Directories sampled instead of watched, "
    "because files in them come and go all the time.",
    "fstat_cache_hot_files": "Files sampled instead of watched, because they are written all the time: "
    "a watch would slow their writers down.",
    "fstat_cache_guarded_files": "Files covered by the watch of their directory, because no watch is left for them: "
    "raise fs.inotify.max_user_watches.",
    "fstat_cache_polled_files": "Files in the cache that cannot be watched and are stat'ed each scrape, by reason.",
    "fstat_cache_late_files": "Files in the cache on remote filesystems whose latest stat failed or timed out.",
    "fstat_cache_reads_deleted_files": "Whether deleted and moved files can be read by file handles, 1 or 0: "
    "grant CAP_DAC_READ_SEARCH; overlayfs has no handles.",
    "fstat_cache_queue_overflows_total": "How often the kernel's event queue overflowed. "
    "Every file is then stat'ed again; only files that came and went meanwhile are missed.",
    "fstat_cache_watch_failures_total": "Failures to watch a file, by reason.",
    "fstat_cache_audit_checks_total": "Cached files compared with a fresh os.stat, in rotation.",
    "fstat_cache_audit_mismatches_total": "Cached files that changed without an event. "
    "Their stats are corrected, and they are polled from then on.",
    "fstat_exporter_ready": "Whether the first scan for files is done: 1 or 0.",
    "fstat_exporter_files": "Files that the agent tracks, with rotated files that match no pattern. "
    "Grows during the first scan.",
    "fstat_exporter_directories": "Directories searched for files, found so far.",
    "fstat_exporter_unreadable_directories": "Directories that cannot be listed.",
    "fstat_exporter_unwatched_directories": "Directories that cannot be watched. "
    "Each scrape checks 1,000 of them, or a 120th if that is more, in rotation.",
    "fstat_exporter_missed_changes_total": "Files and directories created or deleted without an event, "
    "found by a rescan.",
    "fstat_exporter_state_resets_total": "How often an unusable state file was renamed to STATE.corrupt-TIME "
    "and the counters began anew.",
    "fstat_exporter_state_write_failures_total": "How often the state file could not be written.",
    "fstat_exporter_build_info": "Version of the exporter and of the Python that runs it.",
}
"""The families of :mod:`exporter.collector`: name of the samples -> HELP."""

SCRAPE: Mapping[str, str] = {
    "fstat_exporter_scrape_duration_seconds": "Duration of this scrape, until these lines were written.",
    "fstat_exporter_scrape_collector_duration_seconds": f"Duration of a part of this scrape: {_PARTS}.",
    "fstat_exporter_scrape_collector_success": f"Whether a part of this scrape succeeded, 1 or 0: {_PARTS}. "
    "The metrics of a part that failed are absent.",
}
"""The families about a scrape itself: name of the samples -> HELP."""


def family(name: str, text: str) -> Metric:
    """Return a family without samples.

    Args:
        name: of its samples.
        text: its HELP text.
    """
    kind = next((kind for kind, ending in _ENDINGS.items() if name.endswith(ending)), "gauge")
    name = name.removesuffix(_ENDINGS.get(kind, ""))
    unit = name.rpartition("_")[2]
    return Metric(name, text, kind, unit if unit in _UNITS else "")


def sample_name(family: Metric) -> str:
    """Return the name of a family's samples."""
    return family.name + _ENDINGS.get(family.type, "")


def file_families() -> dict[str, Metric]:
    """Return the families of files, without samples: name in FILE_METRICS -> family."""
    text = {
        "size_bytes": "Size of the file at the time of the scrape.",
        "mtime_seconds": "Last modification of the file, seconds since the epoch, with fraction.",
        "changes_total": "Changes of size, modification time or inode that the agent saw. "
        "Several changes between two stats count once.",
        "appended_bytes_total": "Bytes appended since the file was first seen, across truncation and rotation. "
        "Bytes appended to a rotated file count for its first name.",
        "truncations_total": "How often the file became smaller.",
        "rotations_total": "How often another file replaced the one with this name.",
        "disk_bytes": "Disk space that the file takes: less than its size if it is sparse or compressed.",
    }
    families = [family(f"fstat_file_{name}", each) for name, each in text.items()]
    return dict(zip(FILE_METRICS, families, strict=True))


def unread_families() -> dict[str, Metric]:
    """Return the family of files and shippers, without samples."""
    name = "fstat_file_unread_bytes"
    text = "Bytes written to the file, also before its rotation, that the shipper has not read yet."
    return {name: family(name, text)}


def content_families() -> dict[str, Metric]:
    """Return the families of files whose content is read, without samples: name in CONTENT_METRICS -> family."""
    text = {
        "lines_total": "Newlines appended to the file, also before its rotation. Exact for what was read: "
        "it lags by a part of fstat_group_lines_backlog_bytes.",
        "crc32": "CRC-32 of the content of the file, if it is no larger than content_max_size: "
        "the same on all nodes if the files are.",
    }
    families = [family(f"fstat_file_{name}", each) for name, each in text.items()]
    return dict(zip(CONTENT_METRICS, families, strict=True))


def mode_families() -> dict[str, Metric]:
    """Return the family of the permissions of files, without samples."""
    name = "fstat_file_mode_info"
    text = "Permission bits of the file, octal, and the user and group that own it, as numbers."
    return {name: family(name, text)}


def totals_families(kind: str, whose: str) -> dict[str, Metric]:
    """Return the families of groups or aggregates, without samples: name -> family."""
    text = {
        "files": f"Files {whose}.",
        "size_bytes": f"Sum of the sizes of files {whose}, each inode once.",
        "newest_mtime_seconds": f"Latest modification of a file {whose}, seconds since the epoch.",
        "changes_total": f"Changes of files {whose}, deleted files included.",
        "appended_bytes_total": f"Bytes appended to files {whose}, deleted files included.",
        "truncations_total": f"Truncations of files {whose}, deleted files included.",
        "rotations_total": f"Rotations of files {whose}, deleted files included.",
        "disk_bytes": f"Sum of the disk space of files {whose}, each inode once.",
    }
    if kind == "group":
        text |= {
            "oldest_mtime_seconds": f"Earliest modification of a file {whose}, seconds since the epoch.",
            "directories": f"Directories that contain files {whose}.",
        }
    return {name.removesuffix("_total"): family(f"fstat_{kind}_{name}", each) for name, each in text.items()}
