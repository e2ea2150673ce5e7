"""What the tests of discovery, of the tracker and of the collector have in common."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.config.groups import LogGroup
from exporter.config.model import Config
from exporter.ledger.records import Path as Declared
from exporter.state.checkpoint import Checkpoint
from exporter.tracker import Tracker
from fstat_cache import file_time_ns
from tests.support import wait_until

Track = Callable[..., Tracker]
"""The fixture that makes trackers, see conftest.py."""


def present(tracker: Tracker) -> dict[str, Declared]:
    """The series of the files that are there, after a refresh."""
    tracker.refresh(0)
    return {series.name: series for series in tracker.facts.paths.values() if series.is_present}


def sizes(tracker: Tracker) -> dict[str, int]:
    """The names of the files that are there, and their sizes."""
    return {os.path.basename(path): series.stats.size for path, series in present(tracker).items() if series.stats}


def appended(tracker: Tracker) -> int:
    """What all files together have grown by."""
    tracker.refresh(0)
    return tracker.publication.groups[0].appended_bytes


def append(path: Path, text: str) -> None:
    """As a log is written."""
    with path.open("a") as file:
        file.write(text)


def tick() -> None:
    """Let the clock of files go on: what was done before has an earlier time than what is done then."""
    now_ns = time.time_ns()
    wait_until(lambda: file_time_ns() > now_ns)


def touch(*paths: Path) -> None:
    """Make empty files, and the directories they are in."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def uncertain(tracker: Tracker) -> dict[str, int]:
    """By reason, how often bytes of all groups may have gone uncounted; after a refresh."""
    tracker.refresh(0)
    found: Counter[str] = Counter()
    with tracker.facts.lock:
        for (_, reason), count in tracker.facts.inodes.uncertain.items():
            found[reason] += count
    return dict(found)


def deleted(tracker: Tracker) -> list[int]:
    """How many bytes of the disk each deleted file takes that is still open; after a refresh."""
    tracker.refresh(0)
    with tracker.facts.lock:
        return sorted(tracker.facts.inodes.deleted_in(0))


@contextmanager
def running(state: Path, *patterns: str) -> Iterator[Tracker]:
    """An agent with a state file and without a thread, from its first scan to its last save."""
    tracker = Tracker(Config(logs=(LogGroup("g", patterns),)))
    checkpoint = Checkpoint(str(state), tracker.publication, tracker.realms, tracker.clock)
    try:
        restored = checkpoint.load(tracker.matcher.groups_of)
        if restored.saved_at_ns:
            since_ns = tracker.clock.restored(restored.saved_at_ns, restored.saved_at_boottime_ns, restored.boot_id)
            tracker.since_ns = dict.fromkeys(tracker.since_ns, since_ns)
            tracker.cache.inodes.restore(tracker.facts.inodes.handles, restored.saved_at_ns)
        tracker.scan()
        tick()
        yield tracker
        tracker.refresh(0)
        assert checkpoint.save(tracker.as_of_ns)
    finally:
        tracker.close()
        checkpoint.close()
