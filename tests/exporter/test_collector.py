"""The collector over a real cache, read back by the parsers of prometheus_client."""

import gc
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter.collector import DeclaredFile, DeclaredFiles, FileCollector, make_registry
from exporter.growth import Ledger
from fstat_cache import CacheInfo, CacheStatus, FileStats, FStatCache, Survey
from tests.support import Scrape, parse_scrape


class Fixture:
    """A cache, a ledger, and what shows them."""

    def __init__(self, max_files: int) -> None:
        self.ledger = Ledger()
        self.cache = FStatCache(max_files=max_files, on_change=self._on_change)
        self.declared: DeclaredFiles | None = None
        self.collector = FileCollector(self.cache, self.ledger, lambda: self.declared)
        self.registry = make_registry(self.collector)

    def _on_change(self, path: str, stats: FileStats | None) -> None:
        if stats is not None:
            self.ledger.replaced(path, stats)

    def declare(self, *paths: Path) -> None:
        """Declare these files."""
        self.declared = DeclaredFiles(("group", "path"), [DeclaredFile(str(path), ("g", str(path))) for path in paths])

    def scrape(self) -> Scrape:
        """Scrape in the classic format."""
        return parse_scrape(generate_latest(self.registry).decode())


@pytest.fixture
def make() -> Iterator[type[Fixture]]:
    """Makes fixtures and closes their caches."""
    made: list[Fixture] = []

    class Closing(Fixture):
        def __init__(self, max_files: int = 100) -> None:
            super().__init__(max_files)
            made.append(self)

    yield Closing
    for each in made:
        each.cache.close()


def test_file_families(make: type[Fixture], tmp_path: Path) -> None:
    """Size, modification time with its fraction, and changes since the first sight, each as of this scrape."""
    path = tmp_path / "a.log"
    path.write_text("12345")
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    all_of_it = make()
    all_of_it.declare(path)
    scrape = all_of_it.scrape()
    assert scrape.value("fstat_file_size_bytes", group="g", path=str(path)) == 5
    assert scrape.value("fstat_file_mtime_seconds", path=str(path)) == os.stat(path).st_mtime
    assert scrape.value("fstat_file_changes_total", path=str(path)) == 0
    with path.open("a") as file:
        file.write("6")
    scrape = all_of_it.scrape()
    assert scrape.value("fstat_file_size_bytes", path=str(path)) == 6
    assert scrape.value("fstat_file_changes_total", path=str(path)) == 1


def test_a_file_that_has_gone_leaves_at_once(make: type[Fixture], tmp_path: Path) -> None:
    """No scan is needed; the other files stay. When it comes back the count goes on."""
    gone, stays = tmp_path / "a.log", tmp_path / "b.log"
    for path in (gone, stays):
        path.touch()
    all_of_it = make()
    all_of_it.declare(gone, stays)
    assert len(all_of_it.scrape().values("fstat_file_size_bytes")) == 2
    gone.unlink()
    scrape = all_of_it.scrape()
    assert scrape.value("fstat_file_size_bytes", path=str(gone)) is None
    assert scrape.value("fstat_file_size_bytes", path=str(stays)) == 0
    gone.write_text("x")
    assert all_of_it.scrape().value("fstat_file_changes_total", path=str(gone)) == 1


def test_before_the_first_scan(make: type[Fixture]) -> None:
    """No file, but all families and the cache."""
    scrape = make().scrape()
    assert scrape.values("fstat_file_size_bytes") == []
    assert scrape.types["fstat_file_size_bytes"] == "gauge"
    assert scrape.value("fstat_cache_hit_ratio") == 0
    assert scrape.value("fstat_cache_files") == 0


def test_cache_families(make: type[Fixture], tmp_path: Path) -> None:
    """Each published file is one look-up a scrape; what does not fit is a miss and published all the same."""
    paths = [tmp_path / name for name in ("a", "b", "c", "d")]
    for path in paths:
        path.write_text(path.name)
    all_of_it = make(3)
    all_of_it.cache.build(paths[:3])
    all_of_it.declare(*paths)
    for _ in range(2):
        scrape = all_of_it.scrape()
        assert len(scrape.values("fstat_file_size_bytes")) == 4
    assert scrape.value("fstat_cache_hits_total") == 6
    assert scrape.value("fstat_cache_misses_total") == 2
    assert scrape.value("fstat_cache_hit_ratio") == 0.75
    assert scrape.value("fstat_cache_evictions_total") == 0
    assert scrape.value("fstat_cache_files") == 3
    assert scrape.value("fstat_cache_max_files") == 3
    with paths[3].open("a") as file:
        file.write("more")
    scrape = all_of_it.scrape()
    assert scrape.value("fstat_file_size_bytes", path=str(paths[3])) == 5
    assert scrape.value("fstat_file_changes_total", path=str(paths[3])) == 1


