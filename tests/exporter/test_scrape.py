"""What a scrape shows, over a real tracker, read back by the parsers of prometheus_client."""

import gc
import gzip
import logging
import os
import re
import threading
from collections.abc import Callable, Sequence, Set
from pathlib import Path

import pytest
from prometheus_client import ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter.config.groups import FILE_METRICS, LogGroup
from exporter.config.model import Config
from exporter.scrape import Scraper
from exporter.tracker import Tracker
from fstat_cache import FStatCache, Surveyed
from tests.exporter.tracking import Track, append, touch
from tests.support import Scrape, parse_scrape


class Scraped:
    """A tracker of some groups and what shows it."""

    def __init__(self, tracker: Tracker, groups: tuple[LogGroup, ...]) -> None:
        self.tracker, self.groups = tracker, groups
        self.scraper = Scraper(tracker)

    def scrape(self, *, openmetrics: bool = False, names: Sequence[str] = (), groups: Sequence[str] = ()) -> Scrape:
        """Scrape once."""
        encode = generate_openmetrics if openmetrics else generate_latest
        parts = self.scraper.scrape(encode, is_openmetrics=openmetrics, is_compressed=False, names=names, groups=groups)
        return parse_scrape(b"".join(parts).decode(), openmetrics=openmetrics)


Show = Callable[..., Scraped]


@pytest.fixture
def show(tmp_path: Path, track: Track) -> Show:
    """Shows groups that have scanned; by default one, `g`, of all logs in the test's directory."""

    def show(*groups: LogGroup, **more: object) -> Scraped:
        default = LogGroup("g", (f"{tmp_path}/**/*.log",), **more)  # type: ignore[arg-type]
        return Scraped(track(groups=groups or (default,)), groups or (default,))

    return show


def paths(scrape: Scrape) -> set[str]:
    """The names of the files that have a size."""
    found = (dict(labels)["path"] for name, labels in scrape.samples if name == "fstat_file_size_bytes")
    return {os.path.basename(path) for path in found}


def test_file_families(tmp_path: Path, show: Show) -> None:
    """Size, modification time with its fraction, changes and growth since the first sight, each as of this scrape."""
    path = tmp_path / "a.log"
    path.write_text("12345")
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    shown = show()
    scrape = shown.scrape()
    assert scrape.value("fstat_file_size_bytes", group="g", path=str(path)) == 5
    assert scrape.value("fstat_file_mtime_seconds", path=str(path)) == os.stat(path).st_mtime
    assert scrape.value("fstat_file_changes_total", path=str(path)) == 0
    assert scrape.value("fstat_file_appended_bytes_total", path=str(path)) == 0
    append(path, "6")
    scrape = shown.scrape()
    assert scrape.value("fstat_file_size_bytes", path=str(path)) == 6
    assert scrape.value("fstat_file_changes_total", path=str(path)) == 1
    assert scrape.value("fstat_file_appended_bytes_total", path=str(path)) == 1


@pytest.mark.parametrize("metrics", [(), ("size",), ("truncations", "rotations"), FILE_METRICS])
def test_the_metrics_of_a_group(tmp_path: Path, show: Show, metrics: tuple[str, ...]) -> None:
    """Its files have those that it names; by itself it has all of them."""
    path = tmp_path / "a.log"
    path.write_text("1")
    shown = show(metrics=frozenset(metrics))
    os.truncate(path, 0)
    shown.scrape()
    path.rename(tmp_path / "a.log.1")
    path.write_text("22")
    scrape = shown.scrape()
    suffixes = {
        "size": "size_bytes",
        "mtime": "mtime_seconds",
        "appended_bytes": "appended_bytes_total",
        "disk": "disk_bytes",
    }
    expected = {f"fstat_file_{suffixes.get(name, f'{name}_total')}" for name in metrics}
    assert {name for name, _ in scrape.samples if name.startswith("fstat_file_")} == expected
    for name in ("truncations", "rotations"):
        if name in metrics:
            assert scrape.value(f"fstat_file_{name}_total") == 1
        assert scrape.value(f"fstat_group_{name}_total") == 1


