"""Blocking calls in threads, awaited by the event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def call_in_thread(function: Callable[[], T], name: str) -> T:
    """Call `function` in a new thread and return its result, or raise its exception.

    The thread is a daemon. Unlike an executor's thread it delays neither the end of the loop nor that of the process.
    When the caller is cancelled the call continues, and its outcome is dropped.

    Args:
        function: to call.
        name: of the thread.
    """
    work, outcome = _as_work(function)
    threading.Thread(target=work, name=name, daemon=True).start()
    return await outcome


class KeptThread:
    """A thread that is kept between calls, because to start one takes as long as a small scrape.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._is_started = False
        self._is_busy = False
        weakref.finalize(self, self._queue.put, None)

    async def call(self, function: Callable[[], T]) -> T:
        """Call `function` in the kept thread, or in a new one while that is busy; see :func:`call_in_thread`."""
        if self._is_busy:
            return await call_in_thread(function, self._name)

        def function_in_kept_thread() -> T:
            try:
                return function()
            finally:
                self._is_busy = False

        if not self._is_started:
            threading.Thread(target=_work_off, args=(self._queue,), name=self._name, daemon=True).start()
            self._is_started = True
        work, outcome = _as_work(function_in_kept_thread)
        self._is_busy = True
        self._queue.put(work)
        return await outcome


def _work_off(calls: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (work := calls.get()) is not None:
        work()
        del work  # free its objects now, not at the next call


def _as_work(function: Callable[[], T]) -> tuple[Callable[[], None], asyncio.Future[T]]:
    """Return a function to call in another thread, and the future of its outcome for the running loop."""
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
    outcome.set_running_or_notify_cancel()  # marked as running, so that a cancelled waiter does not cancel the call

    def work() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller
            outcome.set_exception(error)

    return work, asyncio.wrap_future(outcome)
