"""The exposition of a publication, against what prometheus_client writes of the same one, to the letter."""

import gzip
import os
import re
import subprocess
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from exporter.config.groups import DIRECTORIES, DISK, FILE_METRICS, MODE, OLDEST_MTIME, LogGroup
from exporter.exposition.catalogue import file_families, mode_families, sample_name, totals_families
from exporter.exposition.chunks import Rows
from exporter.exposition.render import TEXT_KEPT_SCRAPES, Exposition
from exporter.publication.publication import Changed, Publication
from exporter.publication.rows import Totals
from fstat_cache import DetailedStats, FileStats
from tests.exporter.books import Book
from tests.support import parse_scrape, program

OF_PATH = re.compile(r"(?s)^/log/(?P<pod>[^|]*)\|(?P<app>[^|]*)\|")
TEAM = 'a "team"\\\n'
GROUPS = (
    LogGroup("system", (), labels={"team": TEAM, "none": ""}),
    LogGroup(
        "pods",
        (),
        labels={"team": TEAM, "none": ""},
        path_regex=OF_PATH,
        aggregate_by=("pod", "app"),
        metrics=frozenset((*FILE_METRICS, MODE, OLDEST_MTIME, DIRECTORIES)),
    ),
    LogGroup(
        "sums",
        (),
        labels={"zone": "z"},
        path_regex=OF_PATH,
        aggregate_by=("app", "zone"),
        per_file=False,
        metrics=frozenset((DISK, OLDEST_MTIME)),
    ),
    LogGroup("few", (), max_series=2, metrics=frozenset({"size", "rotations"})),
)
LABEL_NAMES = ("group", "path", "app", "none", "pod", "team", "zone")

TEXTS = st.one_of(
    st.text(alphabet=st.characters(exclude_characters="|", exclude_categories=["Cs"]), max_size=5),
    st.text(alphabet='\\"\n\rn,{}= #', max_size=5),
)
PATHS = st.builds(
    "/log/{}|{}|{}".format,
    TEXTS,
    TEXTS,
    st.sampled_from(("a", 'b"', "c\\n", "d\n", "e\r\u2028", "f", "g", "h", "{}", "%s")),
) | st.sampled_from(("/log/a", "/log/b"))
NUMBERS = st.one_of(st.integers(0, 100), st.integers(0, 1 << 63), st.sampled_from([999_999, 10**6, 2**53 + 1]))
TIMES_NS = st.integers(-(1 << 62), 1 << 62)


