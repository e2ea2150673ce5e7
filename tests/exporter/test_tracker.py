"""Discovery, cache and ledger together, on the real kernel: after any change and one refresh, what is known is right."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.config import Config, LogGroup
from exporter.growth import Series
from exporter.tracker import Tracker
from tests.support import wait_until

CLOCK_REALTIME_COARSE = 5  # of clock_gettime(2)

Make = Callable[..., Tracker]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes trackers that have scanned already, and closes them; patterns are taken below the test's directory."""
    trackers: list[Tracker] = []

    def make(*patterns: str, **more: object) -> Tracker:
        paths = tuple(f"{tmp_path}/{pattern}" for pattern in patterns or ("**/*.log",))
        tracker = Tracker(Config(logs=(LogGroup("g", paths, **more),)))  # type: ignore[arg-type]
        trackers.append(tracker)
        tracker.scan()
        started_ns = time.time_ns()
        wait_until(lambda: time.clock_gettime_ns(CLOCK_REALTIME_COARSE) > started_ns)  # births have its resolution
        return tracker

    yield make
    for tracker in trackers:
        tracker.cache.close()


def present(tracker: Tracker) -> dict[str, Series]:
    """The series of the files that are there, after a refresh."""
    tracker.refresh(0)
    return {series.path: series for series in tracker.ledger.series() if series.is_present}


def sizes(tracker: Tracker) -> dict[str, int]:
    """The names of the files that are there, and their sizes."""
    return {os.path.basename(path): series.stats.size for path, series in present(tracker).items() if series.stats}


def appended(tracker: Tracker) -> int:
    """What all files together have grown by."""
    tracker.refresh(0)
    return tracker.ledger.groups[0].appended_bytes


def append(path: Path, text: str) -> None:
    """As a log is written."""
    with path.open("a") as file:
        file.write(text)


def test_files_at_the_start_count_from_their_size(tmp_path: Path, make: Make) -> None:
    """And those born later from nothing."""
    old, new = tmp_path / "old.log", tmp_path / "new.log"
    old.write_text("12345")
    tracker = make()
    assert appended(tracker) == 0
    append(old, "678")
    new.write_text("abc")
    assert sizes(tracker) == {"old.log": 8, "new.log": 3}
    assert appended(tracker) == 6


def test_a_new_tree(tmp_path: Path, make: Make) -> None:
    """A file in directories made just before is there with all its bytes."""
    tracker = make()
    for number in range(20):
        directory = tmp_path / f"a{number}/b/c"
        directory.mkdir(parents=True)
        (directory / "1.log").write_text("x")
    assert len(present(tracker)) == 20
    assert appended(tracker) == 20


def test_trees_moved_in_and_out(tmp_path: Path, make: Make) -> None:
    """A tree brings its files and takes them away; moved back, nothing is counted twice."""
    watched, outside = tmp_path / "watched", tmp_path / "outside"
    (watched / "x").mkdir(parents=True)
    (outside / "tree/deep").mkdir(parents=True)
    tracker = make("watched/**/*.log")
    (outside / "tree/deep/a.log").write_text("12345")
    assert sizes(tracker) == {}
    (outside / "tree").rename(watched / "x/tree")
    assert sizes(tracker) == {"a.log": 5}
    assert appended(tracker) == 5
    append(watched / "x/tree/deep/a.log", "6")
    assert appended(tracker) == 6
    (watched / "x/tree").rename(outside / "tree")
    assert sizes(tracker) == {}
    append(outside / "tree/deep/a.log", "unseen")
    (outside / "tree").rename(watched / "back")
    assert sizes(tracker) == {"a.log": 12}
    assert appended(tracker) == 12


def test_a_renamed_directory(tmp_path: Path, make: Make) -> None:
    """Its files have new paths and go on growing."""
    (tmp_path / "a/b").mkdir(parents=True)
    path = tmp_path / "a/b/1.log"
    tracker = make()
    path.write_text("123")
    assert appended(tracker) == 3
    (tmp_path / "a").rename(tmp_path / "z")
    append(tmp_path / "z/b/1.log", "45")
    assert set(present(tracker)) == {str(tmp_path / "z/b/1.log")}
    assert appended(tracker) == 5
    append(tmp_path / "z/b/1.log", "6")
    assert appended(tracker) == 6
    (tmp_path / "a/b").mkdir(parents=True)
    path.write_text("new")
    assert appended(tracker) == 9


