"""Facts, with what is shown of them: pure bookkeeping."""

import threading

import pytest

from exporter.config.groups import LogGroup
from exporter.ledger.books import Booking, Counters, Journal
from exporter.ledger.facts import Facts
from exporter.ledger.offsets import Question
from fstat_cache import Data, FileStats
from tests.exporter.books import NEW, OLD, START_NS, Book, seen

TWO = (LogGroup("g", ()), LogGroup("other", ()))


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
    """The declaration says how old the first file of a path is; a file that replaces it is new."""
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

    def find(path: str, question: Question) -> Data:
        asked.append((path, question))
        return Data(size - first_byte, size)

    book = Book(data=find)
    book.look("/a", seen(100, birth_ns=OLD))
    book.look("/a", seen(0, birth_ns=OLD))
    inode = book.facts.at("/a")
    assert inode is not None
    assert book.facts.inodes.offsets.get(inode.identity) == 100
    assert not asked
    book.look("/a", seen(size, birth_ns=OLD))
    assert book.facts.inodes.offsets.get(inode.identity) == (None if size > 100 else 100)
    assert asked == [("/a", Question(0, is_resumed=True))] * (size > 100)
    assert book.appended("/a") == [counted, counted]


def test_a_hole_behind_what_another_writer_has_appended() -> None:
    """The first writer goes on at its old offset, though the file is not empty any more."""
    book = Book(data=lambda _, __: Data(50, 150))
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
    assert [inode.last_name for inode in book.facts.lost()] == ["/a"]
    book.look("/elsewhere", seen(15))
    assert book.facts.lost() == []
    assert book.appended("/a", "/elsewhere") == [15, 15, 0]
    book.observe("/elsewhere", None)
    book.look("/a", seen(17))
    assert book.appended("/a", "/elsewhere") == [17, 17, 0]
    assert book.of("/a").rotations == 0
    book.look("/link", seen(17))
    book.observe("/link", None)
    book.observe("/a", None)
    assert [inode.last_name for inode in book.facts.lost()] == ["/a"]


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
    assert [book.of(path).changes for path in ("/a", "/b")] == [2, 2]  # another file there, and its own growth
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
    book.end_of_grace()
    assert book.of("/b").is_counting
    assert not book.of("/c").is_counting
    book.look("/c", seen(31))
    assert book.appended("/b", "/c") == [31, 1, 0]
    book.observe("/b", None)
    book.observe("/c", None)
    assert (book.groups[0].files, book.groups[0].size_bytes) == (0, 0)


def counted(book: Book) -> list[tuple[int, int]]:
    """The size and the growth that each group shows."""
    return [(totals.size_bytes, totals.appended_bytes) for totals in book.groups]


def test_names_in_several_groups() -> None:
    """An inode is in each group's sums once, as long as it has a name there; its growth counts in all its groups."""
    book = Book(*TWO)
    book.look("/z", seen(10))
    book.look("/a", seen(10), 1)
    book.look("/b", seen(10))
    assert counted(book) == [(10, 10), (10, 10)]
    assert [totals.files for totals in book.groups] == [2, 1]
    book.look("/a", seen(15), 1)
    assert counted(book) == [(15, 15), (15, 15)]
    assert [book.of(path).appended_bytes for path in ("/z", "/a", "/b")] == [15, 15, 0]
    assert [book.of(path).is_counting for path in ("/z", "/a", "/b")] == [True, True, False]
    book.observe("/b", None)
    assert counted(book) == [(15, 15), (15, 15)]
    book.observe("/z", None)
    assert counted(book) == [(0, 15), (15, 15)]
    book.look("/a", seen(17), 1)
    assert counted(book) == [(0, 17), (17, 17)]  # as the late bytes of a rotated file do
    book.look("/a", seen(3, mtime_ns=99), 1)
    assert counted(book) == [(0, 20), (3, 20)]
    assert [(totals.changes, totals.truncations) for totals in book.groups] == [(3, 1), (3, 1)]