def test_groups(tmp_path: Path, show: Show) -> None:
    """Totals, each inode once; what pattern matches how many files, one without any included."""
    touch(tmp_path / "a.log", tmp_path / "b.log", tmp_path / "c.txt")
    os.link(tmp_path / "a.log", tmp_path / "a2.log")
    one = LogGroup("one", (f"{tmp_path}/*.log", f"{tmp_path}/a*", f"{tmp_path}/no/*"))
    shown = show(one, LogGroup("two", (f"{tmp_path}/*.log", f"{tmp_path}/*")), LogGroup("none", ("/no/such",)))
    append(tmp_path / "a.log", "1234")
    append(tmp_path / "c.txt", "56")
    os.utime(tmp_path / "b.log", ns=(0, 4_000_000_000_500_000_000))
    scrape = shown.scrape()
    for name, values in {
        "files": (3, 1, 0),
        "size_bytes": (4, 2, 0),
        "changes_total": (2, 1, 0),
        "appended_bytes_total": (4, 2, 0),
        "truncations_total": (0, 0, 0),
        "rotations_total": (0, 0, 0),
        "files_without_series": (0, 0, 0),
        "unlabelled_files": (0, 0, 0),
        "newest_mtime_seconds": (4_000_000_000.5, os.stat(tmp_path / "c.txt").st_mtime, None),
    }.items():
        assert tuple(scrape.value(f"fstat_group_{name}", group=group) for group in ("one", "two", "none")) == values
    matches = {
        (labels["group"], labels["pattern"].removeprefix(f"{tmp_path}/")): value
        for (name, pairs), value in scrape.samples.items()
        if name == "fstat_group_pattern_matches" and (labels := dict(pairs))
    }
    assert matches == {
        ("one", "*.log"): 3,
        ("one", "a*"): 2,
        ("one", "no/*"): 0,
        ("two", "*.log"): 3,
        ("two", "*"): 4,
        ("none", "/no/such"): 0,
    }
    assert scrape.values("fstat_aggregate_files") == []


def test_labels(tmp_path: Path, show: Show) -> None:
    """Static ones and those of the expression; no label is empty; what does not match is counted.

    Groups, patterns and aggregates have the static ones too.
    """
    touch(tmp_path / "shop/web.log", tmp_path / "loose.log", tmp_path / "x.txt")
    regex = re.compile(rf"^{re.escape(str(tmp_path))}/(?P<site>[a-z]+)/(?P<app>[a-z]+)\.log$")
    one = LogGroup("one", (f"{tmp_path}/**/*.log",), labels={"team": "infra"}, path_regex=regex, aggregate_by=("site",))
    shown = show(one, LogGroup("two", (f"{tmp_path}/x.txt",), labels={"stage": "test"}))
    scrape = shown.scrape()
    found = {frozenset(dict(labels).items()) for name, labels in scrape.samples if name == "fstat_file_size_bytes"}
    assert found == {
        frozenset(labels.items())
        for labels in (
            {"group": "one", "path": f"{tmp_path}/shop/web.log", "team": "infra", "site": "shop", "app": "web"},
            {"group": "one", "path": f"{tmp_path}/loose.log", "team": "infra"},
            {"group": "two", "path": f"{tmp_path}/x.txt", "stage": "test"},
        )
    }
    teams = {
        (name, dict(labels)["group"]): dict(labels).get("team")
        for name, labels in scrape.samples
        if name.startswith(("fstat_group_", "fstat_aggregate_"))
    }
    assert teams == {(name, group): "infra" if group == "one" else None for name, group in teams}
    assert scrape.value("fstat_group_unlabelled_files", group="one") == 1
    assert {dict(labels)["site"] for name, labels in scrape.samples if name == "fstat_aggregate_files"} == {"shop", ""}
    (tmp_path / "loose.log").unlink()
    assert shown.scrape().value("fstat_group_unlabelled_files", group="one") == 0


