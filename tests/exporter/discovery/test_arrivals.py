"""What events say about the age of a file: the rest is in tests/exporter/test_clock_steps.py."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.config.groups import LogGroup
from exporter.discovery.arrivals import Arrivals
from exporter.tracker import Tracker
from fstat_cache import DirectoryEvent, FStatCache
from tests.exporter.tracking import Track, append, uncertain
from tests.support import as_root


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


@pytest.fixture(params=["link", pytest.param("bind mount", marks=as_root)])
def spellings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two paths of one directory, which has another one in it."""
    one, other = tmp_path / "one", tmp_path / "other"
    (one / "sub").mkdir(parents=True)
    if request.param == "link":
        other.symlink_to(one)
        yield one, other
        return
    other.mkdir()
    subprocess.run(["mount", "--bind", one, other], check=True)
    yield one, other
    subprocess.run(["umount", "--lazy", other], check=True)


@pytest.fixture
def tracker(spellings: tuple[Path, Path], track: Track) -> Tracker:
    """With a group for each of the two paths."""
    return track(groups=tuple(LogGroup(path.name, (f"{path}/**/*.log",)) for path in spellings), has_thread=False)


RENAMES = [("a.tmp", "a.log"), ("a.tmp", "sub/a.log"), ("sub/a.tmp", "a.log")]


@pytest.mark.parametrize(("name", "new_name"), RENAMES)
def test_new_on_two_paths(
    spellings: tuple[Path, Path], tracker: Tracker, monkeypatch: pytest.MonkeyPatch, name: str, new_name: str
) -> None:
    """A file that was created, written and then renamed is new on both paths of its directory, without births too."""
    monkeypatch.setattr("fstat_cache.stats._statx", lambda: None)
    one, _ = spellings
    append(one / name, "12345")
    (one / name).rename(one / new_name)
    tracker.refresh(0)
    assert [group.appended_bytes for group in tracker.publication.groups] == [5, 5]


@pytest.mark.parametrize(("name", "new_name"), [("a.log", "a.log.1"), ("a.log", "sub/a.log"), ("sub/a.log", "a.log")])
def test_missed_on_two_paths(spellings: tuple[Path, Path], tracker: Tracker, name: str, new_name: str) -> None:
    """A file that was renamed and deleted before its first stat is missed by the group of each path."""
    _, other = spellings
    append(other / name, "12345")
    (other / name).rename(other / new_name)
    (other / new_name).unlink()
    assert uncertain(tracker) == {"deleted": 2}
    assert tracker.facts.inodes.uncertain.keys() == {(0, "deleted"), (1, "deleted")}


@pytest.mark.parametrize(("name", "new_name"), [("a.log", "a.log.1"), ("a.log", "sub/a"), ("sub/a.log", "a")])
def test_renamed_on_two_paths(spellings: tuple[Path, Path], tracker: Tracker, name: str, new_name: str) -> None:
    """On each path, a renamed file is followed from the name that it had on that path."""
    one, _ = spellings
    append(one / name, "12345")
    tracker.refresh(0)
    (one / name).rename(one / new_name)
    append(one / new_name, "678")
    tracker.refresh(0)
    assert [group.appended_bytes for group in tracker.publication.groups] == [8, 8]
    for path in spellings:
        assert tracker.discovery._tree.renames.origin_of(str(path / new_name)) == str(path / name)