def test_deletion(tmp_path: Path, make: Make) -> None:
    """Of a file, and of a directory that is made again."""
    directory = tmp_path / "d"
    directory.mkdir()
    path = directory / "a.log"
    path.write_text("1")
    tracker = make()
    assert sizes(tracker) == {"a.log": 1}
    path.unlink()
    assert sizes(tracker) == {}
    path.write_text("22")
    assert sizes(tracker) == {"a.log": 2}
    for _ in range(3):
        shutil.rmtree(directory)
        assert sizes(tracker) == {}
        directory.mkdir()
        path.write_text("22")
        assert sizes(tracker) == {"a.log": 2}
    assert appended(tracker) == 8


@pytest.mark.parametrize("pattern", ["not/yet/there/*.log", "not/yet/there/a.log", "not/*/there/**/*.log"])
def test_a_declared_directory_that_does_not_exist_yet(tmp_path: Path, make: Make, pattern: str) -> None:
    """Is found when it comes, however often it goes."""
    tracker = make(pattern)
    path = tmp_path / "not/yet/there/a.log"
    for count in range(1, 4):
        path.parent.mkdir(parents=True)
        path.write_text("x")
        assert sizes(tracker) == {"a.log": 1}
        assert appended(tracker) == count
        shutil.rmtree(tmp_path / "not")
        assert sizes(tracker) == {}
    (tmp_path / "not").mkdir()
    assert sizes(tracker) == {}
    (tmp_path / "not/yet").mkdir()
    assert sizes(tracker) == {}
    (tmp_path / "elsewhere/there").mkdir(parents=True)
    (tmp_path / "elsewhere/there/a.log").write_text("x")
    (tmp_path / "not/yet").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "not/yet")
    assert sizes(tracker) == {"a.log": 1}


def test_rotation_by_rename(tmp_path: Path, make: Make) -> None:
    """What still arrives in the rotated file, which matches no pattern, counts for the name that it had first."""
    path, rotated = tmp_path / "a.log", tmp_path / "a.log.1"
    path.write_text("old")
    tracker = make()
    with path.open("a", buffering=1) as writer:
        writer.write("1\n")
        path.rename(rotated)
        writer.write("22\n")
        path.write_text("new")
        writer.write("333\n")
        assert appended(tracker) == 12
        writer.write("4444\n")
    series = present(tracker)[str(path)]
    assert (series.appended_bytes, series.rotations, series.truncations) == (17, 1, 0)
    assert sizes(tracker) == {"a.log": 3}


def test_numbered_shifts(tmp_path: Path, make: Make) -> None:
    """A file is followed through any number of names that match nothing."""
    tracker = make()
    path = tmp_path / "a.log"
    writers = []
    for turn in range(1, 6):
        for number in range(turn - 2, 0, -1):
            (tmp_path / f"a.log.{number}").rename(tmp_path / f"a.log.{number + 1}")
        if turn > 1:
            path.rename(tmp_path / "a.log.1")
        writers.append(path.open("a", buffering=1))
        for writer in writers:
            writer.write("x\n")
        if turn % 2:
            assert appended(tracker) == turn * (turn + 1)
    assert appended(tracker) == 30
    assert present(tracker)[str(path)].rotations == 4
    for writer in writers:
        writer.close()


def test_numbered_shifts_that_match(tmp_path: Path, make: Make) -> None:
    """The rotated files have series of their own for size and time; their growth counts for the first name."""
    tracker = make("*.log*")
    path = tmp_path / "a.log"
    for turn in range(1, 5):
        for number in range(turn - 2, 0, -1):
            (tmp_path / f"a.log.{number}").rename(tmp_path / f"a.log.{number + 1}")
        if turn > 1:
            path.rename(tmp_path / "a.log.1")
        path.write_text("x" * turn)
        assert appended(tracker) == turn * (turn + 1) // 2
    found = present(tracker)
    assert len(found) == 4
    assert found[str(path)].appended_bytes == 10
    assert [series.is_counting for name, series in sorted(found.items())] == [True, False, False, False]


def test_kubelet_rotation(tmp_path: Path, make: Make) -> None:
    """0.log -> 0.log.20260102-150405 -> .gz, which is left out."""
    tracker = make("*/*/*.log")
    directory = tmp_path / "ns_pod_uid/container"
    directory.mkdir(parents=True)
    path, rotated = directory / "0.log", directory / "0.log.20260102-150405"
    path.write_text("123")
    assert appended(tracker) == 3
    path.rename(rotated)
    append(rotated, "4")
    path.write_text("5")
    assert appended(tracker) == 5
    shutil.copy(rotated, f"{rotated}.gz")
    rotated.unlink()
    assert appended(tracker) == 5
    assert sizes(tracker) == {"0.log": 1}