@pytest.mark.parametrize(("birth_ns", "first"), [(OLD, 0), (NEW, 15)])
def test_a_group_counts_as_if_it_were_alone(birth_ns: int, first: int) -> None:
    """A file that another group knows is as unknown to a group as any other, until it has a name there."""
    book = Book(*TWO)
    book.look("/a", seen(10, birth_ns=birth_ns))
    book.look("/p", seen(15, birth_ns=birth_ns), 1)
    alone = Book()
    alone.look("/p", seen(15, birth_ns=birth_ns))
    assert counted(book)[1] == counted(alone)[0] == (15, first)
    assert counted(book)[0] == (15, 15 if birth_ns == NEW else 5)
    for each, group in ((book, 1), (alone, 0)):
        each.look("/p", seen(7, 2, birth_ns=birth_ns), group)
        each.look("/p", seen(16, birth_ns=birth_ns), group)
        each.look("/p.1", seen(8, 2, birth_ns=birth_ns), group)
    now, then = book.groups[1], alone.groups[0]
    assert Counters.of(now) == Counters.of(then)
    assert (now.files, now.size_bytes) == (then.files, then.size_bytes) == (2, 24)


@pytest.mark.parametrize(("is_new", "first"), [(True, 10), (False, 0)])
def test_a_group_without_births(is_new: bool, first: int) -> None:
    """What another group knows says nothing of how old a file is."""
    book = Book(*TWO)
    book.look("/a", seen(10, birth_ns=0))
    book.look("/p", seen(10, birth_ns=0), 1, is_new=is_new)
    assert counted(book) == [(10, 10), (10, first)]


def test_a_file_that_moves_to_another_group() -> None:
    """Its growth counts in both from then on, and its size where it has a name."""
    book = Book(*TWO)
    book.look("/a", seen(10))
    book.observe("/rotated", seen(10))
    book.observe("/a", None)
    book.end_of_grace()
    book.observe("/rotated", seen(12))
    assert counted(book) == [(0, 12), (0, 0)]
    book.look("/b", seen(12), 1)
    assert counted(book) == [(0, 12), (12, 12)]
    book.look("/b", seen(13), 1)
    assert counted(book) == [(0, 13), (13, 13)]
    book.look("/a.1", seen(14))  # and back, under another name: what its ended home would count is there now
    assert counted(book) == [(14, 14), (14, 14)]
    assert book.appended("/a.1", "/b") == [14, 1, 14]


def test_a_file_whose_series_has_ended_goes_on_under_a_name_it_has() -> None:
    """Its growth is published as soon as there is a series for it, and is in the totals in any case."""
    book = Book()
    book.look("/a", seen(10))
    book.observe("/a.1", seen(11))
    book.observe("/a", None)
    book.end_of_grace()
    assert "/a" not in book.facts.paths
    book.observe("/a.1", seen(15))
    assert book.appended() == [15]
    book.look("/a", seen(3, 2))  # its first name has a series again
    book.observe("/a.1", seen(20))
    assert book.appended("/a") == [23, 8]
    book.look("/b", seen(30))
    assert book.appended("/a", "/b") == [33, 18, 0]
    for path in ("/a", "/b", "/a.1"):
        book.observe(path, None)
    book.end_of_grace()
    book.look("/c", seen(30))
    assert book.of("/c").is_counting  # before it grows


def test_a_followed_name_that_comes_to_be_declared() -> None:
    """The inode that it leads to is known already and counts where it did."""
    book = Book()
    book.look("/a", seen(10))
    book.observe("/a.1", seen(10))
    book.look("/a", seen(1, 2))
    book.look("/a.1", seen(12))
    assert book.appended("/a", "/a.1") == [13, 13, 0]
    assert book.groups[0].size_bytes == 13
    inode = book.facts.at("/a.1")
    assert inode is not None
    assert inode.names == ("/a.1",)
    assert book.facts.lost() == []


def test_a_file_that_was_renamed_before_it_was_looked_at() -> None:
    """It counts under its origin, and another file replaces it there."""
    book = Book()
    book.look("/a", seen(10, 1))
    book.facts.set_origin("/a.1", "/a")
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
        book.facts.set_origin("/a.1", "/a")
        book.observe("/a.1", stats)
        book.observe("/a.1", seen(10, 2))
    book.facts.set_origin("/a.1", "/a")
    book.look("/a.1", seen(7, 3))
    book.observe("/b", seen(10, 4))
    assert book.appended("/a", "/a.1") == [17, 10, 7]


