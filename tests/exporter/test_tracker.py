"""Discovery, cache and ledger together, on the real kernel: after any change and one refresh, all is right."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.config.groups import LogGroup
from exporter.ledger.facts import Facts
from exporter.tracker import Tracker
from fstat_cache import FileStats
from tests.exporter.tracking import Track, append, appended, present, sizes, touch
from tests.support import REPOSITORY, Mount, as_root, wait_until

UNPRIVILEGED = 65534


def test_files_at_the_start_count_from_their_size(tmp_path: Path, track: Track) -> None:
    """And those born later from nothing."""
    old, new = tmp_path / "old.log", tmp_path / "new.log"
    old.write_text("12345")
    tracker = track()
    assert appended(tracker) == 0
    append(old, "678")
    new.write_text("abc")
    assert sizes(tracker) == {"old.log": 8, "new.log": 3}
    assert appended(tracker) == 6


def test_a_new_tree(tmp_path: Path, track: Track) -> None:
    """A file in directories made just before is there with all its bytes."""
    tracker = track()
    for number in range(20):
        directory = tmp_path / f"a{number}/b/c"
        directory.mkdir(parents=True)
        (directory / "1.log").write_text("x")
    assert len(present(tracker)) == 20
    assert appended(tracker) == 20


def test_trees_moved_in_and_out(tmp_path: Path, track: Track) -> None:
    """A tree brings its files and takes them away; moved back, nothing is counted twice."""
    watched, outside = tmp_path / "watched", tmp_path / "outside"
    (watched / "x").mkdir(parents=True)
    (outside / "tree/deep").mkdir(parents=True)
    tracker = track("watched/**/*.log")
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


def test_a_renamed_directory(tmp_path: Path, track: Track) -> None:
    """Its files have new paths and go on growing."""
    (tmp_path / "a/b").mkdir(parents=True)
    path = tmp_path / "a/b/1.log"
    tracker = track()
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


def test_deletion(tmp_path: Path, track: Track) -> None:
    """Of a file, and of a directory that is made again."""
    directory = tmp_path / "d"
    directory.mkdir()
    path = directory / "a.log"
    path.write_text("1")
    tracker = track()
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
def test_a_declared_directory_that_does_not_exist_yet(tmp_path: Path, track: Track, pattern: str) -> None:
    """Is found when it comes, however often it goes."""
    tracker = track(pattern)
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


def test_rotation_by_rename(tmp_path: Path, track: Track) -> None:
    """What still arrives in the rotated file, which matches no pattern, counts for the name that it had first."""
    path, rotated = tmp_path / "a.log", tmp_path / "a.log.1"
    path.write_text("old")
    tracker = track()
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


def test_numbered_shifts(tmp_path: Path, track: Track) -> None:
    """A file is followed through any number of names that match nothing."""
    tracker = track()
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


def test_numbered_shifts_that_match(tmp_path: Path, track: Track) -> None:
    """The rotated files have series of their own for size and time; their growth counts for the first name."""
    tracker = track("*.log*")
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


def test_kubelet_rotation(tmp_path: Path, track: Track) -> None:
    """0.log -> 0.log.20260102-150405 -> .gz, which is left out."""
    tracker = track("*/*/*.log")
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


def test_copytruncate(tmp_path: Path, track: Track) -> None:
    """Counts what was there before and after."""
    path = tmp_path / "a.log"
    tracker = track()
    path.write_text("123456")
    assert appended(tracker) == 6
    shutil.copy(path, tmp_path / "a.log.1")
    os.truncate(path, 0)
    append(path, "78")
    assert appended(tracker) == 8
    assert present(tracker)[str(path)].truncations == 1


@pytest.mark.parametrize("size", [10, 4_096, 5_000, 100_000])
def test_a_hole_is_no_growth(tmp_path: Path, track: Track, size: int) -> None:
    """A writer without O_APPEND goes on at its old offset after a truncation, in the first block or far behind it."""
    path = tmp_path / "a.log"
    tracker = track()
    with path.open("wb", buffering=0) as writer:
        writer.write(b"x" * size)
        assert appended(tracker) == size
        os.truncate(path, 0)
        assert appended(tracker) == size
        writer.write(b"y" * 50)
        assert appended(tracker) == size + 50
        writer.write(b"y" * 50)
        assert appended(tracker) == size + 100


def test_files_allocated_ahead(tmp_path: Path, track: Track) -> None:
    """Only what is written into them counts, under each of their names, until they are cut to it."""
    tracker = track()
    path = tmp_path / "journal.log"
    with path.open("wb", buffering=0) as writer:
        os.posix_fallocate(writer.fileno(), 0, 8 << 20)
        assert sizes(tracker) == {"journal.log": 8 << 20}
        assert appended(tracker) == 0
        writer.write(b"x" * 100_000)
        assert appended(tracker) == 100_000
        path = path.rename(tmp_path / "archived.log")
        writer.write(b"x" * 10)
        assert appended(tracker) == 100_010
        os.truncate(path, 100_010)
        assert appended(tracker) == 100_010
    assert sizes(tracker) == {"archived.log": 100_010}


@as_root
def test_a_hole_in_a_file_that_cannot_be_read(track: Track) -> None:
    """The old size of a cut file is where its writer goes on, most likely."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, "a.log")
        path.touch()
        path.chmod(0o200)
        tracker = track(groups=(LogGroup("g", (f"{folder}/*.log",)),))
        with path.open("wb", buffering=0) as writer:
            os.seteuid(UNPRIVILEGED)
            try:
                writer.write(b"x" * 100_000)
                assert appended(tracker) == 100_000
                os.ftruncate(writer.fileno(), 0)
                assert appended(tracker) == 100_000
                writer.write(b"x" * 50)
                assert appended(tracker) == 100_050
            finally:
                os.seteuid(0)


