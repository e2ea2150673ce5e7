"""`first_sample: zero`: the counters of what was born are 0 for each scraper, then as they are."""

import re

import pytest

from exporter.config.groups import LogGroup
from exporter.exposition.render import Exposition
from tests.exporter.books import OLD, Book, follow, seen
from tests.support import Scrape, parse_scrape

POD = re.compile("^/(?P<pod>[a-z]+)")
PODS = LogGroup("pods", (), path_regex=POD, aggregate_by=("pod",))


class Scraped:
    """A book that is scraped, with zeros by default for ten seconds and a tenth of these."""

    def __init__(self, *groups: LogGroup, grace_s: float = 0, zero_for_s: float = 10) -> None:
        self.book = Book(*groups, grace_s=grace_s, zero_for_s=zero_for_s)
        self._exposition = Exposition(self.book.publication)

    def scrape(self, now_s: float) -> Scrape:
        """A scrape at this time."""
        self.book.expire(now_s, is_scrape=True)
        return self._text()

    def look(self, now_s: float) -> None:
        """Bring everything up to date, as the agent does without a scrape."""
        self.book.expire(now_s, is_scrape=False)
        self._exposition.update()

    def appended(self, now_s: float) -> float | None:
        """What a scrape shows of the only file."""
        return self.scrape(now_s).value("fstat_file_appended_bytes_total")

    def reload(self, *groups: LogGroup) -> None:
        """Show another configuration, which is rendered before it takes over, as the agent does."""
        publication = follow(self.book, *groups, zero_for_s=10, is_over=False)
        assert not any(row.is_zero for row in publication.rows.values())
        self._exposition = Exposition(publication)
        self._exposition.update()
        publication.take_over(lambda _: ())
        self.book.publication = publication

    def _text(self) -> Scrape:
        self._exposition.update()
        parts = self._exposition.render(bytes, is_openmetrics=False, is_compressed=False)
        return parse_scrape(b"".join(parts).decode())


def test_every_scraper_sees_zero_first() -> None:
    """From the first scrape on, for the interval of the scrapers and a tenth; gauges and groups are right at once."""
    scraped = Scraped()
    scraped.book.look("/a", seen(5000))
    first = scraped.scrape(100)
    assert first.value("fstat_file_appended_bytes_total") == 0
    assert first.value("fstat_file_size_bytes") == 5000
    assert first.value("fstat_group_appended_bytes_total") == 5000
    scraped.book.observe("/a", seen(5500))
    assert [scraped.appended(now_s) for now_s in (104, 110, 110.9)] == [0, 0, 0]
    assert [scraped.appended(now_s) for now_s in (111.1, 114, 200)] == [5500, 5500, 5500]
    assert scraped.book.of("/a").appended_bytes == 5500


def test_the_time_begins_with_a_scrape() -> None:
    """What nobody has scraped yet is 0 at its first scrape, however late that is."""
    scraped = Scraped()
    scraped.book.look("/a", seen(5000))
    for now_s in (0, 50, 1000):
        scraped.look(now_s)
    assert scraped.appended(2000) == 0
    assert scraped.appended(2020) == 5000


def test_the_end_of_a_zero_costs_its_rows_only() -> None:
    """Of a thousand files only those are written again whose zero has ended and that have counted something."""
    scraped = Scraped()
    for number in range(1000):
        scraped.book.look(f"/{number}", seen(10, number, birth_ns=OLD), is_new=False)
    scraped.scrape(0)
    scraped.book.expire(20, is_scrape=True)
    assert scraped.book.publication.take().rows == set()
    for number in range(1000):
        scraped.book.observe(f"/{number}", seen(20, number, birth_ns=OLD))
    scraped.scrape(40)
    scraped.book.look("/new", seen(5000, 1000))
    scraped.scrape(60)
    scraped.book.expire(80, is_scrape=True)
    assert {row.path.name for row in scraped.book.publication.take().rows} == {"/new"}


