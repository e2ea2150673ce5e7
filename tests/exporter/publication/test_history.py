"""What is remembered of growth, over a real ledger and a clock of the test's own."""

import gc
import time
import tracemalloc
from collections.abc import Sequence

import pytest

from exporter.ledger.growth import GroupRules, Labels, Ledger
from exporter.publication.history import MAX_FILES, STEP_S, STEPS, History
from fstat_cache import FileStats

BEGIN_S = 100 * STEP_S  # where a step begins


class Growing:
    """A ledger of two groups and its history; files appear empty and grow by `grow`."""

    def __init__(self, max_files: int = MAX_FILES) -> None:
        self.now_s = float(BEGIN_S)
        self.ledger = Ledger([GroupRules(), GroupRules(per_file=False)], grace_s=0)
        self.history = History(self.ledger, max_files=max_files, clock=lambda: self.now_s)
        self._sizes: dict[str, int] = {}

    def grow(self, path: str, size: int, group: int = 0) -> None:
        """Append to a file, which is there afterwards."""
        if path not in self.ledger:
            self.ledger.declare(path, Labels(group, ("g", path)), since_ns=0, is_new=True)
            self._sizes[path] = 0
        self._sizes[path] += size
        number = list(self._sizes).index(path) + 1
        self.ledger.observe(path, FileStats(self._sizes[path], self._sizes[path], number, 1))

    def look(self, after_s: float = 0) -> None:
        """Let time pass, then look."""
        self.now_s += after_s
        self.history.update()

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
    """As it does in the ledger."""
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
    growing.ledger.observe("a", None)
    growing.ledger.expire(0, is_scrape=True)
    growing.ledger.expire(1000, is_scrape=True)
    growing.look(1)
    assert "a" not in growing.ledger
    assert growing.history.recent(60).files == {"b": 7}
    assert growing.history.recent(60).groups == [5, 7]
    assert [known(steps) for steps in growing.history.of_groups()] == [[5], [7]]


def test_another_file_of_the_same_path_begins_anew() -> None:
    """When the path is published under other labels its counter begins at zero, and so does the history."""
    growing = Growing()
    growing.look()
    growing.grow("a", 500)
    growing.look(1)
    growing.ledger.declare("a", Labels(1, ("h", "a")), since_ns=0, is_new=False)
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
    """Another ledger goes on with the counters, and its history with the steps; what grew meanwhile counts once."""
    old = Growing()
    old.look()
    old.grow("a", 100)
    old.grow("gone", 5)
    old.look(STEP_S)
    new = Growing()
    new.now_s = old.now_s + 1
    new.grow("b", 40)
    new.grow("a", 0)
    for series in new.ledger.series():
        if series.path == "a":
            series.appended_bytes = 103  # as restored, and grown by 3 until the first look
    new.ledger.groups[0].appended_bytes = 148
    new.history.update()
    new.history.go_on_from(old.history, [0, None])
    new.grow("a", 4)
    new.look(1)
    assert new.steps("a") == pytest.approx([100, 7])
    assert new.history.recent(60).files == {"a": pytest.approx(107)}
    assert known(new.history.of_groups()[0]) == pytest.approx([105, 47])
    assert old.steps("a") == pytest.approx([100, 0])