def test_a_hole_is_searched_for_without_a_lock(tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a disk is asked where the data begins, others read what is booked and look up files."""
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * 10)
    tracker = track()
    asked: list[int] = []

    def find(*_arguments: object, **_options: object) -> None:
        def read() -> None:
            with tracker.facts.lock:
                asked.append(len(tracker.facts.paths))
            tracker.cache.status()

        reader = threading.Thread(target=read)
        reader.start()
        reader.join(10)

    monkeypatch.setattr(tracker.cache.extents, "find", find)
    for size in (0, 20):
        os.truncate(path, size)
        tracker.refresh(0)
    assert asked == [1]


def test_what_is_cut_while_the_lock_is_held_counts(tmp_path: Path, track: Track) -> None:
    """A long scan or reload holds the lock; the thread goes on to stat and to answer, and books it afterwards."""
    path = tmp_path / "a.log"
    path.touch()
    tracker = track()
    truncations = 0
    with tracker.lock:
        for _ in range(3):
            append(path, "12345")
            wait_until(lambda: stats_known(tracker, path).size == 5)
            os.truncate(path, 0)
            wait_until(lambda: stats_known(tracker, path).size == 0)
            truncations += 1
        assert tracker.cache.responds(5)
    assert appended(tracker) == 15
    assert tracker.publication.groups[0].truncations == truncations


def stats_known(tracker: Tracker, path: Path) -> FileStats:
    """What the cache has in memory."""
    entry = tracker.cache._served.get(str(path))
    assert entry is not None
    return entry.stats


def test_a_change_that_cannot_be_booked_keeps_no_other_from_it(
    tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever went wrong is logged with the path; what else was found at the same time counts."""
    paths = [tmp_path / f"{name}.log" for name in "abc"]
    touch(*paths)
    tracker = track()
    observe = Facts.observe

    def fail(facts: Facts, path: str, stats: FileStats | None, **more: Any) -> object:
        if path == str(paths[1]):
            raise ZeroDivisionError
        return observe(facts, path, stats, **more)

    monkeypatch.setattr(Facts, "observe", fail)
    for path in paths:
        append(path, "12345")
    assert appended(tracker) == 10
    assert "a change could not be booked" in caplog.text


def test_the_inode_number_given_again(tmp_path: Path, track: Track) -> None:
    """A new file that happens to have the number of the old one is a new file."""
    path = tmp_path / "a.log"
    tracker = track()
    path.write_text("123")
    assert appended(tracker) == 3
    path.unlink()
    path.write_text("45678")
    assert appended(tracker) == 8


def test_a_symbolic_link(tmp_path: Path, track: Track) -> None:
    """A rotation at the target is seen through the link, and the old file is followed there."""
    (tmp_path / "links").mkdir()
    (tmp_path / "real/deep").mkdir(parents=True)
    target, link = tmp_path / "real/deep/0.log", tmp_path / "links/a.log"
    middle = tmp_path / "middle"
    target.write_text("123")
    middle.symlink_to("real/deep/0.log")
    link.symlink_to(middle)
    tracker = track("links/*.log")
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


def test_a_dangling_link(tmp_path: Path, track: Track) -> None:
    """Is published as soon as its target is there."""
    (tmp_path / "links").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "links/a.log").symlink_to("../real/x")
    tracker = track("links/*.log")
    assert sizes(tracker) == {}
    (tmp_path / "real/x").write_text("1")
    assert sizes(tracker) == {"a.log": 1}
    (tmp_path / "real/x").unlink()
    assert sizes(tracker) == {}


def test_links_that_loop(tmp_path: Path, track: Track) -> None:
    """End."""
    (tmp_path / "loop.log").symlink_to("loop.log")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/up").symlink_to("..")
    (tmp_path / "d/a.log").write_text("1")
    tracker = track("**/*.log", "*/up/*/a.log")
    assert len(present(tracker)) == 2
    assert tracker.publication.groups[0].size_bytes == 1


