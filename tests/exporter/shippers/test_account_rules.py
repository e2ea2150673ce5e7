"""The rules of a shipper's account, one by one, on facts that no file has."""

import pytest

from exporter.ledger.books import InodeBookings
from exporter.ledger.facts import Facts
from exporter.shippers.account import Account
from exporter.shippers.logs import Log, Settled
from exporter.shippers.matching import StateRead
from exporter.shippers.positions import Position
from fstat_cache import FileStats

SECOND = 10**9
FLUSH_S = 20
OLD_NS = SECOND


class Bench:
    """Facts, a shipper's state, and its account.

    Args:
        has_inodes: whether the state has inode numbers.
        quiet_s, is_complete: see :class:`Account`.

    Attributes:
        now_ns: the present moment.
        bookings: of the inodes.
        sums: of the group.
    """

    def __init__(self, *, has_inodes: bool = True, quiet_s: int = 0, is_complete: bool = False) -> None:
        self.facts = Facts()
        self.bookings = InodeBookings()
        self.facts.read_inodes(self.bookings)
        self.account = Account(
            self.facts,
            lambda inode: list(inode.homes),
            lambda home: ((home.realm, ()),),
            flush_ns=FLUSH_S * SECOND,
            quiet_ns=quiet_s * SECOND,
            is_complete=is_complete,
        )
        self.sums = self.account.sums[0, ()]
        self.now_ns = 1000 * SECOND
        self._has_inodes = has_inodes
        self._positions: frozenset[Position] = frozenset()
        self._written_ns = 0

    def stat(self, name: str, number: int, size: int, born_ns: int | None = None) -> None:
        """Have a log a size; it is born now, or at a moment."""
        known = self.facts.at(name)
        if born_ns is None:
            born_ns = known.identity[2] if known is not None and known.identity[1] == number else self.now_ns
        self.facts.declare(name, 0, (0,), since_ns=500 * SECOND, is_new=False)
        self.facts.observe(name, FileStats(size, self.now_ns, number, 1, born_ns))

    def rename(self, name: str, to: str) -> None:
        """Rename a log; no pattern matches its new name."""
        inode = self.facts.at(name)
        assert inode is not None
        self.facts.observe(to, FileStats(inode.size, inode.mtime_ns, inode.identity[1], 1, inode.identity[2]))
        self.facts.observe(name, None)

    def remove(self, name: str) -> None:
        """Delete a log that nobody has open."""
        inode = self.facts.at(name)
        assert inode is not None
        self.facts.observe(name, None)
        self.facts.inodes.lost.discard(inode)
        self.facts.inodes.forget(inode)

    def write(self, *entries: tuple[str, int, int]) -> None:
        """Have the shipper write its state: path, inode number, offset."""
        self._written_ns = self.now_ns
        positions = frozenset(Position(at, path, number if self._has_inodes else None) for path, number, at in entries)
        if positions != self._positions:
            self._positions = positions

    def update(self, after_s: float = 1, *, data: bytes | None = b"line\n", is_readable: bool = True) -> None:
        """Let time pass, and bring the account up to date; all that is unread has this data. None: unknown."""
        self.now_ns += int(after_s * SECOND)
        state = StateRead(self.now_ns, {"state": (self._positions, self._written_ns)}, {}, self._written_ns)
        self.account.update(self.now_ns, self.bookings, state if is_readable else None)
        self.bookings.clear()
        for log in self.account.to_examine() if data is not None else ():
            self.account.examine(log, data)

    def log(self, name: str) -> Log:
        """The log at a path."""
        inode = self.facts.at(name)
        assert inode is not None
        return self.account.logs[inode]

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Bytes: read, unread, lost, unaccounted."""
        return self.sums.read, self.sums.unread, self.sums.lost, self.sums.unaccounted

    @property
    def oldest_s(self) -> float:
        """How old the oldest unread byte is."""
        return self.account.oldest_ns(self.now_ns).get((0, ()), 0) / SECOND


def test_baseline() -> None:
    """The first position of an old log is a baseline: nothing before it was read or lost. What is unread is as old as
    the last modification."""
    bench = Bench()
    bench.stat("a", 1, 1000, OLD_NS)
    bench.write(("a", 1, 400))
    bench.update()
    assert bench.counts == (0, 600, 0, 0)
    bench.write(("a", 1, 700))
    bench.update()
    assert bench.counts == (300, 300, 0, 0)
    assert bench.oldest_s == 2


def test_first_byte() -> None:
    """A log that is born while the agent runs counts from its first byte."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.update()
    assert bench.counts == (0, 0, 0, 0)
    bench.write(("a", 1, 700))
    bench.update()
    assert bench.counts == (700, 300, 0, 0)


