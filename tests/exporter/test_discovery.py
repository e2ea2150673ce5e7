"""The scanner on real directories."""

import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from exporter.discovery import Scanner
from exporter.patterns import PathMatcher
from tests.support import REPOSITORY, Mount, as_root, wait_until

UNPRIVILEGED = 65534


def scanner(*includes: str, exclude: tuple[str, ...] = ()) -> Scanner:
    """A scanner for one group."""
    return Scanner(PathMatcher([(includes, exclude)]), ["g"])


def found(*includes: str, exclude: tuple[str, ...] = ()) -> set[str]:
    """What a scan finds."""
    return set(scanner(*includes, exclude=exclude).scan().files)


def touch(*paths: Path) -> None:
    """Make empty files, and the directories they are in."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_missing_prefix(tmp_path: Path) -> None:
    """A pattern for a place that does not exist finds nothing and disturbs nobody."""
    touch(tmp_path / "a.log")
    assert found(f"{tmp_path}/no/**/*.log", f"{tmp_path}/a.log/x", f"{tmp_path}/a.log/*", f"{tmp_path}/*.log") == {
        str(tmp_path / "a.log")
    }


def test_only_regular_files(tmp_path: Path) -> None:
    """Directories, pipes and dangling links are no files; a link to a file is one."""
    touch(tmp_path / "a.log", tmp_path / "d.log" / "x.log", tmp_path / "elsewhere" / "t")
    os.mkfifo(tmp_path / "p.log")
    (tmp_path / "l.log").symlink_to(tmp_path / "elsewhere" / "t")
    (tmp_path / "broken.log").symlink_to("nowhere")
    (tmp_path / "loop.log").symlink_to("loop.log")
    assert found(f"{tmp_path}/*.log") == {str(tmp_path / "a.log"), str(tmp_path / "l.log")}
    assert found(f"{tmp_path}/l.log", f"{tmp_path}/p.log", f"{tmp_path}/broken.log", f"{tmp_path}/d.log") == {
        str(tmp_path / "l.log")
    }


def test_links_to_directories(tmp_path: Path) -> None:
    """`**` goes through no link, so a loop ends; a component that names it or a `*` does."""
    touch(tmp_path / "real" / "sub" / "a.log")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "loop").symlink_to("..")
    real = str(tmp_path / "real/sub/a.log")
    through_link = str(tmp_path / "link/sub/a.log")
    assert found(f"{tmp_path}/**/*.log") == {real}
    assert found(f"{tmp_path}/link/**/*.log") == {through_link}
    assert found(f"{tmp_path}/*/sub/*.log") == {real, through_link}


def test_only_directories_that_can_match_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the parents of a literal prefix, nor what a pattern passes by, nor an excluded directory is listed."""
    touch(*(tmp_path / name / "sub" / "a.log" for name in ("x1", "x2", "y", ".h")))
    listed: list[str] = []
    scandir = os.scandir

    def recording(path: str) -> "os._ScandirIterator[str]":
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", recording)
    assert found(f"{tmp_path}/x*/**/*.log", exclude=(f"{tmp_path}/x2/**",)) == {str(tmp_path / "x1/sub/a.log")}
    assert sorted(listed) == [str(tmp_path), str(tmp_path / "x1"), str(tmp_path / "x1/sub")]


def test_no_stat_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing tells the type: neither a file that matches nor one that does not costs a stat."""
    touch(tmp_path / "a.log", tmp_path / "b")
    (tmp_path / "link").symlink_to("a.log")

    def refuse(path: str) -> os.stat_result:
        raise AssertionError(f"stat of {path}")

    monkeypatch.setattr(os, "stat", refuse)
    assert found(f"{tmp_path}/*.log") == {str(tmp_path / "a.log")}


def test_first_group_wins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file of two groups belongs to the first. It may be meant so: that is logged once, for information."""
    caplog.set_level(logging.INFO)
    touch(tmp_path / "a.log", tmp_path / "b.log", tmp_path / "c")
    double = Scanner(PathMatcher([([f"{tmp_path}/*.log"], []), ([f"{tmp_path}/*"], [])]), ["one", "two"])
    for _ in range(2):
        assert double.scan().files == {
            str(tmp_path / "a.log"): 0,
            str(tmp_path / "b.log"): 0,
            str(tmp_path / "c"): 1,
        }
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("INFO", "groups overlap, the first one has the files")
    assert record.fields["count"] == 2  # type: ignore[attr-defined]
    assert caplog.records[0].fields["group"] == "one"  # type: ignore[attr-defined]
    assert caplog.records[0].fields["also"] == "two"  # type: ignore[attr-defined]


def test_a_file_where_a_directory_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What changes while it is looked at is no fault."""
    touch(tmp_path / "a")
    assert found(f"{tmp_path}/a/*", f"{tmp_path}/a/b/c") == set()
    assert caplog.records == []


def test_link_loop_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fault is told when it begins and when it ends, not at each scan."""
    caplog.set_level(logging.INFO)
    (tmp_path / "loop").symlink_to("loop")
    looking = scanner(f"{tmp_path}/loop/*.log")
    for _ in range(3):
        assert looking.scan().unreadable == 1
    (tmp_path / "loop").unlink()
    assert looking.scan().unreadable == 0
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert caplog.records[0].fields["example"] == str(tmp_path / "loop")  # type: ignore[attr-defined]


