"""Workers for calls that may hang."""

import threading
from concurrent.futures import Future

import pytest

from fstat_cache.hanging import Worker
from tests.support import wait_until


def threads() -> int:
    return sum(thread.name == "test-worker" for thread in threading.enumerate())


def begun(future: Future[int] | None) -> Future[int]:
    assert future is not None
    return future


def test_a_worker_that_is_late_is_not_asked() -> None:
    """A late call refuses others until it returns; its result can still be taken."""
    go_on = threading.Event()
    worker = Worker("test-worker")
    hanging = begun(worker.begin(lambda: go_on.wait() + 1, 0.0))
    wait_until(lambda: worker.begin(lambda: 3, 10) is None)
    worker.close()
    assert threads() == 1, "nobody waits for it"
    go_on.set()
    assert hanging.result(10) == 2
    wait_until(lambda: threads() == 0)


def test_calls_before_the_deadline_are_made_in_their_order() -> None:
    """A worker that is busy, and not late, makes a call after the others."""
    go_on = threading.Event()
    made: list[int] = []
    worker = Worker("test-worker")
    first = begun(worker.begin(lambda: go_on.wait() and len(made), 10))
    others = [begun(worker.begin(lambda number=number: made.append(number) or number, 10)) for number in range(3)]
    assert not first.done()
    go_on.set()
    assert [each.result(10) for each in others] == made == [0, 1, 2]
    worker.close()
    assert threads() == 0, "an idle worker has ended when it is closed"


def test_what_a_call_raises_is_raised_by_its_result() -> None:
    """And the worker goes on."""

    def fail() -> int:
        raise ZeroDivisionError

    worker = Worker("test-worker")
    with pytest.raises(ZeroDivisionError):
        begun(worker.begin(fail, 10)).result(10)
    assert begun(worker.begin(lambda: 1, 10)).result(10) == 1
    worker.close()