def test_one_inode_with_two_names(tmp_path: Path, track: Track) -> None:
    """Counts once in the sums, for the first name by path; a hard link made later changes nothing."""
    (tmp_path / "pods").mkdir()
    (tmp_path / "pods/0.log").write_text("123")
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers/x.log").symlink_to(tmp_path / "pods/0.log")
    tracker = track()
    append(tmp_path / "pods/0.log", "45")
    os.link(tmp_path / "pods/0.log", tmp_path / "another.log")
    assert set(sizes(tracker).values()) == {5}
    totals = tracker.publication.groups[0]
    assert (totals.files, totals.size_bytes, totals.appended_bytes) == (3, 5, 2)
    assert present(tracker)[f"{tmp_path}/containers/x.log"].appended_bytes == 2
    (tmp_path / "containers/x.log").unlink()
    append(tmp_path / "another.log", "6")
    assert appended(tracker) == 3
    assert totals.size_bytes == 6


def test_names_that_match_nothing_are_not_looked_at(tmp_path: Path, track: Track) -> None:
    """Nor are directories watched in which nothing can match."""
    for number in range(50):
        (tmp_path / f"{number}.txt").touch()
        (tmp_path / f"d{number}").mkdir()
    tracker = track("d1/*.log", "e*/*.log")
    watches = tracker.cache.status().watches
    for number in range(50):
        (tmp_path / f"f{number}").mkdir()
        (tmp_path / f"f{number}/a.log").touch()
    assert sizes(tracker) == {}
    assert tracker.cache.status().watches == watches
    assert watches <= 3


def test_lost_events(tmp_path: Path, track: Track) -> None:
    """After an overflow of the kernel's queue everything is right again, rotated files included."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    path, gone = tmp_path / "a.log", tmp_path / "gone.log"
    for file in (path, gone):
        file.write_text("1")
    (tmp_path / "d").mkdir()
    tracker = track()
    tracker.refresh(0)
    with tracker.lock, tracker.cache._life.lock:  # nobody reads the queue
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


def test_a_rescan_finds_nothing(tmp_path: Path, track: Track) -> None:
    """That was not heard of: whatever came and went was, and is not counted as missed."""
    tracker = track()
    for number in range(5):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}/a.log").write_text("x")
        (tmp_path / f"d{number}").rename(tmp_path / f"e{number}")
        tracker.scan()
    assert len(present(tracker)) == 5
    assert tracker.discovery.missed == 0


def test_a_rescan_heals(tmp_path: Path, track: Track) -> None:
    """What no event told of (here: the watch was taken away) is found and counted."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/old.log").touch()
    tracker = track()
    tracker.cache.unwatch_directory(str(tmp_path / "d"))
    (tmp_path / "d/a.log").write_text("x")
    assert sizes(tracker) == {"old.log": 0}
    tracker.scan()
    assert sizes(tracker) == {"old.log": 0, "a.log": 1}
    assert tracker.discovery.missed == 1
    (tmp_path / "d/b.log").write_text("x")
    assert len(sizes(tracker)) == 3


def test_a_directory_that_floods(tmp_path: Path, track: Track) -> None:
    """Is watched no longer but listed at each refresh; when it is quiet it is watched again. A rescan in between misses
    no event, because there is none."""
    tracker = track()
    (tmp_path / "flood").mkdir()
    assert sizes(tracker) == {}

    def is_hot() -> bool:
        for number in range(3000):
            (tmp_path / "flood" / str(number)).touch()
            (tmp_path / "flood" / str(number)).unlink()
        assert sizes(tracker) == {}
        return tracker.cache.status().hot_directories == 1

    wait_until(is_hot)
    for number in range(10):
        (tmp_path / f"flood/{number}.log").write_text("x")
        tracker.scan()
        assert len(sizes(tracker)) == number + 1
    assert appended(tracker) == 10
    assert tracker.discovery.missed == 0
    wait_until(lambda: tracker.cache.status().hot_directories == 0)
    (tmp_path / "flood/new.log").write_text("x")
    assert appended(tracker) == 11


def test_the_first_group_has_the_file(tmp_path: Path, track: Track) -> None:
    """And its own rules: labels, aggregates; patterns count what they match."""
    (tmp_path / "a.log").write_text("1")
    (tmp_path / "b.txt").write_text("22")
    one = LogGroup("one", (f"{tmp_path}/*.log",))
    two = LogGroup("two", (f"{tmp_path}/a*", f"{tmp_path}/b*"))
    tracker = track(groups=(one, two))
    tracker.refresh(0)
    assert [totals.files for totals in tracker.publication.groups] == [1, 1]
    assert [tracker.discovery.matches[number] for number in range(3)] == [1, 1, 1]
    (tmp_path / "a.log").unlink()
    tracker.refresh(0)
    assert [tracker.discovery.matches[number] for number in range(3)] == [0, 0, 1]


# -- directories that others take the place of, and links --------------------------------------------------------------