def test_a_name_that_was_lost_before_any_look_keeps_what_it_counts() -> None:
    """The series stays for its grace, as that of a deleted file does."""
    book = Book()
    book.declare("/a")
    book.facts.set_origin("/a.1", "/a")
    book.observe("/a.1", seen(5, 1))
    book.observe("/a", None)
    book.look("/a", seen(3, 2))
    assert book.appended("/a") == [8, 8]
    assert book.of("/a").rotations == 1


def test_lost_inodes_are_bounded_and_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest lost is forgotten. Should it come back it is unknown, but its bytes do not count again."""
    monkeypatch.setattr("exporter.ledger.lost.LOST_INODES", 2)
    book = Book()
    for inode in (1, 2, 3):
        book.look("/a", seen(10, inode, birth_ns=NEW + inode))
    book.observe("/a", None)
    assert [inode.identity[1] for inode in book.facts.lost()] == [2, 3]
    assert [inode.identity[1] for inode in book.facts.inodes.values()] == [2, 3]
    book.look("/a", seen(12, 1, birth_ns=NEW + 1))
    assert book.appended() == [30]
    book.look("/a", seen(13, 1, birth_ns=NEW + 1))
    book.look("/b", seen(11, 3, birth_ns=NEW + 3))
    book.look("/c", seen(5, 4, birth_ns=NEW + 4))
    assert book.appended() == [37]
    cut = book.facts.at("/c")
    assert cut is not None
    book.look("/c", seen(0, 4, birth_ns=NEW + 4))
    assert book.facts.inodes.offsets.get(cut.identity) == 5
    for inode in range(5, 9):
        book.look("/c", seen(0, inode, birth_ns=NEW + inode))
    assert book.facts.inodes.offsets.get(cut.identity) is None


# -- what readers get --------------------------------------------------------------------------------------------------


def test_a_reader_gets_what_has_moved() -> None:
    """At first the sizes of all that is there, then only what moves, whatever other readers take."""
    book = Book()
    book.look("/a", seen(5, 1))
    book.look("/b", seen(5, 1))
    book.look("/gone", seen(7, 2))
    book.observe("/gone", None)
    one, other = book.facts.reader(), book.facts.reader()
    assert {path.name: moved(booking) for path, booking in one.items()} == {
        "/a": (0, 0, 0, 0, 5),
        "/b": (0, 0, 0, 0, 0),  # the inode counts for one name
        "/gone": (0, 0, 0, 0, 0),
    }
    one.clear()
    book.look("/a", seen(5, 1))
    assert not one
    book.look("/a", seen(8, 1))
    assert {path.name: moved(booking) for path, booking in one.items()} == {"/a": (1, 3, 0, 0, 3)}
    book.look("/a", seen(2, 1))
    assert {path.name: moved(booking) for path, booking in one.items()} == {"/a": (2, 5, 1, 0, -3)}
    one.clear()
    book.look("/a", seen(4, 3))
    assert {path.name: moved(booking) for path, booking in one.items()} == {
        "/a": (1, 4, 0, 1, 2),
        "/b": (0, 0, 0, 0, 2),  # which holds the one that was there now
    }
    assert {path.name: moved(booking) for path, booking in other.items()} == {
        "/a": (3, 9, 1, 1, 4),
        "/b": (0, 0, 0, 0, 2),
        "/gone": (0, 0, 0, 0, 0),
    }
    book.facts.discard(one)
    one.clear()
    book.look("/a", seen(6, 3))
    assert not one
    assert moved(other[book.of("/a")]) == (4, 11, 1, 1, 6)


def moved(booking: Booking) -> tuple[int, ...]:
    """What the counters, and the size that counts for a path, have moved by."""
    counters = booking.changes, booking.appended_bytes, booking.truncations, booking.rotations
    return *counters, booking.size_bytes


def test_a_reader_gets_the_paths_whose_file_was_seen_to_change() -> None:
    """Each name at its own stat, and its home with whatever the inode grew by."""
    book = Book()
    book.look("/a", seen(2, 1))
    bookings = book.facts.reader()

    def taken() -> set[str]:
        names = {path.name for path in bookings}
        bookings.clear()
        return names

    assert taken() == {"/a"}
    book.look("/c", seen(2, 1))
    assert taken() == {"/c"}
    book.look("/c", seen(2, 1, mtime_ns=5))
    assert taken() == {"/a", "/c"}
    book.look("/a", seen(2, 1, mtime_ns=5))
    assert taken() == {"/a"}
    book.look("/a", seen(3, 1, mtime_ns=6))
    assert taken() == {"/a"}
    book.look("/c", seen(3, 1, mtime_ns=6))
    assert taken() == {"/c"}
    book.facts.hide(["/c"])
    assert taken() == {"/c"}
    assert (book.of("/a").is_hidden, book.of("/c").is_hidden) == (False, True)
    book.facts.hide(["/c", "/unknown"])
    assert taken() == set()
    book.facts.hide([])
    assert taken() == {"/c"}
    assert not book.of("/c").is_hidden
    book.observe("/a", None)
    assert taken() == {"/a", "/c"}  # which holds it now
    book.facts.end(book.of("/a"))
    assert taken() == {"/a", "/c"}  # which is its home now


def test_a_journal_has_what_is_to_be_saved() -> None:
    """Nothing at first; what has ended or was forgotten too; on demand everything."""
    book = Book()
    book.look("/a", seen(1, 1))
    book.look("/b", seen(1, 2))
    journal = book.facts.journal()
    assert not journal
    book.look("/a", seen(1, 1))
    assert not journal
    book.look("/a", seen(2, 1))
    assert journal
    assert [path.name for path in journal.paths] == ["/a"]
    assert [inode.size for inode in journal.inodes] == [2]
    everything = Journal()
    book.facts.fill(everything)
    assert {path.name for path in everything.paths} == {"/a", "/b"}
    assert {inode.identity[1] for inode in everything.inodes} == {1, 2}
    journal.paths.clear()
    journal.inodes.clear()
    book.observe("/b", None)
    assert [inode.names for inode in journal.inodes] == [()]
    journal.inodes.clear()
    book.end_of_grace()
    (ended,) = journal.paths
    assert (ended.name, ended.has_ended) == ("/b", True)
    assert [inode.identity[1] for inode in journal.inodes] == [2]
    journal.merge(everything)
    assert {path.name for path in journal.paths} == {"/a", "/b"}
    assert len(journal.inodes) == 2


def test_urgent_where_the_disk_keeps_no_trace() -> None:
    """After a truncation, and after a name has gone."""
    urgent = threading.Event()
    facts = Facts(urgent=urgent)
    facts.declare("/a", 0, (0,), since_ns=START_NS, is_new=True)
    facts.observe("/a", seen(10))
    facts.observe("/a", seen(20))
    assert not urgent.is_set()
    facts.observe("/a", seen(5))
    assert urgent.is_set()
    urgent.clear()
    facts.observe("/a", seen(5))
    assert not urgent.is_set()
    facts.observe("/a", None)
    assert urgent.is_set()


# -- ends and other realms ---------------------------------------------------------------------------------------------


def test_a_path_that_comes_to_another_group_begins_anew() -> None:
    """It counts from then on as an unknown one there; what was counted before stays with the old group."""
    book = Book(*TWO)
    book.look("/a", seen(10, birth_ns=OLD))
    book.look("/a", seen(12, birth_ns=OLD))
    old = book.of("/a")
    book.look("/a", seen(15, birth_ns=OLD), 1)
    new = book.of("/a")
    assert old.has_ended
    assert (old.appended_bytes, new.appended_bytes, new.is_counting) == (5, 0, True)
    assert [totals.files for totals in book.groups] == [0, 1]
    assert counted(book) == [(0, 5), (15, 0)]
    book.look("/a", seen(16, birth_ns=OLD), 1)
    assert book.of("/a") is new
    assert new.appended_bytes == 1


def test_a_path_ends_while_its_file_is_there() -> None:
    """It is no file of the group's any more; what grows under a name that is still followed counts for the group."""
    book = Book()
    book.look("/a", seen(10))
    book.look("/b", seen(10))
    book.facts.end(book.of("/a"))
    assert (book.groups[0].files, book.groups[0].size_bytes) == (1, 10)
    book.facts.end(book.of("/b"))
    assert (book.groups[0].files, book.groups[0].size_bytes) == (0, 0)
    assert [inode.last_name for inode in book.facts.lost()] == ["/b"]
    book.observe("/b", seen(12))
    assert book.appended() == [12]
    assert book.facts.paths == {}


