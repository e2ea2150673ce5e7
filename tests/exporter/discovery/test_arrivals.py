"""What events say about the age of a file: the rest is in tests/exporter/test_clock_steps.py."""

import os
from pathlib import Path

import pytest

from exporter.discovery.arrivals import Arrivals
from fstat_cache import DirectoryEvent, FStatCache


def created(path: Path | str) -> DirectoryEvent:
    """The event of a new file."""
    return DirectoryEvent(*os.path.split(path), is_created=True)


def test_lost_events() -> None:
    """A directory to be listed had any events, perhaps of names that are remembered; a rename has its number."""
    arrivals = Arrivals(os.fspath)
    arrivals.note(created("/logs/new"))
    arrivals.note(created("/logs/other"))
    arrivals.note(DirectoryEvent("/logs", "other", moved_from=1))
    arrivals.note(DirectoryEvent("/logs", None))
    arrivals.note(DirectoryEvent("/logs", "renamed", moved_to=1))
    assert arrivals.names == {"/logs/renamed": "/logs/other"}
    arrivals.note(DirectoryEvent("/logs", None))
    arrivals.note(DirectoryEvent("/logs", "renamed", moved_from=2))
    arrivals.note(DirectoryEvent("/logs", "again", moved_to=2))
    assert arrivals.names == {"/logs/again": ""}
    assert arrivals.take_missed() == []


def test_names_that_nobody_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten; deleted ones at once."""
    monkeypatch.setattr("exporter.discovery.arrivals.MOST_ARRIVALS", 2)
    arrivals = Arrivals(os.fspath)
    for name in "abc":
        arrivals.note(created(f"/{name}"))
    assert [*arrivals.names] == ["/b", "/c"]
    arrivals.note(DirectoryEvent("/", "b"))
    assert [*arrivals.names] == ["/c"]


def test_another_file_than_the_created_one(tmp_path: Path) -> None:
    """If another one or none is at the path by now, the event shows nothing; in any case it is used once."""
    arrivals, path = Arrivals(os.fspath), tmp_path / "file"
    path.touch()
    stats = FStatCache.get_file_stats_using_stat(path)
    assert stats is not None
    arrivals.note(created(path))
    assert arrivals.take(str(path), stats) is True
    assert arrivals.take(str(path), stats) is None
    arrivals.note(created(path))
    path.rename(tmp_path / "gone")
    assert arrivals.take(str(path), stats) is None
    arrivals.note(created(path))
    path.touch()
    assert arrivals.take(str(path), stats) is None