def test_a_directory_that_another_one_takes_the_place_of(tmp_path: Path, track: Track) -> None:
    """The same names in it, at any depth, lead to other files now; nothing in it has told anything."""
    old, new, logs = tmp_path / "old", tmp_path / "new", tmp_path / "logs"
    for text, directory in (("1", logs), ("22", new)):
        touch(directory / "deep/a.log")
        append(directory / "a.log", text)
        append(directory / "deep/a.log", text)
    tracker = track("logs/**/*.log")
    assert sum(series.stats.size for series in present(tracker).values() if series.stats) == 2
    logs.rename(old)
    new.rename(logs)
    assert {path: series.stats.size for path, series in present(tracker).items() if series.stats} == {
        f"{logs}/a.log": 2,
        f"{logs}/deep/a.log": 2,
    }
    append(logs / "deep/a.log", "3")
    (logs / "deep/b.log").touch()
    assert sizes(tracker) == {"a.log": 3, "b.log": 0}
    tracker.scan()
    assert tracker.discovery.missed == 0


def test_a_link_in_the_middle_of_a_pattern(tmp_path: Path, track: Track) -> None:
    """Pointed elsewhere, deleted, made again: what it leads to counts, also where the names are the same."""
    for number in (1, 2):
        touch(tmp_path / f"releases/{number}/logs/a.log")
        append(tmp_path / f"releases/{number}/logs/a.log", "x" * number)
    current = tmp_path / "current"
    current.symlink_to("releases/1")
    tracker = track("current/logs/*.log", "cur*/logs/b.log")
    assert sizes(tracker) == {"a.log": 1}
    replacement = tmp_path / "replacement"
    replacement.symlink_to("releases/2")
    replacement.rename(current)
    assert sizes(tracker) == {"a.log": 2}
    append(tmp_path / "releases/2/logs/b.log", "333")
    append(tmp_path / "releases/1/logs/a.log", "unseen")
    assert sizes(tracker) == {"a.log": 2, "b.log": 3}
    current.unlink()
    assert sizes(tracker) == {}
    current.symlink_to(tmp_path / "releases/3")
    assert sizes(tracker) == {}
    touch(tmp_path / "releases/3/logs/a.log")
    assert sizes(tracker) == {"a.log": 0}
    shutil.rmtree(tmp_path / "releases/3")
    assert sizes(tracker) == {}
    (tmp_path / "releases/1").rename(tmp_path / "releases/3")
    assert sizes(tracker) == {"a.log": 7}


def test_a_link_in_the_middle_of_a_link(tmp_path: Path, track: Track) -> None:
    """A link whose target leads over another link follows it, wherever that is pointed."""
    for number in (1, 2):
        touch(tmp_path / f"v{number}/a")
        append(tmp_path / f"v{number}/a", "x" * number)
    (tmp_path / "v").symlink_to("v1")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a.log").symlink_to("../logs/.././v/a")
    tracker = track("logs/*")
    assert sizes(tracker) == {"a.log": 1}
    (tmp_path / "v").unlink()
    assert sizes(tracker) == {}
    (tmp_path / "v").symlink_to("v2")
    assert sizes(tracker) == {"a.log": 2}
    (tmp_path / "v2").rename(tmp_path / "v3")
    assert sizes(tracker) == {}
    (tmp_path / "v1").rename(tmp_path / "v2")
    assert sizes(tracker) == {"a.log": 1}


@pytest.mark.parametrize("target", ["..", ".", "../", "/"])
def test_links_upwards_are_links(tmp_path: Path, track: Track, target: str) -> None:
    """Those that end with no name of their own as well: `**` does not go through them."""
    touch(tmp_path / "d/a.log")
    tracker = track()
    (tmp_path / "d/up").symlink_to(target)
    assert set(present(tracker)) == {f"{tmp_path}/d/a.log"}
    tracker.scan()
    assert set(present(tracker)) == {f"{tmp_path}/d/a.log"}


def test_a_link_where_a_directory_was(tmp_path: Path, track: Track) -> None:
    """What `**` finds below a directory is not found through a link that takes its place."""
    touch(tmp_path / "d/sub/a.log")
    tracker = track()
    assert sizes(tracker) == {"a.log": 0}
    (tmp_path / "d").rename(tmp_path / "e")
    (tmp_path / "d").symlink_to("e")
    assert set(present(tracker)) == {f"{tmp_path}/e/sub/a.log"}
    (tmp_path / "d").unlink()
    (tmp_path / "e").rename(tmp_path / "d")
    assert set(present(tracker)) == {f"{tmp_path}/d/sub/a.log"}


def test_a_path_that_another_group_has_now(tmp_path: Path, track: Track) -> None:
    """What is below a link belongs to who goes through links."""
    touch(tmp_path / "real/x/a.log", tmp_path / "d/x/a.log")
    first, second = LogGroup("one", (f"{tmp_path}/**/*.log",)), LogGroup("two", (f"{tmp_path}/d/x/*",))
    tracker = track(groups=(first, second))
    path = f"{tmp_path}/d/x/a.log"
    assert present(tracker)[path].realm == 0
    (tmp_path / "d").rename(tmp_path / "e")
    (tmp_path / "d").symlink_to("real")
    assert present(tracker)[path].realm == 1
    assert [totals.files for totals in tracker.publication.groups] == [2, 1]


# -- names -------------------------------------------------------------------------------------------------------------


