"""The ledger and the transitions: pure bookkeeping."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exporter.ledger.growth import Counters, GroupRules, Labels, Ledger, Series, Totals
from exporter.ops.transitions import Transitions
from fstat_cache import FileStats
from tests.exporter.ledger.toy import Disk, File

START_NS = 1000
OLD = START_NS - 1  # a birth before the ledger began
NEW = START_NS

LABELS = Labels(0, ())


def seen(size: int, inode: int = 1, *, birth_ns: int = NEW, mtime_ns: int = 0, device: int = 1) -> FileStats:
    """What a look saw; of the same size at the same time unless told otherwise."""
    return FileStats(size, mtime_ns or size, inode, device, birth_ns)


class Book(Ledger):
    """A ledger with one group, unless told otherwise, that is asked and told in few words."""

    def __init__(
        self,
        *groups: GroupRules,
        grace_s: float = 60,
        data_begins: Callable[[str, int], int] = lambda _path, offset: offset,
    ) -> None:
        super().__init__(groups or (GroupRules(),), grace_s=grace_s)
        self._data_begins = data_begins

    def observe(self, path: str, stats: FileStats | None, data_begins: int = 0) -> None:
        """Book a look, as the tracker does: where there may be a hole it is asked where the data begins."""
        size = None if stats is None else self.outgrows_cut(stats)
        super().observe(path, stats, data_begins if size is None else self._data_begins(path, size))

    def look(self, path: str, stats: FileStats | None, labels: Labels = LABELS, *, is_new: bool = True) -> None:
        """Have a path declared, and book a look at it."""
        self.declare(path, labels, since_ns=START_NS, is_new=is_new)
        self.observe(path, stats)

    def of(self, path: str) -> Series:
        """The series of a path."""
        return next(series for series in self.series() if series.path == path)

    def appended(self, *paths: str) -> list[int]:
        """The bytes appended to the group and to these paths."""
        return [self.groups[0].appended_bytes, *(self.of(path).appended_bytes for path in paths)]


# -- growth ------------------------------------------------------------------------------------------------------------


def test_what_was_there_before_does_not_count() -> None:
    """A file that is older than the ledger counts from its size at first sight, one born later from its first byte."""
    book = Book()
    book.look("/old", seen(100, 1, birth_ns=OLD))
    book.look("/new", seen(100, 2, birth_ns=NEW))
    assert book.appended("/old", "/new") == [100, 0, 100]
    book.look("/old", seen(130, 1, birth_ns=OLD))
    book.look("/new", seen(101, 2, birth_ns=NEW))
    assert book.appended("/old", "/new") == [131, 30, 101]


@pytest.mark.parametrize(("is_new", "first"), [(True, 100), (False, 0)])
def test_a_filesystem_that_does_not_tell_the_birth(is_new: bool, first: int) -> None:
    """Whoever declares the path says how old its first file is; one that takes its place is new."""
    book = Book()
    book.look("/a", seen(100, 1, birth_ns=0), is_new=is_new)
    assert book.appended("/a") == [first, first]
    book.observe("/a", seen(7, 2, birth_ns=0))
    assert book.appended("/a") == [first + 7, first + 7]


def test_changes() -> None:
    """The first sight is no change; each other size, time or inode is one, however much of it differs."""
    book = Book()
    changes = []
    for stats in (
        seen(1),
        seen(1),
        seen(2),
        seen(2, mtime_ns=9),
        seen(2, 5, mtime_ns=9),
        seen(2, 5, mtime_ns=9),
        seen(3),  # the first inode again, and grown meanwhile
    ):
        book.look("/a", stats)
        changes.append(book.of("/a").changes)
    assert changes == [0, 0, 1, 2, 3, 3, 4]
    assert book.groups[0].changes == 4


def test_copytruncate() -> None:
    """What is there after the file was emptied counts again; the copy is nothing of ours."""
    book = Book()
    for size in (10, 0, 5, 8, 3):
        book.look("/a", seen(size))
        book.observe("/a.1", seen(10, 2))
    assert book.appended("/a") == [21, 21]
    assert book.of("/a").truncations == book.groups[0].truncations == 2
    assert book.of("/a").rotations == 0


def test_a_copy_that_matches_counts() -> None:
    """It is a file as any other."""
    book = Book()
    book.look("/a", seen(10))
    book.look("/a.1", seen(10, 2))
    assert book.appended("/a", "/a.1") == [20, 10, 10]


@pytest.mark.parametrize("old_name_matches", [True, False])
@pytest.mark.parametrize("old_name_first", [True, False])
def test_create_rotation(old_name_matches: bool, old_name_first: bool) -> None:
    """A writer that goes on in the renamed file, and then in the new one: all of it counts under the first name."""
    book = Book()

    def look(path: str, stats: FileStats) -> None:
        if path == "/a" or old_name_matches:
            book.look(path, stats)
        else:
            book.observe(path, stats)

    look("/a", seen(10))
    looks = [("/a.1", seen(13, 1)), ("/a", seen(5, 2))]
    for path, stats in looks if old_name_first else reversed(looks):
        look(path, stats)
    assert book.appended("/a") == [18, 18]
    look("/a.1", seen(20, 1))
    look("/a", seen(6, 2))
    assert book.appended("/a") == [26, 26]
    assert book.of("/a").rotations == book.groups[0].rotations == 1
    assert book.of("/a").truncations == 0
    assert book.groups[0].size_bytes == 6 + (20 if old_name_matches else 0)
    if old_name_matches:
        assert not book.of("/a.1").is_counting
        assert book.appended("/a.1") == [26, 0]


@pytest.mark.parametrize("pattern_matches_all", [True, False])
@pytest.mark.parametrize("order", [("/a", "/a.1", "/a.2"), ("/a.2", "/a.1", "/a")])
def test_numbered_shifts(pattern_matches_all: bool, order: tuple[str, ...]) -> None:
    """However often the names shift, each file goes on paying into the name it was born with."""
    book = Book()
    names: dict[str, int] = {}
    sizes: dict[int, int] = {}
    total = 0
    for turn in range(5):
        names = {"/a": turn, **{f"/a.{i + 1}": inode for i, inode in enumerate(names.values()) if i < 2}}
        sizes[turn] = 0
        for _ in range(2):
            for inode in names.values():
                sizes[inode] += 10 + inode
                total += 10 + inode
            for path in order:
                if path in names:
                    stats = seen(sizes[names[path]], 1 + names[path])
                    if path == "/a" or pattern_matches_all:
                        book.look(path, stats)
                    else:
                        book.observe(path, stats)
    assert book.appended("/a") == [total, total]
    assert book.groups[0].rotations == 4


def test_kubelet_rotation() -> None:
    """The file is renamed, compressed under another name, and deleted; only what was written counts."""
    book = Book()
    book.look("/0.log", seen(100, 1))
    book.look("/0.log", None)
    book.observe("/0.log.20260102-150405", seen(120, 1))
    book.look("/0.log", seen(3, 2))
    book.observe("/0.log.20260102-150405.gz", seen(9, 3))
    book.observe("/0.log.20260102-150405", None)
    assert book.appended("/0.log") == [123, 123]
    assert book.groups[0].size_bytes == 3


@pytest.mark.parametrize("deletion_is_seen", [True, False])
@pytest.mark.parametrize("inode", [1, 2])
def test_deleted_and_made_again(deletion_is_seen: bool, inode: int) -> None:
    """The new file counts from its first byte, also when it has the inode number of the old one."""
    book = Book()
    book.look("/a", seen(10, 1, birth_ns=NEW))
    if deletion_is_seen:
        book.observe("/a", None)
        assert not book.of("/a").is_present
        assert book.groups[0].files == book.groups[0].size_bytes == 0
    book.look("/a", seen(30, inode, birth_ns=NEW + 1))
    assert book.appended("/a") == [40, 40]
    assert book.of("/a").rotations == 1
    assert book.of("/a").truncations == 0
    assert book.groups[0].size_bytes == 30


@pytest.mark.parametrize(
    ("first_byte", "size", "counted"),
    [(0, 150, 150), (100, 150, 50), (120, 150, 30), (100, 100, 100), (100, 60, 60)],
)
def test_a_hole_after_truncation_is_not_growth(first_byte: int, size: int, counted: int) -> None:
    """A writer that went on at its old offset has written only what is behind it."""
    asked = []

    def data_begins(path: str, offset: int) -> int:
        asked.append((path, offset))
        return first_byte

    book = Book(data_begins=data_begins)
    book.look("/a", seen(100, birth_ns=OLD))
    book.look("/a", seen(0, birth_ns=OLD))
    inode = book.at("/a")
    assert inode is not None
    assert book.emptied_from(inode) == 100
    assert not asked
    book.look("/a", seen(size, birth_ns=OLD))
    assert book.emptied_from(inode) == (None if size > 100 else 100)
    assert asked == [("/a", 0)] * (size > 100)
    assert book.appended("/a") == [counted, counted]


def test_a_hole_behind_what_another_writer_has_appended() -> None:
    """The first writer goes on at its old offset, though the file is not empty any more."""
    book = Book(data_begins=lambda _, offset: max(offset, 100))
    book.look("/a", seen(100, birth_ns=OLD))
    book.look("/a", seen(1, birth_ns=OLD))
    book.look("/a", seen(3, birth_ns=OLD))
    book.look("/a", seen(150, birth_ns=OLD))
    book.look("/a", seen(160, birth_ns=OLD))
    assert book.appended("/a") == [1 + 2 + 50 + 10] * 2


def test_moved_away_and_back() -> None:
    """A file that comes back is known, and what it grew by meanwhile counts, once."""
    book = Book()
    book.look("/a", seen(10))
    book.observe("/a", None)
    assert [inode.last_name for inode in book.lost()] == ["/a"]
    book.look("/elsewhere", seen(15))
    assert book.lost() == []
    assert book.appended("/a", "/elsewhere") == [15, 15, 0]
    book.observe("/elsewhere", None)
    book.look("/a", seen(17))
    assert book.appended("/a", "/elsewhere") == [17, 17, 0]
    assert book.of("/a").rotations == 0
    book.look("/link", seen(17))
    book.observe("/link", None)
    book.observe("/a", None)
    assert [inode.last_name for inode in book.lost()] == ["/a"]


def test_one_name_for_two_inodes_in_turn() -> None:
    """Each takes the place of the other, and neither counts twice."""
    book = Book()
    for size in (10, 20, 30):
        book.look("/link", seen(size, 1))
        book.look("/link", seen(size, 2))
    assert book.appended("/link") == [60, 60]
    assert book.of("/link").rotations == 5
    assert book.of("/link").changes == 5
    assert book.groups[0].size_bytes == 30


def test_two_files_that_swap_names() -> None:
    """Each goes on paying into its first name; under each another inode took the place."""
    book = Book()
    book.look("/a", seen(1, 1))
    book.look("/b", seen(1, 2))
    book.look("/a", seen(5, 2))
    book.look("/b", seen(9, 1))
    assert book.appended("/a", "/b") == [14, 9, 5]
    assert [book.of(path).rotations for path in ("/a", "/b")] == [1, 1]
    assert book.groups[0].size_bytes == 14


def test_hard_links() -> None:
    """An inode counts in the series of its first name; the others are gauges. Its size is in the sum once."""
    book = Book()
    for size in (10, 25):
        for path in ("/a", "/b", "/c"):
            book.look(path, seen(size))
    assert book.appended("/a", "/b", "/c") == [25, 25, 0, 0]
    assert [book.of(path).is_counting for path in ("/a", "/b", "/c")] == [True, False, False]
    assert book.of("/b").stats == seen(25)
    assert (book.groups[0].files, book.groups[0].size_bytes) == (3, 25)
    book.observe("/a", None)
    assert (book.groups[0].files, book.groups[0].size_bytes) == (2, 25)
    book.look("/b", seen(30))
    assert book.appended("/a", "/b") == [30, 30, 0]
    book.expire(0, is_scrape=False)
    book.expire(1000, is_scrape=False)
    assert book.of("/b").is_counting
    assert not book.of("/c").is_counting
    book.look("/c", seen(31))
    assert book.appended("/b", "/c") == [31, 1, 0]
    book.observe("/b", None)
    book.observe("/c", None)
    assert (book.groups[0].files, book.groups[0].size_bytes) == (0, 0)


def test_names_in_several_groups() -> None:
    """The size of an inode is in one group's sum, and stays there as long as it has a name there that holds it."""
    book = Book(GroupRules(), GroupRules())
    other = Labels(1, ())

    def sizes() -> list[int]:
        return [totals.size_bytes for totals in book.groups]

    book.look("/z", seen(10))
    book.look("/a", seen(10), other)
    book.look("/b", seen(10))
    assert sizes() == [10, 0]
    book.observe("/b", None)
    assert sizes() == [10, 0]
    book.observe("/z", None)
    assert sizes() == [0, 10]
    journal = book.journal()
    book.take(journal)
    book.look("/a", seen(15), other)
    assert sizes() == [0, 15]
    assert book.appended() == [15]
    assert book.take(journal).totals == {*book.groups}


