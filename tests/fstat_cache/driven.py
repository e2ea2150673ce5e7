"""Caches that keep changes: what was taken from them, and an owner that drives one."""

import threading
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager

from fstat_cache import Change, DirectoryEvent, FileChange, FileStats, FStatCache, Surveyed


def stats_taken(cache: FStatCache) -> list[tuple[str, FileStats | None]]:
    """What was found of files since changes were taken last."""
    return [(change.path, change.stats) for change in cache.take() if isinstance(change, FileChange)]


def events_taken(cache: FStatCache) -> list[DirectoryEvent]:
    """What has happened in directories since changes were taken last, without times."""
    return [change for change in map(without_times, cache.take()) if isinstance(change, DirectoryEvent)]


def without_times(change: Change) -> Change:
    """A change without what tests of order and place do not ask about."""
    return change._replace(since_ns=0) if isinstance(change, DirectoryEvent) else change


def survey(cache: FStatCache, paths: Set[str], surveyed: Surveyed | None = None) -> dict[str, OSError]:
    """Look up many files as of now."""
    cache.sync()
    return cache.survey(paths, surveyed)


@contextmanager
def driven(cache: FStatCache, report: Callable[[Change], object]) -> Iterator[FStatCache]:
    """Have a thread drive a cache and take its changes, without times and causes, until it is closed."""

    def drive() -> None:
        while cache.wait():
            cache.advance()
            for change in cache.take():
                report(without_times(change))

    thread = threading.Thread(target=drive, name="owner")
    thread.start()
    try:
        with cache:
            yield cache
    finally:
        thread.join()
