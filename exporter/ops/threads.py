"""Blocking work beside the event loop."""

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
    """Call `function` in a thread of its own and return what it returns, or raise what it raises.

    The thread is a daemon: unlike one of an executor it holds up neither the end of the loop nor that of the process,
    however long the call takes. When the caller is cancelled the call goes on, and its outcome is dropped.

    Args:
        function: what to call.
        name: the thread's name.
    """
    work, outcome = _as_work(function)
    threading.Thread(target=work, name=name, daemon=True).start()
    return await outcome


class KeptThread:
    """A thread that is kept from one call to the next: to start one takes as long as to answer a small scrape.

    Args:
        name: the thread's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._is_started = False
        self._is_busy = False
        weakref.finalize(self, self._queue.put, None)

    async def call(self, function: Callable[[], T]) -> T:
        """Do as :func:`call_in_thread` does, and so where the thread that is kept has not come back yet."""
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
        del work  # with all that the call has been about, and not only when the next one comes


def _as_work(function: Callable[[], T]) -> tuple[Callable[[], None], asyncio.Future[T]]:
    """Return what is to be called in another thread, and the outcome of it for the running loop."""
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
    outcome.set_running_or_notify_cancel()  # as if it had begun: who cancels the waiting does not cancel the call

    def work() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
            outcome.set_exception(error)

    return work, asyncio.wrap_future(outcome)