def test_copytruncate(tmp_path: Path, make: Make) -> None:
    """Counts what was there before and after."""
    path = tmp_path / "a.log"
    tracker = make()
    path.write_text("123456")
    assert appended(tracker) == 6
    shutil.copy(path, tmp_path / "a.log.1")
    os.truncate(path, 0)
    append(path, "78")
    assert appended(tracker) == 8
    assert present(tracker)[str(path)].truncations == 1


def test_a_hole_is_no_growth(tmp_path: Path, make: Make) -> None:
    """A writer without O_APPEND goes on at its old offset after a truncation."""
    path = tmp_path / "a.log"
    tracker = make()
    with path.open("wb", buffering=0) as writer:
        writer.write(b"x" * 100_000)
        assert appended(tracker) == 100_000
        os.truncate(path, 0)
        assert appended(tracker) == 100_000
        writer.write(b"y" * 50)
        assert appended(tracker) == 100_050
        writer.write(b"y" * 50)
        assert appended(tracker) == 100_100


def test_the_inode_number_given_again(tmp_path: Path, make: Make) -> None:
    """A new file that happens to have the number of the old one is a new file."""
    path = tmp_path / "a.log"
    tracker = make()
    path.write_text("123")
    assert appended(tracker) == 3
    path.unlink()
    path.write_text("45678")
    assert appended(tracker) == 8


def test_a_symbolic_link(tmp_path: Path, make: Make) -> None:
    """A rotation at the target is seen through the link, and the old file is followed there."""
    (tmp_path / "links").mkdir()
    (tmp_path / "real/deep").mkdir(parents=True)
    target, link = tmp_path / "real/deep/0.log", tmp_path / "links/a.log"
    middle = tmp_path / "middle"
    target.write_text("123")
    middle.symlink_to("real/deep/0.log")
    link.symlink_to(middle)
    tracker = make("links/*.log")
    assert sizes(tracker) == {"a.log": 3}
    append(target, "4")
    assert appended(tracker) == 1
    target.rename(f"{target}.20260102-150405")
    append(Path(f"{target}.20260102-150405"), "5")
    assert sizes(tracker) == {}
    target.write_text("67")
    assert sizes(tracker) == {"a.log": 2}
    append(Path(f"{target}.20260102-150405"), "8")
    assert appended(tracker) == 5
    other = tmp_path / "real/other"
    other.write_text("other")
    middle.unlink()
    assert sizes(tracker) == {}
    middle.symlink_to(other)
    assert sizes(tracker) == {"a.log": 5}
    append(other, "!")
    assert sizes(tracker) == {"a.log": 6}
    link.unlink()
    assert sizes(tracker) == {}


def test_a_dangling_link(tmp_path: Path, make: Make) -> None:
    """Is published as soon as its target is there."""
    (tmp_path / "links").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "links/a.log").symlink_to("../real/x")
    tracker = make("links/*.log")
    assert sizes(tracker) == {}
    (tmp_path / "real/x").write_text("1")
    assert sizes(tracker) == {"a.log": 1}
    (tmp_path / "real/x").unlink()
    assert sizes(tracker) == {}


def test_links_that_loop(tmp_path: Path, make: Make) -> None:
    """End."""
    (tmp_path / "loop.log").symlink_to("loop.log")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/up").symlink_to("..")
    (tmp_path / "d/a.log").write_text("1")
    tracker = make("**/*.log", "*/up/*/a.log")
    assert len(present(tracker)) == 2
    assert tracker.ledger.groups[0].size_bytes == 1


def test_one_inode_with_two_names(tmp_path: Path, make: Make) -> None:
    """Counts once in the sums, for the first name by path; a hard link made later changes nothing."""
    (tmp_path / "pods").mkdir()
    (tmp_path / "pods/0.log").write_text("123")
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers/x.log").symlink_to(tmp_path / "pods/0.log")
    tracker = make()
    append(tmp_path / "pods/0.log", "45")
    os.link(tmp_path / "pods/0.log", tmp_path / "another.log")
    assert set(sizes(tracker).values()) == {5}
    totals = tracker.ledger.groups[0]
    assert (totals.files, totals.size_bytes, totals.appended_bytes) == (3, 5, 2)
    assert present(tracker)[f"{tmp_path}/containers/x.log"].appended_bytes == 2
    (tmp_path / "containers/x.log").unlink()
    append(tmp_path / "another.log", "6")
    assert appended(tracker) == 3
    assert totals.size_bytes == 6


