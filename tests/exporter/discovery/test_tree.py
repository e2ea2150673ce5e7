"""How the tracker comes by its files: what is listed, looked at and told on the way."""

import logging
import os
from pathlib import Path

import pytest

from exporter.config.groups import LogGroup
from fstat_cache import FStatCache, file_time_ns, is_settled
from tests.exporter.tracking import Track, append, appended, present, sizes, tick, touch
from tests.support import wait_until


def test_missing_prefix(tmp_path: Path, track: Track) -> None:
    """A pattern for a place that does not exist finds nothing and disturbs nobody."""
    touch(tmp_path / "a.log")
    tracker = track("no/**/*.log", "a.log/x", "a.log/*", "*.log")
    assert set(present(tracker)) == {f"{tmp_path}/a.log"}


def test_only_regular_files(tmp_path: Path, track: Track) -> None:
    """Directories, pipes and dangling links are no files; a link to a file is one."""
    touch(tmp_path / "a.log", tmp_path / "d.log/x.log", tmp_path / "elsewhere/t")
    os.mkfifo(tmp_path / "p.log")
    (tmp_path / "l.log").symlink_to(tmp_path / "elsewhere/t")
    (tmp_path / "broken.log").symlink_to("nowhere")
    (tmp_path / "loop.log").symlink_to("loop.log")
    assert set(sizes(track("*.log"))) == {"a.log", "l.log"}
    assert set(sizes(track("l.log", "p.log", "broken.log", "loop.log", "d.log"))) == {"l.log"}


def test_links_to_directories(tmp_path: Path, track: Track) -> None:
    """`**` goes through no link, so a loop ends; a component that names it or a `*` does."""
    touch(tmp_path / "real/sub/a.log")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/loop").symlink_to("..")
    real, through_link = f"{tmp_path}/real/sub/a.log", f"{tmp_path}/link/sub/a.log"
    assert set(present(track("**/*.log"))) == {real}
    assert set(present(track("link/**/*.log"))) == {through_link}
    assert set(present(track("*/sub/*.log"))) == {real, through_link}