def test_aggregates(tmp_path: Path, show: Show) -> None:
    """Add up the files with the same labels and end with the last of them; the group's totals live on."""
    regex = re.compile(rf"^{re.escape(str(tmp_path))}/(?P<site>[^/]*)/(?P<host>[^/]*)/")
    touch(tmp_path / "shop/h1/a.log", tmp_path / "shop/h2/a.log", tmp_path / "blog/h1/a.log", tmp_path / "x.txt")
    sites = LogGroup("sites", (f"{tmp_path}/*/*/*.log",), path_regex=regex, aggregate_by=("site",), per_file=False)
    others = LogGroup("others", (f"{tmp_path}/*.txt",), labels={"kind": "text"}, aggregate_by=("kind",))
    shown = show(sites, others)
    append(tmp_path / "shop/h1/a.log", "1")
    append(tmp_path / "shop/h2/a.log", "22")
    append(tmp_path / "blog/h1/a.log", "333")
    scrape = shown.scrape()
    shop = {"group": "sites", "site": "shop", "kind": ""}
    assert scrape.samples["fstat_aggregate_files", frozenset(shop.items())] == 2
    assert scrape.value("fstat_aggregate_size_bytes", **shop) == 3
    assert scrape.value("fstat_aggregate_appended_bytes_total", **shop) == 3
    assert scrape.value("fstat_aggregate_changes_total", **shop) == 2
    others = {"group": "others", "site": "", "kind": "text"}  # kind is static and aggregated by, and there once
    assert scrape.samples["fstat_aggregate_files", frozenset(others.items())] == 1
    assert paths(scrape) == {"x.txt"}
    append(tmp_path / "blog/h1/a.log", "4")
    shown.scrape()
    (tmp_path / "blog/h1/a.log").unlink()
    scrape = shown.scrape()
    assert scrape.value("fstat_aggregate_files", site="blog") == 0
    assert scrape.value("fstat_aggregate_appended_bytes_total", site="blog") == 4
    shown.tracker.publication._grace_s = 0
    scrape = shown.scrape()
    assert shown.scrape().value("fstat_aggregate_files", site="blog") is None
    assert scrape.value("fstat_group_appended_bytes_total", group="sites") == 7


def test_max_series(tmp_path: Path, show: Show) -> None:
    """The files beyond are in the sums only, and counted; when one ends the next has its place."""
    touch(*(tmp_path / f"{number}.log" for number in range(5)))
    shown = show(max_series=3)
    append(tmp_path / "4.log", "x")
    scrape = shown.scrape()
    assert paths(scrape) == {"0.log", "1.log", "2.log"}
    assert scrape.value("fstat_group_files_without_series") == 2
    assert scrape.value("fstat_group_files") == 5
    assert scrape.value("fstat_group_appended_bytes_total") == 1
    shown.tracker.publication._grace_s = 0
    (tmp_path / "1.log").unlink()
    for _ in range(3):
        scrape = shown.scrape()
    assert paths(scrape) == {"0.log", "2.log", "3.log"}
    assert scrape.value("fstat_group_files_without_series") == 1


def test_a_file_that_has_gone(tmp_path: Path, show: Show) -> None:
    """Has its last figures for two scrapes; when it comes back in time the counters go on."""
    gone, stays = tmp_path / "a.log", tmp_path / "b.log"
    touch(gone, stays)
    shown = show()
    append(gone, "1")
    shown.scrape()
    shown.tracker.publication._grace_s = 0
    gone.unlink()
    scrape = shown.scrape()
    assert scrape.value("fstat_file_size_bytes", path=str(gone)) == 1
    assert scrape.value("fstat_group_files") == 1
    assert paths(shown.scrape()) == {"a.log", "b.log"}
    (tmp_path / "new").write_text("22")
    (tmp_path / "new").rename(gone)
    scrape = shown.scrape()
    assert scrape.value("fstat_file_size_bytes", path=str(gone)) == 2
    assert scrape.value("fstat_file_appended_bytes_total", path=str(gone)) == 3
    assert scrape.value("fstat_file_changes_total", path=str(gone)) == 2
    gone.unlink()
    assert [paths(shown.scrape()) for _ in range(3)] == [{"a.log", "b.log"}, {"a.log", "b.log"}, {"b.log"}]