def test_a_file_without_a_series_that_comes_to_another_group() -> None:
    """What it grew by before is the old group's, and is in the journal."""
    book = Book(GroupRules(), GroupRules())
    book.look("/a", seen(10))
    book.observe("/rotated", seen(10))
    book.observe("/a", None)
    book.expire(0, is_scrape=False)
    book.expire(1000, is_scrape=False)
    journal = book.journal()
    book.take(journal)
    book.observe("/rotated", seen(12))
    book.look("/b", seen(12), Labels(1, ()))
    assert book.take(journal).totals == {*book.groups}
    book.look("/b", seen(13), Labels(1, ()))
    assert [totals.appended_bytes for totals in book.groups] == [12, 1]


def test_a_file_whose_series_has_ended_goes_on_under_a_name_it_has() -> None:
    """Its growth is published as soon as there is a series for it, and is in the totals in any case."""
    book = Book()
    book.look("/a", seen(10))
    book.observe("/a.1", seen(11))
    book.observe("/a", None)
    book.expire(0, is_scrape=False)
    book.expire(1000, is_scrape=False)
    assert "/a" not in book
    book.observe("/a.1", seen(15))
    assert book.appended() == [15]
    book.look("/a", seen(3, 2))  # its first name has a series again
    book.observe("/a.1", seen(20))
    assert book.appended("/a") == [23, 8]
    book.look("/b", seen(30))
    assert book.appended("/a", "/b") == [33, 18, 0]


