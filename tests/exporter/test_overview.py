"""What the API shows of files, groups, aggregates and the agent, over a real tracker."""

import asyncio
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from exporter.config.errors import ConfigError, Mistake
from exporter.config.groups import LogGroup
from exporter.config.model import CacheConfig, Config
from exporter.config.shippers import ShipperConfig
from exporter.ledger.uncertain import REASONS
from exporter.overview import MAX_AGGREGATES, MAX_EXAMPLES, FilesQuery, Json, Overview
from exporter.publication.history import STEPS, History
from exporter.reload import Reloader
from exporter.scrape import Scraper
from exporter.shippers.shippers import Shippers
from exporter.tracker import Tracker
from exporter.web import api
from fstat_cache import InodeChange
from tests.exporter.tracking import Track, append, touch

Ask = Callable[..., Json]


class Shown:
    """An overview that can be asked as over HTTP."""

    def __init__(self, tracker: Tracker, groups: tuple[LogGroup, ...], shippers: Sequence[ShipperConfig] = ()) -> None:
        self.tracker = tracker
        self.scraper = Scraper(tracker, shippers=Shippers(tracker, shippers))
        self.mistakes: list[str] = []  # of the configuration on disk
        self.reloader = Reloader(self._load)
        self.overview = Overview(tracker, self.scraper, self.reloader)
        self._ahead_s = 0
        self.scraper.history = History(tracker.publication, clock=lambda: time.monotonic() + self._ahead_s)
        self.scraper.history.update(())
        self._ahead_s = 30  # so that there is a time over which growth can be measured

    async def _load(self, is_asked_for: bool) -> bool:
        if self.mistakes:
            raise ConfigError([Mistake("exporter.yml", text) for text in self.mistakes])
        return is_asked_for

    def ask(self, name: str, **parameters: str | list[str]) -> Json:
        """An answer, of files that are all looked at for it; as the client reads it."""
        self.overview._look_is_good_until_s = 0
        arguments = {key: [value] if isinstance(value, str) else value for key, value in parameters.items()}
        found = json.loads(api.encode(api.ANSWERS[name](self.overview, arguments)))
        assert isinstance(found, dict)
        return found

    def names(self, **parameters: str | list[str]) -> list[str]:
        """The base names of the files in an answer."""
        return [os.path.basename(row["path"]) for row in self.ask("files", **parameters)["files"]]


@pytest.fixture
def show(tmp_path: Path, track: Track) -> Iterator[Callable[..., Shown]]:
    """Shows groups that have scanned; by default one, `g`, of all logs in the test's directory."""
    made: list[Shown] = []

    def show(*groups: LogGroup, shippers: Sequence[ShipperConfig] = ()) -> Shown:
        groups = groups or (LogGroup("g", (f"{tmp_path}/**/*.log",)),)
        made.append(Shown(track(groups=groups), groups, shippers))
        return made[-1]

    yield show
    for shown in made:
        shown.scraper.shippers.close()