def test_the_grace_lasts(tmp_path: Path, show: Show) -> None:
    """However often it is scraped."""
    touch(tmp_path / "a.log")
    shown = show()
    (tmp_path / "a.log").unlink()
    for _ in range(5):
        assert paths(shown.scrape()) == {"a.log"}


def test_before_the_first_scan(tmp_path: Path) -> None:
    """No file, but all families, groups and the cache."""
    group = LogGroup("g", (f"{tmp_path}/*",))
    (tmp_path / "a.log").touch()
    tracker = Tracker(Config(logs=(group,)))
    scrape = Scraped(tracker, (group,)).scrape()
    assert scrape.values("fstat_file_size_bytes") == []
    assert scrape.types["fstat_file_size_bytes"] == "gauge"
    assert scrape.value("fstat_group_files") == 0
    assert scrape.value("fstat_cache_hit_ratio") == 0
    assert scrape.value("fstat_cache_files") == 0
    tracker.close()


def test_cache_families(tmp_path: Path, show: Show) -> None:
    """Each published file is one look-up a scrape; what does not fit is a miss and published all the same."""
    touch(*(tmp_path / f"{name}.log" for name in "abcd"))
    shown = show()
    shown.tracker.cache._places.max_files = 3
    shown.tracker.cache.remove_from_watch(tmp_path / "d.log")
    before = shown.tracker.cache.cache_info()
    for _ in range(2):
        scrape = shown.scrape()
        assert len(scrape.values("fstat_file_size_bytes")) == 4
    assert scrape.value("fstat_cache_hits_total") == before.hits + 6
    assert scrape.value("fstat_cache_misses_total") == before.misses + 2
    hits, misses = before.hits + 6, before.misses + 2
    assert scrape.value("fstat_cache_hit_ratio") == hits / (hits + misses)
    assert scrape.value("fstat_cache_evictions_total") == 0
    assert scrape.value("fstat_cache_files") == 3
    assert scrape.value("fstat_cache_max_files") == 3
    append(tmp_path / "d.log", "x")
    scrape = shown.scrape()
    assert scrape.value("fstat_file_size_bytes", path=f"{tmp_path}/d.log") == 1
    assert scrape.value("fstat_file_changes_total", path=f"{tmp_path}/d.log") == 1


def test_watches(tmp_path: Path, show: Show, max_user_watches: Callable[[int], object]) -> None:
    """How many are held, and how many may be; a scrape reads the sysctl again while one is missing."""
    touch(tmp_path / "a.log", tmp_path / "b.log")
    max_user_watches(2)
    shown = show()
    for limit, allowed, held in ((2, 1, 1), (100_000, 83_616, 3)):
        max_user_watches(limit)
        scrape = shown.scrape()
        assert (scrape.value("fstat_cache_watches"), scrape.value("fstat_cache_max_watches")) == (held, allowed)
        without = scrape.value("fstat_cache_guarded_files") + scrape.value(
            "fstat_cache_polled_files", reason="watch_limit"
        )
        assert without == 3 - held


def test_directories(tmp_path: Path, show: Show) -> None:
    """How many are watched, and what a rescan had to mend."""
    touch(tmp_path / "d/a.log")
    shown = show()
    assert shown.scrape().value("fstat_cache_directory_watches") == 2
    shown.tracker.cache.unwatch_directory(f"{tmp_path}/d")
    touch(tmp_path / "d/b.log")
    assert paths(shown.scrape()) == {"a.log"}
    shown.tracker.scan()
    scrape = shown.scrape()
    assert paths(scrape) == {"a.log", "b.log"}
    assert scrape.value("fstat_exporter_missed_changes_total") == 1
    assert scrape.value("fstat_exporter_unreadable_directories") == 0
    assert scrape.value("fstat_exporter_unwatched_directories") == 0