def test_a_followed_name_that_comes_to_be_declared() -> None:
    """The inode that it leads to is known already and counts where it did."""
    book = Book()
    book.look("/a", seen(10))
    book.observe("/a.1", seen(10))
    book.look("/a", seen(1, 2))
    book.look("/a.1", seen(12))
    assert book.appended("/a", "/a.1") == [13, 13, 0]
    assert book.groups[0].size_bytes == 13
    inode = book.at("/a.1")
    assert inode is not None
    assert inode.names == ("/a.1",)
    assert book.lost() == []


def test_a_file_that_was_renamed_before_it_was_looked_at() -> None:
    """It counts under the name that it is told to have had, where another one takes its place."""
    book = Book()
    book.look("/a", seen(10, 1))
    book.expect("/a.1", "/a")
    book.observe("/a.1", seen(5, 2))
    book.look("/a", seen(3, 3))
    assert book.appended("/a") == [18, 18]
    assert book.of("/a").rotations == 2
    book.observe("/a.1", seen(6, 2))
    assert book.appended("/a") == [19, 19]


def test_what_was_told_of_a_name_holds_for_one_look() -> None:
    """Whatever leads there later, such as a copy, is of no interest."""
    book = Book()
    book.look("/a", seen(10, 1))
    for stats in (seen(10, 1), None):
        book.expect("/a.1", "/a")
        book.observe("/a.1", stats)
        book.observe("/a.1", seen(10, 2))
    book.expect("/a.1", "/a")
    book.look("/a.1", seen(7, 3))
    book.observe("/b", seen(10, 4))
    assert book.appended("/a", "/a.1") == [17, 10, 7]


