"""What is shown of facts: rows, groups, aggregates, and how one publication follows another."""

import re

import pytest

from exporter.config.groups import LogGroup
from exporter.ledger.books import Counters
from exporter.publication import publication
from tests.exporter.books import NEW, OLD, Book, follow, seen

TWO = (LogGroup("g", ()), LogGroup("other", ()))
POD = re.compile("^/(?P<pod>[a-z]+)")
PODS = LogGroup("pods", (), path_regex=POD, aggregate_by=("pod",))


@pytest.mark.parametrize(
    ("steps", "ended"),
    [
        # When expire() is called, and whether for a scrape; whether the series has ended then.
        ([(0, True), (30, True), (59, True), (60, True)], [False, False, False, True]),
        ([(0, False), (100, False), (299, False), (300, False)], [False, False, False, True]),
        ([(0, False), (100, True), (200, True), (201, True)], [False, False, False, True]),
        ([(0, True), (1, True), (2, True), (59.9, False), (60, False)], [False, False, False, False, True]),
        ([(500, False), (559, True), (560, True), (561, False)], [False, False, False, True]),
    ],
)
def test_grace(steps: list[tuple[float, bool]], ended: list[bool]) -> None:
    """A deleted file's series stays for two scrapes or a time, whichever is later, and not for ever without scrapes."""
    book = Book(grace_s=60)
    book.look("/a", seen(10))
    book.observe("/a", None)
    found = []
    for now_s, is_scrape in steps:
        book.expire(now_s, is_scrape=is_scrape)
        found.append("/a" not in book.facts.paths)
    assert found == ended
    assert book.appended() == [10]


def test_a_file_that_comes_back_within_its_grace() -> None:
    """Its series goes on, and a later grace begins anew."""
    book = Book(grace_s=60)
    book.look("/a", seen(10))
    book.observe("/a", None)
    for now_s in (0, 1, 2):
        book.expire(now_s, is_scrape=True)
    book.look("/a", seen(20, 2))
    book.expire(1000, is_scrape=True)
    assert book.appended("/a") == [30, 30]
    book.observe("/a", None)
    book.observe("/a", None)
    book.expire(1001, is_scrape=True)
    book.expire(1060, is_scrape=True)
    assert "/a" in book.facts.paths


def test_another_name_of_a_file_has_its_grace_too() -> None:
    """Though it has counted nothing; and the name that was there first stays."""
    book = Book(grace_s=60)
    book.look("/a", seen(10))
    book.look("/b", seen(10))
    book.observe("/b", None)
    book.expire(0)
    book.expire(299)
    assert [*book.facts.paths] == ["/a", "/b"]
    book.expire(300)
    assert [*book.facts.paths] == ["/a"]


def test_a_path_that_was_never_there() -> None:
    """It was declared because it was seen; when the first look misses it nothing remains."""
    book = Book(PODS)
    book.look("/a", None)
    assert book.facts.paths == {}
    assert book.aggregates == {}
    assert book.publication.rows == {}


def test_a_file_that_comes_and_goes_between_two_updates() -> None:
    """It has a row with what it has grown by for its grace, as any that has gone, if there is a place for it."""
    book = Book(LogGroup("g", (), max_series=1))
    for number, path in enumerate(("/a", "/b")):
        book.look(path, seen(10, number))
        book.observe(path, None)
    assert published(book) == "/a"
    assert book.publication.files_without_series(0) == 0
    assert [row.path.appended_bytes for row in book.publication.rows.values()] == [10, 10]
    book.end_of_grace()
    assert book.publication.rows == {}