def test_a_file_that_changes_its_group_meanwhile() -> None:
    """Its series in the other group is born; the end of the old zero does not touch what has ended."""
    scraped = Scraped(LogGroup("a", ()), LogGroup("b", ()))
    scraped.book.look("/a", seen(5000))
    scraped.scrape(0)
    scraped.book.look("/a", seen(5000), group=1)
    scraped.scrape(5)
    scraped.book.expire(12, is_scrape=True)
    assert scraped.book.publication.take().rows == set()
    assert [scraped.appended(now_s) for now_s in (12, 17)] == [0, 5000]


def test_a_file_that_is_gone_before_its_first_scrape() -> None:
    """It stays until two scrapes after its zero."""
    scraped = Scraped(PODS)
    scraped.book.look("/a/x", seen(5000))
    scraped.book.publication.update()
    scraped.book.observe("/a/x", None)
    assert [scraped.appended(now_s) for now_s in (0, 5, 10, 15, 20, 25)] == [0, 0, 0, 5000, 5000, None]


def test_the_grace_begins_after_the_zero() -> None:
    """So that as many scrapers see the last bytes as without a zero."""
    scraped = Scraped(grace_s=60)
    scraped.book.look("/a", seen(5000))
    scraped.book.observe("/a", None)
    assert [scraped.appended(now_s) for now_s in (0, 15, 30, 45, 60, 74, 75)] == [0, *[5000] * 5, None]


def test_a_long_zero() -> None:
    """A deleted file outlasts it, though nobody waits so long for a scrape."""
    scraped = Scraped(zero_for_s=600)
    scraped.book.look("/a", seen(5000))
    scraped.book.observe("/a", None)
    found = [scraped.appended(now_s) for now_s in range(0, 1500, 200)]
    assert found == [0, 0, 0, 0, 5000, 5000, None, None]


@pytest.mark.parametrize("is_scraped", [False, True])
def test_nobody_scrapes(is_scraped: bool) -> None:
    """Then files that are gone are not kept for ever."""
    scraped = Scraped(PODS)
    for number in range(3):
        scraped.book.look(f"/a/{number}", seen(5000, number))
        scraped.book.observe(f"/a/{number}", None)
    if is_scraped:
        scraped.scrape(0)
    for now_s in (0, 1, 310, 312, 611):
        scraped.look(now_s)
    assert scraped.book.publication.rows == {}
    assert scraped.book.aggregates == {}
    assert not any(scraped.book.publication._zeros._born.values())


def test_aggregates_are_born_too() -> None:
    """With their first file; the next files of an aggregate are born alone."""
    scraped = Scraped(PODS)
    name = "fstat_aggregate_appended_bytes_total"
    scraped.book.look("/a/x", seen(5000))
    assert [scraped.scrape(now_s).value(name) for now_s in (0, 5, 15)] == [0, 0, 5000]
    scraped.book.look("/a/y", seen(300, 2))
    assert scraped.scrape(20).value(name) == 5300
    assert scraped.scrape(20).value("fstat_file_appended_bytes_total", path="/a/y") == 0
    for path in ("/a/x", "/a/y"):
        scraped.book.observe(path, None)
    for now_s in (40, 60, 80, 100):
        scraped.scrape(now_s)
    assert scraped.book.aggregates == {}
    scraped.book.look("/a/z", seen(70, 3))
    assert [scraped.scrape(now_s).value(name) for now_s in (110, 130)] == [0, 70]


def test_all_counters_are_zero() -> None:
    """Also those of changes, truncations and rotations."""
    scraped = Scraped(LogGroup("g", (), metrics=frozenset({"changes", "truncations", "rotations"})))
    scraped.book.look("/a", seen(5000))
    for stats in (seen(10), seen(20, 2)):
        scraped.book.observe("/a", stats)
    names = [f"fstat_file_{name}_total" for name in ("changes", "truncations", "rotations")]
    first, later = scraped.scrape(0), scraped.scrape(20)
    assert [first.value(name) for name in names] == [0, 0, 0]
    assert [later.value(name) for name in names] == [2, 1, 1]