def test_hidden_files_and_excluded_directories(tmp_path: Path, track: Track) -> None:
    """The former have to be named, the latter are neither entered nor watched."""
    touch(tmp_path / ".hidden/a.log", tmp_path / "private/deep/a.log", tmp_path / "d/.a.log", tmp_path / "d/b.log")
    tracker = track("**/*.log", "d/.n*", exclude=(f"{tmp_path}/private/**", "skip*"))
    assert sizes(tracker) == {"b.log": 0}
    before = tracker.cache.status().directories
    touch(tmp_path / ".hidden/c/c.log", tmp_path / "private/deep/e/c.log", tmp_path / "d/skip/c.log")
    touch(tmp_path / "d/.named", tmp_path / "d/.c.log", tmp_path / "d/skip.log")
    assert sizes(tracker) == {"b.log": 0, ".named": 0}
    assert tracker.cache.status().directories == before


def test_strange_names(tmp_path: Path, track: Track) -> None:
    """What is no UTF-8, newlines, quotes, backslashes: found, followed, told apart."""
    tracker = track("*/*")
    folder = os.fsencode(tmp_path) + b"/\xfe\n"
    os.mkdir(folder)
    names = [b"\xff.log", rb"\xff.log", b"a\nb", b'a"b', b"a\\b", b" ", b"\x01", "é".encode(), b"*", b"[a]", b"{a,b}"]
    for number, name in enumerate(names):
        with open(folder + b"/" + name, "w") as file:
            file.write("x" * number)
    assert sizes(tracker) == {os.fsdecode(name): number for number, name in enumerate(names)}
    assert len({tracker.publication.rows[series].values for series in present(tracker).values()}) == len(names)
    for name in names:
        os.unlink(folder + b"/" + name)
    assert sizes(tracker) == {}


def test_only_regular_files(tmp_path: Path, track: Track) -> None:
    """Pipes and directories that match are none, whatever they were before."""
    path = tmp_path / "a.log"
    tracker = track("*.log", "a.log/*")
    path.touch()
    assert sizes(tracker) == {"a.log": 0}
    path.unlink()
    path.mkdir()
    assert sizes(tracker) == {}
    touch(path / "in")
    assert sizes(tracker) == {"in": 0}
    shutil.rmtree(path)
    os.mkfifo(path)
    assert sizes(tracker) == {}
    path.unlink()
    path.symlink_to(path)
    assert sizes(tracker) == {}
    assert +tracker.discovery.matches == {}
    path.unlink()
    path.touch()
    assert sizes(tracker) == {"a.log": 0}


# -- mounts, permissions, limits ---------------------------------------------------------------------------------------


@pytest.fixture
def mount() -> Iterator[object]:
    """Mounts, and unmounts whatever is left at the end."""
    mounted: list[Path] = []

    def mount(path: Path, *arguments: str | Path) -> None:
        subprocess.run(["mount", *arguments, path], check=True)
        mounted.append(path)

    yield mount
    for path in reversed(mounted):
        if os.path.ismount(path):
            subprocess.run(["umount", "--lazy", path], check=True)


@as_root
@pytest.mark.parametrize("pattern", ["d/**/*.log", "d/sub/*.log", "d*/sub/a.log"])
def test_mounts_that_come_and_go(tmp_path: Path, track: Track, mount: object, pattern: str) -> None:
    """What is mounted over a directory hides what was in it, until it is unmounted."""
    assert callable(mount)
    touch(tmp_path / "d/sub/a.log", tmp_path / "other/sub/a.log")
    append(tmp_path / "other/sub/a.log", "22")
    tracker = track(pattern)
    assert sizes(tracker) == {"a.log": 0}
    mount(tmp_path / "d", "--bind", tmp_path / "other")
    assert sizes(tracker) == {"a.log": 2}
    append(tmp_path / "other/sub/a.log", "3")
    assert sizes(tracker) == {"a.log": 3}
    mount(tmp_path / "d", "-t", "tmpfs", "tmpfs")
    assert sizes(tracker) == {}
    touch(tmp_path / "d/sub/a.log")
    assert sizes(tracker) == {"a.log": 0}
    append(tmp_path / "d/sub/a.log", "1")
    assert sizes(tracker) == {"a.log": 1}
    subprocess.run(["umount", tmp_path / "d"], check=True)
    assert sizes(tracker) == {"a.log": 3}
    subprocess.run(["umount", tmp_path / "d"], check=True)
    append(tmp_path / "d/sub/a.log", "4444")
    assert sizes(tracker) == {"a.log": 4}