def test_aggregates_end_with_their_last_row_and_groups_never() -> None:
    """What they counted stays in the group's totals; the same labels later are another aggregate."""
    book = Book(LogGroup("pods", (), path_regex=POD, aggregate_by=("pod",), per_file=False))
    for number, path in enumerate(("/x/0", "/x/1", "/y/2")):
        book.look(path, seen(10, number))
    x, y = book.aggregates[0, ("x",)], book.aggregates[0, ("y",)]
    assert (x.files, x.size_bytes, x.appended_bytes) == (2, 20, 20)
    assert (y.files, y.size_bytes, y.appended_bytes) == (1, 10, 10)
    assert not any(row.is_published for row in book.publication.rows.values())
    book.observe("/x/0", None)
    book.observe("/y/2", None)
    assert [*book.aggregates.values()] == [x, y]
    assert (x.files, x.size_bytes, x.appended_bytes) == (1, 10, 20)
    book.end_of_grace()
    assert list(book.aggregates) == [(0, ("x",))]
    assert y.has_ended
    assert not x.has_ended
    assert (book.groups[0].files, book.groups[0].appended_bytes) == (1, 30)
    assert not book.groups[0].has_ended
    book.look("/y/3", seen(5, 3))
    assert book.aggregates[0, ("y",)].appended_bytes == 5


def test_what_has_no_row_counts_for_its_group_only() -> None:
    """Such as what arrives in a rotated file when the path that it had first has ended."""
    book = Book(PODS)
    book.look("/x", seen(10))
    book.observe("/rotated", seen(10))
    book.observe("/x", None)
    book.end_of_grace()
    book.look("/x", None)
    book.look("/x/other", seen(1, 2))
    book.observe("/rotated", seen(17))
    assert book.appended() == [18]
    assert book.aggregates[0, ("x",)].appended_bytes == 1


def published(book: Book) -> str:
    """The paths that have samples of their own."""
    book.publication.update()
    return " ".join(sorted(row.path.name for row in book.publication.rows.values() if row.is_published))


def test_max_series() -> None:
    """Files beyond it have no series of their own and are counted; a place that becomes free goes to one of them."""
    book = Book(LogGroup("g", (), max_series=2))
    for number in range(5):
        book.look(f"/{number}", seen(10, number))

    def without() -> int:
        book.publication.update()
        return book.publication.files_without_series(0)

    totals = book.groups[0]
    assert published(book) == "/0 /1"
    assert (totals.files, without(), totals.appended_bytes) == (5, 3, 50)
    book.observe("/2", None)
    assert without() == 2
    book.observe("/0", None)
    assert published(book) == "/0 /1"
    assert without() == 2
    book.publication.take()
    book.end_of_grace()
    assert published(book) == "/1 /3"
    assert {row.path.name for row in book.publication.take().rows} == {"/0", "/2", "/3"}  # the heir too
    assert without() == 1
    book.look("/2", seen(10, 2))
    assert without() == 2


def test_max_series_of_aggregates() -> None:
    """It bounds them too; where files have no series, those of the other aggregates are counted as without."""
    book = Book(LogGroup("pods", (), path_regex=POD, aggregate_by=("pod",), per_file=False, max_series=1))
    for number, path in enumerate(("/x/0", "/y/1", "/y/2", "/z/3")):
        book.look(path, seen(10, number))

    def shown() -> list[str]:
        return [values[0] for (_, values), totals in book.aggregates.items() if totals.is_published]

    assert shown() == ["x"]
    assert book.publication.files_without_series(0) == 3
    book.publication.take()
    book.observe("/x/0", None)
    book.end_of_grace()
    assert shown() == ["y"]
    assert book.aggregates[0, ("y",)] in book.publication.take().totals
    assert book.publication.files_without_series(0) == 1


def test_files_whose_path_the_expression_does_not_match() -> None:
    """They are counted while they are there, and have labels without a value."""
    book = Book(PODS)
    book.look("/1", seen(1))
    assert book.groups[0].unlabelled == 1
    assert book.row("/1").values == ("pods", "/1", "")
    assert [*book.aggregates] == [(0, ("",))]
    book.observe("/1", None)
    assert book.groups[0].unlabelled == 0