def test_a_name_that_was_lost_before_any_look_keeps_what_it_counts() -> None:
    """The series stays for its grace, as that of a deleted file does."""
    book = Book()
    book.declare("/a", LABELS, since_ns=START_NS, is_new=True)
    book.expect("/a.1", "/a")
    book.observe("/a.1", seen(5, 1))
    book.observe("/a", None)
    book.look("/a", seen(3, 2))
    assert book.appended("/a") == [8, 8]
    assert book.of("/a").rotations == 1


def test_lost_inodes_are_bounded_and_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest lost is forgotten. Should it come back it is unknown, but its bytes do not count again."""
    monkeypatch.setattr("exporter.ledger.growth.LOST_INODES", 2)
    book = Book()
    for inode in (1, 2, 3):
        book.look("/a", seen(10, inode, birth_ns=NEW + inode))
    book.look("/a", None)
    assert [inode.identity[1] for inode in book.lost()] == [2, 3]
    assert [inode.identity[1] for inode in book.inodes()] == [2, 3]
    book.look("/a", seen(12, 1, birth_ns=NEW + 1))
    assert book.appended() == [30]
    book.look("/a", seen(13, 1, birth_ns=NEW + 1))
    book.look("/b", seen(11, 3, birth_ns=NEW + 3))
    book.look("/c", seen(5, 4, birth_ns=NEW + 4))
    assert book.appended() == [37]
    emptied = book.at("/c")
    assert emptied is not None
    book.look("/c", seen(0, 4, birth_ns=NEW + 4))
    assert book.emptied_from(emptied) == 5
    for inode in range(5, 9):
        book.look("/c", seen(0, inode, birth_ns=NEW + inode))
    assert book.emptied_from(emptied) is None


# -- series, groups and aggregates -------------------------------------------------------------------------------------


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
    assert book.has_gone
    found = []
    for now_s, is_scrape in steps:
        book.expire(now_s, is_scrape=is_scrape)
        found.append("/a" not in book)
    assert found == ended
    assert not book.has_gone
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
    assert "/a" in book


def test_a_path_that_was_never_there() -> None:
    """It was declared because it was seen; when the first look misses it nothing remains."""
    book = Book()
    book.look("/a", None, Labels(0, (), ("x",)))
    assert len(book) == 0
    assert book.aggregates == {}
    assert not book.has_gone


def test_aggregates_end_with_their_last_series_and_groups_never() -> None:
    """What they counted stays in the group's totals; the same labels later are another aggregate."""
    book = Book(GroupRules(per_file=False))
    for number, pod in enumerate(("x", "x", "y")):
        book.look(f"/{number}", seen(10, number), Labels(0, (), (pod,)))
    x, y = book.aggregates[0, ("x",)], book.aggregates[0, ("y",)]
    assert (x.files, x.size_bytes, x.appended_bytes) == (2, 20, 20)
    assert (y.files, y.size_bytes, y.appended_bytes) == (1, 10, 10)
    assert not any(series.is_published for series in book.series())
    book.observe("/0", None)
    book.observe("/2", None)
    assert (x.files, x.size_bytes, x.appended_bytes) == (1, 10, 20)
    book.expire(0, is_scrape=False)
    book.expire(1000, is_scrape=False)
    assert list(book.aggregates) == [(0, ("x",))]
    assert y.has_ended
    assert not x.has_ended
    assert (book.groups[0].files, book.groups[0].appended_bytes) == (1, 30)
    assert not book.groups[0].has_ended
    book.look("/3", seen(5, 3), Labels(0, (), ("y",)))
    assert book.aggregates[0, ("y",)].appended_bytes == 5


