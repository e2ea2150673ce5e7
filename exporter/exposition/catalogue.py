"""All families: the name of their samples and their HELP. What a name ends with says their type and unit."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Metric

from exporter.config.groups import FILE_METRICS

_ENDINGS: Mapping[str, str] = {"counter": "_total", "info": "_info"}
_UNITS = ("bytes", "seconds")

AGENT: Mapping[str, str] = {
    "fstat_group_pattern_matches": "Files that the pattern matches now.",
    "fstat_group_files_without_series": "Files of the group for which max_series leaves no series; "
    "they are in the sums.",
    "fstat_group_unlabelled_files": "Files of the group whose path its path_regex does not match; "
    "they lack its labels.",
    "fstat_cache_hits_total": "Look-ups of files answered without os.stat. "
    "Each published file is one look-up a scrape.",
    "fstat_cache_misses_total": "Look-ups of files that took an os.stat. Each published file is one look-up a scrape.",
    "fstat_cache_hit_ratio": "Hits divided by hits and misses since the start, from 0 to 1; "
    "0 before the first look-up.",
    "fstat_cache_evictions_total": "Files dropped from the cache to make room for others.",
    "fstat_cache_files": "Files in the cache, each of them watched or polled.",
    "fstat_cache_max_files": "Upper bound of the files in the cache. "
    "Declared files beyond it are published too, each look-up a miss.",
    "fstat_cache_watches": "Inotify watches held. Names of one file share a watch.",
    "fstat_cache_directory_watches": "Those of them that are on directories.",
    "fstat_cache_hot_directories": "Directories in which files come and go all the time: "
    "listed now and then instead of watched.",
    "fstat_cache_hot_files": "Files written all the time: "
    "sampled instead of watched, so that their writers are not slowed down.",
    "fstat_cache_guarded_files": "Files that have no watch of their own, for want of watches: "
    "that of their directory tells of them.",
    "fstat_cache_polled_files": "Files in the cache that can not be watched and are looked at each scrape, "
    "by the reason.",
    "fstat_cache_late_files": "Files in the cache whose remote filesystem did not answer the latest look.",
    "fstat_cache_queue_overflows_total": "How often the kernel's queue of events was full. "
    "Every file is looked at again then, nothing is lost.",
    "fstat_cache_watch_failures_total": "Files that could not be watched when that was tried, by the reason.",
    "fstat_cache_audit_checks_total": "Cached files compared with a fresh os.stat, in rotation.",
    "fstat_cache_audit_mismatches_total": "Cached files that had changed without an event. "
    "They are right again, and polled from then on.",
    "fstat_exporter_ready": "Whether the first scan for files is done: 1 or 0.",
    "fstat_exporter_files": "Files that are looked at, found so far.",
    "fstat_exporter_directories": "Directories in which files are looked for, found so far.",
    "fstat_exporter_unreadable_directories": "Those that can not be listed.",
    "fstat_exporter_unwatched_directories": "Those that can not be watched, and are looked at each scrape.",
    "fstat_exporter_missed_changes_total": "Files and directories that had come or gone without an event "
    "and were found by a rescan.",
    "fstat_exporter_state_resets_total": "How often a state file was damaged or not ours, was set aside, "
    "and the counters began anew.",
    "fstat_exporter_state_write_failures_total": "How often the state file could not be written.",
    "fstat_exporter_build_info": "Version of the exporter and of the Python that runs it.",
}
"""What :mod:`exporter.collector` shows."""

SCRAPE: Mapping[str, str] = {
    "fstat_exporter_scrape_duration_seconds": "Duration of this scrape, until these lines were written.",
    "fstat_exporter_scrape_collector_duration_seconds": "Duration of a part of this scrape. The part files has the "
    "files, groups and aggregates.",
    "fstat_exporter_scrape_collector_success": "Whether a part of this scrape succeeded: 1 or 0. The metrics of a part "
    "that failed are absent.",
}
"""How the parts of a scrape did."""


def family(name: str, text: str) -> Metric:
    """Return a family without samples.

    Args:
        name: of its samples.
        text: its HELP.
    """
    kind = next((kind for kind, ending in _ENDINGS.items() if name.endswith(ending)), "gauge")
    name = name.removesuffix(_ENDINGS.get(kind, ""))
    unit = name.rpartition("_")[2]
    return Metric(name, text, kind, unit if unit in _UNITS else "")


def sample_name(family: Metric) -> str:
    """Return the name of a family's samples."""
    return family.name + _ENDINGS.get(family.type, "")


def file_families() -> dict[str, Metric]:
    """Return the families of the files, without samples: what FILE_METRICS calls them -> the family."""
    text = {
        "size_bytes": "Size of the file at the time of the scrape.",
        "mtime_seconds": "Last modification of the file, seconds since the epoch, with the fraction.",
        "changes_total": "Distinct combinations of size, modification time and inode seen after the first one. "
        "Changes closer together than one look count once: this is not the number of writes.",
        "appended_bytes_total": "Bytes appended since the file was first seen, across truncation and rotation: "
        "what arrives in a rotated file counts for the name that it had first.",
        "truncations_total": "How often the file was found smaller than before.",
        "rotations_total": "How often another file took the place of the one of this name.",
    }
    families = [family(f"fstat_file_{name}", each) for name, each in text.items()]
    return dict(zip(FILE_METRICS, families, strict=True))


def totals_families(kind: str, whose: str) -> dict[str, Metric]:
    """Return the families of groups or aggregates, without samples: what `Totals` calls them -> the family."""
    text = {
        "files": f"Files of {whose}.",
        "size_bytes": f"Sum of the sizes of {whose}, each inode once.",
        "newest_mtime_seconds": f"Last modification of any file of {whose}, seconds since the epoch.",
        "changes_total": f"Changes of {whose}, files that have gone included.",
        "appended_bytes_total": f"Bytes appended to {whose}, files that have gone included.",
        "truncations_total": f"Truncations of {whose}, files that have gone included.",
        "rotations_total": f"Rotations of {whose}, files that have gone included.",
    }
    return {name.removesuffix("_total"): family(f"fstat_{kind}_{name}", each) for name, each in text.items()}