@as_root
@pytest.mark.parametrize("follow_symlinks", [False, True])
def test_autofs_is_not_triggered(tmp_path: Path, track: Track, mount: object, follow_symlinks: bool) -> None:
    """Neither by a scan nor by a pattern that spells out what is on it; what is beside it is found."""
    assert callable(mount)
    asked, daemon_end = os.pipe()
    touch(tmp_path / "auto/.keep", tmp_path / "local/b.log")
    (tmp_path / "local/link.log").symlink_to(tmp_path / "auto/x/y.log")
    for target in ("auto", "auto/x"):
        (tmp_path / "local" / target.replace("/", "-")).symlink_to(tmp_path / target)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as daemon:  # a look-up of whose own does not count
        options = f"fd={daemon_end},pgrp={daemon.pid},minproto=5,maxproto=5,indirect"
        subprocess.run(
            ["mount", "-t", "autofs", "-o", options, "auto", tmp_path / "auto"], pass_fds=[daemon_end], check=True
        )
        os.close(daemon_end)
        os.set_blocking(asked, False)
        try:
            tracker = track("**/*.log", "auto/a/b.log", follow_symlinks=follow_symlinks)
            assert sizes(tracker) == {"b.log": 0}
            append(tmp_path / "local/b.log", "1")
            tracker.scan()
            assert sizes(tracker) == {"b.log": 1}
            with pytest.raises(BlockingIOError):
                os.read(asked, 1)
        finally:
            os.close(asked)
            subprocess.run(["umount", "--lazy", tmp_path / "auto"], check=True)
            daemon.kill()


class Unprivileged:
    """A tracker in a process of a user who may not read everything; `mode` of a directory is for others."""

    CODE = f"""
import json, os, sys
from exporter.config.groups import LogGroup
from exporter.config.model import Config
from exporter.tracker import Tracker
from tests.exporter.tracking import appended, sizes, tick
os.setgroups([]); os.setgid({UNPRIVILEGED}); os.setuid({UNPRIVILEGED})
tracker = Tracker(Config(logs=(LogGroup("g", tuple(sys.argv[1:])),)))
tracker.scan()
tick()  # births have its resolution
for line in sys.stdin:
    if line == "scan\\n":
        tracker.scan()
    found = sizes(tracker)
    discovery = tracker.discovery
    print(json.dumps([found, appended(tracker), discovery.unreadable, discovery.unwatchable]), flush=True)
"""

    def __init__(self, *patterns: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, *patterns],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )

    def look(self, first: str = "") -> list[object]:
        """Names and sizes of the files, what they have grown by, directories that can not be listed, not be watched.

        `first` may be "scan".
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{first}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert isinstance(answer, list)
        return answer

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@as_root
def test_without_permission(caplog: pytest.LogCaptureFixture) -> None:
    """Files that can not be read are polled; in directories that can not be read, the names that are spelt out count,
    come and go like all others."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        touch(root / "open/a.log", root / "searchable/b.log", root / "closed/c.log")
        for path, mode in (
            (root, 0o755),
            (root / "open/a.log", 0o600),
            (root / "searchable", 0o711),
            (root / "closed", 0),
        ):
            path.chmod(mode)
        unprivileged = Unprivileged(f"{name}/*/*.log", f"{name}/{{searchable,closed}}/{{b,c,d}}.log")
        try:
            assert unprivileged.look() == [{"a.log": 0, "b.log": 0}, 0, 2, 2]
            append(root / "open/a.log", "1")
            append(root / "searchable/b.log", "22")
            append(root / "searchable/d.log", "333")
            append(root / "searchable/e.log", "unseen")
            assert unprivileged.look() == [{"a.log": 1, "b.log": 2, "d.log": 3}, 6, 2, 2]
            (root / "searchable/b.log").unlink()
            (root / "open/a.log").rename(root / "open/f.log")
            (root / "closed").chmod(0o755)
            assert unprivileged.look() == [{"f.log": 1, "d.log": 3, "c.log": 0}, 6, 1, 1]
        finally:
            unprivileged.close()