@pytest.mark.parametrize("has_inodes", [True, False])
def test_predecessors_entry(*, has_inodes: bool) -> None:
    """An entry that has not changed since before a log was born is its predecessor's: also if the inode number is used
    again, and also if the log becomes larger."""
    bench = Bench(has_inodes=has_inodes)
    bench.stat("a", 1, 1000, OLD_NS)
    bench.write(("a", 1, 1000))
    bench.update()
    bench.remove("a")
    bench.stat("a", 1 if has_inodes else 2, 10)
    for size in (500, 1500, 2500):
        bench.stat("a", 1 if has_inodes else 2, size)
        bench.update(30)
        assert bench.counts == (0, size, 0, 0)
    bench.write(("a", 1 if has_inodes else 2, 2500))
    bench.update()
    assert bench.counts == (2500, 0, 0, 0)


def test_unchanged_entry() -> None:
    """An unchanged entry of a number that is used again is believed if the state was written since the log had just
    that size."""
    bench = Bench()
    bench.stat("a", 1, 1000, OLD_NS)
    bench.write(("a", 1, 1000))
    bench.update()
    bench.remove("a")
    bench.stat("a", 1, 1000)
    bench.update()
    bench.update(100)
    assert (bench.counts, dict(+bench.sums.files)) == ((0, 1000, 0, 0), {"behind": 1})
    bench.write(("a", 1, 1000))
    bench.update()
    assert (bench.counts, dict(+bench.sums.files)) == ((1000, 0, 0, 0), {"read": 1})


def test_unchanged_entry_of_a_truncated_log() -> None:
    """So it is if a log was truncated and written to the same size again."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 1000))
    bench.update()
    for size in (0, 1000):
        bench.stat("a", 1, size)
        bench.update()
    assert bench.counts == (1000, 1000, 0, 0)
    bench.write(("a", 1, 1000))
    bench.update()
    assert bench.counts == (2000, 0, 0, 0)


def test_goes_back() -> None:
    """An offset that goes back is believed when two states in a row show it; what was read stays read."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 900))
    bench.update()
    bench.write(("a", 1, 200))
    bench.update()
    assert bench.counts == (900, 100, 0, 0)
    bench.write(("a", 1, 900))
    bench.update()
    bench.write(("a", 1, 200))
    bench.update()
    assert bench.counts == (900, 100, 0, 0)
    bench.update()
    assert bench.counts == (900, 800, 0, 0)
    bench.write(("a", 1, 950))
    bench.update()
    assert bench.counts == (950, 50, 0, 0)


def test_goes_back_from_the_end() -> None:
    """That a shipper begins again shows, also when nothing is written any more."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 1000))
    bench.update()
    bench.write(("a", 1, 200))
    bench.update()
    assert bench.counts == (1000, 0, 0, 0)
    bench.update()
    assert bench.counts == (1000, 800, 0, 0)


def test_beyond_the_size() -> None:
    """An offset beyond the size is not believed."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 600))
    bench.update()
    bench.write(("a", 1, 5000))
    bench.update()
    assert bench.counts == (600, 400, 0, 0)


def test_several_entries() -> None:
    """The least of several entries counts."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.now_ns += SECOND
    bench.write(("a", 1, 600), ("b", 1, 500), ("c", 1, 700))
    bench.update()
    assert bench.counts == (500, 500, 0, 0)
    bench.write(("a", 1, 600), ("c", 1, 700))
    bench.update()
    assert bench.counts == (600, 400, 0, 0)


def test_an_entry_from_the_tick_of_a_birth() -> None:
    """It is of a deleted log with the same inode number, if it has a name that the log never had."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 600), ("b", 1, 500))
    bench.update()
    assert bench.counts == (600, 400, 0, 0)
    bench.write(("b", 1, 500))
    bench.update()
    assert bench.sums.files == {"read": 1}
    assert not bench.log("a").is_claimed