def test_max_series() -> None:
    """Files beyond it have no series of their own and are told; a place that becomes free is taken by one of them."""
    book = Book(GroupRules(max_series=2))
    for number in range(5):
        book.look(f"/{number}", seen(10, number))

    def published() -> str:
        return " ".join(sorted(series.path for series in book.series() if series.is_published))

    totals = book.groups[0]
    assert published() == "/0 /1"
    assert (totals.files, totals.files_without_series, totals.appended_bytes) == (5, 3, 50)
    book.observe("/2", None)
    assert totals.files_without_series == 2
    book.observe("/0", None)
    assert published() == "/0 /1"
    assert totals.files_without_series == 2
    book.expire(0, is_scrape=False)
    book.expire(1000, is_scrape=False)
    assert published() == "/1 /3"
    assert totals.files_without_series == 1
    book.look("/2", seen(10, 2))
    assert totals.files_without_series == 2


def test_other_labels_begin_another_series() -> None:
    """It counts from then on; what was counted before stays with the old group."""
    book = Book(GroupRules(), GroupRules())
    book.look("/a", seen(10))
    old = book.of("/a")
    book.look("/a", seen(15), Labels(1, ()))
    new = book.of("/a")
    assert old.has_ended
    assert (old.appended_bytes, new.appended_bytes, new.is_counting) == (10, 5, True)
    assert [(totals.files, totals.size_bytes, totals.appended_bytes) for totals in book.groups] == [
        (0, 0, 10),
        (1, 15, 5),
    ]
    book.look("/a", seen(16), Labels(1, ()))
    assert book.of("/a") is new
    book.look("/a", seen(16), Labels(1, ("x",)))
    assert book.of("/a").is_counting  # from nothing on
    assert book.of("/a").appended_bytes == 0


def test_files_whose_path_the_expression_does_not_match() -> None:
    """They are told while they are there."""
    book = Book()
    book.look("/a", seen(1), Labels(0, (), is_unlabelled=True))
    assert book.groups[0].unlabelled == 1
    book.observe("/a", None)
    assert book.groups[0].unlabelled == 0


def test_newest() -> None:
    """The newest file is known at once when a newer one appears, and when asked for after it has gone."""
    book = Book()

    def newest() -> str:
        book.find_newest()
        assert book.groups[0].newest_is_known
        found = book.groups[0].newest
        assert found is None or (found.stats and found.stats.mtime_ns == book.groups[0].newest_mtime_ns)
        return found.path if found else ""

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


# -- journals and going on ---------------------------------------------------------------------------------------------


def test_journal_tells_what_has_changed() -> None:
    """At first everything, then only that, to each reader by itself."""
    book = Book()
    book.look("/a", seen(1, 1))
    book.look("/b", seen(1, 2))
    one, other = book.journal(), book.journal()
    taken = book.take(one)
    assert {series.path for series in taken.series} == {"/a", "/b"}
    assert len(taken.inodes) == 2
    assert taken.totals == {book.groups[0]}
    assert not book.take(one)
    book.look("/a", seen(1, 1))
    assert not book.take(one)
    book.look("/a", seen(2, 1))
    taken = book.take(one)
    assert [series.path for series in taken.series] == ["/a"]
    assert [inode.size for inode in taken.inodes] == [2]
    assert taken.totals == {book.groups[0]}
    assert not taken.is_urgent
    assert len(book.take(other).series) == 2
    one.merge(taken)
    assert book.take(one).series == taken.series
    book.look("/c", seen(2, 1))
    assert {series.path for series in book.take(one).series} == {"/a", "/c"}
    book.look("/c", seen(2, 1, mtime_ns=5))
    book.look("/a", seen(2, 1, mtime_ns=5))
    book.take(one)
    book.look("/c", seen(3, 1, mtime_ns=6))
    assert {series.path for series in book.take(one).series} == {"/a", "/c"}
    book.look("/a", seen(3, 1, mtime_ns=6))
    assert {series.path for series in book.take(one).series} == {"/a"}
    book.look("/a", seen(4, 1, mtime_ns=7))
    book.take(one)
    book.look("/c", seen(4, 1, mtime_ns=7))
    assert {series.path for series in book.take(one).series} == {"/c"}
    book.observe("/b", None)
    book.expire(0, is_scrape=False)
    book.expire(1000, is_scrape=False)
    (ended,) = book.take(one).series
    assert ended.path == "/b"
    assert ended.has_ended