@as_root
def test_permission_withdrawn_and_given_back() -> None:
    """To read or to search, of files, directories and those above them: nothing is lost, and the next scrape is right.

    A watch outlives the permission, so a directory counts as unreadable from the next scan on.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        touch(root / "one/a.log", root / "above/two/b.log")
        root.chmod(0o755)
        unprivileged = Unprivileged(f"{name}/**/*.log")
        try:
            assert unprivileged.look() == [{"a.log": 0, "b.log": 0}, 0, 0, 0]
            for mode in (0o600, 0o644):
                (root / "one/a.log").chmod(mode)
                append(root / "one/a.log", "1")
            assert unprivileged.look() == [{"a.log": 2, "b.log": 0}, 2, 0, 0]
            (root / "one").chmod(0o711)
            touch(root / "one/c.log")
            assert unprivileged.look() == [{"a.log": 2, "b.log": 0, "c.log": 0}, 2, 0, 0], "its watch reports it"
            assert unprivileged.look("scan") == [{"a.log": 2, "b.log": 0, "c.log": 0}, 2, 1, 1]
            touch(root / "one/d.log")
            assert unprivileged.look() == [{"a.log": 2, "b.log": 0, "c.log": 0}, 2, 1, 1]
            (root / "one").chmod(0o755)
            assert unprivileged.look() == [{"a.log": 2, "b.log": 0, "c.log": 0, "d.log": 0}, 2, 0, 0]
            (root / "one/c.log").unlink()
            (root / "one/d.log").unlink()
            for directory, mode, path, log in (
                ("above/two", 0o744, "above/two/b.log", "b.log"),
                ("above", 0o744, "above/two/b.log", "b.log"),
                ("one", 0o700, "one/a.log", "a.log"),
            ):
                files, grown = unprivileged.look()[:2]
                assert isinstance(files, dict)
                assert isinstance(grown, int)
                (root / directory).chmod(mode)
                append(root / path, "22")
                others = {name: size for name, size in files.items() if name != log}
                assert unprivileged.look()[:2] == [others, grown], directory
                unprivileged.look("scan")
                append(root / path, "22")
                assert unprivileged.look()[:2] == [others, grown], directory
                (root / directory).chmod(0o755)
                assert unprivileged.look() == [{**files, log: files[log] + 4}, grown + 4, 0, 0], directory
                append(root / path, "3")
                assert unprivileged.look()[:2] == [{**files, log: files[log] + 5}, grown + 5], directory
        finally:
            unprivileged.close()


def limited(tracker: Tracker, watches: int) -> None:
    """Have the cache of a tracker that has not scanned take so many watches only."""
    tracker.cache._life.settings = tracker.cache._life.settings._replace(max_watches=watches)
    tracker.cache.invalidate()


def test_few_watches(tmp_path: Path, track: Track) -> None:
    """Directories come before files, and their watches stand in for the files'; those without one are listed."""
    for number in range(4):
        touch(tmp_path / f"{number}/a.log")
    tracker = track("*/*.log")
    for watches, guarded, unheard in ((5, 4, 0), (3, 2, 2), (1000, 0, 0)):
        limited(tracker, watches)
        tracker.scan()
        for number in range(4):
            append(tmp_path / f"{number}/{watches}.log", "x")
            append(tmp_path / f"{number}/a.log", "x")
        found = present(tracker)
        assert {path: series.stats.size for path, series in found.items() if series.stats} == {
            str(path): path.stat().st_size for path in tmp_path.glob("*/*.log")
        }
        for path in tmp_path.glob(f"*/{watches}.log"):
            path.unlink()
        assert len(present(tracker)) == 4
        status = tracker.cache.status()
        assert status.guarded >= guarded  # which directories have the watches is not said
        assert status.guarded + status.polled.get("watch_limit", 0) == (4 if guarded else 0)
        assert tracker.discovery.unwatchable == unheard
        assert status.watches <= watches


def test_directories_get_watches_from_a_higher_limit(
    tmp_path: Path, track: Track, max_user_watches: Callable[[int], object]
) -> None:
    """The next refresh reads the sysctl, though no file lacks a watch; then events report names."""
    for number in range(4):
        (tmp_path / f"{number}").mkdir()
    max_user_watches(4)
    tracker = track("*/*.log")
    present(tracker)
    assert (tracker.discovery.unwatchable, tracker.cache.status().directories) == (3, 2)
    max_user_watches(100)
    present(tracker)
    assert (tracker.discovery.unwatchable, tracker.cache.status().directories) == (0, 5)
    touch(*(tmp_path / f"{number}/a.log" for number in range(4)))
    assert len(present(tracker)) == 4
    assert (tracker.discovery.missed, tracker.cache.status().polled) == (0, {})


# -- remote filesystems ------------------------------------------------------------------------------------------------


@as_root
def test_a_remote_filesystem(tmp_path: Path, track: Track, fuse: Mount) -> None:
    """Its directories are listed by rescans only, its files looked at by each refresh; it may be spelt out as well."""
    remote = fuse("logs/remote")
    touch(remote.source / "deep/a.log", tmp_path / "logs/b.log")
    (tmp_path / "logs/link.log").symlink_to(remote.path / "deep/a.log")
    tracker = track("logs/**/*.log", "logs/remote/deep/x")
    assert sizes(tracker) == {"a.log": 0, "b.log": 0, "link.log": 0}
    append(remote.source / "deep/a.log", "1")
    append(remote.source / "deep/x", "22")
    assert sizes(tracker) == {"a.log": 1, "b.log": 0, "link.log": 1}
    tracker.scan()
    assert sizes(tracker) == {"a.log": 1, "b.log": 0, "link.log": 1, "x": 2}
    (remote.source / "deep/a.log").unlink()
    assert sizes(tracker) == {"b.log": 0, "x": 2}
    assert tracker.discovery.matches == {0: 1, 1: 1}
    assert tracker.discovery.missed == 0


# -- at the same time --------------------------------------------------------------------------------------------------


def test_two_trackers(tmp_path: Path, track: Track) -> None:
    """Do not meet."""
    one, two = track(), track("d/*")
    touch(tmp_path / "d/a.log", tmp_path / "b.log")
    assert (len(present(one)), len(present(two))) == (2, 1)
    one.cache.close()
    append(tmp_path / "d/a.log", "x")
    assert sizes(two) == {"a.log": 1}


CHURN = """
import os, random, sys
root, seed = sys.argv[1], int(sys.argv[2])
pick = random.Random(seed)
for turn in range(1500):
    directory = f"{root}/{seed}-{pick.randrange(5)}/{pick.randrange(5)}"
    name = f"{directory}/{pick.randrange(5)}.log"
    try:
        match pick.randrange(6):
            case 0: os.makedirs(directory, exist_ok=True)
            case 1 | 2: open(name, "a").write("x")
            case 3: os.rename(name, name + ".1")
            case 4: os.unlink(name)
            case 5: os.rename(os.path.dirname(directory), f"{root}/{seed}-{pick.randrange(5)}")
    except OSError:
        pass
"""