def test_two_files() -> None:
    """The least counts also if the entries are in several files, and the same for a while."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    for offsets in ([300, 300], [500, 300], [500, 500], [500], []):
        bench.now_ns += SECOND
        files = {str(at): (frozenset([Position(offset, "a", 1)]), bench.now_ns) for at, offset in enumerate(offsets)}
        bench.account.update(bench.now_ns, bench.bookings, StateRead(bench.now_ns, files, {}, bench.now_ns))
        assert bench.sums.read == min(offsets, default=500)
    assert bench.account.matching.entries == {}


def test_unclaimed() -> None:
    """A log without a position is unclaimed, and not unread, unless its path had a position before."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.stat("b", 2, 500)
    bench.write(("b", 2, 500))
    bench.update()
    bench.rename("b", "b.1")
    bench.stat("b", 3, 70)
    bench.update()
    assert (bench.counts, bench.sums.unclaimed) == ((500, 70, 0, 0), 1000)
    assert dict(+bench.sums.files) == {"read": 1, "unclaimed": 1}


def test_complete() -> None:
    """If a shipper must have a position for every log, a log without one is unread."""
    bench = Bench(is_complete=True)
    bench.stat("a", 1, 1000, OLD_NS)
    bench.stat("b", 2, 500)
    bench.update()
    assert (bench.counts, bench.sums.unclaimed) == ((0, 1500, 0, 0), 0)
    bench.write(("a", 1, 400))
    bench.update()
    assert bench.counts == (0, 1100, 0, 0)


def test_passed_on() -> None:
    """A renamed log whose path's position has passed to another is unread for ten minutes after its own position has
    moved last. Then its rest is lost; what still comes is unaccounted."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 600))
    bench.update()
    bench.rename("a", "a.1")
    bench.stat("a", 2, 10)
    bench.write(("a", 1, 600), ("a", 2, 10))
    bench.update()
    bench.update(300)
    bench.write(("a", 1, 700), ("a", 2, 10))
    bench.update()
    bench.update(590)
    assert bench.counts == (710, 300, 0, 0)
    bench.update(20)
    assert (bench.counts, bench.oldest_s) == ((710, 0, 300, 0), 0)
    bench.stat("a.1", 1, 1005)
    bench.update()
    assert bench.counts == (710, 0, 300, 5)
    bench.write(("a", 1, 1005), ("a", 2, 10))
    bench.update()
    assert bench.counts == (710, 0, 300, 5)


@pytest.mark.parametrize(("rests_s", "counts"), [(FLUSH_S - 1, (600, 0, 0, 400)), (FLUSH_S, (600, 0, 400, 0))])
def test_entry_goes(rests_s: int, counts: tuple[int, int, int, int]) -> None:
    """When the entry of a renamed log goes, its rest is lost if the offset had rested for `flush_interval`."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 600))
    bench.update()
    bench.update()
    bench.rename("a", "a.1")
    bench.update(rests_s)
    bench.write()
    bench.update(100)
    assert bench.counts == counts


def test_end() -> None:
    """The rest of a deleted log is unread until its offset has rested for `flush_interval`. Then it is lost."""
    bench = Bench()
    for name, number in (("a", 1), ("b", 2), ("c", 3)):
        bench.stat(name, number, 1000)
    bench.write(("a", 1, 600), ("b", 2, 600), ("c", 3, 600))
    bench.update()
    bench.update()
    for name in ("a", "b", "c"):
        bench.remove(name)
    bench.update()
    assert bench.counts == (1800, 1200, 0, 0)
    bench.write(("a", 1, 600), ("b", 2, 1000))
    bench.update()
    assert bench.counts == (2200, 400, 0, 400)
    bench.update(FLUSH_S - 3)
    assert bench.counts == (2200, 400, 0, 400)
    bench.update()
    assert (bench.counts, bench.account.logs) == ((2200, 0, 400, 400), {})


def test_number_of_an_ended_log() -> None:
    """When an entry goes back after its log was deleted, it is of another log, and the rest is unaccounted."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 600))
    bench.update()
    bench.remove("a")
    bench.update()
    bench.write(("b", 1, 0))
    for _ in range(5):
        bench.update(50)
        assert bench.counts == (600, 0, 0, 400)


def test_number_used_in_between() -> None:
    """An unchanged entry of a deleted log says nothing once the state was written after its number was used again."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 0))
    bench.update()
    bench.update()
    bench.remove("a")
    bench.stat("a", 1, 0)
    bench.update()
    bench.remove("a")
    bench.update()
    assert len(bench.account.logs) == 1
    bench.write(("a", 1, 0))
    bench.update(FLUSH_S)
    assert bench.counts == (0, 0, 0, 1000)