def test_names_that_match_nothing_are_not_looked_at(tmp_path: Path, make: Make) -> None:
    """Nor are directories watched in which nothing can match."""
    for number in range(50):
        (tmp_path / f"{number}.txt").touch()
        (tmp_path / f"d{number}").mkdir()
    tracker = make("d1/*.log", "e*/*.log")
    watches = tracker.cache.status().watches
    for number in range(50):
        (tmp_path / f"f{number}").mkdir()
        (tmp_path / f"f{number}/a.log").touch()
    assert sizes(tracker) == {}
    assert tracker.cache.status().watches == watches
    assert watches <= 3


def test_lost_events(tmp_path: Path, make: Make) -> None:
    """After an overflow of the kernel's queue everything is right again, rotated files included."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    path, gone = tmp_path / "a.log", tmp_path / "gone.log"
    for file in (path, gone):
        file.write_text("1")
    (tmp_path / "d").mkdir()
    tracker = make()
    tracker.refresh(0)
    with tracker._lock, tracker.cache._lock:  # nobody reads the queue
        for number in range(limit // 2 + 10):
            noise = tmp_path / "d" / str(number)
            noise.touch()
            noise.unlink()
        path.rename(tmp_path / "a.log.1")
        append(tmp_path / "a.log.1", "22")
        path.write_text("333")
        gone.unlink()
        (tmp_path / "new/deep").mkdir(parents=True)
        (tmp_path / "new/deep/b.log").write_text("4444")
    assert sizes(tracker) == {"a.log": 3, "b.log": 4}
    assert appended(tracker) == 9
    append(tmp_path / "a.log.1", "5")
    assert appended(tracker) == 10
    assert tracker.cache.status().queue_overflows == 1
    assert tracker.discovery.missed == 0


def test_a_rescan_finds_nothing(tmp_path: Path, make: Make) -> None:
    """That was not heard of: whatever came and went was, and is not counted as missed."""
    tracker = make()
    for number in range(5):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}/a.log").write_text("x")
        (tmp_path / f"d{number}").rename(tmp_path / f"e{number}")
        tracker.scan()
    assert len(present(tracker)) == 5
    assert tracker.discovery.missed == 0


def test_a_rescan_heals(tmp_path: Path, make: Make) -> None:
    """What no event told of (here: the watch was taken away) is found and counted."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/old.log").touch()
    tracker = make()
    tracker.cache.unwatch_directory(str(tmp_path / "d"))
    (tmp_path / "d/a.log").write_text("x")
    assert sizes(tracker) == {"old.log": 0}
    tracker.scan()
    assert sizes(tracker) == {"old.log": 0, "a.log": 1}
    assert tracker.discovery.missed == 1
    (tmp_path / "d/b.log").write_text("x")
    assert len(sizes(tracker)) == 3


def test_a_directory_that_floods(tmp_path: Path, make: Make) -> None:
    """Is watched no longer but listed at each refresh; when it is quiet it is watched again."""
    tracker = make()
    (tmp_path / "flood").mkdir()
    assert sizes(tracker) == {}
    for number in range(3000):
        (tmp_path / "flood" / str(number)).touch()
    assert sizes(tracker) == {}
    assert tracker.cache.status().hot_directories == 1
    for number in range(10):
        (tmp_path / f"flood/{number}.log").write_text("x")
        assert len(sizes(tracker)) == number + 1
    assert appended(tracker) == 10


def test_the_first_group_has_the_file(tmp_path: Path) -> None:
    """And its own rules: labels, aggregates; patterns count what they match."""
    (tmp_path / "a.log").write_text("1")
    (tmp_path / "b.txt").write_text("22")
    one = LogGroup("one", (f"{tmp_path}/*.log",))
    two = LogGroup("two", (f"{tmp_path}/a*", f"{tmp_path}/b*"))
    tracker = Tracker(Config(logs=(one, two)))
    tracker.scan()
    tracker.refresh(0)
    assert [totals.files for totals in tracker.ledger.groups] == [1, 1]
    assert [tracker.discovery.matches[number] for number in range(3)] == [1, 1, 1]
    (tmp_path / "a.log").unlink()
    tracker.refresh(0)
    assert [tracker.discovery.matches[number] for number in range(3)] == [0, 0, 1]
    tracker.cache.close()
