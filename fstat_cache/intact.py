"""What becomes of work on shared state that was interrupted at a random place."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType


class Intact:
    """For ``with``, inside the lock: what an unexpected exception leaves half done is thrown away.

    KeyboardInterrupt, and whatever else a signal's handler raises, comes between any two instructions.

    Args:
        expected: the exceptions that blocks raise on purpose, with everything in order.
        throw_away: called after any other.
    """

    __slots__ = ("_expected", "_throw_away")

    def __init__(self, expected: tuple[type[BaseException], ...], throw_away: Callable[[], object]) -> None:
        self._expected = expected
        self._throw_away = throw_away

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, self._expected):
            self._throw_away()
