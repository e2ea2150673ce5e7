"""A cache in front of :func:`os.stat`, invalidated by inotify(7)."""

from fstat_cache.cache import CacheInfo, CacheStatus, FStatCache, Surveyed
from fstat_cache.changes import Change, DirectoryEvent, EventsLost, FileChange, InodeChange
from fstat_cache.engine import AUTOFS
from fstat_cache.errors import CacheClosedError, FStatCacheError
from fstat_cache.extents import Data
from fstat_cache.states import FILESYSTEM, HOT, POLL_REASONS, WATCH_FAILURES, WATCHED
from fstat_cache.states import REMOTE_FILESYSTEM as REMOTE
from fstat_cache.stats import DetailedStats, FileStats, file_time_ns, is_settled

__all__ = [
    "AUTOFS",
    "FILESYSTEM",
    "HOT",
    "POLL_REASONS",
    "REMOTE",
    "WATCHED",
    "WATCH_FAILURES",
    "CacheClosedError",
    "CacheInfo",
    "CacheStatus",
    "Change",
    "Data",
    "DetailedStats",
    "DirectoryEvent",
    "EventsLost",
    "FStatCache",
    "FStatCacheError",
    "FileChange",
    "FileStats",
    "InodeChange",
    "Surveyed",
    "file_time_ns",
    "is_settled",
]
