"""What is remembered of growth, over real facts and a clock of the test's own."""

import gc
import time
import tracemalloc
from collections.abc import Sequence

import pytest

from exporter.config.groups import LogGroup
from exporter.publication.history import MAX_FILES, STEP_S, STEPS, History
from tests.exporter.books import Book, follow, seen

BEGIN_S = 100 * STEP_S  # where a step begins


class Growing:
    """Two groups, `g` and `sums`, and their history; files appear empty and grow by `grow`."""

    def __init__(self, max_files: int = MAX_FILES) -> None:
        self.now_s = float(BEGIN_S)
        self.book = Book(LogGroup("g", ()), LogGroup("sums", (), per_file=False), grace_s=0)
        self.history = History(self.book.publication, max_files=max_files, clock=lambda: self.now_s)
        self._sizes: dict[str, int] = {}

    def grow(self, path: str, size: int, group: int = 0) -> None:
        """Append to a file, which is there afterwards."""
        if path not in self.book.facts.paths:
            self.book.declare(path, group)
            self._sizes[path] = 0
        self._sizes[path] += size
        self.book.observe(path, seen(self._sizes[path], list(self._sizes).index(path) + 1))

    def look(self, after_s: float = 0) -> None:
        """Let time pass, then look."""
        self.now_s += after_s
        self.book.publication.update()
        self.history.update(self.book.publication.take().rows)

    def steps(self, path: str) -> list[float | None]:
        """The steps of one file, without the unknown ones at the front."""
        (steps,) = self.history.of_files([path])
        assert len(steps) == STEPS
        return known(steps)


def known(steps: Sequence[float | None]) -> list[float | None]:
    """What is behind the unknown steps at the front."""
    first = next((index for index, step in enumerate(steps) if step is not None), len(steps))
    return list(steps[first:])


def test_begins_with_the_first_look() -> None:
    """What has grown before is no growth now, and the time before is unknown, not zero."""
    growing = Growing()
    growing.grow("a", 1000)
    growing.look()
    assert growing.steps("a") == [0]
    recent = growing.history.recent(60)
    assert (recent.window_s, recent.known_s, recent.files) == (0, 0, {})
    growing.grow("a", 30)
    growing.look(5)
    recent = growing.history.recent(60)
    assert (recent.window_s, recent.known_s, recent.files) == (5, 5, {"a": 30})
    assert growing.steps("a") == [30]
    assert abs(recent.as_of_s - time.time()) < 10


def test_growth_is_spread_over_the_time_between_two_looks() -> None:
    """A scrape every minute draws a line, not a peak."""
    growing = Growing()
    growing.look()
    growing.grow("a", 0)
    growing.look(STEP_S / 3)
    growing.grow("a", 90)
    growing.look(STEP_S * 3)
    assert growing.steps("a") == pytest.approx([20, 30, 30, 10])
    assert growing.history.recent(STEP_S).files == {"a": pytest.approx(40)}
    assert growing.history.recent(STEP_S).window_s == pytest.approx(STEP_S * 4 / 3)


def test_a_file_that_is_born_counts_from_its_first_byte() -> None:
    """As its counter does."""
    growing = Growing()
    growing.look()
    growing.grow("a", 7)
    growing.look(1)
    assert growing.steps("a") == [7]


def test_old_steps_leave() -> None:
    """A quarter of an hour later nothing is left, however rarely it was looked; and silence is zero."""
    growing = Growing()
    growing.look()
    growing.grow("a", 10)
    growing.look(1)
    growing.look(STEP_S * (STEPS - 1) - 1)
    assert growing.steps("a") == [10] + [0] * (STEPS - 1)
    growing.look(STEP_S)
    assert growing.steps("a") == [0] * STEPS
    assert growing.history.recent(10_000).files == {}
    growing.grow("a", 6000)
    growing.look(STEP_S * STEPS * 10)  # nobody looked for long: a tenth of it is in the plot
    assert growing.steps("a")[-2] == pytest.approx(10)
    assert sum(filter(None, growing.steps("a"))) == pytest.approx(6000 * (STEPS - 1) / STEPS / 10)


def test_steps_of_a_ring_that_wraps() -> None:
    """Each step has its own bytes, whatever was in its place a round ago."""
    growing = Growing()
    growing.look()
    for number in range(1, 3 * STEPS):
        if number % 7:
            growing.grow("a", number)
        growing.look(STEP_S)
    # Each look is at the beginning of a step, so what it has found belongs to the one before.
    expected = [number if number % 7 else 0 for number in range(2 * STEPS + 1, 3 * STEPS)]
    assert growing.steps("a") == pytest.approx([*expected, 0])


def test_groups_count_what_no_file_is_left_for() -> None:
    """A deleted file has no history any more; what it grew by is in its group's."""
    growing = Growing()
    growing.look()
    growing.grow("a", 5)
    growing.grow("b", 7, group=1)
    growing.look(1)
    growing.book.observe("a", None)
    growing.book.end_of_grace()
    growing.look(1)
    assert "a" not in growing.book.facts.paths
    assert growing.history.recent(60).files == {"b": 7}
    assert growing.history.recent(60).groups == {"g": 5, "sums": 7}
    assert {name: known(steps) for name, steps in growing.history.of_groups().items()} == {"g": [5], "sums": [7]}