def test_journal_is_urgent_where_the_disk_keeps_no_trace() -> None:
    """After a truncation, and after a name has gone."""
    book = Book()
    journal = book.journal()
    book.look("/a", seen(10))
    book.look("/a", seen(20))
    assert not journal.is_urgent
    book.look("/a", seen(5))
    assert book.take(journal).is_urgent
    assert not journal.is_urgent
    book.observe("/a", None)
    assert journal.is_urgent


def restored(book: Book, *inodes: int, path: str = "/a", device: int = 1, birth_ns: int = OLD) -> None:
    """Have the book go on where another one knew these inodes at a path, and each to be of 10 bytes."""
    book.restore_series(path, LABELS, Counters(1, 100, 2, 3), is_counting=True, since_ns=START_NS)
    book.restore_totals(0, (), Counters(4, 500, 6, 7))
    for number, inode in enumerate(inodes):
        book.restore_inode(
            (device, inode, birth_ns),
            10,
            10,
            home=path,
            group=0,
            last_name=path,
            emptied_from=None,
            is_latest=number == len(inodes) - 1,
        )


def test_going_on_counts_what_was_appended_meanwhile() -> None:
    """An inode that is known has grown; one that took its place counts if it was born since."""
    book = Book()
    restored(book, 1)
    assert not book.of("/a").is_published
    assert book.groups[0].files == 0
    book.look("/a", seen(16, 1, birth_ns=OLD))
    assert book.appended("/a") == [506, 106]
    assert book.of("/a").is_published
    assert (book.of("/a").changes, book.of("/a").rotations) == (2, 3)
    book = Book()
    restored(book, 1)
    book.look("/a", seen(7, 2, birth_ns=NEW))
    book.observe("/a.1", seen(12, 1, birth_ns=OLD))
    assert book.appended("/a") == [509, 109]
    assert book.of("/a").rotations == 4


@pytest.mark.parametrize("birth_ns", [OLD, 0])
def test_going_on_with_a_file_that_may_be_old(birth_ns: int) -> None:
    """An unknown file in a known place does not count what it had, unless it is known to have been born since."""
    book = Book()
    restored(book, 1)
    book.look("/a", seen(7, 2, birth_ns=birth_ns))
    assert book.appended("/a") == [500, 100]
    book.look("/a", seen(9, 3, birth_ns=0))
    assert book.appended("/a") == [509, 109]


def test_going_on_on_a_device_with_another_number() -> None:
    """The same number, birth and name is the same file; a snapshot of it elsewhere is not."""
    book = Book()
    journal = book.journal()
    restored(book, 1)
    book.take(journal)
    book.look("/snapshot", seen(15, 1, birth_ns=OLD, device=7))
    assert book.appended("/a", "/snapshot") == [500, 100, 0]
    book.look("/a", seen(15, 1, birth_ns=OLD, device=2))
    assert book.appended("/a") == [505, 105]
    assert book.of("/a").rotations == 3
    assert {inode.identity for inode in book.take(journal).inodes} == {(1, 1, OLD), (2, 1, OLD), (7, 1, OLD)}
    assert [inode.identity[0] for inode in book.inodes()] == [7, 2]
    book.look("/a", seen(15, 1, birth_ns=OLD, device=3))  # it was seen: this is another one
    assert book.appended("/a") == [505, 105]
    assert book.of("/a").rotations == 4


def test_a_device_that_kept_its_number_is_no_other_one() -> None:
    """A file that was found where it was is not taken for one with the same number and birth in its place."""
    book = Book()
    restored(book, 1)
    book.look("/a", seen(10, 1, birth_ns=OLD))
    book.end_restoring()
    book.look("/a", seen(15, 1, birth_ns=OLD, device=2))
    assert book.appended("/a") == [500, 100]
    assert book.of("/a").rotations == 4


def test_devices_get_other_numbers_at_a_start_only() -> None:
    """What turns up after everything was looked at is another file."""
    book = Book()
    restored(book, 1)
    book.end_restoring()
    book.look("/a", seen(15, 1, birth_ns=OLD, device=2))
    assert book.appended("/a") == [500, 100]


def test_a_file_that_was_empty_on_a_device_with_another_number() -> None:
    """Where its writer went on is known all the same."""
    book = Book(data_begins=lambda _, __: 100)
    book.restore_series("/a", LABELS, Counters(0, 0, 0, 0), is_counting=True, since_ns=START_NS)
    book.restore_inode((1, 1, OLD), 0, 1, "/a", 100, home="/a", group=0, is_latest=True)
    book.look("/a", seen(0, 1, birth_ns=OLD, mtime_ns=1, device=2))
    book.look("/a", seen(150, 1, birth_ns=OLD, device=2))
    assert book.appended("/a") == [50, 50]