def test_dropped_paths_count_no_longer() -> None:
    """Nor does what has its home there: only under a name that its group still has. The rest is forgotten.

    A name of a file that still counts goes on to be followed.
    """
    book = Book(*TWO)
    book.look("/a", seen(10, 1))
    book.look("/b", seen(10, 1))
    book.look("/p", seen(10, 1), 1)
    book.look("/c", seen(5, 2))
    book.look("/c", seen(6, 3))
    book.observe("/c.1", seen(5, 2))
    book.facts.drop({book.of("/a"), book.of("/c")})
    assert [*book.facts.paths] == ["/b", "/p"]
    assert [inode.identity[1] for inode in book.facts.inodes.values()] == [1]
    assert [*book.facts.followed] == ["/a"]
    assert book.facts.lost() == []
    book.look("/b", seen(12, 1))
    book.observe("/c.1", seen(9, 2))
    assert counted(book) == [(12, 23), (12, 12)]
    assert [book.of(path).appended_bytes for path in ("/b", "/p")] == [2, 12]
    book.facts.drop({book.of("/b")})
    book.look("/p", seen(15, 1), 1)
    assert counted(book) == [(0, 23), (15, 15)]


def test_names_whose_groups_become_one() -> None:
    """An inode that had a home in each has one from then on, and its size counts once."""
    book = Book(*TWO)
    book.look("/a", seen(10))
    book.look("/p", seen(10), 1)
    book.facts.set_realms({book.of("/p"): 0})
    inode = book.facts.at("/a")
    assert inode is not None
    assert inode.homes == inode.holders == (book.of("/a"),)
    bookings = book.facts.reader()
    book.look("/p", seen(12), 0)
    assert sum(booking.appended_bytes for booking in bookings.values()) == 2
    assert sum(booking.size_bytes for booking in bookings.values()) == 12
    assert (book.of("/a").appended_bytes, book.of("/p").appended_bytes) == (12, 10)
    assert book.of("/p").is_counting  # as it has counted