@pytest.mark.skipif(os.geteuid() != 0, reason="changes the user")
def test_unreadable_directory() -> None:
    """A directory without permission is left out and counted; a file in it that is spelt out is found if it can be."""
    code = (
        "from exporter.discovery import Scanner; from exporter.patterns import PathMatcher\n"
        f"import os, sys; root = sys.argv[1]; os.setuid({UNPRIVILEGED})\n"
        "scan = Scanner(PathMatcher([([root + '/*/*.log', root + '/{closed,searchable}/c.log'], [])]), ['g']).scan()\n"
        "print(*sorted(scan.files), scan.unreadable)"
    )
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        touch(*(root / folder / "c.log" for folder in ("open", "closed", "searchable")))
        for folder, mode in ((root, 0o755), (root / "closed", 0), (root / "searchable", 0o711)):
            folder.chmod(mode)
        command = [sys.executable, "-c", code, name]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    # Three: both directories, and the file that is spelt out in the closed one.
    assert result.stdout.split() == [f"{name}/open/c.log", f"{name}/searchable/c.log", "3"]


def test_undecodable_names(tmp_path: Path) -> None:
    """Names that are no UTF-8 are found like all others."""
    name = os.fsencode(tmp_path) + b"/\xff.log"
    with open(name, "w"):
        pass
    assert found(f"{tmp_path}/*.log") == {os.fsdecode(name)}


def walkers() -> int:
    """How many threads walk."""
    return sum(thread.name == "scan-walk" for thread in threading.enumerate())


@as_root
def test_a_directory_that_hangs(tmp_path: Path, fuse: Mount, caplog: pytest.LogCaptureFixture) -> None:
    """It delays nothing else: it is waited for once, keeps its files meanwhile, and is scanned when it answers."""
    caplog.set_level(logging.INFO)
    mount = fuse("m/hangs")
    remote, local, new = mount.path / "d" / "a.log", tmp_path / "m" / "local" / "b.log", tmp_path / "m" / "x" / "c.log"
    touch(mount.source / "d" / "a.log", local)
    looking = Scanner(PathMatcher([([f"{tmp_path}/m/**/*.log"], [])]), ["g"], timeout_s=0.5)
    found = looking.scan().files
    assert found.keys() == {str(remote), str(local)}

    mount.hang()
    touch(new)
    for number in range(3):
        local.unlink(missing_ok=True)
        began = time.monotonic()
        scan = looking.scan(found.items())
        found = scan.files
        assert found.keys() == {str(remote), str(new)}
        assert scan.unreadable == 1
        assert (time.monotonic() - began >= 0.5) == (number == 0)
        assert walkers() == 1
    assert [(record.levelname, record.fields["path"]) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("WARNING", str(mount.path))
    ]

    touch(mount.source / "d" / "new.log")
    (mount.source / "d" / "a.log").unlink()
    mount.answer()
    wait_until(lambda: walkers() == 0)
    scan = looking.scan(found.items())
    assert scan.files.keys() == {str(mount.path / "d" / "new.log"), str(new)}
    assert scan.unreadable == 0
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert caplog.records[1].fields["path"] == str(mount.path)  # type: ignore[attr-defined]
    touch(mount.source / "newer.log")
    assert str(mount.path / "newer.log") in looking.scan().files


@as_root
def test_files_that_hang(tmp_path: Path, fuse: Mount) -> None:
    """A file that is spelt out, and a link to one, are left out by themselves; those beside the link are found."""
    mount = fuse("hangs")
    touch(mount.source / "a.log", tmp_path / "logs" / "b.log")
    (tmp_path / "logs" / "link.log").symlink_to(mount.path / "a.log")
    patterns = [f"{mount.path}/a.log", f"{tmp_path}/logs/*.log"]
    looking = Scanner(PathMatcher([(patterns, [])]), ["g"], timeout_s=0.3)
    mount.hang()
    assert looking.scan().files.keys() == {str(tmp_path / "logs" / "b.log")}
    known = [(str(tmp_path / "logs" / "link.log"), 0)]
    assert looking.scan(known).files.keys() == {known[0][0], str(tmp_path / "logs" / "b.log")}
    assert walkers() == 2
    mount.answer()
    wait_until(lambda: walkers() == 0)
    assert len(looking.scan().files) == 3


@as_root
def test_a_filesystem_that_begins_to_hang_during_a_scan(
    tmp_path: Path, fuse: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directories are not waited for one by one, and the rest is found."""
    mount = fuse("m/hangs")
    files = [mount.source / f"{number}" / "a.log" for number in range(50)]
    touch(*files, tmp_path / "m" / "b.log", tmp_path / "m" / "sub" / "c.log")
    looking = Scanner(PathMatcher([([f"{tmp_path}/m/**/*.log"], [])]), ["g"], timeout_s=0.3)
    found = looking.scan().files
    assert len(found) == 52
    scandir = os.scandir

    def stop_after(path: str) -> "os._ScandirIterator[str]":
        if path.startswith(f"{mount.path}/"):
            mount.hang()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", stop_after)
    began = time.monotonic()
    assert looking.scan(found.items()).files == found
    assert time.monotonic() - began < 2
    assert walkers() == 2
    mount.answer()
    wait_until(lambda: walkers() == 0)
    monkeypatch.undo()
    assert looking.scan().files == found


def test_a_failure_of_the_walk_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody expected is not lost in the thread that walks."""

    def fail(path: str) -> "os._ScandirIterator[str]":
        raise RuntimeError("unexpected")

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(RuntimeError, match="unexpected"):
        found("/*")
