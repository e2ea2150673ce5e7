"""The cache's lock, and what becomes of work that was interrupted while it was held."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class Guard:
    """A lock for ``with``; not to be taken by the thread that has it.

    Whatever else than an expected exception ends a guarded block (KeyboardInterrupt, say, or what a signal's handler
    raises) came at a random place, and what it left half done can not be trusted.

    Args:
        expected: exceptions that blocks raise on purpose, with everything in order.
        start_over: called, with the lock held, after any other; what it returns is called without the lock.
    """

    def __init__(
        self, expected: tuple[type[BaseException], ...], start_over: Callable[[], Callable[[], object]]
    ) -> None:
        self._expected = expected
        self._start_over = start_over
        self._lock = threading.Lock()
        self._owner: int | None = None

    def __enter__(self) -> None:
        if self._owner == threading.get_ident():
            raise RuntimeError("on_change must not call the cache")
        self._lock.acquire()
        self._owner = threading.get_ident()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, self._expected):
            self._owner = None
            self._lock.release()
            return
        try:
            clean_up = self._start_over()
        finally:
            self._owner = None
            self._lock.release()
        clean_up()