def test_nothing_changes_for_a_name_that_is_not_declared_or_not_ours() -> None:
    """Neither what is followed nor what only another configuration matches has a row."""
    book = Book()
    book.look("/a", seen(1))
    book.observe("/rotated", seen(1))
    book.facts.declare("/theirs", 7, (5,), since_ns=0, is_new=True)
    book.observe("/theirs", seen(5, 9))
    assert [path.name for path in book.publication.rows] == []
    assert book.groups[0].files == 1
    assert [path.name for path in book.publication.rows] == ["/a"]
    book.observe("/theirs", None)
    book.end_of_grace()  # nobody else would end it
    assert [*book.facts.paths] == ["/a"]
    assert book.appended() == [1]


def test_changes_are_given_once() -> None:
    """At first everything; then what has changed, be it only that a file is hidden."""
    book = Book(PODS)
    book.look("/x", seen(1, 1))
    book.look("/y", seen(1, 2))

    def taken() -> tuple[set[str], set[str]]:
        book.publication.update()
        changed = book.publication.take()
        return {row.path.name for row in changed.rows}, {" ".join(totals.values) for totals in changed.totals}

    assert taken() == ({"/x", "/y"}, {"", "x", "y"})
    book.look("/x", seen(1, 1))
    assert taken() == (set(), set())
    book.look("/y", seen(2, 2))
    assert taken() == ({"/y"}, {"", "y"})
    book.facts.hide(["/x"])
    assert taken() == ({"/x"}, {"", "x"})
    book.observe("/y", None)
    assert taken() == ({"/y"}, {"", "y"})
    book.end_of_grace()
    assert taken() == ({"/y"}, {"", "y"})
    book.publication.restore_totals(0, ("x",), Counters(1, 2, 3, 4))
    assert taken() == (set(), {"x"})


def test_newest() -> None:
    """The newest file is known at once when a newer one appears, and when asked for after it has gone."""
    book = Book()

    def newest() -> str:
        totals = book.groups[0]
        book.publication.find_newest()
        assert totals.newest_is_known
        found = totals.newest
        assert found is None or (found.path.stats and found.path.stats.mtime_ns == totals.newest_mtime_ns)
        return found.path.name if found else ""

    assert newest() == ""
    book.look("/a", seen(1, 1, mtime_ns=50))
    book.look("/b", seen(1, 2, mtime_ns=40))
    assert book.groups[0].newest_is_known
    assert newest() == "/a"
    book.look("/b", seen(2, 2, mtime_ns=60))
    assert book.groups[0].newest_is_known
    assert newest() == "/b"
    book.look("/b", seen(2, 2, mtime_ns=30))  # touch -d
    assert newest() == "/a"
    book.observe("/a", None)
    assert newest() == "/b"
    book.observe("/b", None)
    assert newest() == ""


# -- one publication after another -------------------------------------------------------------------------------------


def test_a_byte_stays_in_the_totals_in_which_it_was_shown() -> None:
    """After a reload the counters go on by the name of the group and the labels, whichever files match by now."""
    book = Book(PODS, LogGroup("other", ()))
    book.look("/x", seen(10, 1))
    book.look("/y", seen(20, 2))
    book.look("/z", seen(30, 3), 1)
    book.look("/gone", seen(5, 4))
    book.observe("/gone", None)
    book.end_of_grace()
    by_site = LogGroup("pods", (), labels={"site": "s"}, path_regex=POD, aggregate_by=("site", "pod"))
    same = LogGroup("other", (), path_regex=POD, aggregate_by=("pod",))
    after = follow(book, same, by_site, matched={"/x": 1, "/y": 0})
    assert [(totals.appended_bytes, totals.size_bytes, totals.files) for totals in after.groups] == [
        (30, 20, 1),
        (35, 10, 1),
    ]
    assert {values: totals.appended_bytes for (_, values), totals in after.aggregates.items()} == {
        ("y",): 0,
        ("s", "x"): 10,
    }
    book.observe("/y", seen(21, 2))
    book.observe("/x", seen(12, 1))
    after.update()
    assert [totals.appended_bytes for totals in after.groups] == [31, 37]
    assert {values: totals.appended_bytes for (_, values), totals in after.aggregates.items()} == {
        ("y",): 1,
        ("s", "x"): 12,
    }
    assert [book.of(path).appended_bytes for path in ("/x", "/y")] == [12, 21]