def test_a_file(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """Every field, as of now."""
    path = tmp_path / "shop" / "a.log"
    touch(path, tmp_path / "other.log")
    regex = re.compile(rf"^{re.escape(str(tmp_path))}/(?P<site>[a-z]+)/")
    group = LogGroup("g", (f"{tmp_path}/**/*.log",), labels={"team": "infra"}, path_regex=regex, aggregate_by=("team",))
    shown = show(group)
    append(path, "x" * 3000)
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    began_s = time.time()
    answer = shown.ask("files")
    assert began_s - 1 < answer["as_of_seconds"] <= time.time() + 0.001  # it is rounded
    assert 30 <= answer["window_seconds"] < 60
    assert answer["matched"] == 2
    (row, other) = answer["files"]
    growth, history = row.pop("growth_bytes_per_second"), row.pop("history")
    assert row == {
        "path": str(path),
        "group": "g",
        "labels": {"team": "infra", "site": "shop"},
        "size_bytes": 3000,
        "mtime_seconds": os.stat(path).st_mtime,
        "device": os.stat(path).st_dev,
        "inode": os.stat(path).st_ino,
        "changes_total": 1,
        "appended_bytes_total": 3000,
        "truncations_total": 0,
        "has_series": True,
        "followed": "watched",
        "polled_reason": None,
        "unread_bytes": {},
        **dict.fromkeys(("disk_bytes", "mode", "uid", "gid")),
    }
    assert list(row["labels"]) == ["team", "site"]  # those that are aggregated by come first
    assert growth == pytest.approx(3000 / answer["window_seconds"], rel=0.01)
    assert len(history) == answer["history"]["steps"] == STEPS
    assert sum(filter(None, history)) == pytest.approx(3000, rel=0.001)
    assert (other["labels"], other["growth_bytes_per_second"], other["size_bytes"]) == ({"team": "infra"}, 0, 0)


def test_details_of_a_file(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """A group that asks for disk space or permissions has both."""
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * 5000)
    path.chmod(0o640)
    (row,) = show(LogGroup("g", (str(path),), metrics=frozenset({"mode"}))).ask("files")["files"]
    status = os.stat(path)
    expected = {"disk_bytes": status.st_blocks * 512, "mode": "0640", "uid": status.st_uid, "gid": status.st_gid}
    assert expected.items() <= row.items()


@pytest.fixture
def mixed(tmp_path: Path, show: Callable[..., Shown]) -> Shown:
    """Files that are in another order by everything: `a` has grown, `b` is big, `c` is silent, `d` changed often."""
    for number, (name, size) in enumerate({"a": 10, "b": 5000, "c": 20, "d": 30}.items()):
        (tmp_path / f"{name}.log").write_bytes(b"x" * size)
        os.utime(tmp_path / f"{name}.log", ns=(0, number * 10**18 if name != "c" else 5))
    shown = show()
    for mtime_s in (10, 20, 30):
        os.utime(tmp_path / "d.log", (mtime_s, mtime_s))
        shown.ask("status")
    append(tmp_path / "a.log", "x" * 100)
    return shown


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("growth", ["a", "b", "d", "c"]),  # those that do not grow: which has changed latest
        ("size", ["b", "a", "d", "c"]),
        ("silent", ["c", "d", "b", "a"]),
        ("changes", ["d", "a", "b", "c"]),
        ("path", ["a", "b", "c", "d"]),
    ],
)
def test_sort(mixed: Shown, sort: str, expected: list[str]) -> None:
    """By each in both orders, however few are asked for; equals in one and the same order."""
    found = [name[0] for name in mixed.names(sort=sort)]
    assert found == expected
    for limit in range(1, 5):
        assert [name[0] for name in mixed.names(sort=sort, limit=str(limit))] == expected[:limit]
    usual, other = ("asc", "desc") if sort == "path" else ("desc", "asc")
    assert [name[0] for name in mixed.names(sort=sort, order=usual)] == expected
    reverse = [name[0] for name in mixed.names(sort=sort, order=other)]
    if sort in ("size", "silent", "path"):  # the others have equals
        assert reverse == expected[::-1]
    assert reverse[-1] == expected[0]
    assert [name[0] for name in mixed.names(sort=sort, order=other, limit="2")] == reverse[:2]