def test_names_whose_group_becomes_two() -> None:
    """The inode gets a home in the other group, where it grows from then on, and a size in both."""
    for first, second in (("/a", "/p"), ("/p", "/a")):
        book = Book(*TWO)
        book.look(first, seen(10))
        book.look(second, seen(10))
        book.facts.set_realms({book.of("/a"): 1})
        inode = book.facts.at("/a")
        assert inode is not None
        assert {(path.realm, path.name) for path in inode.homes} == {(0, "/p"), (1, "/a")}
        assert {*inode.holders} == {*inode.homes}
        assert all(path.is_counting for path in inode.homes)
        book.look("/a", seen(12), 1)
        assert book.of(first).appended_bytes == 12
        assert book.of(second).appended_bytes == 2
        bookings = book.facts.reader()
        book.observe("/a", None)
        book.observe("/p", None)
        assert [booking.size_bytes for booking in bookings.values()] == [0, 0]
        assert inode.holders == ()


def test_a_lost_file_goes_with_its_path_to_another_group() -> None:
    """What it has grown by when it comes back counts there."""
    book = Book(*TWO)
    book.look("/a", seen(10))
    book.observe("/a", None)
    book.facts.set_realms({book.of("/a"): 1})
    book.look("/a", seen(12), 1)
    assert book.of("/a").appended_bytes == 12
    inode = book.facts.at("/a")
    assert inode is not None
    assert inode.homes == inode.holders == (book.of("/a"),)


