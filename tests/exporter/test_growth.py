"""The ledger and the transitions: pure bookkeeping."""

import threading

from exporter.growth import Ledger
from exporter.transitions import Transitions
from fstat_cache import FileStats


def stats(size: int, mtime_ns: int = 0, inode: int = 1) -> FileStats:
    """Stats that differ only in what is given."""
    return FileStats(size, mtime_ns, inode, 1)


def see(ledger: Ledger, path: str, seen: FileStats) -> int:
    """A look whose result is reported at once."""
    return ledger.observe(path, seen, ledger.mark())


def test_changes() -> None:
    """The first sight is no change; each other size, time or inode is one; the same again is none."""
    ledger = Ledger()
    seen = [stats(1), stats(1), stats(2), stats(2, 5), stats(2, 5, 9), stats(2, 5, 9), stats(1)]
    assert [see(ledger, "/a", each) for each in seen] == [0, 0, 1, 2, 3, 3, 4]
    assert see(ledger, "/b", stats(1)) == 0


def test_forget() -> None:
    """A file that was forgotten starts anew; forgetting an unknown one is no error."""
    ledger = Ledger()
    see(ledger, "/a", stats(1))
    see(ledger, "/a", stats(2))
    assert ledger.paths() == {"/a"}
    ledger.forget("/a")
    ledger.forget("/a")
    assert ledger.paths() == set()
    assert see(ledger, "/a", stats(3)) == 0


def test_replacement_before_the_first_look() -> None:
    """When the cache replaced something, the file had been seen before: that is a change."""
    ledger = Ledger()
    ledger.replaced("/a", stats(2))
    assert see(ledger, "/a", stats(2)) == 1
    ledger.replaced("/a", stats(2))
    assert see(ledger, "/a", stats(2)) == 1


def test_old_look_is_dropped() -> None:
    """A look that began before a change was recorded may have seen what was there before: it counts nothing."""
    ledger = Ledger()
    see(ledger, "/a", stats(1))
    since = ledger.mark()
    ledger.replaced("/a", stats(2))
    assert ledger.observe("/a", stats(1), since) == 1
    assert see(ledger, "/a", stats(2)) == 1
    assert see(ledger, "/a", stats(1)) == 2


def test_old_look_at_another_file_counts() -> None:
    """Changes of one file do not make looks at another one old."""
    ledger = Ledger()
    see(ledger, "/a", stats(1))
    see(ledger, "/b", stats(1))
    since = ledger.mark()
    ledger.replaced("/b", stats(2))
    assert ledger.observe("/a", stats(2), since) == 1


def test_many_threads_count_each_change_once() -> None:
    """However looks and reports overlap, a size that only grows is counted once for each step that was seen."""
    ledger = Ledger()
    current = [stats(0)]
    see(ledger, "/a", current[0])
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            since = ledger.mark()
            now = current[0]
            ledger.observe("/a", now, since)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for size in range(1, 3000):
        current[0] = stats(size)
        ledger.replaced("/a", current[0])
    done.set()
    for thread in threads:
        thread.join()
    assert see(ledger, "/a", current[0]) == 2999


def test_transitions() -> None:
    """What begins and what ends is told once."""
    transitions = Transitions()
    steps = ({"a"}, {"a"}, {"a", "b"}, {"b"}, set(), set())
    told = [transitions.update(step) for step in steps]
    assert [sorted(each.begun) for each in told] == [["a"], [], ["b"], [], [], []]
    assert [sorted(each.ended) for each in told] == [[], [], [], ["a"], ["b"], []]
