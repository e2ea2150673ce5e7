"""Symbolic links to directories: ``**`` follows them if its group says so; else a link that replaces a directory is
logged."""

import logging
import os
import shutil
from pathlib import Path

import pytest

from exporter.changeover import Changeover
from exporter.config.groups import LogGroup
from exporter.config.model import Config
from exporter.tracker import Tracker
from tests.exporter.tracking import Track, append, appended, present, tick, touch
from tests.support import Mount, as_root


def found(tracker: Tracker, root: Path) -> set[str]:
    """Return the paths of the files below a directory."""
    return {os.path.relpath(path, root) for path in present(tracker)}


@pytest.mark.parametrize("moves", ["at once", "in steps", "as copies"])
def test_a_directory_that_a_link_replaces_is_logged_once(
    tmp_path: Path, track: Track, caplog: pytest.LogCaptureFixture, moves: str
) -> None:
    """However it was moved; a link that gets another target, and one where no files were, are not logged."""
    caplog.set_level(logging.WARNING, "exporter.discovery")
    touch(tmp_path / "logs/app/sub/a.log", tmp_path / "big/other/a.log", tmp_path / "logs/empty/a.txt")
    tracker = track("logs/**/*.log")
    assert found(tracker, tmp_path) == {"logs/app/sub/a.log"}
    app, moved = tmp_path / "logs/app", tmp_path / "big/app"
    if moves == "as copies":
        shutil.copytree(app, moved)
        for place in (app / "sub/a.log", app / "sub", app):
            place.rmdir() if place.is_dir() else place.unlink()
            tracker.refresh(0)
    else:
        app.rename(moved)
    if moves == "in steps":
        tracker.refresh(0)
    app.symlink_to(moved)
    (tmp_path / "logs/empty").rename(tmp_path / "big/empty")
    (tmp_path / "logs/empty").symlink_to(tmp_path / "big/empty")
    assert found(tracker, tmp_path) == set()
    (tmp_path / "new").symlink_to("big/other")
    (tmp_path / "new").rename(app)
    tracker.scan()
    assert found(tracker, tmp_path) == set()
    (record,) = [record for record in caplog.records if record.name == "exporter.discovery.swaps"]
    assert "follow_symlinks: true" in record.getMessage()
    assert record.fields == {"path": str(app)}  # type: ignore[attr-defined]


def test_each_directory_is_entered_once(tmp_path: Path, track: Track) -> None:
    """Loops end; of two ways the one with fewer links is taken, then the first by name; another one replaces it."""
    touch(tmp_path / "logs/d/a.log", tmp_path / "out/b.log")
    (tmp_path / "logs/d/up").symlink_to("..")
    (tmp_path / "logs/0").symlink_to("d")
    (tmp_path / "logs/l1").symlink_to("../out")
    (tmp_path / "logs/l0").symlink_to("../out")
    (tmp_path / "out/l2").symlink_to("../out")
    tracker = track("logs/**/*.log", follow_symlinks=True)
    assert found(tracker, tmp_path) == {"logs/d/a.log", "logs/l0/b.log"}
    (tmp_path / "logs/l0").unlink()
    append(tmp_path / "out/b.log", "123")
    assert found(tracker, tmp_path) == {"logs/d/a.log", "logs/l1/b.log"}
    (tmp_path / "logs/d").rename(tmp_path / "d")
    assert found(tracker, tmp_path) == {"logs/l1/b.log"}
    (tmp_path / "out").rename(tmp_path / "logs/out")
    assert found(tracker, tmp_path) == {"logs/out/b.log"}
    assert appended(tracker) == 3
    (tmp_path / "logs/l1").unlink()
    (tmp_path / "logs/l1").symlink_to(tmp_path / "d")
    assert found(tracker, tmp_path) == {"logs/l1/a.log", "logs/out/b.log"}


def test_a_directory_that_moves_and_stays_followed(tmp_path: Path, track: Track) -> None:
    """Behind the link that replaces it are the same inodes: nothing counts twice, nothing was rotated."""
    touch(tmp_path / "logs/app/sub/a.log")
    tracker = track("logs/**/*.log", follow_symlinks=True)
    append(tmp_path / "logs/app/sub/a.log", "12345")
    assert appended(tracker) == 5
    for is_seen in (False, True):
        name = f"big{is_seen}"
        (tmp_path / "logs/app").resolve().rename(tmp_path / name)
        if is_seen:
            (tmp_path / "logs/app").unlink()
            tracker.refresh(0)
        (tmp_path / "logs/app").symlink_to(f"../{name}")
        append(tmp_path / f"{name}/sub/a.log", "678")
        assert found(tracker, tmp_path) == {"logs/app/sub/a.log"}
    (series,) = present(tracker).values()
    assert (appended(tracker), series.appended_bytes, series.rotations) == (11, 11, 0)


def test_a_reload_switches_it(tmp_path: Path) -> None:
    """The files behind links come with their sizes uncounted, and go again."""
    touch(tmp_path / "logs/a.log", tmp_path / "out/deep/b.log")
    append(tmp_path / "out/deep/b.log", "old")
    (tmp_path / "logs/link").symlink_to("../out")
    configs = [
        Config(logs=(LogGroup("g", (f"{tmp_path}/logs/**/*.log",), follow_symlinks=follows),))
        for follows in (False, True)
    ]
    tracker = Tracker(configs[0])
    try:
        tracker.scan()
        tick()
        touch(tmp_path / "out/born-since.log")
        append(tmp_path / "out/born-since.log", "since the start, before the reload")
        tick()
        for config, expected in ((configs[1], 3), (configs[0], 1), (configs[1], 3)):
            changeover = Changeover(tracker, config)
            changeover.prepare()
            changeover.finish(lambda: None)
            changeover.drop_old()
            assert len(found(tracker, tmp_path)) == expected
            assert appended(tracker) == 0
    finally:
        tracker.close()


@as_root
def test_loops_on_a_remote_filesystem(tmp_path: Path, track: Track, fuse: Mount) -> None:
    """They end there too, and what has several paths has one series."""
    remote = fuse("remote")
    touch(remote.source / "d/e/a.log", tmp_path / "logs/b.log")
    (remote.source / "d/e/up").symlink_to("../..")
    (remote.source / "c").symlink_to("d")
    for name in ("l0", "l1"):
        (tmp_path / "logs" / name).symlink_to(remote.path)
    tracker = track("logs/**/*.log", follow_symlinks=True)
    assert found(tracker, tmp_path) == {"logs/b.log", "logs/l0/d/e/a.log"}
    (tmp_path / "logs/l0").unlink()
    tracker.scan()
    assert found(tracker, tmp_path) == {"logs/b.log", "logs/l1/d/e/a.log"}


def test_a_link_that_another_pattern_follows_is_logged_once(
    tmp_path: Path, track: Track, caplog: pytest.LogCaptureFixture
) -> None:
    """Files that come and go behind it later are no reason to log it again."""
    touch(tmp_path / "logs/app/a.log", tmp_path / "logs/app/sub/b.log")
    tracker = track("logs/**/*.log", "logs/*/*.log")
    (tmp_path / "logs/app").rename(tmp_path / "app")
    (tmp_path / "logs/app").symlink_to("../app")
    assert found(tracker, tmp_path) == {"logs/app/a.log"}
    (tmp_path / "app/a.log").unlink()
    assert found(tracker, tmp_path) == set()
    tracker.scan()
    assert [record.name for record in caplog.records].count("exporter.discovery.swaps") == 1