FAMILIES = {
    **{f"fstat_file_{name}": "gauge" for name in ("size_bytes", "mtime_seconds")},
    **{f"fstat_file_{name}": "counter" for name in ("changes", "appended_bytes", "truncations", "rotations")},
    **{
        f"fstat_{kind}_{name}": "gauge"
        for kind in ("group", "aggregate")
        for name in ("files", "size_bytes", "newest_mtime_seconds")
    },
    **{
        f"fstat_{kind}_{name}": "counter"
        for kind in ("group", "aggregate")
        for name in ("changes", "appended_bytes", "truncations", "rotations")
    },
    "fstat_group_files_without_series": "gauge",
    "fstat_group_unlabelled_files": "gauge",
    "fstat_group_pattern_matches": "gauge",
    "fstat_cache_hits": "counter",
    "fstat_cache_misses": "counter",
    "fstat_cache_hit_ratio": "gauge",
    "fstat_cache_evictions": "counter",
    "fstat_cache_files": "gauge",
    "fstat_cache_max_files": "gauge",
    "fstat_cache_watches": "gauge",
    "fstat_cache_max_watches": "gauge",
    "fstat_cache_directory_watches": "gauge",
    "fstat_cache_hot_directories": "gauge",
    "fstat_cache_hot_files": "gauge",
    "fstat_cache_polled_files": "gauge",
    "fstat_cache_late_files": "gauge",
    "fstat_cache_queue_overflows": "counter",
    "fstat_cache_watch_failures": "counter",
    "fstat_cache_audit_checks": "counter",
    "fstat_cache_audit_mismatches": "counter",
    "fstat_exporter_directories": "gauge",
    "fstat_exporter_unreadable_directories": "gauge",
    "fstat_exporter_unwatched_directories": "gauge",
    "fstat_exporter_missed_changes": "counter",
}


def test_both_formats(tmp_path: Path, show: Show) -> None:
    """Every family is there in both formats, with its type, and the strict parser of OpenMetrics takes it."""
    path = tmp_path / 'a"\\\n.log'
    path.touch()
    patterns = f"{tmp_path}/*.log", f"{tmp_path}/\udcff*"
    shown = show(LogGroup('g"\\\n', patterns, aggregate_by=("path",), metrics=frozenset(FILE_METRICS)))
    scrape = shown.scrape(openmetrics=True)
    assert FAMILIES.items() <= scrape.types.items()
    assert scrape.types["fstat_exporter_build"] == "info"
    assert scrape.value("fstat_file_size_bytes", path=str(path), group='g"\\\n') == 0
    assert scrape.value("fstat_aggregate_files", path=str(path)) == 1
    assert scrape.value("fstat_group_pattern_matches", pattern=f"{tmp_path}/\\xff*") == 0
    assert {"process_resident_memory_bytes", "python_info", "python_gc_collections"} <= scrape.types.keys()
    classic = shown.scrape()
    assert FAMILIES.items() <= classic.types.items()
    assert classic.value("fstat_exporter_build_info", version="0.1.0") == 1
    assert classic.value("fstat_file_size_bytes", path=str(path)) == 0
    assert {name for name, _ in classic.samples} == {name for name, _ in scrape.samples}