def test_a_name_that_begins_to_count() -> None:
    """Another name of a file has no counters; when another file comes to it, they are born."""
    scraped = Scraped()
    scraped.book.look("/a", seen(5000))
    scraped.book.look("/b", seen(5000))
    of_b = {"name": "fstat_file_appended_bytes_total", "path": "/b"}
    assert [scraped.scrape(now_s).value(**of_b) for now_s in (0, 20)] == [None, None]
    scraped.book.observe("/b", seen(300, 2))
    assert [scraped.scrape(now_s).value(**of_b) for now_s in (30, 50)] == [0, 300]


def test_a_file_that_could_not_be_stat_ed_for_a_while() -> None:
    """Its counter goes on: a zero would look like a reset, and all it has counted like growth."""
    scraped = Scraped()
    scraped.book.look("/a", seen(5000))
    scraped.scrape(0)
    assert scraped.appended(20) == 5000
    scraped.book.facts.hide(["/a"])
    assert scraped.appended(30) is None
    scraped.book.facts.hide([])
    assert scraped.appended(40) == 5000


def test_a_file_that_comes_again() -> None:
    """Within its grace the series goes on; after it another one is born."""
    scraped = Scraped(grace_s=60)
    scraped.book.look("/a", seen(5000))
    scraped.scrape(0)
    scraped.book.observe("/a", None)
    assert scraped.appended(20) == 5000
    scraped.book.look("/a", seen(100, 2))
    assert scraped.appended(30) == 5100
    scraped.book.observe("/a", None)
    assert [scraped.appended(now_s) for now_s in (40, 60, 100)] == [5100, 5100, None]
    scraped.book.look("/a", seen(70, 3))
    assert [scraped.appended(now_s) for now_s in (110, 130)] == [0, 70]


def test_a_file_that_waits_for_a_place() -> None:
    """Its counter is old when it gets one: a zero would show the growth of days as that of one interval."""
    scraped = Scraped(LogGroup("g", (), max_series=1))
    scraped.book.look("/a", seen(10))
    scraped.book.look("/b", seen(5000, 2))
    for now_s in (0, 20):
        scraped.scrape(now_s)
    scraped.book.observe("/a", None)
    for now_s in (40, 60):
        assert scraped.scrape(now_s).value("fstat_file_appended_bytes_total", path="/a") == 10
    assert scraped.scrape(80).value("fstat_file_appended_bytes_total", path="/b") == 5000


def test_a_reload() -> None:
    """A zero goes on; no other file that was shown before begins at 0."""
    scraped = Scraped(PODS)
    scraped.book.look("/old/x", seen(5000))
    for now_s in (0, 20):
        scraped.scrape(now_s)
    scraped.book.look("/young/x", seen(300, 2))
    scraped.scrape(30)
    scraped.reload(PODS)
    scraped.book.look("/new/x", seen(70, 3), group=10)  # the number in the new configuration

    def shown(now_s: float) -> dict[str, list[float | None]]:
        found = scraped.scrape(now_s)
        names = "fstat_file_appended_bytes_total", "fstat_aggregate_appended_bytes_total"
        return {pod: [found.value(name, pod=pod) for name in names] for pod in ("old", "young", "new")}

    assert shown(31) == {"old": [5000, 5000], "young": [0, 0], "new": [0, 0]}
    assert shown(50) == {"old": [5000, 5000], "young": [300, 300], "new": [70, 70]}


def test_a_reload_that_begins_at_zero() -> None:
    """Files that were shown before are not born by it."""
    book = Book()
    book.look("/a", seen(5000))
    assert not book.row("/a").is_zero
    follow(book, LogGroup("g", ()), zero_for_s=10)
    assert not book.row("/a").is_zero
    book.look("/b", seen(10, 2), group=10)
    assert book.row("/b").is_zero
