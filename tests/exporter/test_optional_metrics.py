"""The metrics that only a group's key `metrics` adds: disk space, permissions, the oldest file, directories."""

import os
import re
import time
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest

from exporter.changeover import Changeover
from exporter.config.groups import DIRECTORIES, DISK, MODE, OLDEST_MTIME, LogGroup
from exporter.config.model import Config
from exporter.scrape import Scraper
from exporter.tracker import Tracker
from fstat_cache import DetailedStats
from tests.exporter.tracking import Track, append, touch
from tests.support import Scrape, parse_scrape


def scrape_of(tracker: Tracker, scraper: Scraper | None = None) -> Scrape:
    """Scrape a tracker."""
    parts = (scraper or Scraper(tracker)).scrape(generate_latest, is_openmetrics=False, is_compressed=False)
    return parse_scrape(b"".join(parts).decode())


def group(directory: Path, *metrics: str, **more: object) -> LogGroup:
    """Return a group of all logs below a directory."""
    return LogGroup("g", (f"{directory}/**/*.log",), metrics=frozenset(metrics), **more)  # type: ignore[arg-type]


def blocks(path: Path) -> int:
    """Return how much of the disk a file takes."""
    return os.stat(path).st_blocks * 512


@pytest.mark.parametrize("max_files", [100, 1], ids=["cached", "beyond max_files"])
def test_disk_space(tmp_path: Path, track: Track, max_files: int) -> None:
    """A sparse file has its size and its disk space, as of each scrape; a hole punched later shows too."""
    sparse, full = tmp_path / "sparse.log", tmp_path / "full.log"
    full.write_bytes(b"x" * 100_000)
    touch(sparse)
    os.truncate(sparse, 1 << 20)
    tracker = track(groups=(group(tmp_path, "size", DISK),))
    tracker.cache.limit(max_files=max_files, cpu_budget=0.5)
    scraper = Scraper(tracker)
    for change in (lambda: None, lambda: append(sparse, "x" * 50_000), lambda: os.truncate(full, 10)):
        change()
        scrape = scrape_of(tracker, scraper)
        for path in (sparse, full):
            assert scrape.value("fstat_file_disk_bytes", path=str(path)) == blocks(path)
            assert scrape.value("fstat_file_size_bytes", path=str(path)) == path.stat().st_size
        assert scrape.value("fstat_group_disk_bytes") == blocks(sparse) + blocks(full)
    assert blocks(sparse) < 1 << 20


def test_disk_space_of_an_inode_with_several_names(tmp_path: Path, track: Track) -> None:
    """It counts once in the group, as the size does, under whatever name is left; each aggregate has its own sum."""
    first, second = tmp_path / "a" / "a.log", tmp_path / "b" / "b.log"
    touch(first)
    second.parent.mkdir()
    os.link(first, second)
    config = group(tmp_path, DISK, path_regex=re.compile("/(?P<dir>.)/"), aggregate_by=("dir",))
    tracker = track(groups=(config,))
    scraper = Scraper(tracker)
    append(second, "x" * 10_000)
    scrape = scrape_of(tracker, scraper)
    assert scrape.value("fstat_group_disk_bytes") == blocks(first) > 0
    assert sum(scrape.values("fstat_aggregate_disk_bytes")) == blocks(first)
    first.unlink()
    append(second, "x" * 10_000)
    scrape = scrape_of(tracker, scraper)
    assert scrape.value("fstat_group_disk_bytes") == blocks(second)
    assert scrape.value("fstat_aggregate_disk_bytes", dir="b") == blocks(second)
    second.unlink()
    assert scrape_of(tracker, scraper).value("fstat_group_disk_bytes") == 0


def test_mode(tmp_path: Path, track: Track) -> None:
    """Permissions, user and group are labels of one series; a chmod or chown shows at the next scrape."""
    path = tmp_path / "a.log"
    path.touch()
    path.chmod(0o640)
    tracker = track(groups=(group(tmp_path, MODE),))
    scraper = Scraper(tracker)
    status = path.stat()
    owner = {"owner_uid": str(status.st_uid), "owner_gid": str(status.st_gid)}
    about = {"group": "g", "path": str(path), **owner}

    def modes() -> dict[frozenset[tuple[str, str]], float]:
        return {
            labels: value
            for (name, labels), value in scrape_of(tracker, scraper).samples.items()
            if name == "fstat_file_mode_info"
        }

    assert modes() == {frozenset({**about, "mode": "0640"}.items()): 1}
    path.chmod(0o4755)
    assert modes() == {frozenset({**about, "mode": "4755"}.items()): 1}
    if os.getuid() == 0:
        os.chown(path, 12, 34)
        path.chmod(0o600)
        assert modes() == {frozenset({**about, "mode": "0600", "owner_uid": "12", "owner_gid": "34"}.items()): 1}
    assert scrape_of(tracker, scraper).value("fstat_group_changes_total") == 0
    path.unlink()
    assert len(modes()) == 1
    tracker.publication.expire(time.monotonic() + 1000, is_scrape=False)
    assert modes() == {}