def test_only_directories_that_can_match_are_listed(
    tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the parents of a literal prefix, nor what a pattern passes by, nor an excluded directory is listed."""
    touch(*(tmp_path / name / "sub/a.log" for name in ("x1", "x2", "y", ".h")))
    listed: list[str] = []
    scandir = os.scandir

    def recording(path: str) -> "os._ScandirIterator[str]":
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", recording)
    tracker = track("x*/**/*.log", exclude=(f"{tmp_path}/x2/**",))
    assert set(present(tracker)) == {f"{tmp_path}/x1/sub/a.log"}
    assert sorted(listed) == [str(tmp_path), f"{tmp_path}/x1", f"{tmp_path}/x1/sub"]
    # And watched, nor is a directory in which nothing is missing that is spelt out.
    assert tracker.cache.status().directories == 3
    listed.clear()
    touch(tmp_path / "y/new.log", tmp_path / "x2/sub/new.log", tmp_path / "x1/new.log")
    assert set(sizes(tracker)) == {"a.log", "new.log"}
    assert listed == []


def test_a_listing_in_the_same_tick_as_a_change_is_made_again(
    tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changes after a listing may get the time of what changed before it: then that tells no difference."""
    touch(tmp_path / "a.log")
    tracker = track("*.log")
    wait_until(lambda: is_settled(tmp_path.stat().st_ctime_ns, file_time_ns()))
    scandir = os.scandir
    listed: list[str] = []

    def recording(path: str) -> "os._ScandirIterator[str]":
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", recording)
    for is_same_tick, listings in ((True, 1), (True, 1), (False, 1), (False, 0)):
        with monkeypatch.context() as stopped:
            if is_same_tick:
                stopped.setattr("exporter.discovery.folders.file_time_ns", lambda: tmp_path.stat().st_ctime_ns)
            tracker.scan()
        assert len(listed) == listings
        listed.clear()


def test_names_that_match_nothing_cost_no_stat(tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those that a listing shows, which tells their type, nor those that come and go."""
    touch(tmp_path / "a.log", tmp_path / "b")
    (tmp_path / "link").symlink_to("a.log")
    looked_at: list[str] = []

    def record(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def recording(*arguments: object, **more: object) -> object:
            looked_at.extend(os.path.basename(path) for path in arguments if isinstance(path, str))
            return original(*arguments, **more)

        monkeypatch.setattr(owner, name, recording)

    for owner, name in ((os, "stat"), (os, "lstat"), (os, "readlink"), (FStatCache, "look")):
        record(owner, name)
    tracker = track("*.log")
    for number in range(10):
        with open(tmp_path / f"new-{number}", "w"):
            pass
    (tmp_path / "new-directory").mkdir()
    (tmp_path / "b").rename(tmp_path / "c")
    tracker.refresh(0)
    tracker.scan()
    assert "a.log" in looked_at
    assert {"b", "c", "link", "new-0", "new-directory"}.isdisjoint(looked_at)
    monkeypatch.undo()
    assert sizes(tracker) == {"a.log": 0}


def test_overlapping_groups(tmp_path: Path, track: Track) -> None:
    """A file of two groups belongs to the first, and counts as shadowed for the patterns of the other."""
    touch(tmp_path / "a.log", tmp_path / "b.log", tmp_path / "c")
    groups = LogGroup("one", (f"{tmp_path}/*.log",)), LogGroup("two", (f"{tmp_path}/*",))
    tracker = track(groups=groups)
    touch(tmp_path / "d.log")
    (tmp_path / "a.log").unlink()
    tracker.scan()
    owners = {os.path.basename(path): series.realm for path, series in present(tracker).items()}
    assert owners == {"b.log": 0, "d.log": 0, "c": 1}
    assert tracker.discovery.matches == {0: 2, 1: 3}
    assert tracker.discovery.shadowed == {1: 2}


def test_a_file_where_a_directory_was(tmp_path: Path, track: Track, caplog: pytest.LogCaptureFixture) -> None:
    """What changes while it is looked at is no fault."""
    touch(tmp_path / "a")
    assert present(track("a/*", "a/b/c")) == {}
    assert [record for record in caplog.records if record.name != "fstat_cache.handles"] == []


def test_a_link_loop_is_logged_once(tmp_path: Path, track: Track, caplog: pytest.LogCaptureFixture) -> None:
    """A fault is told when it begins and when it ends, not at each scan; at its end the directory is found at once."""
    caplog.set_level(logging.INFO, "exporter.discovery")
    (tmp_path / "loop").symlink_to("loop")
    tracker = track("loop/*.log")
    for _ in range(3):
        tracker.scan()
        assert tracker.discovery.unreadable == 1
    (tmp_path / "loop").unlink()
    touch(tmp_path / "loop/a.log")
    assert sizes(tracker) == {"a.log": 0}
    tracker.scan()
    assert tracker.discovery.unreadable == 0
    records = [record for record in caplog.records if record.name.startswith("exporter.")]
    assert [record.levelname for record in records] == ["WARNING", "INFO"]
    assert records[0].fields["example"] == f"{tmp_path}/loop"  # type: ignore[attr-defined]


@pytest.mark.parametrize("directories_at_once", [1, 100])
@pytest.mark.parametrize("replaced", ["in", "in/x"])
def test_a_link_where_a_directory_was_listed(
    tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch, replaced: str, directories_at_once: int
) -> None:
    """`**` does not go through a link either that has taken a directory's place between its listing and its turn."""
    touch(tmp_path / "in/x/x.log", tmp_path / "in/y/y.log", tmp_path / "outside/a.log")
    (tmp_path / "links/in").mkdir(parents=True)
    for name in ("x", "y"):
        (tmp_path / "links/in" / name).symlink_to(tmp_path / "outside")
    is_listed = []
    watch_directory = FStatCache.watch_directory

    def replacing(cache: FStatCache, path: str) -> str | None:
        if path.startswith(f"{tmp_path}/in/") and not is_listed:
            is_listed.append(True)
            (tmp_path / replaced).rename(tmp_path / "out")
            (tmp_path / "links" / replaced).rename(tmp_path / replaced)
        return watch_directory(cache, path)

    monkeypatch.setattr(FStatCache, "watch_directory", replacing)
    monkeypatch.setattr("exporter.tracker.DIRECTORIES_AT_ONCE", directories_at_once)
    tracker = track("in/**/*.log")
    assert is_listed
    assert set(sizes(tracker)) == ({"y.log"} if replaced == "in/x" else set())


def test_a_link_to_the_directory_that_was_there(tmp_path: Path, track: Track) -> None:
    """`**` does not go through it, so the files belong to another group, at once."""
    touch(tmp_path / "in/d/a.log")
    append(tmp_path / "in/d/a.log", "12345")
    groups = LogGroup("deep", (f"{tmp_path}/in/**/*.log",)), LogGroup("here", (f"{tmp_path}/in/d/*.log",))
    tracker = track(groups=groups)
    assert [series.realm for series in present(tracker).values()] == [0]
    (tmp_path / "in/d").rename(tmp_path / "d")
    (tmp_path / "in/d").symlink_to(tmp_path / "d")
    (series,) = present(tracker).values()
    assert (series.realm, series.stats and series.stats.size) == (1, 5)


def test_undecodable_names(tmp_path: Path, track: Track) -> None:
    """Names that are no UTF-8 are found like all others."""
    name = os.fsencode(tmp_path) + b"/\xff.log"
    with open(name, "w"):
        pass
    assert set(present(track("*.log"))) == {os.fsdecode(name)}


def failed_looks(caplog: pytest.LogCaptureFixture) -> int:
    """How many were told."""
    return sum(record.message.startswith("an unexpected error in a directory") for record in caplog.records)


@pytest.mark.parametrize("looks", ["scan", "refresh"])
def test_a_failed_listing_is_made_again(
    tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, looks: str
) -> None:
    """Whatever has failed, where nothing has changed since: the next scan puts everything right."""
    tracker = track("*/*.log")
    scandir = os.scandir

    def fail(path: str) -> "os._ScandirIterator[str]":
        if path.startswith(str(tmp_path)):
            raise RuntimeError("unexpected")
        return scandir(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", fail)
        touch(tmp_path / "d/a.log", tmp_path / "e/b.log")
        tick()
        tracker.scan() if looks == "scan" else tracker.refresh(0)
        assert sizes(tracker) == {}
    assert failed_looks(caplog) in (1, 2)  # one if the cache's own thread has not been quicker than a scan
    tracker.scan()
    assert sizes(tracker) == {"a.log": 0, "b.log": 0}


@pytest.mark.parametrize("looks", ["scan", "refresh"])
def test_a_failed_look_keeps_nobody_from_another(
    tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, looks: str
) -> None:
    """However often it fails; it is told once between two scans."""
    touch(*(tmp_path / f"{folder}/old.log" for folder in "abc"))
    tracker = track("*/*.log")
    look = FStatCache.look

    def fail(cache: FStatCache, path: str, *, is_detailed: bool) -> bool:
        if path.endswith("bad.log"):
            raise RuntimeError("unexpected")
        return look(cache, path, is_detailed=is_detailed)

    with monkeypatch.context() as patched:
        patched.setattr(FStatCache, "look", fail)
        touch(tmp_path / "a/bad.log", tmp_path / "b/bad.log")
        tracker.refresh(0)
        for number in range(3):
            touch(*(tmp_path / f"{folder}/{folder}{number}.log" for folder in "abc"))
            told = failed_looks(caplog)
            tracker.scan() if looks == "scan" else tracker.refresh(0)
            assert failed_looks(caplog) - told == (1 if looks == "scan" else 0)
            assert {f"{folder}{number}.log" for folder in "abc"} <= set(sizes(tracker))
    assert "bad.log" not in sizes(tracker)
    tracker.scan()
    assert {"a/bad.log", "b/bad.log"} <= {os.path.relpath(path, tmp_path) for path in present(tracker)}


def test_a_failed_look_at_a_rotated_file_is_made_again(
    tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrives in it is counted."""
    touch(tmp_path / "a.log", tmp_path / "b.log")
    tracker = track("*.log")

    look = FStatCache.look

    def fail(cache: FStatCache, path: str, *, is_detailed: bool) -> bool:
        if path.endswith(".1"):
            raise RuntimeError("unexpected")
        return look(cache, path, is_detailed=is_detailed)

    with monkeypatch.context() as patched:
        patched.setattr(FStatCache, "look", fail)
        for name in "ab":
            (tmp_path / f"{name}.log").rename(tmp_path / f"{name}.log.1")
        tracker.refresh(0)
    tracker.scan()
    for name in "ab":
        append(tmp_path / f"{name}.log.1", "12345")
    assert appended(tracker) == 10


def test_a_link_that_goes_while_it_is_looked_at(tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is gone, like one that has gone before."""
    touch(tmp_path / "here/target", tmp_path / "here/plain.log")
    (tmp_path / "here/a.log").symlink_to("target")
    link = tmp_path / "link"
    link.symlink_to("here")
    readlink = os.readlink

    def too_late(path: str) -> str:
        if path == str(link):
            link.unlink(missing_ok=True)
        return readlink(path)

    tracker = track("there/*.log", "link/*.log")
    assert set(sizes(tracker)) == {"a.log", "plain.log"}
    with monkeypatch.context() as patched:
        patched.setattr(os, "readlink", too_late)
        (tmp_path / "here/a.log").unlink()
        (tmp_path / "here/a.log").symlink_to("target")
        tracker.refresh(0)
    assert sizes(tracker) == {}
    link.symlink_to("here")
    assert set(sizes(tracker)) == {"a.log", "plain.log"}
