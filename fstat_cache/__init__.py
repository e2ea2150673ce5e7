"""A cache in front of :func:`os.stat` that the Linux kernel keeps true by inotify(7)."""

from fstat_cache.cache import CacheInfo, CacheStatus, FStatCache, Survey
from fstat_cache.errors import CacheClosedError, FStatCacheError
from fstat_cache.follower import POLL_REASONS, WATCH_FAILURES
from fstat_cache.stats import FileStats

__all__ = [
    "POLL_REASONS",
    "WATCH_FAILURES",
    "CacheClosedError",
    "CacheInfo",
    "CacheStatus",
    "FStatCache",
    "FStatCacheError",
    "FileStats",
    "Survey",
]