class Reference(Collector):
    """The families of a publication as the library is to render them.

    Args:
        publication: what is shown.
        groups: of which groups; None for all.
        text: where the order of samples is looked up, which is for the exposition to choose.
    """

    def __init__(self, publication: Publication, groups: Collection[str] | None, text: str) -> None:
        self._publication = publication
        self._groups = groups
        self._text = text

    def collect(self) -> list[Metric]:
        """The families of files, groups and aggregates."""
        files = file_families()
        (modes,) = mode_families().values()
        for row in self._publication.rows.values():
            group, path = GROUPS[row.group], row.path
            if not row.is_published or path.stats is None or path.is_hidden or not self._has(group):
                continue
            labels = {name: value for name, value in zip(LABEL_NAMES, row.values, strict=True) if value}
            values: dict[str, float] = {"size": path.stats.size, "mtime": path.stats.mtime}
            if path.is_counting:
                values |= {name: getattr(path, name) for name in FILE_METRICS[2:6]}
            if isinstance(path.stats, DetailedStats):
                values[DISK] = path.stats.disk_bytes
                mode, uid, gid = path.stats.access
                if MODE in group.metrics:
                    self._add(modes, {**labels, "mode": f"{mode:04o}", "owner_uid": f"{uid}", "owner_gid": f"{gid}"}, 1)
            for name in group.metrics & values.keys():
                self._add(files[name], labels, values[name])
        aggregates = totals_families("aggregate", "in the aggregate")
        totals_of_groups = totals_families("group", "in the group")
        for totals in self._publication.totals():
            group = GROUPS[totals.group]
            if not self._has(group) or not totals.is_published:
                continue
            labels = {"group": group.group}
            if totals.values:
                own = dict(zip(group.aggregate_by, totals.values, strict=True))
                labels |= {name: own.get(name, "") for name in ("pod", "app", "zone")}
            labels |= {name: value for name, value in group.labels.items() if value}
            present = [row for row in self._publication.rows.values() if totals in row.totals and row.is_present]
            stats = [row.path.stats for row in present if row.path.stats is not None]
            for name, family in (aggregates if totals.values else totals_of_groups).items():
                if name == "newest_mtime_seconds":
                    value = totals.newest and totals.newest.path.stats and totals.newest.path.stats.mtime
                elif name == "oldest_mtime_seconds" and OLDEST_MTIME in group.metrics:
                    value = min((each.mtime for each in stats), default=None)
                elif name == "directories" and DIRECTORIES in group.metrics:
                    value = len({os.path.dirname(row.path.name) for row in present})
                elif name == "disk_bytes" and DISK in group.metrics:
                    held = [row for row in present if row.path.inode and row.path in row.path.inode.holders]
                    value = sum(row.path.stats.disk_bytes for row in held if isinstance(row.path.stats, DetailedStats))
                else:
                    value = getattr(totals, name) if name in Totals.__slots__ and name != "disk_bytes" else None
                if value is not None:
                    self._add(family, labels, value)
        families = [*files.values(), modes, *totals_of_groups.values(), *aggregates.values()]
        for family in families:
            family.samples.sort(key=self._place)
        return families

    def _has(self, group: LogGroup) -> bool:
        return self._groups is None or group.group in self._groups

    @staticmethod
    def _add(family: Metric, labels: dict[str, str], value: float) -> None:
        family.samples.append(Sample(sample_name(family), labels, value))

    def _place(self, sample: Sample) -> int:
        metric = Metric("x", "", "gauge")
        metric.samples = [sample]
        registry = CollectorRegistry()
        registry.collect = lambda: [metric]  # type: ignore[method-assign]
        return self._text.find(generate_latest(registry).decode().rsplit("gauge\n", 1)[1])