def test_never_shown() -> None:
    """A log that was renamed before any state could show it is not lost: a state was written after that, so the shipper
    may have read it to its end. While the shipper is stopped, its state is not written, and the log is unread."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 1000))
    bench.update()
    bench.rename("a", "a.1")
    bench.stat("a", 2, 10)
    bench.update()
    bench.rename("a", "a.2")
    bench.update(FLUSH_S - 2)
    assert bench.counts == (1000, 10, 0, 0)
    bench.write()
    bench.update()
    bench.update(100)
    assert bench.counts == (1000, 0, 0, 10)


@pytest.mark.parametrize(("is_stopped", "counts"), [(False, (1000, 0, 0, 10)), (True, (1000, 0, 10, 0))])
def test_never_shown_and_deleted(*, is_stopped: bool, counts: tuple[int, int, int, int]) -> None:
    """Nor is one that was deleted since the state was read, however long ago that is: a state may have shown it in the
    meantime."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 1000))
    bench.update()
    bench.remove("a")
    bench.stat("a", 2, 10)
    bench.update()
    bench.update()
    assert bench.counts == (1000, 10, 0, 0)
    bench.remove("a")
    bench.now_ns += SECOND
    if not is_stopped:
        bench.write()
    bench.update(FLUSH_S)
    assert bench.counts == counts


@pytest.mark.parametrize(("rests_s", "counts"), [(5, (600, 30, 0, 400)), (FLUSH_S, (600, 30, 400, 0))])
def test_truncation(rests_s: int, counts: tuple[int, int, int, int]) -> None:
    """What is unread when a log is truncated is lost if the offset had rested; then the log begins anew."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 600))
    bench.update()
    bench.update()
    bench.update(rests_s)
    bench.stat("a", 1, 30)
    bench.update()
    assert bench.counts == counts
    bench.stat("a", 1, 800)
    bench.update()
    assert bench.counts == (600, 800, *counts[2:])  # the entry is from before
    bench.write(("a", 1, 800))
    bench.update()
    assert bench.counts == (1400, 0, *counts[2:])


@pytest.mark.parametrize(("is_stopped", "counts"), [(False, (0, 0, 0, 2000)), (True, (0, 0, 2000, 0))])
def test_offset_of_before_a_truncation(*, is_stopped: bool, counts: tuple[int, int, int, int]) -> None:
    """An offset that a state shows again after a truncation has not rested: all may have been read in the meantime."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 0))
    bench.update()
    bench.update()
    bench.stat("a", 1, 2000)
    bench.stat("a", 1, 0)
    bench.now_ns += SECOND
    if not is_stopped:
        bench.write(("a", 1, 0))
    bench.update(FLUSH_S)
    assert bench.counts == counts


def test_truncated_after_the_state_was_read() -> None:
    """What the state shows of a log is read although the log was truncated since."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 1000))
    bench.update()
    bench.stat("a", 1, 1500)
    bench.write(("a", 1, 1500))
    bench.stat("a", 1, 10)
    bench.update()
    assert bench.counts == (1500, 10, 0, 0)


def test_two_truncations() -> None:
    """All that was written counts when a log is truncated twice between two updates."""
    bench = Bench()
    bench.stat("a", 1, 100)
    bench.write(("a", 1, 100))
    bench.update()
    for size in (150, 0, 70, 10):
        bench.stat("a", 1, size)
    bench.update()
    assert bench.counts == (100, 10, 0, 120)
    assert sum(path.appended_bytes for path in bench.facts.paths.values()) == 230


def test_states() -> None:
    """A log is behind when its oldest unread byte is older than `flush_interval` and a minute, and read before."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 600))
    bench.update()
    bench.update(FLUSH_S + 59)
    assert (dict(+bench.sums.files), bench.oldest_s) == ({"read": 1}, FLUSH_S + 60)
    bench.update()
    assert (dict(+bench.sums.files), bench.oldest_s) == ({"behind": 1}, FLUSH_S + 61)


