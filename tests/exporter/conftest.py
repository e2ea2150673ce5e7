"""Fixtures for the tests of the agent's parts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.config.groups import LogGroup
from exporter.config.model import Config
from exporter.tracker import Tracker
from tests.exporter.tracking import Track, tick


@pytest.fixture
def track(tmp_path: Path) -> Iterator[Track]:
    """Makes trackers that have scanned already, and closes them.

    `track("a/*", exclude=...)` has one group, of patterns below the test's directory; `track(groups=(...))` any.
    `remote_timeout_s` is how long a remote directory is waited for, `rootfs` where the paths begin. With
    `has_thread=False` nothing is processed between two refreshes.
    """
    trackers: list[Tracker] = []

    def make(
        *patterns: str,
        groups: tuple[LogGroup, ...] = (),
        remote_timeout_s: float = 10,
        rootfs: str = "/",
        has_thread: bool = True,
        **more: object,
    ) -> Tracker:
        paths = tuple(f"{tmp_path}/{pattern}" for pattern in patterns or ("**/*.log",))
        config = Config(logs=groups or (LogGroup("g", paths, **more),))  # type: ignore[arg-type]
        tracker = Tracker(config, rootfs=rootfs, remote_timeout_s=remote_timeout_s)
        trackers.append(tracker)
        if has_thread:
            tracker.start()
        tracker.scan()
        tick()  # births have its resolution
        return tracker

    yield make
    for tracker in trackers:
        tracker.close()