def detailed(stats: FileStats) -> FileStats:
    """Return the stats with details, which differ where the size does."""
    return DetailedStats(stats, stats.size // 3, stats.size & 0o7777, stats.inode, 4)


class Published:
    """A publication and its exposition."""

    def __init__(self) -> None:
        self.book = Book(*GROUPS, grace_s=0)
        self.exposition = Exposition(self.book.publication)

    def look(self, path: str, stats: FileStats | None, group: int = 0) -> None:
        """Declare a path, and book a stat of it."""
        self.book.declare(path, group, since_ns=0)
        if stats is not None and DISK in GROUPS[group].metrics:
            stats = detailed(stats)
        self.book.observe(path, stats)

    def text(
        self,
        *,
        is_openmetrics: bool = False,
        is_compressed: bool = False,
        groups: Collection[str] | None = None,
        names: Collection[str] | None = None,
    ) -> bytes:
        """Scrape: what comes out, unzipped."""
        self.exposition.update()
        parts = self.exposition.render(
            lambda: b"# EOF\n" if is_openmetrics else b"",
            is_openmetrics=is_openmetrics,
            is_compressed=is_compressed,
            groups=groups,
            names=names,
        )
        whole = b"".join(parts)
        return gzip.decompress(whole) if is_compressed else whole

    def reference(
        self, text: bytes, *, is_openmetrics: bool, groups: Collection[str] | None, names: Collection[str] | None
    ) -> bytes:
        """What the library makes of it."""
        collector = Reference(self.book.publication, groups, text.decode())
        registry = CollectorRegistry(auto_describe=True)
        registry.register(collector)
        source = registry if names is None else registry.restricted_registry(names)
        return (generate_openmetrics if is_openmetrics else generate_latest)(source)  # type: ignore[arg-type]


ALL_NAMES = [
    sample_name(family)
    for families in (file_families(), mode_families(), totals_families("group", ""), totals_families("aggregate", ""))
    for family in families.values()
]


class Model(RuleBasedStateMachine):
    """Files that come, change and go, and scrapes of all kinds in between."""

    def __init__(self) -> None:
        super().__init__()
        self.published = Published()

    @rule(
        data=st.data(),
        paths=st.sets(PATHS),
        group=st.integers(0, len(GROUPS) - 1),
        size=NUMBERS,
        mtime_ns=TIMES_NS,
        inode=st.integers(1, 5),
    )
    def look(self, data: st.DataObject, paths: set[str], group: int, size: int, mtime_ns: int, inode: int) -> None:
        """Files are seen: new ones, changed ones, others of the same name, names of one inode."""
        for path in (*paths, *self.some(data)):
            self.published.look(path, FileStats(size, mtime_ns, inode, 1, 1), group)

    @rule(data=st.data(), size=NUMBERS, mtime_ns=TIMES_NS)
    def change(self, data: st.DataObject, size: int, mtime_ns: int) -> None:
        """Files that are there change, and stay in their groups."""
        for path in self.some(data):
            inode = self.published.book.facts.at(path)
            if inode is not None:
                stats = FileStats(size, mtime_ns, inode.identity[1], 1, 1)
                is_detailed = isinstance(self.published.book.of(path).stats, DetailedStats)
                self.published.book.observe(path, detailed(stats) if is_detailed else stats)

    def some(self, data: st.DataObject) -> list[str]:
        known = sorted(self.published.book.facts.paths)
        return data.draw(st.lists(st.sampled_from(known), unique=True)) if known else []

    @rule(data=st.data(), has_expired=st.booleans())
    def vanish(self, data: st.DataObject, has_expired: bool) -> None:
        """Files go, and after a while their rows."""
        for path in self.some(data):
            self.published.book.observe(path, None)
        if has_expired:
            self.published.book.end_of_grace()

    @rule(data=st.data())
    def hide(self, data: st.DataObject) -> None:
        """Files fail to stat, and others do no more."""
        self.published.book.facts.hide(self.some(data))

    @rule(
        is_openmetrics=st.booleans(),
        is_compressed=st.booleans(),
        groups=st.none() | st.sets(st.sampled_from(["system", "pods", "sums", "few", "unknown"])),
        names=st.none() | st.sets(st.sampled_from([*ALL_NAMES, "fstat_file_changes", "up"])),
    )
    def scrape(
        self,
        is_openmetrics: bool,
        is_compressed: bool,
        groups: set[str] | None,
        names: set[str] | None,
    ) -> None:
        """It is what the library writes."""
        text = self.published.text(
            is_openmetrics=is_openmetrics, is_compressed=is_compressed, groups=groups, names=names
        )
        assert text == self.published.reference(text, is_openmetrics=is_openmetrics, groups=groups, names=names)
        parse_scrape(text.decode(), openmetrics=is_openmetrics)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=20)


@pytest.fixture
def published() -> Published:
    """With three hundred files in two groups, some of the labels in need of escapes."""
    made = Published()
    for number in range(300):
        made.look(f'/log/"\\\n|é|{number}', FileStats(number, number, number + 1, 1, 1), number % 2)
    return made


def test_promtool_accepts_it(published: Published) -> None:
    """Names, types and help texts are as Prometheus wants them."""
    text = published.text()
    done = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr + done.stdout == b""


def test_the_rest_stands_behind(published: Published) -> None:
    """What the library rendered ends the answer, compressed or not."""
    rest = b"# HELP up Up.\n# TYPE up gauge\nup 1.0\n# EOF\n"
    for is_compressed in (False, True):
        parts = published.exposition.render(lambda: rest, is_openmetrics=True, is_compressed=is_compressed)
        whole = b"".join(parts)
        assert (gzip.decompress(whole) if is_compressed else whole).endswith(b"\n" + rest)


def test_shows_the_latest_update(published: Published) -> None:
    """What is booked after it is not shown, before the next one."""
    before = published.text()
    published.look('/log/"\\\n|é|7', FileStats(12345, 7, 8, 1, 1), 1)
    assert b"".join(published.exposition.render(bytes, is_openmetrics=False, is_compressed=False)) == before
    assert b" 12345.0\n" in published.text()


