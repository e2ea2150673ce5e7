"""The scanner of remote directories, on a real FUSE filesystem that can be made to hang."""

import logging
import os
import threading
import time
from pathlib import Path

import pytest

from exporter.config.groups import LogGroup
from exporter.discovery.remote_scan import RemoteScan, RemoteScanner
from exporter.matching.automaton import Directory, PathMatcher, number_groups
from tests.exporter.tracking import Track, present, sizes, touch
from tests.support import Mount, Stopwatch, as_root, wait_until


def below(root: Path, *patterns: str) -> dict[str, Directory]:
    """What can match in a directory, as discovery tells it."""
    state = PathMatcher(number_groups([LogGroup("g", tuple(f"{root}/{pattern}" for pattern in patterns))])).root
    for name in root.parts[1:]:
        assert state is not None
        state = state.enter(name, is_symlink=False)
    assert state is not None
    return {str(root): state}


def names(scan: RemoteScan) -> set[str]:
    """The names of the files that were found."""
    return {os.path.basename(path) for path in scan.files}


def walkers() -> int:
    """How many threads walk."""
    return sum(thread.name == "scan-walk" for thread in threading.enumerate())


def test_what_is_found(tmp_path: Path) -> None:
    """Regular files and links to them, below directories and links to these; nothing where nothing is."""
    touch(tmp_path / "a.log", tmp_path / "d/b.log", tmp_path / "d/other", tmp_path / "x/c.log")
    os.mkfifo(tmp_path / "pipe.log")
    (tmp_path / "link.log").symlink_to("x/c.log")
    (tmp_path / "broken.log").symlink_to("nowhere")
    (tmp_path / "d/loop").symlink_to("..")
    scanner = RemoteScanner()
    assert names(scanner.scan(below(tmp_path, "**/*.log"))) == {"a.log", "b.log", "c.log", "link.log"}
    assert names(scanner.scan(below(tmp_path, "d/loop/x/*.log", "d/other", "no/a"))) == {"c.log", "other"}
    assert scanner.scan({}) == RemoteScan()


@pytest.mark.alone
@as_root
def test_a_directory_that_hangs(tmp_path: Path, track: Track, fuse: Mount, caplog: pytest.LogCaptureFixture) -> None:
    """It delays nothing else: it is waited for once, keeps its files meanwhile, and is scanned when it answers."""
    caplog.set_level(logging.INFO, "exporter.discovery.remote_scan")
    mount = fuse("m/hangs")
    local, new = tmp_path / "m/local/b.log", tmp_path / "m/x/c.log"
    touch(mount.source / "d/a.log", local)
    tracker = track("m/**/*.log", remote_timeout_s=0.5)
    assert set(sizes(tracker)) == {"a.log", "b.log"}

    def told() -> list[tuple[str, str]]:
        own = [record for record in caplog.records if record.name == "exporter.discovery.remote_scan"]
        return [(record.levelname, record.fields["path"]) for record in own]  # type: ignore[attr-defined]

    mount.hang()
    touch(new)
    for number in range(3):
        local.unlink(missing_ok=True)
        began, watch = time.monotonic(), Stopwatch()
        tracker.scan()
        if number == 0:
            assert time.monotonic() - began >= 0.5
        else:
            assert watch.seconds() < 0.5
        assert set(sizes(tracker)) == {"a.log", "c.log"}
        assert walkers() == 1
    assert told() == [("WARNING", str(mount.path))]

    touch(mount.source / "d/new.log")
    (mount.source / "d/a.log").unlink()
    mount.answer()
    wait_until(lambda: walkers() == 0)
    tracker.scan()
    wait_until(lambda: set(sizes(tracker)) == {"new.log", "c.log"})
    assert told() == [("WARNING", str(mount.path)), ("INFO", str(mount.path))]
    touch(mount.source / "newer.log")
    tracker.scan()
    assert set(sizes(tracker)) == {"new.log", "newer.log", "c.log"}


@as_root
@pytest.mark.parametrize("pattern", ["hangs/a.log", "hangs/d/a.log", "{hangs,no}/d/**", "h*/*/a.log"])
def test_a_pattern_on_a_filesystem_that_hangs(tmp_path: Path, track: Track, fuse: Mount, pattern: str) -> None:
    """However it is written, it is not asked by anybody who can not be left behind."""
    mount = fuse("hangs")
    touch(mount.source / "a.log", mount.source / "d/a.log", tmp_path / "local.log")
    mount.hang()
    began = time.monotonic()
    tracker = track(pattern, "*.log", remote_timeout_s=0.3)
    assert set(sizes(tracker)) == {"local.log"}
    assert time.monotonic() - began < 5
    mount.answer()
    wait_until(lambda: walkers() == 0)
    tracker.scan()
    wait_until(lambda: set(sizes(tracker)) == {"local.log", "a.log"})


@as_root
def test_links_to_files_that_hang(tmp_path: Path, track: Track, fuse: Mount) -> None:
    """Those beside such a link are found, and it shows when it answers."""
    mount = fuse("hangs")
    touch(mount.source / "a.log", tmp_path / "logs/b.log")
    for number in range(10):
        (tmp_path / f"logs/link{number}.log").symlink_to(mount.path / "a.log")
    mount.hang()
    began = time.monotonic()
    tracker = track("logs/*.log")
    assert set(sizes(tracker)) == {"b.log"}
    assert time.monotonic() - began < 5
    mount.answer()
    wait_until(lambda: len(present(tracker)) == 11)


@pytest.mark.alone
@as_root
def test_a_filesystem_that_begins_to_hang_during_a_scan(fuse: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directories are not waited for one by one, and what is known of them is to be kept."""
    mount = fuse("hangs")
    touch(*(mount.source / f"{number}/a.log" for number in range(50)))
    looking = RemoteScanner(timeout_s=0.3)
    directories = below(mount.path, "**/*.log")
    assert len(looking.scan(directories).files) == 50
    scandir = os.scandir

    def stop_after(path: str) -> "os._ScandirIterator[str]":
        if path.startswith(f"{mount.path}/"):
            mount.hang()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", stop_after)
    began = time.monotonic()
    scan = looking.scan(directories)
    assert str(mount.path) in scan.left_out
    assert time.monotonic() - began < 2
    assert walkers() == 2
    mount.answer()
    wait_until(lambda: walkers() == 0)
    monkeypatch.undo()
    assert len(looking.scan(directories).files) == 50


def test_a_failure_of_the_walk_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody expected is not lost in the thread that walks."""

    def fail(path: str) -> "os._ScandirIterator[str]":
        raise RuntimeError("unexpected")

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(RuntimeError, match="unexpected"):
        RemoteScanner().scan(below(tmp_path, "*"))