def test_what_was_restored_is_remembered_until_all_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much it is: it is no more lost than what has not been looked at."""
    monkeypatch.setattr("exporter.ledger.growth.LOST_INODES", 2)
    book = Book()
    restored(book, 1, 2, 3, 4)
    book.look("/b", seen(1, 9))
    book.observe("/b", None)
    assert len(book.lost()) == 5
    book.look("/a", seen(11, 1, birth_ns=OLD))
    book.end_restoring()
    assert [inode.identity[1] for inode in book.lost()] == [4, 9]
    assert book.appended() == [502]


def test_a_restored_inode_whose_series_has_ended() -> None:
    """Its growth is in the totals, and in the series of a name that it is found to have."""
    book = Book()
    book.restore_totals(0, (), Counters(0, 500, 0, 0))
    book.restore_totals(0, ("gone",), Counters(0, 5, 0, 0))
    assert book.aggregates == {}
    book.restore_inode((1, 1, OLD), 10, 10, home="/a", group=0, last_name="/a.1", emptied_from=None, is_latest=False)
    book.observe("/a.1", seen(12, 1, birth_ns=OLD))
    assert book.appended() == [502]
    book.look("/b", seen(13, 1, birth_ns=OLD))
    assert book.appended("/b") == [503, 1]


def test_many_threads() -> None:
    """Looks from several threads at files of one group are all in its totals."""
    book = Book()

    def grow(inode: int) -> None:
        for size in range(1, 2001):
            book.look(f"/{inode}", seen(size, inode))

    threads = [threading.Thread(target=grow, args=(inode,)) for inode in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert book.appended(*(f"/{inode}" for inode in range(4))) == [8000, 2000, 2000, 2000, 2000]
    assert book.groups[0].changes == 4 * 1999


# -- whatever happens --------------------------------------------------------------------------------------------------

DECLARED = {
    "/a": Labels(0, ()),
    "/a.1": Labels(0, ()),
    "/p": Labels(1, (), ("x",)),
    "/p.1": Labels(1, (), ("x",)),
    "/q": Labels(1, (), ("y",)),
}
NAMES = (*DECLARED, "/a.2", "/q.1")

names = st.sampled_from(NAMES)


class AnythingHappens(RuleBasedStateMachine):
    """Files are written, moved and looked at in any order; the ledger says what can be known, and never more."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.book = Book(GroupRules(max_series=1), GroupRules())
        self.seen: dict[str, File] = {}
        self.all: dict[Series | Totals, Counters] = {}
        self.now_s = 0.0

    @rule(name=names)
    def create(self, name: str) -> None:
        self.before_a_file_goes(name)
        self.disk.create(name)

    @precondition(lambda self: self.writable())
    @rule(data=st.data(), size=st.integers(1, 50))
    def append(self, data: st.DataObject, size: int) -> None:
        self.disk.append(data.draw(st.sampled_from(self.writable())), size)

    def writable(self) -> list[File]:
        return self.disk.files  # by those who have it open, those without a name included

    @precondition(lambda self: self.disk.names)
    @rule(data=st.data())
    def empty(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.disk.names)))
        self.before_a_file_goes(name)
        self.disk.empty(self.disk.names[name])
        self.after_a_file_was_emptied(name)

    @precondition(lambda self: self.disk.names)
    @rule(data=st.data(), new=names, is_link=st.booleans())
    def move(self, data: st.DataObject, new: str, is_link: bool) -> None:
        old = data.draw(st.sampled_from(sorted(self.disk.names)))
        if old != new and not (is_link and new in self.disk.names):
            self.before_a_file_goes(new)
            self.disk.names[new] = self.disk.names[old]
            if not is_link:
                del self.disk.names[old]

    @rule(name=names)
    def unlink(self, name: str) -> None:
        self.before_a_file_goes(name)
        self.disk.names.pop(name, None)

    @rule(name=names)
    def look(self, name: str) -> None:
        file = self.disk.names.get(name)
        if file is None:
            self.seen.pop(name, None)
            self.book.observe(name, None)
            return
        self.seen[name] = file
        stats = file.look(is_declared=name in DECLARED)
        if name in DECLARED:
            self.book.declare(name, DECLARED[name], since_ns=0, is_new=True)
        self.book.observe(name, stats)

    @rule(elapsed_s=st.integers(0, 100), is_scrape=st.booleans())
    def expire(self, elapsed_s: int, is_scrape: bool) -> None:
        self.now_s += elapsed_s
        self.book.expire(self.now_s, is_scrape=is_scrape)

    def look_everywhere(self) -> None:
        for name in NAMES:
            self.look(name)

    def before_a_file_goes(self, name: str) -> None:
        """Nobody looks in time."""

    def after_a_file_was_emptied(self, name: str) -> None:
        """Nobody looks in time."""

    @invariant()
    def no_byte_is_lost_or_invented(self) -> None:
        booked = sum(totals.appended_bytes for totals in self.book.groups)
        assert booked == sum(file.booked for file in self.disk.files)

    @invariant()
    def no_counter_decreases(self) -> None:
        payees = (inode.series for inode in self.book.inodes())
        for book in (*self.book.series(), *payees, *self.book.groups, *self.book.aggregates.values()):
            self.all.setdefault(book, Counters.of(book))
        for book, before in self.all.items():
            now = self.all[book] = Counters.of(book)
            assert now.changes >= before.changes
            assert now.appended_bytes >= before.appended_bytes
            assert now.truncations >= before.truncations
            assert now.rotations >= before.rotations

    @invariant()
    def totals_are_the_sums_of_the_series(self) -> None:
        series = [book for book in self.all if isinstance(book, Series)]
        for totals in (*self.book.groups, *self.book.aggregates.values()):
            ours = [each for each in series if totals in each.totals]
            alive = [each for each in ours if not each.has_ended]
            assert totals.appended_bytes == sum(each.appended_bytes for each in ours)
            assert totals.changes == sum(each.changes for each in ours)
            assert totals.truncations == sum(each.truncations for each in ours)
            assert totals.rotations == sum(each.rotations for each in ours)
            assert totals.series == len(alive)
            assert totals.files == sum(each.is_present for each in alive)
            held = {inode for inode in self.book.inodes() if inode.held_by in alive}
            assert totals.size_bytes == sum(inode.size for inode in held)

    @invariant()
    def sizes_are_those_of_the_files_that_were_seen(self) -> None:
        files = {file for name, file in self.seen.items() if name in DECLARED}
        assert sum(totals.size_bytes for totals in self.book.groups) == sum(file.size_seen for file in files)

    @invariant()
    def names_are_those_where_files_were_seen(self) -> None:
        assert {name for name in DECLARED if name in self.seen} == {
            series.path for series in self.book.series() if series.is_present
        }
        for inode in self.book.inodes():
            leading = sorted(name for name in NAMES if self.book.at(name) is inode)
            assert sorted(inode.names) == leading
            assert (inode in self.book.lost()) == (not leading)
        for name, file in self.seen.items():
            inode = self.book.at(name)
            if name in DECLARED:
                assert inode is not None
            assert inode is None or inode.identity == file.stats.identity

    @invariant()
    def as_many_are_published_as_may_be(self) -> None:
        ours = [series for series in self.book.series() if series.labels.group == 0]
        waiting = [series for series in ours if series.is_present and not series.is_published]
        assert sum(series.is_published for series in ours) == 1 or not waiting
        assert self.book.groups[0].files_without_series == len(waiting)
        assert self.book.groups[1].files_without_series == 0

    @invariant()
    def the_newest_is_the_newest(self) -> None:
        self.book.find_newest()
        for totals in (*self.book.groups, *self.book.aggregates.values()):
            times = [
                series.stats.mtime_ns
                for series in self.book.series()
                if totals in series.totals and series.is_present and series.stats
            ]
            assert (totals.newest is not None) == bool(times)
            if totals.newest is not None:
                assert totals.newest.stats is not None
                assert totals.newest.stats.mtime_ns == totals.newest_mtime_ns == max(times)