def test_static_labels_change() -> None:
    """Groups and aggregates have the new ones, and their counters go on."""
    book = Book(LogGroup("pods", (), labels={"team": "a"}, path_regex=POD, aggregate_by=("pod", "team")))
    book.look("/x", seen(10))
    after = follow(book, LogGroup("pods", (), labels={"team": "b"}, path_regex=POD, aggregate_by=("pod", "team")))
    assert after.group_labels == ({"group": "pods", "team": "b"},)
    assert {values: totals.appended_bytes for (_, values), totals in after.aggregates.items()} == {("x", "b"): 10}
    assert after.groups[0].appended_bytes == 10


def test_an_empty_label_is_none() -> None:
    """To Prometheus these are the same labels, so the counters go on."""
    book = Book(PODS)
    book.look("/x", seen(10))
    zone = re.compile("^/(?P<pod>[a-z]+)(?P<zone>1?)")
    after = follow(book, LogGroup("pods", (), path_regex=zone, aggregate_by=("zone", "pod")))
    assert after.aggregates[0, ("", "x")].appended_bytes == 10


def test_a_file_that_only_the_new_configuration_matches() -> None:
    """It counts in the publication that shows it, from the moment when it was declared, and in no other."""
    for is_applied_early in (False, True):
        book = Book()
        book.look("/a", seen(10, 1))
        after = follow(book, LogGroup("g", ()), is_over=False)
        for name in ("/b", "/c"):
            book.facts.declare(name, 0, (10,), since_ns=NEW, is_new=True)
        book.observe("/b", seen(5, 2))
        book.observe("/c", seen(7, 3))
        book.observe("/rotated", seen(7, 3))
        assert book.appended() == [10]
        if is_applied_early:
            after.update()
        book.observe("/c", None)
        book.facts.end(book.of("/c"))
        book.observe("/rotated", seen(8, 3))
        assert book.appended() == [10]
        after.take_over(lambda _: ())
        book.publication = after
        assert book.appended() == [10 + 5 + 8]
        assert (after.groups[0].files, after.groups[0].size_bytes) == (2, 15)


def test_two_groups_that_become_one() -> None:
    """What each has counted is kept, and a file that had a name in both is one file."""
    book = Book(*TWO)
    book.look("/a", seen(10))
    book.look("/p", seen(10), 1)
    after = follow(book, LogGroup("g", ()), matched={"/a": 0, "/p": 0})
    assert (after.groups[0].appended_bytes, after.groups[0].size_bytes, after.groups[0].files) == (10, 10, 2)
    book.observe("/p", seen(15))
    assert (book.groups[0].appended_bytes, book.groups[0].size_bytes) == (15, 15)
    book.observe("/a", None)
    book.observe("/p", None)
    assert (book.groups[0].size_bytes, book.groups[0].files) == (0, 0)


def test_all_that_was_carried_over_is_given_as_changed() -> None:
    """Also where what was there before has been taken already, to be made ready."""
    book = Book(PODS)
    book.look("/x", seen(10))
    after = follow(book, PODS, is_over=False)
    after.update()
    assert {row.path.name for row in after.take().rows} == {"/x"}
    after.take_over(lambda _: ())
    assert after.take().totals == {*after.totals()}


def test_a_publication_that_was_given_up_gets_nothing() -> None:
    """The one before goes on, and nothing is kept for the other."""
    book = Book()
    book.look("/a", seen(10))
    after = follow(book, LogGroup("g", ()), is_over=False)
    after.update()
    after.close()
    book.look("/a", seen(11))
    after.update()
    assert (book.appended(), after.groups[0].size_bytes) == ([11], 10)