def test_an_inode_that_was_forgotten_before_the_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is remembered by the moment of its birth, so that files born after the step are new."""
    monkeypatch.setattr("exporter.ledger.lost.LOST_INODES", 0)
    offset_ns = 3600
    facts = Facts(moment_of=lambda birth_ns: birth_ns - offset_ns)
    for name, inode, birth_ns, growth in (("/a", 1, 5000, 10), ("/b", 2, 5000, 0), ("/c", 3, 1401, 10)):
        if name == "/c":
            offset_ns = 0
        facts.declare(name, 0, (0,), since_ns=START_NS, is_new=True)
        facts.observe(name, seen(10, inode, birth_ns=birth_ns))
        facts.observe(name, None)
        assert facts.paths[name].appended_bytes == growth


def test_a_birth_later_than_now_shows_nothing() -> None:
    """Its file is old, unless an event has shown that it is new."""
    facts = Facts(moment_of=lambda _: None)
    for name, is_created, growth in (("/a", None, 0), ("/b", False, 0), ("/c", True, 10)):
        facts.declare(name, 0, (0,), since_ns=START_NS, is_new=True)
        facts.observe(name, seen(10, hash(name)), is_created=is_created)
        assert facts.paths[name].appended_bytes == growth


# -- going on ----------------------------------------------------------------------------------------------------------


def restored(book: Book, *inodes: int, path: str = "/a", device: int = 1, birth_ns: int = OLD) -> None:
    """Have the book go on where another one knew these inodes at a path, and each to be of 10 bytes."""
    book.facts.restore_path(path, 0, (0,), Counters(1, 100, 2, 3), is_counting=True, since_ns=START_NS)
    book.publication.restore_totals(0, (), Counters(4, 500, 6, 7))
    for number, inode in enumerate(inodes):
        is_latest = number == len(inodes) - 1
        book.facts.restore_inode((device, inode, birth_ns), 10, 10, path, None, home=path, realm=0, is_latest=is_latest)


def test_going_on_counts_what_was_appended_meanwhile() -> None:
    """An inode that is known has grown; one that took its place counts if it was born since."""
    book = Book()
    restored(book, 1)
    assert not book.row("/a").is_published
    assert book.groups[0].files == 0
    book.look("/a", seen(16, 1, birth_ns=OLD))
    assert book.appended("/a") == [506, 106]
    assert book.row("/a").is_published
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
    """The same number, birth and directory is the same file; a snapshot of it elsewhere is not."""
    book = Book()
    restored(book, 1)
    journal = book.facts.journal()
    book.look("/snap/shot", seen(15, 1, birth_ns=OLD, device=7))
    assert book.appended("/a", "/snap/shot") == [500, 100, 0]
    book.look("/a", seen(15, 1, birth_ns=OLD, device=2))
    assert book.appended("/a") == [505, 105]
    assert book.of("/a").rotations == 3
    assert {inode.identity for inode in journal.inodes} == {(1, 1, OLD), (2, 1, OLD), (7, 1, OLD)}
    assert [inode.identity[0] for inode in book.facts.inodes.values()] == [7, 2]
    book.look("/a", seen(15, 1, birth_ns=OLD, device=3))  # it was seen: this is another one
    assert book.appended("/a") == [505, 105]
    assert book.of("/a").rotations == 4


def test_going_on_on_a_device_with_another_number_without_births() -> None:
    """Only the file at the same path is the same one."""
    book = Book()
    restored(book, 1, birth_ns=0)
    book.look("/b", seen(15, 1, birth_ns=0, device=2), is_new=False)
    assert book.appended("/a", "/b") == [500, 100, 0]
    book.look("/a", seen(15, 1, birth_ns=0, device=3))
    assert book.appended("/a") == [505, 105]
    assert book.of("/a").rotations == 3


def test_a_device_that_kept_its_number_is_no_other_one() -> None:
    """A file that was found where it was is not taken for one with the same number and birth in its place."""
    book = Book()
    restored(book, 1)
    book.look("/a", seen(10, 1, birth_ns=OLD))
    book.facts.end_restoring()
    book.look("/a", seen(15, 1, birth_ns=OLD, device=2))
    assert book.appended("/a") == [500, 100]
    assert book.of("/a").rotations == 4


def test_devices_get_other_numbers_at_a_start_only() -> None:
    """A file that appears after every path had a stat is another file."""
    book = Book()
    restored(book, 1)
    book.facts.end_restoring()
    book.look("/a", seen(15, 1, birth_ns=OLD, device=2))
    assert book.appended("/a") == [500, 100]


def test_a_file_that_was_empty_on_a_device_with_another_number() -> None:
    """Where its writer went on is known all the same."""
    book = Book(data=lambda _, __: Data(50, 150))
    book.facts.restore_path("/a", 0, (0,), Counters(0, 0, 0, 0), is_counting=True, since_ns=START_NS)
    book.facts.restore_inode((1, 1, OLD), 0, 1, "/a", 100, home="/a", realm=0, is_latest=True)
    book.look("/a", seen(0, 1, birth_ns=OLD, mtime_ns=1, device=2))
    book.look("/a", seen(150, 1, birth_ns=OLD, device=2))
    assert book.appended("/a") == [50, 50]


def test_what_was_restored_is_remembered_until_all_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their number: until every path had a stat, none of them is lost."""
    monkeypatch.setattr("exporter.ledger.lost.LOST_INODES", 2)
    book = Book()
    restored(book, 1, 2, 3, 4)
    book.look("/b", seen(1, 9))
    book.observe("/b", None)
    assert len(book.facts.lost()) == 5
    book.look("/a", seen(11, 1, birth_ns=OLD))
    book.facts.end_restoring()
    assert [inode.identity[1] for inode in book.facts.lost()] == [4, 9]
    assert book.appended() == [502]