def test_a_part_that_fails(
    tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is absent, and a metric says so; all else is true at that scrape. The log has a line at begin and end."""
    caplog.set_level(logging.INFO, "exporter.scrape")
    touch(tmp_path / "a.log")
    shown = show()
    parts = {
        "files": (Tracker, "expire", "fstat_file_size_bytes", "fstat_group_files"),
        "cache": (FStatCache, "status", "fstat_cache_files", "fstat_cache_watches"),
        "process": (ProcessCollector, "collect", "process_open_fds", "python_info"),
    }
    everything = {name for name, _ in shown.scrape().samples}
    for size, (part, (owner, method, *names)) in enumerate(parts.items(), start=1):
        append(tmp_path / "a.log", "x")

        def fail(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(owner, method, fail)
        for openmetrics in (False, True):
            scrape = shown.scrape(openmetrics=openmetrics)
            present = {name for name, _ in scrape.samples}
            assert not present.intersection(names)
            prefixes = ("fstat_file_", "fstat_group_") if part == "files" else (f"fstat_{part}_", f"{part}_", "python_")
            assert {name for name in everything - present if not name.startswith(prefixes)} == set()
            success = "fstat_exporter_scrape_collector_success"
            assert [
                dict(labels)["collector"]
                for (name, labels), value in scrape.samples.items()
                if name == success and not value
            ] == [part]
            if part != "files":
                assert scrape.value("fstat_file_size_bytes") == size
            else:
                with pytest.raises(ZeroDivisionError):  # nothing in it would say that something is missing
                    shown.scrape(names=["fstat_file_size_bytes"])
        monkeypatch.undo()
        caplog.set_level(logging.INFO, "exporter.scrape")
        assert {name for name, _ in shown.scrape().samples} == everything
    records = [record for record in caplog.records if record.name == "exporter.scrape"]
    assert [(record.levelname, record.fields["collector"]) for record in records] == [  # type: ignore[attr-defined]
        (level, part) for part in parts for level in ("ERROR", "INFO")
    ]


def test_an_update_that_fails(tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next scrape shows what it did not come to."""
    touch(tmp_path / "a.log")
    shown = show()
    shown.scrape()
    append(tmp_path / "a.log", "x")

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("exporter.exposition.chunks.Rows.put", fail)
    assert shown.scrape().value("fstat_exporter_scrape_collector_success", collector="files") == 0
    monkeypatch.undo()
    scrape = shown.scrape()
    assert scrape.value("fstat_file_size_bytes") == scrape.value("fstat_group_size_bytes") == 1


def test_durations(tmp_path: Path, show: Show) -> None:
    """Of the whole scrape, and of its parts, which took no longer."""
    touch(tmp_path / "a.log")
    scrape = show().scrape()
    parts = scrape.values("fstat_exporter_scrape_collector_duration_seconds")
    assert len(parts) == len(scrape.values("fstat_exporter_scrape_collector_success")) == 6
    assert 0 < sum(parts) <= (scrape.value("fstat_exporter_scrape_duration_seconds") or 0)


def test_one_bad_file_blanks_nothing(
    tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left out meanwhile; the log has a line when that begins and one when it ends. One survey a scrape."""
    caplog.set_level(logging.INFO, "exporter.tracker")
    touch(*(tmp_path / f"{name}.log" for name in "abc"))
    shown = show()
    caplog.clear()
    bad: set[str] = set()
    surveys = 0
    survey = FStatCache.survey

    def failing(cache: FStatCache, asked: Set[str], surveyed: Surveyed | None = None) -> dict[str, OSError]:
        nonlocal surveys
        surveys += 1
        return survey(cache, asked, surveyed) | {
            f"{tmp_path}/{name}.log": PermissionError(13, "Permission denied") for name in bad
        }

    monkeypatch.setattr(FStatCache, "survey", failing)
    for names in ("", "a", "a", "ab", ""):
        bad = set(names)
        assert paths(shown.scrape()) == {"a.log", "b.log", "c.log"} - {f"{name}.log" for name in names}
    assert surveys == 5
    assert [(record.levelname, record.fields["example"]) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("WARNING", f"{tmp_path}/a.log"),
        ("WARNING", f"{tmp_path}/b.log"),
        ("INFO", f"{tmp_path}/a.log"),
    ]


def test_concurrent_scrapes(tmp_path: Path, show: Show) -> None:
    """Scrapes at the same time, while a file grows: each is whole, none shows less than was written before it began."""
    logs = [tmp_path / f"{number}.log" for number in range(20)]
    touch(*logs)
    shown = show()
    shown.tracker.cache._places.max_files = 10  # half of them are looked at by stat
    for path in logs[:10]:
        shown.tracker.cache.remove_from_watch(path)
    written = [0]
    done = threading.Event()
    failures: list[object] = []

    def scrape() -> None:
        last = -1.0
        while not done.is_set():
            least = written[0]
            result = shown.scrape()
            sizes = result.values("fstat_file_size_bytes")
            appended = sum(result.values("fstat_file_appended_bytes_total"))
            if len(sizes) != 20 or min(sizes) < least or appended < last or appended < 20 * least:
                failures.append((least, sizes, appended, last))
            last = appended

    threads = [threading.Thread(target=scrape) for _ in range(3)]
    for thread in threads:
        thread.start()
    files = [path.open("ab", buffering=0) for path in logs]
    for count in range(1, 301):
        for file in files:
            file.write(b"x")
        written[0] = count
    done.set()
    for thread in threads:
        thread.join()
    for file in files:
        file.close()
    assert failures == []
    result = shown.scrape()
    assert set(result.values("fstat_file_size_bytes")) == {300}
    assert set(result.values("fstat_file_appended_bytes_total")) == {300}
    assert max(result.values("fstat_file_changes_total")) <= 300


def test_registry_is_not_global(show: Show) -> None:
    """Two agents in one process do not meet, and nothing of either stays when it is dropped."""
    one, two = show(), show()
    assert one.scraper._parts["agent"] is not two.scraper._parts["agent"]
    callbacks = len(gc.callbacks)
    show()
    assert len(gc.callbacks) == callbacks


def test_one_group(tmp_path: Path, show: Show) -> None:
    """A scrape of one group has its files and sums, nothing of the others, and nothing of the agent."""
    touch(tmp_path / "a.log", tmp_path / "b.txt")
    one, two = LogGroup("one", (f"{tmp_path}/*.log",)), LogGroup("two", (f"{tmp_path}/*.txt",))
    shown = show(one, two)
    for openmetrics in (False, True):
        scrape = shown.scrape(openmetrics=openmetrics, groups=["two"])
        assert {dict(labels).get("group") for _, labels in scrape.samples} == {"two"}
        assert paths(scrape) == {"b.txt"}
        assert scrape.value("fstat_group_files") == scrape.value("fstat_group_pattern_matches") == 1
    assert paths(shown.scrape(groups=["one", "two"])) == {"a.log", "b.txt"}


def test_names(tmp_path: Path, show: Show) -> None:
    """Only the samples of the names that are asked for, those of files and those of the library."""
    touch(tmp_path / "a.log")
    scrape = show().scrape(names=["fstat_file_size_bytes", "fstat_cache_files"])
    assert {name for name, _ in scrape.samples} == {"fstat_file_size_bytes", "fstat_cache_files"}


def test_gzip(tmp_path: Path, show: Show) -> None:
    """The same text, as one valid gzip file, also of a second scrape that shares most of it."""
    logs = [tmp_path / f"{number}.log" for number in range(100)]
    touch(*logs)
    shown = show()
    for _ in range(3):
        append(logs[50], "x")
        parts = shown.scraper.scrape(generate_latest, is_openmetrics=False, is_compressed=True)
        text = gzip.decompress(b"".join(parts)).decode()
        assert parse_scrape(text).value("fstat_file_size_bytes", path=str(logs[50])) == os.stat(logs[50]).st_size


def test_about_the_agent(tmp_path: Path) -> None:
    """Before the first scan there is something about the agent, how far it has come too, and nothing about groups."""
    config = Config(logs=(LogGroup("g", (f"{tmp_path}/*.log",)),))
    tracker = Tracker(config)
    scrape = parse_scrape(Scraper(tracker).about_the_agent(generate_latest).decode())
    assert scrape.value("fstat_exporter_ready") == 0
    assert scrape.value("fstat_exporter_files") == 0
    assert scrape.value("fstat_cache_files") == 0
    assert [name for name, _ in scrape.samples if name.startswith(("fstat_group", "fstat_file"))] == []
    tracker.close()