def test_many_files_as_one_sort_would_have_them(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """The choice of the first ones is that of sorting all by all keys."""
    for number in range(300):
        path = tmp_path / f"{number * 7919 % 300:03}.log"
        path.write_bytes(b"x" * (number % 5))
        os.utime(path, (number % 11, number % 11))
    shown = show()
    everything = shown.ask("files", limit="1000")["files"]
    for sort, key in {
        "size": lambda row: (-row["size_bytes"], -row["mtime_seconds"], row["path"]),
        "silent": lambda row: (row["mtime_seconds"], row["path"]),
        "changes": lambda row: (-row["mtime_seconds"], row["path"]),
    }.items():
        expected = [os.path.basename(row["path"]) for row in sorted(everything, key=key)]
        for limit in (1, 59, 60, 61, 150, 300):
            assert shown.names(sort=sort, limit=str(limit)) == expected[:limit], (sort, limit)


def test_search(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """Every word is somewhere in the path or in a label, in whatever case; what was found is counted."""
    for name in ("Shop/Web.log", "shop/db.log", "other/web.log"):
        touch(tmp_path / name)
    shown = show(LogGroup("g", (f"{tmp_path}/**/*.log",), labels={"team": "Straße"}))
    assert sorted(shown.names(search="shop")) == ["Web.log", "db.log"]
    assert shown.names(search="  WEB   shop ") == ["Web.log"]
    assert len(shown.names(search="STRASSE")) == 3
    assert shown.names(search="no such") == []
    assert shown.names(search="e " * 7 + "web .log") == []  # so long a search ends as it is written
    assert len(shown.names(search="e " * 7 + "web.log ")) == 2
    assert len(shown.names(search="")) == 3
    answer = shown.ask("files", search="shop", limit="1")
    assert (answer["matched"], len(answer["files"])) == (2, 1)


def test_groups(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """Their sums, files without series included; and the files of one group only.

    Files without series are those that `max_series` leaves without, as in the metric: with `per_file: false` none.
    """
    touch(tmp_path / "a/1.log", tmp_path / "a/2.log", tmp_path / "b/1.log", tmp_path / "b/2.log")
    shown = show(
        LogGroup("all", (f"{tmp_path}/a/*.log",), max_series=1),
        LogGroup("sums", (f"{tmp_path}/b/*.log",), per_file=False),
    )
    append(tmp_path / "a/1.log", "123")
    append(tmp_path / "b/1.log", "x" * 5000)
    os.rename(tmp_path / "a/1.log", tmp_path / "a/1.log.1")
    touch(tmp_path / "a/1.log")
    every, sums = shown.ask("groups")["groups"]
    assert (every["group"], every["files"], every["files_without_series"]) == ("all", 2, 1)
    assert (every["appended_bytes_total"], every["rotations_total"], every["size_bytes"]) == (3, 1, 0)
    assert (sums["group"], sums["files"], sums["files_without_series"]) == ("sums", 2, 0)
    assert (every["per_file"], sums["per_file"]) == (True, False)
    assert (sums["appended_bytes_total"], sums["size_bytes"], sums["truncations_total"]) == (5000, 5000, 0)
    assert sums["newest_mtime_seconds"] == os.stat(tmp_path / "b/1.log").st_mtime
    assert sums["growth_bytes_per_second"] > 0
    assert sum(filter(None, sums["history"])) == pytest.approx(5000, rel=0.01)  # each step is rounded
    files = shown.ask("files", group="sums")["files"]
    assert [(row["group"], row["has_series"]) for row in files] == [("sums", False)] * 2
    assert files[0]["growth_bytes_per_second"] > 0
    assert len(shown.names(group=["sums", "all"])) == len(shown.names()) == 4


def test_deleted_files_are_left_out(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """At once, though their series stay for a while."""
    touch(tmp_path / "a.log", tmp_path / "b.log")
    shown = show()
    (tmp_path / "a.log").unlink()
    assert shown.names() == ["b.log"]
    assert shown.ask("status")["files"] == 1


def test_deleted_files_that_are_open(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """Their group has their number and the space that they take, until they are closed; other groups have none."""
    touch(tmp_path / "a.log", tmp_path / "b.txt")
    shown = show(LogGroup("logs", (f"{tmp_path}/*.log",)), LogGroup("texts", (f"{tmp_path}/*.txt",)))

    def deleted() -> list[tuple[int, int]]:
        return [(group["deleted_files"], group["deleted_disk_bytes"]) for group in shown.ask("groups")["groups"]]

    stats = shown.tracker.cache.get_file_stats(tmp_path / "a.log")
    assert stats is not None
    assert deleted() == [(0, 0), (0, 0)]
    shown.tracker.facts.inodes.observe(InodeChange(stats, links=0, disk_bytes=8192))
    assert deleted() == [(1, 8192), (0, 0)]
    shown.tracker.facts.inodes.observe(InodeChange(stats, is_gone=True))
    assert deleted() == [(0, 0), (0, 0)]


def test_uncertainty(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """Each group has every reason, and how often it occurred."""
    (tmp_path / "a.log").write_text("123456")
    touch(tmp_path / "b.txt")
    shown = show(LogGroup("logs", (f"{tmp_path}/*.log",)), LogGroup("texts", (f"{tmp_path}/*.txt",)))
    append(tmp_path / "a.log", "123456")
    shown.ask("status")
    os.truncate(tmp_path / "a.log", 0)
    logs, texts = (group["uncertain_total"] for group in shown.ask("groups")["groups"])
    assert texts == dict.fromkeys(REASONS, 0)
    assert logs == texts | {"truncated": 1}


def test_other_names_of_a_file(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """What a file grows by is told under one name; of the others it is not known, as in the scrape."""
    touch(tmp_path / "a.log")
    os.link(tmp_path / "a.log", tmp_path / "b.log")
    shown = show()
    append(tmp_path / "a.log", "123")
    rows = {os.path.basename(row["path"]): row for row in shown.ask("files")["files"]}
    fields = ("size_bytes", "appended_bytes_total", "changes_total", "truncations_total")
    assert [rows["a.log"][field] for field in fields] == [3, 3, 1, 0]
    assert [rows["b.log"][field] for field in fields] == [3, None, None, None]
    assert rows["b.log"]["growth_bytes_per_second"] is None


def test_how_files_are_followed(tmp_path: Path) -> None:
    """Watched, hot, or polled with the reason: of each file, in the sums, and as a filter."""
    logs = [tmp_path / f"{number}.log" for number in range(4)]
    touch(*logs)
    groups = (LogGroup("g", (f"{tmp_path}/*.log",)),)
    tracker = Tracker(Config(logs=groups, cache=CacheConfig(max_files=3)))
    try:
        tracker.scan()
        shown = Shown(tracker, groups)

        def by_how() -> dict[str, list[str]]:
            found: dict[str, list[str]] = {}
            for row in shown.ask("files")["files"]:
                found.setdefault(f"{row['followed']} {row['polled_reason']}", []).append(row["path"])
            return found

        found = by_how()
        assert {how: len(paths) for how, paths in found.items()} == {"watched None": 3, "polled max_files": 1}
        assert shown.ask("status")["followed"] == {"watched": 3, "hot": 0, "polled": {"max_files": 1}}
        (row,) = shown.ask("files", followed="polled")["files"]  # another one perhaps: one that changes takes a place
        assert (row["followed"], row["polled_reason"]) == ("polled", "max_files")
        busy = found["watched None"][0]
        deadline = time.monotonic() + 10
        while "hot None" not in found and time.monotonic() < deadline:
            append(Path(busy), "x")
            found = by_how()
        assert found["hot None"] == [busy]
        append(Path(busy), "x")
        assert [f"{tmp_path}/{name}" for name in shown.names(followed="hot")] == [busy]
    finally:
        tracker.close()


def test_status(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """The sums and the cache's counts are those of the metrics."""
    (tmp_path / "a.log").write_bytes(b"xx")
    (tmp_path / "b.log").write_bytes(b"x")
    shown = show()
    shown.scraper.look(is_scrape=True)
    status = shown.ask("status")
    info = shown.tracker.cache.cache_info()
    assert (status["files"], status["size_bytes"], status["groups"]) == (2, 3, 1)
    assert (status["cache"]["hits_total"], status["cache"]["misses_total"]) == (info.hits, info.misses)
    assert status["cache"]["hit_ratio"] == pytest.approx(info.hits / (info.hits + info.misses))
    assert (status["cache"]["max_files"], status["cache"]["queue_overflows_total"]) == (info.max_files, 0)
    assert status["cache"]["max_watches"] == shown.tracker.cache.status().max_watches
    assert status["directories"] == {
        "known": len(shown.tracker.discovery),
        "unreadable": 0,
        "unreadable_examples": [],
        "unwatched": 0,
    }
    assert status["patterns"] == {"configured": 1, "unmatched": 0, "unmatched_examples": []}
    process = status["process"]
    assert 0 < process["cpu_seconds_total"] <= time.process_time() + 0.01
    assert process["resident_memory_bytes"] > 1 << 20
    assert process["start_time_seconds"] < time.time()


def test_rotated_files(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """The watched files are those that match and the rotated ones, which are counted apart."""
    touch(tmp_path / "a.log", tmp_path / "b.log")
    shown = show()
    os.rename(tmp_path / "a.log", tmp_path / "a.log.1")
    touch(tmp_path / "a.log")
    status = shown.ask("status")
    assert (status["files"], status["rotated_files"]) == (2, 1)
    assert status["followed"] == {"watched": 3, "hot": 0, "polled": {}}


@pytest.fixture
def shipped(tmp_path: Path, show: Callable[..., Shown]) -> Shown:
    """Logs that one shipper has read up to some offset, another of one group only, and one whose state is damaged.

    Of group `a`: `1.log` is unread by 70 bytes and by 1, `2.log` by none, `3.log` has no position. Of `b`: 4 bytes of
    `1.log`; `2.log` is a further name of `a/1.log`.
    """
    for name in ("a/1.log", "a/2.log", "a/3.log", "b/1.log"):
        touch(tmp_path / name)
        (tmp_path / name).write_text("x" * 99 + "\n")
    os.link(tmp_path / "a/1.log", tmp_path / "b/2.log")
    positions = {"a/1.log": 30, "a/2.log": 100, "b/1.log": 96}
    lines = [f"  {tmp_path}/{name}: '{offset}'" for name, offset in positions.items()]
    (tmp_path / "positions.yml").write_text("\n".join(["positions:", *lines]))
    (tmp_path / "pos_file").write_text(f"{tmp_path}/a/1.log\t{99:016x}\t{(tmp_path / 'a/1.log').stat().st_ino:016x}\n")
    (tmp_path / "damaged.yml").write_text("nothing")
    shippers = (
        ShipperConfig("loki", "promtail", f"{tmp_path}/positions.yml"),
        ShipperConfig("only-a", "fluentd", f"{tmp_path}/pos_file", groups=("a",)),
        ShipperConfig("broken", "datadog", f"{tmp_path}/damaged.yml", groups=("none",)),
    )
    groups = [LogGroup(name, (f"{tmp_path}/{name}/*.log",)) for name in ("a", "b", "none")]
    return show(*groups, shippers=shippers)


def test_unread_bytes_of_files(tmp_path: Path, shipped: Shown) -> None:
    """By shipper, null without a position; no number of a shipper that does not read the file."""
    files = {row["path"].removeprefix(f"{tmp_path}/"): row["unread_bytes"] for row in shipped.ask("files")["files"]}
    assert files == {
        "a/1.log": {"loki": 70, "only-a": 1},
        "a/2.log": {"loki": 0, "only-a": None},
        "a/3.log": {"loki": None, "only-a": None},
        "b/1.log": {"loki": 4},
        "b/2.log": {"loki": 70},
    }


def test_files_with_unread_bytes(tmp_path: Path, shipped: Shown) -> None:
    """They can be sorted by the largest number of a shipper, and the others left out."""
    rows = shipped.ask("files", sort="unread", unread="true")["files"]
    assert [row["path"].removeprefix(f"{tmp_path}/") for row in rows] == ["a/1.log", "b/2.log", "b/1.log"]
    rows = shipped.ask("files", sort="unread")["files"]
    assert [row["path"].removeprefix(f"{tmp_path}/") for row in rows][:3] == ["a/1.log", "b/2.log", "b/1.log"]
    rows = shipped.ask("files", sort="unread", order="asc", limit="3")["files"]
    assert rows[-1]["path"] == f"{tmp_path}/b/1.log"


def test_shippers_of_groups(tmp_path: Path, shipped: Shown) -> None:
    """Each group has the sums of each shipper that reads it, and the age of its oldest unread byte."""
    shipped.ask("groups")
    groups = {row["group"]: row["shippers"] for row in shipped.ask("groups")["groups"]}
    age_s = time.time() - (tmp_path / "a/1.log").stat().st_mtime
    assert 0 <= groups["a"]["loki"].pop("oldest_unread_seconds") <= age_s + 0.01
    assert {group: list(shippers) for group, shippers in groups.items()} == {
        "a": ["loki", "only-a"],
        "b": ["loki"],
        "none": ["loki", "broken"],
    }
    assert groups["a"]["loki"] == {
        "unread_bytes": 70,
        "read_bytes_total": 0,
        "lost_bytes_total": 0,
        "unaccounted_bytes_total": 0,
        "unclaimed_bytes": 100,
        "files": {"read": 2, "behind": 0, "held": 0, "unclaimed": 1},
    }
    assert groups["a"]["only-a"]["unread_bytes"] == 1


def test_states_of_shippers(tmp_path: Path, shipped: Shown) -> None:
    """Each says whether it can be read, since when it is as it is, and why it cannot be read."""
    os.utime(tmp_path / "positions.yml", (1_700_000_000, 1_700_000_000))
    loki, _, broken = shipped.ask("status")["shippers"]
    assert loki == {
        "shipper": "loki",
        "type": "promtail",
        "readable": True,
        "error": None,
        "state_mtime_seconds": 1_700_000_000,
    }
    assert (broken["shipper"], broken["readable"]) == ("broken", False)
    assert broken["error"].startswith(f"{tmp_path}/damaged.yml: ")


def test_truncations(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """They are counted for the file and for its group."""
    (tmp_path / "a.log").write_text("123456")
    touch(tmp_path / "b.log")
    shown = show()
    os.truncate(tmp_path / "a.log", 2)
    rows = {os.path.basename(row["path"]): row["truncations_total"] for row in shown.ask("files")["files"]}
    assert rows == {"a.log": 1, "b.log": 0}
    assert shown.ask("groups")["groups"][0]["truncations_total"] == 1


def test_aggregates(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """Each has its labels by name, its sums and its growth; those that grow fastest come first, then the biggest."""
    touch(tmp_path / "blog/1.log", tmp_path / "shop/1.log", tmp_path / "shop/2.log", tmp_path / "7/1.log")
    (tmp_path / "big").mkdir()
    (tmp_path / "big/1.log").write_text("x" * 50)
    regex = re.compile(rf"^{re.escape(str(tmp_path))}/(?P<site>[a-z]+)/")
    paths = (f"{tmp_path}/*/*.log",)
    sites = LogGroup("g", paths, labels={"team": "infra"}, path_regex=regex, aggregate_by=("site",), per_file=False)
    shown = show(sites, LogGroup("other", (f"{tmp_path}/*/*.txt",)))
    append(tmp_path / "shop/1.log", "x" * 1000)
    append(tmp_path / "shop/2.log", "x" * 2000)
    append(tmp_path / "blog/1.log", "x" * 100)
    answer = shown.ask("groups")
    assert [(row["group"], row["labels"], row["aggregates"]) for row in answer["groups"]] == [
        ("g", {"team": "infra"}, 4),
        ("other", {}, 0),
    ]
    rates = [row.pop("growth_bytes_per_second") for row in answer["aggregates"]]
    assert rates == pytest.approx([size / answer["window_seconds"] for size in (3000, 100, 0, 0)], rel=0.01)
    named = {"shop": (2, 3000, 3000), "blog": (1, 100, 100), "big": (1, 50, 0), "": (1, 0, 0)}
    assert answer["aggregates"] == [
        {
            "group": "g",
            "labels": {"site": site} if site else {},
            "files": files,
            "size_bytes": size_bytes,
            "appended_bytes_total": appended_bytes,
            "has_series": True,
        }
        for site, (files, size_bytes, appended_bytes) in named.items()
    ]


def test_at_most_some_aggregates(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """An answer has a bound; those beyond it are counted."""
    for number in range(MAX_AGGREGATES + 5):
        touch(tmp_path / f"{number}.log")
    regex = re.compile(r"/(?P<name>\d+)\.log$")
    shown = show(LogGroup("g", (f"{tmp_path}/*.log",), path_regex=regex, aggregate_by=("name",), max_series=3))
    answer = shown.ask("groups")
    assert answer["groups"][0]["aggregates"] == MAX_AGGREGATES + 5
    assert len(answer["aggregates"]) == MAX_AGGREGATES
    assert sum(row["has_series"] for row in answer["aggregates"]) <= 3


def test_directories_that_cannot_be_listed(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """All are counted, and some are named with the reason."""
    loops = sorted(str(tmp_path / f"{number}-loop") for number in range(MAX_EXAMPLES + 5))
    for loop in loops:
        os.symlink(loop, loop)
    shown = show(LogGroup("g", (f"{tmp_path}/*-loop/*.log",)))
    directories = shown.ask("status")["directories"]
    assert directories["unreadable"] == len(loops)
    reason = "Too many levels of symbolic links"
    assert directories["unreadable_examples"] == [{"path": path, "reason": reason} for path in loops[:MAX_EXAMPLES]]


def test_files_that_fail_to_stat(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """All are counted, and some are named."""
    touch(*(tmp_path / f"{number:02}.log" for number in range(MAX_EXAMPLES + 5)))
    shown = show()
    assert (shown.ask("status")["hidden_files"], shown.ask("status")["hidden_examples"]) == (0, [])
    names = sorted(path.name for path in shown.tracker.facts.paths.values())
    shown.overview._look_is_good_until_s = float("inf")  # another refresh would find them again
    shown.tracker.facts.hide(names)
    for path in names:
        shown.tracker.cache.remove_from_watch(path)
    status = shown.overview.status()
    assert status["followed"]["polled"] == {}  # the cache has room for them
    assert (status["hidden_files"], status["hidden_examples"]) == (len(names), names[:MAX_EXAMPLES])


def test_patterns_without_a_match(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """All are counted, and some are named with their group."""
    touch(tmp_path / "a.log")
    nothing = tuple(f"{tmp_path}/{number}.log" for number in range(MAX_EXAMPLES + 5))
    shown = show(LogGroup("some", (f"{tmp_path}/a.log",)), LogGroup("none", nothing))
    patterns = shown.ask("status")["patterns"]
    assert (patterns["configured"], patterns["unmatched"]) == (len(nothing) + 1, len(nothing))
    assert patterns["unmatched_examples"] == [{"group": "none", "pattern": text} for text in nothing[:MAX_EXAMPLES]]
    touch(tmp_path / "3.log")
    shown.tracker.scan()
    assert shown.ask("status")["patterns"]["unmatched"] == len(nothing) - 1


def test_a_failed_reload(show: Callable[..., Shown]) -> None:
    """The first mistake and the time are shown until a reload succeeds, beside the time of the latest success."""
    shown = show()
    before = shown.ask("status")["configuration"]
    assert (before["failed_seconds"], before["error"]) == (None, None)
    shown.mistakes = ["no group", "no paths"]
    began_s = time.time()
    asyncio.run(shown.reloader.reload("test", is_asked_for=True))
    failed = shown.ask("status")["configuration"]
    assert (failed["loaded_seconds"], failed["error"]) == (before["loaded_seconds"], "exporter.yml: no group")
    assert began_s - 0.001 <= failed["failed_seconds"] <= time.time() + 0.001  # it is rounded
    shown.mistakes = []
    asyncio.run(shown.reloader.reload("test", is_asked_for=True))
    after = shown.ask("status")["configuration"]
    assert (after["failed_seconds"], after["error"]) == (None, None)
    assert after["loaded_seconds"] >= failed["failed_seconds"]


def test_a_young_history_says_so(tmp_path: Path, track: Track) -> None:
    """Within the first second nobody can tell how fast a file grows; what it grew by is told."""

    async def load(is_asked_for: bool) -> bool:
        return is_asked_for

    touch(tmp_path / "a.log")
    groups = (LogGroup("g", (f"{tmp_path}/*.log",)),)
    tracker = track(groups=groups)
    answer = Overview(tracker, Scraper(tracker), Reloader(load)).files(FilesQuery())
    assert answer["window_seconds"] == 0
    assert answer["history"]["begins_seconds"] == answer["as_of_seconds"]
    assert [row["growth_bytes_per_second"] for row in answer["files"]] == [None]
    assert [row["history"] for row in answer["files"]] == [[None] * (STEPS - 1) + [0]]


def test_undecodable_names(tmp_path: Path, show: Callable[..., Shown]) -> None:
    """As in the labels: escaped, so that the answer is valid Unicode."""
    path = os.fsencode(tmp_path) + b"/\xff\xfe\n.log"
    with open(path, "wb"):
        pass
    shown = show()
    assert shown.names() == ["\\xff\\xfe\n.log"]
    assert shown.names(search="\\XFF") == ["\\xff\\xfe\n.log"]


def test_looks_are_shared(tmp_path: Path, show: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who ask while one looks wait for that look; one that took long is good for a second, a quick one less."""
    shown = show()
    looks = []
    go_on = threading.Event()
    real = shown.scraper.look

    def look(*, is_scrape: bool) -> None:
        looks.append(is_scrape)
        assert go_on.wait(10)
        real(is_scrape=is_scrape)

    monkeypatch.setattr(shown.scraper, "look", look)
    threads = [threading.Thread(target=shown.overview.status) for _ in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)  # so that the look takes as long
    go_on.set()
    for thread in threads:
        thread.join()
    assert looks == [False]
    deadline = time.monotonic() + 3
    while len(looks) < 2 and time.monotonic() < deadline:
        shown.overview.status()
    assert looks == [False] * 2


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        (
            "files",
            {"sort": "name"},
            "sort: unknown value 'name', expected growth, size, silent, changes, unread or path",
        ),
        ("files", {"order": "up"}, "order: unknown value 'up', expected asc or desc"),
        ("files", {"limit": "0"}, "limit: '0', expected a whole number from 1 to 1000"),
        ("files", {"limit": "1001"}, "limit: '1001', expected a whole number from 1 to 1000"),
        ("files", {"limit": "-5"}, "limit: '-5', expected a whole number from 1 to 1000"),
        ("files", {"limit": "1e3"}, "limit: '1e3', expected a whole number from 1 to 1000"),
        ("files", {"limit": "٣"}, "limit: '\\u0663', expected a whole number from 1 to 1000"),
        ("files", {"limit": "9" * 5000}, f"limit: '{'9' * 37}...', expected a whole number from 1 to 1000"),
        ("files", {"window": "5m"}, "window: '5m', expected a whole number from 15 to 900"),
        ("files", {"group": ["g", "h"]}, "group: there is no group 'h'"),
        ("files", {"unread": "no"}, "unread: unknown value 'no', expected true"),
        ("files", {"followed": "no"}, "followed: unknown value 'no', expected watched, hot or polled"),
        ("files", {"sort": ["size", "size"]}, "sort: given 2 times, expected once"),
        (
            "files",
            {"sorted": "size"},
            "unknown parameter 'sorted': expected sort, order, limit, window, group, search, followed or unread",
        ),
        ("groups", {"window": "14"}, "window: '14', expected a whole number from 15 to 900"),
        ("groups", {"limit": "5"}, "unknown parameter 'limit': expected window"),
        ("status", {"a\nb": ""}, "unknown parameter 'a\\nb': expected none"),
    ],
)
def test_bad_parameters(
    show: Callable[..., Shown], name: str, parameters: dict[str, str | list[str]], message: str
) -> None:
    """Each is one line that says what was expected."""
    with pytest.raises(api.BadQueryError, match=rf"^{re.escape(message)}$"):
        show().ask(name, **parameters)


def test_empty_parameters_are_as_none(show: Callable[..., Shown]) -> None:
    """A form sends the fields that nobody has filled in too."""
    assert show().names(sort="", order="", limit="", window="", group="", search="", followed="", unread="") == []