def test_a_restored_inode_whose_series_has_ended() -> None:
    """Its growth is in the totals, and in the series of a name that it is found to have."""
    book = Book()
    book.publication.restore_totals(0, (), Counters(0, 500, 0, 0))
    book.publication.restore_totals(0, ("gone",), Counters(0, 5, 0, 0))
    assert book.aggregates == {}
    book.facts.restore_inode((1, 1, OLD), 10, 10, "/a.1", None, home="/a", realm=0, is_latest=False)
    book.observe("/a.1", seen(12, 1, birth_ns=OLD))
    assert book.appended() == [502]
    book.look("/b", seen(13, 1, birth_ns=OLD))
    assert book.appended("/b") == [503, 1]


def test_a_restored_path_that_is_a_home_by_its_name() -> None:
    """It counts, and has its grace when its file is not there any more."""
    book = Book()
    book.facts.restore_path("/a", 0, (0,), Counters(0, 0, 0, 0), is_counting=False, since_ns=START_NS)
    assert not book.row("/a").path.is_counting
    book.facts.restore_inode((1, 1, OLD), 10, 10, "/a.1", None, home="/a", realm=0, is_latest=False)
    assert book.row("/a").path.is_counting
    book.end_of_grace()
    assert book.facts.paths == {}


def test_a_name_of_before_that_is_no_more() -> None:
    """A restored path that counted nothing ends once every file had a stat; others have their grace."""
    book = Book()
    restored(book, 1)
    for name in ("/link", "/no-link"):
        book.facts.restore_path(name, 0, (0,), Counters(0, 0, 0, 0), is_counting=False, since_ns=START_NS)
    book.look("/link", seen(10, birth_ns=OLD))
    book.facts.end_restoring()
    assert [*book.facts.paths] == ["/a", "/link"]
    book.declare("/late")
    book.facts.end_restoring()
    assert [*book.facts.paths] == ["/a", "/link", "/late"]
    book.end_of_grace()
    assert [*book.facts.paths] == ["/link", "/late"]
    book = Book()
    book.facts.restore_path("/no-link", 0, (0,), Counters(0, 0, 0, 0), is_counting=False, since_ns=START_NS)
    book.facts.end_restoring()
    assert book.facts.paths == {}


def test_an_inode_that_comes_back_when_one_too_many_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not the one that is forgotten for it."""
    monkeypatch.setattr("exporter.ledger.lost.LOST_INODES", 1)
    book = Book()
    book.look("/a", seen(10, 1))
    book.observe("/a", None)
    book.look("/b", seen(5, 2))
    book.look("/b", seen(12, 1))
    assert [inode.identity[1] for inode in book.facts.lost()] == [2]
    assert book.facts.at("/b") is book.facts.inodes[1, 1, NEW]
    assert book.appended("/a", "/b") == [17, 12, 5]


def test_many_threads() -> None:
    """Looks from several threads at files of one group are all in its totals."""
    book = Book()

    def grow(inode: int) -> None:
        for size in range(1, 2001):
            book.look(f"/{inode}", seen(size, inode))

    threads = [threading.Thread(target=grow, args=(inode,)) for inode in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        book.publication.update()
    assert book.appended(*(f"/{inode}" for inode in range(4))) == [8000, 2000, 2000, 2000, 2000]
    assert book.groups[0].changes == 4 * 1999