def test_held() -> None:
    """An unfinished line is held after a minute, and never lost. When it is finished, it is unread since then."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 600))
    bench.update(data=b"unfinished")
    bench.update(600, data=b"unfinished")
    assert (dict(+bench.sums.files), bench.oldest_s, bench.sums.unread) == ({"held": 1}, 0, 400)
    bench.stat("a", 1, 1010)
    bench.update(10, data=b" line\n")
    assert (dict(+bench.sums.files), bench.oldest_s) == ({"read": 1}, 10)
    bench.rename("a", "a.1")
    bench.write()
    bench.update()
    assert bench.counts == (600, 0, 0, 410)


def test_long_line() -> None:
    """More than 16 KiB are no unfinished line."""
    bench = Bench()
    bench.stat("a", 1, 16_385)
    bench.write(("a", 1, 0))
    bench.update(data=None)
    bench.update(100, data=None)
    assert dict(+bench.sums.files) == {"behind": 1}
    assert bench.account.to_examine() == []


def test_quiet() -> None:
    """Lines that come right after a position has moved are not reported until the next line, and are held."""
    bench = Bench(has_inodes=False, quiet_s=10)
    bench.stat("a", 1, 100)
    bench.write(("a", 1, 100))
    bench.update(5)
    bench.stat("a", 1, 150)
    bench.update(0)
    bench.update(600)
    assert (dict(+bench.sums.files), bench.oldest_s, bench.sums.unread) == ({"held": 1}, 0, 50)
    bench.stat("a", 1, 200)
    bench.update(7)
    assert bench.oldest_s == 7
    bench.update(80)
    assert (dict(+bench.sums.files), bench.oldest_s) == ({"behind": 1}, 87)


def test_unreadable() -> None:
    """While the state cannot be read, what is written is unread, and nothing is decided."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.write(("a", 1, 600))
    bench.update()
    bench.stat("a", 1, 1100)
    bench.update(is_readable=False)
    bench.remove("a")
    bench.update(100, is_readable=False)
    assert bench.counts == (600, 500, 0, 0)
    bench.update()
    bench.update(FLUSH_S)
    assert bench.counts == (600, 0, 500, 0)


def test_points() -> None:
    """A log that grows for long while nothing is read remembers eight moments. Its oldest unread byte never
    seems older than it is, and not much younger."""
    bench = Bench()
    bench.stat("a", 1, 10)
    bench.write(("a", 1, 0))
    born_ns = bench.now_ns
    for size in range(20, 2000, 10):
        bench.update()
        bench.stat("a", 1, size)
    bench.update()
    assert bench.oldest_s == 199
    points = bench.log("a").points
    assert (len(points), points[0], points[-1]) == (8, (born_ns, 10), (bench.now_ns - SECOND, 1990))
    for offset in range(0, 1990, 10):
        bench.write(("a", 1, offset))
        bench.update()
        true_ns = bench.now_ns - born_ns - offset // 10 * SECOND
        since_ns = bench.log("a").since_ns
        assert since_ns is not None
        assert 0.4 * true_ns <= bench.now_ns - since_ns <= true_ns


def test_settle_without_a_position() -> None:
    """Nothing of an unclaimed log is lost."""
    bench = Bench()
    bench.stat("a", 1, 1000)
    bench.update(100)
    assert bench.log("a").settle(is_lost=True) == Settled(0, 0)
    bench.remove("a")
    bench.update(100)
    assert (bench.counts, bench.sums.unclaimed, bench.account.logs) == ((0, 0, 0, 0), 0, {})


def test_nothing_is_left() -> None:
    """When logs and their entries are gone, nothing of them is remembered."""
    bench = Bench(has_inodes=False)
    bench.stat("b", 1, 10)
    for number in range(2, 20):
        bench.stat(f"a{number}", number, 10)
        bench.write((f"a{number}", number, 10))
        bench.update()
        path = bench.facts.paths[f"a{number}"]
        bench.remove(path.name)
        bench.facts.end(path)
    bench.write()
    bench.update()
    account = bench.account
    assert {log.inode.last_name for log in account.logs.values()} == {"b"}
    assert (account.matching.logs.keys(), account.matching.entries) == ({1, "b"}, {})
    assert len(account.known) <= 2