FAMILIES = {
    "fstat_file_size_bytes": "gauge",
    "fstat_file_mtime_seconds": "gauge",
    "fstat_file_changes": "counter",
    "fstat_cache_hits": "counter",
    "fstat_cache_misses": "counter",
    "fstat_cache_hit_ratio": "gauge",
    "fstat_cache_evictions": "counter",
    "fstat_cache_files": "gauge",
    "fstat_cache_max_files": "gauge",
    "fstat_cache_watches": "gauge",
    "fstat_cache_hot_files": "gauge",
    "fstat_cache_polled_files": "gauge",
    "fstat_cache_late_files": "gauge",
    "fstat_cache_queue_overflows": "counter",
    "fstat_cache_watch_failures": "counter",
    "fstat_cache_audit_checks": "counter",
    "fstat_cache_audit_mismatches": "counter",
}


def test_both_formats(make: type[Fixture], tmp_path: Path) -> None:
    """Every family is there in both formats, with its type, and the strict parser of OpenMetrics takes it."""
    path = tmp_path / 'a"\\\n.log'
    path.touch()
    all_of_it = make()
    all_of_it.declare(path)
    scrape = parse_scrape(generate_openmetrics(all_of_it.registry).decode(), openmetrics=True)
    assert FAMILIES.items() <= scrape.types.items()
    assert scrape.types["fstat_exporter_build"] == "info"
    assert scrape.value("fstat_file_size_bytes", path=str(path)) == 0
    assert {"process_resident_memory_bytes", "python_info", "python_gc_collections"} <= scrape.types.keys()
    classic = all_of_it.scrape()
    assert FAMILIES.items() <= classic.types.items()
    assert classic.value("fstat_exporter_build_info", version="0.1.0") == 1
    assert classic.value("fstat_file_size_bytes", path=str(path)) == 0


def test_describe_asks_no_file(make: type[Fixture]) -> None:
    """Registration needs the names only: the same as those of a scrape."""
    all_of_it = make()
    described = [(family.name, family.type) for family in all_of_it.collector.describe()]
    assert described == [(family.name, family.type) for family in all_of_it.collector.collect()]
    assert all_of_it.cache.cache_info().hits + all_of_it.cache.cache_info().misses == 0


class Failing:
    """A cache of which chosen files can not be looked at."""

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.surveys = 0

    def survey(self, paths: Iterable[str]) -> Survey:
        """Fail for the bad ones, and count the calls."""
        self.surveys += 1
        errors: dict[str, OSError] = {path: PermissionError(13, "Permission denied", path) for path in self.bad}
        return Survey({path: FileStats(1, 2, 3, 4) for path in paths if path not in errors}, errors)

    def audit(self, files: int) -> int:
        """Find nothing."""
        return 0

    def status(self) -> CacheStatus:
        """Nothing of interest."""
        return CacheStatus(0, 0, {}, 0, 0, {}, 0, 0)

    def cache_info(self) -> CacheInfo:
        """Nothing of interest."""
        return CacheInfo(0, 0, 0, 0, None)


def test_one_bad_file_blanks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is left out; the log has one line when that begins and one when it ends. One survey a scrape."""
    caplog.set_level(logging.INFO)
    cache = Failing()
    declared = DeclaredFiles(("path",), [DeclaredFile(path, (path,)) for path in ("/a", "/b", "/c")])
    collector = FileCollector(cache, Ledger(), lambda: declared)
    counts = []
    for bad in (set(), {"/a"}, {"/a"}, {"/a", "/b"}, set()):
        cache.bad = bad
        size, *_ = collector.collect()
        counts.append(len(size.samples))
    assert counts == [3, 2, 2, 1, 3]
    assert cache.surveys == 5
    assert [(record.levelname, record.fields["example"]) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("WARNING", "/a"),
        ("WARNING", "/b"),
        ("INFO", "/a"),
    ]


def test_concurrent_scrapes(make: type[Fixture], tmp_path: Path) -> None:
    """Scrapes at the same time, while a file grows: each is whole, none shows less than was written before it began."""
    paths = [tmp_path / f"{number}.log" for number in range(20)]
    for path in paths:
        path.touch()
    all_of_it = make(10)  # half of them are looked at by stat
    all_of_it.cache.build(paths[:10])
    all_of_it.declare(*paths)
    all_of_it.scrape()
    written = [0]
    done = threading.Event()
    failures: list[object] = []

    def scrape() -> None:
        last = -1.0
        while not done.is_set():
            least = written[0]
            result = all_of_it.scrape()
            sizes = result.values("fstat_file_size_bytes")
            changes = sum(result.values("fstat_file_changes_total"))
            if len(sizes) != 20 or min(sizes) < least or changes < last:
                failures.append((least, sizes, changes, last))
            last = changes

    threads = [threading.Thread(target=scrape) for _ in range(3)]
    for thread in threads:
        thread.start()
    files = [path.open("ab", buffering=0) for path in paths]
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
    result = all_of_it.scrape()
    assert set(result.values("fstat_file_size_bytes")) == {300}
    assert max(result.values("fstat_file_changes_total")) <= 300


def test_registry_is_not_global(make: type[Fixture]) -> None:
    """Two agents in one process do not meet, and nothing of either stays when it is dropped."""
    one, two = make(), make()
    assert one.registry is not two.registry
    callbacks = len(gc.callbacks)
    make()
    assert len(gc.callbacks) == callbacks