def test_refreshes_and_scans_at_the_same_time(tmp_path: Path, track: Track) -> None:
    """From several threads while names come and go: nothing fails, and in the end everything is right."""
    tracker = track()
    done = threading.Event()
    failures: list[BaseException] = []

    def again_and_again(look: object) -> None:
        assert callable(look)
        try:
            while not done.is_set():
                look()
        except BaseException as error:
            failures.append(error)
            raise

    looks = (lambda: tracker.refresh(10), lambda: tracker.refresh(10), tracker.scan)
    threads = [threading.Thread(target=again_and_again, args=(look,)) for look in looks]
    for thread in threads:
        thread.start()
    writers = [subprocess.Popen([sys.executable, "-c", CHURN, tmp_path, str(seed)]) for seed in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    found = present(tracker)
    assert found.keys() == {str(path) for path in tmp_path.glob("**/*.log")}
    assert tracker.publication.groups[0].size_bytes == sum(path.stat().st_size for path in tmp_path.glob("**/*.log"))
    tracker.scan()
    assert tracker.discovery.missed == 0


# -- what is left behind -----------------------------------------------------------------------------------------------


def test_pods_that_come_and_go_leave_nothing_behind(
    tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No directory, link, path, followed name, watch or series."""
    pods, containers = tmp_path / "pods", tmp_path / "containers"
    pods.mkdir()
    containers.mkdir()
    tracker = track("pods/*/*/*.log", "containers/*.log", aggregate_by=("group",))
    known = len(tracker.discovery)
    for number in range(60):
        log = pods / f"ns_pod_{number}/app/0.log"
        link = containers / f"{number}.log"
        touch(log)
        link.symlink_to(log)
        append(log, "1")
        if number % 3:
            tracker.refresh(0)
        log.rename(f"{log}.20260102-150405")
        touch(log)
        if number % 2:
            tracker.refresh(0)
        shutil.rmtree(log.parent.parent)
        if number % 5:
            tracker.refresh(0)
        link.unlink()
    assert sizes(tracker) == {}
    tracker.scan()
    assert tracker.discovery.missed == 0
    assert len(tracker.discovery) == known
    assert (tracker._names, tracker.rotated, tracker._keeper.vanished) == (set(), {}, set())
    tree = tracker.discovery._tree
    assert (tree.links.leads, tree.folders.crossed, tree.folders.followed) == ({}, {}, {})
    assert +tracker.discovery.matches == {}
    assert tracker.cache.list_files_in_cache() == []
    status = tracker.cache.status()
    assert (status.watches, status.polled) == (status.directories, {})
    monkeypatch.setattr("exporter.publication.publication.NOBODY_SCRAPES_S", 0)
    tracker.publication._grace_s = 0
    tracker.expire(is_scrape=True)
    assert len(tracker.facts.paths) == 0
    assert tracker.facts._origins == {}


def test_a_rotated_file_is_followed_until_it_is_quiet(
    tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or deleted."""
    path = tmp_path / "a.log"
    tracker = track()
    for turn in range(3):
        append(path, "1")
        tracker.refresh(0)
        path.rename(tmp_path / f"a.log.{turn}")
    tracker.refresh(0)
    (tmp_path / "a.log.0").unlink()
    append(tmp_path / "a.log.1", "2")
    assert appended(tracker) == 4
    tracker.expire(is_scrape=True)
    assert tracker.rotated.keys() == {f"{tmp_path}/a.log.1", f"{tmp_path}/a.log.2"}
    monkeypatch.setattr("exporter.rotated.QUIET_S", 0)
    tracker.expire(is_scrape=True)
    append(tmp_path / "a.log.1", "unseen")
    assert appended(tracker) == 4
    assert (tracker.rotated, tracker._names) == ({}, set())


def test_after_the_cache_began_anew(tmp_path: Path, track: Track) -> None:
    """Everything is heard again after a scan."""
    touch(tmp_path / "d/a.log")
    tracker = track()
    tracker.cache.invalidate()
    tracker.scan()
    touch(tmp_path / "d/b.log")
    append(tmp_path / "d/a.log", "x")
    assert sizes(tracker) == {"a.log": 1, "b.log": 0}


def test_directories_in_each_others_place_are_no_mismatch(tmp_path: Path, track: Track) -> None:
    """What was heard of is looked at before anything is compared with what was known."""
    touch(*(tmp_path / name / "a.log" for name in ("blue", "green")))
    tracker = track("blue/*.log")
    for _ in range(3):
        (tmp_path / "blue").rename(tmp_path / "other")
        (tmp_path / "green").rename(tmp_path / "blue")
        (tmp_path / "other").rename(tmp_path / "green")
        tracker.refresh(100)
    assert tracker.cache.status().audit_mismatches == 0
    assert tracker.cache.status().polled == {}
