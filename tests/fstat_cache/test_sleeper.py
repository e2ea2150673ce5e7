"""When a thread works and how long it rests."""

import contextlib
import itertools
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fstat_cache import Change, FileChange, FStatCache
from fstat_cache.sleeper import CUT_SHARE, GREATEST_REST_S, MOST_CUT_S, Sleeper
from tests.fstat_cache.driven import driven
from tests.support import wait_until

PAUSE_S = 1.25
"""A second, and a quarter for a machine that is busy with other things."""


def work_for(seconds: float) -> None:
    """Use the CPU."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of something to wait for."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


Start = Callable[[Callable[[], float | None]], Sleeper]


@pytest.fixture
def start(pipe: tuple[int, int]) -> Iterator[Start]:
    """Starts a thread with a budget of 1 % that works when something is in the pipe."""
    started: list[tuple[Sleeper, threading.Thread]] = []

    def start(work: Callable[[], float | None]) -> Sleeper:
        sleeper = Sleeper(gather_s=0, cpu_budget=0.01)
        sleeper.watch(pipe[0], select.POLLIN)

        def run() -> None:
            due: float | None = None
            while sleeper.sleep(due):
                due = work()

        started.append((sleeper, threading.Thread(target=run)))
        started[-1][1].start()
        return sleeper

    yield start
    for sleeper, thread in started:
        sleeper.close()
        thread.join()


@pytest.mark.alone
def test_after_work_it_rests(pipe: tuple[int, int], start: Start) -> None:
    """Work of some milliseconds is followed by a hundred times as much rest, at most half a second."""
    began: list[float] = []

    def work() -> None:
        began.append(time.monotonic())
        work_for(0.01)

    start(work)
    os.write(pipe[1], b"x")  # and never read: there is always something to do
    wait_until(lambda: len(began) == 4)
    gaps = [after - before for before, after in itertools.pairwise(began)]
    assert min(gaps) >= GREATEST_REST_S


@pytest.mark.alone
def test_no_rest_goes_past_what_is_due(pipe: tuple[int, int], start: Start) -> None:
    """What has a time of its own, such as the sampling of hot files, is not put off; the rest is taken afterwards."""
    began: list[float] = []
    due_at = 0.0

    def work() -> float | None:
        nonlocal due_at
        began.append(time.monotonic())
        work_for(0.01)
        if len(began) == 1:
            due_at = time.monotonic() + 0.1
            return due_at
        return None

    start(work)
    os.write(pipe[1], b"x")
    wait_until(lambda: len(began) == 3)
    assert 0 <= began[1] - due_at < GREATEST_REST_S / 2
    assert began[2] - began[1] >= GREATEST_REST_S


@pytest.mark.alone
def test_a_file_that_pauses_for_a_second_has_been_looked_at(tmp_path: Path) -> None:
    """With a CPU budget of 1 % and many busy files, nobody asking: what was written to one that is hot and then still
    for a second was seen, whatever else keeps the cache busy."""
    paths = [tmp_path / str(number) for number in range(100)]
    sizes: dict[str, int] = {}

    def hear(change: Change) -> None:
        if isinstance(change, FileChange):
            sizes[change.path] = change.stats.size if change.stats else 0

    cache = FStatCache(cpu_budget=0.01, keep_changes=True)
    with driven(cache, hear), contextlib.ExitStack() as stack:
        writers = [stack.enter_context(path.open("ab", buffering=0)) for path in paths]
        cache.build(paths)

        def write_until_hot() -> bool:
            for writer in writers:
                writer.write(b"x")
            return cache.status().hot == len(paths)

        wait_until(write_until_hot)
        for _ in range(6):
            for writer in writers[:50]:
                writer.write(b"x")
            paused_at = time.monotonic()
            while time.monotonic() < paused_at + PAUSE_S:  # the others go on
                for writer in writers[50:]:
                    writer.write(b"x")
                time.sleep(0.05)
            for path in paths[:50]:
                assert sizes[str(path)] == path.stat().st_size


def test_who_sleeps_without_end_is_woken_for_what_another_thread_makes_due(tmp_path: Path) -> None:
    """A thread that reads the queue disarms a busy file; from then on only the owner's samples see its writes."""
    path = tmp_path / "busy"
    path.touch()
    sizes: list[int] = []

    def hear(change: Change) -> None:
        if isinstance(change, FileChange):
            sizes.append(change.stats.size if change.stats else 0)

    cache = FStatCache(gather_s=60, keep_changes=True)
    with driven(cache, hear), path.open("ab", buffering=0) as writer:
        cache.build([path])

        def write_until_hot() -> bool:
            writer.write(b"x")
            cache.advance()
            return cache.status().hot == 1

        wait_until(write_until_hot)
        writer.write(b"seen by a sample")
        wait_until(lambda: bool(sizes) and sizes[-1] == path.stat().st_size)