@pytest.mark.parametrize("at_once", [1, 1000])
def test_places_are_carried_over(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """Who had one of max_series keeps it, and who waited waits in the same order, whatever the order of the files."""
    monkeypatch.setattr(publication, "AT_ONCE", at_once)
    few = LogGroup("g", (), max_series=2)
    book = Book(few)
    for name in "abcdef":
        book.declare(f"/{name}")
    for number, name in enumerate("fedcb"):
        book.observe(f"/{name}", seen(1, number))
        book.publication.update()
    book.observe("/f", None)
    assert published(book) == "/e /f"
    after = follow(book, few, is_over=False)
    book.observe("/a", seen(1, 9))
    after.update()
    after.take()
    after.take_over(lambda _: ())
    assert not after.take().rows  # it had given the places to the same ones
    book.publication = after
    assert published(book) == "/e /f"
    for going, staying in (("/f", "/d /e"), ("/e", "/c /d"), ("/d", "/b /c"), ("/c", "/a /b")):
        book.facts.end(book.of(going))
        assert published(book) == staying


@pytest.mark.parametrize("at_once", [1, 1000])
def test_places_of_aggregates_are_carried_over(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """As those of files are."""
    monkeypatch.setattr(publication, "AT_ONCE", at_once)
    few = LogGroup("pods", (), path_regex=POD, aggregate_by=("pod",), max_series=2)
    book = Book(few)
    for number, name in enumerate(("/c/0", "/d/0", "/b/0", "/a/0", "/b/1", "/d/1", "/c/1")):
        book.look(name, seen(1, number))
    book.publication.update()
    for name in ("/c/0", "/d/0", "/b/0"):
        book.facts.end(book.of(name))

    def shown() -> str:
        return " ".join(sorted(values[0] for (_, values), totals in book.aggregates.items() if totals.is_published))

    assert shown() == "c d"
    after = follow(book, few, is_over=False)
    after.update()
    after.take()
    after.take_over(lambda _: ())
    book.publication = after
    assert shown() == "c d"
    book.facts.end(book.of("/d/1"))
    assert shown() == "b c"
    book.facts.end(book.of("/c/1"))
    assert shown() == "a b"


def test_a_place_that_was_given_to_another_one() -> None:
    """What the publication before has decided holds, and both are among what has changed."""
    few = LogGroup("g", (), max_series=1)
    book = Book(few)
    for number, path in enumerate(("/y", "/x")):
        book.look(path, seen(1, number))
    book.facts.declare("/z", 0, (0, 10), since_ns=NEW, is_new=True)
    after = follow(book, few, is_over=False)
    after.update()
    book.observe("/x", None)
    book.facts.end(book.of("/y"))
    assert published(book) == ""
    book.observe("/z", seen(1, 3))
    book.observe("/x", seen(1, 1))
    assert published(book) == "/z"
    after.update()
    assert [row.path.name for row in after.rows.values() if row.is_published] == ["/x"]  # which has waited for long
    after.take()
    after.take_over(lambda _: ())
    book.publication = after
    assert published(book) == "/z"
    assert {row.path.name for row in after.take().rows} == {"/x", "/z"}
    assert after.files_without_series(0) == 1


def test_fewer_places() -> None:
    """Those that have to give theirs back are among what has changed."""
    book = Book()
    for number in range(4):
        book.look(f"/{number}", seen(1, number))
    after = follow(book, LogGroup("g", (), max_series=1), is_over=False)
    after.update()
    after.take()
    after.take_over(lambda _: ())
    assert sum(row.is_published for row in after.rows.values()) == 1
    assert not after.take().rows  # it had given only one
    assert after.files_without_series(0) == 3


@pytest.mark.parametrize(
    ("bound", "expected"),
    [(None, "/a /gone /w /x /y /new"), (1, "/a"), (2, "/a /gone"), (4, "/a /gone /w /x"), (5, "/a /gone /w /x /y")],
)
def test_another_number_of_places(bound: int | None, expected: str) -> None:
    """First come files that are there and had one, then those that have gone, then what waited, then what is new."""
    book = Book(LogGroup("g", (), max_series=2))
    for number, path in enumerate(("/gone", "/a", "/not-shown", "/w", "/x", "/y")):
        book.look(path, seen(1, number))
    assert published(book) == "/a /gone"
    for path in ("/gone", "/not-shown"):
        book.observe(path, None)
    book.publication.update()
    book.facts.declare("/new", 0, (10,), since_ns=NEW, is_new=True)
    book.observe("/new", seen(1, 9))
    after = follow(book, LogGroup("g", (), max_series=bound))
    assert published(book) == " ".join(sorted(expected.split()))
    assert after.files_without_series(0) == len({"/a", "/w", "/x", "/y", "/new"} - {*expected.split()})


def test_graces_are_carried_over() -> None:
    """A file that has gone ends when it would have ended."""
    book = Book(grace_s=60)
    for number, name in enumerate(("/a", "/b")):
        book.look(name, seen(10, number))
    assert published(book) == "/a /b"
    book.observe("/a", None)
    for now_s in (0, 10, 20):
        book.expire(now_s, is_scrape=True)
    after = follow(book, LogGroup("g", ()))
    assert published(book) == "/a /b"
    after.expire(59, is_scrape=True)
    assert [*book.facts.paths] == ["/a", "/b"]
    after.expire(60, is_scrape=True)
    assert [*book.facts.paths] == ["/b"]
    assert book.groups[0].appended_bytes == 20


def test_what_only_the_one_before_shows_is_dropped() -> None:
    """At once, be it there or in its grace; it stays in the sums of a group of its name, and counts no further."""
    book = Book(*TWO)
    book.look("/a", seen(10, 1))
    book.look("/p", seen(10, 2), 1)
    book.look("/both", seen(5, 3))
    book.look("/gone", seen(5, 4))
    book.observe("/gone", None)
    book.publication.update()
    after = follow(book, LogGroup("g", ()), matched={"/both": 0})
    assert [*book.facts.paths] == ["/both"]
    assert [(totals.files, totals.size_bytes, totals.appended_bytes) for totals in after.groups] == [(1, 5, 20)]
    book.observe("/a", seen(13, 1))
    book.observe("/a", None)
    assert [(totals.files, totals.size_bytes, totals.appended_bytes) for totals in book.groups] == [(1, 5, 20)]


def test_what_only_one_that_was_given_up_shows_is_dropped() -> None:
    """Nothing is known of its files, should the one that stays come to match them."""
    book = Book()
    book.look("/a", seen(10, 1))
    after = follow(book, LogGroup("g", ()), is_over=False)
    book.facts.declare("/b", 0, (10,), since_ns=NEW, is_new=True)
    book.observe("/b", seen(5, 2))
    after.close()
    assert [*book.facts.paths] == ["/a"]
    book.observe("/b", seen(6, 2))
    assert book.appended() == [10]
    book.look("/a.1", seen(8, 2))
    assert book.appended("/a.1") == [18, 8]


def test_a_reload_while_others_book(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new publication catches up in steps, and what is booked between them counts once."""
    monkeypatch.setattr(publication, "AT_ONCE", 2)
    book = Book()
    for number in range(10):
        book.look(f"/{number}", seen(1, number, birth_ns=OLD))
    sizes = dict.fromkeys(range(10), 1)

    def grow(_seconds: float) -> None:
        for number in range(2):
            sizes[number] += 1
            book.observe(f"/{number}", seen(sizes[number], number, birth_ns=OLD))

    monkeypatch.setattr(publication.time, "sleep", grow)
    after = follow(book, LogGroup("g", ()))
    assert sum(sizes.values()) > 10
    assert (after.groups[0].size_bytes, after.groups[0].appended_bytes) == (
        sum(sizes.values()),
        sum(sizes.values()) - 10,
    )
    assert after.groups[0].files == 10