class EverythingIsSeen(AnythingHappens):
    """Where a look came before everything that leaves no trace, and after each truncation, all was counted."""

    def writable(self) -> list[File]:
        return list(self.disk.names.values())

    def before_a_file_goes(self, name: str) -> None:
        self.look_everywhere()

    def after_a_file_was_emptied(self, name: str) -> None:
        self.look(name)

    def teardown(self) -> None:
        self.look_everywhere()
        booked = sum(totals.appended_bytes for totals in self.book.groups)
        assert booked == sum(file.written for file in self.disk.files if file.is_known)


for machine in (AnythingHappens, EverythingIsSeen):
    machine.TestCase.settings = settings(
        max_examples=60,
        stateful_step_count=40,
        deadline=None,
        phases=set(Phase) - {Phase.explain},  # it takes longer than a test may
    )
TestAnythingHappens = AnythingHappens.TestCase
TestEverythingIsSeen = EverythingIsSeen.TestCase


def test_transitions() -> None:
    """What begins and what ends is told once."""
    transitions = Transitions()
    steps = ({"a"}, {"a"}, {"a", "b"}, {"b"}, set(), set())
    told = [transitions.update(step) for step in steps]
    assert [sorted(each.begun) for each in told] == [["a"], [], ["b"], [], [], []]
    assert [sorted(each.ended) for each in told] == [[], [], [], ["a"], ["b"], []]