def test_the_oldest_file(tmp_path: Path, track: Track) -> None:
    """The earliest modification time follows files that are written, set back, deleted and made."""
    paths = [tmp_path / f"{number}.log" for number in range(5)]
    touch(*paths)
    for number, path in enumerate(paths):
        os.utime(path, (0, 1000 + number))
    tracker = track(groups=(group(tmp_path, OLDEST_MTIME, per_file=False),))
    scraper = Scraper(tracker)

    def check() -> None:
        name = "fstat_group_oldest_mtime_seconds"
        found = scrape_of(tracker, scraper).values(name)
        expected = [path.stat().st_mtime for path in tmp_path.iterdir()]
        assert found == ([min(expected)] if expected else [])

    check()
    os.utime(paths[0], (0, 2000))
    check()
    os.utime(paths[3], (0, 10))
    check()
    os.utime(paths[3], (0, 3000))
    check()
    paths[1].unlink()
    check()
    touch(paths[1])
    os.utime(paths[1], (0, 20))
    check()
    for path in paths:
        path.unlink()
    check()


def test_directories(tmp_path: Path, track: Track) -> None:
    """Directories count while they have a file of the group."""
    touch(tmp_path / "a" / "a.log", tmp_path / "a" / "b.log", tmp_path / "b" / "c.log", tmp_path / "c" / "d.txt")
    tracker = track(groups=(group(tmp_path, DIRECTORIES),))
    scraper = Scraper(tracker)
    assert scrape_of(tracker, scraper).value("fstat_group_directories") == 2
    (tmp_path / "a" / "a.log").unlink()
    (tmp_path / "b" / "c.log").rename(tmp_path / "c" / "c.log")
    assert scrape_of(tracker, scraper).value("fstat_group_directories") == 2
    (tmp_path / "a" / "b.log").unlink()
    assert scrape_of(tracker, scraper).value("fstat_group_directories") == 1


def test_groups_that_ask_for_nothing_pay_nothing(tmp_path: Path, track: Track) -> None:
    """Only files of a group that asks for details have stats with details, and only such a group has the series."""
    touch(tmp_path / "a" / "a.log", tmp_path / "b" / "b.log")
    asking = LogGroup("asking", (f"{tmp_path}/a/*",), metrics=frozenset({DISK, MODE, OLDEST_MTIME, DIRECTORIES}))
    tracker = track(groups=(asking, LogGroup("silent", (f"{tmp_path}/b/*",))))
    scrape = scrape_of(tracker)
    details = {path.name: isinstance(path.stats, DetailedStats) for path in tracker.facts.paths.values()}
    assert details == {f"{tmp_path}/a/a.log": True, f"{tmp_path}/b/b.log": False}
    optional = ("fstat_file_disk", "fstat_file_mode", "fstat_group_disk", "fstat_group_oldest", "fstat_group_directo")
    found = {dict(labels)["group"] for name, labels in scrape.samples if name.startswith(optional)}
    assert found == {"asking"}


def test_a_reload_adds_and_removes_them(tmp_path: Path, track: Track) -> None:
    """Known files get their details when a reload asks for them, and no more series once it does not."""
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * 10_000)
    tracker = track(groups=(group(tmp_path, "size"),))
    names = ("fstat_file_disk_bytes", "fstat_group_disk_bytes", "fstat_group_directories")
    for metrics, expected in (({DISK, DIRECTORIES}, [blocks(path), blocks(path), 1]), ({"size"}, [])):
        changeover = Changeover(tracker, Config(logs=(group(tmp_path, *metrics),)))
        changeover.prepare()
        changeover.finish(lambda: None)
        changeover.drop_old()
        scrape = scrape_of(tracker)
        assert [value for name in names for value in scrape.values(name)] == expected