@pytest.mark.alone
def test_a_rest_ends_when_the_work_is_asked_for(pipe: tuple[int, int], start: Start) -> None:
    """Who wakes the thread while it rests from its work has it work again at once, not only after the next event."""
    began: list[float] = []

    def work() -> None:
        began.append(time.monotonic())
        os.read(pipe[0], 1) if len(began) == 1 else None
        work_for(0.01)

    sleeper = start(work)
    os.write(pipe[1], b"x")
    wait_until(lambda: len(began) == 1)
    time.sleep(0.05)  # in the rest of half a second
    sleeper.wake()
    wait_until(lambda: len(began) == 2)
    assert began[1] - began[0] < GREATEST_REST_S


def test_what_ends_a_rest_stays_within_the_budget(pipe: tuple[int, int], start: Start) -> None:
    """Urgent events are processed at once, but if they do not end, the thread rests from them too."""
    began: list[float] = []

    def work() -> None:
        began.append(time.monotonic())
        work_for(0.001)

    sleeper = start(work)
    sleeper.watch(pipe[0], select.POLLIN, ends_rest=True)
    os.write(pipe[1], b"x")  # and never read
    wait_until(lambda: len(began) > 60)
    assert began[20] - began[0] < 20 * 0.099
    assert began[60] - began[0] >= (60 * 0.099 - MOST_CUT_S) / (1 + CUT_SHARE)


def test_who_asks_is_answered(pipe: tuple[int, int], start: Start) -> None:
    """At rest, and asleep without end; a thread that is stuck in its work does not answer, and does once it goes on."""
    go_on = threading.Event()
    working = threading.Event()

    def work() -> None:
        working.set()
        assert go_on.wait(20)

    sleeper = start(work)
    go_on.set()
    assert sleeper.responds(5)
    go_on.clear()
    working.clear()
    os.write(pipe[1], b"x")
    assert working.wait(5)
    assert not sleeper.responds(0.1)
    go_on.set()
    assert sleeper.responds(5)


def test_a_closed_sleeper_does_not_respond(start: Start) -> None:
    """Nobody waits for one that is closed meanwhile; waking it up then does nothing."""
    working, go_on = threading.Event(), threading.Event()

    def work() -> None:
        working.set()
        assert go_on.wait(20)

    sleeper = start(work)
    sleeper.wake()
    assert working.wait(5)
    closing = threading.Timer(0.05, sleeper.close)
    closing.start()
    assert not sleeper.responds(50)
    closing.join()
    sleeper.wake()
    assert not sleeper.responds(50)
    go_on.set()


def test_gathering_ends_when_work_is_due(pipe: tuple[int, int]) -> None:
    """What happens before work is due is gathered until then, and no longer."""
    sleeper = Sleeper(gather_s=60, cpu_budget=None)
    sleeper.watch(pipe[0], select.POLLIN)
    os.write(pipe[1], b"x")
    due = time.monotonic() + 0.2
    assert sleeper.sleep(due)
    assert 0 <= time.monotonic() - due < 10
    sleeper.close()