def test_a_change_shows_wholly_or_not_at_all() -> None:
    """While a file is written and others scrape, all values are of one moment in every scrape."""
    made = Published()
    made.look("/log/0", FileStats(0, 0, 1, 1, 1))
    is_over = threading.Event()

    def scrape(is_compressed: bool) -> int:
        scrapes = 0
        while not is_over.is_set() or not scrapes:
            scrape = parse_scrape(made.text(is_compressed=is_compressed).decode())
            names = ("fstat_file_size_bytes", "fstat_file_appended_bytes_total", "fstat_group_size_bytes")
            assert len({scrape.value(name, group="system") for name in names}) == 1
            scrapes += 1
        return scrapes

    with ThreadPoolExecutor() as executor:
        scrapers = [executor.submit(scrape, is_compressed) for is_compressed in (False, True, True)]
        try:
            for size in range(1000):
                made.book.observe("/log/0", FileStats(size, size, 1, 1, 1))
        finally:
            is_over.set()
        assert all(scraper.result() for scraper in scrapers)


def test_nothing_is_booked_during_an_update(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not between what has changed and the values: a stat from another thread waits until all are copied."""
    publication = published.book.publication
    take = publication.take
    path = next(iter(published.book.facts.paths))
    look = threading.Thread(target=published.book.observe, args=(path, FileStats(777, 777, 1, 1, 1)))

    def take_while_another_looks() -> Changed:
        changed = take()
        look.start()
        look.join(0.1)
        assert look.is_alive()
        return changed

    monkeypatch.setattr(publication, "take", take_while_another_looks)
    text = published.text()
    look.join()
    monkeypatch.undo()
    assert b" 777.0\n" not in text
    assert b" 777.0\n" in published.text()


def test_what_has_changed_is_returned(published: Published) -> None:
    """For others that follow the rows, such as the history."""
    assert len(published.exposition.update().rows) == 300
    path = [*published.book.facts.paths][5]
    published.look(path, FileStats(12345, 7, 6, 1, 1), 1)
    assert {row.path.name for row in published.exposition.update().rows} == {path}


def test_text_is_dropped_when_nobody_asks_for_it(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ten times as long as what is sent with gzip; after a scrape without, it stays for some with it."""
    dropped = []
    monkeypatch.setattr("exporter.exposition.render.TEXT_KEPT_ROWS", 0)
    monkeypatch.setattr(Rows, "drop_text", lambda rows: dropped.append(rows))
    text = published.text()
    for _ in range(TEXT_KEPT_SCRAPES - 1):
        assert published.text(is_compressed=True) == text
    assert not dropped
    assert published.text(is_compressed=True) == text
    assert len(dropped) == 4 * len(GROUPS)
    assert published.text(is_compressed=True) == text
    assert len(dropped) == 4 * len(GROUPS)


def test_odd_ends_of_lines(published: Published) -> None:
    """Only a line feed ends a line: others are part of a label, also in the neighbour of a line written again."""
    for name in ("a\r", "b\r\n", "c\u2028", "d\x0b"):
        published.look(name, FileStats(1, 1, 1000 + ord(name[0]), 1, 1))
    before = published.text()
    published.look("d\x0b", FileStats(2, 2, 1000 + ord("d"), 1, 1))
    after = published.text()
    assert after != before
    assert after == published.reference(after, is_openmetrics=False, groups=None, names=None)


def test_nothing_stays_of_what_has_gone() -> None:
    """Pods come and go without end: what is kept does not grow."""
    made = Published()
    for number in range(500):
        made.look(f"/log/{number}||", FileStats(1, 1, number + 1, 1, number + 1), 1)
        if number >= 10:
            made.book.observe(f"/log/{number - 10}||", None)
            made.book.end_of_grace()
        made.exposition.update()
    scrape = parse_scrape(made.text().decode())
    assert len(scrape.values("fstat_file_size_bytes")) == 10
    assert len(scrape.values("fstat_aggregate_files")) == 10
    rows = [table.rows[1] for table in made.exposition._tables]
    assert [len(each) for each in rows] == [10, 10, 1, 10]
    assert [each.chunks for each in rows] == [1, 1, 1, 1]