def test_another_file_of_the_same_path_begins_anew() -> None:
    """When the path comes to another group its counter begins at zero, and so does the history."""
    growing = Growing()
    growing.look()
    growing.grow("a", 500)
    growing.look(1)
    growing.book.declare("a", 1, since_ns=2000, is_new=False)
    growing.grow("a", 0)
    growing.look(1)
    assert growing.steps("a") == [0]
    growing.grow("a", 3)
    growing.look(1)
    assert growing.steps("a") == [3]


def test_the_one_that_grew_least_recently_makes_room() -> None:
    """What was forgotten is unknown afterwards, not zero; what it grows by from then on is exact."""
    growing = Growing(max_files=2)
    growing.look(1)
    for path in ("a", "b", "a", "c"):
        growing.grow(path, 10)
        growing.look(STEP_S)
    assert growing.history.recent(10_000).files == pytest.approx({"a": 20, "c": 10})
    assert growing.steps("b") == [0, 0]  # of the three steps before, in which it grew, nothing can be said
    growing.grow("b", 4)
    growing.look(1)
    assert growing.steps("b") == [4]  # and now `a` is forgotten, which grew until the step before


def test_the_greatest_are_kept_when_too_many_grow_at_once() -> None:
    """Of more files than there is room for, those that grew most."""
    growing = Growing(max_files=3)
    growing.look()
    for number in range(10):
        growing.grow(str(number), number + 1)
    growing.look(1)
    assert growing.history.recent(60).files == {"9": 10, "8": 9, "7": 8}


def test_silent_files_cost_nothing() -> None:
    """Files that never grew take no memory, however many there are, and a look at them no time."""
    growing = Growing()
    for number in range(2_000):
        growing.grow(f"/var/log/{number}.log", 0)
    growing.look()
    gc.collect()
    tracemalloc.start()
    growing.look(1)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 10_000
    assert growing.history.recent(60).files == {}


def test_a_reload_loses_no_plot() -> None:
    """What is shown before and after goes on; what grew since the latest look counts, once."""
    growing = Growing()
    growing.look()
    growing.grow("a", 100)
    growing.grow("silent", 0)
    growing.grow("gone", 5)
    growing.grow("sum", 9, group=1)
    growing.look(STEP_S)
    book = growing.book
    matched = {"a": 0, "silent": 0}
    after = follow(book, LogGroup("g", ()), LogGroup("new", ()), matched=matched, is_over=False)
    book.facts.declare("b", book.realms["new"], (11,), since_ns=0, is_new=True)
    growing.grow("a", 3)
    growing.grow("silent", 6)
    book.facts.declare("born", 0, (0, 10), since_ns=0, is_new=True)
    book.observe("born", seen(20, 101))
    book.observe("b", seen(40, 100))
    book.publication.update()
    after.update()
    after.take()  # as when it is made ready
    growing.now_s += 1
    after.take_over(lambda _: ())
    growing.history.switch_to(after)
    book.publication = after
    assert growing.steps("a") == pytest.approx([100, 0])
    growing.grow("a", 4)
    book.observe("b", seen(41, 100))
    growing.look(1)
    assert growing.history.recent(60).files == pytest.approx({"a": 107, "silent": 6, "born": 20, "b": 1})
    assert growing.steps("a") == pytest.approx([100, 7])
    assert growing.steps("silent") == pytest.approx([0, 6])
    assert {name: known(steps) for name, steps in growing.history.of_groups().items()} == {
        "g": pytest.approx([105, 33]),
        "new": pytest.approx([1]),
    }
    growing.look(1)
    assert growing.history.recent(60).files == pytest.approx({"a": 107, "silent": 6, "born": 20, "b": 1})


def test_a_reload_before_the_first_look() -> None:
    """Nothing is growth yet."""
    growing = Growing()
    growing.grow("a", 100)
    after = follow(growing.book, LogGroup("g", ()))
    growing.history.switch_to(after)
    growing.look()
    growing.look(1)
    assert growing.history.recent(60).files == {}
    assert growing.history.recent(60).groups == {"g": 0}
    growing.grow("a", 1)
    growing.look(1)
    assert growing.history.recent(60).files == {"a": 1}


def test_a_counter_that_begins_anew_with_a_reload() -> None:
    """Another file of the same path does not go on where the one before was, and has no growth below zero."""
    growing = Growing()
    growing.look()
    growing.grow("a", 100)
    growing.look(1)
    growing.book.facts.end(growing.book.of("a"))
    growing.book.look("a", seen(30, 9))
    growing.book.publication.update()
    growing.history.switch_to(follow(growing.book, LogGroup("g", ())))
    growing.look(1)
    growing.book.observe("a", seen(33, 9))
    growing.look(1)
    assert growing.history.recent(60).files == {"a": 103}
